"""Walks every card: nothing on it is taken on trust that can be computed."""

from __future__ import annotations

import functools
import importlib
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch

import zoo
from architectures.contract import Adjusted
from zoo.cards.record import Card, Checksum, Network
from zoo.files import drive
from zoo.models.caffe import build
from zoo.models.export import WITHOUT_A_CARD
from zoo.models.named import PROTOTXTS

CARDS = [zoo.info(name) for name in zoo.list_models()]
LENGTHS = {"sha256": 64, "sha384": 96, "sha1": 40, "md5": 32, "git-blob-sha1": 40}
# Values of layers that a file holds and its net does not use: GoogLeNet's two auxiliary classifiers (a 1×1 convolution to
# 128, a dense layer to 1024 and one to 1000 each), and in det2 a dense layer from 128 to 10.
BESIDE_THE_NET = {
    "bvlc_googlenet.caffemodel": 2 * (128 + 2048 * 1024 + 1024 + 1024 * 1000 + 1000) + 128 * (512 + 528),
    "det2.caffemodel": 128 * 10 + 10,
}


def every(cards: list[Card]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("card", cards, ids=lambda card: card.name)


every_card = every(CARDS)


def checksums(card: Card) -> list[Checksum]:
    archives = [mirror.archive for file in card.files for mirror in file.mirrors if mirror.archive]
    return [known for each in (*card.files, *archives) for known in each.checksums]


def shipped(card: Card) -> list[Network]:
    return [network for network in card.networks if prototxt(card, network).exists()]


def prototxt(card: Card, network: Network) -> Path:
    return (card.folder or PROTOTXTS) / network.prototxt


def test_names_are_unique_and_can_be_folder_names() -> None:
    names = zoo.list_models()
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in names)
    assert {"vgg_face", "center_loss_face", "mtcnn", "sphereface20", "mobilefacenet", "squeezenet1_1"} <= set(names)


@every_card
def test_every_checksum_has_a_source_and_the_form_of_its_kind(card: Card) -> None:
    for known in checksums(card):
        assert re.fullmatch(f"[0-9a-f]{{{LENGTHS[known.algorithm]}}}", known.value)
        assert len(known.source) > 5


def test_no_two_files_share_a_checksum() -> None:
    values = [known.value for card in CARDS for file in card.files for known in file.checksums]
    assert len(set(values)) == len(values)


@every_card
def test_files_have_plain_names_and_addresses_that_parse(card: Card) -> None:
    assert len({file.name for file in card.files}) == len(card.files)
    for file in card.files:
        assert re.fullmatch(r"[\w.-]+", file.name)
        assert not file.name.startswith(".")
        assert file.size is None or file.size > 0
        for mirror in file.mirrors:
            parts = urlsplit(mirror.url)
            assert parts.scheme in ("http", "https")
            assert parts.hostname
            assert not re.search(r"[{}\s]", mirror.url)
            if drive.is_drive(mirror.url):
                assert "id=" in drive.direct(mirror.url)[0]
            if mirror.archive:
                assert re.fullmatch(r"(?!/)(?!.*\.\.)[\w./-]+", mirror.archive.member)


@every_card
def test_terms_citation_and_sources_are_stated(card: Card) -> None:
    for text in (card.title, card.task, card.terms.licence, card.terms.source, card.citation, card.preprocess.source):
        assert len(text) > 2
    assert card.terms.ask == bool(re.search(r"non-commercial use|research only", card.terms.licence))


@every_card
def test_networks_name_files_that_there_are(card: Card) -> None:
    files = {file.name for file in card.files if file.needed}
    for network in card.networks:
        assert network.weights in files
        assert network.prototxt in files or prototxt(card, network).is_file()
        assert not (network.prototxt in files and (PROTOTXTS / network.prototxt).exists())
    assert isinstance(card.preprocess.mean, tuple) or card.preprocess.mean in files
    assert card.labels_file is None or card.labels_file in {file.name for file in card.files}


def test_every_prototxt_belongs_to_a_card_or_an_architecture_without_one() -> None:
    used = (
        {network.prototxt for card in CARDS for network in card.networks}
        | {card.structure for card in CARDS}
        | set(WITHOUT_A_CARD.values())
    )
    assert {path.name for path in PROTOTXTS.iterdir()} <= used


# test_loading.py has a mean in a file, and a grey input no order of channels
@every([card for card in CARDS if isinstance(card.preprocess.mean, tuple) and card.preprocess.channels != "GRAY"])
def test_the_mean_image_becomes_zeros_and_red_lands_in_its_channel(card: Card) -> None:
    spec = card.preprocess
    assert isinstance(spec.mean, tuple)
    rgb = spec.mean[::-1] if spec.channels == "BGR" else spec.mean
    height, width = spec.size or (10, 12)
    image = np.broadcast_to(np.round(rgb).astype(np.uint8), (height + 40, width + 20, 3))
    result = spec(image)
    assert result.shape == (3, height, width) if spec.size else (3, 50, 32)
    assert result.abs().max() <= 0.5 * spec.scale + 1e-4  # what rounding to whole pixel values leaves
    red = spec(np.broadcast_to(np.array([255, 0, 0], np.uint8), image.shape)) - result
    expected = ["BGR", "RGB"].index(spec.channels) * -2 + 2  # the last channel of BGR, the first of RGB
    assert red.mean((1, 2)).argmax() == expected
    assert (red.mean((1, 2))[expected] + spec.mean[expected] * 0 > 0).all()


