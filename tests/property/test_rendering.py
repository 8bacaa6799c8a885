"""A rendered tile is what float64 arithmetic on the whole mirrored volume gives."""

import dataclasses
from typing import Any

import numpy as np
from gigaseg.augmentation import Variation, blur_radius, draw_variation
from gigaseg.deformation import SHARP, SMOOTH, Deformation, generator
from gigaseg.geometry import UNetGeometry, Window, read_mirrored
from gigaseg.rendering import Renderer, coordinates
from gigaseg.sampling import Sample, TileSource
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

TILE, BEYOND = 28, 120
STRONG = {
    "flips": True,
    "rotation": 180.0,
    "scale": 0.3,
    "elastic": {"spacing": 9.0, "sigma": 2.0},
    "blur": 1.5,
    "gain": 0.2,
    "offset": 0.1,
    "gamma": 0.3,
    "noise": 0.05,
}


def cubic(t: np.ndarray, a: float) -> np.ndarray:
    """Keys' convolution kernel."""
    d = np.abs(t)
    near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def slow_field(deformation: Deformation, size: int) -> np.ndarray:
    """Where pixels are read, counted from the centre, from the formula of `Deformation`."""
    p = np.stack(np.meshgrid(*[np.arange(size) - size // 2] * 2, indexing="ij")).astype(float)
    angle = np.radians(deformation.angle)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    flips = np.where(deformation.flips, -1, 1)[:, None, None]
    field = deformation.scale * np.einsum("ij,jyx->iyx", turn, flips * p)
    if deformation.vectors is not None:
        nodes = np.arange(deformation.vectors.shape[1]) - deformation.vectors.shape[1] // 2 + 1
        weights = cubic(nodes - p[0][:, :1] / deformation.spacing, SMOOTH)
        field += np.einsum("ya,xb,iab->iyx", weights, weights, deformation.vectors)
    return field


def slow_read(array: np.ndarray, where: np.ndarray, kernel: Any) -> np.ndarray:
    """Read (y, x) at coordinates as a sum over a neighbourhood of 4 by 4."""
    base, result = np.floor(where).astype(int), np.zeros(where.shape[1:])
    for y in range(-1, 3):
        for x in range(-1, 3):
            weight = kernel(where[0] - base[0] - y) * kernel(where[1] - base[1] - x)
            result += weight * array[base[0] + y, base[1] + x]
    return result


def slow_image(plane: np.ndarray, where: np.ndarray, variation: Variation) -> np.ndarray:
    """Deform, blur and vary one normalised channel; `where` has the blur's margin."""
    image = slow_read(plane, where, lambda t: cubic(t, SHARP))
    radius = blur_radius(variation.blur)
    if radius:
        taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / variation.blur) ** 2)
        for axis in (0, 1):
            image = ndimage.correlate1d(image, taps / taps.sum(), axis)
    image = image[radius : len(image) - radius, radius : len(image) - radius]
    return np.sign(image) * np.abs(image) ** variation.gamma[0]


@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.just(2), st.integers(3, 40), st.integers(3, 40)),
    off=st.lists(st.sampled_from([*STRONG]), max_size=4),
)
def test_a_tile_is_that_of_the_whole_mirrored_volume(seed, shape, off) -> None:
    random = generator(seed, 0, 0)
    image = random.integers(0, 4000, (1, *shape)).astype(">u2")
    target = random.choice([0, 1, 2, 3, 255], shape).astype(np.uint8)
    separation = random.uniform(0, 10, shape).astype(np.float32)
    low, stretch = np.full((2, 1), 1000, np.float32), np.full((2, 1), 1 / 2000, np.float32)
    sample = Sample("d/a", image, target, separation, low, stretch)
    source = TileSource(
        [sample], UNetGeometry(1), TILE, target="foreground", class_weights=[0.5, 2]
    )
    augmentation = {key: value for key, value in STRONG.items() if key not in off}
    variation = draw_variation(random, 1, TILE, augmentation)
    centre = tuple(int(random.integers(n)) for n in shape[1:])
    crop = source.read(sample, 1, tuple(c - TILE // 2 for c in centre), variation)
    renderer = Renderer(source)
    tile = renderer.render(crop, renderer.upload(crop))

    wide = Window((1, -BEYOND, -BEYOND), (2, 40 + BEYOND, 40 + BEYOND))
    field = slow_field(variation.deformation, TILE + 2 * variation.margin)
    fast = coordinates(variation.deformation, len(field[0])).numpy()
    assert_allclose(fast, field, atol=1e-4)
    where = field + BEYOND + np.array(centre)[:, None, None]
    plane = (read_mirrored(image, wide)[0, 0].astype(float) - 1000) / 2000
    expected = slow_image(plane, where, variation)
    expected = variation.gain[0] * expected + variation.brightness[0]
    expected += 0 if variation.noise is None else variation.noise[0]
    smooth = np.abs(slow_image(plane, where, variation)) > 0.05  # a power is steep at 0
    assert_allclose(tile.image[0][smooth], expected[smooth], atol=5e-3)

    cut = (len(where[0]) - source.output) // 2
    inner = where[:, cut:-cut, cut:-cut]
    codes = read_mirrored(target, wide)[0]
    classes = source.class_of[codes[*np.rint(inner).astype(int)]]
    clear = (np.abs(inner - np.floor(inner) - 0.5) > 1e-3).all(axis=0)
    assert_array_equal(tile.labels[clear], classes[clear])
    weights = slow_read(
        read_mirrored(separation, wide)[0], inner, lambda t: np.maximum(0, 1 - np.abs(t))
    )
    weights = np.where(classes == 255, 0, source.weight_of[classes] + weights)
    assert_allclose(tile.weights[clear], weights[clear], atol=5e-3)


@given(seed=st.integers(0, 2**32), size=st.integers(2, 60), spacing=st.floats(3, 60))
def test_a_window_holds_all_that_is_read(seed: int, size: int, spacing: float) -> None:
    deformation = Deformation.draw(generator(seed, 0, 0), size, scale=0.4, spacing=spacing, sigma=6)
    field = coordinates(deformation, size).numpy()
    window = deformation.window(size)
    for axis, (start, stop) in enumerate(zip(window.start, window.stop, strict=True)):
        assert start <= np.floor(field[axis].min()) - 1
        assert np.floor(field[axis].max()) + 3 <= stop


@given(seed=st.integers(0, 2**32), step=st.integers(0, 10**6), index=st.integers(0, 100))
def test_a_variation_depends_on_its_key_only(seed: int, step: int, index: int) -> None:
    first, second = (draw_variation(generator(seed, step, index), 2, 9, STRONG) for _ in range(2))
    for field in dataclasses.fields(Variation):
        one, two = getattr(first, field.name), getattr(second, field.name)
        if field.name == "deformation":
            one, two = one.vectors, two.vectors
        assert_array_equal(one, two)
