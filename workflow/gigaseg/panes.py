"""What a viewer of a sample is made of: planes and levels, cut into panes, from sizes alone.

A *pane* is a picture of at most `side` px in y and x: a piece of one plane of one level of one
layer, in a file of its own. A browser loads those that it needs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from .geometry import Window, blocks


@dataclass(frozen=True)
class Panes:
    """The panes of a sample.

    Attributes
    ----------
    shape : tuple of int
        Extent of the sample along z, y, x in px.
    side : int
        Largest extent of a pane in y and x, px of its level.
    levels : tuple of int
        Levels of the pyramid that are shown, the finest first.
    planes : tuple of int
        Planes that are shown.
    """

    shape: tuple[int, int, int]
    side: int
    levels: tuple[int, ...]
    planes: tuple[int, ...]

    @classmethod
    def choose(
        cls,
        shape: Sequence[int],
        depth: int,
        layers: int,
        *,
        side: int,
        files: int,
        planes: int,
    ) -> "Panes":
        """Choose what is shown, so that it does not take too many files.

        Parameters
        ----------
        shape : sequence of int
            Extent along z, y, x in px.
        depth : int
            Levels that there are.
        layers : int
            Layers that are shown, each of them in panes of its own.
        side : int
            Largest extent of a pane.
        files : int
            Most panes of all layers: the finest levels are left out until they suffice. The level
            that fits into one pane is always shown, or else the last.
        planes : int
            Most planes: of more, every second, third, ... one is shown.

        Examples
        --------
        >>> cut = {"side": 1024, "files": 8000, "planes": 256}
        >>> whole = Panes.choose((1, 32768, 32768), 8, 4, **cut)
        >>> whole.levels, 4 * whole.count
        ((0, 1, 2, 3, 4, 5), 5460)
        >>> stack = Panes.choose((1000, 4096, 4096), 5, 4, **cut)
        >>> stack.levels, len(stack.planes), 4 * stack.count
        ((1, 2), 250, 5000)
        """
        z, y, x = shape
        shown = tuple(range(0, z, -(-z // planes)))
        fits = (level for level in range(depth) if max(_halved((y, x), level)) <= side)
        last = next(fits, depth - 1)
        for first in range(last + 1):
            chosen = cls((z, y, x), side, tuple(range(first, last + 1)), shown)
            if layers * chosen.count <= files:
                break
        return chosen

    @property
    def count(self) -> int:
        """Number of panes of one layer."""
        sides = ([-(-n // self.side) for n in self.extent(level)] for level in self.levels)
        return len(self.planes) * sum(map(prod, sides))  # not listed: headers may claim anything

    def extent(self, level: int) -> tuple[int, int]:
        """Return the extent of a level along y, x in px."""
        return _halved(self.shape[1:], level)

    def windows(self, level: int) -> Iterator[Window]:
        """Cut a plane of a level into panes: windows along y, x, in raster order.

        Examples
        --------
        >>> panes = Panes((1, 30, 20), 16, (0, 1), (0,))
        >>> [window.start for window in panes.windows(0)], len(list(panes.windows(1)))
        ([(0, 0), (0, 16), (16, 0), (16, 16)], 1)
        """
        return blocks(self.extent(level), (self.side, self.side))


def _halved(extent: Sequence[int], level: int) -> tuple[int, int]:
    y, x = (-(-n >> level) for n in extent)
    return y, x
