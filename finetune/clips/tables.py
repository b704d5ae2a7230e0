"""Text files of lines and fields."""

from __future__ import annotations

import os
from pathlib import Path

from finetune.errors import FinetuneError
from finetune.files import LARGEST_BLOCK


def text_lines(path: Path) -> list[tuple[int, str]]:
    """The lines that aren't blank, with their numbers. A name that is not UTF-8 comes as the operating system has it."""
    if path.stat().st_size > LARGEST_BLOCK:
        raise FinetuneError(f"{path}: {path.stat().st_size:,} bytes: is it a list of clips?")
    text = os.fsdecode(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    if "\0" in text:
        raise FinetuneError(f"{path}: is no text file")
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
