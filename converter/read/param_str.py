"""python_param.param_str: the part of YAML that Caffe's Python layers are given, read without running or constructing anything.

A mapping, in braces or one `key: value` a line; values are numbers, true and false, null, words, quoted text, lists
and mappings in brackets. A tag !!python/tuple before a list changes nothing here; every other tag is refused.
"""

from __future__ import annotations

import re

Value = None | bool | int | float | str | tuple["Value", ...] | dict[str, "Value"]

_MAX_DEPTH = 8
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+)|(?P<line>\n)|(?P<tuple>!!python/tuple(?=[\s\[]))|(?P<mark>[{}\[\],])|(?P<colon>:)
    |'(?P<single>(?:[^']|'')*)'|"(?P<double>[^"\\]*)"|(?P<word>[^\s{}\[\],:'"!&*#|>%@`?-][^\s{}\[\],:'"\#]*|-[\w.][^\s{}\[\],:'"\#]*)""",
    re.VERBOSE,
)
_NUMBER = re.compile(r"[-+]?(?:\d+|(?:\d+\.\d*|\.\d+)(?:[eE][-+]\d+)?)")  # YAML 1.1: a number with an exponent has a point and a sign
_WORDS: dict[str, Value] = {
    "": None,
    "~": None,
    "null": None,
    "true": True,
    "yes": True,
    "on": True,
    "false": False,
    "no": False,
    "off": False,
}


def parse_param_str(text: str) -> dict[str, Value]:
    """The parameters of a Python layer by name.

    Raises:
        ValueError: the text is no mapping of this kind; says where.
    """
    reader = _Reader(text)
    found = reader.mapping("}") if reader.taken("{") else reader.lines()
    if reader.peek() is not None:
        raise reader.wrong()
    return found


class _Reader:
    """The tokens of a param_str: (kind, text, place)."""

    def __init__(self, text: str):
        self.text, self.tokens, place = text, list[tuple[str, str, int]](), 0
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                raise ValueError(f"param_str {_shown(text)} is not read beyond {_shown(text[place:])}")
            if match.lastgroup != "space":
                self.tokens.append((str(match.lastgroup), str(match[str(match.lastgroup)]), place))
            place = match.end()
        self.at = self.depth = 0

    def peek(self, lines: bool = False) -> tuple[str, str, int] | None:
        """The next token; line ends count between the lines of a mapping only."""
        while not lines and self.at < len(self.tokens) and self.tokens[self.at][0] == "line":
            self.at += 1
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def taken(self, mark: str, lines: bool = False) -> bool:
        token = self.peek(lines)
        if token is None or token[1] != mark or token[0] not in ("mark", "colon", "line"):
            return False
        self.at += 1
        return True

    def wrong(self) -> ValueError:
        token = self.peek()
        place = "its end" if token is None else _shown(self.text[token[2] :])
        return ValueError(f"param_str {_shown(self.text)} is not understood at {place}")

    def lines(self) -> dict[str, Value]:
        """A mapping without braces: one pair a line."""
        found: dict[str, Value] = {}
        while self.peek() is not None:
            self.pair(found)
            if self.peek(lines=True) is not None and not self.taken("\n", lines=True):
                raise self.wrong()
        return found

    def mapping(self, end: str) -> dict[str, Value]:
        found: dict[str, Value] = {}
        while not self.taken(end):
            self.pair(found)
            if not self.taken(","):
                if self.taken(end):
                    break
                raise self.wrong()
        return found

    def pair(self, found: dict[str, Value]) -> None:
        token = self.peek()
        if token is None or token[0] not in ("single", "double", "word"):
            raise self.wrong()
        self.at += 1
        if token[1] in found:
            raise ValueError(f"param_str {_shown(self.text)} has {token[1]!r} twice")
        if not self.taken(":"):
            raise self.wrong()
        found[token[1]] = self.value()

    def value(self) -> Value:
        token = self.peek()
        if token is None:
            raise self.wrong()
        self.at += 1
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise ValueError(f"param_str {_shown(self.text)} is nested more than {_MAX_DEPTH} deep")
        kind, text, _ = token
        found: Value
        if kind == "tuple":
            if not self.taken("["):
                raise self.wrong()
            found = self.sequence()
        elif (kind, text) == ("mark", "["):
            found = self.sequence()
        elif (kind, text) == ("mark", "{"):
            found = self.mapping("}")
        elif kind in ("single", "double"):
            found = text.replace("''", "'") if kind == "single" else text
        elif kind == "word":
            found = _plain(text)
        else:
            self.at -= 1
            raise self.wrong()
        self.depth -= 1
        return found

    def sequence(self) -> tuple[Value, ...]:
        found: list[Value] = []
        while not self.taken("]"):
            found.append(self.value())
            if not self.taken(","):
                if self.taken("]"):
                    break
                raise self.wrong()
        return tuple(found)


def _plain(word: str) -> Value:
    """What a word without quotes stands for."""
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    if _NUMBER.fullmatch(word):
        # a leading 0 makes YAML 1.1 read base 8: rather no number than another one
        if re.fullmatch(r"[-+]?\d+", word):
            if word.lstrip("+-") != "0" and word.lstrip("+-").startswith("0"):
                raise ValueError(f"the number {word} has a leading 0")
            return int(word)
        return float(word)
    return word


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
