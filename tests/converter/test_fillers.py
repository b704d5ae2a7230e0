"""Caffe's fillers: the values of a net without weights, by their moments and bounds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from converter.build.fillers import fill
from converter.errors import UnsupportedError
from converter.layers import Filler
from converter.read.schema import message_class

SHAPE = (40, 30, 5, 4)  # 24,000 values; an output has 600 inputs, an input goes to 800 outputs


def filled(shape: tuple[int, ...] = SHAPE, **fields: Any) -> torch.Tensor:
    torch.manual_seed(0)
    return fill(Filler.of(message_class("FillerParameter")(**fields)), shape, "net.prototxt: layer 'a'")


def test_no_filler_is_zero_a_number_is_that_number_and_constant_its_value() -> None:
    assert torch.equal(fill(None, (2, 3), ""), torch.zeros(2, 3))
    assert torch.equal(fill(0.25, (2,), ""), torch.full((2,), 0.25))
    assert torch.equal(filled((3,)), torch.zeros(3))
    assert torch.equal(filled((), type="constant", value=-2), torch.tensor(-2.0))


def test_uniform_and_gaussian_take_their_bounds_and_moments() -> None:
    x = filled(type="uniform", min=-3, max=1)
    assert -3 <= x.min() < -2.99
    assert 0.99 < x.max() <= 1
    assert x.mean() == pytest.approx(-1, abs=0.03)
    assert filled(type="uniform").min() >= 0  # its defaults are 0 and 1
    y = filled(type="gaussian", mean=5, std=0.5)
    assert y.mean() == pytest.approx(5, abs=0.02)
    assert y.std() == pytest.approx(0.5, rel=0.02)


def test_gaussian_unitball_draws_directions_of_unit_length() -> None:
    """NormFace's fillers; its rows are uniform on the sphere: each of 600 values has a mean of 0 and a square of 1 / 600."""
    rows = filled(type="gaussian_unitball").flatten(1)
    assert rows.norm(dim=1) == pytest.approx(torch.ones(40), abs=1e-5)
    assert rows.mean() == pytest.approx(0, abs=1e-3)
    assert rows.square().mean() == pytest.approx(1 / 600, rel=1e-4)
    assert 0.95 < rows.mul(math.sqrt(600)).std(0).mean() < 1.05  # no two rows are the same


def test_a_sparse_gaussian_keeps_so_many_inputs_of_each_output_on_average() -> None:
    x = filled((50, 400), type="gaussian", sparse=10)
    kept = (x != 0).float().mean()
    assert kept == pytest.approx(10 / 50, abs=0.01)  # Caffe: Bernoulli(sparse / shape(0))
    assert x[x != 0].std() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(("norm", "n"), [(0, 600), (1, 800), (2, 700)], ids=["FAN_IN", "FAN_OUT", "AVERAGE"])
def test_xavier_and_msra_scale_by_the_fan(norm: int, n: int) -> None:
    x = filled(type="xavier", variance_norm=norm)
    bound = math.sqrt(3 / n)
    assert x.abs().max() <= bound * (1 + 1e-6)
    assert x.abs().max() > 0.99 * bound
    assert x.std() == pytest.approx(math.sqrt(1 / n), rel=0.02)
    y = filled(type="msra", variance_norm=norm)
    assert y.std() == pytest.approx(math.sqrt(2 / n), rel=0.02)
    assert y.abs().max() > 3 * math.sqrt(2 / n)  # normal, not uniform


def test_positive_unitball_rows_sum_to_one() -> None:
    x = filled(type="positive_unitball")
    assert x.min() >= 0
    torch.testing.assert_close(x.flatten(1).sum(1), torch.ones(40))


@pytest.mark.parametrize("size", range(1, 9))
def test_bilinear_is_caffe_s_kernel(size: int) -> None:
    x = filled((2, 3, size, size), type="bilinear")
    f = math.ceil(size / 2)
    line = [1 - abs(i / f - (size - 1) / (2 * f)) for i in range(size)]
    expected = torch.tensor([[a * b for b in line] for a in line])
    torch.testing.assert_close(x, expected.expand(2, 3, size, size))
    assert torch.equal(x, x.flip(-1)) or torch.allclose(x, x.flip(-1))  # symmetric for every size


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_bilinear_deconvolution_enlarges_a_constant_image_to_itself(factor: int) -> None:
    """The recipe of Caffe's own comment: kernel 2 f - f % 2, stride f, pad ceil((f - 1) / 2)."""
    size = 2 * factor - factor % 2
    weight = filled((1, 1, size, size), type="bilinear")
    y = torch.nn.functional.conv_transpose2d(torch.ones(1, 1, 6, 6), weight, stride=factor, padding=math.ceil((factor - 1) / 2))
    inside = y[..., factor:-factor, factor:-factor]
    torch.testing.assert_close(inside, torch.ones_like(inside))


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (2, 3)])
def test_bilinear_takes_square_images_only(shape: tuple[int, ...]) -> None:
    with pytest.raises(UnsupportedError, match=r"layer 'a'.*bilinear"):
        filled(shape, type="bilinear")


@pytest.mark.parametrize("kind", ["orthogonal", "", "Xavier"])
def test_a_filler_that_caffe_has_not_is_refused(kind: str) -> None:
    with pytest.raises(UnsupportedError, match=f"layer 'a'.*no filler '{kind}'"):
        filled(type=kind)


@pytest.mark.parametrize("kind", ["constant", "uniform", "gaussian", "xavier", "msra", "positive_unitball"])
@pytest.mark.parametrize("shape", [(), (3,), (1, 1), (2, 0)])
def test_small_and_empty_blobs_are_filled(kind: str, shape: tuple[int, ...]) -> None:
    x = filled(shape, type=kind)
    assert x.shape == shape
    assert bool(x.isfinite().all())
