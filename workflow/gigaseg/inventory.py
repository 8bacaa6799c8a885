"""What a finished target holds: voxels of each kind, cross sections of objects, what vanished.

Everything is counted in one pass over the blocks. Beside the block, memory follows the objects: 24
to 48 bytes for each that a slab of blocks shows, and 24 for each of the volume; twice that while
tables are merged.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from math import pi, sqrt
from typing import Any

import numpy as np

from .geometry import Window, blocks
from .labels import Contingency, contingency
from .tally import CODES, KINDS, count_chunks
from .weights import BOUNDARY, IGNORED, INTERIOR


def take_inventory(
    labels: Any, target: Any, separation: Any, *, chunk: Sequence[int], block: Sequence[int]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Count what a finished target holds, block by block.

    Parameters
    ----------
    labels : array-like of int, shape (z, y, x)
        The truth; 0 is background.
    target, separation : array-like, shape (z, y, x)
        What became of it, as stored: see `gigaseg.weights`.
    chunk, block : sequence of int
        Extents z, y, x of what is tallied by itself, and of what is read at once: whole chunks.

    Returns
    -------
    tally : ndarray of uint32, shape (KINDS, chunks along z, y, x)
        See `gigaseg.tally.count_chunks`.
    summary : dict
        ``counts``: voxels of background, interior, boundary, ridge; ``ignored``: voxels that were
        not annotated; ``vanished``: sorted ids of instances that are ridge and nothing else;
        ``cross_sections``: the number (``count``) of objects in planes, each plane by itself, and
        the median ``diameter`` of circles of their area, in px, 0 if there are none.

    Examples
    --------
    >>> labels, target = np.array([[[0, 7, 4, 4]]]), np.array([[[0, 3, 3, 1]]], np.uint8)
    >>> weights = np.zeros((1, 1, 4), np.float32)
    >>> tally, found = take_inventory(labels, target, weights, chunk=(1, 4, 4), block=(1, 4, 4))
    >>> tally.ravel()
    array([1, 1, 0, 2, 0], dtype=uint32)
    >>> found["counts"], found["ignored"], found["vanished"]
    ([1, 1, 0, 2], 0, [7])
    >>> found["cross_sections"]
    {'count': 2, 'diameter': 1.38...}
    """
    grid = [-(-n // c) for n, c in zip(target.shape, chunk, strict=True)]
    tally = np.zeros((KINDS, *grid), np.uint32)
    areas: Counter[int] = Counter()  # how many cross sections have so many pixels

    def count(window: Window) -> Contingency:
        arrays = (np.asarray(array[window.slices]) for array in (labels, target, separation))
        ids, codes, weights = arrays
        edges = zip(window.start, window.stop, chunk, strict=True)
        where = tuple(slice(a // c, -(-b // c)) for a, b, c in edges)
        tally[:, *where] = count_chunks(codes, weights, chunk)
        return _pixels(ids, codes)

    def slabs() -> Iterator[Contingency]:
        for _, windows in groupby(blocks(target.shape, block), lambda window: window.start[0]):
            table = Contingency.total(map(count, windows))
            areas.update(_areas(table))
            yield _instances(table)

    instances = Contingency.total(slabs())
    counts = tally[:CODES].sum(axis=(1, 2, 3), dtype=np.int64)
    return tally, {
        "counts": counts.tolist(),
        "ignored": int(np.prod(target.shape, dtype=np.int64) - counts.sum()),
        "vanished": _vanished(instances),
        "cross_sections": _diameters(areas),
    }


def _pixels(ids: np.ndarray, codes: np.ndarray) -> Contingency:
    """Count the pixels of each instance by plane, and by whether they are learned (1) or not (0).

    Segments of the table are twice the plane, counted from the block's first, plus that.
    """
    learned = (codes == INTERIOR) | (codes == BOUNDARY)
    planes = 2 * np.arange(len(ids), dtype=np.uint32)[:, None, None]
    table = contingency(np.where(codes == IGNORED, ids.dtype.type(0), ids), planes + learned)
    return table.where(table.truth != 0)


def _areas(table: Contingency) -> Mapping[int, int]:
    """Return how many cross sections have so many pixels."""
    if not table.voxels.size:
        return {}
    plane = table.segment // np.uint64(2)
    new = (np.diff(table.truth) != 0) | (np.diff(plane) != 0)
    sums = np.add.reduceat(table.voxels, np.flatnonzero(np.append(True, new)))
    sizes, times = np.unique(sums, return_counts=True)
    return dict(zip(sizes.tolist(), times.tolist(), strict=True))


def _instances(table: Contingency) -> Contingency:
    """Reduce a slab to its instances, each with segment 1 if something of it is learned, else 0."""
    first = np.flatnonzero(np.append(True, np.diff(table.truth) != 0)[: table.truth.size])
    learned = table.segment % np.uint64(2)
    if first.size:
        learned = np.maximum.reduceat(learned, first)
    return Contingency(table.truth[first], learned, np.ones(first.size, np.int64))


def _vanished(instances: Contingency) -> list[int]:
    learned = instances.truth[instances.segment == 1]
    vanished: list[int] = np.setdiff1d(instances.truth, learned).tolist()
    return vanished


def _diameters(areas: Mapping[int, int]) -> dict[str, int | float]:
    """Return the number of areas, and the median diameter of circles that have them."""
    if not areas:
        return {"count": 0, "diameter": 0.0}
    sizes = sorted(areas)
    reached = np.cumsum([areas[size] for size in sizes])
    count = int(reached[-1])
    low, high = (
        sizes[np.searchsorted(reached, k, "right")] for k in ((count - 1) // 2, count // 2)
    )
    return {"count": count, "diameter": 2 * sqrt((low + high) / 2 / pi)}
