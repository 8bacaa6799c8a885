"""Elastic deformation: one field of coordinates, exact where it can be."""

import numpy as np
import pytest
from gigaseg.deformation import (
    SHARP,
    SMOOTH,
    Deformation,
    cubic_weights,
    generator,
    interpolate_nodes,
    resample,
    source_window,
)
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import map_coordinates


def read(image: np.ndarray, deformation: Deformation) -> np.ndarray:
    """Apply a deformation that stays inside the image, nearest neighbour."""
    centre = (np.array(image.shape) - 1)[:, None, None] / 2
    return resample(image, deformation.field(image.shape) + centre, order=0)


IMAGE = np.arange(25).reshape(5, 5)


@pytest.mark.parametrize(
    ("deformation", "expected"),
    [
        pytest.param(Deformation(), IMAGE, id="identity"),
        pytest.param(Deformation(flips=(True, False)), IMAGE[::-1], id="flip y"),
        pytest.param(Deformation(flips=(False, True)), IMAGE[:, ::-1], id="flip x"),
        pytest.param(Deformation(angle=90), np.rot90(IMAGE, -1), id="read at +90 degrees"),
        pytest.param(Deformation(angle=-90), np.rot90(IMAGE), id="read at -90 degrees"),
        pytest.param(Deformation(angle=180), IMAGE[::-1, ::-1], id="half turn"),
        pytest.param(
            Deformation(angle=90, flips=(False, True)),
            np.rot90(IMAGE, -1)[:, ::-1],
            id="the flip comes first",
        ),
    ],
)
def test_symmetries_are_exact(deformation: Deformation, expected: np.ndarray) -> None:
    assert_array_equal(read(IMAGE, deformation), expected)


def test_coordinates_of_symmetries_are_exact_on_even_tiles() -> None:
    field = Deformation(angle=270, flips=(True, False)).field((6, 6))
    assert_array_equal(field % 1, np.full((2, 6, 6), 0.5))


def test_shift_moves_every_coordinate() -> None:
    field = Deformation(shift=(1.5, -2)).field((3, 4)) - Deformation().field((3, 4))
    assert_array_equal(field, np.broadcast_to([[[1.5]], [[-2.0]]], (2, 3, 4)))


def test_rotation_keeps_distances() -> None:
    field = Deformation(angle=33).field((9, 9))
    assert_allclose(np.hypot(*field), np.hypot(*Deformation().field((9, 9))), atol=1e-5)


def test_field_of_the_output_window_is_the_centre_of_that_of_the_tile() -> None:
    deformation = Deformation.draw(generator(3, 1, 4), (40, 44), spacing=13)
    whole = deformation.field((40, 44))
    assert_allclose(deformation.field((24, 28)), whole[:, 8:-8, 8:-8], atol=1e-5)


def test_displacement_is_the_vector_at_a_node() -> None:
    vectors = generator(0, 0, 0).normal(size=(2, 6, 6)).astype(np.float32)
    field = interpolate_nodes(vectors, (21, 21), spacing=10)
    assert_array_equal(field[:, ::10, ::10], vectors[:, 1:4, 1:4])


def test_displacements_follow_straight_lines() -> None:
    ramp = np.broadcast_to(np.arange(-3, 5, dtype=np.float32)[:, None] * 2, (2, 8, 8))
    field = interpolate_nodes(ramp, (33, 33), spacing=8)
    expected = np.broadcast_to((np.arange(33) - 16)[:, None] / 4, (2, 33, 33))
    assert_allclose(field, expected, atol=1e-5)


def test_displacement_equals_the_sum_over_nodes_written_out() -> None:
    vectors = generator(0, 0, 1).normal(size=(2, 6, 8)).astype(np.float32)
    field = interpolate_nodes(vectors, (12, 20), spacing=7)
    for y, x in [(0, 0), (5, 11), (11, 19), (3, 10)]:
        position = ((y - 5.5) / 7, (x - 9.5) / 7)
        expected = np.zeros(2)
        for (ky, kx), vector in np.ndenumerate(vectors[0]):
            weight = keys(ky - 2 - position[0]) * keys(kx - 3 - position[1])
            expected += weight * np.array([vector, vectors[1, ky, kx]])
        assert_allclose(field[:, y, x], expected, atol=1e-5)


