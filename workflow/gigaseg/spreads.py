"""How objects and probabilities are spread: truth beside prediction, drawn for the report."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from .calibration import CalibrationCounts
from .charts import LINE_COLOURS, Drawing, drawing
from .comparison import held_out
from .scoretable import pooled_counts
from .summaries import Record, Results

BINS = 36
_TRUTH = "#8a959b"
_SIDES = {"truth": "truth", "predicted": "prediction"}
_UNITS = {"plane": ("area", "µm²"), "volume": ("volume", "µm³")}


@dataclass(frozen=True)
class Spread:
    """Values of one measure, each with the number of objects that have it.

    Attributes
    ----------
    values : ndarray of float64, shape (n,)
        Sorted.
    objects : ndarray of int64, shape (n,)
    """

    values: NDArray[np.float64]
    objects: NDArray[np.int64]

    @property
    def median(self) -> float:
        """The value of the middle object, the lower of two; NaN without objects.

        Examples
        --------
        >>> Spread(np.array([2.0, 5.0, 9.0]), np.array([1, 3, 1])).median
        5.0
        """
        if not self.objects.sum():
            return float("nan")
        half = (self.objects.sum() + 1) // 2
        return float(self.values[np.searchsorted(self.objects.cumsum(), half)])


def size_charts(results: Results, objects: Mapping[str, str]) -> list[dict[str, Any]]:
    """Draw sizes and shapes of true and predicted objects, per experiment and data set.

    Parameters
    ----------
    results : Results
    objects : mapping
        Of each data set, "plane" or "volume".

    Returns
    -------
    list of dict
        ``experiment``, ``dataset``, ``drawing``, ``caption``. Samples of the split whose scores
        count; of several folds together. Nothing where the tables are not there.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in results.at("evaluate"):
        groups.setdefault((record.experiment, record.dataset), []).append(record)
    scales = _scales(results)
    charts = []
    for (experiment, dataset), records in sorted(groups.items()):
        split = held_out(pd.DataFrame({"split": [record.split for record in records]}))
        mine = [record for record in records if record.split == split]
        table = _read_tables(results, mine)
        if table is None:
            continue
        kind = objects.get(dataset, "plane")
        spreads, unit = _gather(table, mine, kind, scales)
        chart = _draw_spreads(spreads, f"{_UNITS[kind][0]} ({unit})", f"{experiment} {dataset}")
        caption = _caption(spreads, _UNITS[kind][0], unit, _samples(len(mine), split))
        charts.append(
            {"experiment": experiment, "dataset": dataset, "drawing": chart, "caption": caption}
        )
    return charts


def _scales(results: Results) -> dict[tuple[str, str], Sequence[float]]:
    """Return the spacing of the samples whose files say it: 1 µm along all axes is unknown."""
    converted = ((r.dataset, r.sample, r.facts.get("spacing")) for r in results.at("convert"))
    return {
        (dataset, sample): spacing
        for dataset, sample, spacing in converted
        if spacing and any(n != 1 for n in spacing)
    }


def _read_tables(results: Results, records: Sequence[Record]) -> pd.DataFrame | None:
    tables = []
    for name, fold, lot in dict.fromkeys((r.experiment, r.fold, r.lot) for r in records):
        path = results.root / "evaluate" / name / f"fold-{fold}" / f"{lot}.sizes.parquet"
        if not path.is_file():
            return None
        tables.append(pd.read_parquet(path))
    names = {record.sample for record in records}
    table = pd.concat(tables, ignore_index=True)
    table = table[table["sample"].isin(names)]
    return table if len(table) else None


def _gather(
    table: pd.DataFrame,
    records: Sequence[Record],
    kind: str,
    scales: Mapping[tuple[str, str], Sequence[float]],
) -> tuple[dict[tuple[str, str], Spread], str]:
    """Sum tables over samples; sizes in µm if every sample's voxels are known, else in px."""
    places = {record.sample: (record.dataset, record.sample) for record in records}
    known = all(place in scales for place in places.values())
    first = 1 if kind == "plane" else 0
    voxel = {n: prod(scales[place][first:]) if known else 1.0 for n, place in places.items()}
    table = table.assign(value=table["value"].astype(float))
    sizes = table["measure"] == "voxels"
    table.loc[sizes, "value"] *= table.loc[sizes, "sample"].map(voxel).astype(float)
    table.loc[~sizes, "value"] /= 1000
    spreads = {}
    for side in _SIDES:
        for measure in ("voxels", "fill"):
            mine = table[(table["side"] == side) & (table["measure"] == measure)]
            sums = mine.groupby("value", sort=True)["objects"].sum()
            spreads[side, measure] = Spread(sums.index.to_numpy(float), sums.to_numpy(np.int64))
    return spreads, _UNITS[kind][1] if known else "px"


def _draw_spreads(spreads: Mapping[tuple[str, str], Spread], label: str, name: str) -> Drawing:
    with drawing(f"sizes {name}", (9.6, 3.1)) as (figure, finished):
        left, right = figure.subplots(1, 2)
        _draw_histogram(left, spreads, "voxels", log=True)
        left.set(title="Size", xlabel=label, ylabel="share of objects")
        _draw_histogram(right, spreads, "fill", log=False)
        right.set(title="Shape", xlabel="share of its bounding box that an object fills")
        if left.get_legend_handles_labels()[0]:
            left.legend(loc="best")
    return finished[0]


