"""How many voxels of each kind the chunks of a volume hold: counted once, when it is weighed.

With these numbers a voxel of a kind is found, exactly and uniformly, by reading one chunk: in a
volume of any size, as quickly as in a small one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from .geometry import Window, blocks

CODES = 4
"""Codes of the target that are counted, from 0: background, interior, boundary, ridge."""

SEPARATED = 1.0
"""A separation weight above this is high: it adds more than the mean of the class weights."""

KINDS = CODES + 1
"""Kinds that are counted: those of the target, and voxels whose separation weight is high."""


def count_chunks(target: np.ndarray, separation: np.ndarray, chunk: Sequence[int]) -> np.ndarray:
    """Count the voxels of each kind, chunk by chunk.

    Parameters
    ----------
    target : ndarray of uint8, shape (z, y, x)
        Codes of the target, or 255 where nobody annotated.
    separation : ndarray of float32, shape (z, y, x)
        Separation weights.
    chunk : sequence of int
        Extent z, y, x of a chunk; the array begins where one begins.

    Returns
    -------
    ndarray of int64, shape (KINDS, chunks along z, y, x)

    Examples
    --------
    >>> target = np.array([[[0, 1, 3, 255]]], np.uint8)
    >>> count_chunks(target, np.float32([[[0, 0, 9, 0]]]), (1, 1, 2))[:, 0, 0].tolist()
    [[1, 0], [1, 0], [0, 0], [0, 1], [0, 1]]
    """
    grid = tuple(-(-n // c) for n, c in zip(target.shape, chunk, strict=True))
    counts = np.zeros((KINDS, prod(grid)), np.int64)
    for number, window in enumerate(blocks(target.shape, chunk)):
        codes = np.bincount(target[window.slices].ravel(), minlength=256)
        counts[:CODES, number] = codes[:CODES]
        counts[CODES, number] = np.count_nonzero(separation[window.slices] > SEPARATED)
    return counts.reshape(KINDS, *grid)


@dataclass(frozen=True, eq=False)
class Tally:
    """The voxels of each kind in each chunk of a volume.

    Parameters
    ----------
    counts : ndarray of int, shape (KINDS, chunks)
        Chunks in raster order.
    shape, chunk : tuple of int
        Extent z, y, x of the volume and of a chunk.
    """

    counts: np.ndarray
    shape: tuple[int, ...]
    chunk: tuple[int, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of chunks along z, y, x."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunk, strict=True))

    def may_be_labelled(self, window: Window) -> bool:
        """Say whether a chunk that a window inside the volume touches has a labelled voxel."""
        edges = zip(window.start, window.stop, self.chunk, strict=True)
        return bool(self._labelled[tuple(slice(a // c, -(-b // c)) for a, b, c in edges)].any())

    @cached_property
    def _labelled(self) -> np.ndarray:
        return self.counts[:CODES].any(axis=0).reshape(self.grid)

    def window(self, number: int) -> Window:
        """Return the window of a chunk.

        Examples
        --------
        >>> Tally(np.zeros((KINDS, 4), int), (1, 3, 5), (1, 2, 3)).window(3)
        Window(start=(0, 2, 3), stop=(1, 3, 5))
        """
        place = np.unravel_index(number, self.grid)
        start = tuple(int(p) * c for p, c in zip(place, self.chunk, strict=True))
        return Window(start, tuple(a + c for a, c in zip(start, self.chunk, strict=True))).clip(
            self.shape
        )
