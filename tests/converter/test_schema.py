"""caffe.proto: its compiled form, and the numbers and defaults that Caffe's files rely on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import converter
from converter.errors import WeightsError
from converter.read.schema import is_repeated, message_class, parse_binary

HERE = Path(converter.__file__).parent / "read"


def test_the_compiled_schema_is_what_protoc_makes_of_caffe_proto(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc", reason="needs grpcio-tools")
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    out = tmp_path / "caffe.desc"
    assert protoc.main(["protoc", f"-I{HERE}", f"--descriptor_set_out={out}", "caffe.proto"]) == 0
    made, shipped = (descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()) for path in (out, HERE / "caffe.desc"))
    assert shipped == made, "run `make schema`"


FACTS: list[tuple[str, str, int, Any]] = [
    # message, field, number, default; numbers of Caffe's own files
    ("NetParameter", "layer", 100, None),
    ("NetParameter", "layers", 2, None),
    ("NetParameter", "input_shape", 8, None),
    ("NetParameter", "state", 6, None),
    ("BlobProto", "data", 5, None),
    ("BlobProto", "diff", 6, None),
    ("BlobProto", "shape", 7, None),
    ("BlobProto", "double_data", 8, None),
    ("BlobProto", "raw_data", 12, b""),
    ("LayerParameter", "blobs", 7, None),
    ("LayerParameter", "phase", 10, 0),
    ("LayerParameter", "convolution_param", 106, None),
    ("LayerParameter", "python_param", 130, None),
    ("LayerParameter", "prelu_param", 131, None),
    ("LayerParameter", "batch_norm_param", 139, None),
    ("LayerParameter", "scale_param", 142, None),
    ("LayerParameter", "input_param", 143, None),
    ("LayerParameter", "recurrent_param", 146, None),
    ("LayerParameter", "clip_param", 148, None),
    ("V1LayerParameter", "layer", 1, None),
    ("V1LayerParameter", "blobs", 6, None),
    ("V1LayerParameter", "param", 1001, None),
    ("V0LayerParameter", "blobs", 50, None),
    ("ConvolutionParameter", "dilation", 18, None),
    ("ConvolutionParameter", "axis", 16, 1),
    ("ConvolutionParameter", "group", 5, 1),
    ("ConvolutionParameter", "bias_term", 2, True),
    ("BatchNormParameter", "eps", 3, 1e-5),
    ("BatchNormParameter", "moving_average_fraction", 2, 0.999),
    ("LRNParameter", "beta", 3, 0.75),
    ("LRNParameter", "k", 5, 1),
    ("LRNParameter", "local_size", 1, 5),
    ("MVNParameter", "eps", 3, 1e-9),
    ("PoolingParameter", "round_mode", 13, 0),
    ("PoolingParameter", "stride", 3, None),
    ("InnerProductParameter", "transpose", 6, False),
    ("LossParameter", "normalization", 3, 1),
    ("LossParameter", "normalize", 2, False),
    ("ScaleParameter", "num_axes", 2, 1),
    ("ReductionParameter", "operation", 1, 1),
    ("EltwiseParameter", "operation", 1, 1),
    ("ExpParameter", "base", 1, -1),
    ("CropParameter", "axis", 1, 2),
    ("FlattenParameter", "end_axis", 2, -1),
    ("ReshapeParameter", "num_axes", 3, -1),
    ("FillerParameter", "type", 1, "constant"),
    ("FillerParameter", "std", 6, 1),
    ("DropoutParameter", "dropout_ratio", 1, 0.5),
    ("NetState", "phase", 1, 1),
    ("SolverParameter", "net_param", 25, None),
    ("SolverParameter", "test_state", 27, None),
    ("SolverParameter", "type", 40, "SGD"),
]


@pytest.mark.parametrize(("message", "field", "number", "default"), FACTS)
def test_fields_have_caffe_s_numbers_and_defaults(message: str, field: str, number: int, default: Any) -> None:
    known = message_class(message).DESCRIPTOR.fields_by_name[field]
    assert known.number == number
    if default is None:
        assert known.message_type is not None or is_repeated(known)
    else:
        assert known.default_value == (pytest.approx(default) if isinstance(default, float) else default)


def test_bvlc_s_own_layer_parameters_end_at_148_and_forks_fields_lie_far_behind() -> None:
    numbers = [known.number for known in message_class("LayerParameter").DESCRIPTOR.fields]
    assert [n for n in numbers if 100 <= n < 10_000] == list(range(100, 149))
    assert all(n > 10_000 for n in numbers if n > 148)


def test_floats_are_packed_and_repeated_fields_of_caffe_s_that_are_not_stay_so() -> None:
    blob = message_class("BlobProto")(data=[1, 2], shape={"dim": [2]})
    assert blob.SerializeToString() == bytes.fromhex("2a08 0000803f 00000040 3a03 0a0102".replace(" ", ""))
    assert message_class("ConvolutionParameter")(kernel_size=[3, 3]).SerializeToString() == bytes.fromhex("20032003")


def test_messages_live_beside_another_package_s_caffe_pb2() -> None:
    from google.protobuf import descriptor_pool

    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName(message_class("NetParameter").DESCRIPTOR.full_name)  # type: ignore[no-untyped-call]
    assert message_class("BlobProto") is message_class("BlobProto")
    with pytest.raises(KeyError):
        message_class("NoSuchMessage")


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x0b", b"\x3a\x80\x80\x80\x80\x10"])
def test_bytes_that_are_no_message_are_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(WeightsError, match=r"mean\.binaryproto: its BlobProto does not decode"):
        parse_binary("BlobProto", data, "mean.binaryproto")
