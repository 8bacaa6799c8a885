"""Random variation of training tiles as the settings ask for it: where and how bright.

Drawn here, on the CPU and from the tile's key alone; applied by `rendering`, on the device.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from .deformation import Deformation

_STILL = {"spacing": 190.0, "sigma": 0.0}


@dataclass(frozen=True, eq=False)
class Variation:
    """What is done to one tile, in this order: deformed, blurred, ``gain * sign(v) |v|**gamma +
    brightness``, noise added.

    The order is that of a microscope: optics blur the specimen, the detector's response follows,
    and its noise is not blurred.

    Attributes
    ----------
    deformation : Deformation
        Where its pixels are read.
    blur : float
        Standard deviation of a Gaussian in px of the tile; 0 for none.
    gamma, gain, brightness : ndarray of float32, shape (c,)
        Per channel, of the normalised image.
    noise : ndarray of float32, shape (c, n, n), or None
        Added last, normalised intensity.
    """

    deformation: Deformation
    blur: float
    gamma: np.ndarray
    gain: np.ndarray
    brightness: np.ndarray
    noise: np.ndarray | None

    @property
    def margin(self) -> int:
        """Pixels beyond the tile that the blur reads."""
        return blur_radius(self.blur)


def blur_radius(sigma: float) -> int:
    """Return where a Gaussian is cut off: at three standard deviations.

    Examples
    --------
    >>> blur_radius(0.5)
    2
    """
    return ceil(3 * sigma)


def draw_variation(
    random: np.random.Generator, channels: int, tile: int, augmentation: Mapping[str, Any]
) -> Variation:
    """Draw the variation of a tile.

    Parameters
    ----------
    random : numpy.random.Generator
        See `deformation.generator`.
    channels : int
        Number of image channels.
    tile : int
        Extent of the input tile in px.
    augmentation : mapping
        ``flips`` (bool), ``rotation`` (degrees), ``scale``, ``elastic`` (``spacing`` and ``sigma``
        in px), ``blur`` (px), ``gamma``, ``gain``, ``offset``, ``noise``: the largest variations a.
        What is left out is not done. ``scale`` and, per channel, ``gain`` and ``gamma`` are drawn
        from ``exp(U(-a, a))``, ``offset`` from ``U(-a, a)``, the standard deviation of the noise
        from ``U(0, a)``, that of the blur from ``max(0, U(-a, a))``: half of the tiles stay sharp.

    Returns
    -------
    Variation
        All numbers but displacements and noise are drawn in any case, so that switching one off
        leaves the others as they are.
    """
    chosen = {"flips": False, "rotation": 0.0, "scale": 0.0, **augmentation}
    largest = {key: chosen.get(key, 0.0) for key in ("blur", "gamma", "gain", "offset", "noise")}
    blur = max(0.0, float(random.uniform(-1, 1) * largest["blur"]))
    gamma, gain, offset = (
        (random.uniform(-1, 1, channels) * largest[key]).astype(np.float32)
        for key in ("gamma", "gain", "offset")
    )
    strength = np.float32(random.uniform(0, 1) * largest["noise"])
    deformation = Deformation.draw(
        random,
        tile + 2 * blur_radius(largest["blur"]),
        **{key: chosen[key] for key in ("flips", "rotation", "scale")},
        **chosen.get("elastic", _STILL),
    )
    noise = None
    if strength:
        noise = strength * random.standard_normal((channels, tile, tile), dtype=np.float32)
    return Variation(deformation, blur, np.exp(gamma), np.exp(gain), offset, noise)
