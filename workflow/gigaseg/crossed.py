"""Thresholds cross-validated: each chosen on the other folds, applied to the one left out."""

import math
import statistics
from collections.abc import Mapping
from typing import Any

import pandas as pd

from .comparison import describe_key
from .scores import BEST, Tally, add, score
from .scoretable import read_folds

#: Of one metric, pooled over samples: its value at each threshold.
Curve = Mapping[float, float]


def cross_thresholds(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Score every fold at the thresholds that are best on the other folds.

    Parameters
    ----------
    scores : DataFrame
        The table of scores, with the counts of the samples.

    Returns
    -------
    list of dict
        Per experiment and data set with several folds of validation samples: ``experiment``,
        ``dataset``, ``folds``, and ``rows``, one per metric of `gigaseg.scores.BEST`, with
        ``chosen``, ``sd``, ``thresholds``, one per fold, and ``best``, the mean over folds at the
        threshold that is best on each fold itself.
    """
    tables = []
    validated = scores[(scores["split"] == "validation") & (scores["aggregation"] == "sample")]
    for (experiment, dataset), rows in validated.groupby(["experiment", "dataset"], sort=True):
        folds = read_folds(rows)
        if len(folds) > 1 and (found := _cross(folds)):
            facts = {"experiment": experiment, "dataset": dataset, "folds": len(folds)}
            tables.append(facts | {"rows": found})
    return tables


def _cross(folds: Mapping[str, Mapping[str, Tally]]) -> list[dict[str, Any]]:
    own = {fold: _curves(list(tallies.values())) for fold, tallies in folds.items()}
    others = {
        fold: _curves([t for name, part in folds.items() if name != fold for t in part.values()])
        for fold in folds
    }
    rows = []
    for metric, pick in BEST.items():
        if not all(own[fold].get(metric) and others[fold].get(metric) for fold in folds):
            continue
        chosen = [choose_threshold(others[fold][metric], pick) for fold in folds]
        pairs = zip(folds, chosen, strict=True)
        values = [own[fold][metric].get(at, math.nan) for fold, at in pairs]
        best = [pick(_known(own[fold][metric]).values(), default=math.nan) for fold in folds]
        rows.append(
            {
                "key": describe_key((metric, None)),
                "chosen": statistics.fmean(values),
                "sd": statistics.stdev(values),
                "thresholds": chosen,
                "best": statistics.fmean(best),
            }
        )
    return rows


def choose_threshold(curve: Curve, pick: Any) -> float:
    """Return the threshold at which a metric is best; of several the lowest, NaN if none is known.

    Examples
    --------
    >>> choose_threshold({0.2: 0.5, 0.4: 0.9, 0.6: 0.9, 0.8: math.nan}, max)
    0.4
    """
    known = _known(curve)
    if not known:
        return math.nan
    best = pick(known.values())
    return min(at for at, value in known.items() if value == best)


def _known(curve: Curve) -> dict[float, float]:
    return {at: value for at, value in curve.items() if not math.isnan(value)}


def _curves(tallies: list[Tally]) -> dict[str, dict[float, float]]:
    """Pool samples, and return the metrics that depend on a threshold, by threshold."""
    curves: dict[str, dict[float, float]] = {}
    for one in score(add(tallies), n=len(tallies)):
        if one.metric in BEST and one.at is not None:
            curves.setdefault(one.metric, {})[one.at] = one.value
    return curves
