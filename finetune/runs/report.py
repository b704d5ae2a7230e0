"""report.html of a run: one page that holds everything it shows, and needs neither network nor scripts.

    write_report(Path("runs/a"), faces.part("private").images)

Every word from a run folder is escaped; class names come from strangers' folders.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finetune import renamed
from finetune.errors import FinetuneError
from finetune.labels import SPLIT_ORDER
from finetune.runs.metrics import Predictions, SplitPredictions, calibration_bins, read_json, read_predictions, reported_split
from zoo.disk import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["write_report"]

MISTAKES = 24
FOREGROUND = "#123456"  # stands for the page's text colour inside a drawing
GREY, BLUE, ORANGE = "#8b9099", "#2f7ed8", "#d9822b"  # readable on white and on black, told apart by the colour-blind


@dataclass(frozen=True)
class Run:
    """What a run folder holds. result and predictions are None until the run is done."""

    path: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    epochs: list[dict[str, Any]]
    result: dict[str, Any] | None
    predictions: Predictions | None


def write_report(run: Path, pictures: Tensor | None = None) -> Path:
    """Writes RUN/report.html, whole or not at all, and returns its path. Of a run that is not finished it shows what there is.

    pictures: the images of the reported split (see metrics.reported_split), in the order of its predictions: (n, H, W) or (n, 3, H, W)
    uint8, 0..255, RGB. Without them the page shows no mistakes.
    Raises FinetuneError where `run` is no run folder, a file in it is damaged, or the pictures are not those of the predictions.
    """
    import matplotlib

    held = read_run(Path(run))
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc may ask for LaTeX, or another size
        matplotlib.rcParams["svg.hashsalt"] = "caffezoo"  # the same run, the same page
        page = html_page(held, pictures)
    path = Path(run) / "report.html"
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")  # a folder's name may hold bytes that are no UTF-8
    return path


# --- reading --------------------------------------------------------------------------------------------------------------------------


def read_run(path: Path) -> Run:
    config = read_json(path / "config.json")
    for name, kind in CONFIG_FIELDS.items():
        field(config, path / "config.json", name, kind)
    environment = read_json(path / "environment.json")
    epochs = read_lines(path / "metrics.jsonl")
    if not (path / "result.json").exists():
        return Run(path, config, environment, epochs, None, None)
    result, predictions = read_json(path / "result.json"), read_predictions(path)
    if predictions.classes != tuple(config["classes"]):
        raise FinetuneError(f"{path}: config.json and predictions.safetensors name different classes; they are of two runs")
    for name, kind in RESULT_FIELDS.items():
        field(result, path / "result.json", name, kind)
    for label in result["scores"]:
        field(result["scores"], path / "result.json", label, dict)
    if (on := result["selected"].get("on")) not in (*SPLIT_ORDER, None):
        raise FinetuneError(f"{path / 'result.json'}, selected.on: {on!r}; expected {', '.join(SPLIT_ORDER)} or null")
    row = field(result["scores"], path / "result.json", reported_split(predictions.splits), dict)
    for name, kind in SCORE_FIELDS.items():
        field(row, path / "result.json", name, kind)
    count = len(predictions.classes)
    square = [len(counts) for counts in row["confusion"] if isinstance(counts, list)] == [count] * count
    if not square or not all(isinstance(each, int) for counts in row["confusion"] for each in counts):
        raise FinetuneError(f"{path / 'result.json'}, confusion: expected {count} rows of {count} counts, one a class")
    return Run(path, config, environment, epochs, result, predictions)


CONFIG_FIELDS: dict[str, type] = {
    "recipe": str, "protocol": str, "command": str, "config": dict, "classes": list,
    "data": dict, "data.name": str, "data.sha256": str, "data.counts": dict, "data.notes": list,
}  # fmt: skip
RESULT_FIELDS: dict[str, type] = {"selected": dict, "selected.epoch": int, "selected.weights": str, "scores": dict}
SCORE_FIELDS: dict[str, type] = {"accuracy": float, "recall": dict, "f1_per_class": dict, "confusion": list}


def field(held: dict[str, Any], path: Path, name: str, kind: type) -> Any:
    """held["a"]["b"] where `name` is "a.b". Raises FinetuneError where it is missing or of another kind."""
    found: Any = held
    for key in [name] if name in held else name.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, kind):
        what = "is missing" if found is None else f"is a {type(found).__name__}"
        raise FinetuneError(f"{path}: {name} {what}; expected a {kind.__name__}. Run the recipe again")
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A line per epoch, in order. A resumed run may have written an epoch twice: the later line counts."""
    lines = path.read_text("utf-8", errors="replace").split("\n") if path.exists() else []
    epochs = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            epoch = int(values["epoch"])
            epochs[epoch] = {**values, "epoch": epoch}
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            if number == len(lines):  # no newline after it: still being written
                break
            raise FinetuneError(f"{path}, line {number}: {line[:40]!r} is no epoch's JSON ({error}); remove the line") from error
    return [epochs[epoch] for epoch in sorted(epochs)]


