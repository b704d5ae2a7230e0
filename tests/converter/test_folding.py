"""fold_batchnorm: the folded net beside the unfolded one, which test_golden.py holds against Caffe."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from golden import CASES, arrays, files
from safetensors.torch import load_file

from converter import CaffeNet, CaffezooWarning, convert, fold_batchnorm, save_caffemodel
from converter.errors import ConversionError, MismatchError

TOLERANCE = 1e-5  # of a blob's largest magnitude
SHARED = Path(__file__).resolve().parents[3] / "shared"


def data(*shape: int) -> str:
    return f'input: "data" input_shape {{ {" ".join(f"dim: {d}" for d in shape)} }}\n'


def layer(kind: str, bottom: str, top: str, fields: str = "", name: str = "") -> str:
    return f'layer {{ name: "{name or f"{kind}_{top}"}" type: "{kind}" bottom: "{bottom}" top: "{top}" {fields} }}\n'


def convolution(bottom: str, top: str, fields: str = "kernel_size: 3 pad: 1", kind: str = "Convolution") -> str:
    return layer(kind, bottom, top, f"convolution_param {{ num_output: 4 {fields} }}", name=f"conv_{top}")


def scale(bottom: str, top: str, fields: str = "bias_term: true") -> str:
    return layer("Scale", bottom, top, f"scale_param {{ {fields} }}")


def norm(bottom: str, top: str, fields: str = "eps: 0.001") -> str:
    return layer("BatchNorm", bottom, top, f"batch_norm_param {{ {fields} }}")


def in_place(blob: str) -> str:
    return norm(blob, blob) + scale(blob, blob)


IMAGE, DENSE = data(2, 4, 6, 5), layer("InnerProduct", "data", "x", "inner_product_param { num_output: 5 }", "ip")
DENSE_BEHIND = layer("InnerProduct", "x", "y", "inner_product_param { num_output: 3 bias_term: false }", "ip")

FOLDS = {
    "in place behind a convolution": IMAGE + convolution("data", "x") + in_place("x") + layer("ReLU", "x", "x"),
    "in blobs of their own": IMAGE + convolution("data", "x") + norm("x", "b") + scale("b", "y") + layer("ReLU", "y", "z"),
    "behind a convolution without bias": IMAGE + convolution("data", "x", "kernel_size: 3 bias_term: false") + in_place("x"),
    "behind a grouped convolution": IMAGE + convolution("data", "x", "kernel_size: 2 group: 2 stride: 2") + in_place("x"),
    "behind a depthwise one": IMAGE + convolution("data", "x", "kernel_size: 3 group: 4", "ConvolutionDepthwise") + in_place("x"),
    "behind a deconvolution with groups": (
        IMAGE + convolution("data", "x", "kernel_size: 3 group: 2 stride: 2", "Deconvolution") + in_place("x")
    ),
    "behind a convolution over a row": data(2, 4, 7) + convolution("data", "x", "kernel_size: 3") + in_place("x"),
    "behind one over a volume": data(1, 2, 3, 4, 4) + convolution("data", "x", "kernel_size: 3") + in_place("x"),
    "behind one over no axis": data(2, 3) + convolution("data", "x", "") + in_place("x"),
    "behind an inner product": IMAGE + DENSE + in_place("x"),
    "behind a transposed inner product": IMAGE + DENSE.replace("5 }", "5 transpose: true bias_term: false }") + in_place("x"),
    "behind a Local": (
        IMAGE + layer("Local", "data", "x", "local_param { num_output: 3 kernel_size: 2 stride: 1 bias_term: false }")
        + in_place("x")
    ),
    "only Scale": IMAGE + convolution("data", "x") + scale("x", "y", "bias_term: false"),
    "one scale for all channels": IMAGE + convolution("data", "x") + scale("x", "y", "num_axes: 0 bias_term: true"),
    "Scale and Bias": IMAGE + convolution("data", "x") + scale("x", "x", "") + layer("Bias", "x", "x"),
    "only BatchNorm": IMAGE + convolution("data", "x") + norm("x", "y"),
    "PSPNet's BN": IMAGE + convolution("data", "x") + layer("BN", "x", "y", "bn_param { slope_filler { value: 1 } }"),
    "SegNet's BN": IMAGE + convolution("data", "x") + layer("BN", "x", "y", "bn_param { bn_mode: INFERENCE }"),
    "NVIDIA's BatchNorm": IMAGE + convolution("data", "x") + norm("x", "x", "scale_bias: true"),
    "in front of a convolution that pads nothing": (
        IMAGE + norm("data", "b") + scale("b", "x") + convolution("x", "y", "kernel_size: 3 group: 2")
    ),
    "in front of one, in place": (
        IMAGE + layer("ReLU", "data", "x") + in_place("x") + convolution("x", "y", "kernel_size: 3 bias_term: false")
    ),
    "a scale in front of one that pads": IMAGE + scale("data", "x", "") + convolution("x", "y", "kernel_size: 3 pad: 1 bias_term: false"),
    "a scale in front of a deconvolution": (
        IMAGE + scale("data", "x", "") + convolution("x", "y", "kernel_size: 3 stride: 2", "Deconvolution")
    ),
    "in front of an inner product": IMAGE + norm("data", "x") + DENSE_BEHIND,
    "in front and behind": IMAGE + norm("data", "x") + convolution("x", "y", "kernel_size: 1") + in_place("y"),
    "between two": IMAGE + convolution("data", "x") + in_place("x") + convolution("x", "y") + norm("y", "z"),
    "with another layer in between": IMAGE + convolution("data", "x") + layer("ReLU", "data", "r") + norm("x", "y"),
    "with its input overwritten in between": (
        IMAGE + layer("ReLU", "data", "a") + convolution("a", "x") + layer("TanH", "a", "a") + norm("x", "y")
    ),
}  # fmt: skip

LEFT = {
    "the batch's statistics": (IMAGE + convolution("data", "x") + norm("x", "x", "use_global_stats: false"), "the batch's statistics"),
    "another reader in between": (IMAGE + convolution("data", "x") + layer("ReLU", "x", "r") + norm("x", "y"), "has other readers"),
    "memory shared in between": (
        IMAGE + convolution("data", "x") + layer("Flatten", "x", "f") + norm("x", "x") + layer("ReLU", "f", "g"),
        "has other readers",
    ),
    "shared weights": (
        IMAGE + "".join(convolution("data", top).replace("convolution_param", 'param { name: "w" } convolution_param') for top in "xz")
        + norm("x", "y"),
        "shared weights",
    ),
    "a shared scale": (
        IMAGE + convolution("data", "x") + convolution("data", "z")
        + "".join(scale(blob, blob, "").replace("scale_param", 'param { name: "m" } scale_param') for blob in "xz"),
        "shares its values",
    ),
    "zeros of the padding": (IMAGE + norm("data", "x") + convolution("x", "y"), "pads with zeros"),
    "a shift into a deconvolution": (
        IMAGE + scale("data", "x") + convolution("x", "y", "kernel_size: 3", "Deconvolution"),
        "at each place",
    ),
    "in place in front": (
        data(3, 6) + layer("TanH", "data", "x") + layer("InnerProduct", "x", "x", "inner_product_param { num_output: 6 }") + norm("x", "y"),
        "works in place",
    ),
    "two readers behind": (
        IMAGE + norm("data", "x") + layer("ReLU", "x", "r") + convolution("x", "y", "kernel_size: 1"),
        "2 layers read it",
    ),
    "a ReLU in between": (IMAGE + convolution("data", "x") + layer("ReLU", "x", "x") + norm("x", "y"), "a ReLU layer is in front"),
    "in place before the convolution": (
        IMAGE + layer("ReLU", "data", "a") + norm("a", "b") + layer("TanH", "a", "a") + convolution("b", "y", "kernel_size: 1"),
        "written in place before",
    ),
    "a factor for each pixel": (
        IMAGE + convolution("data", "x") + scale("x", "y", "axis: 1 num_axes: -1"),
        "not one value for each channel",
    ),
    "Intel's ReLU within": (
        IMAGE + convolution("data", "x") + norm("x", "y", "use_weight_bias: true bias_term: true relu: true"),
        "a ReLU in it",
    ),
    "two bottoms": (
        IMAGE + 'layer { name: "c" type: "Convolution" bottom: "data" bottom: "data" top: "x" top: "z"'
        + " convolution_param { num_output: 4 kernel_size: 1 } }" + norm("x", "y"),
        "of several bottoms",
    ),
}  # fmt: skip


def drawn(folder: Path, text: str) -> tuple[Path, Path]:
    """A prototxt and a caffemodel whose values all count."""
    prototxt, weights = folder / "net.prototxt", folder / "net.caffemodel"
    prototxt.write_text(text)
    net = convert(prototxt)
    torch.manual_seed(0)
    seen = set()
    with torch.no_grad():
        for key, value in net.state_dict().items():
            if value.is_floating_point() and value.data_ptr() not in seen:
                seen.add(value.data_ptr())
                value.copy_(torch.rand_like(value) + 0.5 if key.endswith("var") else torch.randn_like(value))
    save_caffemodel(net, weights)
    return prototxt, weights


def folded(prototxt: Path, weights: Path | None, **more: object) -> CaffeNet:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaffezooWarning)
        return convert(prototxt, weights, fold_batchnorm=True, **more)  # type: ignore[arg-type]


def assert_same_blobs(net: CaffeNet, other: CaffeNet, blobs: tuple[str, ...], inputs: list[torch.Tensor] | None = None) -> None:
    torch.manual_seed(1)
    inputs = inputs or [torch.randn(shape) for shape in net.input_shapes.values()]
    with torch.inference_mode():
        want, got = net(*inputs, blobs=blobs), other(*inputs, blobs=blobs)
    for name in blobs:
        scale = max(float(want[name].abs().max()) if want[name].numel() else 0.0, 1e-3)
        assert got[name].shape == want[name].shape
        difference = float((got[name] - want[name]).abs().max()) / scale if want[name].numel() else 0.0
        assert difference <= TOLERANCE, f"{name}: {difference:.1e}"


def types(net: CaffeNet) -> list[str]:
    return [step.type for step in net.program.steps]


AFFINE = {"BatchNorm", "Scale", "BN", "Bias"}


@pytest.mark.parametrize("case", FOLDS)
def test_the_folded_net_has_fewer_layers_and_the_same_blobs(case: str, tmp_path: Path) -> None:
    files = drawn(tmp_path, FOLDS[case])
    net = convert(*files)
    other = folded(*files)
    assert not AFFINE & set(types(other)), other.notes
    moved = "overwritten in between" in case  # the convolution has to stay in front of the layer that overwrites
    assert (other.outputs[::-1] if moved else other.outputs) == net.outputs and other.inputs == net.inputs
    assert len(other.changes) == 1 and "folded" in other.changes[0] and not other.notes
    same = other.blobs if "in front of one, in place" not in case else other.outputs  # there x is what BatchNorm read
    assert_same_blobs(net, other, same)


@pytest.mark.parametrize("case", LEFT)
def test_what_cannot_be_folded_exactly_is_left_and_said(case: str, tmp_path: Path) -> None:
    text, reason = LEFT[case]
    files = drawn(tmp_path, text)
    net = convert(*files)
    with pytest.warns(CaffezooWarning, match="not folded"):
        other = convert(*files, fold_batchnorm=True)
    assert types(other) == types(net) and reason in " ".join(other.notes), other.notes
    assert_same_blobs(net, other, net.blobs)


@pytest.mark.parametrize("case", ["in blobs of their own", "behind a deconvolution with groups", "behind a transposed inner product"])
def test_the_folded_net_has_a_prototxt_and_a_caffemodel_of_its_own(case: str, tmp_path: Path) -> None:
    other = folded(*drawn(tmp_path, FOLDS[case]))
    prototxt, weights = tmp_path / "folded.prototxt", tmp_path / "folded.caffemodel"
    prototxt.write_text(other.prototxt)
    save_caffemodel(other, weights)
    assert_same_blobs(other, convert(prototxt, weights), other.blobs)
    again = convert(prototxt)
    again.load_state_dict(other.state_dict())  # strict
    assert_same_blobs(other, again, other.blobs)


def test_a_net_in_memory_is_folded_with_the_values_that_it_has_now(tmp_path: Path) -> None:
    net = convert(*drawn(tmp_path, FOLDS["in place behind a convolution"]))
    with torch.no_grad():
        for value in net.parameters():
            value.add_(0.25)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    other = fold_batchnorm(net)
    assert types(other) == ["Convolution", "ReLU"] and "folded" in other.changes[0]
    assert_same_blobs(net, other, other.blobs)
    other.conv_x.weight.data.zero_()  # type: ignore[union-attr, operator]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    net.conv_x = torch.nn.Conv2d(4, 7, 3)
    with pytest.raises(MismatchError, match="no longer those of its prototxt: conv_x"):
        fold_batchnorm(net)


def test_a_net_of_the_training_phase_keeps_the_batch_s_statistics(tmp_path: Path) -> None:
    net = convert(drawn(tmp_path, IMAGE + convolution("data", "x") + norm("x", "y"))[0], phase="TRAIN")
    with pytest.warns(CaffezooWarning, match="the batch's statistics"):
        assert types(fold_batchnorm(net)) == types(net)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".py"])
def test_the_forms_that_run_alone_are_written_of_a_folded_net(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are read back in a fresh process and compared with the folded net before they appear."""
    pytest.importorskip("onnxruntime", reason="the extra `onnx`")
    from converter.cli import main

    two = FOLDS["between two"] + layer("Pooling", "x", "p", "pooling_param { kernel_size: 2 }")
    out = tmp_path / f"folded{suffix}"
    main([*map(str, drawn(tmp_path, two)), "-o", str(out), "--fold-batchnorm"])
    said = capsys.readouterr().out
    assert out.exists() and "3 layers, " in said and "folded into the 2 layers beside them: 2 BatchNorm, 1 Scale" in said
    assert "read back by" in said


