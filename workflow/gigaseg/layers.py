"""The layers of a viewer, drawn pane by pane: image, probabilities, outlines.

Each pane is drawn from a window of the level that is shown, so that memory follows the pane, never
the plane. The same volumes give the same bytes.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .geometry import Window
from .intensity import intensity_window
from .labels import boundaries
from .volumes import Volume, open_volume

Bytes = NDArray[np.uint8]

#: Okabe and Ito's palette, told apart by colour-blind eyes: outlines, and channels of probability.
PREDICTED, TRUE = (230, 159, 0), (86, 180, 233)
CHANNELS = ((204, 121, 167), (0, 158, 115))

#: Percentiles of the whole volume that become black and white, as in the report's pictures.
STRETCH = {"method": "percentile", "low": 0.5, "high": 99.8, "per": "volume"}
STEPS = 16  # of probability; finer ones no eye tells apart, and they take several times the disk


@dataclass(frozen=True)
class Layer:
    """One of the pictures that a viewer lays over each other.

    Attributes
    ----------
    name, title : str
        In addresses, and for people.
    volume : Volume
        What it shows.
    draw : callable
        ``draw(data)`` of a window, shape (c, y, x): uint8, shape (y, x) or (y, x, 3).
    colour : tuple of int, optional
        What is drawn are steps from transparent to this colour; without it, a photograph.
    steps : int
        Number of these steps: 2 for lines.
    halo : int
        px around a window that decide what is drawn in it.
    quality : int
        Of photographs: JPEG's.
    """

    name: str
    title: str
    volume: Volume
    draw: Callable[[NDArray[Any]], Bytes]
    colour: tuple[int, int, int] | None = None
    steps: int = 2
    halo: int = 0
    quality: int = 85

    @property
    def ending(self) -> str:
        """What the names of its files end with."""
        return "png" if self.colour else "jpg"

    def pane(self, plane: int, level: int, window: Window) -> bytes | None:
        """Draw a window (y, x) of a plane of a level, as a file; None if it would be empty."""
        array = self.volume.levels[level]
        wide = window.expand((self.halo, self.halo)).clip(array.shape[-2:])
        # A slice for the plane: zarrs takes windows of one line for other axes than they are.
        place: Any = (..., slice(plane, plane + 1), *wide.slices)
        data = np.asarray(array[place])
        drawn = self.draw(data.reshape(-1, *wide.shape))[window.within(wide).slices]
        file = io.BytesIO()
        if self.colour is None:
            Image.fromarray(np.ascontiguousarray(drawn)).save(file, "JPEG", quality=self.quality)
        elif not drawn.any():
            return None
        else:
            picture = Image.fromarray(np.ascontiguousarray(drawn), "P")
            picture.putpalette(self.colour * self.steps)
            alpha = bytes(255 * step // (self.steps - 1) for step in range(self.steps))
            picture.save(file, "PNG", transparency=alpha)
        return file.getvalue()


def open_layers(image: Path, probabilities: Path, instances: Path, quality: int) -> list[Layer]:
    """Open the stores of a sample as layers, the lowest first.

    Parameters
    ----------
    image, probabilities, instances : Path
        Stores; the truth, if there is one, is in that of the image.
    quality : int
        Of the image's panes, 1 to 95.

    Returns
    -------
    list of Layer
        Image, a layer per channel of the probabilities, outlines of the truth if there is one, and
        of the instances.

    Raises
    ------
    ValueError
        If a store is missing or unfinished, or they do not cover the same voxels.
    """
    shown, maps, found = (open_volume(path) for path in (image, probabilities, instances))
    layers = [Layer("image", "Image", shown, _stretching(shown), quality=quality)]
    layers += _probabilities(maps)
    if (image / "labels" / "truth" / "zarr.json").is_file():
        truth = open_volume(image, "truth")
        # A line on both sides of the edge: it shows on either side of one drawn inside.
        draw = partial(draw_edges, ignored=truth.attributes.get("ignored"))
        layers.append(Layer("truth", "True outlines", truth, draw, TRUE, halo=1))
    layers.append(Layer("instances", "Predicted outlines", found, draw_outlines, PREDICTED, halo=1))
    for layer in layers[1:]:
        if layer.volume.shape != shown.shape:
            raise ValueError(
                f"{layer.volume.path} has shape {layer.volume.shape}, the image {shown.shape}: one "
                "of them is out of date; run the stages from convert on again with --forcerun "
                "convert."
            )
    return layers


def _probabilities(maps: Volume) -> Iterator[Layer]:
    names = maps.attributes["channels"]
    for channel, (name, colour) in enumerate(zip(names, CHANNELS, strict=False)):
        title = "Probability" if len(names) == 1 else f"Probability: {name}"
        draw = partial(draw_probability, channel=channel)
        yield Layer(f"probability-{channel}", title, maps, draw, colour, STEPS)


def _stretching(image: Volume) -> Callable[[NDArray[Any]], Bytes]:
    if "statistics" not in image.attributes:
        raise ValueError(
            f"{image.path} has no statistics, which say what is black and white: make it again "
            f"with `snakemake --cores all --forcerun convert`"
        )
    offset, scale = intensity_window(image.attributes["statistics"], STRETCH)
    if image.channels == 3 and image.array.dtype == np.uint8:
        # Photographs in colour: one range for all channels, which keeps the hues.
        low, high = offset.min(), (offset + 1 / scale).max()
        offset, scale = np.full_like(offset, low), np.full_like(scale, 1 / (high - low))
    return partial(draw_image, offset=offset, scale=scale)


def draw_image(
    data: NDArray[Any], offset: NDArray[np.float32], scale: NDArray[np.float32]
) -> Bytes:
    """Stretch intensities, shape (c, y, x): ``(data - offset) * scale`` from 0 to 1 is shown.

    One channel becomes grey; two become magenta and green; the first three of more become red,
    green and blue.

    Examples
    --------
    >>> draw_image(np.array([[[0, 5, 20]]]), np.zeros(1, "f4"), np.full(1, 0.1, "f4"))
    array([[  0, 127, 255]], dtype=uint8)
    """
    channels = [
        (np.clip((channel.astype(np.float32) - low) * factor, 0, 1) * 255).astype(np.uint8)
        for channel, low, factor in zip(data[:3], offset, scale, strict=False)
    ]
    if len(channels) == 1:
        return channels[0]
    if len(channels) == 2:
        channels = [channels[0], channels[1], channels[0]]
    return np.stack(channels, axis=-1)


def draw_probability(data: Bytes, channel: int) -> Bytes:
    """Round one channel of probabilities, shape (c, y, x), to `STEPS` steps.

    Examples
    --------
    >>> draw_probability(np.array([[[0, 8, 9, 128, 255]]], np.uint8), 0)
    array([[ 0,  0,  1,  8, 15]], dtype=uint8)
    """
    return ((data[channel].astype(np.uint16) * (STEPS - 1) + 127) // 255).astype(np.uint8)


def draw_outlines(labels: NDArray[np.integer]) -> Bytes:
    """Mark the pixels of instances at their edge, shape (1, y, x); the plane's edge is none.

    Examples
    --------
    >>> draw_outlines(np.array([[[0, 7, 7, 7, 0, 0]]]))
    array([[0, 1, 0, 1, 0, 0]], dtype=uint8)
    """
    return boundaries(labels[0], background=True).astype(np.uint8)


def draw_edges(labels: NDArray[np.integer], ignored: int | None = None) -> Bytes:
    """Mark the pixels on both sides of the edges of instances, shape (1, y, x).

    Pixels of the id `ignored`, whose truth is not known, are like background.

    Examples
    --------
    >>> draw_edges(np.array([[[0, 7, 7, 7, 0, 0, 9, 9]]]), ignored=9)
    array([[1, 1, 0, 1, 1, 0, 0, 0]], dtype=uint8)
    """
    plane = labels[0] if ignored is None else np.where(labels[0] == ignored, 0, labels[0])
    marked = np.zeros(plane.shape, np.uint8)
    down, right = plane[:-1] != plane[1:], plane[:, :-1] != plane[:, 1:]
    marked[:-1] |= down
    marked[1:] |= down
    marked[:, :-1] |= right
    marked[:, 1:] |= right
    return marked
