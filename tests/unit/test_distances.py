import numpy as np
import pytest
from gigaseg.distances import FAR, integer_spacing, squared_distance, two_nearest


@pytest.mark.parametrize(
    ("spacing", "expected", "reason"),
    [
        ((1.0, 1.0), (1, 1), "isotropic"),
        ((0.1083333, 0.1083333), (1, 1), "isotropic, however many digits"),
        ((50, 4, 4), (25, 2, 2), "serial sections"),
        ((0.29, 0.065, 0.065), (58, 13, 13), "decimals are exact"),
        ((1 / 3, 0.1), (853, 256), "no short decimal: rounded to 1/256 of the finest"),
        ((5e-324, 5e-324), (1, 1), "even subnormal numbers have a ratio"),
    ],
)
def test_integer_spacing(spacing, expected, reason):
    assert integer_spacing(spacing) == expected, reason


@pytest.mark.parametrize("spacing", [(0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0)])
def test_spacing_must_be_positive(spacing):
    with pytest.raises(ValueError, match=r"must be positive: give one length per axis"):
        integer_spacing(spacing)


def test_spacing_needs_one_value_per_axis():
    with pytest.raises(ValueError, match=r"2 values, the array 3 axes"):
        squared_distance(np.zeros((1, 1, 1), bool), (1.0, 1.0))


def test_distances_that_could_overflow_are_refused():
    with pytest.raises(ValueError, match=r"300000 voxels at integer spacing 4096 overflow"):
        squared_distance(np.zeros((1, 300_000), bool), (1.0, 4096.0))


def test_nothing_to_measure_to_is_far():
    assert (squared_distance(np.zeros((2, 3), bool)) == FAR).all()
    first, second = two_nearest(np.array([[0, 3]]))
    assert first.tolist() == [[1, 0]]
    assert (second == FAR).all()


def test_empty_arrays_pass():
    assert squared_distance(np.zeros((0, 3), bool)).shape == (0, 3)


def test_labels_beyond_32_bits_are_kept_apart():
    first, second = two_nearest(np.array([2**33, 0, 2**33 + 2**32], np.uint64))
    assert first.tolist() == [0, 1, 0]
    assert second.tolist() == [4, 1, 4]
