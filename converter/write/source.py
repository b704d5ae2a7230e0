"""Writes a CaffeNet as one readable Python file that needs torch only: a class with the same children and state-dict keys, the
modules that torch lacks with their docstrings, and load(), which reads the weights from a safetensors file beside it.

Every text that comes from a prototxt stands in the source as a repr() of a string; names become attributes only where they
are plain identifiers.
"""

from __future__ import annotations

import json
import keyword
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from converter.errors import UnsupportedError, printable, some
from converter.files import whole_file
from converter.layers.module import constructor_arguments
from converter.write.carried import Carried, carry

if TYPE_CHECKING:
    from torch import nn

    from converter.preprocess import Preprocess
    from converter.program import Program

READER = '''\
def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict that a safetensors file holds: a header's length, the header in JSON, the values (huggingface.co/docs/safetensors)."""
    types = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
    found = {}
    with open(path, "rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(start - 8))
        entries.pop("__metadata__", None)
        for name, entry in entries.items():
            first, last = entry["data_offsets"]
            file.seek(start + first)
            values = bytearray(file.read(last - first))
            empty = torch.empty(0, dtype=types[entry["dtype"]])
            found[name] = (torch.frombuffer(values, dtype=empty.dtype) if values else empty).reshape(entry["shape"])
    return found
'''
_LOAD = '''\
def load(weights: str | Path | None = None) -> Net:
    """The net in eval mode, with its weights: those of the .safetensors file beside this one, unless another is named."""
    %s
    net.load_state_dict(read_weights(weights or %s)%s)
    return net.eval()
'''
_TAKEN = ("Net", "load", "read_weights", "METADATA", "json", "Path", "torch", "Tensor", "nn")
_OWN = ("converter.layers.", "converter.winograd")  # the modules whose classes a source carries


def write_source(
    path: str | os.PathLike[str],
    modules: Mapping[str, nn.Module],
    program: Program,
    *,
    outputs: Sequence[str],
    facts: Mapping[str, str],
    preprocess: Preprocess | None = None,
) -> None:
    """Write the net's source to a .py file; the weights go beside it, into the .safetensors file of the same name.

    Args:
        path: the file to write.
        modules: the net's children.
        program: how they are called.
        outputs: the blobs that forward() returns.
        facts: what converter.write.facts says of the net, for the file's docstring and METADATA.
        preprocess: how images become the net's input; the class is written into the file, too.

    Raises:
        UnsupportedError: a child whose source is not ours to write.
        ConversionError: the file cannot be written.
    """
    text = source_of(modules, program, tuple(outputs), facts, preprocess)
    with whole_file(Path(path)) as file:
        file.write(text.encode())


def source_of(
    modules: Mapping[str, nn.Module],
    program: Program,
    outputs: tuple[str, ...],
    facts: Mapping[str, str],
    preprocess: Preprocess | None = None,
    weights: str | None = None,
) -> str:
    """The file's text; `weights` is the name of the file beside it that load() reads, without it the .safetensors file of the same name."""
    used = dict.fromkeys(key for key, *_ in program.needed(outputs))
    modules = {key: module for key, module in modules.items() if key in used}
    _check(modules, program)
    ours = sorted({(type(module).__module__, type(module).__name__) for module in modules.values() if not _of_torch(module)})
    carried = carry(ours, _TAKEN)
    if preprocess is not None:
        held = {each.name: literal(getattr(preprocess, each.name)) for each in fields(preprocess)}
        carried.add_record("converter.preprocess", "Preprocess", held, without=("with_mean_image",))
    ties = _ties({key: modules[key] for key in used})
    imports = carried.import_lines(
        ("json", "", "json"), ("pathlib", "Path", "Path"), ("torch", "", "torch"), ("torch", "Tensor", "Tensor"), ("torch", "nn", "nn")
    )
    parts = [
        "\n".join(
            [*_docstring(program, outputs, facts, preprocess is not None), "", "from __future__ import annotations", "", *imports]
        ).rstrip(),
        "\n".join(["METADATA = {", *(f"    {key!a}: {_plain_value(value)}," for key, value in _shown(facts).items()), "}"]),
        *carried.texts,
        "\n".join([*_head(program, outputs, facts, preprocess, carried), *_body(modules, program, outputs, carried, ties)]),
        READER.rstrip(),
        loading(shares=bool(ties), weights=weights),
    ]
    return "\n\n\n".join(parts) + "\n"


def loading(*, shares: bool, weights: str | None) -> str:
    """The function load(). `shares`: the net's layers share parameters, which load_state_dict() keeps only where it copies; the other way
    allocates nothing twice."""
    place = 'Path(__file__).with_suffix(".safetensors")' if weights is None else f"Path(__file__).with_name({weights!a})"
    start, how = ("net = Net()", "") if shares else ('with torch.device("meta"):\n        net = Net()', ", assign=True")
    return (_LOAD % (start, place, how)).rstrip()


