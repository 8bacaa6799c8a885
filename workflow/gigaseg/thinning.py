"""Thinning of boundary maps: cells grow until one-pixel dams are left between them.

The ISBI 2012 challenge floods the boundaries breadth first from a queue before V_Rand and V_Info
(`gigaseg.rand`), so that thick boundaries are not punished [1]_. Which pixel becomes a dam depends
on the order in the queue; but that order can be told without one:

* A boundary pixel at city-block distance d from the cells is taken in round d.
* The queue begins with the pixels of round 1, column by column. Every other pixel is queued by the
  earliest of its neighbours of the round before, so it comes from the earliest of the nearest
  pixels of round 1, its *source*; and pixels of different sources are taken in the order of these.
* Two neighbours of one round never have one source: ways from a pixel to two neighbours differ in
  length by an odd number.

With the key (d, source), a pixel's label therefore follows from its neighbours of lower key: that
of the one basin among them, or a dam if there is none or more than one. Keys are a distance
transform, exact column by column and then row by row. So a plane is flooded band by band: in each,
what depends on nothing unknown beyond it; what waits for a neighbouring band is done when that has
been there. Memory follows the band.

References
----------
.. [1] Arganda-Carreras et al. (2015), Front. Neuroanat. 9:142, doi 10.3389/fnana.2015.00142.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from numba import njit

from gigaseg.bands import Band, Ids, cut_bands, join_bands
from gigaseg.labels import BoolArray, components

HALO = 24  # rows; boundaries up to half as thick are flooded at the first visit of a band

_DAM, _UNKNOWN = 0, -1
_FAR = 2**62
_NONE = -1


def thin(cells: BoolArray) -> npt.NDArray[np.int32]:
    """Grow cells into the boundaries between them until one-pixel dams are left.

    Basins are the 4-connected components of the cells; boundary pixels are taken breadth first,
    starting with those beside a cell in column-major order. A pixel between two different basins
    becomes a dam, one beside a single basin joins it, one beside dams only becomes a dam (so dams
    may be thicker than one pixel).

    Parameters
    ----------
    cells : ndarray of bool, shape (y, x)
        True inside cells, False on boundaries. The truth is never thinned.

    Returns
    -------
    labels : ndarray of int32, shape (y, x)
        Basins 1, 2, …, dams 0. Without any cell the whole plane is one basin.

    Examples
    --------
    >>> thin(np.array([[1, 0, 0, 0, 1]], dtype=bool))
    array([[1, 1, 0, 2, 2]], dtype=int32)
    """
    labels = np.zeros(cells.shape, np.int32)
    bands = cut_bands(len(cells), max(1, len(cells)), HALO)
    for band, part in thin_bands(bands, cells.shape, lambda a, b: cells[a:b]):
        labels[band.start : band.stop] = part
    return labels


def thin_bands(
    bands: Sequence[Band], shape: tuple[int, int], read: Callable[[int, int], BoolArray]
) -> Iterator[tuple[Band, Ids]]:
    """Thin a plane band by band.

    Parameters
    ----------
    bands : sequence of Band
        Of the plane, with a halo of at least one row; the larger, the fewer bands are visited
        twice.
    shape : tuple of int
        Of the plane, y and x.
    read : callable
        ``read(start, stop)`` returns rows of the map of cells, bool, shape (stop - start, x).

    Yields
    ------
    Band, ndarray of int32 or int64, shape (own rows, x)
        The labels of `thin`, except that the ids of basins have gaps; bands in any order.
    """
    plane = _Plane(bands, shape, read)
    plane.survey()
    if not any(table.size > 1 for table in plane.tables):
        for band in bands:
            yield band, np.ones((band.stop - band.start, shape[1]), np.int32)
        return
    waiting = list(range(len(bands)))
    while waiting:
        left = []
        for i in waiting:
            labels = plane.visit(i)
            if (labels == _UNKNOWN).any():
                left.append(i)
            else:
                yield bands[i], labels
        waiting = left[::-1]  # what was learned in one direction is passed on in the other


@dataclass
class _Plane:
    """What bands have to know of each other.

    Attributes
    ----------
    tables : list of ndarray of int
        Per band, from `join_bands`, whose type all labels have.
    above, below : list of ndarray of int32, shape (x,)
        Per band and column: the row of the nearest source beyond the rows that are read, or _NONE.
    edges : ndarray of int, shape (bands, 2, x)
        Labels of the first and the last own row of each band, as far as they are known.
    """

    bands: Sequence[Band]
    shape: tuple[int, int]
    read: Callable[[int, int], BoolArray]
    tables: list[Ids] = field(default_factory=list)
    above: list[Ids] = field(default_factory=list)
    below: list[Ids] = field(default_factory=list)
    edges: Ids = field(default_factory=lambda: np.empty((0, 2, 0), np.int32))
    _labelled: tuple[int, npt.NDArray[np.uint32]] | None = None

    def survey(self) -> None:
        """Look at every band once."""
        none = np.full(self.shape[1], _NONE, np.int32)
        self.above, self.below = [none], []
        self.tables = join_bands(self.bands, map(self._survey, range(len(self.bands))))
        self.below.append(none)
        for i in range(len(self.bands) - 2, -1, -1):
            self.below[i] = np.where(self.below[i] == _NONE, self.below[i + 1], self.below[i])
        size = len(self.bands), 2, self.shape[1]
        self.edges = np.full(size, _UNKNOWN, np.result_type(np.int32, *self.tables))

    def _survey(self, i: int) -> npt.NDArray[np.uint32]:
        """Find a band's components, and the sources that other bands cannot see."""
        band, cells = self.bands[i], self._framed(i)
        sources = _sources(cells)
        if i > 0:
            seen = self.bands[i - 1].bottom - band.top
            first = _first(sources[seen:])
            self.below.append(np.where(first == _NONE, _NONE, band.top + seen + first))
        if i + 1 < len(self.bands):
            hidden = self.bands[i + 1].top - band.top
            last = _first(sources[:hidden][::-1])
            last = np.where(last == _NONE, self.above[i], band.top + hidden - 1 - last)
            self.above.append(last)
        self._labelled = i, components(cells[1:-1, 1:-1])
        return self._labelled[1]

    def visit(self, i: int) -> Ids:
        """Flood a band as far as it depends on what is known; return the labels of its own rows."""
        band, cells = self.bands[i], self._framed(i)
        if self._labelled is None or self._labelled[0] != i:
            self._labelled = i, components(cells[1:-1, 1:-1])
        table = self.tables[i].copy()
        labels = np.full(cells.shape, _DAM, table.dtype)
        known = labels[1:-1, 1:-1]
        table[0] = _UNKNOWN
        known[...] = table[self._labelled[1]]
        if i > 0:
            _learn(known[band.start - band.top - 1], self.edges[i - 1, 1])
        if i + 1 < len(self.bands):
            _learn(known[band.stop - band.top], self.edges[i + 1, 0])
        height = self.shape[0]
        keys = _keys(cells, _sources(cells), self.above[i], self.below[i], (band.top, height))
        _flood(labels, keys, band.top > 0, band.bottom < height)
        own = np.ascontiguousarray(known[band.own])
        self.edges[i] = own[[0, -1]]
        return own

    def _framed(self, i: int) -> BoolArray:
        """Read a band and one pixel around it; beyond the plane is no cell."""
        band, (height, width) = self.bands[i], self.shape
        top, bottom = max(0, band.top - 1), min(height, band.bottom + 1)
        framed = np.zeros((band.bottom - band.top + 2, width + 2), bool)
        first = top - band.top + 1
        framed[first : first + bottom - top, 1:-1] = self.read(top, bottom)
        return framed


