"""Two experiments, or two runs of one, compared sample by sample."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass

import pandas as pd

from .comparison import KINDS, Key, select
from .glossary import describe
from .resampling import FEWEST_SAMPLES
from .uncertainty import Difference, Statistic


@dataclass(frozen=True)
class Pair:
    """Two experiments, or one in two runs, compared by one statistic on the samples both have.

    Attributes
    ----------
    first, second, metric : str
    at : float or None
    aggregation : {"pooled", "mean"}
    difference : Difference
        Second minus first.
    better, worse, equal : int
        Samples on which the second is better than the first, worse, or exactly equal.
    """

    first: str
    second: str
    metric: str
    at: float | None
    aggregation: str
    difference: Difference
    better: int
    worse: int
    equal: int

    @property
    def verdict(self) -> str:
        """What the paired comparison says of the second."""
        if self.difference.value == 0 and self.better == self.worse == 0:
            return "equal"
        if math.isnan(self.difference.low):
            return f"not tested: it takes {FEWEST_SAMPLES} samples"
        if not self.difference.told_apart:
            return "cannot be told apart"
        return "better" if is_better(self.metric, self.difference.value) else "worse"


def list_pairs(
    scores: pd.DataFrame,
    keys: Iterable[Key],
    differences: Mapping[tuple[str, str], Mapping[Statistic, Difference]],
) -> list[Pair]:
    """Join the differences of statistics with the number of samples that are better or worse.

    Parameters
    ----------
    scores : DataFrame
        Rows of samples; `experiment` tells the two sides of a pair apart.
    keys : iterable of (metric, threshold)
    differences : mapping
        As `gigaseg.uncertainty.subtract` returns them.
    """
    pairs = []
    for key in keys:
        values = sample_values(scores, key)
        for (first, second), by_statistic in differences.items():
            counts = _count_better(key[0], values.get(first, {}), values.get(second, {}))
            pairs += [
                Pair(first, second, *key, kind, by_statistic[kind, *key], *counts)
                for kind in KINDS
                if (kind, *key) in by_statistic
            ]
    return pairs


def sample_values(scores: pd.DataFrame, key: Key) -> dict[str, dict[str, float]]:
    """Return the score of every sample by experiment: the mean over the folds that scored it."""
    rows = select(scores[scores["aggregation"] == "sample"], key)
    values: dict[str, dict[str, float]] = {}
    for (experiment, sample), part in rows.groupby(["experiment", "sample"], sort=True):
        values.setdefault(str(experiment), {})[str(sample)] = float(part["value"].mean())
    return values


def is_better(metric: str, change: float) -> bool:
    """Say whether a change is for the better; an unknown metric has no better direction."""
    return {"higher": change > 0, "lower": change < 0}.get(describe(metric).better, False)


def _count_better(
    metric: str, first: Mapping[str, float], second: Mapping[str, float]
) -> tuple[int, int, int]:
    changes = [second[name] - first[name] for name in first if name in second]
    better = sum(is_better(metric, change) for change in changes)
    equal = sum(change == 0 for change in changes)
    defined = sum(not math.isnan(change) for change in changes)
    return better, defined - better - equal, equal


def pair_table(pairs: Iterable[tuple[str, str, str, Pair]]) -> pd.DataFrame:
    """Return pairs, each with experiment, data set and split, as a tidy table.

    `experiment` is empty where two experiments are compared, rather than two runs of one.
    """
    columns = ["experiment", "dataset", "split", "first", "second", "metric", "at", "aggregation"]
    columns += ["first_value", "second_value", "difference", "low", "high", "samples"]
    columns += ["better", "worse", "equal", "verdict"]
    rows = [
        [
            *(experiment, dataset, split, pair.first, pair.second, pair.metric, pair.at),
            *(pair.aggregation, *astuple(pair.difference)),
            *(pair.better, pair.worse, pair.equal, pair.verdict),
        ]
        for experiment, dataset, split, pair in pairs
    ]
    return pd.DataFrame(rows, columns=columns)
