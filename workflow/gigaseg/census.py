"""Count what the report needs of a sample, in one pass over truth, probabilities and instances.

Volumes are read piece by piece, so memory grows with the number of objects only. No count depends
on the pieces or on the number of threads.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from .calibration import CalibrationCounts, count_calibration
from .geometry import Window, blocks
from .measures import MEASURES, Joining, Measured, Spectrum, add_spectra, measure
from .volumes import Volume

PIECE = 2048  # px; what a thread reads at a time
SIDES = ("truth", "predicted")


@dataclass(frozen=True)
class Census:
    """What was counted of one sample.

    Attributes
    ----------
    calibration : CalibrationCounts
    spectra : dict of (side, measure) to spectrum
        For each of `SIDES` and `gigaseg.measures.MEASURES`: how many objects have each value.
    """

    calibration: CalibrationCounts
    spectra: dict[tuple[str, str], Spectrum]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the spectra as rows of a table: side, measure, value, objects."""
        for (side, name), spectrum in self.spectra.items():
            for value, objects in spectrum.items():
                yield {"side": side, "measure": name, "value": value, "objects": objects}


@dataclass(frozen=True)
class _Part:
    """What was counted in one piece."""

    calibration: CalibrationCounts
    sides: tuple[Measured, Measured]


def take_census(
    truth: Volume, probability: Volume, segments: Volume, objects: Any, *, workers: int = 1
) -> Census:
    """Count probabilities by truth, and true and predicted objects by size and shape.

    Parameters
    ----------
    truth, probability, segments : Volume
        Of the same extent. Voxels whose truth is not known (its attribute ``ignored`` is their id)
        have no part in the calibration and belong to no true object. The sum of all channels of
        `probability` is that of being no background: with one channel, the ridge between touching
        instances was taught as background; with two (interior, boundary) it was not.
    objects : {"plane", "volume"}
        Whether an id means the same object in every plane.
    workers : int
        Pieces counted at once, in threads.
    """

    ignored = truth.attributes.get("ignored")

    def count(window: Window) -> _Part:
        near = window.expand((objects == "volume", 1, 1)).clip(truth.shape)
        labels = np.asarray(truth.array[near.slices])
        unknown = np.zeros(labels.shape, bool) if ignored is None else labels == ignored
        labels = np.where(unknown, labels.dtype.type(0), labels)
        inner = window.within(near)
        values = _foreground(probability, window)
        ridge = probability.channels == 1
        counts = count_calibration(labels, values, start=inner.start, ridge=ridge, objects=objects)
        return _Part(
            counts.without(values[unknown[inner.slices]]),
            (
                measure(labels[inner.slices], start=window.start),
                measure(np.asarray(segments.array[window.slices]), start=window.start),
            ),
        )

    sides = [-(-PIECE // chunk) * chunk for chunk in truth.array.chunks[-2:]]
    pieces = blocks(truth.shape, (1, *sides))
    planes = (list(group) for _, group in groupby(pieces, lambda window: window.start[0]))
    with ThreadPoolExecutor(workers) as pool:
        parts = (_join(pool.map(count, plane)) for plane in planes)
        return _sum(parts if objects == "plane" else [_join(parts)])


def _foreground(probability: Volume, window: Window) -> np.ndarray:
    """Read round(255 p) of being no background."""
    if probability.axes[0] != "c":
        return np.asarray(probability.array[window.slices])
    every = np.asarray(probability.array[(slice(None), *window.slices)])
    if len(every) == 1:
        return every[0]
    # Two values rounded up may exceed 255 together.
    return np.minimum(every.sum(axis=0, dtype=np.uint16), 255).astype(np.uint8)


def _join(parts: Iterable[_Part]) -> _Part:
    """Add up the parts of one problem."""
    calibration, sides = CalibrationCounts(), (Joining(), Joining())
    for part in parts:
        calibration += part.calibration
        for side, measured in zip(sides, part.sides, strict=True):
            side.add(measured)
    return _Part(calibration, (sides[0].total(), sides[1].total()))


def _sum(problems: Iterable[_Part]) -> Census:
    calibration = CalibrationCounts()
    spectra: dict[tuple[str, str], Spectrum] = {(s, m): {} for s in SIDES for m in MEASURES}
    for part in problems:
        calibration += part.calibration
        for side, measured in zip(SIDES, part.sides, strict=True):
            for name, spectrum in measured.spectra().items():
                spectra[side, name] = add_spectra([spectra[side, name], spectrum])
    return Census(calibration, spectra)
