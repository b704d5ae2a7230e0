"""The loop, against a plain PyTorch loop, against itself interrupted, and against two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn_faces import expressions
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.config import Augment, Training
from finetune.errors import FinetuneError, Stopped
from finetune.images.task import ImageTask
from finetune.runs.folder import Run
from finetune.train.augment import view
from finetune.train.device import accelerator_for
from finetune.train.frozen import freeze
from finetune.train.loop import Progress, Trainer, batch_size
from finetune.train.optim import optimizer_for, rate_factor
from finetune.train.seeds import generator
from finetune.train.task import smaller
from zoo import Preprocess

SPEC = Preprocess((16, 16), "RGB", (127.5,) * 3, "test", 1 / 64)
PLAIN = Training(epochs=3, batch_size=16, lr=0.05, precision="no", channels_last=False)
RICH = replace(
    PLAIN, ema=0.9, mixup=0.4, clean_epochs=1, label_smoothing=0.1, warmup_epochs=1, balanced=True, center_loss=0.01, clip_norm=2
)
TIMES = ("seconds", "images_per_s", "memory_mb")


class TinyNet(nn.Module):
    """(N, 3, 16, 16) -> (N, 4): a convolution, a norm or none, dropout or none."""

    CLASSIFIER = "classifier"

    def __init__(self, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(8 * 7 * 7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(F.relu(self.norm(self.conv(x))).flatten(1)))


def net(**arguments: Any) -> TinyNet:
    torch.manual_seed(0)
    return TinyNet(**arguments)


def task(augment: Augment = Augment(), **arguments: Any) -> ImageTask:  # noqa: B008 - frozen
    data = expressions(**arguments)
    splits = {name: data.rows(name) for name in ("train", "public", "private")}
    return ImageTask(data, splits, SPEC, augment, torch.device("cpu"))


def run_in(folder: Path) -> Run:
    return Run.create(folder, {"recipe": "test"}, overwrite=True)


def train(folder: Path, training: Training, model: nn.Module | None = None, on: ImageTask | None = None, **arguments: Any) -> Progress:
    trainer = Trainer(model or net(), on or task(), training, accelerator_for(training, cpu=True), run_in(folder), select="public")
    return trainer.fit(**arguments)


class AnySize(nn.Module):
    """(N, 3, H, W) -> (N, 4), and the sizes that it has seen in training and in evaluation."""

    CLASSIFIER = "classifier"

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.classifier = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(8, 4)
        self.trained: list[tuple[int, ...]] = []
        self.measured: set[tuple[int, ...]] = set()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.trained.append(tuple(x.shape[2:]))
        else:
            self.measured.add(tuple(x.shape[2:]))
        return self.classifier(F.relu(self.conv(x)).mean((2, 3)))


def lines(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock says."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in found]


def same_weights(one: Path, other: Path) -> bool:
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_first_epochs_see_smaller_images_and_every_measurement_the_full_size(tmp_path: Path) -> None:
    model = AnySize()
    train(tmp_path, replace(PLAIN, small_epochs=2, small_size=10), model)
    assert model.trained == [(10, 10)] * 12 + [(16, 16)] * 6
    assert model.measured == {(16, 16)}


def test_a_run_that_is_resumed_goes_on_at_its_epoch_s_size(tmp_path: Path) -> None:
    training = replace(PLAIN, small_epochs=2, small_size=10)
    torch.manual_seed(0)
    train(tmp_path / "whole", training, AnySize())
    torch.manual_seed(0)
    model = AnySize()

    def stop(*_: object) -> None:
        if len(model.trained) == 14:
            os.kill(os.getpid(), signal.SIGTERM)

    model.register_forward_pre_hook(stop)
    with pytest.raises(Stopped):
        train(tmp_path / "parts", training, model)
    again, run = AnySize(), Run.resume(tmp_path / "parts", {"recipe": "test"})
    Trainer(again, task(), training, accelerator_for(training, cpu=True), run, select="public").fit(resume=True)
    assert set(again.trained) == {(16, 16)}
    assert same_weights(tmp_path / "whole" / "last.safetensors", tmp_path / "parts" / "last.safetensors")


@pytest.mark.parametrize(("shape", "expected"), [((4, 3, 112, 96), (4, 3, 56, 48)), ((2, 5, 1, 44, 44), (2, 5, 1, 48, 48))])
def test_smaller_images_keep_their_shape_and_their_mean(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    ramp = torch.arange(shape[-1], dtype=torch.float32).expand(shape)
    result = smaller(ramp, 48)
    assert result.shape == expected
    torch.testing.assert_close(result.mean((-1, -2)), ramp.mean((-1, -2)), rtol=0.01, atol=0)


def test_the_loop_does_what_a_plain_one_does(tmp_path: Path) -> None:
    """SGD with Nesterov momentum, weight decay on matrices only, a cosine after a warm-up, label smoothing: by hand."""
    training = replace(PLAIN, label_smoothing=0.1, warmup_epochs=1)
    train(tmp_path, training)
    model, on = net(), task()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.SGD([{"params": decayed, "weight_decay": 5e-4}, {"params": plain}], lr=1.0, momentum=0.9, nesterov=True)
    losses = []
    for epoch in range(3):
        order, sums = torch.randperm(96, generator=generator(0, epoch)), []
        for step in range(6):
            done = epoch + step / 6
            factor = done if done < 1 else (1 + torch.cos(torch.tensor(torch.pi * (done - 1) / 2)).item()) / 2
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * factor
            rows = order[step * 16 : (step + 1) * 16]
            loss = F.cross_entropy(model(view(on.of("train", rows), SPEC)), on.targets[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sums.append(loss.item())
        losses.append(sum(sums) / len(sums))
    assert [line["loss"] for line in lines(tmp_path)] == pytest.approx(losses, abs=1e-5)
    last = load_file(tmp_path / "last.safetensors")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(last[name], value, atol=1e-5, rtol=0)


def test_the_losses_are_those_of_the_day_they_were_written_down(tmp_path: Path) -> None:
    """Everything on at once; a change here is a change of every recipe."""
    augment = Augment(flip=0.5, scale=(0.8, 1.1), shift=0.1, rotation=10, brightness=0.2, contrast=0.2, erasing=0.3)
    train(tmp_path, RICH, net(norm=True), task(augment))
    found = lines(tmp_path)
    assert [line["loss"] for line in found] == pytest.approx(GOLDEN_LOSSES, abs=2e-3)
    assert [line["ema_select_loss"] for line in found] == pytest.approx(GOLDEN_EMA, abs=2e-3)


GOLDEN_LOSSES = [1.3927, 0.8205, 0.6002]
GOLDEN_EMA = [1.0505, 0.1745, 0.1272]


@pytest.mark.parametrize("stop_at", [2, 6, 9], ids=["within the first epoch", "at an epoch's end", "within the second"])
def test_a_run_that_was_stopped_and_resumed_is_the_run_that_was_not(stop_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM at some step; then everything is equal to the last bit: weights, averages, choice of epoch, metrics."""
    augment = Augment(flip=0.5, shift=0.1, erasing=0.3)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = train(whole, RICH, net(dropout=0.3, norm=True), task(augment))
    seen, inputs = [0], ImageTask.inputs

    def interrupted(self: ImageTask, rows: Tensor, *draws: Tensor) -> tuple[Tensor, ...]:
        seen[0] += 1
        if seen[0] == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return inputs(self, rows, *draws)

    with monkeypatch.context() as patch:
        patch.setattr(ImageTask, "inputs", interrupted)
        with pytest.raises(Stopped):
            train(parts, RICH, net(dropout=0.3, norm=True), task(augment))
    assert (parts / "state.pt").is_file() and not (parts / "last.safetensors").exists()
    torch.manual_seed(99)  # nothing may depend on what was drawn before, or on how the new model began
    model = TinyNet(dropout=0.3, norm=True)
    trainer = Trainer(model, task(augment), RICH, accelerator_for(RICH, cpu=True), Run(parts), select="public")
    found = trainer.fit(resume=True)
    assert lines(parts) == lines(whole)
    for name in ("last.safetensors", "best.safetensors"):
        assert same_weights(parts / name, whole / name)
    assert (found.best, found.best_loss, found.best_epoch, found.best_weights) == (
        expected.best, expected.best_loss, expected.best_epoch, expected.best_weights,
    )  # fmt: skip


