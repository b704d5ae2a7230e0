"""How fast the recipes train: their input, forward, forward and backward, whole steps, beside the device's own matrix rate.

    python benchmarks/training.py [--only vgg_face vgg_gru] [--batch 128] [--compile] [--json FILE]
    python benchmarks/training.py --only vgg_gru --set training.channels_last=true --profile
    python benchmarks/training.py --smoke                    does it work at all? (one net, one step)

Each net, and each older loop beside it, is measured in a process of its own, with drawn images and weights: no data and no network
are needed. training.md says how to read the table; training_rounds.py has the clock, training_older.py the older loops.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from finetune.clips.recipe import Recipe as ClipRecipe
    from finetune.images.recipe import Recipe as ImageRecipe
    from finetune.train.task import Task

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.training_older import LOOPS, older  # noqa: E402
from benchmarks.training_rounds import SCALES, Scale, matrix_rate, peak_mib, rounds_of, scale_of, synchronize  # noqa: E402

NETS = tuple(SCALES["cpu"].batch)
STEPS = ("given", "forward", "backward", "step")
CLASSES = tuple("0123456")


# --- what is trained ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A recipe's net, drawn data for it, and the shape of one example: (3, H, W), or (T, 3, H, W) for a clip."""

    model: torch.nn.Module
    task: Task
    example: tuple[int, ...]


def recipe_of(name: str, scale: Scale, options: argparse.Namespace) -> ImageRecipe | ClipRecipe:
    """The recipe with drawn weights and with what the scale and the options change; --set comes last."""
    from finetune import emotiw, fer2013
    from finetune.overrides import changed, parse_settings

    changes = {
        "init": "none", "training.batch_size": options.batch or scale.batch[name], "training.precision": options.precision,
        "training.compile": options.compile,
    }  # fmt: skip
    if name in emotiw.RECIPES and scale.frames is not None:
        changes["sampling.frames"] = scale.frames
    recipe: ImageRecipe | ClipRecipe = (fer2013.RECIPES | emotiw.RECIPES)[name]  # type: ignore[operator]
    return changed(recipe, changes | parse_settings(options.settings))


def images(recipe: ImageRecipe, device: torch.device) -> Subject:
    import torch

    from finetune.images.data import Expressions
    from finetune.images.task import ImageTask
    from finetune.train.augment import size_of

    count = max(recipe.training.batch_size * 4, 512)
    pixels, labels = torch.randint(0, 256, (count, 48, 48), dtype=torch.uint8), torch.randint(0, len(CLASSES), (count,))
    data = Expressions(pixels, labels, ("train",) * count, CLASSES, "drawn", "0" * 64)
    task = ImageTask(data, {"train": torch.arange(count)}, recipe.input, recipe.augment, device)
    return Subject(recipe.build(len(CLASSES), recipe.arguments, recipe.init), task, (3, *size_of(recipe.input)))


def clips(recipe: ClipRecipe, device: torch.device) -> Subject:
    """Clips half as long again as what is drawn from each, their frames as large as the net's input."""
    import torch

    from finetune.clips import nets
    from finetune.clips.data import Clips
    from finetune.clips.task import ClipTask
    from finetune.train.augment import size_of

    count, frames, frame = recipe.training.batch_size * 2, recipe.sampling.frames, (3, *size_of(recipe.input))
    length = frames + frames // 2
    data = Clips(
        torch.randint(0, 256, (count * length, *frame), dtype=torch.uint8), torch.arange(count + 1) * length,
        torch.randint(0, len(CLASSES), (count,)), ("train",) * count, CLASSES, tuple(map(str, range(count))), None, "drawn", "0" * 64,
    )  # fmt: skip
    task = ClipTask(data, {"train": torch.arange(count)}, recipe.input, recipe.augment, recipe.sampling, device)
    return Subject(nets.start(recipe, data).model, task, (frames, *frame))


