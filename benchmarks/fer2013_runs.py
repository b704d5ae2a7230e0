"""All full runs of FER2013, one after the other, and the FER2013 section of RESULTS.md.

    python benchmarks/fer2013_runs.py --list
    python benchmarks/fer2013_runs.py --data fer2013.csv --out runs --smoke            does every line run? (a minute each on a CPU)
    python benchmarks/fer2013_runs.py --data fer2013.csv --out runs --write RESULTS.md
    python benchmarks/fer2013_runs.py --out runs --write RESULTS.md                    runs nothing, fills the tables

Each run is a process of its own with a folder and a log in --out. A finished one is skipped, an interrupted one continued: give the same
command again. SIGTERM or Ctrl-C makes the run under way save its state. Runs on the CPU start only when named with --only. On several
GPUs: --launch 'torchrun --nproc-per-node 8'.

A cell of the tables is filled by a run on all of FER2013 whose settings are this file's, or says "not run". What is found is kept in
fer2013_results.json beside this file, so rows from several machines come together. Exit status: 0, 1 where a run could not be made, 2
for a command that cannot be carried out, 143 after a signal.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from finetune import renamed  # noqa: E402
from finetune.command import parser, recipe_from  # noqa: E402
from finetune.config import Augment, Training, as_json  # noqa: E402
from finetune.errors import FinetuneError  # noqa: E402
from finetune.fer2013 import RECIPES, Recipe  # noqa: E402
from finetune.protocol import ImageProtocol  # noqa: E402
from zoo import disk  # noqa: E402
from zoo.cards import registry  # noqa: E402
from zoo.files import store  # noqa: E402

RECORD = Path(__file__).with_name("fer2013_results.json")
BEGIN, END = "<!-- fer2013:begin -->", "<!-- fer2013:end -->"


@dataclass(frozen=True)
class FullRun:
    """A line of the tables. words: what python -m finetune.fer2013 is given besides --data, --out and --resume."""

    name: str
    about: str
    words: str
    goal: str = ""
    cpu: bool = False


RUNS = (
    FullRun(
        "mobilefacenet-protocol-seed", "Caffe's MobileFaceNet, best epoch on the reported images",
        "--recipe mobilefacenet --protocol best-on-reported",
        goal="≥ 71.64 %",
    ),
    FullRun("mobilefacenet-0", "Caffe's MobileFaceNet, seed 0", "--recipe mobilefacenet --seed 0"),
    FullRun("mobilefacenet-1", "Caffe's MobileFaceNet, seed 1", "--recipe mobilefacenet --seed 1"),
    FullRun("mobilefacenet-2", "Caffe's MobileFaceNet, seed 2", "--recipe mobilefacenet --seed 2"),
    FullRun(  # mixup would hold a mixture's embedding against one class's centre
        "mobilefacenet-center", "Caffe's MobileFaceNet, center loss, no mixup",
        "--recipe mobilefacenet --set training.center_loss=0.003 --set training.mixup=0",
    ),
    FullRun("face-resnet", "face ResNet, from nothing", "--recipe face_resnet"),
    FullRun("face-resnet-center-loss", "face ResNet, from the center-loss face net", "--recipe face_resnet --init center_loss_face"),
    FullRun("scratch-0", "ResNet-18 from nothing, seed 0", "--recipe scratch --seed 0"),
    FullRun("scratch-1", "ResNet-18 from nothing, seed 1", "--recipe scratch --seed 1"),
    FullRun("scratch-2", "ResNet-18 from nothing, seed 2", "--recipe scratch --seed 2"),
    FullRun("scratch-64", "ResNet-18 from nothing, at 64×64", "--recipe scratch --set input.size=[64,64]"),
    FullRun("vgg-face", "VGG-Face with its own input", "--recipe vgg_face"),
    FullRun("seed", "VGG-Face as in XiaoYee/emotion_classification, number by number", "--recipe published", goal="71.64 %"),
    FullRun(
        "mobilefacenet-frozen-cpu", "Caffe's MobileFaceNet, convolutions frozen, 112×112, CPU",
        "--recipe mobilefacenet --cpu --set training.freeze=cnn --set views=4 --set training.precision=bf16 --set training.lr=0.005"
        " --set training.mixup=0 --epochs 30",
        cpu=True,
    ),
    FullRun(
        "mobilefacenet-48-cpu", "Caffe's MobileFaceNet, the whole net, 48×48, CPU",
        "--recipe mobilefacenet --cpu --set input.size=[48,48] --set training.mixup=0 --set training.warmup_epochs=1"
        " --set training.ema=0.99 --set augment.erasing=0 --epochs 10",
        cpu=True,
    ),
)  # fmt: skip

# Chosen before any of them was run: no member is picked by what it reaches on private. Eight members at most.
ENSEMBLES: dict[str, tuple[str, ...]] = {
    "3 × MobileFaceNet": ("mobilefacenet-0", "mobilefacenet-1", "mobilefacenet-2"),
    "3 × ResNet-18": ("scratch-0", "scratch-1", "scratch-2"),
    "3 × MobileFaceNet, 3 × ResNet-18, ResNet-18 at 64×64, face ResNet": (
        "mobilefacenet-0", "mobilefacenet-1", "mobilefacenet-2", "scratch-0", "scratch-1", "scratch-2", "scratch-64", "face-resnet",
    ),
}  # fmt: skip

SEEDS: dict[str, tuple[str, ...]] = {
    "Caffe's MobileFaceNet": ("mobilefacenet-0", "mobilefacenet-1", "mobilefacenet-2"),
    "ResNet-18 from nothing": ("scratch-0", "scratch-1", "scratch-2"),
}

# (result on private in %, system, protocol). Selection as their published code does it.
REPORTED = (
    ("71.64", "XiaoYee/emotion_classification: VGG-Face", "trains on train and public, best epoch on private, one view"),
    ("73.11", "WuJie1010/Facial-Expression-Recognition.Pytorch: VGG-19", "best epoch on private, ten-crop"),
    ("73.28", "usef-kh/fer (Khaireddin & Chen 2021): VGG", "repository: best epoch on private, ten-crop"),
    ("73.70", "LetheSec/Fer2013-Facial-Emotion-Recognition-Pytorch: ResNet-18", "best epoch on private, ten-crop"),
    ("74.14", "Pham et al. 2020, ResMaskingNet at 224", "ImageNet weights, best epoch on public, ten random views"),
    ("76.12", "EmoNeXt 2023 (XL) at 224", "ImageNet-22k weights, best epoch on public, ten-crop"),
    ("75.2", "Pramerdorfer & Kampel 2016", "ensemble of 8 nets from nothing"),
    ("76.82", "Pham et al. 2020", "ensemble of 7 nets at 224, several views"),
)

ALL, PRIVATE, WITHOUT_COPIES = 35_887, 3_589, 3_275
CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
COLUMNS = {
    "public": None, "private": PRIVATE, "private, ten-crop": PRIVATE, "private without copies": WITHOUT_COPIES,
    "private without copies, ten-crop": WITHOUT_COPIES,
}  # fmt: skip
NOT_RUN = "not run"


# --- running --------------------------------------------------------------------------------------------------------------------------


def words_of(run: FullRun, smoke: bool) -> list[str]:
    """The recipe's words; --smoke takes no weights where the zoo has none, so that every line can be tried."""
    words = shlex.split(run.words)
    if smoke:
        words += ["--smoke", "--epochs", "1"]
        if not has_weights(recipe_of(words).init):
            words += ["--init", "none"]
    return words


