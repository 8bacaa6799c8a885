import math

import numpy as np
import pytest
from gigaseg.labels import contingency
from gigaseg.rand import (
    InformationCounts,
    RandCounts,
    adapted_rand_counts,
    information_counts,
    rand_counts,
)
from gigaseg.thinning import thin


def table(truth, segments):
    return contingency(np.array(truth), np.array(segments))


def test_background_of_the_truth_is_dropped():
    assert rand_counts(table([0, 0, 1, 1], [7, 8, 3, 3])) == rand_counts(table([1, 1], [3, 3]))


def test_background_inside_cells_is_singletons_or_one_object():
    pairs = table([1, 1, 1, 1], [0, 0, 2, 2])
    assert rand_counts(pairs).segments == 4 + 2
    assert rand_counts(pairs, background="object").segments == 4 + 4


def test_split_and_merge_scores_tell_errors_apart():
    split = rand_counts(table([1, 1, 1, 1], [1, 1, 2, 2]))
    merge = rand_counts(table([1, 1, 2, 2], [1, 1, 1, 1]))
    assert (split.split, split.merge) == (0.5, 1)
    assert (merge.split, merge.merge) == (1, 0.5)
    assert split.f == merge.f == pytest.approx(2 / 3)


def test_squares_do_not_overflow():
    huge = table([1], [1])
    huge = type(huge)(huge.truth, huge.segment, huge.voxels * 2**62)
    assert rand_counts(huge).joint == 2**124
    assert rand_counts(huge).f == 1


def test_counts_of_problems_add_up_without_pairs_across_them():
    one = rand_counts(table([1, 1], [1, 1]))
    assert one + one == RandCounts(pairs=8, truth=8, segments=8, joint=8)
    assert (one + one).index == 1


def test_information_of_problems_adds_up_weighted_by_voxels():
    sure = information_counts(table([1, 1], [1, 1]), background="object")
    merged = information_counts(table([1, 2] * 3, [1, 1] * 3), background="object")
    assert (sure + merged).voi_merge == pytest.approx(6 / 8)
    assert (sure + merged).voi_split == 0


@pytest.mark.parametrize("background", ["singletons", "object"])
def test_nothing_is_known_of_an_empty_truth(background):
    empty = table([0, 0], [1, 2])
    pairs = rand_counts(empty, background=background)
    information = information_counts(empty, background=background)
    assert pairs == RandCounts()
    assert information == InformationCounts()
    values = [pairs.f, pairs.split, pairs.index, adapted_rand_counts(empty).error]
    values += [information.f, information.split, information.merge]
    values += [information.voi_split, information.voi_merge]
    assert all(math.isnan(value) for value in values)


def test_one_cluster_against_many_holds_no_information_exactly():
    for size in (3, 7, 10, 49, 1000):
        counts = information_counts(table(np.ones(size, int), np.arange(size) + 1))
        assert counts.f == 0
        assert math.isnan(information_counts(table([1] * size, [1] * size)).f)


def test_thinning_closes_a_thick_boundary_to_a_dam():
    cells = np.ones((3, 9), bool)
    cells[:, 3:6] = False
    assert thin(cells).tolist() == [[1, 1, 1, 1, 0, 2, 2, 2, 2]] * 3


def test_thinning_fills_holes_and_leaves_no_dam_around_one_cell():
    cells = np.ones((5, 5), bool)
    cells[1:4, 1:4] = False
    assert (thin(cells) == 1).all()


def test_thinning_takes_a_plane_without_cells_as_one_region():
    assert (thin(np.zeros((3, 4), bool)) == 1).all()
    assert thin(np.zeros((0, 4), bool)).shape == (0, 4)
