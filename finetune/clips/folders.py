"""Clips in folders: a folder of frames a clip, below folders named after classes and splits; CK+."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from finetune.clips.order import in_order
from finetune.clips.records import Clip, Label
from finetune.errors import FinetuneError
from finetune.files import IMAGE_SUFFIXES, SYSTEM_FILES, VIDEO_SUFFIXES, subfolders
from finetune.labels import canonical, merged, natural, split_in
from zoo.errors import counted

CK_FRAME = re.compile(r"(S\d{3})_(\d{3})_\d{8}", re.ASCII)  # CK+'s file names: subject, sequence, frame (Lucey et al. 2010)
CK_SEQUENCE = re.compile(r"(?:^|/)(S\d{3})[/_]\d{3}$", re.ASCII)  # and its folders
CK_EMOTIONS = ("neutral", "angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")  # numbers in its *_emotion.txt


def raw_video(path: Path) -> FinetuneError:
    return FinetuneError(f"{path}: a raw video; cut the faces out first: python -m finetune.prepare_video SRC DST, then read DST")


def visible(folder: Path) -> list[Path]:
    """What is in a folder, numbers in names by value, without the files that operating systems leave."""
    found = [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")) and path.name.lower() not in SYSTEM_FILES]
    return sorted(found, key=lambda path: (natural(path.name), path.name))


class LeftOut:
    """Files among the frames that are none."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[Path] = []

    def notes(self) -> list[str]:
        if not self.files:
            return []
        return [f"left out: {counted(len(self.files), 'file')}, being no images, as {self.files[0].relative_to(self.root).as_posix()}"]


def is_image(name: str) -> bool:
    """Whether a file of this name is read as an image."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def frames_in(folder: Path, left_out: LeftOut) -> tuple[Path, ...]:
    """The images in a clip's folder, in the order of their numbers."""
    frames = []
    for path in visible(folder):
        if path.is_dir():
            raise FinetuneError(f"{path}: a folder inside a clip's folder; expected only images in {folder.name}/")
        if path.suffix.lower() in VIDEO_SUFFIXES:
            raise raw_video(path)
        if is_image(path.name):
            frames.append(path)
        else:
            left_out.files.append(path)
    return in_order(frames)


def split_folders(root: Path, notes: list[str]) -> list[tuple[str, Path]]:
    """The folders of classes with their splits; a folder that is alone between, as Train_AFEW/Emotiw-faces/Angry, is passed."""
    top = subfolders(root)
    if not any(split_in(folder.name) for folder in top):
        return [("train", inner_folder(root))]
    if strange := [folder for folder in top if not split_in(folder.name)]:
        beside = next(folder.name for folder in top if split_in(folder.name))
        raise FinetuneError(f"{strange[0]}: lies beside {beside}/ and is no split; move it away, or pass the folder to read")
    notes += merged((folder.name for folder in top), split_in)
    return [(str(split_in(folder.name)), inner_folder(folder)) for folder in top]


def inner_folder(folder: Path) -> Path:
    inside = subfolders(folder)
    if len(inside) == 1 and any(subfolders(each) for each in subfolders(inside[0])):
        return inside[0]
    return folder


def in_class_folders(root: Path, notes: list[str]) -> Iterator[Clip]:
    """[split/]class/video/frames; or [split/]class/S005_001_00000009.png, grouped to sequences by subject and sequence.

    Raises FinetuneError for a class folder all of whose files are left out.
    """
    left_out = LeftOut(root)
    empty = []
    for split, parent in split_folders(root, notes):
        notes += merged((folder.name for folder in subfolders(parent)), canonical)
        for folder in sorted(subfolders(parent), key=lambda each: natural(canonical(each.name))):
            before = len(left_out.files)
            clips = list(in_class_folder(folder, split, left_out))
            yield from clips
            if not clips and len(left_out.files) > before:
                lost = f"{counted(len(left_out.files) - before, 'file')} like {left_out.files[before].name}"
                raise FinetuneError(
                    f"{folder}: holds no clip, but {lost}; expected a folder of images a clip."
                    " Save them as PNG or JPEG, or move the folder away"
                )
            if not clips:
                empty.append(folder.relative_to(root).as_posix())
    if empty:
        shown = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        notes.append(f"{counted(len(empty), 'empty folder')} where classes are expected: {shown}")
    notes += left_out.notes()


def in_class_folder(folder: Path, split: str, left_out: LeftOut) -> Iterator[Clip]:
    label = Label(folder.name, split, str(folder))
    sequences: dict[str, list[Path]] = {}
    for path in visible(folder):
        if path.is_dir():
            ck = CK_SEQUENCE.search(path.name)
            yield Clip(path, frames_in(path, left_out), label, ck[1] if ck else None)
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            raise raw_video(path)
        elif not is_image(path.name):
            left_out.files.append(path)
        elif ck := CK_FRAME.fullmatch(path.stem):
            sequences.setdefault(f"{ck[1]}_{ck[2]}", []).append(path)
        else:
            raise FinetuneError(
                f"{path}: an image where a folder per video is expected (or CK+'s names, S005_001_00000009.png);"
                " single images are read by finetune.images.data.read"
            )
    for name, files in sequences.items():
        yield Clip(folder, tuple(files), label, name[:4], name)


def cohn_kanade(root: Path, notes: list[str]) -> Iterator[Clip]:
    """CK+ as its authors give it: cohn-kanade-images/S005/001/*.png, and the sequences that have an Emotion/S005/001/*_emotion.txt."""
    left_out = LeftOut(root)
    for path in sorted((root / "Emotion").glob("S*/*/*_emotion.txt")):
        text = path.read_text("latin-1")[:100].strip()
        number = int(float(text)) if re.fullmatch(r"\d(\.\d*)?(e\+?0+)?", text) else -1
        if not 0 <= number < len(CK_EMOTIONS):
            raise FinetuneError(f"{path}: {text[:40]!r}; expected a number 0..{len(CK_EMOTIONS) - 1}")
        subject, session = path.parts[-3:-1]
        folder = root / "cohn-kanade-images" / subject / session
        if not folder.is_dir():
            raise FinetuneError(f"{path}: its frames are missing: no folder {folder}; unpack extended-cohn-kanade-images.zip there")
        yield Clip(folder, frames_in(folder, left_out), Label(CK_EMOTIONS[number], "train", str(path)), subject, f"{subject}_{session}")
    notes += left_out.notes()
