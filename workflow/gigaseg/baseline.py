"""Compare with an earlier run: what became better or worse, and on which samples."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .comparison import Key, list_metrics, main_metric
from .pairs import Pair, list_pairs, sample_values
from .scoretable import read_folds
from .uncertainty import subtract

#: Samples shown of each experiment, those that changed most.
MOST_CHANGED = 10

THEN, NOW = "then", "now"
SCORES = "evaluate/scores.parquet"


@dataclass(frozen=True)
class Change:
    """The main metric of one sample in both runs."""

    sample: str
    then: float
    now: float

    @property
    def change(self) -> float:
        """Now minus then."""
        return self.now - self.then


@dataclass(frozen=True)
class Progress:
    """One experiment on one split of a data set, then and now.

    Attributes
    ----------
    pairs : list of Pair
        By metric and aggregation; the second is now.
    key : (metric, threshold) or None
        The main metric, by which samples are compared.
    changes : list of Change
        The samples both runs have, the most changed first; those that did not change are left out.
    samples : int
        Samples that both runs have.
    """

    experiment: str
    dataset: str
    split: str
    pairs: list[Pair]
    key: Key | None
    changes: list[Change]
    samples: int


def read_scores(folder: Path) -> pd.DataFrame | None:
    """Read the table of scores of an earlier run; None if it is not there any more."""
    path = folder / SCORES
    return pd.read_parquet(path) if path.is_file() else None


def compare_runs(
    now: pd.DataFrame, then: pd.DataFrame, labels: Mapping[str, str]
) -> list[Progress]:
    """Compare the experiments that both runs have, by name, on the samples that both have.

    Parameters
    ----------
    now, then : DataFrame
        Tables of scores.
    labels : mapping of data set to what its label files hold
    """
    names = ["experiment", "dataset", "split"]
    before = dict(list(_samples(then).groupby(names, sort=True)))
    progress = []
    for group, rows in _samples(now).groupby(names, sort=True):
        if group in before:
            experiment, dataset, split = map(str, group)
            pairs, key, changes, count = _compare(
                rows, before[group], labels.get(dataset, "instances")
            )
            progress.append(Progress(experiment, dataset, split, pairs, key, changes, count))
    return progress


def _samples(scores: pd.DataFrame) -> pd.DataFrame:
    return scores[scores["aggregation"] == "sample"]


def _compare(
    now: pd.DataFrame, then: pd.DataFrame, labels: str
) -> tuple[list[Pair], Key | None, list[Change], int]:
    sides = pd.concat([then.assign(experiment=THEN), now.assign(experiment=NOW)])
    differences = subtract({THEN: read_folds(then), NOW: read_folds(now)})
    pairs = list_pairs(sides, list_metrics(now), differences)
    count = len({*then["sample"]} & {*now["sample"]})
    key = main_metric(now, labels)
    if key is None:
        return pairs, key, [], count
    values = sample_values(sides, key)
    old = values.get(THEN, {})
    changes = [Change(name, old[name], value) for name, value in values[NOW].items() if name in old]
    moved = [one for one in changes if np.isfinite(one.change) and one.change]
    return pairs, key, sorted(moved, key=lambda one: (-abs(one.change), one.sample)), count


def unmatched(now: pd.DataFrame, then: pd.DataFrame) -> tuple[list[str], list[str]]:
    """List the experiments that only this run has, and those that only the earlier one has."""
    new, old = set(now["experiment"]), set(then["experiment"])
    return sorted(new - old), sorted(old - new)


def changes_table(progress: Iterable[Progress]) -> pd.DataFrame:
    """Return the main metric of every sample that changed, for all experiments."""
    columns = ["experiment", "dataset", "split", "sample", "metric", "at", "then", "now", "change"]
    rows: list[dict[str, Any]] = [
        {"experiment": one.experiment, "dataset": one.dataset, "split": one.split,
         "metric": one.key[0], "at": one.key[1], **vars(change), "change": change.change}
        for one in progress if one.key for change in one.changes
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)
