"""What the recipes of images and of clips share: which rows do what, and a run from its plan to its report."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from finetune.config import Training, as_json
from finetune.errors import FinetuneError
from finetune.protocol import Data, Plan
from zoo import Preprocess

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn

    from finetune.runs.folder import Run
    from finetune.train.loop import Progress
    from finetune.train.task import Task


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


@dataclass(frozen=True)
class Prepared:
    """What is trained on: the task, the module that is called in place of the net, and what is predicted at the end.

    predictions (net, split) -> logits (n, K), copy (n,) bool and perhaps logits_ten_crop, as metrics.SplitPredictions has them
    """

    task: Task
    through: Callable[[nn.Module], nn.Module]
    predictions: Callable[[nn.Module, str], dict[str, Tensor]]


def check(recipe: AnyRecipe) -> None:
    """Raises FinetuneError for fields that contradict each other."""
    if recipe.views and recipe.training.freeze is None:
        raise FinetuneError("views computes the features once, so what is below them has to be frozen: --set training.freeze=cnn")
    if recipe.views and recipe.training.center_loss:
        raise FinetuneError("views and center_loss exclude each other: the center loss would move nothing below the frozen features")
    if recipe.training.center_loss and recipe.training.mixup:
        raise FinetuneError("center_loss and mixup exclude each other: a mixed face has no centre of its own; --set training.mixup=0")
    if recipe.training.epochs < 1:
        raise FinetuneError(f"epochs is {recipe.training.epochs}; a run has at least one")


def settings_of(recipe: AnyRecipe, data: Data, plan: Plan, notes: Sequence[str], command: str) -> dict[str, Any]:
    """config.json of a run."""
    counts = {name: len(rows) for name, rows in plan.rows.items()}
    return {
        "recipe": recipe.name, "command": command, "protocol": recipe.protocol, "seed": recipe.training.seed,
        "data": {"name": data.name, "sha256": data.sha256, "counts": counts, "notes": list(notes)},
        "classes": list(data.classes), "config": as_json(recipe),
    }  # fmt: skip


def card_of(recipe: AnyRecipe, data: Data, architecture: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What card.json says of the net."""
    spec = recipe.input
    return {
        "architecture": architecture,
        "arguments": dict(arguments),
        "classes": list(data.classes),
        "title": f"{recipe.name} finetuned on {data.name}",
        "preprocess": {
            "size": list(spec.size or ()),
            "channels": spec.channels,
            "mean": spec.mean,
            "scale": spec.scale,
            **({} if spec.resize is None else {"resize": as_json(spec.resize)}),
        },
    }


def from_run(init: str, data: Data) -> tuple[nn.Module, dict[str, Any]] | None:
    """The net of a run's folder and its arguments, with a new last layer unless the classes are the same; None for other words.

    Raises FinetuneError where the classes have the same names in another order, or the folder holds no finished run.
    """
    import zoo
    from finetune.labels import check_classes
    from finetune.runs.metrics import read_json

    folder = Path(init)
    if not (folder / "card.json").is_file():
        if folder.is_dir():
            raise FinetuneError(f"--init {init}: the folder holds no finished run (card.json); finish it with --resume")
        return None
    known = read_json(folder / "card.json")
    names = known.get("classes", [])
    if sorted(names) == sorted(data.classes):
        check_classes(data.classes, names)
    model = zoo.load(folder, num_classes=None if tuple(names) == data.classes else len(data.classes))
    return model, {**known.get("arguments", {}), "num_classes": len(data.classes)}


