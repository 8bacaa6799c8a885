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
from gigaseg.forest import ALWAYS, join_pairs, sort_stably, two_forests
from gigaseg.fragments import Fragments
from gigaseg.geometry import Window
from gigaseg.labels import Objects

ENOUGH = 2**18
"""Nodes with which `solve` waits no longer to finish what it can: some 50 MB."""

_NOWHERE = np.iinfo(np.int64).max
_NO_PAIRS = np.empty((2, 0), np.int64)


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
        """Return everything as bytes, with their sum."""
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
    ends = np.concatenate([_NO_PAIRS, *pairs], axis=1)
    root = join_pairs(bases[-1], ends)
    first = np.concatenate([np.empty(0, np.int64), *firsts])
    lowest = np.full(first.size, _NOWHERE)
    np.minimum.at(lowest, root, first)
    groups = np.flatnonzero(root == np.arange(root.size))
    labels = np.zeros(first.size, np.uint64)
    labels[groups[np.argsort(lowest[groups])]] = np.arange(groups.size) + (offset + 1)
    labels = labels[root]
    tables = [np.append(np.uint64(0), labels[a:b]) for a, b in pairwise(bases)]
    return Joined(groups.size + offset, tables)


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
    problem: _Problem | None = None
    for block in blocks:
        problem = problem or _Problem(Meetings(block.shape), block.seeded)
        problem.add(block)
    return Joined(offset, []) if problem is None else problem.solution(offset)


@dataclass
class _Side:
    """One side of a face that has not met the other yet; `node` as `_Problem` numbers them now."""

    node: np.ndarray
    level: np.ndarray
    seed: np.ndarray


@dataclass(frozen=True)
class _Edges:
    """Edges between nodes; `high`, `low` and `edge` order them."""

    ends: np.ndarray
    high: np.ndarray
    low: np.ndarray
    edge: np.ndarray

    @classmethod
    def total(cls, parts: "Sequence[_Edges]") -> "_Edges":
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*(np.concatenate(column, axis=-1) for column in columns))

    def take(self, index: np.ndarray) -> "_Edges":
        return _Edges(*(column[..., index] for column in vars(self).values()))

    def in_order(self) -> "_Edges":
        order = np.argsort(self.edge)
        for key in (self.low, self.high):  # stable sorts; the last one decides
            order = order[sort_stably(key[order])]
        return self.take(order)


@dataclass(frozen=True)
class _Place:
    """Where to look up the fragments of one block: see `_Problem.solution`."""

    node: np.ndarray
    kept: np.ndarray
    generation: int
    base: int


