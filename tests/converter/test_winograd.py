"""use_winograd: Winograd's convolution beside torch's direct one in float64, and when the direct one is taken."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from converter import CaffeNet, CaffezooWarning, convert, use_winograd
from converter.winograd import WinogradConvolution

TOLERANCE = 2e-5  # of the largest value: twice what 512 channels were seen to differ by
NET = """
name: "three" input: "data" input_shape { dim: 1 dim: 3 dim: 24 dim: 40 }
layer { name: "first" type: "Convolution" bottom: "data" top: "first" convolution_param {
  num_output: 96 kernel_size: 3 pad: 1 weight_filler { type: "msra" } bias_filler { type: "gaussian" } } }
layer { name: "relu" type: "ReLU" bottom: "first" top: "first" }
layer { name: "second" type: "Convolution" bottom: "first" top: "second" convolution_param {
  num_output: 128 kernel_size: 3 pad: 1 weight_filler { type: "msra" } bias_filler { type: "gaussian" } } }
layer { name: "pool" type: "Pooling" bottom: "second" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "dense" type: "InnerProduct" bottom: "pool" top: "dense" inner_product_param {
  num_output: 5 weight_filler { type: "xavier" } } }
"""


@pytest.fixture
def net(tmp_path: Path) -> CaffeNet:
    torch.manual_seed(3)
    (tmp_path / "net.prototxt").write_text(NET)
    return convert(tmp_path / "net.prototxt")


def off(found: Tensor, want: Tensor) -> float:
    assert found.shape == want.shape
    return float((found - want).abs().max() / want.abs().max())


def image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "shape, given, padding, bias",
    [
        ((1, 64, 16, 32), 96, 1, True),
        ((2, 70, 13, 17), 65, 0, False),  # sides that no tile divides
        ((3, 5, 4, 3), 7, 2, True),  # smaller than a tile
        ((9, 16, 14, 14), 8, (1, 0), True),  # several images in a band, and one band that is not full
        ((1, 8, 9, 300), 8, (0, 2), True),  # bands of one row
        ((2, 4, 70, 61), 3, 1, False),  # several bands an image
        ((1, 512, 8, 8), 32, 1, True),
    ],
)
def test_winograd_s_convolution_is_the_direct_one(
    shape: tuple[int, ...], given: int, padding: int | tuple[int, int], bias: bool, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    module = WinogradConvolution(shape[1], given, 3, padding=padding, bias=bias)
    x = image(*shape)
    with torch.no_grad():
        want = copy.deepcopy(module).double()(x.double())
        found = module.by_tiles(x.contiguous(memory_format=layout))
    assert off(found, want) < TOLERANCE


def test_a_net_computes_the_same_and_keeps_its_state_dict(net: CaffeNet) -> None:
    x, before = image(2, 3, 24, 40), copy.deepcopy(net.state_dict())
    with torch.no_grad():
        want = net(x, blobs=net.blobs)
        assert use_winograd(net) is net
        found = net(x, blobs=net.blobs)
    assert type(net.second) is WinogradConvolution and type(net.first) is nn.Conv2d
    assert all(off(found[name], want[name]) < TOLERANCE for name in net.blobs)
    assert not torch.equal(found["second"], want["second"])  # it was computed in another way
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(96, 96, 3, stride=2),
        nn.Conv2d(96, 96, 3, dilation=2),
        nn.Conv2d(96, 96, 3, groups=2),
        nn.Conv2d(96, 96, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(96, 96, 3, padding="same"),
        nn.Conv2d(96, 96, 3, padding=3),
        nn.Conv2d(96, 96, 5),
        nn.Conv2d(96, 96, (3, 1)),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.Conv3d(96, 96, 3),
        nn.ConvTranspose2d(96, 96, 3),
    ],
    ids=str,
)
def test_other_convolutions_stay_and_a_net_of_them_alone_is_told(module: nn.Module) -> None:
    kind = type(module)
    with pytest.warns(CaffezooWarning, match="no 3×3 convolution of stride 1"):
        use_winograd(nn.Sequential(module))
    assert type(module) is kind


@pytest.mark.parametrize(
    "case, shape, paid",
    [
        ("an image", (1, 96, 24, 40), True),
        ("few tiles", (1, 96, 12, 12), False),
        ("the same of two images", (2, 96, 12, 12), True),
        ("tiles of which half lies beside the output", (4, 96, 9, 9), False),
        ("float64", (1, 96, 24, 40), False),
        ("a gradient", (1, 96, 24, 40), False),
        ("autocast", (1, 96, 24, 40), False),
        ("a weight of inference mode", (1, 96, 24, 40), False),
    ],
)
def test_the_direct_way_is_taken_where_it_is_faster_or_has_to_be(case: str, shape: tuple[int, ...], paid: bool) -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(96, 96, 3, padding=1)
    x = image(*shape)
    if case == "float64":
        module, x = module.double(), x.double()
    if case == "a weight of inference mode":
        with torch.inference_mode():
            module = nn.Conv2d(96, 96, 3, padding=1)
    with torch.set_grad_enabled(case == "a gradient"), torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        x = x.to(memory_format=torch.channels_last)
        want = module.to(memory_format=torch.channels_last)(x)
        found = use_winograd(module)(x)
    assert torch.equal(found, want) != paid and off(found.detach(), want.detach()) < TOLERANCE
    assert found.requires_grad == (case == "a gradient")


def test_a_net_with_volumes_is_taken_too() -> None:
    net = use_winograd(nn.ModuleList([nn.Conv3d(2, 2, 3), nn.Conv2d(96, 96, 3)]))
    assert [type(module) for module in net] == [nn.Conv3d, WinogradConvolution]


def test_weights_that_change_are_changed_anew() -> None:
    torch.manual_seed(0)
    module, other = use_winograd(nn.Conv2d(96, 96, 3, padding=1)), nn.Conv2d(96, 96, 3)
    x = image(1, 96, 24, 40)

    def assert_as(weight: Tensor) -> None:
        with torch.no_grad():
            assert off(module(x), nn.functional.conv2d(x, weight, module.bias, padding=1)) < TOLERANCE

    with torch.inference_mode():
        module(x)
    assert_as(module.weight)  # and outside of inference mode
    module.load_state_dict(other.state_dict())
    assert_as(other.weight)
    with torch.no_grad():
        module.weight.mul_(3)
    assert_as(3 * other.weight)
    module.weight = nn.Parameter(5 * other.weight.detach())
    assert_as(5 * other.weight)
    copied = copy.deepcopy(module)
    assert copied._kept is None and module._kept is not None
    with torch.no_grad():
        assert torch.equal(copied(x), module(x))


def test_what_is_traced_or_written_is_the_plain_net(net: CaffeNet, tmp_path: Path) -> None:
    x = image(1, 3, 24, 40)
    with torch.no_grad():
        plain = copy.deepcopy(net).to(memory_format=torch.channels_last)
        program = torch.export.export(use_winograd(net), (x,)).module()
        assert torch.equal(program(x), plain(x)) and not torch.equal(net(x), plain(x))
    net.save(tmp_path / "net.caffemodel")
    net.save(tmp_path / "net.safetensors")
    again = convert(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in again.state_dict().items())
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in load_file(tmp_path / "net.safetensors").items())


def test_the_self_contained_source_computes_as_the_net(net: CaffeNet, tmp_path: Path) -> None:
    x = image(1, 3, 24, 40)
    use_winograd(net).save(tmp_path / "alone.py", check=False)
    alone = runpy.run_path(str(tmp_path / "alone.py"))["load"]()
    with torch.no_grad():
        assert type(alone.second).__name__ == "WinogradConvolution" and torch.equal(alone.to(memory_format=torch.channels_last)(x), net(x))


def test_torch_compile_leaves_it_as_it_is() -> None:
    torch.manual_seed(0)
    module = use_winograd(nn.Conv2d(96, 96, 3, padding=1))
    x = image(1, 96, 24, 40)
    with torch.no_grad():
        compiled: Any = torch.compile(module, backend="eager")
        assert torch.equal(compiled(x), module.by_tiles(x))
