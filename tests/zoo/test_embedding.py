"""Embeddings against the classifier above them, similarities against geometry, and the two commands."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

import architectures
import zoo
from zoo import embedding
from zoo.cards.record import Threshold
from zoo.cli import main
from zoo.embedding import compare, embed_pictures, embedder, pictures_in
from zoo.errors import EmbeddingError

SPEC = {"size": [16, 16], "channels": "GRAY", "mean": [127.5], "scale": 0.015}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    body = save({key: value.contiguous() for key, value in architectures.SmallVGG(3, widths=(4, 6)).state_dict().items()})
    (folder / "best.safetensors").write_bytes(body)
    card = {
        "format": 1, "architecture": "SmallVGG", "arguments": {"num_classes": 3, "widths": [4, 6]}, "weights": "best.safetensors",
        "sha256": hashlib.sha256(body).hexdigest(), "classes": ["angry", "happy", "sad"], "preprocess": SPEC,
    }  # fmt: skip
    (folder / "card.json").write_text(json.dumps(card))
    return folder


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "a.png", "sub/c.jpg", ".hidden.png"):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_an_embedding_is_what_the_classifier_reads(run: Path) -> None:
    model: Any = zoo.load(run)
    x = torch.randn(5, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    vectors = embedder(model)(x)
    assert vectors.shape == (5, 6)
    with torch.inference_mode():
        assert torch.allclose(model.classifier(vectors), model(x), atol=1e-5)
        assert torch.allclose(model.embed(x), vectors, atol=1e-6)
    assert not model.classifier._forward_pre_hooks


def test_a_net_that_ends_in_an_embedding_gives_that() -> None:
    model: Any = zoo.load("mobilefacenet", pretrained=False)
    x = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.allclose(embedder(model)(x), model(x), atol=1e-6)


def test_a_converted_net_s_embedding_lies_below_the_layer_that_its_card_names() -> None:
    model: Any = zoo.load("age_net", pretrained=False)
    x = torch.randn(2, 3, 227, 227, generator=torch.Generator().manual_seed(1))
    vectors = embedder(model)(x)
    with torch.inference_mode():
        assert torch.allclose(model.fc8(vectors), model(x, blobs=("fc8",))["fc8"], atol=1e-4)
    model.card = replace(model.card, classifier="fc9")
    with pytest.raises(EmbeddingError, match="fc9"):
        embedder(model)


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_every_picture_has_its_row_whatever_the_batch(batch: int, run: Path, faces: Path) -> None:
    model: Any = zoo.load(run)
    paths = pictures_in([faces])
    assert [path.relative_to(faces).as_posix() for path in paths] == ["a.png", "b.png", "broken.png", "sub/c.jpg"]
    found = embed_pictures(model, paths, batch=batch)
    assert [status == "ok" for status in found.status] == [True, True, False, True] and "not a picture" in found.status[2]
    assert np.isnan(found.vectors[2]).all() and not np.isnan(found.vectors[[0, 1, 3]]).any()
    alone = embed_pictures(model, [faces / "sub" / "c.jpg"])
    assert np.allclose(alone.vectors[0], found.vectors[3], atol=1e-5)


def test_the_command_writes_arrays_that_need_no_pickle(run: Path, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = faces / "features.npz"
    assert main(["embed", str(run), str(faces), "-o", str(out), "--json"]) == 1  # one is broken
    told = json.loads(capsys.readouterr().out)
    assert told["embeddings"] == 3 and list(told["failures"]) == [str(faces / "broken.png")]
    with np.load(out, allow_pickle=False) as arrays:
        assert {name: arrays[name].dtype.kind for name in arrays} == {
            "embeddings": "f", "paths": "U", "status": "U", "model": "U", "preprocessing": "U",
        }  # fmt: skip
        assert arrays["embeddings"].dtype == np.float32 and arrays["embeddings"].shape == (4, 6)
        assert arrays["paths"].tolist() == sorted(arrays["paths"].tolist()) and str(arrays["model"]) == run.name
        assert "16×16 GRAY" in str(arrays["preprocessing"])
    assert main(["embed", str(run), str(faces / "a.png"), "-o", str(out)]) == 0


def test_similarities_are_those_of_the_vectors(run: Path, faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = zoo.load(run)
    a, b = faces / "a.png", faces / "b.png"
    same = compare(model, a, a)
    assert same.cosine == pytest.approx(1) and same.distance == pytest.approx(0, abs=1e-6) and same.same is None
    found = compare(model, a, b)
    vectors = embed_pictures(model, [a, b]).vectors.astype(float)
    assert found.cosine == pytest.approx(vectors[0] @ vectors[1] / np.sqrt((vectors**2).sum(1).prod()))
    assert found.distance**2 == pytest.approx(2 - 2 * found.cosine)  # the law of cosines


def test_a_verdict_needs_a_threshold_that_somebody_measured(run: Path, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(run), str(faces / "a.png"), str(faces / "b.png")]) == 0
    printed = capsys.readouterr().out
    assert "verdict           none: " in printed and "cut out already" in printed and "%" not in printed
    for cosine, words, verdict in ((0.7, "the same person", True), (0.2, "different people", False)):
        comparison = embedding.Comparison(cosine, 1.0, Threshold(0.5, "drawn pairs"))
        printed = "\n".join(embedding.lines(comparison))
        assert words in printed and "drawn pairs" in printed and comparison.same is verdict


def test_thresholds_of_cards_say_where_they_were_measured() -> None:
    for name in zoo.list_models():
        threshold = zoo.info(name).threshold
        assert threshold is None or (-1 < threshold.cosine < 1 and "pairs" in threshold.source)


WRONG = {
    "a broken picture": (["compare", "RUN", "broken.png", "a.png"], 1, "broken.png: not a picture"),
    "not fetched": (["compare", "mobilefacenet", "a.png", "a.png"], 1, "caffe-zoo fetch mobilefacenet"),
    "a folder of nothing": (["embed", "RUN", "nothing", "-o", "a.npz"], 1, "no pictures in nothing"),
    "no single faces": (["embed", "RUN", "a.png", "-o", "gone/a.npz"], 1, "no folder gone"),
}


@pytest.mark.parametrize(("words", "status", "answer"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_done_is_told(
    words: list[str], status: int, answer: str, run: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CAFFEZOO_HOME", str(faces / "cache"))
    monkeypatch.chdir(faces)
    (faces / "nothing").mkdir()
    assert main([str(run) if word == "RUN" else word for word in words]) == status
    assert answer in capsys.readouterr().err


def test_only_npz_files_are_written() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["embed", "a", "b", "-o", "a.npy"])
    assert ended.value.code == 2


def test_a_detector_gives_no_embedding(faces: Path) -> None:
    model: Any = zoo.load("mtcnn", pretrained=False)
    with pytest.raises(EmbeddingError, match="states no size"):
        embed_pictures(model, [faces / "a.png"])