def test_the_best_epoch_s_weights_are_kept_not_the_last_one_s(tmp_path: Path) -> None:
    """A rate that destroys the net at the end: the kept weights still give the accuracy that was recorded for them."""
    training = replace(PLAIN, epochs=4, lr=0.001, schedule="step", step_epochs=3, step_factor=1e5)
    model, on = net(), task()
    progress = train(tmp_path, training, model, on)
    accuracies = [line["select_accuracy"] for line in lines(tmp_path)]
    assert progress.best == max(accuracies) > accuracies[-1]
    assert progress.best_epoch == accuracies.index(max(accuracies)) + 1 < 4
    model.load_state_dict(load_file(tmp_path / "best.safetensors"))
    logits = model.eval()(view(on.of("public", torch.arange(40)), SPEC))
    assert (logits.argmax(1) == on.labels("public")).float().mean().item() == pytest.approx(progress.best)


def test_the_average_follows_the_weights(tmp_path: Path) -> None:
    """With so short a run its decay is (1 + t) / (10 + t) at step t; recomputed from the weights after each step."""
    model, on = net(norm=True), task()
    training = replace(PLAIN, epochs=1, ema=0.999)
    trainer = Trainer(model, on, training, accelerator_for(training, cpu=True), run_in(tmp_path), select="public")
    history, step = [], trainer.step

    def noted(rows: Tensor, number: int) -> Tensor:
        found = step(rows, number)
        history.append({name: value.clone() for name, value in model.state_dict().items()})
        return found

    trainer.step = noted  # type: ignore[method-assign]
    trainer.fit()
    average = history[0]
    for number, state in enumerate(history[1:], 1):
        decay = (1 + number) / (10 + number)
        average = {name: decay * average[name] + (1 - decay) * value for name, value in state.items()}
    assert trainer.ema is not None
    for name, value in trainer.ema.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, average[name], atol=1e-5, rtol=0)


