"""zoo.load against weights drawn here, written by tests/zoo/helpers/drawn.py and served on loopback."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import drawn
import misbehaving as bad
import numpy as np
import pytest
import torch
from misbehaving import Server

import zoo
from converter.preprocess import Preprocess
from zoo.cards import registry
from zoo.cards.record import Archive, Card, Checksum, File, Mirror, Network, Terms
from zoo.errors import FetchError, LoadError, Offline, ProofError, TermsNotAccepted, UnknownModel, Unverified
from zoo.models.named import labels_of

pytestmark = pytest.mark.usefixtures("home")


def proven(name: str, body: bytes, url: str, **extra: object) -> File:
    return File(
        name,
        (Mirror(url),),
        len(body),
        (Checksum("sha256", hashlib.sha256(body).hexdigest(), "this test"),),
        **extra,  # type: ignore[arg-type]
    )


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Callable[[Card], Card]:
    """Puts a card into the registry, in place of the real one of that name."""

    def put(card: Card) -> Card:
        others = tuple(each for each in registry.CARDS if each.name != card.name)
        monkeypatch.setattr(registry, "CARDS", (*others, card))
        return card

    return put


@pytest.fixture
def squeezenet(server: Server, put: Callable[[Card], Card]) -> dict[str, list[np.ndarray]]:
    """squeezenet1_1 with drawn weights, at the server."""
    layers = drawn.draw(drawn.squeezenet_shapes())
    body = drawn.caffemodel(layers)
    card = registry.card_of("squeezenet1_1")
    put(dataclasses.replace(card, files=(proven(card.files[0].name, body, server.serve("/net", body)),)))
    return layers


def image(height: int = 227, width: int = 227) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


def test_a_hand_written_net_gets_exactly_the_authors_weights(squeezenet: dict[str, list[np.ndarray]]) -> None:
    model = zoo.load("squeezenet1_1")
    assert type(model).__name__ == "SqueezeNet"
    assert not model.training
    state = model.state_dict()
    assert len(state) == sum(map(len, squeezenet.values()))
    for layer, (weight, bias) in squeezenet.items():
        path = type(model).FROM_CAFFE[layer]
        np.testing.assert_array_equal(state[f"{path}.weight"].numpy(), weight)
        np.testing.assert_array_equal(state[f"{path}.bias"].numpy(), bias)
    assert model.card is registry.card_of("squeezenet1_1")
    assert model(model.preprocess(image())[None]).shape == (1, 1000)


def test_the_second_load_neither_asks_the_server_nor_converts(
    squeezenet: object, server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = zoo.load("squeezenet1_1")
    (converted,) = (home / "converted").iterdir()
    assert converted.stat().st_mode & 0o777 == (home / "squeezenet1_1" / "squeezenet_v1.1.caffemodel").stat().st_mode & 0o777

    def refuse(*args: object) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr("converter.conversion.convert", refuse)
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    second = zoo.load("squeezenet1_1")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert len(server.log) == 1
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_mapped_weights_can_be_trained_and_the_cache_stays_as_it_is(squeezenet: object, home: Path) -> None:
    model = zoo.load("squeezenet1_1")
    (converted,) = (home / "converted").iterdir()
    before = converted.read_bytes()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert converted.read_bytes() == before
    assert any(parameter.any() for parameter in zoo.load("squeezenet1_1").parameters())


@pytest.mark.parametrize("damage", ["truncated", "another file's keys"])
def test_damaged_converted_weights_are_converted_again(squeezenet: object, home: Path, damage: str) -> None:
    model = zoo.load("squeezenet1_1")
    (converted,) = (home / "converted").iterdir()
    if damage == "truncated":
        converted.write_bytes(converted.read_bytes()[:1000])
    else:
        from safetensors.torch import save_file

        save_file({"other.weight": torch.zeros(1)}, converted)
    again = zoo.load("squeezenet1_1")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("damage", ["a bit of a weight", "a bit of the header", "zeros", "the hash", "an older release's file"])
def test_verify_finds_every_change_of_the_converted_weights(squeezenet: object, home: Path, damage: str) -> None:
    from safetensors.torch import load_file, save_file

    zoo.load("squeezenet1_1")
    assert [finding.state for finding in zoo.verify("squeezenet1_1")] == ["proven", "proven"]
    (converted,) = (home / "converted").iterdir()
    raw = bytearray(converted.read_bytes())
    if damage == "zeros":
        raw[-4096:] = bytes(4096)
    elif damage == "an older release's file":
        save_file(load_file(converted), converted)
        raw = bytearray(converted.read_bytes())
    else:
        place = {"a bit of a weight": len(raw) - 1000, "a bit of the header": raw.index(b"F32"), "the hash": raw.index(b"sha256") + 9}
        raw[place[damage]] ^= 1
    converted.write_bytes(raw)
    source, found = zoo.verify("squeezenet1_1")
    assert (source.state, found.state, found.file) == ("proven", "wrong", f"converted/{converted.name}")
    assert "caffe-zoo clean squeezenet1_1" in found.detail
    zoo.clean("squeezenet1_1")
    zoo.load("squeezenet1_1")
    assert [finding.state for finding in zoo.verify("squeezenet1_1")] == ["proven", "proven"]


def test_a_read_only_cache_is_converted_from_every_time(squeezenet: object, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo.fetch("squeezenet1_1")
    (home / "converted").write_text("a file where the folder would be: nothing can be written into it")
    assert zoo.load("squeezenet1_1")(torch.zeros(1, 3, 227, 227)).shape == (1, 1000)


def test_num_classes_replaces_the_classifier_and_nothing_else(squeezenet: dict[str, list[np.ndarray]]) -> None:
    torch.manual_seed(0)
    model = zoo.load("squeezenet1_1", num_classes=7)
    state = model.state_dict()
    assert state["conv10.weight"].shape == (7, 512, 1, 1)
    assert state["conv10.weight"].std() > 0
    np.testing.assert_array_equal(state["fire9.expand3x3.weight"].numpy(), squeezenet["fire9/expand3x3"][0])
    assert model(torch.zeros(1, 3, 227, 227)).shape == (1, 7)
    assert zoo.load("squeezenet1_1").state_dict()["conv10.weight"].shape == (1000, 512, 1, 1)


def test_dtype_and_device_are_those_asked_for(squeezenet: object) -> None:
    model = zoo.load("squeezenet1_1", dtype=torch.float16, device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    assert {parameter.device.type for parameter in zoo.load("squeezenet1_1", device="meta").parameters()} == {"meta"}


def test_a_model_can_be_pickled_with_its_preprocessing(squeezenet: object) -> None:
    model = pickle.loads(pickle.dumps(zoo.load("squeezenet1_1")))
    assert model(model.preprocess(image())[None]).shape == (1, 1000)


def test_mtcnns_three_nets_get_their_weights_turned(server: Server, put: Callable[[Card], Card]) -> None:
    layers = {number: drawn.draw(shapes, number) for number, shapes in drawn.MTCNN_SHAPES.items()}
    bodies = {number: drawn.caffemodel(each) for number, each in layers.items()}
    files = tuple(proven(f"det{number}.caffemodel", body, server.serve(f"/{number}", body)) for number, body in bodies.items())
    put(dataclasses.replace(registry.card_of("mtcnn"), files=files))
    state = zoo.load("mtcnn").state_dict()
    np.testing.assert_array_equal(state["pnet.conv1.weight"].numpy(), layers[1]["conv1"][0].swapaxes(2, 3))
    np.testing.assert_array_equal(state["onet.prelu4.weight"].numpy(), layers[3]["prelu4"][0])
    dense = layers[2]["conv4"][0].reshape(128, 64, 3, 3).swapaxes(2, 3).reshape(128, 576)
    np.testing.assert_array_equal(state["rnet.fc4.weight"].numpy(), dense)
    with pytest.raises(LoadError, match="no classifier that num_classes"):
        zoo.load("mtcnn", num_classes=2)


TINY = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "fc/out" type: "InnerProduct" bottom: "conv" top: "fc/out" inner_product_param { num_output: 5 } }
"""
TINY_SHAPES: dict[str, Sequence[tuple[int, ...]]] = {"conv": [(4, 3, 3, 3), (4,)], "fc/out": [(5, 144), (5,)]}