def _check(modules: Mapping[str, nn.Module], program: Program) -> None:
    """Refuse children that the net did not have when it was converted, unless torch or this package has their source."""
    names = {step.key: step.name for step in program.steps}
    foreign = [
        f"layer {names.get(key, key)!r} is now a {type(module).__module__}.{type(module).__qualname__}"
        for key, module in modules.items()
        if not (type(module).__module__.startswith(_OWN) or (_of_torch(module) and not list(module.children())))
    ]
    if foreign:
        raise UnsupportedError(
            f"as Python source, a net can have torch's layers and caffezoo's own, but {some(foreign)}. Save it as .pt2 or .onnx."
        )


def _docstring(program: Program, outputs: tuple[str, ...], facts: Mapping[str, str], preprocess: bool) -> list[str]:
    shapes = json.loads(facts.get("inputs", "{}"))
    takes = "; ".join(f"{name}: float32 {tuple(shapes[name])}" for name in program.inputs if name in shapes)
    name = facts.get("net", "")
    text = [
        f"{name + ': a' if name else 'A'} Caffe net as PyTorch source that needs torch only, by {facts.get('converter', 'caffezoo')}.",
        "",
        "    net = load()  # in eval mode, with the weights of the .safetensors file beside this one",
        f"    net({', '.join(program.inputs)})  # {takes}",
        "",
        f"It returns {outputs[0] if len(outputs) == 1 else 'a dict of ' + ', '.join(outputs)}. METADATA says where the net comes from."
        + (" net.preprocess(image) makes an RGB image its input." if preprocess else ""),
    ]
    escaped = [printable(line).replace("\\", "\\\\").replace('"', '\\"').encode("ascii", "backslashreplace").decode() for line in text]
    return [f'"""{escaped[0]}', *escaped[1:], '"""']


def _shown(facts: Mapping[str, str]) -> dict[str, str]:
    """The facts as a reader of the source wants them: of the layers' names those that an attribute cannot have."""
    names = {key: name for key, name in json.loads(facts.get("layer_names", "{}")).items() if key != name}
    return {**{key: value for key, value in facts.items() if key != "layer_names"}, **({"layer_names": json.dumps(names)} if names else {})}


def _plain_value(text: str) -> str:
    """A fact as a Python literal: what is JSON as the value that it stands for."""
    try:
        return literal(json.loads(text))
    except ValueError:
        return ascii(text)


def _head(
    program: Program, outputs: tuple[str, ...], facts: Mapping[str, str], preprocess: Preprocess | None, carried: Carried
) -> list[str]:
    """The class's attributes: those of a CaffeNet, so that no layer has their names."""
    lines = ["class Net(nn.Module):", f"    name = {facts.get('net', '')!a}"]
    lines += [f"    inputs = {literal(tuple(program.inputs))}", f"    outputs = {literal(outputs)}"]
    if preprocess is not None:
        lines += [f"    preprocess = {carried.names['converter.preprocess', 'Preprocess']}()"]
    return lines


def _body(modules: Mapping[str, nn.Module], program: Program, outputs: tuple[str, ...], carried: Carried, ties: list[str]) -> list[str]:
    calls, steps = program.needed(outputs), {step.key: step for step in program.steps}
    lines = ["", "    def __init__(self) -> None:", "        super().__init__()"]
    for key, module in modules.items():
        left, right = (f"self.{key} = ", "") if _plain(key) else (f"self.add_module({key!a}, ", ")")
        said = f"  # {steps[key].type} {steps[key].name!a}" if key in steps and steps[key].type else ""
        lines.append(f"        {left}{_constructor(module, carried)}{right}{printable(said)}")
    lines += ties
    variable = variables(program.versions)
    lines += ["", f"    def forward({', '.join(['self', *(f'{variable[blob]}: Tensor' for blob in program.inputs)])}):"]
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
    return [*lines, f"        return {result}"]


def variables(names: tuple[str, ...]) -> dict[str, str]:
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


def _of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")


def _constructor(module: nn.Module, carried: Carried) -> str:
    kind = type(module)
    name = f"nn.{kind.__name__}" if _of_torch(module) else carried.names[kind.__module__, kind.__name__]
    return f"{name}({', '.join(f'{name}={literal(value)}' for name, value in constructor_arguments(module).items())})"


def literal(value: object) -> str:
    if (isinstance(value, float) and value in (float("inf"), float("-inf"))) or value != value:
        return f"float({str(value)!r})"
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
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
