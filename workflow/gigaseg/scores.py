"""From counts to scores: which metrics there are, and how samples are pooled and averaged.

A *tally* holds everything that is known about the quality of one sample: counts by family and
threshold. Tallies add up, and a score is taken from counts only at the very end, so that pooled
scores are exact whatever the number and size of the samples.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, cast

from .calibration import CalibrationCounts
from .labels import Contingency
from .maps import BoundaryMap
from .matching import (
    CtcCounts,
    MatchCounts,
    PixelCounts,
    ctc_counts,
    foreground_counts,
    match_counts,
)
from .offsets import OffsetCounts
from .rand import (
    InformationCounts,
    RandCounts,
    adapted_rand_counts,
    information_counts,
    rand_counts,
)
from .warping import WarpingCounts


@dataclass(frozen=True)
class Mean:
    """A score averaged over planes: the sum over those where it is defined, and their number."""

    total: float = 0.0
    planes: int = 0

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.planes + other.planes)

    @classmethod
    def of(cls, value: float) -> "Mean":
        """Return the mean of a single plane; an undefined score counts for nothing."""
        return cls() if math.isnan(value) else cls(value, 1)

    @property
    def value(self) -> float:
        """The mean; NaN over no planes."""
        return self.total / self.planes if self.planes else math.nan


Counts = (
    PixelCounts
    | RandCounts
    | InformationCounts
    | WarpingCounts
    | MatchCounts
    | CtcCounts
    | CalibrationCounts
    | OffsetCounts
    | Mean
)
Key = tuple[str, float | None]  # family, and the threshold it was counted at
Tally = dict[Key, Counts]


@dataclass(frozen=True)
class Family:
    """Counts of one kind and the metrics that are properties of them."""

    counts: type
    metrics: Mapping[str, str]


FAMILIES: dict[str, Family] = {
    # of the instances
    "foreground": Family(PixelCounts, {"dice": "f", "iou": "iou"}),
    "matching": Family(
        MatchCounts,
        {name: name for name in ("f1", "ap", "pq", "sq", "precision", "recall")},
    ),
    "ctc": Family(CtcCounts, {"seg": "seg", "det": "det"}),
    "rand": Family(RandCounts, {"rand": "f", "rand_split": "split", "rand_merge": "merge"}),
    "adapted_rand": Family(RandCounts, {"adapted_rand_error": "error"}),
    "voi": Family(InformationCounts, {"voi_split": "voi_split", "voi_merge": "voi_merge"}),
    # of the class map, where the network learns two classes
    "class_interior": Family(PixelCounts, {"dice_interior": "f", "iou_interior": "iou"}),
    "class_boundary": Family(PixelCounts, {"dice_boundary": "f", "iou_boundary": "iou"}),
    # of the probabilities as such
    "calibration": Family(CalibrationCounts, {"calibration_error": "error"}),
    "offset": Family(OffsetCounts, {"offset": "length"}),
    # of the probability map, per threshold
    "pixel": Family(PixelCounts, {"pixel_error": "error", "pixel_f": "f"}),
    "v_rand": Family(Mean, {"v_rand": "value"}),
    "v_info": Family(Mean, {"v_info": "value"}),
    "v_rand_pooled": Family(RandCounts, {"v_rand_pooled": "f"}),
    "warping": Family(
        WarpingCounts, {"warping_error": "error", "splits_and_mergers": "splits_and_mergers"}
    ),
}

# Metrics of the probability map that are quoted at their best threshold, as the challenge does.
BEST = {
    "pixel_error": min,
    "pixel_f": max,
    "v_rand": max,
    "v_rand_pooled": max,
    "v_info": max,
    "warping_error": min,
    "splits_and_mergers": min,
}


@dataclass(frozen=True)
class Score:
    """One number.

    Attributes
    ----------
    metric : str
    at : float or None
        The threshold; None for a metric without one, and for the best over thresholds.
    value : float
    n : int
        Samples behind the value.
    family, counts : str
        Family and JSON text of the counts it was taken from; the chosen threshold for a best.
    """

    metric: str
    at: float | None
    value: float
    n: int = 1
    family: str = ""
    counts: str = ""


def tally_map(
    plane: BoundaryMap,
    *,
    thresholds: Sequence[float],
    radius: int,
    workers: int = 1,
    step: Callable[[], None] = lambda: None,
) -> Tally:
    """Count what boundary-map metrics need on one plane.

    Parameters
    ----------
    plane : BoundaryMap
        Probabilities and truth.
    thresholds : sequence of float
        A pixel is a cell iff p > threshold. The pixel error is also counted at 0.5.
    radius : int
        See `gigaseg.warping.warping_counts`.
    workers : int
        Thresholds worked on at once, in threads; they never change a value.
    step : callable
        Called whenever a threshold is done, from any thread.
    """

    def at(threshold: float) -> Tally:
        counts = tally_thinned(plane, threshold) | tally_warping(plane, threshold, radius)
        step()
        return counts

    tally: Tally = {("pixel", t): plane.pixels(t) for t in sorted({*thresholds, 0.5})}
    tally["offset", None] = plane.offset()
    with ThreadPoolExecutor(workers) as pool:
        for part in pool.map(at, thresholds):
            tally |= part
    return tally


def tally_thinned(plane: BoundaryMap, threshold: float) -> Tally:
    """Count what V-Rand and V-Info need of a plane, which is thinned at a threshold."""
    table = plane.thinned(threshold)
    pairs = rand_counts(table)
    return {
        ("v_rand", threshold): Mean.of(pairs.f),
        ("v_info", threshold): Mean.of(information_counts(table).f),
        ("v_rand_pooled", threshold): pairs,
    }


def tally_warping(plane: BoundaryMap, threshold: float, radius: int) -> Tally:
    """Count what is left of a plane's truth that is warped at a threshold."""
    return {("warping", threshold): plane.warping(threshold, radius)}


