"""Pictures for the report: arrays in, bytes out.

Every function here is deterministic: the same arrays give the same bytes, so that a report
repeats. Nothing here knows files or stores.
"""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from .faults import KINDS, Faults
from .labels import boundaries

Bytes = NDArray[np.uint8]

#: Colours of the four kinds of error: Okabe and Ito's palette, told apart by colour-blind eyes.
#: Objects that exist on one side only are hatched as well, so colour is never the only sign.
FAULT_COLOURS: dict[str, tuple[int, int, int]] = {
    "split": (240, 228, 66),
    "merged": (86, 180, 233),
    "missed": (213, 94, 0),
    "invented": (204, 121, 167),
}

#: Colours of instances: neighbours in id differ clearly, none is as dark as the background.
_INSTANCE_COLOURS = np.array(
    [
        (102, 194, 165), (252, 141, 98), (141, 160, 203), (231, 138, 195), (166, 216, 84),
        (255, 217, 47), (229, 196, 148), (127, 201, 246), (190, 174, 212), (253, 192, 134),
        (120, 220, 200), (240, 128, 128),
    ],
    dtype=np.uint8,
)  # fmt: skip


def stretch(image: NDArray[np.generic], low: float = 0.5, high: float = 99.8) -> Bytes:
    """Make an image visible: stretch each channel between two percentiles to 0..255.

    Parameters
    ----------
    image : array, shape (c, y, x)
        Any real dtype. One channel becomes grey; two become magenta and green; the first three of
        more become red, green and blue.
    low, high : float
        Percentiles of the finite values shown that become black and white.

    Returns
    -------
    array of uint8, shape (y, x) or (y, x, 3)

    Examples
    --------
    >>> stretch(np.array([[[0.0, 5.0, 10.0]]]), 0, 100)
    array([[  0, 127, 255]], dtype=uint8)
    """
    channels = [_stretch_channel(channel, low, high) for channel in image[:3]]
    if len(channels) == 1:
        return channels[0]
    if len(channels) == 2:
        channels = [channels[0], channels[1], channels[0]]
    return np.stack(channels, axis=-1)


def _stretch_channel(channel: NDArray[np.generic], low: float, high: float) -> Bytes:
    values = channel.astype(np.float64)
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return np.zeros(channel.shape, np.uint8)
    black, white = np.percentile(finite, [low, high])
    scaled = (np.nan_to_num(values, nan=black) - black) / max(white - black, 1e-12)
    return (np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def _outlines(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    return boundaries(labels, background=True)


def colour_instances(labels: NDArray[np.integer]) -> Bytes:
    """Give each instance of a 2-D label array a colour and a dark outline.

    Returns
    -------
    array of uint8, shape (y, x, 3)
        The colour depends on the id alone, so an instance keeps it from window to window.
    """
    # Multiplying by a large odd number scatters ids that follow each other in raster order.
    shade = (labels.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    rgb = _INSTANCE_COLOURS[(shade % np.uint64(len(_INSTANCE_COLOURS))).astype(np.intp)]
    rgb = np.where(_outlines(labels)[..., None], rgb // 3, rgb)
    rgb[labels == 0] = (24, 30, 34)
    return rgb


def lay_over(image: Bytes, labels: NDArray[np.integer], strength: float = 0.45) -> Bytes:
    """Lay coloured instances over an image, shape (y, x) or (y, x, 3)."""
    base = _dimmed(image)
    colours = colour_instances(labels).astype(np.float64)
    mixed = base * (1 - strength) + colours * strength
    return np.where((labels != 0)[..., None], mixed, base).astype(np.uint8)


def mark_faults(
    image: Bytes, truth: NDArray[np.integer], instances: NDArray[np.integer], faults: Faults
) -> Bytes:
    """Mark split, merged, missed and invented objects over an image.

    Parameters
    ----------
    image : array of uint8, shape (y, x) or (y, x, 3)
    truth, instances : array of int, shape (y, x)
        Labels, 0 is background.
    faults : Faults
        From `gigaseg.faults.find_faults`.

    Returns
    -------
    array of uint8, shape (y, x, 3)
        White lines are the outlines of the truth; black lines inside a marked object are the
        outlines of the instances. Missed and invented objects are hatched, and a ring of 2 px
        around every marked object keeps small ones from being overlooked.
    """
    rgb = _dimmed(image)
    rows, columns = np.ogrid[: truth.shape[0], : truth.shape[1]]
    hatch = {"missed": (rows + columns) % 8 < 4, "invented": (rows - columns) % 8 < 4}
    marked = np.zeros(truth.shape, bool)
    for kind in KINDS:
        labels = instances if kind in ("merged", "invented") else truth
        here = np.isin(labels, getattr(faults, kind))
        strength = np.where(hatch.get(kind, True), 0.7, 0.2)[..., None] * here[..., None]
        rgb = rgb * (1 - strength) + np.array(FAULT_COLOURS[kind]) * strength
        rgb[ndimage.binary_dilation(here, iterations=2) & ~here] = FAULT_COLOURS[kind]
        marked |= here
    rgb[_outlines(instances) & marked] = (0, 0, 0)
    rgb[_outlines(truth)] = (255, 255, 255)
    return rgb.astype(np.uint8)


def _dimmed(image: Bytes) -> NDArray[np.float64]:
    rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)
    return rgb.astype(np.float64) * 0.8


def frame(
    image: Bytes, top: float, left: float, bottom: float, right: float, thickness: int = 2
) -> Bytes:
    """Draw a bright rectangle (pixels, clipped to the image): where a window was cut."""
    rgb = (image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)).copy()
    height, width = rgb.shape[:2]
    y0, x0 = max(int(top), 0), max(int(left), 0)
    y1, x1 = min(round(bottom), height), min(round(right), width)
    for inner in (
        np.s_[y0 : y0 + thickness, x0:x1],
        np.s_[max(y1 - thickness, y0) : y1, x0:x1],
        np.s_[y0:y1, x0 : x0 + thickness],
        np.s_[y0:y1, max(x1 - thickness, x0) : x1],
    ):
        rgb[inner] = (255, 214, 10)
    return rgb


def png_uri(image: Bytes) -> str:
    """Encode a grey (y, x) or colour (y, x, 3) array as a PNG in a ``data:`` address.

    Examples
    --------
    >>> png_uri(np.zeros((2, 2), np.uint8))[:22]
    'data:image/png;base64,'
    """
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
