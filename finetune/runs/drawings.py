"""The drawings of a run's report, as inline SVG in the page's text colour."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from finetune.runs.reading import Epoch, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOREGROUND = "#123456"  # stands for the page's text colour inside a drawing
GREY, BLUE, ORANGE = "#8b9099", "#2f7ed8", "#d9822b"  # readable on white and on black, told apart by the colour-blind


@contextmanager
def own_settings() -> Iterator[None]:
    """Drawings look alike whatever a user's matplotlibrc asks for (LaTeX, another size), and the same run gives the same page."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "caffezoo"
        yield


def curve(
    epochs: Sequence[Epoch], title: str, lines: Mapping[str, str], selected: float | None, *, scale: float = 1, height: float = 2.9
) -> Markup:
    """One plot over epochs: `lines` maps what a line is called to its field in metrics.jsonl; a field that no epoch has is left out."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = blank(4.6, height)
    x = [number(line["epoch"]) for line in epochs]
    marker = "o" if len(x) < 12 else ""
    ends = []
    for (name, key), colour, dash in zip(lines.items(), (GREY, BLUE, ORANGE), ("-", "-", (0, (4, 1.5))), strict=False):
        values = [scale * number(line.get(key)) for line in epochs]
        if known := [value for value in values if not math.isnan(value)]:
            axes.plot(x, values, color=colour, linestyle=dash, linewidth=1.6, marker=marker, markersize=3, label=name)
            ends.append(f"{name} from {known[0]:.4g} to {known[-1]:.4g}")
    if selected is not None:
        axes.axvline(selected, color=FOREGROUND, linewidth=0.9, linestyle=(0, (3, 3)))
        ends.append(f"selected epoch {selected:.0f}")
    axes.set_title(title, loc="left")
    axes.set_xlabel("epoch")
    axes.set_xlim(min(x) - 0.5, max(x) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if len(lines) > 1 and axes.lines:
        axes.legend(frameon=False, labelcolor=FOREGROUND, fontsize=8)
    return svg(figure, re.sub("[^a-z]", "", title.lower()), f"{title} over epochs {min(x):.0f} to {max(x):.0f}: {'; '.join(ends)}")


def calibration(bins: Sequence[tuple[int, float, float]], unit: str) -> Markup:
    """The bins of metrics.calibration_bins(): accuracy, and share of the images, by confidence."""
    width = 1 / len(bins)
    figure, axes = blank(4.6, 3.6)
    whole = sum(count for count, _, _ in bins)
    filled = [(position, *each) for position, each in enumerate(bins) if each[0]]
    left = [100 * position * width for position, *_ in filled]
    right, share = [100 * each[3] for each in filled], [100 * each[1] / whole for each in filled]
    for name, colour, heights in (("accuracy", BLUE, right), (f"share of {unit}", GREY, share)):
        axes.bar(left, heights, 100 * width, align="edge", color=colour, alpha=0.75, label=name)
    axes.plot([0, 100], [0, 100], color=FOREGROUND, linewidth=0.9, linestyle=(0, (3, 3)), label="perfectly calibrated")
    axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence, %", ylabel="%")
    axes.legend(frameon=False, labelcolor=FOREGROUND, fontsize=8, loc="upper left")
    said = "; ".join(f"confidence {100 * sure:.0f} %: {100 * hit:.0f} % right, {count} {unit}" for _, count, sure, hit in filled)
    return svg(figure, "calibration", f"Accuracy by confidence. {said}")


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


def svg(figure: Figure, name: str, alt: str) -> Markup:
    """`name` keeps the drawing's ids apart from those of the page's other drawings; `alt` says what it shows."""
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
    return Markup(drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1))
