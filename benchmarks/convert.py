"""How fast and how lean convert-caffe is on a file of VGG-Face's size, beside cp, `import torch`, protobuf and OpenCV.

    python benchmarks/convert.py [--folder DIR] [--rounds 3] [--form V1]

Draws a 580 MB caffemodel with VGG-Face's layers, then runs every row as a process of its own, in turn, `rounds` times;
prints the median wall time, its ratio to (cp + import torch), and the largest peak resident memory. Every output, cp's as well, is a new
file. The goal: convert to safetensors within 1.3 x (cp + import torch), and within the memory of import torch + 64 MiB.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHANNELS = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]


def prototxt() -> str:
    """VGG-Face's deploy net: 13 convolutions, 3 inner products, 2622 identities."""
    lines, blob = ['name: "vgg_face" input: "data" input_shape { dim: 1 dim: 3 dim: 224 dim: 224 }'], "data"
    for stage, (channels, count) in enumerate(CHANNELS, 1):
        for i in range(1, count + 1):
            name = f"conv{stage}_{i}"
            lines.append(
                f'layer {{ name: "{name}" type: "Convolution" bottom: "{blob}" top: "{name}"'
                f" convolution_param {{ num_output: {channels} kernel_size: 3 pad: 1 }} }}"
            )
            lines.append(f'layer {{ name: "relu{stage}_{i}" type: "ReLU" bottom: "{name}" top: "{name}" }}')
            blob = name
        pool = "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"
        lines.append(f'layer {{ name: "pool{stage}" type: "Pooling" bottom: "{blob}" top: "pool{stage}" {pool} }}')
        blob = f"pool{stage}"
    for i, outputs in ((6, 4096), (7, 4096), (8, 2622)):
        settings = f"inner_product_param {{ num_output: {outputs} }}"
        lines.append(f'layer {{ name: "fc{i}" type: "InnerProduct" bottom: "{blob}" top: "fc{i}" {settings} }}')
        blob = f"fc{i}"
    return "\n".join(lines)


def drawn_layers() -> Iterator[tuple[str, str, list[Any]]]:
    import numpy

    random = numpy.random.default_rng(0)
    inputs = 3
    for stage, (channels, count) in enumerate(CHANNELS, 1):
        for i in range(1, count + 1):
            weight, bias = random.standard_normal((channels, inputs, 3, 3), "f4"), random.standard_normal(channels, "f4")
            yield f"conv{stage}_{i}", "Convolution", [weight, bias]
            inputs = channels
    for name, rows, columns in (("fc6", 4096, 25088), ("fc7", 4096, 4096), ("fc8", 2622, 4096)):
        yield name, "InnerProduct", [random.standard_normal((rows, columns), "f4"), random.standard_normal(rows, "f4")]


def run(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak resident MiB of a command; it must succeed."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{command} failed")
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--folder", type=Path, help="where the files are drawn and written (default: a new temporary folder)")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--form", choices=("V1", "V2"), default="V1", help="the caffemodel's form (default: V1, as VGG-Face's own file)")
    p.add_argument("--draw", type=Path, help=argparse.SUPPRESS)
    options = p.parse_args()
    if options.draw:
        from converter.write.encode import write_caffemodel

        write_caffemodel(options.draw, drawn_layers(), name="vgg_face", version=options.form)
        return
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        compare(folder, options.rounds, options.form)
    finally:
        shutil.rmtree(folder)


def compare(folder: Path, rounds: int, form: str) -> None:
    deploy, weights = folder / "deploy.prototxt", folder / "vgg_face.caffemodel"
    deploy.write_text(prototxt())
    # In a process of its own: a child's peak memory is counted from its parent's size on.
    subprocess.run([sys.executable, __file__, "--draw", str(weights), "--form", form], check=True)
    python = [sys.executable, "-c"]
    command = [sys.executable, "-m", "converter.cli"]
    files = [str(deploy), str(weights)]
    parse = f"from converter.read.schema import message_class as m; m('NetParameter').FromString(open({str(weights)!r}, 'rb').read())"
    convert = f"from converter import convert; convert({files[0]!r}, {files[1]!r})"
    rows = {
        "cp": ["cp", str(weights), str(folder / "copy")],
        "python -c 'import torch'": [*python, "import torch"],
        "convert-caffe -o .safetensors": [*command, *files, "-q", "-o", str(folder / "out.safetensors")],
        "convert-caffe -o .pth": [*command, *files, "-q", "-o", str(folder / "out.pth")],
        "converter.convert(), in memory": [*python, convert],
        "convert-caffe net.caffemodel (list)": [*command, str(weights)],
        "convert-caffe deploy.prototxt (table)": [*command, str(deploy)],
        "convert-caffe --help": [*command, "--help"],
        "protobuf parse (load only)": [*python, parse],
    }
    if not subprocess.run([*python, "import cv2; cv2.dnn.readNetFromCaffe"], stderr=subprocess.DEVNULL).returncode:
        rows["OpenCV readNetFromCaffe (load only)"] = [*python, f"import cv2; cv2.dnn.readNetFromCaffe({files[0]!r}, {files[1]!r})"]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, words in rows.items():
            for left in (folder / "copy", *folder.glob("out.*")):  # a file that takes another's place costs ext4 more than a new one
                left.unlink(missing_ok=True)
            found[name].append(run(words))
    seconds = {name: statistics.median(s for s, _ in runs) for name, runs in found.items()}
    memory = {name: max(m for _, m in runs) for name, runs in found.items()}
    unit = seconds["cp"] + seconds["python -c 'import torch'"]
    print(f"{weights.stat().st_size / 1e6:.0f} MB, {form}, median of {rounds} rounds\n")
    print(f"| {'what':38} | wall s | ÷ (cp + import torch) | peak MiB |\n|{'-' * 40}|-------:|----------------------:|---------:|")
    for name in rows:
        print(f"| {name:38} | {seconds[name]:6.2f} | {seconds[name] / unit:21.2f} | {memory[name]:8.0f} |")
    goal = seconds["convert-caffe -o .safetensors"] / unit
    extra = memory["convert-caffe -o .safetensors"] - memory["python -c 'import torch'"]
    print(f"\nconvert to safetensors: {goal:.2f} × (cp + import torch), goal 1.30; {extra:+.0f} MiB over import torch, goal +64")


if __name__ == "__main__":
    main()
