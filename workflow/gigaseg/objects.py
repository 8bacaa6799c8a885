"""Finished instances as objects: rims, holes and sizes put right, and what is measured on them.

`grow_into_ridge`, `fill_holes`, `drop_small` and `renumber` define what happens to the labels of
one plane (y, x) or one volume (z, y, x), 0 being background. `find_gaps` and `tally` work on one
block of any cut; what they return adds up, exactly, to what the whole would give. Nothing depends
on the order in which voxels, instances or blocks are visited.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from scipy import ndimage

from gigaseg.forest import as_volume, number_trees

RIDGE_REACH = 2
"""Voxels around a voxel that `grow_into_ridge` looks at: halo of a block."""

_FACES = ((-1, 0, 0), (0, -1, 0), (0, 0, -1), (0, 0, 1), (0, 1, 0), (1, 0, 0))
_LIMB = 32  # bits of the lower part of a sum of intensities
_FRACTION = 37  # bits to which intensities that are no integers are resolved


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
    labels : ndarray of uint, shape (y, x) or (z, y, x)

    Examples
    --------
    >>> grow_into_ridge(np.array([[0, 1, 1, 0, 0, 2, 2, 0]], np.uint32)).tolist()
    [[0, 1, 1, 1, 2, 2, 2, 0]]
    """
    grown = np.array(labels, order="C")
    padded = np.pad(labels, RIDGE_REACH)
    _grow(as_volume(padded), as_volume(grown), _steps_within_reach(padded.shape))
    return grown


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
    gaps = find_gaps(labels, tuple(slice(0, n) for n in labels.shape))
    return np.where(gaps.labels > 0, np.append(0, gaps.owner)[gaps.labels], labels)


@dataclass(frozen=True)
class Gaps:
    """The face-connected components of a block's background, and what they touch.

    Attributes
    ----------
    labels : ndarray of int32, shape of the block
        Component from 1 in raster order of first voxels, 0 in instances.
    lowest, highest : ndarray of uint32, shape (n,)
        The least and the greatest id among the face neighbours of each component; 2**32 - 1 and 0
        where there is none.
    open : ndarray of bool, shape (n,)
        Components that touch the edge of the volume.
    """

    labels: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    open: np.ndarray

    @property
    def owner(self) -> np.ndarray:
        """The instance of which each component is a hole, 0 for none, if nothing lies beyond."""
        return np.where((self.lowest == self.highest) & ~self.open, self.highest, 0)


def find_gaps(labels: np.ndarray, inner: tuple[slice, ...]) -> Gaps:
    """Find the components of the background of one block.

    Parameters
    ----------
    labels : ndarray of int below 2**32 - 1, shape (y, x) or (z, y, x)
        The block with the voxels next to it; where there are none is the edge of the volume.
    inner : tuple of slice
        The block inside `labels`.

    Examples
    --------
    >>> find_gaps(np.array([[3, 0, 3, 0]]), (slice(0, 1), slice(0, 3))).open
    array([ True])
    """
    gaps, count = ndimage.label(labels[inner] == 0, output=np.int32)
    found = Gaps(
        gaps,
        np.full(count, np.iinfo(np.uint32).max, np.uint32),
        np.zeros(count, np.uint32),
        np.zeros(count, bool),
    )
    start = np.array([0] * (3 - labels.ndim) + [s.start for s in inner])
    touched = (found.lowest, found.highest, found.open)
    _touch(as_volume(labels), as_volume(gaps), start, labels.ndim == 3, touched)
    return found


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


