"""Generated samples with known truth: nuclei in fluorescence, membranes in electron microscopy.

They are made to be a fair task: nuclei touch and differ in brightness, so that no threshold
separates them; membranes are faint in places, and organelles are as dark as they.

Planes of nuclei wider or higher than `LARGEST_FIELD` px are a mosaic of a few fields, each drawn
once, and turned and flipped at random. They are put together as they are read, so that a plane of
any size takes the memory of its fields, and hardly more time than these and compressing the file.
No nucleus of a mosaic crosses a seam between fields; seams lie off the grids that work is cut by.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from .mosaics import Mosaic

Kind = Literal["nuclei", "membranes"]
NUCLEI_SPACING = (1.0, 0.325, 0.325)  # µm along z, y, x
MARGIN = 40  # px around the image in which nuclei are drawn too, so that its edges cut some
LARGEST_FIELD = 4096  # px; nuclei on larger planes are drawn as a mosaic
MOSAIC_FIELD = 2000  # px; blocks of work are multiples of a power of two
MOSAIC_FIELDS = 8  # distinct ones; each has eight symmetries


@dataclass(frozen=True)
class Phantom:
    """A generated sample.

    Attributes
    ----------
    image : array-like of uint16 (nuclei) or uint8 (membranes), shape (z, y, x)
        An ndarray, or a `gigaseg.mosaics.Mosaic` of a large plane.
    labels : array-like, shape (z, y, x)
        Nuclei: instance ids, uint16 or uint32. Membranes: 255 in cells, 0 on membranes, uint8.
    spacing : tuple of float
        Size of a voxel along z, y, x in micrometres.
    """

    image: np.ndarray | Mosaic
    labels: np.ndarray | Mosaic
    spacing: tuple[float, float, float]


def draw(kind: Kind, shape: Sequence[int], *, seed: int, name: str) -> Phantom:
    """Draw a sample; the same arguments give the same voxels.

    Parameters
    ----------
    kind : {"nuclei", "membranes"}
        What to draw.
    shape : sequence of int
        (z, y, x) in voxels; nuclei have one plane.
    seed : int
        Seed of the data set.
    name : str
        Name of the sample. Its random numbers depend on nothing but `seed` and `name`, so that
        adding samples changes no other.

    Raises
    ------
    ValueError
        For an unknown kind, or nuclei with several planes.

    Examples
    --------
    >>> sample = draw("nuclei", (1, 96, 96), seed=1, name="a")
    >>> sample.image.dtype, sample.labels.shape
    (dtype('uint16'), (1, 96, 96))
    """
    depth, height, width = shape
    drawers = {"nuclei": _draw_nuclei, "membranes": _draw_membranes}
    if kind not in drawers:
        raise ValueError(f"there is no phantom of kind {kind!r}: choose one of {sorted(drawers)}")
    if kind == "nuclei" and depth != 1:
        raise ValueError(f"nuclei are drawn on one plane, not {depth}: use shape [1, y, x]")
    key = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(key, np.uint32))
    return drawers[kind](rng, (depth, height, width))


@dataclass(frozen=True)
class _Nucleus:
    """An ellipse with a wavy outline."""

    centre: np.ndarray  # y, x
    axes: np.ndarray
    angle: float
    waves: np.ndarray  # amplitude, phase of the harmonics 2, 3, 4
    brightness: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> "_Nucleus":
        size, stretch = rng.normal(13.5, 2.2), rng.uniform(1.0, 1.35)
        axes = np.clip(size, 8, 20) * np.array([stretch, 1 / stretch])
        waves = np.stack([rng.normal(0, [0.05, 0.04, 0.02]), rng.uniform(0, 2 * np.pi, 3)], axis=1)
        brightness = float(np.clip(rng.lognormal(0, 0.35), 0.55, 2.2))
        return cls(np.zeros(2), axes, rng.uniform(0, np.pi), waves, brightness)

    def radius(self, direction: np.ndarray | float) -> np.ndarray:
        """Distance from centre to outline in a direction (radians)."""
        t = np.asarray(direction) - self.angle
        ellipse = 1 / np.hypot(np.cos(t) / self.axes[0], np.sin(t) / self.axes[1])
        wavy = sum(a * np.cos(k * t + phase) for k, (a, phase) in enumerate(self.waves, 2))
        return ellipse * (1 + wavy)

    def at(self, centre: np.ndarray) -> "_Nucleus":
        return _Nucleus(centre, self.axes, self.angle, self.waves, self.brightness)

    def is_within(self, shape: Sequence[int]) -> bool:
        """Say whether the nucleus and a little around it lie in an image of this shape."""
        reach = 1.3 * self.axes.max()
        return bool(
            (self.centre >= reach).all() and (self.centre <= np.subtract(shape, reach)).all()
        )

    def rasterise(self, shape: Sequence[int]) -> tuple[tuple[slice, slice], np.ndarray]:
        """Return the part of an image around the nucleus, and there the distance from its centre
        in units of the radius."""
        reach = 1.3 * self.axes.max()
        low = np.clip(np.floor(self.centre - reach), 0, shape).astype(int)
        high = np.clip(np.ceil(self.centre + reach) + 1, 0, shape).astype(int)
        y, x = np.ogrid[low[0] : high[0], low[1] : high[1]]
        y, x = y - self.centre[0], x - self.centre[1]
        distance = np.hypot(y, x) / self.radius(np.arctan2(y, x))
        return (slice(low[0], high[0]), slice(low[1], high[1])), distance.astype(np.float32)


def _draw_nuclei(rng: np.random.Generator, shape: tuple[int, int, int]) -> Phantom:
    if max(shape) > LARGEST_FIELD:
        return _draw_mosaic(rng, shape)
    image, labels = _draw_field(rng, shape[1:])
    return Phantom(image[np.newaxis], labels[np.newaxis], NUCLEI_SPACING)


def _draw_mosaic(rng: np.random.Generator, shape: tuple[int, int, int]) -> Phantom:
    side = MOSAIC_FIELD
    images, labels = zip(
        *(_draw_field(each, (side, side), margin=0) for each in rng.spawn(MOSAIC_FIELDS)),
        strict=True,
    )
    places = [-(-n // side) for n in shape[1:]]
    layout = rng.integers((MOSAIC_FIELDS, 8), size=(*places, 2))
    counts = np.array([field.max() for field in labels], np.uint32)[layout[..., 0]]
    offsets = (counts.cumsum(dtype=np.uint32) - counts.ravel()).reshape(places)
    return Phantom(
        Mosaic(shape, images, layout), Mosaic(shape, labels, layout, offsets), NUCLEI_SPACING
    )


def _draw_field(
    rng: np.random.Generator, shape: tuple[int, int], *, margin: int = MARGIN
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one plane of nuclei, whole ones only without margin; return image and labels."""
    canvas = (shape[0] + 2 * margin, shape[1] + 2 * margin)
    labels, signal = _place_nuclei(rng, canvas, cut=margin > 0)
    inside = tuple(slice(margin, margin + n) for n in shape)
    labels = _keep_visible(np.ascontiguousarray(labels[inside]))
    return _photograph(rng, np.ascontiguousarray(signal[inside])), labels


