"""Planes too large to be held, as bands: whole rows, with a halo of rows above and below.

What is connected in the plane is known from the bands, because those that follow each other
overlap: `join_bands` gives what several bands label differently one id.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from gigaseg.forest import join_pairs
from gigaseg.labels import BoolArray, LabelArray, components, contingency

Ids = npt.NDArray[np.signedinteger]


@dataclass(frozen=True)
class Band:
    """Some rows of a plane, and those around them.

    Attributes
    ----------
    start, stop : int
        The band's own rows.
    top, bottom : int
        The rows that are read: up to a halo more on both sides.
    """

    start: int
    stop: int
    top: int
    bottom: int

    @property
    def own(self) -> slice:
        """Where the band's own rows are among those that are read."""
        return slice(self.start - self.top, self.stop - self.top)


def cut_bands(height: int, rows: int, halo: int) -> list[Band]:
    """Cut a plane of `height` rows into bands of `rows` rows; the last one may be smaller.

    Examples
    --------
    >>> [(band.top, band.start, band.stop, band.bottom) for band in cut_bands(5, 3, 1)]
    [(0, 0, 3, 4), (2, 3, 5, 5)]
    """
    return [
        Band(a, b, max(0, a - halo), min(height, b + halo))
        for a in range(0, height, rows)
        for b in [min(height, a + rows)]
    ]


def join_bands(bands: Sequence[Band], labels: Iterable[LabelArray]) -> list[Ids]:
    """Give the components of a plane one id each, from the labels of its bands.

    Parameters
    ----------
    bands : sequence of Band
        Of one plane, from top to bottom, with a halo of at least one row.
    labels : iterable of ndarray of int, shape (rows read, x)
        4-connected components 1, 2, ... of each band, as `gigaseg.labels.components` returns them;
        one band after the other is looked at.

    Returns
    -------
    list of ndarray of int32 or int64, shape (1 + components of the band,)
        Per band: the id of each label; positive, and 0 for 0. All have one type, int32 if it does.

    Examples
    --------
    >>> plane = np.array([[1, 0, 1], [1, 0, 1], [1, 1, 1]])
    >>> bands = cut_bands(3, 1, 1)
    >>> tables = join_bands(bands, (components(plane[b.top : b.bottom]) for b in bands))
    >>> [table.tolist() for table in tables]
    [[0, 1, 1], [0, 1], [0, 1]]
    """
    bases, pairs = [0], [np.empty((2, 0), np.int64)]
    before = None
    for band, found in zip(bands, labels, strict=True):
        if before is not None:
            other, known = before
            both = contingency(known[band.top - other.top :], found[: other.bottom - band.top])
            both = both.where((both.truth > 0) & (both.segment > 0))
            sides = both.truth + np.uint64(bases[-2]), both.segment + np.uint64(bases[-1])
            pairs.append(np.stack(sides).astype(np.int64) - 1)
        bases.append(bases[-1] + int(found.max(initial=0)))
        before = band, found
    ids = join_pairs(bases[-1], np.concatenate(pairs, axis=1)) + 1
    ids = np.append(0, ids).astype(np.int32 if bases[-1] < 2**31 else np.int64)
    return [np.append(ids[:1], ids[a + 1 : b + 1]) for a, b in pairwise(bases)]


class LabelledBands:
    """The 4-connected components of a plane, band by band.

    Parameters
    ----------
    bands : sequence of Band
        Of the plane, with a halo of at least one row if they are several.
    read : callable
        ``read(start, stop)`` returns rows of the map, bool, shape (stop - start, x).

    Examples
    --------
    >>> plane = np.array([[1, 0, 1], [1, 0, 1], [1, 1, 1]], bool)
    >>> bands = cut_bands(3, 1, 1)
    >>> labels = LabelledBands(bands, lambda start, stop: plane[start:stop])
    >>> labels.ids(bands[0]).tolist()
    [[1, 0, 1], [1, 0, 1]]
    """

    def __init__(self, bands: Sequence[Band], read: Callable[[int, int], BoolArray]) -> None:
        self._read = read
        self._last: tuple[Band, npt.NDArray[np.uint32]] | None = None  # all there is of one band
        self._tables = dict(zip(bands, join_bands(bands, map(self.components, bands)), strict=True))

    def components(self, band: Band) -> npt.NDArray[np.uint32]:
        """Return the components of a band by itself."""
        last = self._last
        if last is None or last[0] != band:
            self._last = last = band, components(self._read(band.top, band.bottom))
        return last[1]

    def ids(self, band: Band) -> Ids:
        """Return the plane's ids in the rows that are read of a band."""
        return self._tables[band][self.components(band)]

    def locally(self, band: Band) -> npt.NDArray[np.int32]:
        """Return what `ids` does, numbered 1, 2, ... for this band."""
        numbers = np.unique(self._tables[band], return_inverse=True)[1].astype(np.int32)
        return numbers[self.components(band)]
