"""Crops, tracks, timelines and rows, each against a figure worked out another way."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from coloured_run import LABELS

from finetune.extras import to_install
from finetune.predict.crops import face_crop
from finetune.predict.detect import CASCADE_SIDE, detector, from_cascade, shrunk
from finetune.predict.draw import COLOURS, Mark, annotated, colours, on
from finetune.predict.outlet import marks
from finetune.predict.rows import Json, Row, columns
from finetune.predict.timeline import BINS, FINEST, MOST_TRACKS, Recent, Timeline, clock, stacked, tick_step
from finetune.predict.tracks import Tracker
from finetune.video.faces import REFERENCE, Face
from zoo.cards.embedded import FER2013_CROP
from zoo.cards.record import Crop


def face(x: float, y: float, width: float, height: float | None = None) -> Face:
    box = np.array([x, y, x + width - 1, y + (height or width) - 1])
    return Face(box, 0.99, np.zeros((5, 2)))


# --- crops ----------------------------------------------------------------------------------------------------------------------------


def test_a_crop_is_the_square_about_the_box_s_middle() -> None:
    image = np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3)
    assert (face_crop(image, face(20, 10, 10), Crop(), (8, 8)) == image[10:20, 20:30]).all()
    assert (face_crop(image, face(22, 10, 6, 10), Crop(), (8, 8)) == image[10:20, 20:30]).all()  # a narrow box
    assert (face_crop(image, face(20, 10, 10), Crop(0.5), (8, 8)) == image[5:25, 15:35]).all()
    assert face_crop(image, face(0, 0, 32), FER2013_CROP, (8, 8)).shape == (30, 30, 3)


def test_a_face_at_the_edge_goes_on_as_the_edge_does() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
    crop = face_crop(image, face(-4, 25, 10), Crop(), (8, 8))
    assert (crop == np.pad(image, ((0, 5), (4, 0), (0, 0)), "edge")[25:35, 0:10]).all()


def test_aligned_crops_put_the_eyes_where_the_template_has_them() -> None:
    from finetune.video.faces import template

    image = np.zeros((200, 200, 3), np.uint8)
    points = template((112, 96)) * 1.5 + 20
    for x, y in points.round().astype(int):
        image[y - 2 : y + 3, x - 2 : x + 3] = 255
    crop = face_crop(image, Face(np.array([0.0, 0.0, 9.0, 9.0]), 1.0, points), Crop(align=True), (112, 96))
    assert crop.shape == (112, 96, 3)
    for x, y in template((112, 96)).round().astype(int):
        assert crop[y, x].min() > 200


def test_aligned_crops_are_cut_in_the_size_that_training_cut_them_in() -> None:
    """Frames of 112×96 that a net takes as 64×64 show less at the left and right than a crop that is cut as 64×64."""
    points = REFERENCE + np.array([12, 7])
    found = Face(np.array([0.0, 0.0, 9.0, 9.0]), 1.0, points)
    image = np.random.default_rng(0).integers(0, 256, (140, 130, 3), np.uint8)
    crop = face_crop(image, found, Crop(align=True, size=(112, 96)), (64, 64))
    assert np.abs(crop.astype(int) - image[7 : 7 + 112, 12 : 12 + 96]).max() <= 2  # bicubic, to a thousandth of a pixel


def test_the_cascade_s_square_becomes_the_box_that_mtcnn_would_have() -> None:
    found = from_cascade(100, 50, 60, 60)
    assert found.side + 1 == pytest.approx(60 / CASCADE_SIDE) and found.middle.tolist() == pytest.approx([129.5, 79.5])
    assert math.isnan(found.score)
    (left, right), nose = found.points[:2], found.points[2]
    assert left[0] < nose[0] < right[0] and left[1] < nose[1] < found.points[3, 1]


def test_opencv_s_cascade_finds_the_astronaut_in_any_size() -> None:
    data = pytest.importorskip("skimage.data", reason="the picture comes with scikit-image")
    pytest.importorskip("cv2", reason="the cascade comes with OpenCV")
    image = data.astronaut()
    (found,) = detector("opencv_cascade", "cpu", min_face=40, min_score=0.9, longest=1280).find(image)
    assert np.linalg.norm(found.middle - (224, 115)) < 15 and 85 < found.side < 125
    larger = np.kron(image, np.ones((4, 4, 1), np.uint8))  # 2048 pixels: searched at 1280
    again, *_ = detector("opencv_cascade", "cpu", min_face=40, min_score=0.9, longest=1280).find(larger)
    assert np.abs(again.middle / 4 - found.middle).max() < 6


def test_shrinking_averages() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    means = image.reshape(20, 2, 30, 2, 3).mean((1, 3))
    assert np.abs(shrunk(image, 2) - means).max() <= 1  # rounded along each axis
    assert shrunk(image, 1) is image


# --- tracks ---------------------------------------------------------------------------------------------------------------------------

EVEN = np.array([0.5, 0.3, 0.2])


def ids(tracker: Tracker, time: float, *faces: Face, shot: bool = False) -> list[int]:
    return [number for number, _ in tracker.follow(time, faces, [EVEN] * len(faces), shot=shot)]


def test_two_faces_that_pass_each_other_keep_their_numbers() -> None:
    """They come in another order in every frame, as detectors give them, and meet in the middle."""
    tracker, rng = Tracker(), np.random.default_rng(0)
    for step in range(41):
        pair = [(1, face(5 * step, 0, 40)), (2, face(200 - 5 * step, 12, 40))]
        if step and rng.random() < 0.5:
            pair.reverse()
        assert ids(tracker, step / 25, *[each for _, each in pair]) == [number for number, _ in pair]


def test_a_face_that_is_away_for_long_or_across_a_cut_is_another_one() -> None:
    tracker = Tracker()
    assert ids(tracker, 0.0, face(0, 0, 40)) == [1]
    assert ids(tracker, 1.5, face(3, 0, 40)) == [1]
    assert ids(tracker, 4.0, face(3, 0, 40)) == [2]
    assert ids(tracker, 4.04, face(3, 0, 40), shot=True) == [3]
    assert ids(tracker, 4.08, face(3, 0, 90)) == [4]  # twice as large


def test_smoothing_forgets_with_the_time_and_not_with_the_frames() -> None:
    """Against the exponential's own formula, at uneven times."""
    tracker, expected, before = Tracker(tau=0.5), EVEN, 0.0
    tracker.follow(0.0, [face(0, 0, 40)], [EVEN])
    for number, time in enumerate([0.04, 0.1, 0.7, 0.72]):
        fresh = np.roll(EVEN, number)
        ((_, smoothed),) = tracker.follow(time, [face(0, 0, 40)], [fresh])
        kept = math.exp(-(time - before) / 0.5)
        expected, before = kept * expected + (1 - kept) * fresh, time
        assert smoothed == pytest.approx(expected)


