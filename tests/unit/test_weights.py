import numpy as np
import pytest
from gigaseg.weights import (
    BOUNDARY,
    INTERIOR,
    RIDGE,
    SMALLEST_SEPARATION,
    class_balance,
    cutoff,
    encode_target,
    halo,
    separation,
)


def test_touching_instances_get_a_ridge_on_both_sides():
    labels = np.array([[0, 0, 0, 0], [4, 4, 9, 9], [4, 4, 9, 9]])
    target = encode_target(labels, boundary_width=0)
    assert target.tolist() == [[0, 0, 0, 0], [1, 3, 3, 1], [1, 3, 3, 1]]


def test_corners_do_not_touch():
    assert RIDGE not in encode_target(np.array([[1, 0], [0, 2]]), boundary_width=1)


def test_edge_of_the_volume_is_no_boundary():
    assert (encode_target(np.ones((5, 5), int), boundary_width=3) == INTERIOR).all()


def test_boundary_width_is_in_px_of_the_finest_axis():
    labels = np.zeros((7, 9), np.uint32)
    labels[1:6, 1:8] = 1
    target = encode_target(labels, boundary_width=2, spacing=(2.0, 1.0))
    assert target[3].tolist() == [0, 2, 2, 1, 1, 1, 2, 2, 0]
    assert target[:, 4].tolist() == [0, 2, 1, 1, 1, 2, 0]


def test_boundary_and_ridge_together_are_as_wide_as_the_boundary():
    target = encode_target(np.repeat([[1, 2]], 6, axis=1), boundary_width=2)
    assert target[0, 3:9].tolist() == [INTERIOR, BOUNDARY, RIDGE, RIDGE, BOUNDARY, INTERIOR]


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (np.zeros((3, 4), np.uint32), "no instance"),
        (np.array([[0, 1, 1, 0]]), "one instance has no neighbour to be parted from"),
    ],
)
def test_separation_needs_two_instances(labels, reason):
    assert (separation(labels, w0=10, sigma=5) == 0).all(), reason


def test_separation_is_the_papers_formula():
    labels = np.array([[1, 0, 0, 0, 2]])
    expected = [0, *[10 * np.exp(-(4**2) / (2 * 5**2))] * 3, 0]
    np.testing.assert_allclose(separation(labels, w0=10, sigma=5)[0], expected, rtol=1e-6)


def test_ridge_is_weighted_like_the_gap_it_becomes():
    weight = separation(np.array([[1, 1, 2, 2]]), w0=10, sigma=5)[0]
    np.testing.assert_allclose(weight, [0, *[10 * np.exp(-1 / 50)] * 2, 0], rtol=1e-6)


def test_separation_on_all_reaches_inside():
    weight = separation(np.array([[1, 0, 2]]), w0=10, sigma=5, on="all")[0]
    np.testing.assert_allclose(weight, [10 * np.exp(-4 / 50)] * 3, rtol=1e-6)


def test_separation_ends_at_the_cutoff():
    assert cutoff(10, 5) == pytest.approx(31.33, abs=0.01)
    edge = 10 * np.exp(-(cutoff(10, 5) ** 2) / (2 * 5**2))
    assert edge == pytest.approx(SMALLEST_SEPARATION)
    gaps = {}
    for size in (32, 33):  # distances of the middle add up to size - 1
        labels = np.zeros((1, size), np.uint32)
        labels[0, [0, -1]] = 1, 2
        gaps[size] = separation(labels, w0=10, sigma=5)[0, size // 2]
    assert gaps[32] > 0
    assert gaps[33] == 0


def test_no_separation_without_weight():
    assert (separation(np.array([[1, 0, 2]]), w0=0, sigma=5) == 0).all()


@pytest.mark.parametrize(
    ("chosen", "spacing", "expected", "reason"),
    [
        ({"w0": 10, "sigma": 5, "boundary_width": 2}, (1, 1), (32, 32), "ceil(31.33)"),
        ({"w0": 10, "sigma": 5, "boundary_width": 2}, (5, 1, 1), (7, 32, 32), "thick planes"),
        ({"w0": 0, "sigma": 5, "boundary_width": 0}, (1, 1), (2, 2), "the ridge looks 1 px far"),
        ({"w0": 0, "sigma": 5, "boundary_width": 9}, (1, 1), (10, 10), "a wide boundary"),
    ],
)
def test_halo(chosen, spacing, expected, reason):
    assert halo(**chosen, spacing=spacing) == expected, reason


@pytest.mark.parametrize(("w0", "sigma"), [(-1, 5), (10, 0), (10, -2)])
def test_senseless_parameters_are_refused(w0, sigma):
    with pytest.raises(ValueError, match=r"need w0 >= 0 and sigma > 0"):
        separation(np.zeros((2, 2), int), w0=w0, sigma=sigma)


def test_unknown_place_is_refused():
    with pytest.raises(ValueError, match=r"'background' or 'all', not 'cells'"):
        separation(np.zeros((2, 2), int), w0=10, sigma=5, on="cells")


def test_class_balance_gives_classes_the_same_total():
    counts = np.array([900, 90, 10])
    weights = class_balance(counts.tolist())
    np.testing.assert_allclose(weights * counts, 1000 / 3)
    assert class_balance([5, 5]).tolist() == [1, 1]


@pytest.mark.parametrize("counts", [[10, 0], [0, 10], [4, 0, 0]])
def test_training_data_of_one_class_are_refused(counts):
    with pytest.raises(ValueError, match=r"no voxel of class .*voxels per class.*add samples"):
        class_balance(counts)
