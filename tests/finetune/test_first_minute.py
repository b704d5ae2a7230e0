"""The first minute: python -m finetune.demo, as the README's first command runs it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from finetune.demo import __main__ as demo
from finetune.demo import outputs
from zoo.cards import embedded

pytestmark = pytest.mark.skipif(not embedded.cards(), reason="zoo/embedded is empty: benchmarks/fer_mini.py writes it from a finished run")


def test_the_demo_converts_compares_and_names_a_face(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="the demo finds the face with OpenCV's cascade")
    said = subprocess.run([sys.executable, "-m", "finetune.demo", str(tmp_path / "out")], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    converted, compared, read, *rest = said.stdout.splitlines()
    assert converted.startswith("Converted  ") and "fer_mini.caffemodel, a Caffe net of 1,774,311 parameters" in converted
    assert "OpenCV 4" in compared and "the same for 8 pictures" in compared
    assert "the face of an astronaut: happy" in read
    assert "not feelings" in "".join(rest) and rest[-1].endswith(
        f"-m finetune.predict fer_mini PHOTO.jpg --annotate {tmp_path / 'out' / 'annotated'}"
    )
    copied = {"fer_mini.prototxt", "fer_mini.caffemodel", "astronaut.jpg"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == copied | {"fer_mini.safetensors", "astronaut_annotated.jpg", "face.jpg"}
    assert np.asarray(Image.open(tmp_path / "out" / "face.jpg")).shape == (104, 104, 3)
    before, after = (np.asarray(Image.open(path)).astype(int) for path in (demo.PICTURE, tmp_path / "out" / "astronaut_annotated.jpg"))
    assert before.shape == after.shape and 500 < (abs(before - after).max(2) > 60).sum() < before.shape[0] ** 2 / 10  # a box, bars, no more


def test_the_stored_outputs_are_opencvs() -> None:
    cv2: Any = pytest.importorskip("cv2", reason="OpenCV computed them, and is not here to say so again")
    if not hasattr(cv2, "dnn") or not hasattr(cv2.dnn, "readNetFromCaffe"):
        pytest.skip("this OpenCV reads no Caffe files any more")
    net = cv2.dnn.readNetFromCaffe(*(str(embedded.FOLDER / f"fer_mini.{ending}") for ending in ("prototxt", "caffemodel")))
    net.setInput(np.stack([(outputs.pictures()[n, None] - 127.5) / 64 for n in range(8)]).astype(np.float32))
    kept = outputs.stored()
    assert np.abs(net.forward("classifier") - kept.logits).max() < 1e-5 * np.abs(kept.logits).max()
    assert kept.caffemodel_sha256 == embedded.cards()[0].files[0].checksums[0].value


def test_the_pictures_are_those_of_the_recipe() -> None:
    drawn = outputs.pictures()
    assert drawn.shape == (8, 44, 44) and drawn.dtype == np.uint8
    assert [int(drawn[n, y, x]) for n, y, x in ((0, 0, 1), (0, 1, 0), (1, 0, 0), (7, 43, 42))] == [
        7,
        11,
        13,
        (294 + 473 + 91 + 12642) % 256,
    ]
    assert json.loads(outputs.STORED.read_bytes())["inputs"] == outputs.RECIPE


def test_other_weights_are_told_from_the_right_ones(tmp_path: Path) -> None:
    card = embedded.cards()[0]
    prototxt, state = embedded.FOLDER / "fer_mini.prototxt", tmp_path / "state.safetensors"
    demo._convert_caffe(False, prototxt, embedded.FOLDER / "fer_mini.caffemodel", "-o", state)
    assert demo.compare(prototxt, state, card)[2] < demo.MOST
    tensors = load_file(state)
    tensors["conv1_1.weight"] = tensors["conv1_1.weight"].flip(-1)
    save_file(tensors, state)
    assert demo.compare(prototxt, state, card)[2] > 100 * demo.MOST
    other = dataclasses.replace(card, files=(dataclasses.replace(card.files[0], checksums=()),))
    with pytest.raises(demo.FinetuneError, match=r"demo_outputs\.py makes it anew"):
        demo.compare(prototxt, state, other)


def test_verbose_shows_the_layers_and_an_error_ends_in_1(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(demo, "compare", lambda *_: ("somebody", 8, 0.5))
    assert demo.main([str(tmp_path), "-v"]) == 1
    said = capsys.readouterr()
    assert "$ convert-caffe " in said.out and "conv1_1     Convolution" in said.out
    assert "differ by 5.0e-01" in said.err


def test_the_picture_is_small_and_public_domain_is_said() -> None:
    from finetune import demo as package

    assert demo.PICTURE.stat().st_size < 100_000
    assert "public domain" in str(package.__doc__)
