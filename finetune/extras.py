"""Packages that only some commands need, and the words that install them: true in a checkout, and beside a wheel."""

from __future__ import annotations

import importlib.metadata
import re
import shlex


def to_install(extra: str) -> str:
    """The command that brings what an extra of caffezoo names, by the packages' own names."""
    try:
        needed = importlib.metadata.requires("caffezoo") or []
    except importlib.metadata.PackageNotFoundError:
        needed = []
    packages = [each.split(";")[0].strip() for each in needed if re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", each)]
    if not packages:
        return f"pip install -e '.[{extra}]' in caffezoo's checkout"
    return f"pip install {shlex.join(packages)}"
