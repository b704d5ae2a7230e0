"""Recurrent modules as Caffe nets: as Caffe's LSTM, or step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from modules import Formula, X, quietly, settled
from torch import Tensor, nn

import architectures
from converter import ConversionError, convert

FRAMES = X[:, :5, 0].transpose(0, 1)  # (T, N, D)
CLIPS = X[:, :5, 0]  # (N, T, D)


def step_by_step(held: Any, x: Tensor) -> Tensor:
    """A cell over (T, N, D), as a loop writes it."""
    state, outputs = None, []
    for each in x:
        state = held[0](each, state)
        outputs.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(outputs, 1)


CASES: dict[str, tuple[nn.Module, Any]] = {
    "LSTM": (Formula(lambda held, x: held[0](x)[0], nn.LSTM(10, 6)), X[:, :5, 0].transpose(0, 1)),
    "the last state of two layers of LSTM": (
        Formula(lambda held, x: held[1](held[0](x)[1][0][-1]), nn.LSTM(10, 6, 2), nn.Linear(6, 3)),
        X[:, :5, 0].transpose(0, 1),
    ),
    "LSTM in both directions": (Formula(lambda held, x: held[0](x)[0], nn.LSTM(10, 6, 2, bidirectional=True)), FRAMES),
    "the last states of LSTM in both directions": (
        Formula(lambda held, x: held[0](x)[1][0], nn.LSTM(10, 6, 2, bidirectional=True)),
        FRAMES,
    ),
    "LSTM of which the cells are read": (Formula(lambda held, x: held[0](x), nn.LSTM(10, 6, 2, bidirectional=True)), FRAMES),
    "LSTM from given states": (
        Formula(lambda held, x, h: held[0](x, (h, 2 * h)), nn.LSTM(10, 6, 2, bidirectional=True)),
        (FRAMES, X[:, :2, 0, :6].repeat(2, 1, 1)),
    ),
    "LSTM from a constant state": (
        Formula(lambda held, x: held[0](x, (torch.ones(1, 2, 6), torch.full((1, 2, 6), 0.3)))[0], nn.LSTM(10, 6)),
        FRAMES,
    ),
    "one LSTM behind another from its states": (
        Formula(lambda held, x: held[1](x, held[0](x)[1])[0], nn.LSTM(10, 6), nn.LSTM(10, 6)),
        FRAMES,
    ),
    "LSTM of several clips with the batch first": (
        Formula(lambda held, x: held[0](x), nn.LSTM(10, 6, batch_first=True, bias=False)),
        CLIPS,
    ),
    "GRU": (Formula(lambda held, x: held[0](x), nn.GRU(10, 6, 2, bidirectional=True)), FRAMES),
    "GRU with the batch first": (
        Formula(lambda held, x: held[1](held[0](x)[1].transpose(0, 1).flatten(1)), nn.GRU(10, 6, batch_first=True), nn.Linear(6, 3)),
        CLIPS,
    ),
    "GRU without bias": (Formula(lambda held, x: held[0](x)[0], nn.GRU(10, 6, bias=False, batch_first=True)), CLIPS),
    "GRU from given states": (
        Formula(lambda held, x, h: held[0](x, h), nn.GRU(10, 6, bidirectional=True, batch_first=True)),
        (CLIPS, X[:, :2, 0, :6].contiguous()),
    ),
    "GRU of one step": (Formula(lambda held, x: held[0](x), nn.GRU(10, 6, bidirectional=True)), FRAMES[:1]),
    "RNN": (Formula(lambda held, x: held[0](x), nn.RNN(10, 6, 2, bidirectional=True)), FRAMES),
    "RNN of ReLU": (Formula(lambda held, x: held[0](x), nn.RNN(10, 6, nonlinearity="relu", batch_first=True)), CLIPS),
    **{type(cell).__name__: (Formula(step_by_step, cell), FRAMES) for cell in (nn.LSTMCell(10, 6), nn.GRUCell(10, 6), nn.RNNCell(10, 6))},
    "GRUCell from a constant state": (Formula(lambda held, x: held[0](x, torch.ones(2, 6)), nn.GRUCell(10, 6, bias=False)), X[:, 0, 0]),
    "LSTM with the batch first": (Formula(lambda held, x: held[0](x)[0][:, -1], nn.LSTM(10, 6, batch_first=True)), X[:1, :5, 0]),
}


# Those that Caffe's own layer computes.
LAYERS = {
    "LSTM", "the last state of two layers of LSTM", "LSTM in both directions", "the last states of LSTM in both directions",
    "LSTM with the batch first",
}  # fmt: skip


REFUSED: dict[str, tuple[nn.Module, Any, str]] = {
    "a projected state": (Formula(lambda held, x: held[0](x)[0], nn.LSTM(10, 6, proj_size=3)), X[:, :5, 0], "proj_size"),
    "more steps than are written": (
        Formula(lambda held, x: held[0](x)[0], nn.GRU(10, 6)),
        torch.zeros(65, 1, 10),
        "65 steps of time would be 715 layers for each direction: up to 64",
    ),
    "a state for each sample": (
        Formula(lambda held, x: held[0](x, torch.arange(12.0).view(1, 2, 6))[0], nn.GRU(10, 6)),
        FRAMES,
        "differs from sample to sample",
    ),
}


@pytest.mark.parametrize(("dialect", "case"), [*(("caffe1", case) for case in CASES), ("ssd", "LSTM with the batch first")])
def test_a_recurrent_module_is_the_same_in_caffe(case: str, dialect: Any, tmp_path: Path) -> None:
    module, example = CASES[case]
    compared = quietly(module.eval(), example, tmp_path, dialect=dialect)
    for each in compared:
        assert each.difference <= (1e-5 if each.reference == "the module itself" else 1e-4), each
    by_layers = '"LSTM"' in (tmp_path / "net.prototxt").read_text()
    assert by_layers == (case in LAYERS)
    assert {each.reference.split()[0] for each in compared} == (
        {"the"} if by_layers else {"the", "OpenCV"}
    )  # which reads no LSTM of Caffe's


@pytest.mark.parametrize(
    ("case", "axis"), [("LSTM", 1), ("GRU with the batch first", 0), ("RNN of ReLU", 0), ("LSTM of several clips with the batch first", 0)]
)
def test_what_was_written_runs_with_another_batch(case: str, axis: int, tmp_path: Path) -> None:
    module, example = CASES[case]
    quietly(module.eval(), example, tmp_path)
    net = convert(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    more = torch.cat([example, example.flip(axis) + 1], axis)
    with torch.no_grad():
        theirs = torch.utils._pytree.tree_leaves(module(more))
        for found, want in zip(net(more, blobs=net.outputs).values(), theirs, strict=True):
            torch.testing.assert_close(found.reshape(want.shape), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_gives_the_reason(case: str, tmp_path: Path) -> None:
    module, example, reason = REFUSED[case]
    with pytest.raises(ConversionError, match=reason):
        quietly(module, example, tmp_path)
    assert not list(tmp_path.iterdir())


def test_steps_share_their_weights(tmp_path: Path) -> None:
    """In the prototxt by name, as Caffe's own unrolled nets do; the caffemodel repeats them, as Caffe's snapshots do."""
    module = Formula(lambda held, x: held[0](x)[0], nn.GRU(10, 6, batch_first=True))
    quietly(module, CLIPS, tmp_path)
    net = convert(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    merged, again = 2 * 6, 6  # the biases of two gates become one; the third's stands in the first step by itself, too
    assert sum(each.numel() for each in net.parameters()) == sum(each.numel() for each in module.parameters()) - merged + again
    assert (tmp_path / "net.prototxt").read_text().count('name: "held_0_gates.weight"') == CLIPS.shape[1] - 1


def test_weights_that_no_caffe_reads_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.export.to_caffe.LARGEST_MESSAGE", 5000)
    with pytest.raises(ConversionError, match=r"above 2 GiB; a caffemodel repeats the weights of each step"):
        quietly(Formula(lambda held, x: held[0](x)[0], nn.GRU(10, 12)), FRAMES, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rnn", ["gru", "lstm_cell"])
def test_a_net_of_clips_goes_to_caffe_and_back(rnn: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = settled(architectures.FaceClipNet(7, "SmallResNet", rnn=rnn, hidden_size=16))
    compared = quietly(module, torch.randn(2, 3, 3, 48, 48), tmp_path)
    assert {each.reference.split()[0] for each in compared} == {"the", "OpenCV"}
    assert all(each.difference <= (1e-5 if each.reference == "the module itself" else 1e-4) for each in compared), compared
