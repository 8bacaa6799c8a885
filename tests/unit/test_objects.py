import numpy as np
import pytest
from gigaseg.labels import boundary_truth
from gigaseg.objects import (
    Quanta,
    Tally,
    drop_small,
    fill_holes,
    grow_into_ridge,
    renumber,
    tally,
)
from scipy import ndimage


def test_ridge_is_given_back_to_what_it_was_cut_from():
    truth = np.zeros((12, 16), np.uint32)
    truth[1:6, 2:8], truth[1:6, 8:14], truth[6:11, 2:14] = 1, 2, 3
    cut = np.where(boundary_truth(truth), truth, 0)
    grown = grow_into_ridge(cut)
    assert (cut != truth).sum() == 32
    assert (grown != truth).sum() == 2  # where three meet, two have nothing left to grow from
    assert not grown[truth == 0].any()


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ([1, 0, 2], [1, 1, 2], "the lowest id of both neighbours"),
        ([2, 0, 1], [2, 1, 1], "whatever the direction"),
        ([1, 0, 0, 2], [1, 1, 2, 2], "one voxel from each"),
        ([1, 0, 0, 0, 2], [1, 0, 0, 0, 2], "too far apart to be a ridge"),
        ([0, 1, 0, 1, 0], [0, 1, 0, 1, 0], "the same instance on both sides"),
        ([0, 0, 1, 0], [0, 0, 1, 0], "nobody near"),
    ],
)
def test_growing_into_the_ridge(before, after, reason):
    assert grow_into_ridge(np.array([before], np.uint32)).tolist() == [after], reason


def grow_slowly(labels):
    """Look at every voxel and all around it."""
    cross = np.pad(ndimage.generate_binary_structure(labels.ndim, 1), 1)
    reach = ndimage.binary_dilation(cross, np.ones((3,) * labels.ndim))
    padded, grown = np.pad(labels, 2), labels.copy()
    for voxel in np.argwhere(labels == 0):
        around = padded[tuple(slice(i, i + 5) for i in voxel)]
        beside = around[cross & (around > 0)]
        if beside.size and np.unique(around[reach & (around > 0)]).size > 1:
            grown[tuple(voxel)] = beside.min()
    return grown


@pytest.mark.parametrize("shape", [(12, 13), (1, 9), (4, 5, 6), (1, 7, 8), (2, 1, 9)])
@pytest.mark.parametrize("density", [0.05, 0.2, 0.6])
def test_growing_against_a_slow_definition(shape, density):
    random = np.random.default_rng(sum(shape))
    labels = random.integers(1, 5, shape) * (random.random(shape) < density)
    labels = labels.astype(np.uint32)
    np.testing.assert_array_equal(grow_into_ridge(labels), grow_slowly(labels))


def test_growing_looks_along_z_too():
    labels = np.array([[[1]], [[0]], [[0]], [[2]]], np.uint32)
    assert grow_into_ridge(labels).ravel().tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("change", "filled", "reason"),
    [
        ({}, True, "closed"),
        ({(0, 2): 0}, False, "open to the edge"),
        ({(0, 2): 7}, False, "two owners"),
        ({(1, 2): 7}, False, "something else inside"),
        ({(0, 0): 0}, True, "corners do not open"),
    ],
)
def test_holes(change, filled, reason):
    labels = np.pad(np.zeros((2, 3), np.uint32), 1, constant_values=5)
    for index, value in change.items():
        labels[index] = value
    assert (fill_holes(labels)[2, 2] == 5) == filled, reason


def test_holes_of_a_volume_are_closed_in_space():
    tube = np.ones((3, 3, 3), np.uint32)
    tube[:, 1, 1] = 0
    assert (fill_holes(tube) == tube).all()
    tube[[0, 2], 1, 1] = 1
    assert fill_holes(tube).all()


def test_dropping_small_instances_keeps_the_ids_of_others():
    labels = np.array([[1, 2, 2, 0, 3, 3, 3]], np.uint32)
    assert drop_small(labels, 0) is labels
    assert drop_small(labels, 3).tolist() == [[0, 0, 0, 0, 3, 3, 3]]