@dataclass(frozen=True)
class Tally:
    """What is counted on n objects; tallies of disjoint parts of a volume add up exactly.

    Attributes
    ----------
    voxels : ndarray of int64, shape (n,)
    first : ndarray of int64, shape (n,)
        Raster index of the first voxel in the volume; 2**63 - 1 for an object without voxels.
    place : ndarray of int64, shape (n, 3)
        Sums of the indices z, y, x.
    start, stop : ndarray of int64, shape (n, 3)
        Half-open bounding box.
    light : ndarray of int64, shape (n, c, 2)
        Sums of the intensities as `Quanta`, in units of 2**32 and of 1.
    """

    voxels: np.ndarray
    first: np.ndarray
    place: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    light: np.ndarray

    @classmethod
    def empty(cls, count: int, channels: int) -> "Tally":
        """Return the tally of objects without voxels."""
        far = np.iinfo(np.int64).max
        return cls(
            np.zeros(count, np.int64),
            np.full(count, far),
            np.zeros((count, 3), np.int64),
            np.full((count, 3), far),
            np.zeros((count, 3), np.int64),
            np.zeros((count, channels, 2), np.int64),
        )

    def add(self, objects: np.ndarray, part: "Tally") -> None:
        """Add the tally of a part in place.

        Parameters
        ----------
        objects : ndarray of int, shape (m,)
            Which objects the m of `part` are; may repeat.
        part : Tally
        """
        for name in ("voxels", "place", "light"):
            np.add.at(getattr(self, name), objects, getattr(part, name))
        for name in ("first", "start"):
            np.minimum.at(getattr(self, name), objects, getattr(part, name))
        np.maximum.at(self.stop, objects, part.stop)

    def take(self, objects: np.ndarray) -> "Tally":
        """Return the tally of some objects, by index or mask."""
        return replace(self, **{name: values[objects] for name, values in vars(self).items()})

    def centroids(self, spacing: Sequence[float]) -> np.ndarray:
        """Return the centres of gravity, shape (n, 3): a voxel's centre is its index times spacing.

        Examples
        --------
        >>> tally(np.array([[[0, 1, 1, 1]]]), 1).centroids((1, 0.5, 0.5))
        array([[0., 0., 1.]])
        """
        return self.place / self.voxels[:, None] * np.array(spacing)

    def means(self, quanta: Sequence["Quanta"]) -> np.ndarray:
        """Return the mean intensities, float64 of shape (n, c), one `Quanta` per channel."""
        high, low = self.light[..., 0], self.light[..., 1]
        total = (high + (low >> _LIMB)) * 2.0**_LIMB + (low & (2**_LIMB - 1))
        return total / self.voxels[:, None] * np.array([one.step for one in quanta])


@dataclass(frozen=True)
class Quanta:
    """How the intensities of a channel are made integers, whose sums do not depend on their order.

    Attributes
    ----------
    step : float
        A power of two: what 1 stands for.
    """

    step: float

    @classmethod
    def choose(cls, dtype: np.dtype, largest: float = 0.0) -> "Quanta":
        """Choose the step: 1 for integers, else 2**-37 of the largest magnitude's power of two.

        Parameters
        ----------
        dtype : dtype
            Integers of at most 32 bits, or floats.
        largest : float
            Largest magnitude in the channel; integers need none.

        Examples
        --------
        >>> Quanta.choose(np.dtype("f4"), 1.0).step == 2.0**-36
        True
        """
        if dtype.kind in "iub":
            return cls(1.0)
        _, exponent = np.frexp(largest)
        return cls(float(np.ldexp(1.0, max(int(exponent) - _FRACTION, -1022))))

    def count(self, values: np.ndarray) -> np.ndarray:
        """Return intensities as integers."""
        if values.dtype.kind in "iub":
            return values
        return np.rint(values.astype(np.float64) / self.step).astype(np.int64)


def tally(
    labels: np.ndarray,
    count: int,
    image: Sequence[np.ndarray] | np.ndarray = (),
    quanta: Sequence[Quanta] = (),
    *,
    start: Sequence[int] = (0, 0, 0),
    shape: Sequence[int] | None = None,
) -> Tally:
    """Count everything that is measured on the objects of one block.

    Parameters
    ----------
    labels : ndarray of int, shape (z, y, x)
        Objects 1 to `count`, at most 2**24 voxels each.
    count : int
    image : sequence of ndarray, shape (z, y, x)
        Intensities, one array per channel.
    quanta : sequence of Quanta
        One per channel.
    start, shape : sequence of int
        Where the block begins in a volume, and the extent of that; by default the block is all.

    Examples
    --------
    >>> found = tally(np.array([[[0, 1, 1, 1]]]), 1, [np.full((1, 1, 4), 7)], [Quanta(1.0)])
    >>> found.voxels, found.stop, found.means([Quanta(1.0)])
    (array([3]), array([[1, 1, 4]]), array([[7.]]))
    """
    found = Tally.empty(count, len(quanta))
    geometry = (found.voxels, found.first, found.place, found.start, found.stop)
    extent = np.array(labels.shape if shape is None else shape)
    _count_runs(labels, np.array(start), extent, geometry)
    for c, (channel, unit) in enumerate(zip(image, quanta, strict=True)):
        total = np.zeros(count, np.int64)
        _sum_runs(labels, unit.count(channel), total)
        found.light[:, c, 0], found.light[:, c, 1] = total >> _LIMB, total & (2**_LIMB - 1)
    return found


def _steps_within_reach(shape: Sequence[int]) -> np.ndarray:
    """Return the flat offsets to all voxels a ridge away, the nearest first, in an array."""
    cross = ndimage.generate_binary_structure(len(shape), 1)
    cube = ndimage.generate_binary_structure(len(shape), len(shape))
    steps = np.argwhere(ndimage.binary_dilation(np.pad(cross, 1), cube)) - RIDGE_REACH
    steps = steps[np.argsort((steps**2).sum(axis=1), kind="stable")][1:]
    return steps @ np.cumprod([1, *shape[:0:-1]])[::-1]


