"""Relaxation of a map by flipping simple pixels, at one bit per pixel.

A pixel is *simple* if flipping it changes no topology; whether it is follows from its eight
neighbours. The visiting order is part of the definition of a warp (see `gigaseg.warping`), so the
pixels are visited one by one. The map is held as bits, and the waiting pixels as a list in a file
that is read and written from its beginning to its end: what a plane of any size needs in memory is
one bit per pixel, and what it needs on disk is four bytes per mismatch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile

import numpy as np
import numpy.typing as npt
from numba import njit

from gigaseg.labels import BoolArray

PART = 2**20  # mismatches read at a time
IN_MEMORY = 2**26  # bytes of mismatches above which they go to a file

Places = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class BitMap:
    """A plane of one bit per pixel, framed by zeros.

    Attributes
    ----------
    shape : tuple of int
        Extent along y and x.
    bits : ndarray of uint8
        Flat: rows of `row` bits, each ending in at least one 0, between two rows of zeros.

    Examples
    --------
    >>> plane = BitMap.zeros((2, 3))
    >>> plane.write(1, np.array([[True, False, True]]))
    >>> plane.rows(0, 2).astype(int)
    array([[0, 0, 0],
           [1, 0, 1]])
    """

    shape: tuple[int, int]
    bits: npt.NDArray[np.uint8]

    @classmethod
    def zeros(cls, shape: Sequence[int]) -> "BitMap":
        """Return a map that is False everywhere."""
        height, width = shape
        # One byte more, because the last bits are read two bytes at a time.
        return cls((height, width), np.zeros((height + 2) * (width // 8 + 1) + 1, np.uint8))

    @classmethod
    def of(cls, mask: BoolArray) -> "BitMap":
        """Return the map of an array of shape (y, x)."""
        plane = cls.zeros(mask.shape)
        plane.write(0, mask)
        return plane

    @property
    def row(self) -> int:
        """Bits from one row to the next."""
        return 8 * (self.shape[1] // 8 + 1)

    @property
    def _inner(self) -> npt.NDArray[np.uint8]:
        return self.bits[:-1].reshape(self.shape[0] + 2, -1)[1:-1]

    def copy(self) -> "BitMap":
        """Return a map of the same values that can be changed by itself."""
        return BitMap(self.shape, self.bits.copy())

    def write(self, start: int, mask: BoolArray) -> None:
        """Set whole rows from `start` on; `mask` has shape (rows, x)."""
        packed = np.packbits(mask, axis=1, bitorder="little")
        self._inner[start : start + len(mask), : packed.shape[1]] = packed

    def rows(self, start: int, stop: int) -> BoolArray:
        """Return the rows from `start` to before `stop`, shape (stop - start, x)."""
        return self._unpack(self._inner[start:stop], self.shape[1])

    def columns(self, start: int, stop: int) -> BoolArray:
        """Return columns, shape (y, stop - start); `start` is a multiple of 8."""
        return self._unpack(self._inner[:, start // 8 :], stop - start)

    def _unpack(self, packed: npt.NDArray[np.uint8], width: int) -> BoolArray:
        packed = packed[:, : -(-width // 8)]
        return np.unpackbits(packed, axis=1, count=width, bitorder="little").view(bool)

    def where(self, places: Places) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return y and x of places in `bits`."""
        y, x = np.divmod(places.astype(np.int64), self.row)
        return y - 1, x

    @property
    def index_type(self) -> type[np.unsignedinteger]:
        """The smallest type for places in `bits`."""
        return np.uint32 if 8 * self.bits.size < 2**32 else np.uint64


def visiting_order(
    plane: BitMap,
    differ: BoolArray,
    values: npt.NDArray[np.uint8],
    ranks: npt.NDArray[np.uint8],
    *,
    first: int = 0,
) -> tuple[Places, npt.NDArray[np.int64]]:
    """List the mismatches of a stripe of a plane by rank; those of one rank column by column.

    Parameters
    ----------
    plane : BitMap
        It is not looked at: places depend on its shape.
    differ : ndarray of bool, shape (y, columns)
    values : ndarray of uint8, shape (y, columns)
    ranks : ndarray of uint8, shape (256,)
        Rank of each value: pixels of rank 0 come first.
    first : int
        The stripe's first column.

    Returns
    -------
    places : ndarray of `plane.index_type`, shape (mismatches,)
        Where their bits are.
    counts : ndarray of int64, shape (highest rank + 1,)
        Mismatches per rank.

    Examples
    --------
    >>> plane, values = BitMap.zeros((2, 2)), np.array([[0, 0], [0, 7]], np.uint8)
    >>> ranks = (np.arange(256) < 7).astype(np.uint8)
    >>> places, counts = visiting_order(plane, np.ones((2, 2), bool), values, ranks)
    >>> list(zip(*(axis.tolist() for axis in plane.where(places)))), counts.tolist()
    ([(1, 1), (0, 0), (1, 0), (0, 1)], [1, 3])
    """
    packed = np.packbits(differ, axis=1, bitorder="little")
    table = np.zeros((int(ranks.max()) + 1, differ.shape[1]), np.int64)
    _count(packed, values, ranks, table)
    counts = table.sum(axis=1)
    ends = np.cumsum(table).reshape(table.shape)
    places = np.empty(int(counts.sum()), plane.index_type)
    _sort(packed, values, ranks, ends - table, (plane.row + first, plane.row), places)
    return places, counts