# --- how fast -------------------------------------------------------------------------------------------------------------------------


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One net in this process."""
    import torch
    from torch.nn import functional as F
    from torch.utils.flop_counter import FlopCounterMode

    from finetune import emotiw
    from finetune.train.device import accelerator_for
    from finetune.train.loop import Trainer
    from finetune.train.task import laid_out

    gpu = torch.cuda.is_available() and not options.cpu
    scale = scale_of(torch.device("cuda" if gpu else "cpu"), smoke=options.smoke)
    recipe = recipe_of(name, scale, options)
    training, of_clips = recipe.training, name in emotiw.RECIPES
    batch, accelerator = training.batch_size, accelerator_for(training, cpu=options.cpu)
    device = accelerator.device
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[accelerator.mixed_precision]
    torch.manual_seed(0)
    peak = matrix_rate(dtype, scale, device)  # and once more at the end: another process may have been in the way

    if gpu:
        torch.cuda.reset_peak_memory_stats()
    subject = clips(recipe, device) if of_clips else images(recipe, device)  # type: ignore[arg-type]
    model, task = subject.model, subject.task
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, *subject.example))
    forward_flops = counter.get_total_flops()  # two operations a multiply-add

    trainer = Trainer(model, task, training, accelerator, None, select=None)
    net = trainer.net
    model.train()
    numbers = itertools.count()
    rows = torch.arange(batch)
    labels = task.targets[:batch].to(device)

    def given() -> tuple[torch.Tensor, ...]:
        draws = task.draw(rows, torch.Generator().manual_seed(next(numbers)))
        return laid_out(task.inputs(rows, *draws), training.channels_last)

    inputs = given()

    def forward() -> None:
        with torch.no_grad():
            net(*inputs)

    def backward() -> None:
        accelerator.backward(F.cross_entropy(net(*inputs).float(), labels))
        trainer.optimizer.zero_grad()

    def step() -> None:
        number = next(numbers)
        trainer.step((rows + number * batch) % len(task.targets), number % trainer.steps)

    seconds = {each.__name__: statistics.median(rounds_of(each, scale, device)) for each in (given, forward, backward, step)}
    rate = {each: batch / value for each, value in seconds.items()}
    memory = peak_mib(device)
    peak = max(peak, matrix_rate(dtype, scale, device))
    if options.profile:
        profile(name, step, scale, device)
    achieved = 3 * forward_flops * rate["step"] / 1e12
    unit = "clips" if of_clips else "images"
    return {
        "net": name, "unit": unit, "frames": subject.example[0] if of_clips else 1, "size": list(subject.example[-2:]), "batch": batch,
        "precision": str(dtype).removeprefix("torch."), "compile": training.compile, "settings": options.settings,
        "device": torch.cuda.get_device_name() if gpu else f"cpu ({torch.get_num_threads()} threads)", "torch": torch.__version__,
        "multiply_adds": forward_flops // 2, f"{unit}_per_s": rate, "memory_mb": memory, "tflops": achieved, "matrix_tflops": peak,
        "share": achieved / peak,
    }  # fmt: skip


def measure_older(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The older loop on the same net, in this process."""
    import torch

    gpu = torch.cuda.is_available() and not options.cpu
    recipe = recipe_of(name, scale_of(torch.device("cuda" if gpu else "cpu"), smoke=options.smoke), options)
    sampling = getattr(recipe, "sampling", None)
    return older(name, 1 if sampling is None else sampling.frames, options)


