"""Scores of the foreground and of single instances: Dice, F1, AP, PQ, SEG, DET.

Everything is computed from contingency tables or pixel counts and is exact. Results are counts;
scores are their properties, and ``+`` pools images before a score is taken. An instance score that
is 0/0 is NaN: of two images without objects nothing is known.

References
----------
.. [1] Kirillov et al. (2019), "Panoptic segmentation", CVPR, arXiv:1801.00868.
.. [2] Maska et al. (2014), "A benchmark for comparison of cell tracking algorithms",
   Bioinformatics 30:1609, doi 10.1093/bioinformatics/btu080.
.. [3] Matula et al. (2015), "Cell tracking accuracy measurement based on comparison of acyclic
   oriented graphs", PLoS ONE 10:e0144959, doi 10.1371/journal.pone.0144959.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from gigaseg.labels import BoolArray, Contingency

Threshold = Literal["at_least", "above"]
Ids = npt.NDArray[np.uint64]

NOBODY: Ids = np.empty(0, np.uint64)

BATCH = 1000  # pairs; groups of objects are assigned together until there are so many


@dataclass(frozen=True)
class PixelCounts:
    """Pixels of a binary map against its truth; the positive class is the inside of cells.

    Examples
    --------
    >>> PixelCounts(tp=2, fp=1, fn=1, tn=0).iou
    0.5
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    def __add__(self, other: "PixelCounts") -> "PixelCounts":
        return PixelCounts(
            self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn
        )

    @property
    def error(self) -> float:
        """Pixel error: share of pixels that differ."""
        return _ratio(self.fp + self.fn, self.tp + self.fp + self.fn + self.tn)

    @property
    def f(self) -> float:
        """F-score or Dice coefficient, 2 tp / (2 tp + fp + fn); 1 if both maps are empty."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn, empty=1.0)

    @property
    def iou(self) -> float:
        """Intersection over union (Jaccard index), tp / (tp + fp + fn); 1 if both are empty."""
        return _ratio(self.tp, self.tp + self.fp + self.fn, empty=1.0)


def pixel_counts(truth: BoolArray, cells: BoolArray) -> PixelCounts:
    """Count agreeing and differing pixels of two binary maps of one shape.

    Examples
    --------
    >>> pixel_counts(np.array([True, True, False]), np.array([True, False, True]))
    PixelCounts(tp=1, fp=1, fn=1, tn=0)
    """
    if truth.shape != cells.shape:
        raise ValueError(f"Truth has shape {truth.shape}, the map {cells.shape}; they must agree.")
    both = int(np.count_nonzero(truth & cells))
    fn = int(np.count_nonzero(truth)) - both
    fp = int(np.count_nonzero(cells)) - both
    return PixelCounts(both, fp, fn, truth.size - both - fp - fn)


def foreground_counts(table: Contingency) -> PixelCounts:
    """Count voxels inside any truth instance against those inside any segment.

    Examples
    --------
    >>> from gigaseg.labels import contingency
    >>> foreground_counts(contingency(np.array([1, 2, 0]), np.array([7, 0, 0])))
    PixelCounts(tp=1, fp=0, fn=1, tn=1)
    """
    true, found = table.truth != 0, table.segment != 0
    kinds = (true & found, ~true & found, true & ~found, ~true & ~found)
    return PixelCounts(*(int(table.voxels[kind].sum()) for kind in kinds))


@dataclass(frozen=True)
class MatchCounts:
    """Instances matched one to one at an IoU threshold.

    Attributes
    ----------
    tp, fp, fn : int
        Matched pairs, unmatched segments, unmatched truth instances.
    sum_iou : float
        IoU summed over the matched pairs.

    Examples
    --------
    >>> (MatchCounts(tp=1, fp=1, fn=0, sum_iou=0.8) + MatchCounts(fn=1)).f1
    0.5
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    sum_iou: float = 0.0

    def __add__(self, other: "MatchCounts") -> "MatchCounts":
        return MatchCounts(
            self.tp + other.tp,
            self.fp + other.fp,
            self.fn + other.fn,
            self.sum_iou + other.sum_iou,
        )

    @property
    def precision(self) -> float:
        """Share of segments that are matched."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of truth instances that are matched."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """2 tp / (2 tp + fp + fn); the recognition quality RQ of [1]_."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def ap(self) -> float:
        """tp / (tp + fp + fn): "AP" of DSB 2018, StarDist and Cellpose.

        It is the Jaccard index of the objects, not an area under a precision-recall curve.
        """
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def sq(self) -> float:
        """Mean IoU of the matched pairs: the segmentation quality of [1]_."""
        return _ratio(self.sum_iou, self.tp)

    @property
    def pq(self) -> float:
        """Panoptic quality, SQ · RQ [1]_ (which demands IoU above 0.5)."""
        return _ratio(2 * self.sum_iou, 2 * self.tp + self.fp + self.fn)


