"""--verify: the net beside OpenCV, or beside a pycaffe that the test writes itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import torch
from golden import CASES, arrays, files
from test_folding import IMAGE, convolution, data, drawn, in_place, layer

from converter import convert, references, save_caffemodel
from converter.cli import main
from converter.errors import ConversionError
from converter.verify.comparison import Verification, difference_of, verified
from converter.verify.inputs import Inputs
from converter.verify.known import OPENCV_DIFFERS
from converter.write.encode import write_caffemodel

RGB = data(2, 3, 8, 7)
NET = (
    RGB
    + convolution("data", "c")
    + in_place("c")
    + layer("ReLU", "c", "c")
    + layer("Pooling", "c", "p", "pooling_param { kernel_size: 2 }")
)
TRANSPOSED = "inner_product_param { num_output: 6 transpose: true bias_term: false }"  # OpenCV multiplies it as it lies
SQUARE = (
    data(2, 6)
    + layer("InnerProduct", "data", "a", "inner_product_param { num_output: 6 }", "first")
    + layer("InnerProduct", "a", "b", TRANSPOSED, "second")
    + layer("TanH", "b", "b", name="third")
    + layer("Power", "b", "out", "power_param { shift: 1 }", "fourth")
)


@pytest.fixture
def opencv() -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is in the extra `verify`")
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        pytest.skip("OpenCV 5 has no Caffe importer")


def ran(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    """What the command says, and its error: "" where there is none."""
    try:
        main([*map(str, arguments), "--verify"])
    except SystemExit as ended:
        return capsys.readouterr().out, str(ended.code)
    return capsys.readouterr().out, ""


@pytest.mark.usefixtures("opencv")
def test_every_blob_is_compared_in_place_layers_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said, error = ran(capsys, *drawn(tmp_path, NET), "--every-blob")
    assert error == "" and "all 5 values are as in OpenCV 4" in said, said
    assert [line.split("'")[1] for line in said.splitlines() if "of type" in line] == [
        "conv_c",
        "BatchNorm_c",
        "Scale_c",
        "ReLU_c",
        "Pooling_p",
    ]


@pytest.mark.usefixtures("opencv")
def test_the_first_layer_that_differs_is_named_and_those_behind_it_are_not_blamed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = drawn(tmp_path, SQUARE)
    said, error = ran(capsys, *files, "--every-blob")
    assert "The first that differs is 'b', which layer 'second' of type 'InnerProduct'" in error
    assert "Given the same values, these differ: layer 'second' of type 'InnerProduct' (line 3)." in error
    assert "known to differ from Caffe in: InnerProduct with transpose: 'second'" in error
    differing = [line.split("'")[1] for line in said.splitlines() if "DIFFERS" in line]
    assert differing == ["second", "third", "fourth"] and "1 of 4 values are as in" in said
    assert "--every-blob names the layer" in ran(capsys, *files)[1]


@pytest.mark.usefixtures("opencv")
def test_what_the_other_side_does_not_have_is_said_and_the_rest_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = NET + layer("ArgMax", "p", "most") + layer("Flatten", "most", "flat")
    said, error = ran(capsys, *drawn(tmp_path, text), "--every-blob")
    assert error == "" and "all 5 values are as in" in said
    assert "not compared: it has no ArgMax: ArgMax_most; Flatten_flat" in said
    (tmp_path / "all").mkdir()
    alone = drawn(tmp_path / "all", IMAGE + layer("ArgMax", "data", "most"))
    assert 'OpenCV cannot run this net (Can\'t create layer "ArgMax_most" of type "ArgMax")' in ran(capsys, *alone)[1]


@pytest.mark.usefixtures("opencv")
def test_every_top_of_a_layer_is_compared_with_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slices = 'layer { name: "s" type: "Slice" bottom: "c" top: "x" top: "y" slice_param { slice_point: 1 } }'
    said, error = ran(capsys, *drawn(tmp_path, RGB + convolution("data", "c") + slices))
    assert error == "" and "x: as in" in said and "y: as in" in said


@pytest.mark.usefixtures("opencv")
def test_a_training_net_is_given_as_its_converted_prototxt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transform = "transform_param { crop_size: 8 mean_value: 100 } data_param { batch_size: 2 }"
    text = f'layer {{ name: "d" type: "Data" top: "data" {transform} }}' + convolution("data", "c")
    said, error = ran(capsys, *drawn(tmp_path, text))
    assert error == "" and "c: as in" in said and "the reference got the prototxt of the converted net" in said
    assert "inputs: drawn: pixels as BGR, mean 100, 100, 100, scale 1" in said


@pytest.mark.usefixtures("opencv")
def test_a_changed_net_is_held_against_the_files_on_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    picture = tmp_path / "some.png"
    Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (9, 12, 3), "u1")).save(picture)
    files = drawn(tmp_path, NET)
    more = ("--image", picture, "--mean", "104,117,123", "--scale", "0.02", "--fold-batchnorm", "--input", "rgb01", "--every-blob")
    said, error = ran(capsys, *files, *more)
    assert error == "" and "input 'data': some.png as BGR, mean 104, 117, 123, scale 0.02" in said
    assert "all 2 values are as in" in said, said  # c is there behind its ReLU, p
    plain, error = ran(capsys, *files, "--image", picture)
    assert error == "" and "mean 0, 0, 0, scale 1 (assumed: the prototxt does not say)" in plain
    other = tmp_path / "text.png"
    other.write_text("no picture")
    assert "cannot be the net's input" in ran(capsys, *files, "--image", other)[1]


@pytest.mark.usefixtures("opencv")
def test_a_changed_net_that_is_wrong_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from converter.build import folding

    monkeypatch.setattr(folding, "_affine", lambda module, values: (torch.ones(4).double() * 2, torch.zeros(4).double()))
    _, error = ran(capsys, *drawn(tmp_path, NET), "--fold-batchnorm")
    assert "'p' differs from OpenCV" in error


@pytest.mark.usefixtures("opencv")
def test_the_json_is_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said, error = ran(capsys, *drawn(tmp_path, SQUARE), "--every-blob", "--json")
    found = json.loads(said)
    assert error and not found["equal"] and [row["equal"] for row in found["verified"]] == [True, False, False, False]
    assert found["known_differences"] == ["InnerProduct with transpose: 'second'"] and found["reference"].startswith("OpenCV 4")


CAFFE = """
import os, pathlib, numpy
TEST, __version__ = 1, "1.0.0"
HERE = pathlib.Path(__file__).parent

