"""One digest of all values of a volume, whatever the files they are stored in.

Two volumes have the same digest exactly when shape, type and every voxel are equal. Chunks, shards,
compression, byte order and the number of workers do not enter.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import lcm
from typing import Any

import numpy as np

from .fingerprints import canonical_json
from .geometry import Window, blocks

TILE = 1024  # px in y and x; part of the definition of the digest
LARGEST_READ = 4 * TILE  # px in y and x that one worker reads at once


def volume_digest(array: Any, *, workers: int = 1) -> str:
    """Return the SHA-256 tree of a volume's values, in hexadecimal.

    Parameters
    ----------
    array : array-like, shape (..., y, x)
        NumPy or Zarr, of a boolean, integer, real or complex type.
    workers : int
        Threads; they never change the digest. Each holds a tile of 1024 x 1024 px of all channels
        in memory, or the few tiles that share chunks.

    Returns
    -------
    str
        SHA-256 of a header (shape and type, one line of JSON) and of the SHA-256 of every tile, in
        raster order: plane by plane and channel by channel, tiles of 1024 x 1024 px from the
        origin, smaller at the far edges, each as little-endian bytes in C order.

    Raises
    ------
    ValueError
        If the array has fewer than two axes or holds no numbers.

    Examples
    --------
    >>> plane = np.arange(6, dtype="u2").reshape(2, 3)
    >>> volume_digest(plane)[:16]
    'eb7dc4c1d3c45644'
    >>> volume_digest(plane) == volume_digest(plane.astype(">u2"))
    True
    >>> volume_digest(plane) == volume_digest(plane.reshape(3, 2))
    False
    """
    dtype = np.dtype(array.dtype)
    if array.ndim < 2 or dtype.kind not in "biufc":
        raise ValueError(
            f"an array of {array.ndim} axes of {dtype} has no digest: it takes numbers along y "
            f"and x at least"
        )
    dtype = dtype.newbyteorder("<")
    total = hashlib.sha256(f"{_header(array.shape, dtype)}\n".encode())
    tiles: dict[tuple[int, ...], bytes] = {}

    def read(window: Window) -> None:
        data = np.asarray(array[window.slices]).astype(dtype, copy=False)
        for tile in blocks(data.shape, _tile(array.ndim)):
            content = np.ascontiguousarray(data[tile.slices])
            tiles[tile.shift(window.start).start] = hashlib.sha256(content.data).digest()

    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(read, blocks(array.shape, _reads(array))):
            pass
    for place in sorted(tiles):
        total.update(tiles[place])
    return total.hexdigest()


def _header(shape: Sequence[int], dtype: np.dtype) -> str:
    return canonical_json({"dtype": dtype.str, "shape": tuple(shape), "tile": TILE})


def _tile(ndim: int) -> tuple[int, ...]:
    return (*(1,) * (ndim - 2), TILE, TILE)


def _reads(array: Any) -> tuple[int, ...]:
    """Choose what is read at once: whole tiles of whole chunks, so that none is decoded twice."""
    chunks = getattr(array, "chunks", _tile(array.ndim))
    common = [lcm(chunk, TILE) for chunk in chunks[-2:]]
    sides = [
        n if n <= LARGEST_READ else -(-c // TILE) * TILE
        for n, c in zip(common, chunks[-2:], strict=True)
    ]
    return (*chunks[:-2], *sides)
