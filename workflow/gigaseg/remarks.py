"""What is odd about a sample and decides which of its scores are defined, in plain words."""

from .matching import CtcCounts, PixelCounts
from .scores import Tally


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
