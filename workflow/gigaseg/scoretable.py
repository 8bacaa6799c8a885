"""The tidy table of scores: its columns, and how scores become rows and rows become counts.

=============  =====================================================================================
column         meaning
=============  =====================================================================================
experiment     name of the experiment
fold           number of the model, *all* for the mean of all; empty in rows over all folds
dataset        data set of the samples
split          their split: validation or test
aggregation    *plane* (a plane of a stack that is a problem of its own), *sample*, *pooled* (over
               the counts of the samples), *mean* (over the samples' scores), *folds_pooled* and
               *folds_mean* (mean over the folds of these)
sample         name; empty in rows over samples
plane          z, from 0; empty but in rows of planes
metric, at     what was measured, at which threshold; `at` is empty for a metric without one and for
               the best over thresholds
value          the score; empty if it is not defined
low, high      95 % interval over samples (bootstrap); empty with fewer than three samples
sd             standard deviation over folds; in rows over folds only
n              what is behind the value: samples, or folds in rows over folds
family         family of the counts
counts         JSON text of the counts a score was taken from, or of the threshold of a best
=============  =====================================================================================
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .comparison import held_out
from .manifests import write_atomically
from .scores import FAMILIES, Score, Tally, decode

COLUMNS = {
    "experiment": "str",
    "fold": "string",
    "dataset": "str",
    "split": "str",
    "aggregation": "str",
    "sample": "str",
    "plane": "Int64",
    "metric": "str",
    "at": "float64",
    "value": "float64",
    "low": "float64",
    "high": "float64",
    "sd": "float64",
    "n": "int64",
    "family": "str",
    "counts": "str",
}


def records(
    group: Mapping[str, Any], scores: Iterable[Score], **more: Any
) -> Iterator[dict[str, Any]]:
    """Yield scores as rows.

    Parameters
    ----------
    group : mapping
        ``experiment``, ``fold``, ``dataset``, ``split`` and ``aggregation``.
    scores : iterable of Score
    **more
        Further columns; those not given are empty.
    """
    for one in scores:
        yield {"sample": "", **group, **asdict(one), **more}


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as a table whose columns have their types even without any row."""
    return pd.DataFrame(list(rows), columns=list(COLUMNS)).astype(COLUMNS)


def join(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put tables below each other."""
    full = [table for table in tables if len(table)]
    return pd.concat(full, ignore_index=True) if full else frame([])


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table whole or not at all."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomically(path, buffer.getvalue())


def read_tally(rows: pd.DataFrame) -> Tally:
    """Read the counts of one sample back from its rows."""
    counted = rows[rows["family"] != ""].drop_duplicates(["family", "at"])
    return {
        (family, None if np.isnan(at) else at): decode(family, text)
        for family, at, text in zip(
            counted["family"], counted["at"], counted["counts"], strict=True
        )
    }


def read_folds(rows: pd.DataFrame) -> dict[str, dict[str, Tally]]:
    """Read the counts of one experiment on one split of a data set, by fold and sample."""
    samples = rows[rows["aggregation"] == "sample"]
    folds: dict[str, dict[str, Tally]] = {}
    for (fold, sample), part in samples.groupby(["fold", "sample"], sort=True):
        folds.setdefault(str(fold), {})[str(sample)] = read_tally(part)
    return folds


def pooled_counts(scores: pd.DataFrame, family: str) -> Iterator[tuple[str, str, str, Any]]:
    """Add up the counts of one family that has no threshold, over folds.

    Parameters
    ----------
    scores : DataFrame
        The table of scores; those of older runs have no counts.
    family : str
        See `gigaseg.scores.FAMILIES`.

    Yields
    ------
    experiment, dataset, split : str
        The split whose scores count, see `gigaseg.comparison.held_out`.
    counts : Counts
    """
    if "family" not in scores or scores.empty:
        return
    rows = scores[(scores["family"] == family) & (scores["aggregation"] == "pooled")]
    for (experiment, dataset), group in rows.groupby(["experiment", "dataset"], sort=True):
        split = held_out(group)
        total = FAMILIES[family].counts()
        for text in group.loc[group["split"] == split, "counts"]:
            total += decode(family, text)
        yield str(experiment), str(dataset), str(split), total
