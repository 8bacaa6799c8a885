"""Coarser levels of a volume, for viewers and overviews: y and x halve from level to level.

`create_pyramid` makes them while level 0 is written: each block of level 0 leaves its piece of the
coarser levels, taken from memory, so that level 0 is never read again. Pieces are shards of arrays
of their own; `Pyramid.finish` joins them into few large shards without decoding them. So are the
blocks of a large level 0: the size of a file need not be that of the work.
`write_pyramid` makes the levels of an array that is there already.
"""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from .geometry import Window, blocks
from .ledger import check_block
from .shards import (
    check_shards,
    join_shards,
    shard_path,
    shards_of,
    split_shards,
    write_shards,
)
from .volumes import create_array, shard_extent

Mode = Literal["mean", "nearest"]

PIECES = ".levels"  # folder of unfinished coarser levels, beside level 0
COARSE = 4  # joined shards are this much larger than blocks, for fewer files
MANY_FILES = 16  # of level 0 per plane, beyond which it is joined too
BAND = 64  # rows averaged at once: what fits a core's cache


@dataclass(frozen=True)
class Pyramid:
    """A volume under construction, with coarser levels that are written along with it.

    A target of `gigaseg.blockwise.map_blocks`. Whole blocks, indexed by ``[..., z, y, x]`` slices,
    are its unit: writing one writes its piece of the coarser levels too, and reading one makes
    pieces again that are missing or torn, so that a block that is right needs no redoing.

    Attributes
    ----------
    blocks : zarr.Array
        Level 0 as it is written.
    pieces : tuple of zarr.Array
        Levels 1, 2, ... as far as a block's piece of them is whole chunks; temporary.
    folder : Path
        Where the levels are.
    mode : {"mean", "nearest"}
        How voxels are reduced.
    storage : mapping
        As given to `create_pyramid`, the shard settled.
    workers : int
        Threads that encode the chunks of one block.
    """

    blocks: zarr.Array
    pieces: tuple[zarr.Array, ...]
    folder: Path
    mode: Mode
    storage: Mapping[str, Any]
    workers: int

    @property
    def array(self) -> zarr.Array:
        """Level 0: what is written of it, and after `finish` the finished one."""
        whole = self.folder / "0"
        return self.blocks if (self.folder / PIECES).exists() else zarr.open_array(whole, mode="r")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of level 0."""
        return self.blocks.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return self.blocks.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.blocks.ndim

    @property
    def shards(self) -> tuple[int, ...]:
        """Extent of what must be written at once; blocks are whole multiples of it."""
        return shards_of(self.blocks)

    def __setitem__(self, key: tuple[Any, ...], values: np.ndarray) -> None:
        write_shards(self.blocks, key[-3:], values, self.workers)
        for piece, place, coarse in self._coarser(key, values):
            write_shards(piece, place, coarse, self.workers)

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        values = np.asarray(self.blocks[key])
        for piece, place, coarse in self._coarser(key, values):
            if not _holds(piece, (..., *place), coarse):
                write_shards(piece, place, coarse, self.workers)
        return values

    def _coarser(
        self, key: tuple[Any, ...], values: np.ndarray
    ) -> Iterator[tuple[zarr.Array, tuple[Any, ...], np.ndarray]]:
        """Yield the coarser levels of a block, and their places."""
        for piece in self.pieces:
            values = reduce_level(values, self.mode)
            key = _half(key[-3:])
            yield piece, key, values

    def finish(self, workers: int = 1) -> int:
        """Write all coarser levels, once all blocks are written.

        Parameters
        ----------
        workers : int
            Threads; they never change a value.

        Returns
        -------
        int
            Number of levels, level 0 included.
        """
        fine = self.blocks
        if _is_joined(self.folder, fine):
            fine = _large(self.folder, 0, fine, self.storage)
            join_shards(self.blocks, fine, workers)
        for level, piece in enumerate(self.pieces, 1):
            # What a killed process left may be torn, and is made again.
            shutil.rmtree(self.folder / str(level), ignore_errors=True)
            fine = _large(self.folder, level, piece, self.storage)
            join_shards(piece, fine, workers)
        shutil.rmtree(self.folder / PIECES, ignore_errors=True)
        return _write_levels(fine, len(self.pieces), self.folder, self.mode, self.storage, workers)


def create_pyramid(
    store: Path,
    prefix: str,
    shape: tuple[int, ...],
    dtype: Any,
    *,
    mode: Mode = "mean",
    storage: Mapping[str, Any],
    workers: int = 1,
) -> Pyramid:
    """Create a volume whose coarser levels are written along with it, or open an earlier try's.

    Parameters
    ----------
    store, prefix, mode, storage
        As for `write_pyramid`; the values are the same.
    shape, dtype
        Of level 0, as for `gigaseg.volumes.create_array`.
    workers : int
        Threads that encode the chunks of one block, each block by itself.

    Examples
    --------
    >>> store = getfixture("tmp_path") / "a.zarr"
    >>> storage = {"chunk": 16, "shard": 32, "smallest_level": 20}
    >>> pyramid = create_pyramid(store, "", (1, 40, 70), "u2", storage=storage)
    >>> for block in blocks(pyramid.shape, pyramid.shards):
    ...     pyramid[block.slices] = np.full(block.shape, 7, "u2")
    >>> pyramid.finish(), zarr.open_array(store / "2")[0, 9, 16:]
    (3, array([7, 7], dtype=uint16))
    """
    settled = {**storage, "shard": shard_extent(shape, storage)}
    folder = store / prefix
    first = folder / PIECES if _is_large(shape, storage) else folder
    array = create_array(first, "0", shape, dtype, storage=settled)
    if _is_joined(folder, array):  # take back what an earlier try has joined
        split_shards(_large(folder, 0, array, settled), array)
    pieces: list[zarr.Array] = []
    for level, (coarse, shard) in enumerate(_cut_pieces(array.shape, settled), 1):
        cut = {**settled, "shard": shard}
        pieces.append(create_array(folder / PIECES, str(level), coarse, array.dtype, storage=cut))
    return Pyramid(array, tuple(pieces), folder, mode, settled, workers)


def _is_large(shape: Sequence[int], storage: Mapping[str, Any]) -> bool:
    """Whether level 0 would be many files, and may be fewer: a given extent is kept."""
    shard = shard_extent(shape, storage)
    files = math.prod(-(-n // shard) for n in shape[-2:])
    return storage["shard"] == "auto" and files > MANY_FILES


def _is_joined(folder: Path, array: zarr.Array) -> bool:
    return shard_path(array, (0,) * array.ndim).is_relative_to(folder / PIECES)


def _large(folder: Path, level: int, pieces: zarr.Array, storage: Mapping[str, Any]) -> zarr.Array:
    """Create a level of large shards for its pieces, or open it."""
    large = {**storage, "shard": COARSE * storage["shard"]}
    return create_array(folder, str(level), pieces.shape, pieces.dtype, storage=large)


def _cut_pieces(
    shape: Sequence[int], storage: Mapping[str, Any]
) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yield shape and shard of the levels of which every block holds whole chunks."""
    shard, one = storage["shard"], max(shape[-2:]) <= storage["shard"]
    while max(shape[-2:]) > storage["smallest_level"]:
        if not one:  # else the piece is the level
            if shard % (2 * storage["chunk"]):
                return
            shard //= 2
        shape = _half_shape(shape)
        yield tuple(shape), shard


