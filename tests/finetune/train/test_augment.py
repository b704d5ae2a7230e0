"""The resampling pass, against PIL, torchvision, colorsys and the zoo's own preprocessing."""

from __future__ import annotations

import colorsys
import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from finetune.config import Augment
from finetune.train.augment import COLUMNS, augmented, draw, in_hsv, matrices, resampled, shrunk, ten_crop, view
from zoo import Preprocess

RAW = Preprocess((48, 48), "RGB", (0.0, 0.0, 0.0), "test")
PLAIN = Augment()


def faces(count: int, side: int = 48, colour: bool = False) -> Tensor:
    """Smooth images, so that an interpolation's neighbours matter less than where it looks."""
    shape = (count, 3 if colour else 1, 8, 8)
    small = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 255
    large = torch.nn.functional.interpolate(small, (side, side), mode="bicubic").clamp(0, 255).to(torch.uint8)
    return large if colour else large[:, 0]


def drawn(count: int = 1, **values: float) -> Tensor:
    """Draws that change nothing (0.5 is the middle of every range), but for the columns named."""
    draws = torch.full((count, len(COLUMNS)), 0.5)
    for name, value in values.items():
        draws[:, COLUMNS.index(name)] = value
    return draws


@pytest.mark.parametrize(
    "spec",
    [
        Preprocess((112, 112), "RGB", (128.0,) * 3, "test", 1 / 128),
        Preprocess((112, 96), "BGR", (93.594, 104.7624, 129.1863), "test"),
        Preprocess((48, 48), "RGB", (0.0,) * 3, "test"),
    ],
    ids=["square", "oblong, BGR", "as it is"],
)
@pytest.mark.parametrize("colour", [False, True], ids=["grey", "colour"])
def test_without_draws_the_input_is_what_the_zoo_prepares(spec: Preprocess, colour: bool) -> None:
    images = faces(3, colour=colour)
    rgb = images if colour else images[:, None].expand(-1, 3, -1, -1)
    expected = torch.stack([spec(image) for image in rgb])
    for found in (view(images, spec), augmented(images, drawn(3), PLAIN, spec)):
        assert found.shape == (3, 3, *spec.size) and found.dtype == torch.float32  # type: ignore[misc]
        torch.testing.assert_close(found / spec.scale, expected / spec.scale, atol=2e-3, rtol=0)


def test_a_crop_is_that_of_the_resized_image() -> None:
    """The older recipe: resize to 256, cut out 224 at a whole-numbered place; PIL rounds to whole grey levels twice."""
    images = faces(4)
    places = torch.tensor([[0.0, 0.0], [0.999, 0.0], [0.4, 0.7], [0.5, 0.999]])
    draws = drawn(4)
    draws[:, [COLUMNS.index("x"), COLUMNS.index("y")]] = places
    found = augmented(images, draws, Augment(crop=(256, 224), outside="border"), dataclasses.replace(RAW, size=(224, 224)))[:, 0]
    for image, (x, y), ours in zip(images, (places * 33).floor().int().tolist(), found, strict=True):
        whole = np.asarray(Image.fromarray(image.numpy()).resize((256, 256), Image.Resampling.BILINEAR), np.float32)
        assert np.abs(whole[y : y + 224, x : x + 224] - ours.numpy()).max() <= 1.01


@pytest.mark.parametrize(
    ("augment", "values", "same"),
    [
        (Augment(rotation=20), {"angle": 0.9}, {"angle": -16.0}),
        (Augment(rotation=20), {"angle": 0.2}, {"angle": 12.0}),
        (Augment(scale=(0.5, 1.0)), {"scale": 0.5}, {"scale": 1 / 0.75}),
        (Augment(shift=6 / 49), {"x": 1.0, "y": 0.0}, {"translate": [-6, 6]}),
    ],
    ids=["one way", "the other way", "enlarged", "shifted"],
)
def test_turning_scaling_and_shifting_are_torchvision_s(augment: Augment, values: dict[str, float], same: dict[str, object]) -> None:
    image = faces(1, side=49)  # odd: torchvision turns about a pixel
    found = augmented(image, drawn(**values), augment, dataclasses.replace(RAW, size=(49, 49)))[0, 0]
    arguments = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0], **same}
    expected = TF.affine(image.float(), interpolation=InterpolationMode.BILINEAR, **arguments)[0]
    inner = slice(12, -12)  # what comes from beyond the border is filled in other ways
    torch.testing.assert_close(found[inner, inner], expected[inner, inner], atol=0.6, rtol=0)


