"""Each hand-written net against the converted net of the same prototxt, with the same drawn weights, blob by blob."""

from __future__ import annotations

from typing import NamedTuple

import caffe_prototxts as caffe
import pytest
import torch
from torch import Tensor, nn

from architectures import (
    CenterLossFace,
    FaceResNet,
    MobileFaceExpression,
    MobileFaceNet,
    ONet,
    PNet,
    RNet,
    SmallResNet,
    SmallVGG,
    SphereFace20,
    SqueezeNet,
    VGGFace,
    WeightsMismatch,
    from_caffe_state,
    load_from_caffe,
)
from converter import convert


class Case(NamedTuple):
    net: type[nn.Module]
    layers: list[caffe.Layer]
    shape: tuple[int, ...]
    outputs: tuple[str, ...]  # the blobs that the net returns
    parameters: int
    transposed: bool = False
    functions: tuple[str, ...] = ()  # blobs that are no module's output in the hand-written net


# The counts are not ours: those of VGG-Face and MTCNN are of the published files (det2's 101,468 less 1,290 of a layer that
# its prototxt hasn't), Intel's Open Model Zoo says 22.671 M for SphereFace, torchvision 1,235,496 for SqueezeNet 1.1.
# For the other two the converted net is all there is; MobileFaceExpression is MobileFaceNet without its last layers (2 x 512 of
# bn6w, 512 x 128 + 128 of pre_fc1, 2 x 128 of fc1), with a BatchNorm of 768 channels and 7 classes. The nets without published weights
# are counted from their layers' sizes: 3x3 kernels, two numbers a channel for a BatchNorm; SmallResNet is torchvision's resnet18
# (11,689,512) with a stem of 3x3 in place of 7x7 and 7 classes in place of 1,000.
CASES = [
    Case(VGGFace, caffe.vgg_face(), (1, 3, 224, 224), ("fc8",), 145_002_878),
    Case(CenterLossFace, caffe.center_loss_face(), (1, 3, 112, 96), ("fc5",), 27_543_072),
    Case(SphereFace20, caffe.sphereface20(), (2, 3, 112, 96), ("fc5",), 22_670_656),
    Case(MobileFaceNet, caffe.mobilefacenet(), (2, 3, 112, 112), ("fc1",), 979_200),
    Case(SqueezeNet, caffe.squeezenet(), (1, 3, 227, 227), ("pool10",), 1_235_496),
    Case(
        MobileFaceExpression,
        caffe.mobile_face_expression(),
        (2, 3, 112, 112),
        ("classifier",),
        979_200 - 1_024 - 65_664 - 256 + 1_536 + 7 * 769,
        functions=("pool1", "pool2", "pool3", "features"),
    ),
    Case(
        SmallVGG,
        caffe.small_vgg(),
        (2, 1, 44, 44),
        ("classifier",),
        9 * (1 * 32 + 32 * 32 + 32 * 64 + 64 * 64 + 64 * 160 + 160 * 160 + 160 * 320 + 320 * 320) + 4 * (32 + 64 + 160 + 320) + 321 * 7,
        functions=("features",),
    ),
    Case(
        SmallResNet,
        caffe.small_resnet(),
        (2, 3, 48, 48),
        ("classifier",),
        11_689_512 - 3 * 64 * (49 - 9) - 513 * (1000 - 7),
        functions=("relu1", *(f"layer{stage}_{block}_relu1" for stage in (1, 2, 3, 4) for block in (0, 1)), "features"),
    ),
    Case(
        FaceResNet,
        caffe.face_resnet(),
        (2, 3, 112, 96),
        ("fc8_final",),
        # CenterLossFace without its PReLUs (one slope a channel; two in each block), with five BatchNorms and 7 classes
        27_543_072 - (32 + 64 + 128 + 256 + 512) - 2 * (64 + 2 * 128 + 5 * 256 + 3 * 512) + 2 * (32 + 64 + 128 + 256 + 512) + 513 * 7,
        functions=(
            *(f"relu{place}" for place in ("1_b", "2", "3", "4")),
            *(f"layer{n}_{i}_relu{j}" for n, count in ((1, 1), (2, 2), (3, 5), (4, 3)) for i in range(count) for j in (1, 2)),
            "pool1b",
            "pool2",
            "pool3",
            "pool4",
        ),
    ),
    Case(PNet, caffe.pnet(), (2, 3, 31, 26), ("prob1", "conv4-2"), 6_632, True),
    Case(RNet, caffe.rnet(), (3, 3, 24, 24), ("prob1", "conv5-2"), 101_468 - 1_290, True),
    Case(ONet, caffe.onet(), (3, 3, 48, 48), ("prob1", "conv6-2", "conv6-3"), 389_040, True),
]
every_net = pytest.mark.parametrize("case", CASES, ids=lambda case: case.net.__name__)
SMALL = [case for case in CASES if case.net in (MobileFaceNet, SqueezeNet, PNet, RNet)]


