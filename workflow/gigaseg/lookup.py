"""Look-up tables: labels of blocks turned into ids of the volume, numbered densely in between.

The ids in one window of a volume are few, but may be any of all there are. `look_up` therefore
returns small numbers in the order of the ids, and the ids beside them: what is done next needs
tables of the window's size only.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit


def look_up(
    labels: np.ndarray, parts: Sequence[tuple[tuple[slice, ...], np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Replace the labels of each part of an array by what its table says, numbered densely.

    Parameters
    ----------
    labels : ndarray of uint
    parts : sequence of (tuple of slice, ndarray of uint64)
        Places in the array, disjoint, which cover it; and the id of each label there. Label 0 is
        0 in every table.

    Returns
    -------
    dense : ndarray of uint32, shape of `labels`
        0, 1, ... n, in the order of the ids.
    ids : ndarray of uint64, shape (n + 1,)
        The ids that occur, after the 0 of the background.

    Examples
    --------
    >>> labels = np.array([[1, 2, 0, 1]], np.uint32)
    >>> left, right = (slice(0, 1), slice(0, 2)), (slice(0, 1), slice(2, 4))
    >>> dense, ids = look_up(labels, [(left, np.array([0, 70, 5], np.uint64)),
    ...                               (right, np.array([0, 70], np.uint64))])
    >>> dense.tolist(), ids.tolist()
    ([[2, 1, 0, 2]], [0, 5, 70])
    """
    used = []
    for place, table in parts:
        occurs = np.zeros(table.size, bool)
        _mark(_rows(labels[place]), occurs)
        used.append(occurs)
    found = [table[occurs] for (_, table), occurs in zip(parts, used, strict=True)]
    ids = np.unique(np.concatenate([np.zeros(1, np.uint64), *found]))
    dense = np.empty(labels.shape, np.uint32)
    for (place, table), occurs in zip(parts, used, strict=True):
        number = np.zeros(table.size, np.uint32)
        number[occurs] = np.searchsorted(ids, table[occurs])
        dense[place] = number[labels[place]]
    return dense, ids


def _rows(array: np.ndarray) -> np.ndarray:
    """View an array of any number of axes as one of three."""
    return array.reshape((1,) * (3 - array.ndim) + array.shape)


@njit(cache=True, nogil=True)
def _mark(labels, occurs):
    before = labels.dtype.type(0)
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                if labels[z, y, x] != before:
                    before = labels[z, y, x]
                    occurs[before] = True
