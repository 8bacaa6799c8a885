"""What is to be split, and into which blocks: facts that all passes of `gigaseg.splitting` share.

A *problem* is what is split in one piece: each plane by itself, or the volume. Blocks lie in the
volume, with axes (z, y, x); what is said of a problem has its axes, (y, x) or (z, y, x).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from .distances import integer_spacing
from .faces import pack, unpack
from .geometry import Window, blocks
from .instances import Evidence, Splitting, Target
from .labels import Objects
from .manifests import write_atomically
from .objects import Quanta

Corner = tuple[int, ...]

PLANE_SIDE = 2048  # px of a block of a plane: memory follows its square, halos and faces its side
VOLUME_SIDE = 512  # px in y and x of what is worked on at once in space
FLOOD_VOXELS = 2**23  # of a block of a volume that is flooded
WRITE_VOXELS = 2**25  # of one that is written: in parts, so that its labels are most of the memory
DISTANCES = {"plane": 64, "volume": 16}  # px of halo that show the most distances, not all


@dataclass(frozen=True)
class Cut:
    """Into which blocks a volume is cut. The results do not depend on it.

    Attributes
    ----------
    flood : tuple of int
        Extent z, y, x of the blocks that are flooded.
    write : tuple of int
        Of those that are written: whole shards.
    part : tuple of int
        Of those in which instances are counted. A block to be written is whole parts, which are
        worked on one after the other.
    """

    flood: tuple[int, int, int]
    write: tuple[int, int, int]
    part: tuple[int, int, int]

    @classmethod
    def choose(cls, shape: Sequence[int], objects: Objects, shards: Sequence[int]) -> "Cut":
        """Choose blocks from the shape of a volume (z, y, x) and the shards to be written.

        Examples
        --------
        >>> Cut.choose((1, 9000, 9000), "plane", (1, 4096, 4096))
        Cut(flood=(1, 2048, 2048), write=(1, 4096, 4096), part=(1, 2048, 2048))
        >>> Cut.choose((100, 3000, 400), "volume", (1, 1024, 512))
        Cut(flood=(40, 512, 512), write=(64, 1024, 512), part=(64, 512, 512))
        """
        _, *sides = shards
        if objects == "plane":
            height, width = (max(1, PLANE_SIDE // n) * n for n in sides)
            part = (1, _divisor(height, PLANE_SIDE), _divisor(width, PLANE_SIDE))
            return cls((1, PLANE_SIDE, PLANE_SIDE), (1, height, width), part)
        deep = _depth(shape[0], [min(VOLUME_SIDE, n) for n in shape[1:]], FLOOD_VOXELS)
        depth = _depth(shape[0], sides, WRITE_VOXELS)
        height, width = sides
        part = (depth, _divisor(height, VOLUME_SIDE), _divisor(width, VOLUME_SIDE))
        return cls((deep, VOLUME_SIDE, VOLUME_SIDE), (depth, height, width), part)


def _divisor(extent: int, limit: int) -> int:
    """Return the largest divisor of an extent that does not exceed a limit."""
    return next(n for n in range(min(extent, limit), 0, -1) if extent % n == 0)


def _depth(planes: int, sides: Sequence[int], voxels: int) -> int:
    """Return the number of planes whose blocks have as many voxels together."""
    return max(1, min(planes, voxels // prod(sides)))


@dataclass(frozen=True)
class Work:
    """What is to be split, how, and where it is done.

    Attributes
    ----------
    probabilities : array-like of uint8, shape (c, z, y, x)
    image : array-like, shape (c, z, y, x)
        Its intensities are measured.
    fragments : array-like of uint32, shape (z, y, x)
        Scratch; blocks of ``cut.flood`` are whole shards.
    folder : Path
        Scratch for tables.
    how : Splitting
    target : {"foreground", "interior_boundary"}
        What the channels of the probabilities are.
    objects : {"plane", "volume"}
        Whether each plane is a problem of its own; ids continue from plane to plane.
    spacing : tuple of float
        Size of a voxel along z, y, x.
    quanta : tuple of Quanta
        One per channel of the image.
    cut : Cut
    """

    probabilities: Any
    image: Any
    fragments: Any
    folder: Path
    how: Splitting
    target: Target
    objects: Objects
    spacing: tuple[float, float, float]
    quanta: tuple[Quanta, ...]
    cut: Cut

    @property
    def shape(self) -> tuple[int, int, int]:
        """Extent of the volume along z, y, x."""
        z, y, x = self.probabilities.shape[1:]
        return z, y, x

    @property
    def planar(self) -> bool:
        """Whether the axis z is no axis of the problem."""
        return self.objects == "plane"

    def own(self, extents: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the entries of (z, y, x) for the axes of one problem."""
        return extents[1:] if self.planar else extents

    def window(self, window: Window) -> Window:
        """Return a window of the volume in its problem."""
        return Window(self.own(window.start), self.own(window.stop))

    def view(self, array: np.ndarray) -> np.ndarray:
        """View an array (..., z, y, x) of a block in its problem."""
        return array[..., 0, :, :] if self.planar else array

    def place(self, window: Window, plane: int) -> Window:
        """Return a window of a problem, the plane `plane` or the volume, in the volume."""
        if not self.planar:
            return window
        return Window((plane, *window.start), (plane + 1, *window.stop))

    def evidence(self, data: np.ndarray) -> Evidence:
        """Interpret the probabilities of a block."""
        return Evidence.read(self.view(data), self.target)

    @property
    def measures_distance(self) -> bool:
        """Whether distances are flooded."""
        return self.how.method == "watershed" and self.how.level == "distance"

    @property
    def far_sighted(self) -> bool:
        """Whether a distance may be measured to another block."""
        several = any(n > b for n, b in zip(self.shape[1:], self.cut.flood[1:], strict=True))
        deep = not self.planar and self.shape[0] > self.cut.flood[0]
        return self.measures_distance and (several or deep)

    @property
    def halo(self) -> tuple[int, int, int]:
        """Voxels read around a block that is flooded."""
        if not self.far_sighted:
            return 0, 0, 0
        steps = integer_spacing(self.own(self.spacing))
        reach = [-(-DISTANCES[self.objects] * min(steps) // step) for step in steps]
        z, y, x = [0] * (3 - len(reach)) + reach
        return z, y, x

    def problems(self, block: Corner) -> Iterator[list[Window]]:
        """Yield the blocks of each problem, in raster order."""
        windows = blocks(self.shape, block)
        for _, group in groupby(windows, lambda w: w.start[0] if self.planar else 0):
            yield list(group)

    def parts(self, window: Window) -> list[Window]:
        """Return the parts in which a block is written."""
        return [part.shift(window.start) for part in blocks(window.shape, self.cut.part)]

    def save(self, name: str, window: Window, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the tables of one block, whole or not at all."""
        write_atomically(self._path(name, window), pack(arrays))

    def load(self, name: str, window: Window) -> dict[str, np.ndarray]:
        """Read the tables of one block; ValueError if they are torn."""
        path = self._path(name, window)
        try:
            return unpack(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def holds(self, name: str, window: Window) -> bool:
        """Whether the tables of one block are there, and whole."""
        try:
            return bool(self.load(name, window))
        except (FileNotFoundError, ValueError):
            return False

    def _path(self, name: str, window: Window) -> Path:
        return self.folder / name / f"{'-'.join(map(str, window.start))}.npz"


def label_dtype(shape: Sequence[int]) -> np.dtype:
    """Return the type that holds one instance id per voxel, the most there can be.

    Examples
    --------
    >>> label_dtype((1, 60_000, 60_000)), label_dtype((2, 60_000, 60_000))
    (dtype('uint32'), dtype('uint64'))
    """
    return np.dtype(np.uint32 if prod(shape) <= np.iinfo(np.uint32).max else np.uint64)
