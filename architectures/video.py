"""Clips of faces: a CNN sees each frame, a recurrent net reads the frames in order, the mean over time is classified.

VGGFaceRNN and FaceResNetRNN are the nets of the EmotiW 2018 recipes of XiaoYee/emotion_classification (VGG_GRU/VGG_gru.py,
Resnet_GRU/resnet_gru.py), for batches: clips (N, T, C, H, W) of different lengths, padded at the end. Frames beyond a clip's
length are never looked at: they don't enter the CNN (so not BatchNorm's statistics either) nor the mean over time.
FaceClipNet does the same with any face net of this package.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from architectures._blocks import Chain
from architectures.contract import Encoder, nets
from architectures.face_resnet import FaceResNet, FaceResNetTrunk
from architectures.vgg_face import VGGFace

RNN = Literal["gru", "lstm", "lstm_cell"]
Pooling = Literal["mean", "attention"]
Lengths = Tensor | Sequence[int] | None


class Recurrence(nn.Module):
    """One recurrent layer, forward in time: (N, T, inputs) -> its outputs (N, T, hidden_size).

    "lstm_cell" steps an LSTMCell frame by frame: what "lstm" computes, from parameters of other names.
    """

    def __init__(self, rnn: RNN, inputs: int, hidden_size: int) -> None:
        super().__init__()
        if rnn not in get_args(RNN):
            raise ValueError(f"rnn is {rnn!r}; it is one of {', '.join(map(repr, get_args(RNN)))}")
        self.net: nn.GRU | nn.LSTM | nn.LSTMCell
        if rnn == "gru":
            self.net = nn.GRU(inputs, hidden_size, batch_first=True)
        elif rnn == "lstm":
            self.net = nn.LSTM(inputs, hidden_size, batch_first=True)
        else:
            self.net = nn.LSTMCell(inputs, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(self.net, nn.LSTMCell):
            result: Tensor = self.net(x)[0]
            return result
        state, outputs = None, []
        for frame in x.unbind(1):
            state = self.net(frame, state)
            outputs.append(state[0])
        return torch.stack(outputs, 1)


class OverTime(nn.Module):
    """(N, T, F) and a mask (N, T), or None for all frames -> (N, F): the mean over the frames, or their sum with learnt weights.

    "attention" gives each frame a softmax weight from a Linear on its own features: the self-attention weights of Meng et al.,
    Frame Attention Networks, ICIP 2019 (section 2.2), without the second, relational step. It begins as the mean.
    """

    def __init__(self, pooling: Pooling, features: int) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling is {pooling!r}; it is one of {', '.join(map(repr, get_args(Pooling)))}")
        self.weigh: nn.Linear | None = None
        if pooling == "attention":
            self.weigh = nn.Linear(features, 1)
            nn.init.zeros_(self.weigh.weight)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.weigh is None:
            return mean_over_time(x, mask)
        weights = self.weigh(x)[..., 0].float()
        weights = weights if mask is None else weights.masked_fill(~mask, -torch.inf)
        result: Tensor = (x * weights.softmax(1)[..., None].to(x.dtype)).sum(1)
        return result


class ClipNet(nn.Module):
    """What the nets below share. `model(clips, lengths)` is classify() of embed() of the frames.

    clips (N, T, 3, H, W), colours and scale as the CNN was trained; lengths (N,), whole numbers from 1 to T, or None where
    every clip has T frames. Returns logits (N, num_classes); raises ValueError for other shapes or lengths. A window is one
    clip: the recipes average the logits of a video's windows. `cnn` is all that embed() runs, so that it can be frozen and its
    output computed once. Lengths are best None, a list or a tensor on the CPU, whatever device the clips are on: those on a GPU
    have to be waited for in every forward pass.
    """

    CLASSIFIER: ClassVar[str] = "classifier"
    ABOVE_EMBEDDING: ClassVar[tuple[str, ...]]
    cnn: nn.Module

    def embed(self, frames: Tensor) -> Tensor:
        """What is kept of each frame: (M, 3, H, W) -> (M, F)."""
        result: Tensor = self.cnn(frames)
        return result

    def classify(self, features: Tensor, lengths: Lengths = None) -> Tensor:
        """Logits (N, num_classes) from what embed() returns for the clips' frames: (N, T, F)."""
        raise NotImplementedError

    def forward(self, clips: Tensor, lengths: Lengths = None) -> Tensor:
        if clips.dim() != 5:
            raise ValueError(f"clips have the shape (N, T, C, H, W), these have {tuple(clips.shape)}")
        real = RealFrames(clips, lengths)
        return self.classify(real.to_clips(self.embed(real.of(clips))), lengths)


