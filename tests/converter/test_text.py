"""Our reader of protobuf's text format: its grammar, its errors, and protobuf's own reader as the judge."""

from __future__ import annotations

import json
import math
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from converter.errors import PrototxtError
from converter.read.prototxt import parse_prototxt, read_prototxt
from converter.read.schema import message_class
from converter.read.text import Document, read_text

GOLDEN = Path(__file__).parent.parent / "golden"
CORPUS = Path(__file__).parents[2].parent / "shared" / "corpus"


def read(text: str, name: str = "NetParameter") -> Document:
    return read_text(text, message_class(name)(), "net.prototxt")


def layer_of(text: str) -> Any:
    """The one layer of a text, which is put between layer { and }."""
    (layer,) = read(f"layer {{ {text} }}").message.layer
    return layer


# ------------------------------------------------------------------------------------------------------- grammar

SAME_LAYER = 'name: "a" type: "Pooling" bottom: "x" bottom: "y" pooling_param { pool: AVE kernel_size: 3 pad: 1 }'
SPELLINGS = {
    "one line": SAME_LAYER,
    "comments": '# first\nname: "a" # a name: "b"\n#\ntype: "Pooling" bottom: "x" bottom: "y" '
    "pooling_param { # {\n pool: AVE kernel_size: 3 # }\n pad: 1 } # end\n",
    "CRLF": SAME_LAYER.replace(" ", "\r\n"),
    "tabs and form feeds": SAME_LAYER.replace(" ", "\t\f\v "),
    "no spaces": 'name:"a"type:"Pooling"bottom:"x"bottom:"y"pooling_param{pool:AVE,kernel_size:3,pad:1}',
    "single quotes": SAME_LAYER.replace('"', "'"),
    "adjacent strings": """name: "a" '' type: "Poo" # c\n 'ling' bottom: "x" bottom: 'y' "" """
    """pooling_param { pool: AVE kernel_size: 3 pad: 1 }""",
    "lists": 'name: "a" type: "Pooling" bottom: ["x", \'y\'] pooling_param { pool: AVE kernel_size: 3 pad: 1 }',
    "lists and repeats": 'name: "a" type: "Pooling" bottom: [] bottom: ["x"] bottom: "y" '
    "pooling_param: { pool: AVE kernel_size: 3 pad: 1 }",
    "angle brackets": 'name: "a" type: "Pooling" bottom: "x" bottom: "y" pooling_param < pool: AVE kernel_size: 3 pad: 1 >',
    "a colon before a message": 'name: "a" type: "Pooling" bottom: "x" bottom: "y" pooling_param : < pool: AVE kernel_size: 3 pad: 1 >',
    "semicolons": 'name: "a"; type: "Pooling"; bottom: "x"; bottom: "y"; pooling_param { pool: AVE; kernel_size: 3; pad: 1; };',
    "commas": 'name: "a", type: "Pooling", bottom: "x", bottom: "y", pooling_param { pool: AVE, kernel_size: 3, pad: 1, },',
    "an enum as a number": SAME_LAYER.replace("AVE", "1"),
    "hexadecimal and octal": 'name: "a" type: "Pooling" bottom: "x" bottom: "y" pooling_param { pool: 0x1 kernel_size: 0X3 pad: 01 }',
    "a scalar twice: the last wins": 'name: "z" name: "a" type: "?" type: "Pooling" '
    'bottom: "x" bottom: "y" pooling_param { pool: MAX pool: AVE kernel_size: 3 pad: 1 }',
    "a message twice: merged": 'name: "a" type: "Pooling" pooling_param { pool: MAX } '
    'bottom: "x" bottom: "y" pooling_param { pool: AVE kernel_size: 3 pad: 1 }',
    "escapes": r'name: "\141" type: "Po\x6fling" bottom: "\170" bottom: "\x79" pooling_param { pool: AVE kernel_size: 3 pad: 1 }',
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_of_one_layer_read_alike(name: str) -> None:
    wanted = message_class("LayerParameter")(
        name="a", type="Pooling", bottom=["x", "y"], pooling_param={"pool": 1, "kernel_size": [3], "pad": [1]}
    )
    assert layer_of(SPELLINGS[name]) == wanted


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (r'"\n\t\r\a\b\f\v"', "\n\t\r\a\b\f\v"),
        (r'"\\ \" \' \?"', "\\ \" ' ?"),
        (r"'\"'", '"'),
        (r'"\0"', "\0"),
        (r'"\1018"', "A8"),
        (r'"\x41f"', "Af"),
        (r'"\303\251"', "é"),
        ('"é 日本"', "é 日本"),
        ('"a#b"', "a#b"),
        ('"a/b.c d"', "a/b.c d"),
        ("''", ""),
        ('"a" "b" \'c\'', "abc"),
        (r'"\\n"', "\\n"),
    ],
)
def test_strings_and_their_escapes(written: str, value: str) -> None:
    assert layer_of(f"name: {written}").name == value


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1", 1),
        ("-1", -1),
        ("- 1", -1),
        ("1.", 1),
        (".5", 0.5),
        ("1.f", 1),
        ("1f", 1),
        ("1.5F", 1.5),
        ("1e3", 1000),
        ("1E-3", 0.001),
        ("1.e2f", 100),
        ("0x10", 16),
        ("-0x1F", -31),
        ("inf", math.inf),
        ("-inf", -math.inf),
        ("Infinity", math.inf),
        ("-INF", -math.inf),
        ("1e400", math.inf),
        ("1e-400", 0),
        ("00012.5", 12.5),
        ("1e39", math.inf),
    ],
)
def test_floats(written: str, value: float) -> None:
    assert layer_of(f"power_param {{ scale: {written} }}").power_param.scale == pytest.approx(value)


