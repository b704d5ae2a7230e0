"""Where the clips of a list lie: paths below the folder that is read, from another machine's root, or bare names."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path, PurePosixPath

from finetune.clips.folders import inner_folder, is_image, raw_video
from finetune.errors import FinetuneError
from finetune.files import VIDEO_SUFFIXES, subfolders
from finetune.labels import split_in


class Places:
    """The folders below `root`, as the rows of its lists name them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.split_folders: dict[str, list[Path]] = {}
        for folder in subfolders(root):
            if split := split_in(folder.name):
                self.split_folders.setdefault(split, []).append(inner_folder(folder))

    @cached_property
    def walked(self) -> tuple[dict[Path, bool], list[Path]]:
        """(the folders without folders inside -> whether they hold images, the files beside and above these), by their paths."""
        clips: dict[Path, bool] = {}
        files: list[Path] = []
        for place, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
            here = Path(place)
            images = any(map(is_image, names))
            if not folders and here != self.root:
                clips[here] = images
            if folders or not images or here == self.root:
                files += [here / name for name in sorted(names) if not name.startswith(".")]
        return clips, files

    @property
    def clips(self) -> list[Path]:
        """The folders of clips: those that hold images and no further folder."""
        return [folder for folder, images in self.walked[0].items() if images]

    @cached_property
    def named(self) -> dict[str, list[Path]]:
        """name -> the folders of this name that may be clips, be they empty."""
        names: dict[str, list[Path]] = {}
        for folder in self.walked[0]:
            names.setdefault(folder.name, []).append(folder)
        return names

    def find(self, text: str, place: str, split: str | None, beside: Path) -> Path | None:
        """The folder that the row at `place` of a list in the folder `beside` means, or None.

        A relative path begins at `root`, at `beside`, or at the folder of the split; one that begins at a disk's root is found by
        its longest end; a video's name means the folder of its frames; a bare name, the one clip of that name. Raises
        FinetuneError for a path that leads out, a raw video, and a name that several clips have.
        """
        if ".." in parts_of(text):
            raise FinetuneError(f"{place}: {text[:200]!r} leads out of {self.root}; paths are relative to it")
        found = self.matches(text, split, beside)
        if len(found) > 1:
            shown = " or ".join(folder.relative_to(self.root).as_posix() for folder in found[:2])
            raise FinetuneError(f"{place}: {text[:200]!r} may be {shown}; write paths from {self.root} on")
        return found[0] if found else None

    def matches(self, text: str, split: str | None, beside: Path) -> list[Path]:
        """The folders that a row may mean: one, unless the same path is in several splits or several clips have the name."""
        parts = parts_of(text)
        if is_absolute(text):
            ends = (self.frames_at(self.root.joinpath(*parts[start:])) for start in range(len(parts)))
            return [folder for folder in ends if folder is not None][:1]
        for base in dict.fromkeys((self.root, beside)):
            if (folder := self.frames_at(base.joinpath(*parts))) is not None:
                return [folder]
        found = [folder for base in self.bases(split) if (folder := self.frames_at(base.joinpath(*parts))) is not None]
        return found or (self.by_name(parts[0], split) if len(parts) == 1 else [])

    def frames_at(self, end: Path) -> Path | None:
        """The folder of this path, or of this video's frames. Raises FinetuneError where the video itself lies there."""
        if os.path.isdir(end):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
            return None if end == self.root else end
        if end.suffix.lower() not in VIDEO_SUFFIXES:
            return None
        if os.path.isfile(end):  # noqa: PTH113 - so does Path.is_file
            raise raw_video(end)
        return end.with_suffix("") if os.path.isdir(end.with_suffix("")) else None  # noqa: PTH112

    def bases(self, split: str | None) -> list[Path]:
        """The folders of a split, or of all where none is said."""
        if split is not None:
            return self.split_folders.get(split, [])
        return [folder for folders in self.split_folders.values() for folder in folders]

    def by_name(self, name: str, split: str | None) -> list[Path]:
        stem = Path(name).stem if Path(name).suffix.lower() in VIDEO_SUFFIXES else name
        found = self.named.get(name) or self.named.get(stem) or []
        inside = [folder for folder in found if any(folder.is_relative_to(base) for base in self.bases(split))]
        return inside if split is not None and len(inside) == 1 else found

    def knows(self, text: str, beside: Path) -> bool:
        """Whether this text of a list means something here: a clip's folder, one of its frames, a raw video."""
        parts = parts_of(text)
        if not parts or ".." in parts or len(text) > 4096:
            return False
        try:
            found = self.matches(text, None, beside)
        except FinetuneError:  # a raw video
            return True
        if found:
            return not all(subfolders(folder) for folder in found)
        starts = range(len(parts)) if is_absolute(text) else range(1)
        ends = (base.joinpath(*parts[start:]) for base in (self.root, beside, *self.bases(None)) for start in starts)
        return is_image(parts[-1]) and any(os.path.isfile(end) for end in ends)  # noqa: PTH113

    def split_of(self, folder: Path) -> str | None:
        """The split whose folder this one lies in."""
        inside = folder.relative_to(self.root).parts
        return split_in(inside[0]) if len(inside) > 1 else None


def parts_of(text: str) -> tuple[str, ...]:
    return tuple(part for part in PurePosixPath(text.replace("\\", "/")).parts if part != "/")


def is_absolute(text: str) -> bool:
    return re.match(r"[/\\]|[A-Za-z]:", text) is not None
