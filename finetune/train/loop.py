"""The training loop of all recipes, for images and for clips: on one CPU or GPU, or on several through torchrun.

Everything random is drawn from the run's seed, the epoch and the step, never from what came before. So a run that was interrupted
goes on as if it had not been, and a batch is the same however many processes share it.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list, gather, reduce
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from architectures.contract import Classifier, convolutions
from finetune.config import Training
from finetune.errors import FinetuneError
from finetune.runs.folder import Run
from finetune.train.losses import CenterLoss, class_weights, mixed, soft_targets

SAVE_EVERY = 300.0  # seconds between saved states, at the ends of epochs
ASK_EVERY = 16  # steps between asking the other processes whether one was told to stop


class Predict(Protocol):
    def __call__(self, inputs_of: Callable[[Tensor], tuple[Tensor, ...]], count: int, batch_size: int) -> Tensor:
        """(count, K) logits on the CPU of examples 0..count, `inputs_of(rows)` being what the net takes."""


class Task(Protocol):
    """What is trained on. Rows are positions among the training examples."""

    classes: tuple[str, ...]
    targets: Tensor  # (n,) int64 labels or (n, K) distributions of the training examples, on the CPU

    def draw(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """What is random about these examples, as tensors of len(rows) on the CPU."""

    def inputs(self, rows: Tensor, *draws: Tensor) -> tuple[Tensor, ...]:
        """What the net takes, on the device, augmented as drawn."""

    def logits(self, predict: Predict, split: str) -> Tensor:
        """(n, K) of the examples of a split that is only looked at, on the CPU."""

    def labels(self, split: str) -> Tensor:
        """(n,) int64 of such a split, on the CPU."""


class Stopped(Exception):
    """The run was told to stop (SIGTERM, Ctrl-C); its state is saved."""


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


def accelerator_for(training: Training, *, cpu: bool = False) -> Accelerator:
    """The device and its precision. Raises FinetuneError for a precision that the device lacks."""
    precision: str = training.precision
    gpu = torch.cuda.is_available() and not cpu
    if precision == "auto":
        precision = "bf16" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    if precision == "fp16" and not gpu:
        raise FinetuneError("precision fp16 needs a GPU; on a CPU take --set training.precision=no, or bf16")
    if gpu:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision != "no"
        torch.backends.cudnn.benchmark = True
    return Accelerator(cpu=cpu, mixed_precision=precision, gradient_accumulation_steps=training.accumulation)


class Trainer:
    """Trains `model` on `task` into a run folder; `run` is None in all processes but the first.

    `select` is the split whose accuracy picks the epoch, None takes the last one. `through` makes the module that is called from
    the model whose weights are kept: classify() alone, where the features below were computed beforehand.
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
        self.ema = AveragedModel(model, multi_avg_fn=self.average, use_buffers=True) if training.ema else None
        self.centers = None
        if training.center_loss:
            self.centers = CenterLoss(len(task.classes), embedding_width(model), training.center_rate).to(accelerator.device)
        net = through(model)
        net = WithEmbedding(net, classifier_of(model)) if training.center_loss else net
        net = torch.compile(net) if training.compile else net  # type: ignore[assignment]
        self.net, self.optimizer = accelerator.prepare(net, optimizer_for(model, training))
        labels = task.targets if task.targets.dim() == 1 else task.targets.argmax(1)
        self.class_weights = class_weights(labels, len(task.classes)).to(accelerator.device) if training.balanced else None
        self.board: Any = None
        self.done = 0
        self.since = time.monotonic()  # up to where progress.wall has counted; a caller may put it back to count what it did before

    def fit(self, *, resume: bool = False) -> Progress:
        """Trains to the end and leaves best.safetensors and last.safetensors in the run folder.

        The best epoch is the one with the highest accuracy on `select` (the lower loss, where two are equal), of the weights or of
        their moving average. With `resume` it goes on where the folder's state is. Raises Stopped, with the state saved, after
        SIGTERM or Ctrl-C, and FinetuneError for a loss that is no number.
        """
        if resume:
            self.restore()
        self.board = None if self.run is None else board(self.run, self.progress.epoch)
        saved = time.monotonic()
        with stop_requested() as stop:
            while self.progress.epoch < self.training.epochs:
                self.epoch(stop)
                if self.progress.epoch < self.training.epochs and time.monotonic() - saved > SAVE_EVERY:
                    self.save()
                    saved = time.monotonic()
        self.count_time()
        return self.progress

    def count_time(self) -> None:
        now = time.monotonic()
        self.progress.wall, self.since = self.progress.wall + now - self.since, now

    def epoch(self, stop: Callable[[], bool]) -> None:
        """The rest of an epoch, its measurement on `select`, and its line in metrics.jsonl."""
        progress, training = self.progress, self.training
        self.model.train()
        for module in self.frozen:
            module.training = False
        order = torch.randperm(len(self.task.targets), generator=generator(training.seed, progress.epoch))
        started, before, sums = time.monotonic(), progress.seconds, []
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
                if last or self.told_to_stop(stop, step):
                    for loss, right in torch.stack(sums).tolist():
                        progress.losses.append(loss)
                        progress.right += round(right)
                    progress.seconds, progress.step = before + time.monotonic() - started, step + 1
                    if not last or self.told_to_stop(stop, 0):
                        self.save()
                        raise Stopped
        self.end_epoch()

    @property
    def local(self) -> int:
        """Examples of a batch that this process sees."""
        return self.count // self.accelerator.num_processes

    def step(self, rows: Tensor, step: int) -> Tensor:
        """One step of the optimizer; returns this process's mean loss and the number of right answers, on the device."""
        training, accelerator, epoch = self.training, self.accelerator, self.progress.epoch
        self.done = epoch * self.steps + step
        rank, device = accelerator.process_index, accelerator.device
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_lr"] * rate(training, epoch + step / self.steps)
        draws = self.task.draw(rows, generator(training.seed, epoch, step))
        shares = torch.ones(len(rows))
        mixing = training.mixup > 0 and epoch < training.epochs - training.clean_epochs
        if mixing:
            beta = np.random.default_rng([training.seed, epoch, step]).beta(training.mixup, training.mixup, len(rows))
            shares = torch.from_numpy(beta).float()
        seed_dropout(training.seed, epoch, step, rank)
        embeddings, labels, losses, right = [], [], [], torch.zeros((), device=device)
        for at in torch.arange(rank * self.local, (rank + 1) * self.local).split(self.local // training.accumulation):
            with accelerator.accumulate(self.net):
                inputs = self.task.inputs(rows[at], *(each[at] for each in draws))
                targets = soft_targets(self.task.targets[rows[at]].to(device), len(self.task.classes), training.label_smoothing)
                label = targets.argmax(1)
                if mixing:
                    share = shares[at].to(device)
                    inputs, targets = (mixed(inputs[0], share), *inputs[1:]), mixed(targets, share)
                if training.channels_last and inputs[0].dim() == 4:
                    inputs = (inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:])
                logits = self.net(*inputs)
                if training.center_loss:
                    logits, embedding = logits
                    embeddings.append(embedding.detach())
                    labels.append(label)
                loss = F.cross_entropy(logits.float(), targets, self.class_weights)
                losses.append(loss.detach())
                if self.centers is not None:
                    loss = loss + training.center_loss * self.centers(embedding, label)
                accelerator.backward(loss)
                if training.clip_norm and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.net.parameters(), training.clip_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
                right += (logits.detach().argmax(1) == label).sum()
        if self.centers is not None:
            self.centers.update(gather(torch.cat(embeddings)), gather(torch.cat(labels)))
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        return torch.stack([torch.stack(losses).mean(), right])

    def average(self, ours: Any, current: Any, count: Any) -> None:
        """The moving average's step; a short run would otherwise still hold its first weights at the end."""
        decay = min(self.training.ema, (1 + self.done) / (10 + self.done))
        get_ema_multi_avg_fn(decay)(ours, current, count)

    def end_epoch(self) -> None:
        progress, accelerator = self.progress, self.accelerator
        sums = torch.tensor([math.fsum(progress.losses) / self.steps, progress.right], dtype=torch.float32, device=accelerator.device)
        loss, right = reduce(sums, "sum").tolist()
        seen = self.steps * self.count
        line = {
            "epoch": progress.epoch + 1,
            "step": (progress.epoch + 1) * self.steps,
            "lr": self.optimizer.param_groups[0]["lr"],
            "loss": loss / accelerator.num_processes,
            "accuracy": right / seen,
            "images_per_s": seen / max(progress.seconds, 1e-9),
            "seconds": progress.seconds,
            "memory_mb": torch.cuda.max_memory_allocated() / 2**20 if accelerator.device.type == "cuda" else None,
        }
        if not math.isfinite(loss):
            raise FinetuneError(
                f"epoch {progress.epoch + 1}: the loss is {loss}. Lower the rate (--set training.lr=...), or limit the gradient"
                " (--set training.clip_norm=1)"
            )
        for name, net in self.candidates():
            accuracy, select_loss = self.measured(net)
            if self.select is not None:
                prefix = "ema_" if name == "ema" else ""
                line |= {f"{prefix}select_loss": select_loss, f"{prefix}select_accuracy": accuracy}
            if self.select is None or (accuracy, -select_loss) > (progress.best, -progress.best_loss):
                progress.best, progress.best_loss = accuracy, select_loss
                progress.best_epoch, progress.best_weights = progress.epoch + 1, name
                if self.run is not None and (self.select is not None or progress.epoch + 1 == self.training.epochs):
                    self.run.save_tensors("best.safetensors", net.state_dict())
        progress.epoch, progress.step, progress.losses, progress.right, progress.seconds = progress.epoch + 1, 0, [], 0, 0.0
        if self.run is not None:
            self.run.log(line)
            if progress.epoch == self.training.epochs:
                self.run.save_tensors("last.safetensors", self.model.state_dict())
            tqdm.write(sentence(line, self.select))
            if self.board is not None:
                for name, value in line.items():
                    if name not in ("epoch", "step") and value is not None:
                        self.board.add_scalar(name, value, progress.epoch)
                self.board.flush()

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
        if state is None:
            return
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        self.progress = Progress(**state["progress"])
        if self.run is not None:
            self.run.keep_lines(self.progress.epoch)

    def told_to_stop(self, stop: Callable[[], bool], step: int) -> bool:
        """Whether any process was; they have to agree, so with several of them it is asked now and then."""
        if self.accelerator.num_processes == 1:
            return stop()
        if step % ASK_EVERY:
            return False
        return bool(reduce(torch.tensor(float(stop()), device=self.accelerator.device), "sum").item())