def test_an_oblong_image_turns_without_shear() -> None:
    """A bar that lies in a wide image stands, as long and as thick as before, after a quarter turn."""
    image = torch.zeros(1, 40, 80, dtype=torch.uint8)
    image[0, 18:22, 30:50] = 255
    found = augmented(image, drawn(angle=1.0), Augment(rotation=90, outside="zeros"), dataclasses.replace(RAW, size=(40, 80)))[0, 0] > 127
    rows, columns = found.nonzero().unbind(1)
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (20, 4)


def test_flipping_mirrors_and_comes_as_often_as_asked() -> None:
    images = faces(1).expand(2000, -1, -1)[:, ::4, ::4]
    spec = dataclasses.replace(RAW, size=(12, 12))
    found = augmented(images, draw(2000, torch.Generator().manual_seed(0)), Augment(flip=0.3), spec)[:, 0]
    mirrored = torch.tensor([torch.allclose(each, images[0].float().flip(1), atol=1e-2) for each in found])
    plain = torch.tensor([torch.allclose(each, images[0].float(), atol=1e-2) for each in found])
    assert bool((mirrored ^ plain).all()) and 0.26 < mirrored.float().mean() < 0.34


def test_erasing_covers_the_part_that_it_says_in_the_share_that_it_says() -> None:
    images = torch.full((4000, 32, 32), 100, dtype=torch.uint8)
    spec = dataclasses.replace(RAW, size=(32, 32))
    found = augmented(images, draw(4000, torch.Generator().manual_seed(0)), Augment(erasing=0.4, erased_area=0.2), spec)[:, 0]
    changed = (found - 100).abs() > 1e-3
    share = changed.float().mean((1, 2))
    assert 0.37 < (share > 0).float().mean() < 0.43
    assert share.max() < 0.24 and 0.09 < share[share > 0].mean() < 0.13
    greys = torch.stack([image[mask].mean() for image, mask in zip(found, changed, strict=True) if mask.any()])
    assert greys.min() < 10 and greys.max() > 245  # uniform over all greys


def test_draws_stay_within_their_ranges_and_reach_them() -> None:
    augment = Augment(flip=0.5, scale=(0.7, 1.1), shift=0.2, rotation=30)
    theta = matrices(draw(5000, torch.Generator().manual_seed(0)), augment, 48, 48)
    size = theta[:, :, :2].det().abs().sqrt()
    angle = torch.atan2(-theta[:, 0, 1], theta[:, 1, 1]).rad2deg()
    for found, low, high in ((size, 0.7, 1.1), (theta[:, 0, 2], -0.4, 0.4), (theta[:, 1, 2], -0.4, 0.4), (angle, -30, 30)):
        room = (high - low) / 100
        assert low - 1e-4 <= found.min() < low + room and high - room < found.max() <= high + 1e-4


def test_jitter_moves_each_border_by_itself() -> None:
    theta = matrices(drawn(left=1.0, right=0.5, top=0.5, bottom=0.0), Augment(jitter=0.2), 48, 48)[0]
    corners = theta[:, :2] @ torch.tensor([[-1.0, 1.0], [-1.0, 1.0]]) + theta[:, 2:]
    # The left border moves right by 20 % of the side, the bottom one up by as much; an image spans -1..1.
    torch.testing.assert_close(corners, torch.tensor([[-0.6, 1.0], [-1.0, 0.6]]))


