"""Split a volume of any size, block by block, exactly as `gigaseg.instances.segment` defines it.

Passes over blocks, each recorded in a ledger, and short agreements between them:

0. *survey* where the foreground lies, if distances are flooded and there are several blocks;
1. *flood* each block into fragments (`gigaseg.fragments`); `gigaseg.stitching.solve` tells which
   of them are one instance;
2. *count* what is measured on each instance, after the ridge was given back; sums are integers, so
   they do not depend on the cut. Then it is known which gaps are holes, which instances are too
   small, and how the rest is numbered;
3. *write* the final labels.

Where the settings change no instance once it is flooded, the last two are one pass. Memory follows
the block, and the tables of fragments and instances. What a pass leaves for the next lies in a
folder of scratch: the fragments, and one file of tables per block, written before its entry in the
ledger.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from .blockwise import Ledger, block_key, map_blocks
from .distances import integer_spacing
from .faces import pack, unpack
from .fragments import Fragments, flood_block
from .geometry import Window, blocks
from .instances import Evidence, Relief, Splitting, Target
from .labels import Objects
from .ledger import write_atomically
from .levels import Survey, block_distance_levels
from .lookup import look_up
from .objects import RIDGE_REACH, Gaps, Quanta, Tally, find_gaps, grow_into_ridge, tally
from .stitching import Components, join_components, solve

Corner = tuple[int, ...]

PLANE_SIDE = 2048  # px of a block of a plane: memory follows its square, halos and faces its side
VOLUME_SIDE = 512  # px in y and x of a block that is flooded in space
VOXELS = 2**24  # of a block of a volume
DISTANCES = {"plane": 64, "volume": 16}  # px of halo that show the most distances, not all
NOBODY = np.iinfo(np.uint64).max


@dataclass(frozen=True)
class Cut:
    """Into which blocks a volume is cut. The results do not depend on it.

    Attributes
    ----------
    flood : tuple of int
        Extent z, y, x of the blocks that are flooded.
    write : tuple of int
        Of those in which instances are counted and written: whole shards.
    """

    flood: tuple[int, int, int]
    write: tuple[int, int, int]

    @classmethod
    def choose(cls, shape: Sequence[int], objects: Objects, shards: Sequence[int]) -> "Cut":
        """Choose blocks from the shape of a volume (z, y, x) and the shards to be written.

        Examples
        --------
        >>> Cut.choose((1, 9000, 9000), "plane", (1, 1024, 1024))
        Cut(flood=(1, 2048, 2048), write=(1, 2048, 2048))
        >>> Cut.choose((100, 3000, 400), "volume", (1, 1024, 512))
        Cut(flood=(81, 512, 400), write=(31, 1024, 512))
        """
        _, rows, columns = shards
        if objects == "plane":
            write = (max(1, PLANE_SIDE // rows) * rows, max(1, PLANE_SIDE // columns) * columns)
            return cls((1, PLANE_SIDE, PLANE_SIDE), (1, *write))
        sides = (min(VOLUME_SIDE, shape[1]), min(VOLUME_SIDE, shape[2]))
        depths = (
            max(1, min(shape[0], VOXELS // (height * width)))
            for height, width in (sides, (rows, columns))
        )
        return cls((next(depths), *sides), (next(depths), rows, columns))


@dataclass(frozen=True)
class Work:
    """What is to be split, how, and where it is done.

    Attributes
    ----------
    probabilities : array-like of uint8, shape (c, z, y, x)
    image : array-like, shape (c, z, y, x)
        Its intensities are measured.
    fragments : array-like of uint32, shape (z, y, x)
        Scratch; blocks of ``cut.flood`` are whole shards.
    folder : Path
        Scratch for tables.
    how : Splitting
    target : {"foreground", "interior_boundary"}
        What the channels of the probabilities are.
    objects : {"plane", "volume"}
        Whether each plane is a problem of its own; ids continue from plane to plane.
    spacing : tuple of float
        Size of a voxel along z, y, x.
    quanta : tuple of Quanta
        One per channel of the image.
    cut : Cut
    """

    probabilities: Any
    image: Any
    fragments: Any
    folder: Path
    how: Splitting
    target: Target
    objects: Objects
    spacing: tuple[float, float, float]
    quanta: tuple[Quanta, ...]
    cut: Cut

    @property
    def shape(self) -> tuple[int, int, int]:
        """Extent of the volume along z, y, x."""
        z, y, x = self.probabilities.shape[1:]
        return z, y, x

    @property
    def planar(self) -> bool:
        """Whether the axis z is no axis of the problem."""
        return self.objects == "plane"

    def own(self, extents: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the entries of (z, y, x) for the axes of one problem."""
        return extents[1:] if self.planar else extents

    def window(self, window: Window) -> Window:
        """Return a window of the volume in its problem."""
        return Window(self.own(window.start), self.own(window.stop))

    def view(self, array: np.ndarray) -> np.ndarray:
        """View an array (..., z, y, x) of a block in its problem."""
        return array[..., 0, :, :] if self.planar else array

    def place(self, window: Window, plane: int) -> Window:
        """Return a window of a problem, the plane `plane` or the volume, in the volume."""
        if not self.planar:
            return window
        return Window((plane, *window.start), (plane + 1, *window.stop))

    def evidence(self, data: np.ndarray) -> Evidence:
        """Interpret the probabilities of a block."""
        return Evidence.read(self.view(data), self.target)

    @property
    def measures_distance(self) -> bool:
        """Whether distances are flooded."""
        return self.how.method == "watershed" and self.how.level == "distance"

    @property
    def far_sighted(self) -> bool:
        """Whether a distance may be measured to another block."""
        several = any(n > b for n, b in zip(self.shape[1:], self.cut.flood[1:], strict=True))
        deep = not self.planar and self.shape[0] > self.cut.flood[0]
        return self.measures_distance and (several or deep)

    @property
    def halo(self) -> tuple[int, int, int]:
        """Voxels read around a block that is flooded."""
        if not self.far_sighted:
            return 0, 0, 0
        steps = integer_spacing(self.own(self.spacing))
        reach = [-(-DISTANCES[self.objects] * min(steps) // step) for step in steps]
        z, y, x = [0] * (3 - len(reach)) + reach
        return z, y, x

    def problems(self, block: Corner) -> Iterator[list[Window]]:
        """Yield the blocks of each problem, in raster order."""
        windows = blocks(self.shape, block)
        for _, group in groupby(windows, lambda w: w.start[0] if self.planar else 0):
            yield list(group)

    def save(self, name: str, window: Window, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the tables of one block, whole or not at all."""
        write_atomically(self._path(name, window), pack(arrays))

    def load(self, name: str, window: Window) -> dict[str, np.ndarray]:
        """Read the tables of one block; ValueError if they are torn."""
        return unpack(self._path(name, window).read_bytes())

    def holds(self, name: str, window: Window) -> bool:
        """Whether the tables of one block are there, and whole."""
        try:
            return bool(self.load(name, window))
        except (FileNotFoundError, ValueError):
            return False

    def _path(self, name: str, window: Window) -> Path:
        return self.folder / name / f"{'-'.join(map(str, window.start))}.npz"


def split_volume(
    work: Work, labels: Any, ledger: Callable[[str], Ledger], *, workers: int = 1
) -> Tally:
    """Split a volume, or go on where an earlier try ended.

    Parameters
    ----------
    work : Work
    labels : array-like of uint32 or uint64, shape (z, y, x)
        The result; blocks of ``work.cut.write`` are whole shards.
    ledger : callable
        Opens the ledger of a pass by its name.
    workers : int
        Threads; they never change a value. Each holds a block in memory.

    Returns
    -------
    Tally
        Of the instances, in the order of their ids.
    """

    def run(name: str, function: Any, block: Corner, tables: bool = True, **arrays: Any) -> None:
        done = ledger(name)
        if tables and done.checksums:
            for window in blocks(work.shape, block):
                if not work.holds(name, window):  # lost or spoilt: the block is done again
                    done.checksums.pop(block_key(window), None)
        arrays = {"sources": [], "targets": [], **arrays}
        map_blocks(function, **arrays, block=block, located=True, ledger=done, workers=workers)

    how, flood, write = work.how, work.cut.flood, work.cut.write
    look = {"sources": [work.probabilities]}
    if work.far_sighted:
        run("survey", _Look(work), flood, **look)
    around = {**look, "halo": work.halo, "edge": "clip"}
    surveys = _read_surveys(work) if work.far_sighted else {}
    run("fragments", _Flood(work, surveys), flood, **around, targets=[work.fragments])
    atlas = _solve(work)
    if not (how.ridge or how.fill_holes or how.minimum_size > 1):
        names = np.arange(atlas.count + 1, dtype=np.uint64)
        final = _Write(atlas, names, {}, counts=True)
        run("labels", final, write, sources=[work.image], targets=[labels])
        return _gather(atlas, "labels")
    run("objects", _Count(atlas, "objects"), write, sources=[work.image])
    total, owners = _gather(atlas, "objects"), {}
    if how.fill_holes:
        owners = _find_owners(atlas, "objects", total)
    order, names = _number(total, how.minimum_size)
    run("labels", _Write(atlas, names, owners), write, tables=False, targets=[labels])
    return total.take(order)


@dataclass(frozen=True)
class _Look:
    """Pass before the first: where in a block the foreground is."""

    work: Work

    def __call__(self, data: np.ndarray, inner: tuple[slice, ...], window: Window) -> tuple[()]:
        del inner
        work = self.work
        survey = Survey.of(work.evidence(data).foreground(work.how), work.window(window))
        boxes = {k: [b.start, b.stop] if b else [] for k, b in vars(survey).items()}
        work.save("survey", window, {k: np.array(box, np.int64) for k, box in boxes.items()})
        return ()


def _read_surveys(work: Work) -> dict[int, list[Survey]]:
    """Read what was surveyed, by the first plane of each problem."""
    found = {}
    for windows in work.problems(work.cut.flood):
        tables = [work.load("survey", window) for window in windows]
        found[windows[0].start[0]] = [
            Survey(
                **{
                    k: Window(*map(tuple, box.tolist())) if box.size else None
                    for k, box in table.items()
                }
            )
            for table in tables
        ]
    return found


@dataclass(frozen=True)
class _Sight:
    """The foreground of a problem, of which a part is in memory."""

    work: Work
    plane: int
    near: Window
    seen: np.ndarray

    def __call__(self, box: Window) -> np.ndarray:
        """Return the foreground in a box."""
        if box.clip(self.near.stop) == box and min(box.within(self.near).start) >= 0:
            return self.seen[box.within(self.near).slices]
        there = self.work.place(box, self.plane)
        data = np.asarray(self.work.probabilities[(slice(None), *there.slices)])
        return self.work.evidence(data).foreground(self.work.how)


@dataclass(frozen=True)
class _Flood:
    """First pass: the fragments of a block."""

    work: Work
    surveys: Mapping[int, list[Survey]]

    def __call__(self, data: np.ndarray, inner: tuple[slice, ...], window: Window) -> np.ndarray:
        work, how, place = self.work, self.work.how, self.work.window(window)
        around = work.evidence(data)
        evidence = around.crop(work.own(inner))
        relief = Relief.build(
            evidence, how, work.own(work.spacing), partial(self._distances, around, inner, window)
        )
        labels, fragments = flood_block(
            relief.levels,
            relief.mask,
            place,
            work.own(work.shape),
            pass_level=relief.pass_level,
            seeds=relief.seeds,
        )
        known = np.frombuffer(fragments.to_bytes(), np.uint8)
        facts = {"fragments": known, "foreground": evidence.foreground(how).any()}
        work.save("fragments", window, facts)
        return labels.reshape(window.shape)

    def _distances(self, around: Evidence, inner: tuple[slice, ...], window: Window) -> np.ndarray:
        """Return the distance levels of a block: see `Relief.build`."""
        work, place = self.work, self.work.window(window)
        corner = tuple(a - s.start for a, s in zip(place.start, work.own(inner), strict=True))
        foreground = around.foreground(work.how)
        near = Window.whole(foreground.shape).shift(corner)
        plane = window.start[0] if work.planar else 0
        return block_distance_levels(
            _Sight(work, plane, near, foreground),
            place,
            work.own(work.shape),
            surveys=self.surveys.get(plane) or [Survey.of(foreground, near)],
            halo=DISTANCES[work.objects],
            beyond=work.how.fill,
            spacing=work.own(work.spacing),
        )


@dataclass(frozen=True)
class _Atlas:
    """Which instance each fragment of each block is.

    Attributes
    ----------
    tables : mapping of block start to ndarray of uint64
        Instance of each fragment, 0 for none.
    count : int
        Instances are 1 to `count`, in raster order of their first voxels when flooded.
    """

    work: Work
    tables: Mapping[Corner, np.ndarray]
    count: int

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Return the instances in a window, numbered densely, and their ids: see `look_up`."""
        block = self.work.cut.flood
        spans = (
            range(a - a % n, b, n) for a, b, n in zip(window.start, window.stop, block, strict=True)
        )
        parts = []
        for start in product(*spans):
            stop = tuple(a + n for a, n in zip(start, block, strict=True))
            lower = tuple(map(max, start, window.start))
            part = Window(lower, tuple(map(min, stop, window.stop)))
            parts.append((part.within(window).slices, self.tables[start]))
        return look_up(np.asarray(self.work.fragments[window.slices]), parts)

    def refine(self, window: Window) -> tuple[np.ndarray, np.ndarray, Gaps | None]:
        """Return the labels of a block with the ridge given back, their ids, and the gaps."""
        work = self.work
        reach = RIDGE_REACH * work.how.ridge + work.how.fill_holes
        outer = window.expand((0 if work.planar else reach, reach, reach)).clip(work.shape)
        dense, ids = self.read(outer)
        dense, inner = work.view(dense), work.own(window.within(outer).slices)
        if work.how.ridge:
            dense = grow_into_ridge(dense)
        gaps = find_gaps(dense, inner) if work.how.fill_holes else None
        return np.ascontiguousarray(dense[inner]).reshape(window.shape), ids, gaps


def _solve(work: Work) -> _Atlas:
    """Find out which fragments are one instance."""
    tables: dict[Corner, np.ndarray] = {}
    count = 0
    for windows in work.problems(work.cut.flood):
        flooded = []

        def read(window: Window, flooded: list[bool] = flooded) -> Fragments:
            facts = work.load("fragments", window)
            flooded.append(bool(facts["foreground"]))
            return Fragments.from_bytes(facts["fragments"].tobytes())

        joined = solve(map(read, windows), offset=count)
        exists = any(flooded)  # where there is nothing to grow, `fill` fills nothing
        count = joined.count if exists else count
        for window, table in zip(windows, joined.tables, strict=True):
            tables[window.start] = table if exists else np.zeros_like(table)
    return _Atlas(work, tables, count)


@dataclass(frozen=True)
class _Count:
    """Second pass: measure what lies in a block of each instance, and of each gap."""

    atlas: _Atlas
    name: str

    def __call__(self, data: np.ndarray, inner: tuple[slice, ...], window: Window) -> tuple[()]:
        del inner
        self.save(data, window, *self.atlas.refine(window))
        return ()

    def save(
        self,
        image: np.ndarray,
        window: Window,
        labels: np.ndarray,
        ids: np.ndarray,
        gaps: Gaps | None,
    ) -> None:
        """Write the tables of a block."""
        work = self.atlas.work
        channels = [q.count(channel) for q, channel in zip(work.quanta, image, strict=True)]
        measure = partial(tally, channels=channels, start=window.start, shape=work.shape)
        found = measure(labels, ids.size - 1)
        here = found.voxels > 0  # others are in the halo only
        tables = {"ids": ids[1:][here], **vars(found.take(here))}
        if gaps is not None:
            shaped = gaps.labels.reshape(window.shape)
            tables |= {f"gap {k}": v for k, v in vars(measure(shaped, gaps.open.size)).items()}
            tables |= _describe_gaps(gaps, ids, work.window(window), work.own(work.shape))
        work.save(self.name, window, tables)


def _describe_gaps(
    gaps: Gaps, ids: np.ndarray, window: Window, shape: Corner
) -> dict[str, np.ndarray]:
    """Return what the volume has to know of a block's gaps, by local label from 0."""
    alone = gaps.highest == 0
    known = ids[np.where(alone, 0, gaps.lowest)]
    components = Components.of(gaps.labels, window, shape)
    return {
        "components": np.frombuffer(components.to_bytes(), np.uint8),
        "lowest": np.append(NOBODY, np.where(alone, NOBODY, known)),
        "highest": np.append(np.uint64(0), ids[gaps.highest]),
        "open": np.append(True, gaps.open),
    }


def _read_tally(tables: Mapping[str, np.ndarray], prefix: str = "") -> Tally:
    return Tally(*(tables[prefix + name] for name in Tally.__dataclass_fields__))


def _gather(atlas: _Atlas, name: str) -> Tally:
    """Add up the tallies of all blocks."""
    work = atlas.work
    total = Tally.empty(atlas.count, len(work.quanta))
    for window in blocks(work.shape, work.cut.write):
        tables = work.load(name, window)
        total.add(tables["ids"].astype(np.int64) - 1, _read_tally(tables))
    return total


def _find_owners(atlas: _Atlas, name: str, total: Tally) -> dict[Corner, np.ndarray]:
    """Find out which gaps are holes, and add them to their instances in `total`.

    Returns
    -------
    dict of block start to ndarray of uint64
        The instance that each gap of a block is a hole of, 0 for none, by local label from 0.
    """
    work = atlas.work
    owners = {}
    for windows in work.problems(work.cut.write):
        seen: list[dict[str, np.ndarray]] = []

        def read(window: Window, seen: list[dict[str, np.ndarray]] = seen) -> Components:
            tables = work.load(name, window)
            seen.append({key: tables[key] for key in ("lowest", "highest", "open")})
            return Components.from_bytes(tables["components"].tobytes())

        joined = join_components(map(read, windows))
        low = joined.combine((gaps["lowest"] for gaps in seen), np.minimum, NOBODY)
        high = joined.combine((gaps["highest"] for gaps in seen), np.maximum, 0)
        open_ = joined.combine((gaps["open"] for gaps in seen), np.logical_or, False)
        owner = np.where((low == high) & ~open_, high, 0)
        for window, table in zip(windows, joined.tables, strict=True):
            owners[window.start] = own = owner[table]
            filled = np.flatnonzero(own[1:])
            part = _read_tally(work.load(name, window), "gap ").take(filled)
            total.add(own[1:][filled].astype(np.int64) - 1, part)
    return owners


def _number(total: Tally, minimum_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Number the instances that are large enough by their first voxels.

    Returns
    -------
    order : ndarray of int
        Indices into `total` of the instances 1, 2, ...
    names : ndarray of uint64
        Final id of each flooded one, 0 for none.
    """
    kept = np.flatnonzero(total.voxels >= max(minimum_size, 1))
    order = kept[np.argsort(total.first[kept])]
    names = np.zeros(total.voxels.size + 1, np.uint64)
    names[order + 1] = np.arange(1, order.size + 1)
    return order, names


@dataclass(frozen=True)
class _Write:
    """Last pass: the final labels of a block."""

    atlas: _Atlas
    names: np.ndarray
    owners: Mapping[Corner, np.ndarray]
    counts: bool = False

    def __call__(self, *args: Any) -> np.ndarray:
        *data, _, window = args
        work = self.atlas.work
        labels, ids, gaps = self.atlas.refine(window)
        if self.counts:
            _Count(self.atlas, "labels").save(*data, window, labels, ids, gaps)
        dtype = np.dtype(label_dtype(work.shape))
        result = self.names[ids].astype(dtype)[labels]
        if gaps is not None:
            own = self.names[self.owners[window.start]].astype(dtype)
            result += own[gaps.labels].reshape(window.shape)
        return result


def label_dtype(shape: Sequence[int]) -> np.dtype:
    """Return the type that holds one instance id per voxel, the most there can be.

    Examples
    --------
    >>> label_dtype((1, 60_000, 60_000)), label_dtype((2, 60_000, 60_000))
    (dtype('uint32'), dtype('uint64'))
    """
    return np.dtype(np.uint32 if prod(shape) <= np.iinfo(np.uint32).max else np.uint64)
