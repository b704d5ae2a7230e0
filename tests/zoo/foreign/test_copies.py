"""Converted copies: each form computes what its own framework would, what doesn't fit is listed, and nothing hostile is run or followed.

The nets are the shipped prototxts with a 32nd of their channels; the slow tests take the real sizes.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import foreign_files as ff
import numpy as np
import pytest
import torch
from drawn import caffemodel

import zoo
from zoo.cards import registry
from zoo.cli import main
from zoo.errors import LoadError, ProofError, TermsNotAccepted, Unverified, ZooError
from zoo.files import copies
from zoo.foreign import adding, forms
from zoo.models import named

PROTOTXTS = named.PROTOTXTS
FLAT = (16, 7, 7)
YES: dict[str, Any] = {"accept_terms": True, "allow_unverified": True}
TORCH = ["pytorch-mcn", "prlz77", "PyVGGFace", "torchvision", "Torch7"]


@pytest.fixture
def small(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "prototxt"
    place.mkdir()
    for path in PROTOTXTS.glob("*.prototxt"):
        text = re.sub(r"num_output: (\d+)", lambda number: f"num_output: {max(2, int(number[1]) // 32)}", path.read_text())
        (place / path.name).write_text(text)
    monkeypatch.setattr(named, "PROTOTXTS", place)
    cards = []
    for card in registry.CARDS:
        weights = replace(card.files[0], size=None, checksums=())
        cards.append(replace(card, architecture=None, files=(weights, *card.files[1:])) if card.name in forms.FAMILIES else card)
    monkeypatch.setattr(registry, "CARDS", tuple(cards))
    monkeypatch.setitem(forms.FAMILIES, "vgg_face", replace(forms.FAMILIES["vgg_face"], flat={"fc6": FLAT}))


def drawn(name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    return ff.draw(named.copy_structure(registry.card_of(name)).state_dict(), seed)


def image() -> torch.Tensor:
    """(1, 3, 224, 224) BGR."""
    return torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def logits(name: str, blob: str) -> torch.Tensor:
    model: Any = zoo.load(name)
    with torch.inference_mode():
        result: torch.Tensor = model(image(), blobs=(blob,))[blob]
    return result


# --- every form -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", TORCH)
def test_vgg_face_of_a_state_dict_computes_what_the_file_s_own_net_does(small: None, form: str, tmp_path: Path) -> None:
    saved = ff.vgg_torch(drawn("vgg_face"), form)
    zoo.add("vgg_face", ff.save_torch(tmp_path / "vgg.pth", saved), **YES)
    own = image().flip(1) if form == "pytorch-mcn" else image()
    torch.testing.assert_close(logits("vgg_face", "fc8"), ff.vgg_forward(saved, form, own), rtol=1e-4, atol=1e-5)
    assert zoo.info("vgg_face").origin.startswith("unverified: ") and "vgg.pth" in zoo.info("vgg_face").origin


@pytest.mark.parametrize(
    ("convolved", "how"),
    [(False, {}), (False, {"style": 1}), (False, {"model": True}), (True, {"named": False}), (True, {})],
    ids=["keras-vggface", "keras-vggface by Keras 1", "keras-vggface as a model", "deepface", "deepface with names"],
)
def test_vgg_face_of_keras_computes_what_keras_would(small: None, convolved: bool, how: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="Keras's files are read by h5py: the extra hdf5")
    layers = ff.vgg_keras(drawn("vgg_face"), FLAT, convolved)
    zoo.add("vgg_face", ff.save_keras(tmp_path / "vgg.h5", layers, **how), **YES)
    own = image()[0].numpy().transpose(1, 2, 0)
    expected = ff.keras_forward(layers, own[:, :, ::-1] if convolved else own)
    assert logits("vgg_face", "fc8")[0].numpy() == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert ("deepface" if convolved else "keras-vggface") in zoo.info("vgg_face").origin


@pytest.mark.parametrize("net", [pytest.param("resnet50", marks=pytest.mark.slow), "senet50"])
def test_vggface2_of_both_forms_computes_what_pytorch_mcn_s_net_does(small: None, net: str, tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="Keras's files are read by h5py: the extra hdf5")
    name = f"vggface2_{net}_ft"
    state = drawn(name)
    saved = ff.resnet_torch(state, net == "senet50")
    zoo.add(name, ff.save_torch(tmp_path / f"{net}_ft_dag.pth", saved), **YES)
    torch.testing.assert_close(logits(name, "classifier"), ff.resnet_forward(saved, image().flip(1)), rtol=1e-3, atol=1e-4)
    zoo.add(name, ff.save_keras(tmp_path / f"{net}.h5", ff.resnet_keras(state)), **YES)  # the same values: the pin agrees
    assert "keras-vggface" in zoo.info(name).origin
    zoo.add(name, ff.save_torch(tmp_path / "weight.pth", ff.resnet_like_torchvision(state)), **YES)
    assert "VGGFace2-pytorch; takes BGR" in zoo.info(name).origin
    underscored = {layer.replace("/", "_"): arrays for layer, arrays in ff.resnet_keras(state).items()}
    zoo.add(name, ff.save_keras(tmp_path / f"{net}_.h5", underscored), **YES)


def test_the_center_loss_net_comes_under_caffe_s_names_and_this_package_s(small: None, tmp_path: Path) -> None:
    from architectures import CenterLossFace

    state = drawn("center_loss_face")
    zoo.add("center_loss_face", ff.save_torch(tmp_path / "a.pth", state), **YES)
    loaded = zoo.load("center_loss_face").state_dict()
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[key], value) for key, value in state.items())
    ours = ff.renamed(state, lambda layer: CenterLossFace.FROM_CAFFE[layer] or "")
    assert "res4_10.conv2.weight" in ours
    zoo.add("center_loss_face", ff.save_torch(tmp_path / "b.pth", ours), **YES)
    assert "architectures.CenterLossFace" in zoo.info("center_loss_face").origin


@pytest.mark.parametrize("how", ["legacy", "wrapped", "parallel", "half"])
def test_a_state_dict_is_read_however_it_was_saved(small: None, how: str, tmp_path: Path) -> None:
    saved: dict[str, Any] = ff.vgg_torch(drawn("vgg_face"), "prlz77")
    path = tmp_path / "vgg.pth"
    if how == "half":
        saved = {key: value.half() for key, value in saved.items()}
    elif how == "parallel":
        saved = {f"module.{key}": value for key, value in saved.items()}
    torch.save({"state_dict": saved, "epoch": 3} if how == "wrapped" else saved, path, _use_new_zipfile_serialization=how != "legacy")
    zoo.add("vgg_face", path, **YES)
    weight = zoo.load("vgg_face").state_dict()["fc7.weight"]
    assert weight.dtype == torch.float32 and torch.allclose(weight, drawn("vgg_face")["fc7.weight"], atol=1e-3)


def test_the_channels_can_be_told(small: None, tmp_path: Path) -> None:
    """Caffe's own names are pytorch-mcn's, whose nets take RGB; a state dict straight from Caffe takes BGR."""
    state = drawn("vgg_face")
    zoo.add("vgg_face", ff.save_torch(tmp_path / "caffe.pth", state), channels="BGR", **YES)
    assert torch.equal(zoo.load("vgg_face").state_dict()["conv1_1.weight"], state["conv1_1.weight"])
    assert "takes BGR: as told" in zoo.info("vgg_face").origin


# --- what doesn't fit -----------------------------------------------------------------------------------------------------------------


def test_all_that_does_not_fit_is_in_one_message(small: None, tmp_path: Path) -> None:
    saved = ff.vgg_torch(drawn("vgg_face"), "pytorch-mcn")
    del saved["fc7.bias"]
    saved["conv2_1.weight"] = saved["conv2_1.weight"][:, :, :2]
    saved["fc9.weight"] = torch.zeros(3)
    with pytest.raises(LoadError) as raised:
        zoo.add("vgg_face", ff.save_torch(tmp_path / "vgg.pth", saved), **YES)
    text = str(raised.value)
    assert "read as pytorch-mcn" in text and "3 differences" in text
    assert "missing: fc7.bias (128,)" in text and "unexpected: 'fc9.weight' (3,)" in text
    assert re.search(r"wrong shape: 'conv2_1.weight' \(4, 2, 2, 3\); the net's conv2_1.weight is \(4, 2, 3, 3\)", text)
    assert copies.copy_of(registry.card_of("vgg_face")) is None


def test_keras_vggface_without_its_top_is_told_apart(small: None, tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="Keras's files are read by h5py: the extra hdf5")
    layers = {name: arrays for name, arrays in ff.vgg_keras(drawn("vgg_face"), FLAT, False).items() if name.startswith("conv")}
    with pytest.raises(LoadError, match=r"(?s)6 differences.*missing: fc8.bias.*notop"):
        zoo.add("vgg_face", ff.save_keras(tmp_path / "notop.h5", layers), **YES)
    name = "vggface2_senet50_ft"  # without its classifier, it is all that a new one needs
    zoo.add(name, ff.save_keras(tmp_path / "notop2.h5", ff.resnet_keras(drawn(name), top=False)), **YES)
    with pytest.raises(LoadError, match=r"no classifier .*num_classes="):
        zoo.load(name)
    model: Any = zoo.load(name, num_classes=7)
    assert model(image()).shape == (1, 7) and "without its classifier" in model.card.origin


def test_other_files_are_no_copies(small: None, tmp_path: Path) -> None:
    strange = ff.save_torch(tmp_path / "strange.pth", {"encoder.0.weight": torch.zeros(3), "top.bias": torch.zeros(1)})
    with pytest.raises(LoadError, match=r"'encoder.0'.*no form that is known: pytorch-mcn .*torchvision"):
        zoo.add("vgg_face", strange, **YES)
    with pytest.raises(ProofError, match=r"file of PyTorch's; converted copies are known for vgg_face, .*not for sphereface20"):
        zoo.add("sphereface20", strange, **YES)
    with pytest.raises(ProofError, match="is none of vgg_face's files"):
        (tmp_path / "text.h5").write_text("no HDF5")
        zoo.add("vgg_face", tmp_path / "text.h5", **YES)
    with pytest.raises(ProofError, match="--channels is for these"):
        zoo.add("vgg_face", tmp_path / "text.h5", channels="RGB", **YES)
    ints = ff.save_torch(tmp_path / "ints.pth", {"conv1_1.weight": torch.zeros(3, dtype=torch.int64)})
    with pytest.raises(LoadError, match=r"torch\.int64, not plain floats"):
        zoo.add("vgg_face", ints, **YES)


# --- consent, pins, and the authors' own ----------------------------------------------------------------------------------------------


def test_terms_and_an_unverified_file_are_asked_for(small: None, tmp_path: Path) -> None:
    path = ff.save_torch(tmp_path / "vgg.pth", ff.vgg_torch(drawn("vgg_face"), "prlz77"))
    with pytest.raises(TermsNotAccepted):
        zoo.add("vgg_face", path, allow_unverified=True)
    with pytest.raises(Unverified, match="--allow-unverified"):
        zoo.add("vgg_face", path, accept_terms=True)


def test_a_copy_is_pinned_checked_and_forgotten(small: None, tmp_path: Path, home: Path) -> None:
    zoo.add("vgg_face", ff.save_torch(tmp_path / "a.pth", ff.vgg_torch(drawn("vgg_face"), "prlz77")), **YES)
    zoo.add("vgg_face", ff.save_torch(tmp_path / "b.pth", ff.vgg_torch(drawn("vgg_face"), "torchvision")), **YES)
    other = ff.save_torch(tmp_path / "c.pth", ff.vgg_torch(drawn("vgg_face", 1), "prlz77"))
    with pytest.raises(ProofError, match=r"another copy of vgg_face is pinned, from .*b.pth.*caffe-zoo clean --all vgg_face"):
        zoo.add("vgg_face", other, **YES)
    finding = {each.file: each for each in zoo.verify("vgg_face")}["copy.safetensors"]
    assert finding.state == "pinned" and "b.pth" in finding.detail
    assert main(["verify", "vgg_face"]) == 0
    path = home / "vgg_face" / "copy.safetensors"
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)
    assert {each.file: each.state for each in zoo.verify("vgg_face")}["copy.safetensors"] == "wrong"
    assert main(["verify", "vgg_face"]) == 1
    assert path in zoo.clean("vgg_face", everything=True)
    zoo.add("vgg_face", other, **YES)


def authors(state: dict[str, torch.Tensor], path: Path) -> Path:
    layers = list(dict.fromkeys(key.rpartition(".")[0] for key in state))
    path.write_bytes(caffemodel({layer: [state[f"{layer}.weight"].numpy(), state[f"{layer}.bias"].numpy()] for layer in layers}))
    return path


def test_the_authors_own_file_speaks_for_or_against_a_copy(small: None, tmp_path: Path) -> None:
    state = drawn("vgg_face")
    copy = ff.save_torch(tmp_path / "vgg_face_dag.pth", ff.vgg_torch(state, "pytorch-mcn"))
    zoo.add("vgg_face", authors(state, tmp_path / "VGG_FACE.caffemodel"), **YES)
    zoo.add("vgg_face", copy, **YES)
    assert "equal, all 32 arrays" in {each.file: each for each in zoo.verify("vgg_face")}["copy.safetensors"].detail
    assert zoo.info("vgg_face").origin == "" == zoo.load("vgg_face").card.origin  # the authors' own is what is loaded
    with pytest.raises(ProofError, match=r"red and blue swapped in conv1_1.*--channels RGB"):
        zoo.add("vgg_face", copy, channels="BGR", **YES)


def test_a_copy_of_other_values_is_told_from_the_authors(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = drawn("vgg_face")
    zoo.add("vgg_face", authors(state, tmp_path / "VGG_FACE.caffemodel"), **YES)
    saved = ff.vgg_torch(state, "prlz77") | {"fc8.bias": state["fc8.bias"] + 0.5}
    path = ff.save_torch(tmp_path / "tuned.pth", saved)
    assert main(["add", "vgg_face", str(path), "--accept-terms", "--allow-unverified"]) == 0
    printed = capsys.readouterr().out
    assert "31 of 32 arrays are equal, the others apart by up to 0.5 (fc8.bias)" in printed and "unverified: " in printed


def test_the_command_says_what_came_and_where_from(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = ff.save_torch(tmp_path / "vgg_face_dag.pth", ff.vgg_torch(drawn("vgg_face"), "pytorch-mcn"))
    assert main(["add", "vgg_face", str(path), "--accept-terms"]) == 1
    assert "--allow-unverified" in capsys.readouterr().err
    assert main(["add", "vgg_face", str(path), "--accept-terms", "--allow-unverified"]) == 0
    printed = capsys.readouterr().out
    for words in ("copy.safetensors", "pytorch-mcn", "takes RGB", "129.186", "not in the cache to compare it with", str(path)):
        assert words in printed
    assert main(["info", "vgg_face"]) == 0
    printed = capsys.readouterr().out
    assert "a copy" in printed and "unverified: " in printed
    assert main(["info", "vgg_face", "--json"]) == 0
    assert "vgg_face_dag.pth" in json.loads(capsys.readouterr().out)["origin"]
    assert main(["list"]) == 0
    assert re.search(r"vgg_face +face identification, face descriptor +a copy", capsys.readouterr().out)


def test_a_folder_for_the_hub_says_that_a_copy_is_unverified_and_nothing_of_this_machine(small: None, tmp_path: Path) -> None:
    from zoo.models.hub import write_hub

    path = ff.save_torch(tmp_path / "vgg_face_dag.pth", ff.vgg_torch(drawn("vgg_face"), "pytorch-mcn"))
    zoo.add("vgg_face", path, **YES)
    write_hub(zoo.load("vgg_face"), tmp_path / "hub", accept_terms=True)
    page = (tmp_path / "hub" / "README.md").read_text()
    assert "Unverified: " in page and "vgg\\_face\\_dag.pth" in page and str(tmp_path) not in page and "robots.ox.ac.uk" not in page


# --- hostile files --------------------------------------------------------------------------------------------------------------------


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("/tmp/caffezoo-was-here",)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_nothing_in_a_pickle_is_run(small: None, how: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    if how == "pickle":
        path.write_bytes(pickle.dumps({"conv1_1.weight": Hostile()}))
    else:
        torch.save({"conv1_1.weight": Hostile()}, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(LoadError, match="runs code that it chooses"):
        zoo.add("vgg_face", path, **YES)
    assert not Path("/tmp/caffezoo-was-here").exists()


def test_damaged_and_packed_files_end_in_a_sentence(small: None, tmp_path: Path) -> None:
    good = ff.save_torch(tmp_path / "good.pth", ff.vgg_torch(drawn("vgg_face"), "prlz77")).read_bytes()
    legacy = ff.save_torch(tmp_path / "old.pth", {"fc7.weight": torch.zeros(9)}, _use_new_zipfile_serialization=False).read_bytes()
    for body in (good[: len(good) // 2], good[:200], legacy[: len(legacy) // 2], legacy[:40], b"\x80\x02"):
        (tmp_path / "bad.pth").write_bytes(body)
        with pytest.raises(ZooError):
            zoo.add("vgg_face", tmp_path / "bad.pth", **YES)
    with zipfile.ZipFile(tmp_path / "good.pth") as source, zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in source.namelist():
            packed.writestr(name, source.read(name))
    with pytest.raises(LoadError, match=r"compressed, which torch\.save never does"):
        zoo.add("vgg_face", tmp_path / "packed.pth", **YES)
    vast = torch.zeros(1).expand(1 << 40)  # of four bytes, it says
    with pytest.raises(LoadError, match=r"wrong shape: 'fc7.weight' \(1099511627776,\)"):
        zoo.add("vgg_face", ff.save_torch(tmp_path / "vast.pth", {**ff.vgg_torch(drawn("vgg_face"), "prlz77"), "fc7.weight": vast}), **YES)


def test_links_and_promises_of_an_hdf5_file_are_not_followed(small: None, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="Keras's files are read by h5py: the extra hdf5")
    layers = ff.vgg_keras(drawn("vgg_face"), FLAT, False)

    def changed(name: str, change: Any) -> Path:
        path = ff.save_keras(tmp_path / f"{name}.h5", layers)
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    def external(file: Any) -> None:
        del file["fc7"]["fc7"]["bias:0"]
        file["fc7"]["fc7"]["bias:0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "secret")

    def soft(file: Any) -> None:
        del file["fc7"]
        file["fc7"] = h5py.SoftLink("/fc8")

    def raw(file: Any) -> None:
        del file["fc7"]["fc7"]["bias:0"]
        (tmp_path / "raw").write_bytes(bytes(512))
        file["fc7"]["fc7"].create_dataset("bias:0", (128,), "<f4", external=[(str(tmp_path / "raw"), 0, 512)])

    def vast(file: Any) -> None:
        del file["fc7"]["fc7"]["bias:0"]
        file["fc7"]["fc7"].create_dataset("bias:0", (1 << 40,), "<f4", chunks=(1 << 20,), compression="gzip")

    def words(file: Any) -> None:
        del file["fc7"]["fc7"]["bias:0"]
        file["fc7"]["fc7"].create_dataset("bias:0", data=np.array([b"x"] * 128))

    def nothing(file: Any) -> None:
        del file.attrs["layer_names"]

    def absent(file: Any) -> None:
        del file["fc7"]["fc7"]["bias:0"]

    def unknown(file: Any) -> None:
        file["fc7"].attrs["weight_names"] = np.array([b"fc7/evil:0"])

    expected = {
        external: "is a link", soft: "is a link", raw: "in another file", vast: "claims", words: "not floats",
        nothing: "without layer_names",
        absent: "not in the file", unknown: "neither a kernel",
    }  # fmt: skip
    for change, sentence in expected.items():
        with pytest.raises(LoadError, match=sentence):
            zoo.add("vgg_face", changed(change.__name__, change), **YES)
    path = ff.save_keras(tmp_path / "cut.h5", layers)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(LoadError, match="damaged"):
        zoo.add("vgg_face", path, **YES)


def test_every_family_has_its_card_and_its_prototxt() -> None:
    for name, family in forms.FAMILIES.items():
        net = named.copy_structure(registry.card_of(name))
        layers = {layer.removesuffix("/scale") for layer in (key.rpartition(".")[0] for key in net.state_dict())}
        for form in family.forms:
            assert not form.layers or set(form.layers.values()) == layers, (name, form.name)
        assert f"{family.first}.weight" in net.state_dict()
        for layer, (channels, height, width) in family.flat.items():
            assert net.state_dict()[f"{layer}.weight"].shape[1] == channels * height * width
    assert adding.kind_of(Path(__file__)) is None


# --- real sizes -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("name", "blob"), [("vgg_face", "fc8"), ("center_loss_face", "fc5"), ("vggface2_resnet50_ft", "classifier")])
def test_a_copy_of_the_real_size_loads_as_the_model_that_names_it(home: Path, name: str, blob: str, tmp_path: Path) -> None:
    state = drawn(name)
    if name == "vgg_face":
        saved = ff.vgg_torch(state, "pytorch-mcn")
    else:
        saved = ff.resnet_torch(state, False) if name.startswith("vggface2") else state
    zoo.add(name, ff.save_torch(tmp_path / "copy.pth", saved), **YES)
    model: Any = zoo.load(name)
    picture = torch.randint(0, 256, (3, 260, 240), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    inputs = model.preprocess(picture)[None]
    net = named.copy_structure(registry.card_of(name))
    net.load_state_dict({key: state.get(key, torch.tensor(0)) for key in net.state_dict()}, assign=True)
    with torch.inference_mode():
        expected = net.eval()(inputs, blobs=(blob,))[blob]
        found = [model(inputs)]
        if name == "vgg_face":
            found.append(ff.vgg_forward(saved, "pytorch-mcn", inputs.flip(1)))
    for each in found:  # pixels up to 255 make large logits
        assert (each - expected).abs().max() < 1e-4 * expected.abs().max()
    assert type(model).__name__ == {"vgg_face": "VGGFace", "center_loss_face": "CenterLossFace"}.get(name, "CaffeNet")
    assert "copy.pth" in model.card.origin
