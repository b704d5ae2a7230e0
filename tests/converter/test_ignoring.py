"""Fields that change nothing are passed over with a note; any other only on the user's word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from converter import CaffezooWarning, cli, convert
from converter.errors import GraphError, UnsupportedError
from tests.converter.test_graph import graph_of, inp, lay

IMAGE = inp("data", 1, 3, 8, 8)
CONV = "convolution_param { num_output: 2 kernel_size: 3 %s } %s"
ODD = IMAGE + lay("c", "Convolution", "data", "c", CONV % ("sparsity: 0.5", ""))


@pytest.mark.parametrize(
    ("inside", "beside", "said"),
    [
        ('weight_filler { type: "msra" alpha: 0.3 }', "", "weight_filler.alpha"),
        ("sparse_filler { a: 1 }", "", "sparse_filler"),
        ("", 'weight_filler { type: "xavier" }', "weight_filler"),
        ("", "blob_filler { value: 1 }", "blob_filler"),
        ("engine: SUPERB", "", "engine: SUPERB"),
        ("", "quantization_param { bw_params: 8 }", "int8 differs"),
    ],
)
def test_initial_values_engines_and_quantization_are_notes(inside: str, beside: str, said: str) -> None:
    graph = graph_of(IMAGE + lay("c", "Convolution", "data", "c", CONV % (inside, beside)))
    assert any(said in note for note in graph.notes)


def test_any_other_field_is_refused_with_the_words_to_type() -> None:
    with pytest.raises(
        UnsupportedError, match=r"sparsity.*--ignore convolution_param\.sparsity.*ignore=\('convolution_param\.sparsity',\)"
    ):
        graph_of(ODD)


@pytest.mark.parametrize("name", ["sparsity", "convolution_param.sparsity"])
def test_it_is_ignored_on_the_user_s_word_and_said(name: str) -> None:
    assert any("sparsity" in note and "as you asked" in note for note in graph_of(ODD, ignore=(name,)).notes)


def test_a_known_field_that_the_layer_does_not_read_may_be_ignored_too() -> None:
    text = IMAGE + lay("c", "Convolution", "data", "c", CONV % ("kernel_depth: 3", ""))
    with pytest.raises(UnsupportedError, match=r"--ignore convolution_param\.kernel_depth"):
        graph_of(text)
    graph = graph_of(text, ignore=("kernel_depth",))
    assert any("as you asked" in note for note in graph.notes)
    assert not graph.layers[1].message.convolution_param.HasField("kernel_depth")  # its own prototxt converts without the word


def test_a_word_that_no_layer_has_is_refused() -> None:
    with pytest.raises(GraphError, match=r"ignore names \['sparcity'\]"):
        graph_of(IMAGE + lay("r", "ReLU", "data", "y"), ignore=("sparcity",))


def test_the_command_takes_it_and_the_output_records_it(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(ODD)
    with pytest.warns(CaffezooWarning, match="sparsity"):
        net = convert(tmp_path / "net.prototxt", ignore=("sparsity",))
    assert any("sparsity" in note for note in net.notes)
    cli.main([str(tmp_path / "net.prototxt"), "-o", str(tmp_path / "net.safetensors"), "--ignore", "sparsity", "-q", "--random-weights"])
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        assert json.loads(file.metadata()["ignored"]) == ["sparsity"]
