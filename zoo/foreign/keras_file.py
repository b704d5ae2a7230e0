"""The weights of a Keras model in HDF5 (save_weights, or save of the model): layers in the model's order. Needs the extra `hdf5`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import shown
from zoo.errors import LoadError

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"\x89HDF\r\n\x1a\n"
MOST_LAYERS = 10_000
LARGEST_RATIO = 1100  # of a compressed dataset's size to what it takes in the file; deflate reaches 1,032
# Keras 2 and 1: what a weight is, by the end of its name.
PARAMETERS = {
    "kernel": "kernel", "W": "kernel", "bias": "bias", "b": "bias", "gamma": "gamma", "beta": "beta", "moving_mean": "mean",
    "running_mean": "mean", "moving_variance": "variance", "running_std": "variance",
}  # fmt: skip
ENDING = re.compile(rf"(?:^|[/_])({'|'.join(sorted(PARAMETERS, key=len, reverse=True))})(?:_\d+)?(?::\d+)?$")


@dataclass(frozen=True)
class Weight:
    """One array that is still in the file; `shape` as Keras has it: kernels (height, width, in, out) or (in, out)."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Layer:
    name: str
    weights: dict[str, Weight]  # by PARAMETERS' values


def read_keras(path: Path) -> list[Layer]:
    """The layers that have weights. Raises LoadError for a file that is none of Keras's, damaged, or leads to others."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            top = _member(file, "model_weights", path) if "model_weights" in file else file
            if "layer_names" not in top.attrs:
                newer = "_layer_checkpoint_dependencies" in file or "layers" in file
                hint = " (it is in Keras 3's layout, which no known copy has; save it with Keras 2's save_weights)" if newer else ""
                raise LoadError(f"{path}: an HDF5 file without layer_names, so no weights of a Keras model{hint}")
            names = [_text(name) for name in top.attrs["layer_names"]]
            if len(names) > MOST_LAYERS:
                raise LoadError(f"{path}: {len(names):,} layers; no net has as many")
            layers = [_layer(path, top, name) for name in names]
    except LoadError:
        raise
    except Exception as error:  # h5py turns damage into errors of any kind
        problem = str(error).splitlines()[0] if str(error) else repr(error)
        raise LoadError(f"{path}: the HDF5 file is damaged ({problem})") from error
    return [layer for layer in layers if layer.weights]


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _layer(path: Path, top: Any, name: str) -> Layer:
    group = _member(top, name, path)
    weights: dict[str, Weight] = {}
    for each in map(_text, group.attrs.get("weight_names", ())):
        kind = ENDING.search(each)
        if kind is None:
            raise LoadError(f"{path}: layer {shown(name)} has a weight {shown(each)}, which is neither a kernel, a bias, nor BatchNorm's")
        parameter = PARAMETERS[kind[1]]
        if parameter in weights:
            raise LoadError(f"{path}: layer {shown(name)} has two weights of one kind ({shown(each)})")
        weights[parameter] = _weight(path, _member(group, each, path), f"layer {shown(name)}, {shown(each)}")
    return Layer(name, weights)


def _member(group: Any, name: str, path: Path) -> Any:
    """A member that lies in this very file; "/" in a name makes groups in groups."""
    import h5py

    for part in name.split("/"):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            raise LoadError(f"{path}: {shown(name)} is named, but is not in the file")
        if not isinstance(link, h5py.HardLink):
            raise LoadError(f"{path}: {shown(name)} is a link, which Keras never writes; it is not followed")
        group = group[part]
    return group


def _weight(path: Path, dataset: Any, where: str) -> Weight:
    import h5py
    import numpy as np

    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise LoadError(f"{path}: {where} is no array")
    if dataset.is_virtual or dataset.external:
        raise LoadError(f"{path}: {where} has its values in another file; that is not followed")
    if dataset.dtype.kind != "f" or dataset.dtype.itemsize not in (2, 4, 8):
        raise LoadError(f"{path}: {where} holds {dataset.dtype}, not floats")
    claimed = max(dataset.nbytes, prod(dataset.chunks or ()) * dataset.dtype.itemsize if dataset.nbytes else 0)
    if claimed > LARGEST_RATIO * dataset.id.get_storage_size():
        raise LoadError(f"{path}: {where} claims {claimed:,} bytes, the file holds {dataset.id.get_storage_size():,}")
    name = dataset.name

    def read() -> np.ndarray:
        try:
            with h5py.File(path, "r") as file:
                return np.asarray(file[name][()], np.float32)
        except Exception as error:
            raise LoadError(f"{path}: {where} is damaged ({error})") from error

    return Weight(tuple(map(int, dataset.shape)), read)
