"""A run from its plan to its report, for images and for clips: class Job, read from the top."""

from __future__ import annotations

import errno
import json
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

import zoo
from finetune.config import Training, as_json
from finetune.errors import FinetuneError
from finetune.labels import check_classes, check_names
from finetune.protocol import Data, Plan, overlaps
from finetune.runs.folder import Run
from finetune.runs.lock import alone
from finetune.runs.metrics import Scores, read_json, read_predictions, score_table
from finetune.runs.report import write_report
from finetune.train.frozen import Classify
from finetune.train.loop import Progress, Trainer
from finetune.train.task import Task
from zoo import Preprocess
from zoo.cards.record import Crop
from zoo.terminal import say

PROTOTXT = "net.prototxt"  # the file of a run that holds the structure of a converted net


class AnyRecipe(Protocol):
    """fer2013.Recipe or emotiw.Recipe."""

    @property
    def name(self) -> str: ...
    @property
    def about(self) -> str: ...
    @property
    def input(self) -> Preprocess: ...
    @property
    def training(self) -> Training: ...
    @property
    def init(self) -> str: ...
    @property
    def views(self) -> int: ...
    @property
    def protocol(self) -> str: ...


def check(recipe: AnyRecipe) -> None:
    """Raises FinetuneError for fields that contradict each other."""
    if recipe.views and recipe.training.freeze is None:
        raise FinetuneError(f"views={recipe.views} computes features once, so the backbone has to be frozen: --set training.freeze=cnn")
    if recipe.views and recipe.training.center_loss:
        raise FinetuneError("views and center_loss exclude each other: the center loss would move nothing below the frozen features")
    if recipe.training.center_loss and recipe.training.mixup:
        raise FinetuneError("center_loss and mixup exclude each other: a mixed face has no centre of its own; --set training.mixup=0")
    check_small(recipe)
    if recipe.training.epochs < 1:
        raise FinetuneError(f"epochs is {recipe.training.epochs}; a run has at least one")


def check_small(recipe: AnyRecipe) -> None:
    """Raises FinetuneError for smaller images that are none, that are never followed by larger ones, or that nothing looks at."""
    training, size = recipe.training, recipe.input.size
    if not training.small_epochs:
        return
    if recipe.views:
        raise FinetuneError("views and small_epochs exclude each other: the frozen features are computed once, at the full size")
    if not 0 < training.small_epochs < training.epochs:
        raise FinetuneError(f"small_epochs is {training.small_epochs} of {training.epochs} epochs; the last ones see the full size")
    if training.small_size < 1 or (size is not None and training.small_size >= min(size)):
        full = "" if size is None else f", below the input's {min(size)}"
        raise FinetuneError(f"small_size is {training.small_size}; it is the shorter side in pixels{full}: --set training.small_size=...")


def check_labels(data: Data, plan: Plan) -> None:
    """Raises FinetuneError where there is nothing to tell apart, or class names cannot be told apart."""
    check_names(data.classes, data.name)
    labels = data.labels if "train" not in plan.rows else data.labels[plan.rows["train"]]
    names = [data.classes[label] for label in labels.unique().tolist()]
    if len(data.classes) < 2 or len(names) < 2:
        what = f"one class only ({names[0]})" if names else "no labels"
        raise FinetuneError(
            f"{data.name}: {what} to train on, so nothing to tell apart; expected a folder for each class, or a list of the labels."
            " Is the folder above or below the one that is meant?"
        )


