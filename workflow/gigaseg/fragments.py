"""Fragments: what one block of a larger volume knows about its instances, exactly.

A *fragment* is a set of voxels of the block that are one instance for certain, whatever lies
beyond. It is *closed* if nothing beyond can change it, and else a *node* of the graph that
`gigaseg.stitching.solve` solves for the whole volume. The definition is that of
`gigaseg.watershed`; this is what may be decided block by block:

- A voxel on a face could be claimed from beyond, so it is a node, its own fragment from the start.
  Any other voxel is joined to its lowest neighbour, as in `gigaseg.forest.find_basins`.
- `gigaseg.forest.two_forests` takes the edges within the block, joins what is certain and exports
  what is not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from gigaseg.faces import (
    Face,
    face_window,
    inner_faces,
    pack,
    plane_of,
    raster_index,
    unpack,
)
from gigaseg.forest import (
    ALWAYS,
    NEVER,
    Borders,
    bottoms,
    find_basins,
    lower_levels,
    rank_trees,
    sorted_borders,
    two_forests,
)
from gigaseg.geometry import Window
from gigaseg.labels import components


@dataclass(frozen=True)
class FaceVoxels:
    """The voxels of a block on one inner face.

    Attributes
    ----------
    node : ndarray of int32
        Node of each voxel, -1 outside the mask.
    level : ndarray of int64
    seed : ndarray of bool
    """

    node: np.ndarray
    level: np.ndarray
    seed: np.ndarray


@dataclass(frozen=True)
class Fragments:
    """What the volume has to know about the fragments of one block.

    Attributes
    ----------
    window : Window
        The block.
    shape : tuple of int
        Of the volume.
    first : ndarray of int64, shape (fragments,)
        Raster index in the volume of the first voxel of fragment 1, 2, ...
    node : ndarray of int32, shape (fragments,)
        Node that the fragment is, -1 if it is closed.
    kept : ndarray of bool, shape (fragments,)
        Whether a closed fragment is an instance.
    anchor : ndarray of int64, shape (nodes,)
        Level from which on the node stands alone.
    ends : ndarray of int32, shape (2, edges)
        Nodes that an exported edge connects.
    high, low, edge : ndarray of int64, shape (edges,)
        Its place in the order: higher and lower level, raster index of the edge in the volume.
    faces : mapping of Face to FaceVoxels
        For every inner face.
    seeded : bool
        Whether instances need a seed, that is an anchor ALWAYS.
    """

    window: Window
    shape: tuple[int, ...]
    first: np.ndarray
    node: np.ndarray
    kept: np.ndarray
    anchor: np.ndarray
    ends: np.ndarray
    high: np.ndarray
    low: np.ndarray
    edge: np.ndarray
    faces: Mapping[Face, FaceVoxels]
    seeded: bool

    def to_bytes(self) -> bytes:
        """Return everything as bytes, with their sum."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays["box"] = np.array([self.window.start, self.window.stop, self.shape])
        arrays["seeded"] = np.array(self.seeded)
        for (axis, end), voxels in self.faces.items():
            arrays |= {f"{name}-{axis}-{end}": plane for name, plane in vars(voxels).items()}
        return pack(arrays)

    @classmethod
    def from_bytes(cls, content: bytes) -> "Fragments":
        """Read what `to_bytes` returned; ValueError if that is torn."""
        arrays = unpack(content)
        start, stop, shape = (tuple(corner) for corner in arrays["box"].tolist())
        window = Window(start, stop)
        faces = {
            (axis, end): FaceVoxels(
                *(arrays[f"{field.name}-{axis}-{end}"] for field in fields(FaceVoxels))
            )
            for axis, end in inner_faces(window, shape)
        }
        values = {name: arrays[name] for name in _ARRAYS}
        return cls(window=window, shape=shape, faces=faces, seeded=bool(arrays["seeded"]), **values)


_ARRAYS = ("first", "node", "kept", "anchor", "ends", "high", "low", "edge")


