"""Writes the report: facts and drawing into templates/report.html, with the one script and the two style sheets beside it.

The page loads nothing: a Content-Security-Policy allows its own script and styles by their hashes, and no address at all. Every word of
a prototxt is escaped by Jinja2; what stands in the page as JSON has its angle brackets escaped, so that no name ends the element.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter import __version__
from converter.build.graph import Graph
from converter.build.matching import Plan
from converter.errors import printable
from converter.files import whole_file
from converter.read.caffemodel import Weights
from converter.report import facts
from converter.report.drawing import drawn, shape_text
from converter.report.statistics import BINS, Statistics
from converter.verify import TOLERANCE, Comparison

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATES = Path(__file__).parent / "templates"
HISTOGRAM = (120, 26)  # width and height of one, in pixels


@dataclass
class Verified:
    """What was held against what: sentences, and the outputs that another implementation computed, too."""

    sentences: list[str] = field(default_factory=list)
    compared: Sequence[Comparison] = ()


def write_report(
    path: Path, graph: Graph, plan: Plan | None, prototxt: Path | None, weights: Weights | None, verified: Verified | None = None
) -> None:
    """Write the report of a prepared net: what convert-caffe --report does.

    Raises:
        ConversionError: the file cannot be written.
    """
    page = template().render(page_facts(graph, plan, prototxt, weights, verified or Verified()))
    with whole_file(path) as file:
        file.write(page.encode("utf-8", "backslashreplace"))


def template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"count": count, "short": short, "bytes": size_text, "number": number}
    return environment.get_template("report.html")


def page_facts(graph: Graph, plan: Plan | None, prototxt: Path | None, weights: Weights | None, verified: Verified) -> dict[str, Any]:
    """Everything that the template reads."""
    layers = facts.layers_of(graph)
    drawing = drawn(graph)
    files, all_layers = facts.sources(prototxt, weights)
    used = {str(spec) for spec in (*graph.layers, *graph.sources)}
    blobs = list(facts.blobs_of(graph, plan))
    parts = {name: (TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.js", "report.css", "drawing.css")}
    data = [asdict(layer) | {"place": drawing.place.get(i)} for i, layer in enumerate(layers)]
    return {
        "title": printable(graph.name) or (prototxt or (weights.path if weights else Path("net"))).stem,
        "version": __version__,
        "phase": graph.phase,
        "policy": policy(parts["report.js"], (parts["report.css"], parts["drawing.css"])),
        "parts": parts,
        "files": files,
        "inputs": [(printable(name), shape_text(shape)) for name, shape in graph.inputs.items()],
        "outputs": [(printable(name), shape_text(graph.shapes[graph.names[name]])) for name in graph.outputs],
        "layers": layers,
        "data": data,
        "drawing": drawing,
        "operators": facts.operators(layers),
        "totals": totals(graph, layers),
        "blobs": blobs,
        "histograms": [histogram(blob.statistics) for blob in blobs],
        "bins": BINS,
        "histogram_size": HISTOGRAM,
        "findings": [(blob, finding) for blob in blobs for finding in blob.statistics.findings],
        "verified": checks(graph, plan, weights, verified),
        "compared": verified.compared,
        "tolerance": TOLERANCE,
        "changes": [printable(change) for change in graph.changes],
        "notes": [printable(note) for note in graph.notes],
        "ignored": [printable(name) for name in graph.ignored],
        "left_out": [printable(layer) for layer in all_layers if layer not in used],
    }


def totals(graph: Graph, layers: Sequence[facts.Layer]) -> dict[str, int]:
    names = ("parameters", "multiply_adds", "activations")
    return {name: sum(getattr(layer, name) for layer in layers) for name in names} | {"layers": len(layers), "peak": facts.peak(graph)}


def checks(graph: Graph, plan: Plan | None, weights: Weights | None, verified: Verified) -> list[str]:
    """What was verified and how, in sentences."""
    found = ["The shape of every blob comes from running its layer's module, not from a formula."]
    if plan is not None and weights is not None:
        taken = len(plan.whole) + sum(len(blobs) for _, blobs in plan.made)
        found.append(f"Each of the net's {taken:,} blobs was found in {printable(weights.path.name)}, of the shape that the net gives it.")
    else:
        found.append("No weight file was given: this is the structure alone.")
    found += verified.sentences
    if not verified.compared:
        found.append("The outputs were not compared with Caffe or OpenCV; convert-caffe PROTOTXT CAFFEMODEL --verify --report does that.")
    return found


def policy(script: str, styles: Iterable[str]) -> str:
    """A Content-Security-Policy that allows this script and these styles, and nothing from anywhere."""

    def allowed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    sheets = " ".join(map(allowed, styles))
    return f"default-src 'none'; script-src {allowed(script)}; style-src {sheets}; base-uri 'none'; form-action 'none'"


def histogram(found: Statistics) -> str:
    """The outline of a histogram as an SVG path; its heights are square roots, so that tails are seen."""
    highest = max(found.histogram, default=0)
    if not highest:
        return ""
    width, height = HISTOGRAM
    steps = [f"M0 {height}"]
    for i, value in enumerate(found.histogram):
        y = height - round((value / highest) ** 0.5 * (height - 1), 1) if value else height
        steps.append(f"V{y:g}H{width * (i + 1) / BINS:g}")
    return "".join([*steps, f"V{height}Z"])


def count(value: int) -> str:
    """1,234, and – for none."""
    return f"{value:,}" if value else "–"


def short(value: float) -> str:
    """1.23 G."""
    for unit, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:,}"


def size_text(value: int) -> str:
    """12.3 MiB."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}" if value < 1000 * factor else f"{value / factor:,.0f} {unit}"
    return f"{value} bytes"


def number(value: float | None) -> str:
    """Four digits."""
    return "–" if value is None else f"{value:.4g}".replace("-", "−")
