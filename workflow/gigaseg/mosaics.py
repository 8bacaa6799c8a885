"""Planes of any size made of a few fields: what is not read takes no memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from .geometry import Window


@dataclass(frozen=True)
class Mosaic:
    """A plane of turned and flipped square fields, put together where it is read.

    Parameters
    ----------
    shape : tuple of int
        (1, y, x) in px.
    fields : sequence of ndarray, shape (side, side)
        The distinct fields.
    layout : ndarray of int, shape (rows, columns, 2)
        For each place the number of its field and which of the eight symmetries it is shown in.
    offsets : ndarray of int, shape (rows, columns), optional
        Added to the values of each place but 0: makes ids unique over the plane.

    Examples
    --------
    >>> fields, layout = [np.array([[0, 1], [2, 3]])], np.zeros((1, 2, 2), int)
    >>> Mosaic((1, 2, 3), fields, layout, np.array([[0, 10]]))[0, :, 1:]
    array([[ 1,  0], [ 3, 12]])
    """

    shape: tuple[int, int, int]
    fields: Sequence[np.ndarray]
    layout: np.ndarray
    offsets: np.ndarray | None = None

    @property
    def dtype(self) -> np.dtype:
        """Data type of what is read."""
        return (self.fields[0] if self.offsets is None else self.offsets).dtype

    def __getitem__(self, index: tuple[int, slice, slice]) -> np.ndarray:
        """Read a window, given as (0, rows, columns) in steps of 1."""
        parts = [part.indices(n) for part, n in zip(index[1:], self.shape[1:], strict=True)]
        wanted = Window(tuple(part[0] for part in parts), tuple(part[1] for part in parts))
        values = np.empty(wanted.shape, self.dtype)
        side = len(self.fields[0])
        touched = (range(a // side, -(-b // side)) for a, b, _ in parts)
        for row, column in product(*touched):
            field = Window((0, 0), (side, side)).shift((row * side, column * side))
            inner = field.within(wanted).clip(wanted.shape)
            part = inner.shift(wanted.start).within(field)
            values[inner.slices] = self._show(row, column, part)
        return values

    def _show(self, row: int, column: int, part: Window) -> np.ndarray:
        number, symmetry = self.layout[row, column]
        field = np.rot90(self.fields[number], symmetry % 4)
        values = (field.T if symmetry >= 4 else field)[part.slices]
        if self.offsets is None:
            return values
        return np.where(values == 0, 0, values + self.offsets[row, column])
