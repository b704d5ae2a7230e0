"""The implementations that a net is held against: Caffe itself through pycaffe, or OpenCV 4's importer, in a process of their own.

Both end the process, or crash, on files that they cannot read; here that is an error with what they said last. The child reads
a job from its standard input (JSON), inputs and results are .npy files in a folder: it imports numpy and the other side only.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import ConversionError, printable

if TYPE_CHECKING:
    import numpy

SECONDS = 3600  # a net that takes longer than this hangs
NOT_INSTALLED = "--verify needs pycaffe, or OpenCV 4 (OpenCV 5 has no Caffe importer): pip install 'opencv-python-headless<5'"


class LayerUnknown(ConversionError):
    """The other side has no layer of this type, or cannot make one of these parameters."""

    def __init__(self, message: str, layer: str, type_: str):
        super().__init__(message)
        self.layer, self.type = layer, type_


@dataclass(frozen=True)
class Asked:
    """A value to compute: the i-th top of a layer, which is this blob."""

    layer: str
    type: str
    blob: str
    top: int = 0


@dataclass(frozen=True)
class Answer:
    """What the other side computed: a value for each that was asked for, None where it has none."""

    reference: str  # its name and version
    values: list[numpy.ndarray | None]


def ask(prototxt: Path, weights: Path, inputs: Mapping[str, numpy.ndarray], asked: Sequence[Asked], where: str) -> Answer:
    """Run the files on the inputs, by pycaffe where it is installed, else by OpenCV; `where` is the file that errors name.

    pycaffe gives the last values of a blob, OpenCV those of a layer.

    Raises:
        LayerUnknown: the first layer that the other side does not have.
        ConversionError: none of the two is installed, or it cannot run the files.
    """
    import numpy

    with tempfile.TemporaryDirectory() as folder:
        for i, value in enumerate(inputs.values()):
            numpy.save(Path(folder, f"in{i}.npy"), value)
        job = {
            "kind": _kind(),
            "prototxt": str(prototxt),
            "weights": str(weights),
            "folder": folder,
            "inputs": list(inputs),
            "asked": [vars(each) for each in asked],
        }
        found = _child(job, where)
        values: list[numpy.ndarray | None] = [
            numpy.load(Path(folder, f"out{i}.npy")) if given else None for i, given in enumerate(found["given"])
        ]
    return Answer(found["reference"], values)


def _kind() -> str:
    caffe = find_spec("caffe")
    if caffe is not None and caffe.origin is not None:  # a folder of that name is none
        return "caffe"
    if find_spec("cv2") is None:
        raise ConversionError(NOT_INSTALLED)
    return "opencv"


def _child(job: dict[str, Any], where: str) -> dict[str, Any]:
    """What the child says of its job.

    Raises:
        ConversionError: it failed, in words of the other side.
    """
    # With this process's own path, as -c would look for modules in the current folder first
    words = [sys.executable, "-c", "import sys; sys.path[:] = sys.argv[1:]; from converter.references import answer; answer()", *sys.path]
    try:
        done = subprocess.run(words, input=json.dumps(job), capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise ConversionError(f"{where}: the other implementation did not end within {SECONDS} s; nothing was compared.") from None
    side = "Caffe" if job["kind"] == "caffe" else "OpenCV"
    if done.returncode or not done.stdout.strip():
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("***")]
        last = next((line for line in lines if re.match(r"F\d{4} |.*Check failed", line)), lines[-1] if lines else _ended(done.returncode))
        raise ConversionError(f"{where}: {side} ended on this net ({printable(last.strip())}); nothing was compared.")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if found.get("missing"):
        raise ConversionError(NOT_INSTALLED)
    if "error" in found:
        reason = _reason(found["error"])
        unknown = re.search(r'Can\'t create layer "(.*?)" of type "(.*?)"', found["error"], re.DOTALL)
        message = f"{where}: {side} cannot run this net ({printable(reason)}); nothing was compared."
        if unknown:
            raise LayerUnknown(message, unknown[1], unknown[2])
        raise ConversionError(message)
    return found


def _ended(status: int) -> str:
    """How a process ended that said nothing."""
    try:
        return f"by {signal.Signals(-status).name}, without a word"
    except ValueError:
        return f"with status {status}, without a word"


def _reason(text: str) -> str:
    """OpenCV's message without its own source files: "Assertion failed: blobs.size() >= 2"."""
    if "field_count()" in text or "Failed to parse NetParameter" in text:
        return "its reader does not know a field or value of the prototxt"
    found = re.search(r"error: \(-?\d+:([^)]*)\) *(.*?)(?: in function '|$)", text.strip(), re.DOTALL)
    if not found:
        return text.strip().splitlines()[-1]
    kind = "" if found[1] == "Unspecified error" else f"{found[1]}: "
    return " ".join(f"{kind}{found[2]}".split())


def answer() -> None:
    """The child's side: one job from standard input, one line of JSON to standard output."""
    job = json.loads(sys.stdin.read())
    found = (_from_caffe if job["kind"] == "caffe" else _from_opencv)(job)
    print(f"\n{json.dumps(found)}")


def _given(job: dict[str, Any]) -> dict[str, numpy.ndarray]:
    import numpy

    return {name: numpy.load(Path(job["folder"], f"in{i}.npy")) for i, name in enumerate(job["inputs"])}


def _kept(job: dict[str, Any], values: Sequence[numpy.ndarray | None]) -> list[bool]:
    """Write what was computed; which of the values there are."""
    import numpy

    for i, value in enumerate(values):
        if value is not None:
            numpy.save(Path(job["folder"], f"out{i}.npy"), value)
    return [value is not None for value in values]


def _from_caffe(job: dict[str, Any]) -> dict[str, Any]:
    import caffe  # type: ignore[import-not-found]

    caffe.set_mode_cpu()
    net = caffe.Net(job["prototxt"], job["weights"], caffe.TEST)
    for name, value in _given(job).items():
        net.blobs[name].reshape(*value.shape)
        net.blobs[name].data[...] = value
    net.forward()
    values = [net.blobs[each["blob"]].data.copy() if each["blob"] in net.blobs else None for each in job["asked"]]
    return {"reference": f"Caffe {getattr(caffe, '__version__', '')}".strip(), "given": _kept(job, values)}


def _from_opencv(job: dict[str, Any]) -> dict[str, Any]:
    import cv2

    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        return {"missing": True}
    try:
        net = cv2.dnn.readNetFromCaffe(job["prototxt"], job["weights"])
        net.enableFusion(False)
        types = {name: net.getLayer(net.getLayerId(name)).type for name in net.getLayerNames()}
        for name, value in _given(job).items():
            net.setInput(value, name)
        places = [_layer_of(each, types) for each in job["asked"]]
        layers = list(dict.fromkeys(place for place in places if place is not None))
        tops = dict(zip(layers, net.forwardAndRetrieve(layers), strict=True)) if layers else {}
    except cv2.error as error:
        return {"error": str(error)}
    values = []
    for place, each in zip(places, job["asked"], strict=True):
        held = () if place is None else tops[place]
        values.append(held[each["top"]] if each["top"] < len(held) else None)
    return {"reference": f"OpenCV {cv2.__version__}", "given": _kept(job, values)}


def _layer_of(asked: dict[str, Any], types: Mapping[str, str]) -> str | None:
    """A layer's name in OpenCV, which calls convolutions by their tops."""
    names = (asked["blob"], asked["layer"]) if "Convolution" in asked["type"] else (asked["layer"],)
    for name in names:
        if name in types and (name == asked["layer"] or types[name] == "Convolution"):
            return str(name)
    return None
