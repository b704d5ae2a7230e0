"""Reading .caffemodel bytes: every way to write a blob, each held against protobuf's or OpenCV's own reading of the same bytes."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from encode import (
    VERSIONS,
    blob,
    block,
    layer,
    legacy,
    number,
    packed,
    protobuf_array,
    protobuf_blobs,
    same,
    shape,
    unpacked,
    varint,
)

from converter import convert, read_blobs, read_mean
from converter.errors import ConversionError, WeightsError
from converter.read.caffemodel import Blob, walk
from converter.read.schema import message_class
from converter.read.source import open_source
from converter.read.weights import open_weights
from converter.write.encode import write_caffemodel

RNG = numpy.random.default_rng(7)
SIX = RNG.standard_normal(6).astype("<f4")
HALVES = RNG.standard_normal(6).astype("<f2")


def written(folder: Path, data: bytes, name: str = "net.caffemodel") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


BLOBS = {
    "a shape and packed data": shape(2, 3) + packed(5, SIX),
    "data before the shape": packed(5, SIX) + shape(2, 3),
    "an unpacked shape": shape(2, 3, is_packed=False) + packed(5, SIX),
    "a shape in two pieces": shape(2) + packed(5, SIX) + shape(3),
    "a shape with a long number": block(7, block(1, b"\x82\x80\x00\x03")) + packed(5, SIX),
    "unpacked data": shape(2, 3) + unpacked(5, SIX),
    "unpacked data with its tags written long": shape(6) + b"".join(b"\xad\x00" + v.tobytes() for v in SIX),
    "several packed chunks": packed(5, SIX[:1]) + shape(2, 3) + packed(5, SIX[1:4]) + packed(5, []) + packed(5, SIX[4:]),
    "packed and unpacked data": packed(5, SIX[:2]) + unpacked(5, SIX[2:5]) + packed(5, SIX[5:]) + shape(2, 3),
    "unpacked data in two runs": unpacked(5, SIX[:2]) + shape(2, 3) + unpacked(5, SIX[2:]),
    "four old-style dimensions": legacy(num=1, channels=1, height=2, width=3) + packed(5, SIX),
    "old-style dimensions, the first ones absent": legacy(height=2, width=3) + packed(5, SIX),
    "one old-style dimension": legacy(num=6) + unpacked(5, SIX),
    "an old-style dimension written twice": legacy(num=9, channels=1, height=1, width=1) + number(1, 6) + packed(5, SIX),
    "both shapes, which agree": legacy(num=1, channels=1, height=2, width=3) + packed(5, SIX) + shape(2, 3),
    "packed doubles": shape(2, 3) + packed(8, SIX.astype("<f8"), "<f8"),
    "unpacked doubles": shape(2, 3) + unpacked(8, SIX.astype("<f8") / 3, "<f8"),
    "doubles beyond float32": shape(4) + packed(8, [1e300, -1e300, 1e-300, numpy.nan], "<f8"),
    "doubles beside floats": shape(2, 3) + packed(5, []) + packed(8, SIX.astype("<f8"), "<f8"),
    "packed diffs before and behind": packed(6, SIX) + packed(5, SIX) + packed(6, SIX) + shape(2, 3),
    "unpacked diffs": unpacked(5, SIX[:3]) + unpacked(6, SIX) + unpacked(5, SIX[3:]) + shape(2, 3) + unpacked(9, SIX, "<f8"),
    "unpacked diffs with tags written long": shape(2, 3) + b"".join(b"\xb5\x80\x00" + v.tobytes() for v in SIX) + packed(5, SIX),
    "values and diffs in turn": b"".join(unpacked(5, [a]) + unpacked(6, [b]) for a, b in zip(SIX, -SIX, strict=True)) + shape(2, 3),
    "raw floats": shape(2, 3) + number(10, 1) + block(12, SIX.tobytes()),
    "raw halves": shape(2, 3) + number(10, 2) + block(12, HALVES.tobytes()),
    "raw doubles": number(10, 0) + block(12, SIX.astype("<f8").tobytes()) + shape(2, 3),
    "raw data before its type": block(12, HALVES.tobytes()) + number(10, 2) + shape(6),
    "raw diffs": number(10, 2) + number(11, 1) + block(12, HALVES.tobytes()) + block(13, SIX.tobytes()) + shape(6),
    "raw data written twice": shape(6) + number(10, 1) + block(12, b"\0" * 8) + block(12, SIX.tobytes()),
    "a scalar with an empty shape": shape() + packed(5, SIX[:1]),
    "a scalar without a shape": packed(5, SIX[:1]),
    "no values at all": shape(0, 3),
    "NaNs with payloads, infinities, denormals": shape(5) + block(5, struct.pack("<5I", 0x7FA00001, 0xFFC00002, 0x7F800000, 0xFF800000, 1)),
    "unknown fields between the values": number(14, 5) + packed(5, SIX[:2]) + block(99, b"abc") + packed(5, SIX[2:]) + shape(2, 3),
    "unknown fields of fixed size": varint(77 << 3 | 5) + b"abcd" + packed(5, SIX) + shape(6) + varint(78 << 3 | 1) + b"abcdefgh",
    "a dimension under the wrong wire type": block(1, b"abc") + packed(5, SIX) + shape(6),
    "seven axes": shape(1, 1, 1, 1, 1, 2, 3) + packed(5, SIX),
}  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", BLOBS)
def test_a_blob_reads_as_protobuf_reads_it(case: str, version: str, tmp_path: Path) -> None:
    data = block(1, b"net") + layer("first", [blob(SIX), BLOBS[case], blob(HALVES)], version=version)
    want = protobuf_blobs(data)
    assert all(array is not None for array in want["first"]), "the case itself is broken"
    assert same(read_blobs(written(tmp_path, data)), want)


BROKEN_BLOBS = {
    "fewer values than the shape says": shape(2, 3) + packed(5, SIX[:5]),
    "more values than the shape says": shape(2, 2) + packed(5, SIX),
    "a shape of terabytes": shape(1 << 30, 1 << 12) + packed(5, SIX),
    "a shape whose product wraps to 6": shape(1 << 33, (1 << 63) // 3 * 2) + packed(5, SIX),
    "a negative axis": shape(-2, -3) + packed(5, SIX),
    "a shape without values": shape(2, 3),
    "nothing": b"",
    "many values and no shape": packed(5, SIX),
    "half a float": shape(6) + block(5, SIX.tobytes()[:-1]),
    "doubles under the floats' number": shape(6) + unpacked(5, SIX, "<f8"),
    "raw integers": shape(6) + number(10, 3) + block(12, SIX.astype("<i4").tobytes()),
    "raw data that are no whole number of values": shape(6) + number(10, 1) + block(12, SIX.tobytes()[:-2]),
    "33 axes": shape(*[1] * 32, 6) + packed(5, SIX),
    "a million axes": shape(*[1] * 1_000_000, 6) + packed(5, SIX),
    "a group": shape(6) + packed(5, SIX) + b"\x73\x74",
    "field 0": b"\x02\x00" + shape(6) + packed(5, SIX),
    "a length beyond the blob": shape(6) + varint(5 << 3 | 2) + varint(25) + SIX.tobytes(),
    "a length that wraps 64 bits": shape(6) + varint(5 << 3 | 2) + varint(-24) + SIX.tobytes(),
    "a number without an end": shape(6) + b"\x08" + b"\xff" * 11 + packed(5, SIX),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", BROKEN_BLOBS)
def test_a_broken_blob_is_told_with_its_layer(case: str, version: str, tmp_path: Path) -> None:
    data = layer("sound", [blob(SIX)], version=version) + layer("the broken one", [blob(SIX), BROKEN_BLOBS[case]], version=version)
    with pytest.raises(WeightsError, match=r"layer 'the broken one', blob 1") as told:
        read_blobs(written(tmp_path, data))
    assert len(str(told.value)) < 500


def test_a_run_of_unpacked_values_longer_than_a_step_of_the_walk_is_whole(tmp_path: Path) -> None:
    values = numpy.arange((1 << 20) + 5, dtype="<f4")
    tagged = numpy.empty((values.size, 5), "u1")
    tagged[:, 0], tagged[:, 1:] = 0x2D, values.view("u1").reshape(-1, 4)
    data = layer("fc", [shape(values.size) + tagged.tobytes() + packed(6, values[:3])])
    (found,) = read_blobs(written(tmp_path, data))["fc"]
    assert len(found.spans) == 1 and found.spans[0].tagged
    assert numpy.array_equal(numpy.asarray(found), values)


def test_reading_a_blob_in_pieces_gives_every_value(tmp_path: Path) -> None:
    values = RNG.standard_normal((1 << 22) + 3).astype("<f8")  # one more piece than fits
    (found,) = read_blobs(written(tmp_path, layer("fc", [shape(values.size) + packed(8, values, "<f8")])))["fc"]
    assert found.dtype == "F64" and found.plain() is None
    assert numpy.array_equal(numpy.asarray(found), values.astype("<f4"))


@pytest.mark.parametrize(
    ("case", "plain"),
    [
        ("a shape and packed data", True),
        ("four old-style dimensions", True),
        ("raw floats", True),
        ("packed diffs before and behind", True),
        ("unpacked data", False),
        ("several packed chunks", False),
        ("packed doubles", False),
        ("raw halves", False),
    ],
)
def test_only_values_that_lie_in_one_piece_of_float32_are_copied_as_they_are(case: str, plain: bool, tmp_path: Path) -> None:
    path = written(tmp_path, layer("fc", [BLOBS[case]]))
    (found,) = read_blobs(path)["fc"]
    span = found.plain()
    assert (span is not None) == plain
    if span is not None:
        assert path.read_bytes()[span.offset :][: span.nbytes] == numpy.asarray(found).tobytes()


NETS = {
    "unknown fields of a fork around the layers": number(11, 2)
    + layer("a", [blob(SIX)])
    + block(20, b"option")
    + layer("b", [blob(HALVES)]),
    "unknown fields in a layer": layer("a", [blob(SIX)], more=block(149, b"\0" * 99) + number(300, 7)) + layer("b", [blob(SIX[:2])]),
    "Split layers, and layers without blobs": layer("data_split", type_="Split") + layer("a", [blob(SIX)]) + layer("relu", type_="ReLU"),
    "layers that share a name": layer("a", [blob(SIX)]) + layer("b", [blob(SIX)]) + layer("a", [blob(-SIX), blob(HALVES)]),
    "a namesake without blobs": layer("a", [blob(SIX)]) + layer("a", type_="ReLU"),
    "V1 and V2 layers in one file": layer("a", [blob(SIX, old=True)], version="V1") + layer("b", [blob(SIX)]),
    "V0 and V1 layers in one file": layer("a", [blob(SIX, old=True)], version="V0") + layer("b", [blob(SIX, old=True)], version="V1"),
    "a layer's name behind its blobs": block(100, block(7, blob(SIX)) + block(1, b"late")),
    "a name written twice": block(100, block(1, b"first") + block(7, blob(SIX)) + block(1, b"second")),
    "a nameless layer": block(100, block(7, blob(SIX))),
    "V0 connections around the layer": block(2, block(2, b"in") + block(1, block(1, b"a") + block(50, blob(SIX))) + block(3, b"out")),
    "names with quotes, newlines and signs": layer('a"b', [blob(SIX)]) + layer("c'\n\\d", [blob(SIX)]) + layer("e\0f\x1b[31m", [blob(SIX)]),
    "names in other scripts": layer("卷积", [blob(SIX)]) + layer("größe", [blob(SIX)]) + layer("🙂", [blob(SIX)]),
}  # fmt: skip


@pytest.mark.parametrize("case", NETS)
def test_a_net_reads_as_protobuf_reads_it(case: str, tmp_path: Path) -> None:
    assert same(read_blobs(written(tmp_path, NETS[case])), protobuf_blobs(NETS[case]))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_walk_tells_versions_types_and_file_order(version: str, tmp_path: Path) -> None:
    data = block(1, b"the net") + b"".join(layer(name, [blob(SIX)], version=version) for name in ("z", "a", "m"))
    found = walk(written(tmp_path, data))
    assert (found.format, found.name) == (version, "the net")
    assert [one.name for one in found.layers] == ["z", "a", "m"]
    assert {one.type for one in found.layers} == {"innerproduct" if version == "V0" else "InnerProduct"}


def test_a_mixed_file_is_called_mixed(tmp_path: Path) -> None:
    assert walk(written(tmp_path, NETS["V1 and V2 layers in one file"])).format == "V1 and V2"


def test_a_name_that_is_not_utf8_meets_its_prototxt_in_the_same_code_page(tmp_path: Path) -> None:
    name = "卷".encode("gbk")
    text = b'input: "data" input_shape { dim: 1 dim: 3 }\nlayer { name: "%s" type: "InnerProduct" bottom: "data" top: "y"\n' % name
    prototxt = written(tmp_path, text + b"inner_product_param { num_output: 2 bias_term: false } }", "net.prototxt")
    net = convert(prototxt, written(tmp_path, layer(name, [blob(SIX.reshape(2, 3))])))
    (weight,) = net.state_dict().values()
    assert numpy.array_equal(weight.numpy(), SIX.reshape(2, 3))
    assert list(net.layer_names.values()) == [name.decode("latin-1")]


def test_the_embedded_net_keeps_everything_but_the_blobs(tmp_path: Path) -> None:
    message = message_class("NetParameter")(name="n", input=["data"])
    message.input_shape.add(dim=[1, 3])
    one = message.layer.add(name="fc", type="InnerProduct", bottom=["data"], top=["y"])
    one.inner_product_param.num_output = 2
    bare = message.SerializeToString()
    one.blobs.add(data=SIX).shape.dim.extend((2, 3))
    found = walk(written(tmp_path, message.SerializeToString()))
    assert found.net is not None
    assert message_class("NetParameter").FromString(found.net) == message_class("NetParameter").FromString(bare)


def test_opencv_reads_the_same_values_from_a_v2_file(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the second reader, and is not installed")
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        pytest.skip("this OpenCV has dropped Caffe")
    shapes = {"conv1": [(4, 3, 3, 3), (4,)], "fc2": [(5, 4 * 6 * 6), (5,)]}
    arrays = {name: [RNG.standard_normal(s).astype("<f4") for s in each] for name, each in shapes.items()}
    prototxt = written(
        tmp_path,
        b"""input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
        layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { num_output: 4 kernel_size: 3 } }
        layer { name: "fc2" type: "InnerProduct" bottom: "conv1" top: "fc2" inner_product_param { num_output: 5 } }""",
        "net.prototxt",
    )
    kinds = {"conv1": "Convolution", "fc2": "InnerProduct"}
    weights = written(tmp_path, b"".join(layer(name, map(blob, each), kinds[name]) for name, each in arrays.items()))
    theirs = cv2.dnn.readNetFromCaffe(str(prototxt), str(weights))
    ours = read_blobs(weights)
    for name, each in arrays.items():
        for i, array in enumerate(each):
            assert numpy.array_equal(numpy.asarray(ours[name][i]), array)
            assert numpy.array_equal(theirs.getParam(name, i).reshape(array.shape), array)
    image = RNG.standard_normal((1, 3, 8, 8)).astype("<f4")
    theirs.setInput(image)
    want = theirs.forward()
    with torch.inference_mode():
        got = convert(prototxt, weights)(torch.from_numpy(image)).numpy()
    assert numpy.abs(got - want).max() <= 1e-5 * numpy.abs(want).max()


def test_a_blob_of_more_than_2_gib_is_walked_and_read_at_its_ends(tmp_path: Path) -> None:
    rows, columns = 1 << 20, (1 << 9) + 1  # 2 GiB and 4 MiB of float32
    count = rows * columns
    head = shape(rows, columns) + varint(5 << 3 | 2) + varint(4 * count)
    body = block(1, b"fc") + block(2, b"InnerProduct") + varint(7 << 3 | 2) + varint(len(head) + 4 * count) + head
    start = varint(100 << 3 | 2) + varint(len(body) + 4 * count) + body
    path = tmp_path / "large.caffemodel"
    with path.open("wb") as file:
        file.write(start)
        file.write(numpy.float32(1.5).tobytes())
        file.seek(len(start) + 4 * count - 4)
        file.write(numpy.float32(-2.5).tobytes())
        file.write(layer("behind", [blob(SIX)]))
    if path.stat().st_blocks * 512 > 1 << 20:
        pytest.skip("this file system has no sparse files")
    began = time.process_time()
    found = read_blobs(path)
    assert time.process_time() - began < 2, "the walk looked at the values"
    (large,) = found["fc"]
    assert large.shape == (rows, columns) and large.dtype == "F32"
    span = large.plain()
    assert span is not None and span.nbytes == 4 * count > 1 << 31
    with path.open("rb") as file:
        for offset, value in ((span.offset, 1.5), (span.offset + span.nbytes - 4, -2.5)):
            file.seek(offset)
            assert struct.unpack("<f", file.read(4)) == (value,)
    assert numpy.array_equal(numpy.asarray(found["behind"][0]), SIX)


@pytest.mark.parametrize("missing", [1, 4, 1 << 20])
def test_a_large_file_that_was_cut_short_is_told(missing: int, tmp_path: Path) -> None:
    length = 3 << 30
    head = varint(100 << 3 | 2) + varint(length + 6) + varint(7 << 3 | 2) + varint(length)
    path = written(tmp_path, head)
    os.truncate(path, len(head) + length - missing)
    with pytest.raises(WeightsError, match="cut short"):
        read_blobs(path)


def test_a_large_net_is_walked_in_little_time_and_memory(tmp_path: Path) -> None:
    data = block(1, b"deep") + b"".join(layer(f"layer{i}", [blob(SIX), blob(HALVES)]) for i in range(5_000))
    path = written(tmp_path, data)
    began = time.process_time()
    assert len(read_blobs(path)) == 5_000
    assert time.process_time() - began < 5


def test_blobs_keep_their_file_open_and_nothing_else(tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("this system does not list open files")
    path = written(tmp_path, layer("a", [blob(SIX)]))
    before = len(list(descriptors.iterdir()))
    found = read_blobs(path)
    path.unlink()
    assert numpy.array_equal(numpy.asarray(found["a"][0]), SIX)
    del found
    for _ in range(3):
        with pytest.raises(WeightsError):
            read_blobs(written(tmp_path, b"\xff" * 40))
    assert len(list(descriptors.iterdir())) == before


def test_a_file_that_becomes_shorter_while_it_is_read_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, layer("a", [blob(SIX)]))
    (found,) = read_blobs(path)["a"]
    os.truncate(path, 10)
    with pytest.raises(WeightsError, match="became shorter"):
        numpy.asarray(found)


def test_asarray_takes_a_dtype(tmp_path: Path) -> None:
    (found,) = read_blobs(written(tmp_path, layer("a", [blob(SIX)])))["a"]
    assert isinstance(found, Blob)
    assert numpy.asarray(found, "f8").dtype == "f8" and numpy.array_equal(numpy.asarray(found, "f8"), SIX)
    assert numpy.asarray(found, "f2").dtype == "f2"


# mean.binaryproto

MEANS = {
    "old-style dimensions": legacy(num=1, channels=2, height=1, width=3) + packed(5, SIX),
    "a shape": packed(5, SIX) + shape(1, 2, 1, 3),
    "a shape first": shape(1, 2, 1, 3) + unpacked(5, SIX),
    "three axes": packed(5, SIX) + shape(2, 1, 3),
    "doubles": legacy(num=1, channels=2, height=1, width=3) + packed(8, SIX.astype("<f8"), "<f8"),
}


@pytest.mark.parametrize("case", MEANS)
def test_a_mean_is_channels_height_width(case: str, tmp_path: Path) -> None:
    mean = read_mean(written(tmp_path, MEANS[case], "mean.binaryproto"))
    want = protobuf_array(message_class("BlobProto").FromString(MEANS[case]))
    assert mean.shape == (2, 1, 3) and mean.dtype == numpy.float32
    assert numpy.array_equal(mean, want.reshape(2, 1, 3))


def test_a_mean_of_several_images_keeps_them(tmp_path: Path) -> None:
    assert read_mean(written(tmp_path, legacy(num=2, channels=1, height=1, width=3) + packed(5, SIX))).shape == (2, 1, 1, 3)


def test_a_mean_is_no_caffemodel_and_a_caffemodel_no_mean(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"mean\.binaryproto.*read_mean"):
        read_blobs(written(tmp_path, MEANS["a shape"]))
    with pytest.raises(WeightsError, match="no single blob"):
        read_mean(written(tmp_path, layer("a", [blob(SIX)])))


def test_a_damaged_mean_is_told(tmp_path: Path) -> None:
    for cut in range(1, len(MEANS["old-style dimensions"])):
        with pytest.raises(WeightsError):
            read_mean(written(tmp_path, MEANS["old-style dimensions"][:cut]))


def solverstate() -> bytes:
    """SolverState: iter is field 1, learned_net 2, history 3, current_step 4."""
    return number(1, 10_000) + block(2, b"net_iter_10000.caffemodel") + block(3, blob(SIX)) + number(4, 2)


@pytest.mark.parametrize("read", [read_blobs, read_mean])
def test_a_solverstate_is_called_one(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"solverstate.*beside it"):
        read(written(tmp_path, solverstate()))


# What is no weight file


def zipped() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("net.caffemodel", layer("a", [blob(SIX)]))
    return held.getvalue()


def tarred() -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("net.caffemodel"), io.BytesIO())
    return held.getvalue()


def saved(legacy_format: bool) -> bytes:
    held = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, held, _use_new_zipfile_serialization=not legacy_format)
    return held.getvalue()


PROTOTXT = b'name: "net"\ninput: "data"\ninput_shape { dim: 1 }\nlayer { name: "a" type: "ReLU" bottom: "data" top: "a" }\n'
STRANGERS = {
    "a page": (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "web page"),
    "a page with a byte-order mark": (b"\xef\xbb\xbf<HTML>\n<head></head>", "web page"),
    "an XML error": (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "web page"),
    "a Git-LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 580031240\n", "git lfs pull"),
    "gzip": (gzip.compress(b"abc"), "archive"),
    "zip": (zipped(), "archive"),
    "tar": (tarred(), "archive"),
    "a .pth": (saved(False), "PyTorch file"),
    "a .pth of old": (saved(True), "pickle"),
    "a pickle": (pickle.dumps({"a": [1.0]}), "pickle"),
    "a prototxt": (PROTOTXT, "text file"),
    "a prototxt with a comment first": (b"# VGG\r\n" + PROTOTXT, "text file"),
    "nothing": (b"", "empty"),
    "zeros": (b"\0" * 4096, "never completed"),
    "a header without layers": (block(1, b"net"), "no layer"),
}


@pytest.mark.parametrize("case", STRANGERS)
@pytest.mark.parametrize("read", [read_blobs, read_mean, lambda path: convert(path.parent / "net.prototxt", path)])
def test_a_file_that_holds_no_weights_is_called_what_it_is(read: Callable[[Path], object], case: str, tmp_path: Path) -> None:
    data, said = STRANGERS[case]
    written(tmp_path, PROTOTXT, "net.prototxt")
    path = written(tmp_path, data)
    with pytest.raises(WeightsError) as told:
        read(path)
    text = str(told.value)
    assert text.startswith(str(path)), "the message names the file"
    if read is not read_mean or said not in ("damaged", "no layer"):
        assert said in text


@pytest.mark.parametrize("length", [9, 10, 13, 32, 35])
@pytest.mark.parametrize("name", ["layer", "name:", "input:", "# "])
def test_a_net_whose_name_begins_like_a_prototxt_is_still_a_caffemodel(name: str, length: int, tmp_path: Path) -> None:
    data = block(1, name.ljust(length, "x").encode()) + layer("fc", [blob(numpy.full(200, 1.7, "<f4"))])
    assert b"\0" not in data[:512], "the case needs a file whose beginning holds no zero"
    assert same(read_blobs(written(tmp_path, data)), protobuf_blobs(data))


def test_a_folder_a_pipe_and_a_device_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    said: dict[str, str] = {}

    def attempt(read: Callable[[Path], object], path: Path) -> None:
        try:
            read(path)
        except ConversionError as error:
            said[f"{read.__name__} {path}"] = str(error)

    paths = [tmp_path, tmp_path / "pipe", Path("/dev/zero")]
    for path in paths:
        for read in (read_blobs, read_mean):
            thread = threading.Thread(target=attempt, args=(read, path), daemon=True)
            thread.start()
            thread.join(5)
            assert not thread.is_alive(), f"{read.__name__} waits for {path}"
    assert len(said) == 6 and all("not a regular file" in text for text in said.values())


def test_a_file_of_no_size_is_told() -> None:
    path = Path("/proc/self/stat")
    if not path.exists():
        pytest.skip("this system has no /proc, whose files have no size")
    with pytest.raises(WeightsError, match="does not say how long"):
        read_blobs(path)


def test_a_missing_an_unreadable_and_an_impossible_name_are_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="No such file"):
        read_blobs(tmp_path / "none.caffemodel")
    with pytest.raises(WeightsError, match="no file can have this name"):
        read_blobs("a\0b.caffemodel")
    with pytest.raises(WeightsError, match="too long"):
        read_blobs(tmp_path / ("a" * 300))
    path = written(tmp_path, layer("a", [blob(SIX)]))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root reads everything")
    with pytest.raises(WeightsError, match="Permission denied"):
        read_blobs(path)


def test_open_weights_goes_by_content_and_not_by_suffix(tmp_path: Path) -> None:
    path = written(tmp_path, layer("a", [blob(SIX)]), "net.caffemodel.h5")
    assert open_weights(path).format == "V2"


def test_a_file_that_was_cut_short_names_the_last_whole_layer(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    write_caffemodel(path, [(f"conv{i}", "Convolution", [numpy.zeros((4, 4, 3, 3), "f4")]) for i in (1, 2, 3)])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"behind layer 'conv2'.* cut short"):
        walk(path)


def test_a_file_that_is_cut_short_while_it_is_read_is_told(tmp_path: Path) -> None:
    """A mapped file would end the process with SIGBUS."""
    path = written(tmp_path, block(1, b"net") + b"".join(layer(f"layer{i}", [blob(SIX)] * 8) for i in range(2_000)))
    source = open_source(path)
    held = read_blobs(path)["layer1999"][0]
    os.truncate(path, 1 << 10)
    with pytest.raises(WeightsError, match="became shorter"):
        source.bytes[source.size - 1]
    with pytest.raises(WeightsError, match="became shorter"):
        numpy.asarray(held)


FOREIGN = {
    "safetensors": (b"\x40\0\0\0\0\0\0\0" + b'{"a": {}}' + b" " * 60, "a safetensors file; it needs no conversion"),
    "ONNX": (b"\x08\x08\x12\x07pytorch\x1a\x052.0.0:\x10" + b"\0" * 40, "an ONNX model"),
    "SavedModel": (b"\x08\x01\x12\x10\n\x0e\x12\x05serve" + b"\0" * 40, "an ONNX or a TensorFlow model"),
    "frozen graph": (b"\n\x1f\n\x05input\x12\x0bPlaceholder*\x09" + b"\0" * 40, "a frozen TensorFlow graph"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3" + b"\0" * 40, "a TensorFlow Lite model"),
    "NumPy": (b"\x93NUMPY\x01\0" + b"\0" * 40, "a NumPy array"),
    "UTF-16": ("layer { }".encode("utf-16"), "UTF-16 text"),
    "solver": (b'net: "train.prototxt"\nbase_lr: 0.01\n', "a prototxt or a solver by its looks"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_of_another_kind_is_called_what_it_is(kind: str, tmp_path: Path) -> None:
    data, words = FOREIGN[kind]
    with pytest.raises(WeightsError, match=words) as error:
        read_blobs(written(tmp_path, data))
    assert "damaged" not in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pytorch_file_is_called_what_it_is(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="PyTorch file"):
        read_blobs(path)
