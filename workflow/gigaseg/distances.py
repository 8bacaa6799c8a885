"""Exact squared distances to the nearest voxels.

They are separable: what is known along the axes done so far is a height per voxel, and the next
axis takes the lower envelope of parabolas with these heights (Felzenszwalb & Huttenlocher 2012,
"Distance Transforms of Sampled Functions", doi 10.4086/toc.2012.v008a019). All arithmetic is in
int64, so results are equal bit for bit wherever the work is cut; anisotropic spacing enters as
small integers. Time is linear in the number of voxels.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm

import numpy as np
from numba import njit

FAR = np.iinfo(np.int64).max
"""Squared distance to something that does not exist."""

_COARSEST = 4096  # larger integers than this are rounded, see `integer_spacing`
_REACH = 2**30  # extent times spacing; its square, summed over three axes, fits int64
_TRIALS = 64  # lines tried on either side before the general method
_LINES = 512  # neighbouring lines for which this is done at once


def integer_spacing(spacing: Sequence[float]) -> tuple[int, ...]:
    """Return the smallest integers in the proportions of a spacing.

    Parameters
    ----------
    spacing : sequence of float
        Voxel edges, in any unit, all positive.

    Returns
    -------
    tuple of int
        Exact for spacings that are short decimals. Where that would take an integer above 4096,
        each ratio to the finest axis is rounded to a multiple of 1/256.

    Raises
    ------
    ValueError
        If a spacing is not positive and finite.

    Examples
    --------
    >>> integer_spacing((0.29, 0.065, 0.065))
    (58, 13, 13)
    >>> integer_spacing((0.1 + 0.2, 0.1, 0.1))
    (3, 1, 1)
    """
    sizes = [float(size) for size in spacing]
    if not all(np.isfinite(size) and size > 0 for size in sizes):
        raise ValueError(f"spacing {tuple(sizes)} must be positive: give one length per axis in µm")
    exact = [Fraction(repr(size)) for size in sizes]
    scale = lcm(*(size.denominator for size in exact))
    steps = [int(size * scale) for size in exact]
    if max(steps) > _COARSEST * gcd(*steps):
        steps = [round(256 * size / min(sizes)) for size in sizes]
    return tuple(step // gcd(*steps) for step in steps)


def steps_of(shape: Sequence[int], spacing: Sequence[float] | None) -> tuple[int, ...]:
    """Return the integer spacing of an array; ValueError if distances in it could overflow."""
    steps = integer_spacing((1.0,) * len(shape) if spacing is None else spacing)
    if len(steps) != len(shape):
        raise ValueError(
            f"spacing has {len(steps)} values, the array {len(shape)} axes: give one per axis"
        )
    for extent, step in zip(shape, steps, strict=True):
        if extent * step > _REACH:
            raise ValueError(
                f"{extent} voxels at integer spacing {step} overflow exact distances (limit "
                f"{_REACH}): round the spacing {spacing} to fewer digits"
            )
    return steps


def squared_distance(sites: np.ndarray, spacing: Sequence[float] | None = None) -> np.ndarray:
    """Return the exact squared distance of every voxel to the nearest site.

    The volume's edge is not a site.

    Parameters
    ----------
    sites : ndarray of bool, any shape
        The voxels to measure to.
    spacing : sequence of float, optional
        Voxel edges; isotropic by default.

    Returns
    -------
    ndarray of int32 or int64
        In units of `integer_spacing`, squared; int32 if any distance in an array of this shape
        fits. If there is no site, `FAR` everywhere.

    Examples
    --------
    >>> squared_distance(np.array([[1, 0, 0], [0, 0, 0]], bool)).tolist()
    [[0, 1, 4], [1, 2, 5]]
    """
    shape = sites.shape
    steps = steps_of(shape, spacing)
    if not sites.any():
        return np.full(shape, FAR)
    reach = sum((extent * step) ** 2 for extent, step in zip(shape, steps, strict=True))
    trials = (_TRIALS * max(steps)) ** 2
    dtype = np.int32 if reach + trials < np.iinfo(np.int32).max else np.int64
    far = np.iinfo(dtype).max - trials
    squares = np.empty(shape, dtype)
    rows = -1, shape[-1]
    sites = np.ascontiguousarray(sites)
    _nearest_in_rows(sites.reshape(rows), squares.reshape(rows), steps[-1] ** 2, far)
    for axis, step in enumerate(steps[:-1]):
        inner = int(np.prod(shape[axis + 1 :]))
        _nearest_along_axis(squares.reshape(-1, shape[axis], inner), step**2, far)
    return squares


def narrowed(levels: np.ndarray) -> np.ndarray:
    """Return levels as int32 if all of them are above its lowest and below its highest value."""
    small = np.iinfo(np.int32)
    if levels.dtype == small.dtype or levels.size == 0:
        return levels.astype(small.dtype, copy=False)
    fits = small.min < levels.min() and levels.max() < small.max
    return levels.astype(small.dtype) if fits else levels


def squared_distance_between(
    sites: np.ndarray, offset: Sequence[int], shape: Sequence[int], steps: Sequence[int]
) -> np.ndarray:
    """Return the exact squared distance of the voxels of one box to the sites in another.

    Parameters
    ----------
    sites : ndarray of bool
        The voxels to measure to.
    offset : sequence of int
        Where the box measured from begins, counted in voxels from the first voxel of `sites`.
    shape : sequence of int
        Of the box measured from.
    steps : sequence of int
        Voxel edges, as `integer_spacing` gives them.

    Returns
    -------
    ndarray of int64, shape `shape`
        `FAR` everywhere if there is no site.

    Examples
    --------
    >>> squared_distance_between(np.array([[0, 1, 0]], bool), (1, 3), (1, 2), (1, 1)).tolist()
    [[5, 10]]
    """
    squares = np.where(sites, np.int64(0), np.int64(FAR))
    for axis, (begin, extent, step) in enumerate(zip(offset, shape, steps, strict=True)):
        before, after = squares.shape[:axis], squares.shape[axis + 1 :]
        size = int(np.prod(before, dtype=np.int64)), int(np.prod(after, dtype=np.int64))
        there = np.full((size[0], extent, size[1]), FAR)
        lines = squares.reshape(size[0], squares.shape[axis], size[1])
        _project_along_axis(lines, there, begin, step * step)
        squares = there.reshape(*before, extent, *after)
    return squares


@njit(cache=True, nogil=True)
def _nearest_in_rows(sites, squares, weight, far):
    """Fill in the squared distance to the nearest site of the row, `far` if it has none."""
    height, width = sites.shape
    for y in range(height):
        row, last = squares[y], -1
        for x in range(width):
            if sites[y, x]:
                middle = (last + x) // 2 if last >= 0 else -1
                _fill_row(row, last + 1, middle + 1, last, weight)
                _fill_row(row, middle + 1, x + 1, x, weight)
                last = x
        if last < 0:
            row[:] = far
        else:
            _fill_row(row, last + 1, width, last, weight)


@njit(cache=True, nogil=True)
def _fill_row(row, begin, end, site, weight):
    for x in range(begin, end):
        row[x] = weight * (x - site) * (x - site)


@njit(cache=True, nogil=True)
def _nearest_along_axis(squares, weight, far):
    """Take what is known across an axis along it, in stripes of neighbouring lines."""
    outer, extent, inner = squares.shape
    known = np.empty((extent, min(_LINES, inner)), squares.dtype)
    height = np.empty(extent, np.int64)
    room = np.empty(extent, np.int64), np.empty(extent + 1, np.int64)
    for block in range(outer):
        for first in range(0, inner, _LINES):
            stripe = squares[block, :, first : min(first + _LINES, inner)]
            count = stripe.shape[1]
            known[:, :count] = stripe
            if _try_neighbours(known, squares[block], first, count, weight):
                continue
            for k in range(count):
                for x in range(extent):
                    height[x] = FAR if known[x, k] >= far else known[x, k]
                _nearest_on_line(height, weight, room)
                for x in range(extent):
                    stripe[x, k] = min(height[x], far)


@njit(cache=True, nogil=True)
def _try_neighbours(known, squares, first, count, weight):
    """Compare with sites up to `_TRIALS` lines away; say whether no other can be nearer.

    Simple loops over many lines at once are much faster than `_nearest_on_line` while distances
    are short.
    """
    extent = squares.shape[0]
    for y in range(extent):
        line, away = squares[y, first : first + count], 1
        furthest = line.max()
        while weight * away * away < furthest and (away <= y or y + away < extent):
            if away > _TRIALS:
                return False
            # A line beyond the end counts as if the last one were further away: no harm.
            above = known[max(y - away, 0), :count]
            below = known[min(y + away, extent - 1), :count]
            furthest = _take_nearer(line, above, below, line.dtype.type(weight * away * away))
            away += 1
    return True


@njit(cache=True, nogil=True)
def _take_nearer(line, above, below, climb):
    """Lower a line to its neighbours' values plus `climb`; return what is highest then."""
    furthest = line[0]  # of the same type, so that the loop does several at once
    for k in range(line.size):
        line[k] = min(line[k], min(above[k], below[k]) + climb)
        furthest = max(furthest, line[k])
    return furthest


