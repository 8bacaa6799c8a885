"""Tabulate: join the scores of all lots; pool and average them, with intervals."""

import hashlib
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from ..manifests import write_atomically, write_manifest
from ..scores import Score, Tally, add, average, score
from ..scoretable import frame, join, read_folds, records, write_parquet
from ..uncertainty import Statistic, intervals
from . import stamp

GROUP = ["experiment", "dataset", "split"]
ORDER = [*GROUP, "fold", "aggregation", "sample", "plane", "metric", "at"]


def run(
    *,
    manifest: Path,
    evaluate: Sequence[Path],
    settings: Mapping[str, Any],
    code: str,
    threads: int,  # noqa: ARG001  every stage is called alike
) -> None:
    """Join the tables of all lots and add the rows over samples and over folds.

    Parameters
    ----------
    manifest : Path
        ``scores.json``, written last, beside ``scores.parquet`` and, for people, ``scores.csv``;
        `gigaseg.scoretable` explains the columns.
    evaluate : sequence of Path
        Manifests of the lots.
    settings : mapping
        The list of lots, which Snakemake compares.
    code : str
        Digest of this stage's code.
    threads : int
        Not used.
    """
    samples = join([pd.read_parquet(path.with_suffix(".parquet")) for path in evaluate])
    table = aggregate(samples)
    text = table.drop(columns=["family", "counts"]).to_csv(index=False)
    write_parquet(manifest.with_suffix(".parquet"), table)
    write_atomically(manifest.with_suffix(".csv"), text)
    write_manifest(
        manifest,
        {
            "stage": "tabulate",
            "lot": None,
            "samples": [],
            "rows": len(table),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            **stamp(settings, code),
        },
    )


def aggregate(samples: pd.DataFrame) -> pd.DataFrame:
    """Add the rows over samples and over folds to those of samples, and sort them all.

    Examples
    --------
    >>> aggregate(frame([])).empty
    True
    """
    table = join([samples, frame(_aggregates(samples))])
    return table.sort_values(ORDER, kind="stable", na_position="first", ignore_index=True)


def _aggregates(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield, per experiment, data set and split, the rows of each fold and over all folds."""
    for values, rows in table.groupby(GROUP, sort=True):
        group = dict(zip(GROUP, values, strict=True))
        folds = read_folds(rows)
        each = {fold: _over_samples(tallies) for fold, tallies in folds.items()}
        for fold, scores in each.items():
            ends = intervals({fold: folds[fold]})
            for kind in scores:
                own = {**group, "fold": fold, "aggregation": kind}
                for one in scores[kind]:
                    yield from records(own, [one], **_ends(ends, kind, one))
        if len(folds) > 1:
            ends = intervals(folds)
            for kind in ("pooled", "mean"):
                own = {**group, "fold": None, "aggregation": f"folds_{kind}"}
                for one, deviation in _over_folds([scores[kind] for scores in each.values()]):
                    yield from records(own, [one], sd=deviation, **_ends(ends, kind, one))


def _over_samples(tallies: Mapping[str, Tally]) -> dict[str, list[Score]]:
    """Pool and average the samples of one fold, whatever the order of their lots."""
    chosen = [tallies[name] for name in sorted(tallies)]
    return {
        "pooled": score(add(chosen), n=len(chosen)),
        "mean": average([score(tally) for tally in chosen]),
    }


def _over_folds(folds: Sequence[Sequence[Score]]) -> Iterator[tuple[Score, float]]:
    """Yield the mean and the standard deviation of each score over the folds that define it."""
    values: dict[tuple[str, float | None], list[float]] = {}
    for one in chain.from_iterable(folds):
        known = values.setdefault((one.metric, one.at), [])
        known += [] if math.isnan(one.value) else [one.value]
    for key, known in values.items():
        mean = math.fsum(known) / len(known) if known else math.nan
        deviation = statistics.stdev(known) if len(known) > 1 else math.nan
        yield Score(*key, mean, len(known)), deviation


def _ends(ends: Mapping[Statistic, tuple[float, float]], kind: str, one: Score) -> dict[str, float]:
    low, high = ends.get((kind, one.metric, one.at), (math.nan, math.nan))
    return {"low": low, "high": high}