def start_from_run(init: str, data: Data) -> Start | None:
    """The net of a run's folder, with a new last layer unless the classes are the same; None where `init` is no folder.

    Raises FinetuneError where the classes have the same names in another order, or the folder holds no finished run.
    """
    folder = Path(init)
    if not (folder / "card.json").is_file():
        if folder.is_dir():
            raise FinetuneError(f"--init {init}: the folder holds no finished run (card.json); finish it with --resume")
        return None
    card = read_json(folder / "card.json")
    names = card.get("classes", [])
    if sorted(names) == sorted(data.classes):
        check_classes(data.classes, names)
    model = zoo.load(folder, num_classes=None if tuple(names) == data.classes else len(data.classes))
    if card["architecture"] == "caffe":  # its last layer is in its prototxt
        return Start(model, "caffe", card["arguments"], str(model.prototxt))
    prototxt = (folder / card["prototxt"]).read_text(encoding="utf-8") if "prototxt" in card else None
    return Start(model, card["architecture"], {**card["arguments"], "num_classes": len(data.classes)}, prototxt)


@dataclass(frozen=True)
class Start:
    """A net with its initial weights.

    architecture  the class of architectures that it is, or "caffe"; arguments: what it was built with, as JSON values
    prototxt      of a net converted from Caffe, or of one around it: it becomes a file of the run
    """

    model: nn.Module
    architecture: str
    arguments: Mapping[str, object]
    prototxt: str | None = None


RecipeT = TypeVar("RecipeT", bound=AnyRecipe)
DataT = TypeVar("DataT", bound=Data)


