"""Images as a recipe's task: all of them on the device as uint8, augmented there a batch at a time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from finetune.config import Augment
from finetune.images.data import Expressions
from finetune.runs.metrics import mean_log_probability
from finetune.train.augment import augmented, draw, shrunk, size_of, ten_crop, view
from finetune.train.device import sent
from finetune.train.frozen import Embed
from finetune.train.seeds import generator
from finetune.train.task import Predict, predictor
from zoo import Preprocess

EVALUATED = 256  # images a batch where no gradient is kept


class ImageTask:
    """`splits` names the rows of `data` that are trained on ("train") and that are looked at; a split may have any name.

    `targets` (n,) or (n, K) stands in for the training rows' labels. The images are moved to the device once: 2,304 bytes each for
    FER2013's 48×48.
    """

    def __init__(
        self,
        data: Expressions,
        splits: Mapping[str, Tensor],
        spec: Preprocess,
        augment: Augment,
        device: torch.device,
        targets: Tensor | None = None,
    ) -> None:
        self.classes = data.classes
        self.spec, self.augment, self.device = spec, augment, device
        self.splits = dict(splits)
        self.all_labels = data.labels
        self.targets = data.labels[self.splits["train"]] if targets is None else targets
        self.images = shrunk(data.images, size_of(spec)).to(device)

    def labels(self, split: str) -> Tensor:
        return self.all_labels[self.splits[split]]

    def draw(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (draw(len(rows), generator),)

    def inputs(self, rows: Tensor, *draws: Tensor) -> tuple[Tensor, ...]:
        return (augmented(self.of("train", rows), draws[0], self.augment, self.spec),)

    def logits(self, predict: Predict, split: str, cut: tuple[float, float, float, bool] | None = None) -> Tensor:
        """(n, K) of one view of the split's images: what the spec shows unless `cut` says otherwise (augment.view)."""
        return predict(lambda rows: (view(self.of(split, rows), self.spec, cut),), len(self.splits[split]), EVALUATED)

    def ten_crop(self, predict: Predict, split: str, part: float) -> Tensor:
        """(n, K) the log of the mean probability over ten views."""
        return mean_log_probability([self.logits(predict, split, cut) for cut in ten_crop(part)])

    def of(self, split: str, rows: Tensor) -> Tensor:
        """The uint8 images at these positions of a split, on the device."""
        return self.images[sent(self.splits[split][rows], self.device)]


class FeatureTask:
    """An ImageTask whose net is frozen below `classify`: what `embed` says of every image is computed once, in several views.

    View 0 is the whole image, the others are augmented; each epoch draws one for each image.
    """

    def __init__(self, images: ImageTask, model: nn.Module, views: int, seed: int, accelerator: Accelerator, channels_last: bool) -> None:
        self.images, self.classes, self.targets = images, images.classes, images.targets
        predict = predictor(Embed(model), accelerator, channels_last)
        count = len(images.targets)
        found = [images.logits(predict, "train")]
        for number in range(1, views):
            draws = draw(count, generator(seed, number))
            found.append(
                predict(
                    lambda rows, draws=draws: (augmented(images.of("train", rows), draws[rows], images.augment, images.spec),),  # type: ignore[misc]
                    count,
                    EVALUATED,
                )
            )
        self.features = torch.stack(found).to(images.device)
        self.looked_at = {split: images.logits(predict, split) for split in images.splits if split != "train"}

    def labels(self, split: str) -> Tensor:
        return self.images.labels(split)

    def draw(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.randint(len(self.features), (len(rows),), generator=generator),)

    def inputs(self, rows: Tensor, *draws: Tensor) -> tuple[Tensor, ...]:
        device = self.features.device
        return (self.features[sent(draws[0], device), sent(rows, device)],)

    def logits(self, predict: Predict, split: str) -> Tensor:
        features = self.looked_at[split]
        return predict(lambda rows: (features[rows].to(self.images.device),), len(features), 4096)
