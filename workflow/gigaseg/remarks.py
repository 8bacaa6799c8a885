"""What is odd about a sample and decides which of its scores are defined, in plain words."""

import math

from .matching import CtcCounts, PixelCounts
from .offsets import OffsetCounts
from .scores import Tally

NEAR = 0.25  # px; what is less is not worth a word


def remark(tally: Tally, voxels: int) -> list[str]:
    """Say what is degenerate about truth and instances of one sample.

    Parameters
    ----------
    tally : Tally
        Counts of the sample, see `gigaseg.scores`.
    voxels : int
        Of the sample; those that were not counted are not annotated.

    Returns
    -------
    list of str
        One sentence each; empty for an ordinary sample.

    Examples
    --------
    >>> nothing = PixelCounts(tp=0, fp=0, fn=0, tn=9)
    >>> remark({("foreground", None): nothing, ("ctc", None): CtcCounts()}, 9)[1]
    'no instance was found'
    """
    cover, objects = tally["foreground", None], tally["ctc", None]
    assert isinstance(cover, PixelCounts)
    assert isinstance(objects, CtcCounts)
    known = cover.tp + cover.fp + cover.fn + cover.tn
    told = []
    if known < voxels:
        share = f"{1 - known / voxels:.1%}"
        told.append(f"{share} of the voxels are not annotated and left out of every score")
    if not known:
        return [*told, "nothing is annotated: no score is defined"]
    if not cover.tp + cover.fn:
        told.append("the truth is empty: scores that need an object are not defined")
    elif not cover.tn + cover.fp:
        told.append("the truth has no background: no instance can be invented")
    if not cover.tp + cover.fp:
        told.append("no instance was found")
    if objects.references == 1:
        told.append("the truth is one single object: no objects can be merged, V-Info says nothing")
    return told


def remark_offset(counts: OffsetCounts) -> str | None:
    """Say where the truth of a data set lies from the map, if it does not lie on it.

    Examples
    --------
    >>> remark_offset(OffsetCounts(y=25, yy=100, x=-10, xx=100))
    'the truth lies 0.5 px above and 0.2 px right of the map'
    >>> remark_offset(OffsetCounts(y=2, yy=100, x=-1, xx=100))
    """
    if math.isnan(counts.length) or counts.length < NEAR:
        return None
    sides = ("above", "below"), ("left of", "right of")
    pairs = zip(counts.vector, sides, strict=True)
    told = [f"{abs(d):.1f} px {side[d > 0]}" for d, side in pairs if abs(d) >= 0.05]
    return f"the truth lies {' and '.join(told)} the map"
