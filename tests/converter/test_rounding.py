"""--half, --bf16, and the files that a changed net leaves: as the command writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from test_folding import IMAGE, convolution, drawn, in_place, layer

from converter import convert, save_caffemodel
from converter.cli import main

NET = IMAGE + convolution("data", "x") + in_place("x") + layer("ReLU", "x", "x")


def command(*arguments: object) -> None:
    main(list(map(str, arguments)))


def loaded(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(("option", "dtype", "step"), [("--half", torch.float16, 2**-11), ("--bf16", torch.bfloat16, 2**-8)])
def test_a_state_dict_is_rounded_to_the_nearest(
    option: str, dtype: torch.dtype, step: float, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = drawn(tmp_path, NET)
    out = tmp_path / f"rounded{suffix}"
    command(*files, "-o", out, option)
    exact, state = convert(*files).state_dict(), loaded(out)
    assert state.keys() == exact.keys()
    for key, value in exact.items():
        assert state[key].dtype == (dtype if value.is_floating_point() else torch.int64)
        assert torch.equal(state[key], value.to(state[key].dtype))
    said = capsys.readouterr().out
    worst, key = max((float((state[key].float() - value).abs().max()), key) for key, value in exact.items())
    assert f"off by {worst:.1e} at most, in {key}" in said and worst <= step * max(float(v.abs().max()) for v in exact.values())
    net = convert(files[0])
    net.load_state_dict(state)  # a float32 net takes the rounded values


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_values_beyond_half_precision_are_refused_all_at_once(suffix: str, tmp_path: Path) -> None:
    prototxt, weights = drawn(tmp_path, NET)
    net = convert(prototxt, weights)
    with torch.no_grad():
        net.BatchNorm_x.running_var[1] = 81234.5  # type: ignore[union-attr, index, operator]
        net.Scale_x.bias[0] = -1e6  # type: ignore[union-attr, index, operator]
    save_caffemodel(net, weights)
    out = tmp_path / f"out{suffix}"
    with pytest.raises(SystemExit) as refused:
        command(prototxt, weights, "-o", out, "--half")
    words = str(refused.value)
    assert "BatchNorm_x.running_var reaches 81,234.5" in words and "Scale_x.bias reaches 1,000,000" in words and "--bf16" in words
    assert not out.exists()
    command(prototxt, weights, "-o", out, "--bf16")
    assert loaded(out)["Scale_x.bias"].isfinite().all()


def test_values_that_vanish_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prototxt, weights = drawn(tmp_path, NET)
    net = convert(prototxt, weights)
    with torch.no_grad():
        net.Scale_x.bias[:3] = torch.tensor([1e-9, 0, -1e-9])  # type: ignore[union-attr, index, operator]
    save_caffemodel(net, weights)
    command(prototxt, weights, "-o", tmp_path / "a.pth", "--half")
    assert "2 values are too small for it and became 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("output", "option", "words"),
    [("a.caffemodel", "--bf16", "no Caffe reads bfloat16"), ("a.py", "--half", "go with"), (None, "--bf16", "go with")],
)
def test_forms_without_such_values_are_a_usage_error(
    output: str | None, option: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = drawn(tmp_path, NET)
    with pytest.raises(SystemExit) as refused:
        command(*files, *(["-o", tmp_path / output] if output else []), option)
    assert refused.value.code == 2 and words in capsys.readouterr().err


CHANGES = ("--fold-batchnorm", "--input", "rgb01", "--mean", "10,20,30", "--scale", "0.5")
COLOUR = 'input: "data" input_shape { dim: 1 dim: 3 dim: 6 dim: 5 }\n' + convolution("data", "x", "kernel_size: 3") + in_place("x")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".caffemodel"])
def test_a_changed_net_comes_with_its_prototxt(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = drawn(tmp_path, COLOUR)
    out = tmp_path / f"changed{suffix}"
    command(*files, "-o", out, *CHANGES)
    said = capsys.readouterr().out
    assert "1 BatchNorm, 1 Scale" in said and "takes RGB in 0..1: BGR, mean 10, 20, 30, scale 0.5 folded into 'conv_x'" in said
    assert f"{out.with_suffix('.prototxt')}: the changed net" in said
    net = convert(out.with_suffix(".prototxt"), out if suffix == ".caffemodel" else None)
    if suffix != ".caffemodel":
        net.load_state_dict(loaded(out))
    image = torch.randint(0, 256, (1, 3, 6, 5))
    want = convert(*files)((image.flip(1) - torch.tensor([10.0, 20, 30]).view(3, 1, 1)) * 0.5)
    torch.testing.assert_close(net(image / 255), want, rtol=1e-5, atol=1e-4)
    if suffix == ".safetensors":
        with safe_open(out, "pt") as file:
            facts = file.metadata()
        assert len(json.loads(facts["changes"])) == 2 and json.loads(facts["preprocess"])["channels"] == "RGB"
        assert convert(out.with_suffix(".prototxt")).prototxt == facts["prototxt"]


def test_a_prototxt_of_somebody_else_is_not_written_over(tmp_path: Path) -> None:
    files = drawn(tmp_path, COLOUR)
    text = files[0].read_text()
    with pytest.raises(SystemExit) as refused:
        command(*files, "-o", tmp_path / "net.pth", *CHANGES)
    assert "choose another name" in str(refused.value) and files[0].read_text() == text and not (tmp_path / "net.pth").exists()
    for _ in range(2):
        command(*files, "-o", tmp_path / "mine.pth", *CHANGES)  # its own it writes again


@pytest.mark.parametrize("number", ["a", "1,2", "inf", ""])
def test_a_mean_that_is_no_number_is_a_usage_error(number: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        command(*drawn(tmp_path, COLOUR), "--mean", number)
    assert refused.value.code == 2 and "--mean" in capsys.readouterr().err
