"""Protobuf's text format, as prototxt files use it, read into the messages of schema.py.

Unlike protobuf's own reader this one keeps what converting strangers' files needs: the line of every layer, the document
order of `layer` and `layers`, and every field or enum value that the schema does not know, filed under its layer. A
scalar that stands twice keeps the last value (protobuf's C++ reader did so for years); a message that stands twice is merged.

The grammar is the Text Format Language Specification on protobuf.dev.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from converter.errors import PrototxtError, shown
from converter.read.schema import is_repeated

MAX_DEPTH = 100  # protobuf's own limit
MAX_MESSAGES = 200_000  # layers and what stands in their braces: a ResNet of 1,000 layers has some 30,000
MAX_UNKNOWN = 10_000  # in one layer
MAX_TEXT = 2_000  # of an unknown message: data layers' parameters are shorter

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n\f\v]+|\#[^\n]*)
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>(?:0[xX][0-9a-fA-F]+|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)(?![A-Za-z0-9_.]))
      | (?P<string>"[^"\\\n]*(?:\\.[^"\\\n]*)*"|'[^'\\\n]*(?:\\.[^'\\\n]*)*')
      | (?P<mark>[{}<>\[\]:,;\-/.])
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_SIMPLE = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}
_TRUE, _FALSE = {"true", "True", "t", "1"}, {"false", "False", "f", "0"}
_INT_RANGE = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}


@dataclass(frozen=True)
class Unknown:
    """A field, or a value of an enum field, that caffe.proto does not have."""

    path: tuple[str, ...]  # from the layer on: ("convolution_param", "quantize")
    line: int
    value: str  # the text of a scalar, "" for a message
    text: str = field(default="", compare=False)  # of a message, its beginning

    def __str__(self) -> str:
        return ".".join(self.path) + (f": {self.value}" if self.value else "")


@dataclass
class LayerText:
    """Where a layer stands in the file, and what in it we do not know."""

    kind: str  # "layer" or "layers"
    index: int  # into that repeated field
    line: int
    unknown: list[Unknown] = field(default_factory=list)


@dataclass
class Document:
    """A parsed text: the message, its layers in document order, and the unknown fields outside of layers."""

    message: Any
    layers: list[LayerText]
    unknown: list[Unknown]


class _Reader:
    def __init__(self, text: str, where: str):
        self.text, self.where = text, where
        self.position = self.ended = 0  # self.ended: where the token before this one ends
        self.counted = 0, 1  # a position, and the line that it stands in
        self.messages = 0
        self.layers: list[LayerText] = []
        self.unknown: list[Unknown] = []
        self.read = False  # whether a field has been found, of whatever name
        self.advance()

    def line(self, position: int | None = None) -> int:
        at = self.start if position is None else position
        known, line = self.counted if self.counted[0] <= at else (0, 1)
        self.counted = at, line + self.text.count("\n", known, at)
        return self.counted[1]

    def fail(self, problem: str, position: int | None = None) -> PrototxtError:
        at = self.start if position is None else position
        column = at - self.text.rfind("\n", 0, at)
        if not self.read and "this is no prototxt" not in problem:
            line = self.text.strip().split("\n")[0]
            problem += f" This is no prototxt: it begins {shown(line, 60)}, not with a field such as name: or layer {{."
        return PrototxtError(f"{self.where}, line {self.line(at)}, column {column}: {problem}")

    def advance(self) -> None:
        """Step to the next token: self.kind, self.token, and self.start, its position."""
        kind: str | None = "space"
        self.ended = self.position
        while kind == "space":
            self.start = self.position
            if self.position == len(self.text):
                self.kind, self.token = "end", ""
                return
            match = _TOKEN.match(self.text, self.position)
            if match is None:
                line = self.text[self.position : self.position + 200].split("\n")[0]
                raise self.fail(f"this is no prototxt: {shown(line, 40)}.{_hint(line)}")
            kind, self.token = match.lastgroup, match.group()
            self.position = match.end()
        self.kind = kind or ""

    def found_here(self) -> str:
        return shown(self.token, 40) if self.token else "the end of the file"

    def expect(self, token: str, why: str) -> None:
        if self.token != token or self.kind != "mark":
            raise self.fail(f"expected {token!r} {why}, found {self.found_here()}.")
        self.advance()

    def found(self, token: str) -> bool:
        if self.kind == "mark" and self.token == token:
            self.advance()
            return True
        return False

    def message(self, message: Message | None, path: tuple[str, ...], end: str) -> None:
        """Read fields into message (None: skip them) up to the closing mark."""
        if len(path) > MAX_DEPTH:
            raise self.fail(f"messages are nested deeper than {MAX_DEPTH}.")
        descriptor: Any = None if message is None else message.DESCRIPTOR  # one of two classes, by protobuf's implementation
        opened = max(self.ended - 1, 0)
        while not (self.kind == "mark" and self.token == end) and not (end == "" and self.kind == "end"):
            if self.kind == "end":
                what = shown(path[-1], 40) if path else "a layer"
                raise self.fail(f"the file ends inside {what}, which begins in line {self.line(opened)}: a '{end}' is missing.")
            self.one_field(message, descriptor, path)
        if end:
            self.advance()

    def one_field(self, message: Message | None, descriptor: Descriptor | None, path: tuple[str, ...]) -> None:
        start = self.start
        name = self.token
        if self.found("["):  # an extension or an Any: no Caffe message has one, so its name is just unknown
            name = ""
            while not self.found("]"):
                if self.kind not in ("word", "mark") or self.token in ("{", "}"):
                    raise self.fail("expected an extension's name.")
                name += self.token
                self.advance()
        elif self.kind != "word":
            raise self.fail(f"expected the name of a field, found {shown(name, 40)}.{_hint(self.text[start : start + 20])}")
        else:
            self.advance()
        known: FieldDescriptor | None = descriptor.fields_by_name.get(name) if descriptor is not None else None
        path = (*path, name)
        colon = self.found(":")
        is_message = self.kind == "mark" and self.token in ("{", "<")
        self.read = self.read or colon or is_message
        if known is None:
            if not is_message and not colon:
                raise self.fail(f"expected ':' and a value, or '{{', after {shown(name, 40)}.")
            begin = self.start
            self.values(None, None, path)
            text = self.text[begin : self.ended]
            self.note(path, start, *(("", text[:MAX_TEXT]) if is_message else (text,)))
        elif known.message_type is None and is_message:
            raise self.fail(f"{name} is a single value, not a message.")
        elif known.message_type is None and not colon:
            raise self.fail(f"expected ':' after {shown(name, 40)}.")
        else:
            self.values(message, known, path)
        if not self.found(";"):
            self.found(",")

    def note(self, path: tuple[str, ...], start: int, value: str, text: str = "") -> None:
        if len(self.unknown) == MAX_UNKNOWN:
            raise self.fail(f"more than {MAX_UNKNOWN} fields that Caffe does not know; this is no Caffe net.", start)
        self.unknown.append(Unknown(path, self.line(start), value if len(value) < 80 else value[:79] + "…", text))

    def values(self, message: Message | None, known: FieldDescriptor | None, path: tuple[str, ...]) -> None:
        """One value, or a list of them in brackets."""
        if not self.found("["):
            self.value(message, known, path)
            return
        if known is not None and not is_repeated(known):
            raise self.fail(f"{known.name} takes one value, not a list.")
        if self.found("]"):
            return
        while True:
            self.value(message, known, path)
            if self.found("]"):
                return
            self.expect(",", "between the values of a list")

    def value(self, message: Message | None, known: FieldDescriptor | None, path: tuple[str, ...]) -> None:
        start = self.start
        end = {"{": "}", "<": ">"}.get(self.token) if self.kind == "mark" else None
        if end:
            self.advance()
            if known is None:
                silent, self.note = self.note, lambda *_: None  # type: ignore[method-assign]
                try:
                    self.message(None, path, end)
                finally:
                    self.note = silent  # type: ignore[method-assign]
            elif known.message_type is None:
                raise self.fail(f"{known.name} is a single value, not a message.", start)
            else:
                self.child(message, known, path, start, end)
            return
        if known is None:
            self.skip_scalar()
        elif known.message_type is not None:
            raise self.fail(f"{known.name} is a message: expected '{{', found {self.found_here()}.")
        else:
            value = self.scalar(known, path)
            if value is None:
                return
            if is_repeated(known):
                getattr(message, known.name).append(value)
            else:
                setattr(message, known.name, value)

    def child(self, message: Message | None, known: FieldDescriptor, path: tuple[str, ...], start: int, end: str) -> None:
        self.messages += 1
        if self.messages > MAX_MESSAGES:
            raise self.fail(f"more than {MAX_MESSAGES:,} messages; no net has as many.", start)
        held = getattr(message, known.name)
        if is_repeated(known):
            child = held.add()
        else:
            held.SetInParent()
            child = held
        if known.name not in ("layer", "layers") or not is_repeated(known):
            self.message(child, path, end)
            return
        outer, self.unknown = self.unknown, []
        place = LayerText(known.name, len(held) - 1, self.line(start))
        self.layers.append(place)
        self.message(child, (), end)
        place.unknown, self.unknown = self.unknown, outer

    def skip_scalar(self) -> None:
        self.found("-")
        if self.kind == "string":
            self.string()
        elif self.kind in ("word", "number"):
            self.advance()
        else:
            raise self.fail(f"expected a value, found {self.found_here()}.")

    def string(self) -> bytes:
        pieces = []
        while self.kind == "string":
            raw = self.token[1:-1].encode("utf-8")
            pieces.append(_ESCAPE.sub(_unescape, raw) if b"\\" in raw else raw)
            self.advance()
        return b"".join(pieces)

    def scalar(self, known: FieldDescriptor, path: tuple[str, ...]) -> Any:
        """One value of the field's type; None where an enum does not know it."""
        start, kind = self.start, known.cpp_type
        if kind == FieldDescriptor.CPPTYPE_STRING:
            if self.kind != "string":
                raise self.fail(f"{known.name} takes a quoted string, found {self.found_here()}.")
            raw = self.string()
            if known.type == FieldDescriptor.TYPE_BYTES:
                return raw
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError:
                raise self.fail(f"{known.name} is not UTF-8.", start) from None
            return text
        if kind == FieldDescriptor.CPPTYPE_ENUM and self.kind == "string":
            self.note(path, start, self.string().decode("utf-8", "replace"))  # layers { type: "Softmax" } is seen in the wild
            return None
        sign = "-" if self.found("-") else ""
        if self.kind not in ("word", "number"):
            raise self.fail(f"{known.name} takes a {_WORDS[kind]}, found {self.found_here()}.")
        token = sign + self.token
        value = self.converted(known, kind, token)
        if value is None and kind == FieldDescriptor.CPPTYPE_ENUM:
            self.note(path, start, token)
        elif value is None:
            raise self.fail(f"{known.name} takes a {_WORDS[kind]}, found {shown(token, 40)}.", start)
        self.advance()
        return value

    def converted(self, known: FieldDescriptor, kind: int, token: str) -> Any:
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return True if token in _TRUE else False if token in _FALSE else None
        if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
            return _float(token)
        whole = _integer(token)
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            values: Any = known.enum_type
            if whole is not None:
                return whole if whole in values.values_by_number else None
            return values.values_by_name[token].number if token in values.values_by_name else None
        low, high = _INT_RANGE[kind]
        return whole if whole is not None and low <= whole <= high else None


