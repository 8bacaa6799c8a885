import numpy as np
import pytest
from gigaseg.labels import boundary_truth
from gigaseg.objects import drop_small, fill_holes, grow_into_ridge, measure, renumber


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


def test_measures_against_each_mask():
    random = np.random.default_rng(1)
    labels = renumber(random.integers(0, 6, (3, 7, 8)).astype(np.uint32))
    image = random.integers(0, 1000, (2, 3, 7, 8)).astype(np.uint16)
    found = measure(labels, image, (2.0, 0.5, 0.25))
    for k in range(labels.max()):
        where = np.argwhere(labels == k + 1)
        assert found["voxels"][k] == len(where)
        np.testing.assert_allclose(found["centroid"][k], where.mean(axis=0) * (2.0, 0.5, 0.25))
        assert found["start"][k].tolist() == where.min(axis=0).tolist()
        assert found["stop"][k].tolist() == (where.max(axis=0) + 1).tolist()
        np.testing.assert_allclose(found["mean"][k], image[:, labels == k + 1].mean(axis=1))


def test_nothing_to_measure():
    found = measure(np.zeros((1, 2, 2), np.uint32), np.zeros((3, 1, 2, 2)), (1, 1, 1))
    shapes = {name: values.shape for name, values in found.items()}
    assert shapes == {
        "voxels": (0,), "centroid": (0, 3), "start": (0, 3), "stop": (0, 3), "mean": (0, 3)
    }  # fmt: skip
