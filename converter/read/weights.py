"""Weight files of any of Caffe's formats, told apart by their first bytes, and mean images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from converter.read.caffemodel import Blob, Weights, is_hdf5, walk, walk_blob


def open_weights(path: str | os.PathLike[str]) -> Weights:
    """Walk a weight file of any of Caffe's formats, told apart by its first bytes.

    Raises:
        WeightsError: no weight file, or a damaged one.
    """
    path = Path(path)
    if is_hdf5(path):
        from converter.read.hdf5 import walk_hdf5

        return walk_hdf5(path)
    return walk(path)


def read_blobs(path: str | os.PathLike[str]) -> dict[str, list[Blob]]:
    """The blobs of a caffemodel (V0, V1, V2, HDF5) by layer name; of layers that share a name, the last that has blobs.

    numpy.asarray(blob) gives a blob's values as float32; blob.shape and blob.dtype cost nothing.

    Raises:
        WeightsError: no weight file, or a damaged one.
    """
    found: dict[str, list[Blob]] = {}
    for layer in open_weights(path).layers:
        for blob in layer.blobs:
            blob.check()
        if layer.blobs or layer.name not in found:
            found[layer.name] = layer.blobs
    return found


def read_mean(path: str | os.PathLike[str]) -> Any:
    """A mean.binaryproto as a float32 array: (C, H, W), or C3D's (C, L, H, W).

    The channels are in the data's order: BGR where Caffe made it from images.

    Raises:
        WeightsError: the file is no single blob.
    """
    import numpy

    mean = numpy.asarray(walk_blob(Path(path)))
    return mean[0] if mean.ndim in (4, 5) and mean.shape[0] == 1 else mean
