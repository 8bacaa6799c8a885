"""Intensity statistics of a whole volume from histograms, and the normalisation they give.

Histograms add up, so the statistics cannot depend on how the volume was cut.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from .geometry import Window, blocks

QUANTILES = (0, 0.1, 0.5, 1, 2, 5, 10, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.8, 99.9, 100)
BINS = 65536


@dataclass(frozen=True)
class Bins:
    """The bins of a histogram: value ``low + width * k`` for ``k = 0 ... 65535``.

    Attributes
    ----------
    low : float
        Value of the first bin.
    width : float
        Distance of neighbouring bins; 1 for integers, which are counted exactly.
    """

    low: float
    width: float

    @classmethod
    def between(cls, low: float, high: float, dtype: np.dtype) -> "Bins":
        """Return bins for values of a type from `low` to `high`, both inclusive.

        Integers get bins of their own if their range allows (always for 8 and 16 bits); other
        values share the bins, which is a resolution of 1 part in 65535 of the range.

        Examples
        --------
        >>> Bins.between(-128, 127, np.dtype("i1"))
        Bins(low=-128.0, width=1.0)
        """
        span = float(high) - float(low)
        exact = (dtype.kind in "iu" and span < BINS) or span == 0
        return cls(float(low), 1.0 if exact else span / (BINS - 1))

    @property
    def values(self) -> np.ndarray:
        """Value of each bin, float64, shape (65536,)."""
        return self.low + self.width * np.arange(BINS)

    def histogram(self, data: np.ndarray) -> np.ndarray:
        """Count the values of an array that lie in each bin; int64, shape (65536,)."""
        if self.width == 1.0 and data.dtype.kind in "iu":
            index = data.ravel().astype(np.int64) - int(self.low)
        else:
            index = np.rint((data.ravel().astype(np.float64) - self.low) / self.width)
        return np.bincount(index.astype(np.int64, copy=False), minlength=BINS)


def summary(histograms: np.ndarray, bins: Sequence[Bins]) -> dict[str, list[Any]]:
    """Summarise the voxels of each channel.

    Parameters
    ----------
    histograms : ndarray of int64, shape (c, 65536)
        Each counts at least one voxel.
    bins : sequence of Bins
        One per channel.

    Returns
    -------
    dict
        ``minimum``, ``maximum``, ``mean``, ``std``: one float per channel; ``values``: per channel
        the percentiles of `QUANTILES`, linear between order statistics as in `numpy.percentile`.

    Examples
    --------
    >>> data = np.array([0, 1, 1, 4])
    >>> bins = Bins.between(0, 4, data.dtype)
    >>> result = summary(bins.histogram(data)[np.newaxis], [bins])
    >>> result["mean"], result["values"][0][QUANTILES.index(75)]
    ([1.5], 1.75)
    """
    rows = [_moments(h, b) for h, b in zip(histograms, bins, strict=True)]
    return {key: [row[key] for row in rows] for key in rows[0]}


def measure(array: Any, *, block: int = 1024, workers: int = 1) -> dict[str, Any]:
    """Measure a whole volume, block by block.

    Parameters
    ----------
    array : array-like, shape (c, z, y, x)
        Finite numbers; read in windows of one plane.
    block : int
        Extent in y and x of what a thread reads at once, in voxels.
    workers : int
        Threads. Neither they nor `block` change a value.

    Returns
    -------
    dict
        ``quantiles``: the percentages of `QUANTILES`; ``volume``: the `summary` of all voxels;
        ``planes``, if there are several: the same, each list with one entry per plane.
    """
    _, depth, *plane = array.shape

    def read(window: Window) -> np.ndarray:
        return np.asarray(array[(slice(None), *window.slices)])

    with ThreadPoolExecutor(workers) as pool:
        windows = list(blocks((depth, *plane), (1, block, block)))
        bins = _choose_bins(array, lambda: pool.map(lambda window: _range(read(window)), windows))
        total = np.zeros((len(bins), BINS), np.int64)
        planes = []
        for z in range(depth):
            here = (w for w in windows if w.start[0] == z)
            counts = np.zeros_like(total)
            for part in pool.map(lambda window: _count(read(window), bins), here):
                counts += part
            total += counts
            planes.append(summary(counts, bins))
    measured = {"quantiles": list(QUANTILES), "volume": summary(total, bins)}
    if depth > 1:
        measured["planes"] = {key: [plane[key] for plane in planes] for key in planes[0]}
    return measured


def _choose_bins(array: Any, ranges: Callable[[], Iterable[np.ndarray]]) -> list[Bins]:
    dtype, channels = array.dtype, array.shape[0]
    if dtype.kind in "iu" and dtype.itemsize <= 2:
        info = np.iinfo(dtype)
        return [Bins.between(info.min, info.max, dtype)] * channels
    both = np.stack(list(ranges()))
    low, high = both[:, 0].min(axis=0), both[:, 1].max(axis=0)
    return [Bins.between(a, b, dtype) for a, b in zip(low, high, strict=True)]


def _range(data: np.ndarray) -> np.ndarray:
    """Return the minima and maxima of the channels, shape (2, c)."""
    return np.stack([data.min(axis=(1, 2, 3)), data.max(axis=(1, 2, 3))])


def _count(data: np.ndarray, bins: Sequence[Bins]) -> np.ndarray:
    return np.stack([b.histogram(channel) for b, channel in zip(bins, data, strict=True)])


def _moments(histogram: np.ndarray, bins: Bins) -> dict[str, Any]:
    used = np.flatnonzero(histogram)
    counts, values = histogram[used], bins.values[used]
    # Mean and spread about the first value: sums of few large, similar numbers would cancel.
    shifted, total = values - values[0], int(counts.sum())
    mean = float(counts @ shifted) / total
    variance = float(counts @ (shifted - mean) ** 2) / total
    return {
        "minimum": float(values[0]),
        "maximum": float(values[-1]),
        "mean": float(values[0]) + mean,
        "std": variance**0.5,
        "values": _percentiles(counts, values),
    }


def _percentiles(counts: np.ndarray, values: np.ndarray) -> list[float]:
    last = np.cumsum(counts)
    position = np.array(QUANTILES) / 100 * (last[-1] - 1)
    below = values[np.searchsorted(last, np.floor(position), side="right")]
    above = values[np.searchsorted(last, np.ceil(position), side="right")]
    return [float(n) for n in below + (above - below) * (position % 1)]


def intensity_window(
    statistics: Mapping[str, Any], intensity: Mapping[str, Any], plane: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the normalisation ``(x - offset) * scale`` of an image.

    Parameters
    ----------
    statistics : mapping
        The attribute ``statistics`` of a converted image.
    intensity : mapping
        ``method``: ``percentile`` maps the percentiles ``low`` and ``high`` to 0 and 1,
        ``standard`` gives mean 0 and standard deviation 1, ``none`` changes nothing. ``per``:
        ``volume``, or ``plane`` for serial sections.
    plane : int, optional
        Index of the plane; needed if ``per`` is ``plane``.

    Returns
    -------
    offset, scale : ndarray of float32, shape (c,)
        Where the two percentiles coincide the minimum and the maximum take their place; a constant
        channel becomes 0.

    Raises
    ------
    ValueError
        If a percentile was not stored, or the plane is missing or outside the volume.

    Examples
    --------
    >>> flat = {"minimum": [7.0], "maximum": [7.0], "mean": [7.0], "std": [0.0]}
    >>> settings = {"method": "standard", "per": "volume"}
    >>> [float(n[0]) for n in intensity_window({"volume": flat}, settings)]
    [7.0, 1.0]
    """
    part = _part(statistics, intensity, plane)
    if intensity["method"] == "none":
        offset = np.zeros(len(part["minimum"]))
        return offset.astype(np.float32), np.ones_like(offset, dtype=np.float32)
    if intensity["method"] == "standard":
        offset, span = np.array(part["mean"]), np.array(part["std"])
    else:
        low, high = (_column(statistics, part, intensity[key]) for key in ("low", "high"))
        extremes = np.array(part["minimum"]), np.array(part["maximum"])
        offset = np.where(high > low, low, extremes[0])
        span = np.where(high > low, high, extremes[1]) - offset
    scale = 1.0 / np.where(span > 0, span, 1.0)
    return offset.astype(np.float32), scale.astype(np.float32)


def _part(statistics: Mapping[str, Any], intensity: Mapping[str, Any], plane: int | None) -> Any:
    planes = statistics.get("planes")
    # A volume of one plane stores no statistics per plane: they would be the volume's.
    if intensity["per"] == "volume" or planes is None:
        return statistics["volume"]
    count = len(planes["minimum"])
    if plane is None or not 0 <= plane < count:
        raise ValueError(f"normalisation per plane needs a plane from 0 to {count - 1}: {plane}")
    return {key: rows[plane] for key, rows in planes.items()}


def _column(statistics: Mapping[str, Any], part: Mapping[str, Any], percent: float) -> np.ndarray:
    known = list(statistics["quantiles"])
    if percent not in known:
        raise ValueError(f"intensity: percentile {percent} is not stored; choose one of {known}")
    column = known.index(percent)
    return np.array([values[column] for values in part["values"]])
