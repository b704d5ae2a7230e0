"""A model's structure, and weights put into it: what names, run folders and Caffe nets have in common."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from architectures.contract import Classifier
from converter.errors import shown
from zoo.errors import LoadError, counted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from converter import CaffeNet

MOST_LISTED = 200  # differences in one message: a hostile file may have millions


def caffe_net(
    prototxt: Path,
    *,
    empty: bool,
    num_output: Mapping[str, int] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> CaffeNet:
    """A prototxt's net with weights drawn anew; `empty`: on the meta device, without memory for any."""
    from converter import ConversionError, convert
    from converter.build.assemble import assemble
    from converter.conversion import prepare

    try:
        if empty:
            return assemble(prepare(prototxt, None, num_output=num_output, input_shapes=input_shapes)[0])
        return convert(prototxt, num_output=num_output, input_shapes=input_shapes)
    except ConversionError as error:
        raise LoadError(str(error)) from error


def hand_written(kind: type[nn.Module], arguments: Mapping[str, object], num_classes: int | None, what: str) -> nn.Module:
    """A net of the package architectures; `num_classes` goes over the arguments' own."""
    has_classifier = isinstance(kind, Classifier)
    if num_classes is None:
        return kind(**arguments)
    if not has_classifier:
        raise LoadError(f"{what} has no classifier that num_classes could replace")
    return kind(**{**arguments, "num_classes": num_classes})


def classifier_of(model: nn.Module, layer: str | None) -> str | None:
    """The path of the layer that num_classes replaces: the architecture's CLASSIFIER, or the Caffe layer of that name."""
    from converter import CaffeNet

    if isinstance(model, Classifier):
        return model.CLASSIFIER
    names = model.layer_names if isinstance(model, CaffeNet) else {}
    return next((key for key, name in names.items() if name == layer), None)


def keys_of(model: nn.Module, layer: str | None) -> set[str]:
    """The state-dict keys of that layer."""
    return {key for key in model.state_dict() if key.startswith(f"{classifier_of(model, layer)}.")}


def fill(model: nn.Module, state: Mapping[str, Tensor], fresh: Collection[str], what: str) -> None:
    """Gives a model on the meta device its weights, shared with `state`; those named in `fresh` are drawn.

    Parameters that the model shares stay shared. Raises LoadError with every name that is missing or unexpected and every
    wrong shape.
    """
    expected = model.state_dict()
    given = {key: value for key, value in state.items() if key not in fresh}
    given |= {key: drawn(expected[key]) for key in fresh}
    problems = list(_differences(given, expected))
    if problems:
        more = [f"and {len(problems) - MOST_LISTED} more"] if len(problems) > MOST_LISTED else []
        listed = [f"{counted(len(problems), 'difference')}:", *problems[:MOST_LISTED], *more]
        raise LoadError("\n  ".join([f"{what}: the weights don't fit the net; {listed[0]}", *listed[1:]]))
    shared: dict[int, list[str]] = {}
    for key, parameter in model.named_parameters(remove_duplicate=False):
        shared.setdefault(id(parameter), []).append(key)
    model.load_state_dict({key: value.to(expected[key].dtype) for key, value in given.items()}, assign=True)
    for first, *others in shared.values():
        for key in others:
            _tie(model, first, key, what)
    for module in model.modules():
        for buffer in module._buffers.values():
            if buffer is not None and buffer.is_meta:
                raise LoadError(f"{what}: {type(module).__name__} has a buffer that is in no state dict")


def _differences(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Iterator[str]:
    for key, like in expected.items():
        if key not in state:
            yield f"missing: {key} {tuple(like.shape)}"
        elif state[key].shape != like.shape:
            yield f"wrong shape: {key} is {tuple(state[key].shape)}, the net has {tuple(like.shape)}"
        elif state[key].is_floating_point() != like.is_floating_point() or state[key].is_complex():
            yield f"wrong type: {key} is {state[key].dtype}, the net has {like.dtype}"
    for key, value in state.items():
        if key not in expected:
            yield f"unexpected: {shown(key)} {shown(tuple(value.shape))}"


def _tie(model: nn.Module, first: str, key: str, what: str) -> None:
    import torch

    owner, _, name = key.rpartition(".")
    parameter = model.get_parameter(first)
    if not torch.equal(parameter, model.get_parameter(key)):
        raise LoadError(f"{what}: {first} and {key} are one parameter of the net, but differ in the file")
    model.get_submodule(owner)._parameters[name] = parameter


def drawn(like: Tensor) -> Tensor:
    """Fresh values as torch's own layers start: a uniform kernel, biases zero."""
    import torch

    value = torch.zeros(like.shape)
    return torch.nn.init.kaiming_uniform_(value, a=5**0.5) if value.dim() > 1 else value
