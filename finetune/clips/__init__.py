"""Labelled clips: read, sampled, and made the task of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.clips.data import read_clips

__all__ = ["read_clips"]


def __getattr__(name: str) -> Any:
    if name != "read_clips":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from finetune.clips.data import read_clips

    return read_clips
