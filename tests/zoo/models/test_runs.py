"""zoo.load of run folders, which are written here by hand: whole ones, unfinished ones, and those of strangers."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

import architectures
import zoo
from zoo.cards.record import Crop
from zoo.errors import LoadError, UnknownModel
from zoo.models.runs import is_run

CLASSES = ["angry", "happy", "sad"]
SPEC = {"size": [48, 48], "channels": "RGB", "mean": [128.0, 127.0, 126.0], "scale": 0.0078125}
CARD: dict[str, Any] = {
    "format": 1,
    "architecture": "MobileFaceExpression",
    "arguments": {"num_classes": 3, "taps": ["res_3_block0", "dconv_34"]},
    "weights": "best.safetensors",
    "classes": CLASSES,
    "title": "a small net",
    "preprocess": SPEC,
    "recipe": "mobilefacenet",
    "scores": {"public": 0.5, "private": 0.25},
}


def small() -> torch.nn.Module:
    torch.manual_seed(5)
    net = architectures.MobileFaceExpression(3, ("res_3_block0", "dconv_34")).eval()
    for name, value in net.state_dict().items():
        if "running" in name:
            value.uniform_(0.5, 1.5)
    return net


def write_run(folder: Path, body: bytes, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "best.safetensors").write_bytes(body)
    card = {**CARD, "sha256": hashlib.sha256(body).hexdigest(), **changes}
    (folder / "card.json").write_text(json.dumps({key: value for key, value in card.items() if value is not ...}))
    return folder


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    return small()


@pytest.fixture(scope="module")
def weights(net: torch.nn.Module) -> bytes:
    return save({key: value.contiguous() for key, value in net.state_dict().items()})


@pytest.fixture
def run(tmp_path: Path, weights: bytes) -> Path:
    return write_run(tmp_path / "runs" / "a", weights)


def image() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (48, 48, 3), np.uint8)


# --- what a run gives --------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_a_run_s_model_is_the_one_that_was_trained(run: Path, net: torch.nn.Module) -> None:
    model = zoo.load(run)
    assert type(model).__name__ == "MobileFaceExpression" and not model.training
    assert model.labels == tuple(CLASSES)
    x = model.preprocess(image())
    assert torch.equal(x, (torch.from_numpy(image()).permute(2, 0, 1) - torch.tensor([128.0, 127, 126]).view(3, 1, 1)) / 128)
    assert torch.equal(model(x[None]), net(x[None]))


def test_each_channel_may_have_a_scale_of_its_own(tmp_path: Path, weights: bytes) -> None:
    scale = [1 / 58.395, 1 / 57.12, 1 / 57.375]  # 255 times ImageNet's deviations
    model = zoo.load(write_run(tmp_path / "b", weights, preprocess={**SPEC, "scale": scale}))
    without_mean = torch.from_numpy(image()).permute(2, 0, 1) - torch.tensor([128.0, 127, 126]).view(3, 1, 1)
    assert torch.equal(model.preprocess(image()), without_mean * torch.tensor(scale).view(3, 1, 1))
    for wrong in ([1.0, 2.0], [1.0, 2.0, "3"], "1"):
        with pytest.raises(LoadError, match=r"scale \(a number, or one for each channel\)"):
            zoo.load(write_run(tmp_path / "c", weights, preprocess={**SPEC, "scale": wrong}))


def test_the_card_says_what_card_json_says(run: Path) -> None:
    card = zoo.load(run).card
    assert (card.name, card.title, card.path, card.recipe) == ("a", "a small net", run, "mobilefacenet")
    assert (card.architecture, card.arguments, card.labels) == (CARD["architecture"], CARD["arguments"], tuple(CLASSES))
    assert (card.scores, card.preprocess.size, card.preprocess.mean) == (CARD["scores"], (48, 48), (128.0, 127.0, 126.0))
    with pytest.raises(AttributeError):
        card.name = "b"


def test_the_card_says_what_is_seen_around_a_face(run: Path, tmp_path: Path, weights: bytes) -> None:
    assert zoo.load(run).card.crop is None
    folder = write_run(tmp_path / "b", weights, crop={"margin": 0.25, "align": True, "source": "prepare_video"})
    assert zoo.load(folder).card.crop == Crop(0.25, True, "prepare_video")
    folder = write_run(tmp_path / "c", weights, crop={"margin": 0, "align": True, "source": "x", "size": [112, 96]})
    assert zoo.load(folder).card.crop == Crop(0.0, True, "x", (112, 96))


def test_a_text_with_a_slash_and_a_folder_beside_it_are_runs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    for name in (str(run), "./a", "a", Path("a"), "a/"):
        assert zoo.load(name, device="meta").card.name == "a"


def test_a_model_s_name_is_the_model_also_beside_a_run_of_that_name(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run.rename(run.parent / "mobilefacenet")
    monkeypatch.chdir(run.parent)
    assert not is_run("mobilefacenet") and is_run("./mobilefacenet") and is_run(Path("mobilefacenet"))
    assert type(zoo.load("mobilefacenet", pretrained=False)).__name__ == "MobileFaceNet"


def test_a_wrong_name_is_still_answered_with_the_right_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vggface").mkdir()  # no run
    with pytest.raises(UnknownModel, match="Did you mean 'vgg_face'"):
        zoo.load("vggface")
    for name in ("", "a\0b"):
        with pytest.raises(UnknownModel):
            zoo.load(name)


def test_num_classes_replaces_the_classifier_and_nothing_else(run: Path, net: torch.nn.Module) -> None:
    model = zoo.load(run, num_classes=5)
    state = model.state_dict()
    assert state["classifier.weight"].shape == (5, 192) and state["classifier.weight"].std() > 0 and model.labels == ()
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items() if not key.startswith("classifier"))
    with pytest.raises(LoadError, match="num_classes is 0"):
        zoo.load(run, num_classes=0)


def test_device_and_dtype_are_those_asked_for(run: Path) -> None:
    assert {p.dtype for p in zoo.load(run, dtype=torch.float16).parameters()} == {torch.float16}
    assert {p.device.type for p in zoo.load(run, device="meta").parameters()} == {"meta"}


def test_without_pretrained_weights_their_file_is_not_needed(run: Path, net: torch.nn.Module) -> None:
    (run / "best.safetensors").unlink()
    model = zoo.load(run, pretrained=False)
    assert not model.training and model.labels == tuple(CLASSES)
    assert not torch.equal(model.state_dict()["classifier.weight"], net.state_dict()["classifier.weight"])
    with pytest.raises(LoadError, match=r"best\.safetensors is missing"):
        zoo.load(run)


def test_training_on_changes_no_file(run: Path, weights: bytes) -> None:
    model = zoo.load(run)
    assert all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert (run / "best.safetensors").read_bytes() == weights


def test_a_run_s_model_can_be_pickled(run: Path) -> None:
    model = pickle.loads(pickle.dumps(zoo.load(run)))
    assert model(model.preprocess(image())[None]).shape == (1, 3)


def test_weights_of_half_precision_become_the_net_s_float32(tmp_path: Path, net: torch.nn.Module) -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in net.state_dict().items()}
    model = zoo.load(write_run(tmp_path / "half", save(half)))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.state_dict()["classifier.weight"], half["classifier.weight"].float())


# --- a Caffe net that was trained --------------------------------------------------------------------------------

CAFFE = """name: "tiny" input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "one" type: "InnerProduct" bottom: "conv" top: "one" param { name: "w" }
  inner_product_param { num_output: 144 bias_term: false } }