class Waiting:
    """The mismatches of a plane in visiting order, in memory or, if they are many, in a file.

    Parameters
    ----------
    plane : BitMap
        The map to be relaxed; it is changed in place.
    counts : ndarray of int64, shape (ranks,)
        Mismatches per rank.
    folder : Path, optional
        Where a file may be made, without a name: it is gone when it is closed, even if the
        process is killed. None: the system's folder for such files.
    """

    def __init__(
        self, plane: BitMap, counts: npt.NDArray[np.int64], folder: Path | None = None
    ) -> None:
        self._plane, self._type = plane, np.dtype(plane.index_type)
        self._file = SpooledTemporaryFile(  # noqa: SIM115  see __exit__
            IN_MEMORY, dir=None if folder is None else str(folder)
        )
        ends = np.append(0, np.cumsum(counts))
        self._next, self._left = ends[:-1], int(ends[-1])

    def __enter__(self) -> "Waiting":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, places: Places, counts: npt.NDArray[np.int64]) -> None:
        """Take what `visiting_order` lists for the next stripe, from left to right."""
        end = 0
        for rank in np.flatnonzero(counts).tolist():
            start, end = end, end + int(counts[rank])
            self._write(int(self._next[rank]), places[start:end])
            self._next[rank] += end - start

    def relax(self) -> int:
        """Flip simple pixels until a pass changes nothing; return how many mismatches are left."""
        before = -1
        while self._left != before:
            before = self._left
            self._pass()
        return self._left

    def _pass(self) -> None:
        """Visit all that wait once; those that are left move up in the file."""
        kept = 0
        for start in range(0, self._left, PART):
            part = np.empty(min(PART, self._left - start), self._type)
            self._file.seek(start * self._type.itemsize)
            self._file.readinto(part.data)
            count = _visit(self._plane.bits, self._plane.row, part, _SIMPLE)
            self._write(kept, part[:count])
            kept += count
        self._left = kept

    def _write(self, start: int, places: Places) -> None:
        self._file.seek(start * self._type.itemsize)
        self._file.write(places.data)


def _simple_table() -> npt.NDArray[np.bool_]:
    """Return, for the 512 patches of 3 x 3 bits in raster order, whether the middle is simple.

    Yokoi's connectivity number for 4-connected foreground: a pixel is simple iff it is 1.
    """
    # around the pixel; face neighbours are even
    ring = np.arange(512)[:, None] >> np.array([5, 2, 1, 0, 3, 6, 7, 8]) & 1
    number = sum(ring[:, k] * (1 - ring[:, k + 1] * ring[:, (k + 2) % 8]) for k in (0, 2, 4, 6))
    return np.asarray(number == 1)


_SIMPLE = _simple_table()
# of the 256 bytes: the lowest bit that is set
_LOWEST = np.array([0, *((byte & -byte).bit_length() - 1 for byte in range(1, 256))], np.uint8)


@njit(cache=True, nogil=True)
def _visit(bits, row, places, simple):
    """Flip what is simple, one place after the other; move the others up and count them."""
    step = row >> 3
    kept = 0
    for i in range(places.size):
        p = np.int64(places[i])
        k = p - 1 >> 3
        shift = p - 1 & 7
        above = (bits[k - step] | bits[k - step + 1] << 8) >> shift & 7
        beside = (bits[k] | bits[k + 1] << 8) >> shift & 7
        below = (bits[k + step] | bits[k + step + 1] << 8) >> shift & 7
        if simple[above | beside << 3 | below << 6]:
            bits[p >> 3] ^= 1 << (p & 7)
        else:
            places[kept] = p
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def _count(packed, values, ranks, table):
    """Count the set bits per rank and column."""
    for y in range(packed.shape[0]):
        for k in range(packed.shape[1]):
            byte = packed[y, k]
            while byte:
                x = 8 * k + _LOWEST[byte]
                table[ranks[values[y, x]], x] += 1
                byte &= byte - 1


@njit(cache=True, nogil=True)
def _sort(packed, values, ranks, table, place, places):
    """Write the places of the set bits where `table` says that those of a column begin.

    `place` is that of the first bit, and how far it is to the next row.
    """
    for y in range(packed.shape[0]):
        for k in range(packed.shape[1]):
            byte = packed[y, k]
            while byte:
                x = 8 * k + _LOWEST[byte]
                rank = ranks[values[y, x]]
                places[table[rank, x]] = place[0] + y * place[1] + x
                table[rank, x] += 1
                byte &= byte - 1