def test_a_tracker_remembers_only_who_is_there() -> None:
    tracker = Tracker()
    for step in range(2000):
        ids(tracker, step * 1.0, face(300 * (step % 7), 0, 40))
    assert len(tracker.open) <= 3 and tracker.count > 100


# --- timelines ------------------------------------------------------------------------------------------------------------------------


def test_a_timeline_of_an_hour_is_as_large_as_one_of_a_minute() -> None:
    timeline = Timeline(LABELS)
    rng = np.random.default_rng(0)
    told = np.zeros(3)
    for step in range(9000):
        probabilities = rng.dirichlet([1, 1, 1])
        told += probabilities
        timeline.add(step * 0.4, 1, probabilities)
    (seen,) = timeline.longest()
    assert seen.count == 9000 and seen.sums.shape == (BINS, 3)
    assert timeline.width >= 3600 / BINS and math.log2(timeline.width / FINEST) % 1 == 0
    assert seen.sums.sum(0) == pytest.approx(told, rel=1e-4) and seen.counts.sum() == 9000
    assert seen.counts[: int(3599 / timeline.width)].min() > 0  # no hole from folding


def test_between_two_frames_the_answer_holds_and_after_the_last_it_ends() -> None:
    timeline = Timeline(LABELS)
    for time in (0.0, 0.5, 1.0, 3.0):  # a gap of two seconds, of which one is held
        timeline.add(time, 1, EVEN)
    filled = ~np.isnan(timeline._means(timeline.tracks[1])[:, 0])
    seconds = np.flatnonzero(np.diff(filled.astype(int))) * timeline.width
    assert seconds == pytest.approx([2.0, 3.0, 3.0], abs=2 * FINEST)


def test_of_many_tracks_the_longest_are_kept() -> None:
    timeline = Timeline(LABELS)
    for step in range(100):
        timeline.add(step / 25, 1, EVEN)
    for track in range(2, 500):
        timeline.add(10.0 * track, track, EVEN)
    assert len(timeline.tracks) == MOST_TRACKS and timeline.longest()[0].track == 1


