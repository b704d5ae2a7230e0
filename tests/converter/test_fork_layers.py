"""The layer types that only forks have, beyond their golden cases: the fields and shapes that those do not vary."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from golden import CASES, assert_as_caffe, converted, files, inputs
from one_layer import close, draw, net_of
from torch import Tensor
from torchvision.ops import batched_nms, ps_roi_pool

from converter import ConversionError, convert

PER_ITEM = ["Axpy", "ConvolutionDepthwise", "DepthwiseConvolution", "Interp", "Normalize", "ReLU6", "Reorg", "ShuffleChannel", "Upsample"]
TYPES = [
    *PER_ITEM,
    "DetectionOutput",
    "Permute",
    "PriorBox",
    "PriorBoxClustered",
    "PSROIPooling",
    "ROIAlignCascade",
    "ROIPooling",
    "ROIPoolingPad",
]
FORKS = [case for case in CASES if case.rsplit("-", 1)[0] in TYPES]


# ------------------------------------------------------------------------------------------------- golden cases


def test_each_fork_type_has_four_golden_cases() -> None:
    assert all(sum(case.rsplit("-", 1)[0] == name for case in FORKS) >= 4 for name in TYPES)


@pytest.mark.parametrize("case", [case for case in FORKS if case.rsplit("-", 1)[0] in PER_ITEM])
def test_a_batch_of_any_size_is_computed_item_by_item(case: str) -> None:
    net = converted(case)
    one = inputs(case, net)
    with torch.inference_mode():
        want, got = net(*one), net(*(torch.cat((x, x, x)) for x in one))
    close(got, torch.cat((want, want, want)))


@pytest.mark.parametrize("case", ["Interp-0", "Interp-2", "Normalize-0", "Normalize-1", "PriorBox-2", "PriorBox-3", "Reorg-1",
                                  "ShuffleChannel-1", "ConvolutionDepthwise-1", "Upsample-2"])  # fmt: skip
def test_another_image_size_gives_what_a_net_built_for_it_gives(case: str) -> None:
    net = converted(case)
    larger = {name: (*shape[:2], *(2 * side for side in shape[2:])) for name, shape in net.input_shapes.items()}
    built = convert(*files(case), input_shapes=larger)
    x = [draw(*shape) for shape in larger.values()]
    with torch.inference_mode():
        assert torch.equal(net(*x), built(*x))


@pytest.mark.parametrize("case", [f"{name}-{i}" for name, i in product(TYPES, "03") if name != "DetectionOutput"])
def test_the_net_compiles_into_one_graph(case: str) -> None:
    net = converted(case)
    torch._dynamo.reset()
    with torch.inference_mode():
        got = torch.compile(net, backend="eager", fullgraph=True)(*inputs(case, net))
    assert_as_caffe(case, {net.outputs[0]: got})


# ------------------------------------------------------------------------------------------------------- boxes

PRIORS = ((0.1, 0.2, 0.5, 0.4), (0.4, 0.1, 0.8, 0.9), (0.0, 0.5, 0.3, 1.0))
VARIANCES = (0.1, 0.2, 0.3, 0.4)


def detections(folder: Path, fields: str, location: Any, scores: Any, priors: Any = PRIORS) -> Tensor:
    """The rows that a DetectionOutput layer gives; location (N, P * ...), scores (N, P * classes)."""
    location, scores, boxes = (torch.tensor(value, dtype=torch.float32) for value in (location, scores, priors))
    prior = torch.stack((boxes.flatten(), torch.tensor(VARIANCES).repeat(len(boxes))))[None]
    layer = f'type: "DetectionOutput" detection_output_param {{ {fields} }}'
    found: Tensor = net_of(folder, layer, location.shape, scores.shape, prior.shape)(location, scores, prior)
    assert found.shape[:2] == (1, 1) and found.shape[3] == 7
    return found[0, 0]


@pytest.mark.parametrize(
    ("fields", "box"),
    [
        ("code_type: CORNER", (0.1 + 0.1, 0.2 + 0.4, 0.5 - 0.3, 0.4 + 0.2)),
        ("code_type: CORNER variance_encoded_in_target: true", (1.1, 2.2, -0.5, 0.9)),
        ("code_type: CORNER_SIZE", (0.1 + 0.1 * 0.4, 0.2 + 0.4 * 0.2, 0.5 - 0.3 * 0.4, 0.4 + 0.2 * 0.2)),
        ("code_type: CORNER_SIZE variance_encoded_in_target: true", (0.1 + 0.4, 0.2 + 2 * 0.2, 0.5 - 0.4, 0.4 + 0.5 * 0.2)),
        # center (0.3, 0.3) + (0.1 * 0.4, 0.4 * 0.2), sides 0.4 * e^-0.3 = 0.2963273 and 0.2 * e^0.2 = 0.2442806
        ("code_type: CENTER_SIZE", (0.1918364, 0.2578597, 0.4881636, 0.5021403)),
        # center (0.3, 0.3) + (0.4, 0.4), sides 0.4 * e^-1 = 0.1471518 and 0.2 * e^0.5 = 0.3297443
        ("code_type: CENTER_SIZE variance_encoded_in_target: true", (0.6264241, 0.5351279, 0.7735759, 0.8648721)),
    ],
)
def test_locations_are_decoded_as_the_code_type_says(fields: str, box: tuple[float, ...], tmp_path: Path) -> None:
    rows = detections(tmp_path, f"num_classes: 2 {fields}", [[1, 2, -1, 0.5]], [[0.1, 0.9]], PRIORS[:1])
    close(rows, [(0, 1, 0.9, *box)])


def test_rows_go_by_item_label_and_falling_score(tmp_path: Path) -> None:
    scores = [[0.1, 0.2, 0.9, 0.1, 0.8, 0.3, 0.1, 0.5, 0.6], [0.9, 0.0, 0.0, 0.9, 0.0, 0.7, 0.9, 0.0, 0.0]]
    rows = detections(tmp_path, "num_classes: 3 confidence_threshold: 0.25 nms_param { nms_threshold: 0.99 }", [[0] * 12] * 2, scores)
    first, second, third = PRIORS
    want = [(0, 1, 0.8, *second), (0, 1, 0.5, *third), (0, 2, 0.9, *first), (0, 2, 0.6, *third), (0, 2, 0.3, *second), (1, 2, 0.7, *second)]
    close(rows, want)


def test_the_confidence_threshold_itself_is_not_enough(tmp_path: Path) -> None:
    scores = [[0.5, 0.25, 0.5, 0.5, 0.5, 0.75]]
    assert len(detections(tmp_path, "num_classes: 2 confidence_threshold: 0.25", [[0] * 12], scores)) == 2


def test_each_class_has_its_own_boxes_where_location_is_not_shared(tmp_path: Path) -> None:
    location = [[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]]  # of one prior: classes 0, 1, 2
    rows = detections(tmp_path, "num_classes: 3 share_location: false background_label_id: 1", location, [[0.3, 0.4, 0.5]], PRIORS[:1])
    close(rows, [(0, 0, 0.3, *PRIORS[0]), (0, 2, 0.5, 0.1 + 0.2, 0.2 + 0.4, 0.5 + 0.6, 0.4 + 0.8)])


def test_background_minus_one_keeps_every_class(tmp_path: Path) -> None:
    rows = detections(tmp_path, "num_classes: 2 background_label_id: -1", [[0] * 4], [[0.3, 0.4]], PRIORS[:1])
    assert rows[:, 1].tolist() == [0, 1]


def test_keep_top_k_keeps_the_best_of_all_classes(tmp_path: Path) -> None:
    scores = [[0.1, 0.2, 0.9, 0.1, 0.8, 0.3, 0.1, 0.5, 0.6]]
    fields = "num_classes: 3 keep_top_k: 3 nms_param { nms_threshold: 0.99 }"
    rows = detections(tmp_path, fields, [[0] * 12], scores)
    close(rows[:, 1:3], [(1, 0.8), (2, 0.9), (2, 0.6)])
    assert detections(tmp_path, fields.replace("3 nms", "0 nms"), [[0] * 12], scores).tolist() == [[0, *[-1] * 6]]


def test_top_k_counts_before_the_suppression(tmp_path: Path) -> None:
    priors = [PRIORS[0], PRIORS[0], PRIORS[1]]  # the second falls to the first, and the third is not looked at
    rows = detections(tmp_path, "num_classes: 2 nms_param { top_k: 2 }", [[0] * 12], [[0, 0.9, 0, 0.8, 0, 0.7]], priors)
    close(rows[:, 2], [0.9])


@pytest.mark.parametrize(("eta", "kept"), [(1.0, [0.9, 0.8, 0.7]), (0.5, [0.9, 0.7])])
def test_eta_lowers_the_threshold_after_each_box_that_stays(eta: float, kept: list[float], tmp_path: Path) -> None:
    # the second box overlaps the first by 0.5: above 0.6 * 0.5 and below 0.6
    priors = [(0.0, 0.0, 0.4, 0.4), (0.0, 0.0, 0.4, 0.2), (0.5, 0.5, 0.9, 0.9)]
    fields = f"num_classes: 2 nms_param {{ nms_threshold: 0.6 eta: {eta} }}"
    close(detections(tmp_path, fields, [[0] * 12], [[0, 0.9, 0, 0.8, 0, 0.7]], priors)[:, 2], kept)


def test_boxes_with_swapped_corners_suppress_nothing(tmp_path: Path) -> None:
    priors = [(0.5, 0.5, 0.1, 0.1), (0.1, 0.1, 0.5, 0.5), (0.5, 0.5, 0.1, 0.1)]
    rows = detections(tmp_path, "num_classes: 2 nms_param { nms_threshold: 0 }", [[0] * 12], [[0, 0.9, 0, 0.8, 0, 0.7]], priors)
    assert len(rows) == 3


def test_no_detection_at_all_is_one_row_of_minus_ones_for_each_item(tmp_path: Path) -> None:
    rows = detections(tmp_path, "num_classes: 2 confidence_threshold: 0.5", [[0] * 12] * 2, [[0.1] * 6] * 2)
    assert rows.tolist() == [[0, *[-1] * 6], [1, *[-1] * 6]]


@pytest.mark.parametrize("seed", range(4))
def test_suppression_agrees_with_torchvision(seed: int, tmp_path: Path) -> None:
    classes, priors = 4, 60
    corner, side = draw(priors, 2, seed=seed).sigmoid(), draw(priors, 2, seed=seed + 100).sigmoid() / 2
    boxes = torch.cat((corner, corner + side), 1)
    scores = draw(1, priors * classes, seed=seed + 200).sigmoid()
    fields = f"num_classes: {classes} background_label_id: -1 nms_param {{ nms_threshold: 0.25 }}"
    rows = detections(tmp_path, fields, [[0] * 4 * priors], scores.tolist(), boxes.tolist())
    label = torch.arange(classes).repeat(priors)
    kept = batched_nms(boxes.repeat_interleave(classes, 0), scores[0], label, 0.25)
    kept = kept[label[kept].sort(stable=True).indices]
    close(rows[:, 1:], torch.cat((label[kept][:, None], scores[0][kept][:, None], boxes[kept // classes]), 1))
    assert priors < len(rows) < priors * classes


@pytest.mark.parametrize("moved", [False, True])
def test_the_first_stage_rules_out_priors_and_moves_the_others(moved: bool, tmp_path: Path) -> None:
    """RefineDet: a prior whose object score is under the limit has no class; the others are decoded twice."""
    scores, objects = [[0.1, 0.9, 0.3, 0.7, 0.2, 0.8]], [[0.5, 0.5, 0.99, 0.01, 0.98, 0.02]]
    moves, shifts = [[0, 0, 0, 0, 1, 1, 1, 1, 1, -2, 3, 0.5]], [[0, 0, 0, 0, 0, 0, 0, 0, -1, 1, 0.25, 2]]
    bottoms = [torch.tensor(value, dtype=torch.float32) for value in (shifts, scores)]
    bottoms += [torch.stack((torch.tensor(PRIORS).flatten(), torch.tensor(VARIANCES).repeat(3)))[None], torch.tensor(objects)]
    bottoms += [torch.tensor(moves, dtype=torch.float32)] if moved else []
    fields = "num_classes: 2 confidence_threshold: 0.05 objectness_score: 0.02 nms_param { nms_threshold: 0.99 }"
    rows = net_of(tmp_path, f'type: "DetectionOutput" detection_output_param {{ {fields} }}', *(x.shape for x in bottoms))(*bottoms)[0, 0]
    places = [variance * shift for variance, shift in zip(VARIANCES, (-1, 1, 0.25, 2), strict=True)]
    first = [variance * shift * moved for variance, shift in zip(VARIANCES, (1, -2, 3, 0.5), strict=True)]
    last = [sum(values) for values in zip(PRIORS[2], first, places, strict=True)]
    close(rows, [(0, 1, 0.9, *PRIORS[0]), (0, 1, 0.8, *last)])


def test_the_first_stage_decodes_centers_and_sizes_first(tmp_path: Path) -> None:
    prior = torch.tensor([[[0.1, 0.2, 0.5, 0.4], VARIANCES]])
    moves, shifts = torch.tensor([[1.0, -1, 0.5, 2]]), torch.tensor([[0.5, 1.0, -1, 0.25]])
    layer = 'type: "DetectionOutput" detection_output_param { num_classes: 2 code_type: CENTER_SIZE objectness_score: 0 }'
    bottoms = shifts, torch.tensor([[0.0, 1]]), prior, torch.tensor([[0.0, 1]]), moves
    rows = net_of(tmp_path, layer, *(x.shape for x in bottoms))(*bottoms)[0, 0]
    center, size = (0.3, 0.3), (0.4, 0.2)
    for deltas in (moves[0].tolist(), shifts[0].tolist()):
        center = tuple(center[i] + VARIANCES[i] * deltas[i] * size[i] for i in (0, 1))
        size = tuple(size[i] * math.exp(VARIANCES[2 + i] * deltas[2 + i]) for i in (0, 1))
    close(rows[0, 3:], [center[0] - size[0] / 2, center[1] - size[1] / 2, center[0] + size[0] / 2, center[1] + size[1] / 2])


def test_clustered_prior_boxes_are_cut_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    fields = "width: 8 width: 20 height: 4 height: 30 step_w: 10 step_h: 5 offset: 0 img_w: 40 img_h: 20 variance: 0.1 variance: 0.2"
    layer = f'type: "PriorBoxClustered" prior_box_param {{ {fields} variance: 0.3 variance: 0.4 }}'
    want = torch.tensor([[-0.1, -0.1, 0.1, 0.1], [-0.25, -0.75, 0.25, 0.75], [0.15, -0.1, 0.35, 0.1], [0.0, -0.75, 0.5, 0.75]])
    shapes = (1, 3, 1, 2), (1, 3, 7, 7)
    for text, boxes in ((layer, want.clamp(0, 1)), (layer.replace("offset", "clip: false flip: true offset"), want)):
        got = net_of(tmp_path, text, *shapes)(*(torch.zeros(shape) for shape in shapes))
        close(got[0], torch.stack((boxes.flatten(), torch.tensor([0.1, 0.2, 0.3, 0.4]).repeat(4))))


def smooth_l1(x: float, limit: float = 1.0) -> float:
    return 0.5 * x * x / limit if abs(x) < limit else abs(x) - 0.5 * limit


@pytest.mark.parametrize(
    ("fields", "divisor"),
    [
        ("", 2),
        ("loss_param { normalization: FULL }", 12),
        ("loss_param { normalization: VALID }", 12),
        ("loss_param { normalize: true }", 12),
        ("loss_param { normalize: false }", 2),
        ("loss_param { normalization: NONE }", 1),
    ],
)
def test_smooth_l1_is_divided_as_its_fork_divides_it(fields: str, divisor: int, tmp_path: Path) -> None:
    x, target, weight = draw(2, 4, 2, 3), draw(2, 4, 2, 3, seed=1), draw(2, 4, 2, 3, seed=2)
    each = [smooth_l1(w * (a - b)) for a, b, w in zip(*(t.flatten().tolist() for t in (x, target, weight)), strict=True)]
    got = net_of(tmp_path, f'type: "SmoothL1Loss" {fields}', x.shape, x.shape, x.shape)(x, target, weight)
    close(got, sum(each) / divisor, atol=1e-5)


def test_the_second_top_of_smooth_l1_is_the_loss_at_each_position(tmp_path: Path) -> None:
    x, target = draw(2, 4, 2, 3), draw(2, 4, 2, 3, seed=1)
    loss, positions = net_of(tmp_path, 'type: "SmoothL1Loss"', x.shape, x.shape, tops=2)(x, target).values()
    assert positions.shape == (2, 1, 2, 3)
    close(positions[1, 0, 0, 2], sum(map(smooth_l1, (x - target)[1, :, 0, 2].tolist())))
    close(loss, positions.sum() / 12)


def test_gather_on_one_machine_gives_what_it_gets(tmp_path: Path) -> None:
    x, label = draw(2, 3), draw(2)
    assert torch.equal(net_of(tmp_path, 'type: "Gather"', x.shape)(x), x)
    assert all(map(torch.equal, net_of(tmp_path, 'type: "Gather"', x.shape, label.shape, tops=2)(x, label).values(), (x, label)))


def test_prior_boxes_of_one_place(tmp_path: Path) -> None:
    fields = "min_size: 30.9 max_size: 60 aspect_ratio: 4 flip: false variance: 0.1 img_h: 100 img_w: 200 step_h: 40 step_w: 80"
    layer = f'type: "PriorBox" prior_box_param {{ {fields} }}'
    net = net_of(tmp_path, layer, (2, 8, 1, 1), (2, 3, 5, 5))
    prior = net(draw(2, 8, 1, 1), draw(2, 3, 5, 5))
    mean = (30 * 60) ** 0.5  # Caffe cuts 30.9 to 30
    want = [((40 - w / 2) / 200, (20 - h / 2) / 100, (40 + w / 2) / 200, (20 + h / 2) / 100) for w, h in ((30, 30), (mean, mean), (60, 15))]
    close(prior, torch.stack((torch.tensor(want).flatten(), torch.full((12,), 0.1)))[None])


# ------------------------------------------------------------------------------------------ regions of interest


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_position_sensitive_pooling_agrees_with_torchvision(scale: float, tmp_path: Path) -> None:
    """Equal where rounding before scaling (Caffe) and after it (torchvision) is, with Caffe's last pixel, and inside the image."""
    rois = torch.tensor([[0, 0, 0, 11, 15], [1, 4, 2, 9, 13], [1, 6, 8, 11, 9], [0, 14, 14, 15, 15], [1, 2, 10, 13, 15]])
    rois = rois + 0.25 * torch.tensor([0, 1, 1, 1, 1])
    x = draw(2, 5 * 9, 17, 19)
    layer = f'type: "PSROIPooling" psroi_pooling_param {{ spatial_scale: {scale} output_dim: 5 group_size: 3 }}'
    net = net_of(tmp_path, layer, x.shape, rois.shape)
    want = ps_roi_pool(x, rois.floor() + torch.tensor([0, 0, 0, 1, 1]), 3, scale)
    close(net(x, rois), want)
    assert want.abs().sum() > 1