def write_pyramid(
    store: Path,
    prefix: str = "",
    *,
    mode: Mode = "mean",
    storage: Mapping[str, Any],
    workers: int = 1,
) -> int:
    """Write levels 1, 2, ... below a finished level 0, halving y and x.

    Parameters
    ----------
    store : Path
        Folder of the store.
    prefix : str
        Where the levels are: ``""`` for the image itself, ``"labels/truth"`` for its truth.
    mode : {"mean", "nearest"}
        Mean of the 2 x 2 voxels (integers rounded half up; the last row or column of an odd extent
        averages the voxels there are) for intensities; the first of them for labels.
    storage : mapping
        As for `create_array`, and ``smallest_level``: the last level is the first whose larger
        extent in y and x does not exceed it.
    workers : int
        Threads; they never change a value.

    Returns
    -------
    int
        Number of levels, level 0 included.
    """
    fine = zarr.open_array(store / prefix / "0", mode="r")
    storage = {**storage, "shard": shard_extent(fine.shape, storage)}
    return _write_levels(fine, 0, store / prefix, mode, storage, workers)


def reduce_level(data: np.ndarray, mode: Mode) -> np.ndarray:
    """Halve y and x: the next level of an array, as `write_pyramid` makes it.

    Examples
    --------
    >>> reduce_level(np.array([[1, 2, 9], [3, 4, 8]], "u1"), "mean")
    array([[3, 9]], dtype=uint8)
    """
    if mode == "nearest":
        return np.ascontiguousarray(data[..., ::2, ::2])
    coarse = np.empty(_half_shape(data.shape), data.dtype)
    for y in range(0, data.shape[-2], BAND):
        coarse[..., y // 2 : (y + BAND) // 2, :] = _mean(data[..., y : y + BAND, :])
    return coarse


def _mean(data: np.ndarray) -> np.ndarray:
    # Repeating the last line of an odd extent makes the mean of four that of the voxels there are.
    if any(n % 2 for n in data.shape[-2:]):
        odd = [(0, 0)] * (data.ndim - 2) + [(0, n % 2) for n in data.shape[-2:]]
        data = np.pad(data, odd, mode="edge")
    wide = _sum_type(data.dtype)
    rows = np.add(data[..., ::2, :], data[..., 1::2, :], dtype=wide)
    total = rows[..., ::2] + rows[..., 1::2]
    if wide.kind == "f":
        total /= 4
    else:
        total += wide.type(2)
        total >>= wide.type(2)  # floor, of negative sums too
    return total.astype(data.dtype)


def _sum_type(dtype: np.dtype) -> np.dtype:
    """Return the smallest type that holds the sum of four values, rounded up."""
    if dtype.kind == "f":
        return np.dtype(np.float64)
    small = {"b1": "u2", "u1": "u2", "u2": "u4"}  # int64 for all others: they are rare
    return np.dtype(small.get(f"{dtype.kind}{dtype.itemsize}", "i8"))


@check_block.register
def _check_pyramid(target: Pyramid, block: tuple[slice, ...]) -> None:
    check_shards(target.blocks, block)


def _holds(array: zarr.Array, place: tuple[Any, ...], values: np.ndarray) -> bool:
    try:
        check_shards(array, place[1:])
        return np.array_equal(array[place], values, equal_nan=values.dtype.kind == "f")
    except (ValueError, RuntimeError, OSError):
        return False  # a torn shard does not decode


def _half_shape(shape: Sequence[int]) -> tuple[int, ...]:
    return (*shape[:-2], *(-(-n // 2) for n in shape[-2:]))


def _half(block: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the place of a block on the next level; blocks begin at even voxels."""
    return (*block[:-2], *(slice(s.start // 2, -(-s.stop // 2)) for s in block[-2:]))


def _write_levels(
    fine: zarr.Array, level: int, folder: Path, mode: Mode, storage: Mapping[str, Any], workers: int
) -> int:
    """Write the levels beyond `level`, which is `fine`; return the number of levels."""
    while max(fine.shape[-2:]) > storage["smallest_level"]:
        level += 1
        # A level left by a killed process may end in a torn shard, which cannot be overwritten.
        shutil.rmtree(folder / str(level), ignore_errors=True)
        shape = _half_shape(fine.shape)
        coarse = create_array(folder, str(level), shape, fine.dtype, storage=storage)
        _fill_level(fine, coarse, mode, workers)
        fine = coarse
    return level + 1


def _fill_level(fine: zarr.Array, coarse: zarr.Array, mode: Mode, workers: int) -> None:
    def fill(block: Window) -> None:
        twice = Window(
            (*block.start[:-2], *(2 * n for n in block.start[-2:])),
            (*block.stop[:-2], *(2 * n for n in block.stop[-2:])),
        )
        data = np.asarray(fine[twice.clip(fine.shape).slices])
        write_shards(coarse, block.slices, reduce_level(data, mode))

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(fill, blocks(coarse.shape, shards_of(coarse))))