def keys(distance: float, a: float = SMOOTH) -> float:
    """Keys' convolution kernel as he wrote it."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def test_nodes_that_do_not_reach_are_refused() -> None:
    with pytest.raises(ValueError, match=r"6 nodes do not cover 40 px at a spacing of 10 px.* 8"):
        interpolate_nodes(np.zeros((2, 6, 6)), (40, 40), spacing=10)


def test_paper_grid_at_half_a_tile() -> None:
    deformation = Deformation.draw(generator(0, 0, 0), (389, 389), spacing=194)
    assert deformation.vectors is not None
    assert deformation.vectors.shape == (2, 3 + 3, 3 + 3)


def test_sigma_is_the_standard_deviation_in_pixels() -> None:
    vectors = Deformation.draw(generator(0, 0, 0), (999, 999), spacing=10, sigma=10).vectors
    assert vectors is not None
    assert abs(vectors.std() - 10) < 0.2
    assert abs(vectors.mean()) < 0.2


def test_without_options_a_tile_stays_where_it_is() -> None:
    still = Deformation.draw(generator(0, 0, 0), (8, 8), flips=False, rotation=0, sigma=0)
    assert_array_equal(still.field((8, 8)), Deformation().field((8, 8)))


def test_random_numbers_depend_on_each_key() -> None:
    keyed = [generator(*key).integers(2**62) for key in np.eye(4, dtype=int).tolist()]
    assert len(set(keyed)) == 4
    assert keyed[0] == generator(1, 0, 0, 0).integers(2**62)


@pytest.mark.parametrize("order", [0, 1])
def test_resample_equals_scipy(order: int) -> None:
    random = generator(0, 0, 0)
    data = random.normal(size=(20, 30)).astype(np.float32)
    coordinates = random.uniform(1, 18, (2, 7, 9)).astype(np.float32)
    expected = map_coordinates(data, coordinates, order=order)
    assert_allclose(resample(data, coordinates, order), expected, atol=1e-5)  # type: ignore[arg-type]


def test_cubic_resample_equals_the_kernel_written_out() -> None:
    data = generator(0, 0, 0).normal(size=(8, 8))
    y, x = 3.3, 4.8
    expected = sum(
        keys(row - y, SHARP) * keys(column - x, SHARP) * value
        for (row, column), value in np.ndenumerate(data)
    )
    assert_allclose(resample(data, np.array([[[y]], [[x]]]), order=3).item(), expected, atol=1e-5)


def test_resample_returns_pixels_at_whole_coordinates() -> None:
    data = generator(0, 0, 0).normal(size=(2, 8, 8)).astype(np.float32)
    whole = np.stack(np.meshgrid(np.arange(1, 6), np.arange(1, 6), indexing="ij")).astype("f4")
    for order in (0, 1, 3):
        assert_array_equal(resample(data, whole, order), data[:, 1:6, 1:6])  # type: ignore[arg-type]


def test_labels_keep_their_type_and_values() -> None:
    labels = np.array([[0, 255], [7, 3]], np.uint8)
    result = resample(labels, np.array([[[0.4, 0.6]], [[0.6, 0.4]]]), order=0)
    assert result.dtype == np.uint8
    assert_array_equal(result, [[255, 7]])


def test_source_window_is_needed_and_enough() -> None:
    coordinates = generator(0, 0, 0).uniform(-5, 9, (2, 4, 4))
    window = source_window(coordinates)
    local = coordinates - np.array(window.start)[:, None, None]
    assert local.min() >= 1
    assert (np.floor(local).max(axis=(1, 2)) + 3 == window.shape).all()


def test_cubic_weights_sum_to_one() -> None:
    assert_allclose(cubic_weights(np.linspace(0, 0.99, 50)).sum(axis=0), 1, atol=1e-12)
