import numpy as np
import pytest
from gigaseg import matching
from gigaseg.labels import Contingency, contingency
from gigaseg.matching import (
    CtcCounts,
    MatchCounts,
    PixelCounts,
    ctc_counts,
    match_counts,
    pixel_counts,
)
from scipy.optimize import linear_sum_assignment


def table(truth, segments):
    return contingency(np.array(truth), np.array(segments))


MERGE = table([1, 1, 2, 2], [5, 5, 5, 5])  # IoU exactly 0.5 with both


@pytest.mark.parametrize(("match", "tp"), [("at_least", 1), ("above", 0)])
def test_an_overlap_equal_to_the_threshold_counts_by_choice(match, tp):
    (counts,) = match_counts(MERGE, [0.5], match=match)
    assert (counts.tp, counts.fp, counts.fn) == (tp, 1 - tp, 2 - tp)


def test_an_iou_of_three_quarters_meets_its_decimal():
    (counts,) = match_counts(table([1, 1, 1, 1], [2, 2, 2, 0]), [0.75])
    assert counts.tp == 1


def test_more_pairs_go_before_better_pairs():
    # Truth 1 overlaps segments 1 (IoU 4/9) and 2 (3/7); truth 2 overlaps segment 1 (2/6).
    pairs = table([1] * 4 + [2] * 2 + [1] * 3, [1] * 4 + [1] * 2 + [2] * 3)
    (counts,) = match_counts(pairs, [0.2])
    assert counts.tp == 2
    assert counts.sum_iou == pytest.approx(3 / 7 + 2 / 6)


def test_empty_images_are_undefined_and_one_empty_image_scores_zero():
    (both,) = match_counts(table([0, 0], [0, 0]), [0.5])
    values = [both.f1, both.ap, both.pq, both.sq, both.precision, both.recall]
    assert np.isnan(values).all()
    (no_truth,) = match_counts(table([0, 0], [0, 1]), [0.5])
    (no_segment,) = match_counts(table([0, 1], [0, 0]), [0.5])
    assert no_truth.f1 == no_truth.ap == no_segment.f1 == no_segment.ap == 0


def test_matches_pool_by_addition():
    total = MatchCounts(1, 0, 1, 0.75) + MatchCounts(2, 1, 0, 1.5)
    assert total == MatchCounts(3, 1, 1, 2.25)
    assert (total.ap, total.sq, total.precision, total.recall) == (0.6, 0.75, 0.75, 0.75)
    assert total.pq == pytest.approx(total.sq * total.f1)


def test_seg_wants_more_than_half_of_the_reference():
    half = ctc_counts(table([1, 1], [3, 0]))
    assert (half.seg, half.fn, half.fp) == (0, 1, 1)
    more = ctc_counts(table([1, 1, 1], [3, 3, 0]))
    assert (more.seg, more.fn, more.fp) == (pytest.approx(2 / 3), 0, 0)


def test_det_charges_merges_misses_and_inventions():
    assert ctc_counts(MERGE) == CtcCounts(2, 1.0, splits=1, fn=0, fp=0)
    assert ctc_counts(MERGE).det == 1 - 5 / 20
    assert ctc_counts(table([1, 1, 0], [0, 0, 7])).det == 0
    assert np.isnan(ctc_counts(table([0], [7])).det)
    assert (ctc_counts(MERGE) + ctc_counts(MERGE)).references == 4


def test_pixel_scores_of_two_empty_maps_are_perfect():
    counts = pixel_counts(np.zeros((2, 2), bool), np.zeros((2, 2), bool))
    assert (counts.f, counts.iou, counts.error) == (1, 1, 0)
    assert np.isnan(PixelCounts().error)


def test_pixel_counts_pool_by_addition():
    one = PixelCounts(tp=2, fp=1, fn=1, tn=4)
    assert (one + one).f == one.f == pytest.approx(2 / 3)


def test_pixel_counts_refuse_different_shapes():
    with pytest.raises(ValueError, match=r"shape \(2,\), the map \(3,\)"):
        pixel_counts(np.zeros(2, bool), np.zeros(3, bool))


def assign_with_a_dense_table(iou):
    """Return number and IoU of the best pairs of one problem, as stardist does."""
    candidates = np.where(iou > 0, 1 + iou / (2 * min(iou.shape)), 0)
    best = iou[linear_sum_assignment(candidates, maximize=True)]
    return np.count_nonzero(best), best.sum()


