"""Arrays of an npz or HDF5 file, checked: images, labels, splits."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from finetune.errors import FinetuneError
from finetune.files import BROKEN, LIMIT
from finetune.labels import SPLIT_ORDER, split_of
from zoo.errors import counted

HIGHEST_LABEL = 1_000_000
SPLIT_ARRAYS = ("split", "splits", "usage", "set", "subset", "partition", "phase")  # what an npz may call the parts of its rows


def about_unread(names: Iterable[str], roles: Mapping[str, str | None]) -> list[str]:
    """A note on the arrays of an npz that no role has."""
    unread = [name for name in names if name not in roles.values()]
    shown = ", ".join(repr(name[:40]) for name in unread[:5]) + (", ..." if len(unread) > 5 else "")
    return [f"{counted(len(unread), 'array')} not read: {shown}"] if unread else []


def as_images(array: np.ndarray, what: str) -> np.ndarray:
    """(N, H, W), (N, H·W), (N, H, W, 1|3) or (N, 1|3, H, W) whole numbers 0..255 -> (N, H, W) or (N, 3, H, W) uint8."""
    if array.ndim == 2 and array.shape[1] and math.isqrt(array.shape[1]) ** 2 == array.shape[1]:
        side = math.isqrt(array.shape[1])
        array = array.reshape(-1, side, side)
    if array.ndim == 4 and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim == 4 and array.shape[1] == 1:
        array = array[:, 0]
    if not (array.ndim == 3 or (array.ndim == 4 and array.shape[1] == 3)) or 0 in array.shape:
        raise FinetuneError(f"{what}: shape {array.shape}; expected (N, H, W), (N, H, W, 3) or (N, 3, H, W)")
    if array.dtype.kind not in "ui":
        raise FinetuneError(f"{what}: {array.dtype} pixels; expected whole numbers 0..255. Store them as uint8")
    if array.dtype != np.uint8 and (wrong := np.flatnonzero(((array < 0) | (array > 255)).reshape(len(array), -1).any(1))).size:
        raise FinetuneError(f"{what}, row {wrong[0] + 1}: pixels outside 0..255; store uint8 images")
    return np.ascontiguousarray(array, np.uint8)


def as_labels(array: np.ndarray, what: str, images: int) -> np.ndarray:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (images,) or array.dtype.kind not in "ui":
        raise FinetuneError(f"{what}: {array.dtype} of shape {array.shape}; expected whole numbers of shape ({images},), one a picture")
    if images and (wrong := (array < 0) | (array > HIGHEST_LABEL)).any():
        row = int(np.flatnonzero(wrong)[0])
        raise FinetuneError(f"{what}, row {row + 1}: label {array[row]}; labels count from 0 without gaps")
    return array.astype(np.int64)


def named_splits(array: np.ndarray, path: Path, images: int) -> np.ndarray:
    if array.shape != (images,) or array.dtype.kind not in "uiU":
        raise FinetuneError(f"{path}, split: {array.dtype} of shape {array.shape}; expected ({images},) numbers 0..2 or names")
    names = {value: split_of(value) if isinstance(value, str) else dict(enumerate(SPLIT_ORDER[:3])).get(value) for value in array.tolist()}
    if unknown := [value for value, name in names.items() if name is None]:
        row = array.tolist().index(unknown[0])
        raise FinetuneError(f"{path}, split, row {row + 1}: unknown value {unknown[0]!r}; known are 0 train, 1 public, 2 private, or names")
    return np.array([names[value] for value in array.tolist()])


def npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> np.ndarray:
    """One array of an npz. Its header must promise exactly the bytes that the archive holds: numpy allocates what it says."""
    what = f"{path}, {member.filename!r}"
    if member.file_size > LIMIT:
        raise FinetuneError(f"{what}: {member.file_size:,} bytes, more than {LIMIT:,}: refused")
    try:
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read_header(stream)
            if dtype.hasobject or dtype.kind not in "uifbU":
                raise FinetuneError(f"{what}: {dtype} values: refused; store numbers or names")
            if any(length < 0 for length in shape) or math.prod(shape) * dtype.itemsize > member.file_size:
                raise FinetuneError(f"{what}: its header promises {dtype} of shape {shape}, but has {member.file_size:,} bytes")
            body = bytearray(stream.read(math.prod(shape) * dtype.itemsize))
        return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")
    except FinetuneError:
        raise
    except (ValueError, TypeError, *BROKEN) as error:
        raise FinetuneError(f"{what}: damaged or not an array ({str(error)[:200]}); save the file again") from error
