import numpy as np
import pytest
from gigaseg.instances import Evidence, Splitting, segment


def row(*values):
    return np.array([values], np.uint8)


def foreground(*values):
    return Evidence.read(row(*values)[None], "foreground")


@pytest.mark.parametrize(
    ("threshold", "expected", "reason"),
    [
        (0.5, [0, 1, 1], "127 is below a half, 128 above"),
        (0.0, [1, 1, 1], "above 0"),
        (0.2, [1, 1, 1], "51 would be exactly 0.2"),
        (0.99, [0, 0, 1], "only the certain"),
    ],
)
def test_threshold_is_exceeded(threshold, expected, reason):
    labels = segment(foreground(127, 128, 255), Splitting(threshold=threshold))
    assert labels.tolist() == [expected], reason


def test_equal_to_the_threshold_is_not_above_it():
    assert not segment(foreground(51), Splitting(threshold=0.2)).any()


@pytest.mark.parametrize(
    "how",
    [
        Splitting(),
        Splitting(fill=True),
        Splitting(method="components"),
        Splitting(level="probability", seeds="probability", fill=True),
    ],
)
def test_nothing_above_the_threshold_is_no_instance(how):
    assert not segment(foreground(0, 3, 9), how).any()


def test_components_keep_touching_objects_together():
    evidence = foreground(255, 200, 130, 200, 255, 0, 255)
    how = Splitting(method="components", ridge=False)
    assert segment(evidence, how).tolist() == [[1, 1, 1, 1, 1, 0, 2]]


def test_probability_as_level_and_seeds():
    evidence = foreground(250, 160, 130, 170, 240)
    how = Splitting(level="probability", seeds="probability", seed_threshold=0.9)
    assert segment(evidence, how).tolist() == [[1, 1, 2, 2, 2]]


@pytest.mark.parametrize(("h", "instances"), [(80, 2), (120, 2), (121, 1)])
def test_dynamics_of_probability_count_steps_of_uint8(h, instances):
    labels = segment(foreground(250, 130, 255), Splitting(level="probability", h=h))
    assert labels.max() == instances


def test_interior_and_boundary():
    interior, boundary = row(255, 20, 20, 255, 0), row(0, 230, 240, 0, 0)
    evidence = Evidence.read(np.stack([interior, boundary]), "interior_boundary")
    assert evidence.inside.tolist() == [[255, 250, 255, 255, 0]]
    how = Splitting(level="probability", seeds="probability")
    assert segment(evidence, how).tolist() == [[1, 1, 2, 2, 0]]


def test_sum_of_rounded_probabilities_stays_in_range():
    evidence = Evidence.read(np.stack([row(128), row(128)]), "interior_boundary")
    assert evidence.inside.tolist() == [[255]]


def test_fill_covers_everything():
    evidence = foreground(255, 255, 0, 0, 255, 255)
    assert segment(evidence, Splitting(fill=True)).tolist() == [[1, 1, 1, 2, 2, 2]]


def test_repairs_come_in_order_and_ids_are_dense():
    inside = np.full((1, 7, 12), 0, np.uint8)
    inside[0, 1:6, 1:6] = 255
    inside[0, 3, 3] = 0
    inside[0, 0, 11] = 255
    inside[0, 5, 9:11] = 255
    how = Splitting(fill_holes=True, minimum_size=2)
    labels = segment(Evidence.read(inside, "foreground"), how)
    assert np.bincount(labels.ravel()).tolist() == [7 * 12 - 27, 25, 2]


def test_volumes_are_flooded_in_space():
    inside = np.zeros((1, 3, 1, 3), np.uint8)
    inside[0, :, 0, 0] = inside[0, 0, 0, :] = 255
    how = Splitting(method="components")
    assert segment(Evidence.read(inside, "foreground"), how).max() == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "magic"}, "method is one of watershed, components, not 'magic'"),
        ({"level": "height"}, "level is one of distance, probability"),
        ({"seeds": "hand"}, "seeds is one of dynamics, probability"),
        ({"threshold": 1.0}, "threshold 1.0 is not a probability"),
        ({"seed_threshold": -0.1}, "seed_threshold -0.1 is not a probability"),
        ({"h": -1.0}, "must not be negative"),
        ({"minimum_size": -1}, "must not be negative"),
    ],
)
def test_settings_that_make_no_sense(wrong, message):
    with pytest.raises(ValueError, match=message):
        Splitting(**wrong)


def test_probabilities_must_fit_the_target():
    with pytest.raises(ValueError, match=r"has 2 channels of uint8, the probabilities have 1"):
        Evidence.read(row(1)[None], "interior_boundary")
    with pytest.raises(ValueError, match=r"of float64: predict again"):
        Evidence.read(np.zeros((1, 2, 2)), "foreground")
    with pytest.raises(ValueError, match=r"target is one of"):
        Evidence.read(row(1)[None], "cells")
