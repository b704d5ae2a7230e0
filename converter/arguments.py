"""What the command convert-caffe takes: its options, their texts, and what argparse does not check of them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from converter import __version__
from converter.terminal import Parser

_EXAMPLES = """\
examples:
  convert to a state dict:
    convert-caffe deploy.prototxt net.caffemodel -o net.safetensors
  a net for ONNX Runtime; -o net.py and -o net.pt2 are nets for PyTorch alone:
    convert-caffe deploy.prototxt net.caffemodel -o net.onnx
  the same with BatchNorm folded into convolutions, taking RGB in 0..1:
    convert-caffe deploy.prototxt net.caffemodel -o net.onnx \\
      --fold-batchnorm --input rgb01 --mean 104,117,123
  convert with the net that the weight file itself holds:
    convert-caffe net.caffemodel -o net.pth
  write Caffe's weights again, in its newest form:
    convert-caffe deploy.prototxt old.caffemodel -o new.caffemodel
  show layers, shapes, parameters, multiply-adds; of a weight file its blobs:
    convert-caffe deploy.prototxt
    convert-caffe net.caffemodel
  compare with OpenCV, or with Caffe where it is installed:
    convert-caffe deploy.prototxt net.caffemodel --verify
  write a page about the net: drawing, layers, weights:
    convert-caffe deploy.prototxt net.caffemodel --report net.html
  convert a mean image:
    convert-caffe mean.binaryproto -o mean.safetensors
"""


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="convert-caffe",
        description="Convert Caffe nets to PyTorch, exactly:\nwhat cannot be converted exactly is an error.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("files", nargs="*", metavar="FILE", type=Path, help="a prototxt, a caffemodel (.caffemodel, .caffemodel.h5), or both")
    p.add_argument(
        "-o", "--output", type=Path, help="what to write: .safetensors, .pth (weights); .py, .onnx, .pt2 (a net that runs); .caffemodel"
    )
    p.add_argument("--no-check", action="store_true", help="do not read the output back in a fresh process to compare it")
    p.add_argument("--phase", choices=("TEST", "TRAIN"), default="TEST", help="the phase whose layers are kept (default: TEST)")
    p.add_argument("--stage", action="append", default=[], help="a stage that include and exclude rules look at; may be repeated")
    p.add_argument("--level", type=int, default=0, help="the level that include and exclude rules look at (default: 0)")
    p.add_argument(
        "--input-shape",
        action="append",
        default=[],
        metavar="NAME=N,C,H,W",
        help="the shape of an input, or of a blob that is to be one; repeatable",
    )
    p.add_argument(
        "--ignore", action="append", default=[], metavar="FIELD", help="a layer's field that you know to change nothing; repeatable"
    )
    p.add_argument("--random-weights", action="store_true", help="without a caffemodel, write what the prototxt's fillers draw")
    p.add_argument("--report", type=Path, metavar="NET.html", help="write a page: the net drawn, its layers, weights, what was verified")
    p.add_argument("--json", action="store_true", help="print JSON instead of tables")
    p.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    p.add_argument("--list-layers", action="store_true", help="print the layer types, with parameters, origin and refusals")
    p.add_argument("--version", action="version", version=f"caffezoo {__version__}")
    changed = p.add_argument_group("a changed net", "docs/folding.md says what each of these does, and when it is refused")
    precision = changed.add_mutually_exclusive_group()
    precision.add_argument(
        "--half", action="store_true", help="round to half precision: a state dict's values; a .caffemodel's kernels, NVIDIA Caffe's form"
    )
    precision.add_argument("--bf16", action="store_true", help="round a state dict's values to bfloat16")
    changed.add_argument("--fold-batchnorm", action="store_true", help="take BatchNorm and Scale into convolutions, where that is exact")
    changed.add_argument("--input", choices=("rgb01",), help="rgb01: take RGB in 0..1; channel order, means, scale become weights")
    changed.add_argument("--mean", metavar="M,M,M", help="the means of the net's channels, 0..255, where the prototxt does not say them")
    changed.add_argument("--scale", metavar="S", help="what pixels minus means are multiplied by: one number, or one for each channel")
    changed.add_argument(
        "--channels", choices=("BGR", "RGB", "GRAY"), help="the order of the net's channels (default: BGR, as Caffe reads images)"
    )
    held = p.add_argument_group("verification", "exit status 1 where the two differ; docs/verification.md")
    held.add_argument("--verify", action="store_true", help="run the net beside pycaffe or OpenCV 4 on drawn inputs")
    held.add_argument("--image", metavar="FILE", type=Path, help="with --verify: on this picture, prepared as the prototxt or --mean say")
    held.add_argument("--every-blob", action="store_true", help="with --verify: compare every blob, and name the first layer that differs")
    return p


def check_precision(options: argparse.Namespace, usage: Callable[[str], NoReturn]) -> None:
    """Refuse --half and --bf16 for an output that cannot have them."""
    suffix = options.output.suffix if options.output else ""
    if options.bf16 and suffix == ".caffemodel":
        usage("no Caffe reads bfloat16; --half is NVIDIA Caffe's form")
    if (options.half or options.bf16) and suffix not in (".safetensors", ".pth", ".pt", ".caffemodel"):
        usage(
            "--half and --bf16 go with -o net.safetensors, net.pth or net.caffemodel; for a net in half precision, load the state dict into"
            " converter.convert(PROTOTXT).half()"
        )


def numbers_of(name: str, text: str | None, usage: Callable[[str], NoReturn]) -> tuple[float, ...] | None:
    """One number, or three with commas between them."""
    try:
        numbers = None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if numbers is not None and (len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers))):
        usage(f"--{name} {text}: expected one number, or three with commas between them, such as 104,117,123")
    return numbers


def shapes_of(given: list[str], usage: Callable[[str], NoReturn]) -> dict[str, tuple[int, ...]]:
    """The shapes that --input-shape gives, by input."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in given:
        name, _, dims = text.rpartition("=")
        try:
            shape = tuple(int(d) for d in dims.replace("x", ",").split(","))
        except ValueError:
            shape = ()
        if not name or not shape or not 1 <= min(shape) <= max(shape) < 1 << 31:
            usage(f"--input-shape {text}: expected NAME=N,C,H,W, such as data=1,3,224,224")
        if shapes.setdefault(name, shape) != shape:
            usage(f"--input-shape gives {name} two shapes, {','.join(map(str, shapes[name]))} and {dims}")
    return shapes
