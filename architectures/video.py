"""Clips of faces: a CNN sees each frame, a recurrent net reads the frames in order, the mean over time is classified.

The nets of the EmotiW 2018 recipes of XiaoYee/emotion_classification (VGG_GRU/VGG_gru.py, Resnet_GRU/resnet_gru.py), for
batches: clips (N, T, C, H, W) of different lengths, padded at the end. Frames beyond a clip's length are never looked
at: they don't enter the CNN (so not BatchNorm's statistics either) nor the mean over time.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from architectures.face_resnet import FaceResNet, FaceResNetTrunk
from architectures.vgg_face import VGGFace

RNN = Literal["gru", "lstm", "lstm_cell"]


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
            return self.net(x)[0]
        state, outputs = None, []
        for frame in x.unbind(1):
            state = self.net(frame, state)
            outputs.append(state[0])
        return torch.stack(outputs, 1)


class VGGFaceRNN(nn.Module):
    """VGG-Face up to fc6 (after its ReLU, 4096), a recurrent layer, dropout, the mean over time, a Linear.

    `model(clips, lengths)`: clips (N, T, 3, 224, 224), colours and scale as the CNN was trained; lengths (N,), whole
    numbers from 1 to T, or None where every clip has T frames. Returns logits (N, num_classes); raises ValueError for
    other shapes or lengths. The CNN's weights are a copy of `cnn`'s, or drawn where it is None. A window is one clip:
    the recipes average the logits of a video's windows.
    """

    CLASSIFIER: ClassVar[str] = "classifier"

    def __init__(
        self,
        num_classes: int = 7,
        rnn: RNN = "gru",
        *,
        hidden_size: int = 128,
        dropout: float = 0.8,
        cnn: VGGFace | None = None,
    ) -> None:
        super().__init__()
        self.rnn = Recurrence(rnn, 4096, hidden_size)
        # Without the last layer, drop6: in the recipes the only dropout is the one after the recurrent layer.
        self.cnn = VGGFace(1).features("fc6")[:-1] if cnn is None else copy.deepcopy(cnn.features("fc6")[:-1])
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, num_classes)

    def forward(self, clips: Tensor, lengths: Tensor | Sequence[int] | None = None) -> Tensor:
        mask = frame_mask(clips, lengths)
        features = to_clips(self.cnn(clips[mask]), mask)
        return self.classifier(mean_over_time(self.dropout(self.rnn(features)), mask))


class FaceResNetRNN(nn.Module):
    """The face ResNet's three taps, each through a Linear to 512 and its own recurrent layer; the three are summed.

    `model(clips, lengths)`: clips (N, T, 3, 112, 96), colours and scale as the CNN was trained; lengths (N,), whole
    numbers from 1 to T, or None where every clip has T frames. Returns logits (N, num_classes) of the mean over time;
    raises ValueError for other shapes or lengths. The weights of the convolutions and of the top tap's Linear are a copy
    of `cnn`'s, or drawn where it is None. `conv_dropout` is FaceResNet's, `dropout` comes after each recurrent layer.
    """

    CLASSIFIER: ClassVar[str] = "classifier"

    def __init__(
        self,
        num_classes: int = 7,
        rnn: RNN = "gru",
        *,
        hidden_size: int = 128,
        dropout: float = 0.8,
        conv_dropout: float = 0.4,
        cnn: FaceResNet | None = None,
    ) -> None:
        super().__init__()
        self.cnn = FaceResNetTrunk(conv_dropout)
        self.fc_pool1b = nn.Linear(64 * 54 * 46, 512)
        self.fc_pool3 = nn.Linear(256 * 12 * 10, 512)
        self.fc_top = nn.Linear(512 * 5 * 4, 512)
        self.rnn_pool1b = Recurrence(rnn, 512, hidden_size)
        self.rnn_pool3 = Recurrence(rnn, 512, hidden_size)
        self.rnn_top = Recurrence(rnn, 512, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, num_classes)
        if cnn is not None:
            weights = cnn.state_dict()
            self.cnn.load_state_dict({name: weights[name] for name in self.cnn.state_dict()})
            self.fc_top.load_state_dict(cnn.fc5_new.state_dict())

    def forward(self, clips: Tensor, lengths: Tensor | Sequence[int] | None = None) -> Tensor:
        mask = frame_mask(clips, lengths)
        taps = self.cnn.taps(clips[mask])
        pool1b = self.rnn_pool1b(to_clips(self.fc_pool1b(taps.pool1b.flatten(1)), mask))
        pool3 = self.rnn_pool3(to_clips(self.fc_pool3(taps.pool3.flatten(1)), mask))
        top = self.rnn_top(to_clips(self.fc_top(taps.top.flatten(1)), mask))
        fused = self.dropout(top) + self.dropout(pool1b) + self.dropout(pool3)
        return self.classifier(mean_over_time(fused, mask))


def frame_mask(clips: Tensor, lengths: Tensor | Sequence[int] | None) -> Tensor:
    """Which frames of clips (N, T, C, H, W) are real: a boolean (N, T), true before each clip's length."""
    if clips.dim() != 5:
        raise ValueError(f"clips have the shape (N, T, C, H, W), these have {tuple(clips.shape)}")
    batch, frames = clips.shape[:2]
    if lengths is None:
        return torch.ones(batch, frames, dtype=torch.bool, device=clips.device)
    lengths = torch.as_tensor(lengths, device=clips.device)
    if lengths.shape != (batch,) or lengths.is_floating_point() or not ((lengths >= 1) & (lengths <= frames)).all():
        raise ValueError(f"lengths are {batch} whole numbers from 1 to {frames}, these are {lengths.tolist()}")
    return torch.arange(frames, device=clips.device) < lengths[:, None]


def to_clips(features: Tensor, mask: Tensor) -> Tensor:
    """Features of the real frames (sum of lengths, F), as clips do them: (N, T, F), zeros for padding."""
    clips = features.new_zeros(*mask.shape, features.shape[1])
    clips[mask] = features
    return clips


def mean_over_time(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of (N, T, F) over the frames that the mask (N, T) has: (N, F)."""
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
