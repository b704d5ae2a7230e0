"""What OpenCV's Caffe importer makes of the golden nets, beside this converter: as Caffe, something else without an error, or refused.

    pip install 'opencv-python-headless<5'; python benchmarks/peers.py --write docs/comparison.md

Each folder of tests/golden is a net of one or a few layers with outputs that Caffe computed. "as Caffe": every output within 1e-4 of its
largest value. A case is BVLC's or a fork's as its type is in the converter's registry. OpenCV runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from benchmarks.fer2013_tables import inserted  # noqa: E402

MARKS = ("<!-- peers:begin -->", "<!-- peers:end -->")
GOLDEN = ROOT / "tests" / "golden"
TOLERANCE = 1e-4
BVLC = ("Graph", "Convolution1D")  # cases of BVLC's that are not named after a type
AS_CAFFE, WRONG, REFUSED, CRASH = "as Caffe", "wrong, no error", "refused", "crash"


def arrays(case: str, kind: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / case / "io.npz") as held:
        return {name.removeprefix(f"{kind} "): held[name] for name in held.files if name.startswith(f"{kind} ")}


def verdict(found: dict[str, Any], wanted: dict[str, np.ndarray]) -> str:
    for name, want in wanted.items():
        got = np.asarray(found[name])
        scale = max(float(np.abs(want).max(initial=0)), 1e-3)
        if got.size != want.size or not np.abs(got.reshape(want.shape) - want).max(initial=0) <= TOLERANCE * scale:
            return WRONG
    return AS_CAFFE


def converter(case: str) -> str:
    import torch

    from converter import ConversionError, convert

    weights = GOLDEN / case / "net.caffemodel"
    inputs, wanted = arrays(case, "input"), arrays(case, "output")
    try:
        net = convert(GOLDEN / case / "net.prototxt", weights if weights.is_file() else None)
    except ConversionError:
        return REFUSED
    with torch.inference_mode():
        return verdict(net(*(torch.from_numpy(inputs[name]) for name in net.inputs), blobs=tuple(wanted)), wanted)


def opencv(case: str, makers: dict[str, str]) -> str:
    import cv2

    weights = GOLDEN / case / "net.caffemodel"
    inputs, wanted = arrays(case, "input"), arrays(case, "output")
    try:
        net = cv2.dnn.readNetFromCaffe(str(GOLDEN / case / "net.prototxt"), str(weights) if weights.is_file() else "")
        for name, value in inputs.items():
            net.setInput(value, name)
        # OpenCV 4.14 calls some layers by their top.
        values = net.forward([makers[name] if net.getLayerId(makers[name]) >= 0 else name for name in wanted])
    except cv2.error:
        return REFUSED
    return verdict(dict(zip(wanted, values, strict=True)), wanted)


def child() -> None:
    """A case a line in, its verdict out."""
    for line in sys.stdin:
        case, makers = json.loads(line)
        print(json.dumps([case, opencv(case, makers)]), flush=True)


class Apart:
    """OpenCV in a process of its own."""

    def __init__(self) -> None:
        command = [sys.executable, __file__, "--child"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def ask(self, case: str, makers: dict[str, str]) -> str | None:
        """The verdict; None where the process died."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps([case, makers]) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        said = self.process.stdout.readline()
        return json.loads(said)[1] if said else None


def of_opencv(cases: dict[str, dict[str, str]]) -> dict[str, str]:
    """A net at which the process dies is asked again in a new one, since an earlier net may have spoilt the memory."""
    process, verdicts = Apart(), {}
    for case, makers in cases.items():
        found = process.ask(case, makers)
        if found is None:
            process = Apart()
            found = process.ask(case, makers)
        if found is None:
            process = Apart()
        verdicts[case] = found or CRASH
    process.process.communicate()
    return verdicts


def described() -> dict[str, tuple[bool, dict[str, str]]]:
    """Of each case: whether it is about a layer of BVLC's, and which layer makes each blob."""
    from converter import convert
    from converter.layers.registry import find_name, layer_types

    own = {*BVLC, *(name for name in layer_types() if find_name(name).origin.startswith("BVLC"))}
    found = {}
    for path in sorted(GOLDEN.glob("*/net.prototxt")):
        net = convert(path)
        makers = {net.program.versions[top]: step.name for step in net.program.steps for top in step.tops}
        found[path.parent.name] = (path.parent.name.rpartition("-")[0] in own, makers)
    return found


def main() -> None:
    import cv2

    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    p.add_argument("--write", type=Path, metavar="docs/comparison.md", help="the page whose table is written anew")
    options = p.parse_args()
    if options.child:
        child()
        return
    warnings.simplefilter("ignore")
    cases = described()
    theirs = of_opencv({case: makers for case, (_, makers) in cases.items()})
    verdicts = {"caffezoo": {case: converter(case) for case in cases}, f"OpenCV {cv2.__version__}": theirs}
    lines = ["| layers of | nets | converter | as Caffe | wrong, no error | refused | crash |", "|---|---|---|---|---|---|---|"]
    for of, bvlc in (("BVLC Caffe", True), ("forks", False)):
        chosen = [case for case, (is_bvlc, _) in cases.items() if is_bvlc == bvlc]
        for name, known in verdicts.items():
            counts = Counter(known[case] for case in chosen)
            lines.append(
                f"| {of} | {len(chosen)} | {name} | {' | '.join(str(counts[each]) for each in (AS_CAFFE, WRONG, REFUSED, CRASH))} |"
            )
    print("\n".join(lines))
    if options.write:
        options.write.write_text(inserted(options.write.read_text(encoding="utf-8"), "\n".join(lines), *MARKS), encoding="utf-8")
    print("\nwrong without an error in OpenCV:", ", ".join(case for case, said in theirs.items() if said == WRONG))
    print("crashed:", ", ".join(case for case, said in theirs.items() if said == CRASH) or "none")


if __name__ == "__main__":
    main()
