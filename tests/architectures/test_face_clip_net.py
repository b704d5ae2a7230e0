"""FaceClipNet: any image net on each frame; and that the two nets of the older project have its sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import architectures
from architectures import FaceClipNet, FaceResNetRNN, MobileFaceExpression, SmallResNet, VGGFaceRNN
from architectures.video import OverTime

LENGTHS = [3, 1, 2]


def small(**arguments: object) -> FaceClipNet:
    torch.manual_seed(2)
    return FaceClipNet(5, "SmallResNet", {"width": 8}, **{"dropout": 0.0, **arguments})  # type: ignore[arg-type]


def clips(padding: float = 0.0) -> Tensor:
    drawn = torch.randn(3, 3, 3, 16, 16, generator=torch.Generator().manual_seed(6))
    for clip, length in zip(drawn, LENGTHS, strict=True):
        clip[length:] = padding
    return drawn


FORMS = {
    "gru": {}, "lstm": {"rnn": "lstm"}, "cell": {"rnn": "lstm_cell"}, "attention": {"pooling": "attention"}, "mean": {"rnn": "none"},
    "norm": {"rnn": "none", "norm": True}, "branches": {"branches": (16, 48), "projection": 8, "norm": True},
    "branches without rnn": {"branches": (32, 32), "rnn": "none"},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_padding_frames_change_nothing_and_every_parameter_learns(form: str) -> None:
    net = small(**FORMS[form]).eval()
    with torch.inference_mode():
        batch = net(clips(float("nan")), torch.tensor(LENGTHS))
        alone = torch.cat([net(clip[None, :length]) for clip, length in zip(clips(), LENGTHS, strict=True)])
    assert batch.shape == (3, 5)
    torch.testing.assert_close(batch, alone, rtol=1e-4, atol=1e-5)
    net.train()
    net(clips(float("nan")), LENGTHS).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("form", FORMS)
def test_a_step_reads_nothing_back_from_the_clips_device(form: str, lengths: list[int] | None) -> None:
    """Which would wait for a GPU. Of the device "meta" nothing can be read: it raises."""
    net = small(**FORMS[form]).to("meta")
    net(clips().to("meta"), lengths).sum().backward()


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # of torch's own GRU
def test_torch_export_takes_clips_without_padding() -> None:
    net = small(norm=True).eval()
    exported = torch.export.export(net, (clips(),)).module()
    torch.testing.assert_close(exported(clips(1.0)), net(clips(1.0)))


@torch.inference_mode()
def test_the_features_of_the_frames_and_the_rest_of_the_net_are_the_net() -> None:
    net = small(norm=True).eval()
    features = net.embed(clips().flatten(0, 1)).unflatten(0, (3, 3))
    assert features.shape == (3, 3, 64)
    torch.testing.assert_close(net.classify(features, LENGTHS), net(clips(), LENGTHS))


@torch.inference_mode()
def test_attention_begins_as_the_mean_and_follows_its_weights() -> None:
    x, mask = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([[True, True, False], [True, True, True]])
    pool = OverTime("attention", 4)
    assert pool.weigh is not None
    torch.testing.assert_close(pool(x, mask), OverTime("mean", 4)(x, mask))
    pool.weigh.weight.copy_(torch.tensor([[100.0, 0, 0, 0]]))  # so steep that the frame with the largest first feature is all
    best = torch.stack([x[0, x[0, :2, 0].argmax()], x[1, x[1, :, 0].argmax()]])
    torch.testing.assert_close(pool(x, mask), best, atol=1e-2, rtol=0)


@torch.inference_mode()
def test_without_recurrence_the_order_of_frames_is_nothing_and_with_it_something() -> None:
    one = clips()[:1]
    for rnn, alike in (("none", True), ("gru", False)):
        net = small(rnn=rnn).eval()
        assert torch.allclose(net(one), net(one.flip(1)), atol=1e-5) == alike


@pytest.mark.parametrize(
    ("encoder", "blob", "size", "width"),
    [
        ("MobileFaceExpression", None, (48, 48), 768), ("SmallResNet", None, (16, 16), 512), ("FaceResNet", None, (112, 96), 512),
        ("VGGFace", "fc7", (224, 224), 4096), ("VGGFace", "pool5", (224, 224), 512), ("MobileFaceNet", None, (112, 112), 128),
        ("CenterLossFace", None, (112, 96), 512), ("SphereFace20", None, (112, 96), 512),
    ],
)  # fmt: skip
def test_every_face_net_can_see_the_frames(encoder: str, blob: str | None, size: tuple[int, int], width: int) -> None:
    """The width that the class expects is the one that the net gives; what the frames don't pass is not held."""
    with torch.device("meta"):
        net = FaceClipNet(3, encoder, blob=blob).eval()
        assert net.embed(torch.empty(2, 3, *size)).shape == (2, width) and net.widths == (width,)
    assert not any(name.startswith("cnn.") and getattr(net.cnn, "CLASSIFIER", "-") in name for name in net.state_dict())


