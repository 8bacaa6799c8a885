"""The voxels of a TIFF series as array-likes that read and decode what an index touches, only.

Files are opened anew for each window and never mapped into memory: a file that shrinks meanwhile
is then an error, not the end of the process, and its pages do not count as memory of the process.
"""

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import tifffile

from .sources import ChangedFileError

LARGE = 2**26  # bytes; a decoded segment beyond this is kept for the windows that need it next
JPEG = (6, 7, 34892, 33007)

Key = tuple[Any, ...]
Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Contiguous:
    """Uncompressed voxels, all in one piece.

    Attributes
    ----------
    path : Path
        The file.
    offset : int
        Its byte where they begin.
    shape : tuple of int
        Shape of the array.
    dtype : numpy.dtype
        Type of the values, in the file's byte order.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, key: Key) -> np.ndarray:
        spans = _spans(key, self.shape)
        out = np.empty([b - a for a, b in spans], self.dtype)
        # From the last axis that is cut on, voxels of a window follow each other in the file.
        cut = [
            i for i, (span, n) in enumerate(zip(spans, self.shape, strict=True)) if span != (0, n)
        ]
        axis = cut[-1] if cut else 0
        strides = [math.prod(self.shape[i + 1 :]) for i in range(len(self.shape))]
        rows = out.reshape(*out.shape[:axis], -1).view(np.uint8)
        with self.path.open("rb", buffering=0) as file:
            for place in np.ndindex(*out.shape[:axis]):
                begins = [spans[i][0] + n for i, n in enumerate(place)] + [spans[axis][0]]
                at = sum(n * stride for n, stride in zip(begins, strides, strict=False))
                _read_into(file, self.offset + at * self.dtype.itemsize, rows[place], self.path)
        return _drop_axes(out, key)

    def close(self) -> None:
        """Do nothing: no file stays open."""


@dataclass
class Segmented:
    """Voxels in tiles or strips, compressed or not, on one or several pages.

    Parameters
    ----------
    path : Path
        The file, for messages.
    series : tifffile.TiffPageSeries
        One level; not used any more after its file is closed.
    workers : int
        Threads that decode segments, of all windows that are read at a time.

    Raises
    ------
    ValueError
        If the axes of the series are not those of its pages.
    """

    path: Path
    series: tifffile.TiffPageSeries
    workers: int = 1
    _kept: list[Any] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.shape = tuple(int(n) for n in self.series.shape)
        key = self.series.keyframe
        self.dtype = np.dtype(self.series.dtype).newbyteorder("=")
        self._sizes = tuple(int(n) for n in key.shaped)  # sample planes, z, y, x, samples
        self._inner = self._first_inner_axis()
        strips = (1, min(key.rowsperstrip, key.imagelength), key.imagewidth)
        tiles = (key.tiledepth, key.tilelength, key.tilewidth)
        self._pool = ThreadPoolExecutor(self.workers) if self.workers > 1 else None
        self._segment = tuple(int(n) for n in (tiles if key.is_tiled else strips))
        if min(self._segment) < 1:
            raise ValueError(f"its tiles or strips have an extent of {self._segment}")

    def close(self) -> None:
        """End the threads."""
        if self._pool:
            self._pool.shutdown()

    @property
    def chunks(self) -> tuple[int, ...]:
        """Extent of what is decoded at once, along each axis."""
        extents = (1, *self._segment, self._sizes[4])
        wide = iter([extent for n, extent in zip(self._sizes, extents, strict=True) if n > 1])
        return (1,) * self._inner + tuple(next(wide) if n > 1 else 1 for n in self._inner_shape)

    @property
    def _inner_shape(self) -> tuple[int, ...]:
        return self.shape[self._inner :]

    def _first_inner_axis(self) -> int:
        """Return the number of axes that count pages; the others are within a page."""
        page = [n for n in self._sizes if n > 1]
        for axis in range(len(self.shape), -1, -1):
            if math.prod(self.shape[axis:]) == math.prod(self._sizes):
                if [n for n in self.shape[axis:] if n > 1] == page:
                    return axis
                break
        raise ValueError(f"its pages of {self._sizes} do not make up an array of {self.shape}")

    def __getitem__(self, key: Key) -> np.ndarray:
        spans = _spans(key, self.shape)
        outer, inner = spans[: self._inner], spans[self._inner :]
        out = np.empty([b - a for a, b in spans], self.dtype)
        wide = iter([span for span, n in zip(inner, self._inner_shape, strict=True) if n > 1])
        window = tuple(next(wide) if n > 1 else (0, 1) for n in self._sizes)
        pages = out.reshape(-1, *(b - a for a, b in window))
        places = product(*(range(a, b) for a, b in outer))
        for place, page in zip(places, pages, strict=True):
            number = int(np.ravel_multi_index(place, self.shape[: self._inner])) if place else 0
            self._read_page(number, window, page)
        return _drop_axes(out, key)

    def _read_page(self, number: int, window: Spans, out: np.ndarray) -> None:
        """Fill `out` with a window (sample planes, z, y, x, samples) of a page."""
        page = self.series[number]
        if page is None or page.keyframe is None:  # OME-TIFF may leave out planes
            out[...] = self.series.keyframe.nodata
            return

        def place(index: int) -> None:
            data, corner = self._decode(number, page, index, file)
            _paste(data, corner, window, out)

        path = Path(page.parent.filehandle.path)
        with path.open("rb", buffering=0) as file:
            list((self._pool.map if self._pool else map)(place, self._touched(window)))

    def _touched(self, window: Spans) -> Iterator[int]:
        """Yield the numbers of the segments that a window touches."""
        extents = (1, *self._segment)
        grid = [-(-n // extent) for n, extent in zip(self._sizes, extents, strict=False)]
        ranges = [range(a // n, -(-b // n)) for (a, b), n in zip(window, extents, strict=False)]
        for place in product(*ranges):
            yield int(np.ravel_multi_index(place, grid))

    def _decode(self, number: int, page: Any, index: int, file: Any) -> tuple[Any, Sequence[int]]:
        """Return a segment, or the page's value for none, and its corner in the page."""
        size = math.prod(self._segment) * self._sizes[4] * self.dtype.itemsize
        if size <= LARGE:
            return self._decode_anew(page, index, file)
        with self._lock:  # one thread decodes, the others wait for what it decodes
            if not self._kept or self._kept[0] != (number, index):
                self._kept.clear()
                self._kept[:] = (number, index), self._decode_anew(page, index, file)
            return self._kept[1]

    def _decode_anew(self, page: Any, index: int, file: Any) -> tuple[Any, Sequence[int]]:
        key = page.keyframe
        tables = {}
        if key.compression in JPEG:
            tables = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader}
        try:
            encoded = _encoded(page, index, file, self.path)
            data, corner, shape = key.decode(encoded, index, **tables)
        except ChangedFileError:
            raise
        except (tifffile.TiffFileError, ValueError, RuntimeError) as error:
            kind, places = ("tile" if key.is_tiled else "strip"), len(page.dataoffsets)
            raise ValueError(
                f"{kind} {index} of {places} of page {page.index}: {type(error).__name__}: {error}"
            ) from error
        if data is None:
            data = np.full(shape, key.nodata, self.dtype)
        transform = self.series.transform
        return (data if transform is None else transform(data)), corner


