"""The spanning forest under the watershed: which voxels are one basin, which basins one tree.

Arrays are planes (y, x) or volumes (z, y, x). Edges between face neighbours have the strict total
order of `gigaseg.watershed`: (higher level, lower level, raster index).
"""

from typing import NamedTuple

import numpy as np
from numba import njit

ALWAYS, NEVER = np.iinfo(np.int64).min, np.iinfo(np.int64).max
"""Levels from which on a basin stands alone: one with a seed, and one without."""

_DIGIT = 11  # bits per pass of the radix sort: its 2048 counters stay in the fastest cache


def find_basins(
    levels: np.ndarray,
    mask: np.ndarray,
    seeds: np.ndarray | None = None,
    terminals: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """Join each voxel to its lowest neighbour, unless that is higher, and each seed's voxels.

    Parameters
    ----------
    levels : ndarray of int
    mask : ndarray of bool
        The voxels of the graph.
    seeds : ndarray of int, optional
        Positive on seeds, which are joined to no neighbour; only inside the mask.
    terminals : ndarray of int, optional
        Indices of voxels of the mask, in the flat array, that are joined to no neighbour either.

    Returns
    -------
    basin : ndarray of int
        Number of the basin from 0, -1 outside the mask.
    count : int
    """
    index = np.int32 if mask.size < np.iinfo(np.int32).max else np.int64
    parent = np.full(mask.size, -1, index)
    if seeds is not None and seeds.any():
        names, rank = np.unique(seeds, return_inverse=True)
        _link_seeds(rank.ravel(), names, parent)
    if terminals is not None:
        parent[terminals] = np.where(parent[terminals] < 0, terminals, parent[terminals])
    space = as_volume(mask)
    _descend(as_volume(levels), space, parent.reshape(space.shape), parent)
    basin = np.full(mask.shape, -1, index)
    return basin, _number_roots(parent, basin.ravel())


def bottoms(levels: np.ndarray, basin: np.ndarray, count: int) -> np.ndarray:
    """Return the lowest level of each basin, as int64 of shape (count,)."""
    bottom = np.full(count, np.iinfo(np.int64).max)
    _lower_bottoms(np.ascontiguousarray(levels).ravel(), basin.ravel(), bottom)
    return bottom


def join_basins(
    levels: np.ndarray, basin: np.ndarray, anchor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Join basins in the order of the edges between them, unless both stand alone there.

    Parameters
    ----------
    levels : ndarray of int
    basin : ndarray of int
        As returned by `find_basins`.
    anchor : ndarray of int64, shape (count,)
        The level from which on a basin stands alone; a joined basin inherits the lower one.

    Returns
    -------
    tree : ndarray of int, shape (count,)
        The basin that represents each basin's tree.
    anchor : ndarray of int64, shape (count,)
        Of the trees, at their representatives.
    """
    borders, order = sorted_borders(levels, basin)
    tree, anchor = np.arange(anchor.size, dtype=basin.dtype), anchor.copy()
    kruskal(borders.ends, borders.high, order, anchor, tree)
    return tree, anchor


class Borders(NamedTuple):
    """The edges between basins, in raster order.

    Attributes
    ----------
    ends : ndarray of int, shape (2, edges)
        The basins.
    high, low : ndarray of int, shape (edges,)
        Higher and lower level of the two voxels.
    edge : ndarray of int64, shape (edges,)
        Three times the first voxel's index in the flat array, plus 0, 1, 2 for x, y, z.
    """

    ends: np.ndarray
    high: np.ndarray
    low: np.ndarray
    edge: np.ndarray


def sorted_borders(levels: np.ndarray, basin: np.ndarray) -> tuple[Borders, np.ndarray]:
    """Return the edges between basins, and the order to take them in."""
    levels, basin = as_volume(levels), as_volume(basin)
    count = _count_borders(basin)
    borders = Borders(
        np.empty((2, count), basin.dtype),
        np.empty(count, levels.dtype),
        np.empty(count, levels.dtype),
        np.empty(count, np.int64),
    )
    _collect_borders(levels, basin, *borders)
    order = np.arange(count, dtype=np.int64)
    for key in (borders.low, borders.high):  # stable sorts of what is in raster order
        order = sort_stably(key, order)
    return borders, order


def number_trees(basin: np.ndarray, tree: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Label voxels 1, 2, ... by raster order of each tree's first voxel.

    Parameters
    ----------
    basin : ndarray of int
    tree : ndarray of int, shape (count,)
        As returned by `join_basins`.
    kept : ndarray of bool, shape (count,)
        Trees whose representative is not kept are background.

    Returns
    -------
    ndarray of uint32
    """
    labels = np.zeros(basin.shape, np.uint32)
    _rank_by_first_voxel(basin.ravel(), tree, kept, labels.ravel())
    return labels


def as_volume(array: np.ndarray) -> np.ndarray:
    """View a plane as a volume of one plane."""
    array = np.ascontiguousarray(array)
    return array.reshape((1,) * (3 - array.ndim) + array.shape)


@njit(cache=True, nogil=True)
def find(parent, i):
    """Return the root of an element, and halve the way there."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True, nogil=True)
def _link_seeds(rank, names, parent):
    """Make the first voxel of each seed the parent of all of them."""
    first = np.full(names.size, -1, np.int64)
    for i in range(rank.size):
        k = rank[i]
        if names[k] > 0:
            if first[k] < 0:
                first[k] = i
            parent[i] = first[k]


@njit(cache=True, nogil=True)
def _descend(levels, mask, shaped_parent, parent):
    """Point every voxel that is not seed at its lowest neighbour that is not higher, or at itself.

    Of equals the neighbour is taken whose edge comes first, which makes circles of more than two
    voxels impossible.
    """
    depth, height, width = mask.shape
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if not mask[z, y, x] or shaped_parent[z, y, x] >= 0:
                    continue
                here = (z * height + y) * width + x
                best, target = np.int64(levels[z, y, x]) + 1, here
                if z > 0 and mask[z - 1, y, x] and levels[z - 1, y, x] < best:
                    best, target = np.int64(levels[z - 1, y, x]), here - height * width
                if y > 0 and mask[z, y - 1, x] and levels[z, y - 1, x] < best:
                    best, target = np.int64(levels[z, y - 1, x]), here - width
                if x > 0 and mask[z, y, x - 1] and levels[z, y, x - 1] < best:
                    best, target = np.int64(levels[z, y, x - 1]), here - 1
                if x + 1 < width and mask[z, y, x + 1] and levels[z, y, x + 1] < best:
                    best, target = np.int64(levels[z, y, x + 1]), here + 1
                if y + 1 < height and mask[z, y + 1, x] and levels[z, y + 1, x] < best:
                    best, target = np.int64(levels[z, y + 1, x]), here + width
                if z + 1 < depth and mask[z + 1, y, x] and levels[z + 1, y, x] < best:
                    target = here + height * width
                if parent[target] == here:
                    parent[target] = target  # each is the other's choice
                parent[here] = target


@njit(cache=True, nogil=True)
def _number_roots(parent, basin):
    count = 0
    for i in range(parent.size):
        if parent[i] == i:
            basin[i] = count
            count += 1
    for i in range(parent.size):
        if parent[i] >= 0:
            basin[i] = basin[find(parent, i)]
    return count


@njit(cache=True, nogil=True)
def _lower_bottoms(levels, basin, bottom):
    for i in range(basin.size):
        if basin[i] >= 0 and levels[i] < bottom[basin[i]]:
            bottom[basin[i]] = levels[i]


@njit(cache=True, nogil=True)
def _count_borders(basin):
    depth, height, width = basin.shape
    count = 0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                a = basin[z, y, x]
                if a < 0:
                    continue
                for dz, dy, dx in ((0, 0, 1), (0, 1, 0), (1, 0, 0)):
                    if z + dz < depth and y + dy < height and x + dx < width:
                        b = basin[z + dz, y + dy, x + dx]
                        if b >= 0 and b != a:
                            count += 1
    return count


@njit(cache=True, nogil=True)
def _collect_borders(levels, basin, ends, high, low, edge):
    """List the edges between basins in raster order."""
    depth, height, width = basin.shape
    k = 0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                a = basin[z, y, x]
                if a < 0:
                    continue
                for dz, dy, dx in ((0, 0, 1), (0, 1, 0), (1, 0, 0)):
                    if z + dz < depth and y + dy < height and x + dx < width:
                        b = basin[z + dz, y + dy, x + dx]
                        if b >= 0 and b != a:
                            edge[k] = 3 * ((z * height + y) * width + x) + 2 * dz + dy
                            p, q = levels[z, y, x], levels[z + dz, y + dy, x + dx]
                            ends[0, k], ends[1, k] = a, b
                            high[k], low[k] = max(p, q), min(p, q)
                            k += 1


def sort_stably(key: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Sort positions by integer keys; equal keys keep their order."""
    if key.size == 0:
        return order
    least = int(key.min())
    for shift in range(0, (int(key.max()) - least).bit_length(), _DIGIT):
        order = _sort_digit(key, least, shift, order)
    return order


@njit(cache=True, nogil=True)
def _sort_digit(key, least, shift, order):
    bits = (1 << _DIGIT) - 1
    place = np.zeros(bits + 2, np.int64)
    for k in order:
        place[((np.int64(key[k]) - least) >> shift & bits) + 1] += 1
    place = np.cumsum(place)
    result = np.empty_like(order)
    for k in order:
        digit = (np.int64(key[k]) - least) >> shift & bits
        result[place[digit]] = k
        place[digit] += 1
    return result


@njit(cache=True, nogil=True)
def kruskal(ends, high, order, anchor, parent):
    """Join `ends` in `order` unless both stand alone at `high`; changes `anchor` and `parent`."""
    for k in order:
        a, b = find(parent, ends[0, k]), find(parent, ends[1, k])
        if a == b or (anchor[a] <= high[k] and anchor[b] <= high[k]):
            continue
        parent[b] = a
        anchor[a] = min(anchor[a], anchor[b])


@njit(cache=True, nogil=True)
def _rank_by_first_voxel(basin, parent, kept, labels):
    rank = np.zeros(parent.size, np.uint32)
    count = 0
    for i in range(basin.size):
        if basin[i] < 0:
            continue
        root = find(parent, basin[i])
        if kept[root]:
            if rank[root] == 0:
                count += 1
                rank[root] = count
            labels[i] = rank[root]
