"""Apply a function of one array to volumes of any size, block by block."""

import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, Protocol

import dask
import numpy as np

from .cluster import run_on_cluster
from .disk import reading, writing
from .geometry import Window, blocks, read_mirrored
from .ledger import check_block, clear_block
from .pace import Pace

Edge = Literal["mirror", "clip"]


class Ledger(Protocol):
    """What the engine needs of a ledger; see `gigaseg.ledger.BlockLedger`."""

    title: str
    checksums: dict[str, str | None]

    def check(self) -> None:
        """Raise RuntimeError if this process may not write any more."""

    def record(self, block: str, checksum: str | None = None, voxels: int = 0) -> None:
        """Note that a block is finished."""


def map_blocks(
    function: Callable[..., Any],
    sources: Sequence[Any],
    targets: Sequence[Any],
    *,
    block: Sequence[int],
    halo: Sequence[int] = (0, 0, 0),
    edge: Edge = "mirror",
    align: Sequence[int] = (1, 1, 1),
    located: bool = False,
    ledger: Ledger | None = None,
    workers: int = 1,
    select: Callable[[Window], bool] | None = None,
    scheduler: str | None = None,
) -> None:
    """Write ``targets = function(sources)``, one block at a time, several blocks at once.

    For a function whose values depend on at most `halo` voxels around them, the result does not
    depend on the blocks.

    Parameters
    ----------
    function : callable
        ``function(*data, inner)`` gets the block of every source with its halo, and `inner`, the
        slices of the block inside these arrays. It returns an array, or a tuple with one array per
        target, of the block's spatial shape; a leading channel axis is allowed. Without targets it
        returns ``()``: what it makes of a block is its own affair, also that it is whole before the
        block is recorded as finished.
    sources, targets : sequence of array-like
        NumPy or Zarr arrays with one common shape in their last ``len(block)`` axes; either may be
        empty, not both.
    block : sequence of int
        Extent of a block in voxels: whole shards of every target, so that two tasks never write
        to the same file. Blocks at the far edges are smaller.
    halo : sequence of int
        Voxels read beyond the block on both sides of each axis.
    edge : {"mirror", "clip"}
        At the volume's edges the halo is mirrored, or missing.
    align : sequence of int
        With ``mirror``, blocks at the far edges are rounded up to whole multiples of this; what
        lies beyond the volume is computed and not written.
    located : bool
        Call ``function(*data, inner, window)``, `window` being the block's place in the volume.
    ledger : BlockLedger, optional
        Finished blocks are recorded in it, and how far the work is is told under its title. Blocks
        it already holds are verified and not redone.
    workers : int
        Number of threads.
    select : callable, optional
        Do only the blocks for which ``select(window)`` is true.
    scheduler : str, optional
        Address of a Dask cluster whose workers do the blocks, in place of threads of this process:
        see `gigaseg.cluster`. They must reach sources and targets under the same paths, and get a
        copy of the function, whose variables do not come back.

    Raises
    ------
    ValueError
        If shapes differ, a block is not whole shards, or the function returns another shape.
    TypeError
        If the function returns another dtype than the target's.
    DiskError
        If a target cannot be written.
    ConnectionError
        If no scheduler answers, or its workers run other code than this process.

    Examples
    --------
    >>> source, target = np.arange(10.0), np.zeros(10)
    >>> def smooth(data, inner):
    ...     return ((data[:-2] + data[1:-1] + data[2:]) / 3)
    >>> map_blocks(smooth, [source], [target], block=(4,), halo=(1,), align=(1,))
    >>> target[3:6]
    array([3., 4., 5.])
    """
    axes = len(block)
    if not axes == len(halo) == len(align):
        raise ValueError(
            f"block {tuple(block)}, halo {tuple(halo)} and align {tuple(align)} must have one "
            f"extent per axis of the volume"
        )
    if edge == "clip" and any(n != 1 for n in align):
        raise ValueError(f"align {tuple(align)} needs edge 'mirror': with 'clip' it must be 1")
    shape = _common_shape([*sources, *targets], axes)
    for target in targets:
        _check_shards(target, shape, block)
    task = _Task(
        _dispatched(clear_block, targets),
        _dispatched(check_block, targets),
        function,
        sources,
        targets,
        tuple(halo),
        edge,
        tuple(align),
        located,
    )
    chosen = [w for w in blocks(shape, block) if select is None or select(w)]
    books = _Books(ledger, chosen)
    if scheduler is None:
        _run_here(task, chosen, books, workers)
    else:
        calls = [(window, *books.before(window)) for window in chosen]
        for (window, *_), checksum in run_on_cluster(scheduler, task, calls):
            books.record(window, checksum)


def _run_here(task: "_Task", windows: Sequence[Window], books: "_Books", workers: int) -> None:
    def do(start: tuple[int, ...], stop: tuple[int, ...]) -> None:
        window = Window(start, stop)
        books.record(window, task(window, *books.before(window)))

    # One executor per call: leaving it waits for the blocks in hand, so that after an error
    # nobody writes any more.
    with ThreadPoolExecutor(workers) as pool:
        run = dask.delayed(do, pure=False, traverse=False)
        tasks = [run(window.start, window.stop) for window in windows]
        dask.compute(*tasks, scheduler="threads", pool=pool, optimize_graph=False)


