"""Charts for the report: scores and learning curves as drawings, the same values the same bytes."""

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
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

_LINE_COLOURS = ("#0b6e75", "#d55e00", "#7b5ea7", "#b8860b", "#3b7dd8", "#c2528b", "#4d4d4d")
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


def draw_curves(charts: Sequence[Chart]) -> list[str]:
    """Draw each chart as an SVG ``data:`` address, one colour per label in all of them."""
    labels = list(dict.fromkeys(curve.label for chart in charts for curve in chart.curves))
    with _styled():
        drawn = []
        for chart in charts:
            figure = Figure(figsize=(5.6, 3.3), layout="constrained")
            _draw_chart(figure.subplots(), chart, labels)
            drawn.append(_svg_uri(figure))
        return drawn


def _draw_chart(axes: Axes, chart: Chart, labels: list[str]) -> None:
    named: set[str] = set()
    for curve in chart.curves:
        index = labels.index(curve.label)
        axes.plot(
            np.asarray(curve.x, float),
            np.asarray(curve.y, float),
            color=_LINE_COLOURS[index % len(_LINE_COLOURS)],
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


def draw_strips(strips: Sequence[Strip], x_label: str) -> str:
    """Draw one row of dots per group as an SVG ``data:`` address; a bar marks the summary."""
    with _styled():
        figure = Figure(figsize=(9.0, 0.9 + 0.42 * len(strips)), layout="constrained")
        axes = figure.subplots()
        for row, strip in enumerate(strips):
            values = np.sort(np.asarray(strip.values, float))
            values = values[np.isfinite(values)]
            # Dots of equal value would hide each other: a fixed zigzag spreads them.
            lift = 0.13 * ((np.arange(values.size) % 3) - 1)
            axes.scatter(values, row + lift, s=24, color=_LINE_COLOURS[0], alpha=0.5, linewidths=0)
            axes.plot([strip.summary] * 2, [row - 0.32, row + 0.32], color="#1d2529", linewidth=2)
        axes.set(xlabel=x_label, ylim=(len(strips) - 0.4, -0.6))
        axes.set_yticks(range(len(strips)), [strip.label for strip in strips])
        axes.grid(visible=False, axis="y")
        return _svg_uri(figure)


@contextmanager
def _styled() -> Iterator[None]:
    with mpl.rc_context(_STYLE):
        yield


def _svg_uri(figure: Figure) -> str:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


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
    return draw_strips(strips, _axis_title(key)), caption


def _axis_title(key: Key) -> str:
    metric, at = describe(key[0]), key[1]
    hint = f" ({metric.better} is better)" if metric.better else ""
    return f"{metric.title}{'' if at is None else f' @ {at:g}'}{hint}"


def threshold_charts(scores: pd.DataFrame) -> list[str]:
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
    return draw_curves(charts)


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
