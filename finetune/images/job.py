"""A run on images: image_job() reads and plans it, Job.run() takes it from the data to the report."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from finetune.config import as_json
from finetune.errors import FinetuneError, MemoryShort, SizesDiffer
from finetune.images import nets
from finetune.images.data import Expressions, alike, contents, copied, held_out, is_fer2013, read
from finetune.images.recipe import Recipe
from finetune.images.task import FeatureTask, ImageTask
from finetune.images.votes import trained_on_votes, with_votes
from finetune.protocol import Plan, plan_images, sampled
from finetune.train.device import accelerator_for
from finetune.train.job import Job, Start, check, start_from_run
from finetune.train.task import Task, predictor
from zoo.cards.embedded import FER2013_CROP
from zoo.cards.record import Crop


class ImageJob(Job[Recipe, Expressions]):
    """`targets` (n,) or (n, K) stand in for the labels of the training rows; `votes` says how they were made of FER+'s votes."""

    def __init__(
        self,
        recipe: Recipe,
        data: Expressions,
        plan: Plan,
        out: Path,
        accelerator: Accelerator,
        *,
        targets: Tensor | None = None,
        votes: Literal["soft", "hard"] | None = None,
        command: str = "",
    ) -> None:
        super().__init__(recipe, data, plan, out, accelerator, command=command, facts={"votes": votes})
        self.images = ImageTask(data, plan.rows, recipe.input, recipe.augment, accelerator.device, targets)

    def start(self) -> Start:
        """The recipe's net, or that of the run that --init names."""
        recipe, classes = self.recipe, len(self.data.classes)
        torch.manual_seed(recipe.training.seed)
        if (found := start_from_run(recipe.init, self.data)) is not None:
            return found
        model: nn.Module = recipe.build(classes, recipe.arguments, recipe.init)
        if isinstance(model, nets.Converted):
            return Start(model, "caffe", {"classifier": model.card.classifier}, model.prototxt)
        return Start(model, type(model).__name__, {"num_classes": classes, **as_json(recipe.arguments)})

    def initial(self) -> str:
        return str(self.recipe.arguments.get("caffemodel") or super().initial())

    def task(self, model: nn.Module) -> Task:
        views, training = self.recipe.views, self.recipe.training
        if not views:
            return self.images
        self.accelerator.print(f"computing the frozen features of {views} views")
        return FeatureTask(self.images, model.to(self.accelerator.device), views, training.seed, self.accelerator, training.channels_last)

    def predictions(self, model: nn.Module, task: Task, split: str) -> dict[str, Tensor]:
        predict = predictor(model, self.accelerator, self.recipe.training.channels_last)
        return {
            "copy": copied(self.data, self.plan.rows[split], self.plan.others(split, self.data)),
            "logits": self.images.logits(predict, split),
            "logits_ten_crop": self.images.ten_crop(predict, split, self.recipe.ten_crop),
        }

    def contents(self, rows: Tensor) -> list[bytes]:
        return contents(self.data, rows)

    def alike(self, rows: Tensor, among: Tensor) -> Tensor:
        return alike(self.data, rows, among)

    def pictures(self, rows: Tensor) -> Tensor:
        return self.data.images[rows]

    def crop(self) -> Crop | None:
        return FER2013_CROP if is_fer2013(self.data) else None


def image_job(
    recipe: Recipe,
    path: Path,
    out: Path,
    *,
    votes: Path | None = None,
    vote_targets: Literal["soft", "hard"] = "soft",
    smoke: bool = False,
    cpu: bool = False,
    command: str = "",
) -> ImageJob:
    """The run of a recipe on the images at `path`; nothing is written yet.

    `votes` is FER+'s fer2013new.csv, whose votes then stand in for the training labels. `smoke` takes a sample of the data.
    Raises FinetuneError for a recipe that contradicts itself, data that cannot be read, and a protocol that they do not allow.
    """
    check(recipe)
    if not 0 < recipe.ten_crop <= 1:
        raise FinetuneError(f"ten_crop is {recipe.ten_crop}; it is a part of the image's side, above 0 and at most 1")
    if recipe.build is nets.caffe_net and recipe.input.size is None and (prototxt := recipe.arguments.get("prototxt")):
        recipe = replace(recipe, input=nets.input_of(prototxt, recipe.arguments.get("classifier"), recipe.input))
    accelerator = accelerator_for(recipe.training, cpu=cpu)
    with accelerator.main_process_first():
        data = read_at_one_size(path, recipe.input.size)
        data = data if votes is None else with_votes(data, votes)
    plan, targets = plan_images(data, recipe.protocol, partial(held_out, data)), None
    if smoke:
        plan = sampled(plan, data, recipe.smoke_images)
    if votes is not None:
        plan, targets = trained_on_votes(data, plan, vote_targets)
    return ImageJob(
        recipe, data, plan, out, accelerator, targets=targets, votes=None if votes is None else vote_targets, command=command
    )  # fmt: skip


def read_at_one_size(path: Path, size: tuple[int, int] | None) -> Expressions:
    """The images at their own size or, where they differ or don't fit into memory, at a square of the net's."""
    try:
        return read(path)
    except (SizesDiffer, MemoryShort):
        if size is None or not path.is_dir():
            raise
        return read(path, size=max(size))
