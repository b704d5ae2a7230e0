"""Facial expressions from images: finetunes a face model, measures it, and leaves a run folder that zoo.load() opens.

    python -m finetune.fer2013 --recipe mobilefacenet --data fer2013.csv --out runs/mobilefacenet
    torchrun --nproc-per-node 8 -m finetune.fer2013 ...          the same on several GPUs

A recipe is a frozen record with the source of its numbers; --set changes any of them. docs/finetune.md has what each one reaches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from finetune import renamed
from finetune.command import command_line, exit_status_of, parser, recipe_from
from finetune.config import Augment, Training, as_json
from finetune.errors import FinetuneError, SizesDiffer
from finetune.overrides import changed
from finetune.protocol import ImageProtocol
from finetune.train.job import Prepared, card_of, carry_through, check, from_run, settings_of
from zoo import Preprocess, info

if TYPE_CHECKING:
    from torch import Tensor, nn

    from finetune.images.data import Expressions
    from finetune.protocol import Plan


@dataclass(frozen=True)
class Recipe:
    """What a run is, but for its data.

    build       (number of classes, arguments, initial weights) -> the net
    arguments   the net's keyword arguments
    init        the initial weights: a model of the zoo, or "none"
    views       0 augments anew each time; else the features of that many views are computed once (for a net that is frozen below them)
    ten_crop    side of each of the ten parts whose probabilities are averaged
    protocol    "honest" trains on train and picks the epoch on public; "best-on-reported" trains on both and picks it on private, as was
                usual
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
    protocol: ImageProtocol = "honest"
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


def small_vgg(classes: int, arguments: Mapping[str, Any], init: str) -> nn.Module:
    from architectures import SmallVGG

    if init != "none":
        raise FinetuneError(f"--init {init}: no weights are published for this net; it takes none, or a run's folder")
    return SmallVGG(classes, **arguments)


def caffe_net(classes: int, arguments: Mapping[str, Any], init: str) -> nn.Module:
    import zoo
    from zoo.models.weights import classifier_of

    if not arguments.get("prototxt"):
        raise FinetuneError("the recipe caffe takes a net of yours: --prototxt deploy.prototxt --caffemodel net.caffemodel")
    if init != "none":
        raise FinetuneError(f"--init {init}: the recipe caffe begins with --caffemodel, or with the folder of a run")
    model: Any = zoo.load_caffe(
        arguments["prototxt"], arguments.get("caffemodel"), num_classes=classes, classifier=arguments.get("classifier")
    )
    model.CLASSIFIER = classifier_of(model, model.card.classifier)
    return model


# --- the recipes ----------------------------------------------------------------------------------------------------------------------

