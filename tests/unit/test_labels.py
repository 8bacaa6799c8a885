import numpy as np
import pytest
from gigaseg.labels import (
    Contingency,
    boundaries,
    boundary_truth,
    components,
    contingency,
)


def test_components_are_4_connected_so_that_a_diagonal_line_separates():
    assert components(~np.eye(4, dtype=bool)).max() == 2


def test_components_of_planes_continue_their_ids_in_raster_order():
    mask = np.array([[[0, 1, 0, 1]], [[1, 1, 0, 1]]])
    assert components(mask).tolist() == [[[0, 1, 0, 2]], [[3, 3, 0, 4]]]
    assert components(mask, objects="volume").tolist() == [[[0, 1, 0, 2]], [[1, 1, 0, 2]]]


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (5, 1), (1, 5), (2, 3, 1)])
def test_components_accept_thin_and_empty_masks(shape):
    assert components(np.ones(shape, bool)).shape == shape


def test_components_refuse_other_axes():
    with pytest.raises(ValueError, match="axes y x or z y x; got 1 axes"):
        components(np.ones(3, bool))


def test_boundaries_are_on_both_sides_and_only_between_instances():
    labels = np.array([[1, 1, 2], [0, 1, 2], [3, 0, 0]])
    assert boundaries(labels).tolist() == [[0, 1, 1], [0, 1, 1], [0, 0, 0]]
    assert boundaries(labels, background=True).tolist() == [[1, 1, 1], [0, 1, 1], [1, 0, 0]]


def test_boundaries_of_plane_objects_ignore_the_neighbouring_plane():
    labels = np.array([[[1, 1]], [[2, 2]]])
    assert boundaries(labels, objects="volume").all()
    assert not boundaries(labels, objects="plane").any()
    assert boundary_truth(labels, objects="plane").all()


def test_contingency_is_exact_for_large_ids_and_mixed_types():
    table = contingency(np.array([2**63, 2**63 + 1], np.uint64), np.array([1, 1], np.uint8))
    assert table.truth.tolist() == [2**63, 2**63 + 1]
    assert table.segment_sizes()[1].tolist() == [2]


@pytest.mark.parametrize("voxels", [1, 4095, 4096, 4097, 8192, 30_000])
@pytest.mark.parametrize("longest", [1, 9, 6000])
def test_contingency_counts_many_pairs_and_runs_of_any_length(voxels, longest):
    rng = np.random.default_rng(voxels + longest)
    lengths = rng.integers(1, longest + 1, voxels)
    truth, segments = (
        np.repeat(rng.integers(0, 90, voxels), rng.permutation(lengths))[:voxels] for _ in "ab"
    )
    table = contingency(truth, segments)
    pairs, counts = np.unique(np.stack([truth, segments]), axis=1, return_counts=True)
    np.testing.assert_array_equal(np.stack([table.truth, table.segment]), pairs)
    np.testing.assert_array_equal(table.voxels, counts)


def test_many_tables_add_up_whatever_their_sizes():
    rng = np.random.default_rng(1)
    truth, segments = rng.integers(0, 40, (2, 5000))
    cuts = np.sort(rng.integers(0, 5000, 60))
    pieces = zip(np.split(truth, cuts), np.split(segments, cuts), strict=True)
    total = Contingency.total(contingency(*piece) for piece in pieces)
    assert total == contingency(truth, segments)


def test_contingency_refuses_different_shapes():
    with pytest.raises(ValueError, match=r"shape \(2, 3\), the segmentation \(3, 2\)"):
        contingency(np.zeros((2, 3), int), np.zeros((3, 2), int))


def test_the_sum_of_no_tables_is_empty():
    empty = contingency(np.zeros((0, 4), int), np.zeros((0, 4), int))
    assert Contingency.total([]) == empty
    assert empty != 3


def test_total_does_not_depend_on_order():
    tables = [contingency(np.array([i, 1]), np.array([1, i])) for i in range(4)]
    assert Contingency.total(tables) == Contingency.total(tables[::-1])


def test_where_keeps_marked_pairs():
    table = contingency(np.array([0, 1, 2]), np.array([1, 1, 0]))
    assert table.where(table.truth > 0).truth_sizes()[0].tolist() == [1, 2]
