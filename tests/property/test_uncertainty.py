"""Resampling against loops that draw, add and score one sample after the other."""

import math
from itertools import chain

import numpy as np
import pytest
from gigaseg.labels import contingency
from gigaseg.maps import BoundaryMap
from gigaseg.resampling import (
    FEWEST_SAMPLES,
    draw,
    interval,
    mean_defined,
    sum_real,
    sum_whole,
)
from gigaseg.scores import add, average, score, tally_instances, tally_map
from gigaseg.uncertainty import intervals, resample, subtract
from hypothesis import given, settings
from hypothesis import strategies as st

COUNTS = st.lists(st.integers(-(2**120), 2**120) | st.integers(0, 9), min_size=1, max_size=8)


def tallies(names, seed, shape=(14, 14)):
    """Count everything of small random label images; some have no object at all."""
    made = {}
    for number, name in enumerate(names):
        rng = np.random.default_rng([seed, number])
        truth = rng.integers(0, 5, shape) * (rng.random() > 0.2)
        found = np.where(rng.random(shape) < 0.7, truth, rng.integers(0, 5, shape))
        probability = rng.integers(0, 256, shape).astype(np.uint8)
        table = contingency(truth, found)
        made[name] = add(
            [
                tally_map(BoundaryMap(truth, probability), thresholds=[0.2, 0.6], radius=3),
                tally_instances(table, iou_thresholds=[0.5, 0.75], iou_match="at_least"),
            ]
        )
    return made


def repeat(names, often):
    """List the samples of one resample one by one."""
    return list(chain.from_iterable([n] * int(k) for n, k in zip(names, often, strict=True)))


def slow(folds, names, often):
    """Score one resample by the functions that score the samples themselves."""
    each = []
    for _, made in sorted(folds.items()):
        own = [name for name in names if name in made]
        drawn = [made[n] for n in repeat(names, often) if n in made]
        if drawn:
            pooled, means = score(add(drawn)), average([score(tally) for tally in drawn])
            found = {("pooled", s.metric, s.at): s.value for s in pooled}
            found |= {("mean", s.metric, s.at): s.value for s in means}
            each.append((found, len(drawn) / len(own)))
    result = {}
    for key in each[0][0]:
        defined = [(f[key], share) for f, share in each if not math.isnan(f[key])]
        total = sum(share for _, share in defined)
        result[key] = sum(v * share for v, share in defined) / total if total else math.nan
    return result


def check(folds, names, times):
    fast = resample(folds, names, times)
    for column in range(times.shape[1]):
        expected = slow(folds, names, times[:, column])
        got = {key: values[column] for key, values in fast.items()}
        assert got.keys() == expected.keys()
        assert got == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", range(3))
def test_statistics_of_a_resample_are_those_of_its_samples(seed):
    names = [f"s{i}" for i in range(5)]
    check({0: tallies(names, seed)}, names, draw(5, resamples=6, seed=seed))


@pytest.mark.parametrize("same", [True, False], ids=["test split", "cross validation"])
def test_statistics_over_folds_weigh_each_by_the_share_of_its_samples_drawn(same):
    names = [f"s{i}" for i in range(6)]
    parts = [names, names, names] if same else [names[:1], names[1:3], names[3:]]
    folds = {fold: tallies(part, fold) for fold, part in enumerate(parts)}
    check(folds, names, draw(6, resamples=8))


def test_the_samples_as_they_are_have_the_scores_of_the_table():
    names = [f"s{i}" for i in range(4)]
    made = tallies(names, 5)
    values = resample({0: made}, names, np.ones((4, 1)))
    expected = {("pooled", s.metric, s.at): s.value for s in score(add(made.values()))}
    scores = average([score(made[name]) for name in names])
    expected |= {("mean", s.metric, s.at): s.value for s in scores}
    got = {key: value.item() for key, value in values.items()}
    assert got == pytest.approx(expected, abs=1e-14, nan_ok=True)


@given(COUNTS, st.integers(0, 9))
def test_whole_numbers_of_any_size_add_up_exactly(numbers, seed):
    times = draw(len(numbers), resamples=5, seed=seed)
    slow = [sum(n * int(k) for n, k in zip(numbers, column, strict=True)) for column in times.T]
    assert sum_whole(numbers, times) == slow


