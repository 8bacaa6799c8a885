"""Compare experiments by their scores: who is best, and which sample is worst.

Works on the tidy table of scores: one row per experiment, fold, data set, sample (or *pooled* /
*mean* over samples), metric and threshold.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from .glossary import MAIN_METRICS, METRICS, SAMPLE_METRICS, describe

#: The thresholds that tables show, where not 0.5 alone; curves show them all.
SHOWN_THRESHOLDS = {"f1": (0.5, 0.75), "ap": (0.5, 0.75)}

Key = tuple[str, float | None]


def list_metrics(scores: pd.DataFrame, only: Collection[str] = ()) -> list[Key]:
    """List the (metric, threshold) pairs that tables show, in the glossary's order.

    Parameters
    ----------
    scores : DataFrame
    only : collection of str
        Restrict to these metrics; empty for all.

    Returns
    -------
    list of (str, float or None)
        None is a metric without threshold, or its best over thresholds; where there is one, it
        alone is listed. Else the `SHOWN_THRESHOLDS` are, or the lowest if there is none of these.
    """
    found: dict[str, set[float | None]] = {}
    for metric, at in scores[["metric", "at"]].drop_duplicates().itertuples(index=False):
        if not only or metric in only:
            found.setdefault(str(metric), set()).add(_threshold(at))
    order = {name: i for i, name in enumerate(METRICS)}
    keys: list[Key] = []
    for metric in sorted(found, key=lambda m: (order.get(m, len(order)), m)):
        ats = sorted(at for at in found[metric] if at is not None)
        shown = [at for at in ats if at in SHOWN_THRESHOLDS.get(metric, (0.5,))] or ats[:1]
        keys += [(metric, None)] if None in found[metric] else [(metric, at) for at in shown]
    return keys


def main_metric(scores: pd.DataFrame, labels: str = "instances") -> Key | None:
    """Return the metric that sums up these scores, or None if there is no finite score.

    Parameters
    ----------
    scores : DataFrame
    labels : {"instances", "foreground", "boundary"}
        What the label files of the data set hold.
    """
    finite = scores[np.isfinite(scores["value"].astype(float))]
    keys = list_metrics(finite)
    for wanted in MAIN_METRICS[labels]:
        for metric, at in keys:
            if metric == wanted:
                return metric, at
    return keys[0] if keys else None


def format_score(value: float) -> str:
    """Write a score with three digits that matter.

    Examples
    --------
    >>> format_score(0.84567), format_score(0.00021), format_score(0.0), format_score(12.5)
    ('0.846', '2.1e-04', '0.000', '12.500')
    """
    return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"


def held_out(scores: pd.DataFrame) -> str | None:
    """Return the split whose scores count: test, else validation, else any there is."""
    splits = set(scores["split"])
    return next((s for s in ("test", "validation", *sorted(splits)) if s in splits), None)


@dataclass(frozen=True)
class Cell:
    """One number of the comparison: the mean over folds, and whether it is the best of its row."""

    value: float
    n: int
    folds: int
    best: bool = False


@dataclass(frozen=True)
class Comparison:
    """All experiments side by side on one split of one data set."""

    dataset: str
    split: str
    experiments: list[str]
    rows: list[tuple[Key, Mapping[tuple[str, str], Cell]]]


def compare(scores: pd.DataFrame) -> list[Comparison]:
    """Set experiments side by side: one table per data set and split.

    Returns
    -------
    list of Comparison
        Each row has cells by (experiment, "pooled" | "mean"); of each column kind the best value
        is marked if there are two or more experiments and they differ.
    """
    totals = scores[scores["aggregation"].isin(["pooled", "mean"])]
    return [
        Comparison(
            dataset=str(dataset),
            split=str(split),
            experiments=sorted(set(group["experiment"])),
            rows=[(key, _mark_best(key[0], _cells(group, key))) for key in list_metrics(group)],
        )
        for (dataset, split), group in totals.groupby(["dataset", "split"], sort=True)
    ]


def _cells(group: pd.DataFrame, key: Key) -> dict[tuple[str, str], Cell]:
    mine = select(group, key)
    cells = {}
    for (experiment, kind), part in mine.groupby(["experiment", "aggregation"]):
        values = part["value"].astype(float)
        cells[str(experiment), str(kind)] = Cell(
            value=float(values.mean()) if values.notna().all() else math.nan,
            n=int(part["n"].sum()),
            folds=part["fold"].nunique(),
        )
    return cells


def _mark_best(metric: str, cells: dict[tuple[str, str], Cell]) -> dict[tuple[str, str], Cell]:
    """Mark the best of each column kind; numbers that look the same are equally good."""
    pick = {"higher": max, "lower": min}.get(describe(metric).better)
    if pick is None:
        return cells
    marked = dict(cells)
    for kind in {kind for _, kind in cells}:
        values = [c.value for (_, k), c in cells.items() if k == kind and math.isfinite(c.value)]
        if len(set(map(format_score, values))) < 2:
            continue
        best = format_score(pick(values))
        for key, cell in cells.items():
            if key[1] == kind and format_score(cell.value) == best:
                marked[key] = replace(cell, best=True)
    return marked


def select(scores: pd.DataFrame, key: Key) -> pd.DataFrame:
    """Return the rows of one metric at one threshold."""
    metric, at = key
    mine = scores[scores["metric"] == metric]
    return mine[mine["at"].isna()] if at is None else mine[mine["at"] == at]


def per_sample(scores: pd.DataFrame) -> tuple[list[Key], list[dict[str, Any]]]:
    """Turn the samples' scores into one row per experiment, fold and sample.

    Returns
    -------
    keys : list of (metric, threshold)
        The columns.
    rows : list of dict
        ``experiment``, ``fold``, ``dataset``, ``sample``, ``split`` and ``values`` by key.
    """
    samples = scores[scores["aggregation"] == "sample"]
    keys = list_metrics(samples, SAMPLE_METRICS)
    names = ["experiment", "fold", "dataset", "sample", "split"]
    rows: dict[tuple[str, ...], dict[Key, float]] = {}
    for row in samples.to_dict("records"):
        own = rows.setdefault(tuple(str(row[name]) for name in names), {})
        own[str(row["metric"]), _threshold(row["at"])] = float(row["value"])
    return keys, [
        {**dict(zip(names, key, strict=True)), "values": values}
        for key, values in sorted(rows.items())
    ]


def pick_ranks(count: int, wanted: int) -> list[int]:
    """Pick ranks evenly from best to worst: 3 of many are best, median and worst.

    Examples
    --------
    >>> pick_ranks(9, 3), pick_ranks(2, 3), pick_ranks(9, 1)
    ([0, 4, 8], [0, 1], [8])
    """
    if wanted == 1:
        return [count - 1][:count]
    return sorted({round(i * (count - 1) / (wanted - 1)) for i in range(wanted)} if count else ())


def order_best_first(values: Iterable[float], better: str) -> list[int]:
    """Return indices from best to worst; undefined scores come last, ties keep their order."""
    sign = -1.0 if better == "higher" else 1.0
    keyed = [sign * v if math.isfinite(v) else math.inf for v in values]
    return sorted(range(len(keyed)), key=keyed.__getitem__)


def _threshold(at: Any) -> float | None:
    return None if at is None or pd.isna(at) else float(at)
