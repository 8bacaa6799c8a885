"""Intensity statistics of a whole volume from histograms, and the normalisation they give.

Histograms add up, so the statistics cannot depend on how the volume was cut.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numba import njit

from .geometry import Window, blocks

QUANTILES = (0, 0.1, 0.5, 1, 2, 5, 10, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.8, 99.9, 100)
BINS = 65536
PIECE = (1, 1024, 1024)  # voxels read at once


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
        counts = np.zeros(BINS, np.int64)
        flat = np.ascontiguousarray(data).reshape(-1)
        if self.width == 1.0 and data.dtype.kind in "iu":
            _count_integers(flat, int(self.low), counts)
        else:
            _count_numbers(flat, self.low, self.width, counts)
        return counts


# Compiled: numpy needs indices of 8 bytes per voxel, and holds the lock that threads wait for.
@njit(cache=True, nogil=True)
def _count_integers(values, low, counts):
    for value in values:
        counts[np.int64(value) - low] += 1


@njit(cache=True, nogil=True)
def _count_numbers(values, low, width, counts):
    for value in values:
        counts[np.int64(np.rint((np.float64(value) - low) / width))] += 1


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


def measure(array: Any, *, workers: int = 1) -> dict[str, Any]:
    """Measure a whole volume, piece by piece.

    Parameters
    ----------
    array : array-like, shape (c, z, y, x)
        Finite numbers; read in windows of one plane.
    workers : int
        Threads; they never change a value.

    Returns
    -------
    dict
        ``quantiles``: the percentages of `QUANTILES`; ``volume``: the `summary` of all voxels;
        ``planes``, if there are several: the same, each list with one entry per plane.
    """
    return Tally(array.shape, array.dtype).finish(array, block=array.shape[1:], workers=workers)


class Tally:
    """Statistics of a volume that are gathered while it is written, block by block.

    Of 8 and 16 bits, what `add` sees is counted at once. Other types are counted in bins between
    their extremes, which are known only at the end: of these `add` notes the extremes, and `finish`
    reads the volume once more.

    Parameters
    ----------
    shape : tuple of int
        Shape (c, z, y, x) of the volume.
    dtype : numpy.dtype
        Type of its values.

    Examples
    --------
    >>> data = np.arange(12, dtype="u1").reshape(1, 1, 3, 4)
    >>> tally = Tally(data.shape, data.dtype)
    >>> tally.add(data[..., :2], Window((0, 0, 0), (1, 3, 2)))
    >>> tally.finish(data, block=(1, 3, 2)) == measure(data)
    True
    """

    def __init__(self, shape: Sequence[int], dtype: np.dtype) -> None:
        self._shape, self._dtype = tuple(shape), np.dtype(dtype)
        self._seen: set[Window] = set()
        self._ranges: list[np.ndarray] = []
        self._counts: dict[int, np.ndarray] = {}  # histograms of the planes begun
        self._left = dict.fromkeys(range(self._shape[1]), math.prod(self._shape[2:]))
        self._planes: dict[int, dict[str, Any]] = {}
        self._total = np.zeros((self._shape[0], BINS), np.int64)
        self._lock = Lock()
        self._bins: list[Bins] = []
        if self._dtype.kind in "iu" and self._dtype.itemsize <= 2:
            info = np.iinfo(self._dtype)
            self._bins = [Bins.between(info.min, info.max, self._dtype)] * self._shape[0]

    def add(self, data: np.ndarray, window: Window) -> None:
        """Take in a block (c, z, y, x) of finite numbers; threads may do so at once.

        Parameters
        ----------
        data : ndarray, shape (c, z, y, x)
        window : Window
            Its place (z, y, x) in the volume. Blocks must not overlap.
        """
        if not self._bins:
            extremes = _range(data)
            with self._lock:
                self._ranges.append(extremes)
                self._seen.add(window)
            return
        for z, plane in enumerate(np.swapaxes(data, 0, 1), window.start[0]):
            self._count(z, _count(plane, self._bins), math.prod(window.shape[1:]))
        with self._lock:
            self._seen.add(window)

    def _count(self, z: int, counts: np.ndarray, voxels: int) -> None:
        with self._lock:
            mine = self._counts.setdefault(z, np.zeros_like(self._total))
            mine += counts
            self._left[z] -= voxels
            if self._left[z] == 0:  # one plane's histograms are large: keep those of few planes
                self._planes[z] = summary(mine, self._bins)
                self._total += self._counts.pop(z)

    def finish(self, array: Any, *, block: Sequence[int], workers: int = 1) -> dict[str, Any]:
        """Count what was not seen, and summarise.

        Parameters
        ----------
        array : array-like, shape (c, z, y, x)
            The volume, now complete.
        block : sequence of int
            The blocks (z, y, x) that were added, if any were.
        workers : int
            Threads.

        Returns
        -------
        dict
            As `measure` does, with the same values.
        """
        volume = list(blocks(self._shape[1:], block))

        def read(window: Window) -> None:
            self.add(np.asarray(array[(slice(None), *window.slices)]), window)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(read, _pieces(w for w in volume if w not in self._seen)))
            if not self._bins:
                self._choose_bins()
                list(pool.map(read, _pieces(volume)))
        measured = {"quantiles": list(QUANTILES), "volume": summary(self._total, self._bins)}
        if len(self._planes) > 1:
            planes = [plane for _, plane in sorted(self._planes.items())]
            measured["planes"] = {key: [plane[key] for plane in planes] for key in planes[0]}
        return measured

    def _choose_bins(self) -> None:
        both = np.stack(self._ranges)
        low, high = both[:, 0].min(axis=0), both[:, 1].max(axis=0)
        self._bins = [Bins.between(a, b, self._dtype) for a, b in zip(low, high, strict=True)]


def _pieces(windows: Iterable[Window]) -> Iterator[Window]:
    """Cut windows into what is read at once."""
    for window in windows:
        yield from (piece.shift(window.start) for piece in blocks(window.shape, PIECE))


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
