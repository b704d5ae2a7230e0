"""The older project's files, as it wrote them: state dicts of nets that are built again here from its description."""

from __future__ import annotations

import collections

import pytest
import torch
from torch import Tensor, nn

from architectures import FaceResNet, LegacyFileError, VGGFace, WeightsMismatch, load_best7164, load_best_resnet
from architectures import load_vgg_face_torch as load_vgg

CONVS = [(0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256), (12, 256, 256), (14, 256, 256),
         (17, 256, 512), (19, 512, 512), (21, 512, 512), (24, 512, 512), (26, 512, 512), (28, 512, 512)]  # fmt: skip
DENSE = [(32, 25088, 4096), (35, 4096, 4096), (38, 4096, 2622)]


def numbered_vgg(prefix: str = "", last: str = "38.1", classes: int = 2622) -> dict[str, Tensor]:
    """The state dict of VGG_Face_torch.pth. Each tensor is one number, a new one each, so that the file stays small."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i, inputs, outputs in CONVS:
        shapes |= {f"{prefix}{i}.weight": (outputs, inputs, 3, 3), f"{prefix}{i}.bias": (outputs,)}
    for i, inputs, outputs in DENSE[:2]:
        shapes |= {f"{prefix}{i}.1.weight": (outputs, inputs), f"{prefix}{i}.1.bias": (outputs,)}
    shapes |= {f"{last}.weight": (classes, 4096), f"{last}.bias": (classes,)}
    return {name: torch.full((1,), i + 1.0).expand(shape) for i, (name, shape) in enumerate(shapes.items())}


class OldFaceResNet(nn.Module):
    """The face ResNet of best_resnet.model, from its names and shapes."""

    def __init__(self) -> None:
        super().__init__()

        def block(n: int) -> nn.ModuleDict:
            return nn.ModuleDict({"conv1": nn.Conv2d(n, n, 3, padding=1), "conv2": nn.Conv2d(n, n, 3, padding=1)})

        for i, (name, bn, inputs, outputs, blocks) in enumerate(
            [("conv1_a", "bn1_a", 3, 32, 0), ("conv1_b", "bn1_b", 32, 64, 1), ("conv2", "bn2", 64, 128, 2),
             ("conv3", "bn3", 128, 256, 5), ("conv4", "bn4", 256, 512, 3)]
        ):  # fmt: skip
            self.add_module(name, nn.Conv2d(inputs, outputs, 3))
            self.add_module(bn, nn.BatchNorm2d(outputs))
            if blocks:
                self.add_module(f"layer{i}", nn.Sequential(*(block(outputs) for _ in range(blocks))))
        self.fc5_new = nn.Linear(512 * 5 * 4, 512)
        self.fc8_final = nn.Linear(512, 7)

    def forward(self, x: Tensor) -> Tensor:
        m = dict(self.named_children())
        for i, stage in enumerate(["1_a", "1_b", "2", "3", "4"]):
            x = m[f"bn{stage}"](m[f"conv{stage}"](x)).relu()
            if i:
                x = nn.functional.max_pool2d(x, 2)
                for block in m[f"layer{i}"]:
                    x = x + block["conv2"](block["conv1"](x).relu()).relu()
        return self.fc8_final(self.fc5_new(x.flatten(1)))


@pytest.fixture(scope="module")
def old_resnet() -> nn.Module:
    net = OldFaceResNet().eval()
    draw = torch.Generator().manual_seed(10)
    for name, t in net.state_dict().items():
        if name.endswith("running_var"):
            t.uniform_(0.5, 1.5, generator=draw)
        elif t.is_floating_point():
            t.normal_(0, 0.1 if t.dim() == 1 else (2 / t[0].numel()) ** 0.5, generator=draw)
    return net


def of_torch_03(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what BatchNorm counts only since 0.4.1."""
    return collections.OrderedDict((k, v) for k, v in state.items() if not k.endswith("num_batches_tracked"))


def assert_layers_in_the_order_of_the_file(net: VGGFace) -> None:
    """numbered_vgg counts its tensors, and both it and the net list layers in the order in which they run."""
    layers = [name for name, _ in net.named_children() if name.startswith(("conv", "fc"))]
    assert len(layers) == 16
    for number, layer in enumerate(layers):
        assert net.get_parameter(f"{layer}.weight").flatten()[0] == 2 * number + 1
        assert net.get_parameter(f"{layer}.bias")[0] == 2 * number + 2


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "torch 0.3's format"])
def test_the_numbered_vgg_face_becomes_the_named_one(tmp_path, zipped):
    state = numbered_vgg()
    torch.save(state, tmp_path / "VGG_Face_torch.pth", _use_new_zipfile_serialization=zipped)
    net = load_vgg(tmp_path / "VGG_Face_torch.pth")
    assert isinstance(net, VGGFace)
    assert not net.training
    assert_layers_in_the_order_of_the_file(net)
    assert sum(p.numel() for p in net.parameters()) == 145_002_878


