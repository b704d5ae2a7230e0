"""Each extra by itself: its commands run where nothing is installed but the core and what the extra names.

The environments are folders of links into this one's packages: those that the requirements name, and what they require in turn.
"""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_packaging import ROOT, setup

packaging = pytest.importorskip("packaging.requirements", reason="it reads requirements; pip and many packages bring it")
pytestmark = pytest.mark.slow


def closure(requirements: list[str]) -> Iterator[importlib.metadata.Distribution]:
    """The installed packages that these requirements bring, each once. Skips the test where one is not here."""
    waiting, seen = [packaging.Requirement(text) for text in requirements], set()
    while waiting:
        needed = waiting.pop()
        extras = sorted(needed.extras) or [""]
        for extra in extras:
            if (needed.name.lower(), extra) in seen:
                continue
            seen.add((needed.name.lower(), extra))
            try:
                found = importlib.metadata.distribution(needed.name)
            except importlib.metadata.PackageNotFoundError:
                pytest.skip(f"{needed.name} is not installed here: pip install -e '.[dev]'")
            yield found
            below = [packaging.Requirement(text) for text in found.requires or []]
            waiting += [each for each in below if each.marker is None or each.marker.evaluate({"extra": extra})]


def environment(folder: Path, extra: str) -> dict[str, str]:
    """Variables under which Python, without its own site-packages, finds the core, the extra, and the checkout."""
    configured = setup()
    needed = configured["options"]["install_requires"].split("\n")
    needed += configured["options.extras_require"][extra].split("\n") if extra else []
    folder.mkdir()
    for found in closure([line for line in needed if line]):
        for top in {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            target = Path(str(found.locate_file(top)))
            if target.exists() and not (folder / top).exists():
                (folder / top).symlink_to(target)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {
        **kept,
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "CAFFEZOO_HOME": str(folder / "cache"),
        "MPLCONFIGDIR": str(folder / "cache"),
    }


def run(environment: dict[str, str], place: Path, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-S", *arguments], env=environment, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]


def example() -> tuple[str, str]:
    embedded = ROOT / "zoo" / "embedded"
    return str(embedded / "fer_mini.prototxt"), str(embedded / "fer_mini.caffemodel")


def with_the_core_alone(env: dict[str, str], place: Path) -> None:
    prototxt, weights = example()
    run(env, place, "-m", "converter.cli", prototxt, weights, "-o", "net.safetensors")
    run(env, place, "-m", "zoo.cli", "info", "fer_mini")
    run(env, place, "-c", "import importlib.util; assert importlib.util.find_spec('cv2') is None")  # the environment is what it says
    run(env, place, "-c", "import zoo; zoo.load('fer_mini')")


def training(env: dict[str, str], place: Path) -> None:
    pixels = {label: " ".join(str((pixel * (label + 3)) % 256) for pixel in range(2304)) for label in range(7)}
    rows = [f"{label},{pixels[label]},{use}" for use in ("Training", "PublicTest", "PrivateTest") for label in range(7) for _ in range(4)]
    (place / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *rows]))
    run(env, place, "-m", "finetune.fer2013", "--recipe", "small_vgg", "--data", "fer2013.csv", "--out", "run", "--smoke", "--cpu")
    assert (place / "run" / "report.html").is_file()


def a_video(env: dict[str, str], place: Path) -> None:
    from marked_videos import moving, write

    write(place / "in" / "talk.mp4", moving(3))
    run(
        env,
        place,
        "-c",
        "from pathlib import Path; from finetune.video import decode; assert len(list(decode.frames(Path('in/talk.mp4'), []))) == 3",
    )
    run(env, place, "-m", "finetune.prepare_video", "--help")


def hdf5(env: dict[str, str], place: Path) -> None:
    import h5py
    import numpy as np

    with h5py.File(place / "net.caffemodel.h5", "w") as file:
        file["data/conv1/0"] = np.zeros((2, 3, 1, 1), "f4")
    run(env, place, "-m", "converter.cli", "net.caffemodel.h5")


def a_server(env: dict[str, str], place: Path) -> None:
    command = [sys.executable, "-S", "-u", "-m", "finetune.serve", "fer_mini", "--port", "0"]
    with subprocess.Popen(command, env=env, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        said = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert "http://127.0.0.1" in said, process.stderr.read()[-3000:]
        process.communicate()
        assert process.returncode == 0


COMMANDS: dict[str, Callable[[dict[str, str], Path], None]] = {
    "": with_the_core_alone,
    "finetune": training,
    "video": a_video,
    "predict": lambda env, place: run(env, place, "-m", "finetune.demo", "out"),
    "serve": a_server,
    "hdf5": hdf5,
    "hub": lambda env, place: run(env, place, "-c", "import huggingface_hub; from zoo.files import hub"),
    "onnx": lambda env, place: run(env, place, "-m", "converter.cli", *example(), "-o", "net.onnx"),
    "report": lambda env, place: run(env, place, "-m", "converter.cli", *example(), "--report", "net.html"),
    "verify": lambda env, place: run(env, place, "-m", "converter.cli", *example(), "--verify"),
}


@pytest.mark.parametrize("extra", COMMANDS)
def test_an_extra_by_itself_is_enough_for_its_commands(extra: str, tmp_path: Path) -> None:
    env = environment(tmp_path / "packages", extra)
    (tmp_path / "work").mkdir()
    COMMANDS[extra](env, tmp_path / "work")


def test_every_extra_has_its_commands_here() -> None:
    assert set(setup()["options.extras_require"]) - {"dev"} == set(COMMANDS) - {""}
