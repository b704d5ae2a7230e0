"""The training loop of all recipes, for images and for clips: on one CPU or GPU, or on several through torchrun.

Everything random is drawn from the run's seed, the epoch and the step, never from what came before. So a run that was interrupted
goes on as if it had not been, and a batch is the same however many processes share it.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list, gather, reduce
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from finetune.config import Training
from finetune.errors import FinetuneError, Stopped
from finetune.runs.folder import Run, first_line
from finetune.train.device import sent
from finetune.train.frozen import freeze
from finetune.train.losses import CenterLoss, class_weights, mixed, soft_targets
from finetune.train.optim import classifier_of, embedding_width, optimizer_for, set_rates
from finetune.train.seeds import generator, seed_dropout
from finetune.train.stopping import StopSignal, stop_requested
from finetune.train.task import Task, laid_out, predictor, smaller

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SAVE_EVERY = 300.0  # seconds between saved states, at the ends of epochs; less where saving is cheap
SAVING_SHARE = 0.02  # of the time may go into saving
LARGE_LOSS = 100.0  # of an example: e^-100 is what the right class would have to be given
ASK_EVERY = 16  # steps between asking the other processes whether one has to stop
Line = dict[str, float | None]  # a line of metrics.jsonl


@dataclass
class Progress:
    """Where a run is: `epoch` whole epochs and `step` steps of the next one; the sums are of those steps, in this process."""

    epoch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    right: int = 0
    seconds: float = 0.0
    wall: float = 0.0  # seconds of the whole run, measuring included
    best: float = -1.0  # accuracy on the selecting split
    best_loss: float = math.inf
    best_epoch: int = 0
    best_weights: str = ""


class Part(NamedTuple):
    """What one forward and backward pass gives: loss () and right answers () of its examples, and for the center loss what it reads."""

    loss: Tensor
    right: Tensor
    embedding: Tensor | None
    label: Tensor


class Trainer:
    """Trains `model` on `task` into a run folder; `run` is None in all processes but the first.

    `select` is the split whose accuracy picks the epoch, None takes the last one. `through` makes the module that is called from
    the model whose weights are kept: classify() alone, where the features below were computed beforehand. The run's time counts from
    `began` (of time.monotonic()) on.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        training: Training,
        accelerator: Accelerator,
        run: Run | None,
        *,
        select: str | None,
        through: Callable[[nn.Module], nn.Module] = lambda model: model,
        began: float | None = None,
    ) -> None:
        self.model, self.task, self.training, self.accelerator, self.run = model, task, training, accelerator, run
        self.select, self.through = select, through
        self.progress = Progress()
        self.count = batch_size(training, len(task.targets), accelerator.num_processes)
        self.steps = len(task.targets) // self.count
        model.to(accelerator.device)
        if training.channels_last:
            model.to(memory_format=torch.channels_last)
        self.frozen = freeze(model, training.freeze)
        self.ema = AveragedModel(model) if training.ema else None
        pairs = [] if self.ema is None else list(zip(tensors_of(self.ema.module), tensors_of(model), strict=True))
        self.averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self.counted = [pair for pair in pairs if not pair[0].is_floating_point()]
        self.centers = None
        if training.center_loss:
            self.centers = CenterLoss(len(task.classes), embedding_width(model), training.center_rate).to(accelerator.device)
        net = through(model)
        net = WithEmbedding(net, classifier_of(model)) if training.center_loss else net
        net = torch.compile(net, dynamic=False) if training.compile else net  # type: ignore[assignment]
        self.net, self.optimizer = accelerator.prepare(net, optimizer_for(model, training))
        labels = task.targets if task.targets.dim() == 1 else task.targets.argmax(1)
        self.class_weights = class_weights(labels, len(task.classes)).to(accelerator.device) if training.balanced else None
        self.board: SummaryWriter | None = None
        self.done = 0
        self.since = time.monotonic() if began is None else began  # up to where progress.wall has counted

    def fit(self, *, resume: bool = False) -> Progress:
        """Trains to the end and leaves best.safetensors and last.safetensors in the run folder.

        The best epoch is the one with the highest accuracy on `select` (the lower loss, where two are equal), of the weights or of
        their moving average. With `resume` it goes on where the folder's state is. Raises Stopped, with the state saved, after
        SIGTERM or Ctrl-C, and FinetuneError for a loss that is no number.
        """
        if resume:
            self.restore()
        self.board = None if self.run is None else board(self.run, self.progress.epoch)
        saved, pause = 0.0, 0.0
        try:
            with stop_requested() as stop:
                while self.progress.epoch < self.training.epochs:
                    self.epoch(stop)
                    last = self.progress.epoch == self.training.epochs  # what follows may be killed, too: no epoch is trained again
                    if self.agreed(last or time.monotonic() - saved > pause):
                        before = time.monotonic()
                        self.save()
                        saved = time.monotonic()
                        pause = min(SAVE_EVERY, (saved - before) / SAVING_SHARE)
        finally:
            if self.board is not None:
                with suppress(OSError):  # a full disk was told of when it was met
                    self.board.close()
        self.count_time()
        return self.progress

    def count_time(self) -> None:
        now = time.monotonic()
        self.progress.wall, self.since = self.progress.wall + now - self.since, now

    # --- an epoch and its steps ---

    def epoch(self, stop: StopSignal) -> None:
        """The rest of an epoch, its measurement on `select`, and its line in metrics.jsonl."""
        progress, training = self.progress, self.training
        self.model.train()
        for module in self.frozen:
            module.training = False
        order = torch.randperm(len(self.task.targets), generator=generator(training.seed, progress.epoch))
        started, before, sums = time.monotonic(), progress.seconds, list[Tensor]()
        bar = tqdm(
            total=self.steps, initial=progress.step, desc=f"epoch {progress.epoch + 1}/{training.epochs}", unit="step", leave=False,
            dynamic_ncols=True, disable=None if self.run is not None else True,  # None: not where the output is no terminal
        )  # fmt: skip
        with bar:
            for step in range(progress.step, self.steps):
                sums.append(self.step(order[step * self.count : (step + 1) * self.count], step))
                bar.update()
                last = step + 1 == self.steps
                if last or len(sums) % ASK_EVERY == 0:
                    loss, right = torch.stack(sums[-ASK_EVERY:]).mean(0).tolist()
                    rate = len(sums) * self.count / (time.monotonic() - started)
                    bar.set_postfix_str(f"loss {loss:.3f}, accuracy {right / self.local:.1%}, {rate:,.0f} examples/s", refresh=False)
                stopped_by = self.stop_signal(stop, 0 if last else step)
                if last or stopped_by:
                    for loss, right in torch.stack(sums).tolist():
                        progress.losses.append(loss)
                        progress.right += round(right)
                    progress.seconds, progress.step = before + time.monotonic() - started, step + 1
                if stopped_by:
                    self.save()
                    raise Stopped(stopped_by)
        self.end_epoch()

    @property
    def local(self) -> int:
        """Examples of a batch that this process sees."""
        return self.count // int(self.accelerator.num_processes)

    def step(self, rows: Tensor, step: int) -> Tensor:
        """One step of the optimizer; returns this process's mean loss and the number of right answers, on the device."""
        training, accelerator, epoch = self.training, self.accelerator, self.progress.epoch
        self.done = epoch * self.steps + step
        set_rates(self.optimizer, training, epoch + step / self.steps)
        draws = self.task.draw(rows, generator(training.seed, epoch, step))
        shares = self.mixup_shares(len(rows), epoch, step)
        rank = accelerator.process_index
        seed_dropout(training.seed, epoch, step, rank)
        parts = []
        for at in torch.arange(rank * self.local, (rank + 1) * self.local).split(self.local // training.accumulation):
            with accelerator.accumulate(self.net):
                inputs = self.task.inputs(rows[at], *(each[at] for each in draws))
                if epoch < training.small_epochs:
                    inputs = (smaller(inputs[0], training.small_size), *inputs[1:])
                parts.append(self.part(inputs, rows[at], None if shares is None else shares[at]))
        if self.centers is not None:
            embeddings = torch.cat([part.embedding for part in parts if part.embedding is not None])
            self.centers.update(gather(embeddings), gather(torch.cat([part.label for part in parts])))
        if self.ema is not None:
            self.average()
        return torch.stack([torch.stack([part.loss for part in parts]).mean(), torch.stack([part.right for part in parts]).sum().float()])

    def part(self, inputs: tuple[Tensor, ...], rows: Tensor, shares: Tensor | None) -> Part:
        """Forward, backward, and the optimizer's step where this is the last part of the batch."""
        training, accelerator = self.training, self.accelerator
        targets = soft_targets(self.task.targets[rows], len(self.task.classes), training.label_smoothing)
        targets = sent(targets, accelerator.device)
        label = targets.argmax(1)
        if shares is not None:
            shares = sent(shares, accelerator.device)
            inputs, targets = (mixed(inputs[0], shares), *inputs[1:]), mixed(targets, shares)
        logits, embedding = self.net(*laid_out(inputs, training.channels_last)), None
        if self.centers is not None:
            logits, embedding = logits
        cross_entropy = F.cross_entropy(logits.float(), targets, self.class_weights)
        loss = cross_entropy if self.centers is None else cross_entropy + training.center_loss * self.centers(embedding, label)
        accelerator.backward(loss)
        if training.clip_norm and accelerator.sync_gradients:
            accelerator.clip_grad_norm_(self.net.parameters(), training.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        right = (logits.detach().argmax(1) == label).sum()
        return Part(cross_entropy.detach(), right, None if embedding is None else embedding.detach(), label)

    def mixup_shares(self, count: int, epoch: int, step: int) -> Tensor | None:
        """(count,) what each example keeps of itself, or None in an epoch without mixup."""
        training = self.training
        if not training.mixup or epoch >= training.epochs - training.clean_epochs:
            return None
        beta = np.random.default_rng([training.seed, epoch, step]).beta(training.mixup, training.mixup, count)
        return torch.from_numpy(beta).float()

    @torch.no_grad()
    def average(self) -> None:
        """The moving average's step; a short run would otherwise still hold its first weights at the end.

        Not AveragedModel's own, which copies its counter to the GPU, and so waits for it at every step.
        """
        decay = min(self.training.ema, (1 + self.done) / (10 + self.done)) if self.done else 0.0
        torch._foreach_lerp_([old for old, _ in self.averaged], [new for _, new in self.averaged], 1 - decay)
        for old, new in self.counted:
            old.copy_(new)

    # --- the end of an epoch ---

    def end_epoch(self) -> None:
        """Measures the candidates, keeps the best, and logs the epoch."""
        progress = self.progress
        loss, line = self.epoch_line()
        if not math.isfinite(loss):
            raise FinetuneError(
                f"epoch {progress.epoch + 1}: the loss is {loss}. Lower the rate (--set training.lr=...), or limit the gradient"
                " (--set training.clip_norm=1)"
            )
        if loss > LARGE_LOSS and self.run is not None:
            tqdm.write(
                f"note: the loss is {loss:.3g}, so the training diverges. Lower the rate (--set training.lr=...), scale the input"
                " (--set input.scale=0.01), or limit the gradient (--set training.clip_norm=1)"
            )
        for name, net in self.candidates():
            accuracy, select_loss = self.measured(net)
            if self.select is not None:
                prefix = "ema_" if name == "ema" else ""
                line |= {f"{prefix}select_loss": select_loss, f"{prefix}select_accuracy": accuracy}
            self.keep_if_best(name, net, accuracy, select_loss)
        progress.epoch, progress.step, progress.losses, progress.right, progress.seconds = progress.epoch + 1, 0, [], 0, 0.0
        if self.run is not None:
            self.log(self.run, line)

    def epoch_line(self) -> tuple[float, Line]:
        """The mean loss, and the epoch in metrics.jsonl but for the selecting split."""
        progress, accelerator = self.progress, self.accelerator
        sums = torch.tensor([math.fsum(progress.losses) / self.steps, progress.right], dtype=torch.float32, device=accelerator.device)
        loss, right = reduce(sums, "sum").tolist()
        loss, seen = loss / accelerator.num_processes, self.steps * self.count
        return loss, {
            "epoch": progress.epoch + 1,
            "step": (progress.epoch + 1) * self.steps,
            "lr": self.optimizer.param_groups[0]["lr"],
            "loss": loss,
            "accuracy": right / seen,
            "images_per_s": seen / max(progress.seconds, 1e-9),
            "seconds": progress.seconds,
            "memory_mb": torch.cuda.max_memory_allocated() / 2**20 if accelerator.device.type == "cuda" else None,
        }

    def keep_if_best(self, name: str, net: nn.Module, accuracy: float, loss: float) -> None:
        """Makes the net this run's best where it is; without a selecting split the last one is."""
        progress = self.progress
        if self.select is not None and (accuracy, -loss) <= (progress.best, -progress.best_loss):
            return
        progress.best, progress.best_loss = accuracy, loss
        progress.best_epoch, progress.best_weights = progress.epoch + 1, name
        if self.run is not None and (self.select is not None or progress.epoch + 1 == self.training.epochs):
            self.run.save_tensors("best.safetensors", net.state_dict())

    def log(self, run: Run, line: Line) -> None:
        """An epoch that is over, to the folder, the terminal and TensorBoard."""
        run.log(line)
        if self.progress.epoch == self.training.epochs:
            run.save_tensors("last.safetensors", self.model.state_dict())
        tqdm.write(sentence(line, self.select))
        try:
            if self.board is not None:
                for name, value in line.items():
                    if name not in ("epoch", "step") and value is not None:
                        self.board.add_scalar(name, value, self.progress.epoch)
                self.board.flush()
        except OSError as error:
            self.board = None
            tqdm.write(f"note: {run / 'tensorboard'} cannot be written ({error.strerror or error}); going on without it")

    def candidates(self) -> list[tuple[str, nn.Module]]:
        """The nets that may be kept, by name."""
        averaged = [] if self.ema is None else [("ema", self.ema.module)]
        return [("model", self.model), *averaged]

    def measured(self, net: nn.Module) -> tuple[float, float]:
        """Accuracy and loss on the selecting split."""
        if self.select is None:
            return math.nan, math.nan
        logits, labels = self.logits(net, self.select), self.task.labels(self.select)
        return (logits.argmax(1) == labels).double().mean().item(), F.cross_entropy(logits, labels).item()

    def logits(self, net: nn.Module, split: str) -> Tensor:
        """(n, K) on the CPU; every process has a share of the examples and gets all the logits."""
        if self.accelerator.num_processes > 1:
            for buffer in net.buffers():  # BatchNorm's statistics are each process's own
                broadcast(buffer)
        return self.task.logits(predictor(self.through(net), self.accelerator, self.training.channels_last), split)

    # --- stopping and going on ---

    def parts(self) -> dict[str, Any]:
        """All that has a state, by its name in state.pt."""
        scaler = self.accelerator.scaler
        found = {"model": self.model, "optimizer": self.optimizer, "centers": self.centers, "ema": self.ema, "scaler": scaler}
        return {name: part for name, part in found.items() if part is not None}

    def save(self) -> None:
        """What restore() needs. accelerate's own states are not used: it unpickles them when it reads them."""
        self.count_time()
        if self.run is not None:
            self.run.save_state({**{name: part.state_dict() for name, part in self.parts().items()}, "progress": asdict(self.progress)})
        self.accelerator.wait_for_everyone()

    def restore(self) -> None:
        [state] = broadcast_object_list([None if self.run is None else self.run.load_state()])
        if state is not None:
            try:
                for name, part in self.parts().items():
                    part.load_state_dict(state[name])
                self.progress = Progress(**state["progress"])
            except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                raise FinetuneError(
                    f"the saved state is not of this net and recipe ({first_line(error)}); --overwrite starts anew"
                ) from error
        if self.run is not None and state is None and len(over := self.run.lines()) > 1:  # after the first epoch there is one
            tqdm.write(f"note: {self.run / 'state.pt'} is gone, though {len(over)} epochs are over: they are trained again")
        if self.run is not None:
            self.run.keep_lines(self.progress.epoch, () if state is None else state.get("lines", ()))
            if self.select is not None and self.progress.best_epoch:
                self.run.load_weights(self.model, "best.safetensors", check=True)

    def agreed(self, wish: bool) -> bool:
        """What the first process wishes: the others' clocks differ."""
        return bool(broadcast_object_list([wish])[0])

    def stop_signal(self, stop: StopSignal, step: int) -> int:
        """The signal that any process got, or 0. They have to agree, so with several of them it is asked now and then."""
        if self.accelerator.num_processes == 1:
            return stop()
        if step % ASK_EVERY:
            return 0
        count = reduce(torch.tensor(float(bool(stop())), device=self.accelerator.device), "sum").item()
        return (stop() or signal.SIGTERM) if count else 0


class WithEmbedding(nn.Module):
    """Returns what `net` returns and what its last layer read."""

    def __init__(self, net: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.read: Tensor | None = None
        classifier.register_forward_pre_hook(lambda _, inputs: setattr(self, "read", inputs[0]))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.net(*inputs), self.read


def tensors_of(net: nn.Module) -> list[Tensor]:
    """The net's parameters and buffers."""
    return [*net.parameters(), *net.buffers()]


def batch_size(training: Training, examples: int, processes: int) -> int:
    """Examples of one step. Raises FinetuneError where they cannot be dealt out."""
    parts = processes * training.accumulation
    if training.batch_size % parts or training.batch_size < 1:
        raise FinetuneError(
            f"batch_size is {training.batch_size}; it has to be a multiple of {parts}"
            f" ({processes} processes × accumulation {training.accumulation})"
        )
    count = min(training.batch_size, examples // parts * parts)
    if not count:
        raise FinetuneError(f"{examples} training examples are too few for {parts} parts of a batch")
    return count


def board(run: Run, epoch: int) -> SummaryWriter | None:
    """TensorBoard's writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(run / "tensorboard", purge_step=epoch + 1)


def sentence(line: Line, select: str | None) -> str:
    """An epoch for the terminal."""
    parts = [f"epoch {line['epoch']:>3}", f"loss {line['loss']:.4f}", f"train {line['accuracy']:.2%}"]
    if select is not None:
        parts.append(f"{select} {line['select_accuracy']:.2%}")
    if "ema_select_accuracy" in line:
        parts.append(f"(average {line['ema_select_accuracy']:.2%})")
    return "  ".join([*parts, f"{line['images_per_s']:,.0f} examples/s"])