@torch.inference_mode()
def test_the_encoder_is_a_copy_of_the_image_net_that_was_given() -> None:
    torch.manual_seed(4)
    image_net = SmallResNet(7, width=8).eval()
    net = FaceClipNet(5, "SmallResNet", {"width": 8}, cnn=image_net).eval()
    frames = clips().flatten(0, 1)
    expected = image_net.embed(frames)
    assert torch.equal(net.embed(frames), expected)
    assert isinstance(image_net.classifier, nn.Linear)  # the given net is left whole
    image_net.conv1.weight.zero_()
    assert torch.equal(net.embed(frames), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": "os"}, "encoder is 'os'; it is the name of a net for images"),
        ({"encoder": "VGGFaceRNN"}, "it is the name of a net for images"),
        ({"encoder": "load_best7164"}, "it is the name of a net for images"),
        ({"cnn": nn.Linear(1, 1)}, "cnn is a Linear; encoder is 'SmallResNet'"),
        ({"branches": (10, 10)}, "branches are 10, 10 wide; SmallResNet has 64 features"),
        ({"branches": (10, 54), "rnn": "none"}, "cannot be summed; give a projection"),
        ({"blob": "conv1"}, "SmallResNet is no chain of layers"),
        ({"pooling": "max"}, "pooling is 'max'"),
        ({"rnn": "rnn"}, "rnn is 'rnn'"),
    ],
)
def test_what_does_not_fit_is_a_value_error(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FaceClipNet(**{"num_classes": 5, "encoder": "SmallResNet", "arguments": {"width": 8}, **arguments})  # type: ignore[arg-type]


# Counted from the layers' sizes: 3×3 convolutions with biases, BatchNorm's two numbers a channel, a GRU's three and an LSTM's four gates.
VGG_CONVS = sum(9 * a * b + b for a, b in zip(
    (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512), (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
    strict=True,
))  # fmt: skip
VGG = VGG_CONVS + 25088 * 4096 + 4096
STAGES = ((64, 1), (128, 2), (256, 5), (512, 3))
RESNET = (
    sum(9 * a * b + b + 2 * b for a, b in ((3, 32), (32, 64), (64, 128), (128, 256), (256, 512)))
    + sum(blocks * 2 * (9 * width * width + width) for width, blocks in STAGES)
)  # fmt: skip
TAPS = sum(inputs * 512 + 512 for inputs in (158976, 30720, 10240))
LAST = 128 * 7 + 7


def recurrent(gates: int, inputs: int) -> int:
    return gates * 128 * (inputs + 128 + 2)


@pytest.mark.parametrize(
    ("kind", "rnn", "parameters"),
    [
        (VGGFaceRNN, "gru", VGG + recurrent(3, 4096) + LAST), (VGGFaceRNN, "lstm", VGG + recurrent(4, 4096) + LAST),
        (VGGFaceRNN, "lstm_cell", VGG + recurrent(4, 4096) + LAST), (FaceResNetRNN, "gru", RESNET + TAPS + 3 * recurrent(3, 512) + LAST),
    ],
)  # fmt: skip
def test_the_older_project_s_nets_have_its_parameters(kind: type[nn.Module], rnn: str, parameters: int) -> None:
    with torch.device("meta"):
        net = kind(rnn=rnn)
    assert sum(p.numel() for p in net.parameters()) == parameters
    inner = [(m.input_size, m.hidden_size) for m in net.modules() if isinstance(m, (nn.RNNBase, nn.RNNCellBase))]
    assert inner == ([(4096, 128)] if kind is VGGFaceRNN else [(512, 128)] * 3)


@torch.inference_mode()
def test_vgg_face_with_a_stepped_cell_is_vgg_face_with_an_lstm() -> None:
    """From the same weights, on features of clips of different lengths: the same logits."""
    with torch.device("meta"):
        lstm, cell = (VGGFaceRNN(rnn=rnn).eval() for rnn in ("lstm", "lstm_cell"))
    for net in (lstm, cell):
        del net.cnn  # 117 million parameters that the two have in common
        net.to_empty(device="cpu")
    for p in lstm.parameters():
        nn.init.normal_(p, std=0.02)
    cell.load_state_dict({name.replace("_l0", ""): value for name, value in lstm.state_dict().items()})
    features = torch.randn(2, 5, 4096, generator=torch.Generator().manual_seed(3)).relu()
    torch.testing.assert_close(cell.classify(features, [5, 2]), lstm.classify(features, [5, 2]), rtol=1e-4, atol=1e-6)


def test_the_net_s_arguments_are_json_s() -> None:
    """What a run's card holds builds the same net: names, lists, numbers."""
    with torch.device("meta"):
        given = FaceClipNet(3, "MobileFaceExpression", {"taps": ["bn6f"]}, branches=[512], projection=16)
        default = architectures.FaceClipNet(3)
    assert isinstance(given.cnn, MobileFaceExpression) and given.cnn.taps == ("bn6f",) and default.widths == (768,)
