"""Facial expressions from images: finetunes a face model, measures it, and leaves a run folder that zoo.load() opens.

    python -m finetune.fer2013 --recipe mobilefacenet --data fer2013.csv --out runs/mobilefacenet
    torchrun --nproc-per-node 8 -m finetune.fer2013 ...          the same on several GPUs

A recipe is a frozen record with the source of its numbers; --set changes any of them. docs/finetune.md has what each one reaches.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.card import Preprocess

from .command import carried_out, chosen, parser, words
from .config import Augment, Training, as_json, changed
from .layouts import FinetuneError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn

    from .data import Expressions
    from .run import Run
    from .training import Progress


@dataclass(frozen=True)
class Recipe:
    """What a run is, but for its data.

    build       (number of classes, arguments, initial weights) -> the net
    arguments   the net's keyword arguments
    init        the initial weights: a model of the zoo, or "none"
    views       0 augments anew each time; else the features of that many views are computed once (for a net that is frozen below them)
    ten_crop    side of each of the ten parts whose probabilities are averaged
    protocol    "honest" trains on train and picks the epoch on public; "seed" trains on both and picks it on private, as was usual
    smoke       what --smoke changes; smoke_images: how many it takes of train and of each other split
    """

    name: str
    about: str
    source: str
    build: Callable[..., Any]
    input: Preprocess
    augment: Augment
    training: Training
    arguments: Mapping[str, Any] = field(default_factory=dict)
    init: str = "none"
    views: int = 0
    ten_crop: float = 44 / 48
    protocol: Literal["honest", "seed"] = "honest"
    smoke: Mapping[str, Any] = field(default_factory=dict)
    smoke_images: tuple[int, int] = (700, 350)


# --- the nets, with their initial weights ---------------------------------------------------------------------------------------------


def vgg_face(classes: int, arguments: Mapping[str, Any], init: str) -> nn.Module:
    import zoo

    return zoo.load("vgg_face" if init == "none" else init, pretrained=init != "none", num_classes=classes)


def face_resnet(classes: int, arguments: Mapping[str, Any], init: str) -> nn.Module:
    import zoo
    from architectures import CenterLossFace, FaceResNet

    cnn = None if init == "none" else zoo.load(init)
    if not isinstance(cnn, (CenterLossFace, type(None))):
        raise FinetuneError(f"--init {init}: face_resnet begins with center_loss_face's weights, or none")
    return FaceResNet(classes, **arguments, cnn=cnn)


def mobilefacenet(classes: int, arguments: Mapping[str, Any], init: str) -> nn.Module:
    import zoo
    from architectures import MobileFaceExpression, MobileFaceNet

    cnn = None if init == "none" else zoo.load(init)
    if not isinstance(cnn, (MobileFaceNet, type(None))):
        raise FinetuneError(f"--init {init}: mobilefacenet begins with mobilefacenet's weights, or none")
    return MobileFaceExpression(classes, **arguments, cnn=cnn)


def small_resnet(classes: int, arguments: Mapping[str, Any], init: str) -> nn.Module:
    from architectures import SmallResNet

    if init != "none":
        raise FinetuneError(f"--init {init}: no weights are published for this net; it takes none, or a run's folder")
    return SmallResNet(classes, **arguments)


# --- the recipes ----------------------------------------------------------------------------------------------------------------------

STRONG = Augment(flip=0.5, scale=(0.75, 1.05), shift=0.1, rotation=15, brightness=0.3, contrast=0.3, erasing=0.25)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="seed",
            about="VGG-Face as it was finetuned for 71.64 %",
            source="XiaoYee/emotion_classification, the image recipe: its augmentation, rates, normalisation and choice of epoch",
            build=vgg_face,
            init="vgg_face",
            # RGB in 0..1, minus 0.507395516207, over 0.255128989415: FER2013's own mean and deviation, not what VGG-Face was trained on.
            input=Preprocess((224, 224), "RGB", (129.385857,) * 3, "XiaoYee/emotion_classification", 1 / (255 * 0.255128989415)),
            augment=Augment(flip=0.5, crop=(256, 224), outside="border"),
            training=Training(
                epochs=100, batch_size=32, lr=0.001, weight_decay=5e-4, decay_all=True, schedule="step", step_epochs=20, precision="no"
            ),
            protocol="seed",
            ten_crop=224 / 256,
            smoke={"training.epochs": 1, "training.batch_size": 8, "init": "none"},
            smoke_images=(16, 8),
        ),
        Recipe(
            name="vgg_face",
            about="VGG-Face with the input it was trained on (BGR, 0..255)",
            source="input: the authors' matcaffe_demo.m; augmentation, smoothing, averaging: what later FER2013 work shares; rates: ours",
            build=vgg_face,
            init="vgg_face",
            input=Preprocess((224, 224), "BGR", (93.5940, 104.7624, 129.1863), "matcaffe_demo.m in vgg_face_caffe.tar.gz"),
            augment=STRONG,
            training=Training(
                epochs=30, batch_size=64, lr=0.01, backbone_lr=0.001, warmup_epochs=3, label_smoothing=0.1, mixup=0.2, clean_epochs=5,
                ema=0.999,
            ),
            smoke={"training.epochs": 1, "training.batch_size": 8, "training.ema": 0, "init": "none"},
            smoke_images=(16, 8),
        ),
        Recipe(
            name="face_resnet",
            about="the center-loss face ResNet in its form for expressions (--init center_loss_face: from its weights)",
            source="net: XiaoYee/emotion_classification, Resnet_GRU/resnet_face.py; input: face_deploy.prototxt's; rates: ours",
            build=face_resnet,
            arguments={"conv_dropout": 0.4},
            input=Preprocess((112, 96), "BGR", (127.5,) * 3, "ydwen/caffe-face, extractDeepFeature.m", 1 / 128),
            augment=STRONG,
            training=Training(
                epochs=100, batch_size=128, lr=0.02, warmup_epochs=5, label_smoothing=0.1, mixup=0.2, clean_epochs=5, ema=0.999,
                clip_norm=5,
            ),
            smoke={"training.epochs": 2, "training.batch_size": 16, "training.mixup": 0, "training.lr": 0.01, "training.warmup_epochs": 1},
            smoke_images=(240, 70),
        ),
        Recipe(
            name="mobilefacenet",
            about="a converted Caffe MobileFaceNet, read at three depths",
            source="net and input: honghuCode/mobileFacenet-ncnn; depths: a linear probe on its frozen features; rates: ours",
            build=mobilefacenet,
            init="mobilefacenet",
            input=Preprocess((112, 112), "RGB", (128.0,) * 3, "honghuCode/mobileFacenet-ncnn caffe_forward.py", 1 / 128),
            augment=STRONG,
            training=Training(
                epochs=60, batch_size=128, lr=0.02, backbone_lr=0.02, warmup_epochs=3, label_smoothing=0.1, mixup=0.2, clean_epochs=5,
                ema=0.999,
            ),
            smoke={
                "input.size": (48, 48), "training.epochs": 6, "training.batch_size": 32, "training.mixup": 0, "training.warmup_epochs": 1,
                "training.lr": 0.005, "training.backbone_lr": 0.005, "training.ema": 0,
            },
        ),
        Recipe(
            name="scratch",
            about="ResNet-18 at 48×48, from nothing",
            source="He et al. 2016 for CIFAR; schedule, augmentation: after LetheSec's ResNet-18 (73.70 %, picked on private); rates: ours",
            build=small_resnet,
            input=Preprocess((48, 48), "RGB", (127.5,) * 3, "this recipe", 1 / 64),
            augment=Augment(flip=0.5, scale=(0.8, 1.1), shift=0.15, rotation=15, brightness=0.2, contrast=0.2, erasing=0.25),
            training=Training(
                epochs=150, batch_size=256, lr=0.1, warmup_epochs=5, label_smoothing=0.1, mixup=0.4, clean_epochs=10, ema=0.999
            ),
            smoke={
                "arguments.width": 16, "training.epochs": 8, "training.batch_size": 32, "training.lr": 0.05, "training.mixup": 0,
                "training.warmup_epochs": 1, "training.ema": 0, "augment.erasing": 0, "augment.rotation": 5, "augment.shift": 0.05,
            },
        ),
    )
}


# --- one run --------------------------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    command = parser("finetune.fer2013", "Finetunes a face model for facial expressions and measures it.", RECIPES)
    command.add_argument("--protocol", choices=("honest", "seed"), help="which images train and which pick the epoch (the recipe's)")
    command.add_argument("--votes", type=Path, metavar="CSV", help="FER+'s fer2013new.csv: train on its votes in place of the labels")
    command.add_argument("--vote-targets", choices=("soft", "hard"), default="soft", help="shares of the votes, or the most voted class")
    options = command.parse_args(argv)

    def work() -> None:
        recipe = chosen(RECIPES[options.recipe], options)
        if options.protocol is not None:
            recipe = changed(recipe, {"protocol": options.protocol})
        finetune(
            recipe, options.data, options.out, votes=options.votes, vote_targets=options.vote_targets, smoke=options.smoke,
            cpu=options.cpu, resume=options.resume, overwrite=options.overwrite, command=words("finetune.fer2013", argv),
        )  # fmt: skip

    return carried_out(work)


def finetune(
    recipe: Recipe,
    path: Path,
    out: Path,
    *,
    votes: Path | None = None,
    vote_targets: Literal["soft", "hard"] = "soft",
    smoke: bool = False,
    cpu: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    command: str = "",
) -> None:
    """One run, from the data to the report. Raises FinetuneError or ZooError before anything is trained where it can."""
    from .data import copied
    from .images import Classify, FeatureTask, ImageTask
    from .metrics import read_predictions, score_table
    from .report import write_report
    from .run import Run
    from .training import Task, Trainer, accelerator_for, predictor

    check(recipe)
    accelerator = accelerator_for(recipe.training, cpu=cpu)
    with accelerator.main_process_first():
        data = read_data(path, recipe, votes)
    plan = planned(data, recipe.protocol)
    if smoke:
        plan = replace(plan, rows={name: sample(data, rows, recipe.smoke_images[name != "train"]) for name, rows in plan.rows.items()})
    plan, targets = voted(data, plan, vote_targets) if votes else (plan, None)
    config = {
        "recipe": recipe.name, "command": command, "protocol": recipe.protocol, "seed": recipe.training.seed,
        "data": {
            "name": data.name, "sha256": data.sha256, "counts": {name: len(rows) for name, rows in plan.rows.items()},
            "notes": [*data.notes, *plan.notes, *(["a sample of the data (--smoke)"] if smoke else [])],
        },
        "votes": vote_targets if votes else None, "classes": list(data.classes), "config": as_json(recipe),
    }  # fmt: skip
    begun = (out / "config.json").is_file()
    if resume and begun and (out / "result.json").is_file():
        Run.resume(out, config)
        accelerator.print(f"{out} is finished: {out / 'report.html'}")
        return
    with accelerator.main_process_first():
        model, card = start(recipe, data)
    run = None
    if accelerator.is_main_process:
        run = Run.resume(out, config) if resume and begun else Run.create(out, config, overwrite=overwrite)
    accelerator.print(headline(recipe, data, plan, model, accelerator))

    images = ImageTask(data, plan.rows, recipe.input, recipe.augment, accelerator.device, targets)
    task: Task = images
    if recipe.views:
        accelerator.print(f"computing the frozen features of {recipe.views} views")
        model.to(accelerator.device)
        task = FeatureTask(images, model, recipe.views, recipe.training.seed, accelerator, recipe.training.channels_last)
    trainer = Trainer(
        model, task, recipe.training, accelerator, run, select=plan.select, through=Classify if recipe.views else lambda net: net
    )
    progress = trainer.fit(resume=resume)

    load_best(model, run, accelerator)
    predict = predictor(model, accelerator, recipe.training.channels_last)
    tensors: dict[str, Tensor] = {}
    for split in dict.fromkeys((plan.select, plan.report)):
        rows = plan.rows[split]
        tensors |= {f"{split}/labels": data.labels[rows], f"{split}/rows": rows}
        tensors[f"{split}/copy"] = copied(data, rows, plan.others(split, data))
        tensors[f"{split}/logits"] = images.logits(predict, split)
        tensors[f"{split}/logits_ten_crop"] = images.ten_crop(predict, split, recipe.ten_crop)
    trainer.count_time()
    if run is not None:
        run.save_tensors("predictions.safetensors", tensors, {"classes": json.dumps(data.classes), "data_sha256": data.sha256})
        table = score_table(read_predictions(out))
        selected = {"epoch": progress.best_epoch, "weights": progress.best_weights, "on": plan.select, "accuracy": progress.best}
        run.write_card({**card, "recipe": recipe.name, "scores": {label: scores["accuracy"] for label, scores in table.items()}})
        run.finish(
            {
                "protocol": recipe.protocol, "selected": selected, "report": plan.report, "scores": table, "seconds": progress.wall,
                "images_per_s": statistics.median(line["images_per_s"] for line in run.lines()),
                "memory_mb": max((line["memory_mb"] for line in run.lines() if line["memory_mb"]), default=None),
            }
        )  # fmt: skip
        report = write_report(out, data.images[plan.rows[plan.report]])
        print(summary(table, progress, plan, recipe), f"report: {report}", sep="\n")
    accelerator.wait_for_everyone()


@dataclass(frozen=True)
class Plan:
    """Which rows of the data do what: rows["train"], rows[select] picks the epoch, rows[report] is what the run is known by."""

    rows: Mapping[str, Tensor]
    select: str
    report: str
    notes: tuple[str, ...] = ()

    def others(self, split: str, data: Expressions) -> Tensor:
        """The rows of the data that are not of this split, whether they are used or not."""
        import torch

        mask = torch.ones(len(data), dtype=torch.bool)
        mask[data.rows(split) if split in data.split else self.rows[split]] = False
        return mask.nonzero()[:, 0]


def check(recipe: Recipe) -> None:
    """Raises FinetuneError for fields that contradict each other."""
    if recipe.views and recipe.training.freeze is None:
        raise FinetuneError("views computes the features once, so what is below them has to be frozen: --set training.freeze=cnn")
    if recipe.views and recipe.training.center_loss:
        raise FinetuneError("views and center_loss exclude each other: the center loss would move nothing below the frozen features")
    if recipe.training.epochs < 1:
        raise FinetuneError(f"epochs is {recipe.training.epochs}; a run has at least one")
    if not 0 < recipe.ten_crop <= 1:
        raise FinetuneError(f"ten_crop is {recipe.ten_crop}; it is a part of the image's side, above 0 and at most 1")


def planned(data: Expressions, protocol: Literal["honest", "seed"]) -> Plan:
    """Honest: trains on train, picks the epoch on public (or val, or a tenth of train), reports private (or test).

    "seed" is the older project's way: trains on train and public, picks the epoch on private (or test) and reports that maximum.
    Where there is neither private nor test, what picks the epoch is reported.
    """
    counts = data.counts()
    report = next((name for name in ("private", "test") if name in counts), None)
    if protocol == "seed":
        if report is None:
            raise FinetuneError(f"{data.name}: has neither private nor test images, so the seed's protocol has nothing to report")
        parts = [name for name in counts if name != report]
        return Plan({"train": data.rows(*parts), report: data.rows(report)}, report, report)
    select = next((name for name in ("public", "val") if name in counts), None)
    rows, notes = {"train": data.rows("train")}, []
    if select is None:
        select = "val"
        rows["train"], rows["val"] = held_out(data, rows["train"])
        notes.append(f"no public or val images: {len(rows['val']):,} of train pick the epoch")
    else:
        rows[select] = data.rows(select)
    if report is None:
        notes.append(f"no private or test images: {select} is reported, on which the epoch was picked")
        return Plan(rows, select, select, tuple(notes))
    return Plan({**rows, report: data.rows(report)}, select, report, tuple(notes))


def held_out(data: Expressions, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The rows without, and with only, every tenth image of each class, copies of one image staying together."""
    import torch

    from .data import copied

    chosen = sample(data, rows, len(rows) // 10)
    mask = torch.isin(rows, chosen)
    mask[~mask] = copied(data, rows[~mask], chosen)
    return rows[~mask], rows[mask]


def sample(data: Expressions, rows: Tensor, count: int) -> Tensor:
    """About `count` of the rows, spread over the classes as all of them are (at least one of each), always the same ones."""
    import torch

    if count >= len(rows):
        return rows
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    taken = []
    for label in data.labels[rows].unique():
        members = order[data.labels[order] == label]
        taken.append(members[: max(1, round(count * len(members) / len(rows)))])
    return torch.cat(taken).sort().values


def read_data(path: Path, recipe: Recipe, votes: Path | None) -> Expressions:
    from .data import read, with_votes

    size = recipe.input.size
    try:
        data = read(path)
    except FinetuneError as error:
        if "size=" not in str(error) or size is None:  # only images of different sizes ask for one
            raise
        data = read(path, size=max(size))
    return data if votes is None else with_votes(data, votes)


def voted(data: Expressions, plan: Plan, mode: Literal["soft", "hard"]) -> tuple[Plan, Tensor]:
    """The plan without the training rows whose votes say nothing, and the votes of the others as targets."""
    from .data import vote_targets

    targets, usable = vote_targets(data, data.classes, mode)
    rows = plan.rows["train"]
    kept = rows[usable[rows]]
    note = f"trained on FER+'s votes ({mode}): {len(rows) - len(kept):,} training images without a usable vote were left out"
    return replace(plan, rows={**plan.rows, "train": kept}, notes=(*plan.notes, note)), targets[kept]


def start(recipe: Recipe, data: Expressions) -> tuple[nn.Module, dict[str, Any]]:
    """The net with its initial weights, and what card.json says of it."""
    import torch

    import zoo

    from .data import check_classes
    from .metrics import read_json

    torch.manual_seed(recipe.training.seed)
    classes = len(data.classes)
    arguments = {"num_classes": classes, **as_json(recipe.arguments)}
    folder = Path(recipe.init)
    if (folder / "card.json").is_file():
        known = read_json(folder / "card.json")
        names, arguments = known.get("classes", []), {**known.get("arguments", {}), "num_classes": classes}
        if sorted(names) == sorted(data.classes):
            check_classes(data.classes, names)
        model = zoo.load(recipe.init, num_classes=None if tuple(names) == data.classes else classes)
    elif folder.is_dir():
        raise FinetuneError(f"--init {recipe.init}: the folder holds no finished run (card.json); finish it with --resume")
    else:
        model = recipe.build(classes, recipe.arguments, recipe.init)
    spec = recipe.input
    card = {
        "architecture": type(model).__name__,
        "arguments": arguments,
        "classes": list(data.classes),
        "title": f"{recipe.name} finetuned on {data.name}",
        "preprocess": {"size": list(spec.size or ()), "channels": spec.channels, "mean": spec.mean, "scale": spec.scale},
    }
    return model, card


def load_best(model: nn.Module, run: Run | None, accelerator: Accelerator) -> None:
    """best.safetensors into the model of every process; only the first one reads the file."""
    from accelerate.utils import broadcast

    if run is not None:
        model.load_state_dict(run.load_tensors("best.safetensors"))
    if accelerator.num_processes > 1:
        for tensor in model.state_dict().values():
            broadcast(tensor)


def headline(recipe: Recipe, data: Expressions, plan: Plan, model: nn.Module, accelerator: Accelerator) -> str:
    """What is about to be trained, for the terminal."""
    counts = ", ".join(f"{name} {len(rows):,}" for name, rows in plan.rows.items())
    size = "×".join(map(str, recipe.input.size or ()))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    where = f"{accelerator.num_processes} × {accelerator.device.type}, {accelerator.mixed_precision.replace('no', 'float32')}"
    return "\n".join(
        [
            f"{recipe.name}: {recipe.about}",
            f"data     {data.name}: {counts}; {len(data.classes)} classes",
            *(f"note     {note}" for note in plan.notes),
            f"net      {type(model).__name__} at {size}, {parameters:,} parameters, initial weights: {recipe.init}",
            f"on       {where}; picks the epoch on {plan.select}, reports {plan.report}",
        ]
    )


def summary(table: Mapping[str, Any], progress: Progress, plan: Plan, recipe: Recipe) -> str:
    """What was measured, for the terminal."""
    width = max(map(len, table))
    lines = [f"epoch {progress.best_epoch} was picked on {plan.select}" + (" (averaged weights)" if progress.best_weights == "ema" else "")]
    if plan.select == plan.report:
        lines.append(f"note     {plan.report} picked the epoch and is reported: the figures are a maximum over epochs, so too high")
    lines.append(f"{'':<{width}}   images  accuracy    mean recall  macro F1")
    for label, scores in table.items():
        error = f"± {scores['standard_error']:.2%}"
        figures = f"{scores['accuracy']:>7.2%} {error:<9} {scores['mean_recall']:>7.2%}  {scores['f1']:>8.2%}"
        lines.append(f"{label:<{width}}  {scores['images']:>7,}  {figures}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
