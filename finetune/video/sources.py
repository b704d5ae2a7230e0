"""The videos below a folder, each with a folder of its own for its faces."""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from finetune.files import VIDEO_SUFFIXES
from finetune.labels import natural, split_of
from finetune.video.records import UsageError, Video


def find_videos(src: Path, dst: Path) -> list[Video]:
    """The videos below `src` (or the file itself), sorted, each with a folder of its own in DST.

    A folder is named like the file without its ending; where two would share it, the later one keeps its ending. Links
    that leave `src`, links to folders and what is no regular file are refused, not followed.
    """
    if not src.exists():
        raise UsageError(f"{src}: no such file or folder; expected videos in SRC/<Emotion>/ or SRC/<split>/<Emotion>/")
    found: list[tuple[Path, str]] = []
    root = src if src.is_dir() else src.parent
    inside = root.resolve()
    for path in walk(src, dst.resolve()) if src.is_dir() else [src]:
        refusal = ""
        target = path.resolve()
        if path.is_symlink() and not target.is_relative_to(inside):
            refusal = "a link that leads out of the folder: not followed"
        elif path.is_dir():
            refusal = "a link to a folder: not followed"
        elif not path.is_file():
            refusal = "not a regular file"
        found.append((path, refusal))
    if not found:
        endings = " ".join(sorted(VIDEO_SUFFIXES))
        raise UsageError(f"{src}: no videos found; expected SRC/[split/]<Emotion>/<clip> with one of the endings {endings}")
    videos = []
    # Angry.avi beside the folder Angry/ does not get its faces.
    taken = {"report.csv", *("/".join(map(plain, each.parts)).casefold() for path, _ in found for each in path.relative_to(root).parents)}
    for path, refusal in sorted(found, key=lambda each: [natural(part) for part in each[0].relative_to(root).parts]):
        relative = path.relative_to(root)
        parents = [plain(part) for part in relative.parent.parts]
        names = itertools.chain([plain(path.stem), plain(path.name)], (f"{plain(path.name)}~{n}" for n in itertools.count(2)))
        folder = next(each for each in ("/".join([*parents, name]) for name in names) if each.casefold() not in taken)
        taken.add(folder.casefold())
        emotion = parents[-1] if parents and not split_of(parents[-1]) else ""
        videos.append(Video(path, str(relative), folder, emotion, refusal))
    return videos


def walk(src: Path, dst: Path) -> Iterator[Path]:
    """Files with a video's ending, and links to folders; nothing hidden, nothing in `dst`."""
    for place, folders, files in os.walk(src):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        folders[:] = [
            name for name in folders if name not in links and name[0] != "." and name != "__MACOSX" and (here / name).resolve() != dst
        ]
        yield from (here / name for name in links if name[0] != ".")
        yield from (here / name for name in files if name[0] != "." and Path(name).suffix.lower() in VIDEO_SUFFIXES)


def plain(name: str) -> str:
    """The name as one that every system, and a list of folders separated by blanks, takes: letters, digits and . - + ~ _"""
    name = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode("utf-8"))
    name = re.sub(r"[^\w.+~-]", "_", name).strip(".") or "_"
    name = "_" + name[1:] if name[0] == "-" else name
    while len(name.encode()) > 150:  # a file name has 255 bytes at most
        name = name[:-1]
    return name
