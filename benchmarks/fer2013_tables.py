"""The FER2013 section of RESULTS.md: what run folders say, kept in a record, and the record as tables."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.fer2013_plan import ENSEMBLES, REPORTED, RUNS, SEEDS, FullRun, differences, recipe_of
from zoo import disk

BEGIN, END = "<!-- fer2013:begin -->", "<!-- fer2013:end -->"

ALL, PRIVATE, WITHOUT_COPIES = 35_887, 3_589, 3_275
CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
COLUMNS = {
    "public": None, "private": PRIVATE, "private, ten-crop": PRIVATE, "private without copies": WITHOUT_COPIES,
    "private without copies, ten-crop": WITHOUT_COPIES,
}  # fmt: skip
POINTS = 8  # epochs that a curve is told by


# --- what a run folder says -----------------------------------------------------------------------------------------------------------


def collect(folders: Mapping[str, Path], record: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The record with the rows of these folders, by the names of their lines; and a line for each folder that makes no row."""
    runs, notes, here = dict(record["runs"]), [], set()
    for run in RUNS:
        folder = folders.get(run.name)
        if folder is None or not (folder / "result.json").is_file():
            if folder is not None and folder.is_dir():
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
            ensembles[name] = ensemble_of([folders[member] for member in members], [runs[member]["started"] for member in members])
    return {"runs": runs, "ensembles": ensembles}, notes


def lines_of(folders: Iterable[Path]) -> dict[str, Path]:
    """The folders by the lines that they are runs of, told by their settings. Raises ValueError for a folder of none."""
    found = {}
    for folder in folders:
        unequal = {run.name: unfit(folder, run) for run in RUNS}
        names = [name for name, difference in unequal.items() if not difference]
        if not names:
            near = min(unequal, key=lambda name: len(unequal[name].split("; ")))
            raise ValueError(f"{folder}: no line of the tables has its settings; the nearest, {near}: {unequal[near]}")
        found[names[0]] = folder
    return found


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
    return {
        "words": run.words, "command": shareable(config["command"], run.name),
        "commit": environment["commit"], "device": device_of(folder), "processes": environment["processes"],
        "torch": environment["torch"], "started": config["started"], "data_sha256": config["data"]["sha256"],
        "protocol": recipe_of(shlex.split(run.words)).protocol, "selected": result["selected"], "seconds": result["seconds"],
        "images_per_s": result["images_per_s"], "memory_mb": result["memory_mb"], "scores": kept(result["scores"]),
        "curve": curve_of(folder),
    }  # fmt: skip


def shareable(command: str, name: str) -> str:
    """The command without the folders of the machine that it ran on, and without --resume, which changes no number."""
    words = [word for word in shlex.split(command) if word != "--resume"]
    for option, value in (("--data", Path(words[words.index("--data") + 1]).name), ("--out", f"runs/{name}")):
        words[words.index(option) + 1] = value
    return shlex.join(words)