def converted(case: Case, tmp_path) -> nn.Module:
    """The prototxt's net, with weights drawn so that activations neither vanish nor grow."""
    path = tmp_path / "net.prototxt"
    path.write_text(caffe.prototxt(case.shape, case.layers))
    net = convert(path)
    draw = torch.Generator().manual_seed(len(case.layers))
    for name, t in net.state_dict().items():
        if name.endswith("running_var"):
            t.uniform_(0.5, 1.5, generator=draw)
        elif t.dim() > 1:
            t.normal_(0, (2 / t[0].numel()) ** 0.5, generator=draw)
        elif t.is_floating_point():
            t.uniform_(0.1, 0.4, generator=draw)
    return net


def hand_written(case: Case, reference: nn.Module) -> nn.Module:
    with torch.device("meta"):
        net = case.net()
    load_from_caffe(net, reference.state_dict())
    return net.eval()


def module_paths(case: Case, net: nn.Module) -> dict[str, str]:
    """Blob -> the module whose output is that blob: the one that stands for the last layer that writes it."""
    modules = dict(net.named_modules())
    # Sums have numbers as names in MobileFaceNet.
    sums = [name for name in modules if name.removeprefix("cnn.").startswith("res_") and "." not in name.removeprefix("cnn.")]
    writers = {layer.top: layer.name for layer in case.layers}
    paths = {}
    for blob, layer in writers.items():
        if layer.startswith("_plus"):
            path = sums[int(layer.removeprefix("_plus"))]
        elif layer.startswith("layer") and f"{blob}_conv1" in writers:
            path = blob.replace("_", ".")  # a residual block
        else:
            path = case.net.FROM_CAFFE.get(layer) or layer.removesuffix("/concat").replace("/", ".")
        if path in modules:
            paths[blob] = path
    return paths


def outputs_of(net: nn.Module, paths: dict[str, str], x: Tensor) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
    """The output of each named module, and of the net."""
    seen: dict[str, Tensor] = {}
    hooks = [
        net.get_submodule(path).register_forward_hook(lambda m, i, out, blob=blob: seen.update({blob: out.clone()}))
        for blob, path in paths.items()
    ]
    out = net(x)
    for hook in hooks:
        hook.remove()
    return seen, out if isinstance(out, tuple) else (out,)


@every_net
@torch.inference_mode()
def test_every_blob_of_the_net_is_that_of_the_converted_net(case, tmp_path):
    reference = converted(case, tmp_path)
    net = hand_written(case, reference)
    x = torch.randn(case.shape, generator=torch.Generator().manual_seed(1))

    def upright(t: Tensor) -> Tensor:
        return t.mT if case.transposed and t.dim() == 4 else t

    paths = module_paths(case, net)
    blobs = {layer.top for layer in case.layers}
    assert blobs - set(paths) <= {"prob", *case.functions, *case.outputs}
    expected = reference(x, blobs=tuple(blobs))
    seen, out = outputs_of(net, paths, upright(x).contiguous())
    for blob, value in [*seen.items(), *zip(case.outputs, out, strict=True)]:
        want = upright(expected[blob])
        value = value.reshape(want.shape)
        assert (value - want).abs().max() <= 1e-5 * want.abs().max(), blob
        assert want.std() > 1e-3, f"{blob} says nothing: all its values are alike"


@pytest.mark.parametrize(("case", "last"), [(CASES[0], "pool5"), (CASES[1], "pool4")], ids=["VGGFace", "CenterLossFace"])
@torch.inference_mode()
def test_odd_sizes_are_pooled_as_caffe_pools_them(case, last, tmp_path):
    end = next(i for i, layer in enumerate(case.layers) if layer.name == last) + 1
    case = case._replace(layers=case.layers[:end], shape=(1, 3, 71, 83))
    reference = converted(case, tmp_path)
    with torch.device("meta"):
        part = case.net().features(last)
    known = {layer: path for layer, path in case.net.FROM_CAFFE.items() if layer in {n.name for n in case.layers}}
    part.load_state_dict(from_caffe_state(known, reference.state_dict(), part.state_dict()), assign=True)
    x = torch.randn(case.shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(part(x), reference(x), rtol=1e-4, atol=1e-5)


@every_net
def test_the_net_has_as_many_parameters_as_the_published_one(case):
    with torch.device("meta"):
        net = case.net()
    assert sum(p.numel() for p in net.parameters()) == case.parameters


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.net.__name__)
def test_copied_and_shared_weights_are_the_same(case, tmp_path):
    state = converted(case, tmp_path).state_dict()
    copied = case.net()
    load_from_caffe(copied, state)
    with torch.device("meta"):
        shared = case.net()
    load_from_caffe(shared, state)
    assert all(torch.equal(t, shared.state_dict()[name]) for name, t in copied.state_dict().items())
    first = case.net.FROM_CAFFE
    layer = next(iter(first))
    state[f"{layer}.weight"].zero_()
    assert copied.get_parameter(f"{first[layer]}.weight").count_nonzero() > 0


