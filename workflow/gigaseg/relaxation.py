"""Relaxation of a map by flipping simple pixels, at one bit per pixel.

A pixel is *simple* if flipping it changes no topology; whether it is follows from its eight
neighbours. The visiting order is part of the definition of a warp (see `gigaseg.warping`), so the
pixels are visited one by one. The map is held as bits, and the waiting pixels as a list in a file
that is read and written from its beginning to its end: what a plane of any size needs in memory is
one bit per pixel, and what it needs on disk is four bytes per mismatch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile

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
        return np.unpackbits(
            self._inner[start:stop], axis=1, count=self.shape[1], bitorder="little"
        ).view(bool)

    def differing(self, start: int, mask: BoolArray) -> npt.NDArray[np.uint8]:
        """Return, eight to a byte, where columns from `start` on, a multiple of 8, are not `mask`.

        `mask` has shape (y, columns), the result (y, bytes).
        """
        packed = np.packbits(mask, axis=1, bitorder="little")
        return self._inner[:, start // 8 : start // 8 + packed.shape[1]] ^ packed

    def where(self, places: Places) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return y and x of places in `bits`."""
        y, x = np.divmod(places.astype(np.int64), self.row)
        return y - 1, x

    @property
    def index_type(self) -> type[np.unsignedinteger]:
        """The smallest type for places in `bits`."""
        return np.uint32 if 8 * self.bits.size < 2**32 else np.uint64


def by_columns(plane: BitMap, differing: npt.NDArray[np.uint8], *, first: int = 0) -> Places:
    """List the mismatches of a stripe of a plane column by column.

    Parameters
    ----------
    plane : BitMap
        It is not looked at: places depend on its shape.
    differing : ndarray of uint8, shape (y, bytes)
        From `BitMap.differing`.
    first : int
        The stripe's first column.

    Returns
    -------
    ndarray of `plane.index_type`, shape (mismatches,)
        Where their bits are.

    Examples
    --------
    >>> plane = BitMap.zeros((2, 2))
    >>> differing = plane.differing(0, np.array([[True, True], [True, False]]))
    >>> y, x = plane.where(by_columns(plane, differing))
    >>> y.tolist(), x.tolist()
    ([0, 1, 0], [0, 0, 1])
    """
    places = np.empty(int(np.bitwise_count(differing).sum()), plane.index_type)
    _list_columns(differing, plane.row + first, plane.row, places)
    return places


def relax(plane: BitMap, places: Places) -> int:
    """Flip simple pixels until a pass changes nothing; return how many mismatches are left.

    Parameters
    ----------
    plane : BitMap
        Changed in place.
    places : ndarray of `plane.index_type`, shape (mismatches,)
        In visiting order. Overwritten: those that are left come first.

    Examples
    --------
    >>> plane = BitMap.of(np.array([[True, False, False]]))
    >>> relax(plane, by_columns(plane, plane.differing(0, np.array([[True, True, False]]))))
    0
    >>> plane.rows(0, 1).astype(int)
    array([[1, 1, 0]])
    """
    before = -1
    while places.size != before:
        before = places.size
        places = places[: _visit(plane.bits, plane.row, places, _SIMPLE)]
    return before


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
        self._next, self._left = np.cumsum(counts) - counts, int(counts.sum())
        small = self._left * self._type.itemsize <= IN_MEMORY
        self._file = BytesIO() if small else TemporaryFile(dir=folder)  # noqa: SIM115  see __exit__

    def __enter__(self) -> "Waiting":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, places: Places, ranks: npt.NDArray[np.uint8]) -> None:
        """Take mismatches, in their order within each rank; stripes come from left to right."""
        places = places[np.argsort(ranks, kind="stable")]
        counts = np.bincount(ranks)
        end = 0
        for rank in np.flatnonzero(counts).tolist():
            start, end = end, end + int(counts[rank])
            self._write(int(self._next[rank]), places[start:end])
            self._next[rank] += end - start

    def relax(self) -> int:
        """Flip simple pixels until a pass changes nothing; return how many mismatches are left."""
        before = -1
        while PART < self._left != before:
            before = self._left
            self._pass()
        if self._left <= PART:
            self._left = relax(self._plane, self._read(0, self._left))
        return self._left

    def _pass(self) -> None:
        """Visit all that wait once; those that are left move up in the file."""
        kept = 0
        for start in range(0, self._left, PART):
            part = self._read(start, min(start + PART, self._left))
            left = _visit(self._plane.bits, self._plane.row, part, _SIMPLE)
            self._write(kept, part[:left])
            kept += left
        self._left = kept

    def _read(self, start: int, stop: int) -> Places:
        part = np.empty(stop - start, self._type)
        self._file.seek(start * self._type.itemsize)
        self._file.readinto(part.data)
        return part

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
def _list_columns(packed, place, row, places):
    """Write the places of the set bits column by column; `place` is that of the first bit.

    Eight columns are gone through together, because they share bytes.
    """
    height, width = packed.shape
    waiting = np.empty((8, height), places.dtype)
    end = 0
    for k in range(width):
        counts = np.zeros(8, np.int64)
        for y in range(height):
            byte = packed[y, k]
            while byte:
                bit = _LOWEST[byte]
                waiting[bit, counts[bit]] = place + y * row + 8 * k + bit
                counts[bit] += 1
                byte &= byte - 1
        for bit in range(8):
            for i in range(counts[bit]):
                places[end] = waiting[bit, i]
                end += 1
