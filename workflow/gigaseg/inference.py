"""Probabilities by overlap-tile: a trained network applied to blocks of any size, exactly."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from .geometry import Window, read_mirrored
from .lanes import Answer, Lane, Work, open_lane
from .runtime import Runtime, memory_explained
from .tiling import TileGrid
from .unet import Architecture, Network

# Rotations by multiples of 90 degrees and their mirror images: (quarter turns, transposed).
SYMMETRIES = tuple((turns, flipped) for flipped in (False, True) for turns in range(4))

Values = Tensor | np.ndarray

# Offset and scale of the normalisation, each of shape (c,).
Constants = tuple[np.ndarray, np.ndarray]

_PLAIN = Runtime("cpu", "float32")


def normalise(image: Values, offset: Values, scale: Values) -> Tensor:
    """Return ``(image - offset) * scale`` in float32, rounded after each step on every device.

    Parameters
    ----------
    image : Tensor or ndarray, shape (..., c, y, x)
        Raw intensities of any dtype, on any device.
    offset, scale : Tensor or ndarray of float32, shape (c,)
        From `gigaseg.intensity.intensity_window`.

    Returns
    -------
    Tensor of float32, same shape and device

    Examples
    --------
    >>> window = np.float32([10]), np.float32([0.5])
    >>> normalise(np.array([[[10, 12]]], dtype="u1"), *window).tolist()
    [[[0.0, 1.0]]]
    """
    raw = torch.as_tensor(image)
    offset, scale = (torch.as_tensor(n, device=raw.device)[:, None, None] for n in (offset, scale))
    return (raw.to(torch.float32) - offset) * scale


def prepare(network: Network, device: torch.device) -> Network:
    """Put a network into evaluation mode, onto a device, and into the order fastest there.

    It is changed in place, so this is done once, before threads share it.
    """
    network = network.eval().to(device)
    # Channels-last convolutions are faster on both kinds of device.
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Predictor:
    """A network and how it runs; many threads may share one, or several of one network.

    Parameters
    ----------
    network : Network or sequence of Network
        On the lane's device, as `prepare` returns it. It is not changed. Of several, an ensemble,
        the mean of the probabilities is taken; their geometry and classes must be the same.
    runtime : Runtime
        Device, precision, and whether the network is compiled.
    batch : int
        Tiles per call of the network. Every call gets this many, since another number may change
        the last bits.
    symmetries : {1, 7, 8}
        Average the probabilities over this many rotations and mirror images of each tile: the first
        of `SYMMETRIES`, so 7 leaves out the mirror image that is turned three times.
    lane : Lane, optional
        Where batches are computed, shared with others; by default one thread or the first GPU.
    """

    def __init__(
        self,
        network: Network | Sequence[Network],
        runtime: Runtime = _PLAIN,
        *,
        batch: int = 1,
        symmetries: Literal[1, 7, 8] = 1,
        lane: Lane | None = None,
    ) -> None:
        self.runtime = runtime
        self.batch = batch
        self.symmetries = SYMMETRIES[:symmetries]
        self.lane = open_lane(runtime.device) if lane is None else lane
        self.networks = (network,) if isinstance(network, nn.Module) else tuple(network)
        check_ensemble([network.architecture for network in self.networks])
        self._calls: list[Callable[[Tensor], Tensor]] = list(self.networks)
        if runtime.compiled:
            self._calls = [torch.compile(network, dynamic=False) for network in self.networks]

    @property
    def architecture(self) -> Architecture:
        """Shape of the network; of several, of the first."""
        return self.networks[0].architecture

    def probabilities(
        self, data: np.ndarray, grid: TileGrid, constants: Constants | None = None
    ) -> np.ndarray:
        """Predict a block of whole steps.

        Parameters
        ----------
        data : ndarray, shape (c, y + 2 * halo, x + 2 * halo)
            Raw intensities of any dtype; y and x are multiples of the grid's step.
        grid : TileGrid
            The volume's tiles, of the network's geometry.
        constants : (offset, scale), each ndarray of float32, shape (c,), optional
            Of the normalisation, which each tile undergoes on the device; see `normalise`. None
            for data that are normalised already.

        Returns
        -------
        ndarray of float32, shape (classes - 1, y, x)
            Probabilities of all classes but the first.

        Raises
        ------
        ValueError
            If the network returns something that is not finite, or the grid is another network's.
        RuntimeError
            If a batch does not fit into the memory of the device; names the settings to lower.
        """
        return self._predict(data, grid, constants, np.dtype(np.float32))

    def quantised(
        self, data: np.ndarray, grid: TileGrid, constants: Constants | None = None
    ) -> np.ndarray:
        """Do the same in uint8, as ``round(255 * p)``."""
        return self._predict(data, grid, constants, np.dtype(np.uint8))

    def _predict(
        self, data: np.ndarray, grid: TileGrid, constants: Constants | None, dtype: np.dtype
    ) -> np.ndarray:
        architecture = self.architecture
        shape = tuple(n - 2 * grid.halo for n in data.shape[1:])
        _check_grid(grid, architecture, shape)
        result = np.empty((architecture.classes - 1, *shape), dtype)
        work = partial(self._forward, step=grid.step, constants=constants, dtype=dtype)
        tiles = list(grid.tiles(shape))
        # A GPU lacks memory when it is given a batch, a CPU when it is asked for the answer.
        with memory_explained(self._advice(grid)):
            self._fill(result, data, tiles, work)
        return result

    def _fill(
        self,
        result: np.ndarray,
        data: np.ndarray,
        tiles: Sequence[tuple[Window, Window]],
        work: Work,
    ) -> None:
        """Write the output windows of all tiles into the block."""
        under_way: deque[tuple[list[Window], list[np.ndarray], Answer]] = deque()
        for first in range(0, len(tiles), self.batch):
            group = tiles[first : first + self.batch]
            images = [data[(slice(None), *read.slices)] for read, _ in group]
            images += images[-1:] * (self.batch - len(group))
            answer = self.lane.submit(work, images)
            under_way.append(([write for _, write in group], images, answer))
            if len(under_way) > self.lane.ahead:
                _place(result, *under_way.popleft())
        while under_way:
            _place(result, *under_way.popleft())

    def _advice(self, grid: TileGrid) -> str:
        """Say what to lower if the device has too little memory for a batch."""
        many = "a tile" if self.batch == 1 else f"{self.batch} tiles at once"
        return (
            f"the memory of the {self.lane.device.type} device is too small to predict {many} of "
            f"{grid.tile} px: lower prediction.memory_gb (with tile: auto), prediction.tile or "
            f"prediction.batch"
        )

    def _forward(
        self, images: Tensor, step: int, constants: Constants | None, dtype: np.dtype
    ) -> tuple[Tensor, Tensor]:
        """Return the output windows of a batch of tiles, and whether all of them are finite."""
        if constants is not None:
            images = normalise(images, *constants)
        views = [
            self._view(call, images, step, symmetry)
            for call in self._calls
            for symmetry in self.symmetries
        ]
        mean = sum(views[1:], views[0]) / len(views)
        finite = mean.sum().isfinite()  # probabilities are too small for their sum to overflow
        if dtype == np.uint8:
            mean = (255 * mean).round().to(torch.uint8)
        return mean, finite

    def _view(
        self,
        call: Callable[[Tensor], Tensor],
        images: Tensor,
        step: int,
        symmetry: tuple[int, bool],
    ) -> Tensor:
        """Predict tiles turned about their centres, turn back, and cut out the output windows."""
        turned = _turn(images, symmetry).contiguous(memory_format=torch.channels_last)
        with self.runtime.autocast():
            logits = call(turned)
        answer = _turn_back(logits.float().softmax(dim=1)[:, 1:], symmetry)
        # What zero padding returns includes the context.
        geometry = self.architecture.geometry
        margin = geometry.context if geometry.padding == "same" else 0
        window = slice(margin, margin + step)
        return answer[..., window, window]


def predict_image(predictor: Predictor, image: np.ndarray, grid: TileGrid) -> np.ndarray:
    """Predict one plane that is in memory, mirrored at its edges.

    Parameters
    ----------
    predictor : Predictor
        What to predict with.
    image : ndarray of float32, shape (c, y, x)
        Normalised intensities.
    grid : TileGrid
        The tiles to cut it into; they decide about rounding only.

    Returns
    -------
    ndarray of float32, shape (classes - 1, y, x)
        Probabilities of all classes but the first.
    """
    window = Window.whole(image.shape[1:]).align((grid.step,) * 2).expand((grid.halo,) * 2)
    result = predictor.probabilities(read_mirrored(image, window), grid)
    return result[:, : image.shape[1], : image.shape[2]]


def check_ensemble(architectures: Sequence[Architecture]) -> None:
    """Raise ValueError unless the probabilities of some networks can be averaged, tile by tile."""
    first = architectures[0]
    for other in architectures[1:]:
        for name in ("in_channels", "classes", "geometry"):
            if getattr(first, name) != getattr(other, name):
                raise ValueError(
                    f"the networks of an ensemble must agree in {name}, not have "
                    f"{getattr(first, name)} and {getattr(other, name)}"
                )


def _check_grid(grid: TileGrid, architecture: Architecture, shape: tuple[int, ...]) -> None:
    if grid.geometry != architecture.geometry:
        raise ValueError(
            f"the grid is made for {grid.geometry}, the network is of {architecture.geometry}: "
            f"make the grid from the network's geometry"
        )
    if any(n < 1 or n % grid.step for n in shape):
        raise ValueError(f"a block of {shape} px is not a multiple of step {grid.step}")


def _turn(images: Tensor, symmetry: tuple[int, bool]) -> Tensor:
    turns, flipped = symmetry
    images = images.transpose(-2, -1) if flipped else images
    return images.rot90(turns, (-2, -1))


def _turn_back(images: Tensor, symmetry: tuple[int, bool]) -> Tensor:
    turns, flipped = symmetry
    images = images.rot90(-turns, (-2, -1))
    return images.transpose(-2, -1) if flipped else images


def _place(
    result: np.ndarray, windows: list[Window], images: list[np.ndarray], answer: Answer
) -> None:
    """Wait for a batch and write its output windows into the block."""
    probabilities, finite = answer.result()
    if not finite:
        raise ValueError(_blame(images))
    for window, values in zip(windows, probabilities, strict=False):
        result[(slice(None), *window.slices)] = values


def _blame(images: list[np.ndarray]) -> str:
    """Say whether the image or the network is at fault."""
    if not all(np.isfinite(image).all() for image in images):
        return "the image holds values that are not finite: replace NaN and infinity by numbers"
    return (
        "the network returns values that are not finite for a finite image: try "
        "prediction.precision: float32, or train again with a lower training.learning_rate"
    )