def number(value: Any) -> float:
    """The value, or NaN where it is no finite number: a diverged run's loss, or a field that is not there."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30
    return float(value) if known else math.nan


# --- the page -------------------------------------------------------------------------------------------------------------------------


def html_page(run: Run, pictures: Tensor | None) -> str:
    config = run.config
    title = f"{config['recipe']} on {config['data']['name']}"
    body = [f"<header><h1>{escape(title)}</h1>"]
    if run.result is None or run.predictions is None:
        body += [unfinished(run), "</header>", curves(run)]
    else:
        split = reported_split(run.predictions.splits)
        body += [headline(run, run.result, split), "</header>", all_scores(run.result), curves(run)]
        row, classes = run.result["scores"][split], run.predictions.classes
        body += [per_class(row, classes, split), confusion(row, classes, split), calibration(run.predictions.splits[split], split)]
        body += [mistakes(run, run.predictions, split, pictures)]
    body += [settings(run)]
    return "\n".join([
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        # No script runs and nothing is fetched, whatever a class name holds.
        """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">""",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
        *body,
        "</main>\n</body>\n</html>\n",
    ])  # fmt: skip


def unfinished(run: Run) -> str:
    count = len(run.epochs)
    done = f"{count} {'epoch is' if count == 1 else 'epochs are'} done" if count else "no epoch is done yet"
    return f'<p class="notice" role="note"><strong>This run has not finished:</strong> {done}. There are no scores yet.</p>'


def headline(run: Run, result: dict[str, Any], split: str) -> str:
    selected, protocol = result["selected"], renamed.protocol(run.config["protocol"])
    parts = ['<dl class="tiles">']
    for label, row in result["scores"].items():
        if label == split or label.startswith((f"{split},", f"{split} ")):
            parts.append(f"<div><dt>{escape(label)}</dt><dd>{percent(row.get('accuracy'))} % {spread(row)}</dd></div>")
    parts.append("</dl>")
    weights = "the averaged (EMA) weights" if selected["weights"] == "ema" else "the trained weights"
    on = selected.get("on")
    where = "the last one" if on is None else f"selected on {escape(on)} ({percent(selected.get('accuracy'))} % there)"
    parts.append(f"<p>Accuracy of epoch {escape(selected['epoch'])}, {weights}, {where}.</p>")
    if on is not None and (protocol == "best-on-reported" or on == split):
        parts.append(
            '<p class="notice" role="note"><strong>This number is optimistic.</strong> '
            f"The epoch was chosen on {escape(on)}, the split that is reported: it is the best of {len(run.epochs)}"
            " epochs on these images, and new images will score lower. Compare it only with numbers that were chosen in the same way.</p>"
        )
    return "\n".join(parts)


def all_scores(result: dict[str, Any]) -> str:
    head = ["split", "images", "accuracy, %", "mean recall, %", "F1 (macro), %", "calibration error, %", "neg. log-likelihood"]
    rows = []
    for label, row in result["scores"].items():
        shares = [percent(row.get(name)) for name in ("mean_recall", "f1", "calibration_error")]
        loss = plain(row.get("negative_log_likelihood"), ".3f")
        rows.append([label, plain(row.get("images"), ",.0f"), f"{percent(row.get('accuracy'))} {spread(row)}", *shares, loss])
    note = (
        "± is one standard error of an accuracy on that many images: what another draw of images would change, not what another seed"
        " would. Mean recall weighs every class alike."
    )
    if any("without copies" in label for label in result["scores"]):
        note += " Copies are images that are, byte for byte, also in another part of the data."
    return section("Scores", table(head, rows, "scores") + f'<p class="note">{note}</p>')


