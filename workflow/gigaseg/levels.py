"""Distance levels of one block of a volume, exactly, in memory bounded by the block.

The nearest site may lie anywhere in the volume. What a halo around the block shows is certain for
the voxels that are not nearer to the end of the halo than to a site in it; for the others, further
blocks are looked at one by one, the nearest first, until none could be nearer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from math import isqrt

import numpy as np

from gigaseg.distances import (
    FAR,
    narrowed,
    squared_distance,
    squared_distance_between,
    steps_of,
)
from gigaseg.geometry import Window


@dataclass(frozen=True)
class Survey:
    """Where in one block a mask is True, and where it is False.

    Attributes
    ----------
    inside, outside : Window or None
        The smallest boxes in the volume that hold the voxels; None if there is none.
    """

    inside: Window | None
    outside: Window | None

    @classmethod
    def of(cls, mask: np.ndarray, window: Window) -> "Survey":
        """Survey the mask of one block.

        Examples
        --------
        >>> Survey.of(np.array([[0, 1, 1]], bool), Window((0, 4), (1, 7)))
        ... # doctest: +NORMALIZE_WHITESPACE
        Survey(inside=Window(start=(0, 5), stop=(1, 7)),
               outside=Window(start=(0, 4), stop=(1, 5)))
        """
        return cls(_box(mask, window.start), _box(~mask, window.start))


def block_distance_levels(
    read: Callable[[Window], np.ndarray],
    window: Window,
    shape: Sequence[int],
    *,
    surveys: Sequence[Survey],
    halo: int,
    beyond: bool = False,
    spacing: tuple[float, ...] | None = None,
) -> np.ndarray:
    """Return `gigaseg.watershed.distance_levels` of the whole volume within one window.

    Parameters
    ----------
    read : callable
        Returns the foreground of any window within the volume as an array of bool. Called for
        the window with its halo, and if need be for boxes of `surveys`, one at a time.
    window : Window
        Any box within the volume.
    shape : sequence of int
        Of the volume: of one plane, if each plane is a problem of its own.
    surveys : sequence of Survey
        Of blocks that together cover the volume.
    halo : int
        Voxels to read around the window along each axis, in units of the finest axis. Changes no
        value; with a halo no smaller than most distances, most blocks need no more.
    beyond, spacing
        As for `distance_levels`.

    Returns
    -------
    ndarray of int32 or int64, shape of the window

    Examples
    --------
    >>> mask = np.array([[0, 1, 1, 1, 1, 1, 1, 0]], bool)
    >>> window, whole = Window((0, 3), (1, 5)), Window.whole(mask.shape)
    >>> block_distance_levels(lambda box: mask[box.slices], window, mask.shape,
    ...                       surveys=[Survey.of(mask, whole)], halo=1).tolist()
    [[-9, -9]]
    """
    steps = steps_of(shape, spacing)
    around = tuple(-(-halo * min(steps) // step) for step in steps)
    near = window.expand(around).clip(shape)
    foreground = read(near)
    view = _View(window, near, tuple(shape), steps)
    outside = [survey.outside for survey in surveys if survey.outside is not None]
    inside = [survey.inside for survey in surveys if survey.inside is not None]
    if not outside:
        return np.full(window.shape, -1, np.int32)
    levels = -view.squares(~foreground, outside, lambda box: ~read(box))
    if beyond and inside:
        here = ~foreground[window.within(near).slices]
        rising = view.squares(foreground, inside, read)
        levels = np.where(here, rising, levels)
    return narrowed(levels)


@dataclass(frozen=True)
class _View:
    """A window of a volume, and the larger one that is read for it."""

    window: Window
    near: Window
    shape: tuple[int, ...]
    steps: tuple[int, ...]

    def squares(
        self, sites: np.ndarray, boxes: Sequence[Window], read: Callable[[Window], np.ndarray]
    ) -> np.ndarray:
        """Return the squared distance of the window's voxels to sites in `near` or `boxes`."""
        squares = squared_distance(sites, tuple(map(float, self.steps)))
        squares = squares[self.window.within(self.near).slices]
        certain = self._certain()
        if squares.max(initial=0) <= min(line.min(initial=FAR) for line in certain):
            return squares
        squares = squares.astype(np.int64)
        box = _box(squares > reduce(np.minimum, certain), self.window.start)
        if box is None:
            return squares
        part = squares[box.within(self.window).slices]
        for bound, other in sorted(((self._gap(box, o), o) for o in boxes), key=lambda x: x[0]):
            furthest = int(part.max())
            if bound >= furthest:
                break
            if furthest < FAR:
                reach = isqrt(furthest)
                other = _overlap(other, box.expand(tuple(reach // step for step in self.steps)))
            if _overlap(other, self.near) != other:  # not seen yet
                offset = tuple(a - b for a, b in zip(box.start, other.start, strict=True))
                found = squared_distance_between(read(other), offset, box.shape, self.steps)
                np.minimum(part, found, out=part)
        return squares

    def _certain(self) -> list[np.ndarray]:
        """Return the squared distance to what `near` does not show, along each axis."""
        lines = []
        for axis, (extent, step) in enumerate(zip(self.shape, self.steps, strict=True)):
            line = np.arange(self.window.start[axis], self.window.stop[axis])
            low, high = self.near.start[axis], self.near.stop[axis]
            squares = np.full(line.size, FAR)
            if low > 0:
                squares = np.minimum(squares, ((line - low + 1) * step) ** 2)
            if high < extent:
                squares = np.minimum(squares, ((high - line) * step) ** 2)
            lines.append(squares.reshape((-1,) + (1,) * (len(self.shape) - axis - 1)))
        return lines

    def _gap(self, one: Window, other: Window) -> int:
        """Return the squared distance of two boxes."""
        ends = zip(one.start, one.stop, other.start, other.stop, self.steps, strict=True)
        return sum((max(0, a - d + 1, c - b + 1) * step) ** 2 for a, b, c, d, step in ends)


def _box(marked: np.ndarray, start: Sequence[int]) -> Window | None:
    """Return the smallest box of marked voxels, in an array that begins at `start`."""
    begin, end = [], []
    for axis in range(marked.ndim):
        line = np.flatnonzero(marked.any(axis=tuple(a for a in range(marked.ndim) if a != axis)))
        if line.size == 0:
            return None
        begin.append(int(line[0]))
        end.append(int(line[-1]) + 1)
    return Window(tuple(begin), tuple(end)).shift(tuple(start))


def _overlap(one: Window, other: Window) -> Window:
    """Return what two boxes share; they do."""
    return Window(
        tuple(max(a, b) for a, b in zip(one.start, other.start, strict=True)),
        tuple(min(a, b) for a, b in zip(one.stop, other.stop, strict=True)),
    )
