"""What a written file says of the net's origin, as strings: safetensors, ONNX and torch.export hold nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from converter import __version__

if TYPE_CHECKING:
    from converter.preprocess import Preprocess
    from converter.program import Program


def facts_of(
    program: Program,
    *,
    name: str,
    input_shapes: Mapping[str, Sequence[int]],
    outputs: Sequence[str],
    preprocess: Preprocess | None,
    ignored: Sequence[str] = (),
    notes: Sequence[str] = (),
    changes: Sequence[str] = (),
    hashes: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The facts by name; lists and records are JSON.

    Args:
        program, name, input_shapes, outputs, preprocess, notes, changes: the net's (see CaffeNet).
        ignored: fields that were ignored because the user said so.
        hashes: sha256 of the files that the net was made of, by their names.
    """
    facts: dict[str, Any] = {
        "converter": f"caffezoo {__version__}",
        "net": name,
        "inputs": json.dumps({name: list(shape) for name, shape in input_shapes.items()}),
        "outputs": json.dumps(list(outputs)),
        "layer_names": json.dumps({step.key: step.name for step in program.steps if step.params}),
        "preprocess": json.dumps(None if preprocess is None else asdict(preprocess)),
    }
    facts |= {key: json.dumps(list(said)) for key, said in (("ignored", ignored), ("notes", notes), ("changes", changes)) if said}
    held = {name.encode("utf-8", "backslashreplace").decode(): digest for name, digest in (hashes or {}).items()}  # JSON has no other bytes
    return {**facts, **{f"sha256.{name}": digest for name, digest in held.items()}}
