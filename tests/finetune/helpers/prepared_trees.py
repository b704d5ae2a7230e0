"""A small tree of marked videos, prepared in this process, and what the preparation left."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import marked_videos as made
import numpy as np
import pytest
from marked_videos import GREEN, moving, picture, write
from PIL import Image

from finetune.video import workers
from finetune.video.prepare import prepare
from finetune.video.records import Options, Outcome, Video


def noise(size: tuple[int, int], seed: int) -> np.ndarray:
    """(H, W, 3) uint8, smooth in space."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


def seconds(count: int) -> list[float]:
    return [number / 25 for number in range(count)]


def text(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def tree(root: Path) -> Path:
    """Two faces, one without, one that is none."""
    write(root / "Train" / "Angry" / "1.avi", moving())
    write(root / "Val" / "Happy" / "2.mp4", moving(8, GREEN), "libx264")
    write(root / "Val" / "Happy" / "empty.avi", [picture()] * 6)
    text(root / "Val" / "Happy" / "text.avi", "hello")
    text(root / "Val" / "Happy" / "notes.txt", "no video at all")
    return root


def here(jobs: Any, setup: Any, count: int, ticked: workers.Tick) -> Iterator[tuple[Any, Any]]:
    """workers.run() without processes, for what doesn't depend on them."""
    do = setup()
    for job in jobs:
        yield job, do(job, ticked)


def run(src: Path, dst: Path, options: Options | None = None, **settings: Any) -> list[tuple[Video, Outcome]]:
    with pytest.MonkeyPatch.context() as patch:
        if "processes" not in settings:
            patch.setattr(workers, "run", here)
        return prepare(src, dst, options, **{"detector": made.squares, **settings})


def opened(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.jpg"))}


def rows(dst: Path) -> list[dict[str, str]]:
    with (dst / "report.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
