"""Cut a volume along three planes through one place, true to the size of its voxels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .views import View
from .volumes import Volume

#: Extent (px along x) of what is shown of a volume along every axis.
EXTENT = 256


@dataclass(frozen=True)
class Box:
    """Where the three sections lie: a window, the planes it goes through, and the common point.

    Attributes
    ----------
    view : View
        Its plane is that of the xy section.
    first, stop : int
        Half-open range of planes.
    y, x : int
        Row of the xz and column of the yz section, in px of the window.
    """

    view: View
    first: int
    stop: int
    y: int
    x: int


@dataclass(frozen=True)
class Sections:
    """Three sections of one volume, each of shape (c, ., .): (y, x), (z, x) and (y, z)."""

    xy: NDArray[Any]
    xz: NDArray[Any]
    yz: NDArray[Any]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter((self.xy, self.xz, self.yz))


def place_box(
    view: View, depth: int, spacing: tuple[float, float, float], mask: NDArray[np.bool_]
) -> Box:
    """Lay sections through the worst place of a view.

    Parameters
    ----------
    view : View
    depth : int
        Planes of the volume.
    spacing : tuple of float
        Size of a voxel along z, y, x in µm: as many planes are shown as are as thick as the
        window is wide.
    mask : array of bool, shape (y, x)
        What the sections shall cut, in the view: they meet in it, in the row that has most of it.

    Examples
    --------
    >>> mask = np.zeros((8, 8), bool)
    >>> mask[2, 3:6] = True
    >>> box = place_box(View(5, 0, 0, 8, 8), 20, (2.0, 1.0, 1.0), mask)
    >>> box.y, box.x, box.first, box.stop
    (2, 4, 3, 7)
    """
    thick = max(1, min(depth, EXTENT, int(view.width * spacing[2] / spacing[0])))
    first = min(max(view.plane - thick // 2, 0), depth - thick)
    if not mask.any():
        return Box(view, first, first + thick, view.height // 2, view.width // 2)
    y = int(mask.sum(axis=1).argmax())
    columns = np.flatnonzero(mask[y])
    return Box(view, first, first + thick, y, int(columns[len(columns) // 2]))


def cut(volume: Volume, box: Box) -> Sections:
    """Read the three sections, plane by plane, and stretch them to square pixels.

    Returns
    -------
    Sections
        A pixel is as large as a voxel is along x; voxels that are larger along other axes are
        repeated, smaller ones left out.
    """
    view, dz, dy, dx = box.view, *volume.spacing
    rows, columns = [], []
    xy: NDArray[Any] = np.empty(0)
    for z in range(box.first, box.stop):
        window = volume.array[
            ..., z, view.top : view.top + view.height, view.left : view.left + view.width
        ]
        plane = np.asarray(window).reshape(-1, view.height, view.width)
        rows.append(plane[:, box.y])
        columns.append(plane[:, :, box.x])
        xy = plane if z == view.plane else xy
    xz, yz = np.stack(rows, axis=1), np.stack(columns, axis=2)
    return Sections(
        _stretch(xy, 1, dy / dx),
        _stretch(xz, 1, dz / dx),
        _stretch(_stretch(yz, 2, dz / dx), 1, dy / dx),
    )


def meeting_point(box: Box, spacing: tuple[float, float, float]) -> tuple[int, int, int]:
    """Return where the sections meet, z y x in px of the stretched ones."""
    dz, dy, dx = spacing
    z, y = box.view.plane - box.first, box.y
    return _middle(z, dz / dx), _middle(y, dy / dx), box.x


def _middle(index: int, ratio: float) -> int:
    """Return the pixel that shows the middle of a voxel."""
    return int((index + 0.5) * ratio)


def _stretch(array: NDArray[Any], axis: int, ratio: float) -> NDArray[Any]:
    """Repeat (or leave out) what lies along an axis; the nearest voxel is shown."""
    if ratio == 1:
        return array
    count = max(1, round(array.shape[axis] * ratio))
    nearest = ((np.arange(count) + 0.5) / ratio).astype(np.intp)
    return np.take(array, np.minimum(nearest, array.shape[axis] - 1), axis=axis)
