"""How far the truth lies from the map as a whole: labels that were shifted against their images.

A program that counts from the corners of pixels where another counts from their centres shifts all
labels by half a pixel, binning and cropping shift them further. A network that learns from tiles
turned at random cannot learn such a shift, and every outline costs it.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

REACH = 3  # px beside a pixel that are read: 2 for smoothing, and 1 for the slope


@dataclass(frozen=True)
class OffsetCounts:
    """Sums of a map's slopes, and of its slopes times what it lacks of the truth.

    Of disjoint sets of pixels they add up (`+`).

    Attributes
    ----------
    y, x : int
        Sum of g r along y and along x: r is 255 t - p, where t is 1 inside of cells and p the map,
        0 to 255; g is the difference of p between the next pixel and the one before. Both are
        smoothed by (1, 4, 6, 4, 1) along y and x.
    yy, xx : int
        Sum of g².

    Examples
    --------
    >>> p = np.array([[0] * 6 + [255] * 6] * 7, np.uint8)
    >>> t = np.array([[0] * 7 + [1] * 5] * 7, bool)
    >>> print(f"{count_offset(t, p).vector[1]:.2f}")
    1.00
    """

    y: int = 0
    yy: int = 0
    x: int = 0
    xx: int = 0

    def __add__(self, other: "OffsetCounts") -> "OffsetCounts":
        return OffsetCounts(
            self.y + other.y, self.yy + other.yy, self.x + other.x, self.xx + other.xx
        )

    @property
    def vector(self) -> tuple[float, float]:
        """Where the truth lies from the map, along y and x in px: (-0.5, 0) is half a pixel above.

        The shift d that minimises the sum of (t(v) - p(v - d))², to first order in d: it is
        -sum(p' (t - p)) / sum(p'²), one step of Lucas and Kanade (1981). A map that is too narrow
        or too wide on all sides alike is hardly shifted. It says somewhat too much where
        outlines are soft, and too little beyond two pixels; NaN for a flat map.
        """
        return _shift(self.y, self.yy), _shift(self.x, self.xx)

    @property
    def length(self) -> float:
        """Length of the vector in px."""
        return math.hypot(*self.vector)


def _shift(product: int, square: int) -> float:
    return 0.0 - 2 * product / square if square else math.nan  # g is twice the slope


def count_offset(
    cells: npt.NDArray[np.bool_],
    values: npt.NDArray[np.uint8],
    known: npt.NDArray[np.bool_] | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
) -> OffsetCounts:
    """Count what the offset of the truth from a map needs.

    Parameters
    ----------
    cells : ndarray of bool, shape (y, x)
        Truth: inside of cells.
    values : ndarray of uint8, shape (y, x)
        round(255 p) of being inside.
    known : ndarray of bool, shape (y, x), optional
        Where the truth is known; a pixel counts if all that is read for it is. None for everywhere.
    start, stop : int
        Rows that are counted; those beside them are only read. Pixels nearer than `REACH` to the
        edge of the arrays are not counted.
    """
    height, width = cells.shape
    first, last = max(start, REACH), min(height if stop is None else stop, height - REACH)
    if first >= last or width <= 2 * REACH:
        return OffsetCounts()
    rows = slice(first - REACH, last + REACH)
    cells, values = cells[rows], values[rows].astype(np.int32)
    lacking = _smooth(255 * cells.astype(np.int32) - values)
    clear = np.ones((0, 0), np.int32) if known is None else _smooth(known[rows].astype(np.int32))
    return OffsetCounts(*_sums(_smooth(values), lacking, clear).tolist())


@njit(cache=True, nogil=True)
def _smooth(values):
    """Sum up with weights (1, 4, 6, 4, 1) along both axes; two pixels are lost on every side."""
    height, width = values.shape
    along = np.empty((height, width - 4), np.int32)
    for y in range(height):
        for x in range(width - 4):
            ends, near = values[y, x] + values[y, x + 4], values[y, x + 1] + values[y, x + 3]
            along[y, x] = ends + 4 * near + 6 * values[y, x + 2]
    both = np.empty((height - 4, width - 4), np.int32)
    for y in range(height - 4):
        for x in range(width - 4):
            ends, near = along[y, x] + along[y + 4, x], along[y + 1, x] + along[y + 3, x]
            both[y, x] = ends + 4 * near + 6 * along[y + 2, x]
    return both


@njit(cache=True, nogil=True)
def _sums(values, lacking, clear):
    """Sum up the products; `clear` is 256 where all that was smoothed is known, or empty."""
    sums = np.zeros(4, np.int64)  # y, yy, x, xx
    for y in range(1, values.shape[0] - 1):
        for x in range(1, values.shape[1] - 1):
            if clear.size == 0 or _is_clear(clear, y, x):
                g_y = np.int64(values[y + 1, x] - values[y - 1, x])
                g_x = np.int64(values[y, x + 1] - values[y, x - 1])
                sums[0] += g_y * lacking[y, x]
                sums[1] += g_y * g_y
                sums[2] += g_x * lacking[y, x]
                sums[3] += g_x * g_x
    return sums


@njit(cache=True, nogil=True)
def _is_clear(clear, y, x):
    along_y = clear[y - 1, x] == 256 and clear[y + 1, x] == 256
    return along_y and clear[y, x - 1] == 256 and clear[y, x + 1] == 256