def has_weights(init: str) -> bool:
    if init == "none":
        return True
    card = registry.card_of(init)
    return all(store.cached(store.folder(card), file) for file in card.files if file.needed)


def recipe_of(words: Sequence[str]) -> Recipe:
    """What the words ask for. Raises FinetuneError for a field that there is not."""
    command = parser("finetune.fer2013", "", RECIPES, get_args(ImageProtocol))
    options = command.parse_args([*words, "--data", "", "--out", ""])
    return recipe_from(RECIPES[options.recipe], options)


def differences(folder: Path, words: Sequence[str]) -> str:
    """In which settings the folder's run is not what the words ask for; "" where it is."""
    from finetune.runs.folder import compared
    from finetune.runs.metrics import read_json

    found = renamed.config(read_json(folder / "config.json"))
    if found.get("votes"):
        return "it was trained on FER+'s votes"
    wanted = json.loads(json.dumps(as_json(recipe_of(words))))
    free = {"about", "source", "smoke", "smoke_images"}  # change nothing about a whole run
    added = {  # a field that a run is older than: at its default, it leaves things as they were
        f"{part}.{name}"
        for part, defaults in {"training": as_json(Training()), "augment": as_json(Augment())}.items()
        for name, value in defaults.items()
        if name not in found["config"][part] and wanted[part][name] == value
    }
    if wanted["training"]["freeze"] == "cnn":
        free.add("training.backbone_lr")  # then no parameter has this rate
    unequal = [each for each in compared(found["config"], wanted) if not {each[0], each[0].partition(".")[0]} & (free | added)]
    return "; ".join(f"{name} is {old!r}, not {new!r}" for name, old, new in unequal)


