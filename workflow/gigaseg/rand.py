"""Rand and information-theoretic scores of a segmentation, restricted to the truth's foreground.

Everything here is computed from a contingency table (`gigaseg.labels.contingency`). Two kinds of
sum keep a score exact at any size: tables of parts of *one* problem (blocks of a volume) add up by
``Contingency.__add__``; counts of *independent* problems (planes, samples) add up by
``RandCounts.__add__`` and ``InformationCounts.__add__``, and then no pair across problems counts.

Conventions, where published programs differ:

* Voxels that are background in the truth are dropped.
* Background of the segmentation inside the truth's foreground is, by choice, ``"singletons"``
  (every voxel a segment of its own: the ISBI 2012 challenge) or ``"object"`` (one segment:
  scikit-image, funlib, waterz).
* A score that is 0/0, as all are for a truth without foreground, is NaN; the challenge's program
  returns 0 there.

References
----------
.. [1] Arganda-Carreras et al. (2015), "Crowdsourcing the creation of image segmentation algorithms
   for connectomics", Front. Neuroanat. 9:142, doi 10.3389/fnana.2015.00142.
.. [2] Meila (2007), "Comparing clusterings: an information based distance", J. Multivar. Anal. 98.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Literal

import numpy as np
import numpy.typing as npt

from gigaseg.labels import Contingency

Background = Literal["singletons", "object"]


@dataclass(frozen=True)
class RandCounts:
    """Ordered voxel pairs of one or several independent problems; `+` pools them exactly.

    With ``n_ij`` voxels of truth label i and segment j (truth foreground only):

    Attributes
    ----------
    pairs : int
        All pairs, N².
    truth : int
        Pairs within one truth label, sum_i (sum_j n_ij)².
    segments : int
        Pairs within one segment, sum_j (sum_i n_ij)².
    joint : int
        Pairs within one of both, sum_ij n_ij².

    Examples
    --------
    >>> RandCounts(pairs=16, truth=8, segments=16, joint=8).merge
    0.5
    """

    pairs: int = 0
    truth: int = 0
    segments: int = 0
    joint: int = 0

    def __add__(self, other: "RandCounts") -> "RandCounts":
        return RandCounts(
            self.pairs + other.pairs,
            self.truth + other.truth,
            self.segments + other.segments,
            self.joint + other.joint,
        )

    @property
    def split(self) -> float:
        """Split score, joint / truth: 1 if no truth label is cut (also called recall)."""
        return _ratio(self.joint, self.truth)

    @property
    def merge(self) -> float:
        """Merge score, joint / segments: 1 if no segment joins truth labels (precision)."""
        return _ratio(self.joint, self.segments)

    @property
    def f(self) -> float:
        """Rand F-score, 2 joint / (truth + segments): V_Rand at alpha = 1/2 of [1]_."""
        return _ratio(2 * self.joint, self.truth + self.segments)

    @property
    def error(self) -> float:
        """Rand error, 1 - F."""
        return 1.0 - self.f

    @property
    def index(self) -> float:
        """Rand index: share of pairs on which truth and segmentation agree."""
        return _ratio(self.pairs - self.truth - self.segments + 2 * self.joint, self.pairs)


def rand_counts(
    table: Contingency, *, background: Background = "singletons", self_pairs: bool = True
) -> RandCounts:
    """Count the voxel pairs of a contingency table, in whole numbers of any size.

    Parameters
    ----------
    table : Contingency
    background : {"singletons", "object"}
        What segment 0 is inside the truth's foreground.
    self_pairs : bool
        Count the pair of a voxel with itself (the challenge's "N² normalisation"); False counts
        n² - n pairs, as scikit-image does.

    Examples
    --------
    >>> from gigaseg.labels import contingency
    >>> table = contingency(np.array([0, 1, 1, 2, 2]), np.array([9, 3, 3, 3, 0]))
    >>> rand_counts(table)
    RandCounts(pairs=16, truth=8, segments=10, joint=6)
    """
    truth, segments, joint, loose = _clusters(table, background)
    total = int(truth.sum())
    own = 0 if self_pairs else total
    return RandCounts(
        pairs=total * total - own,
        truth=_squares(truth) - own,
        segments=_squares(segments) + loose - own,
        joint=_squares(joint) + loose - own,
    )


def adapted_rand_counts(table: Contingency) -> RandCounts:
    """Count pairs as scikit-image does: background is one segment, and no voxel pairs with itself.

    Its ``adapted_rand_error`` is the `error` of these counts; the ISBI challenge's Rand error is
    that of `rand_counts`. NaN if no two voxels share a truth label or a segment.

    Examples
    --------
    >>> from gigaseg.labels import contingency
    >>> adapted_rand_counts(contingency(np.array([1, 1, 1]), np.array([4, 4, 0]))).error
    0.5
    """
    return rand_counts(table, background="object", self_pairs=False)


@dataclass(frozen=True)
class InformationCounts:
    """Sums of n ln n of one or several independent problems; `+` pools them.

    Entropies follow as H(X) = (whole - x) / voxels in nats. For a sum of problems this is the mean
    of their entropies weighted by voxels.

    Attributes
    ----------
    voxels : int
        Voxels in the truth's foreground, N.
    whole, truth, segments, joint : float
        Sum of n ln n with n = N, voxels per truth label, per segment, and per pair of both.
    """

    voxels: int = 0
    whole: float = 0.0
    truth: float = 0.0
    segments: float = 0.0
    joint: float = 0.0

    def __add__(self, other: "InformationCounts") -> "InformationCounts":
        return InformationCounts(
            self.voxels + other.voxels,
            self.whole + other.whole,
            self.truth + other.truth,
            self.segments + other.segments,
            self.joint + other.joint,
        )

    @property
    def split(self) -> float:
        """I(S; T) / H(S): 1 if no truth label is cut (also called recall)."""
        return _ratio(self._information, self.whole - self.segments)

    @property
    def merge(self) -> float:
        """I(S; T) / H(T): 1 if no segment joins truth labels (precision)."""
        return _ratio(self._information, self.whole - self.truth)

    @property
    def f(self) -> float:
        """2 I(S; T) / (H(S) + H(T)): V_Info at alpha = 1/2 of [1]_.

        NaN if truth and segmentation are one cluster each: there is nothing to know.
        """
        return _ratio(
            2 * self._information, (self.whole - self.truth) + (self.whole - self.segments)
        )

    @property
    def voi_split(self) -> float:
        """H(S | T) in bits: the over-segmentation part of the variation of information [2]_."""
        return _ratio(self.truth - self.joint, self.voxels * math.log(2))

    @property
    def voi_merge(self) -> float:
        """H(T | S) in bits: the under-segmentation part of the variation of information [2]_."""
        return _ratio(self.segments - self.joint, self.voxels * math.log(2))

    @property
    def _information(self) -> float:
        """N times the mutual information; exactly 0 if either side is one cluster."""
        return (self.whole - self.segments) - (self.truth - self.joint)


def information_counts(
    table: Contingency, *, background: Background = "singletons"
) -> InformationCounts:
    """Sum n ln n over the clusters of a contingency table, each sum correctly rounded.

    Parameters
    ----------
    table : Contingency
    background : {"singletons", "object"}
        What segment 0 is inside the truth's foreground. V_Info takes singletons, the variation of
        information of all published programs one object.

    Examples
    --------
    >>> from gigaseg.labels import contingency
    >>> table = contingency(np.array([1, 1, 2, 2]), np.array([3, 3, 3, 3]))
    >>> information_counts(table, background="object").voi_merge
    1.0
    """
    truth, segments, joint, _ = _clusters(table, background)  # a singleton adds 1 ln 1 = 0
    total = int(truth.sum())
    return InformationCounts(
        voxels=total,
        whole=_n_log_n(np.array([total])),
        truth=_n_log_n(truth),
        segments=_n_log_n(segments),
        joint=_n_log_n(joint),
    )


Sizes = npt.NDArray[np.int64]


def _clusters(table: Contingency, background: Background) -> tuple[Sizes, Sizes, Sizes, int]:
    """Return voxels per truth label, per segment, per pair, and how many are singletons."""
    table = table.where(table.truth != 0)
    truth = table.truth_sizes()[1]
    loose = 0
    if background == "singletons":
        loose = int(table.voxels[table.segment == 0].sum())
        table = table.where(table.segment != 0)
    return truth, table.segment_sizes()[1], table.voxels, loose


def _tell_apart(sizes: Sizes) -> Iterator[tuple[int, int]]:
    """Yield every size that occurs and how often: of a million objects, few sizes differ."""
    unique, counts = np.unique(sizes, return_counts=True)
    yield from zip(unique.tolist(), counts.tolist(), strict=True)


def _squares(sizes: Sizes) -> int:
    # Python's integers: 2**32 voxels squared overflow 64 bit
    return sum(n * n * times for n, times in _tell_apart(sizes))


def _n_log_n(sizes: Sizes) -> float:
    terms = (repeat(n * math.log(n), times) for n, times in _tell_apart(sizes) if n)
    return math.fsum(chain.from_iterable(terms))  # n ln n times a number would round twice


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
