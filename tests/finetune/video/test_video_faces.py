"""Faces of single frames become one aligned face through a video."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV decodes videos: pip install av")
pytest.importorskip("PIL", reason="Pillow writes images: pip install pillow")

from prepared_trees import noise, seconds

from finetune.video import faces
from finetune.video.faces import REFERENCE, Face, align, similarity, template


def test_the_similarity_is_that_of_an_independent_least_squares_fit() -> None:
    transform = pytest.importorskip("skimage.transform", reason="scikit-image has another implementation")
    draw = np.random.default_rng(0)
    for _ in range(20):
        source = draw.normal(0, 30, (5, 2))
        angle, scale, shift = draw.uniform(-1, 1), draw.uniform(0.3, 3), draw.normal(0, 50, 2)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        target = source @ turn.T + shift + draw.normal(0, 2, (5, 2))
        a, b = similarity(source, target)
        expected = transform.estimate_transform("similarity", source, target).params
        np.testing.assert_allclose([a.real, a.imag, b.real, b.imag], [*expected[:2, 0], *expected[:2, 2]], rtol=1e-6, atol=1e-6)


def test_the_crop_of_center_loss_nets_has_its_authors_points_and_others_keep_the_centre() -> None:
    np.testing.assert_allclose(template((112, 96)), REFERENCE)
    np.testing.assert_allclose(template((112, 112)), REFERENCE + np.array([8, 0]))
    np.testing.assert_allclose(template((224, 224)) + 0.5, 2 * (REFERENCE + np.array([8, 0]) + 0.5))
    shrunk = template((112, 96), margin=0.25)
    np.testing.assert_allclose(np.ptp(shrunk, axis=0), np.ptp(REFERENCE, axis=0) / 1.5)
    np.testing.assert_allclose(shrunk.mean(0) - [47.5, 55.5], (REFERENCE.mean(0) - [47.5, 55.5]) / 1.5)


@pytest.mark.parametrize(
    ("size", "scale", "angle"),
    [((112, 96), 1, 0), ((112, 96), 5.3, 0.4), ((112, 96), 0.7, -0.5), ((224, 224), 1.6, 0.2), ((60, 50), 2, -3)],
)
def test_points_of_the_image_land_on_the_template(size: tuple[int, int], scale: float, angle: float) -> None:
    """Each point is a soft blob in an image of its own; its centre of gravity is looked for in the crop."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([300.0, 260.0])
    wanted = template(size)
    points = (wanted - wanted.mean(0)) @ turn.T + middle
    y, x = np.mgrid[:520, :600]
    for point, target in zip(points, wanted, strict=True):
        blob = np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / 2 / (2.5 * scale) ** 2)
        image = np.repeat((255 * blob).astype(np.uint8)[..., None], 3, 2)
        crop = align(image, points, size)
        assert crop.shape == (*size, 3)
        mass = crop[..., 0].astype(float)
        rows, columns = np.mgrid[: size[0], : size[1]]
        centre = np.array([(mass * columns).sum(), (mass * rows).sum()]) / mass.sum()
        np.testing.assert_allclose(centre, target, atol=0.15)


def test_what_lies_beyond_the_image_is_black() -> None:
    crop = align(np.full((112, 96, 3), 200, np.uint8), REFERENCE - [48, 0], (112, 96))
    assert (crop[:, 50:] == 200).all()
    assert (crop[:, :46] == 0).all()


def test_a_face_that_moves_evenly_is_left_where_it_is() -> None:
    points = np.arange(12.0)[:, None, None] * [3.0, -2.0] + np.arange(10.0).reshape(5, 2)
    np.testing.assert_allclose(faces.smooth(points, 7), points, atol=1e-9)


def test_smoothing_takes_noise_out_and_does_not_reach_across_missing_frames() -> None:
    draw = np.random.default_rng(1)
    noisy = draw.normal(0, 1, (200, 5, 2))
    calm = faces.smooth(noisy, 5)
    assert np.abs(np.diff(calm, 2, axis=0)).mean() < 0.4 * np.abs(np.diff(noisy, 2, axis=0)).mean()
    np.testing.assert_array_equal(faces.smooth(noisy, 1), noisy)
    noisy[100] = np.nan
    parts = faces.smooth(noisy, 5)
    assert np.isnan(parts[100]).all()
    np.testing.assert_allclose(parts[:100], faces.smooth(noisy[:100], 5))
    np.testing.assert_allclose(parts[101:], faces.smooth(noisy[101:], 5))


def face(x: float, y: float = 50, side: float = 40, score: float = 0.99) -> Face:
    box = np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2])
    return Face(box, score, box[:2] + REFERENCE * side / 112)


def test_two_faces_side_by_side_are_two_tracks() -> None:
    found = [(n, [face(50 + n), face(110 - n)][:: 1 if n % 2 else -1]) for n in range(12)]
    tracks = faces.link(found, seconds(12))
    assert [len(track) for track in tracks] == [12, 12]
    for track in tracks:
        assert max(np.abs(np.diff([at.middle[0] for _, at in track]))) == pytest.approx(1)


@pytest.mark.parametrize(
    ("second", "shots", "lengths"),
    [
        (face(54), (), [8]),
        (face(54), (4,), [4, 4]),  # the same place, but another shot
        (face(54, side=90), (), [4, 4]),
        (face(90), (), [4, 4]),
    ],
)
def test_a_track_ends_where_the_face_cannot_be_the_same(second: Face, shots: tuple[int, ...], lengths: list[int]) -> None:
    found = [(n, [face(50)] if n < 4 else [second]) for n in range(8)]
    assert [len(track) for track in faces.link(found, seconds(8), shots)] == lengths


def test_a_face_that_was_away_for_long_is_another_track() -> None:
    found = [(n, [face(50)] if n < 4 or n >= 60 else []) for n in range(64)]
    assert [len(track) for track in faces.link(found, seconds(64))] == [4, 4]
    assert [len(track) for track in faces.link(found[:4] + found[20:], seconds(64)[:24] + [1.0] * 40)] == [8]


def test_the_main_track_is_the_longest_with_larger_faces_counting_more() -> None:
    small = [(n, face(20, side=20)) for n in range(20)]
    large = [(n, face(90, side=60)) for n in range(8)]
    short = [(n, face(200, side=300)) for n in range(2)]  # two frames: a mistake of the detector
    unsure = [(n, face(200, side=300, score=0.8)) for n in range(20)]
    assert faces.main_track([small, large, short, unsure], 20) is large
    assert faces.main_track([small, large[:6], short, unsure], 20) is small
    assert faces.main_track([short, unsure], 20) is None
    assert faces.main_track([short], 2) is short  # the video has no third frame


def test_short_gaps_are_interpolated_and_long_ones_left_out() -> None:
    track = [(n, face(10 * n)) for n in (2, 3, 6, 12, 13)]
    points = faces.landmarks(track, seconds(16), max_gap=0.1, step=0.04)
    missing = np.isnan(points[:, 0, 0])
    assert np.flatnonzero(missing).tolist() == [0, 1, 7, 8, 9, 10, 11, 14, 15]
    np.testing.assert_allclose(points[4], face(40).points)
    np.testing.assert_allclose(points[5], face(50).points)


def test_a_cut_is_told_from_movement() -> None:
    pan = [noise((18, 64), 1)[:, n : n + 32, 0] for n in range(10)]
    other = [255 - image for image in pan]
    assert faces.cuts(pan) == set()
    assert faces.cuts([*pan, *other]) == {10}
    assert faces.cuts(pan[:1]) == set()