@njit(cache=True, nogil=True)
def _project_along_axis(here, there, begin, weight):
    """Give the lines of `there`, which begin at index `begin` of those of `here`, their heights."""
    outer, extent, inner = here.shape
    height = np.empty(extent, np.int64)
    site, start = np.empty(extent, np.int64), np.empty(extent + 1, np.int64)
    for block in range(outer):
        for i in range(inner):
            height[:] = here[block, :, i]
            span = (begin, begin + there.shape[1])
            count = lower_envelope(height, weight, (0, extent), span, FAR, (site, start))
            for k in range(count):
                for x in range(start[k], start[k + 1]):
                    there[block, x - begin, i] = height[site[k]] + weight * (x - site[k]) ** 2


@njit(cache=True, nogil=True)
def lower_envelope(height, weight, sites, span, far, room):
    """Find which parabola ``height[j] + weight * (x - j)**2`` is lowest, for every x of a span.

    Only j in the half-open range `sites` with ``height[j] < far`` compete; of equals the first
    wins. Parabola ``site[k]`` is the lowest from ``start[k]`` to before ``start[k + 1]``. Returns
    their number; `site` and `start` are filled in `room`.
    """
    site, start = room
    count = 0
    for j in range(sites[0], sites[1]):
        if height[j] >= far:
            continue
        begin = span[0]
        while count > 0:
            i = site[count - 1]
            rise = weight * (j * j - i * i) + height[j] - height[i]
            begin = rise // (2 * weight * (j - i)) + 1  # first x at which j is below i
            if begin > start[count - 1]:
                break
            count -= 1
            begin = span[0]
        if begin < span[1]:
            site[count], start[count] = j, begin
            count += 1
    start[count] = span[1]
    return count


@njit(cache=True, nogil=True)
def _nearest_on_line(height, weight, room):
    extent, (site, start) = height.size, room
    count = lower_envelope(height, weight, (0, extent), (0, extent), FAR, room)
    if count == 0:
        return
    heights = height[site[:count]]  # a copy: the line is overwritten
    for k in range(count):
        for x in range(start[k], start[k + 1]):
            height[x] = heights[k] + weight * (x - site[k]) ** 2
