"""From what was read to what the network sees: deformed, blurred, brightened, on the device.

One path for CPU and GPU. Each tile is rendered by itself and never as part of a batch: the last
bits of a vectorised function depend on where in an array a value stands, and a tile must not change
with the tiles beside it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .augmentation import blur_radius
from .classes import IGNORED
from .deformation import SMOOTH, Deformation, cubic_weights, reach_of
from .geometry import Window
from .sampling import Crop, TileSource

Arrays = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Tile:
    """What the network reads, and what it should answer on the output window.

    Attributes
    ----------
    image : Tensor of float32, shape (c, n, n)
        Normalised input tile.
    labels : Tensor of int64, shape (m, m)
        Class of each pixel, or 255 for ignored.
    weights : Tensor of float32, shape (m, m)
        w(x) of the loss: class balance plus separation; 0 where ignored.
    origin : str
        Where it was read, for messages.
    """

    image: Tensor
    labels: Tensor
    weights: Tensor
    origin: str


class Renderer:
    """Renders the crops of a source on one device.

    Parameters
    ----------
    source : TileSource
        Whose crops these are; it knows sizes, classes and their weights.
    device : torch.device, optional
        Where the tiles are made and stay; the CPU by default.
    """

    def __init__(self, source: TileSource, device: torch.device | None = None) -> None:
        self.tile, self.output = source.tile, source.output
        self._device = torch.device("cpu") if device is None else device
        self._class_of = torch.from_numpy(source.class_of).to(self._device)
        self._weight_of = torch.from_numpy(source.weight_of).to(self._device)

    def upload(self, crop: Crop) -> dict[str, Tensor]:
        """Begin to move the arrays of a crop to the device, and do not wait for it."""
        return {name: self._move(array) for name, array in _arrays(crop)}

    def render(self, crop: Crop, arrays: Arrays) -> Tile:
        """Turn a crop, whose arrays are on the device, into a tile."""
        image, values = arrays["image"].float(), arrays["target"]
        separation = arrays.get("separation")
        if crop.variation is not None:
            margin = crop.variation.margin
            field = coordinates(crop.variation.deformation, self.tile + 2 * margin, self._device)
            image = read_bicubic(image, _within(crop.image_window, field))
            first = (self.tile - self.output) // 2 + margin
            inner = field[:, first : first + self.output, first : first + self.output]
            inner = _within(crop.answer_window, inner)
            values = read_nearest(values, inner)
            separation = None if separation is None else read_bilinear(separation, inner)
        image = (image - arrays["offset"]) * arrays["scale"]
        if crop.variation is not None:
            image = vary(image, crop.variation.blur, arrays)
        labels = self._class_of[values.long()]
        weights = self._weight_of[labels]
        if separation is not None:
            weights = weights + separation * (labels != IGNORED)
        return Tile(image, labels, weights, crop.origin)

    def _move(self, array: np.ndarray) -> Tensor:
        # Torch knows no foreign byte order, and warns of arrays that are read-only.
        native = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
        tensor = torch.from_numpy(np.ascontiguousarray(native))
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)


def _arrays(crop: Crop) -> Iterator[tuple[str, np.ndarray]]:
    yield from (("image", crop.image), ("target", crop.target))
    yield from (("offset", crop.offset[:, None, None]), ("scale", crop.scale[:, None, None]))
    if crop.separation is not None:
        yield "separation", crop.separation
    if crop.variation is None:
        return
    for name in ("gamma", "gain", "brightness"):
        yield name, getattr(crop.variation, name)[:, None, None]
    if crop.variation.noise is not None:
        yield "noise", crop.variation.noise


def coordinates(deformation: Deformation, size: int, device: torch.device | None = None) -> Tensor:
    """Return where each pixel of a square tile is read.

    Parameters
    ----------
    deformation : Deformation
        If it has vectors, drawn for tiles of at least this size.
    size : int
        Extent of the tile in px.
    device : torch.device, optional
        Where the result is computed.

    Returns
    -------
    Tensor of float32, shape (2, size, size)
        In px (y, x), counted from the voxel on which the tile is centred.

    Raises
    ------
    ValueError
        If the nodes do not reach around a tile of this size.

    Examples
    --------
    >>> coordinates(Deformation(flips=(False, True)), 4)[1, 0].tolist()
    [2.0, 1.0, -0.0, -1.0]
    """
    place = torch.arange(size, dtype=torch.float32, device=device) - size // 2
    field = torch.stack(
        [(y * place)[:, None] + (x * place)[None, :] for y, x in deformation.matrix.tolist()]
    )
    if deformation.vectors is None:
        return field
    vectors = torch.from_numpy(deformation.vectors).to(field.device)
    weights = node_weights(size, deformation.spacing, vectors.shape[-1]).to(field.device)
    return field + weights @ vectors @ weights.T


@cache
def node_weights(size: int, spacing: float, nodes: int) -> Tensor:
    """Return the weights of bicubic interpolation between nodes.

    Parameters
    ----------
    size : int
        Extent of a line in px.
    spacing : float
        Distance of the nodes in px; node ``nodes // 2 - 1`` lies on the centre pixel.
    nodes : int
        Their number.

    Returns
    -------
    Tensor of float32, shape (size, nodes)

    Examples
    --------
    >>> node_weights(3, 2.0, 6)[0].tolist()
    [-0.0625, 0.5625, 0.5625, -0.0625, 0.0, 0.0]
    """
    needed = 2 * reach_of(size, spacing) + 4
    if nodes < needed:
        raise ValueError(
            f"{nodes} nodes do not cover {size} px at a spacing of {spacing:g} px: bicubic "
            f"interpolation needs {needed}"
        )
    position = (np.arange(size) - size // 2) / spacing
    node = np.floor(position)
    first = node.astype(np.int64) + nodes // 2 - 2
    weights = np.zeros((size, nodes), np.float32)
    for tap, values in enumerate(cubic_weights((position - node).astype(np.float32), SMOOTH)):
        weights[np.arange(size), first + tap] = values
    return torch.from_numpy(weights)


def read_bicubic(image: Tensor, where: Tensor) -> Tensor:
    """Read an image at fractional coordinates by bicubic convolution.

    Bilinear would take away a third of the noise's strength, and the network would learn from
    smoother images than it reads later.

    Parameters
    ----------
    image : Tensor of float32, shape (c, y, x)
    where : Tensor of float32, shape (2, v, u)
        Rows and columns of the image.

    Returns
    -------
    Tensor of float32, shape (c, v, u)
        Keys' convolution with `deformation.SHARP`, to 1e-4 of the image's range.
    """
    return _read(image, where, "bicubic")


def read_bilinear(values: Tensor, where: Tensor) -> Tensor:
    """Read values of shape (y, x) at fractional coordinates (2, v, u), as `read_bicubic` does."""
    return _read(values[None], where, "bilinear")[0]


def read_nearest(values: Tensor, where: Tensor) -> Tensor:
    """Read codes of shape (y, x) of any type at the voxels nearest to coordinates (2, v, u).

    Examples
    --------
    >>> read_nearest(torch.tensor([[1, 2]]), torch.tensor([[[0.2]], [[0.6]]])).tolist()
    [[2]]
    """
    y, x = where.round().long()
    return values[y, x]


def _read(image: Tensor, where: Tensor, mode: str) -> Tensor:
    spans = [2 / (extent - 1) for extent in image.shape[1:]]
    grid = torch.stack([where[1] * spans[1] - 1, where[0] * spans[0] - 1], dim=-1)
    return functional.grid_sample(
        image[None], grid[None], mode=mode, padding_mode="border", align_corners=True
    )[0]


def _within(window: Window, field: Tensor) -> Tensor:
    """Count coordinates from the start of a window."""
    return field - torch.tensor(window.start, device=field.device)[:, None, None]


def vary(image: Tensor, sigma: float, arrays: Arrays) -> Tensor:
    """Blur an image, change its grey values and add noise, see `augmentation.Variation`.

    Parameters
    ----------
    image : Tensor of float32, shape (c, n + 2 r, n + 2 r)
        Normalised, with the ``r = blur_radius(sigma)`` pixels beyond the tile that the blur reads.
    sigma : float
        Of the blur, in px.
    arrays : mapping of Tensor
        ``gamma``, ``gain``, ``brightness``, shape (c, 1, 1), and perhaps ``noise``, (c, n, n).

    Returns
    -------
    Tensor of float32, shape (c, n, n)
    """
    image = blur(image, sigma)
    image = image.sign() * image.abs() ** arrays["gamma"]
    image = arrays["gain"] * image + arrays["brightness"]
    return image + arrays["noise"] if "noise" in arrays else image


def blur(image: Tensor, sigma: float) -> Tensor:
    """Convolve with a Gaussian cut off at `augmentation.blur_radius`, and crop by that radius.

    Parameters
    ----------
    image : Tensor of float32, shape (c, y, x)
    sigma : float
        Standard deviation in px; 0 leaves the image as it is.

    Examples
    --------
    >>> blur(torch.ones(1, 9, 9), 1.0).shape
    torch.Size([1, 3, 3])
    """
    radius = blur_radius(sigma)
    if radius == 0:
        return image
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).tolist()
    for axis in (1, 2):
        length = image.shape[axis] - 2 * radius
        total = image.narrow(axis, 0, length) * taps[0]
        for k, tap in enumerate(taps[1:], start=1):
            total.add_(image.narrow(axis, k, length), alpha=tap)
        image = total
    return image
