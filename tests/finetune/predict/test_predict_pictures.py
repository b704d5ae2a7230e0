"""The command on folders of pictures: whole ones and broken ones, turned and transparent, with faces that are coloured squares."""

from __future__ import annotations

import csv
import hashlib
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coloured_run import COLOURS, LABELS, SQUARES, probabilities, write_run
from marked_videos import picture
from PIL import Image
from safetensors.torch import save

import architectures
import zoo
from finetune.predict import detect, sources
from finetune.predict.__main__ import main, parser
from finetune.predict.rows import FIXED
from finetune.train.augment import view
from zoo.cards import registry
from zoo.cards.record import Card, Checksum, Crop, File, Network, Terms

RED, GREEN, BLUE = COLOURS
DOCS = Path(__file__).parents[3] / "docs" / "predicting.md"
COLUMNS = [
    "source", "media", "frame", "time_s", "face", "track_id", "status", "box_x", "box_y", "box_w", "box_h", "box_score", "label", "score",
    "prob_angry", "prob_happy", "prob_sad",
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(
        detect,
        "detector",
        lambda wanted, device, **options: detect.Detector("none", lambda image: [], False) if wanted == "none" else SQUARES,
    )
    return str(write_run(tmp_path / "run"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two faces, one, none, a broken file, and a file that is no picture by its name."""
    place = tmp_path / "in"
    (place / "sub").mkdir(parents=True)
    Image.fromarray(picture((10, 20, 30, RED), (60, 12, 50, GREEN))).save(place / "two.png")
    Image.fromarray(picture((5, 6, 40, BLUE))).save(place / "sub" / "one.png")
    Image.fromarray(picture()).save(place / "none.png")
    (place / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (place / "notes.txt").write_text("no picture")
    return place


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_mixed_folder_gives_a_row_a_face_and_a_row_where_there_is_none(
    run: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder.parent / "rows.csv"
    assert main([run, str(folder), "-o", str(out)]) == 1  # a file could not be read
    assert out.read_text().splitlines()[0].split(",") == COLUMNS
    rows = rows_of(out)
    told = [(Path(row["source"]).name, row["face"], row["status"], row["label"]) for row in rows]
    assert told == [
        ("broken.jpg", "", "unreadable", ""),
        ("none.png", "", "no_face", ""),
        ("one.png", "1", "ok", "sad"),
        ("two.png", "1", "ok", "happy"),
        ("two.png", "2", "ok", "angry"),
    ]
    assert [float(rows[3][f"box_{side}"]) for side in "xywh"] == [60, 12, 50, 50]
    assert [float(rows[4][f"box_{side}"]) for side in "xywh"] == [10, 20, 30, 30]
    assert [row["time_s"] + row["track_id"] for row in rows] == [""] * 5
    assert np.allclose([float(rows[3][name]) for name in COLUMNS[-3:]], probabilities(GREEN), atol=1e-4)
    printed, noted = capsys.readouterr()
    assert "4 files: 2 with faces, 1 without a face, 1 unreadable; 3 faces; 1 other file left out" in printed
    assert printed.endswith(f"written: {out}\n")
    assert noted.count("not feelings") == 1


def test_a_phone_s_photographs_in_a_folder_are_named_with_what_to_do(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(60))
    assert main([run, str(tmp_path / "in")]) == 1
    printed = capsys.readouterr().out
    assert "unreadable: not a picture that is read here: a HEIC picture; save it as JPEG or PNG" in printed
    assert "1 file: 1 unreadable" in printed and "left out" not in printed


def test_one_picture_with_one_face_is_counted_in_the_singular(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(picture((5, 6, 40, BLUE))).save(tmp_path / "one.png")
    assert main([run, str(tmp_path / "one.png")]) == 0
    assert "1 file: 1 with a face; 1 face; " in capsys.readouterr().out


def test_json_says_what_made_the_rows(run: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "rows.json"
    main([run, str(folder), "-o", str(out), "--margin", "0.25", "--top", "1"])
    result: dict[str, Any] = json.loads(out.read_text())
    assert result["schema_version"] == 1 and result["labels"] == list(LABELS) and result["detector"] == "mtcnn"
    assert result["model"] == "run" and result["margin"] == 0.25 and result["crop_source"] == "--margin"
    assert "crop: a square about the box, margin +0.25 (--margin)" in capsys.readouterr().err
    assert result["model_sha256"] == hashlib.sha256((Path(run) / "best.safetensors").read_bytes()).hexdigest()
    assert [list(row) for row in result["rows"]] == [COLUMNS] * 5
    assert result["rows"][0]["label"] is None and result["rows"][0]["status"] == "unreadable"


def test_crops_of_data_sets_are_not_searched(run: str, tmp_path: Path) -> None:
    Image.fromarray(np.full((48, 48, 3), GREEN, np.uint8)).save(tmp_path / "crop.png")
    assert main([run, str(tmp_path / "crop.png"), "--no-detect", "-o", str(tmp_path / "rows.csv")]) == 0
    (row,) = rows_of(tmp_path / "rows.csv")
    assert (row["status"], row["label"], row["box_x"], row["face"]) == ("whole_image", "happy", "", "")
    assert np.allclose([float(row[name]) for name in COLUMNS[-3:]], probabilities(GREEN), atol=1e-4)


def test_grey_crops_give_what_training_s_own_view_of_them_gives(run: str, tmp_path: Path) -> None:
    """Against the logits of the recipes' resampling (augment.view), which is what a run's accuracy was measured with."""
    torch.manual_seed(0)
    state = architectures.SmallVGG(3, widths=(4, 6)).state_dict()
    body = save({key: value.contiguous() for key, value in state.items()})
    spec = {"size": [44, 44], "channels": "GRAY", "mean": [127.5], "scale": 1 / 64, "resize": [48, 48]}
    grey = write_run(
        tmp_path / "grey", architecture="SmallVGG", arguments={"num_classes": 3, "widths": [4, 6]}, preprocess=spec,
        sha256=hashlib.sha256(body).hexdigest(),
    )  # fmt: skip
    (grey / "best.safetensors").write_bytes(body)
    faces = np.random.default_rng(0).integers(0, 256, (5, 48, 48), np.uint8)
    (tmp_path / "faces").mkdir()
    for number, face in enumerate(faces):
        Image.fromarray(face).save(tmp_path / "faces" / f"{number}.png")
    main([str(grey), str(tmp_path / "faces"), "--no-detect", "-o", str(tmp_path / "rows.csv")])
    found = [[float(row[name]) for name in COLUMNS[-3:]] for row in rows_of(tmp_path / "rows.csv")]
    model: Any = zoo.load(grey)
    with torch.inference_mode():
        wanted = model(view(torch.from_numpy(faces), model.card.preprocess)).softmax(1)
    assert np.allclose(found, wanted.numpy(), atol=2e-5)


def test_the_box_is_in_the_picture_as_people_see_it(run: str, tmp_path: Path) -> None:
    """A phone held upright stores the picture lying down."""
    upright = picture((10, 20, 30, RED))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(np.rot90(upright)).save(tmp_path / "phone.png", exif=exif)
    main([run, str(tmp_path / "phone.png"), "-o", str(tmp_path / "rows.csv")])
    (row,) = rows_of(tmp_path / "rows.csv")
    assert [float(row[f"box_{side}"]) for side in "xywh"] == [10, 20, 30, 30]


def test_annotated_pictures_lie_as_their_sources_do_and_are_not_read_again(run: str, folder: Path) -> None:
    results = folder / "results"
    main([run, str(folder), "--annotate", str(results)])
    assert {path.relative_to(results).as_posix() for path in results.rglob("*.*")} == {"two.png", "none.png", "sub/one.png"}
    before, after = (np.asarray(Image.open(place / "two.png")) for place in (folder, results))
    assert before.shape == after.shape
    changed = np.argwhere((before != after).any(2))
    assert len(changed) and (before[50:60, 80:90] == after[50:60, 80:90]).all()  # the middle of a face stays
    found, others = sources.find_sources([folder], results)
    assert len(found) == 4 and others == 1


def test_faces_are_cut_out_as_squares_with_the_table_s_numbers(run: str, folder: Path) -> None:
    faces = folder / "faces"
    main([run, str(folder), "--crops", str(faces)])
    assert {path.relative_to(faces).as_posix() for path in faces.rglob("*.*")} == {"two.1.png", "two.2.png", "sub/one.1.png"}
    for name, side, colour in (("two.1", 50, GREEN), ("two.2", 30, RED), ("sub/one.1", 40, BLUE)):
        face = np.asarray(Image.open(faces / f"{name}.png"))
        assert face.shape == (side, side, 3) and (face == colour).all()
    assert len(sources.find_sources([folder], None, faces)[0]) == 4
    main([run, str(folder), "--crops", str(faces), "--margin", "0.1"])
    assert np.asarray(Image.open(faces / "two.1.png")).shape == (60, 60, 3)


def test_what_was_to_be_looked_at_is_never_written_over(run: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "two.png").read_bytes()
    assert main([run, str(folder / "two.png"), "--annotate", str(folder)]) == 1
    assert "another folder" in capsys.readouterr().err and (folder / "two.png").read_bytes() == before


def test_names_cannot_move_the_cursor(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a\x1b[2J\n.png").write_bytes(b"no picture")
    main([run, str(tmp_path / "a\x1b[2J\n.png"), "-o", str(tmp_path / "rows.csv")])
    assert "\x1b" not in capsys.readouterr().out and "\x1b" not in (tmp_path / "rows.csv").read_text()


def test_labels_and_names_of_a_stranger_s_card_can_be_written(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strange = write_run(tmp_path / "a\x1b[2J", classes=["\ud800", "\x1b[2J", "=1+1"])
    Image.fromarray(picture((60, 12, 50, GREEN))).save(tmp_path / "one.png")
    assert main([str(strange), str(tmp_path / "one.png"), "-o", str(tmp_path / "rows.csv"), "--annotate", str(tmp_path / "out")]) == 0
    assert "\x1b" not in "".join(capsys.readouterr()) + (tmp_path / "rows.csv").read_text()


@pytest.mark.parametrize(("path", "words"), [("gone.png", "no such file"), ("https://example.org/a.png", "asks no other machine")])
def test_what_is_not_there_is_a_row_too(path: str, words: str, run: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([run, path, str(folder / "two.png")]) == 1
    printed = capsys.readouterr().out
    assert words in printed and "happy" in printed


def test_ctrl_c_keeps_what_was_seen(run: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = sources.read_picture

    def interrupted(path: Path) -> np.ndarray:
        if path.name == "two.png":
            raise KeyboardInterrupt
        return honest(path)

    monkeypatch.setattr(sources, "read_picture", interrupted)
    out = folder.parent / "rows.csv"
    assert main([run, str(folder), "-o", str(out), "--batch", "1"]) == 130
    assert [row["label"] for row in rows_of(out)] == ["", "", "sad"]


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("crop", [None, Crop(0.1)])
def test_a_model_that_comes_with_the_package_needs_no_cache(
    crop: Crop | None, softmax: bool, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faces are looked for where its card says what it sees of one, else the whole picture is read."""
    zoo.save_caffe(zoo.load(Path(run)), tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    if softmax:  # as Caffe's deploy files end
        with (tmp_path / "net.prototxt").open("a") as file:
            file.write('layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }')
    digest = hashlib.sha256((tmp_path / "net.caffemodel").read_bytes()).hexdigest()
    weights = File("net.caffemodel", (), None, (Checksum("sha256", digest, "drawn"),))
    card = Card(
        "drawn", "drawn", "colours", (weights,), (Network("net.prototxt", "net.caffemodel"),), Terms("none", "drawn"), "", "", "",
        zoo.Preprocess((8, 8), "RGB", (0.0, 0.0, 0.0), "drawn", 10 / 255), None, labels=LABELS, crop=crop, folder=tmp_path,
    )  # fmt: skip
    monkeypatch.setattr(registry, "CARDS", (*registry.CARDS, card))
    monkeypatch.setenv("CAFFEZOO_HOME", str(tmp_path / "empty"))
    Image.fromarray(picture((60, 12, 50, GREEN))).save(tmp_path / "one.png")
    assert main(["drawn", str(tmp_path / "one.png"), "-o", str(tmp_path / "rows.json")]) == 0
    result = json.loads((tmp_path / "rows.json").read_text())
    assert result["model_sha256"] == digest and result["margin"] == (0.1 if crop else 0)
    assert result["rows"][0]["status"] == ("ok" if crop else "whole_image")
    if crop is not None:  # a little more than the square: mostly green
        assert 0.9 < result["rows"][0]["prob_happy"] < probabilities(GREEN)[1]


WRONG = {
    "no path": ([], "--camera 0"),
    "a path and a camera": (["a.png", "--camera", "0"], "--camera 0"),
    "a table of another kind": (["a.png", "-o", "a.xlsx"], ".csv or .json"),
    "seconds of a picture": (["a.png", "--seconds", "3"], "--camera"),
    "no frame at all": (["a.png", "--every", "0"], "from 1"),
    "a margin that leaves nothing": (["a.png", "--margin", "-0.5"], "from -0.4"),
}


@pytest.mark.parametrize(("words", "answer"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_command_is_answered_with_status_two(words: list[str], answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fer", *words])
    assert ended.value.code == 2 and answer in capsys.readouterr().err


MISSING = {
    "not fetched": ("age_net", "caffe-zoo fetch age_net"),
    "misspelt": ("age_nett", "age_net"),
    "without labels": ("mobilefacenet", "mobilefacenet has no labels"),
    "no run": ("./nowhere", "no folder ./nowhere, and no model of this name; caffe-zoo list"),
    "forgotten": ("b.png", "b.png is a file, where the name of a model or the folder of a run stands: fer_mini b.png"),
}


@pytest.mark.parametrize(("model", "answer"), MISSING.values(), ids=MISSING.keys())
def test_a_model_that_is_not_here_is_named_and_not_fetched(
    model: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CAFFEZOO_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.png").touch()
    assert main([model, "a.png"]) == 1
    assert answer in capsys.readouterr().err


@pytest.mark.parametrize(("package", "words"), [("cv2", "OpenCV"), ("PIL", "Pillow"), ("av", "PyAV")])
def test_a_package_that_is_missing_is_named_with_the_words_to_type(
    package: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    (tmp_path / "a.mp4").write_bytes(b"no matter")
    monkeypatch.setenv("CAFFEZOO_HOME", str(tmp_path / "empty"))
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    options = ["--no-detect"] if package == "av" else []
    assert main([str(run), str(tmp_path / "a.mp4"), *options]) == 1
    printed, noted = capsys.readouterr()
    assert words in printed + noted and "pip install" in printed + noted


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (23, 23), (60, 60)])
def test_small_pictures_have_no_face_and_end_nothing(size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2", reason="the cascade comes with OpenCV")
    monkeypatch.setenv("CAFFEZOO_HOME", str(tmp_path / "empty"))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / "a.png")
    out, results = tmp_path / "rows.csv", tmp_path / "results"
    assert main([str(write_run(tmp_path / "run")), str(tmp_path / "a.png"), "-o", str(out), "--annotate", str(results)]) == 0
    assert [row["status"] for row in rows_of(out)] == ["no_face"]
    assert main([str(tmp_path / "run"), str(tmp_path / "a.png"), "-o", str(out), "--annotate", str(results), "--no-detect"]) == 0
    assert [row["status"] for row in rows_of(out)] == ["whole_image"]


@pytest.mark.parametrize("line", [line for line in DOCS.read_text().splitlines() if line.startswith("$ python -m finetune.predict")])
def test_every_command_of_the_documentation_is_one(line: str) -> None:
    words = shlex.split(line, comments=True)
    parsed = parser().parse_args(words[4:])
    assert parsed.model == "runs/mine"


def test_the_documentation_names_every_column_and_option() -> None:
    text = DOCS.read_text()
    assert [name for name in (*FIXED, "prob_<label>") if f"`{name}`" not in text] == []
    options = {name for action in parser()._actions for name in action.option_strings if name.startswith("--")}
    assert [name for name in options - {"--help", "--output"} if name not in text] == []
