"""The forks' pooling and volumes, beyond their golden cases: every field against loops written from the forks' sources."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from test_fork_layers import close, draw, net_of

from converter import ConversionError, convert, read_blobs, read_mean, save_caffemodel
from converter.write.encode import field, varint_field

FLT_MAX = numpy.finfo("f4").max


def pooled(x: Any, mode: str, kernel: Any, stride: Any, pad: Any, *, dilation: int = 1, ceil: bool = True, clip: bool = True,
           count_pad: bool = True) -> Any:  # fmt: skip
    """Pooling of (N, C, *spatial), one window after the other: naibaf7's pooling_layer.cu, C3D's pool3d_layer.cpp (not `clip`)."""
    axes = len(kernel)
    size = x.shape[2:]
    extent = [(k - 1) * dilation + 1 for k in kernel]
    room = [(size[i] + 2 * pad[i] - extent[i]) / stride[i] for i in range(axes)]
    n = [int(numpy.ceil(r) if ceil else numpy.floor(r)) + 1 for r in room]
    if clip and any(pad):
        n = [count - ((count - 1) * stride[i] >= size[i] + pad[i]) for i, count in enumerate(n)]
    out = numpy.zeros((*x.shape[:2], *n), "f8")
    for place in product(*map(range, n)):
        taps = [[place[i] * stride[i] - pad[i] + k * dilation for k in range(kernel[i])] for i in range(axes)]
        counted = numpy.prod([sum(t < size[i] + pad[i] if count_pad else 0 <= t < size[i] for t in taps[i]) for i in range(axes)])
        inside = [[t for t in taps[i] if 0 <= t < size[i]] for i in range(axes)]
        window = x[(slice(None), slice(None), *numpy.ix_(*inside))].reshape(*x.shape[:2], -1)
        value = window.max(-1, initial=-FLT_MAX) if mode == "MAX" else window.sum(-1) / counted
        out[(slice(None), slice(None), *place)] = value
    return out


@pytest.mark.parametrize("mode", ["MAX", "AVE"])
@pytest.mark.parametrize(
    ("fields", "how"),
    [
        ("kernel_size: 3 dilation: 2", {"dilation": 2}),
        ("kernel_size: 3 dilation: 2 dilation: 2 stride: 2 pad: 2", {"dilation": 2, "stride": (2, 2), "pad": (2, 2)}),
        ("kernel_size: 3 kstride: 3 pad: 1", {"dilation": 3, "pad": (1, 1)}),
        ("kernel_h: 3 kernel_w: 3 kstride_h: 2 kstride_w: 2 stride: 3", {"dilation": 2, "stride": (3, 3)}),
        ("kernel_size: 3 stride: 2 ceil_mode: false", {"stride": (2, 2), "ceil": False}),
        ("kernel_size: 3 stride: 2 pad: 1 dilation: 2 ceil_mode: false", {"dilation": 2, "stride": (2, 2), "pad": (1, 1), "ceil": False}),
        ("kernel_size: 3 stride: 2 pad: 1 avg_include_pad: false", {"stride": (2, 2), "pad": (1, 1), "count_pad": False}),
        ("kernel_size: 3 stride: 2 pad: 2 avg_include_pad: false", {"stride": (2, 2), "pad": (2, 2), "count_pad": False}),
        ("kernel_size: 3 stride: 2 pad: 2 avg_include_pad: true", {"stride": (2, 2), "pad": (2, 2)}),
    ],
)
def test_pooling_with_the_forks_fields_gives_what_loops_give(mode: str, fields: str, how: dict[str, Any], tmp_path: Path) -> None:
    x = draw(2, 2, 12, 9)
    net = net_of(tmp_path, f'type: "Pooling" pooling_param {{ pool: {mode} {fields} }}', x.shape)
    how = {"stride": (1, 1), "pad": (0, 0), **how}
    close(net(x), pooled(x.numpy(), mode, (3, 3), **how))


def test_the_mask_of_dilated_pooling_says_where_each_maximum_was(tmp_path: Path) -> None:
    x = draw(1, 2, 9, 8)
    y, mask = net_of(tmp_path, 'type: "Pooling" pooling_param { kernel_size: 2 dilation: 3 pad: 1 }', x.shape, tops=2)(x).values()
    close(x.flatten(2).gather(2, mask.flatten(2).long()).reshape(y.shape), y)


@pytest.mark.parametrize("mode", ["MAX", "AVE"])
def test_pooling_sk_is_pooling_with_its_kstride_as_dilation(mode: str, tmp_path: Path) -> None:
    x = draw(1, 3, 10, 11)
    net = net_of(tmp_path, f'type: "PoolingSK" pooling_param {{ pool: {mode} kernel_size: 2 stride: 2 kstride: 3 }}', x.shape)
    close(net(x), pooled(x.numpy(), mode, (2, 2), (2, 2), (0, 0), dilation=3))


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ('type: "PoolingSK" pooling_param { kernel_size: 2 pad: 1 }', "no pad"),
        ('type: "Pooling" pooling_param { kernel_size: 2 dilation: 2 kstride: 2 }', "only one of them"),
        ('type: "Pooling" pooling_param { kernel_size: 2 dilation: 0 }', "at least 1"),
        ('type: "Pooling" pooling_param { kernel_size: 2 dilation: 1 dilation: 1 dilation: 1 }', "one each for height and width"),
        ('type: "Pooling" pooling_param { global_pooling: true dilation: 2 }', "no dilation"),
        ('type: "Pooling" pooling_param { kernel_size: 2 kernel_depth: 2 }', "kernel_depth"),
        ('type: "Pooling" pooling_param { kernel_size: 2 torch_pooling: true }', "torch_pooling"),
        ('type: "SpatialPyramidPooling" spatial_pyramid_pooling_param { pool: AVE spatial_bin: 1 }', "say pool: MAX"),
        ('type: "SpatialPyramidPooling" spatial_pyramid_pooling_param { spatial_bin: 9 spatial_bin: 1 }', "spatial_bin of 9"),
        ('type: "SpatialPyramidPooling" spatial_pyramid_pooling_param { pool: MAX }', "positive spatial_bin"),
        ('type: "Pooling3D" pooling3d_param { kernel_size: 2 kernel_depth: 2 }', "(N, C, L, H, W)"),
        ('type: "Convolution3D" convolution3d_param { num_output: 2 kernel_size: 2 kernel_depth: 2 }', "(N, C, L, H, W)"),
        ('type: "NdPooling" pooling_param { kernel_shape { dim: 2 dim: 2 } }', "volumes"),
        ('type: "NdConvolution" convolution_param { num_output: 2 kernel_shape { dim: 2 dim: 2 } }', "volumes"),
    ],
)
def test_what_pooling_cannot_be_is_refused_with_the_reason(layer: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="layer 'op' of type") as caught:
        net_of(tmp_path, layer, (1, 2, 8, 8))
    assert reason in str(caught.value)


def test_spatial_pyramid_pooling_joins_max_poolings_of_about_each_bin(tmp_path: Path) -> None:
    x = draw(2, 3, 13, 10)
    bins = " ".join(f"spatial_bin: {b}" for b in (1, 2, 3, 6))
    net = net_of(tmp_path, f'type: "SpatialPyramidPooling" spatial_pyramid_pooling_param {{ pool: MAX {bins} scale: 1 }}', x.shape)
    levels = [pooled(x.numpy(), "MAX", (13 // b, 10 // b), (13 // b, 10 // b), (0, 0)).reshape(2, -1) for b in (1, 2, 3, 6)]
    close(net(x), numpy.concatenate(levels, 1)[..., None, None])


def test_pooling_may_have_a_size_for_each_axis(tmp_path: Path) -> None:
    x = draw(1, 2, 7, 8)
    fields = "kernel_size: 2 kernel_size: 3 stride: 2 stride: 1 pad: 1 pad: 0"
    net = net_of(tmp_path, f'type: "Pooling" pooling_param {{ pool: MAX {fields} }}', x.shape)
    close(net(x), pooled(x.numpy(), "MAX", (2, 3), (2, 1), (1, 0)))
    with pytest.raises(ConversionError, match="kernel_size has 3 values for 2 spatial axes"):
        net_of(tmp_path, 'type: "Pooling" pooling_param { kernel_size: 1 kernel_size: 2 kernel_size: 2 }', x.shape)


@pytest.mark.parametrize("mode", ["MAX", "AVE"])
def test_pooling_goes_over_volumes_too(mode: str, tmp_path: Path) -> None:
    x = draw(1, 2, 5, 7, 8)
    fields = "kernel_size: 1 kernel_size: 2 kernel_size: 3 stride: 1 stride: 2 stride: 2"
    net = net_of(tmp_path, f'type: "Pooling" pooling_param {{ pool: {mode} {fields} }}', x.shape)
    close(net(x), pooled(x.numpy(), mode, (1, 2, 3), (1, 2, 2), (0, 0, 0)))
    with pytest.raises(ConversionError, match="without pad, dilation"):
        net_of(tmp_path, f'type: "Pooling" pooling_param {{ pool: {mode} kernel_size: 2 pad: 1 }}', x.shape)


# ---------------------------------------------------------------------------------------------------------- volumes


@pytest.mark.parametrize(
    ("mode", "kernel", "stride", "pad"),
    [
        ("MAX", (2, 3, 3), (1, 2, 2), 0),
        ("AVE", (2, 3, 3), (1, 2, 2), 0),
        ("AVE", (3, 3, 3), (2, 2, 2), 1),
        ("MAX", (1, 2, 2), (3, 3, 3), 0),  # the last windows begin behind the volume
    ],
)
def test_c3d_pooling_gives_what_loops_give(mode: str, kernel: Any, stride: Any, pad: int, tmp_path: Path) -> None:
    x = draw(2, 2, 5, 7, 8)
    fields = f"kernel_size: {kernel[1]} kernel_depth: {kernel[0]} stride: {stride[1]} temporal_stride: {stride[0]} pad: {pad}"
    net = net_of(tmp_path, f'type: "Pooling3D" pooling3d_param {{ pool: {mode} {fields} }}', x.shape)
    close(net(x), pooled(x.numpy(), mode, kernel, stride, (0, pad, pad), clip=False))


@pytest.mark.parametrize("mode", ["MAX", "AVE"])
def test_nd_pooling_makes_whole_windows_only(mode: str, tmp_path: Path) -> None:
    x = draw(1, 2, 5, 8, 7)
    fields = "kernel_shape { dim: 2 dim: 3 dim: 3 } stride_shape { dim: 1 dim: 2 dim: 2 } pad_shape { dim: 0 dim: 1 dim: 1 }"
    net = net_of(tmp_path, f'type: "NdPooling" pooling_param {{ pool: {mode} {fields} }}', x.shape)
    close(net(x), pooled(x.numpy(), mode, (2, 3, 3), (1, 2, 2), (0, 1, 1), ceil=False))
    net = net_of(tmp_path, f'type: "NdPooling" pooling_param {{ pool: {mode} global_pooling: true }}', x.shape)
    close(net(x), (x.amax if mode == "MAX" else x.mean)((2, 3, 4), keepdim=True))


def test_nd_convolution_is_a_grouped_cross_correlation(tmp_path: Path) -> None:
    x, weight, bias = draw(2, 4, 5, 6, 7), draw(6, 2, 3, 2, 1, seed=1), draw(6, seed=2)
    shapes = "kernel_shape { dim: 3 dim: 2 dim: 1 } stride_shape { dim: 1 dim: 2 dim: 3 } pad_shape { dim: 1 dim: 0 dim: 2 }"
    layer = f'type: "NdConvolution" convolution_param {{ num_output: 6 group: 2 {shapes} }}'
    net = net_of(tmp_path, layer, x.shape, blobs=[weight, bias])
    padded = numpy.pad(x.numpy(), [(0, 0), (0, 0), (1, 1), (0, 0), (2, 2)])
    want = numpy.zeros((2, 6, 5, 3, 4))
    for n, o, *place in numpy.ndindex(*want.shape):
        a, b, c = place[0], place[1] * 2, place[2] * 3
        channels = slice(0, 2) if o < 3 else slice(2, 4)
        want[n, o, *place] = (padded[n, channels, a : a + 3, b : b + 2, c : c + 1] * weight[o].numpy()).sum() + float(bias[o])
    close(net(x), want)


def test_deconvolution3d_is_the_adjoint_of_the_convolution(tmp_path: Path) -> None:
    """<deconvolve(x), y> = <x, convolve(y)>."""
    x, weight = draw(1, 3, 4, 5, 6), draw(3, 2, 2, 3, 3, seed=1)
    fields = "num_output: 2 kernel_size: 3 kernel_depth: 2 stride: 2 temporal_stride: 1 pad: 1 temporal_pad: 0 bias_term: false"
    net = net_of(tmp_path, f'type: "Deconvolution3D" convolution3d_param {{ {fields} }}', x.shape, blobs=[weight])
    made = net(x)
    assert made.shape == (1, 2, 5, 9, 11)  # (n - 1) * stride - 2 * pad + kernel
    y = draw(*made.shape, seed=3)
    close((made * y).sum(), (x * F.conv3d(y, weight, None, (1, 2, 2), (0, 1, 1))).sum(), atol=1e-3)


C3D_V1 = """input: "data" input_dim: 1 input_dim: 2 input_dim: 4 input_dim: 6 input_dim: 6
layers {{ name: "conv" type: {0} bottom: "data" top: "conv"
  convolution_param {{ num_output: 4 kernel_size: 3 kernel_depth: 2 pad: 1 temporal_stride: 2 {1} }} }}
