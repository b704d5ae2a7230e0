"""caffe-zoo add with a file that is none of the model's: what it is, what was expected, and never a damaged download."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converter import ConversionError, read_blobs
from converter.cli import main as convert_caffe
from converter.read.prototxt import read_prototxt
from converter.read.weights import open_weights
from zoo.cli import main

pytestmark = pytest.mark.usefixtures("home")


def torch_file(**options: object) -> bytes:
    import torch

    out = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, out, **options)
    return out.getvalue()


def safetensors() -> bytes:
    from safetensors.numpy import save

    return save({"a": np.zeros(2, np.float32)})


def onnx_model() -> bytes:
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    return bytes(helper.make_model(graph).SerializeToString())


def zipped(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    return out.getvalue()


def npy() -> bytes:
    out = io.BytesIO()
    np.save(out, np.zeros(3))
    return out.getvalue()


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "an ONNX model": (onnx_model, "an ONNX model"),
    "ONNX by PyTorch": (lambda: b"\x08\x08\x12\x07pytorch\x1a\x052.0.0:\x10" + b"\0" * 40, "an ONNX model"),
    "PyTorch's file": (torch_file, "PyTorch"),
    "PyTorch's old file": (lambda: torch_file(_use_new_zipfile_serialization=False), "PyTorch"),
    "safetensors": (safetensors, "a safetensors file"),
    "a TensorFlow graph": (lambda: b"\n\x1f\n\x05input\x12\x0bPlaceholder*\x09" + b"\0" * 40, "a frozen TensorFlow graph"),
    "a Keras model": (lambda: zipped("metadata.json", "config.json", "model.weights.h5"), "a Keras model"),
    "another archive": (lambda: zipped("readme.txt"), "an archive"),
    "NumPy": (npy, "a NumPy array"),
    "a web page": (lambda: b"<!DOCTYPE html><html>", "a web page"),
    "a pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 580031240\n", "a Git LFS pointer"),
    "a prototxt": (lambda: b'name: "net" layer { name: "a" type: "ReLU" }', "a text file, a prototxt"),
    "TorchScript": (lambda: zipped("net/code/net.py", "net/constants.pkl"), "a PyTorch file"),
    "NumPy's zip": (lambda: zipped("conv.npy"), "a file of NumPy arrays"),
    "an empty zip": (zipped, "an archive"),
    "zstandard": (lambda: b"\x28\xb5\x2f\xfd" + bytes(range(200)), "an archive"),
    "ONNX by a tool with a dot in its name": (lambda: b"\x08\x08\x12\x0connx.quantize:\x10" + b"\0" * 40, "an ONNX model"),
    "Core ML": (lambda: b"\x08\x01\x12\x30\n\x10\n\x04data\x1a\x08" + b"\0" * 40, "Core ML's"),
    "Caffe2": (lambda: b'\n\x08init_net\x12#"\x02w0:\x06' + b"\0" * 40, "a Caffe2 net"),
    "MATLAB": (lambda: b"MATLAB 5.0 MAT-file, Platform: PCWIN64" + b" " * 80 + bytes(40), "a MATLAB file"),
    "Torch7": (lambda: b"\4\0\0\0\1\0\0\0\3\0\0\0V 1\r\0\0\0nn.Sequential" + bytes(40), "a Torch7 file"),
    "ncnn": (lambda: b"7767517\n75 83\nInput data 0 1 data 0=224\n", "an ncnn net"),
    "MXNet": (lambda: b"\x12\1\0\0\0\0\0\0" + bytes(40), "a file of MXNet's weights"),
    "Darknet": (lambda: b"[net]\n# Testing\nbatch=1\n", "a Darknet net"),
    "OpenVINO": (lambda: b'<?xml version="1.0"?>\n<net name="x" version="10">', "an OpenVINO net"),
    "LMDB": (lambda: bytes(16) + b"\xde\xc0\xef\xbe\1\0\0\0" + bytes(100), "an LMDB database"),
    "a video": (lambda: b"\0\0\0\x20ftypisom" + bytes(40), "a video"),
    "a storage's answer": (lambda: b"<Error><Code>AccessDenied</Code></Error>", "a web page"),
    "a page with a comment first": (lambda: b"<!-- x -->\n<html>", "a web page"),
    "JSON": (lambda: b'{"message":"Not Found","status":"404"}', "JSON"),
    "a TensorFlow graph as text": (lambda: b'node {\n  name: "x"\n  op: "Placeholder"\n}', "a TensorFlow graph as text"),
    "git-annex": (lambda: b"/annex/objects/SHA256E-s580031240--4d7a.caffemodel\n", "a git-annex pointer"),
    "UTF-16 without its mark": (lambda: 'name: "net"'.encode("utf-16-be"), "UTF-16 text"),
    "UTF-32": (lambda: 'name: "net"'.encode("utf-32-le"), "UTF-16 text"),
    "UTF-16": (lambda: 'name: "net"'.encode("utf-16"), "UTF-16 text"),
    "a picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(40), "a picture"),
    "nothing": (lambda: b"", "an empty file"),
    "something": (lambda: bytes(range(256)) * 10, "a file of 2,560 bytes"),
}


@pytest.mark.parametrize("name", ["mine", "squeezenet_v1.1.caffemodel", "face_model.caffemodel"])
@pytest.mark.parametrize(("make", "what"), FILES.values(), ids=FILES.keys())
def test_a_wrong_file_is_called_what_it_is_beside_what_was_expected(
    make: Callable[[], bytes], what: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = "center_loss_face" if name.startswith("face") else "squeezenet1_1"
    path = tmp_path / name
    path.write_bytes(make())
    if model == "center_loss_face" and (what.startswith(("a file of", "an archive", "an empty")) or what == "PyTorch"):
        pytest.skip("it is taken without a proof, or read as a copy (test_copies.py)")
    assert main(["add", model, str(path), "--allow-unverified"]) == 1
    said = capsys.readouterr().err
    assert what in said
    assert "xpected: " in said
    assert "4,950,080 bytes, under any name" in said if model == "squeezenet1_1" else "under this name, for no checksum" in said
    assert not said.rstrip().endswith(":")
    assert "damaged" not in said


def test_a_file_that_only_its_name_can_tell_is_asked_for_by_that_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.caffemodel"
    path.write_bytes(bytes(range(256)))
    assert main(["add", "center_loss_face", str(path), "--allow-unverified"]) == 1
    assert "expected: face_model.caffemodel, under this name, for no checksum of it has been published" in capsys.readouterr().err


def test_what_nothing_proves_is_not_pinned_when_it_is_plainly_another_thing(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "face_model.caffemodel"
    path.write_bytes(safetensors())
    assert main(["add", "center_loss_face", str(path), "--allow-unverified"]) == 1
    assert not list((home / "center_loss_face").glob("face*"))


@pytest.mark.parametrize(("make", "what"), FILES.values(), ids=FILES.keys())
def test_the_converter_calls_a_prototxt_that_is_none_what_it_is(make: Callable[[], bytes], what: str, tmp_path: Path) -> None:
    if what.startswith(("a text", "a file of", "an empty")):
        pytest.skip("this is none that the converter could name")
    for name in ("net.prototxt", "net.caffemodel"):
        path = tmp_path / name
        path.write_bytes(make())
        with pytest.raises(SystemExit) as end:
            convert_caffe([str(path)])
        assert what in str(end.value.code)
        assert "damaged" not in str(end.value.code)


UNKNOWN = {
    "zeros": (bytes(1000), "no caffemodel either", "zeros"),
    "a database of nobody's": (b"\x7fXYZ" + bytes(range(256)), "no caffemodel either", "none begins with the bytes 7f 58 59 5a"),
    "a field that could be Caffe's": (b"\x0a\xff\x7fnet" + bytes(60), "is it the caffemodel?", "It is no caffemodel, or one that is"),
    "a server's words": (b"Not Found\n", "This is no prototxt: it begins 'Not Found'", "this is text, and no prototxt"),
    "a program": (b"import caffe\nnet = caffe.Net()\n", "This is no prototxt: it begins 'import caffe'", "this is text, and no prototxt"),
}


@pytest.mark.parametrize(("data", "prototxt", "weights"), UNKNOWN.values(), ids=UNKNOWN.keys())
def test_what_nobody_knows_is_not_called_a_damaged_download(data: bytes, prototxt: str, weights: str, tmp_path: Path) -> None:
    for name, said in (("net.prototxt", prototxt), ("net.caffemodel", weights)):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ConversionError) as error:
            read_blobs(path) if name == "net.caffemodel" else read_prototxt(path)
        assert said in str(error.value)
        assert "The file is damaged" not in str(error.value)


def test_a_file_cut_short_behind_its_first_layer_is_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(b"\xa2\x06\x06\n\x04conv\xa2\x06\x7f\n\x04conv")
    with pytest.raises(ConversionError, match=r"behind layer 'conv'.*The file is damaged or cut short; fetch it again"):
        read_blobs(path)


def test_the_solverstate_of_an_early_iteration_is_no_onnx_model(tmp_path: Path) -> None:
    path = tmp_path / "x_iter_100.caffemodel"
    path.write_bytes(b"\x08\x64\x12\x15x_iter_100.caffemodel" + b"\x1a\x02\x2a\0")
    with pytest.raises(ConversionError, match="solverstate"):
        read_blobs(path)


def test_fields_and_values_that_repeat_are_no_wide_text(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    for body in (b"2\0" * 300, b"\x3a\xd7\x04b\xd4\x04" + b"\0<" * 298):  # empty params; halves of the value 1
        size = len(body) + 3
        path.write_bytes(b"\xa2\x06" + bytes([size & 127 | 128, size >> 7]) + b"\n\x01a" + body)
        assert open_weights(path).layers[0].name == "a"


@pytest.mark.parametrize(
    ("inside", "what"), [("saved_model.pb", "SavedModel"), ("data.mdb", "LMDB"), ("CURRENT", "LevelDB"), ("x", "a folder")]
)
def test_a_folder_is_called_what_it_is(inside: str, what: str, tmp_path: Path) -> None:
    (tmp_path / inside).write_bytes(b"")
    with pytest.raises(ConversionError, match=f"{what}.*so no weight file"):
        read_blobs(tmp_path)


def test_json_in_the_answer_is_still_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["where", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"path"}