def set_mode_cpu():
    if (HERE / "abort").exists():
        os.write(2, b"I1126 setup\\nF1126 05:00:00.1 12 layer_factory.hpp:81] Check failed: Unknown layer type: Foo\\n*** Check\\n")
        os.abort()

class Blob:
    def __init__(self, data):
        self.data = data

    def reshape(self, *shape):
        assert shape == self.data.shape

class Net:
    def __init__(self, prototxt, weights, phase):
        held = numpy.load(HERE / "blobs.npz")
        self.blobs = {name: Blob(held[name]) for name in held.files}

    def forward(self):
        pass
"""


@pytest.fixture
def pycaffe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module `caffe` whose nets hold the blobs of blobs.npz, and abort where a file `abort` lies beside it."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "caffe.py").write_text(CAFFE)
    monkeypatch.syspath_prepend(folder)
    return folder


def blobs_of(files: tuple[Path, Path]) -> dict[str, numpy.ndarray]:
    net = convert(*files)
    x = numpy.random.default_rng(0).standard_normal(net.input_shapes["data"], "f4")
    with torch.inference_mode():
        found = net(torch.from_numpy(x), blobs=net.blobs)
    return {"data": x} | {name: value.numpy() for name, value in found.items() if name != "data"}


def test_caffe_goes_first_and_gives_the_last_values_of_each_blob(tmp_path: Path, pycaffe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = drawn(tmp_path, NET)
    blobs = blobs_of(files)
    numpy.savez(pycaffe / "blobs.npz", **blobs)
    said, error = ran(capsys, *files, "--every-blob")
    assert error == "" and "all 2 values are as in Caffe 1.0.0, to 0.0e+00" in said
    assert "not compared: Caffe keeps the last values of a blob: what in-place layers overwrite is not seen" in said
    numpy.savez(pycaffe / "blobs.npz", data=blobs["data"], c=blobs["c"], p=blobs["p"] + 0.5)
    assert "The first that differs is 'p', which layer 'Pooling_p'" in ran(capsys, *files, "--every-blob")[1]
    numpy.savez(pycaffe / "blobs.npz", data=blobs["data"], p=blobs["p"])
    assert "it gives no values of 'c' (ReLU 'ReLU_c')" in ran(capsys, *files, "--every-blob")[0]
    numpy.savez(pycaffe / "blobs.npz", data=blobs["data"])
    assert "gives none of the values" in ran(capsys, *files)[1]


def test_where_caffe_aborts_its_words_are_passed_on(tmp_path: Path, pycaffe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pycaffe / "abort").touch()
    error = ran(capsys, *drawn(tmp_path, NET))[1]
    assert "Caffe ended on this net" in error and "Unknown layer type: Foo); nothing was compared" in error


def test_without_an_implementation_the_words_to_type_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "find_spec", lambda name: None)
    assert "pip install 'opencv-python-headless<5'" in ran(capsys, *drawn(tmp_path, NET))[1]


@pytest.mark.parametrize("option", [["--image", "x.png"], ["--every-blob"]])
def test_its_options_go_with_verify(option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, drawn(tmp_path, NET)), *option])
    assert ended.value.code == 2 and "go with --verify" in capsys.readouterr().err


def test_what_is_no_number_is_as_none_and_sizes_count() -> None:
    nan, inf = numpy.float32("nan"), numpy.float32("inf")
    of = lambda *values: numpy.array(values, "f4")  # noqa: E731
    assert difference_of(of(nan, inf, 1), of(nan, inf, 1)) == 0
    assert difference_of(of(nan, 1), of(1, 1)) == difference_of(of(1), of(1, 1)) == difference_of(of(inf), of(-inf)) == numpy.inf
    assert difference_of(of(2, 4), of(2, 5)) == pytest.approx(0.2)


def held(case: str, folder: Path) -> Verification | None:
    """A golden case beside OpenCV; None where it cannot run it."""
    prototxt, weights = files(case)
    net = convert(prototxt, weights)
    if weights is None:
        weights = folder / "net.caffemodel"
        save_caffemodel(net, weights)
    try:
        return verified(net, prototxt, weights, Inputs(arrays(case, "input"), arrays(case, "input"), ""))
    except ConversionError:
        return None


@pytest.mark.usefixtures("opencv")
@pytest.mark.parametrize("case", ["Convolution-3", "Deconvolution-3", "Pooling-3", "Pooling-4", "Swish-0"])
def test_where_opencv_is_not_as_caffe_is_known(case: str, tmp_path: Path) -> None:
    """The golden cases hold Caffe's outputs, which test_golden.py finds in our net: here OpenCV differs or not."""
    found = held(case, tmp_path)
    assert found is not None and found.equal == (not found.known)
    assert found.equal == (case in ("Convolution-3", "Pooling-4"))