def test_regions_are_averaged_inside_the_image(tmp_path: Path) -> None:
    x = draw(2, 3, 9, 9)
    rois = torch.tensor([[0.0, 0, 0, 8, 8], [1, -5, -5, 30, 30], [1, -5, 6, 1, 30], [0, 20, 20, 30, 30]])
    layer = 'type: "PSROIPooling" psroi_pooling_param { spatial_scale: 1 output_dim: 3 group_size: 1 }'
    got = net_of(tmp_path, layer, x.shape, rois.shape)(x, rois)[..., 0, 0]
    close(got, torch.stack((x[0].mean((1, 2)), x[1].mean((1, 2)), x[1, :, 6:, :2].mean((1, 2)), torch.zeros(3))))


def test_regions_are_rounded_with_halves_away_from_zero(tmp_path: Path) -> None:
    x = draw(1, 4, 9, 9)
    layer = 'type: "PSROIPooling" psroi_pooling_param { spatial_scale: 1 output_dim: 1 group_size: 2 }'
    net = net_of(tmp_path, layer, x.shape, (1, 5))
    exact, half = net(x, torch.tensor([[0.0, 3, 1, 7, 5]])), net(x, torch.tensor([[0, 2.5, 0.5, 6.5, 4.5]]))
    assert torch.equal(exact, half)


