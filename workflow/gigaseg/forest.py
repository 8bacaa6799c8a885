"""The spanning forest under the watershed: which voxels are one basin, which basins one tree.

Arrays are planes (y, x) or volumes (z, y, x). Edges between face neighbours have the strict total
order of `gigaseg.watershed`: (higher level, lower level, raster index).
"""

from typing import NamedTuple

import numpy as np
from numba import njit

ALWAYS, NEVER = np.iinfo(np.int64).min, np.iinfo(np.int64).max
"""Levels from which on a basin stands alone: one with a seed, and one without."""

_STAY, _OUTSIDE = 0, 7  # ways of voxels; 1 to 6 are the six neighbours, 7 - way is the way back
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
        Values of 64 bits must be below the highest one, which stands for what is outside.
    mask : ndarray of bool
        The voxels of the graph.
    seeds : ndarray of int, optional
        Positive on seeds, which are joined to no neighbour, and 0 elsewhere; only inside the mask.
        Values should be small: up to the highest one there is a basin for each, or an empty one.
    terminals : ndarray of int, optional
        Indices of voxels of the mask, in the flat array, that are joined to no neighbour either.

    Returns
    -------
    basin : ndarray of int
        Number of the basin from 0, -1 outside the mask; those of seeds come first.
    count : int
    """
    way = np.empty(mask.shape, np.uint8)
    levels = _below_top(levels)
    _descend(as_volume(levels), as_volume(mask), as_volume(way), np.iinfo(levels.dtype).max)
    basin = np.full(mask.shape, -1, _index_type(mask.size))
    count = 0
    if seeds is not None and seeds.any():
        basin[...] = seeds
        basin -= 1
        count = int(seeds.max())
    if terminals is not None:
        way.ravel()[terminals] = _STAY
    return basin, _trace(way.ravel(), _steps(mask.shape), basin.ravel(), count)


def bottoms(levels: np.ndarray, basin: np.ndarray, count: int) -> np.ndarray:
    """Return the lowest level of each basin, as int64 of shape (count,)."""
    bottom = np.full(count, np.iinfo(np.int64).max)
    _lower_bottoms(np.ascontiguousarray(levels).ravel(), basin.ravel(), bottom)
    return bottom


class Borders(NamedTuple):
    """The edges between basins, in their order.

    Attributes
    ----------
    edge : ndarray of uint32 or int64, shape (edges,)
        Four times the first voxel's index in the flat array, plus 0, 1, 2 for x, y, z.
    ends : ndarray of int, shape (2, edges)
        The basins.
    high : ndarray of int, shape (edges,)
        Higher level of the two voxels.
    """

    edge: np.ndarray
    ends: np.ndarray
    high: np.ndarray


def sorted_borders(levels: np.ndarray, basin: np.ndarray) -> Borders:
    """Return the edges between basins, in the order in which they are to be joined."""
    step = _steps(basin.shape)
    flat_levels = np.ascontiguousarray(levels).ravel()
    edge = np.empty(_count_borders(as_volume(basin)), _edge_type(basin.size))
    _collect_borders(as_volume(basin), edge)
    for highest in (False, True):  # stable sorts of what is in raster order; the last decides
        edge = edge[sort_stably(_levels_of(flat_levels, edge, step, highest))]
    high = _levels_of(flat_levels, edge, step, True)
    return Borders(edge, _ends_of(basin.ravel(), edge, step), high)


def lower_levels(levels: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """Return the lower level of the two voxels of edges, as int64."""
    flat = np.ascontiguousarray(levels).ravel()
    return _levels_of(flat, edge, _steps(levels.shape), False).astype(np.int64)


def kruskal(
    ends: np.ndarray, high: np.ndarray, anchor: np.ndarray, tree: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Join sets edge by edge, unless both stand alone there.

    Parameters
    ----------
    ends : ndarray of int, shape (2, edges)
        Elements that each edge connects; edges are in their order.
    high : ndarray of int, shape (edges,)
        Level of each edge.
    anchor : ndarray of int64, shape (count,)
        The level from which on an element stands alone; a joined set inherits the lower one.
    tree : ndarray of int, shape (count,), optional
        Sets to begin with, named by a member; that one's anchor counts.

    Returns
    -------
    tree : ndarray of int, shape (count,)
        The element that represents each element's set.
    anchor : ndarray of int64, shape (count,)
        Of the sets, at their representatives.
    """
    parent = np.arange(anchor.size) if tree is None else tree.copy()
    anchor = anchor.copy()
    _kruskal(ends, high, anchor, parent)
    return parent, anchor


