"""caffe-zoo add with a file that is none of the model's: what it is, what was expected, and never a damaged download."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converter.cli import main as convert_caffe
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


def test_json_in_the_answer_is_still_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["where", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"path"}