def test_regions_may_have_four_axes(tmp_path: Path) -> None:
    x, rois = draw(1, 2, 9, 9), torch.tensor([[0.0, 1, 1, 5, 7], [0, 2, 0, 8, 8]])
    net = net_of(tmp_path, 'type: "ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 1 }', x.shape, (2, 5))
    assert torch.equal(net(x, rois[..., None, None]), net(x, rois))


# ------------------------------------------------------------------------------------------------ normalization

SLOPE = 'slope_filler { type: "constant" value: 1 }'


@pytest.mark.parametrize("fields", [f"{SLOPE} frozen: true", f"{SLOPE} eps: 0.001", "momentum: 0.95 frozen: false"])
def test_pspnets_bn_is_torchs_batch_norm(fields: str, tmp_path: Path) -> None:
    blobs = [numpy.random.RandomState(i).rand(1, 6, 1, 1).astype("f4") + 0.1 for i in range(4)]
    net = net_of(tmp_path, f'type: "BN" bn_param {{ {fields} }}', (2, 6, 5, 4), blobs=blobs)
    x = draw(2, 6, 5, 4)
    weight, bias, mean, variance = (torch.from_numpy(blob).flatten() for blob in blobs)
    eps = 1e-3 if "eps" in fields else 1e-5
    want = F.batch_norm(x, mean, variance, weight, bias, eps=eps)
    close(net(x), want)
    assert torch.equal(net.state_dict()["op.running_var"], variance)
    net.train()
    changed = not torch.allclose(net(x), want, atol=1e-3)
    assert changed == ("frozen: true" not in fields)


