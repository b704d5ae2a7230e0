"""Which full runs of FER2013 there are: the lines of RESULTS.md, what each is told, and whether a run folder is one of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from finetune import renamed
from finetune.command import parser, recipe_from
from finetune.config import Augment, Training, as_json
from finetune.fer2013 import RECIPES, Recipe
from finetune.protocol import ImageProtocol
from zoo.cards import registry
from zoo.files import store


@dataclass(frozen=True)
class FullRun:
    """A line of the tables. `words`: what python -m finetune.fer2013 is given besides --data, --out and --resume."""

    name: str
    about: str
    words: str
    goal: str = ""
    cpu: bool = False


MOBILEFACENET = (
    "--recipe mobilefacenet --set training.batch_size=256 --set training.lr=0.04 --set training.backbone_lr=0.04 --set training.ema=0.998"
    " --set training.compile=true"
)
VGG = "--recipe vgg --set training.compile=true"

RUNS = (
    FullRun(
        "mobilefacenet-protocol-seed", "Caffe's MobileFaceNet, best epoch on the reported images",
        "--recipe mobilefacenet --protocol best-on-reported --set training.compile=true",
        goal="≥ 71.64 %",
    ),
    FullRun("mobilefacenet-0", "Caffe's MobileFaceNet, seed 0", f"{MOBILEFACENET} --seed 0"),
    FullRun("mobilefacenet-1", "Caffe's MobileFaceNet, seed 1", f"{MOBILEFACENET} --seed 1"),
    FullRun(
        "mobilefacenet-30-epochs", "Caffe's MobileFaceNet, 30 epochs", "--recipe mobilefacenet --set training.compile=true --epochs 30"
    ),
    FullRun(  # mixup would hold a mixture's embedding against one class's centre
        "mobilefacenet-center", "Caffe's MobileFaceNet, center loss, no mixup",
        "--recipe mobilefacenet --set training.center_loss=0.003 --set training.mixup=0",
    ),
    FullRun("vgg-0", "VGG of 7 million weights, seed 0", f"{VGG} --seed 0", goal="≥ 73.0 %"),
    FullRun("vgg-1", "VGG of 7 million weights, seed 1", f"{VGG} --seed 1", goal="≥ 73.0 %"),
    FullRun("vgg-2", "VGG of 7 million weights, seed 2", f"{VGG} --seed 2", goal="≥ 73.0 %"),
    FullRun("vgg-decay", "VGG of 7 million weights, half the weight decay", f"{VGG} --set training.weight_decay=5e-4"),
    FullRun(
        "vgg-mixup", "VGG of 7 million weights, half the weight decay, mixup, 90 epochs",
        f"{VGG} --set training.weight_decay=5e-4 --set training.mixup=0.2 --set training.clean_epochs=8 --epochs 90",
    ),
    FullRun("vgg-wide", "VGG of 16 million weights", f"{VGG} --set arguments.widths=[96,192,480,960]", goal="≥ 73.0 %"),
    FullRun("scratch-75-epochs", "ResNet-18 from nothing, 75 epochs", "--recipe scratch --set training.compile=true --epochs 75"),
    FullRun("scratch-0", "ResNet-18 from nothing, seed 0", "--recipe scratch --seed 0"),
    FullRun("scratch-1", "ResNet-18 from nothing, seed 1", "--recipe scratch --seed 1"),
    FullRun("scratch-2", "ResNet-18 from nothing, seed 2", "--recipe scratch --seed 2"),
    FullRun("scratch-64", "ResNet-18 from nothing, at 64×64", "--recipe scratch --set input.size=[64,64]"),
    FullRun("face-resnet", "face ResNet, from nothing", "--recipe face_resnet"),
    FullRun("face-resnet-center-loss", "face ResNet, from the center-loss face net", "--recipe face_resnet --init center_loss_face"),
    FullRun("vgg-face", "VGG-Face with its own input", "--recipe vgg_face"),
    FullRun("seed", "VGG-Face as in XiaoYee/emotion_classification, number by number", "--recipe published", goal="71.64 %"),
    FullRun(
        "mobilefacenet-frozen-cpu", "Caffe's MobileFaceNet, convolutions frozen, 112×112, CPU",
        "--recipe mobilefacenet --cpu --set training.freeze=cnn --set views=4 --set training.precision=bf16 --set training.lr=0.005"
        " --set training.mixup=0 --epochs 30",
        cpu=True,
    ),
    FullRun(
        "mobilefacenet-48-cpu", "Caffe's MobileFaceNet, the whole net, 48×48, CPU",
        "--recipe mobilefacenet --cpu --set input.size=[48,48] --set training.mixup=0 --set training.warmup_epochs=1"
        " --set training.ema=0.99 --set augment.erasing=0 --epochs 10",
        cpu=True,
    ),
    FullRun(
        "small-vgg-0", "small VGG, seed 0, CPU", "--recipe small_vgg --cpu --set training.precision=bf16 --seed 0",
        goal="≥ 69.0 %", cpu=True,
    ),
    FullRun(
        "small-vgg-1", "small VGG, seed 1, CPU", "--recipe small_vgg --cpu --seed 1",
        goal="≥ 69.0 %", cpu=True,
    ),
    FullRun(
        "small-vgg-best-on-reported", "small VGG, the published protocol, CPU",
        "--recipe small_vgg --cpu --protocol best-on-reported",
        goal="beside 71.64 %", cpu=True,
    ),
    FullRun(
        "mobilefacenet-80-cpu", "Caffe's MobileFaceNet, the whole net, 56×56 and then 80×80, CPU",
        "--recipe mobilefacenet --cpu --set input.size=[80,80] --set training.small_size=56 --set training.small_epochs=20"
        " --set training.precision=bf16 --set training.mixup=0 --epochs 25",
        cpu=True,
    ),
)  # fmt: skip

# Chosen before their last members were run: none is picked by what it reaches on private. Eight members at most.
ENSEMBLES: dict[str, tuple[str, ...]] = {
    "5 × VGG (decay, three seeds, wide), 2 × MobileFaceNet": (
        "vgg-decay", "vgg-0", "vgg-1", "vgg-2", "vgg-wide", "mobilefacenet-0", "mobilefacenet-1",
    ),
    "3 × ResNet-18": ("scratch-0", "scratch-1", "scratch-2"),
    "2 × small VGG": ("small-vgg-0", "small-vgg-1"),
    "the CPU's nets: 2 × small VGG, MobileFaceNet at 80×80": ("small-vgg-0", "small-vgg-1", "mobilefacenet-80-cpu"),
}  # fmt: skip

SEEDS: dict[str, tuple[str, ...]] = {
    "VGG of 7 million weights": ("vgg-0", "vgg-1", "vgg-2"),
    "Caffe's MobileFaceNet": ("mobilefacenet-0", "mobilefacenet-1"),
    "ResNet-18 from nothing": ("scratch-0", "scratch-1", "scratch-2"),
    "small VGG, CPU": ("small-vgg-0", "small-vgg-1"),
}

# (result on private in %, system, protocol). Selection as their published code does it.
REPORTED = (
    ("71.64", "XiaoYee/emotion_classification: VGG-Face", "trains on train and public, best epoch on private, one view"),
    ("73.11", "WuJie1010/Facial-Expression-Recognition.Pytorch: VGG-19", "best epoch on private, ten-crop"),
    ("73.28", "usef-kh/fer (Khaireddin & Chen 2021): VGG", "repository: best epoch on private, ten-crop"),
    ("73.70", "LetheSec/Fer2013-Facial-Emotion-Recognition-Pytorch: ResNet-18", "best epoch on private, ten-crop"),
    ("74.14", "Pham et al. 2020, ResMaskingNet at 224", "ImageNet weights, best epoch on public, ten random views"),
    ("76.12", "EmoNeXt 2023 (XL) at 224", "ImageNet-22k weights, best epoch on public, ten-crop"),
    ("75.2", "Pramerdorfer & Kampel 2016", "ensemble of 8 nets from nothing"),
    ("76.82", "Pham et al. 2020", "ensemble of 7 nets at 224, several views"),
)


def words_of(run: FullRun, smoke: bool) -> list[str]:
    """The recipe's words; --smoke takes no weights where the zoo has none, so that every line can be tried."""
    words = shlex.split(run.words)
    if smoke:
        words += ["--smoke", "--epochs", "1"]
        if not has_weights(recipe_of(words).init):
            words += ["--init", "none"]
    return words


