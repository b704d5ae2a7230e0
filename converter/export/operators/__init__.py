"""PyTorch's operations as Caffe's layers: one function for each, under the name of the ATen operator.

A function takes the sketch and the operator's arguments by its own schema: what varies is a Blob, what the module holds a Tensor.
It returns the blob of the result, or raises NoCaffeForm with the reason and the way round.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from converter.export.operators.registry import OPERATORS, REARRANGING

for _family in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_family.name}")

__all__ = ["OPERATORS", "REARRANGING"]
