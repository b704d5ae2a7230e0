"""The image recipe from the command line to the run folder."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_faces import TINY_PROTOTXT, expressions, write_npz
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import zoo
from finetune.config import as_json
from finetune.errors import FinetuneError
from finetune.fer2013 import RECIPES, main
from finetune.images.data import held_out
from finetune.images.job import image_job
from finetune.images.task import ImageTask
from finetune.labels import FER2013
from finetune.protocol import plan_images, sample
from finetune.train.job import check_labels
from zoo.cards.embedded import FER2013_CROP

SHARED = Path(__file__).resolve().parents[3] / "shared"
SMALL = ["--smoke", "--set", "arguments.width=8", "--set", "input.size=[16,16]", "--set", "training.batch_size=20", "--epochs", "3"]
FLOAT32 = ["--set", "training.precision=no"]  # where numbers are compared, whatever the CPU prefers


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAFFEZOO_HOME", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_npz(tmp_path / "drawn.npz", expressions(160, 60))


def run(data: Path, out: Path, *more: str, recipe: str = "scratch") -> int:
    return main(["--recipe", recipe, "--data", str(data), "--out", str(out), "--cpu", *more])


def result(out: Path) -> dict[str, Any]:
    return json.loads((out / "result.json").read_bytes())


def test_a_run_leaves_everything_that_is_promised(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, before = tmp_path / "run", set(threading.enumerate())
    assert run(data, out, *SMALL) == 0
    assert not [each for each in set(threading.enumerate()) - before if "Writer" in type(each).__name__]  # TensorBoard's
    assert {entry.name for entry in out.iterdir()} - {"tensorboard"} == {
        "config.json", "environment.json", "metrics.jsonl", "best.safetensors", "last.safetensors", "card.json", "predictions.safetensors",
        "result.json", "report.html",
    }  # fmt: skip
    found = result(out)
    assert found["scores"]["private"]["accuracy"] > 0.6  # chance is 25 %
    assert list(found["scores"]) == ["public", "public, ten-crop", "private", "private, ten-crop"]
    assert found["selected"]["on"] == "public" and found["selected"]["accuracy"] == pytest.approx(found["scores"]["public"]["accuracy"])
    config = json.loads((out / "config.json").read_bytes())
    assert config["classes"] == ["angry", "happy", "sad", "neutral"]
    assert config["data"]["counts"] == {"train": 160, "public": 60, "private": 60}
    assert json.loads((out / "environment.json").read_bytes())["device"].startswith("cpu")
    assert config["command"].startswith("python -m finetune.fer2013 --recipe scratch --data ")
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3
    printed = capsys.readouterr().out
    assert "picks the epoch on public, reports private" in printed and "private, ten-crop" in printed and "report.html" in printed


def test_the_zoo_loads_a_run_and_says_what_the_run_said(data: Path, tmp_path: Path) -> None:
    """From a picture through .preprocess and the net to the recorded logits: the card holds all that the recipe did."""
    out = tmp_path / "run"
    assert run(data, out, *SMALL, *FLOAT32, "--set", "input.channels=BGR", "--set", "input.mean=[90,100,110]") == 0
    model: Any = zoo.load(str(out))
    assert model.labels == ("angry", "happy", "sad", "neutral") and not model.training
    images = expressions(160, 60).part("private").images
    inputs = torch.stack([model.preprocess(image.expand(3, -1, -1)) for image in images])
    with torch.inference_mode():
        found = model(inputs)
    torch.testing.assert_close(found, load_file(out / "predictions.safetensors")["private/logits"], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("classes", "side", "known"), [(FER2013, 48, True), (FER2013, 64, False), (FER2013[::-1], 48, False)])
def test_fer2013_s_own_crop_stands_in_the_card(classes: tuple[str, ...], side: int, known: bool, tmp_path: Path) -> None:
    data = write_npz(tmp_path / "drawn.npz", expressions(14, 7, classes=classes, side=side))
    job = image_job(RECIPES["scratch"], data, tmp_path / "run", cpu=True)
    crop = job.card(job.start(), {}).get("crop")
    assert crop == (as_json(FER2013_CROP) if known else None)


def test_a_run_is_stopped_by_sigterm_and_continued_by_the_same_command(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(data, whole, *SMALL) == 0
    seen, inputs = [0], ImageTask.inputs

    def interrupted(self: ImageTask, rows: Tensor, *draws: Tensor) -> tuple[Tensor, ...]:
        seen[0] += 1
        if seen[0] == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return inputs(self, rows, *draws)

    with monkeypatch.context() as patch:
        patch.setattr(ImageTask, "inputs", interrupted)
        assert run(data, parts, *SMALL) == 143
    assert "the same command with --resume continues" in capsys.readouterr().err
    assert not (parts / "card.json").exists()
    assert run(data, parts, *SMALL) == 1
    assert "holds a run already; --resume continues it" in capsys.readouterr().err
    assert run(data, parts, *SMALL, "--resume", "--set", "training.lr=0.001") == 1
    assert "config.training.lr: 0.05 there, 0.001 now" in capsys.readouterr().err
    assert run(data, parts, *SMALL, "--resume") == 0
    for name in ("last.safetensors", "best.safetensors", "predictions.safetensors"):
        ours, theirs = load_file(parts / name), load_file(whole / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    assert result(parts)["scores"] == result(whole)["scores"]
    assert run(data, parts, *SMALL, "--resume") == 0  # finished: nothing to do
    assert "is finished" in capsys.readouterr().out


def test_copies_are_told_apart_in_the_scores(tmp_path: Path) -> None:
    faces = expressions(160, 60)
    faces.images[faces.rows("private")[:15]] = faces.images[faces.rows("train")[:15]]
    out = tmp_path / "run"
    assert run(write_npz(tmp_path / "drawn.npz", faces), out, *SMALL) == 0
    scores = result(out)["scores"]
    assert scores["private"]["images"] == 60 and scores["private without copies"]["images"] == 45
    assert load_file(out / "predictions.safetensors")["private/copy"].tolist() == [True] * 15 + [False] * 45


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_fer_plus_votes_stand_in_for_the_labels_of_the_training_images(mode: str, data: Path, tmp_path: Path) -> None:
    """Ten images have no face for most of the voters; the others' votes are right where every label is shifted by one."""
    faces = expressions(160, 60)
    truth = faces.labels.clone()
    faces.labels[:160] = (truth[:160] + 1) % 4
    usage = {"train": "Training", "public": "PublicTest", "private": "PrivateTest"}
    rows = ["Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"]
    column = {"neutral": 0, "happy": 1, "sad": 3, "angry": 4}
    for number, split in enumerate(faces.split):
        votes = [0] * 10
        votes[9 if number < 10 else column[faces.classes[int(truth[number])]]] = 8
        votes[2] = 2
        rows.append(",".join([usage[split], f"fer{number:07}.png", *map(str, votes)]))
    table = tmp_path / "fer2013new.csv"
    table.write_text("\n".join(rows) + "\n")
    out = tmp_path / "run"
    votes_of = ["--votes", str(table), "--vote-targets", mode, "--epochs", "4"]
    assert run(write_npz(tmp_path / "shifted.npz", faces), out, *SMALL, *votes_of) == 0
    config = json.loads((out / "config.json").read_bytes())
    assert config["votes"] == mode and config["data"]["counts"]["train"] == 150
    assert any("10 training images without a usable vote" in note for note in config["data"]["notes"])
    assert max(each["accuracy"] for each in result(out)["scores"].values()) > 0.5  # the shifted labels would give less than chance


