"""The names of the files that a preparation decodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune.video import decode as video


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> dict[str, None]:
    """The names of the files that were decoded."""
    seen: dict[str, None] = {}
    real = video.frames

    def watched(path: Path, *rest: Any, **settings: Any) -> Any:
        seen[path.name] = None
        return real(path, *rest, **settings)

    monkeypatch.setattr(video, "frames", watched)
    return seen
