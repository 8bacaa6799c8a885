"""Tiles to learn from: what is drawn depends on (seed, step, index) only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .augmentation import Variation, draw_variation
from .centres import Centres
from .classes import class_table
from .deformation import generator
from .geometry import UNetGeometry, Window, blocks, read_mirrored
from .tally import Tally


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
    tally : Tally, optional
        What the chunks of target and separation hold; without it every voxel counts as labelled.
    """

    name: str
    image: Any
    target: Any
    separation: Any
    offset: np.ndarray
    scale: np.ndarray
    tally: Tally | None = None

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
class Crop:
    """What is read of a volume for one tile, and what is to be done with it.

    Attributes
    ----------
    image : ndarray, shape (c, h, w)
        Window of the image in its own type, mirrored at the volume's edges only.
    target : ndarray of uint8, shape (i, j)
        Window of stored target values.
    separation : ndarray of float32, shape (i, j), or None
        The same window of separation weights; None if they are not used.
    offset, scale : ndarray of float32, shape (c,)
        Normalisation of the plane.
    image_window, answer_window : Window
        Both windows, counted from the voxel on which the tile is centred.
    variation : Variation or None
        None: the windows are the tile and its output window, as they are.
    origin : str
        Where the undeformed tile lies, for messages.
    """

    image: np.ndarray
    target: np.ndarray
    separation: np.ndarray | None
    offset: np.ndarray
    scale: np.ndarray
    image_window: Window
    answer_window: Window
    variation: Variation | None
    origin: str


class TileSource:
    """Draws tiles of one fixed shape from samples, and reads what they are made of.

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
    oversample : float
        Share of tiles centred on what is rare, see `centres.Centres`.

    Attributes
    ----------
    class_of : ndarray of int64, shape (256,)
        Class of each stored target value.
    weight_of : ndarray of float32, shape (256,)
        Weight of each class in the loss; 0 for ignored.

    Notes
    -----
    Without oversampling every labelled voxel of the training set is equally likely to be a centre,
    in agreement with class weights that are counted over all of them. The centre is never moved by
    a deformation, so every tile has a labelled pixel, also where little is annotated. Tiles near an
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
        oversample: float = 0.0,
    ) -> None:
        self.samples = list(samples)
        self.geometry = geometry
        self.tile = tile
        self.output = geometry.output_size(tile)
        self.separation = separation
        self.class_of = class_table(target)
        self.weight_of = np.zeros(256, np.float32)
        self.weight_of[: len(class_weights)] = class_weights
        self._centres = Centres(self.samples, target, oversample=oversample, separation=separation)

    def draw(
        self, seed: int, step: int, index: int, augmentation: Mapping[str, Any] | None = None
    ) -> Crop:
        """Draw the tile of a key, and read its crop.

        Parameters
        ----------
        seed, step, index : int
            Key of the random numbers, see `deformation.generator`.
        augmentation : mapping, optional
            See `augmentation.draw_variation`. None: the tile as it is.
        """
        random = generator(seed, step, index)
        number, (plane, y, x) = self._centres.draw(random)
        sample, start = self.samples[number], (y - self.tile // 2, x - self.tile // 2)
        variation = None
        if augmentation:
            channels = sample.image.shape[0]
            variation = draw_variation(random, channels, self.tile, augmentation)
        return self.read(sample, plane, start, variation)

    def read(
        self,
        sample: Sample,
        plane: int,
        start: tuple[int, int],
        variation: Variation | None = None,
    ) -> Crop:
        """Read the crop of the tile that starts at `start` (y, x) of a plane before it varies."""
        centre = tuple(a + self.tile // 2 for a in start)
        whole, inner = self._windows(variation)
        where = inner.shift(centre)
        return Crop(
            image=_read_plane(sample.image, plane, whole.shift(centre)),
            target=_read_plane(sample.target, plane, where),
            separation=_read_plane(sample.separation, plane, where) if self.separation else None,
            offset=sample.offset[plane],
            scale=sample.scale[plane],
            image_window=whole,
            answer_window=inner,
            variation=variation,
            origin=f"{sample.name} plane {plane} y {start[0]} x {start[1]}",
        )

    def grid(self, limit: int) -> list[tuple[int, int, tuple[int, int]]]:
        """Return evenly chosen tiles that cover all samples as prediction does.

        Those in chunks that nobody annotated are left out.

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
            if sample.tally is None or sample.tally.may_be_labelled(window)
        ]
        count = min(limit, len(tiles))
        return [tiles[(2 * k + 1) * len(tiles) // (2 * count)] for k in range(count)]

    def _windows(self, variation: Variation | None) -> tuple[Window, Window]:
        """Return what is read of image and answer, counted from the centre."""
        if variation is None:
            before = self.tile // 2
            whole = Window((-before,) * 2, (self.tile - before,) * 2)
            return whole, whole.expand((-self.geometry.context,) * 2)
        deformation = variation.deformation
        size = self.tile + 2 * variation.margin
        return deformation.window(size), deformation.window(self.output)


def _read_plane(array: Any, plane: int, window: Window) -> np.ndarray:
    """Read a mirrored window (y, x) of one plane; a leading channel axis is kept."""
    box = Window((plane, *window.start), (plane + 1, *window.stop))
    return read_mirrored(array, box)[..., 0, :, :]
