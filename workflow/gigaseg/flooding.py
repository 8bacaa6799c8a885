"""The first passes of `gigaseg.splitting`: from probabilities to instances in any window."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from .cuts import DISTANCES, Corner, Work
from .fragments import Fragments, flood_block
from .geometry import Window
from .instances import Evidence, Relief
from .levels import Survey, block_distance_levels
from .lookup import look_up
from .objects import RIDGE_REACH, Gaps, find_gaps, grow_into_ridge
from .stitching import solve


@dataclass(frozen=True)
class Look:
    """Pass before the first: where in a block the foreground is."""

    work: Work

    def __call__(self, data: np.ndarray, inner: tuple[slice, ...], window: Window) -> tuple[()]:
        del inner
        work = self.work
        survey = Survey.of(work.evidence(data).foreground(work.how), work.window(window))
        boxes = {k: [b.start, b.stop] if b else [] for k, b in vars(survey).items()}
        work.save("survey", window, {k: np.array(box, np.int64) for k, box in boxes.items()})
        return ()


def read_surveys(work: Work) -> dict[int, list[Survey]]:
    """Read what was surveyed, by the first plane of each problem."""
    found = {}
    for windows in work.problems(work.cut.flood):
        tables = [work.load("survey", window) for window in windows]
        found[windows[0].start[0]] = [
            Survey(_box(table["inside"]), _box(table["outside"])) for table in tables
        ]
    return found


def _box(corners: np.ndarray) -> Window | None:
    return Window(*map(tuple, corners.tolist())) if corners.size else None


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
class Flood:
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
        facts = {"fragments": known, "foreground": np.array(evidence.foreground(how).any())}
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
class Refined:
    """One block with the ridge given back.

    Attributes
    ----------
    labels : ndarray of uint32, shape (z, y, x)
        The instances, numbered densely; not all need occur.
    ids : ndarray of uint64
        Their ids, after the 0 of the background: see `gigaseg.lookup.look_up`.
    gaps : Gaps or None
        The background, in the axes of the problem, if holes are to be filled.
    """

    labels: np.ndarray
    ids: np.ndarray
    gaps: Gaps | None


@dataclass(frozen=True)
class Atlas:
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

    def refine(self, window: Window) -> Refined:
        """Return the instances in a block with the ridge given back, and the gaps."""
        work = self.work
        reach = RIDGE_REACH * work.how.ridge + work.how.fill_holes
        outer = window.expand((0 if work.planar else reach, reach, reach)).clip(work.shape)
        dense, ids = self.read(outer)
        dense, inner = work.view(dense), work.own(window.within(outer).slices)
        if work.how.ridge:
            dense = grow_into_ridge(dense)
        gaps = find_gaps(dense, inner) if work.how.fill_holes else None
        return Refined(np.ascontiguousarray(dense[inner]).reshape(window.shape), ids, gaps)


def solve_fragments(work: Work) -> Atlas:
    """Find out which fragments are one instance."""
    tables: dict[Corner, np.ndarray] = {}
    count = 0
    for windows in work.problems(work.cut.flood):
        flooded: list[bool] = []

        def read(window: Window, flooded: list[bool] = flooded) -> Fragments:
            facts = work.load("fragments", window)
            flooded.append(bool(facts["foreground"]))
            return Fragments.from_bytes(facts["fragments"].tobytes())

        joined = solve(map(read, windows), offset=count)
        exists = any(flooded)  # where there is nothing to grow, `fill` fills nothing
        count = joined.count if exists else count
        for window, table in zip(windows, joined.tables, strict=True):
            tables[window.start] = table if exists else np.zeros_like(table)
    return Atlas(work, tables, count)