def tally_instances(
    table: Contingency,
    *,
    iou_thresholds: Sequence[float],
    iou_match: Any,
    ignored: int | None = None,
) -> Tally:
    """Count what instance metrics need, from the table of one whole problem.

    Voxels whose truth is `ignored` count nowhere: not in sizes, overlaps, pairs. A segment that
    has more than half of its voxels there, and matches nothing, is no false positive.
    """
    table, spared = table.without(ignored)
    matches = match_counts(table, iou_thresholds, match=iou_match, spared=spared)
    return {
        ("foreground", None): foreground_counts(table),
        ("rand", None): rand_counts(table),
        ("adapted_rand", None): adapted_rand_counts(table),
        ("voi", None): information_counts(table, background="object"),
        ("ctc", None): ctc_counts(table, spared=spared),
        **{("matching", at): m for at, m in zip(iou_thresholds, matches, strict=True)},
    }


def add(tallies: Iterable[Tally]) -> Tally:
    """Pool tallies: problems stay apart, their counts add up."""
    total: Tally = {}
    for tally in tallies:
        for key, counts in tally.items():
            total[key] = total[key] + counts if key in total else counts  # type: ignore[operator]
    return total


def score(tally: Tally, *, n: int = 1) -> list[Score]:
    """Take all scores of a tally, best ones over thresholds included."""
    scores = [
        Score(metric, at, float(getattr(counts, name)), n, family, encode(counts))
        for (family, at), counts in tally.items()
        for metric, name in FAMILIES[family].metrics.items()
    ]
    return [*scores, *_summarise(scores)]


def average(samples: Sequence[Sequence[Score]]) -> list[Score]:
    """Average scores over the samples where they are defined.

    A best over thresholds is the best of the averages, at one threshold common to all samples.
    """
    values: dict[tuple[str, float | None], list[float]] = defaultdict(list)
    for scores in samples:
        for one in scores:
            if one.family:
                values[one.metric, one.at] += [] if math.isnan(one.value) else [one.value]
    means = [
        Score(metric, at, math.fsum(v) / len(v) if v else math.nan, len(v))
        for (metric, at), v in values.items()
    ]
    return [*means, *_summarise(means)]


def encode(counts: Counts) -> str:
    """Write counts as JSON text: whole numbers of any size survive."""
    return json.dumps(asdict(counts), sort_keys=True, separators=(",", ":"))


def decode(family: str, text: str) -> Counts:
    """Read what `encode` wrote.

    Examples
    --------
    >>> decode("pixel", encode(PixelCounts(tp=10**20))).tp == 10**20
    True
    """
    return cast(Counts, FAMILIES[family].counts(**json.loads(text)))


def _summarise(scores: Sequence[Score]) -> Iterator[Score]:
    """Yield the best over thresholds of the metrics in `BEST`, and the mean AP."""
    curves: dict[str, list[Score]] = defaultdict(list)
    for one in scores:
        if one.at is not None:
            curves[one.metric].append(one)
    for metric, pick in BEST.items():
        if metric in curves:
            yield _best(metric, curves[metric], pick)
    if "ap" in curves:
        value = math.fsum(one.value for one in curves["ap"]) / len(curves["ap"])
        yield Score("mean_ap", None, value, curves["ap"][0].n)


def _best(metric: str, curve: Sequence[Score], pick: Any) -> Score:
    defined = [one for one in curve if not math.isnan(one.value)]
    if not defined:
        return Score(metric, None, math.nan, curve[0].n)
    best = pick(defined, key=lambda one: one.value)  # of equals the lowest threshold, listed first
    chosen = json.dumps({"threshold": best.at}, separators=(",", ":"))
    return Score(metric, None, best.value, best.n, "", chosen)
