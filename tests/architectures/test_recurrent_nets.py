"""The recurrent nets: what a batch of padded clips must not change, and where their weights come from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from architectures import FaceResNet, FaceResNetRNN, VGGFace, VGGFaceRNN
from architectures.video import Recurrence

KINDS = ["gru", "lstm", "lstm_cell"]
LENGTHS = [3, 1, 2]


def seeded(build) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return build()


class SmallCNN(nn.Module):
    """Stands for VGG-Face up to fc6, which takes a second for each frame: what is tested lies behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc6 = nn.Linear(3 * 8 * 8, 4096)
        self.norm = nn.BatchNorm1d(4096)

    def forward(self, frames: Tensor) -> Tensor:
        return self.norm(self.fc6(frames.flatten(1))).relu()


def small_vgg_rnn(kind: str) -> VGGFaceRNN:
    with torch.device("meta"):
        net = VGGFaceRNN(rnn=kind, dropout=0.0)
    net.cnn = SmallCNN()
    return net.to_empty(device="cpu")


def vgg_case(kind: str) -> tuple[nn.Module, tuple[int, int]]:
    net = small_vgg_rnn(kind)
    for p in net.parameters():
        nn.init.normal_(p, std=0.05)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm1d):
            m.reset_running_stats()
    return net, (8, 8)


def face_case(kind: str) -> tuple[nn.Module, tuple[int, int]]:
    return FaceResNetRNN(rnn=kind, dropout=0.0, conv_dropout=0.0), (112, 96)


# The kinds differ behind the CNN only, so one of them is enough for the 125 million parameters of FaceResNetRNN.
@pytest.fixture(scope="module", params=[*((vgg_case, kind) for kind in KINDS), (face_case, "gru")],
                ids=lambda p: f"{p[0].__name__}-{p[1]}")  # fmt: skip
def case(request):
    build, kind = request.param
    return seeded(lambda: build(kind))


def padded_clips(size: tuple[int, int], padding: float) -> Tensor:
    clips = torch.randn(3, 3, 3, *size, generator=torch.Generator().manual_seed(6))
    for clip, length in zip(clips, LENGTHS, strict=True):
        clip[length:] = padding
    return clips


@torch.inference_mode()
def test_padding_frames_change_nothing(case):
    net, size = case
    net.eval()
    zeros, nans = padded_clips(size, 0), padded_clips(size, float("nan"))
    batch = net(nans, torch.tensor(LENGTHS))
    assert batch.shape == (3, 7)
    assert torch.equal(batch, net(zeros, LENGTHS))
    alone = torch.cat([net(clip[None, :length]) for clip, length in zip(zeros, LENGTHS, strict=True)])
    torch.testing.assert_close(batch, alone, rtol=1e-4, atol=1e-5)
    without_lengths = net(zeros)
    torch.testing.assert_close(without_lengths[0], batch[0], rtol=1e-4, atol=1e-5)
    assert (without_lengths[1] - batch[1]).abs().max() > 1e-4


def test_padding_frames_stay_out_of_the_batch_statistics_in_training(case):
    net, size = case
    before = {name: t.clone() for name, t in net.state_dict().items()}
    after = []
    for padding in (0.0, 1e6):
        net.load_state_dict(before)
        net.train()
        with torch.no_grad():
            logits = net(padded_clips(size, padding), LENGTHS)
        after.append({name: t.clone() for name, t in net.state_dict().items() if "running" in name} | {"logits": logits})
    net.load_state_dict(before)
    moved = [name for name in after[0] if name != "logits" and not torch.equal(after[0][name], before[name])]
    assert moved
    assert all(torch.equal(after[0][name], after[1][name]) for name in after[0])


@pytest.mark.parametrize("lengths", [None, [3, 3, 3], LENGTHS, torch.tensor(LENGTHS)], ids=["none", "all", "list", "tensor"])
@pytest.mark.parametrize(("build", "size"), [(VGGFaceRNN, (224, 224)), (FaceResNetRNN, (112, 96))])
def test_a_step_reads_nothing_back_from_the_clips_device(build, size, lengths):
    """Which would wait for a GPU. Of the device "meta" nothing can be read: it raises."""
    with torch.device("meta"):
        net, clips = build(), torch.empty(3, 3, 3, *size)
    net(clips, lengths).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("lengths", [None, [3, 3, 3], torch.tensor([3, 3, 3])], ids=["none", "list", "tensor"])
@torch.inference_mode()
def test_clips_without_padding_are_not_copied(lengths):
    net, seen = small_vgg_rnn("gru"), []
    net.cnn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].data_ptr()))
    clips = padded_clips((8, 8), 0)
    net(clips, lengths)
    assert seen == [clips.data_ptr()]


@pytest.mark.filterwarnings("ignore")  # torch.jit.trace is deprecated, and warns of the check of the lengths, which isn't traced
def test_a_net_traced_on_clips_without_padding_knows_other_lengths():
    net, size = seeded(lambda: vgg_case("gru"))
    net.eval()
    clips = padded_clips(size, 0)
    with torch.no_grad():
        traced = torch.jit.trace(net, (clips, torch.tensor([3, 3, 3])), check_trace=False)
        torch.testing.assert_close(traced(clips, torch.tensor(LENGTHS)), net(clips, LENGTHS))