def test_vgg_faces_means_stand_in_the_nets_order() -> None:
    spec = zoo.info("vgg_face").preprocess
    assert (spec.channels, spec.mean) == ("BGR", (93.5940, 104.7624, 129.1863))
    rgb = torch.tensor([200, 100, 50], dtype=torch.uint8).view(3, 1, 1).expand(3, 224, 224)
    blue, green, red = spec(rgb)[:, 0, 0].tolist()
    assert (blue, green, red) == pytest.approx((50 - 93.5940, 100 - 104.7624, 200 - 129.1863), abs=1e-4)


@functools.cache
def caffe_net(path: Path) -> Any:
    """The converted structure, on the meta device: shapes without memory."""
    from converter.build.assemble import assemble
    from converter.conversion import prepare

    return assemble(prepare(path, None)[0])


@every([card for card in CARDS if shipped(card)])  # the others' structure comes with their weights
def test_parameters_and_file_sizes_are_recomputed_from_the_structure(card: Card) -> None:
    counted = 0
    for network in shipped(card):
        net = caffe_net(prototxt(card, network))
        parameters = sum(parameter.numel() for parameter in net.parameters())
        counted += parameters
        (file,) = (file for file in card.files if file.name == network.weights)
        if card.folder is not None:
            kernels = sum(parameter.numel() for parameter in net.parameters() if parameter.dim() > 1)
            values = parameters + sum(buffer.numel() for buffer in net.buffers())
            assert 4 * values - 2 * kernels < file.size < 4 * values - 2 * kernels + 300 * len(net.layer_names)
        elif file.size is not None:
            values = parameters + sum(buffer.numel() for buffer in net.buffers())
            values += BESIDE_THE_NET.get(file.name, 0)
            # What is not values is names, shapes and fillers, under 300 bytes a layer.
            assert 4 * values < file.size < 4 * values + 300 * len(net.layer_names)
    assert counted == card.parameters


@every([card for card in CARDS if card.architecture])
def test_the_hand_written_architecture_takes_exactly_the_nets_weights(card: Card) -> None:
    assert card.architecture is not None
    package, _, name = card.architecture.partition(":")
    with torch.device("meta"):
        model = getattr(importlib.import_module(package), name)()
    assert sum(parameter.numel() for parameter in model.parameters()) == card.parameters
    from architectures import from_caffe_state

    for network in card.networks:
        part: Any = model.get_submodule(network.submodule)
        state = caffe_net(prototxt(card, network)).state_dict()
        state = part.adjust_caffe_state(state) if isinstance(part, Adjusted) else state
        from_caffe_state(part.FROM_CAFFE, state, part.state_dict())  # raises at any difference
    assert card.classifier is None  # the architecture says which layer is its last


@every([card for card in CARDS if card.classifier])
def test_the_classifier_is_a_layer_of_its_net(card: Card) -> None:
    assert card.classifier is not None
    (network,) = card.networks
    plain = caffe_net(prototxt(card, network))
    assert card.classifier in plain.layer_names.values()
    # And it is the one that zoo.load_caffe finds by itself; a net with another number of outputs differs in nothing else.
    seven, found = build(PROTOTXTS / network.prototxt, None, 7, None, None, empty=True)
    assert found == card.classifier
    before, after = plain.state_dict(), seven.state_dict()
    changed = {plain.layer_names[key.rpartition(".")[0]] for key in before if before[key].shape != after[key].shape}
    assert before.keys() == after.keys() and changed == {card.classifier}


def proof_of(card: Card) -> str:
    """What proves the model's weights, in the words of docs/zoo.md."""
    (file, *_) = card.files
    own = [known.algorithm for known in file.checksums]
    outer = [known.algorithm for mirror in file.mirrors[:1] if mirror.archive for known in mirror.archive.checksums]
    parts = [", ".join(own)] * bool(own) + [f"{', '.join(outer)} of the archive"] * bool(outer)
    return "; ".join(parts) or "nothing published: pinned on first use"


@every_card
def test_the_documentation_agrees_with_the_card(card: Card) -> None:
    page = (Path(__file__).parents[3] / "docs" / "zoo.md").read_text(encoding="utf-8")
    kind = f"`{card.architecture.replace(':', '.')}`" if card.architecture else "converted net"
    consent = " **(to be accepted)**" if card.terms.ask else ""
    assert f"| `{card.name}` | {card.title} | {kind} | {card.terms.licence}{consent} | {proof_of(card)} |" in page