UNSAID = Preprocess(None, "BGR", (0.0,) * 3, "the prototxt")  # what input_of() replaces
STRONG = Augment(flip=0.5, scale=(0.75, 1.05), shift=0.1, rotation=15, brightness=0.3, contrast=0.3, erasing=0.25)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="published",
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
            protocol="best-on-reported",
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
            input=info("vgg_face").preprocess,
            augment=STRONG,
            training=Training(
                epochs=30,
                batch_size=64,
                lr=0.01,
                backbone_lr=0.001,
                warmup_epochs=3,
                label_smoothing=0.1,
                mixup=0.2,
                clean_epochs=5,
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
            input=info("center_loss_face").preprocess,
            augment=STRONG,
            training=Training(
                epochs=100,
                batch_size=128,
                lr=0.02,
                warmup_epochs=5,
                label_smoothing=0.1,
                mixup=0.2,
                clean_epochs=5,
                ema=0.999,
                clip_norm=5,
            ),
            smoke={"training.epochs": 2, "training.batch_size": 16, "training.mixup": 0, "training.lr": 0.01, "training.warmup_epochs": 1},
            smoke_images=(128, 42),
        ),
        Recipe(
            name="mobilefacenet",
            about="a converted Caffe MobileFaceNet, read at three depths",
            source="net and input: honghuCode/mobileFacenet-ncnn; depths: a linear probe on its frozen features; rates: ours",
            build=mobilefacenet,
            init="mobilefacenet",
            input=info("mobilefacenet").preprocess,
            augment=STRONG,
            training=Training(
                epochs=60,
                batch_size=128,
                lr=0.02,
                backbone_lr=0.02,
                warmup_epochs=3,
                label_smoothing=0.1,
                mixup=0.2,
                clean_epochs=5,
                ema=0.999,
            ),
            smoke={
                "input.size": (48, 48),
                "training.epochs": 6,
                "training.batch_size": 32,
                "training.mixup": 0,
                "training.warmup_epochs": 1,
                "training.lr": 0.005,
                "training.backbone_lr": 0.005,
                "training.ema": 0,
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
                "arguments.width": 16,
                "training.epochs": 8,
                "training.batch_size": 32,
                "training.lr": 0.05,
                "training.mixup": 0,
                "training.warmup_epochs": 1,
                "training.ema": 0,
                "augment.erasing": 0,
                "augment.rotation": 5,
                "augment.shift": 0.05,
            },
        ),
        Recipe(
            name="small_vgg",
            about="a VGG of 1.8 million weights on grey 44×44 crops, from nothing: for two CPU cores",
            source="net: after Khaireddin & Chen 2021; schedule, augmentation: what later FER2013 work shares; rates: measured here",
            build=small_vgg,
            input=Preprocess((44, 44), "GRAY", (127.5,), "this recipe", 1 / 64, resize=(48, 48)),
            augment=Augment(flip=0.5, scale=(0.8, 1.0), shift=0.08, rotation=12, brightness=0.2, contrast=0.2, erasing=0.25),
            training=Training(epochs=60, batch_size=96, lr=0.05, warmup_epochs=1, label_smoothing=0.1, ema=0.998),
            smoke={
                "arguments.widths": (16, 32, 64, 128),
                "training.epochs": 8,
                "training.batch_size": 32,
                "training.ema": 0,
                "augment.erasing": 0,
                "augment.rotation": 5,
            },
        ),
        Recipe(
            name="caffe",
            about="any Caffe net of yours: --prototxt, --caffemodel; its last layer is replaced, as in Caffe's own finetuning",
            source="rates: those of Caffe's finetune_flickr_style example, a tenth for all but the new layer; input: the prototxt's",
            build=caffe_net,
            input=UNSAID,
            augment=STRONG,
            training=Training(epochs=30, batch_size=64, lr=0.01, backbone_lr=0.001, warmup_epochs=1, label_smoothing=0.1, ema=0.999),
            smoke={"training.epochs": 2, "training.batch_size": 16, "training.ema": 0},
            smoke_images=(160, 80),
        ),
    )
}


# --- one run --------------------------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    about = "Finetunes a face model for facial expressions and measures it."
    command = parser("finetune.fer2013", about, RECIPES, get_args(ImageProtocol), renamed.RECIPES)
    command.add_argument("--votes", type=Path, metavar="CSV", help="FER+'s fer2013new.csv: train on its votes in place of the labels")
    command.add_argument("--vote-targets", choices=("soft", "hard"), default="soft", help="shares of the votes, or the most voted class")
    command.add_argument("--prototxt", metavar="FILE", help="of the recipe caffe: the net's deploy prototxt")
    command.add_argument("--caffemodel", metavar="FILE", help="of the recipe caffe: its weights; without them they are drawn")
    command.add_argument("--classifier", metavar="LAYER", help="of the recipe caffe: the layer that gives the classes")
    options = command.parse_args(argv)

    def work() -> None:
        recipe = recipe_from(RECIPES[options.recipe], options)
        files = {name: getattr(options, name) for name in ("prototxt", "caffemodel", "classifier") if getattr(options, name) is not None}
        if files and recipe.build is not caffe_net:
            raise FinetuneError(f"--{next(iter(files))} is for --recipe caffe; {recipe.name} has a net of its own")
        recipe = changed(recipe, {f"arguments.{name}": value for name, value in files.items()})
        finetune(
            recipe, options.data, options.out, votes=options.votes, vote_targets=options.vote_targets, smoke=options.smoke,
            cpu=options.cpu, resume=options.resume, overwrite=options.overwrite, command=command_line("finetune.fer2013", argv),
        )  # fmt: skip

    return exit_status_of(work)


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
    from finetune.images.data import copied, held_out
    from finetune.images.task import FeatureTask, ImageTask
    from finetune.protocol import plan_images, sample
    from finetune.train.device import accelerator_for
    from finetune.train.frozen import Classify
    from finetune.train.task import Task, predictor

    check(recipe)
    recipe = replace(recipe, input=input_of(recipe))
    if not 0 < recipe.ten_crop <= 1:
        raise FinetuneError(f"ten_crop is {recipe.ten_crop}; it is a part of the image's side, above 0 and at most 1")
    accelerator = accelerator_for(recipe.training, cpu=cpu)
    with accelerator.main_process_first():
        data = read_data(path, recipe, votes)
    plan = plan_images(data, recipe.protocol, partial(held_out, data))
    if smoke:
        plan = replace(plan, rows={name: sample(data, rows, recipe.smoke_images[name != "train"]) for name, rows in plan.rows.items()})
    plan, targets = voted(data, plan, vote_targets) if votes else (plan, None)
    notes = [*data.notes, *plan.notes, *(["a sample of the data (--smoke)"] if smoke else [])]
    config = {**settings_of(recipe, data, plan, notes, command), "votes": vote_targets if votes else None}

    def prepare(model: nn.Module) -> Prepared:
        images = ImageTask(data, plan.rows, recipe.input, recipe.augment, accelerator.device, targets)
        task: Task = images
        if recipe.views:
            accelerator.print(f"computing the frozen features of {recipe.views} views")
            model.to(accelerator.device)
            task = FeatureTask(images, model, recipe.views, recipe.training.seed, accelerator, recipe.training.channels_last)

        def predictions(model: nn.Module, split: str) -> dict[str, Tensor]:
            predict = predictor(model, accelerator, recipe.training.channels_last)
            return {
                "copy": copied(data, plan.rows[split], plan.others(split, data)),
                "logits": images.logits(predict, split),
                "logits_ten_crop": images.ten_crop(predict, split, recipe.ten_crop),
            }

        return Prepared(task, Classify if recipe.views else lambda net: net, predictions)

    carry_through(
        recipe, data, plan, out, config, accelerator, start=lambda: start(recipe, data), prepare=prepare,
        pictures=lambda: data.images[plan.rows[plan.report]], resume=resume, overwrite=overwrite,
    )  # fmt: skip


