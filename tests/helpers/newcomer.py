"""A newcomer who types what the pages say, in a folder with small files of the names that the pages use.

What a page downloads is drawn or copied here; what it trains for hours is left by a drawn run. The command lines themselves go
through the project's own mains, whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import io
import json
import re
import runpy
import shlex
import shutil
import signal
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_run import CLASSES, draw_run
from marked_videos import moving, write
from pages import ROOT
from PIL import Image
from safetensors.torch import save_file

import converter
import zoo

NET = """name: "example"
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 1 dim: 3 dim: {side} dim: {side} }} }} }}
layer {{ name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param {{ num_output: 4 kernel_size: 3 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }}
layer {{ name: "fc7" type: "InnerProduct" bottom: "conv1" top: "fc7"
  inner_product_param {{ num_output: 6 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu7" type: "ReLU" bottom: "fc7" top: "fc7" }}
layer {{ name: "fc8" type: "InnerProduct" bottom: "fc7" top: "fc8"
  inner_product_param {{ num_output: 5 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "prob" type: "Softmax" bottom: "fc8" top: "prob" }}
"""
REFUSED = """
layer { name: "crf" type: "Python" bottom: "prob" top: "refined" python_param { module: "crf_layer" layer: "DenseCRF" } }
layer { name: "end" type: "ReLU" bottom: "refined" top: "end" }
"""


class NotRun(Exception):
    """Nothing was run, for the reason given."""


def furnish(folder: Path) -> None:
    """The files that the pages speak of, each a small one of its kind."""
    from converter import convert, save_caffemodel

    astronaut = Image.open(ROOT / "finetune" / "demo" / "astronaut.jpg")
    face = astronaut.crop((160, 50, 290, 180))
    for name in ("photo.jpg", "PHOTO.jpg", "holiday/one.jpg"):
        _folder_of(folder / name)
        astronaut.save(folder / name)
    for name in ("a.jpg", "b.jpg", "crops/one.jpg", "holiday/face.jpg", "faces/happy/1.jpg", "faces/sad/1.jpg", "fer2013/test/happy/1.jpg"):
        _folder_of(folder / name)
        face.save(folder / name)
    write(folder / "talk.mp4", moving(6))
    for prototxt, caffemodel, side in (
        ("deploy.prototxt", "net.caffemodel", 16), ("VGG_FACE_deploy.prototxt", "VGG_FACE.caffemodel", 20),
        ("yufacedetectnet-open-v1.prototxt", "yufacedetectnet-open-v1.caffemodel", 16), ("PROTOTXT", "old.caffemodel", 16),
    ):  # fmt: skip
        (folder / prototxt).write_text(NET.format(side=side))
        save_caffemodel(convert(folder / prototxt), folder / caffemodel)
    (folder / "segmenter.prototxt").write_text(NET.format(side=16) + REFUSED)
    (folder / "mean.binaryproto").write_bytes(_mean(np.full((1, 3, 2, 2), 7, "<f4")))
    (folder / "downloads" / "vgg_face_caffe").mkdir(parents=True)
    for name in ("VGG_FACE_deploy.prototxt", "VGG_FACE.caffemodel"):
        (folder / name).rename(folder / "downloads" / "vgg_face_caffe" / name)
    with tarfile.open(folder / "downloads" / "vgg_face_caffe.tar.gz", "w:gz") as archive:
        archive.add(folder / "downloads" / "vgg_face_caffe", "vgg_face_caffe")
    for name in ("fer2013.csv", "ck48_sequences.npz", "best7164.model", "best_resnet.model"):
        (folder / name).write_text("a stand-in: training is one, too\n")
    _folder_of(folder / "gestures" / "wave")
    write(folder / "AFEW" / "Train_AFEW" / "Angry" / "000046280.avi", moving(2))
    (folder / "caffezoo").symlink_to(ROOT)
    for name in ("mine", "small-vgg"):
        image_run(folder / "runs" / name)


def _folder_of(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)


def _mean(values: np.ndarray) -> bytes:
    """A BlobProto of the old form: num, channels, height, width are fields 1 to 4, unpacked; the packed data are field 5."""
    data = values.tobytes()
    numbers = b"".join(bytes([field << 3, size]) for field, size in zip((1, 2, 3, 4), values.shape, strict=True))
    return numbers + bytes([5 << 3 | 2, len(data)]) + data


def image_run(run: Path) -> None:
    """What finetune.fer2013 leaves: drawn figures, and the net that comes with the package."""
    shutil.rmtree(run, ignore_errors=True)
    draw_run(run, epochs=3)
    net: Any = zoo.load("fer_mini")
    _write_card(run, net, {"num_classes": len(net.labels)}, net.card.preprocess, net.labels)


def clip_run(run: Path) -> None:
    """What finetune.emotiw leaves: drawn figures, and a net of clips."""
    from architectures import FaceClipNet

    shutil.rmtree(run, ignore_errors=True)
    draw_run(run, epochs=3)
    arguments: dict[str, Any] = {"num_classes": 7, "encoder": "SmallResNet", "arguments": {"width": 8}}
    _write_card(run, FaceClipNet(**arguments), arguments, zoo.Preprocess((32, 32), "RGB", (0.0,) * 3, "drawn"), CLASSES)


def _write_card(run: Path, net: torch.nn.Module, arguments: dict[str, Any], preprocess: zoo.Preprocess, classes: Sequence[str]) -> None:
    save_file(net.state_dict(), run / "best.safetensors")
    card = {
        "format": 1, "architecture": type(net).__name__, "arguments": arguments, "weights": "best.safetensors",
        "sha256": hashlib.sha256((run / "best.safetensors").read_bytes()).hexdigest(), "classes": list(classes), "title": "drawn",
        "recipe": "none", "preprocess": {key: value for key, value in dataclasses.asdict(preprocess).items() if value is not None},
    }  # fmt: skip
    (run / "card.json").write_text(json.dumps(card))


# --------------------------------------------------------------------------------------- what takes hours, or comes from elsewhere


class Trained:
    """In place of a job: run() leaves a drawn run."""

    def __init__(self, draw: Callable[[Path], None], out: Path) -> None:
        self.draw, self.out = draw, out

    def run(self, **_: Any) -> None:
        self.draw(self.out)


def without_training(patch: pytest.MonkeyPatch) -> None:
    """The recipes' mains read all of their options, and a drawn run is left."""
    from finetune import emotiw, prepare_video
    from finetune.clips import cross_validation
    from finetune.clips import job as clip_job
    from finetune.images import job as image_job
    from finetune.train import device

    class Alone:
        main_process_first = staticmethod(contextlib.nullcontext)
        device = torch.device("cpu")

    def data(path: Path, *_: Any) -> Path:
        if not path.exists():
            raise AssertionError(f"--data {path} is not there")
        return path

    patch.setattr(image_job, "image_job", lambda recipe, path, out, **_: data(path) and Trained(image_run, out))
    patch.setattr(clip_job, "read_data", data)
    patch.setattr(clip_job, "ClipJob", lambda recipe, data, plan, out, *_, **__: Trained(clip_run, out))
    patch.setattr(cross_validation, "CrossValidation", lambda recipe, data, out, *_, **__: Trained(clip_run, out))
    patch.setattr(device, "accelerator_for", lambda *_, **__: Alone())
    for name in ("plan_clips", "sampled"):
        patch.setattr(emotiw, name, lambda *_: None)

    def prepared(src: Path, dst: Path, *_: Any, **__: Any) -> list[Any]:
        for number in (1, 2):
            path = dst / "Train_AFEW" / "Angry" / "000046280" / f"images{number:04}.jpg"
            _folder_of(path)
            Image.new("RGB", (8, 8)).save(path)
        return []

    patch.setattr(prepare_video, "prepare", prepared)


def without_waiting(patch: pytest.MonkeyPatch) -> None:
    """finetune.serve understands its options, and doesn't wait for visitors."""
    serve = importlib.import_module("finetune.serve.__main__")
    patch.setattr(serve, "serve", lambda options: None)


def without_network(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Weights of the zoo and of torchvision are drawn; an empty cache of the test's own; anything else that asks for a host fails."""
    import torchvision

    from zoo import cli
    from zoo.cards import registry
    from zoo.files import store
    from zoo.models import named

    fetched: set[str] = set()

    def fetch(name: str, **_: Any) -> dict[str, Path]:
        card = registry.card_of(name)
        fetched.add(card.name)
        if card.labels_file is not None:
            (labels := store.folder(card) / card.labels_file).parent.mkdir(parents=True, exist_ok=True)
            labels.write_text("\n".join(f"person {i}" for i in range(2622)), encoding="utf-8")
        return {file.name: store.folder(card) / file.name for file in card.files}

    embedded, real = named._with_weights, store.cached
    patch.setenv("CAFFEZOO_HOME", str(folder / "cache"))
    patch.setenv("CAFFEZOO_OFFLINE", "1")
    patch.setattr(cli, "fetch", fetch)
    patch.setattr(named, "fetch", lambda name, **options: fetch(name) if registry.card_of(name).folder is None else store_files(name))
    patch.setattr(
        named, "_with_weights", lambda card, files, n: named._structure(card, n) if card.folder is None else embedded(card, files, n)
    )
    patch.setattr(named, "fetch_hub", lambda name, revision=None: Path(name.rpartition("/")[2]))  # the folder that export --hub wrote
    patch.setattr(store, "cached", lambda place, file: place / file.name if place.name in fetched else real(place, file))
    patch.setattr(
        torchvision.models.WeightsEnum, "get_state_dict", lambda self, *_, **__: getattr(torchvision.models, _builder(self))().state_dict()
    )

    def store_files(name: str) -> dict[str, Path]:
        card = registry.card_of(name)
        assert card.folder is not None
        return {file.name: card.folder / file.name for file in card.files}


def _builder(weights: Any) -> str:
    return {"MobileNet_V2_Weights": "mobilenet_v2"}[type(weights).__name__]


# ------------------------------------------------------------------------------------------------------------------- the shell


@dataclasses.dataclass
class Shell:
    """Runs lines of a page in a folder, commands of this project within this process."""

    folder: Path
    patch: pytest.MonkeyPatch
    not_run: dict[str, str]  # what is not run, as patterns of command lines, and why
    names: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the page's Python blocks

    def __post_init__(self) -> None:
        from finetune.demo import __main__ as demo

        self.patch.chdir(self.folder)
        self.patch.setattr(demo, "_convert_caffe", lambda verbose, *arguments: self.main("converter.cli", [*map(str, arguments)]))

    def line(self, text: str) -> None:
        """A line, with && between commands, `| head` and `> file` behind one, or a loop. Raises AssertionError where one fails."""
        if loop := re.fullmatch(r"for (\w+) in ([^;]+); do (.+); done(\s*#.*)?", text):
            for value in loop[2].split():
                self.line(re.sub(rf"\${loop[1]}\b", value, loop[3]))
            return
        lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        for word in [*lexer, "&&"]:
            if word == "&&":
                self.pipeline(words)
                words = []
            else:
                words.append(word)

    def pipeline(self, words: list[str]) -> None:
        if "|" in words:
            assert words[words.index("|") + 1] == "head", f"after |, only head is known here: {words}"
            words = words[: words.index("|")]
        target = None
        if ">" in words:
            at = words.index(">")
            words, target = words[:at], words[at + 1]
        said = self.command([each for word in words for each in self._expanded(word)])
        if target is not None:
            _folder_of(Path(target))
            Path(target).write_text(said)

    def _expanded(self, word: str) -> list[str]:
        found = sorted(map(str, Path().glob(word))) if re.search(r"[*?]", word) else []
        return found or [word]

    def command(self, words: list[str]) -> str:
        """What it prints. Raises AssertionError for an exit status other than 0."""
        for pattern, reason in self.not_run.items():
            if re.match(pattern, " ".join(words)):
                raise NotRun(reason)
        name = re.sub(r"^\S*bin/", "", words[0]).replace("python3", "python")
        arguments = words[1:]
        if name == "torchrun":
            name, arguments = "python", arguments[arguments.index("-m") :]
        programs: dict[str, Callable[[list[str]], str]] = {
            "convert-caffe": lambda args: self.main("converter.cli", args),
            "caffe-zoo": lambda args: self.main("zoo.cli", args),
            "python": self.python,
            "pip": _pip, "make": self._make, "cd": self._cd, "ls": _ls, "curl": self._curl, "tar": _tar,
        }  # fmt: skip
        assert name in programs, f"{name} is not known in tests/helpers/newcomer.py; teach it, or name it in NOT_RUN with the reason"
        return programs[name](arguments)

    def main(self, module: str, arguments: Sequence[str]) -> str:
        """The module's main(), or that of its __main__."""
        with contextlib.suppress(ModuleNotFoundError):
            if importlib.util.find_spec(f"{module}.__main__") is not None:
                module += ".__main__"
        entry = getattr(importlib.import_module(module), "main", None)
        what = f"{module} {shlex.join(arguments)}"
        if entry is None:
            return _printed(lambda: runpy.run_module(module, run_name="__main__") and None, what)
        return _printed(lambda: entry(list(arguments)), what)

    def python(self, arguments: list[str]) -> str:
        if arguments[0] == "-m":
            return self.main(arguments[1], arguments[2:])
        if arguments[0] == "-c":
            return _printed(lambda: self.block(arguments[1]), "python -c")
        script = ROOT / arguments[0]
        self.patch.setattr(sys, "argv", arguments)
        return _printed(lambda: runpy.run_path(str(script), run_name="__main__") and None, arguments[0])

    def block(self, code: str) -> None:
        """A page's Python block: its names live on until the page's end."""
        exec(compile(code, "a page's block", "exec"), self.names)

    def _make(self, arguments: list[str]) -> str:
        """The demo; of other targets, that the Makefile has them."""
        for target in arguments:
            recipe = re.search(rf"^{re.escape(target)}:.*((?:\n\t.*)*)", (ROOT / "Makefile").read_text(), re.M)
            assert recipe, f"the Makefile has no target {target}"
            if target == "demo":
                self.line(recipe[1].strip().replace("@$(BIN)/", ""))
        return ""

    def _cd(self, arguments: list[str]) -> str:
        self.patch.chdir(arguments[0])
        return ""

    def _curl(self, arguments: list[str]) -> str:
        (address,) = [each for each in arguments if each.startswith("https://")]
        shutil.copy(self.folder / "downloads" / address.rpartition("/")[2], Path.cwd())
        return ""


def _printed(run: Callable[[], object], what: str) -> str:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), signals_kept():
        try:
            status = run()
        except SystemExit as end:
            status = end.code
    if status not in (None, 0):
        raise CommandFailed(what, status, out.getvalue(), err.getvalue())
    return out.getvalue()


class CommandFailed(AssertionError):
    def __init__(self, what: str, status: object, out: str, err: str) -> None:
        super().__init__(f"{what}: exit status {status}\n{out[-1500:]}\n{err[-1500:]}")
        self.status, self.err = status, err


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _pip(arguments: list[str]) -> str:
    """Installs nothing: whatever comes from here is there, with the extras that are asked for."""
    from test_packaging import setup

    for extra in re.findall(r"\[([\w,-]+)\]", " ".join(arguments)):
        missing = set(extra.split(",")) - set(setup()["options.extras_require"])
        assert not missing, f"setup.cfg has no extra {missing}"
    for version in re.findall(r"caffezoo-([\d.]+)-py3", " ".join(arguments)):
        assert version == converter.__version__
    return ""


def _ls(arguments: list[str]) -> str:
    return "\n".join(sorted(path.name for path in Path(arguments[0]).iterdir()))


def _tar(arguments: list[str]) -> str:
    assert arguments[0] == "xzf"
    with tarfile.open(arguments[1]) as archive:
        archive.extractall(filter="data")
    return ""


def prelude() -> dict[str, Any]:
    """What the pages' Python blocks take for granted."""
    astronaut = np.asarray(Image.open(ROOT / "finetune" / "demo" / "astronaut.jpg"))
    grey = Image.fromarray(astronaut[50:180, 160:290]).convert("L")
    return {
        "__name__": "page", "torch": torch, "image": astronaut, "face": np.asarray(grey), "frames": [astronaut] * 16,
        "images": torch.zeros(2, 3, 16, 16), "x": torch.zeros(1, 3, 16, 16),
    }  # fmt: skip