def _draw_histogram(
    axes: Axes, spreads: Mapping[tuple[str, str], Spread], measure: str, *, log: bool
) -> None:
    mine = {side: spreads[side, measure] for side in _SIDES if spreads[side, measure].objects.sum()}
    if not mine:
        return
    values = np.concatenate([spread.values for spread in mine.values()])
    low, high = values.min(), values.max()
    edges = np.geomspace(low / 1.02, high * 1.02, BINS + 1) if log else np.linspace(0, 1, 41)
    for side, spread in mine.items():
        heights, _ = np.histogram(spread.values, edges, weights=spread.objects)
        heights = heights / spread.objects.sum()
        if side == "truth":
            axes.stairs(heights, edges, fill=True, color=_TRUTH, alpha=0.45, label="truth")
        else:
            axes.stairs(heights, edges, color=LINE_COLOURS[0], linewidth=1.9, label="prediction")
        colour = _TRUTH if side == "truth" else LINE_COLOURS[0]
        axes.axvline(spread.median, color=colour, linewidth=1.2, linestyle=(0, (4, 2)))
    axes.set_ylim(bottom=0)
    if log:
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis, low, high)


def _plain_ticks(axis: Axis, low: float, high: float) -> None:
    """Write the ticks of a logarithmic axis as numbers: names may hold what matplotlib takes for
    formulas, so these are switched off.
    """
    axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axis.set_minor_formatter(NullFormatter())


def _caption(spreads: Mapping[tuple[str, str], Spread], size: str, unit: str, samples: str) -> str:
    parts = []
    for side, name in _SIDES.items():
        sizes, fill = spreads[side, "voxels"], spreads[side, "fill"]
        count = int(sizes.objects.sum())
        if count:
            middle = f"median {size} {format_size(sizes.median)} {unit}"
            shape = f"filling {fill.median:.2f} of the box"
            noun = "object" if count == 1 else "objects"
            parts.append(f"{name}: {count:,} {noun}, {middle}, {shape}")
        else:
            parts.append(f"{name}: no object")
    return f"{samples}. {'; '.join(parts)}. Dashed lines: medians."


def _samples(count: int, split: str | None) -> str:
    return f"{count} {split} {'sample' if count == 1 else 'samples'}"


def format_size(value: float) -> str:
    """Write a size with three digits or more, never with an exponent.

    Examples
    --------
    >>> format_size(1726.4), format_size(36.52)
    ('1,726', '36.5')
    """
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


# ------------------------------------------------------------------------------------- calibration


def reliability_charts(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Draw how often probabilities are right, per experiment and data set.

    Parameters
    ----------
    scores : DataFrame
        The table of scores, with the counts behind them; older ones have none.

    Returns
    -------
    list of dict
        ``experiment``, ``dataset``, ``split``, ``drawing``, ``error``.
    """
    charts = []
    for experiment, dataset, split, total in pooled_counts(scores, "calibration"):
        if sum(total.voxels):
            chart = _draw_reliability(total, f"{experiment} {dataset}", f"{experiment}, {dataset}")
            charts.append(
                {"experiment": experiment, "dataset": dataset, "split": split}
                | {"drawing": chart, "error": total.error}
            )
    return charts


def _draw_reliability(counts: CalibrationCounts, name: str, title: str) -> Drawing:
    voxels, inside = np.array(counts.voxels, float), np.array(counts.inside, float)
    with drawing(f"calibration {name}", (4.2, 4.2)) as (figure, finished):
        upper, lower = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
        upper.plot([0, 1], [0, 1], color=_TRUTH, linewidth=1, linestyle=(0, (4, 2)))
        x, y = zip(*_points(voxels, inside), strict=True)
        upper.plot(x, y, color=LINE_COLOURS[0], linewidth=1.9, marker="o", markersize=3.5)
        upper.set(title=title, ylabel="share truly foreground", xlim=(0, 1), ylim=(0, 1))
        shares = voxels.reshape(-1, 16).sum(axis=1) / voxels.sum()
        lower.stairs(shares, np.linspace(0, 1, 17), fill=True, color=LINE_COLOURS[0], alpha=0.5)
        lower.set(xlabel="predicted probability", ylabel="pixels", yscale="log")
        _plain_ticks(lower.yaxis, 1e-4, 1)
        lower.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.12g} %"))
    return finished[0]


def _points(
    voxels: NDArray[np.float64], inside: NDArray[np.float64]
) -> Iterator[tuple[float, float]]:
    """Yield mean probability and share of foreground of each 16 neighbouring values."""
    values = np.arange(256) / 255
    for first in range(0, 256, 16):
        some = slice(first, first + 16)
        if voxels[some].sum():
            mean = (voxels[some] * values[some]).sum() / voxels[some].sum()
            yield float(mean), float(inside[some].sum() / voxels[some].sum())
