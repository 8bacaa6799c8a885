"""Tiles to learn from: what is drawn depends on (seed, step, index) only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from .augmentation import draw_deformation, vary
from .classes import IGNORED, class_table
from .deformation import Deformation, generator, resample, source_window
from .geometry import UNetGeometry, Window, blocks, read_mirrored

Resample = Callable[[np.ndarray, np.ndarray], np.ndarray]
_NEAREST, _BILINEAR, _BICUBIC = (partial(resample, order=order) for order in (0, 1, 3))


@dataclass(frozen=True, eq=False)
class Sample:
    """One volume to learn from.

    Parameters
    ----------
    name : str
        ``<dataset>/<sample>``.
    image : array-like, shape (c, z, y, x)
        NumPy or Zarr.
    target : array-like of uint8, shape (z, y, x)
        Stored target values (`classes.class_table`), or 255 for ignored.
    separation : array-like of float32, shape (z, y, x)
        Separation weights.
    offset, scale : ndarray of float32, shape (z, c)
        Normalisation of each plane: ``(image - offset) * scale``.
    """

    name: str
    image: Any
    target: Any
    separation: Any
    offset: np.ndarray
    scale: np.ndarray

    @property
    def bytes(self) -> int:
        """Size in memory when loaded."""
        return sum(
            int(np.prod(a.shape)) * a.dtype.itemsize
            for a in (self.image, self.target, self.separation)
        )

    def load(self) -> "Sample":
        """Return the same sample with its arrays decoded in memory."""
        image, target, separation = (
            np.asarray(a[...]) for a in (self.image, self.target, self.separation)
        )
        return replace(self, image=image, target=target, separation=separation)


def load_within(samples: Sequence[Sample], budget: int) -> list[Sample]:
    """Load the samples that fit a budget of memory, in order; the others stay in their stores.

    Parameters
    ----------
    samples : sequence of Sample
        All samples of a training.
    budget : int
        Bytes for decoded arrays. It changes the speed, never a value.
    """
    kept = []
    for sample in samples:
        fits = sample.bytes <= budget
        budget -= sample.bytes if fits else 0
        kept.append(sample.load() if fits else sample)
    return kept


@dataclass(frozen=True, eq=False)
class Tile:
    """What the network reads, and what it should answer on the output window.

    Attributes
    ----------
    image : ndarray of float32, shape (c, n, n)
        Normalised input tile.
    labels : ndarray of int64, shape (m, m)
        Class of each pixel, or 255 for ignored.
    weights : ndarray of float32, shape (m, m)
        w(x) of the loss: class balance plus separation; 0 where ignored.
    origin : str
        Where it was read, for messages.
    """

    image: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    origin: str


class TileSource:
    """Draws tiles of one fixed shape from samples.

    Parameters
    ----------
    samples : sequence of Sample
        At least one; all with the same number of channels.
    geometry : UNetGeometry
        Decides how much smaller the output window is; the same context is left out of the loss
        for ``same`` padding, whose zeros reach that far.
    tile : int
        Extent of the input tile in px.
    target : {"foreground", "interior_boundary"}
        What the network learns.
    class_weights : sequence of float
        Weight of each class.
    separation : bool
        Whether separation weights are added.
    resample_image : callable
        Reads deformed images, as `deformation.resample` does: bicubic by default. (Bilinear would
        take away a third of the noise's strength, and the network would learn from smoother images
        than it reads later.)

    Notes
    -----
    A sample is chosen with probability proportional to its number of voxels, then a plane and the
    centre of the tile uniformly over the plane: every voxel of the training set is equally likely
    to be a centre, in agreement with class weights that are counted over all voxels. Tiles near an
    edge reach beyond it and read the image, target and weights mirrored, as prediction does.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        geometry: UNetGeometry,
        tile: int,
        *,
        target: str,
        class_weights: Sequence[float],
        separation: bool = True,
        resample_image: Resample = _BICUBIC,
    ) -> None:
        self.samples = list(samples)
        self.geometry = geometry
        self.tile = tile
        self.output = geometry.output_size(tile)
        self.separation = separation
        self._resample_image = resample_image
        self._class_of = class_table(target)
        self._weight_of = np.zeros(256, np.float32)
        self._weight_of[: len(class_weights)] = class_weights
        self._ends = np.cumsum([int(np.prod(s.target.shape)) for s in self.samples])

    def draw(
        self, seed: int, step: int, index: int, augmentation: Mapping[str, Any] | None = None
    ) -> Tile:
        """Draw the tile of a key.

        Parameters
        ----------
        seed, step, index : int
            Key of the random numbers, see `deformation.generator`.
        augmentation : mapping, optional
            See `augmentation.draw_deformation` and `augmentation.vary`. None: the tile as it is.
        """
        random = generator(seed, step, index)
        voxel = int(random.integers(self._ends[-1]))
        number = int(np.searchsorted(self._ends, voxel, side="right"))
        sample = self.samples[number]
        voxel -= int(self._ends[number - 1]) if number else 0
        plane, *centre = (int(i) for i in np.unravel_index(voxel, sample.target.shape))
        start = (centre[0] - self.tile // 2, centre[1] - self.tile // 2)
        if not augmentation:
            return self.read(sample, plane, start)
        deformation = draw_deformation(random, self.tile, augmentation)
        tile = self.read(sample, plane, start, deformation)
        return replace(tile, image=vary(tile.image, random, augmentation))

    def read(
        self,
        sample: Sample,
        plane: int,
        start: tuple[int, int],
        deformation: Deformation | None = None,
    ) -> Tile:
        """Read the tile whose input window starts at `start` of a plane, deformed or not."""
        window = Window(start, (start[0] + self.tile, start[1] + self.tile))
        origin = f"{sample.name} plane {plane} y {start[0]} x {start[1]}"
        context = (-self.geometry.context,) * 2
        if deformation is None:
            image = _read_plane(sample.image, plane, window).astype(np.float32)
            labels, weights = self._answer(
                _read_plane(sample.target, plane, window.expand(context)),
                _read_plane(sample.separation, plane, window.expand(context)),
            )
        else:
            field = deformation.field(window.shape) + np.float32((self.tile - 1) / 2)
            inner = field[(slice(None), *_centre(self.tile, self.output))]
            image = _deform(sample.image, plane, start, field, self._resample_image)
            labels, weights = self._answer(
                _deform(sample.target, plane, start, inner, _NEAREST),
                _deform(sample.separation, plane, start, inner, _BILINEAR),
            )
        offset, scale = sample.offset[plane], sample.scale[plane]
        image = (image - offset[:, None, None]) * scale[:, None, None]
        return Tile(image, labels, weights, origin)

    def grid(self, limit: int) -> list[tuple[int, int, tuple[int, int]]]:
        """Return evenly chosen tiles that cover all samples as prediction does.

        Parameters
        ----------
        limit : int
            At most so many are returned, spread evenly over the list of all.

        Returns
        -------
        list of (sample index, plane, start)
            As `read` takes them.
        """
        step = (1, *(self.geometry.step(self.tile),) * 2)
        context = self.geometry.context
        tiles = [
            (number, window.start[0], (window.start[1] - context, window.start[2] - context))
            for number, sample in enumerate(self.samples)
            for window in blocks(sample.target.shape, step)
        ]
        count = min(limit, len(tiles))
        return [tiles[(2 * k + 1) * len(tiles) // (2 * count)] for k in range(count)]

    def _answer(self, values: np.ndarray, separation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turn stored values into classes and the weights of the loss."""
        labels = self._class_of[values]
        weights = self._weight_of[labels]
        if self.separation:
            weights += np.where(labels == IGNORED, np.float32(0), separation)
        return labels, weights


def _deform(
    array: Any, plane: int, start: tuple[int, int], coordinates: np.ndarray, read: Resample
) -> np.ndarray:
    window = source_window(coordinates)
    data = _read_plane(array, plane, window.shift(start))
    return read(data, _local(coordinates, window))


def _local(coordinates: np.ndarray, window: Window) -> np.ndarray:
    return coordinates - np.asarray(window.start, np.float32)[:, None, None]


def _read_plane(array: Any, plane: int, window: Window) -> np.ndarray:
    """Read a mirrored window (y, x) of one plane; a leading channel axis is kept."""
    box = Window((plane, *window.start), (plane + 1, *window.stop))
    return read_mirrored(array, box)[..., 0, :, :]


def _centre(size: int, inner: int) -> tuple[slice, slice]:
    margin = (size - inner) // 2
    return (slice(margin, margin + inner),) * 2
