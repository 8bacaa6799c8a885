"""Deformations: one field of coordinates, exact where it can be, that never moves the centre."""

import numpy as np
import pytest
import torch
from gigaseg.deformation import SMOOTH, Deformation, cubic_weights, generator
from gigaseg.rendering import coordinates, node_weights, read_bicubic, read_bilinear, read_nearest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import map_coordinates


def field(deformation: Deformation, size: int) -> np.ndarray:
    return coordinates(deformation, size).numpy()


def read(image: np.ndarray, deformation: Deformation) -> np.ndarray:
    """Apply a deformation that stays inside the image, nearest neighbour."""
    where = coordinates(deformation, len(image)) + len(image) // 2
    return read_nearest(torch.from_numpy(image), where).numpy()


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
        pytest.param(
            Deformation(scale=0.5), IMAGE[[1, 2, 2, 2, 3]][:, [1, 2, 2, 2, 3]], id="zoom in"
        ),
    ],
)
def test_symmetries_are_exact(deformation: Deformation, expected: np.ndarray) -> None:
    assert_array_equal(read(IMAGE, deformation), expected)


@pytest.mark.parametrize("size", [8, 9])
def test_quarter_turns_have_whole_coordinates(size: int) -> None:
    turned = field(Deformation(angle=270, flips=(True, False)), size)
    assert_array_equal(turned, np.rint(turned))


@pytest.mark.parametrize("size", [8, 9])
def test_the_centre_stays_where_it_is(size: int) -> None:
    for seed in range(10):
        drawn = Deformation.draw(generator(seed, 0, 0), size, scale=0.3, spacing=4, sigma=3)
        assert drawn.vectors is not None
        assert_array_equal(field(drawn, size)[:, size // 2, size // 2], 0)


def test_rotation_keeps_distances_and_scale_multiplies_them() -> None:
    plain, turned = field(Deformation(), 9), field(Deformation(angle=33, scale=1.5), 9)
    assert_allclose(np.hypot(*turned), 1.5 * np.hypot(*plain), atol=1e-5)


def test_displacement_is_the_vector_at_a_node() -> None:
    vectors = generator(0, 0, 0).normal(size=(2, 6, 6)).astype(np.float32)
    elastic = field(Deformation(vectors=vectors, spacing=10), 21) - field(Deformation(), 21)
    assert_allclose(elastic[:, ::10, ::10], vectors[:, 1:4, 1:4], atol=1e-5)


def test_displacements_follow_straight_lines() -> None:
    ramp = np.broadcast_to(np.arange(-3, 5, dtype=np.float32)[:, None] * 2, (2, 8, 8))
    elastic = field(Deformation(vectors=ramp.copy(), spacing=8), 33) - field(Deformation(), 33)
    expected = np.broadcast_to((np.arange(33) - 16)[:, None] / 4, (2, 33, 33))
    assert_allclose(elastic, expected, atol=1e-5)


def test_weights_of_nodes_are_the_kernel_written_out() -> None:
    weights = node_weights(12, 7.0, 8).numpy()
    for pixel in range(12):
        expected = [keys(node - 3 - (pixel - 6) / 7) for node in range(8)]
        assert_allclose(weights[pixel], expected, atol=1e-6)


def keys(distance: float, a: float = SMOOTH) -> float:
    """Keys' convolution kernel as he wrote it."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def test_nodes_that_do_not_reach_are_refused() -> None:
    with pytest.raises(ValueError, match=r"6 nodes do not cover 40 px at a spacing of 10 px.* 8"):
        coordinates(Deformation(vectors=np.zeros((2, 6, 6), np.float32), spacing=10), 40)


def test_paper_grid_at_half_a_tile() -> None:
    vectors = Deformation.draw(generator(0, 0, 0), 388, spacing=194).vectors
    assert vectors is not None
    assert vectors.shape == (2, 3 + 3, 3 + 3)


def test_sigma_is_the_standard_deviation_in_pixels() -> None:
    vectors = Deformation.draw(generator(0, 0, 0), 999, spacing=10, sigma=10).vectors
    assert vectors is not None
    assert_allclose(vectors.std(axis=(1, 2)), 10, atol=0.3)


def test_without_options_a_tile_stays_where_it_is() -> None:
    still = Deformation.draw(generator(0, 0, 0), 8, flips=False, rotation=0, sigma=0)
    assert_array_equal(field(still, 8), field(Deformation(), 8))


def test_random_numbers_depend_on_each_key() -> None:
    keyed = [generator(*key).integers(2**62) for key in np.eye(4, dtype=int).tolist()]
    assert len(set(keyed)) == 4
    assert keyed[0] == generator(1, 0, 0, 0).integers(2**62)


def test_bilinear_equals_scipy() -> None:
    random = generator(0, 0, 0)
    data = random.normal(size=(20, 30)).astype(np.float32)
    where = random.uniform(1, 18, (2, 7, 9)).astype(np.float32)
    found = read_bilinear(torch.from_numpy(data), torch.from_numpy(where)).numpy()
    assert_allclose(found, map_coordinates(data, where, order=1), atol=1e-4)


def test_pixels_are_returned_at_whole_coordinates() -> None:
    data = torch.from_numpy(generator(0, 0, 0).normal(size=(2, 8, 8)).astype(np.float32))
    whole = torch.stack(torch.meshgrid(torch.arange(1.0, 6), torch.arange(1.0, 6), indexing="ij"))
    assert_allclose(read_bicubic(data, whole), data[:, 1:6, 1:6], atol=1e-4)
    assert_array_equal(read_nearest(data[0], whole), data[0, 1:6, 1:6])


def test_labels_keep_their_type_and_values() -> None:
    labels = torch.tensor([[0, 255], [7, 3]], dtype=torch.uint8)
    result = read_nearest(labels, torch.tensor([[[0.4, 0.6]], [[0.6, 0.4]]]))
    assert result.dtype == torch.uint8
    assert_array_equal(result, [[255, 7]])


def test_cubic_weights_sum_to_one() -> None:
    assert_allclose(cubic_weights(np.linspace(0, 0.99, 50)).sum(axis=0), 1, atol=1e-12)