layers {{ name: "fc" type: INNER_PRODUCT bottom: "conv" top: "fc" inner_product_param {{ num_output: 3 }} }}"""


@pytest.mark.parametrize("name", ["CONVOLUTION3D", "DECONVOLUTION3D"])
def test_c3d_weights_come_back_with_their_five_axes(name: str, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(C3D_V1.format(name, ""))
    net = convert(tmp_path / "net.prototxt")
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    save_caffemodel(net, tmp_path / "net.caffemodel")
    assert read_blobs(tmp_path / "net.caffemodel")["conv"][1].shape == (1, 1, 1, 1, 4)
    again = convert(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    x = draw(1, 2, 4, 6, 6)
    close(again(x), net(x), atol=0)


@pytest.mark.parametrize("fields", ["filter_group: 3", "num_output: 0", "kernel_size: 0", "temporal_stride: 0"])
def test_a_convolution_over_volumes_that_cannot_be_is_refused(fields: str, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(C3D_V1.format("CONVOLUTION3D", fields))
    with pytest.raises(ConversionError, match="layer 'conv' of type 'CONVOLUTION3D'"):
        convert(tmp_path / "net.prototxt")


def test_only_one_input_may_have_five_input_dim(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text('input: "other" ' + "input_dim: 1 " * 5 + C3D_V1.format("CONVOLUTION3D", ""))
    with pytest.raises(ConversionError, match=r"C3D's only one five"):
        convert(tmp_path / "net.prototxt")


def c3d_blob(values: Any, packed: bool = True) -> bytes:
    """A BlobProto of C3D-v1.0: num, channels, length, height, width as fields 1 to 5, data 6, diff 7."""
    dims = (1,) * (5 - values.ndim) + values.shape
    head = b"".join(varint_field(i + 1, d) for i, d in enumerate(dims))
    floats = values.numpy().astype("<f4")
    if packed:
        return head + field(6, floats.tobytes()) + field(7, floats.tobytes())
    return head + b"".join(tag + value.tobytes() for tag in (b"\x35", b"\x3d") for value in floats.flatten())


@pytest.mark.parametrize("packed", [True, False])
def test_the_caffemodels_of_c3d_have_their_own_field_numbers(packed: bool, tmp_path: Path) -> None:
    x = draw(1, 2, 4, 6, 6)
    (tmp_path / "net.prototxt").write_text(C3D_V1.format("CONVOLUTION3D", ""))
    blobs = {"conv": [draw(4, 2, 2, 3, 3, seed=1), draw(4, seed=2)], "fc": [draw(3, 4 * 2 * 6 * 6, seed=3), draw(3, seed=4)]}
    layers = []
    for name, number in (("conv", 30), ("fc", 14)):
        body = b"".join(field(6, c3d_blob(value, packed)) for value in blobs[name])
        layers.append(field(2, field(3, name.encode()) + field(4, name.encode()) + varint_field(5, number) + body))
    path = tmp_path / "net.caffemodel"
    path.write_bytes(b"".join(layers))
    assert [b.shape for b in read_blobs(path)["fc"]] == [(1, 1, 1, 3, 288), (1, 1, 1, 1, 3)]
    (weight, bias), (rows, shift) = blobs["conv"], blobs["fc"]
    y = F.conv3d(x, weight, bias, (2, 1, 1), (0, 1, 1))
    close(convert(tmp_path / "net.prototxt", path)(x), y.flatten(1) @ rows.T + shift, atol=1e-3)
    with pytest.raises(ConversionError, match="C3D wrote this file"):
        convert(path)


def test_a_mean_of_c3d_keeps_its_frames(tmp_path: Path) -> None:
    mean = draw(1, 3, 4, 5, 6)
    (tmp_path / "mean.binaryproto").write_bytes(c3d_blob(mean))
    close(torch.from_numpy(read_mean(tmp_path / "mean.binaryproto")), mean[0], atol=0)


FUSED = """input: "x" input_shape {{ dim: 2 dim: 3 dim: 6 dim: 5 }}
layer {{ name: "c" type: "Convolution" bottom: "x" top: "c"
  convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 group: 1 {fuse} {relu} }} }}
{behind}"""


def test_a_relu_that_is_fused_with_a_convolution_is_computed_behind_it(tmp_path: Path) -> None:
    """fuse_type of BVLC's branch opencl, held against the two layers that it stands for."""
    slope = "relu_param { negative_slope: 0.1 }"
    fused, plain = tmp_path / "fused.prototxt", tmp_path / "plain.prototxt"
    fused.write_text(FUSED.format(fuse="fuse_type: FUSED_CONV_RELU", relu=slope, behind=""))
    plain.write_text(FUSED.format(fuse="", relu="", behind=f'layer {{ name: "r" type: "ReLU" bottom: "c" top: "c" {slope} }}'))
    one, two = convert(fused), convert(plain)
    torch.nn.init.normal_(two.c.weight), torch.nn.init.normal_(two.c.bias)  # type: ignore[arg-type,union-attr]
    one.load_state_dict(two.state_dict())
    x = torch.randn(2, 3, 6, 5)
    assert torch.equal(one(x), two(x)) and bool((two(x) < 0).any())
    fused.write_text(FUSED.format(fuse="fuse_type: FUSED_CONV_MAX_POOLING_RELU", relu="", behind=""))
    with pytest.raises(ConversionError, match="fuses more layers"):
        convert(fused)
