"""Calibration: how often a probability of 0.8 is right, counted exactly for every stored value."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from .labels import LabelArray, Objects

VALUES = 256  # probabilities are stored as round(255 p)


@dataclass(frozen=True)
class CalibrationCounts:
    """Voxels of each stored probability, and how many of them are truly foreground.

    Counts of disjoint sets of voxels add up (`+`).

    Attributes
    ----------
    inside, voxels : tuple of int
        256 whole numbers of any size each, for the values 0 to 255.

    Examples
    --------
    >>> counts = count_calibration(np.array([[[7, 7, 0, 0]]]), np.array([[[255, 51, 51, 0]]]))
    >>> counts.voxels[51], counts.inside[51], counts.error
    (2, 1, 0.15)
    """

    inside: tuple[int, ...] = (0,) * VALUES
    voxels: tuple[int, ...] = (0,) * VALUES

    def __post_init__(self) -> None:
        for name in ("inside", "voxels"):  # JSON gives lists
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def __add__(self, other: "CalibrationCounts") -> "CalibrationCounts":
        return CalibrationCounts(
            tuple(a + b for a, b in zip(self.inside, other.inside, strict=True)),
            tuple(a + b for a, b in zip(self.voxels, other.voxels, strict=True)),
        )

    def without(self, values: npt.NDArray[np.uint8]) -> "CalibrationCounts":
        """Take away voxels that were counted as background, by their stored probabilities."""
        if not values.size:
            return self
        fewer = np.bincount(values.ravel(), minlength=VALUES).tolist()
        left = (n - gone for n, gone in zip(self.voxels, fewer, strict=True))
        return CalibrationCounts(self.inside, tuple(left))

    @property
    def error(self) -> float:
        """Expected calibration error, with every stored value as a bin of its own.

        The mean over all voxels of \\|share of foreground among the voxels of this value - p\\|,
        p = value / 255. One division of whole numbers; NaN without voxels.
        """
        total = sum(self.voxels)
        pairs = enumerate(zip(self.inside, self.voxels, strict=True))
        off = sum(abs(255 * inside - value * voxels) for value, (inside, voxels) in pairs)
        return off / (255 * total) if total else math.nan


def count_calibration(
    labels: LabelArray,
    values: npt.NDArray[np.uint8],
    *,
    start: Sequence[int] = (0, 0, 0),
    ridge: bool = True,
    objects: Objects = "plane",
) -> CalibrationCounts:
    """Count the voxels of one block by stored probability and by truth.

    Parameters
    ----------
    labels : ndarray of int, shape (z, y, x)
        True instances of the block and, where there are any, of the voxels next to it.
    values : ndarray of uint8, shape (z, y, x)
        round(255 p) of being foreground in the block.
    start : sequence of int
        Where the block begins in `labels`.
    ridge : bool
        Whether voxels with a face neighbour of another instance were taught as background (see
        `gigaseg.labels.boundary_truth`); else every voxel of an instance is foreground.
    objects : {"plane", "volume"}
        "plane" looks for face neighbours along y and x only.
    """
    table = np.zeros((VALUES, 2), np.int64)
    _count(labels, values, np.array(start), (ridge, objects == "volume"), table)
    return CalibrationCounts(tuple(table[:, 1].tolist()), tuple(table.sum(axis=1).tolist()))


@njit(cache=True, nogil=True)
def _count(labels, values, start, how, table):
    ridge, deep = how
    depth, height, width = labels.shape
    for z in range(values.shape[0]):
        for y in range(values.shape[1]):
            k, j = z + start[0], y + start[1]
            row = labels[k, j]
            # Beyond the edge is the voxel itself, which is nobody else.
            before, after = labels[k, max(j - 1, 0)], labels[k, min(j + 1, height - 1)]
            above, below = (labels[max(k - 1, 0), j], labels[min(k + 1, depth - 1), j])
            for x in range(values.shape[2]):
                i = x + start[2]
                own = row[i]
                inside = own != 0
                if inside and ridge:
                    left, right = row[max(i - 1, 0)], row[min(i + 1, width - 1)]
                    inside = _alike(own, left) and _alike(own, right)
                    inside = inside and _alike(own, before[i]) and _alike(own, after[i])
                    if deep:
                        inside = inside and _alike(own, above[i]) and _alike(own, below[i])
                table[values[z, y, x], 1 if inside else 0] += 1


@njit(cache=True, nogil=True)
def _alike(own, other):
    return other == own or other == 0