def kept(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The scores that have a column. Copies are found byte by byte: data that were encoded anew have others, and no such cell."""
    fields = ("images", "accuracy", "standard_error", "mean_recall", "recall", "calibration_error")
    return {
        label: {field: scores[label][field] for field in fields}
        for label, images in COLUMNS.items()
        if label in scores and images in (None, scores[label]["images"])
    }


def curve_of(folder: Path) -> list[dict[str, Any]]:
    """Some epochs of the run, evenly spaced: accuracy on train (augmented, as it is learnt) and on the part that picks the epoch."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    places = sorted({round(i * (len(lines) - 1) / (POINTS - 1)) for i in range(POINTS)}) if lines else []
    return [
        {"epoch": line["epoch"], "train": line["accuracy"], "select": line.get("ema_select_accuracy", line.get("select_accuracy"))}
        for line in (lines[place] for place in places)
    ]


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
    words = {run.name: run.words for run in RUNS}
    rows = {name: row for name, row in record["runs"].items() if words.get(name) == row["words"]}
    return {**record, "runs": rows}


# --- the tables -----------------------------------------------------------------------------------------------------------------------


def section(record: Mapping[str, Any]) -> str:
    """The text between the markers of RESULTS.md: what was run, and what is planned in one line."""
    rows = record["runs"]
    run = [each for each in RUNS if each.name in rows]
    spreads = [line for name, members in SEEDS.items() if (line := spread(name, members, rows))]
    ensembles = {name: row for name, members in ENSEMBLES.items() if (row := current(name, members, record))}
    lines = [
        "## FER2013",
        "",
        "Made by `python benchmarks/fer2013_runs.py --write RESULTS.md`: every figure is a run's. What is written between this section's",
        "markers by hand is lost.",
        *planned(rows, ensembles),
        "",
        f"Accuracy in % on the {PRIVATE:,} private images, and on the {WITHOUT_COPIES:,} of them without a byte-identical copy in train or",
        "public; ± is one standard error. Protocol honest picks the epoch on public, so that column is a maximum over epochs; protocol",
        "best-on-reported trains on train and public and picks the epoch on private: its private figures are a maximum over epochs, so too",
        "high.",
        "",
        *table(
            ["run", "protocol", "public", "private", "ten-crop", "without copies", "ten-crop", "goal"],
            ([each.about, rows[each.name]["protocol"], *figures(rows[each.name]), each.goal] for each in run),
        ),
        *part("Several seeds", "Mean ± standard deviation over the runs.", ["configuration", "runs", *COLUMNS], spreads),
        *part(
            "Ensembles",
            "The mean of the probabilities; no member was picked by what it reaches on private.",
            ["ensemble", "runs", *COLUMNS],
            [[name, str(len(ENSEMBLES[name])), *figures(row)] for name, row in ensembles.items()],
        ),
        *part(
            "Recall of each class, and calibration",
            "Recall in % on all private images, one view; the mean is over the classes. Calibration error (15 bins) of the same answers.",
            ["run", *CLASSES, "mean", "calibration error"],
            [[each.about, *recalls(rows[each.name])] for each in run],
        ),
        *part(
            "Curves",
            "Accuracy in % on train, augmented, as it is learnt / on the part that picks the epoch (of averaged weights where there are).",
            ["run", "epoch: train / picks"],
            [[each.about, curve(rows[each.name])] for each in run if rows[each.name].get("curve")],
        ),
        *part(
            "What it took",
            "Wall time is the whole run with its measurements; images/s are those of training, the median over the epochs (of\n"
            "features, where the convolutions are frozen); memory is the GPU's peak.",
            ["run", "device", "wall time", "images/s", "memory", "torch", "commit"],
            [[each.about, *costs(rows[each.name])] for each in run],
        ),
        "",
        *table(["run", "command"], ([each.about, f"`{rows[each.name]['command']}`"] for each in run)),
        *part(
            "Reported elsewhere",
            "As their authors report them, not run here; accuracy in % on private.",
            ["reported", "system", "how"],
            REPORTED,
        ),
    ]  # fmt: skip
    return "\n".join(lines)


def planned(rows: Mapping[str, Any], ensembles: Mapping[str, Any]) -> list[str]:
    """One paragraph for all that has no row yet."""
    runs = [run.name for run in RUNS if run.name not in rows]
    without = [name for name in ENSEMBLES if name not in ensembles]
    lines = ["", f"Planned and not run yet (`--list` says what each is): {', '.join(runs)}."] if runs else []
    return lines + ([f"Ensembles that wait for members: {'; '.join(without)}."] if without else [])


def part(title: str, text: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A heading, its text and its table; nothing where there is no row."""
    return ["", f"### {title}", "", text, "", *table(head, rows)] if rows else []


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def figures(row: Mapping[str, Any]) -> list[str]:
    scores = row["scores"]
    return [
        f"{100 * scores[label]['accuracy']:.2f} ± {100 * scores[label]['standard_error']:.2f}" if label in scores else "–"
        for label in COLUMNS
    ]


def spread(name: str, members: Sequence[str], runs: Mapping[str, Any]) -> list[str] | None:
    """A row where all members have been run."""
    from finetune.runs.metrics import mean_and_deviation

    if not all(member in runs for member in members):
        return None
    cells = []
    for label in COLUMNS:
        values = [runs[member]["scores"][label]["accuracy"] for member in members if label in runs[member]["scores"]]
        mean, deviation = mean_and_deviation(values) if len(values) == len(members) else (0.0, None)
        cells.append("–" if deviation is None else f"{100 * mean:.2f} ± {100 * deviation:.2f}")
    return [name, str(len(members)), *cells]


def current(name: str, members: Sequence[str], record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The ensemble, unless a member has been run anew since."""
    row = record["ensembles"].get(name)
    started = [record["runs"].get(member, {}).get("started") for member in members]
    return row if row is not None and row["started"] == started else None


def recalls(row: Mapping[str, Any]) -> list[str]:
    scores = row["scores"]["private"]
    shares = [f"{100 * share:.1f}" for share in (*(scores["recall"][name] for name in CLASSES), scores["mean_recall"])]
    return [*shares, f"{scores['calibration_error']:.3f}" if "calibration_error" in scores else "–"]


def curve(row: Mapping[str, Any]) -> str:
    picks = [f"{100 * point['select']:.1f}" if point["select"] is not None else "–" for point in row["curve"]]
    points = ", ".join(f"{at['epoch']}: {100 * at['train']:.1f} / {pick}" for at, pick in zip(row["curve"], picks, strict=True))
    return f"{points}; picked {row['selected']['epoch']}"


def costs(row: Mapping[str, Any]) -> list[str]:
    device = f"{row['processes']} × {row['device']}" if row["processes"] > 1 else row["device"]
    memory = "–" if row["memory_mb"] is None else f"{row['memory_mb'] / 1024:.1f} GiB"
    minutes, seconds = divmod(round(row["seconds"]), 60)
    return [device, f"{minutes} min {seconds:02} s", f"{row['images_per_s']:,.0f}", memory, row["torch"], row["commit"] or "unknown"]


def inserted(text: str, part: str, begin: str = BEGIN, end: str = END) -> str:
    """The text with what lies between the markers replaced; a text without them gets them at its end."""
    block = f"{begin}\n{part}\n{end}"
    if text.count(begin) != text.count(end) or text.count(begin) > 1 or text.find(end) < text.find(begin):
        raise ValueError(f"expected {begin} and {end}, once each and in this order")
    if begin in text:
        return text[: text.index(begin)] + block + text[text.index(end) + len(end) :]
    return f"{text.rstrip()}\n\n{block}\n" if text.strip() else f"# Results\n\n{block}\n"


def write_tables(path: Path, record: Mapping[str, Any]) -> None:
    """Raises ValueError, naming the file, where its markers are not a pair."""
    try:
        text = inserted(path.read_text(encoding="utf-8") if path.is_file() else "", section(record))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    with disk.replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
