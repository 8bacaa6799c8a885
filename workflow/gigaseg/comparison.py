"""Find one's way in the table of scores: which metrics to show, which sample is the worst.

`gigaseg.scoretable` explains the table.
"""

import math
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import pandas as pd

from .glossary import MAIN_METRICS, METRICS, SAMPLE_METRICS, describe

#: The thresholds that tables show, where not 0.5 alone; curves show them all.
SHOWN_THRESHOLDS = {"f1": (0.5, 0.75), "ap": (0.5, 0.75)}

Key = tuple[str, float | None]

#: How the scores of samples become that of an experiment.
KINDS = ("pooled", "mean")


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
    """Write a score with two or three digits that matter.

    Examples
    --------
    >>> format_score(0.84567), format_score(0.00158), format_score(0.00021), format_score(0.0)
    ('0.846', '0.0016', '2.1e-04', '0.000')
    """
    if abs(value) >= 0.01 or value == 0:
        return f"{value:.3f}"
    return f"{value:.4f}" if abs(value) >= 0.001 else f"{value:.1e}"


def describe_key(key: Key) -> dict[str, Any]:
    """Return what the report shows of a metric at a threshold."""
    metric = describe(key[0])
    return {"title": metric.title, "at": key[1], "better": metric.better, "words": metric.words}


def held_out(scores: pd.DataFrame) -> str | None:
    """Return the split whose scores count: test, else validation, else any there is."""
    splits = set(scores["split"])
    return next((s for s in ("test", "validation", *sorted(splits)) if s in splits), None)


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