@pytest.mark.parametrize("ids", [9, 25])
@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_groups_are_assigned_as_by_one_dense_table(ids, batch, monkeypatch):
    monkeypatch.setattr(matching, "BATCH", batch)
    rng = np.random.default_rng(ids)
    blocks = [rng.integers(0, ids, (2, 300)) + 100 * k for k in range(6)]  # a few groups each
    truth, segments = np.concatenate(blocks, axis=1)
    sizes = [np.bincount(labels) for labels in (truth, segments)]
    joint = np.zeros([len(s) for s in sizes])
    np.add.at(joint, (truth, segments), 1)
    union = sizes[0][:, None] + sizes[1] - joint
    iou = np.divide(joint, union, out=np.zeros_like(joint), where=union > 0)[1:, 1:]
    thresholds = [0.001, 0.03, 0.05, 0.1]
    for counts, threshold in zip(
        match_counts(table(truth, segments), thresholds), thresholds, strict=True
    ):
        number, total = assign_with_a_dense_table(np.where(iou >= threshold, iou, 0))
        assert counts.tp == number
        assert counts.sum_iou == pytest.approx(total, rel=1e-12)
        assert counts.tp + counts.fn == np.count_nonzero(sizes[0][1:])
        assert counts.tp + counts.fp == np.count_nonzero(sizes[1][1:])


def test_a_chain_of_objects_that_all_touch_is_matched():
    count, length = 3000, 4  # the table of this group would have 9 million entries
    truth = np.repeat(np.arange(1, count + 1), length)
    (counts,) = match_counts(table(truth, np.roll(truth, 2)), [0.3])
    assert counts == MatchCounts(count, 0, 0, pytest.approx(count / 3))


def million_cells(count):
    """The table of `count` cells in a row, each of 60 voxels and shifted by 10 to 25 of them."""
    ids = np.arange(1, count + 1, dtype=np.uint64)
    shift = 10 + np.arange(count) % 16
    return Contingency.total(
        [
            Contingency(ids, ids, 60 - shift),
            Contingency(ids[1:], ids[:-1], shift[:-1]),
            Contingency(ids[:1], ids[:1] * np.uint64(0), shift[:1]),
        ]
    )


def test_a_million_objects_are_matched():
    count = 10**6
    low, high = match_counts(million_cells(count), [0.2, 0.5])
    # At the low threshold, 6 of 16 also overlap their neighbour: groups of 7 are to be assigned.
    assert (low.tp, low.fp, low.fn) == (count, 0, 0)
    assert high.tp == count // 16 * 11 + 1  # and the last, which has no neighbour to overlap
    assert ctc_counts(million_cells(count)).references == count


# ----------------------------------------------------------------------------- truth not known

UNKNOWN = 9


def left_out(truth, segments):
    known, spared = table(truth, segments).without(UNKNOWN)
    (counts,) = match_counts(known, [0.5], spared=spared)
    return counts, ctc_counts(known, spared=spared)


@pytest.mark.parametrize(
    ("truth", "segments", "fp", "why"),
    [
        ([0, 9, 9], [5, 5, 5], 0, "mostly where nothing is known"),
        ([0, 9], [5, 5], 1, "exactly half is not mostly"),
        ([0, 0, 9], [5, 5, 5], 1, "mostly on known background"),
        ([9, 9, 0], [5, 5, 0], 0, "altogether where nothing is known"),
    ],
)
def test_invented_objects_are_forgiven_where_nothing_is_known(truth, segments, fp, why):
    counts, ctc = left_out(truth, segments)
    assert (counts.tp, counts.fp, counts.fn) == (0, fp, 0), why
    assert (ctc.fp, ctc.references) == (fp, 0)


def test_overlap_is_taken_where_the_truth_is_known():
    counts, ctc = left_out([1, 1, 9, 9, 9], [5, 5, 5, 5, 5])
    assert counts == MatchCounts(tp=1, sum_iou=1.0)  # spared, and found all the same
    assert (ctc.seg, ctc.det) == (1, 1)


def test_without_an_ignored_label_nothing_is_left_out():
    whole = table([1, 2, 0], [3, 0, 4])
    known, spared = whole.without(None)
    assert known is whole
    assert spared.size == 0
    assert whole.without(UNKNOWN)[0] == whole
