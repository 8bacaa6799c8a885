"""Join the shards of an array into larger ones as they are, without decoding a chunk.

A shard (Zarr v3, codec ``sharding_indexed``) is encoded chunks in any order, then an index of 16
bytes per chunk, in raster order: offset and length, or two times 2**64 - 1 for a chunk that is not
stored. The CRC-32C of the index ends the file.
"""

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr

MISSING = np.uint64(2**64 - 1)


def join_shards(pieces: zarr.Array, whole: zarr.Array, workers: int = 1) -> None:
    """Fill an array from one of the same values in smaller shards.

    Parameters
    ----------
    pieces : zarr.Array
        Finished, in a folder, made by `gigaseg.volumes.create_array`.
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
    grid = _ratio(whole.shape, _shards(whole))
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda place: _join(pieces, whole, place), product(*map(range, grid))))


def shard_path(array: zarr.Array, place: Sequence[int]) -> Path:
    """Return the file of a shard, given its place in the grid of shards."""
    store: Any = array.store  # a folder: `gigaseg.volumes.create_array` makes no others
    return Path(store.root) / array.path / array.metadata.encode_chunk_key(tuple(place))


def _join(pieces: zarr.Array, whole: zarr.Array, place: Sequence[int]) -> None:
    """Write one shard."""
    path, grid = shard_path(whole, place), _ratio(_shards(whole), whole.chunks)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    index = np.full((*grid, 2), MISSING)
    with part.open("wb") as file:
        for start, chunk in _chunks(pieces, whole, place):
            index[start] = file.tell(), len(chunk)
            file.write(chunk)
        raw = index.astype("<u8").tobytes()
        file.write(raw + _checksum(raw))
    if (index == MISSING).all():  # as zarr does: what was never written is not stored
        part.unlink()
    else:
        os.replace(part, path)


def _chunks(
    pieces: zarr.Array, whole: zarr.Array, place: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """Yield the encoded chunks of a shard of `whole`, and their places in its index."""
    several = _ratio(_shards(whole), _shards(pieces))
    inside = _ratio(_shards(pieces), pieces.chunks)
    for within in product(*map(range, several)):
        corner = (p * n + w for p, n, w in zip(place, several, within, strict=True))
        source = shard_path(pieces, tuple(corner))
        if not source.exists():
            continue
        data = source.read_bytes()
        index = _read_index(source, data, inside)
        for chunk in np.argwhere(index[..., 0] != MISSING):
            offset, length = (int(n) for n in index[tuple(chunk)])
            start = tuple(int(w * n + c) for w, n, c in zip(within, inside, chunk, strict=True))
            yield start, data[offset : offset + length]


def _read_index(path: Path, data: bytes, grid: Sequence[int]) -> np.ndarray:
    size = 16 * math.prod(grid)
    raw = data[-size - 4 : -4]
    if len(raw) != size or _checksum(raw) != data[-4:]:
        raise ValueError(
            f"{path} is torn: its index of {size} bytes does not agree with its checksum; delete it"
        )
    return np.frombuffer(raw, "<u8").reshape(*grid, 2)


def _checksum(data: bytes) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(4, "little")


def _shards(array: zarr.Array) -> tuple[int, ...]:
    return array.shards or array.chunks


def _ratio(large: Sequence[int], small: Sequence[int]) -> tuple[int, ...]:
    return tuple(-(-a // b) for a, b in zip(large, small, strict=True))
