"""Watershed by minimum spanning forest: one definition, whatever fits in memory.

Voxels of a mask are the nodes of a graph, pairs of face neighbours its edges. Edges are put in a
strict total order, by (higher level of the two voxels, lower level, raster index of the edge), and
joined in that order unless both sides already stand alone: as two basins with a seed each, or as
two basins deep enough below the edge (Cousty et al. 2009, "Watershed Cuts: Minimum Spanning Forests
and the Drop of Water Principle", doi 10.1109/TPAMI.2008.173). Nothing depends on the order in which
a program happens to visit voxels, so a connected component of the mask gives the same instances
alone and within the whole.

The raster index of an edge is that of its first voxel; edges of one voxel go x, y, z.

**Dynamics.** The dynamics of a minimum is the climb from it to the lowest pass that leads to a
deeper one; the deepest minimum of a connected component is always kept. So two basins that meet at
a pass stay apart if both their minima lie at least `h` below it, and else become one basin with the
deeper minimum. Of two equally deep minima it does not matter which is called the deeper: both lie
`h` below their pass, or neither does.

**Speed.** Every voxel is first joined to its lowest neighbour if that is not higher than itself:
this edge is the first of all edges at the voxel, so the forest contains it. Only the edges between
the resulting basins, a few of all, are sorted and joined.
"""

from collections.abc import Callable

import numpy as np

from gigaseg.distances import integer_spacing, narrowed, squared_distance
from gigaseg.forest import (
    ALWAYS,
    NEVER,
    bottoms,
    find_basins,
    kruskal,
    number_trees,
    sorted_borders,
)


def seeded_watershed(levels: np.ndarray, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Flood a mask from given seeds.

    Parameters
    ----------
    levels : ndarray of int, shape (y, x) or (z, y, x)
        Flooded from low to high.
    mask : ndarray of bool, same shape
        Where instances may be.
    seeds : ndarray of int, same shape
        Voxels with the same positive value are one seed. Outside the mask they do not count.

    Returns
    -------
    ndarray of uint32
        Ids count up in raster order of each instance's first voxel. A component of the mask
        without a seed is background.

    Examples
    --------
    >>> levels, seeds = np.array([[1, 2, 9, 3, 1]]), np.array([[5, 0, 0, 0, 4]])
    >>> seeded_watershed(levels, np.ones((1, 5), bool), seeds).tolist()
    [[1, 1, 1, 2, 2]]
    """
    seeds = np.where(mask & (seeds > 0), seeds, 0)
    if seeds.max(initial=0) > seeds.size:
        names, rank = np.unique(seeds, return_inverse=True)
        seeds = rank.reshape(mask.shape) + (names[0] > 0)
    basin, count = find_basins(levels, mask, seeds)
    anchor = np.full(count, NEVER)
    anchor[basin[seeds > 0]] = ALWAYS
    borders = sorted_borders(levels, basin)
    tree, anchor = kruskal(borders.ends, borders.high, anchor)
    return number_trees(basin, tree, anchor == ALWAYS)


def dynamics_watershed(
    levels: np.ndarray, mask: np.ndarray, pass_level: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Flood a mask from all minima of sufficient dynamics.

    Parameters
    ----------
    levels : ndarray of int, shape (y, x) or (z, y, x)
        Flooded from low to high.
    mask : ndarray of bool, same shape
        Where instances may be.
    pass_level : callable
        Maps the levels of minima to the lowest levels of passes at which they count as `h` deep:
        see `climb` and `climb_distance`. Must not decrease.

    Returns
    -------
    ndarray of uint32
        Ids count up in raster order of each instance's first voxel. Every connected component of
        the mask is at least one instance.

    Examples
    --------
    >>> levels = np.array([[1, 2, 9, 3, 1]])
    >>> dynamics_watershed(levels, np.ones((1, 5), bool), climb(8)).tolist()
    [[1, 1, 1, 2, 2]]
    >>> dynamics_watershed(levels, np.ones((1, 5), bool), climb(9)).tolist()
    [[1, 1, 1, 1, 1]]
    """
    basin, count = find_basins(levels, mask)
    bottom = bottoms(levels, basin, count)
    anchor = np.maximum(pass_level(bottom), bottom + 1)  # a pass is above what it parts
    borders = sorted_borders(levels, basin)
    tree, _ = kruskal(borders.ends, borders.high, anchor)
    return number_trees(basin, tree, np.ones(count, bool))


def climb(h: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return the `pass_level` of dynamics measured in steps of the level itself."""
    return lambda bottom: bottom + int(np.ceil(h))


def distance_levels(
    foreground: np.ndarray, *, beyond: bool = False, spacing: tuple[float, ...] | None = None
) -> np.ndarray:
    """Return minus the exact squared distance to the nearest voxel that is not foreground.

    Parameters
    ----------
    foreground : ndarray of bool, shape (y, x) or (z, y, x)
        The edge of the volume does not count as background.
    beyond : bool
        Go on rising outside: there the level is plus the squared distance to the foreground, so
        that `fill` gives background voxels to what is near. Otherwise it is 0 there.
    spacing : tuple of float, optional
        Voxel edges; isotropic by default.

    Returns
    -------
    ndarray of int32 or int64
        In units of `integer_spacing`, squared; constant where there is nothing to measure to,
        because the foreground is everything, or nothing.
    """
    if foreground.all():
        return np.full(foreground.shape, -1, np.int32)
    levels = squared_distance(~foreground, spacing)
    np.negative(levels, out=levels)
    if beyond and foreground.any():
        np.copyto(levels, squared_distance(foreground, spacing), where=~foreground)
    return narrowed(levels)


def climb_distance(
    h: float, spacing: tuple[float, ...] | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the `pass_level` of dynamics measured in distance, on `distance_levels`.

    A level L stands for the signed distance ``sign(L) * sqrt(abs(L))``.

    Parameters
    ----------
    h : float
        Climb in px of the finest axis.
    spacing : tuple of float, optional
        As given to `distance_levels`.

    Examples
    --------
    >>> climb_distance(2.0)(np.array([-25, -9, -4])).tolist()
    [-9, -1, 0]
    """
    unit = 1 if spacing is None else min(integer_spacing(spacing))

    def pass_level(bottom: np.ndarray) -> np.ndarray:
        depth = -np.sign(bottom) * np.sqrt(np.abs(bottom).astype(np.float64))
        height = h * unit - depth
        return np.ceil(height * np.abs(height)).astype(np.int64)

    return pass_level
