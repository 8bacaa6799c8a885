"""Warping error: topological errors of a boundary map, forgiving where a boundary runs exactly.

The truth is deformed towards the proposal by flipping *simple* pixels, those whose flip changes no
topology [1]_; what still differs afterwards are the errors: splits, mergers, and objects and holes
that are missing or added. Everything is defined in the plane: a volume is scored plane by plane
and the counts are added.

Maps are True inside cells and False on membranes. Cells are 4-connected, membranes 8-connected,
and everything outside the plane is membrane.

The best warp is not searched for: as in the ISBI 2012 challenge's program, a greedy relaxation
visits the mismatches in one fixed order (most confident first; ties column by column), pass after
pass, until a pass changes nothing. The result depends on that order, so it is part of the
definition. The measure is not symmetric: a missing cell of 5 × 5 pixels costs 1 (it shrinks to a
point), an added one 25.

References
----------
.. [1] Jain et al. (2010), "Boundary learning by optimization with topological constraints", CVPR,
   doi 10.1109/CVPR.2010.5539950.
.. [2] Arganda-Carreras et al. (2015), Front. Neuroanat. 9:142, doi 10.3389/fnana.2015.00142.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy import ndimage

from gigaseg.labels import BoolArray, components
from gigaseg.relaxation import BitMap, by_columns, relax

Kinds = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]


class Kind(IntEnum):
    """What a pixel is that differs between the warped truth and the proposal."""

    NONE = 0
    MERGE = 1
    SPLIT = 2
    HOLE_ADDITION = 3
    HOLE_DELETION = 4
    OBJECT_ADDITION = 5
    OBJECT_DELETION = 6


# numba takes plain numbers only
_MERGE, _SPLIT = int(Kind.MERGE), int(Kind.SPLIT)
_HOLE_ADDITION, _HOLE_DELETION = int(Kind.HOLE_ADDITION), int(Kind.HOLE_DELETION)
_OBJECT_ADDITION, _OBJECT_DELETION = int(Kind.OBJECT_ADDITION), int(Kind.OBJECT_DELETION)


@dataclass(frozen=True)
class WarpingCounts:
    """Mismatches of each kind left after warping, over `area` pixels; `+` pools planes.

    Attributes
    ----------
    area : int
        Pixels of the planes. Jain et al. and the challenge divide by it, masked or not.
    merge, split, hole_addition, hole_deletion, object_addition, object_deletion : int
        Pixels (or clusters of pixels, see `count_clusters`) of each `Kind`.
    """

    area: int = 0
    merge: int = 0
    split: int = 0
    hole_addition: int = 0
    hole_deletion: int = 0
    object_addition: int = 0
    object_deletion: int = 0

    def __add__(self, other: "WarpingCounts") -> "WarpingCounts":
        return WarpingCounts(
            **{name: value + getattr(other, name) for name, value in vars(self).items()}
        )

    @property
    def mismatches(self) -> int:
        """Mismatches of every kind."""
        return sum(vars(self).values()) - self.area

    @property
    def error(self) -> float:
        """Warping error: mismatches per pixel; NaN for an area of 0."""
        return self.mismatches / self.area if self.area else float("nan")

    @property
    def splits_and_mergers(self) -> float:
        """Splits and mergers per pixel; its minimum over thresholds is the challenge's score."""
        return (self.split + self.merge) / self.area if self.area else float("nan")


def warping_counts(
    truth: BoolArray,
    cells: BoolArray,
    *,
    confidence: npt.NDArray[np.float32] | None = None,
    mask: BoolArray | None = None,
    radius: int | None = 20,
) -> WarpingCounts:
    """Warp the truth towards a proposal and count the pixels of each kind that still differ.

    Parameters
    ----------
    truth, cells : ndarray of bool, shape (y, x)
        True inside cells. `cells` is the proposal, cut at some threshold.
    confidence : ndarray of float32, shape (y, x), optional
        |probability - threshold|: pixels of high confidence are warped first. None: all equal.
    mask : ndarray of bool, shape (y, x), optional
        Where warping is allowed. Mismatches outside it are neither warped nor counted (Jain et al.
        count them: add ``((truth != cells) & ~mask).sum()``). None: everywhere.
    radius : int or None
        Half the window, in pixels, in which a break of a cell counts as a split; None: the plane.
        The challenge takes 20. It tells kinds apart and constrains no warping.

    Raises
    ------
    ValueError
        If the arrays are not planes of one shape.

    Examples
    --------
    >>> truth = np.ones((3, 5), bool)
    >>> truth[:, 2] = False
    >>> warping_counts(truth, np.ones((3, 5), bool))
    WarpingCounts(area=15, merge=3, split=0, hole_addition=0, ...)
    """
    warped = warp(truth, cells, confidence=confidence, mask=mask)
    kinds = mismatch_kinds(warped, cells, mask=mask, radius=radius)
    return count_kinds([kinds], truth.size)