class WithEmbedding(nn.Module):
    """Returns what `net` returns and what its last layer read."""

    def __init__(self, net: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.read: Tensor | None = None
        classifier.register_forward_pre_hook(lambda _, inputs: setattr(self, "read", inputs[0]))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.net(*inputs), self.read


def predictor(net: nn.Module, accelerator: Accelerator, channels_last: bool) -> Predict:
    """Runs `net` in evaluation mode, the examples dealt out to the processes."""

    def predict(inputs_of: Callable[[Tensor], tuple[Tensor, ...]], count: int, batch_size: int) -> Tensor:
        world, each = accelerator.num_processes, math.ceil(count / accelerator.num_processes)
        mine = (torch.arange(each) * world + accelerator.process_index).clamp(max=count - 1)
        net.eval()
        parts = []
        with torch.inference_mode(), accelerator.autocast():
            for rows in mine.split(batch_size):
                inputs = inputs_of(rows)
                if channels_last and inputs[0].dim() == 4:
                    inputs = (inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:])
                parts.append(net(*inputs).float())
            logits = gather(torch.cat(parts))
        return logits.view(world, each, -1).transpose(0, 1).flatten(0, 1)[:count].cpu().clone()

    return predict


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


def rate(training: Training, epochs: float) -> float:
    """What the learning rates are multiplied with after so many epochs."""
    warm = training.warmup_epochs
    if epochs < warm:
        return epochs / warm
    if training.schedule == "step":
        return training.step_factor ** (int(epochs) // training.step_epochs)
    if training.schedule == "cyclic":
        cycle, place = divmod(int(epochs), training.step_epochs)
        return training.cycle_factor if cycle and place < training.cycle_epochs else 1.0
    if training.schedule == "cosine":
        return (1 + math.cos(math.pi * (epochs - warm) / max(training.epochs - warm, 1e-9))) / 2
    return 1.0


def optimizer_for(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Four groups at most: classifier or not, with weight decay or without (biases, norms, PReLU's slopes)."""
    head = {id(parameter) for parameter in head_of(model)}
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        top, decayed = id(parameter) in head, training.decay_all or parameter.dim() > 1
        lr = training.lr if top or training.backbone_lr is None else training.backbone_lr
        group = {"params": [], "lr": lr, "full_lr": lr, "weight_decay": training.weight_decay if decayed else 0.0}
        groups.setdefault((top, decayed), group)["params"].append(parameter)
    ordered = [groups[key] for key in sorted(groups, reverse=True)]
    if training.optimizer == "adamw":
        return torch.optim.AdamW(ordered)
    return torch.optim.SGD(ordered, lr=training.lr, momentum=training.momentum, nesterov=training.nesterov and training.momentum > 0)


def classifier_of(model: nn.Module) -> nn.Module:
    """The layer that gives the logits. Raises FinetuneError where the net names none."""
    if not isinstance(model, Classifier):
        raise FinetuneError(f"{type(model).__name__} does not say which layer gives the classes (it has no CLASSIFIER)")
    return model.get_submodule(model.CLASSIFIER)


def embedding_width(model: nn.Module) -> int:
    """How many numbers the classifier reads. Raises FinetuneError where it is no Linear."""
    layer = classifier_of(model)
    if not isinstance(layer, nn.Linear):
        raise FinetuneError(f"center_loss: the classifier of {type(model).__name__} is a {type(layer).__name__}; it takes a Linear")
    return layer.in_features


def head_of(model: nn.Module) -> list[nn.Parameter]:
    """What is trained at the classifier's rate: all but the convolutions where the net holds them as `cnn`, else the last layer."""
    if convolutions(model) is not None:
        return [parameter for name, parameter in model.named_parameters() if not name.startswith("cnn.")]
    return list(classifier_of(model).parameters())


def freeze(model: nn.Module, last: str | None) -> list[nn.Module]:
    """Stops the training of the module `last` and of all before it; returns those whose mode has to stay that of evaluation."""
    if last is None:
        return []
    names = dict(model.named_modules())
    if last not in names or not last:
        top = ", ".join(name for name, _ in model.named_children())
        raise FinetuneError(f"freeze: {type(model).__name__} has no module {last!r}; it begins with {top}")
    order = list(names)
    end = max(at for at, name in enumerate(order) if f"{name}.".startswith(f"{last}."))
    held = [names[name] for name in order[: end + 1] if not f"{last}.".startswith(f"{name}." if name else "") or name == last]
    for module in held:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    return held


def generator(*key: int) -> torch.Generator:
    """A CPU generator that belongs to the key: the run's seed, the epoch, the step."""
    return torch.Generator().manual_seed(mixed_seed(*key))


def seed_dropout(*key: int) -> None:
    """Seeds what modules draw from, on the CPU and on the GPU."""
    torch.manual_seed(mixed_seed(*key))


def mixed_seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or Ctrl-C has come inside the block; a second Ctrl-C interrupts at once."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        if number == signal.SIGINT and asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def board(run: Run, epoch: int) -> Any:
    """TensorBoard's writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(run / "tensorboard", purge_step=epoch + 1)


def sentence(line: dict[str, Any], select: str | None) -> str:
    """An epoch for the terminal."""
    words = [f"epoch {line['epoch']:>3}", f"loss {line['loss']:.4f}", f"train {line['accuracy']:.2%}"]
    if select is not None:
        words.append(f"{select} {line['select_accuracy']:.2%}")
    if "ema_select_accuracy" in line:
        words.append(f"(average {line['ema_select_accuracy']:.2%})")
    return "  ".join([*words, f"{line['images_per_s']:,.0f} examples/s"])
