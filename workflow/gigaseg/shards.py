"""The files of sharded arrays: written chunk by chunk, or joined without decoding a chunk.

A shard (Zarr v3, codec ``sharding_indexed``) is encoded chunks in any order, then an index of 16
bytes per chunk, in raster order: offset and length, or two times 2**64 - 1 for a chunk that is not
stored. The CRC-32C of the index ends the file. A chunk is compressed by Zstandard and followed by
its own CRC-32C, as `gigaseg.volumes.create_array` says in the array's metadata.

Whole shards are written here rather than by a codec pipeline, which takes three times the CPU time
and holds two more copies. A shard appears under its name only when it is whole.
"""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import zstd

from .disk import writing
from .geometry import Window, blocks

Place = tuple[int, ...]

MISSING = np.uint64(2**64 - 1)
# On microscopy level 3 takes twice the time of level 1 and saves 1 to 5 % of the space.
ZSTD_LEVEL = 1


def write_shards(
    array: zarr.Array, key: Sequence[slice], values: np.ndarray, workers: int = 1
) -> None:
    """Write whole shards of an array, and nothing but these.

    Parameters
    ----------
    array : zarr.Array
        Made by `gigaseg.volumes.create_array`, with the fill value 0.
    key : sequence of slice
        Place of `values` along the last axes of the array.
    values : ndarray
        Shape of the place, all leading axes included.
    workers : int
        Threads that encode chunks.

    Raises
    ------
    ValueError
        If the place does not begin at a shard's corner, or ends within a shard.
    """
    starts = (0,) * (array.ndim - len(key)) + tuple(s.start for s in key)
    for n, a, extent, shard in zip(
        values.shape, starts, array.shape, shards_of(array), strict=True
    ):
        if a % shard or (n % shard and a + n != extent):
            raise ValueError(
                f"{array.store_path}: {key} is no whole number of shards {shards_of(array)}"
            )
    corner = [a // n for a, n in zip(starts, shards_of(array), strict=True)]
    for block in blocks(values.shape, shards_of(array)):
        within = (a // n for a, n in zip(block.start, shards_of(array), strict=True))
        place = [a + b for a, b in zip(corner, within, strict=True)]
        _write(array, place, _encoded(values[block.slices], array.chunks, workers))


def join_shards(pieces: zarr.Array, whole: zarr.Array, workers: int = 1) -> None:
    """Move an array into another one of larger shards, as it is: no chunk is decoded.

    A file of `pieces` is deleted as soon as its chunks are in a file of `whole`.

    Parameters
    ----------
    pieces : zarr.Array
        Made by `gigaseg.volumes.create_array`.
    whole : zarr.Array
        Empty, of the same shape, type and chunks; unless one shard holds a whole axis, its shards
        are whole shards of `pieces`.
    workers : int
        Threads.

    Raises
    ------
    ValueError
        If a shard of `pieces` is torn.
    """

    def join(place: Place) -> None:
        small = _shards_in(pieces, whole, place)
        _write(whole, place, _copied(pieces, small, whole, place))
        for other in small:
            shard_path(pieces, other).unlink(missing_ok=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(join, _grid(whole)))


def split_shards(whole: zarr.Array, pieces: zarr.Array) -> None:
    """Undo `join_shards`, wherever it was interrupted; parameters and errors are the same."""
    for place in _grid(whole):
        if not shard_path(whole, place).exists():
            continue
        for small in _shards_in(pieces, whole, place):
            if not shard_path(pieces, small).exists():
                _write(pieces, small, _copied(whole, [place], pieces, small))
        shard_path(whole, place).unlink()


def check_shards(array: zarr.Array, key: Sequence[slice]) -> None:
    """Compare the shards of a block with their checksums.

    The fast codecs do not where they read a part of a shard, as they do at a volume's far edges.

    Parameters
    ----------
    array : zarr.Array
        Made by `gigaseg.volumes.create_array`.
    key : sequence of slice
        The block's place along the last axes of the array: whole shards.

    Raises
    ------
    ValueError
        If a checksum does not agree with what it is of. A missing shard is whole: it is zero.
    """
    if array.shards is None:
        return  # every chunk is a file, which is always read as a whole
    spans = [range(n) for n in _ratio(array.shape, array.shards)[: array.ndim - len(key)]]
    spans += [
        range(s.start // n, -(-s.stop // n))
        for s, n in zip(key, array.shards[-len(key) :], strict=True)
    ]
    for place in product(*spans):
        path = shard_path(array, place)
        if not path.exists():
            continue
        with path.open("rb") as file:
            index = _read_index(path, file, _ratio(array.shards, array.chunks))
            for offset, length in index[index[..., 0] != MISSING].tolist():
                file.seek(offset)
                chunk, check = file.read(length - 4), file.read(4)
                if _checksum(chunk) != check:
                    raise ValueError(f"{path}: the chunk at byte {offset} is damaged: delete it")


def shards_of(array: zarr.Array) -> tuple[int, ...]:
    """Return the extent of what one file of an array holds."""
    return array.shards or array.chunks


def shard_path(array: zarr.Array, place: Sequence[int]) -> Path:
    """Return the file of a shard, given its place in the grid of shards."""
    store: Any = array.store  # a folder: `gigaseg.volumes.create_array` makes no others
    return Path(store.root) / array.path / array.metadata.encode_chunk_key(tuple(place))


def _write(array: zarr.Array, place: Sequence[int], chunks: Iterable[tuple[Place, bytes]]) -> None:
    """Write one shard from encoded chunks and their places in its index."""
    path = shard_path(array, place)
    index = np.full((*_ratio(shards_of(array), array.chunks), 2), MISSING)
    part = path.with_name(f"{path.name}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            offset = 0
            with part.open("wb") as file:
                for within, chunk in chunks:
                    index[within] = offset, len(chunk)
                    offset += file.write(chunk)
                raw = index.astype("<u8").tobytes()
                file.write(raw + _checksum(raw))
            if (index == MISSING).all():  # as zarr does: what was never written is not stored
                path.unlink(missing_ok=True)
            else:
                os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def _encoded(
    values: np.ndarray, chunk: Sequence[int], workers: int
) -> Iterator[tuple[Place, bytes]]:
    """Yield the chunks of a shard that hold anything but zeros."""

    def encode(window: Window) -> bytes:
        data = values[window.slices]
        if data.shape != tuple(chunk):  # at the volume's far edges
            data = np.pad(data, [(0, n - m) for n, m in zip(chunk, data.shape, strict=True)])
        raw = np.ascontiguousarray(data, data.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
        if not raw.any():
            return b""
        compressed = zstd.compress(raw, ZSTD_LEVEL)
        return compressed + _checksum(compressed)

    windows = list(blocks(values.shape, chunk))
    with ThreadPoolExecutor(workers) if workers > 1 else nullcontext() as pool:
        for window, encoded in zip(
            windows, (pool.map if pool else map)(encode, windows), strict=True
        ):
            if encoded:
                yield _ratio(window.start, chunk), encoded


def _grid(array: zarr.Array) -> Iterator[Place]:
    return product(*map(range, _ratio(array.shape, shards_of(array))))


def _shards_in(pieces: zarr.Array, whole: zarr.Array, place: Place) -> list[Place]:
    """Return the places of the shards of `pieces` that lie in a shard of `whole`."""
    ratio = _ratio(shards_of(whole), shards_of(pieces))
    grid = _ratio(pieces.shape, shards_of(pieces))
    spans = (range(p * r, min((p + 1) * r, n)) for p, r, n in zip(place, ratio, grid, strict=True))
    return list(product(*spans))


def _copied(
    source: zarr.Array, shards: Sequence[Place], target: zarr.Array, place: Place
) -> Iterator[tuple[Place, bytes]]:
    """Yield the encoded chunks that `shards` of one array have for a shard of another one."""
    box, grid = (_ratio(shards_of(array), array.chunks) for array in (target, source))
    begin = _times(place, box)
    for shard in shards:
        path, origin = shard_path(source, shard), _times(shard, grid)
        low, high = np.maximum(begin, origin), np.minimum(begin + box, origin + grid)
        if not path.exists():
            continue
        with path.open("rb") as file:
            index = _read_index(path, file, grid)
            common = index[tuple(map(slice, low - origin, high - origin))]
            for chunk in np.argwhere(common[..., 0] != MISSING):
                offset, length = (int(n) for n in common[tuple(chunk)])
                file.seek(offset)
                yield tuple(map(int, chunk + low - begin)), file.read(length)


def _read_index(path: Path, file: Any, grid: Sequence[int]) -> np.ndarray:
    size = 16 * math.prod(grid)
    file.seek(max(0, path.stat().st_size - size - 4))
    raw, check = file.read(size), file.read(4)
    if len(raw) != size or _checksum(raw) != check:
        raise ValueError(
            f"{path} is torn: its index of {size} bytes does not agree with its checksum; delete it"
        )
    return np.frombuffer(raw, "<u8").reshape(*grid, 2)


def _times(place: Place, extents: Sequence[int]) -> np.ndarray:
    return np.array(place) * np.array(extents)


def _checksum(data: bytes) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(4, "little")


def _ratio(large: Sequence[int], small: Sequence[int]) -> tuple[int, ...]:
    return tuple(-(-a // b) for a, b in zip(large, small, strict=True))
