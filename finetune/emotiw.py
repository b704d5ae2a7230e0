"""Facial expressions from video: trains a face net on frames and what reads them in time, and leaves a run folder.

    python -m finetune.emotiw --recipe vgg_gru --data AFEW-faces --out runs/vgg_gru --init best7164.model
    python -m finetune.emotiw --recipe clip_mean --data ck48_sequences.npz --out runs/ck48 --folds 10 --frozen

The data are clips in folders by class, lists, CK+ or npz: finetune.clips.read_clips says which. A recipe is a frozen record with the
source of its numbers; --set changes any of them. docs/emotiw.md goes from an AFEW download to a trained model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from finetune.clips.nets import ENCODERS, PROJECT, with_encoder
from finetune.clips.recipe import Recipe, check_clips
from finetune.clips.records import Lists
from finetune.command import command_line, exit_status_of, parser, recipe_from
from finetune.config import Augment, Sampling, Training
from finetune.errors import FinetuneError
from finetune.extras import TRAINING, require
from finetune.overrides import changed
from finetune.protocol import ClipProtocol, plan_clips, sampled
from zoo import Preprocess

MODULE = "finetune.emotiw"
FROZEN_VIEWS = 4

# --- the recipes ----------------------------------------------------------------------------------------------------------------------

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Of that project. The crop's borders move by up to 20 % of the side, outwards into black (PIL's crop), anew in every frame.
PUBLISHED_AUGMENT = Augment(flip=0.5, jitter=0.2, hue=0.1, saturation=1.5, exposure=1.5, outside="zeros")
# A video shorter than 16 frames repeats its last one, and the repetitions count; frames behind the last whole window are dropped.
PUBLISHED_SAMPLING = Sampling(frames=16, stride=8, draw="random", augment="frame", padding="count", tail=False)
PUBLISHED_TRAINING = Training(
    epochs=120, batch_size=1, lr=1e-5, momentum=0.9, nesterov=False, weight_decay=5e-5, decay_all=True, schedule="constant",
    step_epochs=25, cycle_epochs=10, cycle_factor=10.0, precision="no", channels_last=False,
)  # fmt: skip
SMOKE = {"training.epochs": 1, "training.batch_size": 2, "sampling.frames": 4, "sampling.stride": 4, "init": "none"}


def imagenet(height: int, width: int) -> Preprocess:
    """RGB in 0..1 minus ImageNet's mean, over its deviation."""
    mean = tuple(255 * value for value in IMAGENET_MEAN)
    scale = tuple(1 / (255 * value) for value in IMAGENET_DEVIATION)
    return Preprocess((height, width), "RGB", mean, f"{PROJECT}, dataset.py", scale)


def published(name: str, about: str, encoder: Literal["vgg_face", "face_resnet"], lr: float, **arguments: object) -> Recipe:
    """A row of that project's table of AFEW's validation videos."""
    vgg = encoder == "vgg_face"
    return Recipe(
        name=name,
        about=about,
        source=f"{PROJECT}, {'VGG_GRU' if vgg else 'Resnet_GRU'}: augmentation, rates, normalisation, windows and choice of epoch",
        encoder=encoder,
        input=imagenet(224, 224) if vgg else imagenet(112, 96),
        augment=PUBLISHED_AUGMENT,
        sampling=PUBLISHED_SAMPLING,
        training=replace(PUBLISHED_TRAINING, lr=lr, epochs=120 if vgg else 200),
        arguments={"dropout": 0.8, **arguments},
        init="best7164.model" if vgg else "best_resnet.model",
        smoke=SMOKE,
        smoke_clips=(4, 2),
    )


def pretrained(name: str, about: str, **arguments: object) -> Recipe:
    """A pretrained MobileFaceNet with what later work does: one draw of the augmentation a clip, segments, masked padding."""
    return Recipe(
        name=name,
        about=about,
        source="input: honghuCode/mobileFacenet-ncnn; segments: TSN (ECCV 2016); attention: FAN (ICIP 2019); rates: this recipe's own",
        encoder="mobilefacenet",
        input=ENCODERS["mobilefacenet"].input,
        augment=Augment(flip=0.5, scale=(0.85, 1.05), shift=0.05, rotation=10, brightness=0.2, contrast=0.2),
        sampling=Sampling(frames=16, stride=8, draw="segments", augment="clip", padding="masked", tail=True),
        training=Training(
            epochs=30, batch_size=16, lr=1e-3, backbone_lr=1e-5, optimizer="adamw", weight_decay=0.01, warmup_epochs=2, label_smoothing=0.1,
            channels_last=False,
        ),
        arguments={"norm": True, "dropout": 0.5, **arguments},
        init="mobilefacenet",
        protocol="last",
        smoke={**SMOKE, "training.batch_size": 4, "training.warmup_epochs": 0, "input.size": (48, 48)},
    )  # fmt: skip


