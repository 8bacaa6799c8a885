"""Intensity statistics of a whole volume from histograms, and the normalisation they give.

Histograms add up, so the statistics cannot depend on how the volume was cut.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

QUANTILES = (0, 0.1, 0.5, 1, 2, 5, 10, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.8, 99.9, 100)
BINS = 65536


@dataclass(frozen=True)
class Bins:
    """The bins of a histogram: value ``low + width * k`` for ``k = 0 ... count - 1``.

    Attributes
    ----------
    low : float
        Value of the first bin.
    width : float
        Distance of neighbouring bins; 1 means that integers are counted exactly.
    count : int
        Number of bins, at least 1.
    """

    low: float
    width: float
    count: int

    @classmethod
    def between(cls, low: float, high: float, dtype: np.dtype) -> "Bins":
        """Return bins for values of a type from `low` to `high`, both inclusive.

        Integers get bins of their own if their range allows (always for 8 and 16 bits); other
        values share 65536 bins, which is a resolution of 1 part in 65535 of the range.

        Examples
        --------
        >>> Bins.between(-128, 127, np.dtype("i1"))
        Bins(low=-128.0, width=1.0, count=256)
        """
        span = float(high) - float(low)
        if dtype.kind in "biu" and span < BINS:
            return cls(float(low), 1.0, int(span) + 1)
        if span == 0:
            return cls(float(low), 1.0, 1)
        return cls(float(low), span / (BINS - 1), BINS)

    @property
    def values(self) -> np.ndarray:
        """Value of each bin, float64."""
        return self.low + self.width * np.arange(self.count)

    def histogram(self, data: np.ndarray) -> np.ndarray:
        """Count the values of an array that lie in each bin; int64, shape (count,)."""
        if self.width == 1.0 and data.dtype.kind in "biu":
            index = data.ravel().astype(np.int64) - int(self.low)
        else:
            index = np.rint((data.ravel().astype(np.float64) - self.low) / self.width)
        return np.bincount(index.astype(np.int64), minlength=self.count)


def summary(histograms: Sequence[np.ndarray], bins: Sequence[Bins]) -> dict[str, list[Any]]:
    """Summarise the voxels of each channel.

    Parameters
    ----------
    histograms : sequence of ndarray of int64
        One per channel, with at least one voxel each.
    bins : sequence of Bins
        Their bins.

    Returns
    -------
    dict
        ``minimum``, ``maximum``, ``mean``, ``std``: one float per channel; ``values``: per channel
        the percentiles of `QUANTILES`, linear between order statistics as in `numpy.percentile`.

    Examples
    --------
    >>> data = np.array([0, 1, 1, 4])
    >>> bins = Bins.between(0, 4, data.dtype)
    >>> result = summary([bins.histogram(data)], [bins])
    >>> result["mean"], result["values"][0][QUANTILES.index(75)]
    ([1.5], 1.75)
    """
    rows = [_moments(h, b) for h, b in zip(histograms, bins, strict=True)]
    return {key: [row[key] for row in rows] for key in rows[0]}


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
