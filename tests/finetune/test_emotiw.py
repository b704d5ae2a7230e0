"""The video recipes: what each is, from the command line to the run folder, by person in folds, and from other nets' weights."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import marked_videos
import numpy as np
import pytest
import torch
from drawn_clips import CLASSES, clips, write_npz
from drawn_faces import TINY_PROTOTXT
from PIL import Image
from safetensors.torch import load_file

import zoo
from architectures import FaceClipNet, FaceResNetRNN, SmallResNet, VGGFaceRNN
from architectures.legacy import BEST7164, BEST_RESNET
from finetune import ensemble
from finetune.clips.folds import held_out
from finetune.clips.nets import ENCODERS, encoder_of, frame_net, start, with_encoder
from finetune.clips.recipe import Recipe
from finetune.clips.sampling import windows
from finetune.config import Augment
from finetune.emotiw import RECIPES, main
from finetune.fer2013 import RECIPES as IMAGE_RECIPES
from finetune.labels import FER2013
from finetune.predict.__main__ import main as predict
from finetune.protocol import plan_clips
from finetune.runs.folder import Run
from finetune.runs.metrics import read_predictions
from finetune.train.optim import optimizer_for, rate_factor
from finetune.video.destination import OWN, WORKSPACE, settings_of, write_record
from finetune.video.records import Options, Video
from zoo import Preprocess
from zoo.cards import registry
from zoo.cards.record import Crop, Network

SHARED = Path(__file__).resolve().parents[3] / "shared"
EMOTIW = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
FRAMES = ["--set", "sampling.frames=4", "--set", "sampling.stride=2", "--set", "input.size=[16,16]"]
FLOAT32 = ["--set", "training.precision=no"]  # numbers are compared, whatever the CPU prefers
FAST = ["--encoder", "small_resnet", *FRAMES, "--set", "training.lr=0.02", "--set", "training.optimizer=sgd", *FLOAT32]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAFFEZOO_HOME", str(tmp_path / "cache"))


def image_run(folder: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    """The folder of a finished finetune.fer2013 run: SmallResNet of width 8 with drawn weights."""
    torch.manual_seed(9)
    folder.mkdir(parents=True)
    held = Run(folder)
    held.save_tensors("best.safetensors", SmallResNet(len(classes), width=8).state_dict())
    spec = {"size": [16, 16], "channels": "RGB", "mean": [127.5] * 3, "scale": 1 / 64}
    arguments = {"num_classes": len(classes), "width": 8}
    held.write_card({"architecture": "SmallResNet", "arguments": arguments, "classes": list(classes), "preprocess": spec})
    return folder


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return image_run(tmp_path / "image-run")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_npz(tmp_path / "drawn.npz", clips())


def run(data: Path, out: Path, *more: str, recipe: str = "clip_mean") -> int:
    return main(["--recipe", recipe, "--data", str(data), "--out", str(out), "--cpu", *more])


def read(out: Path, name: str = "result.json") -> dict[str, Any]:
    return json.loads((out / name).read_bytes())


# --- what the recipes are -------------------------------------------------------------------------------------------------------------

# The table of XiaoYee/emotion_classification: recipe, its layers, rate, epochs.
PUBLISHED = {
    "vgg_gru": ("vgg_face", "gru", 1e-5, 120), "vgg_lstm": ("vgg_face", "lstm", 1e-5, 120),
    "vgg_lstm_lr1e-4": ("vgg_face", "lstm", 1e-4, 120), "vgg_lstm_cell": ("vgg_face", "lstm_cell", 1e-5, 120),
    "resnet_gru_conv_dropout": ("face_resnet", "gru", 1e-5, 200),
    "resnet_gru": ("face_resnet", "gru", 1e-5, 200), "resnet_gru_lr1e-4": ("face_resnet", "gru", 1e-4, 200),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_is_that_of_its_project_number_by_number(name: str) -> None:
    recipe, (encoder, rnn, lr, epochs) = RECIPES[name], PUBLISHED[name]
    with torch.device("meta"):
        begun = start(replace(recipe, init="none"), clips())
    net: Any = begun.model
    assert (recipe.encoder, recipe.training.epochs, recipe.protocol) == (encoder, epochs, "best-on-reported")
    assert type(net) is (VGGFaceRNN if encoder == "vgg_face" else FaceResNetRNN)
    assert begun.arguments["rnn"] == rnn and net.dropout.p == 0.8
    optimizer = optimizer_for(net, recipe.training)
    assert isinstance(optimizer, torch.optim.SGD)
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (lr, 0.9, 5e-5, False)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(net.parameters()))
    assert (recipe.training.batch_size, recipe.training.freeze, recipe.training.label_smoothing) == (1, None, 0)
    assert recipe.input.size == ((224, 224) if encoder == "vgg_face" else (112, 96)) and recipe.input.channels == "RGB"
    black = (torch.zeros(3) - torch.tensor(recipe.input.mean)) * torch.tensor(recipe.input.scale)
    assert black.tolist() == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    assert recipe.augment == Augment(flip=0.5, jitter=0.2, hue=0.1, saturation=1.5, exposure=1.5, outside="zeros")
    sampling = recipe.sampling
    assert (sampling.frames, sampling.stride, sampling.draw, sampling.augment) == (16, 8, "random", "frame")
    if encoder == "face_resnet":
        assert net.cnn.dropout1_a.p == net.cnn.dropout2.p == (0.4 if "conv_dropout" in name else 0)


def test_the_cyclic_schedule_is_ten_times_the_rate_for_ten_of_25_epochs() -> None:
    """XiaoYee/emotion_classification's cyclic_scheduler counts epochs from 1: 26 to 35, 51 to 60, ... at 1e-4, the others at 1e-5."""
    training = replace(RECIPES["vgg_gru"].training, schedule="cyclic")
    fast = [epoch for epoch in range(1, 121) if training.lr * rate_factor(training, epoch - 1 + 0.5) == pytest.approx(1e-4)]
    assert fast == [*range(26, 36), *range(51, 61), *range(76, 86), *range(101, 111)]
    slow = {rate_factor(training, epoch) for epoch in range(120) if epoch + 1 not in fast}
    assert slow == {1.0}