def _hint(line: str) -> str:
    """What is wrong with the text at a place where no field or value can be, by how it begins."""
    first = line[:1]
    if line.startswith(("<<<<<<<", ">>>>>>>", "=======", "|||||||")):
        return " This is a git merge conflict; take the file from another commit."
    if line.startswith(("//", "/*")):
        return " A comment of a prototxt begins with #."
    if first in ("'", '"'):
        return " A quoted string must end on its line."
    if first in tuple("“”„‟‘’‚‛«»‹›＂＇"):
        return f' {first} is a typographic quotation mark; a prototxt takes the plain one, ".'
    if first == "=":
        return " Between a field and its value stands a colon."
    if first > "\x7f":
        name = unicodedata.name(first, "one without a name")
        return f" Its first character is {name} (U+{ord(first):04X}); a prototxt is plain ASCII there."
    return ""


_WORDS = {
    FieldDescriptor.CPPTYPE_BOOL: "boolean (true or false)",
    FieldDescriptor.CPPTYPE_FLOAT: "number",
    FieldDescriptor.CPPTYPE_DOUBLE: "number",
    FieldDescriptor.CPPTYPE_ENUM: "name",
    FieldDescriptor.CPPTYPE_INT32: "whole number",
    FieldDescriptor.CPPTYPE_INT64: "whole number",
    FieldDescriptor.CPPTYPE_UINT32: "whole number of at least 0",
    FieldDescriptor.CPPTYPE_UINT64: "whole number of at least 0",
}


