"""Random variation of training tiles as the settings ask for it: where and how bright."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .deformation import Deformation


def draw_deformation(
    random: np.random.Generator, tile: int, augmentation: Mapping[str, Any]
) -> Deformation:
    """Draw a deformation of a square tile.

    Parameters
    ----------
    random : numpy.random.Generator
        See `deformation.generator`.
    tile : int
        Extent of the input tile in px.
    augmentation : mapping
        ``flips`` (bool), ``rotation`` (degrees), ``elastic`` (``spacing`` and ``sigma`` in px);
        what is left out is not done.
    """
    elastic = augmentation.get("elastic", {"spacing": 190.0, "sigma": 0.0})
    return Deformation.draw(
        random,
        (tile, tile),
        flips=augmentation.get("flips", False),
        rotation=augmentation.get("rotation", 0.0),
        spacing=elastic["spacing"],
        sigma=elastic["sigma"],
    )


def vary(
    image: np.ndarray, random: np.random.Generator, augmentation: Mapping[str, Any]
) -> np.ndarray:
    """Vary grey values: ``gain * sign(v) |v|**gamma + offset + noise``.

    Parameters
    ----------
    image : ndarray of float32, shape (c, y, x)
        Normalised tile.
    random : numpy.random.Generator
        See `deformation.generator`.
    augmentation : mapping
        Largest variations, 0 if left out. Per channel, ``gain`` and ``gamma`` are drawn from
        ``exp(U(-a, a))`` and ``offset`` from ``U(-a, a)``; the standard deviation of the noise is
        drawn from ``U(0, a)``. Units are those of the normalised image.

    Returns
    -------
    ndarray of float32, shape (c, y, x)

    Examples
    --------
    >>> image = np.full((1, 2, 2), 0.5, np.float32)
    >>> bool((vary(image, np.random.default_rng(1), {}) == image).all())
    True
    """
    shape = (len(image), 1, 1)
    # All are drawn in any case, so that switching one off leaves the others as they are.
    gain, gamma, offset = (
        random.uniform(-1, 1, shape).astype(np.float32) * np.float32(augmentation.get(key, 0.0))
        for key in ("gain", "gamma", "offset")
    )
    strength = np.float32(random.uniform(0, 1) * augmentation.get("noise", 0.0))
    if gamma.any():
        image = np.sign(image) * np.abs(image) ** np.exp(gamma)
    image = image * np.exp(gain) + offset
    if strength:
        image += strength * random.standard_normal(image.shape, dtype=np.float32)
    return image
