import numpy as np
import pytest
from gigaseg.watershed import (
    climb,
    climb_distance,
    distance_levels,
    dynamics_watershed,
    seeded_watershed,
)


def disks(*circles, shape=(40, 80)):
    y, x = np.indices(shape)
    return np.any([(y - a) ** 2 + (x - b) ** 2 <= r * r for a, b, r in circles], axis=0)


@pytest.mark.parametrize(
    ("h", "expected", "reason"),
    [
        (1.0, 2, "the neck is narrower than the disks by more than a px"),
        (50.0, 1, "no maximum stands out by 50 px, and one is always kept"),
    ],
)
def test_touching_disks(h, expected, reason):
    mask = disks((20, 20, 12), (20, 42, 12))
    labels = dynamics_watershed(distance_levels(mask), mask, climb_distance(h))
    assert labels.max() == expected, reason
    assert ((labels > 0) == mask).all()


def test_cut_between_equal_disks_is_in_the_middle():
    mask = disks((20, 20, 12), (20, 40, 12))
    labels = dynamics_watershed(distance_levels(mask), mask, climb_distance(1.0))
    assert (labels[:, :30][mask[:, :30]] == 1).all()
    assert (labels[:, 31:][mask[:, 31:]] == 2).all()


def test_every_component_is_kept_however_flat():
    mask = np.array([[1, 0, 1, 1, 0, 1]], bool)
    labels = dynamics_watershed(distance_levels(mask), mask, climb_distance(9.0))
    assert labels.tolist() == [[1, 0, 2, 2, 0, 3]]


def test_components_without_a_seed_are_background():
    mask = np.array([[1, 1, 0, 1]], bool)
    labels = seeded_watershed(np.zeros((1, 4), int), mask, np.array([[0, 3, 0, 0]]))
    assert labels.tolist() == [[1, 1, 0, 0]]


def test_seeds_outside_the_mask_do_not_count():
    mask = np.array([[1, 0]], bool)
    assert seeded_watershed(np.zeros((1, 2), int), mask, np.array([[0, 5]])).tolist() == [[0, 0]]


def test_one_seed_may_be_in_many_pieces():
    labels = seeded_watershed(
        np.array([[0, 9, 0, 5, 0]]), np.ones((1, 5), bool), np.array([[1, 0, 2, 0, 1]])
    )
    assert labels.tolist() == [[1, 1, 2, 2, 1]]


def test_levels_of_64_bits_are_sorted():
    levels = np.array([[0, 2**40, 2**33, 2**41, 0]])
    seeds = np.array([[1, 0, 0, 0, 2]])
    assert seeded_watershed(levels, np.ones((1, 5), bool), seeds).tolist() == [[1, 1, 1, 2, 2]]


def test_empty_mask_has_no_instances():
    mask = np.zeros((3, 4), bool)
    assert not dynamics_watershed(distance_levels(mask), mask, climb(1)).any()
    assert not seeded_watershed(np.zeros((3, 4), int), mask, np.ones((3, 4), int)).any()


def test_full_mask_is_one_instance():
    mask = np.ones((3, 4), bool)
    assert (dynamics_watershed(distance_levels(mask), mask, climb_distance(1.0)) == 1).all()


def test_distance_levels_stop_or_go_on_outside():
    foreground = np.array([[0, 0, 1, 1, 1, 0]], bool)
    assert distance_levels(foreground).tolist() == [[0, 0, -1, -4, -1, 0]]
    assert distance_levels(foreground, beyond=True).tolist() == [[4, 1, -1, -4, -1, 1]]


def test_filling_gives_background_to_what_is_near():
    foreground = np.array([[1, 0, 0, 0, 0, 0, 1, 1, 1]], bool)
    levels = distance_levels(foreground, beyond=True)
    labels = dynamics_watershed(levels, np.ones_like(foreground), climb_distance(1.0))
    assert labels.tolist() == [[1, 1, 1, 1, 2, 2, 2, 2, 2]]


def test_thick_planes_count_by_their_thickness():
    mask = np.ones((3, 9, 9), bool)
    mask[:, [0, -1]] = mask[:, :, [0, -1]] = False
    mask[0] = mask[2] = False
    assert distance_levels(mask, spacing=(2.0, 1.0, 1.0)).min() == -4
    assert distance_levels(mask, spacing=(9.0, 1.0, 1.0)).min() == -16


def test_both_sides_of_a_tie_are_deep_or_neither():
    levels = np.array([[0, 5, 0, 9, 0]])
    mask = np.ones((1, 5), bool)
    assert dynamics_watershed(levels, mask, climb(5)).tolist() == [[1, 1, 2, 2, 3]]
    assert dynamics_watershed(levels, mask, climb(6)).tolist() == [[1, 1, 1, 1, 2]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
def test_levels_may_be_the_highest_of_their_type(dtype):
    top = np.iinfo(dtype).max
    levels = np.array([[top, 0, top, top, 1, top]], dtype)
    mask = np.array([[1, 1, 1, 0, 1, 1]], bool)
    assert dynamics_watershed(levels, mask, climb(5)).tolist() == [[1, 1, 1, 0, 2, 2]]
    flat = np.full((2, 3), top, dtype)
    assert (dynamics_watershed(flat, np.ones((2, 3), bool), climb(5)) == 1).all()


def test_seeds_have_any_names():
    levels, mask = np.zeros((1, 4), int), np.ones((1, 4), bool)
    names = np.array([[10**12, 10**12, 7 * 10**12, 3]])
    assert seeded_watershed(levels, mask, names).tolist() == [[1, 1, 2, 3]]
    assert seeded_watershed(levels, mask, names - 3).tolist() == [[1, 1, 2, 2]]
    assert seeded_watershed(levels, mask, -names).tolist() == [[0, 0, 0, 0]]
