"""Damaged copies of bytes, from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator


def mutants(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Bits flipped, pieces cut out, doubled or made of one byte, a few at a time."""
    draw = random.Random(seed)
    for _ in range(count):
        found = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            at, length = draw.randrange(len(found) + 1), draw.choice((1, 1, 4, 16, 512))
            piece = found[at : at + length]
            found[at : at + length] = draw.choice(
                (b"", piece * 2, bytes(len(piece)), b"\xff" * len(piece), bytes(byte ^ (1 << draw.randrange(8)) for byte in piece))
            )
        yield bytes(found)