def carry_through(
    recipe: AnyRecipe,
    data: Data,
    plan: Plan,
    out: Path,
    config: Mapping[str, Any],
    accelerator: Accelerator,
    *,
    start: Callable[[], tuple[nn.Module, dict[str, Any]]],
    prepare: Callable[[nn.Module], Prepared],
    pictures: Callable[[], Tensor],
    more_files: Callable[[Run, Mapping[str, Tensor]], None] = lambda run, tensors: None,
    things: str = "images",
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Trains what start() returns (the net, and what card.json says of it), measures it and leaves the run folder."""
    from finetune.runs.folder import Run
    from finetune.runs.metrics import read_predictions, score_table
    from finetune.runs.report import write_report
    from finetune.train.loop import Trainer

    begun = (out / "config.json").is_file()
    if resume and begun and (out / "result.json").is_file():
        Run.resume(out, config)
        accelerator.print(f"{out} is finished: {out / 'report.html'}")
        return
    began = time.monotonic()
    with accelerator.main_process_first():
        model, card = start()
    run = None
    if accelerator.is_main_process:
        if resume and begun:
            run = Run.resume(out, config)
        else:
            run = Run.create(out, config, overwrite=overwrite, device=str(accelerator.device))
    accelerator.print(headline(recipe, data, plan, model, accelerator))

    prepared = prepare(model)
    trainer = Trainer(model, prepared.task, recipe.training, accelerator, run, select=plan.select, through=prepared.through)
    trainer.since = began
    progress = trainer.fit(resume=resume)

    load_best(model, run, accelerator)
    tensors: dict[str, Tensor] = {}
    for split in plan.looked_at():
        rows = plan.rows[split]
        found = {"labels": data.labels[rows], "rows": rows, **prepared.predictions(model, split)}
        tensors |= {f"{split}/{name}": tensor for name, tensor in found.items()}
    trainer.count_time()
    if run is not None:
        run.save_tensors("predictions.safetensors", tensors, {"classes": json.dumps(data.classes), "data_sha256": data.sha256})
        table = score_table(read_predictions(out))
        accuracy = None if plan.select is None else progress.best
        selected = {"epoch": progress.best_epoch, "weights": progress.best_weights, "on": plan.select, "accuracy": accuracy}
        if "prototxt" in card:
            converted: Any = model if hasattr(model, "prototxt") else model.cnn
            run.save_text(card["prototxt"], converted.prototxt)
        run.write_card({**card, "recipe": recipe.name, "scores": {label: scores["accuracy"] for label, scores in table.items()}})
        more_files(run, tensors)
        run.finish(
            {
                "protocol": recipe.protocol, "selected": selected, "report": plan.report, "scores": table, "seconds": progress.wall,
                "images_per_s": statistics.median(line["images_per_s"] for line in run.lines()),
                "memory_mb": max((line["memory_mb"] for line in run.lines() if line["memory_mb"]), default=None),
            }
        )  # fmt: skip
        report = write_report(out, pictures())
        print(summary(table, progress, plan, things), f"report: {report}", sep="\n")
    accelerator.wait_for_everyone()


def load_best(model: nn.Module, run: Run | None, accelerator: Accelerator) -> None:
    """best.safetensors into the model of every process; only the first one reads the file."""
    from accelerate.utils import broadcast

    if run is not None:
        model.load_state_dict(run.load_tensors("best.safetensors"))
    if accelerator.num_processes > 1:
        for tensor in model.state_dict().values():
            broadcast(tensor)


def headline(recipe: AnyRecipe, data: Data, plan: Plan, model: nn.Module, accelerator: Accelerator) -> str:
    """What is about to be trained, for the terminal."""
    counts = ", ".join(f"{name} {len(rows):,}" for name, rows in plan.rows.items())
    size = "×".join(map(str, recipe.input.size or ()))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    where = f"{accelerator.num_processes} × {accelerator.device.type}, {accelerator.mixed_precision.replace('no', 'float32')}"
    picks = "takes the last epoch" if plan.select is None else f"picks the epoch on {plan.select}"
    return "\n".join(
        [
            f"{recipe.name}: {recipe.about}",
            f"data     {data.name}: {counts}; {len(data.classes)} classes",
            *(f"note     {note}" for note in plan.notes),
            f"net      {type(model).__name__} at {size}, {parameters:,} parameters, initial weights: {recipe.init}",
            f"on       {where}; {picks}, reports {plan.report}",
        ]
    )


def summary(table: Mapping[str, Any], progress: Progress, plan: Plan, things: str) -> str:
    """What was measured, for the terminal."""
    width = max(map(len, table))
    chosen = "is the last one" if plan.select is None else f"was picked on {plan.select}"
    lines = [f"epoch {progress.best_epoch} {chosen}" + (" (averaged weights)" if progress.best_weights == "ema" else "")]
    if plan.select == plan.report:
        lines.append(f"note     {plan.report} picked the epoch and is reported: the figures are a maximum over epochs, so too high")
    lines.append(f"{'':<{width}}  {things:>7}  accuracy    mean recall  macro F1")
    for label, scores in table.items():
        error = f"± {scores['standard_error']:.2%}"
        figures = f"{scores['accuracy']:>7.2%} {error:<9} {scores['mean_recall']:>7.2%}  {scores['f1']:>8.2%}"
        lines.append(f"{label:<{width}}  {scores['images']:>7,}  {figures}")
    return "\n".join(lines)
