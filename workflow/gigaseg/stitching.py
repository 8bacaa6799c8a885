"""Stitching: what blocks know by themselves becomes the labels of the whole volume.

`join_components` joins the connected components of blocks where they touch. `solve` finishes a
watershed that `gigaseg.fragments.flood_block` did block by block. Both take facts of one block
after the other, remember of them what the blocks still to come need, and return one look-up table
per block; ids count up in raster order of first voxels, as they would on the whole volume.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numba import njit

from gigaseg.faces import Face, Meeting, Meetings, inner_faces, pack, plane_of, raster_index, unpack
from gigaseg.forest import ALWAYS, join_pairs, kruskal, sort_stably
from gigaseg.fragments import Fragments
from gigaseg.geometry import Window
from gigaseg.labels import Objects


@dataclass(frozen=True)
class Components:
    """What the volume has to know about the connected components of one block.

    Attributes
    ----------
    window : Window
        The block.
    shape : tuple of int
        Of the volume.
    objects : {"plane", "volume"}
        Whether components go on across planes.
    first : ndarray of int64, shape (components,)
        Raster index in the volume of the first voxel of component 1, 2, ...
    faces : mapping of Face to ndarray of uint32
        The block's labels on every inner face.
    """

    window: Window
    shape: tuple[int, ...]
    objects: Objects
    first: np.ndarray
    faces: Mapping[Face, np.ndarray]

    @classmethod
    def of(
        cls,
        labels: np.ndarray,
        window: Window,
        shape: Sequence[int],
        objects: Objects = "volume",
    ) -> "Components":
        """Describe a block's labels.

        Parameters
        ----------
        labels : ndarray of int, shape of the block
            1, 2, ... in raster order of first voxels, as `gigaseg.labels.components` gives them.
        window, shape, objects
            See the attributes.

        Raises
        ------
        ValueError
            If the labels do not have the shape of the block, or are not in raster order.
        """
        if labels.shape != window.shape:
            raise ValueError(
                f"labels have shape {labels.shape}, the block {window} has {window.shape}: label "
                f"this window"
            )
        first = _first_voxels(np.ascontiguousarray(labels).ravel())
        if first.size != labels.max(initial=0):
            raise ValueError(
                f"the labels of block {window} go up to {labels.max()}, but new ones come up in "
                f"raster order only until {first.size}: number them by first voxels"
            )
        places = np.unravel_index(first, window.shape)
        moved = [place + a for place, a in zip(places, window.start, strict=True)]
        in_volume = np.zeros(first.size, np.int64)
        for place, extent in zip(moved, shape, strict=True):
            in_volume = in_volume * extent + place
        faces = inner_faces(window, shape, _first_axis(shape, objects))
        planes = {face: plane_of(labels, face).astype(np.uint32) for face in faces}
        return cls(window, tuple(shape), objects, in_volume, planes)

    def to_bytes(self) -> bytes:
        """Return everything as one .npz file."""
        planes = {f"{axis}-{end}": plane for (axis, end), plane in self.faces.items()}
        box = np.array([self.window.start, self.window.stop, self.shape])
        return pack({"box": box, "objects": np.array(self.objects), "first": self.first, **planes})

    @classmethod
    def from_bytes(cls, content: bytes) -> "Components":
        """Read what `to_bytes` returned; ValueError if that is torn."""
        arrays = unpack(content)
        start, stop, shape = (tuple(corner) for corner in arrays["box"].tolist())
        window, objects = Window(start, stop), arrays["objects"].item()
        faces = inner_faces(window, shape, _first_axis(shape, objects))
        planes = {(axis, end): arrays[f"{axis}-{end}"] for axis, end in faces}
        return cls(window, shape, objects, arrays["first"], planes)


@dataclass(frozen=True)
class Joined:
    """One label for what is one in the volume.

    Attributes
    ----------
    count : int
        Labels of the volume are 1 to `count`.
    tables : list of ndarray of uint64, shape (1 + local labels,)
        Per block, in the order they were given: the volume's label of each local one, 0 for 0 and
        for what is no instance.
    """

    count: int
    tables: list[np.ndarray]

    def combine(self, facts: Iterable[np.ndarray], how: np.ufunc, start: int | bool) -> np.ndarray:
        """Gather facts about local labels into facts about the volume's labels.

        Parameters
        ----------
        facts : iterable of ndarray, shape (1 + local labels,) each
            Per block, one value per local label; that of 0 counts for label 0.
        how : ufunc
            ``np.add`` for voxels, ``np.minimum``, ``np.maximum``, ``np.logical_or``, ...
        start : int or bool
            What to begin with.

        Returns
        -------
        ndarray, shape (1 + count,)

        Examples
        --------
        >>> joined = Joined(1, [np.array([0, 1]), np.array([0, 1, 1])])
        >>> joined.combine([np.array([2, 5]), np.array([1, 3, 4])], np.add, 0).tolist()
        [3, 12]
        """
        total: np.ndarray | None = None
        for table, fact in zip(self.tables, facts, strict=True):
            if total is None:
                total = np.full(self.count + 1, start, np.asarray(fact).dtype)
            how.at(total, table.astype(np.intp), fact)
        return np.full(1, start) if total is None else total


def join_components(blocks: Iterable[Components], *, offset: int = 0) -> Joined:
    """Join the components of blocks across their faces.

    Parameters
    ----------
    blocks : iterable of Components
        All blocks of a volume, in any order; one at a time is looked at.
    offset : int
        Labels begin after this one.

    Returns
    -------
    Joined
        Labels in raster order of first voxels: those of `gigaseg.labels.components` on the whole.

    Raises
    ------
    ValueError
        If blocks are missing, or are not cells of one grid.

    Examples
    --------
    >>> from gigaseg.labels import components
    >>> left, right = np.array([[1, 0, 1]]), np.array([[1, 0]])
    >>> windows = Window((0, 0), (1, 3)), Window((0, 3), (1, 5))
    >>> joined = join_components(
    ...     Components.of(components(part), window, (1, 5))
    ...     for part, window in zip((left, right), windows)
    ... )
    >>> joined.count, [table.tolist() for table in joined.tables]
    (2, [[0, 1, 2], [0, 2]])
    """
    firsts, pairs, bases = [], [], [0]
    meetings: Meetings | None = None
    for block in blocks:
        meetings = meetings or Meetings(block.shape)
        base = bases[-1]
        brought = {face: (base, plane) for face, plane in block.faces.items()}
        pairs += [_touching(meeting) for meeting in meetings.add(block.window, brought)]
        firsts.append(block.first)
        bases.append(base + block.first.size)
    if meetings is not None:
        meetings.close()
    ends = np.concatenate([np.empty((2, 0), np.int64), *pairs], axis=1)
    root = join_pairs(bases[-1], ends)
    first = np.concatenate([np.empty(0, np.int64), *firsts])
    rank, count = _rank(first, root, np.ones(first.size, bool))
    return Joined(count + offset, _tables(rank, bases, offset))


def solve(blocks: Iterable[Fragments], *, offset: int = 0) -> Joined:
    """Find the instances of a whole plane or volume from the fragments of its blocks.

    Parameters
    ----------
    blocks : iterable of Fragments
        All blocks, in any order; one at a time is looked at. What is kept of each is a few bytes
        per fragment, and its faces until the neighbour has come.
    offset : int
        Ids begin after this one.

    Returns
    -------
    Joined
        Ids in raster order of first voxels: those of `gigaseg.watershed` on the whole.

    Raises
    ------
    ValueError
        If blocks are missing, or are not cells of one grid.
    """
    problem = _Problem()
    for block in blocks:
        problem.add(block)
    return problem.solution(offset)


@dataclass
class _Edges:
    """Edges between nodes; `high`, `low` and `edge` order them."""

    ends: np.ndarray
    high: np.ndarray
    low: np.ndarray
    edge: np.ndarray


@dataclass
class _Problem:
    """The graph of nodes, as far as it is known."""

    meetings: Meetings | None = None
    seeded: bool = False
    anchors: list[np.ndarray] = field(default_factory=list)
    edges: list[_Edges] = field(default_factory=list)
    one_seed: list[np.ndarray] = field(default_factory=list)
    firsts: list[np.ndarray] = field(default_factory=list)
    nodes: list[np.ndarray] = field(default_factory=list)
    kept: list[np.ndarray] = field(default_factory=list)
    count: int = 0

    def add(self, block: Fragments) -> None:
        """Take a block's nodes and edges, and those across faces whose other block is known."""
        self.meetings = self.meetings or Meetings(block.shape)
        self.seeded = block.seeded
        self.anchors.append(block.anchor)
        self.edges.append(_Edges(block.ends + self.count, block.high, block.low, block.edge))
        brought = {face: (self.count, voxels) for face, voxels in block.faces.items()}
        for meeting in self.meetings.add(block.window, brought):
            edges, seeds = _across(meeting, block.shape)
            self.edges.append(edges)
            self.one_seed.append(seeds)
        self.firsts.append(block.first)
        self.nodes.append(np.where(block.node < 0, -1, block.node.astype(np.int64) + self.count))
        self.kept.append(block.kept)
        self.count += block.anchor.size

    def solution(self, offset: int) -> Joined:
        """Join all nodes and number the instances."""
        if self.meetings is not None:
            self.meetings.close()
        tree, anchor = self._trees()
        node = np.concatenate([np.empty(0, np.int64), *self.nodes])
        first = np.concatenate([np.empty(0, np.int64), *self.firsts])
        kept = np.concatenate([np.empty(0, bool), *self.kept])
        open_ = np.flatnonzero(node >= 0)
        trees = tree[node[open_]]
        kept[open_] = anchor[trees] == ALWAYS if self.seeded else True
        root = np.arange(node.size)
        speaker = np.full(self.count, -1, np.int64)  # one fragment of each tree
        speaker[trees] = open_
        root[open_] = speaker[trees]
        rank, count = _rank(first, root, kept)
        bases = np.cumsum([0, *(part.size for part in self.firsts)]).tolist()
        return Joined(count + offset, _tables(rank, bases, offset))

    def _trees(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the tree of each node, and the anchor of each tree."""
        anchor = np.concatenate([np.empty(0, np.int64), *self.anchors])
        seeds = np.concatenate([np.empty((2, 0), np.int64), *self.one_seed], axis=1)
        tree = join_pairs(self.count, seeds)
        columns = [
            np.concatenate([getattr(part, name) for part in self.edges], axis=-1)
            if self.edges
            else np.empty(shape, np.int64)
            for name, shape in (("ends", (2, 0)), ("high", 0), ("low", 0), ("edge", 0))
        ]
        ends, high, low, edge = columns
        order = np.argsort(edge)
        for key in (low, high):  # stable sorts; the last one decides
            order = order[sort_stably(key[order])]
        return kruskal(ends[:, order], high[order], anchor, tree)


def _first_axis(shape: Sequence[int], objects: Objects) -> int:
    return len(shape) - 2 if objects == "plane" else 0


def _touching(meeting: Meeting) -> np.ndarray:
    """Return the pairs of components that touch on a face, each once, counted over blocks."""
    (lower_base, lower), (upper_base, upper) = meeting.lower, meeting.upper
    both = (lower > 0) & (upper > 0)
    pairs = np.stack([lower[both].astype(np.int64), upper[both].astype(np.int64)])
    pairs = np.unique(pairs, axis=1)
    return pairs + np.array([[lower_base - 1], [upper_base - 1]])


def _across(meeting: Meeting, shape: Sequence[int]) -> tuple[_Edges, np.ndarray]:
    """Return the edges across a face, and the pairs of nodes that are of one seed."""
    (lower_base, lower), (upper_base, upper) = meeting.lower, meeting.upper
    both = (lower.node >= 0) & (upper.node >= 0)
    ends = np.stack([lower.node[both] + lower_base, upper.node[both] + upper_base])
    one_seed = (lower.seed & upper.seed)[both]
    levels = lower.level[both], upper.level[both]
    kind = len(shape) - 1 - meeting.axis  # x, y, z
    edge = 4 * raster_index(meeting.window, shape)[both] + kind
    return _Edges(ends, np.maximum(*levels), np.minimum(*levels), edge), ends[:, one_seed]


def _rank(first: np.ndarray, root: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the kept groups 1, 2, ... by first voxels; return the rank of each member."""
    lowest = np.full(first.size, np.iinfo(np.int64).max)
    np.minimum.at(lowest, root, first)
    groups = np.flatnonzero(kept & (root == np.arange(root.size)))
    rank = np.zeros(first.size, np.uint64)
    rank[groups[np.argsort(lowest[groups])]] = np.arange(1, groups.size + 1)
    return rank[root], groups.size


def _tables(rank: np.ndarray, bases: Sequence[int], offset: int) -> list[np.ndarray]:
    moved = np.where(rank > 0, rank + np.uint64(offset), np.uint64(0))
    parts = (moved[a:b] for a, b in pairwise(bases))
    return [np.concatenate([np.zeros(1, np.uint64), part]) for part in parts]


@njit(cache=True, nogil=True)
def _first_voxels(labels):
    """Return where 1, 2, ... first occur, as long as they come in this order."""
    count = 0
    for i in range(labels.size):
        if labels[i] == count + 1:
            count += 1
    first = np.empty(count, np.int64)
    count = 0
    for i in range(labels.size):
        if labels[i] == count + 1:
            first[count] = i
            count += 1
    return first