def test_the_constant_schedule_is_what_the_recipes_use() -> None:
    assert {rate_factor(RECIPES[name].training, epoch) for name in PUBLISHED for epoch in (0, 30, 119)} == {1.0}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_another_encoder_with_that_one_s_own_input(name: str) -> None:
    recipe = with_encoder(RECIPES[name], "mobilefacenet")
    assert (recipe.input, recipe.init) == (IMAGE_RECIPES["mobilefacenet"].input, "mobilefacenet")
    with torch.device("meta"):
        net = start(replace(recipe, init="none"), clips()).model
    assert isinstance(net, FaceClipNet)
    assert net.widths == ((128, 128, 512) if name.startswith("resnet") else (768,))  # a recurrent net for each depth
    assert len(net.rnns) == len(net.widths)


@pytest.mark.parametrize("name", ["vgg_face", "face_resnet", "mobilefacenet"])
def test_an_encoder_s_input_is_the_image_recipe_s(name: str) -> None:
    frame, image = ENCODERS[name].input, IMAGE_RECIPES[name].input
    assert (frame.size, frame.channels, frame.mean, frame.scale) == (image.size, image.channels, image.mean, image.scale)


# --- runs -----------------------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_what_is_promised_and_the_zoo_loads_it(
    data: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    rates = ["--set", "training.batch_size=8", "--set", "training.backbone_lr=0.01"]
    assert run(data, out, *FAST, "--init", str(encoder), "--epochs", "8", *rates) == 0
    assert {entry.name for entry in out.iterdir()} - {"tensorboard"} == {
        "config.json", "environment.json", "metrics.jsonl", "best.safetensors", "last.safetensors", "card.json", "predictions.safetensors",
        "predictions.csv", "result.json", "report.html",
    }  # fmt: skip
    result, config = read(out), read(out, "config.json")
    assert result["scores"]["val"]["accuracy"] > 0.6  # chance is 25 %
    assert result["selected"] == {"epoch": 8, "weights": "model", "on": None, "accuracy": None}
    assert config["data"]["counts"] == {"train": 40, "val": 12} and config["config"]["sampling"]["draw"] == "segments"
    assert "takes the last epoch, reports val" in capsys.readouterr().out and "optimistic" not in (out / "report.html").read_text()
    assert "the trained weights, the last one." in (out / "report.html").read_text()

    model, drawn, held = zoo.load(out), clips(), read_predictions(out).splits["val"]
    with torch.inference_mode():
        for row, logits in zip(held.rows.tolist(), held.logits, strict=True):
            frames = torch.stack([model.preprocess(frame.expand(3, -1, -1)) for frame in drawn.clip(row)])
            cuts = zip(*windows(len(frames), 4, 2, tail=True), strict=True)
            each = [model(frames[places[:length]][None]) for places, length in ((places, int(valid)) for places, valid in cuts)]
            torch.testing.assert_close(torch.cat(each).mean(0), logits, rtol=1e-3, atol=1e-3)

    with (out / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        head, *rows = csv.reader(stream)
    assert head == ["video", "split", "label", "predicted", *(f"p({name})" for name in CLASSES)]
    assert [line[0] for line in rows] == [f"video{row:03}" for row in range(40, 52)] == [drawn.ids[row] for row in held.rows]
    assert [line[2] for line in rows] == [CLASSES[label] for label in held.labels]
    assert [line[3] for line in rows] == [CLASSES[label] for label in held.logits.argmax(1)]
    assert np.allclose([[float(value) for value in line[4:]] for line in rows], held.logits.softmax(1), atol=1e-5)


def test_what_prepare_video_cut_out_stands_in_the_card_and_predict_refuses_a_net_of_clips(
    data: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The frames' folder remembers its margin; a picture is no clip, and nobody is told that its one frame was a video."""
    for name in ("Angry/1", "Angry/2"):
        job = Video(tmp_path / "1.avi", f"{name}.avi", name, "Angry")
        (tmp_path / OWN / WORKSPACE).mkdir(parents=True, exist_ok=True)
        write_record(tmp_path, job, options=settings_of(Options(margin=0.25, size=(64, 48)), marked_videos.squares))
    out = tmp_path / "run"
    assert run(data, out, *FAST, "--frozen", "--smoke", "--init", str(encoder)) == 0
    assert read(out, "card.json")["crop"] == {"margin": 0.25, "align": True, "source": "finetune.prepare_video", "size": [64, 48]}
    assert zoo.load(out).card.crop == Crop(0.25, True, "finetune.prepare_video", (64, 48))
    Image.new("RGB", (32, 32)).save(tmp_path / "face.png")
    capsys.readouterr()
    assert predict([str(out), str(tmp_path / "face.png"), "--no-detect", "-o", str(tmp_path / "rows.csv")]) == 1
    answer = capsys.readouterr()
    assert "run doesn't read single pictures" in answer.err and "finetune.emotiw" in answer.err and not answer.out
    assert not (tmp_path / "rows.csv").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_to_the_end_on_frozen_features(name: str, data: Path, encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--encoder", "small_resnet", *FRAMES, "--frozen", "--smoke", "--init", str(encoder)]
    assert run(data, out, *words, *(["--set", "arguments.branches=[16,48]"] if name.startswith("resnet") else []), recipe=name) == 0
    kept, given = load_file(out / "best.safetensors"), load_file(encoder / "best.safetensors")
    for key, value in kept.items():
        if key.startswith("cnn."):
            assert torch.equal(value, given[key.removeprefix("cnn.")]), key
    protocol = RECIPES[name].protocol
    assert read(out)["protocol"] == protocol and read(out)["selected"]["on"] == (None if protocol == "last" else "val")


def test_a_finished_run_is_not_made_again_and_other_settings_are_refused(
    data: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*FAST, "--frozen", "--smoke", "--init", str(encoder)]
    assert run(data, tmp_path / "run", *words) == 0
    before = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    assert run(data, tmp_path / "run", *words, "--resume") == 0
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == before
    assert run(data, tmp_path / "run", *words, "--resume", "--set", "sampling.frames=5") == 1
    assert "sampling.frames: 4 there, 5 now" in capsys.readouterr().err


@pytest.mark.parametrize("frozen", [[], ["--frozen"]], ids=["whole", "frozen"])
def test_a_converted_caffe_net_of_the_zoo_sees_the_frames(
    frozen: list[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model without a class of its own: its prototxt goes into the run folder, from which the zoo builds it again."""
    (tmp_path / "tiny.prototxt").write_text(TINY_PROTOTXT)
    card = replace(
        registry.card_of("bvlc_googlenet"), name="tiny", networks=(Network(str(tmp_path / "tiny.prototxt"), "tiny.caffemodel"),),
        preprocess=Preprocess((16, 16), "BGR", (104.0, 117.0, 123.0), "this test", 0.02),
    )  # fmt: skip
    monkeypatch.setattr(registry, "CARDS", (card, *registry.CARDS))
    out = tmp_path / "run"
    words = ["--encoder", "tiny", "--init", "none", "--set", "arguments.blob=conv1", *FRAMES, "--epochs", "3", *frozen]
    assert run(data, out, "--smoke", *words) == 0
    begun = start(replace(with_encoder(RECIPES["clip_mean"], "tiny"), init="none", arguments={"blob": "conv1"}), clips()).model
    assert {name for name, each in begun.named_parameters() if not each.requires_grad} == {"cnn.fc8.weight", "cnn.fc8.bias"}
    held = read(out, "card.json")
    assert held["arguments"]["encoder"] == "caffe" and held["arguments"]["width"] == 8 and held["prototxt"] == "net.prototxt"
    model: Any = zoo.load(out)
    kept = load_file(out / "best.safetensors")
    assert isinstance(model, FaceClipNet) and all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    frames = torch.randn(3, 3, 16, 16)
    with torch.inference_mode():
        expected = torch.nn.functional.conv2d(frames, kept["cnn.conv1.weight"], kept["cnn.conv1.bias"], 2).relu().mean((2, 3))
        torch.testing.assert_close(model.embed(frames), expected)
    card_json = json.loads((out / "card.json").read_text())
    card_json["arguments"]["blob"] = "fc9"
    (out / "card.json").write_text(json.dumps(card_json))
    with pytest.raises(zoo.ZooError, match="blob is 'fc9'"):
        zoo.load(out)


def test_a_run_of_clips_is_continued_on_other_clips(data: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole net, with its last layer where the classes are the same, in the same order; in another order it is refused."""
    words = [*FAST, "--smoke"]
    first = tmp_path / "first"
    assert run(data, first, *words, "--init", str(encoder)) == 0
    given = load_file(first / "best.safetensors")
    recipe = replace(with_encoder(RECIPES["clip_mean"], "small_resnet"), init=str(first))
    begun = start(recipe, clips())
    assert all(torch.equal(value, given[key]) for key, value in begun.model.state_dict().items())
    assert begun.arguments["encoder"] == "SmallResNet" and begun.arguments["arguments"] == {"num_classes": 4, "width": 8}
    other = write_npz(tmp_path / "other.npz", replace(clips(), classes=("happy", "angry", "neutral", "sad")))
    assert run(other, tmp_path / "second", *words, "--init", str(first)) == 1
    assert "labels mean different things" in capsys.readouterr().err


# --- folds by person ------------------------------------------------------------------------------------------------------------------


def test_folds_keep_people_apart_and_test_every_clip_once(
    data: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, drawn = tmp_path / "folds", clips()
    words = [*FAST, "--frozen", "--init", str(encoder), "--epochs", "3", "--set", "training.batch_size=8", "--folds", "3"]
    assert run(data, out, *words) == 0
    printed = capsys.readouterr().out
    assert drawn.subjects is not None
    tested: list[int] = []
    for number in (1, 2, 3):
        fold = out / f"fold-{number:02}"
        test = read_predictions(fold).splits["test"].rows.tolist()
        train = [row for row in range(len(drawn)) if row not in test]
        assert read(fold, "config.json")["data"]["counts"] == {"train": len(train), "test": len(test)}
        assert not {drawn.subjects[row] for row in test} & {drawn.subjects[row] for row in train}
        assert read(fold)["selected"]["on"] is None
        tested += test
    assert sorted(tested) == list(range(len(drawn)))
    whole, result = read_predictions(out).splits["test"], read(out)
    assert whole.rows.tolist() == list(range(len(drawn))) and torch.equal(whole.labels, drawn.labels)
    accuracies = [read(out / f"fold-{number:02}")["scores"]["test"]["accuracy"] for number in (1, 2, 3)]
    assert result["folds"]["accuracies"] == accuracies
    assert result["folds"]["mean"] == pytest.approx(np.mean(accuracies))
    assert result["folds"]["standard_error"] == pytest.approx(np.std(accuracies, ddof=1) / 3**0.5)
    assert result["scores"]["test"]["accuracy"] == pytest.approx((whole.logits.argmax(1) == drawn.labels).double().mean().item())
    assert "mean over folds" in printed and "each tested once" in printed
    assert len((out / "predictions.csv").read_text().splitlines()) == 1 + len(drawn)

    before = {path: path.stat().st_mtime_ns for path in out.glob("fold-*/result.json")}
    (out / "fold-02" / "result.json").unlink()  # as if it had been stopped in the second fold
    assert run(data, out, *words, "--resume") == 0
    after = {path: path.stat().st_mtime_ns for path in out.glob("fold-*/result.json")}
    assert [path.parent.name for path in before if after[path] != before[path]] == ["fold-02"]

    second = tmp_path / "seed1"
    assert run(data, second, *words, "--seed", "1") == 0
    capsys.readouterr()
    assert ensemble.main([str(out), str(second), "--json"]) == 0  # late fusion, clip by clip
    fused = json.loads(capsys.readouterr().out)
    assert fused["ensemble"]["test"]["images"] == len(drawn)
    means = [run["scores"]["test"]["accuracy"] for run in fused["runs"]]
    assert fused["mean"]["test"]["accuracy"] == pytest.approx(np.mean(means))
    assert fused["mean"]["test"]["standard_error"] == pytest.approx(np.std(means, ddof=1) / 2**0.5)


@pytest.mark.slow
def test_real_sequences_are_told_apart_by_people_not_seen(tmp_path: Path) -> None:
    """CK+48 at 48×48 through a converted Caffe face net, frozen: a quarter of the sequences is "surprise", which chance can reach."""
    weights, source = SHARED / "models/mobilefacenet/net.caffemodel", SHARED / "data/ck48/ck48_sequences.npz"
    if not weights.is_file() or not source.is_file():
        pytest.skip("needs the real MobileFaceNet and CK+48, which are not part of the project")
    zoo.add("mobilefacenet", weights)
    out = tmp_path / "run"
    assert run(source, out, "--folds", "2", "--frozen", "--set", "views=1", "--set", "input.size=[48,48]", "--epochs", "10") == 0
    scores = read(out)["scores"]["test"]
    assert scores["images"] == 327 and scores["accuracy"] > 83 / 327 + 10 * scores["standard_error"]


# --- which clips do what --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("splits", "protocol", "select", "report"),
    [
        ({"train": 40, "val": 12}, "best-on-reported", "val", "val"), ({"train": 40, "val": 12}, "last", None, "val"),
        ({"train": 40, "val": 12}, "honest", "val", "test"), ({"train": 30, "val": 12, "test": 10}, "honest", "val", "test"),
        ({"train": 30, "val": 12, "test": 10}, "best-on-reported", "test", "test"), ({"train": 52}, "last", None, "test"),
        ({"train": 52}, "best-on-reported", "test", "test"), ({"train": 52}, "honest", "val", "test"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("people", [True, False])
def test_the_protocol_says_which_clips_pick_the_epoch(
    splits: dict[str, int], protocol: Any, select: str | None, report: str, people: bool
) -> None:
    data = replace(clips(), split=tuple(name for name, count in splits.items() for _ in range(count)))
    data = data if people else replace(data, subjects=None)
    plan = plan_clips(data, protocol, partial(held_out, data))
    assert (plan.select, plan.report) == (select, report)
    rows = [row for name in plan.rows for row in plan.rows[name].tolist()]
    assert len(rows) == len(set(rows)) == 52 - (12 if protocol == "best-on-reported" and len(splits) == 3 else 0)
    assert (len(rows) < 52) == any("are not used" in note for note in plan.notes)
    given = set(data.rows("train").tolist())
    held = [name for name in plan.rows if name != "train" and set(plan.rows[name].tolist()) <= given]
    if people and data.subjects is not None:
        for name in held:
            assert not {data.subjects[row] for row in plan.rows[name]} & {data.subjects[row] for row in plan.rows["train"]}
    if protocol == "honest":
        assert plan.select != plan.report


# --- initial weights ------------------------------------------------------------------------------------------------------------------


def test_a_fer2013_run_begins_the_encoder_and_another_label_order_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = clips()
    data = write_npz(tmp_path / "seven.npz", replace(drawn, labels=torch.arange(len(drawn)) % 7, classes=EMOTIW))
    images = image_run(tmp_path / "fer2013-run", FER2013)
    with pytest.warns(UserWarning, match=r"neutral \(FER2013\), the data's .* surprise \(EmotiW .*Its last layer is not taken"):
        assert run(data, tmp_path / "run", *FAST, "--frozen", "--smoke", "--init", str(images)) == 0
    kept, given = load_file(tmp_path / "run" / "best.safetensors"), load_file(images / "best.safetensors")
    assert {key.removeprefix("cnn.") for key in kept if key.startswith("cnn.")} == {key for key in given if "classifier" not in key}
    assert read(tmp_path / "run", "card.json")["classes"] == list(EMOTIW)


def legacy_file(path: Path, table: dict[str, str | None], net: torch.nn.Module) -> Path:
    """A file like those of XiaoYee/emotion_classification, with a number of its own for each tensor, repeated without memory."""
    shapes, state = net.state_dict(), {}
    for key, name in table.items():
        for ending in ("weight", "bias", "running_mean", "running_var"):
            if f"{name}.{ending}" in shapes:
                state[f"{key}.{ending}"] = torch.tensor(float(1 + len(state))).expand(shapes[f"{name}.{ending}"].shape)
    torch.save(state, path)
    return path


@torch.inference_mode()
@pytest.mark.parametrize(("name", "table"), [("vgg_gru", BEST7164), ("resnet_gru", BEST_RESNET)])
def test_the_published_files_begin_the_encoders_as_their_project_did(name: str, table: dict[str, str | None], tmp_path: Path) -> None:
    """utils.Initial took the 13 convolutions and fc6 of best7164.model, not fc7; Resnet_GRU/train.py all of best_resnet.model that fits,
    which is fc5_new besides the convolutions and their norms."""
    import architectures

    recipe = RECIPES[name]
    vgg = recipe.encoder == "vgg_face"
    with torch.device("meta"):
        image_net = architectures.VGGFace(7) if vgg else architectures.FaceResNet(7)
    file = legacy_file(tmp_path / recipe.init, table, image_net)
    cnn: Any = frame_net(replace(recipe, init=str(file)), encoder_of(recipe.encoder), clips())[0]
    with torch.device("meta"):  # the shapes only: what is compared is copied from `cnn`
        rest = VGGFaceRNN() if vgg else FaceResNetRNN(conv_dropout=0)
    net = VGGFaceRNN(7, cnn=cnn) if vgg else FaceResNetRNN(7, conv_dropout=0, cnn=cnn)
    state, there = net.state_dict(), torch.load(file, weights_only=True)
    names = {(value or ""): key for key, value in table.items()}
    taken = set()
    for key, value in state.items():
        layer, _, ending = key.removeprefix("cnn.").replace("fc_top", "fc5_new").rpartition(".")
        if key.startswith(("cnn.", "fc_top")) and ending != "num_batches_tracked":
            expected = there[f"{names[layer]}.{ending}"]
            assert value.shape == expected.shape and (value == expected.flatten()[0]).all(), key
            taken.add(names[layer])
    assert rest.state_dict().keys() == state.keys()
    assert set(table) - taken == ({"pre_model.35.1", "classifier"} if vgg else {"fc8_final"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "training.mixup=0.2"], "mixup is for images"),
        (["--set", "training.channels_last=true"], "on a CPU training.channels_last is for images"),
        (["--folds", "3", "--protocol", "best-on-reported"], "none is left to pick an epoch on"),
        (["--folds", "200"], "200 folds of 10 subjects"),
        (["--encoder", "mobilefacent"], "mobilefacenet"),
        (["--encoder", "bvlc_googlenet", "--init", "none"], "say which blob is read, as in --set arguments.blob="),
        (["--encoder", "bvlc_googlenet"], "bvlc_googlenet begins with its own weights, a run of clips, or none"),
        (["--init", "nowhere.model"], "XiaoYee/emotion_classification has no file for small_resnet"),
        (["--init", "image-run-of-others"], "none in common"),
        (["--init", "empty"], "the folder holds no finished run"),
        (["--encoder", "mobilefacenet", "--init", "image-run"], "a SmallResNet; the encoder mobilefacenet begins"),
        (["--encoder", "face_resnet", "--init", "nowhere.model"], "no such file"),
        (["--set", "arguments.branches=[1,2]"], "branches are 1, 2 wide; SmallResNet has 64 features"),
        (["--set", "arguments.rnnn=gru"], "rnnn"),
        (["--set", "sampling.frames=many"], "sampling.frames"),
        (["--lists", "train=a.txt", "b.txt"], "every file with its split"),
        (["--set", "views=2"], "--set training.freeze=cnn"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    words: list[str], message: str, data: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    image_run(tmp_path / "image-run-of-others", ("cat", "dog"))
    (tmp_path / "empty").mkdir()
    assert run(data, tmp_path / "run", *FAST, "--init", "image-run", *words) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not list((tmp_path / "run").glob("**/best.safetensors"))


def test_folds_need_people(tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_npz(tmp_path / "anonymous.npz", clips(), subjects=False)
    assert run(data, tmp_path / "run", *FAST, "--init", str(encoder), "--folds", "3") == 1
    assert "the data name none" in capsys.readouterr().err


def test_the_documentation_has_every_recipe_with_its_size() -> None:
    lines = (Path(__file__).parents[2] / "docs" / "emotiw.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    stated = {row[0].strip("`"): row[2] for row in rows if row[0].strip("`") in RECIPES}
    seven = replace(clips(), classes=EMOTIW)
    with torch.device("meta"):
        nets = {name: start(replace(recipe, init="none"), seven).model for name, recipe in RECIPES.items()}
    assert stated == {name: f"{sum(p.numel() for p in net.parameters()):,}" for name, net in nets.items()}


def test_recipes_are_named_and_sourced() -> None:
    assert all(isinstance(recipe, Recipe) and recipe.source and recipe.about for recipe in RECIPES.values())
    assert PUBLISHED.keys() <= RECIPES.keys()