def has_weights(init: str) -> bool:
    if init == "none":
        return True
    card = registry.card_of(init)
    return all(store.cached(store.folder(card), file) for file in card.files if file.needed)


def recipe_of(words: Sequence[str]) -> Recipe:
    """What the words ask for. Raises FinetuneError for a field that there is not."""
    command = parser("finetune.fer2013", "", RECIPES, get_args(ImageProtocol))
    options = command.parse_args([*words, "--data", "", "--out", ""])
    return recipe_from(RECIPES[options.recipe], options)


def differences(folder: Path, words: Sequence[str]) -> str:
    """In which settings the folder's run is not what the words ask for; "" where it is."""
    from finetune.runs.folder import compared
    from finetune.runs.metrics import read_json

    found = renamed.config(read_json(folder / "config.json"))
    if found.get("votes"):
        return "it was trained on FER+'s votes"
    wanted = json.loads(json.dumps(as_json(recipe_of(words))))
    free = {"name", "about", "source", "smoke", "smoke_images", "input.source"}  # change nothing about a whole run
    added = {  # a field that a run is older than: at its default, it leaves things as they were
        f"{part}.{name}"
        for part, defaults in {"training": as_json(Training()), "augment": as_json(Augment())}.items()
        for name, value in defaults.items()
        if name not in found["config"][part] and wanted[part][name] == value
    }
    if wanted["training"]["freeze"] == "cnn":
        free.add("training.backbone_lr")  # then no parameter has this rate
    unequal = [each for each in compared(found["config"], wanted) if not {each[0], each[0].partition(".")[0]} & (free | added)]
    return "; ".join(f"{name} is {old!r}, not {new!r}" for name, old, new in unequal)
