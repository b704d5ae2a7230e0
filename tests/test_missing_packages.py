"""Every command without a package that it needs: one sentence that names it, and the words that install it."""

from __future__ import annotations

import configparser
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import architectures
import zoo
from converter.extras import DISTRIBUTIONS as NAMES
from converter.extras import PACKAGES, MissingPackage, missing, require, to_install
from zoo.embedding import embed_pictures

ROOT = Path(__file__).parent.parent
DISTRIBUTIONS = {**NAMES, "cv2": "opencv-python-headless"}
EXTRAS = ("finetune", "hdf5", "hub", "onnx", "predict", "report", "serve", "verify", "video")

Command = Callable[[Path], list[str]]


def tree(folder: Path) -> str:
    """A class folder of pictures that is never read: the packages are asked for first."""
    (folder / "train").mkdir(exist_ok=True)
    return str(folder)


def caffe_net(folder: Path) -> str:
    path = folder / "net.prototxt"
    path.write_text(
        'input: "data" input_dim: 1 input_dim: 3 input_dim: 4 input_dim: 4 layer { name: "r" type: "ReLU" bottom: "data" top: "r" }'
    )
    return str(path)


def hdf5(folder: Path) -> str:
    path = folder / "net.caffemodel.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    return str(path)


RUN = ["--recipe", "small_vgg", "--out"]
CLIPS = ["--recipe", "clip_gru", "--out"]
# The package that is missing, the module whose main() is the command, its arguments.
COMMANDS: dict[str, tuple[str, str, Command]] = {
    "convert-caffe of an HDF5 file": ("h5py", "converter.cli", lambda at: [caffe_net(at), hdf5(at)]),
    "convert-caffe -o": ("torch", "converter.cli", lambda at: [caffe_net(at), "--random-weights", "-o", str(at / "x.safetensors")]),
    "convert-caffe --report": ("jinja2", "converter.cli", lambda at: [caffe_net(at), "--report", str(at / "x.html")]),
    "caffe-zoo add of Keras's file": ("h5py", "zoo.cli", lambda at: ["add", "vgg_face", hdf5(at), "--accept-terms", "--allow-unverified"]),
    "serve of pictures": ("PIL", "finetune.serve.__main__", lambda at: ["fer_mini", "--port", "0"]),
    "caffe-zoo embed": ("PIL", "zoo.cli", lambda at: ["embed", "fer_mini", str(at / "a.png"), "-o", str(at / "a.npz")]),
    "caffe-zoo compare": ("PIL", "zoo.cli", lambda at: ["compare", "fer_mini", str(at / "a.png"), str(at / "a.png")]),
    "caffe-zoo fetch": ("requests", "zoo.cli", lambda at: ["fetch", "squeezenet1_1", "--accept-terms"]),
    **{
        f"{module} without {package}": (package, f"finetune.{module}", lambda at, run=run: ["--data", tree(at), *run, str(at / "run")])
        for module, run in (("fer2013", RUN), ("emotiw", CLIPS))
        for package in ("accelerate", "torchmetrics", "jinja2", "matplotlib", "PIL")
    },
    "predict of a picture": ("PIL", "finetune.predict.__main__", lambda at: ["fer_mini", str(at / "a.png")]),
    "predict with a detector": ("cv2", "finetune.predict.__main__", lambda at: ["fer_mini", str(at / "a.png"), "--detector", "opencv"]),
    "predict of a camera": ("cv2", "finetune.predict.__main__", lambda at: ["fer_mini", "--camera", "0", "--no-detect"]),
    "serve": ("gradio", "finetune.serve.__main__", lambda at: ["fer_mini", "--port", "0"]),
    "prepare_video": ("av", "finetune.prepare_video", lambda at: [str(at / "src"), str(at / "dst")]),
    "prepare_video of pictures": ("PIL", "finetune.prepare_video", lambda at: [str(at / "src"), str(at / "dst")]),
}


@pytest.mark.parametrize(("package", "module", "command"), COMMANDS.values(), ids=COMMANDS.keys())
def test_a_command_without_a_package_says_which_and_how_to_install_it(
    package: str, module: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CAFFEZOO_HOME", str(tmp_path / "home"))
    from PIL import Image

    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.avi").write_bytes(b"RIFF")
    main = importlib.import_module(module).main
    for name in [name for name in sys.modules if name.partition(".")[0] == package and name != package]:
        monkeypatch.setitem(sys.modules, name, None)  # "from PIL import Image" looks for these
    monkeypatch.setitem(sys.modules, package, None)
    try:
        status = main(command(tmp_path))
    except SystemExit as end:
        status = end.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
    said = capsys.readouterr().err
    assert status not in (0, None)
    assert PACKAGES[package][0] in said
    assert "Traceback" not in said
    assert any(words in said for words in (*map(to_install, EXTRAS), f"pip install {DISTRIBUTIONS.get(package, package)}"))


CALLS: dict[str, tuple[str, Callable[[], object], str]] = {
    "zoo.load from the Hub": ("huggingface_hub", lambda: zoo.load("hf:owner/name"), "hub"),
    "embed_pictures": ("PIL", lambda: embed_pictures(zoo.load("fer_mini"), [Path("a.png")]), ""),
}


@pytest.mark.parametrize(("package", "call", "extra"), CALLS.values(), ids=CALLS.keys())
def test_a_function_without_a_package_says_so_as_well(
    package: str, call: Callable[[], object], extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAFFEZOO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CAFFEZOO_OFFLINE", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackage) as error:
        call()
    assert str(error.value).endswith(to_install(extra) if extra else f"pip install {DISTRIBUTIONS[package]}")


def test_every_extra_of_the_table_is_one_of_setup_cfg_and_brings_the_package() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = {name: text.lower().split() for name, text in config["options.extras_require"].items()}
    core = config["options"]["install_requires"].lower()
    for name, (_, extra) in PACKAGES.items():
        needed = DISTRIBUTIONS.get(name, name)
        if extra in extras:  # the others are on their way: their commands are not there yet, either
            assert any(each.startswith(needed) for each in extras[extra]), (name, extra)
        elif not extra:
            assert needed in core or needed == "pillow", name  # which torchvision brings


@pytest.mark.parametrize("installed", [True, False])
def test_the_words_are_true_beside_a_wheel_and_in_a_checkout(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No package index has caffezoo, so the words name what it would bring, or the checkout."""
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["torch", 'accelerate; extra == "finetune"'] if installed else None)
    assert to_install("finetune") == ("pip install accelerate" if installed else "pip install -e '.[finetune]' in caffezoo's checkout")


def test_a_module_of_nobody_we_know_is_not_explained_away() -> None:
    assert missing(ImportError("no", name="converter.layers")) is None
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        require("json", "no_such_package")


def test_a_torchvision_of_another_torch_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its operators are missing then, and its import ends with torch's RuntimeError."""

    def fails(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(importlib, "import_module", fails)
    with pytest.raises(ImportError) as caught:
        _ = architectures.MTCNN
    said = missing(caught.value)
    assert said is not None
    assert "built for another PyTorch (operator torchvision::nms does not exist)" in said
    assert "pip install --force-reinstall torch torchvision" in said