class _Books:
    """What is known of blocks, and what is told of them, if there is a ledger."""

    def __init__(self, ledger: Ledger | None, windows: Sequence[Window]) -> None:
        self.ledger = ledger
        if ledger is not None:
            voxels = sum(prod(window.shape) for window in windows)
            self.pace = Pace(ledger.title, len(windows), "blocks", voxels=voxels)

    def before(self, window: Window) -> tuple[str | None, Callable[[], None] | None]:
        """Return the recorded checksum of a block, and what says whether it may be written."""
        if self.ledger is None:
            return None, None
        return self.ledger.checksums.get(block_key(window)), self.ledger.check

    def record(self, window: Window, checksum: str | None) -> None:
        """Note a block that was done just now; `checksum` is None for one that was there."""
        if self.ledger is None:
            return
        voxels = prod(window.shape)
        if checksum is not None:
            self.ledger.record(block_key(window), checksum, voxels)
        self.pace.advance(voxels=voxels, kept=checksum is None)


def block_key(window: Window) -> str:
    """Name a block in a ledger.

    Examples
    --------
    >>> block_key(Window((0, 0, 512), (1, 512, 700)))
    '0:1,0:512,512:700'
    """
    return ",".join(f"{a}:{b}" for a, b in zip(window.start, window.stop, strict=True))


@dataclass(frozen=True)
class _Task:
    """Everything a block's task needs besides its place; it can be sent to other processes."""

    # First, so that the modules behind the targets are loaded before the targets are unpickled.
    clearing: Sequence[Callable[..., None]]
    checking: Sequence[Callable[..., None]]
    function: Callable[..., Any]
    sources: Sequence[Any]
    targets: Sequence[Any]
    halo: tuple[int, ...]
    edge: Edge
    align: tuple[int, ...]
    located: bool

    @property
    def shape(self) -> tuple[int, ...]:
        array = [*self.sources, *self.targets][0]
        return tuple(array.shape[-len(self.halo) :])

    def __call__(
        self, window: Window, recorded: str | None, check: Callable[[], None] | None
    ) -> str | None:
        """Do a block, unless the targets hold what was recorded; return the new checksum."""
        if recorded is not None and self._holds(window, recorded):
            return None
        results = self._compute(window)
        checksum = _start(window)
        if check is not None:
            check()
        for clear, target, result in zip(self.clearing, self.targets, results, strict=True):
            with writing(_place(target)):
                clear(target, window.slices)
                target[(..., *window.slices)] = result
            checksum = _checksum(result, checksum)
        return f"{checksum:08x}"

    def _compute(self, window: Window) -> list[np.ndarray]:
        """Read, apply the function, check what it returned, and crop it to the block."""
        whole = window.align(self.align)
        outer = whole.expand(self.halo)
        if self.edge == "clip":
            outer = outer.clip(self.shape)
        data = []
        for source in self.sources:
            with reading(_place(source)):
                data.append(read_mirrored(source, outer))
        place = (window,) if self.located else ()
        results = self.function(*data, whole.within(outer).slices, *place)
        if not isinstance(results, tuple):
            results = (results,)
        if len(results) != len(self.targets):
            raise ValueError(
                f"the block function returned {len(results)} arrays for {len(self.targets)} targets"
            )
        inner = window.within(whole).slices
        for result, target in zip(results, self.targets, strict=True):
            _check_result(result, target, whole.shape)
        return [result[(..., *inner)] for result in results]

    def _holds(self, window: Window, recorded: str) -> bool:
        """Whether the targets hold a block as it was recorded."""
        checksum = _start(window)
        for check, target in zip(self.checking, self.targets, strict=True):
            try:
                check(target, window.slices)
                values = np.asarray(target[(..., *window.slices)])
            except (ValueError, RuntimeError, OSError):
                return False  # a torn shard does not decode: the block is done again
            checksum = _checksum(values, checksum)
        return f"{checksum:08x}" == recorded


def _dispatched(generic: Any, targets: Sequence[Any]) -> list[Callable[..., None]]:
    """Return what a generic function does for each target: another process can find it."""
    return [generic.dispatch(type(target)) for target in targets]


def _start(window: Window) -> int:
    """Begin a checksum with the block's name, so that it proves this block and no other."""
    return zlib.crc32(block_key(window).encode())


def _place(target: Any) -> Path:
    """Say where a target is, for messages."""
    array = getattr(target, "array", target)
    return Path(str(getattr(array, "store_path", "memory")).removeprefix("file://"))


def _checksum(values: np.ndarray, before: int) -> int:
    return zlib.crc32(np.ascontiguousarray(values).data.cast("B"), before)


def _common_shape(arrays: Sequence[Any], axes: int) -> tuple[int, ...]:
    shapes = {tuple(array.shape[-axes:]) for array in arrays}
    if len(shapes) != 1:
        raise ValueError(
            f"sources and targets have different shapes {sorted(shapes)}: they must show the same "
            f"volume"
        )
    return shapes.pop()


def _check_shards(target: Any, shape: Sequence[int], block: Sequence[int]) -> None:
    """Raise ValueError unless blocks are made of whole shards (or chunks) of the target."""
    unit = getattr(target, "shards", None) or getattr(target, "chunks", None)
    if unit is None:
        return
    unit = tuple(unit[-len(block) :])
    for extent, size, shard in zip(shape, block, unit, strict=True):
        if size < extent and size % shard:
            fitting = tuple(-(-b // s) * s for b, s in zip(block, unit, strict=True))
            raise ValueError(
                f"block {tuple(block)} is not a whole number of shards {unit}: two tasks would "
                f"write to one file; the next block that fits is {fitting}"
            )


def _check_result(result: np.ndarray, target: Any, shape: Sequence[int]) -> None:
    expected = (*target.shape[: -len(shape)], *shape)
    if result.shape != expected:
        raise ValueError(f"the block function returned shape {result.shape}, expected {expected}")
    if result.dtype != target.dtype:
        raise TypeError(
            f"the block function returned {result.dtype} for a target of {target.dtype}: "
            f"convert it in the function, where rounding and range can be decided"
        )
