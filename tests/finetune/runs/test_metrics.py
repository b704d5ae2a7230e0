"""Scores against numpy and cases worked out by hand; a run's predictions are read as written or refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import drawn_run
import numpy as np
import pytest
import torch

from finetune.errors import FinetuneError
from finetune.runs.metrics import (
    calibration_bins,
    labelled,
    mean_and_deviation,
    mean_log_probability,
    read_predictions,
    reported_split,
    score_table,
    scores,
)

NAMES = ("a", "b", "c")


def one_hot(*predicted: int, classes: int = 3, height: float = 4.0) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(predicted), classes) * height


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [2, 7])
def test_every_score_is_what_numpy_says(seed: int, classes: int) -> None:
    rng = np.random.default_rng([seed, classes])
    labels = rng.integers(0, classes, 200)
    logits = torch.from_numpy(drawn_run.logits_for(labels, rng, classes))
    names = tuple(f"class {number}" for number in range(classes))
    found = scores(logits, torch.from_numpy(labels), names)
    expected = drawn_run.score(logits, torch.from_numpy(labels), names)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == (value if name == "confusion" else pytest.approx(value, abs=1e-6)), name  # type: ignore[literal-required]


def test_a_case_worked_out_by_hand() -> None:
    # truth a a a b b c, said a a b b c c
    found = scores(one_hot(0, 0, 1, 1, 2, 2), torch.tensor([0, 0, 0, 1, 1, 2]), NAMES)
    assert found["confusion"] == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["standard_error"] == pytest.approx(math.sqrt(4 / 6 * 2 / 6 / 6))
    assert found["recall"] == pytest.approx({"a": 2 / 3, "b": 1 / 2, "c": 1.0})
    assert found["mean_recall"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert found["f1_per_class"] == pytest.approx({"a": 4 / 5, "b": 2 / 4, "c": 2 / 3})
    assert found["f1"] == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 3)
    sure = math.exp(4) / (math.exp(4) + 2)
    assert found["calibration_error"] == pytest.approx(abs(sure - 4 / 6))
    assert found["negative_log_likelihood"] == pytest.approx(-math.log(sure) + 2 / 6 * 4)


def test_of_equal_logits_the_lowest_label_is_the_prediction() -> None:
    found = scores(torch.tensor([[1.0, 1, 1], [0, 2, 2], [3, 0, 3]]), torch.tensor([0, 1, 2]), NAMES)
    assert found["confusion"] == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]


def test_a_class_that_is_absent_and_never_predicted_has_no_score_and_counts_nowhere() -> None:
    found = scores(one_hot(0, 0, 1), torch.tensor([0, 0, 1]), NAMES)
    assert found["recall"] == {"a": 1.0, "b": 1.0, "c": None}
    assert found["f1_per_class"] == {"a": 1.0, "b": 1.0, "c": None}
    assert found["mean_recall"] == found["f1"] == 1.0


def test_a_class_that_is_absent_but_predicted_counts_in_f1_alone() -> None:
    found = scores(one_hot(0, 0, 2, 1), torch.tensor([0, 0, 0, 1]), NAMES)
    assert found["recall"] == pytest.approx({"a": 2 / 3, "b": 1.0, "c": None})
    assert found["mean_recall"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["f1_per_class"] == pytest.approx({"a": 4 / 5, "b": 1.0, "c": 0.0})
    assert found["f1"] == pytest.approx((4 / 5 + 1 + 0) / 3)


def test_logits_between_0_and_1_are_not_taken_for_probabilities() -> None:
    found = scores(torch.tensor([[0.9, 0.1, 0.0]]), torch.tensor([0]), NAMES)
    sure = math.exp(0.9) / (math.exp(0.9) + math.exp(0.1) + 1)
    assert found["calibration_error"] == pytest.approx(1 - sure)


def test_scores_of_extreme_and_of_half_precision_logits_are_finite_json() -> None:
    for logits in (one_hot(0, 1, height=1e30), one_hot(0, 1).half(), one_hot(0, 1).bfloat16()):
        found = scores(logits, torch.tensor([0, 1]), NAMES)
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert found["accuracy"] == 1 and found["standard_error"] == 0


@pytest.mark.parametrize(
    ("logits", "labels", "classes", "message"),
    [
        (torch.tensor([[0.0, 1, 2], [0, math.nan, 1]]), torch.tensor([0, 1]), NAMES, "image 2: logits 0, nan, 1; 1 of 2 images"),
        (torch.tensor([[0.0, math.inf, 2]]), torch.tensor([0]), NAMES, "image 1: logits 0, inf, 2"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), NAMES, "image 2: label 3, but there are 3 classes"),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), NAMES, "image 1: label -1"),
        (torch.zeros(2, 4), torch.tensor([0, 1]), NAMES, r"logits \(2, 4\).*expected \(N, 3\)"),
        (torch.zeros(2, 3), torch.tensor([0, 1, 2]), NAMES, r"labels \(3,\)"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), NAMES, "no images"),
        (torch.zeros(2, 3), torch.tensor([0, 1]), ("a", "b", "a"), "'a' is named twice"),
    ],
)
def test_what_has_no_scores_is_refused(logits: torch.Tensor, labels: torch.Tensor, classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(FinetuneError, match=message):
        scores(logits, labels, classes)


def test_the_bins_of_the_diagram_add_up_to_the_calibration_error() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 7, 400)
    logits = torch.from_numpy(drawn_run.logits_for(labels, rng, 7))
    bins = calibration_bins(logits, torch.from_numpy(labels))
    assert len(bins) == 15 and sum(images for images, _, _ in bins) == 400
    gap = sum(images * abs(confidence - right) for images, confidence, right in bins) / 400
    assert gap == pytest.approx(scores(logits, torch.from_numpy(labels), drawn_run.CLASSES)["calibration_error"])


def test_a_confidence_of_one_lies_in_the_last_bin() -> None:
    assert calibration_bins(one_hot(0, 1, height=1e3), torch.tensor([0, 0]), bins=4) == [(0, 0, 0)] * 3 + [(2, 1.0, 0.5)]


def test_the_ensemble_is_the_mean_of_probabilities_and_not_of_logits() -> None:
    views = [torch.tensor([[8.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 2.0]])]
    mean = (np.exp([8, 0]) / np.exp([8, 0]).sum() + 2 * np.exp([0, 2]) / np.exp([0, 2]).sum()) / 3
    found = mean_log_probability(views)
    assert found.exp().numpy()[0] == pytest.approx(mean)
    assert sum(views).argmax() == 0 and found.argmax() == 1  # type: ignore[union-attr]


def test_a_mean_of_log_probabilities_stays_finite_and_half_precision_is_widened() -> None:
    views = [torch.tensor([[300.0, 0.0]]), torch.tensor([[280.0, 0.0]])]
    expected = torch.tensor([[0.0, -280 - math.log(2)]])
    assert torch.allclose(mean_log_probability(views), expected)
    assert torch.equal(mean_log_probability([each.half() for each in views]), mean_log_probability(views))
    assert mean_log_probability([each.double() for each in views]).dtype == torch.float64


def test_the_mean_of_one_view_is_its_log_softmax() -> None:
    view = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mean_log_probability([view]), view.log_softmax(1))


@pytest.mark.parametrize("logits", [[], [torch.zeros(2, 3), torch.zeros(3, 3)]])
def test_tensors_that_have_no_mean_are_refused(logits: list[torch.Tensor]) -> None:
    with pytest.raises(FinetuneError, match=r"expected one shape \(N, K\)"):
        mean_log_probability(logits)


@pytest.mark.parametrize(
    ("values", "expected"), [([0.7], (0.7, None)), ([1.0, 3.0], (2.0, math.sqrt(2))), ([2, 4, 4, 4, 5, 5, 7, 9], (5, 2.13809))]
)
def test_the_deviation_is_the_sample_s_and_one_value_has_none(values: list[float], expected: tuple[float, float | None]) -> None:
    assert mean_and_deviation(values) == pytest.approx(expected, abs=1e-5)


def test_the_mean_of_nothing_is_refused() -> None:
    with pytest.raises(FinetuneError, match="no values"):
        mean_and_deviation([])


def test_predictions_are_read_as_they_were_written(tmp_path: Path) -> None:
    tensors = drawn_run.predictions()
    drawn_run.write_predictions(tmp_path, tensors)
    found = read_predictions(tmp_path)
    assert (found.classes, found.data_sha256, list(found.splits)) == (drawn_run.CLASSES, drawn_run.SHA256, ["public", "private"])
    for name, tensor in tensors.items():
        split, _, field = name.partition("/")
        assert torch.equal(getattr(found.splits[split], field), tensor)


def test_the_table_holds_what_a_result_holds(tmp_path: Path) -> None:
    run = drawn_run.draw_run(tmp_path / "run")
    expected = json.loads((run / "result.json").read_text())["scores"]
    table = score_table(read_predictions(run))
    assert list(table) == [
        "public", "public, ten-crop", "private", "private, ten-crop", "private without copies", "private without copies, ten-crop",
    ]  # fmt: skip
    assert {label: table[label]["accuracy"] for label in expected} == {label: row["accuracy"] for label, row in expected.items()}
    assert table["private without copies"]["images"] == expected["private without copies"]["images"] < table["private"]["images"]


def test_without_copies_is_left_out_where_there_are_none_and_on_public(tmp_path: Path) -> None:
    tensors = drawn_run.predictions(images={"public": 5, "test": 5}, ten_crop=False)
    tensors["public/copy"][:2] = True
    drawn_run.write_predictions(tmp_path, tensors)
    splits = read_predictions(tmp_path).splits
    assert [label for split, held in splits.items() for label in labelled(split, held)] == ["public", "test"]


def without(name: str) -> Any:
    return lambda tensors: tensors.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("private/logits"), "no tensor private/logits"),
        (without("private/labels"), "no tensor private/labels; it has private/copy"),
        (lambda t: t.update({"public/copy": torch.zeros(3, dtype=torch.bool)}), r"public/copy: torch.bool of shape \(3,\)"),
        (lambda t: t.update({"public/logits": t["public/logits"].double()}), "public/logits: torch.float64"),
        (lambda t: t.update({"public/labels": torch.tensor(1)}), "public/logits: .* expected torch.float32 of shape \\(1, 7\\)"),
        (lambda t: t["public/labels"].fill_(7), r"public/labels: outside 0\.\.6"),
        (lambda t: t["public/labels"].fill_(-1), r"public/labels: outside 0\.\.6"),
        (lambda t: t.update({"weights": torch.zeros(1)}), "tensors of private, public, weights; expected public, private"),
    ],
)
def test_a_file_with_other_tensors_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    tensors = drawn_run.predictions()
    change(tensors)
    drawn_run.write_predictions(tmp_path, tensors)
    with pytest.raises(FinetuneError, match=message):
        read_predictions(tmp_path)


def test_a_file_that_is_cut_short_or_has_no_metadata_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(FinetuneError, match=r"predictions.safetensors: no such file"):
        read_predictions(tmp_path)
    drawn_run.write_predictions(tmp_path, drawn_run.predictions())
    path = tmp_path / "predictions.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FinetuneError, match="cut short"):
        read_predictions(tmp_path)
    save_file({"private/labels": torch.zeros(1)}, path)
    with pytest.raises(FinetuneError, match=r"not the predictions of a run, or cut short \('classes'\)"):
        read_predictions(tmp_path)
    save_file({"private/labels": torch.zeros(1)}, path, metadata={"classes": '{"a": 1}', "data_sha256": "0"})
    with pytest.raises(FinetuneError, match="expected a JSON list of names"):
        read_predictions(tmp_path)


def test_a_table_s_error_names_the_split(tmp_path: Path) -> None:
    tensors = drawn_run.predictions()
    tensors["private/logits_ten_crop"][3, 2] = math.nan
    drawn_run.write_predictions(tmp_path, tensors)
    with pytest.raises(FinetuneError, match="private, ten-crop: image 4: logits"):
        score_table(read_predictions(tmp_path))


@pytest.mark.parametrize(("splits", "expected"), [(["public", "private"], "private"), (["val", "test"], "test"), (["val"], "val")])
def test_the_reported_split_is_the_last_that_was_kept_aside(splits: list[str], expected: str) -> None:
    assert reported_split(splits) == expected


def test_no_split_to_report_is_refused() -> None:
    with pytest.raises(FinetuneError, match="among train; expected one of private, test, val, public"):
        reported_split(["train"])
