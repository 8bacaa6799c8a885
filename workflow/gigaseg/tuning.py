"""Scores that tuning compares, and which combination is the best.

Most are of instances, from contingency tables, and better if they are higher. Those in `MAPS` are
of the probability map at a threshold, as the ISBI 2012 challenge takes them, and have the direction
that `gigaseg.scores.BEST` gives them. They are pooled or means over samples, as those of the
evaluation are.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .labels import Contingency
from .maps import BoundaryMap
from .matching import Threshold, ctc_counts, foreground_counts, match_counts
from .rand import rand_counts
from .scores import BEST, FAMILIES, Tally, tally_thinned, tally_warping

Ids = npt.NDArray[np.uint64]
Aggregation = Literal["pooled", "mean"]
Counts = tuple[Any, ...]  # one for each IoU threshold; one alone where there are none


@dataclass(frozen=True)
class Aim:
    """What tuning makes as good as it can be: the ``tune`` section of the settings, but its grid.

    Attributes
    ----------
    metric : str
        A key of `SCORES` or of `MAPS`.
    iou_thresholds : tuple of float
        ``ap``, ``f1`` and ``pq`` are means over these; the others do not use them.
    iou_match : {"at_least", "above"}
        Whether an IoU equal to the threshold counts.
    warping_radius : int
        See `gigaseg.warping.warping_counts`; only ``splits_and_mergers`` uses it.
    aggregation : {"pooled", "mean"}
        Whether the counts of all samples are added before a score is taken, so that large samples
        and those with many objects weigh more, or each sample has its own, and all weigh the same.
    """

    metric: str
    iou_thresholds: tuple[float, ...]
    iou_match: Threshold
    warping_radius: int = 20
    aggregation: Aggregation = "pooled"

    @property
    def of_map(self) -> bool:
        """Whether the score is of the probability map, not of instances."""
        return self.metric in MAPS

    @property
    def pick(self) -> Any:
        """`max` or `min`: what takes the better of two scores."""
        return BEST.get(self.metric, max)

    def count(self, tables: Iterable[Contingency], ignored: int | None = None) -> Counts:
        """Count what the metric needs, over whole problems; of at least one.

        Voxels whose truth is `ignored` count nowhere, as in `gigaseg.scores.tally_instances`.
        """
        count = SCORES[self.metric][0]
        return self.add(count(self, *table.without(ignored)) for table in tables)

    def count_map(self, plane: BoundaryMap, threshold: float) -> Counts:
        """Count what a metric of the map needs, on one plane cut at a threshold.

        These are the counts of `gigaseg.scores.tally_map` at that threshold.
        """
        family, tally = MAPS[self.metric]
        return (tally(self, plane, threshold)[family, threshold],)

    def add(self, parts: Iterable[Counts]) -> Counts:
        """Pool counts; of at least one problem."""
        return reduce(_add, parts)

    def score(self, counts: Counts) -> float:
        """Take the score of counts; NaN where it is not defined.

        Examples
        --------
        >>> from gigaseg.labels import contingency
        >>> aim = Aim("ap", (0.5, 0.75), "at_least")
        >>> aim.score(aim.count([contingency(np.array([1, 1, 2]), np.array([1, 0, 2]))]))
        0.666...
        """
        values = [float(getattr(one, self._property)) for one in counts]
        return math.fsum(values) / len(values)

    def overall(self, samples: Sequence[Counts]) -> float:
        """Take one score of the counts of several samples; NaN where it is not defined.

        A mean leaves out the samples where it is not.

        Examples
        --------
        >>> from gigaseg.labels import contingency
        >>> pooled = Aim("ap", (0.5,), "at_least")
        >>> one = pooled.count([contingency(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 4]))])
        >>> two = pooled.count([contingency(np.array([1]), np.array([0]))])
        >>> pooled.overall([one, two])
        0.8
        >>> Aim("ap", (0.5,), "at_least", aggregation="mean").overall([one, two])
        0.5
        """
        if self.aggregation == "pooled":
            return self.score(self.add(samples))
        defined = [score for score in map(self.score, samples) if not math.isnan(score)]
        return math.fsum(defined) / len(defined) if defined else math.nan

    @property
    def _property(self) -> str:
        if self.of_map:
            return FAMILIES[MAPS[self.metric][0]].metrics[self.metric]
        return SCORES[self.metric][1]


def _add(one: Counts, two: Counts) -> Counts:
    return tuple(a + b for a, b in zip(one, two, strict=True))


def _match(aim: Aim, table: Contingency, spared: Ids) -> Counts:
    return match_counts(table, aim.iou_thresholds, match=aim.iou_match, spared=spared)


#: What is counted for each metric, and which property of the counts it is.
SCORES: Mapping[str, tuple[Callable[[Aim, Contingency, Ids], Counts], str]] = {
    "ap": (_match, "ap"),
    "f1": (_match, "f1"),
    "pq": (_match, "pq"),
    "seg": (lambda _, table, __: (ctc_counts(table),), "seg"),
    "det": (lambda _, table, __: (ctc_counts(table),), "det"),
    "dice": (lambda _, table, __: (foreground_counts(table),), "f"),
    "iou": (lambda _, table, __: (foreground_counts(table),), "iou"),
    "rand": (lambda _, table, __: (rand_counts(table),), "f"),
}

#: Of the map: the family of `gigaseg.scores.FAMILIES` that is counted, and by what.
MAPS: Mapping[str, tuple[str, Callable[[Aim, BoundaryMap, float], Tally]]] = {
    "v_rand": ("v_rand", lambda _, plane, at: tally_thinned(plane, at)),
    "v_info": ("v_info", lambda _, plane, at: tally_thinned(plane, at)),
    "splits_and_mergers": (
        "warping",
        lambda aim, plane, at: tally_warping(plane, at, aim.warping_radius),
    ),
}


def cross_score(aim: Aim, counted: Sequence[Sequence[Counts]], ways: int = 10) -> float:
    """Score samples with combinations that were chosen without them.

    Unlike the score of the chosen combination, it does not flatter by the choice. Samples stay in
    order and are cut into runs, as neighbours may be alike; each run is scored with what is best
    on all the others. What else was chosen by looking at the samples still flatters.

    Parameters
    ----------
    aim : Aim
    counted : sequence of sequence of Counts
        Per sample, the counts of every combination.
    ways : int
        Runs, at most one per sample.

    Returns
    -------
    float
        NaN if there are fewer than two samples, or if some of the choices or the score are not
        defined.

    Examples
    --------
    >>> from gigaseg.labels import contingency
    >>> aim = Aim("ap", (0.5,), "at_least", aggregation="mean")
    >>> truth = np.array([1, 1, 2, 2])
    >>> right, wrong = (aim.count([contingency(truth, found)]) for found in (truth, 0 * truth))
    >>> cross_score(aim, [[right, wrong], [right, wrong]])
    1.0
    >>> cross_score(aim, [[right, wrong], [wrong, right]])
    0.0
    """
    if len(counted) < 2:
        return math.nan
    taken: list[Counts] = []
    for run in np.array_split(np.arange(len(counted)), min(ways, len(counted))):
        first, stop = int(run[0]), int(run[-1]) + 1
        others = [*counted[:first], *counted[stop:]]
        scores = [aim.overall(parts) for parts in zip(*others, strict=True)]
        if all(map(math.isnan, scores)):
            return math.nan
        best = choose(scores, aim.pick)
        taken += [counts[best] for counts in counted[first:stop]]
    return aim.overall(taken)


def drop_small(table: Contingency, minimum_size: int) -> Contingency:
    """Make background of the segments of a whole problem that have fewer voxels.

    It gives what `gigaseg.objects.drop_small` does to the labels, without their being made again.

    Examples
    --------
    >>> from gigaseg.labels import contingency
    >>> table = drop_small(contingency(np.array([5, 5, 5]), np.array([1, 2, 2])), 2)
    >>> table.segment.tolist(), table.voxels.tolist()
    ([0, 2], [1, 2])
    """
    ids, voxels = table.segment_sizes()
    small = np.isin(table.segment, ids[(voxels < minimum_size) & (ids > 0)])
    gone = table.where(small)
    background = np.zeros_like(gone.segment)
    return table.where(~small) + Contingency(gone.truth, background, gone.voxels)


def choose(scores: Sequence[float], pick: Any = max) -> int:
    """Return the index of the best score: of equals the first; one that is NaN never.

    Parameters
    ----------
    scores : sequence of float
    pick : callable
        `max`, or `min` if lower is better.

    Raises
    ------
    ValueError
        If all are NaN.

    Examples
    --------
    >>> choose([float("nan"), 0.5, 0.7, 0.7]), choose([float("nan"), 0.5, 0.7, 0.5], min)
    (2, 1)
    """
    defined = [k for k, score in enumerate(scores) if not math.isnan(score)]
    if not defined:
        raise ValueError("no combination has a score")
    return int(pick(defined, key=lambda k: scores[k]))
