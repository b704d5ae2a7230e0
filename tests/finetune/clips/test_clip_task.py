"""Clips as a task: which frames a net gets, how they are augmented, and that cached features say what the whole net says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from drawn_clips import clips
from torch import Tensor, nn

from architectures import FaceClipNet, SmallResNet
from finetune.clips.data import Clips
from finetune.clips.sampling import windows
from finetune.clips.task import ClipFeatureTask, ClipTask
from finetune.config import Augment, Sampling, Training
from finetune.train.augment import view
from finetune.train.device import accelerator_for
from finetune.train.frozen import Classify
from finetune.train.seeds import generator
from finetune.train.task import predictor
from zoo import Preprocess

SPEC = Preprocess((16, 16), "RGB", (127.5, 120.0, 110.0), "test", (1 / 64, 1 / 32, 1 / 16))
SHORT = Sampling(frames=4, stride=2)
CPU = torch.device("cpu")
TRAINING = Training(precision="no", channels_last=False)


def task(sampling: Sampling = SHORT, augment: Augment = Augment(), data: Clips | None = None) -> ClipTask:  # noqa: B008 - frozen
    data = clips() if data is None else data
    return ClipTask(data, {name: data.rows(name) for name in ("train", "val")}, SPEC, augment, sampling, CPU)


def net(**arguments: object) -> FaceClipNet:
    torch.manual_seed(1)
    return FaceClipNet(4, "SmallResNet", {"width": 8}, norm=True, dropout=0.0, **arguments).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("draw", ["random", "segments"])
@pytest.mark.parametrize("padding", ["count", "masked"])
def test_a_batch_holds_the_frames_that_were_drawn_and_says_which_count(draw: str, padding: str) -> None:
    on = task(replace(SHORT, draw=draw, padding=padding))  # type: ignore[arg-type]
    rows = torch.tensor([6, 0, 2, 13])  # of 7, 1, 3 and 7 frames
    places, valid, draws = on.draw(rows, generator(3))
    batch, *lengths = on.inputs(rows, places, valid, draws)
    assert valid.tolist() == [4, 1, 3, 4] and batch.shape == (4, 4, 3, 16, 16)
    assert [each.tolist() for each in lengths] == ([[4, 1, 3, 4]] if padding == "masked" else [])
    assert (places.diff(dim=1) >= 0).all() and places[1].tolist() == [0, 0, 0, 0] and places[2].tolist() == [0, 1, 2, 2]
    for clip, row, where in zip(batch, rows.tolist(), places, strict=True):
        torch.testing.assert_close(clip, view(on.data.clip(row)[where], SPEC))


def test_masked_padding_is_cut_to_the_longest_clip_of_the_batch() -> None:
    on = task(replace(SHORT, padding="masked"))
    rows = torch.tensor([0, 1])  # of 1 and 2 frames
    batch, lengths = on.inputs(rows, *on.draw(rows, generator(0)))
    assert batch.shape[:2] == (2, 2) and lengths.tolist() == [1, 2]


@pytest.mark.parametrize("padding", ["count", "masked"])
def test_a_batch_is_made_without_reading_anything_back_from_the_device(padding: str) -> None:
    """Which would wait for a GPU. Of the device "meta" nothing can be read: it raises."""
    data, sampling = clips(), replace(SHORT, padding=padding)  # type: ignore[arg-type]
    on = ClipTask(data, {"train": data.rows("train")}, SPEC, Augment(flip=0.5, jitter=0.2, hue=0.1), sampling, torch.device("meta"))
    rows = torch.tensor([6, 0])
    batch, *lengths = on.inputs(rows, *on.draw(rows, generator(0)))
    assert batch.is_meta and [(each.device, each.tolist()) for each in lengths] == ([(CPU, [4, 1])] if padding == "masked" else [])
    assert net().to("meta")(batch, *lengths).is_meta


@pytest.mark.parametrize("how", ["frame", "clip"])
@pytest.mark.parametrize("colour", [False, True])
def test_augmentation_is_drawn_for_each_frame_or_once_for_the_clip(how: str, colour: bool) -> None:
    """A clip of one frame repeats it: under one draw the copies stay equal, under draws of their own no two do."""
    augment = Augment(flip=0.5, jitter=0.2, hue=0.1, saturation=1.5, exposure=1.5, outside="zeros")
    on = task(replace(SHORT, augment=how), augment, clips(colour=colour))  # type: ignore[arg-type]
    rows = torch.tensor([0, 7, 14])
    batch, *_ = on.inputs(rows, *on.draw(rows, generator(5)))
    for clip in batch:
        assert all(torch.equal(frame, clip[0]) for frame in clip[1:]) == (how == "clip")
    assert not torch.equal(batch[0], batch[1])


def test_a_channel_has_a_scale_of_its_own() -> None:
    frame = torch.full((1, 3, 16, 16), 200, dtype=torch.uint8)
    assert view(frame, SPEC)[0, :, 8, 8].tolist() == pytest.approx([72.5 / 64, 80 / 32, 90 / 16])


class Sum(nn.Module):
    """Logits that depend on every frame, its place and the length."""

    def forward(self, batch: Tensor, lengths: Tensor) -> Tensor:
        weights = torch.arange(1, batch.shape[1] + 1) * (torch.arange(batch.shape[1]) < lengths[:, None])
        return torch.stack([(batch.mean((2, 3, 4)) * weights).sum(1), lengths.float()], 1)


@pytest.mark.parametrize("tail", [False, True])
def test_a_video_s_logits_are_the_mean_over_its_windows(tail: bool) -> None:
    on = task(replace(SHORT, tail=tail, padding="masked"), data=clips(8, 14, longest=9))
    found = on.logits(predictor(Sum(), accelerator_for(TRAINING, cpu=True), False), "val")
    for position, row in enumerate(on.splits["val"].tolist()):
        clip = view(on.data.clip(row), SPEC)
        places, valid = windows(len(clip), 4, 2, tail=tail)
        each = [Sum()(clip[where[:length]][None], torch.tensor([length])) for where, length in zip(places, valid.tolist(), strict=True)]
        torch.testing.assert_close(found[position], torch.cat(each).mean(0))


def test_frozen_features_say_what_the_whole_net_says() -> None:
    model, accelerator = net(), accelerator_for(TRAINING, cpu=True)
    for sampling in (SHORT, replace(SHORT, padding="masked", tail=True)):
        on = task(sampling)
        features = ClipFeatureTask(on, model, 1, accelerator, False)
        assert torch.equal(features.targets, on.targets)
        whole = on.logits(predictor(model, accelerator, False), "val")
        torch.testing.assert_close(features.logits(predictor(Classify(model), accelerator, False), "val"), whole, rtol=1e-4, atol=1e-5)
        rows = torch.tensor([6, 0, 2, 13])
        places, valid, _ = on.draw(rows, generator(2))
        batch, *lengths = on.inputs(rows, places, valid, torch.zeros(4, 1, 19))
        kept, *same_lengths = features.inputs(rows, places, valid, torch.zeros(4, 1, dtype=torch.int64))
        assert [each.tolist() for each in lengths] == [each.tolist() for each in same_lengths]
        with torch.inference_mode():
            torch.testing.assert_close(model.classify(kept, *lengths), model(batch, *lengths), rtol=1e-4, atol=1e-5)


def test_features_are_computed_once_for_the_same_net_and_anew_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator, augment = accelerator_for(TRAINING, cpu=True), Augment(flip=0.5, shift=0.2)
    on = task(augment=augment)
    first = ClipFeatureTask(on, net(), 3, accelerator, False).features
    assert first.shape == (3, len(on.data.frames), 64)
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[1], first[2])
    calls: list[int] = []
    embed = SmallResNet.embed
    monkeypatch.setattr(SmallResNet, "embed", lambda self, x: calls.append(len(x)) or embed(self, x))  # type: ignore[func-returns-value]
    assert torch.equal(ClipFeatureTask(on, net(), 3, accelerator, False).features, first) and not calls
    other = net()
    with torch.no_grad():
        other.cnn.conv1.weight[0] += 1  # type: ignore[union-attr, operator, index]
    for changed in (other, net()):  # other weights; the same ones with other draws
        on = task(augment=augment if changed is other else Augment(flip=0.5, shift=0.1))
        before = len(calls)
        assert not torch.equal(ClipFeatureTask(on, changed, 3, accelerator, False).features, first)
        assert len(calls) > before


def test_a_damaged_cache_is_computed_again(tmp_path: Path) -> None:
    accelerator, on = accelerator_for(TRAINING, cpu=True), task()
    first = ClipFeatureTask(on, net(), 1, accelerator, False).features
    [file] = (tmp_path / "home" / "features").iterdir()
    content = bytearray(file.read_bytes())
    content[-3] ^= 0x40
    file.write_bytes(bytes(content))
    assert torch.equal(ClipFeatureTask(on, net(), 1, accelerator, False).features, first)


def test_views_of_a_clip_are_one_for_all_its_frames_or_one_for_each() -> None:
    model, accelerator = net(), accelerator_for(TRAINING, cpu=True)
    rows = torch.arange(40)
    for how, width in (("clip", 1), ("frame", 4)):
        features = ClipFeatureTask(task(replace(SHORT, augment=how)), model, 3, accelerator, False)  # type: ignore[arg-type]
        _, _, views = features.draw(rows, generator(4))
        assert views.shape == (40, width) and set(views.flatten().tolist()) == {0, 1, 2}