def match_counts(
    table: Contingency,
    thresholds: Sequence[float],
    *,
    match: Threshold = "at_least",
    spared: Ids = NOBODY,
) -> tuple[MatchCounts, ...]:
    """Match truth instances and segments one to one at each IoU threshold.

    Of all one-to-one assignments of pairs whose IoU meets the threshold, one with the most pairs
    is taken, and among these one with the largest sum of IoU. It is found per connected group of
    candidate pairs and without a dense table: a million objects are no trouble, even where low
    thresholds make one group of all.

    Parameters
    ----------
    table : Contingency
        Of the whole problem: IoU needs the sizes of whole objects.
    thresholds : sequence of float
        Written as decimals: an IoU of exactly 3/4 meets 0.75, not ``0.5 + 5 * 0.05``.
    match : {"at_least", "above"}
        IoU >= threshold (StarDist, Cellpose, elf, DSB 2018) or IoU > threshold [1]_. An IoU of
        exactly 0.5 is frequent: a merge of two equal cells has it with both.
    spared : ndarray of uint64, optional
        Sorted ids of segments that are no false positives if they match nothing: those that lie
        mostly where the truth is not known, see `Contingency.without`. These are the void labels
        of [1]_, section 4.

    Returns
    -------
    tuple of MatchCounts
        One per threshold.

    Examples
    --------
    >>> from gigaseg.labels import contingency
    >>> table = contingency(np.array([1, 1, 0, 2]), np.array([7, 7, 7, 0]))
    >>> match_counts(table, [0.5])
    (MatchCounts(tp=1, fp=0, fn=1, sum_iou=0.6666666666666666),)
    """
    overlap = _Overlap.of(table, spared)
    iou = overlap.iou
    results = []
    for threshold in thresholds:
        candidate = iou >= threshold if match == "at_least" else iou > threshold
        segment, value = overlap.segment[candidate], iou[candidate]
        pairs = _assign(overlap.truth[candidate], segment, value)
        tp = pairs.size
        results.append(
            MatchCounts(
                tp,
                fp=overlap.blamed_but(segment[pairs]),
                fn=overlap.truths - tp,
                sum_iou=math.fsum(value[pairs]),
            )
        )
    return tuple(results)


@dataclass(frozen=True)
class CtcCounts:
    """Counts behind SEG [2]_ and DET [3]_ of the Cell Tracking Challenge.

    A segment covers a reference object if it holds more than half of its voxels (strictly), so an
    object is covered once at most, while a segment may cover several.

    Attributes
    ----------
    references : int
        Reference (truth) objects.
    sum_jaccard : float
        Jaccard index with the covering segment, summed over reference objects (0 if uncovered).
    splits : int
        NS: for each segment that covers several objects, how many too many.
    fn, fp : int
        Objects not covered; segments covering nothing.
    """

    references: int = 0
    sum_jaccard: float = 0.0
    splits: int = 0
    fn: int = 0
    fp: int = 0

    def __add__(self, other: "CtcCounts") -> "CtcCounts":
        return CtcCounts(
            self.references + other.references,
            self.sum_jaccard + other.sum_jaccard,
            self.splits + other.splits,
            self.fn + other.fn,
            self.fp + other.fp,
        )

    @property
    def seg(self) -> float:
        """SEG: mean Jaccard index over reference objects; false positives cost nothing."""
        return _ratio(self.sum_jaccard, self.references)

    @property
    def det(self) -> float:
        """DET = 1 - min(D, D0) / D0 with D = 5 NS + 10 FN + FP and D0 = 10 references."""
        worst = 10 * self.references
        return 1 - _ratio(min(5 * self.splits + 10 * self.fn + self.fp, worst), worst)


def ctc_counts(table: Contingency, *, spared: Ids = NOBODY) -> CtcCounts:
    """Count what SEG and DET need, from the table of a whole problem.

    Parameters
    ----------
    table : Contingency
    spared : ndarray of uint64, optional
        As for `match_counts`.

    Examples
    --------
    >>> from gigaseg.labels import contingency
    >>> counts = ctc_counts(contingency(np.array([1, 1, 2, 2]), np.array([7, 7, 7, 7])))
    >>> counts.seg, counts.det
    (0.5, 0.75)
    """
    overlap = _Overlap.of(table, spared)
    covers = 2 * overlap.voxels > overlap.truth_voxels[overlap.truth]
    covered = int(np.count_nonzero(covers))
    covering = np.flatnonzero(np.bincount(overlap.segment[covers]))
    return CtcCounts(
        references=overlap.truths,
        sum_jaccard=math.fsum(overlap.iou[covers]),
        splits=covered - covering.size,
        fn=overlap.truths - covered,
        fp=overlap.blamed_but(covering),
    )


