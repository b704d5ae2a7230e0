"""How fast the image recipes train: their input, forward, forward and backward, whole steps, beside the device's own matrix rate.

    python benchmarks/training.py [--only vgg_face scratch] [--batch 128] [--compile] [--json FILE]
    python benchmarks/training.py --smoke                    does it work at all? (one net, one step)

Each net is measured in a process of its own, with drawn images and weights: no data and no network are needed. training.md says how
to read the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


@dataclass(frozen=True)
class Scale:
    """How much is measured: images of each batch by recipe, (warm-up, timed) steps of a round, rounds, sides of the matrices."""

    batch: dict[str, int]
    steps: tuple[int, int]
    rounds: int
    matrices: tuple[int, ...]


# On a GPU the recipes' own batches; a CPU's are small, to be done in minutes.
SCALES = {
    "cuda": Scale({"vgg_face": 64, "face_resnet": 128, "mobilefacenet": 128, "scratch": 256}, (10, 30), 3, (4096, 8192, 16384)),
    "cpu": Scale({"vgg_face": 2, "face_resnet": 8, "mobilefacenet": 16, "scratch": 16}, (1, 1), 3, (1024, 2048)),
    "smoke": Scale({"vgg_face": 2, "face_resnet": 2, "mobilefacenet": 2, "scratch": 2}, (1, 1), 1, (1024,)),
}
NETS = tuple(SCALES["cpu"].batch)
OLDER_NET = "vgg_face"
OLDER_MEAN, OLDER_DEVIATION = 0.507395516207, 0.255128989415
OLDER_BATCH = 32
ROUND = 0.3


def timed(step: Callable[[], object], count: int, synchronize: Callable[[], None]) -> float:
    """Seconds of a step. The device's queue is empty at both ends."""
    synchronize()
    start = time.perf_counter()
    for _ in range(count):
        step()
    synchronize()
    return (time.perf_counter() - start) / count


def rounds_of(step: Callable[[], object], scale: Scale, synchronize: Callable[[], None], *, longer: bool = True) -> list[float]:
    """Seconds of a step in each round, after a warm-up. Rounds of quick steps are made `longer`, to ROUND seconds."""
    warm, count = scale.steps
    for _ in range(warm):
        step()
    if longer:
        count = max(count, min(200, round(ROUND / timed(step, 1, synchronize))))
    return [timed(step, count, synchronize) for _ in range(scale.rounds)]


def matrix_rate(device: torch.device, dtype: torch.dtype, scale: Scale, synchronize: Callable[[], None]) -> float:
    """TFLOP/s of the square matrix product in its best round: 2 n³ operations each."""
    import torch

    rates = []
    for side in scale.matrices:
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(left)
        seconds = rounds_of(lambda a=left, b=right, c=out: torch.mm(a, b, out=c), scale, synchronize)  # type: ignore[misc]
        rates.append(2 * side**3 / min(seconds) / 1e12)
    return max(rates)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One net in this process."""
    import torch
    from torch.nn import functional as F
    from torch.utils.flop_counter import FlopCounterMode

    from finetune.fer2013 import RECIPES
    from finetune.images.data import Expressions
    from finetune.images.task import ImageTask
    from finetune.train.device import accelerator_for
    from finetune.train.loop import Trainer

    recipe = RECIPES[name]
    gpu = torch.cuda.is_available() and not options.cpu
    scale = SCALES["smoke" if options.smoke else "cuda" if gpu else "cpu"]
    batch = options.batch or scale.batch[name]
    training = dataclasses.replace(recipe.training, batch_size=batch, precision=options.precision, compile=options.compile)
    accelerator = accelerator_for(training, cpu=options.cpu)
    device = accelerator.device
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[accelerator.mixed_precision]
    synchronize = torch.cuda.synchronize if gpu else lambda: None
    torch.manual_seed(0)
    peak = matrix_rate(device, dtype, scale, synchronize)  # and once more at the end: another process may have been in the way

    count = max(batch * 4, 512)
    data = Expressions(
        torch.randint(0, 256, (count, 48, 48), dtype=torch.uint8), torch.randint(0, 7, (count,)), ("train",) * count,
        tuple("0123456"), "drawn", "0" * 64,
    )  # fmt: skip
    model = recipe.build(7, recipe.arguments, "none")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, *(recipe.input.size or ())))
    forward_flops = counter.get_total_flops()  # two operations a multiply-add

    if gpu:
        torch.cuda.reset_peak_memory_stats()
    task = ImageTask(data, {"train": torch.arange(count)}, recipe.input, recipe.augment, device)
    trainer = Trainer(model, task, training, accelerator, None, select=None)
    net = trainer.net
    model.train()
    numbers = itertools.count()
    rows = torch.arange(batch)
    labels = data.labels[:batch].to(device)

    def given() -> torch.Tensor:
        inputs = task.inputs(rows, *task.draw(rows, torch.Generator().manual_seed(next(numbers))))[0]
        return inputs.contiguous(memory_format=torch.channels_last) if training.channels_last else inputs

    inputs = given()

    def forward() -> None:
        with torch.no_grad():
            net(inputs)

    def backward() -> None:
        accelerator.backward(F.cross_entropy(net(inputs).float(), labels))
        trainer.optimizer.zero_grad()

    def step() -> None:
        number = next(numbers)
        trainer.step((rows + number * batch) % count, number % trainer.steps)

    seconds = {each.__name__: statistics.median(rounds_of(each, scale, synchronize)) for each in (given, forward, backward, step)}
    rate = {each: batch / value for each, value in seconds.items()}
    memory = torch.cuda.max_memory_allocated() / 2**20 if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    peak = max(peak, matrix_rate(device, dtype, scale, synchronize))
    achieved = 3 * forward_flops * rate["step"] / 1e12
    found = {
        "net": name, "size": list(recipe.input.size or ()), "batch": batch, "precision": str(dtype).removeprefix("torch."),
        "compile": options.compile, "device": torch.cuda.get_device_name() if gpu else f"cpu ({torch.get_num_threads()} threads)",
        "torch": torch.__version__, "multiply_adds": forward_flops // 2, "images_per_s": rate, "memory_mb": memory,
        "tflops": achieved, "matrix_tflops": peak, "share": achieved / peak,
    }  # fmt: skip
    if name == OLDER_NET:
        del trainer, net, model
        accelerator.free_memory()
        found["older"] = older(scale, options, gpu, device, synchronize)
    return found


class Pictures:
    """48×48 pictures as XiaoYee/emotion_classification's data loader has them, but for the file on disk: PIL, one at a time."""

    def __init__(self, count: int) -> None:
        import numpy as np
        from PIL import Image
        from torchvision import transforms

        drawn = np.random.default_rng(0).integers(0, 256, (count, 48, 48), np.uint8)
        self.pictures: list[Image.Image] = [Image.fromarray(each).convert("RGB") for each in drawn]
        self.transform = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(), transforms.Resize(256), transforms.RandomCrop(224), transforms.ToTensor(),
                transforms.Normalize((OLDER_MEAN,) * 3, (OLDER_DEVIATION,) * 3),
            ]
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.pictures[row]), row % 7


