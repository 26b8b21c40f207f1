"""Figures of a run, each as the text of an inline SVG in the colours of the page.

Notable:
- matplotlib draws in placeholder colours, which then become CSS variables: one figure serves light and dark pages
- text stays text, so that it can be read aloud and searched
- the same numbers give the same SVG: no dates, no random ids
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import cycle

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

# Placeholder colour -> CSS variable.
INK, LINE, FILL = "#010101", "#020202", "#030303"
SERIES = ("#040404", "#050505", "#060606", "#070707", "#080808", "#090909")
VARIABLES = {INK: "--ink", LINE: "--line", FILL: "--fill"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES, start=1)
}
MARKERS = ("o", "s", "^", "D", "v", "P")
SIZE = (5.2, 3.6)  # inches of 72 units
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.parse_math": False,  # a class may be called `$`
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
}
Rows = Sequence[Mapping[str, float]]


def learning_curves(curves: Mapping[str, Rows], column: str, label: str) -> str:
    """Draw a line for each model over the epochs.

    Args:
        curves: For each model, rows with `epoch` and the column.
        column: The column to draw.
        label: Label of the vertical axis.
    """

    def draw(axes: Axes) -> None:
        _lines(axes, curves, "epoch", column)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.grid(axis="y")
        axes.legend(fontsize=9)

    return _svg(f"{label} by epoch", draw)


def coverage_curves(curves: Mapping[str, Rows]) -> str:
    """Draw accuracy over coverage for each model; rows have both, from 0 to 1."""

    def draw(axes: Axes) -> None:
        _lines(axes, curves, "coverage", "accuracy")
        axes.set_xlabel("coverage: share of the questions that are answered")
        axes.set_ylabel("accuracy on these")
        axes.grid(axis="y")
        axes.legend(fontsize=9)

    return _svg("accuracy by coverage", draw)


def _lines(axes: Axes, curves: Mapping[str, Rows], x: str, y: str) -> None:
    for (name, rows), colour, marker in zip(curves.items(), cycle(SERIES), cycle(MARKERS)):
        axes.plot(
            [row[x] for row in rows], [row[y] for row in rows], color=colour, marker=marker, markersize=3, label=name
        )


def confusion_matrix(counts: Sequence[Sequence[int]], classes: Sequence[str], name: str) -> str:
    """Draw how often each class (rows) was predicted as each class (columns), shaded by the share of its row."""

    def draw(axes: Axes) -> None:
        for row, line in enumerate(counts):
            for column, count in enumerate(line):
                share = count / max(1, sum(line))
                axes.add_patch(Rectangle((column, row), 1, 1, facecolor=FILL, alpha=0.75 * share, linewidth=0))
                if count:
                    axes.text(column + 0.5, row + 0.5, str(count), ha="center", va="center")
        places = [place + 0.5 for place in range(len(classes))]
        axes.set_xticks(places, classes)
        axes.set_yticks(places, classes)
        axes.set_xlim(0, len(classes))
        axes.set_ylim(len(classes), 0)
        axes.tick_params(length=0)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true class")

    return _svg(f"confusion matrix of {name}", draw)


def reliability_diagram(bins: Mapping[str, Rows]) -> str:
    """Draw accuracy over mean confidence for each model; rows have confidence, accuracy and questions."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], linestyle="--", color=LINE)
        for (name, rows), colour, marker in zip(bins.items(), cycle(SERIES), cycle(MARKERS)):
            x, y = ([row[column] for row in rows] for column in ("confidence", "accuracy"))
            axes.plot(x, y, color=colour, linewidth=1, label=name)
            axes.scatter(x, y, s=[8 + 1.5 * row["questions"] for row in rows], color=colour, marker=marker, alpha=0.7)
        axes.set_xlim(0, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("mean confidence of a bin (larger: more questions)")
        axes.set_ylabel("accuracy of the bin")
        axes.legend(fontsize=9, loc="upper left")

    return _svg("reliability diagram", draw)


def class_bars(scores: Mapping[str, Mapping[str, float]], label: str) -> str:
    """Draw a bar for each class and model; `scores` holds numbers from 0 to 1 by model and class."""

    def draw(axes: Axes) -> None:
        width = 0.8 / len(scores)
        for number, ((name, by_class), colour) in enumerate(zip(scores.items(), cycle(SERIES))):
            places = [place + (number - (len(scores) - 1) / 2) * width for place in range(len(by_class))]
            axes.bar(places, by_class.values(), 0.9 * width, color=colour, label=name)
            axes.set_xticks(range(len(by_class)), by_class)
        axes.set_ylim(0, 1)
        axes.set_ylabel(label)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.legend(fontsize=9, ncols=len(scores), loc="upper center", bbox_to_anchor=(0.5, 1.14))

    return _svg(f"{label} by class", draw)


def _svg(title: str, draw: Callable[[Axes], None]) -> str:
    """Draw on new axes; return an <svg> element whose width its container decides."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=SIZE, layout="constrained")
        draw(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True)
    opening = re.search(r"<svg [^>]*>", file.getvalue())
    body = file.getvalue()[opening.end() :]
    for pattern in (
        r"<metadata>.*?</metadata>\s*",
        r"<!--.*?-->\s*",
        r"(?<=<g) id=\"[^\"]*\"",
        r"font-family: [^;\"]*;? ?",
    ):
        body = re.sub(pattern, "", body, flags=re.DOTALL)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    view = re.search(r'viewBox="[^"]*"', opening[0])[0]
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg role="img" aria-label="{escape(title)}" {spaces} {view}>{body}'
