"""Calibration: how often a probability of 0.8 is right, counted exactly for every stored value."""

import math
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
    start: tuple[int, int, int] = (0, 0, 0),
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
    start : (int, int, int)
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
    for z in range(values.shape[0]):
        for y in range(values.shape[1]):
            for x in range(values.shape[2]):
                place = (z + start[0], y + start[1], x + start[2])
                inside = labels[place] != 0
                if inside and ridge:
                    inside = not _touches(labels, place, deep)
                table[values[z, y, x], 1 if inside else 0] += 1


@njit(cache=True, nogil=True)
def _touches(labels, place, deep):
    """Return whether a voxel of an instance has a face neighbour of another."""
    own = labels[place]
    for axis in range(0 if deep else 1, 3):
        for step in (-1, 1):
            z, y, x = place
            if axis == 0:
                z += step
            elif axis == 1:
                y += step
            else:
                x += step
            if 0 <= z < labels.shape[0] and 0 <= y < labels.shape[1] and 0 <= x < labels.shape[2]:
                other = labels[z, y, x]
                if other != 0 and other != own:
                    return True
    return False
