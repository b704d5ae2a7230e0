"""CaffeNet as a PyTorch module: blobs, batches, sizes, compile, export, what it costs."""

from __future__ import annotations

import copy
import io
import time
from pathlib import Path

import pytest
import torch
from golden import converted, inputs
from torch import nn

from converter import convert
from converter.net import CaffeNet

FACE = """
name: "small"
input: "data" input_shape { dim: 1 dim: 3 dim: 24 dim: 24 }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "PReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { kernel_size: 3 stride: 2 pool: MAX } }
layer { name: "bn" type: "BatchNorm" bottom: "pool1" top: "bn" batch_norm_param { use_global_stats: false } }
layer { name: "conv2" type: "Convolution" bottom: "bn" top: "conv2"
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "score" type: "Pooling" bottom: "conv2" top: "score" pooling_param { pool: AVE global_pooling: true } }
layer { name: "prob" type: "Softmax" bottom: "score" top: "prob" }
"""


@pytest.fixture
def net(tmp_path: Path) -> CaffeNet:
    torch.manual_seed(0)
    path = tmp_path / "net.prototxt"
    path.write_text(FACE)
    return convert(path)


def images(n: int, size: int = 24) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_state_dict_keys_are_layer_and_blob(net: CaffeNet) -> None:
    keys = {"conv1.weight", "conv1.bias", "relu1.weight", "conv2.weight", "conv2.bias"}
    assert set(net.state_dict()) == keys | {"bn.running_mean", "bn.running_var", "bn.num_batches_tracked"}
    assert not net.training


def test_named_blobs_are_what_they_are_after_in_place_layers(net: CaffeNet) -> None:
    x = images(2)
    found = net(x, blobs=("conv1", "prob", "data"))
    assert torch.equal(found["conv1"], net.relu1(net.conv1(x)))
    assert torch.equal(found["prob"], net(x))
    assert torch.equal(found["data"], x)


def test_layers_behind_the_wanted_blobs_do_not_run(net: CaffeNet) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("conv2 ran")

    handle = net.conv2.register_forward_hook(refuse)
    net(images(1), blobs=("pool1",))
    handle.remove()


def test_a_layer_can_be_replaced_by_assignment(net: CaffeNet) -> None:
    net.conv2 = nn.Conv2d(8, 7, 3)
    assert net(images(2)).shape == (2, 7, 1, 1)


def test_any_batch_and_image_size_runs(net: CaffeNet) -> None:
    for n, size in ((1, 24), (5, 24), (2, 37), (3, 64)):
        assert net(images(n, size)).shape == (n, 4, 1, 1)


def test_a_wrong_number_of_tensors_names_the_inputs(net: CaffeNet) -> None:
    with pytest.raises(TypeError, match=r"takes 1 tensor \(data\), not 2"):
        net(images(1), images(1))


def test_an_unknown_blob_names_the_known_ones(net: CaffeNet) -> None:
    with pytest.raises(KeyError, match="no blob 'fc7'; it has data, conv1"):
        net(images(1), blobs=("fc7",))


def test_copies_and_saved_nets_are_independent_and_equal(net: CaffeNet) -> None:
    x = images(2)
    twin = copy.deepcopy(net)
    assert torch.equal(twin(x), net(x))
    with torch.no_grad():
        twin.conv1.weight.zero_()
    assert not torch.equal(twin(x, blobs=("conv1",))["conv1"], net(x, blobs=("conv1",))["conv1"])
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    buffer.seek(0)
    twin.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(twin(x), net(x))


def test_gradients_reach_every_parameter(net: CaffeNet) -> None:
    net(images(3), blobs=("conv2",))["conv2"].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in net.named_parameters() if "bias" not in name)


