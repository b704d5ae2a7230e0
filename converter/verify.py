"""Holds a converted net against an implementation that is not ours: Caffe itself where pycaffe is installed, else OpenCV 4's importer.

OpenCV 5 dropped its Caffe importer; the extra `verify` asks for the last release before it.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import ConversionError
from converter.net import CaffeNet

if TYPE_CHECKING:
    import numpy

# Where OpenCV 4.14 itself is not as Caffe: held against Caffe's own outputs.
OPENCV_DIFFERS = "InnerProduct with transpose, DetectionOutput"
TOLERANCE = 1e-4  # of the output's largest magnitude: float32 summed in another order


@dataclass(frozen=True)
class Comparison:
    """One output of a net, computed twice."""

    blob: str
    shape: tuple[int, ...]
    difference: float  # the largest, as a part of the reference's largest magnitude
    reference: str

    @property
    def equal(self) -> bool:
        return self.difference <= TOLERANCE


def verify(net: CaffeNet, prototxt: Path, weights: Path, seed: int = 0) -> list[Comparison]:
    """Run the net and the reference on the same drawn inputs.

    Raises:
        ConversionError: no reference is installed, or it cannot read the net.
    """
    import numpy
    import torch

    net.check_memory([math.prod(net.input_shapes[name]) for name in net.inputs], net.outputs, torch.empty(0))
    random = numpy.random.default_rng(seed)
    inputs = {name: random.standard_normal(shape, "f4") for name, shape in net.input_shapes.items()}
    with torch.inference_mode():
        found = net(*(torch.from_numpy(inputs[name]) for name in net.inputs), blobs=net.outputs)
    name, reference = _reference()
    wanted = reference(net, prototxt, weights, inputs)
    compared = []
    for blob in net.outputs:
        ours, theirs = found[blob].numpy(), numpy.asarray(wanted[blob])
        if ours.size != theirs.size:
            raise ConversionError(f"{prototxt}: output {blob!r} has the shape {ours.shape} here and {theirs.shape} in {name}.")
        scale = max(float(numpy.abs(theirs).max(initial=0)), 1e-6)
        difference = float(numpy.abs(ours.reshape(theirs.shape) - theirs).max(initial=0)) / scale
        compared.append(Comparison(blob, tuple(ours.shape), difference, name))
    return compared


def _reference() -> tuple[str, Callable[..., dict[str, Any]]]:
    with contextlib.suppress(ImportError):
        import caffe  # type: ignore[import-not-found]

        return f"Caffe {getattr(caffe, '__version__', '')}".strip(), _pycaffe
    with contextlib.suppress(ImportError):
        import cv2

        if hasattr(cv2.dnn, "readNetFromCaffe"):
            return f"OpenCV {cv2.__version__}", _opencv
    raise ConversionError("--verify needs pycaffe, or OpenCV 4 (OpenCV 5 has no Caffe importer): pip install 'opencv-python-headless<5'")


def _pycaffe(net: CaffeNet, prototxt: Path, weights: Path, inputs: Mapping[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
    import caffe

    caffe.set_mode_cpu()
    theirs = caffe.Net(str(prototxt), str(weights), caffe.TEST)
    for name, value in inputs.items():
        theirs.blobs[name].reshape(*value.shape)
        theirs.blobs[name].data[...] = value
    theirs.forward()
    return {name: theirs.blobs[name].data.copy() for name in net.outputs}


def _opencv(net: CaffeNet, prototxt: Path, weights: Path, inputs: Mapping[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
    import cv2

    last = {net.program.versions[top]: step.name for step in net.program.steps for top in step.tops}
    with _silent():
        try:
            theirs = cv2.dnn.readNetFromCaffe(str(prototxt), str(weights))
            for name, value in inputs.items():
                theirs.setInput(value, name)
            values = theirs.forward([last[name] for name in net.outputs])
        except cv2.error as error:
            reason = str(error).strip().splitlines()[-1]
            raise ConversionError(f"{prototxt}: OpenCV cannot run this net ({reason}); nothing was compared.") from error
    return dict(zip(net.outputs, values, strict=True))


@contextlib.contextmanager
def _silent() -> Any:
    """OpenCV prints a line for every layer it adds, past Python's streams."""
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