@pytest.mark.parametrize("written", ["nan", "NaN", "-nan"])
def test_nan_is_a_float(written: str) -> None:
    assert math.isnan(layer_of(f"power_param {{ scale: {written} }}").power_param.scale)


@pytest.mark.parametrize(
    ("written", "value"),
    [("7", 7), ("-7", -7), ("0x7f", 127), ("-0x80000000", -(1 << 31)), ("017", 15), ("2147483647", (1 << 31) - 1), ("0", 0), ("-0", 0)],
)
def test_whole_numbers(written: str, value: int) -> None:
    assert layer_of(f"softmax_param {{ axis: {written} }}").softmax_param.axis == value


@pytest.mark.parametrize(
    ("written", "value"),
    [("true", True), ("false", False), ("1", True), ("0", False), ("t", True), ("f", False), ("True", True), ("False", False)],
)
def test_booleans(written: str, value: bool) -> None:
    found = layer_of(f"convolution_param {{ bias_term: {written} }}").convolution_param
    assert found.HasField("bias_term")
    assert found.bias_term is value


def test_layers_keep_their_lines_and_their_order_across_kinds() -> None:
    document = read('# a comment\nlayers { name: "a" }\nlayer\n{ name: "b" }\n\nlayers {\n name: "c" } layer { name: "d" }')
    held = {"layer": document.message.layer, "layers": document.message.layers}
    assert [(held[p.kind][p.index].name, p.line) for p in document.layers] == [("a", 2), ("b", 4), ("c", 6), ("d", 7)]


# --------------------------------------------------------------------------------------------------- the unknown


