"""Whether this machine has the device that is asked for: known before anything is fetched or loaded for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.errors import LoadError

if TYPE_CHECKING:
    import torch


def check_device(device: str | torch.device | int | None) -> None:
    """Raises LoadError, in one sentence, for a device that PyTorch does not know or that is not here."""
    if device is None:
        return
    import torch

    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError):
        raise LoadError(f"device {str(device)!r}: PyTorch knows no such device; it knows cpu, cuda, cuda:1 and mps, among others") from None
    reason = _missing(wanted)
    if reason:
        raise LoadError(f"device {str(wanted)!r}: {reason}; device 'cpu' always works")


def _missing(wanted: torch.device) -> str:
    """Why the device cannot be had, "" where it can."""
    import torch

    if wanted.type in ("cpu", "meta"):
        return ""
    if wanted.type == "cuda" and not torch.cuda.is_available():
        if torch.version.cuda is None and torch.version.hip is None:
            return "there is no GPU for it: this PyTorch was built without CUDA (pytorch.org has the other builds)"
        return "there is no GPU for it: PyTorch finds none (nvidia-smi says whether the driver does)"
    if wanted.type == "cuda" and wanted.index is not None and wanted.index >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        return f"this machine has {count} GPU{'s' if count > 1 else ''}, counted from cuda:0"
    if wanted.type == "mps" and not torch.backends.mps.is_available():
        return "PyTorch finds no Apple GPU here"
    try:
        torch.empty(0, device=wanted)
    except Exception as error:  # what a backend raises is its own affair
        return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return ""
