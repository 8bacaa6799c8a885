"""Which objects were split, merged, missed or invented: for the eye, not for the scores."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .labels import Contingency

#: The kinds of error, in the order in which they are painted and named.
KINDS = ("split", "merged", "missed", "invented")

Ids = NDArray[np.uint64]


@dataclass(frozen=True)
class Faults:
    """Ids of the objects at fault, sorted.

    Parameters
    ----------
    split, missed : array of uint64
        Ids in the truth.
    merged, invented : array of uint64
        Ids among the predicted instances.
    """

    split: Ids
    merged: Ids
    missed: Ids
    invented: Ids

    @property
    def counts(self) -> dict[str, int]:
        """Number of objects of each kind."""
        return {kind: len(getattr(self, kind)) for kind in KINDS}


def find_faults(table: Contingency, ignored: int | None = None) -> Faults:
    """Compare truth and instances object by object.

    An instance *belongs* to the true object that holds more than half of its voxels; a true
    object belongs to the instance that holds more than half of its voxels. Then

    - a true object to which two or more instances belong is split,
    - an instance to which two or more true objects belong is merged,
    - a true object that belongs to no instance, and to which none belongs, is missed,
    - an instance that belongs to no true object, and to which none belongs, is invented.

    All others were found, whatever the quality of their outline. Exactly half is not more than
    half. Label 0 is background on both sides.

    Parameters
    ----------
    table : Contingency
        From `gigaseg.labels.contingency`; tables of parts of a volume may be added before.
    ignored : int, optional
        Id of the voxels whose truth is not known: see `gigaseg.labels.Contingency.without`.

    Examples
    --------
    >>> from gigaseg.labels import contingency
    >>> truth = np.array([1, 1, 1, 1, 0, 2, 2, 3, 3, 0, 0, 4])
    >>> instances = np.array([1, 1, 2, 2, 0, 3, 3, 3, 3, 0, 5, 0])
    >>> find_faults(contingency(truth, instances)).counts
    {'split': 1, 'merged': 1, 'missed': 1, 'invented': 1}
    """
    table, spared = table.without(ignored)
    true_ids, true_sizes = _objects(*table.truth_sizes())
    instance_ids, instance_sizes = _objects(*table.segment_sizes())
    pairs = table.where((table.truth != 0) & (table.segment != 0))
    of = np.searchsorted(true_ids, pairs.truth)
    by = np.searchsorted(instance_ids, pairs.segment)
    instance_belongs = 2 * pairs.voxels > instance_sizes[by]
    true_belongs = 2 * pairs.voxels > true_sizes[of]
    pieces = np.bincount(of[instance_belongs], minlength=len(true_ids))
    swallowed = np.bincount(by[true_belongs], minlength=len(instance_ids))
    related = instance_belongs | true_belongs
    return Faults(
        split=true_ids[pieces > 1],
        merged=instance_ids[swallowed > 1],
        missed=np.setdiff1d(true_ids, pairs.truth[related]),
        invented=np.setdiff1d(instance_ids, np.union1d(pairs.segment[related], spared)),
    )


def _objects(ids: Ids, voxels: NDArray[np.int64]) -> tuple[Ids, NDArray[np.int64]]:
    return ids[ids != 0], voxels[ids != 0]