def beside(row: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """The row with the older loop in it, whose share is one of the same matrix rate."""
    achieved = 3 * 2 * row["multiply_adds"] * old["per_s"] / 1e12
    return {**row, "older": {**old, "tflops": achieved, "share": achieved / row["matrix_tflops"]}}


def profile(name: str, step: Callable[[], object], scale: Scale, device: torch.device) -> None:
    """Prints what whole steps spend the device's time on, the 25 largest first."""
    from torch.profiler import ProfilerActivity, profile

    gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as found:
        for _ in range(scale.profiled):
            step()
        synchronize(device)
    table = found.key_averages().table(f"self_{'device' if gpu else 'cpu'}_time_total", row_limit=25, max_name_column_width=80)
    print(f"{name}, {scale.profiled} steps:\n{table}", flush=True)


# --- the table ------------------------------------------------------------------------------------------------------------------------


def as_markdown(found: list[dict[str, Any]]) -> str:
    first = found[0]
    head = (
        "| net | batch | M multiply-adds | input | forward | forward + backward | whole step | TFLOP/s | of the matrix rate | peak MiB |",
        "|-----|------:|----------------:|------:|--------:|-------------------:|-----------:|--------:|-------------------:|---------:|",
    )
    units = "; ".join(f"{unit}/s" for unit in dict.fromkeys(row["unit"] for row in found))
    about = [first["device"], first["precision"], f"torch {first['torch']}", *["torch.compile"] * first["compile"], *first["settings"]]
    lines = [f"{', '.join(about)}; {units}:", "", *head]
    for row in found:
        size = "×".join(map(str, row["size"]))
        size = f"{row['frames']} × {size}" if row["unit"] == "clips" else size
        rates = " | ".join(number(row[f"{row['unit']}_per_s"][each]) for each in STEPS)
        lines.append(
            f"| {row['net']} {size} | {row['batch']} | {row['multiply_adds'] / 1e6:,.0f} | {rates} | {row['tflops']:.3g}"
            f" | {row['share']:.0%} of {row['matrix_tflops']:.3g} | {row['memory_mb']:,.0f} |"
        )
    return "\n".join(lines + [line for row in found if "older" in row for line in ("", comparison(row))])


def comparison(row: dict[str, Any]) -> str:
    """A row beside the older loop, in a sentence."""
    old = row["older"]
    ours, theirs = row[f"{row['unit']}_per_s"]["step"], old["per_s"]
    return (
        f"XiaoYee/emotion_classification's loop on {row['net']} (float32, batch {old['batch']}, PIL in {old['workers']} workers):"
        f" {rate(theirs, row)}, {old['tflops']:.3g} TFLOP/s ({old['share']:.1%} of the same matrix rate), {old['memory_mb']:,.0f} MiB;"
        f" the whole step above, {rate(ours, row)}, is {ours / theirs:.2f} × as fast."
    )


def rate(per_s: float, row: dict[str, Any]) -> str:
    frames = f" ({number(per_s * row['frames'])} frames/s)" if row["unit"] == "clips" else ""
    return f"{number(per_s)} {row['unit']}/s{frames}"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", nargs="+", choices=NETS, metavar="NET", help=f"of {', '.join(NETS)} (default: all; with --smoke: scratch)")
    p.add_argument("--batch", type=int, help="images or clips of a batch (default: the recipe's on a GPU, 16 clips; few on a CPU)")
    p.add_argument(
        "--precision",
        choices=("auto", "no", "bf16", "fp16"),
        default="auto",
        help="auto: bf16 where the device multiplies it, else float32",
    )
    p.add_argument("--compile", action="store_true", help="through torch.compile")
    p.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", dest="settings",
        help="changes a field of the recipes, as in training.channels_last=true",
    )  # fmt: skip
    p.add_argument("--profile", action="store_true", help="also prints what ten whole steps (on a CPU: one) spend their time on")
    p.add_argument("--cpu", action="store_true", help="does not use the GPU")
    p.add_argument("--smoke", action="store_true", help="two images or clips, one step")
    p.add_argument("--json", type=Path, metavar="FILE", help="writes what was measured")
    p.add_argument("--measure", nargs=3, metavar=("WHAT", "NET", "FILE"), help=argparse.SUPPRESS)
    options = p.parse_args()
    if options.measure:
        what, name, file = options.measure
        Path(file).write_text(json.dumps({"net": measure, "older": measure_older}[what](name, options)))
        return

    def in_process(what: str, name: str) -> dict[str, Any]:
        """In a process of its own: memory is counted from the start of one, and a child's from its parent's size on."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "found.json")
            subprocess.run([sys.executable, *sys.argv, "--measure", what, name, str(path)], check=True)
            result: dict[str, Any] = json.loads(path.read_text())
            return result

    found = []
    for name in options.only or (("scratch",) if options.smoke else NETS):
        row = in_process("net", name)
        found.append(beside(row, in_process("older", name)) if name in LOOPS else row)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    print(as_markdown(found))


if __name__ == "__main__":
    main()
