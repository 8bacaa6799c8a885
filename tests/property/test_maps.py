"""Boundary maps counted band by band against the functions of whole arrays."""

from unittest.mock import patch

import numpy as np
import pytest
from gigaseg import maps, relaxation
from gigaseg.bands import LabelledBands, cut_bands
from gigaseg.labels import boundary_truth, components, contingency
from gigaseg.maps import BoundaryMap, step_of
from gigaseg.matching import pixel_counts
from gigaseg.offsets import count_offset
from gigaseg.rand import information_counts, rand_counts
from gigaseg.thinning import thin, thin_bands
from gigaseg.warping import warping_counts
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

THRESHOLDS = [k / 10 for k in range(10)]
RADIUS = st.sampled_from([0, 1, 2, 20])

fast = settings(deadline=None, max_examples=80)
shapes = st.tuples(st.integers(1, 14), st.integers(1, 20))
steps = st.one_of(st.integers(0, 255), st.sampled_from([0, 26, 127, 128, 255]))


@st.composite
def planes(draw):
    """Truth and probability: of noise, or one of them empty, or full."""
    shape = draw(shapes)
    truth = draw(
        st.one_of(
            hnp.arrays(np.uint32, shape, elements=st.integers(0, 3)),
            st.sampled_from([np.zeros(shape, np.uint32), np.full(shape, 7, np.uint32)]),
        )
    )
    probability = draw(
        st.one_of(
            hnp.arrays(np.uint8, shape, elements=steps),
            st.sampled_from([np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)]),
        )
    )
    return truth, probability


def thinned_scores(table):
    """What is taken from a table of thinned labels, whose names are of no account."""
    return rand_counts(table), information_counts(table)


def agree(truth, probability, threshold, radius, plane):
    """Assert that a plane has the counts of the functions of whole arrays."""
    inside, cells = boundary_truth(truth), probability > step_of(threshold)
    confidence = np.abs(probability.astype(np.float32) / np.float32(255) - np.float32(threshold))
    assert plane.warping(threshold, radius) == warping_counts(
        inside, cells, confidence=confidence, radius=radius
    )
    assert plane.pixels(threshold) == pixel_counts(inside, cells)
    assert plane.offset() == count_offset(inside, probability)
    whole = contingency(components(inside), thin(cells))
    assert thinned_scores(plane.thinned(threshold)) == thinned_scores(whole)


@fast
@given(planes(), st.sampled_from(THRESHOLDS), RADIUS, st.integers(1, 15), st.integers(1, 3))
def test_counts_do_not_depend_on_what_is_read_at_a_time(plane, threshold, radius, rows, eights):
    with patch.object(maps, "HALO", 1):
        cut = BoundaryMap(*plane, rows=rows, columns=8 * eights)
        agree(*plane, threshold, radius, cut)


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9])
def test_counts_of_membranes_do_not_depend_on_what_is_read_at_a_time(rows, threshold):
    random = np.random.default_rng(0)
    field = ndimage.gaussian_filter(random.normal(size=(2, 90, 70)), (0, 3, 3))
    field /= field.std()
    truth = components(np.abs(field[0]) > 0.3)
    noisy = np.abs(field[0] + 0.2 * field[1]) * 200 + random.integers(-20, 20, truth.shape)
    probability = np.clip(noisy, 0, 255).astype(np.uint8)  # at 0, mismatches percolate
    assert 0.05 < ((truth > 0) != (probability > step_of(threshold))).mean() < 0.6
    agree(truth, probability, threshold, 20, BoundaryMap(truth, probability, rows, 16))


def test_mismatches_on_disk_are_relaxed_like_those_in_memory(tmp_path):
    random = np.random.default_rng(1)
    truth = np.ones((40, 50), np.uint32)
    truth[:, 20] = 0
    probability = random.integers(0, 256, truth.shape).astype(np.uint8)
    with patch.object(relaxation, "IN_MEMORY", 16), patch.object(relaxation, "PART", 5):
        plane = BoundaryMap(truth, probability, columns=16, folder=tmp_path)
        agree(truth, probability, 0.5, 20, plane)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------ bands


@fast
@given(shapes.flatmap(lambda s: hnp.arrays(bool, s)), st.integers(1, 15), st.integers(1, 4))
def test_bands_have_the_components_of_the_plane(mask, rows, halo):
    bands = cut_bands(len(mask), rows, halo)
    labelled = LabelledBands(bands, lambda a, b: mask[a:b])
    got = np.concatenate([labelled.ids(band)[band.own] for band in bands])
    same_up_to_names(got, components(mask))
    for band in bands:
        same_up_to_names(labelled.locally(band), components(mask)[band.top : band.bottom])


def same_up_to_names(labels, others):
    pairs = contingency(labels, others)
    assert len(pairs.truth) == len(set(pairs.truth.tolist())) == len(set(pairs.segment.tolist()))
    np.testing.assert_array_equal(pairs.truth == 0, pairs.segment == 0)


@st.composite
def sparse_cells(draw):
    """Maps of few cells, so that boundaries are thick, or of many."""
    shape = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    share = draw(st.sampled_from([0.01, 0.05, 0.2, 0.5]))
    seed = draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).random(shape) < share


@settings(deadline=None, max_examples=200)
@given(sparse_cells(), st.integers(1, 25), st.integers(1, 5))
def test_thinning_does_not_depend_on_bands(cells, rows, halo):
    bands = cut_bands(len(cells), rows, halo)
    got = np.full(cells.shape, -1)
    for band, labels in thin_bands(bands, cells.shape, lambda a, b: cells[a:b]):
        assert (got[band.start : band.stop] == -1).all()
        got[band.start : band.stop] = labels
    same_up_to_names(got, thin(cells))


# ------------------------------------------------------------------------------------------- bits


@fast
@given(shapes.flatmap(lambda s: hnp.arrays(bool, s)), st.data())
def test_bit_maps_hold_what_was_written(mask, data):
    plane = relaxation.BitMap.zeros(mask.shape)
    rows = data.draw(st.integers(1, len(mask)))
    for start in range(0, len(mask), rows):
        plane.write(start, mask[start : start + rows])
    height, width = mask.shape
    a, b = sorted(data.draw(st.tuples(st.integers(0, height), st.integers(0, height))))
    np.testing.assert_array_equal(plane.rows(a, b), mask[a:b])
    left = 8 * data.draw(st.integers(0, (width - 1) // 8))
    right = data.draw(st.sampled_from([width, *range(left + 8, width, 8)]))
    other = data.draw(hnp.arrays(bool, (height, right - left)))
    differing = np.unpackbits(plane.differing(left, other), axis=1, bitorder="little")
    np.testing.assert_array_equal(differing[:, : right - left], mask[:, left:right] != other)
    assert not differing[:, right - left :].any()
