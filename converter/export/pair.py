"""A Caffe net and its weights, converted back and compared with what they were made of before the two files appear."""

from __future__ import annotations

import copy
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from converter.conversion import convert
from converter.errors import ConversionError, some
from converter.export.sketch import Blob
from converter.files import whole_file
from converter.references import NOT_INSTALLED
from converter.verify import Comparison
from converter.verify.comparison import verified
from converter.verify.inputs import Inputs
from converter.write.back import save_caffemodel

if TYPE_CHECKING:
    from converter.net import CaffeNet

PathLike = str | os.PathLike[str]
Module = TypeVar("Module", bound=nn.Module)
TOLERANCE = 1e-5  # of an output's largest magnitude


@dataclass(frozen=True)
class Pair:
    """What is to be written."""

    prototxt: Callable[[bool], str]  # the text; True: for the example's batch size only
    weights: Callable[[Path], object]  # writes the caffemodel
    outputs: Sequence[Blob]  # in the module's order


def check_places(prototxt: PathLike, caffemodel: PathLike) -> None:
    """Raises ConversionError where the two have one name, or one is a folder."""
    if Path(prototxt).absolute() == Path(caffemodel).absolute():
        raise ConversionError(f"{prototxt} is to be the prototxt and the caffemodel, too; give them two names.")
    for path in map(Path, (prototxt, caffemodel)):
        if path.is_dir():
            raise ConversionError(f"{path}: this is a folder; give the file's name.")


