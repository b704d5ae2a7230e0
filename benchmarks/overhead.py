"""What CaffeNet costs beyond its modules: the same layers called by hand, and generated source, in microseconds a layer.

python benchmarks/overhead.py [--layers 300] [--rounds 30]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from converter import convert


def microseconds(call: Callable[[], object], rounds: int) -> float:
    """The median time of a call, after a warm-up."""
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--layers", type=int, default=300)
    p.add_argument("--rounds", type=int, default=30)
    options = p.parse_args()
    torch.set_num_threads(1)
    n = options.layers
    layers = [f'layer {{ name: "l{i}" type: "ReLU" bottom: "x{i}" top: "x{i + 1}" }}' for i in range(n)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.prototxt")
        path.write_text('input: "x0" input_shape { dim: 1 dim: 16 } ' + " ".join(layers))
        net = convert(path)
    by_hand = [nn.ReLU() for _ in range(n)]
    x = torch.zeros(1, 16)

    def hand() -> torch.Tensor:
        y = x
        for module in by_hand:
            y = module(y)
        return y

    graph = net.to_fx()
    with torch.inference_mode():
        rows = {
            "modules called by hand": microseconds(hand, options.rounds),
            "CaffeNet": microseconds(lambda: net(x), options.rounds),
            "its torch.fx GraphModule": microseconds(lambda: graph(x), options.rounds),
        }
    base = rows["modules called by hand"]
    print(f"{n} ReLU layers of 16 values, median of {options.rounds} runs\n")
    print("| what                     | µs a layer | beyond by hand |\n|--------------------------|-----------:|---------------:|")
    for name, value in rows.items():
        print(f"| {name:24} | {value / n:10.2f} | {(value - base) / n:14.2f} |")


if __name__ == "__main__":
    main()