class VGGFaceRNN(ClipNet):
    """VGG-Face up to fc6 (after its ReLU, 4096), a recurrent layer, dropout, the mean over time, a Linear.

    Clips (N, T, 3, 224, 224); see ClipNet. The CNN's weights are a copy of `cnn`'s, or drawn where it is None.
    """

    ABOVE_EMBEDDING: ClassVar[tuple[str, ...]] = ("rnn", "dropout", "over_time", "classifier")

    def __init__(
        self,
        num_classes: int = 7,
        rnn: RNN = "gru",
        *,
        hidden_size: int = 128,
        dropout: float = 0.8,
        pooling: Pooling = "mean",
        cnn: VGGFace | None = None,
    ) -> None:
        super().__init__()
        # Without the last layer, drop6: in the recipes the only dropout is the one after the recurrent layer.
        self.cnn = VGGFace(1).features("fc6")[:-1] if cnn is None else copy.deepcopy(cnn.features("fc6")[:-1])
        self.rnn = Recurrence(rnn, 4096, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.over_time = OverTime(pooling, hidden_size)
        self.classifier = nn.Linear(hidden_size, num_classes)

    def classify(self, features: Tensor, lengths: Lengths = None) -> Tensor:
        real = RealFrames(features, lengths)
        result: Tensor = self.classifier(self.over_time(self.dropout(self.rnn(features)), real.mask))
        return result


class FaceResNetRNN(ClipNet):
    """The face ResNet's three taps, each through a Linear to 512 and its own recurrent layer; the three are summed.

    Clips (N, T, 3, 112, 96); see ClipNet. The weights of the convolutions and of the top tap's Linear are a copy of `cnn`'s, or
    drawn where it is None. `conv_dropout` is FaceResNet's, `dropout` comes after each recurrent layer.
    """

    TAPS: ClassVar[tuple[int, int, int]] = (64 * 54 * 46, 256 * 12 * 10, 512 * 5 * 4)
    ABOVE_EMBEDDING: ClassVar[tuple[str, ...]] = (
        "fc_pool1b", "fc_pool3", "fc_top", "rnn_pool1b", "rnn_pool3", "rnn_top", "dropout", "over_time", "classifier",
    )  # fmt: skip

    def __init__(
        self,
        num_classes: int = 7,
        rnn: RNN = "gru",
        *,
        hidden_size: int = 128,
        dropout: float = 0.8,
        conv_dropout: float = 0.4,
        pooling: Pooling = "mean",
        cnn: FaceResNet | None = None,
    ) -> None:
        super().__init__()
        self.cnn: FaceResNetTrunk = FaceResNetTrunk(conv_dropout)
        pool1b, pool3, top = self.TAPS
        self.fc_pool1b = nn.Linear(pool1b, 512)
        self.fc_pool3 = nn.Linear(pool3, 512)
        self.fc_top = nn.Linear(top, 512)
        self.rnn_pool1b = Recurrence(rnn, 512, hidden_size)
        self.rnn_pool3 = Recurrence(rnn, 512, hidden_size)
        self.rnn_top = Recurrence(rnn, 512, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.over_time = OverTime(pooling, hidden_size)
        self.classifier = nn.Linear(hidden_size, num_classes)
        if cnn is not None:
            weights = cnn.state_dict()
            self.cnn.load_state_dict({name: weights[name] for name in self.cnn.state_dict()})
            self.fc_top.load_state_dict(cnn.fc5_new.state_dict())

    def embed(self, frames: Tensor) -> Tensor:
        """The three feature maps, one after the other: (M, 3, 112, 96) -> (M, 199936)."""
        return torch.cat([tap.flatten(1) for tap in self.cnn.taps(frames)], 1)

    def classify(self, features: Tensor, lengths: Lengths = None) -> Tensor:
        real = RealFrames(features, lengths)
        pool1b, pool3, top = real.of(features).split(self.TAPS, 1)
        top = self.rnn_top(real.to_clips(self.fc_top(top)))
        pool1b = self.rnn_pool1b(real.to_clips(self.fc_pool1b(pool1b)))
        pool3 = self.rnn_pool3(real.to_clips(self.fc_pool3(pool3)))
        fused = self.dropout(top) + self.dropout(pool1b) + self.dropout(pool3)
        result: Tensor = self.classifier(self.over_time(fused, real.mask))
        return result


class FaceClipNet(ClipNet):
    """Any face net of this package on each frame, then as the two above: recurrent layers, dropout, over time, a Linear.

    encoder     the name of a class of this package, built with the keyword arguments `arguments`. Its embed() is read, or where it
                has none its output, or the blob `blob` of a net that is a chain of layers; feature maps are averaged over the image.
                "caffe": a converted net, which `cnn` has to be, and whose blob `blob` with `width` features is read
    norm        BatchNorm on the features, whose scales differ from tap to tap
    rnn         one of Recurrence's, or "none": the features themselves
    branches    the features are split into parts of these widths, each with its own recurrent layer; the parts are summed.
                () is one branch of all features
    projection  a Linear to this width before each recurrent layer; 0: none
    pooling     over time: "mean", or "attention" (OverTime)

    See ClipNet for what goes in and comes out; H and W are the encoder's. The encoder's weights are a copy of `cnn`'s, or drawn
    where it is None. Raises ValueError for a name, a blob or widths that don't fit.
    """

    ABOVE_EMBEDDING: ClassVar[tuple[str, ...]] = ("norm", "projections", "rnns", "dropout", "over_time", "classifier")

    def __init__(
        self,
        num_classes: int = 7,
        encoder: str = "MobileFaceExpression",
        arguments: Mapping[str, Any] | None = None,
        *,
        blob: str | None = None,
        width: int | None = None,
        norm: bool = False,
        rnn: RNN | Literal["none"] = "gru",
        branches: Sequence[int] = (),
        projection: int = 0,
        hidden_size: int = 128,
        dropout: float = 0.8,
        pooling: Pooling = "mean",
        cnn: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.cnn: nn.Module
        if encoder == "caffe":
            if cnn is None or blob is None or width is None:
                raise ValueError("encoder 'caffe' is a converted net: it takes cnn, blob and width")
            self.cnn = copy.deepcopy(cnn)
            self.cnn.outputs = (blob,)  # type: ignore[assignment]
        else:
            kind = encoder_class(encoder)
            if not isinstance(cnn, (kind, type(None))):
                raise ValueError(f"cnn is a {type(cnn).__name__}; encoder is {encoder!r}")
            self.cnn, width = below(kind(**(arguments or {})) if cnn is None else copy.deepcopy(cnn), blob)
        self.widths = tuple(branches) or (width,)
        if sum(self.widths) != width or min(self.widths) < 1:
            raise ValueError(f"branches are {', '.join(map(str, branches))} wide; {encoder} has {width} features in all")
        self.norm = nn.BatchNorm1d(width) if norm else nn.Identity()
        inner = [projection or part for part in self.widths]
        self.projections = nn.ModuleList(nn.Linear(part, projection) if projection else nn.Identity() for part in self.widths)
        self.rnns = nn.ModuleList(nn.Identity() if rnn == "none" else Recurrence(rnn, part, hidden_size) for part in inner)
        self.dropout = nn.Dropout(dropout)
        top = inner[0] if rnn == "none" else hidden_size
        if rnn == "none" and len(set(inner)) > 1:
            raise ValueError(f"branches of widths {', '.join(map(str, inner))} cannot be summed; give a projection")
        self.over_time = OverTime(pooling, top)
        self.classifier = nn.Linear(top, num_classes)

    def embed(self, frames: Tensor) -> Tensor:
        """(M, 3, H, W) -> (M, F)."""
        features = self.cnn.embed(frames) if isinstance(self.cnn, Encoder) else self.cnn(frames)
        return features.mean((2, 3)) if features.dim() == 4 else features

    def classify(self, features: Tensor, lengths: Lengths = None) -> Tensor:
        real = RealFrames(features, lengths)
        parts = self.norm(real.of(features)).split(self.widths, 1)
        branches = zip(parts, self.projections, self.rnns, strict=True)
        outputs = [self.dropout(rnn(real.to_clips(projection(part)))) for part, projection, rnn in branches]
        result: Tensor = self.classifier(self.over_time(reduce(torch.add, outputs), real.mask))
        return result


def encoder_class(name: str) -> type[nn.Module]:
    """A net of this package by its name. Raises ValueError for any other name."""
    kind = nets().get(name)
    if kind is None or issubclass(kind, ClipNet):
        raise ValueError(f"encoder is {name!r}; it is the name of a net for images in the package architectures")
    return kind


def below(net: nn.Module, blob: str | None) -> tuple[nn.Module, int]:
    """The part of an image net that a clip net reads, without the layers above it, and how many features it gives."""
    if blob is not None:
        if not isinstance(net, Chain):
            raise ValueError(f"blob is {blob!r}, but {type(net).__name__} is no chain of layers; leave it out")
        net = net.features(blob)
        while isinstance(list(net.children())[-1], nn.Dropout):
            net = net[:-1]
    elif isinstance(net, Encoder):
        last = net.get_submodule(net.CLASSIFIER)
        assert isinstance(last, nn.Linear)
        for name in net.ABOVE_EMBEDDING:  # what embed() doesn't run would never get a gradient
            net.set_submodule(name, nn.Identity())
        return net, last.in_features
    sizes = [getattr(module, name) for module in net.modules() for name in ("out_features", "out_channels") if hasattr(module, name)]
    if not sizes:
        raise ValueError(f"{type(net).__name__} has no layer whose width is known")
    return net, int(sizes[-1])


class RealFrames:
    """Which frames of (N, T, ...) are real, those before each clip's length, found without waiting for the clips' device.

    mask: (N, T) boolean on that device, or None where every frame is real: then nothing is taken out and put back.
    Raises ValueError for lengths that are not N whole numbers from 1 to T.
    """

    def __init__(self, clips: Tensor, lengths: Lengths) -> None:
        self.shape = batch, frames = clips.shape[:2]
        self.mask: Tensor | None = None
        if lengths is None:
            return
        lengths = torch.as_tensor(lengths, device="cpu")
        if lengths.shape != (batch,) or lengths.is_floating_point() or not ((lengths >= 1) & (lengths <= frames)).all():
            raise ValueError(f"lengths are {batch} whole numbers from 1 to {frames}, these are {lengths.tolist()}")
        tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if (lengths == frames).all() and not tracing:  # what is traced will meet other lengths
            return
        real = torch.arange(frames, device="cpu") < lengths[:, None]
        positions = real.flatten().nonzero()[:, 0]
        # A copy from memory that is not pinned would last until a GPU has done all its work.
        positions = positions.pin_memory() if clips.is_cuda else positions
        self.positions = positions.to(clips.device, non_blocking=True)
        self.mask = clips.new_zeros(batch * frames, dtype=torch.bool).index_fill(0, self.positions, 1).view(batch, frames)

    def of(self, clips: Tensor) -> Tensor:
        """The real frames of (N, T, ...), clip after clip: (sum of lengths, ...)."""
        frames = clips.flatten(0, 1)
        return frames if self.mask is None else frames.index_select(0, self.positions)

    def to_clips(self, features: Tensor) -> Tensor:
        """Features of the real frames (sum of lengths, F), as clips do them: (N, T, F), zeros for padding."""
        if self.mask is not None:
            zeros = features.new_zeros(self.mask.numel(), features.shape[1])
            features = zeros.index_copy(0, self.positions, features)
        return features.view(*self.shape, features.shape[1])


def mean_over_time(x: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of (N, T, F) over the frames that the mask (N, T) has, or over all: (N, F)."""
    if mask is None:
        return x.sum(1) / x.shape[1]
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
