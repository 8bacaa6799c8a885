"""Windows, blocks, mirrored reads and the geometry of a U-Net: pure index arithmetic.

Everything that makes a result independent of how the work was cut is decided here. The rule behind
it: a U-Net of depth ``d`` pools ``d`` times by two, so it is invariant to shifts by multiples of
``2**d`` only. All tiles of a volume therefore start on one lattice, anchored at the volume's
origin.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, get_args

import numpy as np

Padding = Literal["valid", "same"]
Kind = Literal["unet", "unet++", "fcn"]

DOUBLE_CONVOLUTION = 2  # px that two 3x3 convolutions read beyond each side of their output


@dataclass(frozen=True)
class Window:
    """A half-open box of voxels, ``start <= index < stop`` along each axis.

    Parameters
    ----------
    start, stop : tuple of int
        Corners in voxels. They may lie outside the volume: see `read_mirrored`.

    Examples
    --------
    >>> Window((0, 4), (2, 8)).expand((1, 1)).shape
    (4, 6)
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> "Window":
        """Return the window of a whole volume of this shape."""
        return cls((0,) * len(shape), tuple(int(n) for n in shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent along each axis."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, ...]:
        """The window as an index expression."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def expand(self, before: Sequence[int], after: Sequence[int] | None = None) -> "Window":
        """Grow by `before` (and `after`, default the same) voxels on the two sides of each axis."""
        after = before if after is None else after
        return Window(
            tuple(a - n for a, n in zip(self.start, before, strict=True)),
            tuple(b + n for b, n in zip(self.stop, after, strict=True)),
        )

    def clip(self, shape: Sequence[int]) -> "Window":
        """Return the part inside a volume of this shape."""
        return Window(
            tuple(min(max(a, 0), n) for a, n in zip(self.start, shape, strict=True)),
            tuple(min(max(b, 0), n) for b, n in zip(self.stop, shape, strict=True)),
        )

    def shift(self, offset: Sequence[int]) -> "Window":
        """Move by `offset` voxels."""
        return Window(
            tuple(a + n for a, n in zip(self.start, offset, strict=True)),
            tuple(b + n for b, n in zip(self.stop, offset, strict=True)),
        )

    def within(self, outer: "Window") -> "Window":
        """Return the same box in coordinates counted from the start of `outer`."""
        return self.shift(tuple(-a for a in outer.start))

    def align(self, step: Sequence[int]) -> "Window":
        """Round the extent up to whole steps, keeping `start`."""
        extents = (-(-n // s) * s for n, s in zip(self.shape, step, strict=True))
        return Window(self.start, tuple(a + n for a, n in zip(self.start, extents, strict=True)))


def blocks(shape: Sequence[int], block: Sequence[int]) -> Iterator[Window]:
    """Cut a volume into blocks, in raster order; blocks at the far edges are smaller.

    Parameters
    ----------
    shape, block : sequence of int
        Extents in voxels, one per axis, all positive.

    Yields
    ------
    Window
        Disjoint windows that cover the volume.

    Examples
    --------
    >>> [w.start for w in blocks((3, 2), (2, 2))]
    [(0, 0), (2, 0)]
    """
    if any(n < 1 for n in block):
        raise ValueError(f"block {tuple(block)} has an extent below 1: every extent must be >= 1")
    for start in product(*(range(0, n, b) for n, b in zip(shape, block, strict=True))):
        stop = tuple(a + b for a, b in zip(start, block, strict=True))
        yield Window(tuple(start), stop).clip(shape)


def mirror_indices(start: int, stop: int, size: int) -> np.ndarray:
    """Map indices beyond a line's ends to the samples they mirror.

    Whole-sample symmetry: the end sample is not repeated, and the period is ``2 * (size - 1)``, so
    any distance beyond the edge is defined. A line of one sample is constant.

    Parameters
    ----------
    start, stop : int
        Half-open range of indices; may be negative or exceed `size`.
    size : int
        Number of samples of the line, at least 1.

    Returns
    -------
    ndarray of int64, shape (stop - start,)

    Examples
    --------
    >>> mirror_indices(-3, 6, 4).tolist()
    [3, 2, 1, 0, 1, 2, 3, 2, 1]
    """
    if size < 1:
        raise ValueError(f"cannot mirror a line of {size} samples: it needs at least 1")
    index = np.arange(start, stop, dtype=np.int64)
    if size == 1:
        return np.zeros_like(index)
    index = np.abs(index) % (2 * (size - 1))
    return np.minimum(index, 2 * (size - 1) - index)


def read_mirrored(array: Any, window: Window) -> np.ndarray:
    """Read a window that may extend beyond the volume, mirrored at its edges.

    Parameters
    ----------
    array : array-like, shape (..., *space)
        NumPy or Zarr array; the window applies to the last ``len(window.start)`` axes.
    window : Window
        Any box; only the part of the volume that it shows is read.

    Returns
    -------
    ndarray, shape (..., *window.shape)

    Examples
    --------
    >>> read_mirrored(np.arange(4), Window((-2,), (5,))).tolist()
    [2, 1, 0, 1, 2, 3, 2]
    """
    space = array.shape[-len(window.start) :]
    if window.clip(space) == window:
        return np.asarray(array[(..., *window.slices)])
    sources = [
        mirror_indices(a, b, n) for a, b, n in zip(window.start, window.stop, space, strict=True)
    ]
    box = Window(tuple(int(i.min()) for i in sources), tuple(int(i.max()) + 1 for i in sources))
    data = np.asarray(array[(..., *box.slices)])
    for axis, (source, first) in enumerate(zip(sources, box.start, strict=True)):
        if window.start[axis] != box.start[axis] or window.stop[axis] != box.stop[axis]:
            data = np.take(data, source - first, axis=axis - len(sources))
    return np.ascontiguousarray(data)


@dataclass(frozen=True)
class UNetGeometry:
    """What a U-Net, or a relative with the same contracting path, reads and writes.

    Parameters
    ----------
    depth : int
        Number of 2x2 poolings, at least 1.
    padding : {"valid", "same"}
        ``valid`` is the paper's unpadded network.
    kind : {"unet", "unet++", "fcn"}
        How the levels are joined on the way up; see `gigaseg.networks`.

    Notes
    -----
    Nothing here is a constant of a network: all follows from its layers, followed backwards from an
    output pixel. Two 3x3 convolutions cost 2 pixels a side at their level, a pooling doubles what
    lies below it, and an up-convolution halves it; that of a fully convolutional network has a
    kernel of 4 and reads one pixel beyond.

    An unpadded U-Net of depth ``d`` so consumes ``6 * 2**d - 4`` pixels per side: 92 at depth 4,
    where 572 gives 388 (Ronneberger et al. 2015, fig. 1). In a U-Net++ the longest way is that of
    the U-Net in it, so it consumes as much. A fully convolutional network, without convolutions on
    the way up, consumes ``5 * 2**d - 3``. The zeros of ``same`` padding must stay out of sight of
    every kept pixel: `context` is then what the pixel at a corner of the lattice sees, rounded up
    to the lattice.

    Examples
    --------
    >>> paper = UNetGeometry(depth=4)
    >>> paper.context, paper.output_size(572), paper.step(572)
    (92, 388, 384)
    >>> fcn = UNetGeometry(4, kind="fcn")
    >>> fcn.context, fcn.output_size(540), fcn.step(540)
    (77, 386, 384)
    """

    depth: int
    padding: Padding = "valid"
    kind: Kind = "unet"

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"a U-Net needs depth >= 1, not {self.depth}")
        if self.padding not in ("valid", "same"):
            raise ValueError(f"padding is 'valid' or 'same', not {self.padding!r}")
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind is 'unet', 'unet++' or 'fcn', not {self.kind!r}")

    @property
    def lattice(self) -> int:
        """Shifts by multiples of this many pixels leave the network's answer unchanged."""
        return 2**self.depth

    @property
    def context(self) -> int:
        """Pixels the network consumes per side."""
        if self.padding == "same":
            return -(-self._sight // self.lattice) * self.lattice
        tile, output = self._unpadded
        return (tile - output) // 2

    @property
    def remainder(self) -> int:
        """Legal input sizes are congruent to this, modulo `lattice`."""
        return 0 if self.padding == "same" else self._unpadded[0] % self.lattice

    @property
    def _unpadded(self) -> tuple[int, int]:
        """Sizes of input and output if nothing is padded and the lowest level is one pixel."""
        tile, output = 1 + 2 * DOUBLE_CONVOLUTION, 1
        for _ in range(self.depth):
            tile = 2 * tile + 2 * DOUBLE_CONVOLUTION
            # A kernel of 4 and stride 2 lacks a neighbour for the outermost pixel of each side.
            output = 2 * output - (2 if self.kind == "fcn" else 2 * DOUBLE_CONVOLUTION)
        return tile, output

    @property
    def _sight(self) -> int:
        """Pixels to the left that the first pixel after a corner of the lattice sees."""
        first = 0
        for _ in range(self.depth):
            first = (first - (1 if self.kind == "fcn" else DOUBLE_CONVOLUTION)) // 2
        first -= DOUBLE_CONVOLUTION
        for _ in range(self.depth):
            first = 2 * first - DOUBLE_CONVOLUTION
        return -first

    @property
    def smallest(self) -> int:
        """The smallest legal input size."""
        return self.input_size(1)

    @property
    def surplus(self) -> int:
        """Output pixels per axis of an unpadded network beyond a multiple of the lattice."""
        return (self.remainder - 2 * self.context) % self.lattice

    def is_legal(self, tile: int) -> bool:
        """Say whether the network accepts inputs of this size and keeps at least one step."""
        return tile >= self.smallest and tile % self.lattice == self.remainder

    def check(self, tile: int) -> None:
        """Raise ValueError, naming the next legal size, unless `tile` is a legal input size."""
        if not self.is_legal(tile):
            rest = (self.remainder - tile) % self.lattice
            nearest = max(tile + rest, self.smallest)
            raise ValueError(
                f"tile {tile} px does not fit a network of depth {self.depth} with padding "
                f"'{self.padding}': the next size that does is {nearest} "
                f"(legal sizes are {self.smallest}, {self.smallest + self.lattice}, ...)"
            )

    def output_size(self, tile: int) -> int:
        """Size of what the network returns for a legal input size, context removed."""
        self.check(tile)
        return tile - 2 * self.context

    def step(self, tile: int) -> int:
        """Size of the output window: the output cropped to whole multiples of the lattice."""
        return self.output_size(tile) - self.surplus

    def input_size(self, output: int) -> int:
        """Smallest legal input size whose step is at least `output` pixels."""
        return -(-output // self.lattice) * self.lattice + self.surplus + 2 * self.context

    def whole(self, shape: Sequence[int]) -> Window:
        """Input window with which one forward pass predicts a whole plane of `shape` (y, x)."""
        before = (self.context,) * len(shape)
        window = Window.whole(shape).align((self.lattice,) * len(shape))
        return window.expand(before, tuple(n + self.surplus for n in before))
