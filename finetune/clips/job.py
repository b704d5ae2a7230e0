"""A run on clips: carried from the data to the report by Job.run()."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator
from torch import Tensor, nn

from finetune.clips import nets
from finetune.clips.data import Clips, contents, copied, read_clips
from finetune.clips.recipe import Recipe, check_clips
from finetune.clips.records import Lists
from finetune.clips.task import ClipFeatureTask, ClipTask
from finetune.errors import MemoryShort, SizesDiffer
from finetune.protocol import Plan
from finetune.runs.folder import Run
from finetune.train.job import Job, Start
from finetune.train.task import Task, predictor
from zoo.cards.record import Crop
from zoo.disk import replacing


class ClipJob(Job[Recipe, Clips]):
    """`seen` is what the frames show of a face, where it is known."""

    unit = "clips"

    def __init__(
        self,
        recipe: Recipe,
        data: Clips,
        plan: Plan,
        out: Path,
        accelerator: Accelerator,
        *,
        command: str = "",
        facts: Mapping[str, object] | None = None,
        seen: Crop | None = None,
    ) -> None:
        check_clips(recipe, accelerator.device.type)
        super().__init__(recipe, data, plan, out, accelerator, command=command, facts=facts)
        self.seen = seen

    def start(self) -> Start:
        return nets.start(self.recipe, self.data)

    def task(self, model: nn.Module) -> ClipTask | ClipFeatureTask:
        recipe = self.recipe
        clips = ClipTask(self.data, self.plan.rows, recipe.input, recipe.augment, recipe.sampling, self.accelerator.device)
        if not recipe.views:
            return clips
        self.accelerator.print(f"computing the frozen features of {recipe.views} views, or taking them from the cache")
        model.to(self.accelerator.device)
        return ClipFeatureTask(clips, model, recipe.views, self.accelerator, recipe.training.channels_last)

    def predictions(self, model: nn.Module, task: Task, split: str) -> dict[str, Tensor]:
        predict = predictor(self.trained(model), self.accelerator, self.recipe.training.channels_last)
        return {
            "logits": task.logits(predict, split),
            "copy": copied(self.data, self.plan.rows[split], self.plan.others(split, self.data)),
        }

    def contents(self, rows: Tensor) -> list[bytes]:
        return contents(self.data, rows)

    def pictures(self, rows: Tensor) -> Tensor:
        return middle_frames(self.data, rows)

    def crop(self) -> Crop | None:
        return self.seen

    def write_files(self, folder: Run, tensors: Mapping[str, Tensor]) -> None:
        write_csv(folder, self.data, tensors)


def read_data(path: Path, recipe: Recipe, lists: Lists | None = None, class_index: Path | None = None) -> Clips:
    """The clips, their frames in the size in which they are, or where sizes differ, in the net's."""
    try:
        return read_clips(path, lists=lists, class_index=class_index)
    except (SizesDiffer, MemoryShort):
        if recipe.input.size is None or not path.is_dir():
            raise
        return read_clips(path, size=recipe.input.size, lists=lists, class_index=class_index)


def middle_frames(data: Clips, rows: Tensor) -> Tensor:
    """(n, H, W) or (n, 3, H, W) uint8: one frame of each of these clips, for the report."""
    return data.frames[(data.offsets[rows] + data.offsets[rows + 1]) // 2]


def write_csv(folder: Run, data: Clips, tensors: Mapping[str, Tensor]) -> None:
    """predictions.csv: a line a video, with the probability of each class."""
    splits = list(dict.fromkeys(name.partition("/")[0] for name in tensors))
    with replacing(folder / "predictions.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["video", "split", "label", "predicted", *(f"p({name})" for name in data.classes)])
        for split in splits:
            shares = tensors[f"{split}/logits"].double().softmax(1)
            for row, label, share in zip(tensors[f"{split}/rows"].tolist(), tensors[f"{split}/labels"].tolist(), shares, strict=True):
                predicted = data.classes[int(share.argmax())]
                table.writerow([data.ids[row], split, data.classes[label], predicted, *(f"{value:.6f}" for value in share.tolist())])
