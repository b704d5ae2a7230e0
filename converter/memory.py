"""How much memory a process may still take, and how much a net's activations need: to say so before the machine is brought down."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from converter.errors import ConversionError

if TYPE_CHECKING:
    from converter.program import Call

VARIABLE = "CAFFEZOO_MEMORY"
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
HIERARCHY = Path("/sys/fs/cgroup")


class MemoryShortError(ConversionError, MemoryError):
    """What is asked for needs more memory than this process can get; nothing has been allocated."""


def available() -> int:
    """Bytes: what CAFFEZOO_MEMORY says (8G, 500M), else the least of the machine's available memory, the process's control groups'
    limits and its ulimit -v. Raises ConversionError for a CAFFEZOO_MEMORY that is no size."""
    if said := os.environ.get(VARIABLE):
        found = re.fullmatch(r"\s*(\d{1,18})\s*([KMGT]?)I?B?\s*", said.upper())
        if found is None:
            raise ConversionError(f"{VARIABLE} is {said[:40]!r}; expected a size in bytes, as 500M or 8G")
        return int(found[1]) * UNITS[found[2]]
    return max(0, min(_machine(), *_control_groups(), *_address_space()))


def shown_size(count: float) -> str:
    """Bytes for a reader: 900 kB, 3.2 GB."""
    for unit, size in (("GB", 1 << 30), ("MB", 1 << 20)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1024:,.0f} kB"


def check_activations(need: float, what: str) -> None:
    """Raises MemoryShortError where so many bytes cannot be had."""
    if need > (have := available()):
        raise MemoryShortError(
            f"{what} needs about {shown_size(need)} for its activations, and {shown_size(have)} are available; take a smaller batch or"
            f" input (--input-shape), a machine with more memory, or set {VARIABLE} where this estimate is wrong."
        )


def peak(calls: Iterable[Call], sizes: Sequence[int], given: Mapping[int, int]) -> int:
    """The most values that are held at once while the calls run; `sizes` are those of all versions, `given` the inputs'."""
    held = dict(given)
    total = most = sum(held.values())
    for call in calls:
        for top in call.tops:
            total += sizes[top] - held.get(top, 0)
            held[top] = sizes[top]
        most = max(most, total)
        for version in call.dead:
            total -= held.pop(version, 0)
    return most


def _machine() -> int:
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows doesn't say it this way: nothing is refused for want of memory
        return 1 << 62


def _control_groups() -> Iterator[int]:
    """What the limits of this process's groups and of those above leave; the pages of files that a group holds can be freed."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = HIERARCHY / "memory" if controllers else HIERARCHY
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        folder = root / place.lstrip("/")
        for group in (folder, *folder.parents):
            limit, usage = (_number(group / name) for name in names)
            if limit is not None and usage is not None:
                yield limit - usage + _file_pages(group / "memory.stat")
            if group == root:
                break


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _file_pages(path: Path) -> int:
    try:
        found = re.search(r"^(?:total_)?inactive_file (\d+)$", path.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) if found else 0


def _address_space() -> Iterator[int]:
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            yield limit - int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError):
        return
