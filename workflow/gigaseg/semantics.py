"""How well a network tells its classes apart, voxel by voxel, where it learns more than one.

The class of a voxel in the map is the one with the highest stored probability; that of the
background is what the others leave of 255. The true class is the one that training aims at
(`gigaseg.weights.encode_target`): of target ``interior_boundary`` the inside of objects, and their
rim with the cut between objects that touch.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .classes import IGNORED, NAMES, class_table
from .geometry import Window, blocks
from .labels import LabelArray, Objects
from .matching import PixelCounts
from .weights import encode_target, halo

TARGET = "interior_boundary"
BLOCK = (1, 1024, 1024)  # voxels counted at a time where every plane is a problem of its own
THICK_BLOCK = (32, 256, 256)  # where distances are taken in space


@dataclass(frozen=True)
class Rims:
    """How the true class of a voxel follows from the labels around it.

    Attributes
    ----------
    width : float
        Of the rim, in px of the finest axis.
    objects : {"plane", "volume"}
        Whether distances are taken in each plane or in space.
    spacing : sequence of float
        Edges of a voxel along z, y, x.
    ignored : int or None
        Id of the voxels whose truth is not known: background to their neighbours.
    """

    width: float
    objects: Objects
    spacing: Sequence[float]
    ignored: int | None = None

    @property
    def halo(self) -> tuple[int, ...]:
        """Voxels around a voxel that decide about its class, along z, y, x."""
        reach: dict[str, Any] = {"w0": 0.0, "sigma": 1.0, "boundary_width": self.width}
        if self.objects == "volume":
            return halo(**reach, spacing=self.spacing)
        return 0, *halo(**reach, spacing=self.spacing[1:])

    def classes(self, labels: LabelArray) -> npt.NDArray[np.int64]:
        """Return the class of each voxel of labels z y x; `gigaseg.classes.IGNORED` of some."""
        known = labels
        if self.ignored is not None:
            known = np.where(labels == self.ignored, labels.dtype.type(0), labels)
        parts = known[None] if self.objects == "volume" else known
        spacing = self.spacing if self.objects == "volume" else self.spacing[1:]
        codes = [encode_target(p, boundary_width=self.width, spacing=spacing) for p in parts]
        found = class_table(TARGET)[np.stack(codes).reshape(labels.shape)]
        if self.ignored is not None:
            found[labels == self.ignored] = IGNORED
        return found


def class_counts(
    truth: Any, probability: Any, rims: Rims, *, workers: int = 1
) -> dict[str, PixelCounts]:
    """Count, for each class but the background, voxels that agree and differ.

    Parameters
    ----------
    truth : array-like of int, shape (z, y, x)
        Instance ids; a store of any size, which is read block by block.
    probability : array-like of uint8, shape (2, z, y, x)
        round(255 p) of interior and boundary.
    rims : Rims
    workers : int
        Blocks counted at once; they never change a value.

    Examples
    --------
    >>> truth = np.array([[[0, 1, 1, 1, 0]]])
    >>> probability = np.array([[[[0, 9, 250, 9, 0]]], [[[0, 240, 0, 5, 0]]]], np.uint8)
    >>> counts = class_counts(truth, probability, Rims(1, "plane", (1, 1, 1)))
    >>> counts["interior"].f, counts["boundary"].f
    (1.0, 0.6666666666666666)
    """
    names = NAMES[TARGET]

    def count(window: Window) -> npt.NDArray[np.int64]:
        outer = window.expand(rims.halo).clip(truth.shape)
        true = rims.classes(np.asarray(truth[outer.slices]))[window.within(outer).slices]
        stored = np.asarray(probability[(slice(None), *window.slices)]).astype(np.int16)
        scores = np.concatenate([255 - stored.sum(axis=0, keepdims=True), stored])
        known = true != IGNORED
        pairs = true[known] * len(names) + scores.argmax(axis=0)[known]
        return np.bincount(pairs, minlength=len(names) ** 2)

    block = THICK_BLOCK if rims.objects == "volume" else BLOCK
    total = np.zeros(len(names) ** 2, np.int64)
    with ThreadPoolExecutor(workers) as pool:
        for part in pool.map(count, blocks(truth.shape, block)):
            total += part
    table = total.reshape(len(names), len(names))
    return {name: _one_against_all(table, k) for k, name in enumerate(names) if k}


def _one_against_all(table: npt.NDArray[np.int64], k: int) -> PixelCounts:
    tp, true, found = int(table[k, k]), int(table[k].sum()), int(table[:, k].sum())
    return PixelCounts(tp, found - tp, true - tp, int(table.sum()) - true - found + tp)
