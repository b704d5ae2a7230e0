"""A run for each fold, each tested on people that it has not seen, and the predictions for all clips together."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from finetune.clips.data import Clips
from finetune.clips.folds import subject_folds
from finetune.clips.job import ClipJob, middle_frames, write_csv
from finetune.clips.recipe import Recipe
from finetune.errors import FinetuneError
from finetune.protocol import Plan, sampled
from finetune.runs.folder import Run
from finetune.runs.lock import alone
from finetune.runs.metrics import mean_and_deviation, read_json, read_predictions, score_table
from finetune.runs.report import write_report
from zoo.cards.record import Crop
from zoo.terminal import say


class CrossValidation:
    """`folds` runs in out/fold-01, ..., the last epoch of each; `out` itself is the folder of all clips' predictions."""

    def __init__(
        self,
        recipe: Recipe,
        data: Clips,
        out: Path,
        folds: int,
        accelerator: Accelerator,
        *,
        smoke: bool = False,
        command: str = "",
        seen: Crop | None = None,
    ) -> None:
        if data.subjects is None:
            raise FinetuneError(
                f"{data.name}: --folds keeps people apart, but the data name none; a csv's column subject does, or CK+'s names"
            )
        self.recipe, self.data, self.out = replace(recipe, protocol="last"), data, out
        self.accelerator, self.command, self.seen = accelerator, command, seen
        self.parts = subject_folds(data.subjects, data.labels, folds)
        self.plans = [
            Plan({"train": train, "test": test}, None, "test", (f"fold {number} of {folds}, by person",))
            for number, (train, test) in enumerate(self.parts, 1)
        ]
        if smoke:
            self.plans = [sampled(plan, data, recipe.smoke_clips) for plan in self.plans]

    def run(self, *, resume: bool = False, overwrite: bool = False) -> None:
        """Raises FinetuneError or ZooError, before anything is trained where it can, and Stopped after a signal."""
        jobs = [
            ClipJob(
                self.recipe, self.data, plan, self.out / f"fold-{number:02}", self.accelerator, command=self.command,
                facts={"fold": number}, seen=self.seen,
            )
            for number, plan in enumerate(self.plans, 1)
        ]  # fmt: skip
        everything = Plan({"test": torch.arange(len(self.data))}, None, "test", (f"{len(jobs)} folds by person, the last epoch of each",))
        whole = ClipJob(self.recipe, self.data, everything, self.out, self.accelerator, command=self.command, facts={"folds": len(jobs)})
        with alone(self.out) if self.accelerator.is_main_process else nullcontext():
            folder = whole.open_folder(resume=resume, overwrite=overwrite)
            for job in jobs:
                job.run(resume=resume, overwrite=overwrite)
            if folder is not None:
                self.report(folder, [job.out for job in jobs])

    def report(self, folder: Run, places: Sequence[Path]) -> None:
        """Joins the folds' predictions, clip by clip, and writes what is known of them."""
        tensors = joined(places)
        about = {"classes": json.dumps(self.data.classes), "data_sha256": self.data.sha256}
        folder.save_tensors("predictions.safetensors", tensors, about)
        write_csv(folder, self.data, tensors)
        results = [read_json(place / "result.json") for place in places]
        accuracies = [result["scores"]["test"]["accuracy"] for result in results]
        mean, deviation = mean_and_deviation(accuracies)
        error = None if deviation is None else deviation / len(accuracies) ** 0.5
        table = score_table(read_predictions(self.out))
        folder.finish(
            {
                "protocol": self.recipe.protocol, "selected": {**results[0]["selected"], "on": None, "accuracy": None}, "report": "test",
                "scores": table, "seconds": sum(result["seconds"] for result in results),
                "folds": {"accuracies": accuracies, "mean": mean, "standard_deviation": deviation, "standard_error": error},
                "images_per_s": statistics.median(result["images_per_s"] for result in results), "memory_mb": results[0]["memory_mb"],
            }
        )  # fmt: skip
        report = write_report(self.out, middle_frames(self.data, tensors["test/rows"]))
        scores = table["test"]
        said = [
            f"{len(places)} folds by person, last epoch: {' '.join(f'{value:.1%}' for value in accuracies)}",
            f"mean over folds {mean:.2%}, standard deviation {deviation:.2%}, standard error {error:.2%}",
            f"all {scores['images']} clips, each tested once: {scores['accuracy']:.2%} ± {scores['standard_error']:.2%},"
            f" mean recall {scores['mean_recall']:.2%}",
            f"report: {report}",
        ]
        say("\n".join(said))


def joined(places: Sequence[Path]) -> dict[str, Tensor]:
    """The test predictions of all folds, in the order of the clips."""
    parts = [read_predictions(place).splits["test"] for place in places]
    order = torch.cat([part.rows for part in parts]).argsort()
    tensors = {f"test/{name}": torch.cat([getattr(part, name) for part in parts])[order] for name in ("logits", "labels", "rows", "copy")}
    tensors["test/copy"].zero_()  # a copy in another fold is not a copy in other data
    return tensors
