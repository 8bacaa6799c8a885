"""Finished instances as objects: rims, holes and sizes put right, and what is measured on them.

All functions take one plane (y, x) or one volume (z, y, x) of labels, 0 being background. None
depends on the order in which voxels or instances are visited.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from gigaseg.forest import number_trees


def grow_into_ridge(labels: np.ndarray) -> np.ndarray:
    """Give the background between close instances back to them.

    Training cuts a ridge between touching instances, one voxel from each (`gigaseg.weights`), and
    so does a network that has learned it. A background voxel becomes part of an instance that is
    its face neighbour if another instance is not more than a ridge away: a step to a face neighbour
    and one to any neighbour. Of several face neighbours it takes the lowest id. All voxels are
    decided on the labels as given, so the result depends on no order. The outer rim of instances,
    away from others, stays.

    Parameters
    ----------
    labels : ndarray of uint32

    Examples
    --------
    >>> grow_into_ridge(np.array([[0, 1, 1, 0, 0, 2, 2, 0]], np.uint32)).tolist()
    [[0, 1, 1, 1, 2, 2, 2, 0]]
    """
    nobody = np.iinfo(labels.dtype).max
    neighbour = _spread(np.where(labels == 0, nobody, labels), np.minimum)
    lowest = _spread(neighbour, np.minimum, corners=True)
    highest = _spread(_spread(labels, np.maximum), np.maximum, corners=True)
    between = (labels == 0) & (neighbour != nobody) & (lowest != highest)
    return np.where(between, neighbour, labels)


def fill_holes(labels: np.ndarray) -> np.ndarray:
    """Fill the holes of each instance.

    A hole is a face-connected component of the background that does not touch the edge of the array
    and whose face neighbours all belong to one instance.

    Examples
    --------
    >>> ring = np.array([[5, 5, 5, 5], [5, 0, 0, 5], [5, 5, 5, 5]])
    >>> (fill_holes(ring) == 5).all()
    np.True_
    """
    holes, count = ndimage.label(labels == 0)
    lowest = np.full(count + 1, np.iinfo(labels.dtype).max, labels.dtype)
    highest = np.zeros(count + 1, labels.dtype)
    for axis in range(labels.ndim):
        for a, b in ((slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1))):
            before, after = (slice(None),) * axis + (a,), (slice(None),) * axis + (b,)
            side = (holes[before] > 0) & (labels[after] > 0)
            hole, owner = holes[before][side], labels[after][side]
            np.minimum.at(lowest, hole, owner)
            np.maximum.at(highest, hole, owner)
    for axis in range(labels.ndim):
        for end in (0, -1):
            highest[np.take(holes, end, axis)] = 0  # open to the outside
    owner = np.where(lowest == highest, highest, 0)
    owner[0] = 0
    return np.where(holes > 0, owner[holes], labels)


def drop_small(labels: np.ndarray, minimum_size: int) -> np.ndarray:
    """Make instances of fewer than `minimum_size` voxels background; the others keep their ids.

    Examples
    --------
    >>> drop_small(np.array([1, 0, 2, 2]), 2).tolist()
    [0, 0, 2, 2]
    """
    if minimum_size < 2:
        return labels
    small = np.bincount(labels.ravel()) < minimum_size
    return np.where(small[labels], 0, labels).astype(labels.dtype)


def renumber(labels: np.ndarray) -> np.ndarray:
    """Number instances 1, 2, ... in raster order of their first voxel, in linear time.

    Parameters
    ----------
    labels : ndarray of int
        Ids not much larger than their number: a table of all ids up to the largest is kept.

    Examples
    --------
    >>> renumber(np.array([[0, 9, 9, 4]])).tolist()
    [[0, 1, 1, 2]]
    """
    count = int(labels.max(initial=0))
    itself = np.arange(count)
    return number_trees(labels.astype(np.int64) - 1, itself, np.ones(count, bool))


def measure(
    labels: np.ndarray, intensities: np.ndarray, spacing: Sequence[float]
) -> dict[str, np.ndarray]:
    """Measure each instance.

    Parameters
    ----------
    labels : ndarray of uint32, shape (z, y, x)
        Ids 1 to n.
    intensities : ndarray, shape (c, z, y, x)
        Image.
    spacing : sequence of float
        Size of a voxel along z, y, x in micrometres.

    Returns
    -------
    dict of ndarray
        ``voxels`` (n,) int64; ``centroid`` (n, 3) in µm, a voxel's centre lying at its index times
        the spacing; ``start`` and ``stop`` (n, 3), the half-open bounding box in voxels; ``mean``
        (n, c), mean intensity.

    Examples
    --------
    >>> found = measure(np.array([[[0, 1, 1, 1]]]), np.ones((1, 1, 1, 4)), (1, 0.5, 0.5))
    >>> found["voxels"], found["centroid"], found["stop"]
    (array([3]), array([[0., 0., 1.]]), array([[1, 1, 4]]))
    """
    where = np.nonzero(labels)
    ids = labels[where].astype(np.int64)
    count = int(ids.max(initial=0))
    voxels = np.bincount(ids, minlength=count + 1)[1:]

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(ids, weights=values, minlength=count + 1)[1:] / np.maximum(voxels, 1)

    boxes = ndimage.find_objects(labels.astype(np.int64), max_label=count)
    return {
        "voxels": voxels,
        "centroid": np.stack(
            [mean(c) * step for c, step in zip(where, spacing, strict=True)], axis=-1
        ),
        "start": np.array([[s.start for s in box] for box in boxes], int).reshape(-1, 3),
        "stop": np.array([[s.stop for s in box] for box in boxes], int).reshape(-1, 3),
        "mean": np.stack([mean(channel[where]) for channel in intensities], axis=-1),
    }


def _spread(values: np.ndarray, choose: np.ufunc, corners: bool = False) -> np.ndarray:
    """Combine each voxel with its face neighbours, or with all neighbours, by `choose`."""
    result = values.copy()
    for axis in range(values.ndim):
        if corners:
            values = result.copy()
        before = (slice(None),) * axis + (slice(None, -1),)
        after = (slice(None),) * axis + (slice(1, None),)
        choose(result[before], values[after], out=result[before])
        choose(result[after], values[before], out=result[after])
    return result