def two_forests(
    ends: np.ndarray,
    high: np.ndarray,
    anchor: np.ndarray,
    is_node: np.ndarray,
    tree: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Do of `kruskal` what can be done when there are edges elsewhere, not known here.

    A set is a *node* if edges elsewhere may concern it, and else closed.

    The *coarse* forest joins as if there were nothing else. An edge that it refuses is refused by
    the whole too: if its ends are connected by earlier edges, then in the whole they are one tree,
    or belong to two trees that both stand alone; and what stands alone here does so there.

    The *fine* forest joins what is certain. Two closed sets are joined. A closed set that does not
    stand alone yet joins a node: this is its lowest way out. If it does stand alone, only the
    whole can tell whether the node does, so it becomes a node and the edge is exported; so is an
    edge between two nodes.

    Parameters
    ----------
    ends, high, tree
        As for `kruskal`.
    anchor : ndarray of int64, shape (count,)
        As for `kruskal`; changed, to hold for the sets.
    is_node : ndarray of bool, shape (count,)
        At the members that name the sets of `tree`; changed, to hold for the sets.

    Returns
    -------
    tree : ndarray of int, shape (count,)
        The element that represents each element's set in the fine forest.
    exported : ndarray of int64
        Edges that the whole has to look at, fewer than nodes.
    """
    parent = np.arange(anchor.size) if tree is None else tree.copy()
    return parent, _two_forests(ends, high, anchor, is_node, parent)


def join_pairs(count: int, pairs: np.ndarray) -> np.ndarray:
    """Return the set of each of `count` elements, named by its lowest member.

    Parameters
    ----------
    count : int
    pairs : ndarray of int, shape (2, pairs)
        Elements that belong together.
    """
    parent = np.arange(count)
    _join_pairs(pairs, parent)
    return parent


def number_trees(basin: np.ndarray, tree: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Label voxels 1, 2, ... by raster order of each tree's first voxel, as uint32.

    Parameters
    ----------
    basin : ndarray of int
        Negative where there is none.
    tree : ndarray of int, shape (count,)
        As returned by `kruskal`.
    kept : ndarray of bool, shape (count,)
        Trees whose representative is not kept are background.
    """
    return rank_trees(basin, tree, kept)[0]


def rank_trees(
    basin: np.ndarray, tree: np.ndarray, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Do as `number_trees`, and say of each label where it begins.

    Returns
    -------
    labels : ndarray of uint32
    first : ndarray of int64, shape (labels,)
        Index of the first voxel of label 1, 2, ... in the flat array.
    root : ndarray of int64, shape (labels,)
        Representative of its tree.
    """
    labels = np.empty(basin.shape, np.uint32)
    first, root = _rank_by_first_voxel(basin.ravel(), tree, kept, labels.ravel())
    return labels, first, root


def sort_stably(key: np.ndarray) -> np.ndarray:
    """Return the positions that sort integer keys; equal keys keep their order."""
    order = np.arange(key.size, dtype=_edge_type(key.size))
    if key.size == 0:
        return order
    least = int(key.min())
    for shift in range(0, (int(key.max()) - least).bit_length(), _DIGIT):
        order = _sort_digit(key, least, shift, order)
    return order


def as_volume(array: np.ndarray) -> np.ndarray:
    """View a plane as a volume of one plane."""
    array = np.ascontiguousarray(array)
    return array.reshape((1,) * (3 - array.ndim) + array.shape)


def _below_top(levels: np.ndarray) -> np.ndarray:
    """Widen levels that reach the highest value of their type."""
    if levels.dtype == np.int64 or levels.max(initial=0) < np.iinfo(levels.dtype).max:
        return levels
    return levels.astype(np.int16 if levels.itemsize == 1 else np.int64)


def _index_type(size: int) -> np.dtype:
    return np.dtype(np.int32 if size < np.iinfo(np.int32).max else np.int64)


def _edge_type(size: int) -> np.dtype:
    return np.dtype(np.uint32 if size < 2**30 else np.int64)


def _steps(shape: tuple[int, ...]) -> np.ndarray:
    """Return how far the neighbours are in the flat array, by `_STAY` and the ways z y x x y z."""
    height, width = shape[-2:]
    return np.array([0, -height * width, -width, -1, 1, width, height * width])


@njit(cache=True, nogil=True)
def find(parent, i):
    """Return the root of an element, and halve the way there."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True, nogil=True)
def _descend(levels, mask, way, top):
    """Note the way from every voxel to its lowest neighbour that is not higher, or to stay.

    Of equals the neighbour is taken whose edge comes first, which makes circles of more than two
    voxels impossible. The inner loop has no branches, so that it does several voxels at once.
    """
    depth, height, width = mask.shape
    before, after, up, here, down = [np.full(width + 2, top, levels.dtype) for _ in range(5)]
    for z in range(depth):
        _show(levels, mask, z, -1, here, top)
        _show(levels, mask, z, 0, down, top)
        for y in range(height):
            up, here, down = here, down, up
            _show(levels, mask, z, y + 1, down, top)
            if depth > 1:
                _show(levels, mask, z - 1, y, before, top)
                _show(levels, mask, z + 1, y, after, top)
            _choose((before, up, here, down, after), way[z, y], top)


@njit(cache=True, nogil=True)
def _show(levels, mask, z, y, row, top):
    """Fill in one line of levels, with `top` outside the mask, before it and behind it."""
    if 0 <= z < mask.shape[0] and 0 <= y < mask.shape[1]:
        for x in range(mask.shape[2]):
            row[x + 1] = levels[z, y, x] if mask[z, y, x] else top
    else:
        row[:] = top


@njit(cache=True, nogil=True)
def _choose(lines, way, top):
    before, up, here, down, after = lines
    for x in range(way.size):
        own = here[x + 1]
        best, choice = before[x + 1], np.uint8(1)
        best, choice = (up[x + 1], np.uint8(2)) if up[x + 1] < best else (best, choice)
        best, choice = (here[x], np.uint8(3)) if here[x] < best else (best, choice)
        best, choice = (here[x + 2], np.uint8(4)) if here[x + 2] < best else (best, choice)
        best, choice = (down[x + 1], np.uint8(5)) if down[x + 1] < best else (best, choice)
        best, choice = (after[x + 1], np.uint8(6)) if after[x + 1] < best else (best, choice)
        choice = choice if best <= own else np.uint8(_STAY)
        way[x] = choice if own < top else np.uint8(_OUTSIDE)


@njit(cache=True, nogil=True)
def _trace(way, step, basin, count):
    """Follow the ways to where they end, numbering basins from `count`; return their number."""
    for i in range(way.size):
        if way[i] == _OUTSIDE or basin[i] >= 0:
            continue
        j, number = i, -1
        while number < 0:
            target = j + step[way[j]]
            if basin[target] >= 0:
                number = basin[target]
            elif target == j or way[target] == 7 - way[j]:  # or each is the other's choice
                number = count
                count += 1
                basin[j] = number
            j = target
        j = i
        while basin[j] < 0:
            basin[j] = number
            j += step[way[j]]
    return count


@njit(cache=True, nogil=True)
def _lower_bottoms(levels, basin, bottom):
    for i in range(basin.size):
        if basin[i] >= 0 and levels[i] < bottom[basin[i]]:
            bottom[basin[i]] = levels[i]


@njit(cache=True, nogil=True)
def _parts(a, b):
    return a != b and a >= 0 and b >= 0


@njit(cache=True, nogil=True)
def _count_borders(basin):
    depth, height, width = basin.shape
    count = 0
    for z in range(depth):
        for y in range(height):
            for x in range(width - 1):
                count += _parts(basin[z, y, x], basin[z, y, x + 1])
            if y + 1 < height:
                for x in range(width):
                    count += _parts(basin[z, y, x], basin[z, y + 1, x])
            if z + 1 < depth:
                for x in range(width):
                    count += _parts(basin[z, y, x], basin[z + 1, y, x])
    return count


@njit(cache=True, nogil=True)
def _collect_borders(basin, edge):
    """List the edges between basins in raster order."""
    depth, height, width = basin.shape
    k = 0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                a, here = basin[z, y, x], 4 * ((z * height + y) * width + x)
                if a < 0:
                    continue
                if x + 1 < width and _parts(a, basin[z, y, x + 1]):
                    edge[k] = here
                    k += 1
                if y + 1 < height and _parts(a, basin[z, y + 1, x]):
                    edge[k] = here + 1
                    k += 1
                if z + 1 < depth and _parts(a, basin[z + 1, y, x]):
                    edge[k] = here + 2
                    k += 1


@njit(cache=True, nogil=True)
def _levels_of(levels, edge, step, highest):
    """Return the higher or the lower of the two levels of each edge."""
    result = np.empty(edge.size, levels.dtype)
    for k in range(edge.size):
        i = np.int64(edge[k]) >> 2
        a, b = levels[i], levels[i + step[4 + (np.int64(edge[k]) & 3)]]
        result[k] = max(a, b) if highest else min(a, b)
    return result


@njit(cache=True, nogil=True)
def _ends_of(basin, edge, step):
    ends = np.empty((2, edge.size), basin.dtype)
    for k in range(edge.size):
        i = np.int64(edge[k]) >> 2
        ends[0, k], ends[1, k] = basin[i], basin[i + step[4 + (np.int64(edge[k]) & 3)]]
    return ends


@njit(cache=True, nogil=True)
def _sort_digit(key, least, shift, order):
    bits = (1 << _DIGIT) - 1
    place = np.zeros(bits + 2, np.int64)
    for k in range(key.size):
        place[((np.int64(key[k]) - least) >> shift & bits) + 1] += 1
    place = np.cumsum(place)
    result = np.empty_like(order)
    for k in order:
        digit = (np.int64(key[k]) - least) >> shift & bits
        result[place[digit]] = k
        place[digit] += 1
    return result


@njit(cache=True, nogil=True)
def _kruskal(ends, high, anchor, parent):
    for k in range(high.size):
        a, b = find(parent, ends[0, k]), find(parent, ends[1, k])
        if a == b or (anchor[a] <= high[k] and anchor[b] <= high[k]):
            continue
        parent[b] = a
        anchor[a] = min(anchor[a], anchor[b])
    flatten(parent)


@njit(cache=True, nogil=True)
def _two_forests(ends, high, anchor, is_node, fine):
    coarse, lower = fine.copy(), anchor.copy()
    # Of each coarse set with a node, one edge at most makes another node: then it stands alone.
    most = min(high.size, 2 * np.count_nonzero(is_node))
    exported, count = np.empty(most, np.int64), 0
    for k in range(high.size):
        a, b = find(coarse, ends[0, k]), find(coarse, ends[1, k])
        if a == b or (lower[a] <= high[k] and lower[b] <= high[k]):
            continue
        coarse[b] = a
        lower[a] = min(lower[a], lower[b])
        p, q = find(fine, ends[0, k]), find(fine, ends[1, k])
        if is_node[p]:
            p, q = q, p
        if is_node[p] or (is_node[q] and anchor[p] <= high[k]):
            is_node[p] = True
            exported[count] = k
            count += 1
        else:
            fine[p] = q
            anchor[q] = min(anchor[q], anchor[p])
    flatten(fine)
    return exported[:count].copy()


@njit(cache=True, nogil=True)
def _join_pairs(pairs, parent):
    for k in range(pairs.shape[1]):
        a, b = find(parent, pairs[0, k]), find(parent, pairs[1, k])
        parent[max(a, b)] = min(a, b)
    flatten(parent)


@njit(cache=True, nogil=True)
def flatten(parent):
    """Point every element at its root."""
    for i in range(parent.size):
        parent[i] = find(parent, i)


@njit(cache=True, nogil=True)
def _rank_by_first_voxel(basin, tree, kept, labels):
    rank = np.zeros(tree.size, np.uint32)
    first, root = np.empty(tree.size, np.int64), np.empty(tree.size, np.int64)
    count = 0
    for i in range(basin.size):
        labels[i] = 0
        if basin[i] < 0:
            continue
        t = tree[basin[i]]
        if rank[t] == 0 and kept[t]:
            first[count], root[count] = i, t
            count += 1
            rank[t] = count
        labels[i] = rank[t]
    return first[:count].copy(), root[:count].copy()
