"""zoo.load of a 580 MB VGG-Face from the cache, beside safetensors.torch.load_file of the same weights.

    python benchmarks/zoo.py [--runs 5]

Draws the weights, puts them into a cache of its own (1.2 GB under the system's temporary directory, removed afterwards) and
measures each way in a process of its own: seconds of wall clock after the imports, and by how much the peak of resident
memory rose. Pages of a mapped file count as resident once they are touched, which is what the forward pass does.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "zoo" / "helpers")]

WAYS = {
    "zoo.add: copies, hashes": "add",
    "zoo.load, first time: converts": "first",
    "zoo.fetch, a cache hit": "fetch",
    "load_file": "load_file",
    "load_file, VGGFace(), load_state_dict": "into_model",
    "zoo.load, from the cache": "load",
    "zoo.load, from the cache, one forward pass": "forward",
}


def draw(home: Path) -> None:
    """A VGG-Face with drawn weights in the cache, and a card that knows its checksum."""
    import numpy as np
    from drawn import caffemodel

    from converter.build.assemble import assemble
    from converter.conversion import prepare
    from zoo.models.named import PROTOTXTS

    rng = np.random.default_rng(0)
    layers: dict[str, list[np.ndarray]] = {}
    for key, value in assemble(prepare(PROTOTXTS / "vgg_face.prototxt", None)[0]).state_dict().items():
        scale = np.float32(0.02)
        layers.setdefault(key.rpartition(".")[0], []).append(rng.standard_normal(value.shape, np.float32) * scale)
    body = caffemodel(layers)
    (home / "drawn.caffemodel").write_bytes(body)
    (home / "drawn.json").write_text(json.dumps({"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}))


def use_drawn(home: Path) -> None:
    """Makes "vgg_face" the drawn one, for this process."""
    from zoo.cards import registry
    from zoo.cards.record import Checksum, File, Terms

    facts = json.loads((home / "drawn.json").read_text())
    file = File("VGG_FACE.caffemodel", (), facts["size"], (Checksum("sha256", facts["sha256"], "drawn here"),))
    card = dataclasses.replace(registry.card_of("vgg_face"), files=(file,), labels_file=None, terms=Terms("drawn weights", "this script"))
    registry.CARDS = (card,)


def measure(way: str, home: Path) -> None:
    """Runs one way in this process and prints what it cost."""
    if way == "draw":
        draw(home)
        return
    import torch
    from safetensors.torch import load_file

    import zoo
    from architectures import VGGFace

    use_drawn(home)
    x = torch.zeros(1, 3, 224, 224)
    path = next((home / "converted").glob("*.safetensors"), home)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    if way == "add":
        zoo.add("vgg_face", home / "drawn.caffemodel")
    elif way == "fetch":
        zoo.fetch("vgg_face")
    elif way == "load_file":
        load_file(path)
    elif way == "into_model":
        VGGFace().load_state_dict(load_file(path))
    else:
        model = zoo.load("vgg_face")
        if way == "forward":
            with torch.inference_mode():
                model(x)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "megabytes": (peak - before) / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, Path(os.environ["CAFFEZOO_HOME"]))
        return
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "CAFFEZOO_HOME": home}

        def run(way: str) -> str:
            # A child begins with its parent's peak of resident memory: this process imports nothing large.
            command = [sys.executable, __file__, "--measure", way]
            return subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout

        run("draw")
        for title, way in WAYS.items():
            runs = [json.loads(run(way)) for _ in range(1 if way in ("add", "first") else options.runs)]
            seconds, peak = (statistics.median(each[key] for each in runs) for key in ("seconds", "megabytes"))
            print(f"{title:45}{seconds:8.4f} s{peak:8.0f} MB", flush=True)


if __name__ == "__main__":
    main()
