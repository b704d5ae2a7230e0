"""State dicts from elsewhere: renamed by a literal table, and held against the net that they are for.

There is no strict=False here: every name that is missing or unexpected and every wrong shape is an error, and one
message lists them all.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from architectures.contract import Adjusted, CaffeTwin

_COUNTER = "num_batches_tracked"  # BatchNorm's step counter: Caffe and torch 0.3 have none, and inference ignores it


class WeightsMismatch(ValueError):
    """Weights that don't fit the net they are meant for; the message lists all that is wrong."""


def from_caffe_state(
    table: Mapping[str, str | None], caffe_state: Mapping[str, Tensor], expected: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """A converted net's state dict under a hand-written net's names; the tensors are shared, not copied.

    `table` is a FROM_CAFFE: Caffe layer -> module path, None = dropped on purpose; two layers may share a path (Caffe's
    BatchNorm and Scale are one BatchNorm here). `caffe_state` has keys "<layer>.<parameter>", '.' in a layer's name being
    '_'. `expected` is the state dict whose names and shapes the result must have.
    Raises WeightsMismatch with every difference: layers that only one of table and state has and, where `expected` is
    given, each parameter.
    """
    paths = {layer.replace(".", "_"): path for layer, path in table.items()}
    return renamed(paths, caffe_state, expected, "the Caffe net's weights don't fit")


def renamed(
    paths: Mapping[str, str | None], state: Mapping[str, Tensor], expected: Mapping[str, Tensor] | None, complaint: str
) -> dict[str, Tensor]:
    """The state dict with each "<key of paths>.<parameter>" under its new path; `complaint` begins the error's message."""
    result: dict[str, Tensor] = {}
    problems = []
    for key, tensor in state.items():
        prefix, _, parameter = key.rpartition(".")
        if prefix not in paths:
            problems.append(f"unexpected: {key} {tuple(tensor.shape)}")
        elif (path := paths[prefix]) is not None:
            result[f"{path}.{parameter}"] = tensor
    if expected is None:
        held = {key.rpartition(".")[0] for key in state}
        problems += [f"missing: {prefix}" for prefix, path in paths.items() if path is not None and prefix not in held]
    else:
        for name, tensor in expected.items():
            if name.endswith(_COUNTER):
                result.setdefault(name, torch.zeros(tensor.shape, dtype=tensor.dtype))
        problems += _differences(result, expected)
    if problems:
        raise WeightsMismatch("\n  ".join([f"{complaint}; {len(problems)} differences:", *problems]))
    return result


def _differences(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    shapes = {name: tuple(t.shape) for name, t in state.items()}
    wanted = {name: tuple(t.shape) for name, t in expected.items()}
    return [
        *(f"missing: {name} {shape}" for name, shape in wanted.items() if name not in shapes),
        *(f"unexpected: {name} {shape}" for name, shape in shapes.items() if name not in wanted),
        *(
            f"wrong shape: {name} is {shape}, the net has {wanted[name]}"
            for name, shape in shapes.items()
            if name in wanted and shape != wanted[name]
        ),
    ]


def load_from_caffe(model: nn.Module, caffe_state: Mapping[str, Tensor]) -> None:
    """Give a net that has a FROM_CAFFE table a converted net's weights, or raise WeightsMismatch.

    They are copied; a net that was built on the meta device takes the tensors themselves, so that they are held once.
    A net whose weights need more than new names has a function `adjust_caffe_state` (MTCNN's nets, turned upright).
    """
    if not isinstance(model, CaffeTwin):
        raise TypeError(f"{type(model).__name__} has no FROM_CAFFE: no Caffe net's weights fit it")
    adjusted = model.adjust_caffe_state(caffe_state) if isinstance(model, Adjusted) else caffe_state
    state = from_caffe_state(model.FROM_CAFFE, adjusted, model.state_dict())
    model.load_state_dict(state, assign=next(model.parameters()).is_meta)