def test_activations_are_freed_at_their_last_use(tmp_path: Path) -> None:
    """In a chain of 40 large layers no more than a few activations are alive at once."""
    layers = [f'layer {{ name: "l{i}" type: "Power" bottom: "x{i}" top: "x{i + 1}" power_param {{ shift: 1 }} }}' for i in range(40)]
    path = tmp_path / "net.prototxt"
    path.write_text('input: "x0" input_shape { dim: 1 dim: 1000 } ' + " ".join(layers))
    net = convert(path)
    alive: list[torch.Tensor] = []
    most = 0

    def count(module: nn.Module, arguments: object, result: torch.Tensor) -> None:
        nonlocal most
        import weakref

        alive.append(weakref.ref(result))  # type: ignore[arg-type]
        most = max(most, sum(ref() is not None for ref in alive))

    for module in net.children():
        module.register_forward_hook(count)
    with torch.inference_mode():
        assert torch.equal(net(torch.zeros(1, 1000)), torch.full((1, 1000), 40.0))
    assert most <= 2


@pytest.mark.parametrize("case", ["Graph-0", "LSTM-1", "Pooling-1", "Slice-0", "SoftmaxWithLoss-0"])
def test_torch_export_gives_the_same_numbers(case: str) -> None:
    net = converted(case)
    x = inputs(case, net)
    exported = torch.export.export(net, tuple(x)).module()
    with torch.inference_mode():
        want, got = net(*x), exported(*x)
    for a, b in zip(want.values() if isinstance(want, dict) else [want], got.values() if isinstance(got, dict) else [got], strict=True):
        torch.testing.assert_close(a, b)


def test_torch_export_keeps_the_batch_dynamic(net: CaffeNet) -> None:
    exported = torch.export.export(net, (images(2),), dynamic_shapes=(({0: torch.export.Dim("batch", min=1, max=64)},),)).module()
    torch.testing.assert_close(exported(images(7)), net(images(7)))


@pytest.mark.parametrize("case", ["Graph-0", "Eltwise-1", "Deconvolution-2"])
def test_torch_compile_traces_the_whole_net(case: str) -> None:
    net = converted(case)
    x = inputs(case, net)
    compiled = torch.compile(net, backend="eager", fullgraph=True)  # the tracing is what is ours; inductor is torch's
    with torch.inference_mode():
        want, got = net(*x), compiled(*x)
    for a, b in zip(want.values() if isinstance(want, dict) else [want], got.values() if isinstance(got, dict) else [got], strict=True):
        torch.testing.assert_close(a, b)


def test_running_the_net_calls_nothing_but_its_modules(tmp_path: Path) -> None:
    """The loop around the modules is a dictionary read and write a layer; benchmarks/overhead.py has the microseconds."""
    layers = [f'layer {{ name: "l{i}" type: "ReLU" bottom: "x" top: "x" }}' for i in range(300)]
    path = tmp_path / "net.prototxt"
    path.write_text('input: "x" input_shape { dim: 1 dim: 1 } ' + " ".join(layers))
    net, by_hand = convert(path), nn.Sequential(*[nn.ReLU() for _ in range(300)])
    x = torch.zeros(1, 1)
    calls = {"net": 0, "hand": 0}
    for name, module in (("net", net), ("hand", by_hand)):
        for child in module.children():
            child.register_forward_pre_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))  # type: ignore[misc]
        module(x)
    assert calls == {"net": 300, "hand": 300}


def test_a_net_is_converted_in_one_go_without_torch_dynamo(tmp_path: Path) -> None:
    """torch's meta kernels would import it: more than a second at every start (see converter/meta.py)."""
    import subprocess
    import sys

    path = tmp_path / "net.prototxt"
    path.write_text(FACE.replace("use_global_stats: false", "use_global_stats: true"))
    heavy = "print('torch._dynamo' in sys.modules, 'sympy' in sys.modules)"
    code = f"import sys; from converter import convert; convert({str(path)!r}); {heavy}"
    start = time.perf_counter()
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "False"], f"after {time.perf_counter() - start:.1f} s"
