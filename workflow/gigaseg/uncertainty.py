"""What the scores of an experiment would be with other samples, and whether two are told apart.

The statistics of an experiment on one split of a data set are, per metric and threshold, the
*pooled* score (from the added counts of its samples) and the *mean* (of the samples' own scores).
Of several folds it is the mean of the folds, each weighing as much as the share of its samples that
was drawn: 1 for each on the samples as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from typing import Any

import numpy as np

from .resampling import (
    FEWEST_SAMPLES,
    FloatArray,
    draw,
    interval,
    mean_defined,
    sum_real,
    sum_whole,
)
from .scores import BEST, FAMILIES, Tally, score

#: Aggregation, metric and threshold.
Statistic = tuple[str, str, float | None]
#: The values of each statistic, one per resample.
Resampled = dict[Statistic, FloatArray]
#: The tallies of a model's samples, by fold and sample.
Folds = Mapping[str, Mapping[str, Tally]]


@dataclass(frozen=True)
class Difference:
    """Second minus first of one statistic, on the samples both have.

    Attributes
    ----------
    first, second, value : float
    low, high : float
        95 % interval of the difference; NaN with fewer than three samples.
    samples : int
    """

    first: float
    second: float
    value: float
    low: float
    high: float
    samples: int

    @property
    def told_apart(self) -> bool:
        """Whether the interval excludes 0; False without an interval."""
        return self.low > 0 or self.high < 0


#: By pair of experiments, then by statistic.
Differences = dict[tuple[str, str], dict[Statistic, Difference]]


def samples_of(folds: Folds) -> list[str]:
    """List the samples of all folds in the one order in which they are resampled."""
    return sorted({name for tallies in folds.values() for name in tallies})


def resample(folds: Folds, names: Sequence[str], times: FloatArray) -> Resampled:
    """Compute all statistics of an experiment for every resample.

    Parameters
    ----------
    folds : mapping of fold to mapping of sample to Tally
    names : sequence of str
        The samples that are resampled; others are left out.
    times : ndarray of float64, shape (len(names), resamples)
        See `gigaseg.resampling.draw`; a column of ones is the samples as they are.
    """
    row = {name: i for i, name in enumerate(names)}
    parts, shares = [], []
    for _, tallies in sorted(folds.items()):
        own = [name for name in names if name in tallies]
        if own:
            often = times[[row[name] for name in own]]
            chosen = [tallies[name] for name in own]
            parts.append(resample_pooled(chosen, often) | resample_means(chosen, often))
            shares.append(often.sum(axis=0) / len(own))
    if len(parts) < 2:
        return parts[0] if parts else {}
    return {key: _weigh([part.get(key) for part in parts], shares) for key in parts[0]}


def _weigh(values: Sequence[FloatArray | None], shares: Sequence[FloatArray]) -> FloatArray:
    """Average over folds, those left out in which nothing is defined."""
    pairs = [(v, s) for v, s in zip(values, shares, strict=True) if v is not None]
    there = [np.where(np.isfinite(v), s, 0.0) for v, s in pairs]
    total = np.sum([np.nan_to_num(v) * s for (v, _), s in zip(pairs, there, strict=True)], axis=0)
    weight = np.sum(there, axis=0)
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)


def resample_pooled(tallies: Sequence[Tally], times: FloatArray) -> Resampled:
    """Add the counts of each resample, whole numbers exactly, and take the scores.

    Parameters
    ----------
    tallies : sequence of Tally, length samples
    times : ndarray of float64, shape (samples, resamples)
    """
    resampled: Resampled = {}
    for family, at in dict.fromkeys(key for tally in tallies for key in tally):
        kind = FAMILIES[family].counts
        counts = [tally.get((family, at), kind()) for tally in tallies]
        columns = [
            _sum_field([getattr(one, field.name) for one in counts], field.default, times)
            for field in fields(kind)
        ]
        pooled = [kind(*row) for row in zip(*columns, strict=True)]
        for metric, name in FAMILIES[family].metrics.items():
            values = np.array([getattr(one, name) for one in pooled], np.float64)
            resampled["pooled", metric, at] = values
    return _summarise(resampled)


def _sum_field(numbers: Sequence[Any], zero: Any, times: FloatArray) -> Sequence[Any]:
    """Add up one field of counts over every resample: a number, or several, each by itself."""
    if isinstance(zero, tuple):
        sums = [_sum_field(column, zero[0], times) for column in zip(*numbers, strict=True)]
        return list(zip(*sums, strict=True))
    if isinstance(zero, int):
        return sum_whole(numbers, times)
    return sum_real(np.array(numbers, np.float64)[:, None], times)[0].tolist()


def resample_means(tallies: Sequence[Tally], times: FloatArray) -> Resampled:
    """Average the scores of the samples of each resample where they are defined.

    Parameters as for `resample_pooled`.
    """
    each = [
        {(one.metric, one.at): one.value for one in score(tally) if one.family} for tally in tallies
    ]
    keys = list(dict.fromkeys(key for scores in each for key in scores))
    values = [[scores.get(key, np.nan) for key in keys] for scores in each]
    means = mean_defined(np.array(values, np.float64).reshape(len(each), len(keys)), times)
    return _summarise(
        {("mean", metric, at): row for (metric, at), row in zip(keys, means, strict=True)}
    )


def _summarise(resampled: Resampled) -> Resampled:
    """Add the best over thresholds, found anew in every resample, and the mean AP."""
    curves: dict[tuple[str, str], list[FloatArray]] = {}
    for (aggregation, metric, at), values in resampled.items():
        if at is not None:
            curves.setdefault((aggregation, metric), []).append(values)
    for (aggregation, metric), curve in curves.items():
        if metric in BEST:
            pick = np.fmax if BEST[metric] is max else np.fmin
            resampled[aggregation, metric, None] = pick.reduce(curve)
        if metric == "ap":
            resampled[aggregation, "mean_ap", None] = np.mean(curve, axis=0)
    return resampled


def intervals(folds: Folds) -> dict[Statistic, tuple[float, float]]:
    """Return the 95 % interval over samples of every statistic; none with too few samples."""
    names = samples_of(folds)
    if len(names) < FEWEST_SAMPLES:
        return {}
    resampled = resample(folds, names, draw(len(names)))
    return {key: interval(values) for key, values in resampled.items()}


def subtract(
    experiments: Mapping[str, Folds],
) -> dict[tuple[str, str], dict[Statistic, Difference]]:
    """Compare every two experiments on the samples that both have: the paired bootstrap.

    Every resample holds the same samples of both, so what makes a sample hard for either drops out.

    Returns
    -------
    dict of (first, second) to dict of Statistic to Difference
        In the order of `experiments`; empty for two that have no sample in common.
    """
    known: dict[tuple[str, tuple[str, ...]], Resampled] = {}

    def of(experiment: str, names: tuple[str, ...]) -> Resampled:
        if (experiment, names) not in known:
            times = np.ones((len(names), 1))  # the samples as they are, then their resamples
            if len(names) >= FEWEST_SAMPLES:
                times = np.hstack([times, draw(len(names))])
            known[experiment, names] = resample(experiments[experiment], names, times)
        return known[experiment, names]

    differences: Differences = {}
    for first, second in combinations(experiments, 2):
        common = {*samples_of(experiments[first])} & {*samples_of(experiments[second])}
        names = tuple(sorted(common))
        one, other = of(first, names), of(second, names)
        differences[first, second] = {
            key: _difference(one[key], other[key], len(names)) for key in one if key in other
        }
    return differences


def _difference(first: FloatArray, second: FloatArray, samples: int) -> Difference:
    change = second - first
    ends = interval(change[1:])
    return Difference(float(first[0]), float(second[0]), float(change[0]), *ends, samples)
