"""One grid of tiles per volume: where tiles start, and how large they are.

Tile ``k`` starts at ``k * step`` from the volume's origin along y and x, whatever the blocks. All
tiles have one size; the last ones reach past the volume's edge, into its mirror image.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from .geometry import UNetGeometry, Window, blocks

# px. Larger tiles repeat little less context, and take much more memory.
LARGEST_TILE = {"cpu": 1300, "cuda": 2300}


@dataclass(frozen=True)
class TileGrid:
    """Square tiles on one lattice, anchored at the volume's origin.

    Parameters
    ----------
    geometry : UNetGeometry
        Of the network that reads the tiles.
    tile : int
        Size of the network's input in pixels; must be legal.

    Examples
    --------
    >>> grid = TileGrid(UNetGeometry(4), 572)
    >>> grid.step, grid.halo
    (384, 96)
    """

    geometry: UNetGeometry
    tile: int

    def __post_init__(self) -> None:
        self.geometry.check(self.tile)

    @property
    def step(self) -> int:
        """Distance between two tiles, which is the size of their output windows, in pixels."""
        return self.geometry.step(self.tile)

    @property
    def halo(self) -> int:
        """Pixels to read on each side of a block of whole steps."""
        return self.geometry.context + self.geometry.surplus

    def tiles(self, shape: Sequence[int]) -> Iterator[tuple[Window, Window]]:
        """Cut a block of whole steps into tiles, in raster order.

        Parameters
        ----------
        shape : sequence of int
            Extent (y, x) of the block in pixels.

        Yields
        ------
        read, write : Window
            The tile inside the block with its halo, and its output window inside the block.
        """
        for write in blocks(shape, (self.step,) * len(shape)):
            start = tuple(a + self.geometry.surplus for a in write.start)
            yield Window(start, tuple(a + self.tile for a in start)), write


def choose_tile(
    geometry: UNetGeometry,
    shape: Sequence[int],
    block: Sequence[int],
    *,
    width: int,
    memory_gb: float,
    device: Literal["cpu", "cuda"] = "cpu",
) -> int:
    """Choose the tile with which a volume is predicted by reading the fewest pixels.

    The choice depends on the volume's shape, the network, the settings and the kind of device,
    never on what memory is free.

    Parameters
    ----------
    geometry : UNetGeometry
        Of the network.
    shape, block : sequence of int
        Extent (y, x) of the volume and of its blocks, in pixels.
    width : int
        Features of the network's first level.
    memory_gb : float
        Memory that the activations of one tile may take, in GB; see `tile_memory_gb`.
    device : {"cpu", "cuda"}
        Kind of device: a GPU is fast with larger tiles.

    Returns
    -------
    int
        Size of the network's input, in pixels.

    Raises
    ------
    ValueError
        If no tile fits the memory, or no step divides the block.

    Examples
    --------
    >>> choose_tile(UNetGeometry(4), (4096, 4096), (1024, 1024), width=16, memory_gb=2)
    1212
    >>> choose_tile(UNetGeometry(4), (100, 100), (1024, 1024), width=16, memory_gb=2)
    300
    """
    fitting = [step for step in _steps(geometry, shape) if _divides(step, shape, block)]
    if not fitting:
        raise ValueError(
            f"no step of a network of depth {geometry.depth} divides blocks of {tuple(block)} px: "
            f"choose a storage.shard that is a multiple of {geometry.lattice} px"
        )
    tiles = [geometry.input_size(step) for step in fitting]
    affordable = [tile for tile in tiles if tile_memory_gb(geometry, tile, width) <= memory_gb]
    if not affordable:
        raise ValueError(
            f"the smallest tile, {tiles[0]} px, takes "
            f"{tile_memory_gb(geometry, tiles[0], width):.2f} GB at width {width}: raise "
            f"prediction.memory_gb, which is {memory_gb}"
        )
    within = [tile for tile in affordable if tile <= LARGEST_TILE[device]] or affordable[:1]
    return min(within, key=lambda tile: (_pixels_read(geometry, tile, shape), -tile))


def check_tile(
    geometry: UNetGeometry, tile: int, shape: Sequence[int], block: Sequence[int]
) -> None:
    """Raise ValueError, naming the next tile that fits, unless a grid of `tile` fits the blocks.

    Parameters
    ----------
    geometry : UNetGeometry
        Of the network.
    tile : int
        Size of the network's input, in pixels.
    shape, block : sequence of int
        Extent (y, x) of the volume and of its blocks, in pixels. A volume of one block takes any
        legal tile.
    """
    step = geometry.step(tile)
    if _divides(step, shape, block):
        return
    fitting = [s for s in _steps(geometry, block) if _divides(s, shape, block)]
    larger = [s for s in fitting if s > step]
    advice = (
        f"the {'next' if larger else 'largest'} tile that fits is "
        f"{geometry.input_size(larger[0] if larger else fitting[-1])}"
        if fitting
        else f"choose a storage.shard that is a multiple of {geometry.lattice} px"
    )
    raise ValueError(
        f"tile {tile} px steps by {step} px, which does not divide blocks of {tuple(block)} px: "
        f"{advice}, or write prediction.tile: auto"
    )


def tile_memory_gb(geometry: UNetGeometry, tile: int, width: int) -> float:
    """Estimate the memory that the activations of one tile take, in GB.

    A U-Net: at the peak, in the last merging block, 4 * width features of the first level are
    alive (skip connection and up-convolution, and the two concatenated), or 2 * width concatenated
    features, the convolution's output of width, and a working copy of both in the library's own
    layout; the skip connections of lower levels add at most width. That is below 8 * width float32
    values per pixel of the tile. A U-Net++ keeps ``depth`` maps of the first level instead of one,
    and as many again below, and concatenates them all: below 4 * (depth + 1) * width, as much at
    depth 1. A fully convolutional network concatenates nothing, and takes no more than a U-Net.
    """
    skips = geometry.depth if geometry.kind == "unet++" else 1
    return 4 * (skips + 1) * width * 4 * tile**2 / 1e9


def share_blocks(sizes: Sequence[int], parts: int) -> list[int]:
    """Divide blocks among parts: consecutive ones, so that the parts' work is about equal.

    Parameters
    ----------
    sizes : sequence of int
        Work of each block, such as its voxels, in the order of the blocks.
    parts : int
        Number of parts. Those beyond the number of blocks get none.

    Returns
    -------
    list of int
        Part of each block, from 0, never falling.

    Examples
    --------
    >>> share_blocks([4, 4, 4, 1, 1, 1, 1], 2)
    [0, 0, 1, 1, 1, 1, 1]
    """
    total = sum(sizes)
    # The part in whose range of the whole the middle of the block lies.
    middles = (2 * end - size for end, size in zip(accumulate(sizes), sizes, strict=True))
    return [middle * parts // (2 * total) for middle in middles]


def _steps(geometry: UNetGeometry, shape: Sequence[int]) -> range:
    """All multiples of the lattice up to the first that covers the whole plane."""
    lattice = geometry.lattice
    return range(lattice, -(-max(shape) // lattice) * lattice + 1, lattice)


def _divides(step: int, shape: Sequence[int], block: Sequence[int]) -> bool:
    """Whether blocks begin on the grid: only an axis of several blocks asks for it."""
    return all(n <= b or b % step == 0 for n, b in zip(shape, block, strict=True))


def _pixels_read(geometry: UNetGeometry, tile: int, shape: Sequence[int]) -> int:
    step = geometry.step(tile)
    return tile**2 * math.prod(-(-n // step) for n in shape)