def test_a_column_is_as_high_as_it_is_probable() -> None:
    values = np.array([[0.5, 0.25, 0.25], [0, 1, 0], [np.nan] * 3])
    picture = stacked(values, 8, [(1, 1, 1), (2, 2, 2), (3, 3, 3)])
    assert picture[::-1, 0, 0].tolist() == [1, 1, 1, 1, 2, 2, 3, 3]
    assert set(picture[:, 1, 0]) == {2} and set(picture[:, 2, 0]) == {240}


def test_the_strip_ends_now_and_forgets_what_is_older_than_its_window() -> None:
    recent = Recent(LABELS, seconds=2.0)
    for step in range(100):
        recent.add(step * 0.1, np.eye(3)[step // 90] if step % 50 else None)
    assert len(recent.past) < 25
    strip = recent.strip(20, 4)
    assert strip.shape == (4, 20, 3) and tuple(strip[0, -1]) == COLOURS["happy"] and tuple(strip[0, 1]) == COLOURS["angry"]


@pytest.mark.parametrize(("seconds", "words"), [(0, "0:00"), (63, "1:03"), (3723, "1:02:03"), (0.5, "0.5 s")])
def test_times_are_told_as_players_do(seconds: float, words: str) -> None:
    assert clock(seconds) == words


@pytest.mark.parametrize("span", [0.3, 1, 9, 61, 600, 3600, 86400, 1e6])
def test_there_are_some_ticks_and_not_too_many(span: float) -> None:
    assert 2 <= span / tick_step(span) <= 12.5


# --- rows and pictures ----------------------------------------------------------------------------------------------------------------


def test_labels_that_are_alike_have_columns_of_their_own() -> None:
    names = columns(["crane", "heron", "crane"])
    assert len(set(names)) == len(names) and names[-3:] == ["prob_crane", "prob_heron", "prob_crane_2"]


def test_json_without_a_row_is_json() -> None:
    stream = io.StringIO()
    Json(stream, LABELS, {"labels": list(LABELS)}).finish({"faces": 0})
    assert json.loads(stream.getvalue()) == {"schema_version": 1, "labels": list(LABELS), "rows": [], "counts": {"faces": 0}}
    stream = io.StringIO()
    sink = Json(stream, LABELS, {})
    for _ in range(2):
        sink.row(Row('a"\n.png', "image", 0, None, "no_face"))
    sink.finish({})
    assert [row["source"] for row in json.loads(stream.getvalue())["rows"]] == ['a"\\n.png'] * 2


@pytest.mark.parametrize("box", [(0, 0, 50, 50), (-20, -20, 60, 60), (80, 30, 60, 60), (10, 10, 2, 2), None])
def test_marks_anywhere_can_be_drawn_and_leave_the_picture_s_size(box: tuple[float, float, float, float] | None) -> None:
    image = np.full((90, 120, 3), 90, np.uint8)
    drawn = annotated(image, [Mark(box, EVEN, 3)], LABELS)
    assert drawn.shape == image.shape and (drawn != image).any() and (image == 90).all()


def test_faces_of_a_picture_have_the_table_s_numbers_where_there_are_several() -> None:
    rows = [Row("a.png", "image", 0, None, "ok", face=face, box=(0, 0, 9, 9), probabilities=EVEN) for face in (1, 2)]
    assert [mark.number for mark in marks(rows)] == [1, 2] and [mark.number for mark in marks(rows[:1])] == [None]


def test_letters_can_be_read_on_every_colour() -> None:
    """The contrast of WCAG 2, at least 4.5 to 1."""

    def luminance(colour: tuple[int, int, int]) -> float:
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (each / 255 for each in colour)]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    for colour in colours([*COLOURS, "a", "b"]):
        light, dark = sorted([luminance(colour), luminance(on(colour))], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, colour


def test_missing_packages_are_named_by_their_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["torch", 'av; extra == "predict"', "opencv<5; extra == 'predict'"])
    assert to_install("predict") == "pip install av 'opencv<5'"
    monkeypatch.setattr("importlib.metadata.requires", lambda name: None)
    assert to_install("predict") == "pip install -e '.[predict]' in caffezoo's checkout"


def test_the_extra_of_setup_cfg_is_what_the_words_say() -> None:
    import configparser

    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[3] / "setup.cfg")
    extra = config["options.extras_require"]["predict"].split()
    assert {each.partition("<")[0] for each in extra} == {"av", "opencv-python-headless", "pillow"}
