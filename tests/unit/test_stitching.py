import numpy as np
import pytest
from gigaseg.fragments import flood_block
from gigaseg.geometry import Window, blocks
from gigaseg.labels import components
from gigaseg.phantoms import draw
from gigaseg.stitching import Components, join_components, solve
from gigaseg.watershed import (
    climb,
    climb_distance,
    distance_levels,
    dynamics_watershed,
    seeded_watershed,
)


def stitched(levels, mask, block, *, seeds=None, pass_level=None):
    windows = list(blocks(mask.shape, block))
    made = [
        flood_block(
            levels[w.slices],
            mask[w.slices],
            w,
            mask.shape,
            seeds=None if seeds is None else seeds[w.slices],
            pass_level=pass_level,
        )
        for w in windows
    ]
    joined = solve(fragments for _, fragments in made)
    labels = np.zeros(mask.shape, np.uint32)
    for window, (found, _), table in zip(windows, made, joined.tables, strict=True):
        labels[window.slices] = table[found]
    return labels


def honeycomb(shape, cells, seed=0):
    """Cells that fill everything: each voxel belongs to the nearest of random centres."""
    random = np.random.default_rng(seed)
    centres = np.stack([random.integers(0, n, cells) for n in shape], axis=1)
    grid = np.moveaxis(np.indices(shape), 0, -1)
    squares = np.full((2, *shape), 2**40)
    for centre in centres:
        square = ((grid - centre) ** 2).sum(axis=-1)
        squares[1] = np.minimum(squares[1], np.maximum(squares[0], square))
        squares[0] = np.minimum(squares[0], square)
    return squares


@pytest.mark.parametrize("block", [(64, 64), (33, 90), (200, 7)])
def test_densely_touching_cells_are_all_the_same(block):
    first, second = honeycomb((200, 230), 150)
    levels = np.sqrt(first).astype(int) - np.sqrt(second).astype(int)  # 0 where cells touch
    mask = np.ones_like(levels, bool)
    expected = dynamics_watershed(levels, mask, climb(2))
    assert 100 < expected.max() < 1000
    np.testing.assert_array_equal(stitched(levels, mask, block, pass_level=climb(2)), expected)


def test_touching_nuclei_are_all_the_same():
    mask = draw("nuclei", (1, 300, 300), seed=2, name="nuclei").labels[0] > 0
    levels = distance_levels(mask)
    expected = dynamics_watershed(levels, mask, climb_distance(1.0))
    assert expected.max() > components(mask).max()
    found = stitched(levels, mask, (70, 64), pass_level=climb_distance(1.0))
    np.testing.assert_array_equal(found, expected)


def test_one_component_that_spans_the_volume():
    first, second = honeycomb((6, 60, 60), 40)
    membrane = np.sqrt(second) - np.sqrt(first) < 2.5
    boundary = np.clip(255 - 40 * (np.sqrt(second) - np.sqrt(first)), 0, 255).astype(np.uint8)
    assert components(membrane, objects="volume").max() < 4
    for levels, mask, how in (
        (boundary, np.ones_like(membrane), {"pass_level": climb(60)}),
        (distance_levels(membrane), membrane, {"pass_level": climb_distance(0.5)}),
        (np.zeros_like(boundary), membrane, {}),
    ):
        whole = stitched(levels, mask, mask.shape, **how)
        np.testing.assert_array_equal(stitched(levels, mask, (2, 20, 17), **how), whole)


def test_a_seed_across_many_blocks_is_one():
    levels = np.random.default_rng(0).integers(0, 9, (30, 30))
    mask = np.ones_like(levels, bool)
    seeds = np.zeros_like(mask)
    seeds[3, 2:28] = seeds[3:25, 10] = seeds[20:, 25] = True
    expected = seeded_watershed(levels, mask, components(seeds))
    assert expected.max() == 2
    np.testing.assert_array_equal(stitched(levels, mask, (4, 7), seeds=seeds), expected)


def test_components_without_a_seed_are_background():
    mask = np.array([[1, 1, 1, 1, 0, 1, 1, 1]], bool)
    seeds = np.array([[0, 0, 0, 1, 0, 0, 0, 0]], bool)
    labels = stitched(np.zeros((1, 8), int), mask, (1, 2), seeds=seeds)
    assert labels.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]


def test_ids_go_on_after_those_of_the_plane_before():
    mask = np.array([[1, 1, 0, 1]], bool)
    windows = list(blocks((1, 4), (1, 2)))
    assert solve([], offset=2**40).count == 2**40
    made = [flood_block(np.zeros((1, 2), int), mask[w.slices], w, (1, 4))[1] for w in windows]
    joined = solve(made, offset=2**40)
    assert joined.count == 2**40 + 2
    assert [table.tolist() for table in joined.tables] == [[0, 2**40 + 1], [0, 2**40 + 2]]
    parts = [Components.of(components(mask[w.slices]), w, (1, 4)) for w in windows]
    assert [t.tolist() for t in join_components(parts, offset=5).tables] == [[0, 6], [0, 7]]


def test_first_voxels_beyond_32_bits_rank():
    shape = (2**20, 2**20)
    far = Window((2**19, 0), (2**19 + 1, 3))
    part = Components.of(np.array([[1, 0, 2]]), far, shape)
    assert part.first.tolist() == [2**39, 2**39 + 2]
    _, fragments = flood_block(np.zeros((1, 3), int), np.array([[True, False, True]]), far, shape)
    assert fragments.first.tolist() == [2**39, 2**39 + 2]


def test_facts_of_components_are_combined():
    labels = [np.array([[1, 0, 2]]), np.array([[1, 1, 0]])]
    windows = list(blocks((1, 6), (1, 3)))
    joined = join_components(
        Components.of(a, w, (1, 6)) for a, w in zip(labels, windows, strict=True)
    )
    sizes = [np.bincount(a.ravel()) for a in labels]
    assert joined.combine(sizes, np.add, 0).tolist() == [2, 1, 3]
    lowest = [np.array([9, 5, 4]), np.array([9, 2])]
    assert joined.combine(lowest, np.minimum, 99).tolist() == [9, 5, 2]
    edge = [np.array([False, True, False]), np.array([False, False])]
    assert joined.combine(edge, np.logical_or, False).tolist() == [False, True, False]


def test_components_must_count_up_in_raster_order():
    with pytest.raises(ValueError, match="go up to 2, but new ones come up in raster order only"):
        Components.of(np.array([[2, 1]]), Window.whole((1, 2)), (1, 2))
    with pytest.raises(ValueError, match=r"labels have shape \(1, 2\), the block .* \(1, 3\)"):
        Components.of(np.array([[1, 1]]), Window((0, 0), (1, 3)), (1, 3))


@pytest.mark.parametrize("join", [solve, join_components])
def test_no_block_at_all_is_no_label(join):
    joined = join([])
    assert (joined.count, joined.tables) == (0, [])


def test_a_missing_block_is_told():
    window, mask = Window((0, 0), (1, 2)), np.ones((1, 2), bool)
    with pytest.raises(ValueError, match="are alone"):
        join_components([Components.of(components(mask), window, (1, 4))])
    with pytest.raises(ValueError, match="are alone"):
        solve([flood_block(np.zeros((1, 2), int), mask, window, (1, 4))[1]])