def flood_block(
    levels: np.ndarray,
    mask: np.ndarray,
    window: Window,
    shape: Sequence[int],
    *,
    pass_level: Callable[[np.ndarray], np.ndarray] | None = None,
    seeds: np.ndarray | None = None,
) -> tuple[np.ndarray, Fragments]:
    """Find the fragments of one block.

    With `gigaseg.stitching.solve`, the same instances as on the whole volume by
    `dynamics_watershed` if `pass_level` is given, by `seeded_watershed` if `seeds` are, and else
    by `components` of the mask.

    Parameters
    ----------
    levels : ndarray of int, shape of the block
        Flooded from low to high.
    mask : ndarray of bool, same shape
        Where instances may be.
    window : Window
        The block in the volume, of two or three axes. Blocks are the cells of one grid.
    shape : sequence of int
        Of the volume: of one plane, if each plane is a problem of its own.
    pass_level : callable, optional
        As for `dynamics_watershed`.
    seeds : ndarray of bool, optional
        Every connected component of these voxels (within the mask) is a seed.

    Returns
    -------
    labels : ndarray of uint32, shape of the block
        Fragments from 1, in raster order of their first voxels; 0 outside the mask.
    fragments : Fragments

    Raises
    ------
    ValueError
        If an array does not have the shape of the block, or both `pass_level` and `seeds` are
        given.

    Examples
    --------
    >>> levels, mask = np.array([[1, 2, 9, 3, 1]]), np.ones((1, 5), bool)
    >>> labels, fragments = flood_block(levels, mask, Window((0, 0), (1, 5)), (1, 9),
    ...                                 pass_level=lambda bottom: bottom + 8)
    >>> labels.tolist(), fragments.node.tolist()
    ([[1, 1, 1, 2, 2]], [-1, 0])
    """
    _check(levels, mask, window, pass_level, seeds)
    faces = inner_faces(window, shape)
    marked = np.zeros_like(mask) if seeds is None else seeds & mask
    terminals = _outermost(mask, faces)
    named = None if seeds is None else components(marked, objects="volume")
    basin, count = find_basins(levels, mask, named, terminals)
    anchor = _anchors(levels, basin, count, pass_level)
    anchor[basin[marked]] = ALWAYS
    is_node = np.zeros(count, bool)
    is_node[basin.ravel()[terminals]] = True
    tree, left = _reduce(levels, basin, anchor, is_node)
    labels, first, root = rank_trees(basin, tree, np.ones(count, bool))
    node = np.full(count, -1, np.int32)
    nodes = root[is_node[root]]
    node[nodes] = np.arange(nodes.size)
    node = node[tree]
    edge = left.edge.astype(np.int64)
    return labels, Fragments(
        window=window,
        shape=tuple(shape),
        first=_in_volume(first, window, shape),
        node=node[root],
        kept=(node[root] < 0) & (seeds is None or anchor[root] == ALWAYS),
        anchor=anchor[nodes],
        ends=node[left.ends],
        high=left.high.astype(np.int64),
        low=lower_levels(levels, edge),
        edge=4 * _in_volume(edge >> 2, window, shape) + (edge & 3),
        faces={
            face: FaceVoxels(
                _lookup(node, plane_of(basin, face)),
                plane_of(levels, face).astype(np.int64),
                plane_of(marked, face).copy(),
            )
            for face in faces
        },
        seeded=seeds is not None,
    )


def _check(
    levels: np.ndarray,
    mask: np.ndarray,
    window: Window,
    pass_level: Callable[[np.ndarray], np.ndarray] | None,
    seeds: np.ndarray | None,
) -> None:
    if pass_level is not None and seeds is not None:
        raise ValueError("instances start from minima or from seeds: give pass_level or seeds")
    for name, array in (("levels", levels), ("mask", mask), ("seeds", seeds)):
        if array is not None and array.shape != window.shape:
            raise ValueError(
                f"{name} have shape {array.shape}, the block {window} has {window.shape}: read "
                f"them from this window"
            )


def _outermost(mask: np.ndarray, faces: Sequence[Face]) -> np.ndarray:
    """Return the flat indices of the voxels of the mask on faces; those on edges come twice."""
    whole = Window.whole(mask.shape)
    planes = [raster_index(face_window(whole, face), mask.shape).ravel() for face in faces]
    index = np.concatenate([np.empty(0, np.int64), *planes])
    return index[mask.ravel()[index]]


def _anchors(
    levels: np.ndarray,
    basin: np.ndarray,
    count: int,
    pass_level: Callable[[np.ndarray], np.ndarray] | None,
) -> np.ndarray:
    if pass_level is None:
        return np.full(count, NEVER)
    bottom = bottoms(levels, basin, count)
    return np.maximum(pass_level(bottom), bottom + 1)


def _reduce(
    levels: np.ndarray, basin: np.ndarray, anchor: np.ndarray, is_node: np.ndarray
) -> tuple[np.ndarray, Borders]:
    """Return the fragment of each basin, named by a basin, and the edges that are left."""
    borders = sorted_borders(levels, basin)
    tree, exported = two_forests(borders.ends, borders.high, anchor, is_node)
    return tree, Borders(*(column[..., exported] for column in borders))


def _in_volume(index: np.ndarray, window: Window, shape: Sequence[int]) -> np.ndarray:
    """Turn flat indices within a block into raster indices within the volume."""
    places = np.unravel_index(index, window.shape)
    moved = tuple(p + a for p, a in zip(places, window.start, strict=True))
    result = np.zeros(index.shape, np.int64)
    for place, extent in zip(moved, shape, strict=True):
        result = result * extent + place
    return result


def _lookup(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return ``table[index]``, and -1 where the index is negative."""
    if table.size == 0:
        return np.full(index.shape, -1, table.dtype)
    return np.where(index < 0, table.dtype.type(-1), table[index])