def tiny(server: Server, **changes: object) -> tuple[Card, dict[str, list[np.ndarray]]]:
    """A model without an architecture, whose prototxt comes with its weights; its mean is an image."""
    layers = drawn.draw(TINY_SHAPES)
    mean = np.random.default_rng(3).integers(0, 256, (3, 8, 8)).astype(np.float32)
    bodies = {"net.caffemodel": drawn.caffemodel(layers), "net.prototxt": TINY.encode(), "mean.binaryproto": drawn.blob(mean)}
    card = Card(
        name="tiny",
        title="Tiny net",
        task="tests",
        files=tuple(proven(name, body, server.serve(f"/{name}", body)) for name, body in bodies.items()),
        networks=(Network("net.prototxt", "net.caffemodel"),),
        terms=Terms("none", "this test"),
        citation="this test",
        input="(N, 3, 8, 8)",
        outputs="5 numbers",
        preprocess=Preprocess((8, 8), "BGR", "mean.binaryproto", "this test"),
        parameters=4 * 27 + 4 + 5 * 144 + 5,
    )
    return dataclasses.replace(card, **changes), layers  # type: ignore[arg-type]


def test_a_model_without_an_architecture_is_the_converted_net(server: Server, put: Callable[[Card], Card]) -> None:
    card, layers = tiny(server)
    put(card)
    for _ in range(2):  # converted, then from the cache
        model = zoo.load("tiny")
        assert type(model).__name__ == "CaffeNet"
        np.testing.assert_array_equal(model.state_dict()["conv.weight"].numpy(), layers["conv"][0])
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        hidden = torch.nn.functional.conv2d(x, *map(torch.from_numpy, layers["conv"]))
        expected = torch.nn.functional.linear(hidden.flatten(1), *map(torch.from_numpy, layers["fc/out"]))
        torch.testing.assert_close(model(x), expected)


