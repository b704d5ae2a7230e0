"""Runs a check on many inputs in a process with little memory, and counts its CPU time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[3]
FRAME = """
import json, pathlib, resource, sys, time, traceback
{check}
folder, megabytes = pathlib.Path(sys.argv[1]), int(sys.argv[2])
size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (megabytes << 20),) * 2)
for path in sorted(folder.iterdir()):
    begin = time.process_time()
    try:
        said = check(path)
    except BaseException:
        said = "!" + traceback.format_exc()
    print(json.dumps([path.name, said, time.process_time() - begin]), flush=True)
"""


def results(check: str, inputs: Mapping[str, bytes], folder: Path, megabytes: int) -> dict[str, tuple[str, float]]:
    """{name: (what check(path) returned, or "!" and the traceback; seconds of CPU)} with so much memory beyond what Python has.

    `check` is source text that defines check(path). A process that dies ends in an AssertionError that names the input.
    """
    folder.mkdir()
    for name, data in inputs.items():
        (folder / name).write_bytes(data)
    command = [sys.executable, "-c", FRAME.replace("{check}", check), str(folder), str(megabytes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = {name: (said, seconds) for name, said, seconds in map(json.loads, done.stdout.splitlines())}
    left = sorted(inputs.keys() - found.keys())
    assert not left, (left[0], done.returncode, done.stderr[-2000:])
    return found