def _learn(labels: Ids, edge: Ids) -> None:
    """Take over what is known of a row."""
    labels[edge != _UNKNOWN] = edge[edge != _UNKNOWN]


def _sources(cells: BoolArray) -> BoolArray:
    """Return the boundary pixels beside a cell; `cells` is framed, the result is not."""
    beside = cells[:-2, 1:-1] | cells[2:, 1:-1] | cells[1:-1, :-2] | cells[1:-1, 2:]
    return beside & ~cells[1:-1, 1:-1]


@njit(cache=True, nogil=True)
def _first(rows):
    """Return the first row that is True, per column; _NONE if none is."""
    found = np.full(rows.shape[1], _NONE, np.int32)
    left = found.size
    for y in range(rows.shape[0]):
        for x in range(found.size):
            if rows[y, x] and found[x] == _NONE:
                found[x] = y
                left -= 1
        if left == 0:
            break
    return found


@njit(cache=True, nogil=True)
def _keys(cells, sources, above, below, place):
    """Return d * pixels + place of the source, framed by _FAR; below 0 in cells.

    Nearest sources are sought along columns, then along rows; `place` is the first row's place in
    the plane and the plane's height.
    """
    rows, width = sources.shape
    top, height = place
    step = height * width
    keys = np.full((rows + 2, width + 2), _FAR)
    down, up = np.full(width, _FAR), np.full(width, _FAR)
    for x in range(width):
        if above[x] >= 0:
            down[x] = step * (top - above[x]) + x * height + above[x]
        if below[x] >= 0:
            up[x] = step * (below[x] - top - rows + 1) + x * height + below[x]
    for y in range(rows):
        for x in range(width):
            own = step + x * height + top + y
            down[x] = own if sources[y, x] else down[x] + step
            keys[y + 1, x + 1] = down[x]
    for y in range(rows - 1, -1, -1):
        for x in range(width):
            up[x] = keys[y + 1, x + 1] if sources[y, x] else up[x] + step
            keys[y + 1, x + 1] = min(keys[y + 1, x + 1], up[x])
        row = keys[y + 1]
        for x in range(2, width + 1):
            row[x] = min(row[x], row[x - 1] + step)
        for x in range(width - 1, 0, -1):
            row[x] = min(row[x], row[x + 1] + step)
        for x in range(1, width + 1):
            if cells[y + 1, x]:
                row[x] = -1
    return keys


