"""Walks a .caffemodel.h5: Caffe's HDF5 snapshots, one dataset a blob at data/<layer>/<index>. Needs the extra `hdf5`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converter.errors import WeightsError, shown
from converter.wire import Blob, Source, Span, WeightLayer, Weights, open_source

_LARGEST_RATIO = 1000  # of a compressed dataset's size to what it takes in the file


def walk_hdf5(path: Path) -> Weights:
    """The layers and blobs of an HDF5 snapshot; HDF5 keeps no order of layers, so they come by name.

    Raises:
        WeightsError: h5py is missing, or the file is no Caffe snapshot.
    """
    try:
        import h5py
    except ImportError:
        raise WeightsError(f"{path}: an HDF5 snapshot needs h5py; install it with: pip install 'caffezoo[hdf5]'") from None
    source = open_source(path)
    layers: list[WeightLayer] = []
    try:
        with h5py.File(path, "r") as file:
            data = _member(file, "data", path)
            if not isinstance(data, h5py.Group):
                raise WeightsError(f"{path}: an HDF5 file without a group `data` is no Caffe snapshot; a data set for HDF5Data layers looks so.")
            _collect(h5py, data, "", source, layers, 0)
    except (OSError, RuntimeError, KeyError, ValueError, UnicodeDecodeError) as problem:
        raise WeightsError(f"{path}: the HDF5 file is damaged ({str(problem).splitlines()[0] if str(problem) else problem!r}).") from problem
    if not layers:
        raise WeightsError(f"{path}: the group `data` of this HDF5 file holds no layer.")
    return Weights(path, "HDF5", "", layers, source)


def _member(group: Any, name: str, path: Path) -> Any:
    """A member that lies in this very file: links that lead out of it are not followed."""
    import h5py

    link = group.get(name, getlink=True)
    if link is not None and not isinstance(link, h5py.HardLink):
        raise WeightsError(f"{path}: {shown(name)} is a link, which Caffe never writes; it is not followed.")
    return group.get(name)


def _collect(h5py: Any, group: Any, prefix: str, source: Source, layers: list[WeightLayer], depth: int) -> None:
    """Layers below a group; a '/' in a layer's name makes groups within groups."""
    if depth > 32:
        raise WeightsError(f"{source.path}: groups are nested deeper than 32.")
    for name in group:
        member = _member(group, name, source.path)
        if not isinstance(member, h5py.Group):
            raise WeightsError(f"{source.path}: {shown(prefix + name)} is no group; Caffe keeps blobs at data/<layer>/<index>.")
        held = {key: _member(member, key, source.path) for key in member}
        datasets = {key: value for key, value in held.items() if isinstance(value, h5py.Dataset)}
        if set(datasets) - {str(i) for i in range(len(datasets))}:
            raise WeightsError(f"{source.path}: layer {shown(prefix + name)} has blobs {shown(sorted(datasets))}, not 0, 1, ...")
        blobs = [_blob(datasets[str(i)], source, f"layer {shown(prefix + name)}, blob {i}") for i in range(len(datasets))]
        if blobs or not held:
            layers.append(WeightLayer(prefix + name, "", blobs))
        if len(held) > len(datasets):
            below = {key: value for key, value in held.items() if key not in datasets}
            _collect(h5py, _Groups(below), f"{prefix}{name}/", source, layers, depth + 1)


class _Groups(dict):  # type: ignore[type-arg]
    """Members already looked up, walked like a group."""

    def get(self, key: str, default: Any = None, getlink: bool = False) -> Any:
        return None if getlink else super().get(key, default)


def _blob(dataset: Any, source: Source, where: str) -> Blob:
    if dataset.is_virtual or dataset.external:
        raise WeightsError(f"{source.path}: {where} has its values in another file; that is not followed.")
    if dataset.dtype.kind != "f" or dataset.dtype.itemsize not in (2, 4, 8):
        raise WeightsError(f"{source.path}: {where} holds {dataset.dtype}, not floats.")
    if dataset.nbytes > _LARGEST_RATIO * dataset.id.get_storage_size():
        raise WeightsError(f"{source.path}: {where} claims {dataset.nbytes:,} bytes, the file holds {dataset.id.get_storage_size():,}.")
    kind = {"<f4": "F32", "<f8": "F64", "<f2": "F16"}.get(dataset.dtype.str)
    offset = dataset.id.get_offset()
    shape = tuple(int(d) for d in dataset.shape)
    if offset is not None and kind is not None and offset + dataset.nbytes <= source.size:
        return Blob(shape, (Span(offset, dataset.size, kind),), source, where)
    values = dataset[()]
    return Blob(shape, (), source, where, stored=lambda: values)
