"""Which form of a converted net is the fastest on a CPU: VGG-16 with drawn weights, every form in one run, as ratios.

    python benchmarks/inference.py [--batches 1 8] [--threads 2] [--rounds 7] [--write docs/inference.md]

Each form lives in a process of its own with its own copy of the weights. The forms are measured in turn, round after round, with a pause
before each, so that a busy machine disturbs all of them alike and no library's idle threads run beside another's. The figures are
medians over the rounds; ratios come from the same rounds. Before anything is measured every form's output is held against the net's.

Goals: the converted net at most 1.02 × the bare modules; the best of torch.compile's and ONNX Runtime's forms, with and without Winograd's
method, at most 1.15 × OpenCV.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PROTOTXT = ROOT / "zoo" / "prototxt" / "vgg16_ilsvrc.prototxt"
BEGIN, END = "<!-- inference.py: begin -->", "<!-- inference.py: end -->"
BARE, NET, COMPILED, FROZEN, ONNX, OPENCV = "bare", "net", "compiled", "frozen", "onnx", "opencv"
WINOGRAD, WINOGRAD_COMPILED = "winograd", "winograd_compiled"
COMPILES = (COMPILED, FROZEN, WINOGRAD_COMPILED)
FORMS = {
    BARE: "the bare modules, `nn.Sequential`",
    NET: "the net as `convert()` gives it",
    "recording": "the same, without `torch.inference_mode()`",
    "channels_last": "the same, in `torch.channels_last`",
    COMPILED: "`torch.compile(net)`",
    FROZEN: "`torch.compile(net)`, weights frozen (`TORCHINDUCTOR_FREEZING=1`)",
    WINOGRAD: "`use_winograd(net)`",
    WINOGRAD_COMPILED: "`torch.compile(use_winograd(net))`",
    ONNX: "`.onnx` in ONNX Runtime",
    OPENCV: "OpenCV 4's importer",
    "opencv_direct": "the same, Winograd's convolutions off",
}


def drawn_net(folder: Path) -> None:
    """net.caffemodel: VGG-16 with weights that keep activations of one size."""
    import torch

    from converter import convert, save_caffemodel

    torch.manual_seed(0)
    net = convert(PROTOTXT)
    for key, value in net.state_dict().items():
        if value.dim() > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
        else:
            value.uniform_(-0.1, 0.1)
        assert key.endswith(("weight", "bias"))
    save_caffemodel(net, folder / "net.caffemodel")


def converted(folder: Path) -> Any:
    from converter import convert

    return convert(PROTOTXT, folder / "net.caffemodel")


def by_torch(form: str, folder: Path, x: Any) -> Callable[[], Any]:
    """A call that runs the form on x and gives a numpy array."""
    import torch
    from torch import nn

    from converter import use_winograd

    net: Any = converted(folder)
    if form == BARE:
        net = bare(net)
    if form == "channels_last":
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    if form in (WINOGRAD, WINOGRAD_COMPILED):
        net = use_winograd(net)
    call: Any = torch.compile(net) if form in COMPILES else net
    assert isinstance(net, nn.Module)
    if form == "recording":
        return lambda: call(x).detach().numpy()

    def run() -> Any:
        with torch.inference_mode():
            return call(x).numpy()

    return run


def bare(net: Any) -> Any:
    """torch's own modules with the net's parameters, one after the other."""
    from torch import nn

    layers: list[nn.Module] = []
    for call in net.program.needed(net.outputs):
        module = net._modules[call.key]
        if type(module).__name__ == "InnerProduct":  # which flattens by itself
            linear = nn.Linear(module.in_features, module.out_features, device="meta")
            linear.weight, linear.bias = module.weight, module.bias
            layers += [nn.Flatten(), linear]
        else:
            layers.append(module)
    assert all(type(layer).__module__.startswith("torch.nn.") for layer in layers)
    return nn.Sequential(*layers).eval()


def by_onnxruntime(folder: Path, x: Any, threads: int) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / "net.onnx"), options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, inputs)[0]


def by_opencv(folder: Path, x: Any, threads: int, winograd: bool) -> Callable[[], Any]:
    import cv2

    cv2.setNumThreads(threads)
    net = cv2.dnn.readNetFromCaffe(str(PROTOTXT), str(folder / "net.caffemodel"))
    net.enableWinograd(winograd)
    blob = x.numpy()

    def run() -> Any:
        net.setInput(blob)
        return net.forward()

    return run


def worker(form: str, folder: Path, batch: int, threads: int) -> None:
    """Build the form, then time one call for each line that comes in."""
    import numpy
    import torch

    torch.set_num_threads(threads)
    x = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(batch))
    if form.startswith(OPENCV):
        call = by_opencv(folder, x, threads, winograd=form == OPENCV)
    elif form == ONNX:
        call = by_onnxruntime(folder, x, threads)
    else:
        call = by_torch(form, folder, x)
    out = numpy.asarray(call()).reshape(batch, -1)
    call()  # a second time, for what is done once more at the first call
    numpy.save(folder / f"{form}-{batch}.npy", out)
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter(), time.process_time()
        call()
        print(json.dumps({"wall": time.perf_counter() - start[0], "cpu": time.process_time() - start[1]}), flush=True)


class Worker:
    """A process that holds one form."""

    def __init__(self, form: str, folder: Path, batch: int, threads: int):
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        environment |= {"TORCHINDUCTOR_FREEZING": "1"} if form == FROZEN else {}
        command = [sys.executable, __file__, "--worker", form, str(folder), "--batches", str(batch), "--threads", str(threads)]
        self.form = form
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        assert self.process.stderr is not None
        raise SystemExit(f"{self.form}: {self.process.stderr.read()[-2000:]}")

    def seconds(self, clock: str) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.answer()[clock])

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def measure(folder: Path, batch: int, threads: int, rounds: int, forms: list[str], pause: float, clock: str) -> dict[str, list[float]]:
    """Seconds of every form, a list with one entry a round."""
    import numpy

    workers = [Worker(form, folder, batch, threads) for form in forms]  # they get ready beside each other
    try:
        for each in workers:
            each.answer()
        want = numpy.load(folder / f"{NET}-{batch}.npy")
        for form in forms:
            gap = float(numpy.abs(numpy.load(folder / f"{form}-{batch}.npy") - want).max() / numpy.abs(want).max())
            if not gap < 1e-3:
                raise SystemExit(f"{form} computes something else: {gap:.1e} of the largest value")
        found: dict[str, list[float]] = {form: [] for form in forms}
        for number in range(rounds):
            for each in workers[number % len(workers) :] + workers[: number % len(workers)]:  # another one begins each round
                time.sleep(pause)
                found[each.form].append(each.seconds(clock))
        return found
    finally:
        for each in workers:
            each.close()


def table(found: dict[int, dict[str, list[float]]]) -> list[str]:
    """Milliseconds an image, and ratios of the same rounds, for each batch."""
    batches = list(found)
    heads = [f"batch {batch}: ms an image | ÷ bare | ÷ OpenCV" for batch in batches]
    lines = [f"| form | {' | '.join(heads)} |", f"|---|{'---:|---:|---:|' * len(batches)}"]
    for form, words in FORMS.items():
        cells = []
        for batch, forms in found.items():
            if form not in forms:
                cells.append("– | – | –")
                continue
            own = 1000 * statistics.median(forms[form]) / batch
            cells.append(f"{own:.1f} | {ratio(forms, form, BARE)} | {ratio(forms, form, OPENCV)}")
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return lines


def ratio(forms: dict[str, list[float]], form: str, base: str) -> str:
    found = ratio_of(forms, form, base)
    return "–" if found is None else f"{found:.2f}"


def ratio_of(forms: dict[str, list[float]], form: str, base: str) -> float | None:
    """The median over the rounds of one form's time ÷ another's."""
    if form not in forms or base not in forms:
        return None
    return statistics.median(a / b for a, b in zip(forms[form], forms[base], strict=True))


def goals(found: dict[int, dict[str, list[float]]]) -> list[str]:
    lines = []
    for batch, forms in found.items():
        net = ratio_of(forms, NET, BARE)
        fast = {form: each for form in (*COMPILES, WINOGRAD, ONNX) if (each := ratio_of(forms, form, OPENCV)) is not None}
        if net is not None:
            lines.append(f"Batch {batch}: the net costs {net:.3f} × the bare modules (goal 1.02).")
        if fast:
            best = min(fast, key=fast.__getitem__)
            lines.append(f"Batch {batch}: the fastest form, {FORMS[best]}, takes {fast[best]:.2f} × OpenCV's time (goal 1.15).")
    return lines


def where(threads: int, rounds: int) -> str:
    import torch

    versions = [f"torch {torch.__version__}"]
    for name in ("onnxruntime", "cv2"):
        try:
            versions.append(f"{name} {__import__(name).__version__}")
        except ImportError:
            versions.append(f"no {name}")
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else "")
    name = cpu[1].strip() if cpu else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0))
    load = f"load {os.getloadavg()[0]:.1f}"
    machine = f"{threads} threads on {cores} cores ({name}), {', '.join(versions)}"
    return f"{machine}; {rounds} rounds, {load} at the end, {time.strftime('%Y-%m-%d')}"


def write(path: Path, text: str) -> None:
    """Put the text between the two marks of a page, or at the end of it."""
    from converter.files import whole_file

    page = path.read_text(encoding="utf-8") if path.exists() else ""
    block = f"{BEGIN}\n{text}\n{END}"
    if BEGIN in page and END in page:
        page = page[: page.index(BEGIN)] + block + page[page.index(END) + len(END) :]
    else:
        page = f"{page.rstrip()}\n\n{block}\n".lstrip("\n")
    with whole_file(path) as file:
        file.write(page.encode())


def available() -> list[str]:
    """The forms that this machine can run; what is missing is said."""
    forms = list(FORMS)
    for form, check in ((ONNX, "import onnxruntime, onnx, onnxscript"), (OPENCV, "import cv2; cv2.dnn.readNetFromCaffe")):
        if subprocess.run([sys.executable, "-c", check], stderr=subprocess.DEVNULL).returncode:
            print(f"{form} is left out: {check!r} fails", file=sys.stderr)
            forms = [each for each in forms if not each.startswith(form)]
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        print("torch.compile is left out: it needs a C++ compiler", file=sys.stderr)
        forms = [form for form in forms if form not in COMPILES]
    return forms


def export_onnx(folder: Path) -> None:
    converted(folder).save(folder / "net.onnx", check=False)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--pause", type=float, default=0.5, help="seconds before each measurement (default 0.5)")
    p.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: of all threads, for a machine that is busy with others")
    p.add_argument("--forms", nargs="+", choices=list(FORMS), help="these forms only; `net` and `bare` are always there")
    p.add_argument("--folder", type=Path, help="where the weights are drawn: 1.1 GB for the run (default: a temporary folder)")
    p.add_argument("--write", type=Path, metavar="PAGE.md", help="put the table between the marks of this page, too")
    p.add_argument("--keep", action="store_true", help="leave --folder as it is, with the weights, for the next run")
    p.add_argument("--worker", nargs=2, metavar=("FORM", "FOLDER"), help=argparse.SUPPRESS)
    options = p.parse_args()
    if options.worker:
        worker(options.worker[0], Path(options.worker[1]), options.batches[0], options.threads)
        return
    forms = [form for form in available() if not options.forms or form in (BARE, NET, *options.forms)]
    folder = options.folder if options.keep else Path(tempfile.mkdtemp(dir=options.folder))
    try:
        if not (folder / "net.caffemodel").exists():
            drawn_net(folder)
        if ONNX in forms and not (folder / "net.onnx").exists():
            export_onnx(folder)
        found = {
            batch: measure(folder, batch, options.threads, options.rounds, forms, options.pause, options.clock) for batch in options.batches
        }
    finally:
        if not options.keep:
            shutil.rmtree(folder)
    text = "\n".join(
        [
            f"VGG-16, 224×224, drawn weights; {where(options.threads, options.rounds)}{', CPU time' if options.clock == 'cpu' else ''}.",
            "",
            *table(found),
            "",
            *goals(found),
        ]
    )
    print(text)
    if options.write:
        write(options.write, text)


if __name__ == "__main__":
    main()
