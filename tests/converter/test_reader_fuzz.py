"""Damaged prototxts, caffemodels, HDF5 weights and means, drawn from a seed, end in ConversionError or a net, within bounds."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from damage import damaged
from limits import bounded

from converter import ConversionError, convert, read_blobs, save_caffemodel
from converter.read.weights import read_mean

h5py = pytest.importorskip("h5py", reason="h5py is not installed: HDF5 files cannot be written")
PROTOTXT = """
name: "Small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 2 } }
"""


def prototxt(root: Path) -> bytes:
    return PROTOTXT.encode()


def caffemodel(root: Path) -> bytes:
    save_caffemodel(convert(root / "net.prototxt"), root / "whole.caffemodel")
    return (root / "whole.caffemodel").read_bytes()


def hdf5(root: Path) -> bytes:
    with h5py.File(root / "whole.h5", "w") as file:
        for key, value in convert(root / "net.prototxt").state_dict().items():
            layer, _, name = key.partition(".")
            if layer != "bn":
                file[f"data/{layer}/{('weight', 'bias').index(name)}"] = value.numpy()
        for row, count in enumerate((4, 4, 1)):
            file[f"data/bn/{row}"] = np.ones(count, np.float32)
    return (root / "whole.h5").read_bytes()


def mean(root: Path) -> bytes:
    numbers = np.arange(12, dtype="<f4").tobytes()
    return b"\x08\x01\x10\x03\x18\x02\x20\x02\x2a" + bytes([len(numbers)]) + numbers  # BlobProto: num, channels, height, width, data


def loaded(path: Path) -> object:
    """Both ways to read a weight file; a file that the first refuses never reaches the second, so each comes first for half of them."""

    def blobs() -> object:
        return [np.asarray(blob) for held in read_blobs(path).values() for blob in held]

    def net() -> object:
        return convert(path.parent / "net.prototxt", path)

    return [way() for way in ((blobs, net) if path.stat().st_size % 2 else (net, blobs))]


KINDS: dict[str, tuple[str, Callable[[Path], bytes], Callable[[Path], object]]] = {
    "prototxt": ("damaged.prototxt", prototxt, convert),
    "caffemodel": ("damaged.caffemodel", caffemodel, loaded),
    "hdf5": ("damaged.caffemodel.h5", hdf5, loaded),
    "mean": ("damaged.binaryproto", mean, read_mean),
}


def read_damaged(kind: str, root: Path, seeds: range) -> list[str]:
    """What was raised that must not be, for each seed's file."""
    name, make, reader = KINDS[kind]
    root.mkdir(parents=True, exist_ok=True)
    (root / "net.prototxt").write_text(PROTOTXT)
    whole, wrong = make(root), []
    for seed in (None, *seeds):
        (root / name).write_bytes(whole if seed is None else damaged(whole, random.Random(seed)))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reader(root / name)
        except ConversionError as error:
            if seed is None or len(str(error)) > 5000:
                wrong.append(f"{kind}, seed {seed}: {str(error)[:300]}")
        except Exception as error:
            wrong.append(f"{kind}, seed {seed}: {type(error).__name__}: {str(error)[:300]}")
    return wrong


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused_in_words(kind: str, tmp_path: Path) -> None:
    assert not read_damaged(kind, tmp_path / "a", range(25))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files_stay_within_bounds(kind: str, tmp_path: Path) -> None:
    assert not bounded(read_damaged, kind, tmp_path / "a", range(100, 1100), preload=["converter.conversion", "converter.net"])