def test_pspnets_bn_normalizes_by_the_batch_in_training(tmp_path: Path) -> None:
    x = draw(4, 3, 5, 5) * 3 + 1
    net_of(tmp_path, f'type: "BN" bn_param {{ {SLOPE} }}', x.shape)
    close(convert(tmp_path / "net.prototxt", phase="TRAIN")(x), F.batch_norm(x, None, None, training=True))


@pytest.mark.parametrize("mode", ["INFERENCE", "LEARN"])
def test_segnets_bn_scales_and_in_learn_mode_normalizes_by_the_batch(mode: str, tmp_path: Path) -> None:
    blobs = [numpy.random.RandomState(i).rand(1, 6, 1, 1).astype("f4") for i in range(2)]
    net = net_of(tmp_path, f'type: "BN" bn_param {{ bn_mode: {mode} }}', (2, 6, 5, 4), blobs=blobs)
    x = draw(2, 6, 5, 4) * 2 + 1
    normal = x if mode == "INFERENCE" else F.batch_norm(x, None, None, training=True, eps=1e-9)
    close(net(x), normal * torch.from_numpy(blobs[0]) + torch.from_numpy(blobs[1]))


def test_a_bn_with_the_other_forks_blobs_is_refused(tmp_path: Path) -> None:
    blobs = [numpy.ones((1, 6, 1, 1), "f4")] * 4
    with pytest.raises(ConversionError, match=r"the file has 4 blobs .* the net 2"):
        net_of(tmp_path, 'type: "BN" bn_param { bn_mode: INFERENCE }', (2, 6, 5, 4), blobs=blobs)