def count_kinds(kinds: Iterable[Kinds], area: int) -> WarpingCounts:
    """Count the pixels of each `Kind` in parts of planes of `area` pixels.

    Examples
    --------
    >>> count_kinds([np.array([0, 1, 1], np.uint8)], 9).merge
    2
    """
    total = np.zeros(len(Kind), np.int64)
    for part in kinds:
        total += np.bincount(part.ravel(), minlength=len(Kind))
    return WarpingCounts(area, *total[1:].tolist())


def warp(
    truth: BoolArray,
    cells: BoolArray,
    *,
    confidence: npt.NDArray[np.float32] | None = None,
    mask: BoolArray | None = None,
) -> BoolArray:
    """Deform `truth` towards `cells` by flipping simple pixels (parameters: `warping_counts`).

    Only pixels that differ are flipped, each at most once, so every flip removes one mismatch and
    the result has the topology of `truth`.

    Examples
    --------
    >>> warp(np.array([[1, 0, 0, 0]], dtype=bool), np.array([[1, 1, 1, 0]], dtype=bool)).astype(int)
    array([[1, 1, 1, 0]])
    """
    if not (truth.ndim == 2 and truth.shape == cells.shape):
        raise ValueError(
            f"Warping compares two planes of one shape; got {truth.shape} and {cells.shape}."
        )
    plane = BitMap.of(truth)
    differing = plane.differing(0, cells)
    if mask is not None:
        differing &= np.packbits(mask, axis=1, bitorder="little")
    places = by_columns(plane, differing)
    if confidence is not None:
        order = np.argsort(-confidence[plane.where(places)], kind="stable")
        places = places[order]
    relax(plane, places)
    return plane.rows(0, len(truth))


def mismatch_kinds(
    warped: BoolArray,
    cells: BoolArray,
    *,
    mask: BoolArray | None = None,
    radius: int | None = 20,
) -> Kinds:
    """Classify every pixel that differs, each on its own, by the cells around it.

    Parameters are those of `warping_counts`; `warped` comes from `warp`. The ids of the warped
    cells among the up to eight neighbours inside the plane decide (0 is membrane):

    =========  ======================  ===========================================
    ids        added by the proposal   missing in the proposal
    =========  ======================  ===========================================
    0          object addition         object deletion
    A          hole deletion           hole addition
    0, A       hole addition           split if A breaks apart without the pixel
                                       inside the window, else hole deletion
    3 or more  merge                   split
    =========  ======================  ===========================================

    Returns
    -------
    kinds : ndarray of uint8, shape (y, x)
        Values of `Kind`.
    """
    differ = warped != cells if mask is None else (warped != cells) & mask
    y, x = np.nonzero(differ)
    kinds = np.zeros(warped.shape, np.uint8)
    kinds[y, x] = classify(components(warped).astype(np.int32), y, x, radius)
    return kinds


def classify(labels: npt.NDArray[np.int32], y: Places, x: Places, radius: int | None) -> Kinds:
    """Return the `Kind` of mismatches, see `mismatch_kinds`.

    Parameters
    ----------
    labels : ndarray of int32, shape (y, x)
        Ids of the warped cells, 0 on membrane: of the plane, or of `radius` pixels, at least one,
        around the mismatches.
    y, x : ndarray of int, shape (mismatches,)
    radius : int or None
        See `warping_counts`.

    Examples
    --------
    >>> cells = np.array([[1, 0, 2], [1, 0, 2]], np.int32)
    >>> Kind(classify(cells, np.array([0]), np.array([1]), 20)[0]).name
    'MERGE'
    """
    reach = max(labels.shape) if radius is None or radius < 1 else radius
    return np.asarray(_classify(np.pad(labels, 1, constant_values=-1), y + 1, x + 1, reach))