def per_class(row: dict[str, Any], classes: Sequence[str], split: str) -> str:
    lines = ['<div class="wide"><table class="bars"><thead><tr>']
    lines += [f'<th scope="col">{name}</th>' for name in ("class", "images", "recall, %", "F1, %")]
    lines.append("</tr></thead><tbody>")
    for name, counts in zip(classes, row["confusion"], strict=True):
        cells = "".join(
            f'<td class="bar" style="--share:{0 if math.isnan(number(value)) else number(value):.3f}">{percent(value)}</td>'
            for value in (row["recall"].get(name), row["f1_per_class"].get(name))
        )
        lines.append(f'<tr><th scope="row">{escape(name)}</th><td>{sum(counts):,}</td>{cells}</tr>')
    lines.append("</tbody></table></div>")
    return section(f"Classes, {split}", "".join(lines))


def confusion(row: dict[str, Any], classes: Sequence[str], split: str) -> str:
    """A table, so that class names in any script are drawn by the browser, and read aloud by a screen reader."""
    lines = ['<div class="wide"><table class="matrix"><thead><tr><th scope="col"><small>truth ↓ prediction →</small></th>']
    lines += [f'<th scope="col">{escape(name)}</th>' for name in classes]
    lines.append("</tr></thead><tbody>")
    for name, counts in zip(classes, row["confusion"], strict=True):
        cells = []
        for count in counts:
            share = count / sum(counts) if sum(counts) else 0.0
            cells.append(f'<td style="--share:{share:.3f}">{count:,}<small>{100 * share:.0f} %</small></td>')
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    lines.append("</tbody></table></div>")
    note = "Images of each class by what was predicted; the percentage and the colour are shares of the row."
    return section(f"Confusion, {split}", "".join(lines) + f'<p class="note">{note}</p>')


def mistakes(run: Run, predictions: Predictions, split: str, pictures: Tensor | None) -> str:
    if pictures is None:
        return ""
    held, classes = predictions.splits[split], predictions.classes
    shape = tuple(pictures.shape)
    if pictures.dtype != torch.uint8 or not (len(shape) == 3 or (len(shape) == 4 and shape[1] == 3)) or shape[0] != len(held.labels):
        found = f"pictures are {pictures.dtype} of shape {shape}"
        expected = f"uint8 ({len(held.labels)}, H, W) or ({len(held.labels)}, 3, H, W), one for each image of {split}"
        raise FinetuneError(f"{run.path}: {found}; expected {expected}")
    confidence, predicted = held.logits.double().softmax(1).max(1)
    wrong = (predicted != held.labels).nonzero().flatten()
    wrong = wrong[confidence[wrong].argsort(descending=True, stable=True)][:MISTAKES]
    cells = []
    for place in wrong.tolist():
        truth, said, sure = classes[int(held.labels[place])], classes[int(predicted[place])], percent(confidence[place].item(), 0)
        alt = escape(f"{truth} predicted as {said} with {sure} % confidence")
        cells.append(
            f'<figure><img src="data:image/png;base64,{png(pictures[place])}" alt="{alt}">'
            f"<figcaption>{escape(truth)} → <strong>{escape(said)}</strong><br>{sure} %, row&nbsp;{int(held.rows[place]):,}</figcaption>"
            "</figure>"
        )
    total = int((predicted != held.labels).sum())
    note = (
        f"The {len(wrong)} most confident of {total:,} mistakes: truth → <strong>prediction</strong>, confidence, row in the data from 0."
    )
    shown = f'<div class="faces">{"".join(cells)}</div><p class="note">{note}</p>' if cells else "<p>There are none.</p>"
    return section(f"Mistakes, {split}", shown)


def png(picture: Tensor) -> str:
    from PIL import Image

    stream = io.BytesIO()
    array = picture.cpu().contiguous().numpy() if picture.ndim == 2 else picture.cpu().permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(array).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def settings(run: Run) -> str:
    config, data = run.config, run.config["data"]
    facts = {name: value for name, value in config.items() if name not in ("command", "data", "classes", "config")}
    source: dict[str, Any] = {"name": data["name"], "sha256": data["sha256"]}
    source |= {f"images in {split}": plain(count, ",.0f") for split, count in data["counts"].items()}
    source |= {f"note {position}": note for position, note in enumerate(data["notes"], 1)}
    parts = [
        section("Reproduce", f"<pre>{escape(config['command'])}</pre>"),
        section("Data", pairs(source)),
        section("Settings", pairs({**facts, **flat(config["config"])})),
        section("Environment", pairs(flat(run.environment))),
    ]
    return "\n".join(parts)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return found


# --- drawings -------------------------------------------------------------------------------------------------------------------------


