"""Charts for the report: scores and learning curves as drawings, the same values the same bytes.

A drawing is the ``data:`` address that the page shows, and knows the bytes of the files that are
written beside the page.
"""

import base64
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .comparison import Key, select
from .glossary import CURVES, OBJECTS, describe
from .summaries import Model

LINE_COLOURS = ("#0b6e75", "#d55e00", "#7b5ea7", "#b8860b", "#3b7dd8", "#c2528b", "#4d4d4d")
_LINE_STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa3a8",
    "axes.labelcolor": "#3c464b",
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titlecolor": "#1d2529",
    "axes.grid": True,
    "grid.color": "#e8ecee",
    "grid.linewidth": 0.8,
    "xtick.color": "#6b757a",
    "ytick.color": "#6b757a",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "gigaseg",
    "text.parse_math": False,
}


PNG_DPI = 200


class Drawing(str):
    """A chart: the ``data:`` address of its SVG, with the bytes of its files.

    Attributes
    ----------
    name : str
        Of its files, without suffix: small letters, digits and dashes.
    svg, png : bytes
    """

    name: str
    svg: bytes
    png: bytes

    def __new__(cls, name: str, svg: bytes, png: bytes) -> "Drawing":
        """Make the address from the bytes of the SVG."""
        self = super().__new__(cls, _address(svg))
        self.name, self.svg, self.png = file_name(name), svg, png
        return self


