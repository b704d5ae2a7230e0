"""Names of facial expressions and of the parts of a data set: orders, synonyms, how they are spelt. Imports neither torch nor numpy."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from finetune.errors import FinetuneError

# Orders in which public data number the expressions; the position is the label.
FER2013 = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # fer2013.csv, Goodfellow et al. 2013
EMOTIW = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")  # its classInd.txt: alphabetical
LABEL_ORDERS = {
    "FER2013": FER2013,
    "EmotiW (classInd.txt, alphabetical)": EMOTIW,
    "FER+": ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt"),  # Barsoum et al. 2016
    "RAF-DB": ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral"),  # its labels count from 1
}
NUMBERED = tuple(map(str, range(len(FER2013))))  # class folders named so mean FER2013's labels
SYNONYMS = {
    "anger": "angry", "disgusted": "disgust", "fearful": "fear", "afraid": "fear", "happiness": "happy", "joy": "happy",
    "sadness": "sad", "surprised": "surprise",
}  # fmt: skip
SPLITS = {
    "train": "train", "training": "train", "fer2013train": "train",
    "public": "public", "publictest": "public", "fer2013valid": "public",
    "private": "private", "privatetest": "private", "fer2013test": "private",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip
SPLIT_WORD = re.compile(r"(?<![a-z])(?:e(?=val))?(train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?|dev)(?:list|set)?(?![a-z])")
MOST_CLASSES = 10_000
LONGEST_NAME = 200  # letters of a class
SPLIT_ORDER = ("train", "public", "private", "val", "test")


def canonical(name: str) -> str:
    """The expression that a folder, header or class name means: lower case, synonyms resolved."""
    name = name.strip().lower()
    return SYNONYMS.get(name, name)


def split_of(name: str) -> str | None:
    return SPLITS.get(re.sub(r"[^a-z0-9]", "", name.lower()))


def split_in(name: str) -> str | None:
    """The split that a folder's or list's name says: train, Val_AFEW, Emotiw_TRAIN, testlist01, afew_eval."""
    if split := split_of(name):
        return split
    said = {split_of(word) for word in SPLIT_WORD.findall(name.lower())}
    return said.pop() if len(said) == 1 else None


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts numbers inside names by value: 2.png before 10.png."""
    return [(int(part), "") if part.isdecimal() and part.isascii() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def class_names(named: Iterable[tuple[str, str]], root: Path) -> tuple[str, ...]:
    """The classes of (class, split) pairs in label order: FER2013's for its seven names, others sorted, numbers in them by value.

    Raises FinetuneError for a class of another split that train lacks; `root` is named in its text.
    """
    pairs = {(canonical(label), split) for label, split in named}
    names = {name for name, _ in pairs}
    known = {name for name, split in pairs if split == "train"}
    if known and names - known:
        unseen = ", ".join(sorted(names - known))
        raise FinetuneError(f"{root}: class {unseen} has no training images; train has {', '.join(sorted(known))}. Name the folders alike")
    return FER2013 if names == set(FER2013) else tuple(sorted(names, key=natural))


def about_order(splits: Collection[str]) -> tuple[str, ...]:
    """A note on labels 0..6 that were taken for FER2013's, unless the data have that set's own parts."""
    if {"public", "private"} & set(splits):
        return ()
    order = ", ".join(f"{label} {name}" for label, name in enumerate(FER2013))
    return (f"labels are numbers, taken in FER2013's order: {order}. Other data have other orders; name the classes if these do",)


def about_first(labels: Iterable[int]) -> list[str]:
    """A note on labels that may count from 1 and were taken in FER2013's order, which counts from 0."""
    found = set(labels)
    if min(found) != 1 or max(found) != len(FER2013) - 1:
        return []
    return [f"no label is 0; they are taken in FER2013's order, from 1 {FER2013[1]} on. Subtract 1 where they count from 1"]


def about_numbers(names: Sequence[str]) -> tuple[str, ...]:
    """A note on classes that are called by numbers which are not taken for FER2013's."""
    if not all(name.isdecimal() for name in names):
        return ()
    orders = "; ".join(f"{name}: {', '.join(LABEL_ORDERS[name])}" for name in ("FER+", "RAF-DB"))
    return (f"classes are called {names[0]} to {names[-1]}, and nothing says what they mean. Known orders: {orders}. Rename the folders",)


def merged(folders: Iterable[str], meaning: Callable[[str], str | None]) -> list[str]:
    """Notes where folders in one place, of several names, mean one class or split."""
    names: dict[str, set[str]] = {}
    for folder in folders:
        if (what := meaning(folder)) is not None:
            names.setdefault(what, set()).add(folder)
    return [f"{' and '.join(sorted(found))} are read as one, {what}" for what, found in names.items() if len(found) > 1]


def check_names(names: Sequence[str], what: str) -> None:
    """Raises FinetuneError for class names that cannot be told apart or written down."""
    problems = []
    seen: dict[str, str] = {}
    for name in names:
        shown = ascii(name[:60])
        if canonical(name) in seen:
            problems.append(f"{seen[canonical(name)][:60]!a} and {shown} are the same class")
        seen.setdefault(canonical(name), name)
        if not name.strip():
            problems.append(f"{shown} is no name")
        elif len(name) > LONGEST_NAME:
            problems.append(f"{shown}... has {len(name):,} characters, more than {LONGEST_NAME}")
        elif any("\ud800" <= letter <= "\udfff" for letter in name):
            problems.append(f"{shown} is not in UTF-8")
        elif not name.isprintable():
            problems.append(f"{shown} holds control characters")
    if len(names) > MOST_CLASSES:
        problems.append(f"there are {len(names):,} classes, more than {MOST_CLASSES:,}")
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise FinetuneError(f"{what}: class names: {'; '.join(problems[:3])}{more}. Rename the classes")


def check_classes(expected: Sequence[str], found: Sequence[str]) -> None:
    """Raises FinetuneError unless both name the same classes in the same order; its text shows both orders."""
    if tuple(expected) == tuple(found):
        return
    width = max(map(len, [*expected, "expected"]))
    rows = max(len(expected), len(found))
    lines = [f"  {'label':>5}  {'expected':<{width}}  found"]
    for label in range(rows):
        left, right = (names[label] if label < len(names) else "-" for names in (expected, found))
        lines.append(f"  {label:>5}  {left:<{width}}  {right}{'' if left == right else '   <'}")
    known = {order: name for name, order in LABEL_ORDERS.items()}
    for what, names in (("expected", expected), ("found", found)):
        if origin := known.get(tuple(map(canonical, names))):
            lines.append(f"  {what} is the order of {origin}")
    if sorted(expected) == sorted(found):
        lines.append("  The names are the same: reorder(data, expected) renumbers the labels")
    else:
        lines.append("  The classes differ: train a new head (or name the folders alike)")
    raise FinetuneError("\n".join(["class names differ, so labels mean different things:", *lines]))


def split_counts(split: Sequence[str]) -> dict[str, int]:
    return {name: count for name in SPLIT_ORDER if (count := split.count(name))}
