"""What the project's pages tell people to type: shell commands, Python blocks, and commands named within a sentence."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
PROGRAMS = r"(?:\.venv/bin/)?(?:convert-caffe|caffe-zoo|python|python3|pip|torchrun|make) "
PART = re.compile(r"\.\.\.|\||<| -m$")  # not a whole command


@dataclass(frozen=True)
class Piece:
    page: str
    line: int
    kind: Literal["command", "python", "inline", "misplaced"]
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text.strip().splitlines()[0]}"


def pieces(page: str) -> list[Piece]:
    """In the order in which a reader meets them."""
    found: list[Piece] = []
    lines = iter(enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if line.startswith("```"):
            block = [(number + 1 + at, text) for at, text in enumerate(_block(lines))]
            found += _of_block(page, line[3:].strip(), block)
        else:
            spans = re.findall(r"`([^`]+)`", line)
            found += [Piece(page, number, "inline", _whole(span)) for span in spans if re.match(PROGRAMS, span) and not PART.search(span)]
    return found


def _whole(span: str) -> str:
    """`caffe-zoo info` and `python -m finetune.predict` speak of a command, and type none."""
    return f"{span} --help" if re.fullmatch(r"(\.venv/bin/)?(caffe-zoo [a-z]+|python -m finetune\.\w+)", span) else span


def _block(lines: Iterator[tuple[int, str]]) -> Iterator[str]:
    for _, line in lines:
        if line.startswith("```"):
            return
        yield line


def _of_block(page: str, language: str, block: list[tuple[int, str]]) -> Iterator[Piece]:
    if language == "python":
        yield Piece(page, block[0][0], "python", "\n".join(line for _, line in block))
    if language in ("", "text"):  # what a program prints; a command in it would not be found
        yield from (Piece(page, number, "misplaced", line) for number, line in block if re.match(rf"(\$ )?{PROGRAMS}", line))
    if language in ("console", "sh", "bash", "shell"):
        prompt = "$ " if language == "console" else ""
        rest = iter(block)
        for number, line in rest:
            if line.startswith(prompt) and line.strip():
                command = line[len(prompt) :]
                while _unfinished(command):
                    command += "\n" + next(rest)[1]
                yield Piece(page, number, "command", command)


def _unfinished(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return True
    return command.endswith("\\")