@pytest.mark.parametrize(
    ("turn", "saturation", "exposure"), [(0.07, 0.6, 0.8), (-0.1, 1.5, 1.5), (0.0, 1.0, 1.0), (0.5, 0.0, 1.0), (-0.97, 40.0, 0.0)]
)
def test_hue_saturation_and_value_are_colorsys_s(turn: float, saturation: float, exposure: float) -> None:
    """Random colours, and all of 0, 128 and 255: black, white, grey, and channels that are equal at the top or at the bottom."""
    drawn = torch.randint(0, 256, (50, 3), generator=torch.Generator().manual_seed(0)).float()
    pixels = torch.cat([drawn, torch.cartesian_prod(*[torch.tensor([0.0, 128.0, 255.0])] * 3)])
    given = (torch.full((len(pixels), 1, 1), value) for value in (turn, saturation, exposure))
    found = in_hsv(pixels[:, :, None, None], *given)[:, :, 0, 0]
    for before, after in zip(pixels.tolist(), found.tolist(), strict=True):
        hue, colour, value = colorsys.rgb_to_hsv(*(each / 255 for each in before))
        expected = colorsys.hsv_to_rgb((hue + turn) % 1, min(colour * saturation, 1), min(value * exposure, 1))
        assert after == pytest.approx([each * 255 for each in expected], abs=1e-3)


def test_augmentation_reads_nothing_back_from_its_device() -> None:
    """Which would wait for a GPU. Of the device "meta" nothing can be read: it raises."""
    augment = Augment(
        flip=0.5, scale=(0.7, 1.1), rotation=30, jitter=0.1, hue=0.1, saturation=1.5, exposure=1.5, brightness=0.3, contrast=0.3,
        erasing=0.5,
    )  # fmt: skip
    for images in (faces(2), faces(2, colour=True)):
        assert augmented(images.to("meta"), draw(2, torch.Generator()), augment, RAW).shape == (2, 3, 48, 48)


def test_brightness_and_contrast_are_torchvision_s() -> None:
    image = faces(1)
    bright = augmented(image, drawn(brightness=0.75), Augment(brightness=0.4), RAW)[0, :1]
    torch.testing.assert_close(bright, TF.adjust_brightness(image / 255, 1.2) * 255, atol=0.01, rtol=0)
    flat = augmented(image, drawn(contrast=0.0), Augment(contrast=0.4), RAW)[0, :1]
    torch.testing.assert_close(flat, TF.adjust_contrast(image / 255, 0.6) * 255, atol=0.01, rtol=0)


def test_the_ten_views_are_torchvision_s_ten_crops() -> None:
    image = faces(1)
    found = [view(image, dataclasses.replace(RAW, size=(40, 40)), cut)[0, 0] for cut in ten_crop(40 / 48)]
    corners = TF.ten_crop(image, [40, 40])
    expected = [corners[at][0].float() for at in (4, 0, 1, 2, 3)]  # theirs: four corners, then the centre
    mirrored = [TF.five_crop(image, [40, 40])[at][0].flip(1).float() for at in (4, 0, 1, 2, 3)]
    for ours, theirs in zip(found, expected + mirrored, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0)


def test_a_batch_does_not_depend_on_what_else_is_in_it() -> None:
    augment = Augment(flip=0.5, scale=(0.7, 1.1), shift=0.2, rotation=30, brightness=0.3, contrast=0.3, erasing=0.5)
    images, draws = faces(6), draw(6, torch.Generator().manual_seed(3))
    whole = augmented(images, draws, augment, RAW)
    parts = [augmented(images[rows], draws[rows], augment, RAW) for rows in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(whole, torch.cat(parts), atol=1e-4, rtol=0)


def test_large_images_are_shrunk_once_with_antialiasing() -> None:
    images = faces(3, side=200, colour=True)
    found = shrunk(images, (48, 48))
    assert found.shape == (3, 3, 60, 60) and found.dtype == torch.uint8
    expected = TF.resize(images, [60, 60], antialias=True)
    assert (found.int() - expected.int()).abs().max() <= 1
    assert shrunk(images, (180, 180)) is images


def test_beyond_the_border_is_what_was_asked_for() -> None:
    image = torch.full((1, 20, 20), 200, dtype=torch.uint8)
    theta = torch.tensor([[[1.5, 0.0, 0.0], [0.0, 1.5, 0.0]]])
    assert resampled(image, theta, (20, 20), "zeros")[0, 0, 0, 0] == 0
    for outside in ("border", "reflection"):
        assert resampled(image, theta, (20, 20), outside)[0, 0, 0, 0] == pytest.approx(200, abs=1e-3)