@pytest.mark.parametrize("suffix", [".safetensors", ".caffemodel"])
def test_saving_a_folded_net_writes_its_prototxt(suffix: str, tmp_path: Path) -> None:
    other = folded(*drawn(tmp_path, FOLDS["in front and behind"]))
    other.save(tmp_path / f"folded{suffix}")
    again = convert(tmp_path / "folded.prototxt", tmp_path / "folded.caffemodel" if suffix == ".caffemodel" else None)
    if suffix == ".safetensors":
        again.load_state_dict(load_file(tmp_path / "folded.safetensors"))
    assert_same_blobs(other, again, other.blobs)
    with pytest.raises(ConversionError, match="choose another name"):
        other.save(tmp_path / f"net{suffix}")  # net.prototxt is the user's


def test_a_value_that_would_be_no_number_is_left(tmp_path: Path) -> None:
    prototxt, weights = drawn(tmp_path, IMAGE + convolution("data", "x") + norm("x", "y", "eps: 0"))
    net = convert(prototxt, weights)
    net.BatchNorm_y.running_var.zero_()  # type: ignore[union-attr, operator]
    save_caffemodel(net, weights)
    other = folded(prototxt, weights)
    assert types(other) == types(net) and "no numbers" in other.notes[0]


def test_without_weights_the_structure_is_folded(tmp_path: Path) -> None:
    prototxt, weights = drawn(tmp_path, FOLDS["in front and behind"])
    assert types(folded(prototxt, None)) == types(folded(prototxt, weights)) == ["Convolution"]
    assert folded(prototxt, None, num_output={"conv_y": 8}).conv_y.weight.shape == (8, 4, 1, 1)  # type: ignore[union-attr]