def input_of(recipe: Recipe) -> Preprocess:
    """The recipe's input; that of the recipe caffe is what the prototxt says, but for the fields that were set."""
    import zoo

    if recipe.input.size is not None or recipe.build is not caffe_net or not recipe.arguments.get("prototxt"):
        return recipe.input
    model: Any = zoo.load_caffe(recipe.arguments["prototxt"], classifier=recipe.arguments.get("classifier"))
    said: Preprocess | None = model.card.preprocess
    if said is None:
        raise FinetuneError(f"{recipe.arguments['prototxt']}: its input is {dict(model.input_shapes)}; a recipe needs (N, 1 or 3, H, W)")
    said = replace(said, resize=None) if said.resize == "keep" else said  # the whole face, not the middle of a small image
    return said if recipe.input == UNSAID else replace(recipe.input, size=said.size)


def read_data(path: Path, recipe: Recipe, votes: Path | None) -> Expressions:
    from finetune.images.data import read, with_votes

    size = recipe.input.size
    try:
        data = read(path)
    except SizesDiffer:
        if size is None:
            raise
        data = read(path, size=max(size))
    return data if votes is None else with_votes(data, votes)


def voted(data: Expressions, plan: Plan, mode: Literal["soft", "hard"]) -> tuple[Plan, Tensor]:
    """The plan without the training rows whose votes say nothing, and the votes of the others as targets."""
    from finetune.images.data import vote_targets

    targets, usable = vote_targets(data, data.classes, mode)
    rows = plan.rows["train"]
    kept = rows[usable[rows]]
    note = f"trained on FER+'s votes ({mode}): {len(rows) - len(kept):,} training images without a usable vote were left out"
    return replace(plan, rows={**plan.rows, "train": kept}, notes=(*plan.notes, note)), targets[kept]


def start(recipe: Recipe, data: Expressions) -> tuple[nn.Module, dict[str, Any]]:
    """The net with its initial weights, and what card.json says of it."""
    import torch

    torch.manual_seed(recipe.training.seed)
    found = from_run(recipe.init, data)
    if found is None:
        classes = len(data.classes)
        found = recipe.build(classes, recipe.arguments, recipe.init), {"num_classes": classes, **as_json(recipe.arguments)}
    model, arguments = found
    if hasattr(model, "prototxt"):  # a converted net: its structure is a file of the run
        card = card_of(recipe, data, "caffe", {"classifier": model.card.classifier})  # type: ignore[union-attr]
        return model, {**card, "prototxt": "net.prototxt"}
    return model, card_of(recipe, data, type(model).__name__, arguments)


if __name__ == "__main__":
    sys.exit(main())