def _place_nuclei(
    rng: np.random.Generator, shape: tuple[int, int], *, cut: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Place nuclei, more than half of them against an earlier one; return labels and signal.

    Unless `cut`, none reaches the edges.
    """
    nearest = np.full(shape, np.inf, np.float32)  # distance to the nucleus that owns the pixel
    labels = np.zeros(shape, np.int32)
    signal = np.zeros(shape, np.float32)
    placed: list[_Nucleus] = []
    wanted = shape[0] * shape[1] // 2300
    for _ in range(12 * wanted):
        if len(placed) == wanted:
            break
        touching = bool(placed) and rng.random() < 0.6
        nucleus = _propose(rng, placed, shape, touching)
        if not (cut or nucleus.is_within(shape)):
            continue
        place, distance = nucleus.rasterise(shape)
        body = distance < 1
        if not body.any():
            continue
        overlap = np.mean(labels[place][body] > 0)
        free = not labels[place][distance < 1.2].any()
        if not (0 < overlap < 0.12 if touching else free):
            continue
        placed.append(nucleus)
        own = body & (distance < nearest[place])
        nearest[place][own] = distance[own]
        labels[place][own] = len(placed)
        dome = nucleus.brightness * (0.3 + 0.7 * np.sqrt(np.clip(1 - distance**2, 0, 1))) * body
        np.maximum(signal[place], dome, out=signal[place])
    return labels, signal


def _propose(
    rng: np.random.Generator, placed: list[_Nucleus], shape: tuple[int, int], touching: bool
) -> _Nucleus:
    nucleus = _Nucleus.random(rng)
    if not touching:
        return nucleus.at(rng.uniform(0, shape))
    other = placed[rng.integers(len(placed))]
    direction = rng.uniform(0, 2 * np.pi)
    apart = other.radius(direction) + nucleus.radius(direction + np.pi)
    offset = np.array([np.sin(direction), np.cos(direction)]) * apart * rng.uniform(0.86, 0.97)
    return nucleus.at(other.centre + offset)


def _keep_visible(labels: np.ndarray) -> np.ndarray:
    """Number the nuclei that are in the image, one connected piece of at least 20 px each."""
    result = np.zeros_like(labels)
    count = 0
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        if box is None:
            continue
        pieces, _ = ndimage.label(labels[box] == number)
        sizes = np.bincount(pieces.ravel())[1:]
        if sizes.max() >= 20:
            count += 1
            result[box][pieces == sizes.argmax() + 1] = count
    return result.astype(np.uint16 if count < 2**16 else np.uint32)


def _photograph(rng: np.random.Generator, signal: np.ndarray) -> np.ndarray:
    """Turn fluorescence into camera counts: texture, blur, haze, shading and noise."""
    shape = signal.shape
    signal = signal * (1 + 0.22 * _noise(rng, shape, 1.6) + 0.10 * _noise(rng, shape, 5))
    haze = _smooth(signal, 16)
    signal = ndimage.gaussian_filter(signal, 1.4) + 0.35 * haze
    signal += 0.10 + 0.06 * _clouds(rng, shape, 90)
    shading = np.clip(0.8 + 0.16 * _clouds(rng, shape, 260), 0.35, 1.3)
    photons = np.maximum(80 * signal * shading, 0)
    counts = np.empty(shape, np.uint16)
    for start in range(0, shape[0], 256):  # bands: Poisson numbers take 8 bytes each
        band = slice(start, start + 256)
        electrons = rng.poisson(photons[band]) + rng.normal(0, 2.5, photons[band].shape)
        counts[band] = np.clip(100 + 8 * electrons, 0, 65535)
    return counts


def _noise(rng: np.random.Generator, shape: Sequence[int], sigma: float) -> np.ndarray:
    """White noise blurred by `sigma` px, of standard deviation 1; float32."""
    blurred = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma, mode="wrap")
    return blurred / blurred.std()


def _clouds(rng: np.random.Generator, shape: Sequence[int], size: float) -> np.ndarray:
    """Smooth noise of standard deviation about 1 with structures of about `size` px; float32."""
    coarse = [max(4, int(np.ceil(n / size)) + 3) for n in shape]
    return _stretch(rng.standard_normal(coarse, np.float32), shape, order=3)


def _smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur widely at a quarter of the resolution."""
    coarse = ndimage.gaussian_filter(image[::4, ::4], sigma / 4)
    return _stretch(coarse, image.shape, order=1)


def _stretch(coarse: np.ndarray, shape: Sequence[int], order: int) -> np.ndarray:
    factor = [n / m for n, m in zip(shape, coarse.shape, strict=True)]
    return ndimage.zoom(coarse, factor, np.float32, order=order, mode="nearest", grid_mode=True)


def _draw_membranes(rng: np.random.Generator, shape: tuple[int, int, int]) -> Phantom:
    distance, cell = _cells(rng, shape)
    width = 2.1 + 0.35 * _flow(rng, shape, 40)
    labels = np.where(distance < np.clip(width, 1.5, 3.0), 0, 255).astype(np.uint8)
    image = _section(rng, distance, cell)
    return Phantom(image, labels, (0.05, 0.004, 0.004))


def _flow(rng: np.random.Generator, shape: Sequence[int], size: float) -> np.ndarray:
    """Smooth noise that changes slowly from plane to plane; float32."""
    depth, *plane = shape
    coarse = [depth // 6 + 3, *(int(np.ceil(n / size)) + 3 for n in plane)]
    return _stretch(rng.standard_normal(coarse, np.float32), shape, order=3)


def _cells(rng: np.random.Generator, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return each voxel's distance in px to the border of its cell, and the cell's number.

    Cells are Voronoi cells of points that drift from plane to plane, seen through a warp.
    """
    depth, *plane = shape
    low, high = -60, np.array(plane) + 60
    count = max(4, int(np.prod(high - low) / 2600))
    start = rng.uniform(low, high, (count, 2))
    drift = np.cumsum(rng.normal(0, 1.1, (depth, count, 2)), axis=0)
    warp = [11 * _flow(rng, shape, 70) + 3 * _flow(rng, shape, 28) for _ in "yx"]
    distance = np.empty(shape, np.float32)
    cell = np.empty(shape, np.int32)
    grid = np.indices(plane, dtype=np.float32)
    for z in range(depth):
        points = start + drift[z]
        where = np.stack([grid[i] + warp[i][z] for i in (0, 1)], axis=-1)
        near, index = cKDTree(points).query(where, k=2)
        apart = np.linalg.norm(points[index[..., 0]] - points[index[..., 1]], axis=-1)
        distance[z] = (near[..., 1] ** 2 - near[..., 0] ** 2) / (2 * apart)
        cell[z] = index[..., 0]
    return distance, cell


def _section(rng: np.random.Generator, distance: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Turn cells into grey values: cytoplasm, membranes, organelles, texture and noise."""
    shape = distance.shape
    cytoplasm = rng.normal(168, 13, cell.max() + 1)[cell].astype(np.float32)
    strength = np.clip(0.9 + 0.22 * _flow(rng, shape, 30), 0.3, 1.2)
    image = cytoplasm - 105 * strength * np.exp(-((distance / 2.1) ** 2))
    image -= _organelles(rng, distance)
    grain = [7 * _noise(rng, shape[1:], 1.0) + 7 * _noise(rng, shape[1:], 2.5) for _ in image]
    image = ndimage.gaussian_filter(image, (0, 0.8, 0.8)) + np.stack(grain)
    image += rng.normal(0, 5, (shape[0], 1, 1)) + rng.normal(0, 9, shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _organelles(rng: np.random.Generator, distance: np.ndarray) -> np.ndarray:
    """Return the darkness of mitochondria and vesicles, which lie inside cells."""
    darkness = np.zeros(distance.shape, np.float32)
    depth, height, width = distance.shape
    layers = max(1, depth // 6)
    for spread, small, large in ((5000, 7.0, 14.0), (900, 1.8, 3.2)):
        for _ in range(height * width // spread * layers):
            box, ratio, radius = _ball(rng, distance.shape, rng.uniform(small, large))
            rim = 45 * np.exp(-(((ratio - 0.85) * radius / 1.3) ** 2)) + 40 * (ratio < 0.85)
            inside = distance[box] > 3.5
            np.maximum(darkness[box], rim * inside, out=darkness[box])
    return darkness


def _ball(
    rng: np.random.Generator, shape: Sequence[int], radius: float
) -> tuple[tuple[slice, ...], np.ndarray, float]:
    """Place a flattened ball; return its box, the distance from its centre in radii, its radius."""
    centre = rng.uniform(0, shape)
    reach = np.array([max(1.0, 0.35 * radius), radius, radius])  # a section is 10 voxels thick
    low = np.maximum(centre - 1.3 * reach, 0).astype(int)
    high = np.minimum(centre + 1.3 * reach + 1, shape).astype(int)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    squares = (
        ((index - c) / r) ** 2 for index, c, r in zip(np.ogrid[box], centre, reach, strict=True)
    )
    return box, np.sqrt(sum(squares)), radius
