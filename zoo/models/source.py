"""net.py of a folder for the Hub: a model as Python that needs torch, and the package architectures no longer.

A converted net is written layer by layer (converter.write.source). A hand-written one takes its class along, with all that it uses,
as it stands in architectures; its state-dict keys stay, so both files read the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from converter import __version__
from converter.preprocess import Preprocess
from zoo.errors import printable

if TYPE_CHECKING:
    from torch import nn

    from converter.write.carried import Carried

_TAKEN = ("Net", "load", "read_weights", "json", "Path", "torch", "Tensor", "nn")


def source_of(model: nn.Module, title: str, arguments: Mapping[str, object], labels: tuple[str, ...], weights: str) -> str | None:
    """The file's text, or None of a net that cannot be written so: one of architectures with a converted net inside.

    `weights` is the name of the file beside it that its load() reads.
    """
    from converter import CaffeNet
    from converter.write import source
    from converter.write.source import READER, literal, loading

    preprocess = vars(model).get("preprocess")
    spec = preprocess if isinstance(preprocess, Preprocess) else None
    if isinstance(model, CaffeNet):
        return source.source_of(dict(model.named_children()), model.program, model.outputs, model.facts(), spec, weights)
    if any(isinstance(module, CaffeNet) for module in model.modules()):
        return None
    kind = type(model)
    carried = _carried(kind, arguments, spec)
    name = carried.names[kind.__module__, kind.__name__]
    lines = [f"class Net({name}):", f'    """{_plain(title)}"""', "", f"    labels = {literal(labels)}"]
    if spec is not None:
        lines.append(f"    preprocess = {carried.names['converter.preprocess', 'Preprocess']}()")
    given = ", ".join(f"{key}={literal(value)}" for key, value in arguments.items())
    lines += ["", "    def __init__(self) -> None:", f"        super().__init__({given})"]
    imports = carried.import_lines(
        ("json", "", "json"), ("pathlib", "Path", "Path"), ("torch", "", "torch"), ("torch", "Tensor", "Tensor"), ("torch", "nn", "nn")
    )
    opening = [
        f'"""{_plain(title)}: as PyTorch source without a package of ours, by caffezoo {__version__}.',
        "",
        f"    net = load()  # in eval mode, with the weights of {weights} beside this file",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        *imports,
    ]
    shares = len({id(p) for p in model.parameters()}) < sum(1 for _ in model.named_parameters(remove_duplicate=False))
    parts = ["\n".join(opening).rstrip(), *carried.texts, "\n".join(lines), READER.rstrip(), loading(shares=shares, weights=weights)]
    return "\n\n\n".join(parts) + "\n"


def _carried(kind: type[nn.Module], arguments: Mapping[str, object], spec: Preprocess | None) -> Carried:
    from architectures.contract import nets
    from converter.write.carried import Carried
    from converter.write.source import literal

    carried = Carried(set(_TAKEN))
    encoder: Any = arguments.get("encoder", "MobileFaceExpression") if kind.__name__ == "FaceClipNet" else None
    if encoder is not None:  # found by its name in the whole package; here there is this one
        inner = nets()[encoder]
        name = carried.add(inner.__module__, inner.__name__)
        text = [
            "def nets() -> dict[str, type[nn.Module]]:",
            '    """The nets for images that are in this file."""',
            f"    return {{{encoder!a}: {name}}}",
        ]
        carried.stand_in("architectures.contract", "nets", "\n".join(text))
    carried.add(kind.__module__, kind.__name__)
    if spec is not None:
        held = {each.name: literal(getattr(spec, each.name)) for each in fields(Preprocess)}
        carried.add_record("converter.preprocess", "Preprocess", held, without=("with_mean_image",))
    return carried


def _plain(text: str) -> str:
    """A title within a docstring."""
    return printable(text).replace("\\", "\\\\").replace('"', '\\"').encode("ascii", "backslashreplace").decode()