@torch.inference_mode()
def test_features_are_blobs_after_their_in_place_layers(tmp_path):
    case = CASES[4]
    reference = converted(case, tmp_path)
    net = hand_written(case, reference)
    x = torch.randn(case.shape, generator=torch.Generator().manual_seed(2))
    expected = reference(x, blobs=("conv1", "fire3/concat", "fire9/concat", "conv10"))
    for name, blob in [("conv1", "conv1"), ("fire3", "fire3/concat"), ("fire9", "fire9/concat"), ("conv10", "conv10")]:
        torch.testing.assert_close(net.features(x, name), expected[blob])
        torch.testing.assert_close(net.features(name)(x), expected[blob])
    assert net.features(x, "conv1").min() == 0
    assert not net.features("conv1").training


def test_features_hold_no_later_layer_and_share_the_parameters():
    with torch.device("meta"):
        net = VGGFace()
    part = net.features("fc7")
    assert [name for name, _ in part.named_children()][-3:] == ["fc7", "relu7", "drop7"]
    assert part.fc7.weight is net.fc7.weight
    assert list(net.features("pool5").state_dict()) == [name for name in net.state_dict() if name.startswith("conv")]


def test_an_unknown_blob_is_an_error_that_names_the_near_one():
    with torch.device("meta"):
        net = VGGFace()
    with pytest.raises(ValueError, match=r"no blob 'conv5-3': did you mean 'conv5_3'\?.*fc8"):
        net.features("conv5-3")


@pytest.mark.parametrize(
    ("net", "size"), [(VGGFace, (224, 224)), (CenterLossFace, (112, 96)), (SphereFace20, (112, 96)),
                      (MobileFaceNet, (112, 112)), (SqueezeNet, (227, 227))]
)  # fmt: skip
def test_another_number_of_classes_changes_the_named_classifier_only(net, size):
    with torch.device("meta"):
        plain, seven = net().state_dict(), net(num_classes=7)
        assert seven(torch.empty(2, 3, *size)).shape == (2, 7)
    changed = {name for name, t in seven.state_dict().items() if name not in plain or plain[name].shape != t.shape}
    assert changed == {f"{net.CLASSIFIER}.weight", f"{net.CLASSIFIER}.bias"}


def test_block_biases_of_the_center_loss_net_take_no_gradient():
    with torch.device("meta"):
        net = CenterLossFace()
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert len(frozen) == 22
    assert all(name.startswith("res") and name.endswith(".bias") for name in frozen)


def test_all_differences_are_in_one_message():
    with torch.device("meta"):
        net = PNet()
        state = {name: torch.empty_like(t) for name, t in net.state_dict().items()}
    state = {f"{layer}.{p}": state[f"{path}.{p}"] for layer, path in PNet.FROM_CAFFE.items() for p in ("weight", "bias")
             if f"{path}.{p}" in state}  # fmt: skip
    del state["conv2.bias"]
    state["conv3.weight"] = torch.empty(32, 16, 5, 5)
    state["conv9.weight"] = torch.empty(2)
    state["PReLU1.slope"] = torch.empty(10)
    with pytest.raises(WeightsMismatch) as e:
        load_from_caffe(net, state)
    assert str(e.value).splitlines()[1:] == [
        "  unexpected: conv9.weight (2,)",
        "  missing: conv2.bias (16,)",
        "  unexpected: prelu1.slope (10,)",
        "  wrong shape: conv3.weight is (32, 16, 5, 5), the net has (32, 16, 3, 3)",
    ]


def test_renaming_alone_drops_what_is_none_and_wants_every_other_layer():
    table = {"a.b": "x.y", "c": None}
    assert list(from_caffe_state(table, {"a_b.weight": torch.ones(1), "c.weight": torch.ones(1)})) == ["x.y.weight"]
    with pytest.raises(WeightsMismatch, match="missing: a_b"):
        from_caffe_state(table, {})
