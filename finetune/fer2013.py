"""Facial expressions from images: finetunes a face model, measures it, and leaves a run folder that zoo.load() opens.

    python -m finetune.fer2013 --recipe mobilefacenet --data fer2013.csv --out runs/mobilefacenet
    torchrun --nproc-per-node 8 -m finetune.fer2013 ...          the same on several GPUs

A recipe is a frozen record with the source of its numbers; --set changes any of them. docs/finetune.md has what each one reaches.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import zoo
from finetune import renamed
from finetune.command import command_line, exit_status_of, parser, recipe_from
from finetune.config import Augment, Training
from finetune.errors import FinetuneError
from finetune.extras import TRAINING, require
from finetune.images import nets
from finetune.images.recipe import Recipe
from finetune.overrides import changed
from finetune.protocol import ImageProtocol
from zoo import Preprocess

STRONG = Augment(flip=0.5, scale=(0.75, 1.05), shift=0.1, rotation=15, brightness=0.3, contrast=0.3, erasing=0.25)
GREY_44 = Preprocess((44, 44), "GRAY", (127.5,), "this recipe", 1 / 64, resize=(48, 48))
SMALL_VGG_AUGMENT = Augment(flip=0.5, scale=(0.8, 1.0), shift=0.08, rotation=12, brightness=0.2, contrast=0.2, erasing=0.25)
SMALL_VGG_SMOKE = {
    "arguments.widths": (16, 32, 64, 128),
    "training.epochs": 8,
    "training.batch_size": 32,
    "training.ema": 0,
    "augment.erasing": 0,
    "augment.rotation": 5,
}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="published",
            about="VGG-Face as it was finetuned for 71.64 %",
            source="XiaoYee/emotion_classification, the image recipe: its augmentation, rates, normalisation and choice of epoch",
            build=nets.vgg_face,
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
            source="input: the authors' matcaffe_demo.m; augmentation, smoothing, averaging: as later FER2013 work; rates: set here",
            build=nets.vgg_face,
            init="vgg_face",
            input=zoo.info("vgg_face").preprocess,
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
            source="net: XiaoYee/emotion_classification, Resnet_GRU/resnet_face.py; input: face_deploy.prototxt's; rates: set here",
            build=nets.face_resnet,
            arguments={"conv_dropout": 0.4},
            input=zoo.info("center_loss_face").preprocess,
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
            source="net and input: honghuCode/mobileFacenet-ncnn; depths: a linear probe on its frozen features; rates: set here",
            build=nets.mobilefacenet,
            init="mobilefacenet",
            input=zoo.info("mobilefacenet").preprocess,
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
            source="He et al. 2016 for CIFAR; schedule, augmentation: LetheSec's ResNet-18 (73.70 %, picked on private); rates: set here",
            build=nets.small_resnet,
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
            build=nets.small_vgg,
            input=GREY_44,
            augment=SMALL_VGG_AUGMENT,
            training=Training(epochs=60, batch_size=96, lr=0.05, warmup_epochs=1, label_smoothing=0.1, ema=0.998),
            smoke=SMALL_VGG_SMOKE,
        ),
        Recipe(
            name="vgg",
            about="the same net four times as large, from nothing: for a GPU",
            source="as small_vgg; width, batch and weight decay: chosen on public (RESULTS.md); mixup did not help in 90 epochs",
            build=nets.small_vgg,
            arguments={"widths": (64, 128, 320, 640)},
            input=GREY_44,
            augment=SMALL_VGG_AUGMENT,
            training=Training(epochs=60, batch_size=256, lr=0.1, warmup_epochs=1, label_smoothing=0.1, ema=0.998, weight_decay=1e-3),
            smoke={**SMALL_VGG_SMOKE, "training.lr": 0.05},
        ),
        Recipe(
            name="caffe",
            about="any Caffe net of yours: --prototxt, --caffemodel; its last layer is replaced, as in Caffe's own finetuning",
            source="rates: those of Caffe's finetune_flickr_style example, a tenth for all but the new layer; input: the prototxt's",
            build=nets.caffe_net,
            input=nets.UNSAID,
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
        require(*TRAINING, extra="finetune")
        from finetune.images.job import image_job

        recipe = recipe_from(RECIPES[options.recipe], options)
        files = {name: getattr(options, name) for name in ("prototxt", "caffemodel", "classifier") if getattr(options, name) is not None}
        if files and recipe.build is not nets.caffe_net:
            raise FinetuneError(f"--{next(iter(files))} is for --recipe caffe; {recipe.name} has a net of its own")
        recipe = changed(recipe, {f"arguments.{name}": value for name, value in files.items()})
        job = image_job(
            recipe, options.data, options.out, votes=options.votes, vote_targets=options.vote_targets, smoke=options.smoke,
            cpu=options.cpu, command=command_line("finetune.fer2013", argv),
        )  # fmt: skip
        job.run(resume=options.resume, overwrite=options.overwrite)

    return exit_status_of(work)


if __name__ == "__main__":
    sys.exit(main())
