"""Readers in fresh processes: what was written has to be read by something that has not written it.

A reader is started before the file is written, so that its imports run beside the writing. It waits for one line on its standard
input, which says that the file is complete; where its writer ends without that line, killed even, it ends, too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from converter.errors import ConversionError

_START = """
import gc, json, sys
sys.path[:] = [place for place in json.loads(sys.argv[1]) if place]
gc.disable()  # of what libraries make as they are imported none is garbage
{imports}
gc.freeze()
gc.enable()
line = sys.stdin.readline()
if not line.endswith("\\n"):
    sys.exit("its writer ended")
path, *given = json.loads(line)
"""


class Reader:
    """A process that imports what a file is read with; leaving the block ends it.

    Args:
        imports: what it does before there is a file, such as "import torch".
        code: what it does with the file at `path`, and with `given`, the arguments of read_back(); it prints one line.
        descriptors: open files that it may read as well.
    """

    def __init__(self, imports: str, code: str, descriptors: Iterable[int] = ()):
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START.format(imports=imports) + code, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=tuple(descriptors),
        )

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.__exit__(kind, error, trace)

    def read_back(self, path: Path, shown_path: Path, *given: object) -> str:
        """Let it read the complete file, once; returns the last line that it printed.

        Raises:
            ConversionError: it failed; the last line of what it said is in the text.
        """
        line = json.dumps([str(path.absolute()), *given]) + "\n"
        output, errors = self._process.communicate(line.encode())
        if self._process.returncode:
            said = [f"exit status {self._process.returncode}", *errors.decode(errors="replace").strip().splitlines()]
            raise ConversionError(
                f"{shown_path} is not written: a fresh process cannot read it back ({said[-1]})."
                " Please report it; --no-check (check=False) writes the file all the same."
            )
        return output.decode().strip().splitlines()[-1]
