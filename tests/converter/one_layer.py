"""Nets of one layer, written by the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converter import CaffeNet, convert
from converter.write.encode import write_caffemodel


def net_of(
    folder: Path, layer: str, *shapes: tuple[int, ...], tops: int = 1, blobs: list[Any] | None = None, phase: str = "TEST"
) -> CaffeNet:
    """A net of one layer `op` on inputs of these shapes."""
    lines = [f'input: "in{i}" input_shape {{ {" ".join(f"dim: {d}" for d in shape)} }}' for i, shape in enumerate(shapes)]
    ends = [f'bottom: "in{i}"' for i in range(len(shapes))] + [f'top: "out{i}"' for i in range(tops)]
    prototxt = folder / "net.prototxt"
    prototxt.write_text("\n".join([*lines, f'layer {{ name: "op" {" ".join(ends)} {layer} }}']))
    if blobs is None:
        return convert(prototxt, phase=phase)
    write_caffemodel(folder / "net.caffemodel", [("op", "any", blobs)])
    return convert(prototxt, folder / "net.caffemodel", phase=phase)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(got: Tensor, want: Any, atol: float = 1e-5) -> None:
    torch.testing.assert_close(got, torch.as_tensor(want, dtype=got.dtype), rtol=0, atol=atol)
