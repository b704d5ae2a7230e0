"""What people get wrong in a prototxt, a command line or a call: the message leads to what is wrong, in words that can be typed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from converter import ConversionError, convert
from converter.cli import main

NET = """name: "net" input: "data" input_shape { dim: 1 dim: 3 dim: 4 dim: 4 }
layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param { pool: MAX kernel_size: 2 } }
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    return path


# What stands in the file, what a slip makes of it, what is said.
SLIPS: dict[str, tuple[str, str, str]] = {
    "a typographic quote": ('"data" top', "“data” top", "“ is a typographic quotation mark"),
    "a space that is none": ("layer {", "layer\u00a0{", "NO-BREAK SPACE (U+00A0)"),
    "a space without width": ("num_output:", "num_output\u200b:", "ZERO WIDTH SPACE (U+200B)"),
    "a colon of full width": ("num_output:", "num_output：", "FULLWIDTH COLON"),
    "a letter of another alphabet": ("num_output", "num_оutput", "CYRILLIC SMALL LETTER O"),
    "a dash for a minus": ("kernel_size: 1", "kernel_size: –1", "EN DASH"),
    "the middle of a merge conflict": ('name: "c"', '\n=======\nname: "c"', "git merge conflict"),
    "the base of a merge conflict": ('name: "c"', '\n||||||| base\nname: "c"', "git merge conflict"),
    "a comment of C++": ("num_output: 2", "num_output: 2 // two\n", "begins with #"),
    "an equals sign": ("num_output: 2", "num_output = 2", "stands a colon"),
    "a value in small letters": ("pool: MAX", "pool: max", "did you mean MAX?"),
    "a value in quotes": ("pool: MAX", 'pool: "MAX"', "did you mean MAX?"),
    "a value that is near": ("pool: MAX", "pool: AVERAGE", "did you mean AVE?"),
    "a value of nobody's": ("pool: MAX", "pool: 7", "Caffe's values are MAX; AVE; STOCHASTIC"),
    "a message by a short name": ("convolution_param", "conv_param", "did you mean convolution_param?"),
    "a field in capitals": ("kernel_size", "Kernel_Size", "did you mean kernel_size?"),
    "another framework's type": ('"Convolution"', '"Conv2d"', "Did you mean 'Convolution'?"),
    "another framework's dense layer": ('"Convolution"', '"Dense"', "Did you mean 'InnerProduct'?"),
    "no type": ('"Convolution"', '""', "has no type; a layer has one"),
    "a layer with a capital": ("layer { name", "Layer { name", "Caffe knows no field Layer (line 2; did you mean layer?)"),
    "inputs": ("input:", "inputs:", "did you mean input?"),
    "input_shapes": ("input_shape", "input_shapes", "did you mean input_shape?"),
    "dims": ("dim: 1", "dims: 1", "did you mean dim?"),
    "all in a stage": ('top: "c"', 'top: "c" include { stage: "deploy" }', "makes it in a stage: --stage deploy"),
}


@pytest.mark.parametrize(("right", "slip", "said"), SLIPS.values(), ids=SLIPS.keys())
def test_a_slip_in_a_prototxt_is_told_by_what_was_meant(right: str, slip: str, said: str, net: Path) -> None:
    assert right in NET
    net.write_text(NET.replace(right, slip, 1))
    with pytest.raises(ConversionError, match=re.escape(said)):
        convert(net)


SIZES = {
    ("dim: 1", "dim: -1"): "cannot have the shape (-1, 3, 4, 4); say the one that you mean: --input-shape data=1,3,4,4",
    ("kernel_size: 1", "kernel_size: 1 pad: 4000000000"): "it takes 1×2×8000000004×8000000004 values, more than any machine counts",
    ("dim: 4 dim: 4", "dim: 4000000000 dim: 4000000000"): "it takes 1×3×4000000000×4000000000 values, more than any machine counts",
}


