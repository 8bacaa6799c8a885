"""Planes of stores, read in pieces as arrays are sliced."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .labels import LabelArray
from .maps import BoundaryMap
from .volumes import Volume


@dataclass(frozen=True)
class Plane:
    """One plane of a volume, of the first channel if there are channels; sliced like an array.

    Parameters
    ----------
    volume : Volume
    z : int
        Which plane.
    """

    volume: Volume
    z: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent along y and x."""
        return self.volume.shape[1:]

    def __getitem__(self, key: tuple[slice, slice]) -> LabelArray:
        """Read rows and columns, shape (y, x)."""
        array: Any = self.volume.array
        # By slices: zarrs 0.2 cannot read one row of a shard of a plane that is chosen by a number.
        first = (slice(0, 1),) if self.volume.axes[0] == "c" else ()
        rows, columns = (range(n)[part] for n, part in zip(self.shape, key, strict=True))
        values = np.asarray(array[(*first, slice(self.z, self.z + 1), *key)])
        return values.reshape(len(rows), len(columns))


def boundary_maps(
    truth: Volume, probability: Volume, folder: Path | None = None
) -> Iterator[tuple[int, BoundaryMap]]:
    """Yield each plane of a sample as a boundary map, whatever its size.

    Parameters
    ----------
    truth : Volume
        Its attribute ``ignored`` is the id of the pixels that it does not know.
    probability : Volume
        Its first channel is the map: the foreground, or the interior.
    folder : Path, optional
        Where files of a moment may lie.
    """
    ignored = truth.attributes.get("ignored")
    for z in range(truth.shape[0]):
        planes = Plane(truth, z), Plane(probability, z)
        yield z, BoundaryMap(*planes, folder=folder, ignored=ignored)
