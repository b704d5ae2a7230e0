"""MTCNN's geometry against brute force, its cascade on a planted face, and both against independent ports."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from architectures import MTCNN, load_from_caffe, mtcnn
from architectures.mtcnn import crop, move, resample, square, suppress, suppress_contained

ROOT = Path(__file__).resolve().parents[2]


def random_boxes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    corner = torch.randint(-5, 60, (count, 2), generator=draw)
    boxes = torch.cat([corner, corner + torch.randint(0, 40, (count, 2), generator=draw)], 1)
    return boxes.float(), torch.rand(count, generator=draw)


def pixels(box: Tensor) -> set[tuple[int, int]]:
    x1, y1, x2, y2 = box.int().tolist()
    return {(x, y) for x in range(x1, x2 + 1) for y in range(y1, y2 + 1)}


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("contained", [False, True])
def test_suppression_counts_pixels(threshold, contained):
    boxes, scores = random_boxes(200, 3)
    covered = [pixels(box) for box in boxes]
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        shared = [len(covered[i] & covered[j]) for j in kept]
        whole = [min(len(covered[i]), len(covered[j])) if contained else len(covered[i] | covered[j]) for j in kept]
        if all(s / w <= threshold for s, w in zip(shared, whole, strict=True)):
            kept.append(i)
    assert 5 < len(kept) < 200
    assert (suppress_contained if contained else suppress)(boxes, scores, threshold).tolist() == kept


def test_no_boxes_are_suppressed_to_no_boxes():
    assert len(suppress(torch.zeros(0, 4), torch.zeros(0), 0.7)) == 0
    assert len(suppress_contained(torch.zeros(0, 4), torch.zeros(0), 0.7)) == 0


@pytest.mark.parametrize(
    ("inputs", "outputs", "reference"),
    [
        ((24, 36), (12, 12), lambda x: F.interpolate(x, (12, 12), mode="area")),
        ((9, 11), (24, 48), lambda x: F.interpolate(x, (24, 48), mode="bilinear")),
        ((13, 17), (13, 17), lambda x: x),
        # 7 to 4 pixels through their common multiple: each output is the mean of 7 quarters of pixels.
        ((7, 7), (4, 4), lambda x: F.avg_pool2d(x.repeat_interleave(4, 2).repeat_interleave(4, 3), 7)),
        # One axis shrinks, the other grows.
        ((8, 5), (2, 20), lambda x: F.interpolate(F.avg_pool2d(x, (4, 1)), (2, 20), mode="bilinear")),
    ],
)
def test_resampling_is_area_to_fewer_pixels_and_linear_to_more(inputs, outputs, reference):
    image = torch.rand(3, *inputs, generator=torch.Generator().manual_seed(4)) * 255
    torch.testing.assert_close(resample(image, outputs), reference(image[None])[0], rtol=1e-5, atol=1e-3)


def test_a_box_beyond_the_image_is_filled_with_black():
    image = torch.arange(1.0, 13.0).reshape(1, 3, 4).expand(3, 3, 4)
    boxes = torch.tensor([[1.0, 1, 3, 3], [0, -1, 3, 2], [3, 3, 5, 5], [20, 20, 22, 22], [5, 1, 3, 3]])
    kept, crops = crop(image, boxes, 3)
    assert torch.equal(kept, boxes[:4])  # the last one's right edge is left of its left edge
    assert torch.equal(crops[0, 0], torch.tensor([[1.0, 2, 3], [5, 6, 7], [9, 10, 11]]))
    padded = torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 2, 3], [0, 5, 6, 7]]).expand(3, 4, 4)
    torch.testing.assert_close(crops[1], resample(padded, (3, 3)))
    assert torch.equal(crops[2, 0], torch.tensor([[11.0, 12, 0], [0, 0, 0], [0, 0, 0]]))
    assert crops[3].count_nonzero() == 0


def test_squares_keep_the_centre_and_shifts_are_in_units_of_pixels_covered():
    box = torch.tensor([[10.0, 20, 20, 50]])
    assert square(box).tolist() == [[0, 20, 30, 50]]
    assert move(box, torch.tensor([[0.5, 0, -1, 1]])).tolist() == [[15.5, 20, 9, 81]]


class Framed(torch.nn.Module):
    """Stands for any of the three nets. A face: red in the middle two thirds of the window, dark around them."""

    def __init__(self, window: int, landmarks: bool = False) -> None:
        super().__init__()
        border = window // 6
        middle = torch.zeros(window, window)
        middle[border:-border, border:-border] = 1
        self.kernel = (middle / middle.sum() - (1 - middle) / (1 - middle).sum())[None, None]
        self.landmarks = landmarks

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        face = torch.sigmoid(10 * F.conv2d(x[:, :1], self.kernel, stride=2) - 8)
        probability, shift = torch.cat([1 - face, face], 1), face.repeat(1, 4, 1, 1) * 0
        if len(self.kernel[0, 0]) == 12:
            return probability, shift
        points = torch.tensor([0.25, 0.75, 0.5, 0.25, 0.75, 0.25, 0.25, 0.5, 0.75, 0.75]).expand(len(x), 10)
        return (probability.flatten(1), shift.flatten(1), points)[: 3 if self.landmarks else 2]


@pytest.mark.parametrize(("left", "top", "side"), [(30, 22, 40), (61, 50, 25), (10, 62, 38)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_planted_square_is_found_where_it_is_with_its_frame(left, top, side, dtype):
    detector = MTCNN().eval()
    detector.register_parameter("device", torch.nn.Parameter(torch.zeros(())))
    detector.pnet, detector.rnet, detector.onet = Framed(12), Framed(24), Framed(48, True)
    image = torch.zeros(3, 110, 140, dtype=dtype)
    image[0, top : top + side, left : left + side] = 255
    boxes, scores, landmarks = detector(image)
    assert len(boxes) >= 1
    assert (scores.diff() <= 0).all()
    frame = side / 4
    want = pixels(torch.tensor([left + 1 - frame, top + 1 - frame, left + side + frame, top + side + frame]))
    found = pixels(boxes[0])
    assert len(want & found) / len(want | found) > 0.6
    middle = landmarks[0, 2]
    assert (middle - torch.tensor([left + side / 2, top + side / 2])).abs().max() < side / 5
    assert landmarks[0, 0, 0] < middle[0] < landmarks[0, 1, 0]
    assert landmarks[0, 0, 1] < middle[1] < landmarks[0, 3, 1]


class Sure(torch.nn.Module):
    """An ONet that takes every crop for a face, each a little less, and moves its box to the right by a tenth."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        face = 0.99 - 0.01 * torch.arange(len(x))
        return torch.stack([1 - face, face], 1), torch.tensor([0.1, 0, 0.1, 0]).expand(len(x), 4), torch.zeros(len(x), 10)


