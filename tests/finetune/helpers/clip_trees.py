"""Ten drawn clips in the layouts that clips come in, and CK+'s four."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.clips.data import Clips, read_clips
from finetune.labels import EMOTIW

RNG = np.random.default_rng(3)
HEIGHT, WIDTH = 8, 6
# split, class, video, frames: in the order of the folders; 12 frames, so that images10 comes after images9
VIDEOS = [
    ("train", "Angry", "000046280", 12), ("train", "Angry", "000149120", 1), ("train", "Disgust", "000247600", 2),
    ("train", "Fear", "000322047", 3), ("train", "Happy", "000322600", 2), ("train", "Neutral", "000439654", 1),
    ("train", "Sad", "000647360", 4), ("train", "Surprise", "000758680", 2), ("val", "Angry", "000929080", 2),
    ("val", "Sad", "000941320", 3),
]  # fmt: skip
LABELS = [0, 0, 1, 2, 3, 4, 5, 6, 0, 5]  # positions in alphabetical order
SPLIT = [split for split, *_ in VIDEOS]
IDS = [video for _, _, video, _ in VIDEOS]
LENGTHS = [length for *_, length in VIDEOS]
OFFSETS = np.cumsum([0, *LENGTHS])
AFEW = {"train": "Train_AFEW_all", "val": "Val_AFEW"}
FRAMES = RNG.integers(0, 256, (sum(LENGTHS), HEIGHT, WIDTH), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (sum(LENGTHS), HEIGHT, WIDTH, 3), dtype=np.uint8)
EMOTIONS = [emotion for _, emotion, *_ in VIDEOS]
FLAT = "{emotion}/{video}"
DFER = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
LIST = "{split}/{emotion}/{video} {emotion}"


def saved(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def tree(
    root: Path,
    folder: str = "{split}/{emotion}/{video}",
    name: str = "images{number}.png",
    frames: np.ndarray = FRAMES,
    rename: dict[str, str] | None = None,
) -> Path:
    for row, (split, emotion, video, length) in enumerate(VIDEOS):
        place = folder.format(split=(rename or {}).get(split, split), emotion=(rename or {}).get(emotion, emotion), video=video)
        for number in range(length):
            saved(root / place / name.format(number=number + 1), frames[OFFSETS[row] + number])
    return root


def lists(
    root: Path,
    line: str,
    names: dict[str, str] | None = None,
    order: Sequence[str] = EMOTIW,
    first: int = 0,
    end: str = "\n",
    start: str = "",
) -> Path:
    """Writes a list per split; `line` may use split, afew, emotion, video, frames and number."""
    for split, name in (names or {"train": "trainlist.txt", "val": "vallist.txt"}).items():
        lines = []
        for part, emotion, video, frames in VIDEOS:
            if part == split:
                number = order.index(emotion.lower()) + first
                lines.append(line.format(split=part, afew=AFEW[part], emotion=emotion, video=video, frames=frames, number=number))
        (root / name).write_bytes((start + end.join(lines) + end).encode())
    return root


def written(root: Path, name: str, text: str) -> Path:
    (root / name).write_text(text)
    return root


def class_index(root: Path, names: Sequence[str] = EMOTIW, first: int = 1) -> Path:
    return written(root, "classInd.txt", "\n".join(f"{first + row} {name.capitalize()}" for row, name in enumerate(names)))


def csv_file(root: Path, header: str, line: str, name: str = "clips.csv") -> Path:
    rows = [line.format(split=s, emotion=e, video=v, number=EMOTIW.index(e.lower())) for s, e, v, _ in VIDEOS]
    return written(root, name, "\n".join([header, *rows]) + "\n")


def npz(root: Path, **arrays: object) -> Path:
    root.mkdir(exist_ok=True)
    np.savez(root / "clips.npz", **arrays)  # type: ignore[arg-type]
    return root / "clips.npz"


def padded(frames: np.ndarray = FRAMES) -> np.ndarray:
    clips = RNG.integers(0, 256, (len(VIDEOS), max(LENGTHS), *frames.shape[1:]), dtype=np.uint8)
    for row, length in enumerate(LENGTHS):
        clips[row, :length] = frames[OFFSETS[row] : OFFSETS[row + 1]]
    return clips


def file_in(root: Path, name: str, content: bytes = b"RIFF") -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)
    return root


def quietly(*arguments: object, **options: object) -> Clips:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return read_clips(*arguments, **options)  # type: ignore[arg-type]


CK = [("S005", "001", "disgust", 3), ("S010", "002", "surprise", 2), ("S010", "004", "anger", 1), ("S999", "003", "contempt", 3)]
CK_CLASSES = ("angry", "contempt", "disgust", "surprise")


def ck48(root: Path) -> Path:
    for row, (subject, session, emotion, frames) in enumerate(CK):
        for number in range(frames):
            saved(root / emotion / f"{subject}_{session}_{number + 9:08}.png", FRAMES[4 * row + number])
    return root


def cohn_kanade(root: Path) -> Path:
    number_of = {"anger": 1, "contempt": 2, "disgust": 3, "surprise": 7}
    for row, (subject, session, emotion, frames) in enumerate(CK):
        for number in range(frames):
            saved(root / "cohn-kanade-images" / subject / session / f"{subject}_{session}_{number + 1:08}.png", FRAMES[4 * row + number])
        label = root / "Emotion" / subject / session / f"{subject}_{session}_{frames:08}_emotion.txt"
        label.parent.mkdir(parents=True)
        label.write_text(f"   {number_of[emotion]}.0000000e+00\n")
    saved(root / "cohn-kanade-images" / "S005" / "002" / "S005_002_00000001.png", FRAMES[0])  # most sequences have no emotion
    (root / "Emotion" / "S005" / "002").mkdir()
    return root


def ck_lists(root: Path) -> Path:
    cohn_kanade(root)
    (root / "Emotion").rename(root / "Emotion_labels")
    lines = [f"cohn-kanade-images/{subject}/{session} {emotion}" for subject, session, emotion, _ in CK]
    return written(root, "train.txt", "\n".join(lines))


def ck_npz(root: Path) -> Path:
    clips = np.zeros((len(CK), 3, HEIGHT, WIDTH), np.uint8)
    for row, (*_, frames) in enumerate(CK):
        clips[row, :frames] = FRAMES[4 * row : 4 * row + frames]
    subject, session, label, lengths = (list(column) for column in zip(*CK, strict=True))
    return npz(root, frames=clips, subject=subject, session=session, label=label, lengths=lengths)