@pytest.mark.parametrize(("change", "said"), SIZES.items())
def test_a_size_that_no_machine_has_is_told_in_our_words(change: tuple[str, str], said: str, net: Path) -> None:
    net.write_text(NET.replace(*change, 1))
    with pytest.raises(ConversionError, match=re.escape(said)):
        convert(net)


RULES = {
    'stage: "deploy"': "--stage deploy",
    "phase: TRAIN": "--phase TRAIN",
    "min_level: 2": "--level 2",
    'phase: TRAIN stage: "a"': "--stage a; --phase TRAIN",
}


@pytest.mark.parametrize(("rule", "options"), RULES.items())
def test_a_net_whose_rules_leave_everything_out_says_what_they_ask_for(rule: str, options: str, net: Path) -> None:
    net.write_text(re.sub(r'(top: "[cp]")', rf"\1 include {{ {rule} }}", NET))
    with pytest.raises(ConversionError, match=f"leave out layer 'c'.*; what they ask for: {options}"):
        convert(net)


def test_a_stage_that_no_rule_names_is_noted(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net.write_text(NET.replace('top: "p"', 'top: "p" exclude { stage: "bare" }'))
    main([str(net), "--stage", "bar"])
    assert "no layer's rules name the stage 'bar'; those are bare" in capsys.readouterr().err
    main([str(net), "--stage", "bare"])
    assert "rules" not in capsys.readouterr().err


SHAPES: list[object] = [
    "1,3,4,4", (1.5, 3, 4, 4), (1, 3, -1, 4), (1, 3, 0, 4), (1, 3, 2**40, 4), None, 5, ("1", "3", "4", "4"),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=map(repr, SHAPES))
def test_an_input_shape_that_is_none_is_refused_with_an_example(shape: Any, net: Path) -> None:
    with pytest.raises(ConversionError, match=r"input_shapes is \{'data': .*: expected .* \{'data': \(1, 3, 224, 224\)\}"):
        convert(net, input_shapes={"data": shape})


def test_input_shapes_without_names_are_refused_with_an_example(net: Path) -> None:
    with pytest.raises(ConversionError, match=r"expected names"):
        convert(net, input_shapes=(1, 3, 4, 4))  # type: ignore[arg-type]


def test_a_wrong_input_shape_comes_before_wrong_weights(net: Path, tmp_path: Path) -> None:
    weights = tmp_path / "net.caffemodel"
    convert(net).save(weights)
    with pytest.raises(ConversionError, match=r"^the input shape that was given is wrong: data=1,1,4,4; or "):
        convert(net, weights, input_shapes={"data": (1, 1, 4, 4)})


@pytest.mark.parametrize("given", ["data=1,3,99999999999999999999,8", "data=1,3,8,8 data=1,3,9,9", "data=", "1,3,8,8", "data:1,3,8,8"])
def test_a_wrong_option_is_a_matter_of_usage(given: str, net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(net), *(word for each in given.split() for word in ("--input-shape", each))])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "such as data=1,3,224,224" in said or "gives data two shapes, 1,3,8,8 and 1,3,9,9" in said


@pytest.mark.filterwarnings("ignore::converter.errors.CaffezooWarning")
def test_one_name_is_as_good_as_a_list_of_one(net: Path) -> None:
    net.write_text(NET.replace('top: "p"', 'top: "p" exclude { stage: "bare" }').replace("kernel_size: 1", "kernel_size: 1 strange: 5"))
    assert convert(net, stages="bare", ignore="strange").outputs == ("c",)


def test_the_text_of_a_prototxt_is_no_path() -> None:
    with pytest.raises(ConversionError, match="the path of a file that holds it"):
        convert(NET)


def test_an_output_that_is_a_folder_or_an_input_is_called_so(net: Path, tmp_path: Path) -> None:
    weights = tmp_path / "net.caffemodel"
    convert(net).save(weights)
    long = tmp_path / f"{'a' * 300}.pth"
    for output, said in ((tmp_path, "a folder; name the file"), (weights, "one of the input files"), (long, "File name too long")):
        with pytest.raises(SystemExit, match=said):
            main([str(net), str(weights), "-o", str(output)])
