"""The converter by itself: makes an example net, converts it with convert-caffe, reloads what was written, and holds it against its source.

`make demo` is python -m finetune.demo: a trained net, and a face.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(folder: Path, verbose: bool = False) -> None:
    import numpy
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    from converter import cli, convert
    from converter.example import drawn_layers, write_example

    prototxt, weights = write_example(folder)
    output = folder / "face.safetensors"
    print(f"An example net was made: {prototxt} and {weights} ({weights.stat().st_size / 1e6:.0f} MB, drawn weights).\n")
    if verbose:
        print(f"$ convert-caffe {prototxt}")
        cli.main([str(prototxt)])
        print()
    print(f"$ convert-caffe {prototxt} {weights} -o {output}")
    cli.main([str(prototxt), str(weights), "-o", str(output)])

    state = load_file(output)
    net = convert(prototxt)
    net.load_state_dict(state)
    same = sum(
        numpy.array_equal(state[f"{name}.{key}"].numpy(), blob)
        for name, _, blobs in drawn_layers()
        for key, blob in zip(("weight", "bias"), blobs, strict=False)
    )
    faces = torch.rand(2, 3, 112, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        embedding = net(faces)
        direct = convert(prototxt, weights)(faces)
    equal = torch.equal(embedding, direct)
    with safe_open(output, "pt") as file:
        origin = file.metadata()["sha256.face.caffemodel"]
    print(f"\nReloaded {output} and ran it on 2 random faces: an embedding of shape {tuple(embedding.shape)}.")
    print("Checked:")
    print(f"  {same} of {len(state)} tensors are bit for bit the arrays that the example was drawn from")
    print(f"  the reloaded net and a net converted in memory give {'equal' if equal else 'DIFFERENT'} outputs")
    print(f"  the file names its source: sha256 {origin}")
    if not equal or same != len(state):
        sys.exit("The demo found a difference; please report it.")
    print(f"\nNext: a trained net and a face.  {sys.executable} -m finetune.demo")


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    command = argparse.ArgumentParser(prog="python -m converter.demo", description="Converts a drawn example net and checks it.")
    command.add_argument("folder", nargs="?", type=Path, default=Path("demo-out"), help="where the files go (default demo-out)")
    command.add_argument("-v", "--verbose", action="store_true", help="print the net's layers, too")
    return command.parse_args(argv)


if __name__ == "__main__":
    given = options()
    main(given.folder, given.verbose)