@dataclass
class _Problem:
    """The graph of nodes, as far as it is known, and reduced from time to time.

    What the faces that still wait cannot reach any more is finished. The others are the nodes of
    the next *generation*, with numbers of their own.
    """

    meetings: Meetings
    seeded: bool
    anchor: list[np.ndarray] = field(default_factory=list)
    first: list[np.ndarray] = field(default_factory=list)
    edges: list[_Edges] = field(default_factory=list)
    one_seed: list[np.ndarray] = field(default_factory=list)
    count: int = 0
    enough: int = 0
    places: list[_Place] = field(default_factory=list)
    closed: list[np.ndarray] = field(default_factory=list)
    finished: list[np.ndarray] = field(default_factory=list)
    fates: list[np.ndarray] = field(default_factory=list)

    def add(self, block: Fragments) -> None:
        """Take a block's nodes and edges, and those across faces whose other block is known."""
        base, open_ = self.count, block.node >= 0
        first = np.empty_like(block.anchor)
        first[block.node[open_]] = block.first[open_]
        self.first.append(first)
        self.anchor.append(block.anchor)
        self.edges.append(_Edges(block.ends + base, block.high, block.low, block.edge))
        self.count += first.size
        brought = {
            face: _Side(_moved(voxels.node, base), voxels.level, voxels.seed)
            for face, voxels in block.faces.items()
        }
        for meeting in self.meetings.add(block.window, brought):
            edges, seeds = _across(meeting, block.shape)
            self.edges.append(edges)
            self.one_seed.append(seeds)
        self.closed.append(block.first[block.kept])
        self.places.append(_Place(block.node, block.kept, len(self.fates), base))
        if self.count > max(ENOUGH, 2 * self.enough):
            self.reduce()

    def reduce(self) -> None:
        """Finish what is certain; the rest is the next generation."""
        waiting = list(self.meetings.waiting())
        anchor, first = np.concatenate(self.anchor), np.concatenate(self.first)
        tree = join_pairs(self.count, np.concatenate([_NO_PAIRS, *self.one_seed], axis=1))
        is_node = np.zeros(self.count, bool)
        for side in waiting:
            is_node[tree[side.node[side.node >= 0]]] = True
        edges = _Edges.total(self.edges).in_order()
        tree, exported = two_forests(edges.ends, edges.high, anchor, is_node, tree)
        np.minimum.at(first, tree, first.copy())
        roots = np.flatnonzero(tree == np.arange(tree.size))
        alive, dead = roots[is_node[roots]], roots[~is_node[roots]]
        kept = anchor[dead] == ALWAYS if self.seeded else np.ones(dead.size, bool)
        fate = np.empty(self.count, np.int64)
        fate[alive] = np.arange(alive.size)
        fate[dead] = -2 - sum(part.size for part in self.finished) - np.arange(dead.size)
        fate = fate[tree]
        self.fates.append(fate)
        self.finished.append(np.where(kept, first[dead], _NOWHERE))
        left = edges.take(exported)
        self.edges = [_Edges(fate[left.ends], left.high, left.low, left.edge)]
        self.anchor, self.first, self.one_seed = [anchor[alive]], [first[alive]], []
        self.count = self.enough = alive.size
        for side in waiting:
            side.node = np.where(side.node < 0, -1, fate[side.node])

    def solution(self, offset: int) -> Joined:
        """Finish everything and number the instances."""
        self.meetings.close()
        self.reduce()
        alone, trees = np.concatenate(self.closed), np.concatenate(self.finished)
        every = np.concatenate([alone, trees[trees < _NOWHERE]])
        rank = np.empty(every.size, np.uint64)
        rank[np.argsort(every)] = np.arange(1, every.size + 1, dtype=np.uint64) + np.uint64(offset)
        of_trees = np.zeros(trees.size, np.uint64)
        of_trees[trees < _NOWHERE] = rank[alone.size :]
        return Joined(every.size + offset, self._tables(rank[: alone.size], of_trees))

    def _tables(self, alone: np.ndarray, of_trees: np.ndarray) -> list[np.ndarray]:
        """Look up the fragments of each block, the last one first: fates lead forwards."""
        tables, generation = [], len(self.fates)
        ids = np.empty(0, np.uint64)
        for place in reversed(self.places):
            while generation > place.generation:
                generation -= 1
                fate = self.fates[generation]
                ids = np.append(ids, np.uint64(0))[np.maximum(fate, -1)]
                ids[fate < -1] = of_trees[-2 - fate[fate < -1]]
            table = np.zeros(1 + place.node.size, np.uint64)
            count = np.count_nonzero(place.kept)
            table[1:][place.kept], alone = alone[alone.size - count :], alone[: alone.size - count]
            open_ = place.node >= 0
            table[1:][open_] = ids[place.base + place.node[open_].astype(np.int64)]
            tables.append(table)
        return tables[::-1]


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
    lower, upper = meeting.lower, meeting.upper
    both = (lower.node >= 0) & (upper.node >= 0)
    ends = np.stack([lower.node[both], upper.node[both]])
    levels = lower.level[both], upper.level[both]
    kind = len(shape) - 1 - meeting.axis  # x, y, z
    edge = 4 * raster_index(meeting.window, shape)[both] + kind
    edges = _Edges(ends, np.maximum(*levels), np.minimum(*levels), edge)
    return edges, ends[:, (lower.seed & upper.seed)[both]]


def _moved(node: np.ndarray, base: int) -> np.ndarray:
    return np.where(node < 0, -1, node.astype(np.int64) + base)


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
