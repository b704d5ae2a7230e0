"""How much memory a process may still take, for the recipes."""

from __future__ import annotations

from converter import memory
from converter.errors import ConversionError
from converter.memory import VARIABLE as VARIABLE
from converter.memory import shown_size as shown_size
from zoo.errors import ZooError


def available() -> int:
    """Bytes, see converter.memory.available. Raises ZooError for a CAFFEZOO_MEMORY that is no size."""
    try:
        return memory.available()
    except ConversionError as error:
        raise ZooError(str(error)) from error