def curves(run: Run) -> str:
    if not run.epochs:
        return ""
    selected = None if run.result is None else number(run.result["selected"]["epoch"])
    on = "selection split" if run.result is None else run.result["selected"].get("on") or "none"
    loss = {"train": "loss", on: "select_loss", f"{on}, EMA": "ema_select_loss"}
    accuracy = {"train (augmented images)": "accuracy", on: "select_accuracy", f"{on}, EMA": "ema_select_accuracy"}
    plots = [curve(run.epochs, "Loss", loss, selected), curve(run.epochs, "Accuracy, %", accuracy, selected, scale=100)]
    plots.append(curve(run.epochs, "Learning rate", {"learning rate": "lr"}, selected, height=1.7))
    mark = "" if selected is None else f"The dashed line is the selected epoch, {selected:.0f}."
    facts = {
        "epochs": f"{len(run.epochs):,}",
        "training": duration(sum(filter(math.isfinite, (number(line.get("seconds")) for line in run.epochs)))),
        **({} if run.result is None else {"all, with evaluation": duration(number(run.result.get("seconds")))}),
        "images/s (last epoch)": plain(run.epochs[-1].get("images_per_s"), ",.0f"),
        "memory, MB": plain(run.epochs[-1].get("memory_mb"), ",.0f"),
    }
    fields = list(dict.fromkeys(name for line in run.epochs for name in line))
    rows = [[plain(line.get(name), ".5g") for name in fields] for line in run.epochs]
    every = f"<details><summary>Every epoch as a table</summary>{table(fields, rows)}</details>"
    shown = f'{"".join(plots)}<div>{pairs(facts)}<p class="note">{mark}</p></div>'
    return section("Training", f'<div class="plots">{shown}</div>{every}')


