"""Deformations compose into one field, and a field reads only what it says."""

import numpy as np
from gigaseg.deformation import Deformation, generator, resample, source_window
from gigaseg.geometry import Window, read_mirrored
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(2, 40),
    spacing=st.floats(5, 60),
    order=st.sampled_from([0, 1, 3]),
    start=st.tuples(st.integers(-30, 30), st.integers(-30, 30)),
)
def test_a_window_of_the_volume_gives_what_the_mirrored_volume_gives(
    seed: int, size: int, spacing: float, order: int, start: tuple[int, int]
) -> None:
    """Mirroring happens at the volume's edges, never at the window's."""
    random = generator(seed, 0, 0)
    volume = random.integers(0, 200, (17, 23)).astype(np.uint8)
    deformation = Deformation.draw(random, (size, size), spacing=spacing, sigma=3)
    coordinates = deformation.field((size, size)) + np.float32((size - 1) / 2)
    coordinates += np.asarray(start, np.float32)[:, None, None]
    window = source_window(coordinates)
    local = coordinates - np.asarray(window.start, np.float32)[:, None, None]
    result = resample(read_mirrored(volume, window), local, order)  # type: ignore[arg-type]
    wide = Window((-200, -200), (200, 200))
    expected = resample(read_mirrored(volume, wide), coordinates + 200, order)  # type: ignore[arg-type]
    if order:
        assert_allclose(result, expected, atol=0.05)
    else:
        assert (result != expected).mean() < 0.02  # rounding of coordinates at half a pixel


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), step=st.integers(0, 10**6), index=st.integers(0, 100))
def test_a_tile_depends_on_its_key_only(seed: int, step: int, index: int) -> None:
    first, second = (
        Deformation.draw(generator(seed, step, index), (9, 9), spacing=4).field((9, 9))
        for _ in range(2)
    )
    assert_array_equal(first, second)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), angle=st.floats(-180, 180))
def test_rotation_and_displacement_add(seed: int, angle: float) -> None:
    """R p + u(p): the composed field is the sum of the stiff and the elastic part."""
    elastic = Deformation.draw(generator(seed, 0, 0), (12, 12), flips=False, rotation=0, spacing=5)
    both = Deformation(angle=angle, vectors=elastic.vectors, spacing=5)
    stiff = Deformation(angle=angle).field((12, 12))
    displacement = elastic.field((12, 12)) - Deformation().field((12, 12))
    assert_allclose(both.field((12, 12)), stiff + displacement, atol=1e-4)
