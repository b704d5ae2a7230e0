"""Walks a .caffemodel.h5: Caffe's HDF5 snapshots, one dataset a blob at data/<layer>/<index>. Needs the extra `hdf5`."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from converter.errors import WeightsError, shown
from converter.read.caffemodel import Blob, Span, WeightLayer, Weights
from converter.read.source import Source, open_source

_LARGEST_RATIO = 1100  # of a compressed dataset's size to what it takes in the file; deflate reaches 1,032
_MOST_MEMBERS = 1 << 16


def walk_hdf5(path: Path) -> Weights:
    """The layers and blobs of an HDF5 snapshot; HDF5 keeps no order of layers, so they come by name.

    Raises:
        WeightsError: h5py is missing, or the file is no Caffe snapshot.
    """
    try:
        import h5py
    except ImportError:
        raise WeightsError(f"{path}: an HDF5 snapshot needs h5py; install it with: pip install h5py") from None
    source = open_source(path)
    layers: list[WeightLayer] = []
    try:
        with h5py.File(path, "r") as file:
            data = _member(file, "data", path)
            if not isinstance(data, h5py.Group) and ("model_weights" in file or "layer_names" in file.attrs):
                raise WeightsError(f"{path}: this is a Keras model, not a Caffe snapshot; convert-caffe reads Caffe's files only.")
            if not isinstance(data, h5py.Group):
                raise WeightsError(f"{path}: an HDF5 file without a group `data` is no Caffe snapshot (a data set, perhaps?).")
            _collect(h5py, data, "", source, layers, set())
    except WeightsError:
        raise
    except Exception as problem:  # h5py turns damage into errors of any kind
        raise _damaged(path, problem) from problem
    if not layers:
        raise WeightsError(f"{path}: the group `data` of this HDF5 file holds no layer.")
    return Weights(path, "HDF5", "", layers, source)


def _damaged(path: Path, problem: Exception) -> WeightsError:
    return WeightsError(f"{path}: the HDF5 file is damaged ({str(problem).splitlines()[0] if str(problem) else problem!r}).")


def _member(group: Any, name: str, path: Path) -> Any:
    """A member that lies in this very file: links that lead out of it are not followed."""
    import h5py

    link = group.get(name, getlink=True)
    if link is not None and not isinstance(link, h5py.HardLink):
        raise WeightsError(f"{path}: {shown(name)} is a link, which Caffe never writes; it is not followed.")
    return group.get(name)


def _collect(h5py: Any, group: Any, prefix: str, source: Source, layers: list[WeightLayer], seen: set[int]) -> None:
    """Layers below a group; a '/' in a layer's name makes groups within groups."""
    if prefix.count("/") > 32:
        raise WeightsError(f"{source.path}: groups are nested deeper than 32.")
    for name in group:
        member = _member(group, name, source.path)
        if not isinstance(member, h5py.Group):
            raise WeightsError(f"{source.path}: {shown(prefix + name)} is no group; Caffe keeps blobs at data/<layer>/<index>.")
        address = h5py.h5o.get_info(member.id).addr
        if address in seen:
            raise WeightsError(f"{source.path}: the group {shown(prefix + name)} is in the file under two names, which Caffe never writes.")
        seen.add(address)
        if max(len(seen), len(member)) > _MOST_MEMBERS:
            raise WeightsError(f"{source.path}: more than {_MOST_MEMBERS:,} groups or blobs are in this file; no net has as many.")
        held = {key: _member(member, key, source.path) for key in member}
        datasets = {key: value for key, value in held.items() if isinstance(value, h5py.Dataset)}
        if not all(key.isdecimal() and str(int(key)) == key for key in datasets):
            raise WeightsError(f"{source.path}: layer {shown(prefix + name)} has blobs {shown(sorted(datasets))}, not 0, 1, ...")
        # A layer that shares its first blob with an earlier one holds the second only (Net::ToHDF5).
        places = tuple(sorted(map(int, datasets)))
        blobs = [_blob(datasets[str(i)], source, f"layer {shown(prefix + name)}, blob {i}") for i in places]
        if blobs or not held:
            layers.append(WeightLayer(prefix + name, "", blobs, places))
        if len(held) > len(datasets):
            below = {key: value for key, value in held.items() if key not in datasets}
            _collect(h5py, _Groups(below), f"{prefix}{name}/", source, layers, seen)


class _Groups(dict[str, Any]):
    """Members already looked up, walked like a group."""

    def get(self, key: str, default: Any = None, getlink: bool = False) -> Any:
        return None if getlink else super().get(key, default)


def _blob(dataset: Any, source: Source, where: str) -> Blob:
    if dataset.is_virtual or dataset.external:
        raise WeightsError(f"{source.path}: {where} has its values in another file; that is not followed.")
    if dataset.dtype.kind != "f" or dataset.dtype.itemsize not in (2, 4, 8):
        raise WeightsError(f"{source.path}: {where} holds {dataset.dtype}, not floats.")
    if dataset.shape is None:
        raise WeightsError(f"{source.path}: {where} holds nothing, not even a shape.")
    claimed = max(dataset.nbytes, prod(dataset.chunks or ()) * dataset.dtype.itemsize if dataset.nbytes else 0)
    if claimed > _LARGEST_RATIO * dataset.id.get_storage_size():
        raise WeightsError(f"{source.path}: {where} claims {claimed:,} bytes, the file holds {dataset.id.get_storage_size():,}.")
    kind = {"<f4": "F32", "<f8": "F64", "<f2": "F16"}.get(dataset.dtype.str)
    offset = dataset.id.get_offset()
    shape = tuple(int(d) for d in dataset.shape)
    if offset is not None and kind is not None and offset + dataset.nbytes <= source.size:
        return Blob(shape, (Span(offset, dataset.size, kind),), source, where)
    name = dataset.name
    return Blob(shape, (), source, where, stored=lambda: _read(source.path, name))


def _read(path: Path, name: str) -> Any:
    """The values of a dataset that is compressed, in chunks, or of another byte order."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return file[name][()]
    except Exception as problem:
        raise _damaged(path, problem) from problem