@dataclass(frozen=True)
class _Overlap:
    """Pairs of overlapping objects as indices 0, 1, … and the sizes of the objects."""

    truth: npt.NDArray[np.intp]
    segment: npt.NDArray[np.intp]
    voxels: npt.NDArray[np.int64]
    truth_voxels: npt.NDArray[np.int64]
    segment_voxels: npt.NDArray[np.int64]
    spared: npt.NDArray[np.intp]

    @classmethod
    def of(cls, table: Contingency, spared: Ids) -> "_Overlap":
        """Drop the background, but count it in the objects' sizes."""
        pairs = table.where((table.truth != 0) & (table.segment != 0))
        truth_ids, truth_voxels = _objects(*table.truth_sizes())
        segment_ids, segment_voxels = _objects(*table.segment_sizes())
        return cls(
            np.searchsorted(truth_ids, pairs.truth),
            np.searchsorted(segment_ids, pairs.segment),
            pairs.voxels,
            truth_voxels,
            segment_voxels,
            np.flatnonzero(np.isin(segment_ids, spared)),
        )

    @property
    def truths(self) -> int:
        return self.truth_voxels.size

    def blamed_but(self, found: npt.NDArray[np.intp]) -> int:
        """Count the segments that are neither among those found nor spared."""
        blamed = np.ones(self.segment_voxels.size, bool)
        blamed[found] = blamed[self.spared] = False
        return int(np.count_nonzero(blamed))

    @property
    def iou(self) -> npt.NDArray[np.float64]:
        """Correctly rounded, so that 3/4 compares equal to the decimal 0.75."""
        union = self.truth_voxels[self.truth] + self.segment_voxels[self.segment] - self.voxels
        return self.voxels / union


def _objects(ids: Ids, voxels: npt.NDArray[np.int64]) -> tuple[Ids, npt.NDArray[np.int64]]:
    background = int(ids.size > 0 and ids[0] == 0)
    return ids[background:], voxels[background:]


def _assign(
    truth: npt.NDArray[np.intp], segment: npt.NDArray[np.intp], iou: npt.NDArray[np.float64]
) -> npt.NDArray[np.intp]:
    """Return the positions of the pairs of the best one-to-one assignment."""
    partners, rivals = np.bincount(truth)[truth], np.bincount(segment)[segment]
    alone = (partners == 1) & (rivals == 1)
    chosen, rest = [np.flatnonzero(alone)], np.flatnonzero(~alone)
    for batch, smaller in _groups(truth[rest], segment[rest]):
        pairs = rest[batch]
        # A pair is worth 1, its IoU less than 1/2 over all of its group: number first, then sum.
        gain = 1 + iou[pairs] / (2 * smaller)
        chosen.append(pairs[_solve(truth[pairs], segment[pairs], gain)])
    return np.concatenate(chosen)


def _solve(
    truth: npt.NDArray[np.intp], segment: npt.NDArray[np.intp], gain: npt.NDArray[np.float64]
) -> npt.NDArray[np.intp]:
    """Return the positions of the pairs with the largest gain in all, from 1 to 3/2 each."""
    rows, row = np.unique(truth, return_inverse=True)
    columns, column = np.unique(segment, return_inverse=True)
    # Every row has a column of its own that is worth nothing, so that all rows can be assigned.
    own = np.arange(rows.size)
    cost = np.concatenate([2 - gain, np.full(rows.size, 2.0)])  # at least 1/2: a zero is no edge
    ends = np.concatenate([row, own]), np.concatenate([column, columns.size + own])
    graph = coo_array((cost, ends), shape=(rows.size, columns.size + rows.size)).tocsr()
    taken, by = min_weight_full_bipartite_matching(graph)
    partner = np.empty(rows.size, np.intp)
    partner[taken] = by
    return np.flatnonzero(partner[row] == column)


def _groups(
    truth: npt.NDArray[np.intp], segment: npt.NDArray[np.intp]
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Yield the positions of the pairs of whole connected groups of objects, some at a time.

    With each pair comes the number of truth objects or of segments of its group, the smaller one.
    """
    if truth.size == 0:
        return
    nodes = int(truth.max()) + 1
    size = nodes + int(segment.max()) + 1
    graph = coo_array((np.ones(truth.size, bool), (truth, segment + nodes)), shape=(size, size))
    number, group = connected_components(graph, directed=False)
    there = np.bincount(np.concatenate([truth, segment + nodes]), minlength=size) > 0
    left = np.bincount(group[:nodes][there[:nodes]], minlength=number)
    right = np.bincount(group[nodes:][there[nodes:]], minlength=number)
    of = group[truth]
    smaller, order = np.minimum(left, right)[of], np.argsort(of, kind="stable")
    starts = np.flatnonzero(np.diff(of[order], prepend=-1))
    # The first group that begins at or after each multiple of BATCH begins a batch.
    cuts = np.unique(np.searchsorted(starts, np.arange(BATCH, truth.size, BATCH)))
    for batch in np.split(order, starts[cuts[cuts < starts.size]]):
        yield batch, smaller[batch]


def _ratio(part: float, whole: float, empty: float = math.nan) -> float:
    return part / whole if whole else empty
