"""What strangers named moves no cursor and hides no text: every command, with files, folders, classes and layers of hostile names."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converter.errors import printable
from converter.terminal import Parser

pytestmark = pytest.mark.filterwarnings("ignore")  # pytest makes errors of the notes, which the last test but one looks at
EVIL = "a\x1b[2J\x9b31m\u202etxt\r\x08b"  # clears the screen, in C0 and C1; turns the text about; goes back over it
LAYER = "\\x1b[2J\\xc2\\x9b31m\\xe2\\x80\\xae"  # the same in a prototxt's string

Command = Callable[[Path], list[str]]


def net(at: Path) -> str:
    path = at / f"{EVIL}.prototxt"
    inner = 'inner_product_param { num_output: 2 weight_filler { type: "xavier" } }'
    path.write_text(
        f'name: "{LAYER}" layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 1 dim: 3 }} }} }}'
        f' layer {{ name: "{LAYER}" type: "InnerProduct" bottom: "data" top: "{LAYER}" {inner} }}'
        f' layer {{ name: "loss{LAYER}" type: "SoftmaxWithLoss" bottom: "{LAYER}" bottom: "label{LAYER}" }}'
    )
    return str(path)


def unsupported(at: Path) -> str:
    path = at / f"{EVIL}.prototxt"
    path.write_text(f'input: "data" input_shape {{ dim: 1 }} layer {{ name: "{LAYER}" type: "{LAYER}" bottom: "data" top: "x" }}')
    return str(path)


def pictures(at: Path) -> str:
    from PIL import Image

    for split in ("train", "test"):
        for name in (EVIL, "happy"):
            folder = at / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(2):
                Image.fromarray(np.full((48, 48), 40 * number, np.uint8)).save(folder / f"{EVIL}{number}.png")
    return str(at / "data")


def run(at: Path) -> str:
    folder = at / EVIL
    folder.mkdir(exist_ok=True)
    card = {"format": 1, "classes": [EVIL], "arguments": {}, "architecture": EVIL, "preprocess": {EVIL: 1}, "title": EVIL}
    (folder / "card.json").write_text(json.dumps(card))
    return str(folder)


def damaged(at: Path, suffix: str = ".png") -> str:
    path = at / f"{EVIL}{suffix}"
    path.write_bytes(b"nothing")
    return str(path)


CONVERT, ZOO, PREDICT = "converter.cli", "zoo.cli", "finetune.predict.__main__"
TRAIN = ["--recipe", "small_vgg", "--cpu", "--out"]
CLIPS = ["--recipe", "clip_mean", "--cpu", "--out"]
COMMANDS: dict[str, tuple[str, Command]] = {
    "convert-caffe, a table": (CONVERT, lambda at: [net(at)]),
    "convert-caffe, JSON": (CONVERT, lambda at: [net(at), "--json"]),
    "convert-caffe, converted": (CONVERT, lambda at: [net(at), "--random-weights", "-o", str(at / f"{EVIL}.caffemodel")]),
    "convert-caffe, a layer that nobody knows": (CONVERT, lambda at: [unsupported(at)]),
    "convert-caffe, no file": (CONVERT, lambda at: [str(at / EVIL)]),
    "convert-caffe, no weights": (CONVERT, lambda at: [net(at), damaged(at, ".caffemodel"), "-o", str(at / "x.safetensors")]),
    "convert-caffe, an option": (CONVERT, lambda at: [net(at), f"--{EVIL}"]),
    "convert-caffe, a shape": (CONVERT, lambda at: [net(at), "--input-shape", EVIL]),
    "convert-caffe, no output": (CONVERT, lambda at: [net(at), "--random-weights", "-o", str(at / EVIL / "x.pth")]),
    "convert-caffe, a page": (CONVERT, lambda at: [net(at), "--report", str(at / f"{EVIL}.html")]),
    "caffe-zoo export --hub": (ZOO, lambda at: ["export", run(at), "--hub", str(at / f"{EVIL}hub")]),
    "caffe-zoo of the Hub": (ZOO, lambda at: ["compare", f"hf:{EVIL}", damaged(at), damaged(at)]),
    "caffe-zoo list": (ZOO, lambda at: ["list"]),
    "caffe-zoo info": (ZOO, lambda at: ["info", EVIL]),
    "caffe-zoo fetch": (ZOO, lambda at: ["fetch", EVIL]),
    "caffe-zoo verify": (ZOO, lambda at: ["verify", "squeezenet1_1"]),
    "caffe-zoo verify, JSON": (ZOO, lambda at: ["verify", "squeezenet1_1", "--json"]),
    "caffe-zoo add": (ZOO, lambda at: ["add", "squeezenet1_1", damaged(at)]),
    "caffe-zoo where": (ZOO, lambda at: ["where", "squeezenet1_1"]),
    "caffe-zoo clean": (ZOO, lambda at: ["clean", "squeezenet1_1", "--all"]),
    "caffe-zoo export": (ZOO, lambda at: ["export", run(at), "-o", str(at / "x.caffemodel")]),
    "caffe-zoo embed": (ZOO, lambda at: ["embed", "fer_mini", damaged(at), "-o", str(at / f"{EVIL}.npz")]),
    "caffe-zoo compare": (ZOO, lambda at: ["compare", "fer_mini", damaged(at), damaged(at)]),
    "caffe-zoo, an option": (ZOO, lambda at: ["list", f"--{EVIL}"]),
    "predict": (PREDICT, lambda at: ["fer_mini", damaged(at), pictures(at), "--no-detect", "-o", str(at / f"{EVIL}.csv")]),
    "predict by a run": (PREDICT, lambda at: [run(at), damaged(at)]),
    "predict of nothing": (PREDICT, lambda at: ["fer_mini", str(at / EVIL)]),
    "fer2013, classes": ("finetune.fer2013", lambda at: ["--data", pictures(at), *TRAIN, str(at / EVIL)]),
    "fer2013, no data": ("finetune.fer2013", lambda at: ["--data", str(at / EVIL), *TRAIN, str(at / "run")]),
    "fer2013, a field": ("finetune.fer2013", lambda at: ["--data", str(at), *TRAIN, str(at / "run"), "--set", f"{EVIL}=1"]),
    "emotiw, classes": ("finetune.emotiw", lambda at: ["--data", pictures(at), *CLIPS, str(at / EVIL)]),
    "emotiw, no data": ("finetune.emotiw", lambda at: ["--data", str(at / EVIL), *CLIPS, str(at / "run")]),
    "ensemble": ("finetune.ensemble", lambda at: [run(at)]),
    "prepare_video": ("finetune.prepare_video", lambda at: [str(Path(damaged(at, ".avi")).parent), str(at / "dst" / EVIL)]),
    "prepare_video, no folder": ("finetune.prepare_video", lambda at: [str(at / EVIL), str(at / "dst")]),
}  # fmt: skip


@pytest.mark.parametrize(("module", "command"), COMMANDS.values(), ids=COMMANDS.keys())
def test_a_command_prints_no_character_that_a_terminal_obeys(
    module: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / f"{EVIL}home"
    monkeypatch.setenv("CAFFEZOO_HOME", str(home))
    monkeypatch.setenv("CAFFEZOO_OFFLINE", "1")
    place = home / "squeezenet1_1"
    place.mkdir(parents=True)
    for path in place / "squeezenet_v1.1.caffemodel", place / f".{EVIL}.part":
        path.write_bytes(b"x")
    (place / "squeezenet_v1.1.caffemodel.receipt.json").write_text(
        json.dumps({"size": 1, "sha256": EVIL, "proof": EVIL, "origin": EVIL, "pinned": True})
    )
    arguments = command(tmp_path)
    try:
        status = importlib.import_module(module).main(arguments)
    except SystemExit as end:
        status = end.code
        if isinstance(status, str):
            print(status)
    out, err = capfd.readouterr()
    assert out + err
    assert "Traceback" not in err
    unsafe = {character for character in out + err if not (character.isprintable() or character == "\n")}
    assert not unsafe, (sorted(map(repr, unsafe)), out, err)


FRAME = f"""
import logging, warnings
from converter.errors import CaffezooWarning
from converter.terminal import notes, say
evil = {EVIL!r}
with notes():
    warnings.warn("two\\nlines " + evil, CaffezooWarning)
    warnings.warn(evil, RuntimeWarning)
    logging.getLogger("caffezoo").warning("%s", evil)
    say(evil + "\\n")
"""


def test_the_frame_of_the_commands_makes_warnings_and_the_log_safe() -> None:
    """In a process of its own: pytest has its own ways with warnings and logs."""
    done = subprocess.run([sys.executable, "-c", FRAME], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    assert done.stderr.startswith("note: two\nlines ")
    assert done.stderr.count("note: ") == 2
    assert all(character.isprintable() or character == "\n" for character in done.stdout + done.stderr)


def test_an_argument_is_named_as_it_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="command")
    parser.add_subparsers().add_parser("go")
    with pytest.raises(SystemExit):
        parser.parse_args(["go", EVIL])
    assert printable(EVIL) in capsys.readouterr().err
