"""`make demo`: make an example net, convert it with convert-caffe, reload what was written, run it, and hold it against its source."""

from __future__ import annotations

import sys
from pathlib import Path


def main(folder: Path) -> None:
    import numpy
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    from converter import cli, convert
    from converter.example import drawn_layers, write_example

    prototxt, weights = write_example(folder)
    output = folder / "face.safetensors"
    print(f"An example net was made: {prototxt} and {weights} ({weights.stat().st_size / 1e6:.0f} MB, drawn weights).\n")
    print(f"$ convert-caffe {prototxt}")
    cli.main([str(prototxt)])
    print(f"\n$ convert-caffe {prototxt} {weights} -o {output}")
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
    print(f"\nNext: convert your own net.  {Path(sys.executable).parent}/convert-caffe --help")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-out"))
