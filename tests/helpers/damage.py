"""Damage to a file's bytes, drawn from a seed: of the kinds that disks, people and attackers make."""

from __future__ import annotations

import random
import re

NUMBERS = (b"0", b"-1", b"1e9", b"NaN", b"4294967296", b"18446744073709551615", b"99999999999999999999", b"0000000009", b"0.5", b"7")
PIECES = (b"", b"\0", b"\n", b"\r\n", b",", b'"', b";", b"\t", b"{", b"]", b"\xff\xfe", b"\xef\xbb\xbf", b"../", b"\x80", b"a" * 300)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A few changes."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        where, other = (rng.randrange(len(content) + 1) for _ in range(2))
        low, high = sorted((where, other))
        how = rng.randrange(8)
        if how == 0 and content:
            where = min(where, len(content) - 1)
            content = content[:where] + bytes([content[where] ^ 1 << rng.randrange(8)]) + content[where + 1 :]
        elif how == 1:
            content = content[:where]
        elif how == 2:
            content = content[:low] + content[high:]
        elif how == 3:
            content = content[:where] + content[low:high][:1000] + content[where:]
        elif how == 4:
            content = content[:where] + rng.choice(PIECES) + content[where:]
        elif how == 5 and (found := list(re.finditer(rb"\d+", content))):
            match = rng.choice(found)
            content = content[: match.start()] + rng.choice(NUMBERS) + content[match.end() :]
        elif how == 6:
            content = content[:where] + rng.randbytes(rng.randrange(1, 9)) + content[where + rng.randrange(9) :]
        else:
            content = content[:where] + bytes([rng.choice((0, 255, 127))]) * 4 + content[where + 4 :]
    return content
