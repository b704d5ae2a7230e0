"""Copies definitions out of this package's own files, so that what is written runs where the package is not installed.

A definition is a class, a function or a constant at the top level of a module. It takes along what it names: other
definitions of the package as source, everything else as an import.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

PACKAGES = ("converter", "architectures")  # their definitions go along; the first may import nothing of the second
_TOOLS = re.compile(r"  # (fmt|type|noqa|ruff)\b.*")  # what only this package's own checks read
_LEFT_OUT = "\0"  # in place of a line


@dataclass(frozen=True)
class _File:
    """A module of the package, taken apart."""

    lines: list[str]
    definitions: dict[str, ast.stmt]
    imports: dict[str, tuple[str, str]]  # by the name that they give: the module, and the name in it ("" for the module itself)


@cache
def _file(module: str) -> _File:
    path = sys.modules[module].__file__
    assert path is not None
    text = Path(path).read_text(encoding="utf-8")
    found = _File(text.splitlines(), {}, {})
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.definitions[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found.definitions.update({each.id: node for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)})
        elif isinstance(node, ast.Import):
            found.imports.update({alias.asname or alias.name: (alias.name, "") for alias in node.names})
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.imports.update({alias.asname or alias.name: (node.module, alias.name) for alias in node.names})
    return found


def _names(node: ast.AST) -> set[str]:
    """The names of the module's top level that a definition uses, in annotations as well."""
    found: set[str] = set()

    def visit(node: ast.AST, local: frozenset[str]) -> None:
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            arguments = {each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg)}
            body: Sequence[ast.AST] = node.body if isinstance(node, ast.FunctionDef) else [node.body]
            stored = {each.id for part in body for each in ast.walk(part) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
            for child in ast.iter_child_nodes(node):
                visit(child, local | arguments | stored if child in body else local)
        elif isinstance(node, ast.Name):
            found.update({node.id} - local)
        else:
            for child in ast.iter_child_nodes(node):
                visit(child, local)

    visit(node, frozenset())
    return found


@dataclass
class Carried:
    """Definitions in the order in which they can stand in one file, and the imports that they need."""

    taken: set[str] = field(default_factory=set)  # names that the file gives to something else
    imports: set[tuple[str, str, str]] = field(default_factory=set)  # module, name in it or "", name here
    texts: list[str] = field(default_factory=list)
    names: dict[tuple[str, str], str] = field(default_factory=dict)  # of (module, name): the name here

    def add(self, module: str, name: str) -> str:
        """Take a definition along; returns its name in the file."""
        if (module, name) in self.names:
            return self.names[module, name]
        file = _file(module)
        if name not in file.definitions:
            return self.add(*file.imports[name])
        return self._take(module, name, file)

    def _take(self, module: str, name: str, file: _File) -> str:
        here = name if name not in self.taken else f"{name}_of_{module.rpartition('.')[2]}"
        self.taken.add(here)
        self.names[module, name] = here
        node = file.definitions[name]
        for other in (other for other, same in file.definitions.items() if same is node and other != name):  # a, b = ...
            self.names[module, other] = other
            self.taken.add(other)
        renamed = {name: here}
        for used in sorted(_names(node) - {name}):
            source, original = file.imports.get(used, ("", ""))
            if used in file.definitions:
                renamed[used] = self.add(module, used)
            elif source.partition(".")[0] in PACKAGES:
                renamed[used] = self.add(source, original)
            elif source:
                self.imports.add((source, original, used))
        self.texts.append(_renamed(_text(file.lines, node), {old: new for old, new in renamed.items() if old != new}))
        return here

    def stand_in(self, module: str, name: str, text: str) -> None:
        """Put this text in a definition's place."""
        self.taken.add(name)
        self.names[module, name] = name
        self.texts.append(text)

    def add_record(self, module: str, name: str, values: Mapping[str, str], without: Sequence[str] = ()) -> None:
        """Take a dataclass along as a plain class whose fields have these values (as source), without some of its methods.

        A dataclass would look its module up in sys.modules, where a file that is run by hand may not be.
        """
        file = _file(module)
        node = file.definitions[name]
        assert isinstance(node, ast.ClassDef)
        lines = list(file.lines)
        body = [each for each in node.body if not (isinstance(each, ast.FunctionDef) and each.name in without)]
        for each in body:
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                assert each.lineno == each.end_lineno
                lines[each.lineno - 1] = f"    {each.target.id}: {ast.unparse(each.annotation)} = {values[each.target.id]}"
        for each in (each for each in node.body if each not in body):
            lines[each.lineno - 1 : each.end_lineno] = [_LEFT_OUT] * ((each.end_lineno or 0) - each.lineno + 1)
        plain = ast.ClassDef(name, node.bases, node.keywords, body, [], lineno=node.lineno, end_lineno=node.end_lineno)
        self._take(module, name, _File(lines, {**file.definitions, name: plain}, file.imports))

    def import_lines(self, *more: tuple[str, str, str]) -> list[str]:
        """Import statements, the standard library's first."""
        found = self.imports | set(more)
        whole = sorted((module, here) for module, name, here in found if not name)
        parts: dict[str, list[str]] = {}
        for module, name, here in sorted(found):
            if name:
                parts.setdefault(module, []).append(name if name == here else f"{name} as {here}")
        lines = [(module, f"import {module}" + (f" as {here}" if here != module else "")) for module, here in whole]
        lines += [(module, f"from {module} import {', '.join(names)}") for module, names in parts.items()]
        groups = [[line for module, line in lines if (module.partition(".")[0] in sys.stdlib_module_names) == own] for own in (True, False)]
        return [line for group in groups if group for line in [*group, ""]]


def carry(definitions: Iterable[tuple[str, str]], taken: Iterable[str] = ()) -> Carried:
    """The (module, name) definitions and all that they use; `taken` names belong to something else in the file."""
    found = Carried(set(taken))
    for module, name in definitions:
        found.add(module, name)
    return found


def _text(lines: list[str], node: ast.stmt) -> str:
    """The definition's lines, with the comments right above it."""
    first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))]) - 1
    while first > 0 and lines[first - 1].startswith("#"):
        first -= 1
    kept = "\n".join(_TOOLS.sub("", line) for line in lines[first : node.end_lineno] if line != _LEFT_OUT)
    return re.sub("\n{3,}", "\n\n", kept)


def _renamed(text: str, names: dict[str, str]) -> str:
    """The text with other names for what it uses; attributes keep theirs."""
    if not names:
        return text
    lines, before = text.splitlines(), ""
    for token in reversed(list(tokenize.generate_tokens(io.StringIO(text).readline))):
        (row, start), (_, end) = token.start, token.end
        before = lines[row - 1][:start] if row <= len(lines) else ""
        if token.type == tokenize.NAME and token.string in names and not before.endswith("."):
            lines[row - 1] = before + names[token.string] + lines[row - 1][end:]
    return "\n".join(lines)