RECIPES = {
    recipe.name: recipe
    for recipe in (
        published("vgg_gru", "VGG-Face to fc6 and a GRU: published 51.19 %", "vgg_face", 1e-5, rnn="gru"),
        published("vgg_lstm_cell", "... and an LSTM cell, stepped by hand: published 49.87 %", "vgg_face", 1e-5, rnn="lstm_cell"),
        published("vgg_lstm", "... and an LSTM: published 49.08 %", "vgg_face", 1e-5, rnn="lstm"),
        published("vgg_lstm_lr1e-4", "... at ten times the rate: published 47.76 %", "vgg_face", 1e-4, rnn="lstm"),
        published(
            "resnet_gru_conv_dropout", "face ResNet, three GRUs, dropout on feature maps: published 50.13 %", "face_resnet",
            1e-5, rnn="gru", conv_dropout=0.4,
        ),
        published("resnet_gru", "... without that dropout: published 48.29 %", "face_resnet", 1e-5, rnn="gru", conv_dropout=0.0),
        published("resnet_gru_lr1e-4", "... at ten times the rate: published 46.97 %", "face_resnet", 1e-4, rnn="gru", conv_dropout=0.0),
        pretrained("clip_mean", "MobileFaceNet at three depths, the mean over the frames: what the others have to beat", rnn="none"),
        pretrained("clip_gru", "... and a GRU", rnn="gru"),
        pretrained("clip_attention", "... and learnt weights of the frames", rnn="none", pooling="attention"),
    )
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0 done, 1 failed, 2 usage, 130 or 143 after a signal."""
    argv = sys.argv[1:] if argv is None else list(argv)
    command = parser(MODULE, "Trains a net on clips of faces and measures it.", RECIPES, get_args(ClipProtocol))
    command.add_argument(
        "--encoder", metavar="NAME", help=f"another net for the frames: {', '.join(ENCODERS)}, a model of the zoo, or a run of images"
    )
    command.add_argument("--frozen", action="store_true", help="trains what lies above the encoder, on features computed once")
    command.add_argument("--folds", type=int, metavar="K", help="trains K times, each time testing other people; takes the last epoch")
    command.add_argument("--lists", nargs="+", metavar="[SPLIT=]FILE", help="list files, where they lie elsewhere or don't say their split")
    command.add_argument("--class-index", type=Path, metavar="FILE", help="a classInd.txt, for another order of the classes")
    options = command.parse_args(argv)

    def work() -> None:
        require(*TRAINING, extra="finetune")
        recipe = RECIPES[options.recipe]
        if options.encoder is not None:
            recipe = with_encoder(recipe, options.encoder)
        if options.frozen:
            recipe = changed(recipe, {"training.freeze": "cnn", "views": FROZEN_VIEWS})
        recipe = recipe_from(recipe, options)
        if options.folds is not None and options.protocol not in (None, "last"):
            raise FinetuneError("--folds takes the last epoch: every clip is tested once, and none is left to pick an epoch on")

        from finetune.clips.cross_validation import CrossValidation
        from finetune.clips.folds import held_out
        from finetune.clips.job import ClipJob, read_data
        from finetune.train.device import accelerator_for
        from finetune.video.destination import crop_of

        accelerator, again = accelerator_for(recipe.training, cpu=options.cpu), command_line(MODULE, argv)
        check_clips(recipe, accelerator.device.type)
        with accelerator.main_process_first():
            data = read_data(options.data, recipe, parse_lists(options.lists), options.class_index)
        seen = crop_of(options.data)
        job: ClipJob | CrossValidation
        if options.folds is not None:
            job = CrossValidation(recipe, data, options.out, options.folds, accelerator, smoke=options.smoke, command=again, seen=seen)
        else:
            plan = plan_clips(data, recipe.protocol, partial(held_out, data))
            plan = sampled(plan, data, recipe.smoke_clips) if options.smoke else plan
            job = ClipJob(recipe, data, plan, options.out, accelerator, command=again, seen=seen)
        job.run(resume=options.resume, overwrite=options.overwrite)

    return exit_status_of(work)


def parse_lists(values: Sequence[str] | None) -> Lists | None:
    """["train=a.txt", "val=b.txt"] or ["a.txt", "b.txt"] as read_clips takes them."""
    if values is None:
        return None
    pairs = [value.partition("=") for value in values]
    if all(equals for _, equals, _ in pairs):
        return {split: file for split, _, file in pairs}
    if any(equals and not Path(value).exists() for value, (_, equals, _) in zip(values, pairs, strict=True)):
        raise FinetuneError(f"--lists {' '.join(values)}: either every file with its split (train=FILE val=FILE), or none")
    return list(values)


if __name__ == "__main__":
    sys.exit(main())
