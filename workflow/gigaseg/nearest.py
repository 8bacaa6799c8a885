"""Exact squared distances to the two nearest distinct labels, in linear time.

Separable, as in `distances`: along the last axis the two nearest labels follow from two scans, and
every other axis takes lower envelopes of parabolas with these heights (Felzenszwalb & Huttenlocher
2012, doi 10.4086/toc.2012.v008a019), carrying two pairs of distance and label. That is enough: if
a label is one of the two nearest of a voxel, it is one of the two nearest of the voxel's foot on
every line through it. All arithmetic is in integers, so results are equal bit for bit wherever the
work is cut. Time is linear in the number of voxels, whatever the number of labels.
"""

from collections.abc import Sequence
from math import inf

import numpy as np
from numba import njit

from .distances import lower_envelope, steps_of

State = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

_STRIPE = 16  # neighbouring lines gathered at once, a cache line or two of the strided axes
_PADDING = 24

# What is known of a run of equal labels in a row.
_RUN = 7
_BEGIN, _LAST, _LABEL, _BEFORE, _LABEL_BEFORE, _AFTER, _LABEL_AFTER = range(_RUN)


def two_nearest(
    labels: np.ndarray,
    spacing: Sequence[float] | None = None,
    *,
    limit: float = inf,
    background: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact squared distances to the nearest two distinct labels.

    Parameters
    ----------
    labels : ndarray of int, any shape
        Label per voxel; 0 is background, to which nothing is measured.
    spacing : sequence of float, optional
        Voxel edges; isotropic by default.
    limit : float
        Squared distances up to this one are exact, and what is further away is somewhere beyond it:
        the shorter, the faster.
    background : bool
        Whether background is a label like any other.

    Returns
    -------
    first, second : ndarray of int32 or int64
        In units of `distances.integer_spacing`, squared; int32 if any distance in an array of this
        shape fits. ``first`` is 0 on every label. Where there are fewer labels than that, the
        largest value of the type.

    Examples
    --------
    >>> first, second = two_nearest(np.array([7, 0, 0, 0, 2]))
    >>> first.tolist(), second.tolist()
    ([0, 1, 4, 1, 0], [16, 9, 4, 9, 16])
    """
    shape = labels.shape
    steps = steps_of(shape, spacing)
    reach = sum((extent * step) ** 2 for extent, step in zip(shape, steps, strict=True))
    dtype = np.int32 if reach < np.iinfo(np.int32).max else np.int64
    first, second = np.empty(shape, dtype), np.empty(shape, dtype)
    if labels.size == 0:
        return first, second
    own = _ids(labels)
    own += background
    other = np.empty_like(own)
    rows = -1, shape[-1]
    state = first, own, second, other
    _nearest_in_rows(_reshape(state, rows), steps[-1] ** 2)
    for axis in reversed(range(labels.ndim - 1)):
        lines = -1, shape[axis], int(np.prod(shape[axis + 1 :], dtype=np.int64))
        far = int(min(limit + 1, np.iinfo(dtype).max))
        _nearest_along_axis(_reshape(state, lines), steps[axis] ** 2, far, axis == 0)
    return first, second


def _reshape(state: State, shape: tuple[int, ...]) -> State:
    first, own, second, other = (array.reshape(shape) for array in state)
    return first, own, second, other


def _ids(labels: np.ndarray) -> np.ndarray:
    """Return a copy of the labels in a type that has room for one more, 32 bit if possible."""
    small = np.iinfo(np.int32)
    fits = small.min <= labels.min() and labels.max() < small.max
    return np.array(labels, np.int32 if fits else np.int64, order="C")


@njit(cache=True, nogil=True)
def _nearest_in_rows(state, weight):
    """Replace labels `own` by the nearest labels of the row, and fill in what belongs to them."""
    first, own, second, other = state
    height, width = own.shape
    runs = np.empty((_RUN, width + 2), np.int64)
    for y in range(height):
        count = _find_runs(own[y], runs)
        for k in range(1, count + 1):
            # The pixels to which this run is nearest; of two equally near ones the first.
            begin = (runs[_LAST, k - 1] + runs[_BEGIN, k]) // 2 + 1 if k > 1 else 0
            end = (runs[_LAST, k] + runs[_BEGIN, k + 1]) // 2 + 1 if k < count else width
            _fill_segment(first[y], second[y], runs[:, k], begin, end, weight)
            middle = min(max((runs[_BEFORE, k] + runs[_AFTER, k]) // 2 + 1, begin), end)
            own[y, begin:end] = runs[_LABEL, k]
            other[y, begin:middle] = runs[_LABEL_BEFORE, k]
            other[y, middle:end] = runs[_LABEL_AFTER, k]
        if count == 0:
            first[y] = second[y] = np.iinfo(first.dtype).max
            other[y] = 0


@njit(cache=True, nogil=True)
def _find_runs(row, runs):
    """List the runs of equal labels from index 1 on; return their number.

    Besides its ends and its label each has the nearest pixels of other labels before and after.
    """
    width, count = row.size, 0
    for x in range(width):
        if row[x] != 0:
            if x == 0 or row[x] != row[x - 1]:
                count += 1
                runs[_BEGIN, count], runs[_LABEL, count] = x, row[x]
            runs[_LAST, count] = x
    place, label = -2 * width, 0
    for k in range(1, count + 1):
        if k > 1 and runs[_LABEL, k] != runs[_LABEL, k - 1]:
            place, label = runs[_LAST, k - 1], runs[_LABEL, k - 1]
        runs[_BEFORE, k], runs[_LABEL_BEFORE, k] = place, label
    place, label = 3 * width, 0
    for k in range(count, 0, -1):
        if k < count and runs[_LABEL, k] != runs[_LABEL, k + 1]:
            place, label = runs[_BEGIN, k + 1], runs[_LABEL, k + 1]
        runs[_AFTER, k], runs[_LABEL_AFTER, k] = place, label
    return count


@njit(cache=True, nogil=True)
def _fill_segment(first, second, run, begin, end, weight):
    far = np.iinfo(first.dtype).max
    for x in range(begin, end):
        near = max(run[_BEGIN] - x, x - run[_LAST], 0)
        next_near = min(x - run[_BEFORE], run[_AFTER] - x)
        first[x] = weight * near * near
        second[x] = weight * next_near * next_near if next_near < first.size else far


@njit(cache=True, nogil=True)
def _nearest_along_axis(state, weight, far, last):
    """Take what is known across an axis along it, line by line, if it is nearer than `far`.

    After the `last` axis nobody asks for the labels, and they are not written back.
    """
    first, own, second, other = state
    outer, extent, inner = first.shape
    # Padded: lines a power of two apart would compete for the same places in the cache.
    old = np.empty((4, _STRIPE, extent + _PADDING), np.int64)
    new, rival = np.empty((4, extent), np.int64), np.empty((2, extent), np.int64)
    winner = np.empty(extent, np.int64)
    room = np.empty(extent, np.int64), np.empty(extent + 1, np.int64)
    for block in range(outer):
        for begin in range(0, inner, _STRIPE):
            count = min(_STRIPE, inner - begin)
            _gather(first[block], old[0], begin, count)
            _gather(own[block], old[1], begin, count)
            _gather(second[block], old[2], begin, count)
            _gather(other[block], old[3], begin, count)
            for k in range(count):
                line = old[:, k, :extent]
                _first_on_line(line, new, weight, far, winner, room)
                _second_on_line(line, new, weight, far, (winner, rival), room)
                line[:] = new
            _scatter(old[0], first[block], begin, count)
            _scatter(old[2], second[block], begin, count)
            if not last:
                _scatter(old[1], own[block], begin, count)
                _scatter(old[3], other[block], begin, count)


@njit(cache=True, nogil=True)
def _gather(values, lines, begin, count):
    for x in range(values.shape[0]):
        for k in range(count):
            lines[k, x] = values[x, begin + k]


@njit(cache=True, nogil=True)
def _scatter(lines, values, begin, count):
    for x in range(values.shape[0]):
        for k in range(count):
            values[x, begin + k] = lines[k, x]


@njit(cache=True, nogil=True)
def _first_on_line(old, new, weight, far, winner, room):
    """Fill in the nearest label and the site that won."""
    extent, (site, start) = new.shape[1], room
    count = lower_envelope(old[0], weight, (0, extent), (0, extent), far, room)
    for k in range(count):
        j = site[k]
        for x in range(start[k], start[k + 1]):
            winner[x] = j
            new[0, x], new[1, x] = old[0, j] + weight * (x - j) ** 2, old[1, j]
    if count == 0:
        new[0], new[1] = far, 0


@njit(cache=True, nogil=True)
def _second_on_line(old, new, weight, far, sites, room):
    """Fill in the nearest other label, run by run of constant nearest label.

    In a run of label l, sites compete with their best label that is not l. The winners just
    outside the run have other labels and beat whatever lies beyond them, so only the sites between
    these two compete, and all runs of a line together cost linear time.
    """
    extent, (winner, rival), (site, start) = new.shape[1], sites, room
    stop = 0
    while stop < extent:
        begin, label = stop, new[1, stop]
        while stop < extent and new[1, stop] == label:
            stop += 1
        low = winner[begin - 1] if begin > 0 else 0
        high = winner[stop] + 1 if stop < extent else extent
        for j in range(low, high):
            best = 2 if old[1, j] == label else 0
            rival[0, j], rival[1, j] = old[best, j], old[best + 1, j]
        count = lower_envelope(rival[0], weight, (low, high), (begin, stop), far, room)
        for k in range(count):
            j = site[k]
            for x in range(start[k], start[k + 1]):
                new[2, x], new[3, x] = rival[0, j] + weight * (x - j) ** 2, rival[1, j]
        if count == 0:
            new[2, begin:stop], new[3, begin:stop] = far, 0