def curve(
    epochs: list[dict[str, Any]], title: str, lines: Mapping[str, str], selected: float | None, *, scale: float = 1, height: float = 2.9
) -> str:
    """One plot over epochs: `lines` maps what a line is called to its field in metrics.jsonl; a field that no epoch has is left out."""
    figure, axes = blank(4.6, height)
    x = [line["epoch"] for line in epochs]
    marker = "o" if len(x) < 12 else ""
    told = []
    for (name, key), colour, dash in zip(lines.items(), (GREY, BLUE, ORANGE), ("-", "-", (0, (4, 1.5))), strict=False):
        values = [scale * number(line.get(key)) for line in epochs]
        if known := [value for value in values if not math.isnan(value)]:
            axes.plot(x, values, color=colour, linestyle=dash, linewidth=1.6, marker=marker, markersize=3, label=name)
            told.append(f"{name} from {known[0]:.4g} to {known[-1]:.4g}")
    if selected is not None:
        axes.axvline(selected, color=FOREGROUND, linewidth=0.9, linestyle=(0, (3, 3)))
        told.append(f"selected epoch {selected:.0f}")
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left")
    axes.set_xlabel("epoch")
    axes.set_xlim(min(x) - 0.5, max(x) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if len(lines) > 1 and axes.lines:
        axes.legend(frameon=False, labelcolor=FOREGROUND, fontsize=8)
    return svg(figure, re.sub("[^a-z]", "", title.lower()), f"{title} over epochs {min(x)} to {max(x)}: {'; '.join(told)}")


def calibration(held: SplitPredictions, split: str) -> str:
    bins = calibration_bins(held.logits, held.labels)
    width = 1 / len(bins)
    figure, axes = blank(4.6, 3.6)
    images = sum(count for count, _, _ in bins)
    filled = [(position, *each) for position, each in enumerate(bins) if each[0]]
    left = [100 * position * width for position, *_ in filled]
    right, share = [100 * each[3] for each in filled], [100 * each[1] / images for each in filled]
    for name, colour, heights in (("accuracy", BLUE, right), ("share of images", GREY, share)):
        axes.bar(left, heights, 100 * width, align="edge", color=colour, alpha=0.75, label=name)
    axes.plot([0, 100], [0, 100], color=FOREGROUND, linewidth=0.9, linestyle=(0, (3, 3)), label="perfectly calibrated")
    axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence, %", ylabel="%")
    axes.legend(frameon=False, labelcolor=FOREGROUND, fontsize=8, loc="upper left")
    told = "; ".join(f"confidence {100 * sure:.0f} %: {100 * hit:.0f} % right, {count} images" for _, count, sure, hit in filled)
    note = (
        "Where bars end below the dashed line, the net is surer than it is right."
        " The calibration error is the mean distance between the two, weighted by images."
    )
    return section(
        f"Calibration, {split}",
        f'<div class="plots">{svg(figure, "calibration", f"Accuracy by confidence. {told}")}<p class="note">{note}</p></div>',
    )


def blank(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure in inches that belongs to no window and no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=FOREGROUND, alpha=0.15, linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as inline SVG in the page's text colour. `name` keeps its ids apart from those of the page's other drawings."""
    from matplotlib.text import Text

    for axes in figure.axes:
        axes.tick_params(color=FOREGROUND, labelcolor=FOREGROUND)
        for spine in axes.spines.values():
            spine.set_edgecolor(FOREGROUND)
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
        text.set_color(FOREGROUND)
    stream = io.StringIO()
    nothing: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    drawn = stream.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(FOREGROUND, "currentColor")
    drawn = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", drawn)
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)


# --- words ----------------------------------------------------------------------------------------------------------------------------


def escape(value: object) -> str:
    return html.escape(str(value), quote=True)


def percent(share: Any, digits: int = 2) -> str:
    return plain(100 * number(share), f".{digits}f")


def spread(row: Mapping[str, Any]) -> str:
    return f"± {percent(row.get('standard_error'))}"


def plain(value: Any, style: str) -> str:
    return "–" if math.isnan(number(value)) else format(number(value), style)


def duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "plain") -> str:
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table class="{kind}"><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>'


def pairs(facts: Mapping[str, Any]) -> str:
    def said(value: Any) -> str:
        if isinstance(value, list) and not any(isinstance(each, list | dict) for each in value):
            return ", ".join(map(str, value)) or "none"
        return {None: "none", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else str(value)

    rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(said(value))}</td></tr>' for name, value in facts.items())
    return f'<div class="wide"><table class="pairs"><tbody>{rows}</tbody></table></div>'


STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #5d6570; --line: #d9dde2; --heat: #2f6fb3;
  --notice: #fff4d6; --notice-line: #d9a21b; --bar: #cfe1f5; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e4e7eb; --soft: #9aa3ae; --line: #333a42;
  --heat: #4b86c6; --notice: #33290e; --notice-line: #c9971f; --bar: #24466b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1.25rem 3rem; }
h1 { font-size: 1.5rem; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.25rem 0 .6rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line); }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem 2.25rem; margin: 0 0 .6rem; }
.tiles dt { color: var(--soft); } .tiles dd { margin: 0; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.tiles div:first-child dd { font-size: 2.1rem; line-height: 1.2; font-weight: 600; }
.tiles div { display: flex; flex-direction: column; justify-content: flex-end; }
.notice { background: var(--notice); border-left: 4px solid var(--notice-line); padding: .6rem .9rem; }
.note { color: var(--soft); font-size: .87rem; max-width: 46rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
thead th { color: var(--soft); font-weight: 500; font-size: .87rem; vertical-align: bottom; }
th:first-child { text-align: left; padding-left: 0; } tbody th { font-weight: 500; overflow-wrap: anywhere; }
.pairs th { color: var(--soft); font-weight: 400; vertical-align: top; }
.pairs td { text-align: left; overflow-wrap: anywhere; white-space: pre-wrap; }
.matrix tbody th, .scores tbody th { white-space: nowrap; }
.bar { min-width: 11rem; background: linear-gradient(to right, var(--bar) calc(var(--share) * 70%), transparent 0);
  border-left: .7rem solid var(--paper); }
.matrix { min-width: 44rem; } .matrix thead th { text-align: center; overflow-wrap: anywhere; }
.matrix th { max-width: 9rem; } .matrix thead th:first-child { text-align: left; }
.matrix td { text-align: center; line-height: 1.25; border: 2px solid var(--paper);
  background: color-mix(in srgb, var(--heat) calc(var(--share) * 65%), var(--paper)); }
.matrix td small { display: block; font-size: .75rem; opacity: .85; }
.bar, .matrix td, .notice { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem 1.5rem; align-items: start; }
.plots svg { width: 100%; height: auto; max-width: 34rem; }
.faces { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.2rem, 1fr)); gap: 1rem .75rem; }
.faces figure { margin: 0; break-inside: avoid; } .faces img { width: 100%; image-rendering: pixelated; display: block; }
figcaption { font-size: .8rem; line-height: 1.35; margin-top: .25rem; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line); padding: .7rem .9rem; margin: 0; font-size: .87rem; }
details { margin-top: .75rem; } summary { cursor: pointer; color: var(--soft); }
@media print { body { font-size: 10pt; } main { max-width: none; padding: 0; } h2 { break-after: avoid; }
  tr, svg, .tiles, .notice { break-inside: avoid; } details { display: none; } .plots { grid-template-columns: 1fr 1fr; }
  .faces { grid-template-columns: repeat(8, 1fr); } .matrix { min-width: 0; } }
"""
