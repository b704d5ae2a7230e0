"""BatchNorm as NVIDIA's and Intel's Caffe write it: fields, blob orders, and what a message says to type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from test_fork_layers import close, draw, net_of

from converter import ConversionError, convert, read_blobs, save_caffemodel
from converter.write.encode import write_caffemodel

X = draw(2, 3, 4, 5)
MEAN, SCALE, BIAS = draw(3, seed=1), draw(3, seed=2), draw(3, seed=3)
VARIANCE = draw(3, seed=4).abs() + 0.1
FACTOR = torch.tensor([4.0])


def normalized(mean: Any = MEAN, variance: Any = VARIANCE, scale: Any = 1.0, bias: Any = 0.0, eps: float = 1e-5) -> Any:
    mean, variance, scale, bias = (numpy.asarray(value, "f8").reshape(-1, 1, 1) for value in (mean, variance, scale, bias))
    return (X.numpy() - mean) / numpy.sqrt(variance + eps) * scale + bias


def batch_norm(fields: str) -> str:
    return f'type: "BatchNorm" batch_norm_param {{ {fields} }}'


@pytest.mark.parametrize(
    ("fields", "blobs", "want"),
    [
        # NVIDIA/caffe, net.cpp and batch_norm_layer.cpp: five blobs hold means whatever the third is, three hold sums
        ("scale_bias: true", [MEAN, VARIANCE, FACTOR, SCALE, BIAS], normalized(scale=SCALE, bias=BIAS)),
        ("scale_bias: true use_global_stats: false", [MEAN, VARIANCE, FACTOR, SCALE, BIAS], normalized(scale=SCALE, bias=BIAS)),
        ("scale_filler { value: 2 }", [MEAN, VARIANCE, FACTOR, SCALE, BIAS], normalized(scale=SCALE, bias=BIAS)),
        ("bias_filler { value: 2 } engine: CUDNN", [MEAN, VARIANCE, FACTOR, SCALE, BIAS], normalized(scale=SCALE, bias=BIAS)),
        ("scale_bias: false", [MEAN, VARIANCE, FACTOR], normalized(MEAN / 4, VARIANCE / 4)),
        ("scale_bias: false eps: 0 use_global_stats: false", [MEAN, VARIANCE, FACTOR], normalized(MEAN / 4, VARIANCE / 4)),
        # DIGITS once wrote scale, bias, mean, variance, and a 1
        ("scale_bias: true", [SCALE, BIAS, MEAN, VARIANCE, torch.ones(1)], normalized(scale=SCALE, bias=BIAS)),
        (
            "scale_bias: true",
            [*(v.reshape(1, 3, 1, 1) for v in (SCALE, BIAS, MEAN, VARIANCE)), torch.ones(1, 1, 1, 1)],
            normalized(scale=SCALE, bias=BIAS),
        ),
        # intel/caffe, mkldnn_batch_norm_layer.cpp
        ("use_weight_bias: true", [MEAN, VARIANCE, FACTOR, SCALE, BIAS], normalized(MEAN / 4, VARIANCE / 4, SCALE, BIAS)),
        ("use_weight_bias: true bias_term: false", [MEAN, VARIANCE, FACTOR, SCALE], normalized(MEAN / 4, VARIANCE / 4, SCALE)),
        (
            "use_weight_bias: true relu: true eps: 0.01",
            [MEAN, VARIANCE, FACTOR, SCALE, BIAS],
            numpy.maximum(normalized(MEAN / 4, VARIANCE / 4, SCALE, BIAS, 0.01), 0),
        ),
        ("filler { value: 1 } bias_filler { value: 0 }", [MEAN, VARIANCE, FACTOR], normalized(MEAN / 4, VARIANCE / 4)),
        ("use_weight_bias: false stats_batch_size: 1", [MEAN, VARIANCE, FACTOR], normalized(MEAN / 4, VARIANCE / 4)),
        ("relu: true eps: 0", [MEAN, VARIANCE, FACTOR], numpy.maximum(normalized(MEAN / 4, VARIANCE / 4, eps=0), 0)),
        # BVLC with the blobs that NVIDIA gives four axes
        ("", [MEAN.reshape(1, 3, 1, 1), VARIANCE.reshape(1, 3, 1, 1), FACTOR], normalized(MEAN / 4, VARIANCE / 4)),
    ],
)
@pytest.mark.filterwarnings("ignore:.*engine:converter.errors.CaffezooWarning")
def test_batch_norm_reads_the_files_of_each_fork(fields: str, blobs: list[Any], want: Any, tmp_path: Path) -> None:
    net = net_of(tmp_path, batch_norm(fields), tuple(X.shape), blobs=blobs)
    close(net(X), want, atol=1e-4)
    path = tmp_path / "back.caffemodel"
    save_caffemodel(net, path)
    assert len(read_blobs(path)["op"]) == len(blobs)
    again = convert(tmp_path / "net.prototxt", path)
    torch.testing.assert_close(again(X), net(X), rtol=0, atol=0)


def test_one_channel_is_read_in_today_s_order(tmp_path: Path) -> None:
    """DIGITS's order, too, has a blob of one value at the end; a file that we wrote has to come back."""
    x, blobs = draw(2, 1, 3, 3), [torch.tensor([value]) for value in (0.5, 2.0, 1.0, 3.0, -1.0)]
    net = net_of(tmp_path, batch_norm("scale_bias: true"), tuple(x.shape), blobs=blobs)
    close(net(x), (x - 0.5) / (2 + 1e-5) ** 0.5 * 3 - 1)


