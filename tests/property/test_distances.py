"""Exact distances against one Euclidean transform per label."""

import numpy as np
from gigaseg.distances import (
    FAR,
    integer_spacing,
    squared_distance,
    squared_distance_between,
)
from gigaseg.geometry import blocks
from gigaseg.levels import Survey, block_distance_levels
from gigaseg.nearest import two_nearest
from gigaseg.watershed import distance_levels
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
    found = two_nearest(labels, spacing)
    for squares, correct in zip(found, expected, strict=True):
        far = np.iinfo(squares.dtype).max
        np.testing.assert_array_equal(
            np.where(squares == far, FAR, squares.astype(np.int64)), correct
        )


@settings(deadline=None, max_examples=100)
@given(spaced_labels(), st.integers(0, 40), st.booleans())
def test_two_nearest_labels_up_to_a_limit(case, limit, background):
    labels, spacing = case
    expected = nearest_of_all(labels + background, spacing)
    for squares, correct in zip(
        two_nearest(labels, spacing, limit=limit, background=background), expected, strict=True
    ):
        np.testing.assert_array_equal(squares <= limit, correct <= limit)
        np.testing.assert_array_equal(squares[correct <= limit], correct[correct <= limit])


@settings(deadline=None, max_examples=50)
@given(spaced_labels())
def test_distance_to_sites_is_that_to_one_label(case):
    labels, spacing = case
    expected = nearest_of_all((labels > 0).astype(int), spacing)[0]
    np.testing.assert_array_equal(squared_distance(labels > 0, spacing), expected)


@st.composite
def masks_in_blocks(draw):
    """Masks from nothing to everything, mostly with few sites that are far away."""
    ndim = draw(st.sampled_from([2, 3]))
    longest = 40 if ndim == 2 else 9
    shape = draw(hnp.array_shapes(min_dims=ndim, max_dims=ndim, max_side=longest))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = random.random(shape) < draw(st.sampled_from([0, 0.01, 0.1, 0.6, 0.9, 0.99, 0.999, 1]))
    windows = list(blocks(shape, tuple(draw(st.integers(1, n)) for n in shape)))
    return mask, windows, tuple(draw(STEPS) for _ in shape)


@settings(deadline=None, max_examples=150)
@given(masks_in_blocks(), st.integers(0, 12), st.booleans())
def test_levels_of_a_block_are_those_of_the_volume(case, halo, beyond):
    mask, windows, spacing = case
    expected = distance_levels(mask, beyond=beyond, spacing=spacing)
    surveys = [Survey.of(mask[window.slices], window) for window in windows]

    def read(window):
        assert window.clip(mask.shape) == window
        return mask[window.slices]

    for window in windows[:8]:
        found = block_distance_levels(
            read, window, mask.shape, surveys=surveys, halo=halo, beyond=beyond, spacing=spacing
        )
        np.testing.assert_array_equal(found, expected[window.slices])


@settings(deadline=None, max_examples=80)
@given(spaced_labels(), st.data())
def test_distance_between_boxes_is_that_within_one(case, data):
    labels, spacing = case
    corners = [sorted(data.draw(st.integers(0, n)) for _ in "ab") for n in labels.shape]
    here = tuple(slice(*ends) for ends in corners)
    start = data.draw(st.tuples(*(st.integers(0, n - 1) for n in labels.shape)))
    only = np.zeros_like(labels, bool)
    only[here] = labels[here] > 0
    expected = squared_distance(only, spacing)[tuple(slice(a, None) for a in start)]
    found = squared_distance_between(
        labels[here] > 0,
        tuple(a - ends[0] for a, ends in zip(start, corners, strict=True)),
        expected.shape,
        integer_spacing(spacing),
    )
    np.testing.assert_array_equal(found, expected)