def test_a_box_inside_of_a_better_one_is_no_second_face():
    detector = MTCNN().eval()
    detector.onet = Sure()
    boxes = torch.tensor([[11.0, 10, 60, 59], [21, 20, 40, 39], [71, 10, 90, 29]])
    found = detector._finish(torch.zeros(3, 100, 100), boxes)
    assert found.boxes.tolist() == [[16, 10, 65, 59], [73, 10, 92, 29]]
    assert found.scores.tolist() == pytest.approx([0.99, 0.97])
    assert found.landmarks[:, 0].tolist() == [[10, 9], [70, 9]]


@pytest.mark.parametrize("size", [(80, 60), (12, 300), (5, 5)])
def test_an_image_without_faces_or_too_small_for_one_has_no_detections(size):
    boxes, scores, landmarks = MTCNN(thresholds=(1.1, 0.7, 0.7)).eval()(torch.zeros(3, *size))
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)
    assert landmarks.shape == (0, 5, 2)


@pytest.mark.parametrize("shape", [(1, 3, 60, 60), (60, 60, 3), (60, 60)])
def test_other_shapes_than_one_image_are_errors(shape):
    with pytest.raises(ValueError, match=r"\(3, H, W\)"):
        MTCNN()(torch.zeros(shape))


@pytest.mark.parametrize("settings", [{"min_size": 0}, {"factor": 1.0}, {"factor": 0}])
def test_settings_that_would_never_end_are_errors(settings):
    with pytest.raises(ValueError, match="min_size"):
        MTCNN(**settings)


# ------------------------------------------------------------------- against facenet-pytorch, an independent port


def port_file(name: str) -> Path:
    """A file of facenet-pytorch's; its code isn't needed for its weights."""
    spec = importlib.util.find_spec("facenet_pytorch")
    if spec is None or spec.origin is None:
        pytest.skip("facenet-pytorch isn't installed (pip install --no-deps facenet-pytorch)")
    return Path(spec.origin).parent / "data" / name


