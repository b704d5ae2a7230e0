"""A command's start: importing torch is most of what a small one takes."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def importing_torch() -> Iterator[None]:
    """Imports without a search for garbage, in the block and, among what was imported, ever after: at the end of the process, too.

    What torch's modules hold is no garbage; looking for it takes a quarter of the time of `python -c "import torch"`. Where torch is there
    already, so that others may have left garbage, nothing is changed.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
