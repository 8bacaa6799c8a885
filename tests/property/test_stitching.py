"""Blocks by themselves, then joined: the same as the whole volume at once, voxel for voxel."""

from itertools import product
from unittest.mock import patch

import numpy as np
import pytest
from gigaseg import stitching
from gigaseg.fragments import Fragments, flood_block
from gigaseg.geometry import Window
from gigaseg.labels import components
from gigaseg.stitching import Components, join_components, solve
from gigaseg.watershed import (
    climb,
    climb_distance,
    distance_levels,
    dynamics_watershed,
    seeded_watershed,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


@st.composite
def cut(draw, shape):
    """Cut a volume by a grid, even or uneven, and shuffle its blocks."""
    lines = []
    for extent in shape:
        if draw(st.booleans()):
            starts = list(range(0, extent, draw(st.integers(1, 40))))
        else:
            starts = sorted({0, *draw(st.lists(st.integers(0, extent - 1), max_size=3))})
        lines.append(list(zip(starts, [*starts[1:], extent], strict=True)))
    boxes = [tuple(zip(*corners, strict=True)) for corners in product(*lines)]
    return draw(st.permutations([Window(*box) for box in boxes]))


@st.composite
def cut_landscapes(draw):
    """Few levels make many plateaus and ties; masks of every density, and how they were cut."""
    ndim = draw(st.sampled_from([2, 3]))
    longest = 24 if ndim == 2 else 7
    shape = draw(hnp.array_shapes(min_dims=ndim, max_dims=ndim, max_side=longest))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    top = draw(st.sampled_from([0, 1, 3, 9, 1000]))
    levels = random.integers(-top, top + 1, shape)
    mask = random.random(shape) < draw(st.sampled_from([0, 0.4, 0.7, 0.95, 1]))
    return levels, mask, draw(cut(shape)), random


def flood_blocks(levels, mask, windows, random, seeds=None, pass_level=None):
    """Go through bytes, as a job that is killed and resumed does."""
    labels = np.zeros(mask.shape, np.uint32)
    facts = []
    for window in windows:
        part = None if seeds is None else seeds[window.slices]
        labels[window.slices], block = flood_block(
            levels[window.slices],
            mask[window.slices],
            window,
            mask.shape,
            pass_level=pass_level,
            seeds=part,
        )
        facts.append(block.to_bytes())
    enough = random.choice([0, 10, 100, 10**9])  # when `solve` finishes what it can
    with patch.object(stitching, "ENOUGH", enough):
        joined = solve(Fragments.from_bytes(content) for content in facts)
    for window, table in zip(windows, joined.tables, strict=True):
        labels[window.slices] = table[labels[window.slices]]
    assert labels.max(initial=0) == joined.count
    return labels


@settings(max_examples=150)
@given(cut_landscapes(), st.sampled_from([0.01, 0.1, 0.5]))
def test_seeds(case, density):
    levels, mask, windows, random = case
    seeds = random.random(mask.shape) < density
    expected = seeded_watershed(levels, mask, components(seeds & mask, objects="volume"))
    np.testing.assert_array_equal(
        flood_blocks(levels, mask, windows, random, seeds=seeds), expected
    )


@settings(max_examples=200)
@given(cut_landscapes(), st.sampled_from([0, 1, 2.5, 6, 700]))
def test_dynamics(case, h):
    levels, mask, windows, random = case
    expected = dynamics_watershed(levels, mask, climb(h))
    found = flood_blocks(levels, mask, windows, random, pass_level=climb(h))
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=80)
@given(cut_landscapes(), st.sampled_from([0, 0.5, 1, 2]), st.booleans())
def test_dynamics_of_distance(case, h, fill):
    _, foreground, windows, random = case
    spacing = (2.5, *[1.0] * (foreground.ndim - 1))
    levels = distance_levels(foreground, beyond=fill, spacing=spacing)
    mask = np.ones_like(foreground) if fill else foreground
    pass_level = climb_distance(h, spacing)
    expected = dynamics_watershed(levels, mask, pass_level)
    found = flood_blocks(levels, mask, windows, random, pass_level=pass_level)
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=80)
@given(cut_landscapes())
def test_connected_components_by_flooding(case):
    levels, mask, windows, random = case
    expected = components(mask, objects="volume")
    np.testing.assert_array_equal(flood_blocks(levels, mask, windows, random), expected)


@pytest.mark.parametrize("objects", ["plane", "volume"])
@settings(max_examples=100)
@given(case=cut_landscapes())
def test_connected_components(objects, case):
    _, mask, windows, _ = case
    expected = components(mask, objects=objects)
    labels = np.zeros(mask.shape, np.uint32)
    facts, sizes = [], []
    for window in windows:
        part = components(mask[window.slices], objects=objects)
        labels[window.slices] = part
        sizes.append(np.bincount(part.ravel()))
        facts.append(Components.of(part, window, mask.shape, objects).to_bytes())
    joined = join_components(Components.from_bytes(content) for content in facts)
    for window, table in zip(windows, joined.tables, strict=True):
        labels[window.slices] = table[labels[window.slices]]
    np.testing.assert_array_equal(labels, expected)
    assert joined.count == expected.max(initial=0)
    np.testing.assert_array_equal(
        joined.combine(sizes, np.add, 0), np.bincount(expected.ravel(), minlength=1)
    )