def _encoded(page: Any, index: int, file: Any, path: Path) -> bytearray | None:
    """Read a segment as it is stored, None if the file leaves it out."""
    if index >= len(page.dataoffsets) or page.databytecounts[index] == 0:
        return None
    data = bytearray(page.databytecounts[index])
    _read_into(file, page.dataoffsets[index], memoryview(data), path)
    return data


def _read_into(file: Any, offset: int, out: Any, path: Path) -> None:
    """Fill a buffer of bytes; threads may share the file."""
    view = memoryview(out).cast("B")
    done = 0
    while done < len(view):
        count = os.preadv(file.fileno(), [view[done:]], offset + done)
        if count == 0:
            raise ChangedFileError(
                f"{path} ends at byte {offset + done}, but was longer when it was opened: do not "
                f"write to it while it is converted"
            )
        done += count


def _paste(data: np.ndarray, corner: Sequence[int], window: Spans, out: np.ndarray) -> None:
    """Copy the part of a segment (z, y, x, samples) that lies in a window."""
    place: list[Any] = [corner[0] - window[0][0]]
    part: list[slice] = []
    for (a, b), begin, n in zip(window[1:], corner[1:], data.shape, strict=True):
        low, high = max(a, begin), min(b, begin + n)
        place.append(slice(low - a, high - a))
        part.append(slice(low - begin, high - begin))
    out[tuple(place)] = data[tuple(part)]


def _spans(key: Key, shape: Sequence[int]) -> Spans:
    """Return start and stop along each axis."""
    whole = [slice(k, k + 1) if isinstance(k, int) else k for k in key]
    return tuple(s.indices(n)[:2] for s, n in zip(whole, shape, strict=True))


def _drop_axes(data: np.ndarray, key: Key) -> np.ndarray:
    return data[tuple(0 if isinstance(k, int) else slice(None) for k in key)]
