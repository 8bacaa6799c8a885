"""Size and shape of objects, counted: truth and prediction by the same code, whatever the blocks.

What is kept of a sample is how many objects have each size and each shape, in whole numbers: small,
exact, and it adds up over samples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .labels import LabelArray
from .objects import Tally, tally

#: Measures of an object: its voxels; the share of its bounding box that it fills, in 1/1000.
MEASURES = ("voxels", "fill")

#: How many objects have each value of a measure.
Spectrum = Mapping[int, int]


@dataclass(frozen=True)
class Measured:
    """What is known of the objects of a block or of a volume.

    Attributes
    ----------
    ids : ndarray of uint64, shape (n,)
        Sorted, without the background 0.
    tally : Tally
        Of these objects.
    """

    ids: NDArray[np.uint64]
    tally: Tally

    def spectra(self) -> dict[str, Spectrum]:
        """Count the objects by each of `MEASURES`.

        Examples
        --------
        >>> measure(np.array([[[1, 1, 2], [1, 0, 2]]])).spectra()
        {'voxels': {2: 1, 3: 1}, 'fill': {750: 1, 1000: 1}}
        """
        voxels = self.tally.voxels
        box = (self.tally.stop - self.tally.start).prod(axis=1)
        fill = (1000 * voxels + box // 2) // np.maximum(box, 1)
        return {"voxels": _spectrum(voxels), "fill": _spectrum(fill)}


class Joining:
    """Parts of one problem, joined as they come: an id means the same object in all of them.

    Parts of like size are joined first, so the blocks of a volume are never all held.

    Examples
    --------
    >>> labels, joining = np.array([[[5, 5, 9, 9]]]), Joining()
    >>> joining.add(measure(labels[..., :3]))
    >>> joining.add(measure(labels[..., 3:], start=(0, 0, 3)))
    >>> joining.total().tally.voxels
    array([2, 2])
    """

    def __init__(self) -> None:
        self._waiting: list[Measured] = []  # each more than twice as long as the next

    def add(self, part: Measured) -> None:
        """Add one part."""
        waiting = self._waiting
        waiting.append(part)
        while len(waiting) > 1 and waiting[-2].ids.size <= 2 * waiting[-1].ids.size:
            waiting[-2:] = [_join(waiting[-2:])]

    def total(self) -> Measured:
        """Return all parts as one; of none, no object."""
        return _join(self._waiting)


def _join(parts: Sequence[Measured]) -> Measured:
    ids = np.unique(np.concatenate([np.empty(0, np.uint64), *(part.ids for part in parts)]))
    found = Tally.empty(ids.size, 0)
    for part in parts:
        found.add(np.searchsorted(ids, part.ids), part.tally)
    return Measured(ids, found)


def _spectrum(values: NDArray[np.int64]) -> Spectrum:
    found, objects = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), objects.tolist(), strict=True))


def add_spectra(spectra: Iterable[Spectrum]) -> Spectrum:
    """Add up the spectra of disjoint sets of objects; sorted by value.

    Examples
    --------
    >>> add_spectra([{4: 1, 9: 2}, {4: 3}])
    {4: 4, 9: 2}
    """
    total: dict[int, int] = {}
    for spectrum in spectra:
        for value, objects in spectrum.items():
            total[value] = total.get(value, 0) + objects
    return dict(sorted(total.items()))


def measure(labels: LabelArray, *, start: Sequence[int] = (0, 0, 0)) -> Measured:
    """Measure the objects in one block.

    Parameters
    ----------
    labels : ndarray of int, shape (z, y, x)
        Ids below 2**64.
    start : sequence of int
        Where the block begins in the volume.
    """
    ids = np.unique(_changes(labels)).astype(np.uint64)
    ids = ids[ids != 0]
    dense = np.empty(labels.shape, np.uint32)
    _number(labels, ids, dense)
    return Measured(ids, tally(dense, ids.size, start=start))


@njit(cache=True, nogil=True)
def _changes(labels):
    """List the label of every run along x; some occur more than once."""
    depth, height, width = labels.shape
    count = 0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if x == 0 or labels[z, y, x] != labels[z, y, x - 1]:
                    count += 1
    found = np.empty(count, labels.dtype)
    count = 0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if x == 0 or labels[z, y, x] != labels[z, y, x - 1]:
                    found[count] = labels[z, y, x]
                    count += 1
    return found


@njit(cache=True, nogil=True)
def _number(labels, ids, dense):
    """Replace each id by its place in the sorted `ids`, counted from 1; looked up run by run."""
    depth, height, width = labels.shape
    for z in range(depth):
        for y in range(height):
            place = np.uint32(0)
            for x in range(width):
                own = labels[z, y, x]
                if x == 0 or own != labels[z, y, x - 1]:
                    place = np.uint32(0)
                    if own != 0:
                        place = np.uint32(np.searchsorted(ids, np.uint64(own)) + 1)
                dense[z, y, x] = place