@given(
    st.lists(st.lists(st.floats(0, 1) | st.just(math.nan), min_size=2, max_size=2), min_size=1),
    st.integers(0, 9),
)
@settings(deadline=None)
def test_means_leave_out_what_is_not_defined(rows, seed):
    times = draw(len(rows), resamples=4, seed=seed)
    means = mean_defined(np.array(rows, float), times)
    for column, often in enumerate(times.T):
        for k in range(2):
            drawn = [rows[i][k] for i in repeat(range(len(rows)), often)]
            defined = [value for value in drawn if not math.isnan(value)]
            expected = math.fsum(defined) / len(defined) if defined else math.nan
            assert means[k, column] == pytest.approx(expected, nan_ok=True, abs=1e-14)


def test_real_numbers_are_added_one_sample_after_the_other():
    values, times = np.random.default_rng(0).random((7, 3)), draw(7, resamples=4)
    expected = np.zeros((3, 4))
    for i in range(7):
        for k in range(3):
            for r in range(4):
                expected[k, r] += values[i, k] * times[i, r]
    assert (sum_real(values, times) == expected).all()


@pytest.mark.parametrize("samples", [1, 2, 17])
def test_a_resample_is_as_many_samples_as_there_are(samples):
    times = draw(samples, resamples=50)
    assert (times.sum(axis=0) == samples).all()
    assert (times == times.round()).all()
    assert (draw(samples, resamples=20) == times[:, :20]).all()
    if samples > 1:
        assert (draw(samples, resamples=50, seed=2) != times).any()


def test_every_sample_is_drawn_equally_often():
    often = draw(10).mean(axis=1)
    assert often == pytest.approx(np.ones(10), abs=0.1)


def test_the_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(1).normal(0, 1, (200, 1))
    low, high = interval(mean_defined(values, draw(200))[0])
    half = 1.96 * values.std() / math.sqrt(200)
    assert (high - low) / 2 == pytest.approx(half, rel=0.06)
    assert (high + low) / 2 == pytest.approx(values.mean(), abs=half / 10)


def test_intervals_hold_the_middle_and_leave_out_what_is_not_defined():
    values = np.append(np.random.default_rng(0).permutation(1001), [math.nan, math.inf])
    assert interval(values) == pytest.approx((25, 975))
    assert all(math.isnan(end) for end in interval(np.array([math.nan])))


def test_order_of_samples_and_folds_changes_no_bit():
    names = [f"s{i}" for i in range(5)]
    folds = {fold: tallies(names, fold) for fold in range(2)}
    turned = {fold: dict(reversed(folds[fold].items())) for fold in (1, 0)}
    assert repr(intervals(folds)) == repr(intervals(turned))


def test_too_few_samples_have_no_interval():
    names = [f"s{i}" for i in range(FEWEST_SAMPLES)]
    assert intervals({0: tallies(names, 0)})
    assert intervals({0: tallies(names[1:], 0)}) == {}


def test_an_experiment_does_not_differ_from_itself():
    names = [f"s{i}" for i in range(4)]
    both = {"a": {0: tallies(names, 0)}, "b": {0: tallies(names, 0)}}
    differences = subtract(both)["a", "b"]
    changes = [d for d in differences.values() if not math.isnan(d.value)]
    assert changes
    assert {(d.value, d.low, d.high, d.told_apart) for d in changes} == {(0, 0, 0, False)}


def test_experiments_are_compared_on_the_samples_that_both_have():
    one, other = tallies(["a", "b", "c", "d"], 0), tallies(["b", "c", "d", "e"], 1)
    common = ["b", "c", "d"]
    found = subtract({"x": {0: one}, "y": {0: other}})["x", "y"]["pooled", "dice", None]
    times = draw(3)
    dice = [
        [
            next(
                s.value
                for s in score(add(made[n] for n in repeat(common, often)))
                if s.metric == "dice"
            )
            for often in times[:, :50].T
        ]
        for made in (one, other)
    ]
    fast = resample({0: other}, common, times)["pooled", "dice", None][:50]
    fast = fast - resample({0: one}, common, times)["pooled", "dice", None][:50]
    assert fast == pytest.approx(np.subtract(dice[1], dice[0]), abs=1e-14)
    assert found.samples == 3
    assert found.value == pytest.approx(found.second - found.first)
    assert found.low <= found.value <= found.high


def test_experiments_without_a_common_sample_are_not_compared():
    assert subtract({"x": {0: tallies(["a"], 0)}, "y": {0: tallies(["b"], 0)}})["x", "y"] == {}