def test_unknown_fields_are_kept_with_path_line_and_value_under_their_layer() -> None:
    document = read(
        'name: "n"\nsome_new_thing: 3\nlayer {\n  name: "a"\n  quantized: true\n  fork_param { x: 1 inner { y: "z" } }\n'
        "  convolution_param {\n    num_output: 2\n    flavour: -3.5\n    list: [1, 2]\n    weight_filler { shape: 'round' }\n  }\n}\n"
        'layer { [some.extension/of.us]: 4 other: "a" "b" any { [x.y] { z: 1 } } }\nlast < >'
    )
    assert [(u.path, u.line, u.value) for u in document.unknown] == [(("some_new_thing",), 2, "3"), (("last",), 15, "")]
    first, second = document.layers
    assert [(u.path, u.line, u.value) for u in first.unknown] == [
        (("quantized",), 5, "true"),
        (("fork_param",), 6, ""),
        (("convolution_param", "flavour"), 9, "-3.5"),
        (("convolution_param", "list"), 10, "[1, 2]"),
        (("convolution_param", "weight_filler", "shape"), 11, "'round'"),
    ]
    assert [(u.path, u.value) for u in second.unknown] == [(("some.extension/of.us",), "4"), (("other",), '"a" "b"'), (("any",), "")]
    assert document.message.layer[0].convolution_param.num_output == 2


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("layer { pooling_param { pool: MEDIAN } }", ("pooling_param", "pool"), "MEDIAN"),
        ("layer { pooling_param { pool: 7 } }", ("pooling_param", "pool"), "7"),
        ("layer { pooling_param { pool: -1 } }", ("pooling_param", "pool"), "-1"),
        ("layers { type: WARP_CTC }", ("type",), "WARP_CTC"),
        ('layers { type: "Softmax" }', ("type",), "Softmax"),
        ("layer { include { phase: DEPLOY } }", ("include", "phase"), "DEPLOY"),
    ],
)
def test_unknown_enum_values_are_kept_and_leave_the_field_unset(text: str, path: tuple[str, ...], value: str) -> None:
    (place,) = read(text).layers
    assert [(u.path, u.value) for u in place.unknown] == [(path, value)]


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ('name: "a"\nlayer {\n  name: 3\n}', 3, 9, "quoted string"),
        ("layer {\n  convolution_param { num_output: -1 } }", 2, 35, "at least 0"),
        ("layer { convolution_param { num_output: 4294967296 } }", 1, 41, "num_output"),
        ("layer { convolution_param { num_output: 1.5 } }", 1, 41, "whole number"),
        ("layer { convolution_param { num_output: 09x } }", 1, 41, "no prototxt"),
        ("layer { convolution_param { bias_term: maybe } }", 1, 40, "true or false"),
        ("layer { convolution_param { bias_term: 2 } }", 1, 40, "true or false"),
        ("layer { power_param { scale: abc } }", 1, 30, "number"),
        ("layer { power_param { scale: 1.2.3 } }", 1, 30, "no prototxt"),
        ("layer { power_param { scale: --1 } }", 1, 31, "number"),
        ("layer { power_param { scale: [1] } }", 1, 31, "not a list"),
        ('layer { name: "a\n" }', 1, 15, "must end on its line"),
        ('layer { name: "a }', 1, 15, "must end on its line"),
        ('layer { name "a" }', 1, 14, "':'"),
        ("layer { pooling_param: 3 }", 1, 24, "message"),
        ("layer { name { } }", 1, 14, "single value"),
        ("layer { name: { } }", 1, 15, "single value"),
        ("layer { mystery 3 }", 1, 17, "'mystery'"),
        ("layer { mystery: }", 1, 18, "expected a value"),
        ("layer { bottom: ['a' 'b' }", 1, 26, "list"),
        ("layer { bottom: ['a', ] }", 1, 23, "quoted string"),
        ('layer {\n name: "a"\n', 3, 1, "inside a layer, which begins in line 1"),
        ("layer { pooling_param {\n", 2, 1, "pooling_param"),
        ("layer { } }", 1, 11, "name of a field"),
        ("layer { pooling_param { > }", 1, 25, "name of a field"),
        ("layer < }", 1, 9, "name of a field"),
        ("<<<<<<< HEAD\nlayer { }\n", 1, 1, "merge conflict"),
        ("layer { }\n=======\n", 2, 1, "no prototxt"),
        ("layer { [a.b { } }", 1, 14, "extension"),
        (r'layer { name: "\377" }', 1, 15, "UTF-8"),
        ("layer { name: ", 1, 15, "the end of the file"),
        ("\n\n  %", 3, 3, "no prototxt"),
    ],
)
def test_errors_name_line_and_column(text: str, line: int, column: int, words: str) -> None:
    with pytest.raises(PrototxtError) as error:
        read(text)
    assert str(error.value).startswith(f"net.prototxt, line {line}, column {column}: ")
    assert words in str(error.value)


@pytest.mark.parametrize("opened", ["a { ", "layer { pooling_param { ", "a: { ", "a < "])
def test_deep_nesting_is_an_error_and_not_a_stack_overflow(opened: str) -> None:
    with pytest.raises(PrototxtError, match=r"nested deeper than 100|takes|expected|name of a field|known"):
        read(opened * 100_000)
    with pytest.raises(PrototxtError, match="nested deeper than 100"):
        read("a { " * 101 + "}" * 101)
    read("a { " * 90 + "}" * 90)


@pytest.mark.parametrize(
    "text",
    [
        "layer { a: " + "1" * 300_000 + "x }",
        "layer { a: " + "1" * 150_000 + "." + "1" * 150_000 + "e }",
        'layer { a: "' + "b" * 3_000_000,
        'layer { a: "' + "\\x" * 500_000,
        "#" * 1_000_000,
        " " * 1_000_000 + "%",
        "a:1 " * 9_000 + "}",
        'a: "" ' + '"" ' * 100_000 + "}",
        "a" * 1_000_000,
        "-" * 100_000,
    ],
    ids=["digits", "decimals", "open string", "open escapes", "comment", "spaces", "fields", "strings", "a word", "minus signs"],
)
def test_hostile_texts_take_linear_time(text: str) -> None:
    started = time.process_time()
    try:
        read(text)
    except PrototxtError:
        pass
    else:
        assert text.startswith("#")  # the only one that is a prototxt: an empty one
    assert time.process_time() - started < 3


def test_more_unknown_fields_than_any_net_has_are_an_error() -> None:
    with pytest.raises(PrototxtError, match="more than 10000 fields"):
        read("a: 1 " * 10_001)


def test_broken_texts_end_in_an_error_or_a_message() -> None:
    """Seeded mutations of a valid text: cut, swapped and doubled pieces."""
    rng = random.Random(5)
    text = (
        'name: "n" layer { name: "a" type: "Convolution" bottom: [\'x\', "y"] '
        "convolution_param < num_output: 0x10 pad: [1, 2]; bias_term: true > } # end\n"
    )
    for _ in range(1500):
        pieces = list(text)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(pieces))
            pieces[at : at + rng.randint(0, 3)] = rng.choice(
                ["", "{", "}", "[", '"', "'", "\\", ":", "-", "0", "\n", "é", "\0", pieces[at] * 2]
            )
        try:
            document = read("".join(pieces))
        except PrototxtError as error:
            assert "line" in str(error)
        else:
            assert document.message.IsInitialized()