def _unescape(match: re.Match[bytes]) -> bytes:
    octal, hexadecimal, simple = match.groups()
    if octal:
        return bytes([int(octal, 8) & 255])
    if hexadecimal:
        return bytes([int(hexadecimal, 16)])
    return _SIMPLE.get(simple, simple)


def _integer(token: str) -> int | None:
    digits = token.lstrip("-")
    if not re.fullmatch(r"0[xX][0-9a-fA-F]+|[0-9]+", digits) or len(digits) > 40:
        return None
    base = 16 if digits[:2] in ("0x", "0X") else 8 if digits[0] == "0" and digits.strip("01234567") == "" else 10
    return int(digits, base) * (-1 if token.startswith("-") else 1)


def _float(token: str) -> float | None:
    bare = token.lstrip("-").lower()
    if bare in ("inf", "infinity", "nan"):
        return float(token)
    if bare.startswith("0x"):
        whole = _integer(token)
        return None if whole is None else float(whole)
    try:
        return float(token.rstrip("fF"))
    except ValueError:
        return None


def read_text(text: str, message: Any, where: str) -> Document:
    """Read a text into an empty message of schema.py.

    Raises:
        PrototxtError: with the file, line and column of what cannot be read.
    """
    reader = _Reader(text, where)
    reader.message(message, (), "")
    return Document(message, reader.layers, reader.unknown)
