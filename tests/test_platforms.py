"""Where the system lacks what Linux has, as Windows and macOS do, files are read and written all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# What the module os lacks on Windows, and the modules that are not there at all. macOS lacks copy_file_range and sched_getaffinity.
MISSING = [
    "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "copy_file_range", "fchmod", "getuid", "pread", "preadv", "preadv2",
    "sched_getaffinity", "sendfile", "statvfs", "sysconf",
]  # fmt: skip
MODULES = ["fcntl", "grp", "pwd", "resource", "termios"]
# Others' packages are imported before anything is taken away: they have their own ways on such systems.
SCRIPT = """
import os, shutil, sys, tempfile
import requests, torch, safetensors.torch, PIL.Image
missing, modules, source, out = {missing!r}, {modules!r}, {source!r}, {out!r}
shutil._USE_CP_SENDFILE = False
for name in missing:
    delattr(os, name) if hasattr(os, name) else None
for name in modules:
    sys.modules[name] = None

from pathlib import Path
from converter import convert
from converter.cli import main
import finetune, zoo
from finetune.serve.keep import keeping
from zoo.files.lock import lock

for suffix in ("safetensors", "pth"):
    main([source + ".prototxt", source + ".caffemodel", "-o", f"{{out}}/net.{{suffix}}"])
model = zoo.load("fer_mini")
assert model(torch.zeros(1, 1, 44, 44)).shape == (1, 7)
with lock(Path(out, "cache")):
    pass
with keeping(Path(out)) as keep:
    upload = keep.path / "upload"
    upload.write_bytes(b"abc")
    assert keep.take(str(upload), 10) == b"abc"
"""


def test_nets_are_converted_and_loaded_without_what_windows_lacks(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from torch import equal, load

    from converter import convert

    source = ROOT / "zoo" / "embedded" / "fer_mini"
    script = SCRIPT.format(missing=MISSING, modules=MODULES, source=str(source), out=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    want = convert(source.with_suffix(".prototxt"), source.with_suffix(".caffemodel")).state_dict()
    for state in (load_file(tmp_path / "net.safetensors"), load(tmp_path / "net.pth", weights_only=True)):
        assert list(state) == list(want)
        assert all(equal(state[key], value) for key, value in want.items())