layer { name: "two" type: "InnerProduct" bottom: "one" top: "two" param { name: "w" }
  inner_product_param { num_output: 144 bias_term: false } }
layer { name: "fc" type: "InnerProduct" bottom: "two" top: "fc" inner_product_param { num_output: 3 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }"""


def caffe_state() -> dict[str, torch.Tensor]:
    shapes = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "one.weight": (144, 144), "fc.weight": (3, 144), "fc.bias": (3,)}
    draw = torch.Generator().manual_seed(2)
    state = {key: torch.randn(shape, generator=draw) / 10 for key, shape in shapes.items()}
    return state | {"two.weight": state["one.weight"].clone()}


@pytest.fixture
def caffe_run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / "caffe", save(caffe_state()), architecture="caffe", arguments={}, prototxt="net.prototxt")
    (folder / "net.prototxt").write_text(CAFFE)
    return folder


@torch.inference_mode()
def test_a_caffe_net_s_run_gives_the_logits_of_the_trained_weights(caffe_run: Path) -> None:
    model, state = zoo.load(caffe_run), caffe_state()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    hidden = torch.nn.functional.conv2d(x, state["conv.weight"], state["conv.bias"]).flatten(1)
    hidden = hidden @ state["one.weight"].T @ state["one.weight"].T
    torch.testing.assert_close(model(x), hidden @ state["fc.weight"].T + state["fc.bias"])
    assert model.labels == tuple(CLASSES) and model.card.classifier == "fc"
    assert model.preprocess(image()).shape == (3, 48, 48)


def test_weights_that_layers_share_stay_one_parameter(caffe_run: Path) -> None:
    model = zoo.load(caffe_run)
    assert model.one.weight is model.two.weight
    changed = caffe_state() | {"two.weight": torch.zeros(144, 144)}
    write_run(caffe_run, save(changed), architecture="caffe", arguments={}, prototxt="net.prototxt")
    with pytest.raises(LoadError, match=r"one\.weight and two\.weight are one parameter"):
        zoo.load(caffe_run)


def test_a_caffe_net_s_run_takes_other_classes_too(caffe_run: Path) -> None:
    model = zoo.load(caffe_run, num_classes=5)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
    assert torch.equal(model.state_dict()["conv.weight"], caffe_state()["conv.weight"])
    assert zoo.load(caffe_run, pretrained=False)(torch.zeros(2, 3, 8, 8)).shape == (2, 3)


def test_a_damaged_prototxt_of_a_run_is_told_by_the_converter(caffe_run: Path) -> None:
    (caffe_run / "net.prototxt").write_text(CAFFE.replace("InnerProduct", "InnerProdukt"))
    with pytest.raises(LoadError, match=r"net\.prototxt: .*'InnerProdukt' .*Did you mean 'InnerProduct'"):
        zoo.load(caffe_run)


# --- folders that are no whole run -------------------------------------------------------------------------------


def test_an_unfinished_run_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for name in ("a", tmp_path / "a"):
        with pytest.raises(LoadError, match=r"stopped before it picked its best weights.*--resume"):
            zoo.load(name)


def test_a_folder_that_is_no_run_or_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"not a run folder: it has no card\.json"):
        zoo.load(tmp_path)
    with pytest.raises(LoadError, match=r"there is no folder '.*nowhere'"):
        zoo.load(tmp_path / "nowhere")
    with pytest.raises(LoadError, match="there is no folder"):
        zoo.load("runs/a\0b")


def test_a_changed_byte_of_the_weights_is_found(run: Path) -> None:
    path = run / "best.safetensors"
    body = bytearray(path.read_bytes())
    body[-5] ^= 1
    path.write_bytes(body)
    with pytest.raises(LoadError, match=r"best\.safetensors: its sha256 is .*copy it again"):
        zoo.load(run)


def test_all_that_does_not_fit_is_in_one_message(tmp_path: Path, net: torch.nn.Module) -> None:
    state = dict(net.state_dict())
    del state["norm.bias"]
    state |= {"classifier.bias": torch.zeros(4), "extra.weight": torch.zeros(2, 2), "norm.weight": torch.zeros(192, dtype=torch.int64)}
    with pytest.raises(LoadError) as caught:
        zoo.load(write_run(tmp_path / "wrong", save(state)))
    assert str(caught.value).splitlines()[0].endswith("the weights don't fit the net; 4 differences:")
    assert sorted(str(caught.value).splitlines()[1:]) == [
        "  missing: norm.bias (192,)",
        "  unexpected: 'extra.weight' (2, 2)",
        "  wrong shape: classifier.bias is (4,), the net has (3,)",
        "  wrong type: norm.weight is torch.int64, the net has torch.float32",
    ]


def test_a_million_strange_names_do_not_fill_the_message(tmp_path: Path, net: torch.nn.Module) -> None:
    state = dict(net.state_dict()) | {f"x{i}": torch.zeros(1) for i in range(1000)}
    with pytest.raises(LoadError, match="1,000 differences") as caught:
        zoo.load(write_run(tmp_path / "wrong", save(state)))
    assert len(str(caught.value).splitlines()) == 202 and str(caught.value).endswith("and 800 more")


# --- folders of strangers ----------------------------------------------------------------------------------------

HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "a newer format": ({"format": 2}, "format is 2; this release of caffezoo reads 1"),
    "no format": ({"format": ...}, "format is None"),
    "a function of the package": ({"architecture": "load_best7164"}, "no architecture 'load_best7164'.*MobileFaceExpression"),
    "an exception of the package": ({"architecture": "WeightsMismatch"}, "no architecture"),
    "a record of the package": ({"architecture": "Detections"}, "no architecture"),
    "a private name": ({"architecture": "_MODULES"}, "no architecture"),
    "a module's attribute": ({"architecture": "importlib"}, "no architecture"),
    "another package": ({"architecture": "torch.nn:Linear"}, "no architecture"),
    "an architecture that is no text": ({"architecture": ["MTCNN"]}, r"architecture is \['MTCNN'\]"),
    "no architecture": ({"architecture": ...}, "architecture is None"),
    "arguments in a list": ({"arguments": [7]}, r"arguments is \[7\]"),
    "an unknown argument": ({"arguments": {"num_classes": 3, "code": "1"}}, "cannot be built with.*TypeError.*code"),
    "an argument of another kind": ({"arguments": {"num_classes": 3, "cnn": {"a": 1}}}, "cannot be built with.*AttributeError"),
    "an argument out of its range": ({"arguments": {"num_classes": 3, "dropout": 7}}, "cannot be built with.*ValueError"),
    "a tap that is not there": ({"arguments": {"num_classes": 3, "taps": ["fc9"]}}, "cannot be built with.*no blob 'fc9'"),
    "no taps": ({"arguments": {"num_classes": 3, "taps": []}}, "cannot be built with.*IndexError"),
    "a net as large as a disk": ({"arguments": {"num_classes": 1 << 40}, "classes": []}, r"wrong shape: classifier\.weight"),
    "another number of classes": ({"classes": ["a", "b"]}, "the number of classes is 2, but num_classes is 3"),
    "classes without names": ({"classes": [1, 2, 3]}, "classes is .*; it must be a list of names"),
    "weights above the folder": ({"weights": "../best.safetensors"}, "weights is '../best.safetensors'; it must be the name of a file"),
    "weights elsewhere": ({"weights": "/etc/passwd"}, "must be the name of a file"),
    "weights that are a folder": ({"weights": ".."}, "must be the name of a file"),
    "weights with a NUL": ({"weights": "a\0b"}, "must be the name of a file"),
    "weights with a backslash": ({"weights": "a\\b"}, "must be the name of a file"),
    "weights with a long name": ({"weights": "a" * 5000}, "File name too long|is missing"),
    "weights that are a number": ({"weights": 7}, "must be the name of a file"),
    "weights that are the card": ({"weights": "card.json"}, "its sha256 is"),
    "no hash": ({"sha256": ...}, "sha256 is None"),
    "another hash": ({"sha256": "0" * 64}, "the file was changed or truncated"),
    "no preprocessing": ({"preprocess": ...}, "preprocess is None"),
    "a mean in a file": ({"preprocess": {**SPEC, "mean": "/etc/passwd"}}, "mean .a number for each channel."),
    "an infinite scale": ({"preprocess": {**SPEC, "scale": float("inf")}}, "scale"),
    "a huge image": ({"preprocess": {**SPEC, "size": [1 << 20, 1 << 20]}}, r"size .height, width."),
    "a crop without a margin": ({"crop": {"align": True}}, "crop is .*margin"),
    "a crop without a height": ({"crop": {"margin": 0, "align": True, "size": [0, 96]}}, "crop is .*size"),
    "a crop that sees a continent": ({"crop": {"margin": 1e9, "align": False}}, "-0.4 to 4"),
    "a million layers": (
        {"architecture": "SmallVGG", "arguments": {"num_classes": 3, "widths": [1] * 10**6}},
        "widths' has 1,000,000 items",
    ),
    "a layer as wide as a disk": (
        {"architecture": "SmallResNet", "arguments": {"num_classes": 3, "width": 1 << 40}},
        "a number above",
    ),
    "arguments within arguments": ({"arguments": {"num_classes": 3, "taps": [[[[[["a"]]]]]]}}, "taps' is nested too deeply"),
    "an argument of a megabyte": ({"arguments": {"num_classes": 3, "taps": ["a" * 10**6]}}, "taps' has a text of 1,000,000"),
    "an argument that is infinite": ({"arguments": {"num_classes": 3, "dropout": float("nan")}}, "a number that is none"),
    "a number of a thousand digits": ({"arguments": {"num_classes": 3, "dropout": -(10**999)}}, "dropout' has a number above"),
    "a hundred arguments": ({"arguments": {f"a{i}": 0 for i in range(200)}}, "it has 200 arguments"),
    "a hundred thousand classes": ({"arguments": {}, "classes": list(map(str, range(10**5)))}, "at most 10,000 different names"),
    "a class twice": ({"classes": ["a", "b", "a"]}, "different names"),
    "a class of a megabyte": ({"classes": ["a", "b", "c" * 10**6]}, "up to 1,000 characters"),
    "a title of a megabyte": ({"title": "a" * 10**6}, "title is"),
    "a recipe that is a list": ({"recipe": [[["a"]]]}, "recipe is"),
    "a picture of a gigabyte": ({"preprocess": {**SPEC, "size": [16384, 16384]}}, r"size .height, width."),
    "a million scores": ({"scores": {str(i): 0 for i in range(2000)}}, "scores is"),
    "channels of another order": ({"preprocess": {**SPEC, "channels": "GBR"}}, "channels"),
    "scores of words": ({"scores": {"public": "good"}}, "scores is"),
    "arguments of a Caffe net": ({"architecture": "caffe", "prototxt": "net.prototxt"}, "takes no arguments but"),
    "a prototxt elsewhere": ({"architecture": "caffe", "arguments": {}, "prototxt": "../net.prototxt"}, "prototxt is"),
    "a Caffe net without a prototxt": ({"architecture": "caffe", "arguments": {}, "prototxt": "net.prototxt"}, r"net\.prototxt is missing"),
}


@pytest.mark.parametrize(("changes", "words"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_card_that_is_wrong_or_hostile_is_a_load_error(changes: dict[str, Any], words: str, tmp_path: Path, weights: bytes) -> None:
    folder = write_run(tmp_path / "a", weights, **changes)
    with pytest.raises(LoadError, match=words):
        zoo.load(folder)


@pytest.mark.parametrize("target", ["../net.prototxt", "/etc/passwd"])
def test_a_prototxt_that_is_a_link_out_of_the_folder_is_refused(target: str, tmp_path: Path, weights: bytes) -> None:
    folder = write_run(tmp_path / "a", weights, architecture="caffe", arguments={}, prototxt="net.prototxt")
    (tmp_path / "net.prototxt").write_text('name: "x"')
    (folder / "net.prototxt").symlink_to(target)
    with pytest.raises(LoadError, match=r"net\.prototxt is a link that leads out of the folder"):
        zoo.load(folder)


@pytest.mark.parametrize("content", [b"", b"hello", b"root:x:0:0:root:/root:/bin/bash\n" * 40, b"\xff\xfe" * 50, b"net: 'a'", b'name: "a"'])
def test_a_prototxt_that_is_no_net_is_a_load_error(content: bytes, tmp_path: Path, weights: bytes) -> None:
    folder = write_run(tmp_path / "a", weights, architecture="caffe", arguments={}, prototxt="net.prototxt")
    (folder / "net.prototxt").write_bytes(content)
    with pytest.raises(LoadError, match=r"net\.prototxt"):
        zoo.load(folder)


def test_classes_are_counted_against_the_net_s_outputs(tmp_path: Path, caffe_run: Path) -> None:
    """Also where the arguments do not name their number."""
    seven = save(architectures.MobileFaceExpression(7, ["conv_1"]).state_dict())
    with pytest.raises(LoadError, match="the number of classes is 3, but the net has 7 outputs"):
        zoo.load(write_run(tmp_path / "a", seven, arguments={"taps": ["conv_1"]}))
    two = {"architecture": "caffe", "arguments": {}, "prototxt": "net.prototxt", "classes": ["a", "b"]}
    with pytest.raises(LoadError, match="the number of classes is 2, but the net has 3 outputs"):
        zoo.load(write_run(caffe_run, save(caffe_state()), **two))


def test_a_net_that_is_larger_than_memory_is_not_drawn_either(tmp_path: Path, weights: bytes) -> None:
    folder = write_run(tmp_path / "a", weights, arguments={"num_classes": 1 << 40}, classes=[])
    with pytest.raises(LoadError, match="GiB of weights, more than this machine's memory"):
        zoo.load(folder, pretrained=False)


BODIES: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "cannot be read"),
    "not UTF-8": (b'"\xff\xfe', "cannot be read"),
    "nested without end": (b"[" * 100_000, "cannot be read"),
    "a list": (b"[]", "not a JSON object"),
    "too large": (b" " * (5 << 20), "bytes; a card has at most"),
}


@pytest.mark.parametrize(("body", "words"), BODIES.values(), ids=BODIES.keys())
def test_a_card_json_that_is_none_is_a_load_error(body: bytes, words: str, run: Path) -> None:
    (run / "card.json").write_bytes(body)
    with pytest.raises(LoadError, match=words):
        zoo.load(run)


@pytest.mark.parametrize("spoil", [lambda b: b[:100], lambda b: b"\xff" * 8 + b[8:], lambda b: pickle.dumps({"a": 1})])
def test_weights_that_are_no_safetensors_are_a_load_error(spoil: Callable[[bytes], bytes], tmp_path: Path, weights: bytes) -> None:
    with pytest.raises(LoadError, match="not a safetensors file"):
        zoo.load(write_run(tmp_path / "a", spoil(weights)))


def test_the_list_of_models_does_not_change(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    zoo.load("a")
    assert "a" not in zoo.list_models()
    with pytest.raises(UnknownModel):
        zoo.info("a")


def test_save_file_and_save_write_the_same(tmp_path: Path, net: torch.nn.Module, weights: bytes) -> None:
    """The files here are those that finetune writes: safetensors' own, with metadata or without."""
    save_file(dict(net.state_dict()), tmp_path / "best.safetensors", {"epoch": "3"})
    folder = write_run(tmp_path / "a", (tmp_path / "best.safetensors").read_bytes())
    assert torch.equal(zoo.load(folder).state_dict()["norm.weight"], net.state_dict()["norm.weight"])