def test_the_finetuned_vgg_face_has_seven_classes(tmp_path):
    torch.save(numbered_vgg("pre_model.", "classifier", 7), tmp_path / "best7164.model")
    net = load_best7164(tmp_path / "best7164.model")
    assert net.fc8.weight.shape == (7, 4096)
    assert_layers_in_the_order_of_the_file(net)


@torch.inference_mode()
def test_the_face_resnet_computes_what_the_older_one_computed(tmp_path, old_resnet):
    torch.save(of_torch_03(old_resnet.state_dict()), tmp_path / "best_resnet.model")
    net = load_best_resnet(tmp_path / "best_resnet.model")
    assert isinstance(net, FaceResNet)
    assert not net.training
    x = torch.randn(2, 3, 112, 96, generator=torch.Generator().manual_seed(11))
    want = old_resnet(x)
    assert want.std() > 1e-2
    torch.testing.assert_close(net(x), want, rtol=1e-4, atol=1e-5)
    assert net.bn4.num_batches_tracked == 0


class AsTorch03:
    """Pickles a tensor as torch 0.3 did: rebuilt by _rebuild_tensor, which knew of no gradient."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self):
        t = self.tensor
        return torch._utils._rebuild_tensor, (t._typed_storage(), t.storage_offset(), tuple(t.shape), t.stride())


def test_a_file_that_torch_03_pickled_is_read(tmp_path, old_resnet):
    state = of_torch_03(old_resnet.state_dict())
    old = collections.OrderedDict((name, AsTorch03(t)) for name, t in state.items())
    torch.save(old, tmp_path / "best_resnet.model", _use_new_zipfile_serialization=False)
    assert b"_rebuild_tensor\n" in (tmp_path / "best_resnet.model").read_bytes()
    net = load_best_resnet(tmp_path / "best_resnet.model")
    assert all(torch.equal(net.state_dict()[name], t) for name, t in state.items())


def test_all_that_does_not_fit_is_in_one_message_with_the_file(tmp_path):
    state = numbered_vgg()
    del state["12.bias"], state["35.1.weight"]
    state["0.weight"] = torch.zeros(64, 1, 3, 3)
    state["40.weight"] = torch.zeros(2)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(WeightsMismatch) as e:
        load_vgg(tmp_path / "other.pth")
    first, *lines = str(e.value).splitlines()
    assert str(tmp_path / "other.pth") in first
    assert "VGGFace" in first
    assert lines == [
        "  unexpected: 40.weight (2,)",
        "  missing: conv3_2.bias (256,)",
        "  missing: fc7.weight (4096, 4096)",
        "  wrong shape: conv1_1.weight is (64, 1, 3, 3), the net has (64, 3, 3, 3)",
    ]


class Payload:
    def __reduce__(self):
        return eval, ("__import__('pathlib').Path('it ran').touch()",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "torch 0.3's format"])
def test_a_whole_pickled_module_is_not_run_and_the_message_says_what_to_do(tmp_path, monkeypatch, old_resnet, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save(nn.Sequential(nn.Linear(2, 2)), "module.model", _use_new_zipfile_serialization=zipped)
    torch.save({"conv1_a.weight": Payload()}, "hostile.model", _use_new_zipfile_serialization=zipped)
    for name in ("module.model", "hostile.model"):
        with pytest.raises(LegacyFileError, match=rf"{name}.*whole module.*state_dict\(\), NEW_PATH"):
            load_best_resnet(name)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("page", b"<!DOCTYPE html><html>quota exceeded</html>"), ("empty", b""), ("zip", b"PK\x03\x04 and then nothing")],
)
def test_a_file_that_is_no_state_dict_is_a_clear_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LegacyFileError, match=str(tmp_path / name)):
        load_vgg(tmp_path / name)


def test_a_truncated_file_is_a_clear_error(tmp_path, old_resnet):
    for zipped in (True, False):
        torch.save(of_torch_03(old_resnet.state_dict()), tmp_path / "net", _use_new_zipfile_serialization=zipped)
        whole = (tmp_path / "net").read_bytes()
        (tmp_path / "net").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(LegacyFileError, match="net"):
            load_best_resnet(tmp_path / "net")


@pytest.mark.parametrize("value", [[torch.zeros(1)], torch.zeros(1), {"epoch": 3}])
def test_other_contents_than_names_and_tensors_are_errors(tmp_path, value):
    torch.save(value, tmp_path / "net")
    with pytest.raises(LegacyFileError, match="not a state dict"):
        load_best_resnet(tmp_path / "net")


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_vgg(tmp_path / "nowhere.pth")
