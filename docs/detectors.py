"""Run a Caffe detector on a picture: print what each output is, and draw the boxes of a DetectionOutput layer.

    python docs/detectors.py deploy.prototxt net.caffemodel --out boxes.png

Without a picture of yours (--image) it takes scikit-image's astronaut, a photograph by NASA in the public domain. Without a
caffemodel the weights are drawn from a seed: the net then runs, and finds nothing that means anything. docs/detectors.md was
written with this script.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from converter import CaffeNet, convert


def picture(path: Path | None) -> Image.Image:
    if path is not None:
        return Image.open(path).convert("RGB")
    from skimage.data import astronaut  # pip install scikit-image

    return Image.fromarray(astronaut())


def draw_weights(net: nn.Module, seed: int = 0) -> None:
    """Weights that keep the size of what passes through them (He et al., 2015), and variances of 1."""
    generator = torch.Generator().manual_seed(seed)
    for values in net.parameters():
        if values.dim() > 1:
            values.data = torch.randn(values.shape, generator=generator) * math.sqrt(2 / values[0].numel())
    for name, values in net.named_buffers():
        if name.endswith("running_var"):
            values.fill_(1)


def inputs_of(net: CaffeNet, image: Image.Image, mean: list[float], scale: float) -> list[Tensor]:
    """The net's inputs: the image as BGR less the mean, and im_info: height, width, and the scales of both, as often as it asks."""
    rgb = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(image.height, image.width, 3).permute(2, 0, 1)
    _, _, height, width = net.input_shapes[net.inputs[0]]
    resized = F.interpolate(rgb[None].float(), (height, width), mode="bilinear", antialias=True)
    inputs = [(resized.flip(1) - torch.tensor(mean).reshape(3, 1, 1)) * scale]
    for name in net.inputs[1:]:
        if name != "im_info":
            raise SystemExit(f"the net takes {name} of shape {net.input_shapes[name]} as well; this script makes only im_info")
        shape = net.input_shapes[name]
        ratios = [height / image.height, width / image.width] * 2
        inputs.append(torch.tensor([height, width, *ratios])[: math.prod(shape)].reshape(shape))
    return inputs


def draw(image: Image.Image, rows: Tensor, least: float) -> tuple[Image.Image, int]:
    """The picture with the boxes of rows (n, 7): item, label, score, xmin, ymin, xmax, ymax as fractions of the image."""
    shown = image.copy()
    pen, count = ImageDraw.Draw(shown), 0
    for _, label, score, *box in rows.tolist():
        if score < least:
            continue
        count += 1
        corners = [value * size for value, size in zip(box, (image.width, image.height) * 2, strict=True)]
        pen.rectangle(corners, outline=(255, 210, 0), width=4)
        pen.text((corners[0] + 6, corners[1] + 4), f"{label:.0f}: {score:.3f}", fill=(255, 210, 0), font_size=18)
    return shown, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prototxt", type=Path)
    parser.add_argument("caffemodel", type=Path, nargs="?", help="none: the weights are drawn from a seed")
    parser.add_argument("--image", type=Path, help="a picture; else scikit-image's astronaut")
    parser.add_argument("--mean", type=float, nargs=3, default=[104.0, 117.0, 123.0], help="blue, green and red")
    parser.add_argument("--scale", type=float, default=1.0, help="what the net's input is multiplied by, behind the mean")
    parser.add_argument("--threshold", type=float, default=0.7, help="least score of the boxes that are drawn")
    parser.add_argument("--out", type=Path, help="where to write the picture with the boxes")
    args = parser.parse_args()
    net, image = convert(args.prototxt, args.caffemodel), picture(args.image)
    if args.caffemodel is None:
        draw_weights(net)
    inputs = inputs_of(net, image, args.mean, args.scale)
    with torch.inference_mode():
        found = net(*inputs, blobs=net.outputs)
    print(f"{net.name or args.prototxt.name}: {sum(p.numel() for p in net.parameters()):,} parameters")
    for name, value in found.items():
        print(f"  {name}: {tuple(value.shape)}")
        if value.shape[-1:] == (7,) and args.out:
            shown, count = draw(image, value.reshape(-1, 7), args.threshold)
            shown.save(args.out)
            print(f"  {count} boxes of a score of at least {args.threshold} are drawn in {args.out}")


if __name__ == "__main__":
    main()
