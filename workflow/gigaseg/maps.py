"""Boundary maps of any size against their truth: what the metrics of the ISBI 2012 family count.

Truth and probability may be stores: they are read in bands of rows (`gigaseg.bands`) and, for the
order in which pixels are warped, in stripes of columns. What is held of a whole plane are bit maps,
and a few numbers per column and band. Counts are those of the functions of arrays in
`gigaseg.warping`, `gigaseg.thinning` and `gigaseg.matching`, whatever the bands.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .bands import Band, Ids, LabelledBands, cut_bands
from .labels import Contingency, boundary_truth, contingency
from .matching import PixelCounts
from .offsets import REACH, OffsetCounts, count_offset
from .relaxation import BitMap, Waiting, by_columns
from .thinning import HALO, thin_bands
from .warping import Kinds, WarpingCounts, classify, count_kinds

PIECE = 2**21  # px that are read at a time, unless the plane is so wide that a chunk is more
CHUNK = 256  # px; rows and columns are multiples of this, the usual chunk of a store


def step_of(threshold: float) -> int:
    """Return the highest stored probability, round(255 p), that does not exceed a threshold.

    Examples
    --------
    >>> step_of(0.2), step_of(0.5)
    (51, 127)
    """
    # In whole numbers: 51/255 > 0.2 holds in float32 and not in float64.
    return math.floor(255 * threshold + 1e-9)


@dataclass(frozen=True, eq=False)
class BoundaryMap:
    """A plane of probabilities and its truth.

    Attributes
    ----------
    truth : array-like of int, shape (y, x)
        Instance ids. The truth of the map is `gigaseg.labels.boundary_truth`: instances without
        the ridge between those that touch, so that its components are the instances.
    probability : array-like of uint8, shape (y, x)
        round(255 p) of being inside a cell. Both need ``shape`` and slices of rows and columns.
    rows, columns : int, optional
        What is read at a time; `columns` is a multiple of 8. They change no value. None: about
        `PIECE` pixels.
    ignored : int, optional
        Id of the pixels whose truth is not known. They are no mismatches, are not warped, and for
        V-Rand and V-Info are background of the truth and of the map, so that what is predicted
        there changes nothing. (All pixels are shares of the plane, as for the mask of
        `gigaseg.warping.warping_counts`.)
    folder : Path, optional
        Where a file may lie while pixels are warped: see `gigaseg.relaxation.Waiting`.
    """

    truth: Any
    probability: Any
    rows: int | None = None
    columns: int | None = None
    folder: Path | None = None
    ignored: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Extent along y and x."""
        height, width = self.truth.shape
        return height, width

    def bands(self, halo: int) -> list[Band]:
        """Cut the plane into bands."""
        return cut_bands(self.shape[0], self.rows or _extent(self.shape[1]), halo)

    @cached_property
    def cells(self) -> BitMap:
        """The truth of the map."""
        plane = BitMap.zeros(self.shape)
        for band in self.bands(1):
            labels = np.asarray(self.truth[band.top : band.bottom, :])
            if self.ignored is not None:
                labels = np.where(labels == self.ignored, 0, labels)
            plane.write(band.start, boundary_truth(labels)[band.own])
        return plane

    @cached_property
    def known(self) -> BitMap | None:
        """Where the truth is known; None for everywhere."""
        if self.ignored is None:
            return None
        plane = BitMap.zeros(self.shape)
        for band in self.bands(0):
            labels = np.asarray(self.truth[band.start : band.stop, :])
            plane.write(band.start, labels != self.ignored)
        return plane

    @cached_property
    def histogram(self) -> npt.NDArray[np.int64]:
        """Known pixels by truth (0, 1) and stored probability, shape (2, 256)."""
        total = np.zeros(512, np.int64)
        for band in self.bands(0):
            cells = self.cells.rows(band.start, band.stop)
            keys = self._read(band.start, band.stop) + cells * np.uint16(256)
            keys = keys if self.known is None else keys[self.known.rows(band.start, band.stop)]
            total += np.bincount(keys.ravel(), minlength=512)
        return total.reshape(2, 256)

    def pixels(self, threshold: float) -> PixelCounts:
        """Count agreeing and differing pixels."""
        step = step_of(threshold)
        (tn, fp), (fn, tp) = (
            (int(counts[: step + 1].sum()), int(counts[step + 1 :].sum()))
            for counts in self.histogram
        )
        return PixelCounts(tp, fp, fn, tn)

    def offset(self) -> OffsetCounts:
        """Count what the offset of the truth from the map needs; no threshold is involved."""
        total = OffsetCounts()
        for band in self.bands(REACH):
            near = band.top, band.bottom
            known = None if self.known is None else self.known.rows(*near)
            values, own = self._read(*near), band.own
            total += count_offset(
                self.cells.rows(*near), values, known, start=own.start, stop=own.stop
            )
        return total

    def thinned(self, threshold: float) -> Contingency:
        """Count the pixels per true cell and cell of the map after `gigaseg.thinning.thin`."""
        step = step_of(threshold)
        bands = self.bands(HALO)

        def cells(start: int, stop: int) -> npt.NDArray[np.bool_]:
            # What is not known is background of the map, too: cells that meet there are not merged.
            found = self._read(start, stop) > step
            return found if self.known is None else found & self.known.rows(start, stop)

        parts = thin_bands(bands, self.shape, cells)
        return Contingency.total(
            contingency(self._true_cells(band), labels) for band, labels in parts
        )

    def warping(self, threshold: float, radius: int) -> WarpingCounts:
        """Warp the truth as `gigaseg.warping.warping_counts` does, and count what still differs.

        Pixels of high confidence |p - threshold| are warped first.
        """
        step, ranks = step_of(threshold), _ranks(threshold)
        differing = np.concatenate([self.histogram[1, : step + 1], self.histogram[0, step + 1 :]])
        counts = np.zeros(int(ranks.max()) + 1, np.int64)
        np.add.at(counts, ranks, differing)
        plane = self.cells.copy()
        with Waiting(plane, counts, self.folder) as waiting:
            for start, stop in self._stripes():
                values = np.asarray(self._values[:, start:stop])
                differing = self.cells.differing(start, values > step)
                if self.known is not None:  # its bits are what differs from nothing
                    differing &= self.known.differing(start, np.zeros(values.shape, bool))
                places = by_columns(plane, differing, first=start)
                y, x = plane.where(places)
                waiting.add(places, ranks[values[y, x - start]])
            waiting.relax()
        height, width = self.shape
        return count_kinds(self._kinds(plane, step, radius), height * width)

    def _kinds(self, warped: BitMap, step: int, radius: int) -> Iterator[Kinds]:
        """Yield the kinds of the mismatches that are left."""
        height, _ = self.shape
        bands = self.bands(radius if radius >= 1 else height)
        labels = LabelledBands(bands, warped.rows)
        for band in bands:
            differ = warped.rows(band.start, band.stop) != (
                self._read(band.start, band.stop) > step
            )
            if self.known is not None:
                differ &= self.known.rows(band.start, band.stop)
            if differ.any():
                y, x = np.nonzero(differ)
                yield classify(labels.locally(band), y + band.own.start, x, radius)

    def _true_cells(self, band: Band) -> Ids:
        return self._true_labels.ids(band)[band.own]

    @cached_property
    def _true_labels(self) -> LabelledBands:
        return LabelledBands(self.bands(HALO), self.cells.rows)

    @cached_property
    def _values(self) -> Any:
        """The probabilities: in memory if that is one band, else where they are."""
        one = len(self.bands(0)) <= 1
        return np.asarray(self.probability[:, :]) if one else self.probability

    def _read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        return np.asarray(self._values[start:stop, :])

    def _stripes(self) -> Iterator[tuple[int, int]]:
        height, width = self.shape
        columns = self.columns or _extent(height)
        return ((a, min(width, a + columns)) for a in range(0, width, columns))


def _extent(across: int) -> int:
    """Return how many rows of this many pixels are read at a time (or columns)."""
    return max(CHUNK, PIECE // max(1, across) // CHUNK * CHUNK)


def _ranks(threshold: float) -> npt.NDArray[np.uint8]:
    """Return, per stored probability, its place in the order of falling confidence."""
    probability = np.arange(256).astype(np.float32) / np.float32(255)
    confidence = np.abs(probability - np.float32(threshold))
    return np.unique(-confidence, return_inverse=True)[1].astype(np.uint8)