def test_a_mean_image_becomes_zeros(server: Server, put: Callable[[Card], Card]) -> None:
    put(tiny(server)[0])
    model = zoo.load("tiny")
    mean_bgr = np.random.default_rng(3).integers(0, 256, (3, 8, 8)).astype(np.uint8)
    assert not model.preprocess(np.ascontiguousarray(mean_bgr[::-1].transpose(1, 2, 0))).any()


def test_num_classes_replaces_the_last_layer_of_a_converted_net(server: Server, put: Callable[[Card], Card]) -> None:
    layers = drawn.draw(drawn.squeezenet_shapes(96, 7))
    body = drawn.caffemodel(layers)
    card = registry.card_of("squeezenet1_0")
    put(dataclasses.replace(card, files=(proven(card.files[0].name, body, server.serve("/net", body)),)))
    model = zoo.load("squeezenet1_0", num_classes=7)
    probabilities = model(torch.randn(2, 3, 227, 227))
    assert probabilities.flatten(1).shape == (2, 7)
    torch.testing.assert_close(probabilities.flatten(1).sum(1), torch.ones(2))
    state = model.state_dict()
    np.testing.assert_array_equal(state["conv1.weight"].numpy(), layers["conv1"][0])
    assert state["conv10.weight"].std() > 0
    put(tiny(server)[0])
    with pytest.raises(LoadError, match="no classifier that num_classes"):
        zoo.load("tiny", num_classes=7)


