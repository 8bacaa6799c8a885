import numpy as np
import pytest
from gigaseg import matching
from gigaseg.labels import contingency
from gigaseg.matching import (
    CtcCounts,
    MatchCounts,
    PixelCounts,
    ctc_counts,
    match_counts,
    pixel_counts,
)


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


@pytest.mark.parametrize("seed", range(6))
def test_large_groups_are_assigned_like_small_ones(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    pairs = table(*rng.integers(0, 25, (2, 400)))
    thresholds = [0.01, 0.03, 0.05, 0.1]
    densely = match_counts(pairs, thresholds)
    monkeypatch.setattr(matching, "LARGEST_TABLE", 0)
    for one, other in zip(densely, match_counts(pairs, thresholds), strict=True):
        assert (one.tp, one.fp, one.fn) == (other.tp, other.fp, other.fn)
        assert one.sum_iou == pytest.approx(other.sum_iou, rel=1e-12)


def test_a_chain_of_objects_that_all_touch_is_matched():
    count, length = 3000, 4  # the table of this group would have 9 million entries
    truth = np.repeat(np.arange(1, count + 1), length)
    (counts,) = match_counts(table(truth, np.roll(truth, 2)), [0.3])
    assert counts == MatchCounts(count, 0, 0, pytest.approx(count / 3))