@pytest.mark.parametrize("shared", [True, False])
def test_normalize_starts_at_one_or_at_its_filler(shared: bool, tmp_path: Path) -> None:
    flag = f"channel_shared: {str(shared).lower()}"
    plain = net_of(tmp_path, f'type: "Normalize" norm_param {{ {flag} }}', (2, 3, 4, 4))
    filled = net_of(tmp_path, f'type: "Normalize" norm_param {{ {flag} scale_filler {{ type: "constant" value: 20 }} }}', (2, 3, 4, 4))
    assert plain.state_dict()["op.weight"].shape == (() if shared else (3,))
    x = draw(2, 3, 4, 4)
    close(plain(x).flatten(1).norm(dim=1), [1, 1])
    close(filled(x), plain(x) * 20)


@pytest.mark.parametrize(("fields", "p"), [("", 2), ("normalize_param { }", 2), ('normalize_param { normalize_type: "L1" }', 1)])
def test_face_embeddings_are_normalized_without_a_weight(fields: str, p: int, tmp_path: Path) -> None:
    net = net_of(tmp_path, f'type: "Normalize" {fields}', (3, 128), tops=2)
    x = draw(3, 128)
    found = net(x)
    close(found["out0"][..., 0, 0], F.normalize(x, p=p))
    close(found["out1"].flatten(), x.norm(p, 1), atol=1e-4)
    assert not net.state_dict()


# ------------------------------------------------------------------------------------- resizing and moving values


def linear(x: Tensor, size: int, axis: int) -> Any:
    """Linear resizing along an axis, the first and last value staying, by NumPy."""
    at = numpy.linspace(0, x.shape[axis] - 1, size)
    return numpy.apply_along_axis(lambda row: numpy.interp(at, numpy.arange(len(row)), row), axis, numpy.asarray(x, float))


@pytest.mark.parametrize(
    ("layer", "cut", "size"),
    [
        ('type: "Interp" interp_param { height: 9 width: 4 }', (0, 0), (9, 4)),
        ('type: "Interp" interp_param { height: 1 width: 20 pad_beg: -1 }', (1, 0), (1, 20)),
        ('type: "Interp" interp_param { zoom_factor: 3 pad_end: -2 }', (0, 2), (10, 13)),
        ('type: "Upsample" upsample_param { height: 9 width: 11 }', (0, 0), (9, 11)),
        ('type: "Upsample" upsample_param { height_scale: 2 width_scale: 3 mode: BILINEAR }', (0, 0), (12, 21)),
    ],
)
def test_bilinear_resizing_keeps_the_corners(layer: str, cut: tuple[int, int], size: tuple[int, int], tmp_path: Path) -> None:
    x = draw(2, 3, 6, 7)
    part = x[:, :, cut[0] : 6 - cut[1], cut[0] : 7 - cut[1]]
    close(net_of(tmp_path, layer, x.shape)(x), linear(linear(part, size[0], 2), size[1], 3))


