"""How far a number would move with other samples of the same kind: the bootstrap.

A *resample* is as many samples as there are, drawn with replacement. It is kept as the number of
*times* it holds each sample, so a sum over a resample is a product of matrices, and two experiments
on the same samples are resampled alike: their difference is paired.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

#: Resamples behind an interval: its ends then move by about 0.02 of its width with another seed.
RESAMPLES = 2000
SEED = 1
#: Share of the resamples inside an interval.
LEVEL = 0.95
#: Fewer samples than these say nothing about others, and get no interval.
FEWEST_SAMPLES = 3

_WHOLE_BITS = 53  # float64 holds every whole number up to 2**53


def draw(samples: int, *, resamples: int = RESAMPLES, seed: int = SEED) -> FloatArray:
    """Draw resamples; the same numbers give the same resamples.

    Returns
    -------
    ndarray of float64, shape (samples, resamples)
        How often each resample holds each sample: whole numbers, each column adding up to
        `samples`.

    Examples
    --------
    >>> draw(3, resamples=4).sum(axis=0).tolist()
    [3.0, 3.0, 3.0, 3.0]
    """
    random = np.random.default_rng(seed)
    times = np.empty((samples, resamples))
    for column in times.T:
        column[:] = np.bincount(random.integers(0, samples, samples), minlength=samples)
    return times


def sum_whole(numbers: Sequence[int], times: FloatArray) -> list[int]:
    """Add up whole numbers of any size over every resample, exactly.

    The numbers are cut into digits so short that float64 holds their sums without rounding.

    Parameters
    ----------
    numbers : sequence of int, length samples
    times : ndarray, shape (samples, resamples)

    Returns
    -------
    list of int, length resamples

    Examples
    --------
    >>> sum_whole([2**80, -1], np.array([[1.0, 2.0], [1.0, 0.0]])) == [2**80 - 1, 2**81]
    True
    """
    drawn = [int(n) for n in times.sum(axis=0)]
    bits = _WHOLE_BITS - max(drawn, default=1).bit_length()
    least = min(numbers, default=0)  # digits are those of what is above it
    rest, totals, shift = [n - least for n in numbers], [least * n for n in drawn], 0
    while any(rest):
        digits = np.array([number & ((1 << bits) - 1) for number in rest], np.float64)
        sums = (digits @ times).astype(np.int64).tolist()
        totals = [total + (part << shift) for total, part in zip(totals, sums, strict=True)]
        rest, shift = [number >> bits for number in rest], shift + bits
    return totals


def sum_real(values: FloatArray, times: FloatArray) -> FloatArray:
    """Add up numbers over every resample, one sample after the other.

    A product of matrices would be faster, but its last bits differ between machines.

    Parameters
    ----------
    values : ndarray of float64, shape (samples, columns)
    times : ndarray of float64, shape (samples, resamples)

    Returns
    -------
    ndarray of float64, shape (columns, resamples)
    """
    total = np.zeros((values.shape[1], times.shape[1]))
    for row, often in zip(values, times, strict=True):
        total += row[:, None] * often
    return total


def mean_defined(values: FloatArray, times: FloatArray) -> FloatArray:
    """Average over every resample the values that are defined; NaN where none is.

    Parameters and result as for `sum_real`; NaN is a value that is not defined.

    Examples
    --------
    >>> mean_defined(np.array([[1.0], [np.nan], [4.0]]), np.array([[1.0, 0], [1, 1], [2, 0]]))
    array([[ 3., nan]])
    """
    defined = np.isfinite(values)
    count = defined.T.astype(np.float64) @ times
    total = sum_real(np.where(defined, values, 0.0), times)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def interval(resampled: FloatArray, level: float = LEVEL) -> tuple[float, float]:
    """Return the middle part of resampled values: the percentile interval.

    Parameters
    ----------
    resampled : ndarray of float64, shape (resamples,)
        Values that are not defined are left out.
    level : float
        Share of the values inside.

    Returns
    -------
    low, high : float
        NaN if no value is defined.

    Examples
    --------
    >>> interval(np.arange(101.0), 0.5)
    (25.0, 75.0)
    """
    defined = resampled[np.isfinite(resampled)]
    if not defined.size:
        return float("nan"), float("nan")
    tail = (1 - level) / 2 * 100
    low, high = np.percentile(defined, [tail, 100 - tail])
    return float(low), float(high)
