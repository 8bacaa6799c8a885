"""Where the tiles of a prediction meet, windows that straddle these seams, and what they show.

A prediction is seamless if tiles that start elsewhere on the pooling lattice give the same values.
So a window is laid over a crossing of seams, and predicted again by one tile: what lies on either
side of a seam in the store lies in the middle of that tile.
"""

import random
from dataclasses import dataclass

import numpy as np

from .geometry import UNetGeometry, Window

# Largest difference allowed, in steps of the stored uint8. Tiles of one shape do the same
# arithmetic for every pixel, so on a CPU the difference of trained networks is 0, in float32 and in
# bfloat16. Tiles of another shape, or another kind of device, round elsewhere: 1e-6 in float32.
STEPS = 1


@dataclass(frozen=True)
class Layout:
    """How a prediction was cut.

    Parameters
    ----------
    shape : tuple of int
        Extent of the volume along z, y, x in voxels.
    step : int
        Distance between tiles along y and x, in pixels.
    block : int
        Distance between blocks along y and x, in pixels.
    """

    shape: tuple[int, int, int]
    step: int
    block: int

    def seams(self, axis: int) -> list[int]:
        """List where tiles meet along an axis (1 or 2): the first pixel beyond each seam."""
        return list(range(self.step, self.shape[axis], self.step))

    @property
    def has_seams(self) -> bool:
        """Whether any two tiles meet."""
        return any(self.seams(axis) for axis in (1, 2))

    def kind(self, seam: int) -> str:
        """Say what meets at a seam: ``block`` or, inside a block, ``tile``."""
        return "tile" if seam % self.block else "block"


@dataclass(frozen=True)
class Straddle:
    """A window over seams.

    Attributes
    ----------
    window : Window
        Along z, y, x; one plane. It may reach beyond the volume's far edges.
    seams : tuple of str
        Kind of each seam inside.
    """

    window: Window
    seams: tuple[str, ...]


def audit_size(geometry: UNetGeometry, step: int) -> int:
    """Return the side of a window, in pixels: a step, or two where no other phase exists.

    Examples
    --------
    >>> audit_size(UNetGeometry(4), 384), audit_size(UNetGeometry(4), 16)
    (384, 32)
    """
    lattice = geometry.lattice
    return max(-(-step // lattice) * lattice, 2 * lattice)


def draw_windows(layout: Layout, geometry: UNetGeometry, count: int, seed: str) -> list[Straddle]:
    """Lay windows over random crossings of seams, block seams and tile seams in turn.

    Parameters
    ----------
    layout : Layout
        How the stored prediction was cut.
    geometry : UNetGeometry
        Of the network: windows start on its lattice, counted from the volume's origin.
    count : int
        Number of windows; those drawn twice are left out.
    seed : str
        The same seed draws the same windows.

    Returns
    -------
    list of Straddle
        Empty if the volume has no seam.

    Examples
    --------
    >>> [one] = draw_windows(Layout((1, 40, 100), 64, 64), UNetGeometry(2), 1, "seed")
    >>> one.window.start, one.window.stop, one.seams
    ((0, 0, 32), (1, 64, 96), ('block',))
    """
    chance = random.Random(seed)
    size = audit_size(geometry, layout.step)
    if not layout.has_seams:
        return []
    drawn = [_draw(layout, geometry, chance, ("block", "tile")[k % 2]) for k in range(count)]
    return [
        Straddle(Window((z, y, x), (z + 1, y + size, x + size)), seams)
        for (z, y, x), seams in dict.fromkeys(drawn)
    ]


def _draw(
    layout: Layout, geometry: UNetGeometry, chance: random.Random, wanted: str
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    start, kinds = [chance.randrange(layout.shape[0])], []
    size, lattice = audit_size(geometry, layout.step), geometry.lattice
    for axis in (1, 2):
        seams = layout.seams(axis)
        if not seams:
            start.append(0)
            continue
        favoured = [seam for seam in seams if layout.kind(seam) == wanted]
        seam = chance.choice(favoured or seams)
        # The seam lies in the middle, as nearly as the lattice allows.
        start.append((seam - size // 2) // lattice * lattice)
        kinds.append(layout.kind(seam))
    return tuple(start), tuple(kinds)


@dataclass(frozen=True)
class Difference:
    """How much a stored prediction differs from one made again.

    Attributes
    ----------
    values : int
        Number of values compared, all channels.
    differing : int
        Values that are not the same in uint8.
    steps : int
        Largest difference, in steps of uint8.
    place : tuple of int
        Where that is: z, y, x, counted from the first voxel compared.
    """

    values: int
    differing: int
    steps: int
    place: tuple[int, ...]


def compare(stored: np.ndarray, again: np.ndarray) -> Difference:
    """Compare stored values with probabilities that were predicted again.

    Parameters
    ----------
    stored : ndarray of uint8, shape (c, z, y, x)
        ``round(255 * p)``.
    again : ndarray of float32, same shape
        Probabilities.

    Examples
    --------
    >>> stored, again = np.uint8([0, 10, 12]), np.float32([0.001, 10 / 255, 10 / 255])
    >>> compare(stored.reshape(1, 1, 1, 3), again.reshape(1, 1, 1, 3))
    Difference(values=3, differing=1, steps=2, place=(0, 0, 2))
    """
    if stored.shape != again.shape:
        raise ValueError(f"stored {stored.shape} and predicted {again.shape} values do not match")
    # In float32, as the stored values were rounded: ties must fall alike.
    steps = np.abs(np.rint(np.float32(255) * again).astype(np.int16) - stored)
    place = np.unravel_index(int(steps.argmax()), steps.shape)
    return Difference(
        values=stored.size,
        differing=int(np.count_nonzero(steps)),
        steps=int(steps[place]),
        place=tuple(map(int, place[1:])),
    )
