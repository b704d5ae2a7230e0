"""PyTorch modules as Caffe nets: every operator, whole nets, dialects, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from modules import Formula, X, quietly, settled
from torch import Tensor, nn
from torch.nn import functional as F

import architectures
from converter import ConversionError, convert, to_caffe

DIALECTS = ("caffe1", "bvlc", "ssd")


def squeeze_and_excite(held: Any, x: Tensor) -> Tensor:
    return x * torch.sigmoid(held[0](x.mean((2, 3), keepdim=True)))


def both(held: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = held[0](x)
    return y, F.relu(y)


MEANS, DEVIATIONS = torch.linspace(0.1, 0.8, 8).view(1, 8, 1, 1), torch.linspace(0.5, 1.2, 8).view(8, 1, 1)
OPERATORS: dict[str, tuple[nn.Module, Any]] = {
    "max pooling that rounds down": (nn.MaxPool2d(3, 2, 1), X),
    "average pooling that rounds down": (nn.AvgPool2d(3, 2), X),
    "pooling that rounds up": (nn.MaxPool2d(3, 2, ceil_mode=True), X),
    "average pooling that does not count the padding": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), X),
    "average pooling with a divisor": (nn.AvgPool2d(3, 2, 1, divisor_override=5), X),
    "average pooling, padded, that rounds up": (nn.AvgPool2d(3, 2, 1, ceil_mode=True), X),
    "kernels that are not square": (nn.MaxPool2d((3, 2), (2, 1), (1, 0)), X),
    "strides above the kernel": (nn.MaxPool2d(2, 3, 1), X),
    "strides above the kernel that round up": (nn.MaxPool2d(2, 3, ceil_mode=True), X),
    "pooling one place of three": (nn.AvgPool2d(1, 3, ceil_mode=True), X),
    "adaptive averages": (nn.AdaptiveAvgPool2d((5, 3)), X),
    "adaptive averages to more places": (nn.AdaptiveAvgPool2d((15, 13)), X),
    "adaptive maxima": (nn.AdaptiveMaxPool2d(2), X),
    "global maxima": (nn.AdaptiveMaxPool2d(1), X),
    "dilated convolution": (nn.Conv2d(8, 6, (3, 5), (2, 1), (1, 2), dilation=(1, 2)), X),
    "grouped convolution without bias": (nn.Conv2d(8, 6, 3, groups=2, bias=False), X),
    "convolution that pads to the same size": (nn.Conv2d(8, 6, 3, padding="same"), X),
    "transposed convolution with output padding": (nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1, groups=2), X),
    "convolution of one axis": (nn.Conv1d(8, 4, 3, padding=1), X[:, :, 0]),
    "convolution of three axes": (nn.Conv3d(2, 4, 3, padding=1), torch.randn(2, 2, 5, 6, 7)),
    "linear on the last of three axes": (nn.Linear(10, 4), X[:, :, 0]),
    "batch normalization of vectors": (nn.Sequential(nn.Linear(10, 6), nn.BatchNorm1d(6)), X[:, 0, 0]),
    "group normalization": (nn.GroupNorm(4, 8), X),
    "instance normalization": (nn.InstanceNorm2d(8, affine=True), X),
    "layer normalization": (nn.LayerNorm([12, 10]), X),
    "layer normalization of the last axis": (nn.LayerNorm(10), X),
    **{
        type(module).__name__: (module, 4 * X)
        for module in (
            nn.ReLU6(),
            nn.Hardtanh(-0.3, 0.7),
            nn.SiLU(),
            nn.Hardswish(),
            nn.Hardsigmoid(),
            nn.ELU(0.7),
            nn.SELU(),
            nn.Softplus(),
            nn.LeakyReLU(0.2),
            nn.PReLU(8),
            nn.Sigmoid(),
            nn.Tanh(),
            nn.Softmax(1),
            nn.LogSoftmax(1),
            nn.ChannelShuffle(4),
            nn.PixelShuffle(2),
            nn.PixelUnshuffle(2),
            nn.Flatten(),
            nn.Dropout(0.5),
        )
    },
    "one slope for all channels": (nn.PReLU(), X),
    "nearest upsampling": (nn.Upsample(scale_factor=2), X),
    "bilinear upsampling by two": (nn.Upsample(scale_factor=2, mode="bilinear"), X),
    "bilinear upsampling by three": (nn.Upsample(scale_factor=3, mode="bilinear"), X),
    "a factor for each channel": (Formula(squeeze_and_excite, nn.Conv2d(8, 8, 1)), X),
    "a factor for each place": (Formula(lambda held, x: x * torch.sigmoid(held[0](x)), nn.Conv2d(8, 1, 1)), X),
    "a term for each channel": (Formula(lambda held, x: x + held[0](x).mean((2, 3), keepdim=True), nn.Conv2d(8, 8, 1)), X),
    "constants": (Formula(lambda held, x: (x - MEANS) / DEVIATIONS * 2 + 1 - x / 3), X),
    "powers": (Formula(lambda held, x: (x**2 + 1).sqrt() + 1 / (x.abs() + 1) + (x.abs() + 0.1).log() + (-x).exp()), X),
    "the larger and the smaller": (
        Formula(lambda held, x: torch.maximum(x, held[0](x)) + torch.minimum(x, held[0](x)), nn.Conv2d(8, 8, 1)),
        X,
    ),
    "parts in another order": (Formula(lambda held, x: torch.cat(torch.chunk(x, 3, 1)[::-1], 1)), X),
    "stretches of axes": (Formula(lambda held, x: x[:, 2:5, 1:-1] + x[:, 0:3, 2:, :]), X),
    "one row": (Formula(lambda held, x: held[0](x[:, :, 0, :].flatten(1)), nn.Linear(80, 3)), X),
    "padding on one side": (Formula(lambda held, x: held[0](F.pad(x, (0, 1, 0, 1))), nn.Conv2d(8, 4, 3, 2)), X),
    "reductions": (Formula(lambda held, x: x.mean(1, keepdim=True) + x.sum((1, 2, 3), keepdim=True)), X),
    "three outputs": (Formula(lambda held, x: (held[0](x), held[0](x) * 2, x + 1), nn.Conv2d(8, 4, 1)), X),
    "an output that is read again": (Formula(both, nn.Conv2d(8, 4, 1)), X),
    "an output of which a part is dropped": (Formula(lambda held, x: held[0](x).chunk(2, 1)[0], nn.Conv2d(8, 4, 1)), X),
    "two inputs": (Formula(lambda held, x, y: held[0](x) + y, nn.Conv2d(8, 8, 1)), (X, X.flip(0))),
    "operations in place": (Formula(lambda held, x: F.relu_(held[0](x)).add_(1).mul_(2), nn.Conv2d(8, 4, 1)), X),
    "one blob joined": (Formula(lambda held, x: held[0](torch.cat([x], 1)) + x, nn.BatchNorm2d(8)), X),
    "borders of every kind": (
        Formula(
            lambda held, x: (
                *(F.pad(x, (1, 2, 2, 1), mode) for mode in ("reflect", "replicate", "circular")),
                F.pad(x, (1, 0, 0, 2), value=3.0),
                F.pad(x, (0, 0, 0, 0, 2, 1)),
                F.pad(x, (-1, 2)),
                F.pad(x[:, :, 0], (1, 1)),
            )
        ),
        X,
    ),
    "resizing to any size": (
        Formula(
            lambda held, x: (
                *(F.interpolate(x, (17, 7), mode=mode) for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area")),
                *(F.interpolate(x, scale_factor=scale, mode="bilinear") for scale in (0.5, 1.5)),
                F.interpolate(x, scale_factor=(2, 3)),
                F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
                F.interpolate(x[:, :, :1, :1], (5, 6), mode="bilinear"),
            )
        ),
        X,
    ),
    "pooling of one axis and of three": (
        Formula(
            lambda held, x: (
                F.max_pool1d(x[:, :, 0], 3, 2, 1),
                F.avg_pool1d(x[:, :, 0], 3, 2),
                F.adaptive_avg_pool1d(x[:, :, 0], 3),
                F.max_pool3d(x[:, None], (2, 3, 2)),
                F.avg_pool3d(x[:, None], 2),
                F.local_response_norm(x, 5, 0.1),
                F.local_response_norm(x, 4),
            )
        ),
        X,
    ),
    "norms": (
        Formula(
            lambda held, x: (
                F.normalize(x),
                F.normalize(x.flatten(1)),
                x.norm(dim=2),
                F.rms_norm(x, [10]),
                x.norm(1, dim=(2, 3), keepdim=True),
            )
        ),
        X,
    ),
    "places picked and repeated": (
        Formula(
            lambda held, x: (
                x[:, [2, 1, 0]],
                x.flip(3),
                x.roll(1, 2),
                x[..., ::2, 1::3],
                x[:, ::2],
                x.repeat(1, 2, 1, 1),
                x.repeat_interleave(2, 1),
                x.mean((2, 3), keepdim=True).expand(-1, -1, 4, 5),
                x.unbind(1)[3],
                torch.stack([x, x + 1], 1),
            )
        ),
        X,
    ),
    "broadcasting of both": (
        Formula(
            lambda held, x: (
                x.mean(3, keepdim=True) + x.mean(2, keepdim=True),
                x * x.mean((1, 2), keepdim=True),
                torch.maximum(x, x.mean(1, keepdim=True)),
            )
        ),
        X,
    ),
    "constants of every shape": (
        Formula(
            lambda held, x: (
                torch.cat([x, torch.zeros(2, 1, 12, 10)], 1),
                x + torch.ones_like(x),
                torch.cat([x, x.new_full((2, 8, 12, 2), 0.5)], 3),
                torch.maximum(x, torch.tensor(0.3)),
                x + torch.linspace(0, 1, 120).view(12, 10),
                x.clamp(torch.tensor(-0.1), torch.tensor(0.2)),
            )
        ),
        X,
    ),
    "conditions": (
        Formula(
            lambda held, x: (
                torch.where(x > 0.1, x, x * 2),
                (x < 0).float() * x,
                x.masked_fill(x >= 0.2, 0.0),
                x.sign(),
                F.threshold(x, 0.1, 20.0),
                F.softshrink(x),
                F.hardshrink(x),
            )
        ),
        X,
    ),
    "more functions of each value": (
        Formula(
            lambda held, x: (
                F.mish(x),
                F.celu(x, 0.7),
                F.gelu(x, approximate="tanh"),
                F.glu(x, 1),
                F.logsigmoid(x),
                x.square(),
                x**3,
                x.clamp_min(0.1),
                F.relu6(4 * x),
                F.hardtanh(x),
                torch.addcmul(x, x, x, value=2),
                torch.lerp(x, x + 1, 0.3),
                x.abs().log1p(),
                (x.abs() + 1).log2(),
            )
        ),
        X,
    ),
    "transposed convolutions of one axis and of three": (
        Formula(
            lambda held, x: (held[0](x[:, :, 0]), held[1](x[:, None])), nn.ConvTranspose1d(8, 4, 3, 2, 1), nn.ConvTranspose3d(1, 2, 3, 2, 1)
        ),
        X,
    ),
    "an input that nobody reads": (Formula(lambda held, x, y: held[0](x), nn.Conv2d(8, 4, 1)), (X, X)),
    "no value for an output": (Formula(lambda held, x: {"a": held[0](x), "b": None}, nn.Conv2d(8, 4, 1)), X),
    "an input that is changed": (Formula(lambda held, x: x.mul_(2) + 1), X.clone()),
    "places in a table": (nn.Sequential(nn.Embedding(20, 6), nn.Flatten(), nn.Linear(42, 3)), torch.arange(14).view(2, 7)),
    "half precision": (nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)).half(), X.half()),
    "double precision": (nn.Conv2d(8, 4, 1).double(), X.double()),
}


HEADS: dict[str, tuple[nn.Module, Any]] = {
    "a detector's head": (Formula(lambda held, x: held[0](x).permute(0, 2, 3, 1).reshape(2, -1, 4), nn.Conv2d(8, 12, 1)), X),
    "a grid's head": (
        Formula(lambda held, x: held[0](x).view(2, 3, 4, 12, 10).permute(0, 1, 3, 4, 2).flatten(1, 3), nn.Conv2d(8, 12, 1)),
        X,
    ),
}
OTHERWISE = [
    ("bvlc", "max pooling that rounds down"), ("bvlc", "average pooling that rounds down"), ("bvlc", "ReLU6"), ("bvlc", "SiLU"),
    ("bvlc", "strides above the kernel that round up"), ("bvlc", "kernels that are not square"), ("ssd", "a detector's head"),
    ("ssd", "a grid's head"), ("ssd", "ChannelShuffle"),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "case"), [*(("caffe1", case) for case in OPERATORS), *OTHERWISE])
def test_an_operator_is_the_same_in_caffe(case: str, dialect: Any, tmp_path: Path) -> None:
    module, example = (OPERATORS | HEADS)[case]
    compared = quietly(settled(module), example, tmp_path, dialect=dialect)
    assert compared
    for each in compared:
        assert each.difference <= (1e-5 if each.reference == "the module itself" else 1e-4), each


BATCHES = [
    "max pooling that rounds down", "Flatten", "a factor for each channel", "parts in another order", "group normalization",
    "layer normalization of the last axis", "instance normalization",
]  # fmt: skip


@pytest.mark.parametrize("case", BATCHES)
def test_what_was_written_runs_with_another_batch(case: str, tmp_path: Path) -> None:
    module, example = OPERATORS[case]
    quietly(settled(module), example, tmp_path)
    net = convert(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    more = torch.cat([example, example.flip(0) + 1])
    with torch.no_grad():
        torch.testing.assert_close(net(more).reshape(module(more).shape), module(more), rtol=1e-4, atol=1e-5)


TURNED = Formula(lambda held, x: held[0](x)[0][:, -1], nn.LSTM(10, 6, batch_first=True))


@pytest.mark.filterwarnings("ignore:.*no second implementation")
@pytest.mark.parametrize("module", [Formula(lambda held, x: x.transpose(0, 1)), TURNED])
def test_what_is_right_for_one_batch_size_says_so_and_takes_no_other(module: nn.Module, tmp_path: Path) -> None:
    example = X[:1, :5, 0]
    with pytest.warns(UserWarning, match="right for a batch of 1 only") as warned:
        to_caffe(module, example, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert warned
    net = convert(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    net(example)
    with pytest.raises(RuntimeError):
        net(torch.cat([example, example]))


def test_what_opencv_computes_otherwise_is_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="OpenCV is what computes it otherwise (the extra `verify`)")
    dilated = nn.ConvTranspose2d(8, 8, 3, 2, 1, dilation=2)
    with pytest.warns(UserWarning, match="known to differ in Deconvolution with dilation.*computes something else"):
        to_caffe(dilated, X, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")


NETS = ["resnet18", "mobilenet_v2", "squeezenet1_1", "shufflenet_v2_x0_5"]
MORE = ["vgg11_bn", "densenet121", "googlenet", "alexnet", "mobilenet_v3_small", "efficientnet_b0", "mnasnet0_5", "regnet_y_400mf"]


@pytest.mark.parametrize("name", [*NETS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_a_net_of_torchvision_goes_to_caffe_and_back(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    module = settled(getattr(torchvision.models, name)(weights=None, **options))
    own, opencv = quietly(module, torch.randn(1, 3, 64, 64), tmp_path)
    assert own.difference <= 1e-5 and opencv.difference <= 1e-4 and opencv.reference.startswith("OpenCV")


FACES = {
    "CenterLossFace": (1, 3, 112, 96), "SphereFace20": (1, 3, 112, 96), "MobileFaceNet": (1, 3, 112, 112), "SqueezeNet": (1, 3, 64, 64),
    "FaceResNet": (1, 3, 112, 96), "SmallResNet": (1, 3, 48, 48), "SmallVGG": (1, 1, 44, 44), "MobileFaceExpression": (1, 3, 64, 64),
    "PNet": (1, 3, 24, 20), "RNet": (1, 3, 24, 24), "ONet": (1, 3, 48, 48),
}  # fmt: skip


@pytest.mark.parametrize("name", FACES)
def test_a_net_of_architectures_goes_to_caffe_and_back(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    compared = quietly(settled(getattr(architectures, name)()), torch.randn(FACES[name]), tmp_path)
    assert {each.reference.split()[0] for each in compared} == {"the", "OpenCV"}
    assert all(each.difference <= (1e-5 if each.reference == "the module itself" else 1e-4) for each in compared), compared


def test_a_dialect_keeps_its_own_words_only(tmp_path: Path) -> None:
    module, example = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.ReLU6(), nn.SiLU()), X
    texts = {}
    for dialect in DIALECTS:
        quietly(module, example, tmp_path, dialect=dialect)
        texts[dialect] = (tmp_path / "net.prototxt").read_text()
    for word in ("round_mode", '"Clip"', '"Swish"'):
        assert [word in texts[dialect] for dialect in DIALECTS] == [False, True, False], word
    quietly(Formula(lambda held, x: x.permute(0, 2, 3, 1)), X, tmp_path, dialect="ssd")
    assert '"Permute"' in (tmp_path / "net.prototxt").read_text()


def test_all_that_has_no_form_is_named_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(8, 8, 1), nn.GELU(), nn.MaxPool2d(3, dilation=2), nn.Conv2d(8, 4, 1))
    with pytest.raises(ConversionError) as error:
        to_caffe(module, X, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    said = str(error.value)
    assert "2 operations have no form" in said and "1: gelu" in said and "2: max_pool2d: " in said and "dilation" in said
    assert not list(tmp_path.iterdir())


REFUSED: dict[str, tuple[nn.Module, Any, str]] = {
    "places of maxima": (Formula(lambda held, x: held[0](x)[1], nn.MaxPool2d(2, return_indices=True)), X, "no such second result"),
    "nothing": (Formula(lambda held, x: x[:, :0]), X, "nothing is left"),
    "no batch": (nn.Conv2d(8, 4, 3), X[0], "no axis for the samples"),
    "statistics of the batch": (nn.BatchNorm2d(8, track_running_stats=False), X, "depends on the batch"),
    "a line above": (nn.Softplus(1, 0.1), X, "BNLL does not"),
    "a mean of samples": (Formula(lambda held, x: x.mean(0, keepdim=True)), X, "samples of the batch"),
    "places that the net computes": (Formula(lambda held, x: x[:, x[0, :3, 0, 0].long()]), X, "the net itself computes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_gives_the_reason(case: str, tmp_path: Path) -> None:
    module, example, reason = REFUSED[case]
    with pytest.raises(ConversionError, match=reason):
        quietly(module, example, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_the_prototxt_s_name_leaves_no_caffemodel(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").mkdir()
    with pytest.raises(ConversionError, match="this is a folder"):
        to_caffe(nn.ReLU(), X, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert [path.name for path in tmp_path.iterdir()] == ["net.prototxt"]


def test_a_permutation_says_which_dialect_has_it(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r'Permute layer of \[0, 2, 3, 1\] does it, which only dialect="ssd" has'):
        to_caffe(Formula(lambda held, x: x.permute(0, 2, 3, 1)), X, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")


def test_the_module_keeps_its_mode_and_its_weights(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    module[1].eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    quietly(module, X, tmp_path)
    assert [each.training for each in module.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_what_cannot_be_exported_or_named_is_a_conversion_error(tmp_path: Path) -> None:
    branching = Formula(lambda held, x: x if x.sum() > 0 else -x)
    with pytest.raises(ConversionError, match=r"torch\.export cannot read it"):
        to_caffe(branching, X, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    with pytest.raises(ConversionError, match="two names"):
        to_caffe(nn.ReLU(), X, tmp_path / "net", tmp_path / "net")
    with pytest.raises(ConversionError, match="dialect"):
        to_caffe(nn.ReLU(), X, tmp_path / "a", tmp_path / "b", dialect="caffe2")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_net_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from converter.export.operators import OPERATORS as registered

    monkeypatch.setitem(registered, "relu", lambda net, self: net.one("AbsVal", [self], self.shape))
    with pytest.raises(ConversionError, match="computes something else"):
        to_caffe(nn.ReLU(), X, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert not list(tmp_path.iterdir())


def test_what_is_no_number_on_one_side_only_is_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from converter.export.operators import OPERATORS as registered

    both = quietly(Formula(lambda held, x: x.log()), X, tmp_path)  # of negative values: no number here, and none there
    assert both[0].difference == 0
    folder = tmp_path / "other"
    folder.mkdir()
    monkeypatch.setitem(registered, "abs", lambda net, self: net.one("Log", [self], self.shape))
    with pytest.raises(ConversionError, match="computes something else"):
        to_caffe(Formula(lambda held, x: x.abs()), X, folder / "net.prototxt", folder / "net.caffemodel")
    assert not list(folder.iterdir())
