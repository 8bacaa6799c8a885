"""The weight map: exact, local, and blind to names and directions."""

import numpy as np
from gigaseg.blockwise import map_blocks
from gigaseg.stages.weigh import block_function, block_halo
from gigaseg.weights import RIDGE, cutoff, encode_target, separation
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

WEIGHTS = {"w0": 10.0, "sigma": 1.0, "separation_on": "background", "boundary_width": 2}
LABELS = hnp.arrays(
    np.uint32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=16),
    elements=st.integers(0, 5),
    fill=st.integers(0, 2),
)
VOLUMES = hnp.arrays(
    np.uint32,
    hnp.array_shapes(min_dims=3, max_dims=3, max_side=9),
    elements=st.integers(0, 4),
    fill=st.integers(0, 2),
)


# Of each, the px, the finest axis, is another integer of `integer_spacing`: 2, 1 and 13.
ANISOTROPIC = st.sampled_from([(2.5, 1.0, 1.0), (0.1, 0.3, 0.2), (0.29, 0.065, 0.13)])


def separation_by_all_cells(labels, spacing, w0, sigma, on):
    """Eq. 2 of the paper from one distance map per cell, in px of the finest axis."""
    px = np.ones(labels.ndim) if spacing is None else np.array(spacing) / min(spacing)
    ridge = np.zeros(labels.shape, bool)
    for index in np.ndindex(labels.shape):
        for axis in range(labels.ndim):
            for step in (-1, 1):
                other = list(index)
                other[axis] += step
                if 0 <= other[axis] < labels.shape[axis]:
                    pair = {labels[index], labels[tuple(other)]}
                    ridge[index] |= len(pair - {0}) == 2
    cells = set(np.unique(labels)) - {0}
    distances = [np.full(labels.shape, np.inf)] * 2
    distances += [ndimage.distance_transform_edt(labels != cell, sampling=px) for cell in cells]
    d1, d2 = np.sort(distances, axis=0)[:2]
    weight = w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
    weight[d1 + d2 > cutoff(w0, sigma)] = 0
    return weight if on == "all" else np.where((labels == 0) | ridge, weight, 0)


@settings(deadline=None, max_examples=80)
@given(
    st.tuples(LABELS, st.none()) | st.tuples(VOLUMES, ANISOTROPIC),
    st.sampled_from([0.7, 2.0, 5.0]),
    st.sampled_from(["background", "all"]),
)
def test_separation_is_that_of_all_cells(case, sigma, on):
    labels, spacing = case
    expected = separation_by_all_cells(labels, spacing, 10.0, sigma, on)
    found = separation(labels, w0=10.0, sigma=sigma, on=on, spacing=spacing)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0)
    np.testing.assert_array_equal(found == 0, expected == 0)


@settings(deadline=None, max_examples=40)
@given(LABELS, st.sampled_from([0, 1, 2, 3.5]))
def test_boundary_is_what_lies_near_anything_else(labels, width):
    other = np.full(labels.shape, np.inf)
    for label in np.unique(labels):
        inside = labels == label
        if not inside.all():
            other[inside] = ndimage.distance_transform_edt(inside)[inside]
    target = encode_target(labels, boundary_width=width)
    expected = np.where(labels == 0, 0, np.where(other <= width, 2, 1))
    np.testing.assert_array_equal(target[target != RIDGE], expected[target != RIDGE])


@settings(deadline=None, max_examples=40)
@given(LABELS, st.permutations(range(1, 6)), st.sampled_from([(1, 1), (-1, 1), (1, -1)]))
def test_names_and_directions_do_not_matter(labels, names, flip):
    turn = (slice(None, None, flip[0]), slice(None, None, flip[1]))
    renamed = np.array([0, *names], np.uint32)[labels[turn]]
    for function in (
        lambda array: encode_target(array, boundary_width=2),
        lambda array: separation(array, w0=10.0, sigma=1.0),
    ):
        np.testing.assert_array_equal(function(renamed), function(labels)[turn])


@settings(deadline=None, max_examples=40)
@given(
    VOLUMES,
    st.sampled_from(["plane", "volume"]),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.sampled_from([(1.0, 1.0, 1.0), (2.5, 1.0, 1.0), (0.3, 0.2, 0.1)]),
)
def test_blocks_give_the_whole_bit_for_bit(labels, objects, block, spacing):
    function = block_function(WEIGHTS, objects, spacing)
    whole = function(labels, (slice(None),) * 3)
    target, weight = np.zeros(labels.shape, np.uint8), np.zeros(labels.shape, np.float32)
    map_blocks(
        function,
        [labels],
        [target, weight],
        block=block,
        halo=block_halo(WEIGHTS, objects, spacing),
        edge="clip",
    )
    np.testing.assert_array_equal(target, whole[0])
    np.testing.assert_array_equal(weight.view(np.uint32), whole[1].view(np.uint32))


@settings(deadline=None, max_examples=30)
@given(VOLUMES)
def test_planes_are_problems_of_their_own(labels):
    spacing = (1.0, 1.0, 1.0)
    planes = block_function(WEIGHTS, "plane", spacing)(labels, (slice(None),) * 3)
    for z in range(len(labels)):
        expected = separation(labels[z], w0=10.0, sigma=1.0)
        np.testing.assert_array_equal(planes[1][z], expected)