@pytest.mark.parametrize("name", ["squeezenet1_1", "mtcnn", "mobilefacenet", "sphereface20", "age_net", "squeezenet1_0"])
def test_without_pretrained_weights_nothing_is_fetched_or_written(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAFFEZOO_OFFLINE", "1")
    torch.manual_seed(0)
    model = zoo.load(name, pretrained=False)
    assert not model.training
    assert model.labels == zoo.info(name).labels
    kernels = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    assert all(kernel.std() > 0 for kernel in kernels)
    assert not home.exists()
    with pytest.raises(Offline):
        zoo.load(name)


def test_a_structure_that_is_not_in_the_zoo_is_named(home: Path) -> None:
    with pytest.raises(LoadError, match="caffe-zoo fetch vggface2_resnet50_ft"):
        zoo.load("vggface2_resnet50_ft", pretrained=False)


def test_weights_of_another_net_are_an_error_that_names_the_layers(server: Server, put: Callable[[Card], Card]) -> None:
    body = drawn.caffemodel(drawn.draw(drawn.squeezenet_shapes(96, 7)))
    card = registry.card_of("squeezenet1_1")
    put(dataclasses.replace(card, files=(proven(card.files[0].name, body, server.serve("/net", body)),)))
    with pytest.raises(LoadError, match="conv1"):
        zoo.load("squeezenet1_1")


def test_terms_are_shown_once(server: Server, put: Callable[[Card], Card], home: Path) -> None:
    terms = Terms("non-commercial use only", "the authors' page", ask=True)
    card, _ = tiny(server, terms=terms)
    put(card)
    with pytest.raises(TermsNotAccepted, match=r"(?s)non-commercial use only.*the authors' page.*accept_terms=True"):
        zoo.load("tiny")
    assert not server.log
    zoo.load("tiny", accept_terms=True)
    zoo.load("tiny")
    put(dataclasses.replace(card, terms=Terms("nobody may use it", "the authors' page", ask=True)))
    with pytest.raises(TermsNotAccepted, match="nobody may use it"):
        zoo.fetch("tiny")


def test_a_wrong_name_is_answered_with_the_right_one() -> None:
    with pytest.raises(UnknownModel, match="Did you mean 'vgg_face'"):
        zoo.load("VGG-Face")
    with pytest.raises(UnknownModel, match=r"zoo\.list_models\(\)"):
        zoo.info("zzzz")


def test_num_classes_has_to_be_positive() -> None:
    with pytest.raises(LoadError, match="num_classes is 0"):
        zoo.load("squeezenet1_1", pretrained=False, num_classes=0)


# --- add, verify, clean ------------------------------------------------------------------------------------------


def test_add_takes_a_member_under_any_name_and_proves_it(server: Server, put: Callable[[Card], Card], tmp_path: Path) -> None:
    card, layers = tiny(server)
    put(card)
    mine = tmp_path / "from a friend.bin"
    mine.write_bytes(drawn.caffemodel(layers))
    assert list(zoo.add("tiny", mine)) == ["net.caffemodel"]
    assert mine.exists()
    assert not server.log
    mine.write_bytes(drawn.caffemodel(drawn.draw(TINY_SHAPES, seed=9)))
    with pytest.raises(ProofError, match=r"(?s)none of tiny's files: .*expected: net.caffemodel, .*net.prototxt, .*mean.binaryproto, "):
        zoo.add("tiny", mine)
    with pytest.raises(ProofError, match="cannot be read: No such file"):
        zoo.add("tiny", tmp_path / "nowhere")
    with pytest.raises(ProofError, match="cannot be read: a folder"):
        zoo.add("tiny", tmp_path)
    assert [finding.state for finding in zoo.verify("tiny")] == ["proven", "missing", "missing"]


def packed(members: dict[str, bytes]) -> bytes:
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return out.getvalue()


@pytest.mark.parametrize("repacked", [False, True])
def test_add_takes_the_authors_archive_also_packed_again(
    repacked: bool, server: Server, put: Callable[[Card], Card], tmp_path: Path
) -> None:
    weights, names = drawn.caffemodel(drawn.draw(TINY_SHAPES)), b"one\ntwo\n"
    members = {"net/net.caffemodel": weights, "net/names.txt": names}
    published = packed(members)
    outer = (Checksum("md5", hashlib.md5(published).hexdigest(), "this test"),)
    url = server.url("/net.tar.gz")
    known = (Checksum("sha256", hashlib.sha256(weights).hexdigest(), "this test"),)
    card = dataclasses.replace(
        tiny(server)[0],
        files=(
            File("net.caffemodel", (Mirror(url, Archive("net/net.caffemodel", checksums=outer)),), None, known),
            File("names.txt", (Mirror(url, Archive("net/names.txt", checksums=outer)),), needed=False),
        ),
        labels_file="names.txt",
    )
    put(card)
    archive = tmp_path / "download.tgz"
    archive.write_bytes(packed({"README": b"", **members}) if repacked else published)
    taken = zoo.add("tiny", archive)
    # Only the published archive speaks for a member that has no checksum of its own.
    assert sorted(taken) == (["net.caffemodel"] if repacked else ["names.txt", "net.caffemodel"])
    assert taken["net.caffemodel"].read_bytes() == weights
    assert not server.log
    assert labels_of(card) == (() if repacked else ("one", "two"))


def test_add_of_a_file_that_nothing_can_prove_needs_consent(server: Server, put: Callable[[Card], Card], tmp_path: Path) -> None:
    put(dataclasses.replace(tiny(server)[0], files=(File("net.caffemodel", ()),)))
    mine = tmp_path / "net.caffemodel"
    mine.write_bytes(b"whatever")
    with pytest.raises(Unverified, match="allow_unverified"):
        zoo.add("tiny", mine)
    with pytest.raises(FetchError, match=r"zoo\.add"):
        zoo.fetch("tiny", allow_unverified=True)
    zoo.add("tiny", mine, allow_unverified=True)
    assert zoo.fetch("tiny")["net.caffemodel"].read_bytes() == b"whatever"
    assert [finding.state for finding in zoo.verify("tiny")] == ["pinned"]
    mine.write_bytes(b"something else")
    with pytest.raises(ProofError, match="pinned on first use"):
        zoo.add("tiny", mine, allow_unverified=True)


def test_verify_finds_a_flipped_bit_that_a_hit_does_not_see(squeezenet: object, home: Path) -> None:
    path = zoo.fetch("squeezenet1_1")["squeezenet_v1.1.caffemodel"]
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    (finding,) = zoo.verify("squeezenet1_1")
    assert finding.state == "wrong"
    assert "published by this test" in finding.detail


def test_clean_removes_what_is_unfinished_or_converted_and_all_with_consent(squeezenet: object, server: Server, home: Path) -> None:
    zoo.load("squeezenet1_1")
    other = registry.card_of("squeezenet1_1").files[0]
    place = home / "squeezenet1_1"
    server.resources["/net"].faults = [bad.truncated(100_000), bad.status(404)]
    (place / other.name).unlink()
    with pytest.raises(FetchError):
        zoo.fetch("squeezenet1_1")
    gone = {path.name for path in zoo.clean("squeezenet1_1")}
    assert {path.rsplit(".", 1)[-1] for path in gone} == {"part", "note", "safetensors"}
    zoo.fetch("squeezenet1_1")
    zoo.clean(everything=True)
    assert [path.name for path in place.iterdir()] == [".lock"]


# --- preprocessing -----------------------------------------------------------------------------------------------


def test_tensor_array_and_picture_give_the_same_input() -> None:
    from PIL import Image

    prepare = zoo.load("squeezenet1_1", pretrained=False).preprocess
    array = image(300, 260)
    from_array = prepare(array)
    assert from_array.shape == (3, 227, 227)
    assert from_array.dtype == torch.float32
    assert torch.equal(from_array, prepare(torch.from_numpy(array).permute(2, 0, 1)))
    assert torch.equal(from_array, prepare(Image.fromarray(array)))
    assert torch.equal(from_array, prepare(array[::-1].copy()[::-1]))


def test_pixels_of_the_right_size_are_not_resampled() -> None:
    prepare = zoo.load("mobilefacenet", pretrained=False).preprocess
    array = image(112, 112)
    expected = (torch.from_numpy(array).permute(2, 0, 1).float() - 128) / 128
    assert torch.equal(prepare(array), expected)


def test_the_shorter_side_is_resized_and_the_centre_cut_out() -> None:
    spec = Preprocess((4, 4), "RGB", (0.0, 0.0, 0.0), "this test", resize=6)
    wide = np.zeros((12, 40, 3), np.uint8)
    wide[:, 18:22] = 200  # the middle
    assert spec(wide)[0, :, 1:3].min() > 100
    assert spec(wide.transpose(1, 0, 2).copy())[0, 1:3, :].min() > 100


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (np.zeros((8, 8, 3), np.float32), "uint8 in 0..255, not torch.float32"),
        (torch.zeros(3, 8, 8), "uint8 in 0..255, not torch.float32"),
        (np.zeros((3, 8, 8), np.uint8), r"array is \(height, width, 3\)"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), r"tensor is \(3, height, width\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"tensor is \(3, height, width\)"),
        ("photo.jpg", "not str"),
    ],
)
def test_an_image_of_another_kind_is_refused(wrong: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        zoo.load("squeezenet1_1", pretrained=False).preprocess(wrong)
