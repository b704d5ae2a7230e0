"""mypy --strict on a user's script: the Python lines of the pages, and what they get from zoo.load() and convert() is typed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="mypy is part of the extra `dev`")
pytestmark = pytest.mark.slow  # half a minute: mypy reads torch

from pages import PAGES, ROOT, pieces  # noqa: E402

# What a page's lines take from its words, or from the page before.
PRELUDE = """
import torch
import zoo
from PIL import Image
images: torch.Tensor
image: Image.Image
face: Image.Image
frames: list[Image.Image]
x: torch.Tensor
"""
NO_PROGRAMS = ("docs/adding-a-layer.md",)  # parts of a module of the converter
# An expression, and what mypy says of its type.
TYPES = {
    "model.preprocess(face)": "Tensor",
    "model.labels": "tuple[str, ...]",
    "model.card.title": "str",
    "model.card.preprocess": "Preprocess | None",
    'model.features("fc7")(x)': "Tensor",
    "model.eval()": "Model",
    "zoo.info('vgg_face').terms.licence": "str",
    "zoo.list_models()": "list[str]",
    "zoo.fetch('vgg_face')": "dict[str, Path]",
    "zoo.verify('vgg_face')[0].detail": "str",
    "zoo.load_caffe('a.prototxt', 'a.caffemodel').card": "LocalCard",
    "zoo.load_caffe('a.prototxt', 'a.caffemodel').layer_names": "dict[str, str]",
    "convert('a.prototxt')": "CaffeNet",
    "convert('a.prototxt').inputs": "tuple[str, ...]",
    "convert('a.prototxt').to_fx()": "GraphModule",
    "read_blobs('a.caffemodel')['conv'][0].shape": "tuple[int, ...]",
}


def scripts() -> dict[str, str]:
    """A module for every page with Python lines, and one of expressions."""
    found: dict[str, str] = {}
    for page in PAGES:
        blocks = [piece.text for piece in pieces(page) if piece.kind == "python"] if page not in NO_PROGRAMS else []
        if blocks:
            name = re.sub(r"\W", "_", page.removesuffix(".md"))
            found[name] = "\n".join([PRELUDE, *blocks, ""])
    lines = ["from converter import convert, read_blobs", 'model = zoo.load("vgg_face", num_classes=7, device="cpu")']
    found["expressions"] = "\n".join([PRELUDE, *lines, *(f"reveal_type({each})" for each in TYPES), ""])
    return found


def test_a_users_script_passes_mypy_strict(tmp_path: Path) -> None:
    for name, text in scripts().items():
        (tmp_path / f"{name}.py").write_text(text)
    config = tmp_path / "mypy.ini"  # what other packages lack is not looked at
    config.write_text(
        f"[mypy]\nstrict = True\nfollow_imports = silent\nignore_missing_imports = True\nallow_redefinition = True\n"
        f"untyped_calls_exclude = torch\nmypy_path = {ROOT}\ncache_dir = {ROOT / '.mypy_cache'}\n"
    )
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(config),
        "--python-executable",
        sys.executable,
        *map(str, tmp_path.glob("*.py")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert not [line for line in done.stdout.splitlines() if ": error:" in line], done.stdout
    revealed = re.findall(r'expressions\.py:\d+: note: Revealed type is "(.*)"', done.stdout)
    short = [re.sub(r"(?:\w+\.)+(?=\w)", "", each) for each in revealed]
    assert dict(zip(TYPES, short, strict=True)) == TYPES