def older(scale: Scale, options: argparse.Namespace, gpu: bool, device: torch.device, synchronize: Callable[[], None]) -> dict[str, Any]:
    """The loop of XiaoYee/emotion_classification on the same net: PIL transforms in worker processes, float32, plain SGD.

    float32 is what PyTorch takes for it by default: TF32 in convolutions, not in matrix products.
    """
    import torch
    from torch.nn import functional as F
    from torch.utils.data import DataLoader

    import zoo

    if gpu:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False
    model = zoo.load("vgg_face", pretrained=False, num_classes=7, device=device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, nesterov=True, weight_decay=5e-4)
    batch = OLDER_BATCH if gpu else options.batch or scale.batch[OLDER_NET]
    steps = scale.steps[0] + scale.steps[1] * scale.rounds
    workers = 0 if options.smoke else min(8, os.cpu_count() or 1)
    loader = DataLoader(Pictures(batch * steps), batch, shuffle=True, num_workers=workers, pin_memory=gpu)
    batches = iter(loader)

    def step() -> None:
        images, labels = (each.to(device, non_blocking=True) for each in next(batches))
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    seconds = statistics.median(rounds_of(step, scale, synchronize, longer=False))
    return {"batch": batch, "workers": workers, "images_per_s": batch / seconds}


# --- the table ------------------------------------------------------------------------------------------------------------------------


def as_markdown(found: list[dict[str, Any]]) -> str:
    first = found[0]
    head = (
        "| net | batch | M multiply-adds | input | forward | forward + backward | whole step | TFLOP/s | of the matrix rate | peak MiB |",
        "|-----|------:|----------------:|------:|--------:|-------------------:|-----------:|--------:|-------------------:|---------:|",
    )
    lines = [f"{first['device']}, {first['precision']}, torch {first['torch']}{', torch.compile' * first['compile']}; images/s:", "", *head]
    for row in found:
        size = "×".join(map(str, row["size"]))
        rates = " | ".join(number(row["images_per_s"][each]) for each in ("given", "forward", "backward", "step"))
        lines.append(
            f"| {row['net']} {size} | {row['batch']} | {row['multiply_adds'] / 1e6:,.0f} | {rates} | {row['tflops']:.3g}"
            f" | {row['share']:.0%} of {row['matrix_tflops']:.3g} | {row['memory_mb']:,.0f} |"
        )
    for row in found:
        if old := row.get("older"):
            ratio = row["images_per_s"]["step"] / old["images_per_s"]
            lines += [
                "",
                f"XiaoYee/emotion_classification's loop on {row['net']} (float32, batch {old['batch']}, PIL in {old['workers']} workers):"
                f" {number(old['images_per_s'])} images/s; the whole step above is {ratio:.2f} × as fast.",
            ]
    return "\n".join(lines)


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", nargs="+", choices=NETS, metavar="NET", help=f"of {', '.join(NETS)} (default: all; with --smoke: scratch)")
    p.add_argument("--batch", type=int, help="images of a batch (default: the recipe's on a GPU, few on a CPU)")
    p.add_argument("--precision", choices=("auto", "no", "bf16", "fp16"), default="auto", help="auto: bf16 on a GPU, else float32")
    p.add_argument("--compile", action="store_true", help="through torch.compile")
    p.add_argument("--cpu", action="store_true", help="does not use the GPU")
    p.add_argument("--smoke", action="store_true", help="two images, one step")
    p.add_argument("--json", type=Path, metavar="FILE", help="writes what was measured")
    p.add_argument("--measure", nargs=2, metavar=("NET", "FILE"), help=argparse.SUPPRESS)
    options = p.parse_args()
    if options.measure:
        Path(options.measure[1]).write_text(json.dumps(measure(options.measure[0], options)))
        return
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only or (("scratch",) if options.smoke else NETS):
            # In a process of its own: memory is counted from the start of one, and a child's from its parent's size on.
            path = Path(folder, f"{name}.json")
            subprocess.run([sys.executable, *sys.argv, "--measure", name, str(path)], check=True)
            found.append(json.loads(path.read_text()))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    print(as_markdown(found))


if __name__ == "__main__":
    main()
