"""Frames in the order of the numbers in their names: images2 before images10, 0.04 before 0.4, IMAGE2 between Image1 and image3."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from finetune.errors import FinetuneError

COUNTER = re.compile(r"[0-9]+")
# A number with a fraction, such as a time in seconds; never a part of a date or a version, 1.2.3, and 1,000 is a thousand.
_DECIMAL = (
    r"(?<![\d.,])[0-9]+(?:\.|,(?!\d{3}(?!\d)))[0-9]+(?:[eE][+-]?[0-9]{1,3})?(?![.,]?\d)"
    r"|(?<![\d.,])[0-9]+[eE][+-][0-9]{1,3}(?![.,]?\d)|[0-9]+"
)
DECIMAL = re.compile(_DECIMAL)
_SIGN = r"(?<![^\s_(\[=])-"  # a minus, where no letter or digit stands before it
SIGNED = re.compile(_SIGN + "[0-9]")
SIGNED_COUNTER, SIGNED_DECIMAL = (re.compile(f"(?:{_SIGN})?(?:{pattern})") for pattern in (COUNTER.pattern, _DECIMAL))
PADDED_FRACTION = re.compile(r"(?<=\d[.,])0[0-9]+")
SEPARATORS = re.compile(r"[\s_.()\[\]-]+")

Numbers = tuple[Fraction, ...]


def in_order(frames: Sequence[Path]) -> tuple[Path, ...]:
    """The files of one clip in the order of their numbers, by value, whatever the width, case and separators of the names.

    A dot or comma between digits is read as a counter's (shot1.10 is after shot1.9) or as a decimal point (0.44 s is after 0.4 s and
    0.04 s), a minus before them as a sign or not; where only some names have one, it is a sign. Raises FinetuneError where these
    disagree and the names don't decide, where a name has no number, or two have the same.
    """
    if len(frames) < 2:
        return tuple(frames)
    for path in frames:
        if not COUNTER.search(path.stem):
            raise unordered(path, "has no number that says where it comes")
    readings = [reading for pattern in patterns_for(frames) if (reading := numbered(frames, pattern)) is not None]
    if not readings:
        raise not_alike(frames)
    if padded_unequally(frames):
        readings = readings[-1:]
    orders = [tuple(sorted(frames, key=reading.__getitem__)) for reading in readings]
    if other := next((order for order in orders if order != orders[0]), None):
        first, second = next(pair for pair in zip(orders[0], other, strict=True) if pair[0] != pair[1])
        doubt = "minus may be a sign" if SIGNED.search(first.stem) else "dot may be a decimal point"
        raise unordered(first, f"or {second.name} comes first: the {doubt} or not")
    return orders[0]


def patterns_for(frames: Sequence[Path]) -> tuple[re.Pattern[str], ...]:
    """What the numbers in the names may be: the order of several readings has to be the same."""
    signed = [SIGNED.search(path.stem) is not None for path in frames]
    if not any(signed):
        return COUNTER, DECIMAL
    return (COUNTER, DECIMAL, SIGNED_COUNTER, SIGNED_DECIMAL) if all(signed) else (SIGNED_COUNTER, SIGNED_DECIMAL)


def numbered(frames: Sequence[Path], pattern: re.Pattern[str]) -> dict[Path, Numbers] | None:
    """The numbers in each name, or None where the names differ in more than these, or two have the same."""
    numbers = {path: tuple(Fraction(number.replace(",", ".")) for number in pattern.findall(path.stem)) for path in frames}
    if len({len(each) for each in numbers.values()}) > 1 or len(set(numbers.values())) < len(frames):
        return None
    if len({between(path, pattern) for path in frames}) == 1 or (len(next(iter(numbers.values()))) == 1 and same_order(numbers)):
        return numbers
    return None


def between(path: Path, pattern: re.Pattern[str]) -> tuple[str, ...]:
    """What stands around the numbers, without case and separators."""
    return tuple(SEPARATORS.sub("", text).casefold() for text in pattern.split(path.stem))


def same_order(numbers: dict[Path, Numbers]) -> bool:
    """Whether names with other words than numbers come in the same order by both."""
    by_name = sorted(numbers, key=lambda path: (between(path, COUNTER), numbers[path]))
    return by_name == sorted(numbers, key=numbers.__getitem__)


def padded_unequally(frames: Sequence[Path]) -> bool:
    """Whether 0.04 stands among names like 0.4: a counter that is padded with zeros is padded to one width."""
    numbers = [number.replace(",", ".") for path in frames for number in DECIMAL.findall(path.stem)]
    dotted = [number.partition(".")[2] for number in numbers if "." in number]
    return any(PADDED_FRACTION.search(path.stem) for path in frames) and len({len(fraction) for fraction in dotted}) > 1


def not_alike(frames: Sequence[Path]) -> FinetuneError:
    """Names two frames that show why no order can be told."""
    seen: dict[Numbers, Path] = {}
    for path in frames:
        numbers = tuple(Fraction(number) for number in COUNTER.findall(path.stem))
        if numbers in seen:
            return unordered(path, f"has the same number as {seen[numbers].name}")
        seen[numbers] = path
    other = next((path for path in frames if between(path, COUNTER) != between(frames[0], COUNTER)), frames[-1])
    return unordered(other, f"and {frames[0].name} are not numbered alike: their order cannot be told")


def unordered(path: Path, problem: str) -> FinetuneError:
    return FinetuneError(f"{path}: {problem}; name the frames of a clip by one number each, as in images0001{path.suffix}")