class Child:
    """The run under way, and whether a signal has come. A second signal kills it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped = False

    def signalled(self, number: int, frame: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if self.stopped else signal.SIGTERM)
        self.stopped = True

    def run(self, command: Sequence[str], log: Path) -> int:
        """The exit status; the output goes to the end of `log`. In a session of its own, so that Ctrl-C reaches it once, through us."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True, cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip
            if self.stopped:  # the signal came before the process
                self.process.terminate()
            return self.process.wait()


def make(runs: Iterable[FullRun], data: Path, out: Path, launch: Sequence[str], smoke: bool) -> int:
    """Makes the runs that are not finished; a line for each, and the total time. Returns an exit status."""
    out.mkdir(parents=True, exist_ok=True)
    started, child, failed, seconds = time.monotonic(), Child(), 0, 0.0
    before = {number: signal.signal(number, child.signalled) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for run in runs:
            folder, log, words = out / run.name, out / f"{run.name}.log", words_of(run, smoke)
            finished = (folder / "result.json").is_file() and not differences(folder, words)
            at, status = (log.stat().st_size if log.is_file() else 0), 0
            if not finished:
                places = ["--data", str(data.resolve()), "--out", str(folder.resolve())]
                command = [*launch, "-m", "finetune.fer2013", *words, *places, "--resume"]
                status = child.run(command, log)
            if status == 0:
                result = json.loads((folder / "result.json").read_bytes())
                seconds += result["seconds"]
                print(f"{run.name:<28} {accuracies(result)}  {result['seconds']:>8,.0f} s{'  (finished before)' * finished}", flush=True)
            elif child.stopped:
                print(f"{run.name:<28} stopped; the same command continues it", flush=True)
            else:
                failed += 1
                print(f"{run.name:<28} not run: {reason(log, at, status)}", flush=True)
            if child.stopped:
                break
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print(f"\ntotal: {seconds:,.0f} s of training and measuring in the finished runs, {time.monotonic() - started:,.0f} s in this call")
    return 143 if child.stopped else int(failed > 0)


def accuracies(result: Mapping[str, Any]) -> str:
    """What a run is known by, for the terminal."""
    split = result["report"]
    labels = [split, f"{split}, ten-crop"]
    return "  ".join(f"{label} {result['scores'][label]['accuracy']:.2%}" for label in labels)


def reason(log: Path, at: int, status: int) -> str:
    """The error in what was added to the log, in one line."""
    text = log.read_bytes()[at:].decode(errors="replace")
    found = text.rpartition("error: ")[2] if "error: " in text else (text.strip().splitlines() or [""])[-1]
    return f"{' '.join(found.split())[:400]} (status {status}, {log})"


# --- collecting -----------------------------------------------------------------------------------------------------------------------


def collect(out: Path, record: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The record with what the folders in `out` say, and a line for each folder that fills nothing."""
    runs, notes, here = dict(record["runs"]), [], set()
    for run in RUNS:
        folder = out / run.name
        if not (folder / "result.json").is_file():
            if folder.is_dir():
                notes.append(f"{run.name}: not finished")
            continue
        if refusal := unfit(folder, run):
            notes.append(f"{run.name}: {refusal}")
            continue
        runs[run.name] = row_of(folder, run)
        here.add(run.name)
    ensembles = dict(record["ensembles"])
    for name, members in ENSEMBLES.items():
        if here.issuperset(members):
            ensembles[name] = ensemble_of([out / member for member in members], [runs[member]["started"] for member in members])
    return {"runs": runs, "ensembles": ensembles}, notes


def unfit(folder: Path, run: FullRun) -> str:
    """Why the folder's run is not this line's; "" where it is."""
    from finetune.runs.metrics import read_json

    data = read_json(folder / "config.json")["data"]
    counts = data["counts"]
    if sum(counts.values()) != ALL or counts.get("private") != PRIVATE:
        return f"not all of FER2013: {', '.join(f'{name} {count:,}' for name, count in counts.items())}"
    if difference := differences(folder, shlex.split(run.words)):
        return f"other settings than this line's: {difference}"
    if run.cpu and not device_of(folder).startswith("cpu"):
        return f"a CPU's line, but it ran on {device_of(folder)}"
    return ""


def device_of(folder: Path) -> str:
    environment, config = (json.loads((folder / name).read_bytes()) for name in ("environment.json", "config.json"))
    if "--cpu" in shlex.split(config["command"]) and not environment["device"].startswith("cpu"):
        return "cpu"  # environment.json names the GPU that was there
    return environment["device"]


def row_of(folder: Path, run: FullRun) -> dict[str, Any]:
    """What the tables say of a run. Its command names no folder of the machine that it ran on."""
    config, environment, result = (json.loads((folder / f"{name}.json").read_bytes()) for name in ("config", "environment", "result"))
    start = config["command"].partition(" finetune.fer2013")[0]
    return {
        "command": f"{start} finetune.fer2013 {run.words} --data {Path(config['data']['name']).name} --out runs/{run.name}",
        "commit": environment["commit"], "device": device_of(folder), "processes": environment["processes"],
        "torch": environment["torch"], "started": config["started"], "data_sha256": config["data"]["sha256"],
        "protocol": config["protocol"], "selected": result["selected"], "seconds": result["seconds"],
        "images_per_s": result["images_per_s"], "memory_mb": result["memory_mb"], "scores": kept(result["scores"]),
    }  # fmt: skip


def kept(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The scores that have a column. Copies are found byte by byte: data that were encoded anew have others, and no such cell."""
    fields = ("images", "accuracy", "standard_error", "mean_recall", "recall")
    return {
        label: {field: scores[label][field] for field in fields}
        for label, images in COLUMNS.items()
        if label in scores and images in (None, scores[label]["images"])
    }


def ensemble_of(folders: Sequence[Path], started: Sequence[str]) -> dict[str, Any]:
    """`started` tells later whether a member has been run anew since."""
    from finetune.ensemble import read_members, summary

    found = summary(*read_members([str(folder) for folder in folders], "private"))
    return {"started": list(started), "scores": kept(found["ensemble"])}


def read_record(path: Path) -> dict[str, Any]:
    """Without the rows of lines whose words have changed since. Raises ValueError for a file that is no such record."""
    if not path.is_file():
        return {"runs": {}, "ensembles": {}}
    record = json.loads(path.read_bytes())
    if not isinstance(record, dict) or not {"runs", "ensembles"} <= record.keys():
        raise ValueError(f"{path}: no record of runs; expected an object with runs and ensembles")
    words = {run.name: f" {run.words} --data " for run in RUNS}
    rows = {name: row for name, row in record["runs"].items() if name in words and words[name] in row["command"]}
    return {**record, "runs": rows}


# --- the tables -----------------------------------------------------------------------------------------------------------------------


def section(record: Mapping[str, Any]) -> str:
    """The text between the markers of RESULTS.md."""
    runs = record["runs"]
    known = [run for run in RUNS if run.name in runs]
    lines = [
        "## FER2013",
        "",
        "Made by `python benchmarks/fer2013_runs.py --write RESULTS.md`: every figure is a run's, a cell without one says so",
        f"({len(known)} of {len(RUNS)} lines have been run). What is written between this section's markers by hand is lost.",
        "",
        f"Accuracy in % on the {PRIVATE:,} private images, and on the {WITHOUT_COPIES:,} of them without a byte-identical copy in train or",
        "public; ± is one standard error. Protocol honest picks the epoch on public, so that column is a maximum over epochs; protocol",
        "best-on-reported trains on train and public and picks the epoch on private: its private figures are a maximum over epochs, so too",
        "high.",
        "",
        *table(
            ["run", "protocol", "public", "private", "ten-crop", "without copies", "ten-crop", "goal"],
            ([run.about, protocol(run), *figures(runs.get(run.name)), run.goal] for run in RUNS),
        ),
        "",
        "### Several seeds",
        "",
        "Mean ± standard deviation over the runs.",
        "",
        *table(["configuration", "runs", *list(COLUMNS)], (spread(name, members, runs) for name, members in SEEDS.items())),
        "",
        "### Ensembles",
        "",
        "The mean of the probabilities; the members were fixed before any was run.",
        "",
        *table(
            ["ensemble", "runs", *list(COLUMNS)],
            ([name, str(len(members)), *figures(current(name, members, record))] for name, members in ENSEMBLES.items()),
        ),
        "",
        "### Recall of each class",
        "",
        "In % on all private images, one view; the mean is over the classes.",
        "",
        *table(["run", *CLASSES, "mean"], ([run.about, *recalls(runs.get(run.name))] for run in RUNS)),
        "",
        "### What it took",
        "",
        "Wall time is the whole run with its measurements; images/s are those of training, the median over the epochs (of",
        "features, where the convolutions are frozen); memory is the GPU's peak.",
        "",
        *table(
            ["run", "device", "wall time", "images/s", "memory", "torch", "commit"],
            ([run.about, *costs(runs.get(run.name))] for run in RUNS),
        ),
        "",
        *table(["run", "command"], ([run.about, f"`{command(run, runs)}`"] for run in RUNS)),
        "",
        "### Reported elsewhere",
        "",
        "As their authors report them, not run here; accuracy in % on private.",
        "",
        *table(["reported", "system", "how"], REPORTED),
    ]
    return "\n".join(lines)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def protocol(run: FullRun) -> str:
    return recipe_of(shlex.split(run.words)).protocol


def figures(row: Mapping[str, Any] | None) -> list[str]:
    if row is None:
        return [NOT_RUN] * len(COLUMNS)
    scores = row["scores"]
    return [
        f"{100 * scores[label]['accuracy']:.2f} ± {100 * scores[label]['standard_error']:.2f}" if label in scores else "–"
        for label in COLUMNS
    ]


def spread(name: str, members: Sequence[str], runs: Mapping[str, Any]) -> list[str]:
    from finetune.runs.metrics import mean_and_deviation

    scores = [runs[member]["scores"] for member in members if member in runs]
    cells = []
    for label in COLUMNS:
        values = [each[label]["accuracy"] for each in scores if label in each]
        mean, deviation = mean_and_deviation(values) if len(values) == len(members) else (0.0, None)
        cells.append(NOT_RUN if deviation is None else f"{100 * mean:.2f} ± {100 * deviation:.2f}")
    return [name, f"{len(scores)} of {len(members)}", *cells]


def current(name: str, members: Sequence[str], record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The ensemble, unless a member has been run anew since."""
    row = record["ensembles"].get(name)
    started = [record["runs"].get(member, {}).get("started") for member in members]
    return row if row is not None and row["started"] == started else None


def recalls(row: Mapping[str, Any] | None) -> list[str]:
    if row is None:
        return [NOT_RUN] * (len(CLASSES) + 1)
    scores = row["scores"]["private"]
    return [f"{100 * share:.1f}" for share in (*(scores["recall"][name] for name in CLASSES), scores["mean_recall"])]


def costs(row: Mapping[str, Any] | None) -> list[str]:
    if row is None:
        return [NOT_RUN] * 6
    device = f"{row['processes']} × {row['device']}" if row["processes"] > 1 else row["device"]
    memory = "–" if row["memory_mb"] is None else f"{row['memory_mb'] / 1024:.1f} GiB"
    minutes, seconds = divmod(round(row["seconds"]), 60)
    return [device, f"{minutes} min {seconds:02} s", f"{row['images_per_s']:,.0f}", memory, row["torch"], row["commit"] or "unknown"]


def command(run: FullRun, runs: Mapping[str, Any]) -> str:
    """The one that was given, or the one to give."""
    planned = f"python -m finetune.fer2013 {run.words} --data fer2013.csv --out runs/{run.name}"
    return runs[run.name]["command"] if run.name in runs else planned


def inserted(text: str, part: str) -> str:
    """The text with what lies between the markers replaced; a text without them gets them at its end."""
    block = f"{BEGIN}\n{part}\n{END}"
    if text.count(BEGIN) != text.count(END) or text.count(BEGIN) > 1 or text.find(END) < text.find(BEGIN):
        raise ValueError(f"expected {BEGIN} and {END}, once each and in this order")
    if BEGIN in text:
        return text[: text.index(BEGIN)] + block + text[text.index(END) + len(END) :]
    return f"{text.rstrip()}\n\n{block}\n" if text.strip() else f"# Results\n\n{block}\n"


def write_tables(path: Path, record: Mapping[str, Any]) -> None:
    """Raises ValueError, naming the file, where its markers are not a pair."""
    try:
        text = inserted(path.read_text(encoding="utf-8") if path.is_file() else "", section(record))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    with disk.replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


# --- the command ----------------------------------------------------------------------------------------------------------------------


def listed(out: Path | None, record: Mapping[str, Any]) -> str:
    lines = []
    for run in RUNS:
        state = "recorded" if run.name in record["runs"] else NOT_RUN
        if out is not None and (out / run.name).is_dir():
            state = "finished" if (out / run.name / "result.json").is_file() else "begun"
        lines.append(f"{run.name:<28} {state:<9} {run.words}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, help="FER2013; without it nothing is run")
    p.add_argument("--out", type=Path, help="holds a folder for each run; those of --smoke are in its folder smoke")
    p.add_argument("--only", nargs="+", metavar="NAME", choices=[run.name for run in RUNS], help="these runs (default: all but the CPU's)")
    p.add_argument("--smoke", action="store_true", help="each run for an epoch on a part of the data; writes no tables")
    p.add_argument("--launch", default=shlex.quote(sys.executable), help="what starts a run (default: this Python)")
    p.add_argument("--write", type=Path, metavar="RESULTS.md", help="fills the tables of this file")
    p.add_argument("--record", type=Path, default=RECORD, help="what was found so far (default: fer2013_results.json beside this file)")
    p.add_argument("--list", action="store_true", help="prints the runs and leaves")
    options = p.parse_args(argv)
    if options.smoke and options.write:
        p.error("--smoke writes no tables: leave out --write")
    if (options.data and not options.out) or not (options.data or options.write or options.list):
        p.error("give --data and --out to run, --write to fill the tables, or --list")
    if options.data and not options.data.exists():
        p.error(f"--data {options.data}: no such file or folder")
    try:
        record = read_record(options.record)
        if options.list:
            print(listed(options.out, record))
            return 0
        status = 0
        if options.data:
            runs = [run for run in RUNS if (run.name in options.only if options.only else options.smoke or not run.cpu)]
            out = options.out / "smoke" if options.smoke else options.out
            status = make(runs, options.data, out, shlex.split(options.launch), options.smoke)
        if options.write:
            if options.out:
                record, notes = collect(options.out, record)
                for note in notes:
                    print(f"fills no cell: {note}")
                disk.write_json(options.record, record)
            write_tables(options.write, record)
            print(f"{options.write}: {sum(run.name in record['runs'] for run in RUNS)} of {len(RUNS)} lines have been run")
    except (FinetuneError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
