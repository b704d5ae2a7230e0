"""What can be told of a blob's values: range, spread, a histogram, and what is suspicious in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

BINS = 48
SMALLEST_NORMAL = 2.0**-126  # of float32; what is smaller is denormal, which some CPUs multiply a hundred times slower
LARGEST_HALF = 65504.0
_PIECE = 1 << 20  # values looked at together: a large blob needs no second copy


@dataclass(frozen=True)
class Statistics:
    """The values of one blob. Range, mean and deviation are those of the finite ones, None where there are none."""

    count: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    deviation: float | None
    zeros: int
    denormals: int
    nans: int
    infinities: int
    filters: int  # rows along the axis of outputs; 0 where the blob has no such axis
    dead: tuple[int, ...]  # the rows without any normal number: they give their bias, whatever comes in
    histogram: tuple[int, ...]  # BINS equal parts of minimum..maximum; () where all values are equal

    @property
    def findings(self) -> list[str]:
        """What a person should look at."""
        found = []
        if self.nans:
            found.append(f"{self.nans:,} NaN")
        if self.infinities:
            found.append(f"{self.infinities:,} infinite")
        if self.denormals:
            found.append(f"{self.denormals:,} denormal")
        if self.dead:
            found.append(f"{len(self.dead):,} of {self.filters:,} filters dead")
        if self.minimum is not None and self.maximum is not None and max(-self.minimum, self.maximum) > LARGEST_HALF:
            found.append("beyond half precision")
        return found


def statistics(values: numpy.ndarray, filters: int | None = None) -> Statistics:
    """Statistics of float32 values; `filters` is the axis of the outputs, whose rows are looked at for dead ones."""
    import numpy

    zeros = denormals = nans = infinities = finite = 0
    total = squares = 0.0
    low, high = numpy.inf, -numpy.inf
    for piece in _pieces(values):
        good = numpy.isfinite(piece)
        if not good.all():
            nan = int(numpy.isnan(piece).sum())
            nans, infinities = nans + nan, infinities + int(piece.size - good.sum()) - nan
            piece = piece[good]
        if not piece.size:
            continue
        small = numpy.abs(piece) < SMALLEST_NORMAL
        if small.any():
            none = int((piece == 0).sum())
            zeros, denormals = zeros + none, denormals + int(small.sum()) - none
        low, high = min(low, float(piece.min())), max(high, float(piece.max()))
        finite += piece.size
        total += float(piece.sum(dtype=numpy.float64))
        wide = piece.astype(numpy.float64)
        squares += float(numpy.dot(wide, wide))
    mean = total / finite if finite else None
    deviation = None if mean is None else max(squares / finite - mean * mean, 0.0) ** 0.5
    return Statistics(
        int(values.size),
        low if finite else None,
        high if finite else None,
        mean,
        deviation,
        zeros,
        denormals,
        nans,
        infinities,
        0 if filters is None else values.shape[filters],
        () if filters is None or not denormals + zeros else dead(values, filters),
        histogram(values, low, high) if low < high else (),
    )


def dead(values: numpy.ndarray, axis: int) -> tuple[int, ...]:
    """The rows along an axis that hold zeros and denormals only."""
    import numpy

    rows = numpy.moveaxis(values, axis, 0)
    step = max(1, _PIECE // max(rows[0].size, 1)) if len(rows) else 1
    found: list[int] = []
    for start in range(0, len(rows), step):
        part = rows[start : start + step].reshape(len(rows[start : start + step]), -1)
        alive = ~(numpy.abs(part) < SMALLEST_NORMAL)  # NaN is alive
        found += [start + int(i) for i in numpy.flatnonzero(~alive.any(1))]
    return tuple(found)


def histogram(values: numpy.ndarray, low: float, high: float) -> tuple[int, ...]:
    """How many finite values lie in each of BINS equal parts of low..high."""
    import numpy

    counts = numpy.zeros(BINS, numpy.int64)
    width = high / BINS - low / BINS
    for piece in _pieces(values):
        piece = piece[numpy.isfinite(piece)].astype(numpy.float64)
        if width > 0:
            counts += numpy.bincount(numpy.clip((piece - low) / width, 0, BINS - 1).astype(numpy.int64), minlength=BINS)
    return tuple(map(int, counts))


def _pieces(values: numpy.ndarray) -> Iterator[numpy.ndarray]:
    flat = values.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        yield flat[start : start + _PIECE]