def port_state(part: str) -> dict[str, Tensor]:
    """The port's weights under our names. Its first dense layer reads a map as (W, H, C), ours as (C, H, W)."""
    state = torch.load(port_file(f"{part}.pt"), map_location="cpu", weights_only=True)
    state = {name.replace("dense", "fc"): t for name, t in state.items()}
    for name, channels in [("fc4.weight", 64), ("fc5.weight", 128)]:
        if name in state:
            state[name] = state[name].unflatten(1, (3, 3, channels)).permute(0, 3, 2, 1).flatten(1)
    return state


@pytest.mark.filterwarnings("ignore:.*conv5-3")  # the authors' det2.caffemodel holds a layer that the net hasn't
@pytest.mark.parametrize("part", MTCNN.CAFFE_NETS)
def test_converted_weights_are_those_of_an_independent_port_bit_for_bit(part):
    from converter import convert

    theirs = port_state(part)
    folder = next((p for p in (ROOT / "shared", ROOT.parent / "shared") if p.is_dir()), None)
    if folder is None:
        pytest.skip("the authors' det1 to det3.caffemodel aren't in the project: shared/models has them")
    case = folder / "models" / f"mtcnn_{MTCNN.CAFFE_NETS[part]}"
    ours = getattr(MTCNN(), part)
    load_from_caffe(ours, convert(case / "net.prototxt", case / "net.caffemodel").state_dict())
    assert ours.state_dict().keys() == theirs.keys()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    """NASA's portrait of Eileen Collins, (512, 512, 3), in the public domain."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-image, which ships the picture, isn't installed")
    return np.array(Image.open(Path(spec.origin).parent / "data" / "astronaut.png").convert("RGB"))


@pytest.fixture(scope="module")
def detector() -> MTCNN:
    net = MTCNN().eval()
    for part in ("pnet", "rnet", "onet"):
        getattr(net, part).load_state_dict(port_state(part))
    return net


@pytest.fixture(scope="module")
def ports_detections(astronaut) -> tuple[np.ndarray, np.ndarray]:
    port_file("pnet.pt")
    port = importlib.import_module("facenet_pytorch").MTCNN(keep_all=True)
    boxes, _, landmarks = port.detect(astronaut, landmarks=True)
    return boxes.astype("f4"), landmarks.astype("f4")


def test_the_face_of_a_real_photograph_is_found_where_the_port_finds_it(detector, astronaut, ports_detections):
    boxes, scores, landmarks = detector(torch.from_numpy(astronaut).permute(2, 0, 1))
    assert len(boxes) == 1
    assert scores[0] > 0.999
    # The authors' scaling and rounding, which the port hasn't, make some pixels of 90.
    assert np.abs(boxes.numpy() - ports_detections[0]).max() < 3
    assert np.abs(landmarks.numpy() - ports_detections[1]).max() < 1.5


def test_with_the_ports_scaling_and_rounding_its_detections_are_ours(detector, astronaut, ports_detections, monkeypatch):
    def area(image: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(image[None], size, mode="area")[0]

    def clipped(image: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
        corners = torch.cat([boxes[:, :2].clamp(min=1) - 1, boxes[:, 2:]], 1).int().tolist()
        return boxes, torch.stack([area(image[:, top:bottom, left:right], (size, size)) for left, top, right, bottom in corners])

    monkeypatch.setattr(mtcnn, "resample", area)
    monkeypatch.setattr(mtcnn, "crop", clipped)
    monkeypatch.setattr(Tensor, "trunc", lambda boxes: boxes)
    boxes, _, landmarks = detector(torch.from_numpy(astronaut).permute(2, 0, 1))
    np.testing.assert_allclose(boxes, ports_detections[0], atol=0.01)
    np.testing.assert_allclose(landmarks, ports_detections[1], atol=0.01)


def test_a_mirrored_photograph_has_the_mirrored_face(detector, astronaut):
    image = torch.from_numpy(astronaut).permute(2, 0, 1)
    plain, mirrored = detector(image), detector(image.flip(2))
    assert len(plain.boxes) == len(mirrored.boxes) == 1
    last = image.shape[2] - 1
    points = mirrored.landmarks[0, [1, 0, 2, 4, 3]] * torch.tensor([-1, 1]) + torch.tensor([last, 0])
    assert (plain.landmarks[0] - points).abs().max() < 4
