"""Count what evaluation needs of a sample, in one pass over truth, probabilities and instances.

Volumes are read piece by piece, so memory grows with the number of objects only. No count depends
on the pieces or on the number of threads.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from math import prod
from typing import Any

import numpy as np

from .calibration import CalibrationCounts, count_calibration
from .geometry import Window, blocks
from .labels import Contingency, Objects, contingency
from .measures import MEASURES, Joining, Measured, Spectrum, add_spectra, measure
from .pace import Pace
from .volumes import Volume

PIECE = 2048  # px; what a thread reads at a time, 16 MB of truth and of instances
SIDES = ("truth", "predicted")


def _no_spectra() -> dict[tuple[str, str], Spectrum]:
    return {(side, name): {} for side in SIDES for name in MEASURES}


@dataclass(frozen=True)
class Census:
    """Counts of probabilities and objects that add up over problems.

    Attributes
    ----------
    calibration : CalibrationCounts
    spectra : mapping of (side, measure) to spectrum
        For each of `SIDES` and `gigaseg.measures.MEASURES`: how many objects have each value.
    """

    calibration: CalibrationCounts = field(default_factory=CalibrationCounts)
    spectra: Mapping[tuple[str, str], Spectrum] = field(default_factory=_no_spectra)

    def __add__(self, other: "Census") -> "Census":
        return Census(
            self.calibration + other.calibration,
            {key: add_spectra([own, other.spectra[key]]) for key, own in self.spectra.items()},
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the spectra as rows of a table: side, measure, value, objects."""
        for (side, name), spectrum in self.spectra.items():
            for value, objects in spectrum.items():
                yield {"side": side, "measure": name, "value": value, "objects": objects}


@dataclass(frozen=True)
class _Part:
    """What was counted in one piece, or in several of one problem."""

    pairs: Contingency
    calibration: CalibrationCounts
    sides: tuple[Measured, Measured]


def count_problems(
    truth: Volume, probability: Volume, segments: Volume, objects: Objects, *, workers: int = 1
) -> Iterator[tuple[Contingency, Census]]:
    """Count the pairs of objects, and take the census, of each plane or of the volume.

    Parameters
    ----------
    truth, probability, segments : Volume
        Of the same extent. Voxels whose truth is not known (its attribute ``ignored`` is their id)
        have no part in the calibration and belong to no true object; in the contingency table
        their id stands as it is. The sum of all channels of
        `probability` is that of being no background: with one channel, the ridge between touching
        instances was taught as background; with two (interior, boundary) it was not.
    objects : {"plane", "volume"}
        What a problem is: each plane, or the volume, in which an id means one object.
    workers : int
        Pieces counted at once, in threads.

    Yields
    ------
    pairs : Contingency
        Of truth and segments; about 220 bytes per object.
    census : Census
    """
    ignored = truth.attributes.get("ignored")

    def count(window: Window) -> _Part:
        near = window.expand((objects == "volume", 1, 1)).clip(truth.shape)
        inner = window.within(near)
        stored = np.asarray(truth.array[near.slices])
        found = np.asarray(segments.array[window.slices])
        values = _foreground(probability, window)
        pairs = contingency(stored[inner.slices], found)
        unknown = np.zeros(stored.shape, bool) if ignored is None else stored == ignored
        labels = np.where(unknown, stored.dtype.type(0), stored)
        ridge = probability.channels == 1
        counts = count_calibration(labels, values, start=inner.start, ridge=ridge, objects=objects)
        return _Part(
            pairs,
            counts.without(values[unknown[inner.slices]]),
            (
                measure(labels[inner.slices], start=window.start),
                measure(found, start=window.start),
            ),
        )

    # Whole chunks: those are decoded as a whole.
    sides = [-(-PIECE // chunk) * chunk for chunk in truth.array.chunks[-2:]]
    pieces = list(blocks(truth.shape, (1, *sides)))
    planes = (list(group) for _, group in groupby(pieces, lambda window: window.start[0]))
    pace = Pace(f"{truth.name}, instances", len(pieces), "pieces", voxels=prod(truth.shape))

    def told(problem: Sequence[Window]) -> Iterator[_Part]:
        for window, part in zip(problem, pool.map(count, problem), strict=True):
            pace.advance(voxels=prod(window.shape))
            yield part

    with ThreadPoolExecutor(workers) as pool:
        for problem in planes if objects == "plane" else [pieces]:
            yield _summarise(told(problem))


def _foreground(probability: Volume, window: Window) -> np.ndarray:
    """Read round(255 p) of being no background."""
    if probability.axes[0] != "c":
        return np.asarray(probability.array[window.slices])
    every = np.asarray(probability.array[(slice(None), *window.slices)])
    if len(every) == 1:
        return every[0]
    # Two values rounded up may exceed 255 together.
    return np.minimum(every.sum(axis=0, dtype=np.uint16), 255).astype(np.uint8)


def _summarise(parts: Iterable[_Part]) -> tuple[Contingency, Census]:
    """Add up the parts of one problem."""
    calibration, sides = CalibrationCounts(), (Joining(), Joining())

    def tables() -> Iterator[Contingency]:
        nonlocal calibration
        for part in parts:
            calibration += part.calibration
            for side, measured in zip(sides, part.sides, strict=True):
                side.add(measured)
            yield part.pairs

    pairs = Contingency.total(tables())
    spectra = {
        (name, measure): spectrum
        for name, side in zip(SIDES, sides, strict=True)
        for measure, spectrum in side.total().spectra().items()
    }
    return pairs, Census(calibration, spectra)
