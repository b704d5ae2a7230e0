"""Clips as a recipe's task: all frames as uint8, those of a batch drawn and augmented on the device, windows for evaluation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from architectures.contract import convolutions
from finetune.clips.data import Clips
from finetune.clips.sampling import draw_frames, draw_segments, windows
from finetune.config import Augment, Sampling, as_json
from finetune.tensor_cache import DAMAGED, load_tensors, store_tensors
from finetune.train.augment import augmented, draw, shrunk, size_of, view
from finetune.train.device import sent
from finetune.train.frozen import Embed
from finetune.train.seeds import generator
from finetune.train.task import Predict, predictor
from zoo import Preprocess
from zoo.disk import home
from zoo.errors import CacheError

EVALUATED = 256  # frames a batch where no gradient is kept
MOST_CACHED = 4 << 30  # bytes of features that are kept on the disk
SMALL = 0.5  # part of the GPU's free memory that the frames may take


class ClipTask:
    """`splits` names the clips of `data` that are trained on ("train") and that are looked at; a split may have any name.

    inputs() and the windows give what architectures.video's nets take: clips (N, T, 3, H, W) float32, and with padding "masked" their
    lengths (N,), on the CPU, where those nets read them without waiting for a GPU; T is then the longest of the batch. With "count",
    T is `sampling.frames`, every frame counts, and there are no lengths.
    """

    def __init__(
        self, data: Clips, splits: Mapping[str, Tensor], spec: Preprocess, augment: Augment, sampling: Sampling, device: torch.device
    ) -> None:
        self.classes = data.classes
        self.data, self.spec, self.augment, self.sampling, self.device = data, spec, augment, sampling, device
        self.splits = dict(splits)
        self.targets = data.labels[self.splits["train"]]
        self.lengths = data.lengths()
        self.frames = shrunk(data.frames, size_of(spec))
        if device.type != "cuda" or self.frames.nbytes < SMALL * torch.cuda.mem_get_info(device)[0]:
            self.frames = self.frames.to(device)

    def labels(self, split: str) -> Tensor:
        return self.data.labels[self.splits[split]]

    def draw(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Frames (n, T) as positions in the clip, how many are no repetition (n,), augmentation draws for each frame or the clip."""
        places, valid = self.drawn(rows, generator)
        count = places.shape[1] if self.sampling.augment == "frame" else 1
        return places, valid, draw(len(rows) * count, generator).view(len(rows), count, -1)

    def inputs(self, rows: Tensor, *draws: Tensor) -> tuple[Tensor, ...]:
        places, valid, draws_of = draws
        clips, *lengths = self.cut(self.starts("train", rows) + places, valid)
        batch, count = clips.shape
        each = draws_of[:, :count].expand(batch, count, -1).flatten(0, 1)
        frames = augmented(self.at(clips.flatten()), each, self.augment, self.spec)
        return frames.unflatten(0, (batch, count)), *lengths

    def logits(self, predict: Predict, split: str) -> Tensor:
        """(n, K): the mean over the windows of each clip."""

        def inputs(clips: Tensor, *lengths: Tensor) -> tuple[Tensor, ...]:
            frames = view(self.at(clips.flatten()), self.spec)
            return frames.unflatten(0, clips.shape), *lengths

        return self.over_windows(predict, split, inputs, max(1, EVALUATED // self.sampling.frames))

    def drawn(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The frames of these training clips, as draw_frames() gives them."""
        how = draw_segments if self.sampling.draw == "segments" else draw_frames
        return how(self.lengths[self.splits["train"][rows]], self.sampling.frames, generator)

    def starts(self, split: str, rows: Tensor) -> Tensor:
        """(n, 1): where these clips of a split begin among all frames."""
        return self.data.offsets[self.splits[split][rows], None]

    def cut(self, frames: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        """(n, T) frames, and (n,) lengths where the padding is masked."""
        if self.sampling.padding == "masked":
            return frames[:, : int(valid.max())], valid
        return (frames,)

    def over_windows(self, predict: Predict, split: str, inputs: Callable[..., tuple[Tensor, ...]], batch_size: int) -> Tensor:
        """(n, K) of a split: `inputs` of what cut() gives, (n, T) frames among all, is what the net takes."""
        lengths, starts = self.lengths[self.splits[split]].tolist(), self.data.offsets[self.splits[split]]
        sampling = self.sampling
        cuts = [windows(length, sampling.frames, sampling.stride, tail=sampling.tail) for length in lengths]
        counts = torch.tensor([len(places) for places, _ in cuts])
        places = torch.cat([start + places for start, (places, _) in zip(starts, cuts, strict=True)])
        valid = torch.cat([valid for _, valid in cuts])
        of_windows = predict(lambda rows: inputs(*self.cut(places[rows], valid[rows])), len(places), batch_size)
        sums = of_windows.new_zeros(len(counts), of_windows.shape[1])
        sums.index_add_(0, torch.arange(len(counts)).repeat_interleave(counts), of_windows)
        return sums / counts[:, None]

    def at(self, frames: Tensor) -> Tensor:
        """The uint8 frames at these positions, on the device."""
        return sent(self.frames[sent(frames, self.frames.device)], self.device)


class ClipFeatureTask:
    """A ClipTask whose net is frozen below `classify`: what `embed` says of every frame is computed once, in several views.

    View 0 is the whole frame, the others are augmented; each epoch draws one for each frame or clip, as the sampling says. The
    features lie in the cache under what they depend on: <home>/features/<sha256>.safetensors. They are those of all clips and
    the same for every seed, so that folds, seeds and recipes share them.
    """

    def __init__(self, clips: ClipTask, model: nn.Module, views: int, accelerator: Accelerator, channels_last: bool) -> None:
        self.clips, self.classes, self.targets = clips, clips.classes, clips.targets
        name = hashlib.sha256(json.dumps(about_features(clips, model, views, accelerator.mixed_precision)).encode()).hexdigest()
        place = home() / "features" / f"{name}.safetensors"
        features = None
        with suppress(*DAMAGED):
            features = load_tensors(place, "features")[0]["features"]
        known = accelerator.reduce(torch.tensor(float(features is not None), device=accelerator.device), "sum")
        if features is None or known < accelerator.num_processes:
            features = embedded(clips, predictor(Embed(model), accelerator, channels_last), views)
            if accelerator.is_main_process and features.nbytes <= MOST_CACHED:
                with suppress(CacheError):
                    store_tensors({"features": features}, {}, place, "features")
        self.features = features.to(clips.device)  # (views, F, D)

    def labels(self, split: str) -> Tensor:
        return self.clips.labels(split)

    def draw(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        places, valid = self.clips.drawn(rows, generator)
        shape = (len(rows), places.shape[1] if self.clips.sampling.augment == "frame" else 1)
        return places, valid, torch.randint(len(self.features), shape, generator=generator)

    def inputs(self, rows: Tensor, *draws: Tensor) -> tuple[Tensor, ...]:
        places, valid, views = draws
        frames, *lengths = self.clips.cut(self.clips.starts("train", rows) + places, valid)
        return self.of(views[:, : frames.shape[1]].expand_as(frames), frames), *lengths

    def logits(self, predict: Predict, split: str) -> Tensor:
        def inputs(frames: Tensor, *lengths: Tensor) -> tuple[Tensor, ...]:
            return self.of(torch.zeros_like(frames), frames), *lengths

        return self.clips.over_windows(predict, split, inputs, 1024)

    def of(self, views: Tensor, frames: Tensor) -> Tensor:
        """(n, T, D): the features of these frames in these views."""
        device = self.features.device
        return self.features[sent(views, device), sent(frames, device)]


def about_features(clips: ClipTask, model: nn.Module, views: int, precision: str) -> list[object]:
    """All that the features depend on, as JSON values."""
    weights = hashlib.sha256()
    for name, value in model.get_submodule("cnn").state_dict().items():
        weights.update(name.encode() + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    spec = {name: value for name, value in asdict(clips.spec).items() if name != "source"}
    net = f"{type(model).__name__} {convolutions(model)!r}"  # its printed form has strides, taps and the like
    augment = [as_json(clips.augment), clips.sampling.augment] if views > 1 else None
    frames = [clips.data.sha256, clips.data.ids, list(clips.frames.shape)]
    return [2, precision, *frames, weights.hexdigest(), net, as_json(spec), views, augment]


def embedded(clips: ClipTask, predict: Predict, views: int) -> Tensor:
    """(views, F, D) on the CPU: the features of all frames."""
    count = len(clips.frames)
    found = [predict(lambda rows: (view(clips.at(rows), clips.spec),), count, EVALUATED)]
    clip_of = torch.arange(len(clips.lengths)).repeat_interleave(clips.lengths)
    for number in range(1, views):
        draws = draw(count if clips.sampling.augment == "frame" else len(clips.lengths), generator(number))
        each = draws if clips.sampling.augment == "frame" else draws[clip_of]
        found.append(
            predict(
                lambda rows, each=each: (augmented(clips.at(rows), each[rows], clips.augment, clips.spec),),  # type: ignore[misc]
                count,
                EVALUATED,
            )
        )
    return torch.stack(found)