def test_a_net_without_such_layers_stays_as_it_is(tmp_path: Path) -> None:
    other = folded(*drawn(tmp_path, IMAGE + convolution("data", "x")))
    assert other.notes == ("there is no BatchNorm or Scale layer to fold",) and types(other) == ["Convolution"]


def _golden_with_affine_layers() -> list[str]:
    return [case for case in CASES if any(f'"{kind}"' in files(case)[0].read_text() for kind in AFFINE)]


@pytest.mark.parametrize("case", _golden_with_affine_layers())
def test_the_golden_nets_compute_the_same_when_folded(case: str) -> None:
    net, other = convert(*files(case)), folded(*files(case))
    given = arrays(case, "input")
    assert_same_blobs(net, other, other.blobs, [torch.from_numpy(given[name]) for name in net.inputs])


MODELS = {"landmark106": 4, "mobilefacenet": 2, "mtcnn_det1_bn": 0, "tiny_test": 0, "yolo_seg_lite": 0}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_trained_models_compute_the_same_when_folded(name: str) -> None:
    folder = SHARED / "models" / name
    if not folder.is_dir():
        pytest.skip("the trained models are other people's files: not part of the project")
    pair = folder / "net.prototxt", folder / "net.caffemodel"
    net, other = convert(*pair), folded(*pair)
    assert sum(kind in AFFINE for kind in types(other)) <= MODELS[name] < sum(kind in AFFINE for kind in types(net))
    assert_same_blobs(net, other, other.blobs)