def test_the_best_epoch_on_what_is_reported_is_said_to_be_a_maximum(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run(data, out, *SMALL, "--protocol", "best-on-reported") == 0
    assert json.loads((out / "config.json").read_bytes())["data"]["counts"] == {"train": 220, "private": 60}
    assert result(out)["selected"]["on"] == "private"
    assert "a maximum over epochs, so too high" in capsys.readouterr().out
    assert "private" in (out / "report.html").read_text()


def test_a_finetuned_net_starts_another_run_and_label_orders_are_held_against_each_other(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(data, first, *SMALL) == 0
    assert run(data, second, *SMALL, "--init", str(first), "--epochs", "1", "--set", "training.lr=0") == 0
    assert result(second)["scores"]["private"]["accuracy"] == pytest.approx(result(first)["scores"]["private"]["accuracy"], abs=0.1)
    other = write_npz(tmp_path / "other.npz", expressions(160, 60, classes=("happy", "angry", "sad", "neutral")))
    assert run(other, tmp_path / "third", *SMALL, "--init", str(first)) == 1
    error = capsys.readouterr().err
    assert "class names differ" in error and "happy" in error and "Traceback" not in error
    fewer = write_npz(tmp_path / "fewer.npz", expressions(160, 60, classes=("calm", "tense")))
    assert run(fewer, tmp_path / "fourth", *SMALL, "--init", str(first)) == 0  # other classes: a new last layer
    assert json.loads((tmp_path / "fourth" / "card.json").read_bytes())["arguments"]["num_classes"] == 2


def test_frozen_features_are_computed_once_and_the_head_is_trained(data: Path, tmp_path: Path) -> None:
    """MobileFaceExpression with drawn weights: what lies below stays as it was, what lies above is kept in the whole net."""
    out = tmp_path / "run"
    frozen = [
        "--init",
        "none",
        "--set",
        "training.freeze=cnn",
        "--set",
        "views=3",
        "--set",
        "input.size=[32,32]",
        "--epochs",
        "15",
        "--set",
        "training.batch_size=8",
        "--set",
        "training.lr=0.02",
    ]
    assert run(data, out, "--smoke", *frozen, recipe="mobilefacenet") == 0
    assert result(out)["scores"]["private"]["accuracy"] > 0.5
    torch.manual_seed(0)
    begun = RECIPES["mobilefacenet"].build(4, {}, "none").state_dict()
    kept = load_file(out / "best.safetensors")
    for name, value in begun.items():
        assert torch.equal(kept[name], value) == name.startswith("cnn."), name


@pytest.mark.parametrize("channels", [3, 1])
def test_any_caffe_net_is_finetuned_and_goes_back_to_caffe(
    channels: int, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A prototxt and a caffemodel of 10 classes become a net of 4 that began with the file's convolution, and Caffe's files again.

    A net of one channel, as Light CNN, sees the grey images as they are.
    """
    from converter import convert, save_caffemodel

    prototxt, weights, out = tmp_path / "deploy.prototxt", tmp_path / "net.caffemodel", tmp_path / "run"
    assert TINY_PROTOTXT.count("dim: 3 ") == 1
    prototxt.write_text(TINY_PROTOTXT.replace("dim: 3 ", f"dim: {channels} "))
    given = convert(prototxt)
    save_caffemodel(given, weights)
    caffe = ["--prototxt", str(prototxt), "--caffemodel", str(weights), "--set", "input.scale=0.01", "--set", "training.freeze=conv1"]
    assert run(data, out, "--smoke", "--epochs", "4", *caffe, recipe="caffe") == 0
    assert f"initial weights: {weights}" in capsys.readouterr().out
    assert json.loads((out / "config.json").read_bytes())["config"]["input"]["size"] == [16, 16]
    assert (json.loads((out / "card.json").read_bytes())["preprocess"]["channels"] == "GRAY") == (channels == 1)
    kept = load_file(out / "best.safetensors")
    assert torch.equal(kept["conv1.weight"], given.state_dict()["conv1.weight"]) and kept["fc8.weight"].shape == (4, 392)
    assert result(out)["scores"]["private, ten-crop"]["accuracy"] > 0.5
    model: Any = zoo.load(out)
    assert model.labels == ("angry", "happy", "sad", "neutral")
    zoo.save_caffe(model, tmp_path / "new.prototxt", tmp_path / "new.caffemodel")
    x = torch.randn(1, channels, 16, 16)
    with torch.inference_mode():
        back = convert(tmp_path / "new.prototxt", tmp_path / "new.caffemodel")(x)
        torch.testing.assert_close(back, model(x).softmax(1))


def test_class_folders_without_a_test_split_hold_a_tenth_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faces = expressions(200, 1)
    root = tmp_path / "faces"
    for number, row in enumerate(faces.rows("train").tolist()):
        folder = root / faces.classes[int(faces.labels[row])]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(faces.images[row].numpy()).save(folder / f"{number}.png")
    out = tmp_path / "run"
    assert run(root, out, *SMALL) == 0
    config = json.loads((out / "config.json").read_bytes())
    assert config["data"]["counts"] == {"train": 180, "val": 20}
    assert any("on which the epoch was picked" in note for note in config["data"]["notes"])


def test_held_out_images_leave_no_copy_behind() -> None:
    faces = expressions(100, 1)
    rows = faces.rows("train")
    kept, out = held_out(faces, rows)
    copies = out[:5]
    faces.images[kept[:5]] = faces.images[copies]
    faces.labels[kept[:5]] = faces.labels[copies]
    kept, out = held_out(faces, rows)
    left = {image.numpy().tobytes() for image in faces.images[kept]}
    assert not left & {image.numpy().tobytes() for image in faces.images[out]}
    assert sorted([*kept.tolist(), *out.tolist()]) == rows.tolist()


@pytest.mark.parametrize("copies", [1, 3])
def test_a_class_keeps_its_last_image_to_train_on(copies: int) -> None:
    faces = expressions(100, 1)
    rows = faces.rows("train")
    only = rows[faces.labels[rows] == 2]
    faces.labels[only[copies:]] = 0
    faces.images[only[:copies]] = faces.images[only[0]].clone()
    kept, out = held_out(faces, rows)
    assert set(only[:copies].tolist()) <= set(kept.tolist()) and len(out) >= 8
    assert any("val has nothing of sad" in note for note in plan_images(faces.part("train"), "honest", partial(held_out, faces)).notes)


def test_too_few_images_to_hold_any_out_are_refused() -> None:
    faces = expressions(4, 1)
    faces.labels[:4] = torch.arange(4)
    with pytest.raises(FinetuneError, match=r"4 training images of 4 classes are too few to hold some out.*val/"):
        held_out(faces, faces.rows("train"))


def test_a_test_set_that_was_trained_on_says_so_loudly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faces = expressions(40, 20)
    faces.images[faces.rows("private")], faces.labels[faces.rows("private")] = faces.images[:20].clone(), faces.labels[:20].clone()
    out = tmp_path / "run"
    assert run(write_npz(tmp_path / "drawn.npz", faces), out, *SMALL, "--epochs", "1") == 0
    warning = "WARNING: all 20 private images are in train or another part of the data"
    assert capsys.readouterr().out.count(warning) == 2  # before the training and beside the figures
    assert any(warning in note for note in json.loads((out / "config.json").read_bytes())["data"]["notes"])
    assert "says what was learnt by heart" in (out / "report.html").read_text()


@pytest.mark.parametrize("name", ["sa\udce9d", "sad\x1b[2J", "Happy", ""])
def test_classes_that_cannot_be_named_are_refused_before_training(name: str) -> None:
    faces = replace(expressions(40, 20), classes=("angry", "happy", name, "neutral"))
    with pytest.raises(FinetuneError, match="class names"):
        check_labels(faces, plan_images(faces, "honest", partial(held_out, faces)))


def test_a_sample_has_every_class_in_its_share() -> None:
    faces = expressions(400, 1)
    faces.labels[:300] = 0
    rows = sample(faces, faces.rows("train"), 40)
    shares = np.bincount(faces.labels[rows].numpy(), minlength=4)
    assert abs(shares[0] - 32.5) <= 1 and shares[1:].min() >= 2 and len(set(rows.tolist())) == len(rows)
    assert torch.equal(rows, sample(faces, faces.rows("train"), 40))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere.csv"], "nowhere.csv: no such file or folder"),
        (["--set", "training.lrr=1"], "did you mean training.lr"),
        (["--set", "views=2"], "--set training.freeze=cnn"),
        (["--set", "training.precision=fp16"], "precision fp16 needs a GPU"),
        (["--epochs", "0"], "epochs is 0"),
        (["--set", "training.center_loss=0.1", "--set", "training.mixup=0.2"], "center_loss and mixup exclude each other"),
        (["--set", "training.small_epochs=99", "--set", "training.small_size=8"], "small_epochs is 99 of"),
        (["--epochs", "3", "--set", "training.small_epochs=1"], "small_size is 0; it is the shorter side in pixels, below the input's 16"),
        (["--prototxt", "net.prototxt"], "--prototxt is for --recipe caffe"),
        (["--init", "vgg_face"], "no weights are published for SmallResNet"),
        (["--out", "."], "holds no run"),
        (["--votes", "votes.csv"], "votes.csv"),
        (["--set", "training.batch_size=0"], "batch_size is 0"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    words: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(data, tmp_path / "run", *SMALL, *words) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_weights_that_are_not_there_are_named_with_the_way_to_them(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAFFEZOO_OFFLINE", "1")
    assert run(data, tmp_path / "run", "--smoke", recipe="mobilefacenet") == 1
    assert "mobilefacenet" in capsys.readouterr().err


def test_data_with_neither_private_nor_test_cannot_report_the_best_epoch_on_them() -> None:
    faces = expressions(20, 5).part("train", "public")
    with pytest.raises(FinetuneError, match="neither private nor test"):
        plan_images(faces, "best-on-reported", partial(held_out, faces))


@pytest.mark.slow
def test_a_smoke_run_on_real_faces_beats_chance_clearly(tmp_path: Path) -> None:
    """A converted Caffe face net on 700 images of FER2013: a quarter of the sample is "happy", which is what chance can reach."""
    weights, source = SHARED / "models/mobilefacenet/net.caffemodel", SHARED / "data/fer2013"
    if not weights.is_file() or not source.is_dir():
        pytest.skip("needs the real MobileFaceNet and FER2013, which are not part of the project")
    zoo.add("mobilefacenet", weights)
    out = tmp_path / "run"
    assert run(real_slice(source, tmp_path / "fer.npz"), out, "--smoke", recipe="mobilefacenet") == 0
    scores = result(out)["scores"]["private"]
    most = max(map(sum, scores["confusion"])) / scores["images"]
    assert scores["accuracy"] > most + 3 * scores["standard_error"]


def real_slice(source: Path, path: Path) -> Path:
    """The first images of each split, from the mosaics: 128 images a row of 48×48."""
    images, split = [], []
    for number, (name, rows) in enumerate((("train", 12), ("public", 6), ("private", 6))):
        mosaic = np.asarray(Image.open(source / f"{name}.png"))[: rows * 48]
        images.append(mosaic.reshape(rows, 48, 128, 48).swapaxes(1, 2).reshape(-1, 48, 48))
        split += [number] * len(images[-1])
    table = [line.split(",") for line in (source / "labels.csv").read_text().splitlines()]
    emotion, usage = table[0].index("emotion"), table[0].index("usage")
    labels = []
    for name, part in zip(("Training", "PublicTest", "PrivateTest"), images, strict=True):
        labels += [int(row[emotion]) for row in table[1:] if row[usage] == name][: len(part)]
    np.savez(path, images=np.concatenate(images), labels=np.array(labels), split=np.array(split, np.uint8))
    return path
