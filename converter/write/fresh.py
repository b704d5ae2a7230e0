"""Runs a reader in a fresh process: what was written has to be read by something that has not written it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from converter.errors import ConversionError

START = """
import json, sys
path, folder, places = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
sys.path[:] = [place for place in places if place]
"""


def read_by(code: str, path: Path, folder: str, shown_path: Path, *more: str, descriptors: Sequence[int] = ()) -> str:
    """Run START and the code on a file; `folder` holds what the two processes exchange. Returns the last line that it printed.

    Args:
        more: further arguments, sys.argv[4:].
        descriptors: open files that the process may read.

    Raises:
        ConversionError: it failed; the last line of what it said is in the text.
    """
    arguments = [str(path.absolute()), folder, json.dumps([*sys.path, ""]), *more]
    done = subprocess.run(
        [sys.executable, "-I", "-c", START + code, *arguments], capture_output=True, cwd=folder, pass_fds=tuple(descriptors)
    )
    if done.returncode:
        said = [f"exit status {done.returncode}", *done.stderr.decode(errors="replace").strip().splitlines()]
        raise ConversionError(
            f"{shown_path} is not written: a fresh process cannot read it back ({said[-1]})."
            " Please report it; --no-check (check=False) writes the file all the same."
        )
    return done.stdout.decode().strip().splitlines()[-1]