@pytest.mark.parametrize(
    ("fields", "count", "words"),
    [
        ("", 5, ["scale_bias: true", "use_weight_bias: true"]),
        ("", 4, ["use_weight_bias: true bias_term: false"]),
        ("scale_bias: true", 3, ["take scale_bias"]),
        ("filler { value: 1 }", 5, ["use_weight_bias: true"]),
    ],
)
def test_another_fork_s_file_is_refused_with_what_to_type(fields: str, count: int, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=f"the file has {count} blobs") as caught:
        net_of(tmp_path, batch_norm(fields), tuple(X.shape), blobs=[MEAN, VARIANCE, FACTOR, SCALE, BIAS][:count])
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ("scale_bias: true use_weight_bias: true", "no Caffe has both"),
        ("use_global_stats: false stats_batch_size: 1", "stats_batch_size 1"),
        ("disable_mean: true", "disable_mean"),
        ("eps: -1", "eps"),
    ],
)
def test_a_batch_norm_of_no_caffe_is_refused(fields: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="layer 'op' of type 'BatchNorm'") as caught:
        net_of(tmp_path, batch_norm(fields), tuple(X.shape))
    assert reason in str(caught.value)


@pytest.mark.parametrize("fields", ["scale_bias: true", "use_weight_bias: true use_global_stats: false"])
def test_a_net_without_weights_begins_with_a_scale_of_one(fields: str, tmp_path: Path) -> None:
    net = net_of(tmp_path, batch_norm(fields), tuple(X.shape))
    assert net.op.weight.tolist() == [1, 1, 1] and net.op.bias.tolist() == [0, 0, 0]


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1), (3,)])
def test_the_vectors_of_bn_may_have_any_axes_of_one(shape: tuple[int, ...], tmp_path: Path) -> None:
    blobs = [value.reshape(shape) for value in (SCALE, BIAS, MEAN, VARIANCE)]
    write_caffemodel(tmp_path / "net.caffemodel", [("op", "BN", blobs)])
    net = net_of(tmp_path, 'type: "BN" bn_param { slope_filler { value: 1 } }', tuple(X.shape), blobs=blobs)
    close(net(X), normalized(scale=SCALE, bias=BIAS))
