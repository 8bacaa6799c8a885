"""The watershed against its definition: sort all edges, join them one by one."""

import numpy as np
import pytest
from gigaseg.labels import components
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


def sorted_edges(levels, mask):
    """List (higher level, lower level, raster index, voxel, voxel) of all edges, in order."""
    number = np.arange(mask.size).reshape(mask.shape)
    edges = []
    for index in zip(*np.nonzero(mask), strict=True):
        for k, axis in enumerate(reversed(range(mask.ndim))):  # x, y, z
            other = tuple(i + (a == axis) for a, i in enumerate(index))
            if other[axis] < mask.shape[axis] and mask[other]:
                low, high = sorted((int(levels[index]), int(levels[other])))
                raster = int(number[index]) * mask.ndim + k
                edges.append((high, low, raster, int(number[index]), int(number[other])))
    return sorted(edges)


def find(parent, i):
    while parent[i] != i:
        i = parent[i]
    return i


def forest_cut(levels, mask, seeds):
    """Join all edges in order unless both sides have a seed; number by first voxel."""
    seeds = np.where(mask, seeds, 0).ravel()
    parent = list(range(mask.size))
    for seed in set(seeds.tolist()) - {0}:
        first, *others = np.flatnonzero(seeds == seed).tolist()
        for i in others:
            parent[i] = first
    owner = seeds.tolist()
    for *_, u, v in sorted_edges(levels, mask):
        a, b = find(parent, u), find(parent, v)
        if a != b and not (owner[a] and owner[b]):
            parent[b] = a
            owner[a] = owner[a] or owner[b]
    ids: dict[int, int] = {}
    labels = np.zeros(mask.size, np.uint32)
    for i in np.flatnonzero(mask):
        root = find(parent, int(i))
        if owner[root]:
            labels[i] = ids.setdefault(root, len(ids) + 1)
    return labels.reshape(mask.shape)


def seeds_by_dynamics(levels, mask, is_deep, ties):
    """One seed voxel per minimum that is deep enough where it meets a deeper one.

    `ties` decides which of two equally deep minima counts as deeper.
    """
    level = levels.ravel().tolist()
    parent = list(range(mask.size))
    minimum = list(range(mask.size))
    alive = set(np.flatnonzero(mask).tolist())
    for high, *_, u, v in sorted_edges(levels, mask):
        a, b = find(parent, u), find(parent, v)
        if a == b:
            continue
        deeper, dying = sorted((minimum[a], minimum[b]), key=lambda i: (level[i], ties[i]))
        if level[dying] == high or not is_deep(level[dying], high):
            alive.discard(dying)
        parent[b] = a
        minimum[a] = deeper
    seeds = np.zeros(mask.size, np.int64)
    seeds[sorted(alive)] = np.arange(1, len(alive) + 1)
    return seeds.reshape(mask.shape)


def signed_root(level):
    return np.sign(level) * np.sqrt(abs(level))


@st.composite
def landscapes(draw, axes=(2, 3)):
    """Few levels make many plateaus and ties, where definitions differ."""
    ndim = draw(st.sampled_from(axes))
    shape = draw(hnp.array_shapes(min_dims=ndim, max_dims=ndim, max_side=10 if ndim == 2 else 5))
    top = draw(st.sampled_from([0, 2, 8]))
    levels = draw(hnp.arrays(np.int32, shape, elements=st.integers(-top, top)))
    mask = draw(hnp.arrays(bool, shape, fill=st.just(True)))
    return levels, mask, draw(st.randoms(use_true_random=False))


@settings(deadline=None, max_examples=120)
@given(landscapes())
def test_seeded_flooding_is_the_forest_cut(case):
    levels, mask, random = case
    seeds = np.array([random.choice([0] * 8 + [1, 2, 7]) for _ in range(mask.size)])
    seeds = seeds.reshape(mask.shape)
    expected = forest_cut(levels, mask, seeds)
    np.testing.assert_array_equal(seeded_watershed(levels, mask, seeds), expected)


@settings(deadline=None, max_examples=120)
@given(landscapes(), st.sampled_from([0, 1, 2, 2.5, 6]))
def test_dynamics_are_seeds_of_persistent_minima(case, h):
    levels, mask, random = case
    ties = random.sample(range(mask.size), mask.size)
    seeds = seeds_by_dynamics(levels, mask, lambda low, high: high - low >= h, ties)
    expected = forest_cut(levels, mask, seeds)
    np.testing.assert_array_equal(dynamics_watershed(levels, mask, climb(h)), expected)


@settings(deadline=None, max_examples=80)
@given(landscapes(), st.sampled_from([0, 0.4, 1, 2]), st.booleans(), st.sampled_from([1.0, 2.5]))
def test_dynamics_of_distance(case, h, fill, thick):
    _, foreground, random = case
    spacing = (thick, *[1.0] * (foreground.ndim - 1))
    unit = 2 if thick == 2.5 else 1
    levels = distance_levels(foreground, beyond=fill, spacing=spacing)
    mask = np.ones_like(foreground) if fill else foreground
    ties = random.sample(range(mask.size), mask.size)
    deep = lambda low, high: signed_root(high) - signed_root(low) >= h * unit - 1e-9  # noqa: E731
    expected = forest_cut(levels, mask, seeds_by_dynamics(levels, mask, deep, ties))
    found = dynamics_watershed(levels, mask, climb_distance(h, spacing))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("by_dynamics", [True, False])
@settings(deadline=None, max_examples=60)
@given(case=landscapes())
def test_components_alone_give_what_the_whole_gives(by_dynamics, case):
    levels, mask, random = case
    seeds = np.array([random.choice([0, 0, 0, 1, 2]) for _ in range(mask.size)])
    seeds = seeds.reshape(mask.shape)
    parts = components(mask, objects="volume")
    if not by_dynamics:  # a seed is a seed of its component
        seeds = np.where(seeds > 0, seeds + 3 * parts.astype(np.int64), 0)

    def flood(levels, mask, seeds):
        if by_dynamics:
            return dynamics_watershed(levels, mask, climb(2))
        return seeded_watershed(levels, mask, seeds)

    whole = flood(levels, mask, seeds)
    for part in range(1, parts.max(initial=0) + 1):
        box = tuple(slice(i.min(), i.max() + 1) for i in np.nonzero(parts == part))
        alone = flood(levels[box], parts[box] == part, seeds[box])
        of_whole = np.where(parts[box] == part, whole[box], 0)
        pairs = set(zip(alone.ravel().tolist(), of_whole.ravel().tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