def test_parts_of_a_batch_add_up_to_the_batch(tmp_path: Path) -> None:
    for count in (1, 4):
        train(tmp_path / str(count), replace(PLAIN, accumulation=count))
    one, four = (load_file(tmp_path / name / "last.safetensors") for name in ("1", "4"))
    for name in one:
        torch.testing.assert_close(one[name], four[name], atol=1e-5, rtol=1e-4)


def trained(folder: Path) -> None:
    """What both sides of the next test do; dropout and BatchNorm see one process's part only, so there are none."""
    training = replace(RICH, accumulation=2)
    accelerator = accelerator_for(training, cpu=True)
    run = run_in(folder) if accelerator.is_main_process else None
    trainer = Trainer(net(), task(Augment(flip=0.5, shift=0.1, erasing=0.3), other=37), training, accelerator, run, select="public")
    trainer.fit()
    logits = trainer.logits(trainer.model, "private")
    if run is not None:
        run.save_tensors("logits.safetensors", {"logits": logits})


def test_two_processes_train_the_same_net_as_one(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    here = Path(__file__)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(here.parent), str(here.parents[3])])}
    command += [str(here.parents[1] / "helpers" / "two_processes.py"), str(tmp_path / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    trained(tmp_path / "one")
    for one, two in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, abs=1e-3)
    for name in ("last", "best", "logits"):
        one, two = (load_file(tmp_path / count / f"{name}.safetensors") for count in ("one", "two"))
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("training", "epochs", "factor"),
    [
        (Training(epochs=10, warmup_epochs=2), 0, 0), (Training(epochs=10, warmup_epochs=2), 1, 0.5),
        (Training(epochs=10, warmup_epochs=2), 2, 1), (Training(epochs=10, warmup_epochs=2), 6, 0.5),
        (Training(epochs=10, warmup_epochs=2), 10, 0),
        (Training(epochs=100, schedule="step", step_epochs=20), 19.9, 1), (Training(epochs=100, schedule="step", step_epochs=20), 20, 0.1),
        (Training(epochs=100, schedule="step", step_epochs=20), 60, 0.001), (Training(schedule="constant"), 29, 1),
    ],
)  # fmt: skip
def test_the_rate_s_course(training: Training, epochs: float, factor: float) -> None:
    assert rate_factor(training, epochs) == pytest.approx(factor)


