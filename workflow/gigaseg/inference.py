"""Probabilities by overlap-tile: a trained network applied to blocks of any size, exactly."""

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from .geometry import Window, read_mirrored
from .runtime import Runtime
from .tiling import TileGrid
from .unet import Architecture, UNet

logger = logging.getLogger(__name__)

# Rotations by multiples of 90 degrees and their mirror images: (quarter turns, transposed).
SYMMETRIES = tuple((turns, flipped) for flipped in (False, True) for turns in range(4))


_PLAIN = Runtime("cpu", "float32")
_GPU = threading.Lock()  # a GPU works for one thread at a time, and cuDNN's flags are global


def load_model(
    model_json: Path, checkpoint: Literal["best", "last"] = "best"
) -> tuple[UNet, dict[str, Any]]:
    """Load a trained network for prediction.

    Parameters
    ----------
    model_json : Path
        Description of the model; the weights' file names are relative to its folder.
    checkpoint : {"best", "last"}
        Which weights.

    Returns
    -------
    network : UNet
        In evaluation mode.
    metadata : dict
        Content of `model_json`.

    Raises
    ------
    ValueError
        If the model is missing, or its weights are not finite or of another architecture.
    """
    weights = model_json
    try:
        metadata = json.loads(model_json.read_text())
        weights = model_json.parent / metadata["weights"][checkpoint]
        state = load_file(weights)
    except FileNotFoundError as error:
        raise ValueError(
            f"{weights} is missing: make it again with `snakemake --cores all --forcerun train`"
        ) from error
    network = UNet(Architecture(**metadata["architecture"]))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{weights} does not fit {network.architecture}: {error}") from error
    for name, values in state.items():
        if not torch.isfinite(values).all():
            raise ValueError(f"{weights}: {name} holds values that are not finite: train again")
    return network.eval(), metadata


def normalise(image: np.ndarray, offset: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return ``(image - offset) * scale`` in float32.

    Parameters
    ----------
    image : ndarray, shape (c, ...)
        Raw intensities of any dtype.
    offset, scale : ndarray of float32, shape (c,)
        From `gigaseg.intensity.intensity_window`.

    Returns
    -------
    ndarray of float32, same shape

    Examples
    --------
    >>> window = np.float32([10]), np.float32([0.5])
    >>> normalise(np.array([[10, 12]], dtype="u1"), *window).tolist()
    [[0.0, 1.0]]
    """
    column = (-1,) + (1,) * (image.ndim - 1)
    return (image.astype(np.float32) - offset.reshape(column)) * scale.reshape(column)


class Predictor:
    """A network and how it runs; many threads may share one.

    Parameters
    ----------
    network : UNet
        Is put into evaluation mode and moved to the runtime's device, here and never later.
    runtime : Runtime
        Device and precision.
    batch : int
        Tiles per call of the network. Every call gets this many, since another number may change
        the last bits.
    symmetries : {1, 8}
        Average the probabilities over this many rotations and mirror images of each tile.
    """

    def __init__(
        self,
        network: UNet,
        runtime: Runtime = _PLAIN,
        *,
        batch: int = 1,
        symmetries: Literal[1, 8] = 1,
    ) -> None:
        self.runtime = runtime
        self.batch = batch
        self.symmetries = SYMMETRIES[:symmetries]
        # Channels-last convolutions are faster on both kinds of device.
        self.network = network.eval().to(torch.device(runtime.device))
        self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def probabilities(self, data: np.ndarray, grid: TileGrid) -> np.ndarray:
        """Predict a block of whole steps.

        Parameters
        ----------
        data : ndarray of float32, shape (c, y + 2 * halo, x + 2 * halo)
            Normalised intensities; y and x are multiples of the grid's step.
        grid : TileGrid
            The volume's tiles, of the network's geometry.

        Returns
        -------
        ndarray of float32, shape (classes - 1, y, x)
            Probabilities of all classes but the first.

        Raises
        ------
        ValueError
            If the network returns something that is not finite, or the grid is another network's.
        """
        return self._predict(data, grid, np.dtype(np.float32))

    def quantised(self, data: np.ndarray, grid: TileGrid) -> np.ndarray:
        """Do the same in uint8, as ``round(255 * p)``."""
        return self._predict(data, grid, np.dtype(np.uint8))

    def _predict(self, data: np.ndarray, grid: TileGrid, dtype: np.dtype) -> np.ndarray:
        architecture = self.network.architecture
        shape = tuple(n - 2 * grid.halo for n in data.shape[1:])
        _check_grid(grid, architecture, shape)
        result = np.empty((architecture.classes - 1, *shape), dtype)
        tiles = list(grid.tiles(shape))
        for first in range(0, len(tiles), self.batch):
            group = tiles[first : first + self.batch]
            images = [torch.from_numpy(data[(slice(None), *read.slices)]) for read, _ in group]
            images += images[-1:] * (self.batch - len(group))
            answers = self._forward(torch.stack(images), grid.step, dtype)
            for (_, write), answer in zip(group, answers, strict=False):
                result[(slice(None), *write.slices)] = answer
        return result

    def _forward(self, images: Tensor, step: int, dtype: np.dtype) -> np.ndarray:
        """Return the output windows of a batch of tiles, shape (batch, classes - 1, step, step)."""
        with torch.inference_mode(), self._turn_to_compute():
            images = images.to(self.runtime.device)
            views = [self._view(images, step, symmetry) for symmetry in self.symmetries]
            mean = sum(views[1:], views[0]) / len(views)
            if not torch.isfinite(mean).all():
                raise ValueError(_blame(images))
            if dtype == np.uint8:
                mean = (255 * mean).round().to(torch.uint8)
            return mean.cpu().numpy()

    @contextmanager
    def _turn_to_compute(self) -> Iterator[None]:
        if self.runtime.device == "cpu":
            with _one_thread():
                yield
        else:
            with _GPU, _exact_convolutions():
                yield

    def _view(self, images: Tensor, step: int, symmetry: tuple[int, bool]) -> Tensor:
        """Predict tiles turned about their centres, turn back, and cut out the output windows."""
        turned = _turn(images, symmetry).contiguous(memory_format=torch.channels_last)
        with self.runtime.autocast():
            logits = self.network(turned)
        answer = _turn_back(logits.float().softmax(dim=1)[:, 1:], symmetry)
        # What zero padding returns includes the context.
        geometry = self.network.architecture.geometry
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


def _blame(images: Tensor) -> str:
    """Say whether the image or the network is at fault."""
    if not torch.isfinite(images).all():
        return "the image holds values that are not finite: replace NaN and infinity by numbers"
    return (
        "the network returns values that are not finite for a finite image: try "
        "prediction.precision: float32, or train again with a lower training.learning_rate"
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run each operation on one thread: other numbers of threads add up in another order.

    OpenMP counts threads per calling thread, so this must be set in the thread that computes.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    """Have cuDNN choose algorithms by shape alone, and keep the full float32 mantissa."""
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        yield