def _address(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")


def file_name(text: str) -> str:
    """Make a file's name of any text.

    Examples
    --------
    >>> file_name("V-Rand of nuclei (test)")
    'v-rand-of-nuclei-test'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:100] or "chart"


def find_drawings(shown: Any) -> Iterator[Drawing]:
    """Yield the drawings in nested mappings and sequences, in their order."""
    if isinstance(shown, Drawing):
        yield shown
    elif isinstance(shown, Mapping):
        for item in shown.values():
            yield from find_drawings(item)
    elif isinstance(shown, list | tuple):
        for item in shown:
            yield from find_drawings(item)


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Parameters
    ----------
    label : str
        Name in the legend; curves of one label share a colour, and only the first is named.
    x, y : sequence of float
        NaN breaks the line.
    faint : bool
        Drawn thin and pale: background to the main curves.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    faint: bool = False


@dataclass(frozen=True)
class Chart:
    """One panel of a figure of curves."""

    title: str
    x_label: str
    curves: Sequence[Curve] = field(default_factory=tuple)


def draw_curves(charts: Sequence[Chart], name: str = "") -> list[Drawing]:
    """Draw each chart, one colour per label in all of them; `name` begins those of the files."""
    labels = list(dict.fromkeys(curve.label for chart in charts for curve in chart.curves))
    drawn = []
    for chart in charts:
        with drawing(f"{name} {chart.title}") as (figure, finished):
            _draw_chart(figure.subplots(), chart, labels)
        drawn += finished
    return drawn


def _draw_chart(axes: Axes, chart: Chart, labels: list[str]) -> None:
    named: set[str] = set()
    for curve in chart.curves:
        index = labels.index(curve.label)
        axes.plot(
            np.asarray(curve.x, float),
            np.asarray(curve.y, float),
            color=LINE_COLOURS[index % len(LINE_COLOURS)],
            linestyle="-" if curve.faint else _LINE_STYLES[index % len(_LINE_STYLES)],
            linewidth=0.9 if curve.faint else 1.9,
            alpha=0.35 if curve.faint else 1.0,
            marker="o" if not curve.faint and len(curve.x) <= 30 else None,
            markersize=3.5,
            # A label with a leading underscore never reaches matplotlib's legend; a space does.
            label=None if curve.faint or curve.label in named else f"\u200a{curve.label}",
        )
        if not curve.faint:
            named.add(curve.label)
    axes.set(title=chart.title, xlabel=chart.x_label)
    if named:
        axes.legend(loc="best")


@dataclass(frozen=True)
class Strip:
    """One row of a strip chart: the values of the samples of one group, and a summary value."""

    label: str
    values: Sequence[float]
    summary: float = float("nan")


def draw_strips(strips: Sequence[Strip], x_label: str, name: str = "strips") -> Drawing:
    """Draw one row of dots per group; a bar marks the summary."""
    with drawing(name, (9.0, 0.9 + 0.42 * len(strips))) as (figure, finished):
        axes = figure.subplots()
        for row, strip in enumerate(strips):
            values = np.sort(np.asarray(strip.values, float))
            values = values[np.isfinite(values)]
            # Dots of equal value would hide each other: a fixed zigzag spreads them.
            lift = 0.13 * ((np.arange(values.size) % 3) - 1)
            axes.scatter(values, row + lift, s=24, color=LINE_COLOURS[0], alpha=0.5, linewidths=0)
            axes.plot([strip.summary] * 2, [row - 0.32, row + 0.32], color="#1d2529", linewidth=2)
        axes.set(xlabel=x_label, ylim=(len(strips) - 0.4, -0.6))
        axes.set_yticks(range(len(strips)), [strip.label for strip in strips])
        axes.grid(visible=False, axis="y")
    return finished[0]


@contextmanager
def drawing(
    name: str, size: tuple[float, float] = (5.6, 3.3)
) -> Iterator[tuple[Figure, list[Drawing]]]:
    """Give a figure to draw on; at the end its drawing is in the list.

    Parameters
    ----------
    name : str
        Of the files, in any characters.
    size : (float, float)
        Width and height in inches of 72 px.
    """
    finished: list[Drawing] = []
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, finished
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None})
        finished.append(Drawing(name, svg.getvalue(), png.getvalue()))


def strip_chart(
    scores: pd.DataFrame, experiments: Sequence[str], key: Key | None
) -> tuple[str, str]:
    """Draw one metric of each sample, one row per experiment, and say what is drawn.

    Both texts are empty if no experiment has three samples.
    """
    if key is None:
        return "", ""
    rows = select(scores, key)
    strips = []
    for name in experiments:
        mine = rows[rows["experiment"] == name]
        values = mine.loc[mine["aggregation"] == "sample", "value"].astype(float)
        pooled = mine.loc[mine["aggregation"] == "pooled", "value"].astype(float)
        strips.append(Strip(name, values.tolist(), float(pooled.mean())))
    if max(len(strip.values) for strip in strips) < 3:
        return "", ""
    metric = describe(key[0])
    caption = f"{metric.title} of each sample: one dot is one sample, the bar is the pooled score."
    name = f"{metric.title} per sample {rows['dataset'].iloc[0]} {rows['split'].iloc[0]}"
    return draw_strips(strips, _axis_title(key), name), caption


def _axis_title(key: Key) -> str:
    metric, at = describe(key[0]), key[1]
    hint = f" ({metric.better} is better)" if metric.better else ""
    return f"{metric.title}{'' if at is None else f' @ {at:g}'}{hint}"


def threshold_charts(scores: pd.DataFrame) -> list[Drawing]:
    """Draw the pooled scores of metrics that have three thresholds or more."""
    pooled = scores[(scores["aggregation"] == "pooled") & scores["at"].notna()]
    charts = []
    for metric in CURVES:
        mine = pooled[pooled["metric"] == metric]
        if mine["at"].nunique() < 3:
            continue
        curves = []
        for name, part in mine.groupby("experiment", sort=True):
            means = part.groupby("at")["value"].mean()
            curves.append(Curve(str(name), means.index.tolist(), means.tolist()))
        axis = "IoU threshold" if describe(metric).group == OBJECTS else "probability threshold"
        charts.append(Chart(describe(metric).title, axis, curves))
    place = " ".join(pooled[["dataset", "split"]].iloc[0]) if len(pooled) else ""
    return draw_curves(charts, f"thresholds {place}")


def cost_charts(models: Iterable[Model]) -> list[Chart]:
    """Arrange what networks score over what they cost, by the data sets they are validated on.

    There is one point for each depth at which a network can predict; one alone is no chart.
    """
    groups: dict[str, list[Curve]] = {}
    for model in models:
        if "dice" in model.depths:
            names = {name.partition("/")[0] for name in model.manifest.get("validation", ())}
            curve = Curve(model.experiment, model.depths["multiply_adds"], model.depths["dice"])
            groups.setdefault(", ".join(sorted(names)), []).append(curve)
    return [
        Chart(f"Validation Dice by cost, {datasets}", "multiply-adds per pixel", curves)
        for datasets, curves in groups.items()
        if len({cost for curve in curves for cost in curve.x}) > 1
    ]


def learning_charts(models: Iterable[Model]) -> list[Chart]:
    """Arrange the histories of all models as charts: the loss, and each validation metric."""
    losses: list[Curve] = []
    others: dict[str, list[Curve]] = {}
    for model in models:
        steps = model.history.get("step", [])
        for name, values in sorted(model.history.items()):
            if name == "train_loss":
                losses.append(Curve(model.experiment, steps, values, faint=True))
            elif name == "validation_loss":
                losses.append(Curve(model.experiment, steps, values))
            elif name.startswith("validation_"):
                curve = Curve(model.experiment, steps, values)
                others.setdefault(name.removeprefix("validation_"), []).append(curve)
    charts = [Chart("Loss", "step", losses)] if losses else []
    for name, curves in sorted(others.items()):
        charts.append(Chart(f"Validation {describe(name).title}", "step", curves))
    return charts[:3]
