"""Label arrays: connected components, boundaries, and contingency tables that add up over blocks.

A *label array* holds one instance id per voxel, 0 is background. Every count a metric needs is in
the contingency table of two label arrays, and tables of disjoint parts of a volume add up to the
table of the whole: a score of a volume of any size is exact and never needs the volume in memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy import ndimage

Objects = Literal["plane", "volume"]
LabelArray = npt.NDArray[np.integer]
BoolArray = npt.NDArray[np.bool_]


def components(mask: npt.ArrayLike, *, objects: Objects = "plane") -> npt.NDArray[np.uint32]:
    """Label the connected components of a mask.

    Parameters
    ----------
    mask : array_like of bool, shape (y, x) or (z, y, x)
    objects : {"plane", "volume"}
        "plane": every plane is a problem of its own, 4-connected, and ids continue from plane to
        plane. "volume": 6-connected in three dimensions (4-connected if the mask is 2-D).
        A one-pixel diagonal line of background therefore separates.

    Returns
    -------
    labels : ndarray of uint32, shape of `mask`
        1, 2, … in raster order of each component's first voxel; 0 where the mask is False.

    Examples
    --------
    >>> components([[1, 0, 1], [0, 1, 1]])
    array([[1, 0, 2], [0, 2, 2]], dtype=uint32)
    """
    mask = np.ascontiguousarray(mask, dtype=bool)
    if mask.ndim not in (2, 3):
        raise ValueError(f"A mask has axes y x or z y x; got {mask.ndim} axes, shape {mask.shape}.")
    structure = ndimage.generate_binary_structure(mask.ndim, 1)
    if mask.ndim == 3 and objects == "plane":
        structure[[0, 2]] = False
    labels, _ = ndimage.label(mask, structure, output=np.uint32)
    return labels


def boundaries(
    labels: LabelArray, *, background: bool = False, objects: Objects = "volume"
) -> BoolArray:
    """Mark the instance voxels that have a face neighbour of another instance, on both sides.

    Parameters
    ----------
    labels : ndarray of int, shape (y, x) or (z, y, x)
    background : bool
        Also mark instance voxels with a face neighbour in the background.
    objects : {"plane", "volume"}
        "plane" looks at neighbours along y and x only.

    Examples
    --------
    >>> boundaries(np.array([[1, 1, 2, 2, 0, 3]])).astype(int)
    array([[0, 1, 1, 0, 0, 0]])
    """
    marked = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim - 2 if objects == "plane" else 0, labels.ndim):
        before = (slice(None),) * axis + (slice(None, -1),)
        after = (slice(None),) * axis + (slice(1, None),)
        meet = labels[before] != labels[after]
        marked[before] |= meet & (labels[before] != 0) & (background | (labels[after] != 0))
        marked[after] |= meet & (labels[after] != 0) & (background | (labels[before] != 0))
    return marked


def boundary_truth(labels: LabelArray, *, objects: Objects = "volume") -> BoolArray:
    """Return the map of cell interiors that a boundary metric takes as truth.

    Interiors are the instance voxels without the ridge, that is without the voxels where two
    instances touch (see `boundaries`); for instances that stay connected without their ridge,
    the connected components of the map are the instances.

    Examples
    --------
    >>> boundary_truth(np.array([[1, 1, 2, 2, 0, 3]])).astype(int)
    array([[1, 0, 0, 1, 0, 1]])
    """
    return (labels != 0) & ~boundaries(labels, objects=objects)


@dataclass(frozen=True, eq=False)
class Contingency:
    """Sparse contingency table of two label arrays: voxels per pair (truth id, segment id).

    Pairs are sorted by truth, then segment, and each occurs once; pairs with the background 0 are
    kept. Tables of disjoint voxel sets add up (`+`, or `total` for many): an id means the same
    instance in all of them.

    Attributes
    ----------
    truth, segment : ndarray of uint64, shape (pairs,)
    voxels : ndarray of int64, shape (pairs,)

    Examples
    --------
    >>> half = contingency(np.array([1, 1, 0]), np.array([5, 0, 0]))
    >>> (half + half).voxels
    array([2, 2, 2])
    """

    truth: npt.NDArray[np.uint64]
    segment: npt.NDArray[np.uint64]
    voxels: npt.NDArray[np.int64]

    def __add__(self, other: "Contingency") -> "Contingency":
        return Contingency.total([self, other])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Contingency) and all(
            np.array_equal(a, b)
            for a, b in zip(vars(self).values(), vars(other).values(), strict=True)
        )

    @classmethod
    def total(cls, tables: "Iterable[Contingency]") -> "Contingency":
        """Sum any number of tables; the sum of none is the empty table.

        They are taken one by one and tables of like size are merged first: adding up the blocks
        of a volume never holds more than twice the pairs of the sum, and costs n log n for n pairs.
        """
        nothing = np.empty(0, np.uint64)
        # Each more than twice as long as the next.
        waiting = [cls(nothing, nothing, nothing.astype(np.int64))]
        for table in tables:
            waiting.append(table)
            while len(waiting) > 1 and len(waiting[-2].voxels) <= 2 * len(waiting[-1].voxels):
                waiting[-2:] = [waiting[-2]._merge(waiting[-1])]
        while len(waiting) > 1:
            waiting[-2:] = [waiting[-2]._merge(waiting[-1])]
        return waiting[0]

    def _merge(self, other: "Contingency") -> "Contingency":
        ours, theirs = tuple(vars(self).values()), tuple(vars(other).values())
        pairs = _count_distinct(ours, theirs)
        merged = np.empty(pairs, np.uint64), np.empty(pairs, np.uint64), np.empty(pairs, np.int64)
        _merge_sorted(ours, theirs, merged)
        return Contingency(*merged)

    @classmethod
    def _from_pairs(
        cls,
        truth: npt.NDArray[np.uint64],
        segment: npt.NDArray[np.uint64],
        voxels: npt.NDArray[np.int64],
    ) -> "Contingency":
        """Sort pairs and sum the voxels of equal ones."""
        order = np.lexsort((segment, truth))
        truth, segment = truth[order], segment[order]
        first = np.flatnonzero(_differ_from_last(truth) | _differ_from_last(segment))
        counts = np.add.reduceat(voxels[order], first) if first.size else voxels[:0]
        return cls(truth[first], segment[first], counts)

    def where(self, keep: BoolArray) -> "Contingency":
        """Return the table of the pairs marked in `keep`, shape (pairs,)."""
        return Contingency(self.truth[keep], self.segment[keep], self.voxels[keep])

    def without(self, ignored: int | None) -> "tuple[Contingency, npt.NDArray[np.uint64]]":
        """Leave out the voxels whose truth is not known.

        Parameters
        ----------
        ignored : int or None
            The truth id of these voxels; None if there are none.

        Returns
        -------
        table : Contingency
            Of all other voxels.
        spared : ndarray of uint64
            Sorted ids of the segments that have more than half of their voxels among those left
            out: nothing can be said against them.

        Examples
        --------
        >>> truth, segments = np.array([1, 1, 9, 9, 9]), np.array([4, 4, 5, 5, 4])
        >>> table, spared = contingency(truth, segments).without(9)
        >>> table.voxels, spared
        (array([2]), array([5], dtype=uint64))
        """
        if ignored is None:
            return self, np.empty(0, np.uint64)
        unknown = self.truth == np.uint64(ignored)
        ids, hidden = self.where(unknown & (self.segment != 0)).segment_sizes()
        every, sizes = self.segment_sizes()
        spared = ids[2 * hidden > sizes[np.searchsorted(every, ids)]]
        return self.where(~unknown), spared

    def truth_sizes(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """Return ids and voxels of all truth labels of the table, 0 included, sorted by id."""
        return _sizes(self.truth, self.voxels)  # pairs are sorted by truth

    def segment_sizes(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """Return ids and voxels of all segments of the table, 0 included, sorted by id."""
        order = np.argsort(self.segment, kind="stable")
        return _sizes(self.segment[order], self.voxels[order])


def contingency(truth: LabelArray, segments: LabelArray) -> Contingency:
    """Count the voxels of every pair (truth id, segment id) that occurs.

    Exact for ids of any integer type below 2**64. Runs of equal pairs are looked up in a hash
    table, so beyond one pass over the voxels the cost grows with the number of runs; memory grows
    with the number of pairs only.

    Parameters
    ----------
    truth, segments : ndarray of int, same shape

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> table = contingency(np.array([[0, 1, 1, 1]]), np.array([[0, 0, 7, 7]]))
    >>> table.truth, table.segment, table.voxels
    (array([0, 1, 1], dtype=uint64), array([0, 0, 7], dtype=uint64), array([1, 1, 2]))
    """
    if truth.shape != segments.shape:
        raise ValueError(
            f"Truth has shape {truth.shape}, the segmentation {segments.shape}; they must cover "
            "the same voxels."
        )
    truth_id, segment_id, voxels = _count_pairs(truth.ravel(), segments.ravel()).T
    return Contingency._from_pairs(truth_id, segment_id, voxels.astype(np.int64))


def _sizes(
    ids: npt.NDArray[np.uint64], voxels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    first = np.flatnonzero(_differ_from_last(ids))
    sizes = np.add.reduceat(voxels, first) if first.size else voxels[:0]
    return ids[first], sizes


def _differ_from_last(values: npt.NDArray[np.uint64]) -> BoolArray:
    differ = np.ones(values.size, bool)
    differ[1:] = values[1:] != values[:-1]
    return differ


_PIECE = 4096  # voxels looked at together: their marks stay in the fastest cache


@njit(cache=True, nogil=True)
def _count_pairs(a, b):
    """Return rows (a, b, voxels) of all pairs (a[i], b[i]), in no order."""
    table = np.zeros((1024, 3), np.uint64)  # open addressing; a row without voxels is free
    used = 0
    starts = np.empty(_PIECE + 1, np.int64)
    marks = np.zeros(_PIECE, np.uint8)
    run = 0  # where the current run began
    for low in range(1, a.size + 1, _PIECE):
        count = _find_runs(a, b, low, marks, starts)
        if low + _PIECE > a.size:
            starts[count] = a.size
            count += 1
        while 2 * (used + count) > len(table):
            table = _double(table)
        for k in range(count):
            first, second = np.uint64(a[run]), np.uint64(b[run])
            row = _row(table, first, second)
            if table[row, 2] == 0:
                table[row, 0] = first
                table[row, 1] = second
                used += 1
            table[row, 2] += np.uint64(starts[k] - run)
            run = starts[k]
    return table[table[:, 2] != 0]


@njit(cache=True, nogil=True)
def _find_runs(a, b, low, marks, starts):
    """Write where runs start among the voxels from `low` on, and return how many do."""
    x, x_before = a[low : low + _PIECE], a[low - 1 : low - 1 + _PIECE]
    y, y_before = b[low : low + _PIECE], b[low - 1 : low - 1 + _PIECE]
    for k in range(x.size):  # slices that start at 0: only so does the compiler vectorise
        marks[k] = (x[k] != x_before[k]) | (y[k] != y_before[k])
    marks[x.size :] = 0
    eights = marks.view(np.uint64)
    count = 0
    for i in range(eights.size):
        if eights[i]:
            for k in range(8 * i, 8 * i + 8):  # without a branch, which nobody could predict
                starts[count] = low + k
                count += marks[k]
    return count


@njit(cache=True, nogil=True)
def _count_distinct(a, b):
    """Return how many different pairs two tables hold together."""
    i = j = count = 0
    while i < a[0].size and j < b[0].size:
        first = a[0][i] < b[0][j] or (a[0][i] == b[0][j] and a[1][i] <= b[1][j])
        second = b[0][j] < a[0][i] or (a[0][i] == b[0][j] and b[1][j] <= a[1][i])
        i += first
        j += second
        count += 1
    return count + a[0].size - i + b[0].size - j


@njit(cache=True, nogil=True)
def _merge_sorted(a, b, merged):
    """Write the pairs of two tables in order, with the sum of the voxels of equal ones."""
    i = j = 0
    for k in range(merged[0].size):
        left, right = i < a[0].size, j < b[0].size
        if left and right:
            same = a[0][i] == b[0][j]
            left = a[0][i] < b[0][j] or (same and a[1][i] <= b[1][j])
            right = b[0][j] < a[0][i] or (same and b[1][j] <= a[1][i])
        merged[0][k] = a[0][i] if left else b[0][j]
        merged[1][k] = a[1][i] if left else b[1][j]
        merged[2][k] = (a[2][i] if left else 0) + (b[2][j] if right else 0)
        i += left
        j += right


@njit(cache=True, nogil=True)
def _row(table, first, second):
    """Return the row of a pair, or the free row where it belongs."""
    last = np.uint64(len(table) - 1)
    mixed = (first * np.uint64(0x9E3779B97F4A7C15) + second) * np.uint64(0xD6E8FEB86659FD93)
    row = (mixed >> np.uint64(32)) & last
    while table[row, 2] != 0 and (table[row, 0] != first or table[row, 1] != second):
        row = (row + np.uint64(1)) & last
    return row


@njit(cache=True, nogil=True)
def _double(table):
    larger = np.zeros((2 * len(table), 3), np.uint64)
    for i in range(len(table)):
        if table[i, 2] != 0:
            larger[_row(larger, table[i, 0], table[i, 1])] = table[i]
    return larger
