"""Every layer type against the numbers that Caffe itself computed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import CASES, arrays, assert_as_caffe, converted, files, inputs

from converter.layers import layer_types
from converter.read.v1_types import V1_FORK_TYPES

# Types without a golden case: their numbers are in test_layers_by_hand.py and test_fork_layers.py, their refusals in test_graph.py
ELSEWHERE = {"Flip", "HDF5Output", "InfogainLoss", "Parameter", "Python", "Reverse", "Silence"}
ELSEWHERE |= {"Gather", "Split", "Transpose", "Python:SSH.layers.proposal_layer.ProposalLayer"}
# test_window_layers.py
ELSEWHERE |= {"DECONVOLUTION3D", "Deconvolution3D", "NdConvolution", "NdPooling", "PoolingSK", "SpatialPyramidPooling"}
ELSEWHERE |= {"SpatialDropout"}  # test_test_time_layers.py
ELSEWHERE |= {
    "ConvolutionSK",
    "InnerDistance",
    "LargeMarginInnerProduct",
    "Local",
    "SparseInnerProduct",
    "Unpooling",
}  # test_rare_layers.py
ELSEWHERE |= {"Mergecrop"}  # MergeCrop's older name
ELSEWHERE |= {"Python:layers.text_proposal_layer.ProposalLayer"}  # test_proposals.py
ELSEWHERE |= {"EltwiseAffine", "GradientScaler", "RReLU", "SeLu", "SeLuDropout"}  # test_branches.py
# test_branches.py, test_detectnet.py
ELSEWHERE |= {"FasterRcnnDetectionOutput", "SimplerNMS", "Python:caffe.layers.detectnet.clustering.ClusterDetections"}
ELSEWHERE |= {"CROP", "CropCenter", "LRNMap", "SimpleCrop"}  # test_crops.py
SOURCES = {"Input", "Data", "ImageData", "HDF5Data", "MemoryData", "DummyData", "WindowData"}


@pytest.mark.parametrize("case", CASES)
def test_the_converted_net_computes_what_caffe_computed(case: str) -> None:
    net = converted(case)
    with torch.inference_mode():
        assert_as_caffe(case, net(*inputs(case, net), blobs=tuple(arrays(case, "output"))))


def test_every_layer_type_has_a_golden_case() -> None:
    texts = [files(case)[0].read_text() for case in CASES]
    named = {name for text in texts for name in re.findall(r'type: "?([A-Za-z]\w*)', text)}
    python = {f"Python:{module}.{name}" for text in texts for module, name in re.findall(r'module: "(\S+)"\s+layer: "(\w+)"', text)}
    seen = named | {V1_FORK_TYPES.get(name, name) for name in named} | python
    assert set(layer_types()) - SOURCES - ELSEWHERE <= seen


def _outputs(net: Any, result: Any) -> dict[str, torch.Tensor]:
    return result if isinstance(result, dict) else {net.outputs[0]: result}


@pytest.mark.parametrize("case", CASES)
def test_the_generated_source_computes_the_same(case: str, tmp_path: Path) -> None:
    net = converted(case)
    path = tmp_path / "generated.py"
    net.to_source(path)
    spec = importlib.util.spec_from_file_location("generated", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    twin = module.Net().eval()
    twin.load_state_dict(net.state_dict())
    assert twin.inputs == net.inputs and twin.outputs == net.outputs
    with torch.inference_mode():
        want = _outputs(net, net(*inputs(case, net)))
        got = _outputs(net, twin(*inputs(case, net)))
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("case", CASES)
def test_the_fx_graph_computes_the_same(case: str) -> None:
    net = converted(case)
    graph = net.to_fx()
    assert set(graph.state_dict()) == set(net.state_dict())
    with torch.inference_mode():
        want = _outputs(net, net(*inputs(case, net)))
        got = _outputs(net, graph(*inputs(case, net)))
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=0, equal_nan=True)


def test_golden_cases_are_all_here() -> None:
    assert CASES
    assert all(files(case)[0].exists() for case in CASES)