@njit(cache=True, nogil=True)
def _flood(framed_labels, framed_keys, open_above, open_below):
    """Label in place what is _UNKNOWN and depends on nothing that stays so.

    Both arrays are framed. On the outermost rows nothing is decided where the plane goes on.
    """
    labels, keys = framed_labels.reshape(-1), framed_keys.reshape(-1)
    row = framed_labels.shape[1]
    neighbours = (-row, -1, 1, row)
    lacking = np.zeros(labels.size, np.uint8)
    stack = np.empty(np.sum(labels == _UNKNOWN), np.int64)
    end = 0
    for p in range(labels.size):
        if labels[p] == _UNKNOWN:
            for step in neighbours:
                lacking[p] += labels[p + step] == _UNKNOWN and keys[p + step] < keys[p]
            lacking[p] += open_above and p < 2 * row
            lacking[p] += open_below and p >= labels.size - 2 * row
            if lacking[p] == 0:
                stack[end] = p
                end += 1
    while end:
        end -= 1
        p = stack[end]
        basin, dam = _DAM, False
        for step in neighbours:
            q = p + step
            if keys[q] < keys[p]:
                if labels[q] != _DAM:
                    dam |= basin != _DAM and labels[q] != basin
                    basin = labels[q]
            elif labels[q] == _UNKNOWN:
                lacking[q] -= 1
                if lacking[q] == 0:
                    stack[end] = q
                    end += 1
        labels[p] = _DAM if dam else basin