def count_clusters(kinds: Kinds, cells: BoolArray) -> WarpingCounts:
    """Count connected clusters of pixels of one kind: errors rather than their pixels.

    Mergers are 8-connected; splits and objects 4-connected; holes 4-connected, apart for pixels
    added and missing, but 8-connected for a hole cut into a cell.

    Parameters
    ----------
    kinds : ndarray of uint8, shape (y, x)
        From `mismatch_kinds`.
    cells : ndarray of bool, shape (y, x)
        The proposal.
    """
    four, eight = ndimage.generate_binary_structure(2, 1), np.ones((3, 3))

    def clusters(kind: Kind, structure: npt.ArrayLike) -> int:
        return int(ndimage.label(kinds == kind, structure)[1])

    def hole_clusters(kind: Kind, missing: npt.ArrayLike) -> int:
        added = ndimage.label((kinds == kind) & cells, four)[1]
        return int(added + ndimage.label((kinds == kind) & ~cells, missing)[1])

    return WarpingCounts(
        area=kinds.size,
        merge=clusters(Kind.MERGE, eight),
        split=clusters(Kind.SPLIT, four),
        hole_addition=hole_clusters(Kind.HOLE_ADDITION, eight),
        hole_deletion=hole_clusters(Kind.HOLE_DELETION, four),
        object_addition=clusters(Kind.OBJECT_ADDITION, four),
        object_deletion=clusters(Kind.OBJECT_DELETION, four),
    )


@njit(cache=True, nogil=True)
def _classify(labels, ys, xs, reach):
    """Return the `Kind` of each pixel; `labels` is framed by -1 and holds 0 on membrane."""
    kinds = np.empty(ys.size, np.uint8)
    reached = np.full(labels.shape, -1, np.int32)
    queue = np.empty((min(labels.size, (2 * reach + 1) ** 2), 2), np.int32)
    for i in range(ys.size):
        y, x = ys[i], xs[i]
        missing = labels[y, x] > 0
        ids, any_cell = _ids_around(labels, y, x)
        if ids >= 3:
            kinds[i] = _SPLIT if missing else _MERGE
        elif ids == 2 and missing:
            breaks = _breaks(labels, (y, x), reach, reached, i, queue)
            kinds[i] = _SPLIT if breaks else _HOLE_DELETION
        elif ids == 2:
            kinds[i] = _HOLE_ADDITION
        elif any_cell:
            kinds[i] = _HOLE_ADDITION if missing else _HOLE_DELETION
        else:
            kinds[i] = _OBJECT_DELETION if missing else _OBJECT_ADDITION
    return kinds


@njit(cache=True, nogil=True)
def _ids_around(labels, y, x):
    """Return how many ids the neighbours have, 0 included, and whether one of them is a cell.

    Three stands for three or more: cells without membrane between them would be one cell.
    """
    membrane, cell, other = False, 0, False
    for v in range(y - 1, y + 2):
        for u in range(x - 1, x + 2):
            if v == y and u == x:
                continue
            membrane |= labels[v, u] == 0
            if labels[v, u] > 0:
                other |= cell > 0 and labels[v, u] != cell
                cell = labels[v, u]
    return int(membrane) + int(cell > 0) + int(other), cell > 0


@njit(cache=True, nogil=True)
def _breaks(labels, pixel, reach, reached, stamp, queue):
    """Tell whether the cell pixels around `pixel` are not 4-connected within `reach` without it.

    `reached` equals `stamp` where this search has been: one array serves all searches.
    """
    y, x = pixel
    wanted = found = start = end = 0
    reached[y, x] = stamp
    for v in range(y - 1, y + 2):
        for u in range(x - 1, x + 2):
            if labels[v, u] > 0 and reached[v, u] != stamp:
                wanted += 1
                if wanted == 1:
                    queue[0] = v, u
    reached[queue[0, 0], queue[0, 1]] = stamp
    end = 1
    while start < end and found < wanted:
        v, u = queue[start]
        start += 1
        found += abs(v - y) <= 1 and abs(u - x) <= 1
        for dv, du in ((-1, 0), (0, -1), (0, 1), (1, 0)):
            t, s = v + dv, u + du
            near = abs(t - y) <= reach and abs(s - x) <= reach
            if near and labels[t, s] > 0 and reached[t, s] != stamp:
                reached[t, s] = stamp
                queue[end] = t, s
                end += 1
    return found < wanted
