"""What all raw images look like to the workflow: axes c z y x, read window by window."""

import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from .geometry import Window

BLOCK_BYTES = 2**27  # of the voxels of one block, if segments allow
BYTES_AT_ONCE = 2**26  # of those of several; with all that is made of them, a job takes < 500 MB

Spacing = tuple[float, float, float]
Fetch = Callable[[Sequence[int], Window], np.ndarray]

UNITS = {
    "m": 1e6,
    "meter": 1e6,
    "cm": 1e4,
    "centimeter": 1e4,
    "mm": 1e3,
    "millimeter": 1e3,
    "µm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "å": 1e-4,
    "angstrom": 1e-4,
    "pm": 1e-6,
    "picometer": 1e-6,
    "in": 25400.0,
    "inch": 25400.0,
}


def micrometres(unit: str) -> float | None:
    """Return how many micrometres a unit has, or None for units such as pixels.

    Examples
    --------
    >>> micrometres("nm"), micrometres("pixel")
    (0.001, None)
    """
    # The micro sign has two code points, and ImageJ writes it as an escape.
    plain = unit.strip().replace("\\u00B5", "µ").replace("\u03bc", "µ")
    return UNITS.get(plain.lower())


class ChangedFileError(ValueError):
    """A file is not any more what it was when it was opened."""


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises about a damaged file into one ValueError.

    OSError passes: a full disk or a lost mount is no fault of the file.
    """
    try:
        yield
    except ChangedFileError:
        raise
    except (ValueError, RuntimeError, KeyError, IndexError, struct.error, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be decoded ({type(error).__name__}: {error}): it is damaged or uses an "
            f"unsupported compression; copy it again, or save it as plain TIFF"
        ) from error


@dataclass(frozen=True)
class Layout:
    """Where c, z, y and x are in a stored array.

    Attributes
    ----------
    axes : str
        One letter per axis of the array: C, Z, Y, X, S (samples of a pixel), or 0 for an axis of
        one entry.
    shape : tuple of int
        Shape of the array.
    samples : int
        Number of samples of a pixel that are kept; alpha comes last and is not.

    Examples
    --------
    >>> Layout("YXS", (5, 6, 4), samples=3).czyx
    (3, 1, 5, 6)
    """

    axes: str
    shape: tuple[int, ...]
    samples: int = 1

    @classmethod
    def of(cls, path: Path, axes: str, shape: Sequence[int], alpha: int = 0) -> "Layout":
        """Understand the axes of a file (tifffile's letters).

        Raises
        ------
        ValueError
            If an axis of several entries is none of channel, z, y, x: time, scenes, angles.
        """
        sizes = tuple(int(n) for n in shape)
        letters = "".join(
            _letter(path, axis, size, axes, sizes) for axis, size in zip(axes, sizes, strict=True)
        )
        doubled = [a for a in "CZYXS" if letters.count(a) > 1]
        if doubled or not {"Y", "X"} <= set(letters):
            raise ValueError(
                f"{path} has axes {axes} of {sizes}: exactly one y and x, and at most one z and "
                f"one channel axis are understood; save it with named axes (OME-TIFF)"
            )
        samples = dict(zip(letters, sizes, strict=True)).get("S", 1)
        return cls(letters, sizes, samples - alpha)

    @property
    def czyx(self) -> tuple[int, int, int, int]:
        """Shape as c z y x; samples are channels."""
        size = {"C": 1, "Z": 1} | dict(zip(self.axes, self.shape, strict=True))
        return size["C"] * self.samples, size["Z"], size["Y"], size["X"]

    def segment(self, chunks: Sequence[int]) -> tuple[int, int, int]:
        """Extent along z, y, x of what is decoded at once."""
        size = {"Z": 1} | dict(zip(self.axes, chunks, strict=True))
        return size["Z"], size["Y"], size["X"]

    def read(self, array: Any, channels: Sequence[int], window: Window) -> np.ndarray:
        """Read some channels of a window (z, y, x) of the array, as c z y x."""
        parts = []
        for c, members in groupby(channels, key=lambda k: k // self.samples):
            data = self._read_channel(array, c, window)
            samples = [k % self.samples for k in members]
            # Samples in their order, which is the usual case, are not copied.
            parts.append(data if samples == list(range(len(data))) else data[samples])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _read_channel(self, array: Any, channel: int, window: Window) -> np.ndarray:
        """Return all samples of one channel as s z y x."""
        place: dict[str, Any] = dict(zip("ZYX", window.slices, strict=True))
        place |= {"C": channel, "S": slice(self.samples), "0": 0}
        data = np.asarray(array[tuple(place[a] for a in self.axes)])
        left = [a for a in self.axes if a not in "C0"]
        order = [left.index(a) for a in "SZYX" if a in left]
        missing = [i for i, a in enumerate("SZYX") if a not in left]
        return np.expand_dims(data.transpose(order), missing)


def _letter(path: Path, axis: str, size: int, axes: str, sizes: Sequence[int]) -> str:
    if axis in "CZYXS":
        return axis
    if size == 1:
        return "0"
    if axis in "QI":  # a plain sequence of pages
        return "Z"
    what = {"T": "time points", "M": "mosaic tiles", "A": "angles", "P": "phases"}
    raise ValueError(
        f"{path} holds {size} {what.get(axis, f'entries along axis {axis}')} "
        f"(axes {axes} of {tuple(sizes)}): export each one to a file of its own"
    )


@dataclass(frozen=True)
class Source:
    """A raw image, read window by window.

    Behaves like an array of axes c z y x that is indexed by ``[..., z, y, x]`` slices.

    Attributes
    ----------
    path : Path
        For messages.
    shape : tuple of int
        (c, z, y, x).
    dtype : numpy.dtype
        Of the values returned: native byte order; bool becomes uint8, float16 float32.
    spacing : tuple of float or None
        Size of a voxel along z, y, x in micrometres, if the file says so.
    segment : tuple of int
        Extent along z, y, x of what is decoded at once: windows made of whole segments decode
        nothing twice.
    fetch : callable
        ``fetch(channels, window)`` returns a window (z, y, x) of the channels as c z y x.
    closer : callable
        Closes the file.
    opener : callable, optional
        Opens the image again, in another process; must be picklable.
    """

    path: Path
    shape: tuple[int, int, int, int]
    dtype: np.dtype
    spacing: Spacing | None
    segment: tuple[int, int, int]
    fetch: Fetch
    closer: Callable[[], None] = field(default=lambda: None)
    opener: Callable[[], "Source"] | None = None

    def __post_init__(self) -> None:
        if self.dtype.kind not in "biuf":
            raise ValueError(
                f"{self.path} holds values of type {self.dtype}: readable are bool, integers and "
                f"real floats; save complex images as two channels"
            )
        if 0 in self.shape:
            raise ValueError(f"{self.path} has no voxels: its shape (c, z, y, x) is {self.shape}")
        replaced = {"b": "u1", "f": "f4"}.get(self.dtype.kind) if self.dtype.itemsize < 4 else None
        if replaced is not None:
            object.__setattr__(self, "dtype", np.dtype(replaced))
        object.__setattr__(self, "dtype", self.dtype.newbyteorder("="))

    def __reduce__(self) -> tuple[Any, ...]:
        # An open file cannot travel: the process that receives the image opens it again.
        if self.opener is None:
            raise TypeError(f"the source {self.path} does not know how to open itself again")
        return self.opener, ()

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.closer()

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        space = [part.indices(n) for part, n in zip(key[-3:], self.shape[1:], strict=True)]
        return self.read(Window(tuple(p[0] for p in space), tuple(p[1] for p in space)))

    def read(self, window: Window) -> np.ndarray:
        """Read a window (z, y, x) of all channels, as c z y x."""
        data = self.fetch(range(self.shape[0]), window)
        return np.ascontiguousarray(data, dtype=self.dtype)

    def select(self, channels: Sequence[int]) -> "Source":
        """Return the same image with some of its channels, in this order.

        Raises
        ------
        ValueError
            If there is no such channel.
        """
        count = self.shape[0]
        wrong = [c for c in channels if not 0 <= c < count]
        if wrong or not channels:
            raise ValueError(
                f"{self.path} has {count} channels, numbered 0 to {count - 1}: channels "
                f"{list(channels)} cannot be selected; correct `channels` of its data set"
            )
        fetch, opener = self.fetch, self.opener

        def some(wanted: Sequence[int], window: Window) -> np.ndarray:
            return fetch([channels[c] for c in wanted], window)

        shape = (len(channels), *self.shape[1:])
        again = None if opener is None else partial(_reopen, opener, tuple(channels))
        return replace(self, shape=shape, fetch=some, opener=again)

    def cut(self, planes: Sequence[int] | None) -> "Source":
        """Return some planes of the same image: from the first up to, but without, the second.

        Parameters
        ----------
        planes : (first, behind the last) or None
            None returns the image itself.

        Raises
        ------
        ValueError
            If it has no such planes.
        """
        if planes is None:
            return self
        (first, behind), (c, depth, y, x) = planes, self.shape
        if not first < behind <= depth:
            raise ValueError(
                f"{self.path} has {depth} planes, numbered 0 to {depth - 1}: planes {first}-"
                f"{behind - 1} are not among them; correct `planes` in the sheet"
            )
        fetch, opener = self.fetch, self.opener

        def some(channels: Sequence[int], window: Window) -> np.ndarray:
            (z, *start), (end, *stop) = window.start, window.stop
            return fetch(channels, Window((z + first, *start), (end + first, *stop)))

        again = None if opener is None else partial(_reopen_cut, opener, (first, behind))
        return replace(self, shape=(c, behind - first, y, x), fetch=some, opener=again)

    def block(self, unit: Sequence[int], voxel: int | None = None) -> tuple[int, int, int]:
        """Return the block of whole units (z, y, x) in which to read.

        It holds whole segments, so that each is decoded once; but where it would take more than
        `BLOCK_BYTES`, fewer units side by side and fewer planes, at the price of decoding some
        twice. Of a segment beyond that, which its reader keeps, it holds one unit.

        Parameters
        ----------
        unit : sequence of int
            Extents z, y, x.
        voxel : int, optional
            Bytes that a voxel takes in memory, if not those of its channels.

        Examples
        --------
        >>> strips = Source(Path("a"), (1, 9, 5000, 7000), np.dtype("u1"), None, (1, 8, 7000), None)
        >>> strips.block((1, 1024, 1024))
        (1, 1024, 7168)
        """
        z, y, x = (-(-s // u) * u for s, u in zip(self.segment, unit, strict=True))
        voxel = voxel or self.shape[0] * self.dtype.itemsize
        if math.prod(self.segment) * voxel > BLOCK_BYTES:
            z, y, x = unit
        if z * y * x * voxel > BLOCK_BYTES:
            x = max(1, BLOCK_BYTES // (z * y * unit[2] * voxel)) * unit[2]
        if z * y * x * voxel > BLOCK_BYTES:
            z = max(1, BLOCK_BYTES // (y * x * unit[0] * voxel)) * unit[0]
        return z, y, x

    def at_once(self, block: Sequence[int], threads: int, voxel: int | None = None) -> int:
        """Return how many such blocks threads may have in memory; the others decode for these.

        Examples
        --------
        >>> tiles = Source(Path("a"), (1, 1, 9999, 9999), np.dtype("u2"), None, (1, 256, 256), None)
        >>> tiles.at_once((1, 4096, 4096), 8), tiles.at_once((1, 1024, 1024), 8)
        (2, 8)
        """
        size = math.prod(map(min, block, self.shape[1:]))
        size *= voxel or self.shape[0] * self.dtype.itemsize
        return max(1, min(threads, BYTES_AT_ONCE // size))


def _reopen_cut(opener: Callable[[], Source], planes: tuple[int, int]) -> Source:
    return opener().cut(planes)


def _reopen(opener: Callable[[], Source], channels: tuple[int, ...]) -> Source:
    return opener().select(channels)
