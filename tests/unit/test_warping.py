import numpy as np
import pytest
from gigaseg.warping import (
    WarpingCounts,
    count_clusters,
    mismatch_kinds,
    warp,
    warping_counts,
)


def two_cells():
    plane = np.ones((7, 9), bool)
    plane[:, 4] = False
    return plane


def test_a_moved_membrane_costs_nothing():
    moved = np.ones((7, 9), bool)
    moved[:, 5] = False
    assert warping_counts(two_cells(), moved).mismatches == 0


def test_a_gap_is_one_merger_and_a_line_one_split_of_many_pixels():
    gap = two_cells()
    gap[3, 4] = True
    assert warping_counts(two_cells(), gap).merge == 1
    framed = np.zeros((9, 9), bool)
    framed[1:-1, 1:-1] = True
    line = framed.copy()
    line[:, 4] = False
    counts = warping_counts(framed, line)
    assert (counts.split, counts.mismatches) == (1, 1)


def test_missing_and_added_objects_are_not_symmetric():
    empty = np.zeros((9, 9), bool)
    cell = empty.copy()
    cell[2:7, 2:7] = True
    assert warping_counts(cell, empty) == WarpingCounts(area=81, object_deletion=1)
    assert warping_counts(empty, cell) == WarpingCounts(area=81, object_addition=25)


def test_outside_the_mask_nothing_is_warped_or_counted():
    moved = np.ones((7, 9), bool)
    moved[:, 5] = False
    mask = np.zeros((7, 9), bool)
    assert warping_counts(two_cells(), moved, mask=mask).mismatches == 0
    assert (warp(two_cells(), moved, mask=mask) == two_cells()).all()


def test_the_window_decides_between_a_split_and_a_deleted_hole():
    ring = np.zeros((15, 15), bool)
    ring[1:14, 1:14] = True
    ring[2:13, 2:13] = False
    cut = ring.copy()
    cut[7, 1] = False
    assert mismatch_kinds(ring, cut, radius=2)[7, 1] == 2  # the way round is out of sight
    assert mismatch_kinds(ring, cut, radius=20)[7, 1] == 4
    assert mismatch_kinds(ring, cut, radius=None)[7, 1] == 4


def test_confident_pixels_go_first():
    # Two pixels bridge the same gap; whichever is flipped first, the other one is a merger.
    truth = np.zeros((1, 7), bool)
    truth[0, [0, 1, 5, 6]] = True
    proposal = np.ones((1, 7), bool)
    left = np.array([[0, 0, 0.3, 0.2, 0.1, 0, 0]], np.float32)
    assert warp(truth, proposal, confidence=left)[0].tolist() == [1, 1, 1, 1, 0, 1, 1]
    right = left[:, ::-1].copy()
    assert warp(truth, proposal, confidence=right)[0].tolist() == [1, 1, 0, 1, 1, 1, 1]


def test_clusters_count_errors_rather_than_pixels():
    gap = two_cells()
    gap[3:5, 4] = True
    gap[0, 4] = True
    kinds = mismatch_kinds(two_cells(), gap)
    assert (kinds == 1).sum() == 3
    assert count_clusters(kinds, gap).merge == 2


def test_counts_add_up():
    one = WarpingCounts(area=10, merge=1, split=2, hole_addition=3)
    both = one + one
    assert (both.mismatches, both.error, both.splits_and_mergers) == (12, 0.6, 0.3)


def test_an_empty_plane_has_no_error():
    counts = warping_counts(np.zeros((0, 5), bool), np.zeros((0, 5), bool))
    assert np.isnan([counts.error, counts.splits_and_mergers]).all()


@pytest.mark.parametrize("shapes", [((3, 4), (4, 3)), ((2, 3, 4), (2, 3, 4))])
def test_only_planes_of_one_shape_are_compared(shapes):
    with pytest.raises(ValueError, match="two planes of one shape; got"):
        warp(*(np.zeros(shape, bool) for shape in shapes))