@torch.inference_mode()
def test_the_order_of_frames_matters(case):
    net, size = case
    net.eval()
    clips = padded_clips(size, 0)[:1]
    assert (net(clips) - net(clips.flip(1))).abs().max() > 1e-6


@pytest.mark.parametrize(
    ("lengths", "shape"),
    [([4, 4], (3, 4, 3, 8, 8)), ([0, 1, 2], (3, 4, 3, 8, 8)), ([5, 1, 2], (3, 4, 3, 8, 8)),
     ([1.0, 2.0, 3.0], (3, 4, 3, 8, 8)), (None, (4, 3, 8, 8))],
)  # fmt: skip
def test_lengths_and_clips_of_other_shapes_are_errors(lengths, shape):
    with torch.device("meta"):
        net = VGGFaceRNN()
    with pytest.raises(ValueError, match="lengths are 3 whole numbers from 1 to 4" if lengths else r"\(N, T, C, H, W\)"):
        net(torch.zeros(shape), lengths)


def test_an_unknown_kind_of_recurrence_is_an_error_that_names_the_known():
    with pytest.raises(ValueError, match="'gru', 'lstm', 'lstm_cell'"):
        Recurrence("rnn", 8, 8)


@torch.inference_mode()
def test_a_stepped_cell_computes_what_the_lstm_computes():
    lstm, cell = Recurrence("lstm", 16, 8), Recurrence("lstm_cell", 16, 8)
    cell.net.load_state_dict({name.removesuffix("_l0"): t for name, t in lstm.net.state_dict().items()})
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(cell(x), lstm(x))


def test_taps_have_the_sizes_of_the_older_project():
    with torch.device("meta"):
        net = FaceResNetRNN()
        taps = net.cnn.taps(torch.empty(2, 3, 112, 96))
    assert [t[0].numel() for t in taps] == [158976, 30720, 10240]
    assert [fc.in_features for fc in (net.fc_pool1b, net.fc_pool3, net.fc_top)] == [158976, 30720, 10240]


def test_conv_dropout_falls_on_the_feature_maps_of_conv1_a_and_stage_2():
    with torch.device("meta"):
        net = FaceResNet()
        dropped = []
        for m in net.modules():
            if isinstance(m, nn.Dropout):
                m.register_forward_hook(lambda m, inputs, _: dropped.append((m.p, tuple(inputs[0].shape))))
        net(torch.empty(2, 3, 112, 96))
    assert dropped == [(0.4, (2, 32, 110, 94)), (0.4, (2, 128, 26, 22))]


@torch.inference_mode()
def test_the_cnn_of_an_image_model_is_copied():
    image_model = seeded(FaceResNet).eval()
    net = FaceResNetRNN(cnn=image_model).eval()
    x = torch.randn(2, 3, 112, 96, generator=torch.Generator().manual_seed(8))
    for tap, want in zip(net.cnn.taps(x), image_model.taps(x), strict=True):
        assert torch.equal(tap, want)
    assert torch.equal(net.fc_top.weight, image_model.fc5_new.weight)
    image_model.conv1_a.weight.zero_()
    assert net.cnn.conv1_a.weight.count_nonzero() > 0


@torch.inference_mode()
def test_frames_go_through_vgg_face_up_to_fc6_and_its_relu():
    image_model = seeded(lambda: VGGFace(7))
    net = VGGFaceRNN(num_classes=5, cnn=image_model).eval()
    assert [name for name, _ in net.cnn.named_children()][-2:] == ["fc6", "relu6"]  # drop6 isn't in the recipe
    clips = torch.randn(1, 2, 3, 224, 224, generator=torch.Generator().manual_seed(9))
    features = image_model.eval().features(clips[0], "fc6")
    assert features.min() == 0
    assert features.max() > 0
    torch.testing.assert_close(net.cnn(clips[0]), features)
    want = net.classifier(net.rnn.net(features[None])[0].mean(1))
    torch.testing.assert_close(net(clips), want)


def test_every_parameter_of_the_recurrent_nets_learns(case):
    net, size = case
    net.train()
    net(padded_clips(size, 0), LENGTHS).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []
    net.zero_grad()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", [VGGFaceRNN, FaceResNetRNN])
def test_the_kinds_of_recurrence_are_those_of_their_names(net, kind):
    with torch.device("meta"):
        modules = list(net(num_classes=3, rnn=kind, hidden_size=32).modules())
    recurrent = [m for m in modules if isinstance(m, (nn.RNNBase, nn.RNNCellBase))]
    assert {type(m) for m in recurrent} == {{"gru": nn.GRU, "lstm": nn.LSTM, "lstm_cell": nn.LSTMCell}[kind]}
    assert len(recurrent) == (1 if net is VGGFaceRNN else 3)
    assert {m.hidden_size for m in recurrent} == {32}