# ----------------------------------------------------------------------------------------- protobuf as the judge


def judged(text: str) -> Any:
    """What protobuf's own reader makes of it; None where it refuses."""
    message = message_class("NetParameter")()
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError:
        return None


V1_OF_FORKS = re.compile(r"layers \{[^}]* type: (BN|CONVOLUTION3D|POOLING3D|ROI_POOLING)\b")  # no values of caffe.proto's enum


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*/net.prototxt")), ids=lambda path: path.parent.name)
def test_golden_prototxts_read_as_protobuf_reads_them(path: Path) -> None:
    text = path.read_text()
    expected = judged(text)
    document = read(text)
    if V1_OF_FORKS.search(text):
        assert expected is None and document.unknown == []
        return
    assert expected is not None
    assert document.message == expected
    assert document.unknown == []


def _corpus(share: int) -> Iterator[dict[str, Any]]:
    if not (CORPUS / "manifest.jsonl").exists():
        pytest.skip("the corpus of public prototxts is not here")
    entries = [json.loads(line) for line in (CORPUS / "manifest.jsonl").read_text().splitlines()]
    entries = [e for e in entries if (CORPUS / e["file"]).stat().st_size < 200_000]
    yield from random.Random(3).sample(entries, min(share, len(entries)))


def test_public_prototxts_read_as_protobuf_reads_them() -> None:
    compared = 0
    for entry in _corpus(150):
        text = (CORPUS / entry["file"]).read_bytes().decode("utf-8-sig", "replace")
        expected = judged(text)
        if expected is None:
            continue
        document = read(text)
        assert document.message == expected, entry["file"]
        assert not document.unknown and not any(layer.unknown for layer in document.layers), entry["file"]
        compared += 1
    assert compared > 60


def test_files_that_bvlc_caffe_reads_have_no_unknown_fields_and_the_others_name_theirs() -> None:
    """The manifest holds true, or what protobuf said of the file with BVLC's own schema."""
    layer = message_class("LayerParameter").DESCRIPTOR
    forks = {known.name for known in layer.fields if known.number > 10_000}
    # Fields that forks add to messages of BVLC's, and that the schema here has too
    forks |= {field.name for known in layer.fields if known.message_type for field in known.message_type.fields}
    strict = strange = 0
    for entry in _corpus(300):
        verdict = entry["strict_bvlc_parse"]
        try:
            document = read((CORPUS / entry["file"]).read_bytes().decode("utf-8-sig", "replace"))
        except PrototxtError:
            assert verdict is not True, entry["file"]
            continue
        names = {u.path[-1] for u in document.unknown} | {u.path[-1] for layer in document.layers for u in layer.unknown}
        if verdict is True:
            assert not names, entry["file"]
            strict += 1
        elif field := re.search(r'has no field named "(\w+)"', verdict):
            assert field[1] in names | forks, (entry["file"], verdict)
            strange += 1
    assert strict > 50
    assert strange > 50


# ------------------------------------------------------------------------------------------------------ whole files


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"),
        ("layer { }".encode("utf-16"), "UTF-16"),
        (b"layer { \0 }", "binary"),
        (b"# nothing but a comment\n", "no layer"),
        (b'name: "n"\n', "no layer"),
        (b"width: 3\nheight: 4\n", "height"),
    ],
)
def test_files_that_are_no_prototxt_are_called_what_they_are(raw: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "deploy.prototxt"
    path.write_bytes(raw)
    with pytest.raises(PrototxtError, match=words) as error:
        read_prototxt(path)
    assert str(path) in str(error.value)


def test_a_missing_file_and_a_folder_are_errors_of_ours(tmp_path: Path) -> None:
    for path in (tmp_path / "none.prototxt", tmp_path):
        with pytest.raises(PrototxtError, match=str(path)):
            read_prototxt(path)


def test_a_byte_order_mark_and_latin_1_comments_are_read(tmp_path: Path) -> None:
    path = tmp_path / "deploy.prototxt"
    path.write_bytes(b'\xef\xbb\xbflayer { name: "a" type: "ReLU" }')
    assert [layer.name for layer in read_prototxt(path).layers] == ["a"]
    path.write_bytes(b'# caf\xe9\nlayer { name: "a" type: "ReLU" }')
    assert [layer.line for layer in read_prototxt(path).layers] == [2]


def test_a_text_in_memory_is_named_as_asked() -> None:
    with pytest.raises(PrototxtError, match="the text of the user"):
        parse_prototxt("", "the text of the user")