@pytest.mark.parametrize(
    ("fields", "second", "size"),
    [
        ("scale: 3", None, (18, 21)),
        ("height_scale: 2 width_scale: 4 mode: NEAREST", None, (12, 28)),
        ("height: 9 width: 5 mode: NEAREST", None, (9, 5)),
        ("mode: NEAREST", (2, 1, 13, 10), (13, 10)),
    ],
)
def test_nearest_resizing_counts_in_whole_numbers(fields: str, second: Any, size: tuple[int, int], tmp_path: Path) -> None:
    x = draw(2, 3, 6, 7)
    more = [second] if second else []
    net = net_of(tmp_path, f'type: "Upsample" upsample_param {{ {fields} }}', x.shape, *more)
    want = [[x[:, :, h * 6 // size[0], w * 7 // size[1]] for w in range(size[1])] for h in range(size[0])]
    close(net(x, *(draw(*shape) for shape in more)), torch.stack([torch.stack(row, -1) for row in want], -2))


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ("scale: 2", (10, 8)),
        ("scale: 2 pad_out_h: true", (9, 8)),
        ("scale_h: 2 scale_w: 3", (10, 12)),
        ("upsample_h: 9 upsample_w: 7", (9, 7)),
    ],
)
def test_unpooling_puts_values_where_the_mask_says(fields: str, size: tuple[int, int], tmp_path: Path) -> None:
    x = draw(2, 3, 5, 4)
    mask = torch.stack([torch.randperm(size[0] * size[1], generator=torch.Generator().manual_seed(i))[:20] for i in range(6)])
    mask = mask.reshape(2, 3, 5, 4).float()
    got = net_of(tmp_path, f'type: "Upsample" upsample_param {{ {fields} }}', x.shape, mask.shape)(x, mask)
    assert got.shape == (2, 3, *size) and int((got != 0).sum()) == x.numel()
    assert torch.equal(got.flatten(2).gather(2, mask.flatten(2).long()).reshape(x.shape), x)


def test_reorg_backwards_is_darknets(tmp_path: Path) -> None:
    x = draw(2, 12, 3, 5)
    got = net_of(tmp_path, 'type: "Reorg" reorg_param { stride: 2 reverse: true }', x.shape)(x)
    want = torch.zeros(2, 3, 6, 10)
    for k, j, i in product(range(12), range(3), range(5)):
        offset, channel = divmod(k, 3)
        want[:, channel, 2 * j + offset // 2, 2 * i + offset % 2] = x[:, k, j, i]
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("layer", "moved"),
    [
        ('type: "Permute" permute_param { order: 2 }', lambda x: x.transpose(2, 0, 1, 3)),
        ('type: "Transpose" transpose_param { dim: 3 dim: 2 dim: 0 dim: 1 }', lambda x: x.transpose(3, 2, 0, 1)),
        ('type: "Reverse" reverse_param { axis: 1 }', lambda x: numpy.flip(x, 1)),
        ('type: "Reverse"', lambda x: numpy.flip(x, 0)),
        ('type: "Flip"', lambda x: numpy.flip(x, 3)),
        ('type: "Flip" flip_param { flip_width: false flip_height: true }', lambda x: numpy.flip(x, 2)),
        ('type: "Flip" flip_param { flip_height: true }', lambda x: numpy.flip(x, (2, 3))),
    ],
)
def test_values_are_moved(layer: str, moved: Any, tmp_path: Path) -> None:
    x = draw(2, 3, 4, 5)
    assert numpy.array_equal(net_of(tmp_path, layer, x.shape)(x).numpy(), moved(x.numpy()))


def test_depthwise_convolutions_take_dilation_and_no_group(tmp_path: Path) -> None:
    weight, bias = draw(4, 1, 3, 3), draw(4, seed=1)
    fields = "num_output: 4 kernel_size: 3 dilation: 2 pad: 1 stride: 2"
    layer = f'type: "ConvolutionDepthwise" convolution_param {{ {fields} }}'
    net = net_of(tmp_path, layer, (2, 4, 9, 9), blobs=[weight.numpy(), bias.numpy()])
    x = draw(2, 4, 9, 9)
    want = torch.cat([F.conv2d(x[:, c : c + 1], weight[c : c + 1], bias[c : c + 1], 2, 1, 2) for c in range(4)], 1)
    close(net(x), want)


# ---------------------------------------------------------------------------------------------------- refusals

IMAGE = MASK = (2, 4, 6, 6)
BOXES = [(1, 8), (1, 4), (1, 2, 8)]  # locations, scores, priors
REFUSED = [
    ('type: "DepthwiseConvolution" convolution_param { num_output: 4 kernel_size: 3 }', [IMAGE], "group 1 must both be the 4 channels"),
    ('type: "ConvolutionDepthwise" convolution_param { num_output: 8 kernel_size: 3 }', [IMAGE], "num_output 8"),
    ('type: "ReLU6" relu6_param { negative_slope: 0.1 }', [IMAGE], "negative_slope 0.1"),
    ('type: "Normalize"', [IMAGE], "it has no parameters"),
    ('type: "Normalize" norm_param { } normalize_param { }', [IMAGE], "only one of them"),
    ('type: "Normalize" norm_param { fix_scale: true }', [IMAGE], "norm_param.fix_scale"),
    ('type: "Normalize" normalize_param { normalize_type: "Max" }', [IMAGE], "'Max'"),
    ('type: "BN"', [IMAGE], "do not tell which one"),
    ('type: "BN" bn_param { engine: CAFFE }', [IMAGE], "do not tell which one"),
    ('type: "BN" bn_param { bn_mode: INFERENCE frozen: true }', [IMAGE], "do not tell which one"),
    ('type: "BN" bn_param { scale_filler { value: 1 } moving_average: true }', [IMAGE], "bn_param.moving_average"),
    ('type: "Axpy"', [(2, 4), IMAGE, (2, 4, 6, 5)], "the bottoms have shapes"),
    ('type: "Axpy"', [(2, 3, 1, 1), IMAGE, IMAGE], "the bottoms have shapes"),
    ('type: "Permute" permute_param { order: 0 order: 0 }', [IMAGE], "twice"),
    ('type: "Permute" permute_param { order: 4 }', [IMAGE], "do not have"),
    ('type: "Transpose" transpose_param { dim: 1 dim: 0 }', [IMAGE], "does not name each of 4 axes"),
    ('type: "Reverse" reverse_param { axis: -1 }', [IMAGE], "axis -1"),
    ('type: "ShuffleChannel" shuffle_channel_param { group: 3 }', [IMAGE], "do not divide by group 3"),
    ('type: "Reorg"', [IMAGE], "a stride of at least 1"),
    ('type: "Reorg" reorg_param { stride: 4 }', [(1, 16, 6, 6)], "do not divide by the stride 4"),
    ('type: "Reorg" reorg_param { stride: 2 }', [(1, 3, 6, 6)], "3 channels do not divide by 4"),
    ('type: "Interp" interp_param { height: 9 }', [IMAGE], "either height and width"),
    ('type: "Interp" interp_param { height: 9 width: 9 zoom_factor: 2 }', [IMAGE], "either height and width"),
    ('type: "Interp"', [IMAGE], "either height and width"),
    ('type: "Interp" interp_param { zoom_factor: 2 pad_beg: 1 }', [IMAGE], "they crop"),
    ('type: "Interp" interp_param { zoom_factor: 2 pad_beg: -6 }', [IMAGE], "nothing is left"),
    ('type: "Interp" interp_param { zoom_factor: 2 mode: NEAREST }', [IMAGE], "interp_param.mode"),
    ('type: "Upsample"', [IMAGE, MASK], "no single fork"),
    ('type: "Upsample" upsample_param { scale: 2 mode: NEAREST }', [IMAGE], "no single fork"),
    ('type: "Upsample" upsample_param { upsample_h: 9 upsample_w: 9 }', [IMAGE], "no single fork"),
    ('type: "Upsample" upsample_param { scale: 1.5 }', [IMAGE], "no whole number"),
    ('type: "Upsample" upsample_param { height: 9 }', [IMAGE], "height and width"),
    ('type: "Upsample" upsample_param { upsample_h: 9 scale: 2 }', [IMAGE, MASK], "upsample_h and upsample_w"),
    ('type: "Upsample" upsample_param { scale: 3 pad_out_h: true }', [IMAGE, MASK], "scale of 2 only"),
    ('type: "PriorBox" prior_box_param { max_size: 3 }', [IMAGE, IMAGE], "a min_size of at least 1"),
    ('type: "PriorBox" prior_box_param { min_size: 3 max_size: 2 variance: 0.1 }', [IMAGE, IMAGE], "one larger value"),
    ('type: "PriorBox" prior_box_param { min_size: 3 variance: 0.1 variance: 0.2 }', [IMAGE, IMAGE], "neither one nor four"),
    ('type: "PriorBox" prior_box_param { min_size: 3 aspect_ratio: 0 }', [IMAGE, IMAGE], "aspect_ratio 0"),
    ('type: "PriorBox" prior_box_param { min_size: 3 step: 4 step_h: 4 step_w: 4 }', [IMAGE, IMAGE], "not both"),
    ('type: "PriorBox" prior_box_param { min_size: 3 img_h: 4 }', [IMAGE, IMAGE], "not one alone"),
    ('type: "DetectionOutput" detection_output_param { }', BOXES, "num_classes 0"),
    ('type: "DetectionOutput" detection_output_param { num_classes: 3 }', BOXES, "do not fit 2 priors, 3 classes"),
    ('type: "DetectionOutput" detection_output_param { num_classes: 2 nms_param { soft_nms: true } }', BOXES, "soft_nms"),
    ('type: "DetectionOutput" detection_output_param { num_classes: 2 nms_param { eta: 2 } }', BOXES, "eta 2"),
    ('type: "DetectionOutput" detection_output_param { num_classes: 2 }', [*BOXES, (1, 4)], "fourth bottom"),
    ('type: "DetectionOutput" detection_output_param { num_classes: 2 objectness_score: 0.1 }', [*BOXES, (1, 5)], "scores (N, 4)"),
    ('type: "DetectionOutput" detection_output_param { num_classes: 2 share_location: false }', [*BOXES, (1, 4), (1, 8)], "first stage"),
    ('type: "PriorBoxClustered" prior_box_param { width: 3 }', [IMAGE, IMAGE], "1 width and 0 height"),
    ('type: "PriorBoxClustered" prior_box_param { width: 3 height: 2 min_size: 3 }', [IMAGE, IMAGE], "prior_box_param.min_size"),
    ('type: "PriorBoxClustered" prior_box_param { width: 3 height: 2 step_h: 3 }', [IMAGE, IMAGE], "step_h and step_w together"),
    ('type: "PriorBoxClustered" prior_box_param { width: 3 height: 2 variance: -1 }', [IMAGE, IMAGE], "neither one nor four"),
    ('type: "SmoothL1Loss" smooth_l1_loss_param { sigma: 0 }', [IMAGE, IMAGE], "sigma 0"),
    ('type: "SmoothL1Loss" smooth_l1_loss_param { sigma: 2 } loss_param { normalize: true }', [IMAGE, IMAGE], "no fork computes both"),
    ('type: "SmoothL1Loss" loss_param { normalize: true }', [IMAGE] * 4, "no fork computes both"),
    ('type: "SmoothL1Loss"', [IMAGE, (2, 4, 6, 5)], "the same shape"),
    ('type: "Gather"', [IMAGE, IMAGE], "it has 1 top;"),
    ('type: "ROIPooling" roi_pooling_param { pooled_h: 2 }', [IMAGE, (3, 5)], "a pooled_h and pooled_w"),
    ('type: "ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 2 pad_ratio: -1 }', [IMAGE, (3, 5)], "a pooled_h and pooled_w"),
    ('type: "ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 2 pooled_l: 1 }', [IMAGE, (3, 5)], "(N, C, L, H, W)"),
    ('type: "ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 2 pooled_size: 2 }', [IMAGE, (3, 5)], "pooled_size"),
    ('type: "ROIAlign" roi_align_param { pooled_h: 2 pooled_w: 2 }', [IMAGE, (3, 5)], "roi_align_param"),
    ('type: "ROIAlign" roi_pooling_param { pooled_w: 2 }', [IMAGE, (3, 5)], "a pooled_h and pooled_w"),
    ('type: "ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 2 }', [IMAGE, (3, 4)], "a region has 4 numbers"),
    ('type: "PSROIPooling" psroi_pooling_param { output_dim: 1 group_size: 2 }', [IMAGE, (3, 5)], "all positive"),
    ('type: "PSROIPooling" psroi_pooling_param { output_dim: 2 group_size: 2 spatial_scale: 1 }', [IMAGE, (3, 5)], "are not output_dim 2"),
]


@pytest.mark.parametrize(("layer", "shapes", "told"), REFUSED, ids=[f"{i}-{row[0].split(chr(34))[1]}" for i, row in enumerate(REFUSED)])
def test_what_is_unclear_or_wrong_is_refused_by_name(layer: str, shapes: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="layer 'op' of type") as error:
        net_of(tmp_path, layer, *shapes)
    assert told in str(error.value)


@pytest.mark.parametrize("case", [case for case in FORKS if case.startswith("DetectionOutput")])
def test_drawing_and_saving_detections_is_left_out(case: str, tmp_path: Path) -> None:
    more = 'visualize: true visualize_threshold: 0.3 save_output_param { output_directory: "x" output_format: "VOC" } share_location: true'
    path = tmp_path / "net.prototxt"
    path.write_text(files(case)[0].read_text().replace("share_location: true", more))
    with pytest.warns(UserWarning, match="save_output_param"):
        net = convert(path)
    with torch.inference_mode():
        assert_as_caffe(case, net(*inputs(case, net), blobs=("out",)))


def test_detections_are_cut_to_the_image_where_the_fork_says_so(tmp_path: Path) -> None:
    """OpenCV's face detector sets `clip`; a box that reaches beyond the image is cut, one inside stays as it is."""
    text = """
        input: "loc" input_shape { dim: 1 dim: 8 }
        input: "conf" input_shape { dim: 1 dim: 4 }
        input: "prior" input_shape { dim: 1 dim: 2 dim: 8 }
        layer { name: "out" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "prior" top: "out"
                detection_output_param { num_classes: 2 code_type: CORNER nms_param { nms_threshold: 0.5 } keep_top_k: 9 clip: %s } }"""
    prior = torch.tensor([[[-0.25, 0.5, 0.25, 1.5, 0.1, 0.2, 0.3, 0.4], [0.1] * 8]])
    found = {}
    for clip in ("false", "true"):
        path = tmp_path / f"{clip}.prototxt"
        path.write_text(text % clip)
        found[clip] = convert(path)(torch.zeros(1, 8), torch.tensor([[0.1, 0.9, 0.2, 0.8]]), prior)[0, 0, :, 3:]
    torch.testing.assert_close(found["false"], prior[0, 0].reshape(2, 4))
    torch.testing.assert_close(found["true"], torch.tensor([[0, 0.5, 0.25, 1], [0.1, 0.2, 0.3, 0.4]]))