class Job(ABC, Generic[RecipeT, DataT]):
    """A run, from a recipe, data and a plan of who does what with them, to a folder with weights, figures and a report.

    run() is the order of things; images.job.ImageJob and clips.job.ClipJob say what their data and nets are. `notes` are what a
    reader of the figures has to know of the data, `facts` more fields of config.json.
    """

    unit = "images"  # what the data consist of

    def __init__(
        self,
        recipe: RecipeT,
        data: DataT,
        plan: Plan,
        out: Path,
        accelerator: Accelerator,
        *,
        command: str = "",
        notes: Sequence[str] = (),
        facts: Mapping[str, object] | None = None,
    ) -> None:
        check(recipe)
        check_labels(data, plan)
        self.recipe, self.data, self.out, self.accelerator = recipe, data, out, accelerator
        self.plan = replace(plan, notes=(*plan.notes, *overlaps(data, plan, self.contents, self.unit, self.alike)))
        self.command, self.notes, self.facts = command, [*data.notes, *self.plan.notes, *notes], dict(facts or {})

    def run(self, *, resume: bool = False, overwrite: bool = False) -> None:
        """Raises FinetuneError or ZooError, before anything is trained where it can, and Stopped after a signal."""
        try:
            with alone(self.out) if self.accelerator.is_main_process else nullcontext():
                if resume and (self.out / "result.json").is_file():
                    self.complete()
                else:
                    self.train(resume=resume, overwrite=overwrite)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise FinetuneError(
                f"{self.out}: the disk is full, or a file is larger than allowed ({error.strerror}). Free some space and run the same"
                " command with --resume: it goes on from the last state that was saved"
            ) from error

    def complete(self) -> None:
        """What a finished run may lack that was killed after its result was written."""
        if self.accelerator.is_main_process:
            folder = Run.resume(self.out, self.config())
            read_json(self.out / "result.json")
            folder.remove_state()
            report = self.out / "report.html"
            if not report.is_file() or not report.stat().st_size:
                write_report(self.out, self.pictures(self.plan.rows[self.plan.report]))
        self.accelerator.print(f"{self.out} is finished: {self.out / 'report.html'}")

    def train(self, *, resume: bool, overwrite: bool) -> None:
        """From the initial weights, or the saved state, to the report."""
        began = time.monotonic()
        with self.accelerator.main_process_first():
            start = self.start()
        folder = self.open_folder(resume=resume, overwrite=overwrite)
        self.accelerator.print(self.headline(start.model))

        task, training = self.task(start.model), self.recipe.training
        trainer = Trainer(start.model, task, training, self.accelerator, folder, select=self.plan.select, through=self.trained, began=began)
        progress = trainer.fit(resume=resume)

        load_best(start.model, folder, self.accelerator)
        tensors = self.measure(start.model, task)
        trainer.count_time()
        if folder is not None:
            self.report(folder, start, progress, tensors)
        self.accelerator.wait_for_everyone()

    # --- what images and clips do in their own ways ---

    @abstractmethod
    def start(self) -> Start:
        """The net with its initial weights."""

    @abstractmethod
    def task(self, model: nn.Module) -> Task:
        """The data as the training loop takes them; `model` computes the features of a net that is frozen below them."""

    def trained(self, model: nn.Module) -> nn.Module:
        """The module that the task's inputs go through: all of the net, or what lies above its features."""
        return Classify(model) if self.recipe.views else model

    @abstractmethod
    def predictions(self, model: nn.Module, task: Task, split: str) -> dict[str, Tensor]:
        """logits (n, K), copy (n,) bool and perhaps logits_ten_crop (n, K) of a split: see runs.metrics.SplitPredictions."""

    @abstractmethod
    def contents(self, rows: Tensor) -> list[bytes]:
        """A digest of what each of these rows shows, by which copies are told."""

    def alike(self, rows: Tensor, among: Tensor) -> Tensor:
        """(len(rows),) bool: which of these rows show what one of those shows, though not byte for byte."""
        return torch.zeros(len(rows), dtype=torch.bool)

    @abstractmethod
    def pictures(self, rows: Tensor) -> Tensor:
        """(n, H, W) or (n, 3, H, W) uint8: one picture of each of these rows, for the report."""

    def crop(self) -> Crop | None:
        """What the pictures show of a face; None where nobody knows."""
        return None

    def write_files(self, folder: Run, tensors: Mapping[str, Tensor]) -> None:
        """More files of the run, from its predictions."""

    # --- the steps ---

    def config(self) -> dict[str, object]:
        """config.json of the run."""
        counts = {name: len(rows) for name, rows in self.plan.rows.items()}
        return {
            "recipe": self.recipe.name, "command": self.command, "protocol": self.recipe.protocol, "seed": self.recipe.training.seed,
            "data": {"name": self.data.name, "sha256": self.data.sha256, "counts": counts, "notes": self.notes},
            "classes": list(self.data.classes), "config": as_json(self.recipe), **self.facts,
        }  # fmt: skip

    def open_folder(self, *, resume: bool, overwrite: bool) -> Run | None:
        """The run's folder, new or resumed; None in all processes but the first."""
        if not self.accelerator.is_main_process:
            return None
        if resume and (self.out / "config.json").is_file():
            return Run.resume(self.out, self.config())
        return Run.create(self.out, self.config(), overwrite=overwrite, device=str(self.accelerator.device))

    def measure(self, model: nn.Module, task: Task) -> dict[str, Tensor]:
        """The tensors of predictions.safetensors."""
        tensors: dict[str, Tensor] = {}
        for split in self.plan.looked_at():
            rows = self.plan.rows[split]
            found = {"labels": self.data.labels[rows], "rows": rows, **self.predictions(model, task, split)}
            tensors |= {f"{split}/{name}": tensor for name, tensor in found.items()}
        return tensors

    def report(self, folder: Run, start: Start, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
        """Everything that a finished run leaves, and its figures on the terminal."""
        about = {"classes": json.dumps(self.data.classes), "data_sha256": self.data.sha256}
        folder.save_tensors("predictions.safetensors", tensors, about)
        table = score_table(read_predictions(self.out))
        if start.prototxt is not None:
            folder.save_text(PROTOTXT, start.prototxt)
        folder.write_card(self.card(start, table))
        self.write_files(folder, tensors)
        folder.finish(self.result(folder, progress, table))
        report = write_report(self.out, self.pictures(self.plan.rows[self.plan.report]))
        say(f"{self.summary(table, progress)}\nreport: {report}")

    def card(self, start: Start, table: Mapping[str, Scores]) -> dict[str, object]:
        """card.json: what zoo.load() needs to know of the net."""
        spec = self.recipe.input
        preprocess = {"size": list(spec.size or ()), "channels": spec.channels, "mean": spec.mean, "scale": spec.scale}
        return {
            "architecture": start.architecture,
            "arguments": dict(start.arguments),
            "classes": list(self.data.classes),
            "title": f"{self.recipe.name} finetuned on {self.data.name}",
            "preprocess": preprocess if spec.resize is None else {**preprocess, "resize": as_json(spec.resize)},
            **({} if start.prototxt is None else {"prototxt": PROTOTXT}),
            **({} if (crop := self.crop()) is None else {"crop": as_json(crop)}),
            "recipe": self.recipe.name,
            "scores": {label: scores["accuracy"] for label, scores in table.items()},
        }

    def result(self, folder: Run, progress: Progress, table: Mapping[str, Scores]) -> dict[str, object]:
        """result.json."""
        lines = folder.lines()
        accuracy = None if self.plan.select is None else progress.best
        selected = {"epoch": progress.best_epoch, "weights": progress.best_weights, "on": self.plan.select, "accuracy": accuracy}
        return {
            "protocol": self.recipe.protocol, "selected": selected, "report": self.plan.report, "scores": dict(table),
            "seconds": progress.wall, "images_per_s": statistics.median(line["images_per_s"] for line in lines),
            "memory_mb": max((line["memory_mb"] for line in lines if line["memory_mb"]), default=None),
        }  # fmt: skip

    # --- the terminal ---

    def headline(self, model: nn.Module) -> str:
        """What is about to be trained."""
        recipe, plan, accelerator = self.recipe, self.plan, self.accelerator
        counts = ", ".join(f"{name} {len(rows):,}" for name, rows in plan.rows.items())
        size = "×".join(map(str, recipe.input.size or ()))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        where = f"{accelerator.num_processes} × {accelerator.device.type}, {accelerator.mixed_precision.replace('no', 'float32')}"
        picks = "takes the last epoch" if plan.select is None else f"picks the epoch on {plan.select}"
        return "\n".join(
            [
                f"{recipe.name}: {recipe.about}",
                f"data     {self.data.name}: {counts}; {len(self.data.classes)} classes",
                *(note if note.startswith("WARNING") else f"note     {note}" for note in plan.notes),
                f"net      {type(model).__name__} at {size}, {parameters:,} parameters, initial weights: {self.initial()}",
                f"on       {where}; {picks}, reports {plan.report}",
            ]
        )

    def initial(self) -> str:
        """Where the initial weights come from."""
        return self.recipe.init

    def summary(self, table: Mapping[str, Scores], progress: Progress) -> str:
        """What was measured."""
        plan, width = self.plan, max(map(len, table))
        why = "is the last one" if plan.select is None else f"was picked on {plan.select}"
        lines = [f"epoch {progress.best_epoch} {why}" + (" (averaged weights)" if progress.best_weights == "ema" else "")]
        if plan.select == plan.report:
            lines.append(f"note     {plan.report} picked the epoch and is reported: the figures are a maximum over epochs, so too high")
        lines += [note for note in plan.notes if note.startswith("WARNING")]
        lines.append(f"{'':<{width}}  {self.unit:>7}  accuracy    mean recall  macro F1")
        for label, scores in table.items():
            error = f"± {scores['standard_error']:.2%}"
            figures = f"{scores['accuracy']:>7.2%} {error:<9} {scores['mean_recall']:>7.2%}  {scores['f1']:>8.2%}"
            lines.append(f"{label:<{width}}  {scores['images']:>7,}  {figures}")
        return "\n".join(lines)


def load_best(model: nn.Module, run: Run | None, accelerator: Accelerator) -> None:
    """best.safetensors into the model of every process; only the first one reads the file."""
    from accelerate.utils import broadcast

    if run is not None:
        run.load_weights(model, "best.safetensors")
    if accelerator.num_processes > 1:
        for tensor in model.state_dict().values():
            broadcast(tensor)