def test_renumbering_counts_up_in_raster_order_of_first_voxels():
    labels = np.random.default_rng(0).integers(0, 40, (20, 20)).astype(np.uint32)
    rank = {0: 0}
    expected = [rank.setdefault(value, len(rank)) for value in labels.ravel().tolist()]
    np.testing.assert_array_equal(renumber(labels).ravel(), expected)
    assert renumber(np.zeros((2, 2), np.uint32)).max() == 0


def test_tallies_against_each_mask():
    random = np.random.default_rng(1)
    labels = renumber(random.integers(0, 6, (3, 7, 8)).astype(np.uint32))
    image = random.integers(-1000, 1000, (2, 3, 7, 8)).astype(np.int16)
    found = tally(labels, 5, image, [Quanta(1.0)] * 2, start=(4, 0, 9), shape=(10, 7, 20))
    centroids, means = found.centroids((2.0, 0.5, 0.25)), found.means([Quanta(1.0)] * 2)
    for k in range(labels.max()):
        where = np.argwhere(labels == k + 1) + np.array([4, 0, 9])
        assert found.voxels[k] == len(where)
        np.testing.assert_allclose(centroids[k], where.mean(axis=0) * (2.0, 0.5, 0.25))
        assert found.first[k] == np.ravel_multi_index(tuple(where[0]), (10, 7, 20))
        assert found.start[k].tolist() == where.min(axis=0).tolist()
        assert found.stop[k].tolist() == (where.max(axis=0) + 1).tolist()
        np.testing.assert_allclose(means[k], image[:, labels == k + 1].mean(axis=1))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.float32, np.float64])
def test_tallies_of_parts_add_up_exactly(dtype):
    random = np.random.default_rng(2)
    labels = random.integers(0, 4, (1, 9, 10)).astype(np.uint32)
    values = random.normal(0, 1e9, labels.shape)
    image = (
        values.astype(dtype) if np.dtype(dtype).kind == "f" else (abs(values) % 250).astype(dtype)
    )
    quanta = Quanta.choose(image.dtype, float(abs(values).max()))
    whole = tally(labels, 3, [image], [quanta])
    for rows in (1, 2, 5):
        total = Tally.empty(3, 1)
        for y in range(0, 9, rows):
            part = np.s_[:, y : y + rows]
            some = tally(
                labels[part], 3, [image[part]], [quanta], start=(0, y, 0), shape=labels.shape
            )
            total.add(np.arange(3), some)
        np.testing.assert_array_equal(total.means([quanta]), whole.means([quanta]))
        for name, expected in vars(whole).items():
            if name != "light":
                np.testing.assert_array_equal(getattr(total, name), expected)
    exact = [image[labels == k + 1].mean(dtype=np.float64) for k in range(3)]
    np.testing.assert_allclose(whole.means([quanta])[:, 0], exact, rtol=1e-9)


def test_sums_beyond_53_bits_are_exact():
    total = Tally.empty(1, 1)
    image = np.full((1, 1, 2**16), 2**32 - 1, np.uint32)
    part = tally(np.ones(image.shape, np.uint32), 1, [image], [Quanta(1.0)])
    for _ in range(3):
        total.add(np.zeros(2**12, int), part.take(np.zeros(2**12, int)))
    assert total.voxels[0] == 3 * 2**28
    assert total.means([Quanta(1.0)])[0, 0] == 2**32 - 1


@pytest.mark.parametrize(
    ("largest", "step"), [(1.0, -36), (0.0, -37), (300.0, -28), (1e-320, -1022)]
)
def test_floats_are_counted_in_powers_of_two(largest, step):
    assert Quanta.choose(np.dtype("f8"), largest).step == 2.0**step


def test_nothing_to_tally():
    found = tally(
        np.zeros((1, 2, 2), np.uint32), 0, np.zeros((3, 1, 2, 2), np.uint8), [Quanta(1.0)] * 3
    )
    shapes = [found.centroids((1, 1, 1)).shape, found.means([Quanta(1.0)] * 3).shape]
    assert shapes == [(0, 3), (0, 3)]
