"""Other people's trained models against Caffe's outputs, where a collection of them lies beside the checkout.

They are not ours to ship: tests/golden has nets that are.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy
import pytest
import torch

from converter import CaffezooWarning, convert
from converter.read.schema import message_class

FOLDER = Path(__file__).parents[3] / "shared" / "models"
CASES = sorted(path.parent.name for path in FOLDER.glob("*/io.npz"))
HERE = pytest.mark.skipif(not CASES, reason="the collection of trained models is not beside this checkout")


@HERE
@pytest.mark.parametrize("case", CASES or ["none"])
def test_a_trained_model_computes_what_caffe_computed(case: str) -> None:
    weights = next((FOLDER / case).glob("net.caffemodel*"))
    with numpy.load(FOLDER / case / "io.npz") as held:
        arrays = {name: held[name] for name in held.files}
    inputs = {name.removeprefix("input "): value for name, value in arrays.items() if name.startswith("input ")}
    outputs = {name.removeprefix("output "): value for name, value in arrays.items() if name.startswith("output ")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaffezooWarning)  # layers of the file that the net does not have
        net = convert(FOLDER / case / "net.prototxt", weights, input_shapes={name: x.shape for name, x in inputs.items()})
    with torch.inference_mode():
        found = net(*(torch.from_numpy(inputs[name]) for name in net.inputs), blobs=tuple(outputs))
    for name, want in outputs.items():
        got = found[name].numpy().reshape(-1)[: want.size].reshape(want.shape)  # long outputs are cut to their first values
        assert numpy.abs(got - want).max() <= 1e-4 * numpy.abs(want).max(), name


@HERE
def test_half_precision_blobs_are_read_as_protobuf_and_numpy_read_them() -> None:
    """NVIDIA Caffe's raw fp16 form; the file is another training of MTCNN's first net, so its values are its own."""
    path = FOLDER / "mtcnn_det1_nvidia_fp16" / "net.caffemodel"
    message = message_class("NetParameter").FromString(path.read_bytes())
    state = convert(path.with_name("net.prototxt"), path).state_dict()
    halves = {f"{layer.name}.{key}": blob for layer in message.layer for key, blob in zip(("weight", "bias"), layer.blobs, strict=False)}
    assert {blob.raw_data_type for blob in halves.values() if blob.raw_data} == {2}
    for key, value in state.items():
        blob = halves[key]
        want = numpy.frombuffer(blob.raw_data, "<f2").astype("f4") if blob.raw_data else numpy.array(blob.data, "f4")
        assert numpy.array_equal(value.numpy().reshape(-1), want), key
