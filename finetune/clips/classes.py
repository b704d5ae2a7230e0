"""Which classes there are and in which order, and what numbers in a list mean."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.clips.records import ClassIndex, Label
from finetune.errors import FinetuneError
from finetune.labels import EMOTIW, LABEL_ORDERS, canonical, class_names
from finetune.tables import text_lines
from zoo.errors import counted

EXPRESSIONS = frozenset(name for order in LABEL_ORDERS.values() for name in order)
WHOLE = re.compile(r"(?<=\d)\.0+$")  # 3.0, as programs write whole numbers that pass through decimals
NUMBER = re.compile(r"\d{1,6}", re.ASCII)


@dataclass(frozen=True)
class ClassOrder:
    names: tuple[str, ...]
    first: int  # the number of the first class in the lists


def class_order(source: ClassIndex | None, beside: Sequence[Path]) -> ClassOrder | None:
    """Of the names in `source` (numbered from 0), of the file `source`, or of a classInd.txt in one of the folders `beside`.

    The file has a line per class, `1 Angry`, numbered from 1 or 0 without gaps.
    """
    if source is None:
        found = [path for folder in beside for path in sorted(folder.iterdir()) if path.name.lower() == "classind.txt"]
        if not found:
            return None
        source = found[0]
    if not isinstance(source, str | os.PathLike):
        names, first, what = tuple(map(canonical, source)), 0, "class_index"
    else:
        what = str(source)
        rows = [(number, line.replace(",", " ").split()) for number, line in text_lines(Path(source))]
        for row, (number, fields) in enumerate(rows):
            if len(fields) != 2 or not re.fullmatch(r"[0-9]{1,9}", fields[0]) or int(fields[0]) != int(rows[0][1][0]) + row:
                found_text = " ".join(fields)[:60]
                raise FinetuneError(f"{what}, line {number}: {found_text!r}; expected number and name, as '1 Angry', without gaps")
        names, first = tuple(canonical(fields[1]) for _, fields in rows), int(rows[0][1][0]) if rows else 0
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise FinetuneError(f"{what}: class {twice[0]} stands there twice; remove one")
    if not names or first > 1:
        raise FinetuneError(f"{what}: {f'numbers from {first}' if names else 'no classes'}; expected a line per class, from '1 Angry' on")
    return ClassOrder(names, first)


def number_labels(labels: Sequence[Label], order: ClassOrder | None, root: Path) -> tuple[tuple[str, ...], np.ndarray, list[str]]:
    """(classes, positions (N,) int64, notes). Without `order`, EmotiW's where the names are its seven; else sorted.

    Numbers mean what `order` says. Without it, they get the names of the folders that the clips lie in, if each number has its
    own; or else stay numbers, with a note. Raises FinetuneError where numbers and folders contradict each other.
    """
    texts = [WHOLE.sub("", canonical(label.text)) for label in labels]
    for label, text in zip(labels, texts, strict=True):
        if re.fullmatch(r"-[0-9]+|[0-9]{7,}", text):
            known = "labels are names, or count from 0 without gaps" if order is None else f"the classes are {numbered(order)}"
            raise FinetuneError(f"{label.place}: label {label.text[:40]}; {known}")
    numbers = [NUMBER.fullmatch(text) is not None for text in texts]
    values = {text: int(text) for text, number in zip(texts, numbers, strict=True) if number}
    if len(set(values.values())) < len(values):  # 1 and 01 are one label
        texts = [str(values.get(text, text)) for text in texts]
    notes = []
    if any(numbers):
        if not all(numbers):
            raise FinetuneError(
                f"{labels[numbers.index(True)].place}: label {texts[numbers.index(True)]}, but {labels[numbers.index(False)].place} has"
                f" {texts[numbers.index(False)]!r}: labels are all numbers or all names"
            )
        if order is not None:
            high = order.first + len(order.names) - 1
            for label, text in zip(labels, texts, strict=True):
                if not order.first <= int(text) <= high:
                    raise FinetuneError(f"{label.place}: label {text}; the classes are {numbered(order)}")
            texts = [order.names[int(text) - order.first] for text in texts]
        elif named := folders_of_numbers(labels, texts):
            texts = [named[text] for text in texts]
            notes.append("labels are numbers, named after their folders: " + ", ".join(f"{n} {named[n]}" for n in sorted(named, key=int)))
        else:
            notes.append("labels are numbers, and nothing says what they mean; pass class_index= (classInd.txt, or the names in order)")
    if order is not None:
        names = order.names
    else:
        names = class_names([(text, label.split) for text, label in zip(texts, labels, strict=True)], root)
        names = EMOTIW if set(names) == set(EMOTIW) else names
    elsewhere = []
    for label, text, number in zip(labels, texts, numbers, strict=True):
        if text not in names:
            raise FinetuneError(f"{label.place}: class {label.text[:40]!r}; the classes are {', '.join(names)}")
        folder = canonical(label.folder)
        if folder in EXPRESSIONS.union(names) and folder != text:
            if number:
                raise FinetuneError(
                    f"{label.place}: label {label.text} is {text} in the class order {', '.join(names)}, but the clip lies in"
                    f" {label.folder}/: another order of the classes. Pass the list's own order as class_index="
                )
            elsewhere.append(label.place)
    if elsewhere:
        notes.append(f"{counted(len(elsewhere), 'clip')} in the folder of another class than the label says, the first in {elsewhere[0]}")
    return names, np.array([names.index(text) for text in texts], np.int64), notes


def numbered(order: ClassOrder) -> str:
    return f"{order.first} {order.names[0]} to {order.first + len(order.names) - 1} {order.names[-1]}"


def folders_of_numbers(labels: Sequence[Label], texts: Sequence[str]) -> dict[str, str]:
    """The folder's name for each number, or nothing where a number has several folders or two have the same."""
    pairs = {(text, canonical(label.folder)) for label, text in zip(labels, texts, strict=True)}
    named = dict(pairs)
    return named if len(pairs) == len(named) == len(set(named.values())) > 1 and not any(map(NUMBER.fullmatch, named.values())) else {}
