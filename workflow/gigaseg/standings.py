"""All experiments side by side: what each reaches, how sure that is, and which one is best."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from .comparison import KINDS, Key, format_score, list_metrics, select
from .glossary import describe
from .pairs import Pair, list_pairs
from .scoretable import read_folds
from .uncertainty import subtract


@dataclass(frozen=True)
class Cell:
    """One score of one experiment.

    Attributes
    ----------
    value, low, high, sd : float
        The score, its 95 % interval over samples, and the standard deviation over folds; NaN where
        there is none.
    samples, folds : int
        What is behind it.
    mark : {"best", "tied", ""}
        *best* is told apart from all others of its row; *tied* is the best number and those that
        are not told apart from it.
    """

    value: float
    low: float
    high: float
    sd: float
    samples: int
    folds: int
    mark: Literal["best", "tied", ""] = ""


@dataclass(frozen=True)
class Standings:
    """All experiments side by side on one split of one data set.

    Attributes
    ----------
    rows : sequence of (metric, threshold), cells by (experiment, aggregation)
    pairs : list of Pair
        Every two experiments by every statistic of `rows`.
    """

    dataset: str
    split: str
    experiments: list[str]
    rows: Sequence[tuple[Key, Mapping[tuple[str, str], Cell]]]
    pairs: list[Pair]


def list_standings(scores: pd.DataFrame) -> list[Standings]:
    """Set experiments side by side, for each data set and split."""
    whole = whole_rows(scores)
    tables = []
    for (dataset, split), group in whole.groupby(["dataset", "split"], sort=True):
        mine = scores[(scores["dataset"] == dataset) & (scores["split"] == split)]
        experiments = sorted(set(group["experiment"]))
        keys = list_metrics(group)
        folds = {name: read_folds(mine[mine["experiment"] == name]) for name in experiments}
        pairs = list_pairs(mine, keys, subtract(folds) if len(experiments) > 1 else {})
        counts = {name: _count(mine[mine["experiment"] == name]) for name in experiments}
        rows = [(key, mark_best(key, _cells(group, key, counts), pairs)) for key in keys]
        tables.append(Standings(str(dataset), str(split), experiments, rows, pairs))
    return tables


def whole_rows(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that stand for an experiment as a whole, those over folds where it has any.

    Their `aggregation` is *pooled* or *mean* alike.
    """
    over_folds = scores["aggregation"].isin([f"folds_{kind}" for kind in KINDS])
    names = ["experiment", "dataset", "split"]
    several = set(scores.loc[over_folds, names].itertuples(index=False, name=None))
    divided = [row in several for row in scores[names].itertuples(index=False, name=None)]
    single = scores["aggregation"].isin(KINDS) & ~np.array(divided, bool)
    whole = scores[over_folds | single]
    return whole.assign(aggregation=whole["aggregation"].str.removeprefix("folds_"))


def _count(scores: pd.DataFrame) -> tuple[int, int]:
    """Count the samples and folds of one experiment on one split."""
    samples = scores[scores["aggregation"] == "sample"]
    return samples["sample"].nunique(), samples["fold"].nunique()


def _cells(
    group: pd.DataFrame, key: Key, counts: Mapping[str, tuple[int, int]]
) -> dict[tuple[str, str], Cell]:
    return {
        (row["experiment"], row["aggregation"]): Cell(
            value=float(row["value"]),
            low=float(row["low"]),
            high=float(row["high"]),
            sd=float(row["sd"]),
            samples=counts[row["experiment"]][0],
            folds=counts[row["experiment"]][1],
        )
        for row in select(group, key).to_dict("records")
    }


def mark_best(
    key: Key, cells: dict[tuple[str, str], Cell], pairs: Iterable[Pair]
) -> dict[tuple[str, str], Cell]:
    """Mark, for each aggregation, the best number, or those that cannot be told apart from it.

    Without a paired comparison, because there are too few samples, nothing is marked. Numbers that
    look the same are not told apart.
    """
    pick = {"higher": max, "lower": min}.get(describe(key[0]).better)
    tested = {
        (frozenset((pair.first, pair.second)), pair.aggregation): pair.difference
        for pair in pairs
        if (pair.metric, pair.at) == key and not math.isnan(pair.difference.low)
    }
    marked = dict(cells)
    for kind in KINDS if pick else ():
        values = {e: c.value for (e, k), c in cells.items() if k == kind and math.isfinite(c.value)}
        if len(values) < 2 or pick is None:
            continue
        top = pick(values, key=values.__getitem__)
        against = {e: tested.get((frozenset((top, e)), kind)) for e in values if e != top}
        if None in against.values():
            continue
        look = format_score(values[top])
        tied = [
            e for e, d in against.items()
            if not (d and d.told_apart) or format_score(values[e]) == look
        ]  # fmt: skip
        for experiment in (top, *tied):
            cell = marked[experiment, kind]
            marked[experiment, kind] = replace(cell, mark="tied" if tied else "best")
    return marked
