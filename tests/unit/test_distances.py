import numpy as np
import pytest
from gigaseg.distances import FAR, integer_spacing, squared_distance
from gigaseg.nearest import two_nearest
from scipy import ndimage


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
    assert (second == np.iinfo(second.dtype).max).all()


def test_empty_arrays_pass():
    assert squared_distance(np.zeros((0, 3), bool)).shape == (0, 3)


def test_labels_beyond_32_bits_are_kept_apart():
    first, second = two_nearest(np.array([2**33, 0, 2**33 + 2**32], np.uint64))
    assert first.tolist() == [0, 1, 0]
    assert second.tolist() == [4, 1, 4]


@pytest.mark.parametrize("shape", [(200, 150), (3, 150, 20), (1, 400), (400, 1), (500,)])
@pytest.mark.parametrize("spacing", [1.0, 33.3])
def test_distances_however_far(shape, spacing):
    random = np.random.default_rng(0)
    steps = (spacing, *[1.0] * (len(shape) - 1))
    for count in (1, 3, 50):
        sites = np.zeros(shape, bool)
        sites[tuple(random.integers(0, n, count) for n in shape)] = True
        exact = ndimage.distance_transform_edt(~sites, sampling=integer_spacing(steps)) ** 2
        np.testing.assert_array_equal(squared_distance(sites, steps), np.rint(exact))


def test_distances_that_need_64_bits():
    sites = np.zeros((2, 50_000), bool)
    sites[0, 0] = True
    small, large = squared_distance(sites[:, :40_000]), squared_distance(sites)
    assert (small.dtype, large.dtype) == (np.int32, np.int64)
    assert (small[1, -1], large[1, -1]) == (39_999**2 + 1, 49_999**2 + 1)
