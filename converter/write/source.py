"""Writes a CaffeNet as one readable Python file: a module class with the same children and state-dict keys.

Every text that comes from a prototxt stands in the source as a repr() of a string; names become attributes only where they
are plain identifiers.
"""

from __future__ import annotations

import keyword
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from converter.files import whole_file
from converter.layers.module import constructor_arguments

if TYPE_CHECKING:
    from torch import nn

    from converter.program import Program


def write_source(
    path: str | os.PathLike[str], modules: Mapping[str, nn.Module], program: Program, *, name: str, outputs: Sequence[str]
) -> None:
    """Write the net's class to a .py file; load the weights with net.load_state_dict().

    Args:
        path: the file to write.
        modules: the net's children.
        program: how they are called.
        name: the net's name.
        outputs: the blobs that forward() returns.

    Raises:
        ConversionError: the file cannot be written.
    """
    with whole_file(Path(path)) as file:
        file.write(source_of(modules, program, name, tuple(outputs)).encode())


def source_of(modules: Mapping[str, nn.Module], program: Program, name: str, outputs: tuple[str, ...]) -> str:
    """The file's text."""
    calls = program.needed(outputs)
    used = dict.fromkeys(key for key, *_ in calls)
    modules = {key: module for key, module in modules.items() if key in used}
    lines = ['"""A Caffe net as PyTorch source, written by caffezoo."""', "", "from torch import nn", ""]
    ours = sorted({_prefix(module)[:-1] for module in modules.values()} - {"nn"})
    if ours:
        lines += [f"from converter.layers import {', '.join(ours)}", ""]
    lines += ["", "class Net(nn.Module):"]
    lines += [f"    name = {name!a}", f"    inputs = {_literal(tuple(program.inputs))}", f"    outputs = {_literal(outputs)}", ""]
    lines += ["    def __init__(self):", "        super().__init__()"]
    for key, module in modules.items():
        left, right = (f"self.{key} = ", "") if _plain(key) else (f"self.add_module({key!a}, ", ")")
        lines.append(f"        {left}{_constructor(module)}{right}")
    lines += _ties({key: modules[key] for key in used})
    variable = _variables(program.versions)
    lines += ["", f"    def forward({', '.join(['self', *(variable[blob] for blob in program.inputs)])}):"]
    for key, bottoms, tops, dead in calls:
        call = f"self.{key}" if _plain(key) else f"self._modules[{key!a}]"
        written = [variable[program.versions[i]] for i in tops]
        lines.append(f"        {', '.join(written)} = {call}({', '.join(variable[program.versions[i]] for i in bottoms)})")
        done = sorted(
            {variable[program.versions[i]] for i in dead} - set(written) | {variable[program.versions[i]] for i in dead if i in tops}
        )
        if done:
            lines.append(f"        del {', '.join(done)}")
    found = [(blob, variable[blob]) for blob in outputs]
    result = found[0][1] if len(found) == 1 else "{" + ", ".join(f"{blob!a}: {value}" for blob, value in found) + "}"
    return "\n".join([*lines, f"        return {result}", ""])


def _variables(names: tuple[str, ...]) -> dict[str, str]:
    """A variable for each blob: one that is written in place keeps its own, as its old values are not read again."""
    variables: dict[str, str] = {}
    taken = {"self", "nn"}
    repeats = Counter[str]()  # how many '_' the last variable of this plain name got
    for name in dict.fromkeys(names):
        plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
        plain = plain if plain[:1].isalpha() else f"x_{plain}"
        variable = plain + "_" * repeats[plain]
        while variable in taken or keyword.iskeyword(variable):
            variable += "_"
        repeats[plain] = len(variable) - len(plain)
        taken.add(variable)
        variables[name] = variable
    return variables


def _plain(key: str) -> bool:
    return key.isascii() and key.isidentifier() and not keyword.iskeyword(key) and not key.startswith("__")


def _prefix(module: nn.Module) -> str:
    home = type(module).__module__
    return "nn." if home.startswith("torch.nn.") else f"{home.removeprefix('converter.layers.')}."


def _constructor(module: nn.Module) -> str:
    arguments = ", ".join(f"{name}={_literal(value)}" for name, value in constructor_arguments(module).items())
    return f"{_prefix(module)}{type(module).__name__}({arguments})"


def _literal(value: object) -> str:
    if (isinstance(value, float) and value in (float("inf"), float("-inf"))) or value != value:
        return f"float({str(value)!r})"
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    return ascii(value)


def _ties(modules: Mapping[str, nn.Module]) -> list[str]:
    """Parameters that layers share."""
    first: dict[int, tuple[str, str]] = {}
    lines = []
    for key, module in modules.items():
        for name, parameter in module.named_parameters():
            owner = first.setdefault(id(parameter), (key, name))
            if owner != (key, name):
                lines.append(f"        self._modules[{key!a}].{name} = self._modules[{owner[0]!a}].{owner[1]}")
    return lines
