"""The loops of XiaoYee/emotion_classification, which training.py measures beside the recipes' own.

VGG_Finetune/train.py trains VGG-Face with 32 images a batch, VGG_GRU/train.py VGG + GRU with one clip a batch: PIL transforms, float32,
plain SGD. What they had on the disk lies in memory here, so that decoding isn't counted.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks.training_rounds import peak_mib, rounds_of, scale_of

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from finetune.config import Augment

ENDLESS = 1_000_000  # examples of an epoch: how many steps a round has is found while it runs
WORKERS = 8
SIDE = 224
IMAGES_MEAN, IMAGES_DEVIATION = 0.507395516207, 0.255128989415


class Examples(Sized, Protocol):
    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]: ...


@dataclass(frozen=True)
class Loop:
    """`batch` is the one it had; a CPU gets ours where that is smaller. `examples` takes the frames of a clip."""

    batch: int
    model: Callable[[], torch.nn.Module]
    examples: Callable[[int], Examples]
    optimizer: dict[str, Any]


def older(name: str, frames: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measures a loop on the net of the recipe `name` in this process; `frames` are those of a clip.

    float32 is what PyTorch takes for it by default: TF32 in convolutions, not in matrix products.
    """
    import torch
    from torch.nn import functional as F
    from torch.utils.data import DataLoader

    gpu = torch.cuda.is_available() and not options.cpu
    device = torch.device("cuda" if gpu else "cpu")
    scale, loop = scale_of(device, smoke=options.smoke), LOOPS[name]
    if gpu:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False
        torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    model = loop.model().to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), **loop.optimizer)
    batch = loop.batch if gpu else min(loop.batch, options.batch or scale.batch[name])
    workers = 0 if options.smoke else min(WORKERS, os.cpu_count() or 1)
    loader = DataLoader(loop.examples(frames), batch, shuffle=True, num_workers=workers, pin_memory=gpu)
    batches = iter(loader)

    def step() -> None:
        inputs, labels = (each.to(device, non_blocking=True) for each in next(batches))
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()

    seconds = statistics.median(rounds_of(step, scale, device))
    return {"batch": batch, "workers": workers, "per_s": batch / seconds, "memory_mb": peak_mib(device)}


# --- VGG-Face on images ---------------------------------------------------------------------------------------------------------------


def vgg_face() -> torch.nn.Module:
    import zoo

    return zoo.load("vgg_face", pretrained=False, num_classes=7)


class Pictures:
    """48×48 pictures: flipped, resized to 256, 224 cut out, one at a time."""

    def __init__(self, frames: int) -> None:
        from torchvision import transforms

        self.pictures = drawn(512, (48, 48))
        self.transform = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(), transforms.Resize(256), transforms.RandomCrop(224), transforms.ToTensor(),
                transforms.Normalize((IMAGES_MEAN,) * 3, (IMAGES_DEVIATION,) * 3),
            ]
        )  # fmt: skip

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.pictures[row % len(self.pictures)]), row % 7


# --- VGG + GRU on clips ---------------------------------------------------------------------------------------------------------------


def vgg_gru() -> torch.nn.Module:
    from architectures import VGGFaceRNN

    return VGGFaceRNN(num_classes=7, rnn="gru", dropout=0.8)


class PictureClips:
    """Clips half as long again as what is drawn from each: `frames` at random, in their order, every one distorted by itself."""

    def __init__(self, frames: int) -> None:
        from finetune.emotiw import PUBLISHED_AUGMENT, imagenet

        length = frames + frames // 2
        pictures = drawn(8 * length, (SIDE, SIDE), colours=3)
        self.clips = [pictures[at : at + length] for at in range(0, len(pictures), length)]
        self.frames, self.augment, self.spec = frames, PUBLISHED_AUGMENT, imagenet(SIDE, SIDE)

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        import torch
        from torchvision.transforms.functional import pil_to_tensor

        clip = self.clips[row % len(self.clips)]
        places = sorted(random.sample(range(len(clip)), self.frames))
        frames = torch.stack([pil_to_tensor(distorted(clip[at], self.augment, SIDE)) for at in places])
        return self.spec.normalised(frames.float()), row % 7


def distorted(picture: Image.Image, augment: Augment, side: int) -> Image.Image:
    """Its borders moved and resized by the nearest pixel, as Pillow resized in 2018; flipped; hue, saturation, exposure changed."""
    from PIL import Image

    def border(length: int) -> int:
        return round(length * random.uniform(-augment.jitter, augment.jitter))

    def factor(most: float) -> float:
        return math.exp(random.uniform(-math.log(most), math.log(most)))

    width, height = picture.size
    box = (border(width), border(height), width - border(width), height - border(height))
    picture = picture.crop(box).resize((side, side), Image.Resampling.NEAREST)
    if random.random() < augment.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turn = round(255 * random.uniform(-augment.hue, augment.hue))
    saturation, exposure = factor(augment.saturation), factor(augment.exposure)
    bands = picture.convert("HSV").split()
    tables = (
        [(value + turn) % 256 for value in range(256)],
        [min(255, round(value * saturation)) for value in range(256)],
        [min(255, round(value * exposure)) for value in range(256)],
    )
    return Image.merge("HSV", [band.point(table) for band, table in zip(bands, tables, strict=True)]).convert("RGB")


def drawn(count: int, size: tuple[int, int], *, colours: int = 1) -> list[Image.Image]:
    """RGB pictures of noise (height, width), of one grey or three colours."""
    import numpy as np
    from PIL import Image

    shape = (count, *size, 3) if colours == 3 else (count, *size)
    return [Image.fromarray(each).convert("RGB") for each in np.random.default_rng(0).integers(0, 256, shape, np.uint8)]


LOOPS = {
    "vgg_face": Loop(32, vgg_face, Pictures, {"lr": 0.001, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}),
    "vgg_gru": Loop(1, vgg_gru, PictureClips, {"lr": 1e-5, "momentum": 0.9, "weight_decay": 5e-5}),
}