@pytest.mark.slow
@pytest.mark.usefixtures("opencv")
@pytest.mark.parametrize("case", [case for case in CASES if any(f'"{kind}"' in files(case)[0].read_text() for kind in OPENCV_DIFFERS)])
def test_every_difference_from_opencv_is_known(case: str, tmp_path: Path) -> None:
    found = held(case, tmp_path)
    assert found is None or found.equal or found.known


def test_a_net_of_indices_gets_indices_and_what_opencv_lacks_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2", reason="OpenCV is the other side (the extra `verify`)")
    prototxt, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    prototxt.write_text(
        'input: "x" input_shape { dim: 2 dim: 5 } layer { name: "e" type: "Embed" bottom: "x" top: "e" embed_param { num_output: 4'
        ' input_dim: 2 weight_filler { type: "xavier" } } }'
    )
    convert(prototxt).save(weights, check=False)
    with pytest.raises(SystemExit, match=r'OpenCV cannot run this net .*"Embed"'):
        main([str(prototxt), str(weights), "--verify"])


@pytest.mark.usefixtures("opencv")
def test_weights_in_v0_form_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """OpenCV reads such a file, and has no blobs then."""
    prototxt, weights = drawn(tmp_path, data(2, 6) + layer("InnerProduct", "data", "a", "inner_product_param { num_output: 4 }"))
    random = numpy.random.default_rng(0)
    blobs = [random.standard_normal(shape, dtype="f4") for shape in ((1, 1, 4, 6), (1, 1, 1, 4))]
    write_caffemodel(weights, [("InnerProduct_a", "innerproduct", blobs)], version="V0")
    said, error = ran(capsys, prototxt, weights)
    assert error == "" and "a: as in OpenCV 4" in said and "written from the V0 file" in said


def test_a_report_is_written_where_the_reference_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jinja2", reason="reports are in the extra `report`")

    def ended(job: object, where: str) -> None:
        raise ConversionError("it ended without a word")

    monkeypatch.setattr(references, "_kind", lambda: "opencv")
    monkeypatch.setattr(references, "_child", ended)
    report = tmp_path / "net.html"
    assert "without a word" in ran(capsys, *drawn(tmp_path, NET), "--report", report)[1]
    assert "it ended without a word" in report.read_text(encoding="utf-8")
