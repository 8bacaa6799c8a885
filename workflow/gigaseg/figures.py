"""Pictures for the report: arrays in, bytes out.

Every function here is deterministic: the same arrays give the same bytes, so that a report
repeats. Nothing here knows files or stores.
"""

import base64
import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from .faults import KINDS, Faults
from .labels import boundaries

Bytes = NDArray[np.uint8]

QUALITY = 82  # of 100: at 100 % zoom the difference is not seen

#: Colours of the four kinds of error: Okabe and Ito's palette, told apart by colour-blind eyes.
#: Objects that exist on one side only are hatched as well, so colour is never the only sign.
FAULT_COLOURS: dict[str, tuple[int, int, int]] = {
    "split": (240, 228, 66),
    "merged": (86, 180, 233),
    "missed": (213, 94, 0),
    "invented": (204, 121, 167),
}

_GROUND = (24, 30, 34)  # behind labels
_FAULTLESS = (150, 158, 162)
_MARK = (255, 214, 10)  # lines that say where something lies
GAP = 4  # px between sections

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
    rgb[labels == 0] = _GROUND
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
    hatch = _hatch(truth.shape)
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


def colour_faults(
    truth: NDArray[np.integer], instances: NDArray[np.integer], faults: Faults
) -> tuple[Bytes, Bytes]:
    """Show truth and instances in grey, and the objects at fault in the colour of their kind.

    Parameters
    ----------
    truth, instances : array of int, shape (y, x)
        Labels, 0 is background.
    faults : Faults

    Returns
    -------
    pair of array of uint8, shape (y, x, 3)
        Truth: split and missed objects (hatched), and what lies in a merged instance. Instances:
        merged and invented ones (hatched), and what lies in a split object.

    Examples
    --------
    >>> none = np.array([], np.uint64)
    >>> faults = Faults(split=np.array([2], np.uint64), merged=none, missed=none, invented=none)
    >>> true, found = colour_faults(np.full((3, 3), 2), np.full((3, 3), 5), faults)
    >>> true[1, 1].tolist(), found[1, 1].tolist()
    ([240, 228, 66], [240, 228, 66])
    """
    in_truth = {kind: np.isin(truth, getattr(faults, kind)) for kind in ("split", "missed")}
    in_found = {kind: np.isin(instances, getattr(faults, kind)) for kind in ("merged", "invented")}
    of_truth = {"merged": in_found["merged"] & (truth != 0), **in_truth}
    of_found = {"split": in_truth["split"] & (instances != 0), **in_found}
    return _colour_kinds(truth, of_truth), _colour_kinds(instances, of_found)


def _colour_kinds(labels: NDArray[np.integer], masks: Mapping[str, NDArray[np.bool_]]) -> Bytes:
    rgb = np.full((*labels.shape, 3), _GROUND, np.float64)
    rgb[labels != 0] = _FAULTLESS
    hatch = _hatch(labels.shape)
    for kind, here in masks.items():
        rgb[here] = FAULT_COLOURS[kind]
        rgb[here & ~hatch.get(kind, here)] *= 0.55
    rgb[_outlines(labels)] *= 0.3
    return rgb.astype(np.uint8)


def _hatch(shape: tuple[int, ...]) -> dict[str, NDArray[np.bool_]]:
    """Return stripes for what exists on one side only, so that colour is never the only sign."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return {"missed": (rows + columns) % 8 < 4, "invented": (rows - columns) % 8 < 4}


def place_sections(sections: Iterable[Bytes], place: tuple[int, int, int]) -> Bytes:
    """Lay three sections through one point side by side, with fine lines where they cut each other.

    Parameters
    ----------
    sections : three arrays of uint8
        xy, xz and yz, of shapes (y, x), (z, x) and (y, z), or with a last axis of colours.
    place : (int, int, int)
        The point z, y, x in px of the sections.

    Returns
    -------
    array of uint8, shape (y + gap + z, x + gap + z, 3)
        xy with yz on its right and xz below it.
    """
    z, y, x = place
    lines = ((y, x), (z, x), (y, z))
    parts = [_crossed(part, at) for part, at in zip(sections, lines, strict=True)]
    (height, width), depth = parts[0].shape[:2], len(parts[1])
    sheet = np.full((height + GAP + depth, width + GAP + depth, 3), 255, np.uint8)
    sheet[:height, :width] = parts[0]
    sheet[height + GAP :, :width] = parts[1]
    sheet[:height, width + GAP :] = parts[2]
    return sheet


def _crossed(image: Bytes, at: tuple[int, int]) -> Bytes:
    rgb = _coloured(image).astype(np.float64)
    for line in (np.s_[at[0], :], np.s_[:, at[1]]):
        rgb[line] = rgb[line] * 0.6 + np.array(_MARK) * 0.4
    return rgb.astype(np.uint8)


def _coloured(image: Bytes) -> Bytes:
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)


def _dimmed(image: Bytes) -> NDArray[np.float64]:
    return _coloured(image).astype(np.float64) * 0.8


def frame(
    image: Bytes, top: float, left: float, bottom: float, right: float, thickness: int = 2
) -> Bytes:
    """Draw a bright rectangle (pixels, clipped to the image): where a window was cut."""
    rgb = np.array(_coloured(image))
    height, width = rgb.shape[:2]
    y0, x0 = max(int(top), 0), max(int(left), 0)
    y1, x1 = min(round(bottom), height), min(round(right), width)
    for inner in (
        np.s_[y0 : y0 + thickness, x0:x1],
        np.s_[max(y1 - thickness, y0) : y1, x0:x1],
        np.s_[y0:y1, x0 : x0 + thickness],
        np.s_[y0:y1, max(x1 - thickness, x0) : x1],
    ):
        rgb[inner] = _MARK
    return rgb


def photo_uri(image: Bytes) -> str:
    """Encode a picture of an image, (y, x) or (y, x, 3), as a WebP in a ``data:`` address.

    A tenth of the size of a PNG, and not the very pixels: for the eye.

    Examples
    --------
    >>> photo_uri(np.zeros((2, 2), np.uint8))[:23]
    'data:image/webp;base64,'
    """
    return _uri(image, quality=QUALITY, method=4)


def drawing_uri(image: Bytes) -> str:
    """Encode a picture of labels, flat colours with sharp outlines, as a lossless WebP.

    Examples
    --------
    >>> drawing_uri(np.zeros((2, 2), np.uint8))[:23]
    'data:image/webp;base64,'
    """
    return _uri(image, lossless=True, quality=60, method=4)


def _uri(image: Bytes, **how: Any) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(_coloured(image))).save(buffer, format="WEBP", **how)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