@njit(cache=True, nogil=True)
def _grow(labels, grown, steps):
    """Give background voxels to the lowest id beside them, if another id is within reach.

    `labels` has a margin of background, and `steps` are offsets into it.
    """
    depth, height, width = grown.shape
    pad = (labels.shape[0] - depth) // 2
    deep = 1 if pad > 0 else 0  # in a plane, what lies above and below is the voxel itself
    flat, near = labels.ravel(), np.empty(width, labels.dtype)
    for z in range(depth):
        for y in range(height):
            k, j = z + pad, y + RIDGE_REACH
            _look_beside(labels, k, j, deep, near)
            row = (k * labels.shape[1] + j) * labels.shape[2] + RIDGE_REACH
            for x in range(width):
                if near[x] == 0:
                    continue
                own = _lowest_beside(labels, k, j, x + RIDGE_REACH, deep)
                for s in steps:
                    value = flat[row + x + s]
                    if value != 0 and value != own:
                        grown[z, y, x] = own
                        break


@njit(cache=True, nogil=True)
def _look_beside(labels, z, y, deep, near):
    """Make `near` positive where the voxels of a row are background beside an id."""
    width = near.size
    row, left, right = labels[z, y, 2:], labels[z, y, 1:], labels[z, y, 3:]
    before, after = labels[z, y - 1, 2:], labels[z, y + 1, 2:]
    above, below = labels[z - deep, y, 2:], labels[z + deep, y, 2:]
    for x in range(width):  # no branches: compiled to vector instructions
        beside = left[x] | right[x] | before[x] | after[x] | above[x] | below[x]
        near[x] = beside if row[x] == 0 else 0


@njit(cache=True, nogil=True)
def _lowest_beside(labels, z, y, x, deep):
    """Return the lowest id among the face neighbours of a voxel, which has some."""
    row, before, after = labels[z, y], labels[z, y - 1], labels[z, y + 1]
    above, below = labels[z - deep, y], labels[z + deep, y]
    lowest = labels.dtype.type(0)
    for value in (row[x - 1], row[x + 1], before[x], after[x], above[x], below[x]):
        if value != 0 and (lowest == 0 or value < lowest):
            lowest = value
    return lowest


@njit(cache=True, nogil=True)
def _touch(labels, gaps, start, deep, touched):
    """Note which ids each gap touches, and whether it touches the edge of `labels`."""
    lowest, highest, is_open = touched
    depth, height, width = labels.shape
    for z in range(gaps.shape[0]):
        for y in range(gaps.shape[1]):
            for x in range(gaps.shape[2]):
                gap = gaps[z, y, x] - 1
                if gap < 0:
                    continue
                for dz, dy, dx in _FACES:
                    if dz != 0 and not deep:
                        continue
                    k, j, i = start[0] + z + dz, start[1] + y + dy, start[2] + x + dx
                    if 0 <= k < depth and 0 <= j < height and 0 <= i < width:
                        value = labels[k, j, i]
                        if value != 0:
                            lowest[gap] = min(lowest[gap], value)
                            highest[gap] = max(highest[gap], value)
                    else:
                        is_open[gap] = True


@njit(cache=True, nogil=True)
def _count_runs(labels, origin, shape, geometry):
    """Count voxels, run by run of equal labels along x."""
    voxels, first, place, start, stop = geometry
    depth, height, width = labels.shape
    for z in range(depth):
        for y in range(height):
            x = 0
            while x < width:
                label, begin = labels[z, y, x], x
                while x < width and labels[z, y, x] == label:
                    x += 1
                if label == 0:
                    continue
                k, n = np.int64(label) - 1, x - begin
                low = (origin[0] + z, origin[1] + y, origin[2] + begin)
                place[k, 2] += n * (n - 1) // 2
                first[k] = min(first[k], (low[0] * shape[1] + low[1]) * shape[2] + low[2])
                voxels[k] += n
                for axis in range(3):
                    place[k, axis] += n * low[axis]
                    start[k, axis] = min(start[k, axis], low[axis])
                    end = low[axis] + (n if axis == 2 else 1)
                    stop[k, axis] = max(stop[k, axis], end)


@njit(cache=True, nogil=True)
def _sum_runs(labels, values, total):
    depth, height, width = labels.shape
    for z in range(depth):
        for y in range(height):
            x = 0
            while x < width:
                label, part = labels[z, y, x], np.int64(0)
                while x < width and labels[z, y, x] == label:
                    part += np.int64(values[z, y, x])
                    x += 1
                if label != 0:
                    total[np.int64(label) - 1] += part
