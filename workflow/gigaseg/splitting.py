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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .blockwise import Ledger, block_key, map_blocks
from .cuts import Corner, Work, label_dtype
from .flooding import Atlas, Flood, Look, Refined, read_surveys, solve_fragments
from .geometry import Window, blocks
from .objects import Gaps, Tally, tally
from .stitching import Components, join_components

TABLES = "objects"  # name of the tables of what was counted
NOBODY = np.iinfo(np.uint64).max  # more than any id


def split_volume(
    work: Work,
    labels: Any,
    ledger: Callable[[str], Ledger | None],
    *,
    workers: int = 1,
    scheduler: str | None = None,
) -> Tally:
    """Split a volume, or go on where an earlier try ended.

    Parameters
    ----------
    work : Work
    labels : array-like of uint32 or uint64, shape (z, y, x)
        The result; blocks of ``work.cut.write`` are whole shards.
    ledger : callable
        Opens the ledger of a pass by its name; None if an interrupted pass is not to be resumed.
    workers : int
        Threads; they never change a value. Each holds a block in memory.
    scheduler : str, optional
        Address of a Dask cluster that does the blocks.

    Returns
    -------
    Tally
        Of the instances, in the order of their ids.
    """
    run = _Run(work, ledger, workers, scheduler)
    how, flood, write, part = work.how, work.cut.flood, work.cut.write, work.cut.part
    given, surveys = [work.probabilities], {}
    if work.far_sighted:
        known = partial(work.holds, "survey")
        run("survey", Look(work), flood, sources=given, tables=known)
        surveys = read_surveys(work)
    run(
        "fragments",
        Flood(work, surveys),
        flood,
        sources=given,
        halo=work.halo,
        targets=[work.fragments],
        tables=partial(work.holds, "fragments"),
    )
    atlas = solve_fragments(work)
    count = _Count(atlas)
    if not (how.ridge or how.fill_holes or how.minimum_size > 1):
        names = np.arange(atlas.count + 1, dtype=np.uint64)
        final = _Write(atlas, names, {}, count)
        run("labels", final, write, targets=[labels], tables=final.holds)
        return _gather(work, atlas.count)
    run(TABLES, count, part, sources=[work.image], tables=partial(work.holds, TABLES))
    total = _gather(work, atlas.count)
    owners = _find_owners(work, total) if how.fill_holes else {}
    order, names = _number(total, how.minimum_size)
    run("labels", _Write(atlas, names, owners), write, targets=[labels])
    return total.take(order)


@dataclass(frozen=True)
class _Run:
    """Runs a pass: the same work on every block that is not finished."""

    work: Work
    ledger: Callable[[str], Ledger | None]
    workers: int
    scheduler: str | None

    def __call__(
        self,
        name: str,
        function: Callable[..., Any],
        block: Corner,
        *,
        sources: Sequence[Any] = (),
        halo: Sequence[int] = (0, 0, 0),
        targets: Sequence[Any] = (),
        tables: Callable[[Window], bool] | None = None,
    ) -> None:
        """Run a pass; blocks whose tables are lost or spoilt are done again."""
        ledger = self.ledger(name)
        if tables is not None and ledger is not None and ledger.checksums:
            for window in blocks(self.work.shape, block):
                if not tables(window):
                    ledger.checksums.pop(block_key(window), None)
        map_blocks(
            function,
            sources,
            targets,
            block=block,
            halo=halo,
            edge="clip",
            located=True,
            ledger=ledger,
            workers=self.workers,
            scheduler=self.scheduler,
        )


@dataclass(frozen=True)
class _Count:
    """Second pass: measure what lies in a block of each instance, and of each gap."""

    atlas: Atlas

    def __call__(self, data: np.ndarray, inner: tuple[slice, ...], window: Window) -> tuple[()]:
        del inner
        self.save(data, window, self.atlas.refine(window))
        return ()

    def save(self, image: np.ndarray, window: Window, block: Refined) -> None:
        """Write the tables of a block."""
        work, ids, gaps = self.atlas.work, block.ids, block.gaps
        measure = partial(
            tally, image=image, quanta=work.quanta, start=window.start, shape=work.shape
        )
        found = measure(block.labels, ids.size - 1)
        here = found.voxels > 0  # others are in the halo only
        tables = {"ids": ids[1:][here], **vars(found.take(here))}
        if gaps is not None:
            part = measure(gaps.labels.reshape(window.shape), gaps.open.size)
            tables |= {f"gap {name}": values for name, values in vars(part).items()}
            tables |= _describe_gaps(gaps, ids, work.window(window), work.own(work.shape))
        work.save(TABLES, window, tables)


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


def _gather(work: Work, count: int) -> Tally:
    """Add up the tallies of all blocks."""
    total = Tally.empty(count, len(work.quanta))
    for window in blocks(work.shape, work.cut.part):
        tables = work.load(TABLES, window)
        total.add(tables["ids"].astype(np.int64) - 1, _read_tally(tables))
    return total


def _find_owners(work: Work, total: Tally) -> dict[Corner, np.ndarray]:
    """Find out which gaps are holes, and add them to their instances in `total`.

    Returns
    -------
    dict of block start to ndarray of uint64
        The instance that each gap of a block is a hole of, 0 for none, by local label from 0.
    """
    owners: dict[Corner, np.ndarray] = {}
    for windows in work.problems(work.cut.part):
        seen: list[dict[str, np.ndarray]] = []

        def read(window: Window, seen: list[dict[str, np.ndarray]] = seen) -> Components:
            tables = work.load(TABLES, window)
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
            part = _read_tally(work.load(TABLES, window), "gap ").take(filled)
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
    """Last pass: the final labels of a block; given `count`, the second pass on the way."""

    atlas: Atlas
    names: np.ndarray
    owners: Mapping[Corner, np.ndarray]
    count: _Count | None = None

    def __call__(self, inner: tuple[slice, ...], window: Window) -> np.ndarray:
        del inner
        work = self.atlas.work
        labels = np.empty(window.shape, label_dtype(work.shape))
        for part in work.parts(window):
            block = self.atlas.refine(part)
            if self.count is not None:
                self.count.save(np.asarray(work.image[(slice(None), *part.slices)]), part, block)
            labels[part.within(window).slices] = self._label(part, block)
        return labels

    def holds(self, window: Window) -> bool:
        """Whether the tables of a block are there, which are made along with its labels."""
        work = self.atlas.work
        return all(work.holds(TABLES, part) for part in work.parts(window))

    def _label(self, part: Window, block: Refined) -> np.ndarray:
        dtype = label_dtype(self.atlas.work.shape)
        result = self.names[block.ids].astype(dtype)[block.labels]
        if block.gaps is not None:
            owner = self.names[self.owners[part.start]].astype(dtype)
            result += owner[block.gaps.labels].reshape(part.shape)
        return result
