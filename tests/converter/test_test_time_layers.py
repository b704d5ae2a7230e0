"""Dropout and its relatives at test time, and what of them is random and therefore refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_fork_layers import close, draw, net_of

from converter import ConversionError
from converter.errors import CaffezooWarning

PYTHON = 'type: "Python" python_param {{ module: "spatial_dropout" layer: "SpatialDropoutLayer" param_str: "{0}" }}'


@pytest.mark.filterwarnings("ignore:.*the phase 'TRAIN'")
@pytest.mark.parametrize(
    ("layer", "factor"),
    [
        ('type: "Dropout" dropout_param { dropout_ratio: 0.25 }', 1),
        ('type: "Dropout" dropout_param { dropout_ratio: 0.25 scale_train: true sample_weights_test: false }', 1),
        ('type: "Dropout" dropout_param { dropout_ratio: 0.25 scale_train: false }', 0.75),
        ('type: "Dropout" dropout_param { dropout_ratio: 0.25 scale_test: true }', 0.75),
        ('type: "Dropout" dropout_param { dropout_ratio: 0.25 scale_test: false }', 1),
        ('type: "SpatialDropout" spatial_dropout_param { dropout_ratio: 0.25 }', 1),
        (PYTHON.format("{'phase': 'TEST', 'p': 0.2}"), 1.25),
        (PYTHON.format("phase: TEST\\np: '0.2'"), 1.25),
        (PYTHON.format("{'phase': 'TRAIN', 'p': 0.2}"), 1.25),
    ],
)
def test_dropout_at_test_time_is_a_factor(layer: str, factor: float, tmp_path: Path) -> None:
    x = draw(2, 3, 4, 4)
    close(net_of(tmp_path, layer, x.shape)(x), x * factor)


@pytest.mark.filterwarnings("ignore:.*the phase 'TRAIN'")
@pytest.mark.parametrize(
    ("layer", "scale", "whole"),
    [
        ('type: "Dropout" dropout_param { dropout_ratio: 0.25 }', 4 / 3, False),
        ('type: "Dropout" dropout_param { dropout_ratio: 0.25 scale_train: false }', 1, False),
        ('type: "Dropout" dropout_param { dropout_ratio: 0.25 scale_test: true }', 1, False),
        ('type: "SpatialDropout" spatial_dropout_param { dropout_ratio: 0.25 }', 4 / 3, True),
        (PYTHON.format("{'phase': 'TEST', 'p': 0.25}"), 4 / 3, True),
        (PYTHON.format("{'phase': 'TRAIN', 'p': 0.25}"), 4 / 3, True),
    ],
)
def test_training_drops_a_quarter(layer: str, scale: float, whole: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.ones(8, 500, 2, 2)
    y = net_of(tmp_path, layer, x.shape).train()(x)
    assert {round(value, 4) for value in y.unique().tolist()} == {0, round(scale, 4)}
    assert abs(float((y == 0).float().mean()) - 0.25) < 0.02
    assert bool((y.flatten(2).amax(2) == y.flatten(2).amin(2)).all()) == whole


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ('type: "Dropout" dropout_param { sample_weights_test: true }', "say sample_weights_test: false"),
        ('type: "Dropout" dropout_param { sqrt_scale: true }', "sqrt_scale"),
        ('type: "Dropout" dropout_param { scale_train: false scale_test: true }', "no Caffe has both"),
        ('type: "Dropout" dropout_param { dropout_ratio: 1.5 }', "no part of 1"),
        (PYTHON.format("{'phase': 'TEST', 'p': 1}"), "below 1"),
        (PYTHON.format("{'phase': 'TEST'}"), "takes phase and p"),
        ('type: "Insanity" insanity_param { lb: 0 ub: 2 }', "no mean slope"),
        ('type: "Insanity" insanity_param { lb: 2 ub: 2 }', "no mean slope"),
        ('type: "Insanity" insanity_param { lb: -2 ub: 2 }', "no mean slope"),
    ],
)
def test_what_is_random_or_has_no_value_is_refused_with_the_reason(layer: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="layer 'op' of type") as caught:
        net_of(tmp_path, layer, (1, 2, 8, 8))
    assert reason in str(caught.value)


def test_the_phase_that_a_param_str_says_is_told(tmp_path: Path) -> None:
    with pytest.warns(CaffezooWarning, match=r"'op': .*phase 'TRAIN', in which Caffe drops channels at random: so does train\(\)"):
        net_of(tmp_path, PYTHON.format("{'phase': 'TRAIN', 'p': 0.2}"), (1, 2, 8, 8))


def test_insanity_draws_its_slopes_in_training(tmp_path: Path) -> None:
    x = -torch.ones(1, 1, 100, 100)
    slopes = -1 / net_of(tmp_path, 'type: "Insanity" insanity_param { lb: 3 ub: 8 }', x.shape).train()(x)
    assert 3 <= float(slopes.min()) < 3.1 and 7.9 < float(slopes.max()) <= 8.001