def write_pair(
    pair: Pair,
    module: nn.Module,
    example: tuple[Tensor, ...],
    prototxt: PathLike,
    caffemodel: PathLike,
    *,
    title: str,
    half: bool = False,
) -> list[Comparison]:
    """Write both files, or none.

    Args:
        module: what the pair was made of, in eval mode, float32 on the CPU.
        half: round the kernels to half precision once the pair is proven.

    Raises:
        ConversionError: the pair computes something else, or a file cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="caffezoo-") as folder:
        made = Path(folder) / "net.prototxt", Path(folder) / "net.caffemodel"
        made[0].write_text(pair.prototxt(False), encoding="utf-8")
        pair.weights(made[1])
        net = _converted(*made, title)
        found = _proven(module, net, example, pair.outputs, title)
        if _batch_is_fixed(module, net, example, pair.outputs):
            text = f"# right for the stated batch size only\n{pair.prototxt(True)}"
            made[0].write_text(text, encoding="utf-8")
            size = tuple(example[0].shape)[:1]
            warnings.warn(f"{title}: the Caffe net is right for a batch of {size[0] if size else 1} only, the example's.", stacklevel=4)
        found += _second_opinion(net, *made, example, title)
        if half:
            save_caffemodel(net, made[1], half=True)
        check_places(prototxt, caffemodel)
        with ExitStack() as stack:
            files = [stack.enter_context(whole_file(Path(path))) for path in (prototxt, caffemodel)]
            for file, source in zip(files, made, strict=True):
                with source.open("rb") as held:
                    shutil.copyfileobj(held, file, 1 << 20)
    return found


def float_copy(module: Module, title: str) -> Module:
    """A copy in eval mode and float32 on the CPU: what Caffe will compute."""
    try:
        return copy.deepcopy(module).to("cpu").float().eval()
    except Exception as error:  # whatever a stranger's __deepcopy__ makes of it
        raise ConversionError(f"{title}: it cannot be copied: {first_line(error)}") from error


def float_values(value: Tensor) -> Tensor:
    return (value.float() if value.is_floating_point() else value).detach().cpu().clone()


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _converted(prototxt: Path, caffemodel: Path, title: str) -> CaffeNet:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return convert(prototxt, caffemodel)
    except ConversionError as error:
        said = str(error).replace(f"{prototxt}", "the prototxt").replace(f"{caffemodel}", "the caffemodel")
        raise ConversionError(f"{title}: what would be written cannot be read back: {said} Please report it.") from error


def _proven(module: nn.Module, net: CaffeNet, example: tuple[Tensor, ...], outputs: Sequence[Blob], title: str) -> list[Comparison]:
    """The pair converted back, beside the module: on the example and on other values of its shapes.

    Raises:
        ConversionError: they differ, in double precision, too.
    """
    inputs = [example, tuple(_drawn(each, seed) for seed, each in enumerate(example))]
    found = _differences(module, net, inputs, outputs)
    if any(not each.difference <= TOLERANCE for each in found):  # rounding, or another net? double precision tells
        exact = _differences(module.double(), net.double(), [tuple(map(_double, each)) for each in inputs], outputs)
        module.float(), net.float()
        wrong = [each for each in exact if not each.difference <= TOLERANCE]
        if wrong:
            listed = ", ".join(f"{each.blob} by {each.difference:.1e} of its largest value" for each in wrong)
            raise ConversionError(f"{title}: the Caffe net computes something else ({listed}); nothing was written. Please report it.")
    return found


def _drawn(example: Tensor, seed: int) -> Tensor:
    """Other values of the example's shape; whole numbers, which may be places in a table, are the example's in another order."""
    generator = torch.Generator().manual_seed(seed)
    if example.is_floating_point():
        return torch.randn(example.shape, generator=generator)
    return example.flatten()[torch.randperm(example.numel(), generator=generator)].view(example.shape)


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def _results(module: nn.Module, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """What a module returns, as a list; it may change its inputs."""
    with torch.no_grad():
        leaves = torch.utils._pytree.tree_leaves(module(*(each.clone() for each in tensors)))
    return [leaf for leaf in leaves if leaf is not None]


def _differences(module: nn.Module, net: CaffeNet, inputs: Sequence[tuple[Tensor, ...]], outputs: Sequence[Blob]) -> list[Comparison]:
    largest = dict.fromkeys((blob.name for blob in outputs), 0.0)
    for tensors in inputs:
        theirs = _results(module, tensors)
        with torch.no_grad():
            ours = net(*tensors, blobs=tuple(largest))
        for name, value in zip(largest, theirs, strict=True):
            if ours[name].numel() != value.numel():
                raise ConversionError(f"output {name!r} has the shape {tuple(ours[name].shape)}, the module's has {tuple(value.shape)}.")
            largest[name] = max(largest[name], _difference(ours[name].reshape(value.shape), value))
    return [Comparison(blob.name, blob.shape, largest[blob.name], "the module itself") for blob in outputs]


def _difference(found: Tensor, want: Tensor) -> float:
    """Infinities are equal to themselves, and no number is as none."""
    same = (found == want) | (found.isnan() & want.isnan())
    gap = (found - want).abs().nan_to_num(math.inf).masked_fill(same, 0)
    scale = max(float(want.nan_to_num(0, 0, 0).abs().max()), 1e-6)
    return float(gap.max()) / scale


def _batch_is_fixed(module: nn.Module, net: CaffeNet, example: tuple[Tensor, ...], outputs: Sequence[Blob]) -> bool:
    """Whether the module takes twice as many samples, gives twice as much for them, and the Caffe net does not do the same."""
    if not all(each.dim() for each in example):
        return False
    twice = tuple(torch.cat([each, each.flip(0)]) for each in example)
    try:
        theirs = _results(module, twice)
    except Exception:
        return False
    if any(value.numel() != 2 * prod(blob.shape) for value, blob in zip(theirs, outputs, strict=True)):
        return False
    names = [blob.name for blob in outputs]
    try:
        with torch.no_grad():
            ours = net(*twice, blobs=tuple(names))
        return any(
            ours[name].numel() != value.numel() or not _difference(ours[name].reshape(value.shape), value) <= 100 * TOLERANCE
            for name, value in zip(names, theirs, strict=True)
        )
    except (RuntimeError, ValueError, IndexError, ConversionError):
        return True


def _second_opinion(net: CaffeNet, prototxt: Path, caffemodel: Path, example: tuple[Tensor, ...], title: str) -> list[Comparison]:
    """The same in OpenCV where it is installed, on the example; that it reads no such net, or computes something else, is a warning."""
    given = {name: value.float().numpy() for name, value in zip(net.inputs, example, strict=True)}
    try:
        found = verified(net, prototxt, caffemodel, Inputs(given, given, "inputs: the example"))
    except ConversionError as error:
        if str(error) == NOT_INSTALLED:
            return []
        said = str(error).replace(str(prototxt), "the prototxt")
        warnings.warn(f"{title}: no second implementation read it: {said}", stacklevel=5)
        return []
    apart = [f"{each.blob} by {each.difference:.1e} of its largest value" for each in found.compared if not each.equal]
    if apart:
        known = f", which is known to differ in {some(found.known)}" if found.known else ""
        warnings.warn(f"{title}: {found.reference}{known} computes something else: {some(apart)}.", stacklevel=5)
    return found.compared
