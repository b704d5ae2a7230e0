"""Tensors in files of the cache: written whole or not at all, mapped when read, checked against what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from zoo.disk import saving, writing

DAMAGED = (OSError, ValueError, KeyError, TypeError, IndexError)  # what a file of the cache may raise that is not what was written


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} ".encode())
        digest.update(tensors[name].contiguous().numpy().reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def store_tensors(tensors: dict[str, Tensor], about: Mapping[str, object], place: Path, kind: str) -> None:
    """Writes a file of the cache; `about` is JSON, under the name `kind`. Raises CacheError."""
    from safetensors.torch import save_file

    about = {**about, "content": tensors_sha256(tensors)}
    with writing(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
        with saving(place) as temporary:
            save_file(tensors, temporary, metadata={kind: json.dumps(about)})


def load_tensors(place: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, mapped from the file, and `about`, as store_tensors got them. Raises one of DAMAGED where they are not."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(place, framework="pt") as file:
            about = json.loads((file.metadata() or {})[kind])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    except SafetensorError as error:
        raise ValueError(f"{place}: {error}") from error
    if about["content"] != tensors_sha256(tensors):
        raise ValueError(f"{place}: not the content that was written")
    return tensors, about
