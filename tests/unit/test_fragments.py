from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from gigaseg.fragments import Fragments, flood_block
from gigaseg.geometry import Window
from gigaseg.watershed import climb, distance_levels, dynamics_watershed


def test_a_block_that_is_the_volume_has_no_nodes():
    levels = np.random.default_rng(0).integers(0, 9, (20, 30))
    mask = levels < 8
    whole = Window.whole(mask.shape)
    labels, fragments = flood_block(levels, mask, whole, mask.shape, pass_level=climb(3))
    np.testing.assert_array_equal(labels, dynamics_watershed(levels, mask, climb(3)))
    assert fragments.anchor.size == fragments.edge.size == 0
    assert fragments.kept.all()
    assert fragments.faces == {}


def test_what_the_faces_cannot_reach_is_closed():
    mask = np.zeros((9, 9), bool)
    mask[2:7, 2:7] = True
    mask[8, :] = True
    labels, fragments = flood_block(
        distance_levels(mask), mask, Window((0, 9), (9, 18)), (9, 27), pass_level=climb(1)
    )
    centre = labels[4, 4] - 1
    assert fragments.node[centre] == -1
    assert fragments.kept[centre]
    assert fragments.first[centre] == 2 * 27 + 9 + 2
    ends = labels[8, [0, 8]] - 1
    assert (fragments.node[ends] >= 0).all()
    assert not fragments.kept[ends].any()


def test_memory_is_faces_not_voxels():
    random = np.random.default_rng(0)
    levels = random.integers(0, 200, (100, 100))
    window, shape = Window((100, 100), (200, 200)), (300, 300)
    for how in ({"pass_level": climb(20)}, {"seeds": random.random(levels.shape) < 0.01}, {}):
        _, fragments = flood_block(levels, np.ones((100, 100), bool), window, shape, **how)
        on_faces = 4 * 99
        assert fragments.anchor.size <= 2 * on_faces
        assert fragments.edge.size < fragments.anchor.size


def test_what_blocks_know_comes_back_from_bytes():
    random = np.random.default_rng(1)
    levels = random.integers(0, 5, (3, 6, 7))
    window, shape = Window((3, 0, 7), (6, 6, 14)), (9, 6, 14)
    _, fragments = flood_block(
        levels, levels < 4, window, shape, seeds=random.random(levels.shape) < 0.2
    )
    back = Fragments.from_bytes(fragments.to_bytes())
    assert (back.window, back.shape, back.seeded) == (window, shape, True)
    for name in ("first", "node", "kept", "anchor", "ends", "high", "low", "edge"):
        ours, theirs = getattr(fragments, name), getattr(back, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert list(back.faces) == list(fragments.faces) == [(0, 0), (0, 1), (2, 0)]
    for face, voxels in fragments.faces.items():
        for name, plane in vars(voxels).items():
            np.testing.assert_array_equal(getattr(back.faces[face], name), plane)


def test_threads_do_not_disturb_each_other():
    random = np.random.default_rng(2)
    levels = random.integers(0, 50, (4, 80, 80))
    window, shape = Window((0, 0), (80, 80)), (90, 90)

    def flood(plane):
        mask = np.ones_like(plane, bool)
        return flood_block(plane, mask, window, shape, pass_level=climb(9))[1].to_bytes()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(flood, [*levels, *levels])) == [flood(p) for p in [*levels, *levels]]


def test_arrays_need_the_shape_of_the_block():
    window = Window((0, 0), (2, 3))
    mask = np.ones((2, 3), bool)
    with pytest.raises(ValueError, match=r"levels have shape \(3, 2\), the block .* \(2, 3\)"):
        flood_block(np.zeros((3, 2), int), mask, window, (4, 3))
    with pytest.raises(ValueError, match=r"seeds have shape \(1, 3\)"):
        flood_block(np.zeros((2, 3), int), mask, window, (4, 3), seeds=mask[:1])


def test_minima_or_seeds_but_not_both():
    mask = np.ones((2, 3), bool)
    with pytest.raises(ValueError, match="give pass_level or seeds"):
        flood_block(
            np.zeros((2, 3), int),
            mask,
            Window.whole((2, 3)),
            (2, 3),
            pass_level=climb(1),
            seeds=mask,
        )