def test_backbone_and_head_have_rates_and_decay_of_their_own() -> None:
    model = net(norm=True)
    groups = optimizer_for(model, Training(lr=0.1, backbone_lr=0.01, weight_decay=1e-3)).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(parameter)]: (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    assert found == {
        "conv.weight": (0.01, 1e-3), "conv.bias": (0.01, 0), "norm.weight": (0.01, 0), "norm.bias": (0.01, 0),
        "classifier.weight": (0.1, 1e-3), "classifier.bias": (0.1, 0),
    }  # fmt: skip
    everything = optimizer_for(model, Training(optimizer="adamw", decay_all=True))
    assert isinstance(everything, torch.optim.AdamW) and {group["weight_decay"] for group in everything.param_groups} == {5e-4}


def test_what_is_frozen_keeps_its_weights_and_its_statistics(tmp_path: Path) -> None:
    model = net(norm=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(tmp_path, replace(PLAIN, freeze="norm"), model)
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_freezing_reaches_up_to_the_end_of_the_module_that_is_named() -> None:
    from architectures import MobileFaceExpression

    model = MobileFaceExpression()
    freeze(model, "cnn.res_4_block2")
    trained = {name.split(".")[1] for name, parameter in model.named_parameters() if name.startswith("cnn.") and parameter.requires_grad}
    assert trained == {"res_4_block3", "res_4_block4", "res_4_block5", "dconv_45", "res_5_block0", "res_5_block1", "conv_6sep", "bn6f"}
    with pytest.raises(FinetuneError, match=r"has no module 'cnn\.res_9'; it begins with cnn"):
        freeze(model, "cnn.res_9")


def test_a_loss_that_is_no_number_ends_the_run_in_words(tmp_path: Path) -> None:
    with pytest.raises(FinetuneError, match=r"epoch 1: the loss is (nan|inf).*training\.lr"):
        train(tmp_path, replace(PLAIN, lr=1e30, schedule="constant"))


@pytest.mark.parametrize(
    ("training", "examples", "processes", "found"),
    [(Training(batch_size=64), 1000, 1, 64), (Training(batch_size=64), 50, 1, 50), (Training(batch_size=64), 51, 4, 48)],
)
def test_a_small_set_is_one_batch(training: Training, examples: int, processes: int, found: int) -> None:
    assert batch_size(training, examples, processes) == found


@pytest.mark.parametrize(("size", "examples", "message"), [(65, 100, "multiple of 2"), (64, 1, "too few"), (0, 10, "multiple of")])
def test_a_batch_that_cannot_be_dealt_out_is_refused(size: int, examples: int, message: str) -> None:
    with pytest.raises(FinetuneError, match=message):
        batch_size(Training(batch_size=size), examples, 2)


def test_a_state_that_is_no_state_is_refused_without_running_it(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    (tmp_path / "state.pt").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    with pytest.raises(FinetuneError, match="no saved state"):
        run.load_state()
