"""Exact distances against one Euclidean transform per label."""

import numpy as np
from gigaseg.distances import FAR, integer_spacing, squared_distance, two_nearest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

STEPS = st.sampled_from([1.0, 0.3, 2.5])


@st.composite
def spaced_labels(draw):
    """Labels that overlap the interesting cases: empty, one cell, full, touching, 1-px objects."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=12))
    labels = draw(hnp.arrays(np.uint32, shape, elements=st.integers(0, 5), fill=st.integers(0, 2)))
    return labels, tuple(draw(STEPS) for _ in shape)


def nearest_of_all(labels, spacing):
    """Measure to every label by itself and sort: slow and obvious."""
    steps = integer_spacing(spacing)
    squares = [np.full(labels.shape, FAR)] * 2
    for label in set(np.unique(labels)) - {0}:
        distance = ndimage.distance_transform_edt(labels != label, sampling=steps)
        squares.append(np.rint(distance**2).astype(np.int64))
    return np.sort(squares, axis=0)[:2]


@settings(deadline=None, max_examples=150)
@given(spaced_labels())
def test_two_nearest_labels_are_those_of_all(case):
    labels, spacing = case
    expected = nearest_of_all(labels, spacing)
    np.testing.assert_array_equal(two_nearest(labels, spacing), expected)


@settings(deadline=None, max_examples=50)
@given(spaced_labels())
def test_distance_to_sites_is_that_to_one_label(case):
    labels, spacing = case
    expected = nearest_of_all((labels > 0).astype(int), spacing)[0]
    np.testing.assert_array_equal(squared_distance(labels > 0, spacing), expected)
