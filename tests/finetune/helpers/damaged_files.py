"""Files of every kind that the recipes read, and damaged ones of them, drawn from a seed."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from clip_trees import lists, tree
from damage import damaged
from PIL import Image
from safetensors.torch import save

import zoo
from finetune.clips.data import read_clips
from finetune.errors import FinetuneError
from finetune.images.data import read
from finetune.images.votes import FERPLUS_VOTES, with_votes
from finetune.runs.folder import Run
from finetune.runs.metrics import read_predictions
from finetune.runs.reading import read_run
from zoo.errors import ZooError

RNG = np.random.default_rng(1)
PIXELS = RNG.integers(0, 256, (8, 8, 8), dtype=np.uint8)
LABELS = [0, 1, 2, 3, 4, 5, 6, 0]


def csv() -> bytes:
    rows = [f"{label},{' '.join(map(str, image.ravel().tolist()))},Training" for label, image in zip(LABELS, PIXELS, strict=True)]
    return ("\n".join(["emotion,pixels,Usage", *rows]) + "\n").encode()


def npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def packed(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("fer2013.csv", csv())
    else:
        with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as files:
            info = tarfile.TarInfo("fer2013.csv")
            info.size = len(csv())
            files.addfile(info, io.BytesIO(csv()))
    return buffer.getvalue()


def hdf5() -> bytes:
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("Training_pixel", data=PIXELS, chunks=(2, 8, 8), compression="gzip")
        file.create_dataset("Training_label", data=np.array(LABELS))
    return buffer.getvalue()


def picture(form: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(buffer, form, **({"exif": exif} if form in ("JPEG", "PNG", "WEBP", "TIFF") else {}))
    return buffer.getvalue()


def list_file(root: Path) -> bytes:
    lists(tree(root), "{split}/{emotion}/{video} {emotion}")
    (root / "vallist.txt").unlink()
    return (root / "trainlist.txt").read_bytes()


CARD = {
    "format": 1, "architecture": "SmallVGG", "arguments": {"num_classes": 3, "widths": [2, 2, 2, 2]}, "weights": "best.safetensors",
    "classes": ["angry", "happy", "sad"], "preprocess": {"size": [48, 48], "channels": "GRAY", "mean": [128.0], "scale": 0.01},
    "scores": {"public": 0.5}, "title": "t", "recipe": "r", "crop": {"margin": 0.1, "align": False},
}  # fmt: skip


def card(root: Path) -> bytes:
    import architectures

    body = save(architectures.SmallVGG(3, widths=(2, 2, 2, 2)).state_dict())
    (root / "best.safetensors").write_bytes(body)
    return json.dumps({**CARD, "sha256": hashlib.sha256(body).hexdigest()}).encode()


def votes() -> bytes:
    rows = [",".join(["Training", *map(str, RNG.integers(0, 10, 10))]) for _ in LABELS]
    return "\n".join([",".join(["Usage", *FERPLUS_VOTES]), *rows]).encode()


def state(root: Path) -> bytes:
    Run(root).save_state({"model": {"w": torch.arange(20.0)}, "progress": {"epoch": 1, "losses": [0.5]}})
    return (root / "state.pt").read_bytes()


def predictions() -> bytes:
    tensors = {"private/logits": torch.randn(4, 3), "private/labels": torch.tensor([0, 1, 2, 0]), "private/rows": torch.arange(4),
               "private/copy": torch.zeros(4, dtype=torch.bool)}  # fmt: skip
    return save(tensors, {"classes": '["a", "b", "c"]', "data_sha256": "0"})


CONFIG = {
    "recipe": "r", "protocol": "honest", "command": "c", "config": {"training": {}}, "classes": ["a", "b", "c"],
    "data": {"name": "n", "sha256": "0", "counts": {"train": 3}, "notes": []},
}  # fmt: skip


def metrics(root: Path) -> bytes:
    (root / "config.json").write_text(json.dumps(CONFIG))
    (root / "environment.json").write_text("{}")
    return b'{"epoch": 1, "loss": 0.5}\n{"epoch": 2, "loss": 0.25}\n'


def images_with(name: str) -> Callable[[Path], Path]:
    """Two whole images beside the damaged one."""

    def place(root: Path) -> Path:
        for label in ("angry", "sad"):
            (root / "d" / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(PIXELS[0]).save(root / "d" / label / "0.png")
        return root / "d" / "sad" / name

    return place


Maker = Callable[[Path], bytes]
Reader = Callable[[Path], object]
PICTURES = {
    "PNG": "RGB", "PNG of a palette": "P", "JPEG": "RGB", "GIF": "P", "TIFF": "RGB", "BMP": "L", "WEBP": "RGB", "PPM": "RGB",
}  # fmt: skip


def images(path: Path) -> object:
    return read(path, cache=False)


def clips(path: Path) -> object:
    return read_clips(path, cache=False)


def clips_npz() -> bytes:
    return npz(frames=PIXELS.reshape(4, 2, 8, 8), labels=LABELS[:4], lengths=[1, 2, 2, 1], subjects=list("abca"))


def reread(root: Path) -> object:
    return read_run(root), Run(root).keep_lines(1)


# The file's name, its content in a folder, and what reads it.
KINDS: dict[str, tuple[str, Maker, Reader]] = {
    "csv": ("fer2013.csv", lambda root: csv(), images),
    "csv.gz": ("fer2013.csv.gz", lambda root: gzip.compress(csv()), images),
    "zip": ("data.zip", lambda root: packed("zip"), images),
    "tar": ("data.tar", lambda root: packed(""), images),
    "tar.xz": ("data.tar.xz", lambda root: packed("xz"), images),
    "npz": ("data.npz", lambda root: npz(images=PIXELS, labels=LABELS, classes=list("abcdefg"), split=[0] * 8), images),
    "clips npz": ("clips.npz", lambda root: clips_npz(), clips),
    "hdf5": ("data.h5", lambda root: hdf5(), images),
    **{
        form: (f"d/sad/1.{form.split()[0].lower()}", partial(lambda root, form, mode: picture(form, mode), form=form.split()[0], mode=mode),
               lambda path: images(path.parents[1]))
        for form, mode in PICTURES.items()
    },
    "list": ("trainlist.txt", list_file, lambda path: clips(path.parent)),
    "votes": ("votes.csv", lambda root: votes(), lambda path: with_votes(read(path.parent / "data.npz", cache=False), path)),
    "card.json": ("card.json", card, lambda path: zoo.load(path.parent)),
    "state.pt": ("state.pt", state, lambda path: Run(path.parent).load_state()),
    "metrics.jsonl": ("metrics.jsonl", metrics, lambda path: reread(path.parent)),
    "predictions": ("predictions.safetensors", lambda root: predictions(), lambda path: read_predictions(path.parent)),
}  # fmt: skip


def read_damaged(kind: str, root: Path, seeds: range) -> list[str]:
    """What the readers raised that they must not, of each seed's file; FinetuneError and ZooError are their answers."""
    name, make, reader = KINDS[kind]
    path = root / name
    root.mkdir(parents=True, exist_ok=True)
    if name.startswith("d/"):
        images_with(Path(name).name)(root)
    if kind == "votes":
        (root / "data.npz").write_bytes(npz(images=PIXELS, labels=LABELS, split=[0] * 8))
    whole, wrong = make(root), []
    for seed in (None, *seeds):
        path.write_bytes(whole if seed is None else damaged(whole, random.Random(seed)))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reader(path)
        except (FinetuneError, ZooError) as error:
            if seed is None or len(str(error)) > 3000:
                wrong.append(f"{kind}, seed {seed}: {str(error)[:300]}")
        except Exception as error:
            wrong.append(f"{kind}, seed {seed}: {type(error).__name__}: {str(error)[:300]}")
    return wrong
