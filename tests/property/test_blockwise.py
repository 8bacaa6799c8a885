"""A local function gives the same volume whatever the blocks, the workers and their order."""

from unittest import mock

import numpy as np
from gigaseg.blockwise import map_blocks
from gigaseg.geometry import blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

extent = st.integers(1, 12)
shapes = st.tuples(extent, extent, extent)
radii = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))


def volume(shape, seed):
    return np.random.default_rng(seed).integers(-1000, 1000, shape)


def window_sum(data, radius, mode):
    """Sum over a box: exact in integers, and every voxel of the box matters."""
    kernel = np.ones([2 * r + 1 for r in radius], np.int64)
    return ndimage.convolve(data, kernel, mode=mode, cval=0)


@settings(deadline=None, max_examples=60)
@given(
    shape=shapes,
    block=shapes,
    radius=radii,
    workers=st.sampled_from([1, 4]),
    seed=st.integers(0, 9),
)
def test_mirrored_blocks_give_the_whole(shape, block, radius, workers, seed):
    source = volume(shape, seed)
    target = np.full(shape, -1)

    def local(data, inner):
        return window_sum(data, radius, "constant")[inner]

    map_blocks(local, [source], [target], block=block, halo=radius, workers=workers)
    np.testing.assert_array_equal(target, window_sum(source, radius, "mirror"))


@settings(deadline=None, max_examples=60)
@given(shape=shapes, block=shapes, radius=radii, workers=st.sampled_from([1, 4]))
def test_clipped_blocks_give_the_whole(shape, block, radius, workers):
    source = volume(shape, 0)
    target = np.full(shape, -1)

    def local(data, inner):
        return window_sum(data, radius, "constant")[inner]

    map_blocks(local, [source], [target], block=block, halo=radius, edge="clip", workers=workers)
    np.testing.assert_array_equal(target, window_sum(source, radius, "constant"))


@settings(deadline=None, max_examples=40)
@given(shape=shapes, block=shapes, align=st.tuples(*[st.integers(1, 5)] * 3))
def test_aligned_blocks_are_whole_multiples_and_cropped(shape, block, align):
    source, target = volume(shape, 0), np.full(shape, -1)
    block = tuple(-(-b // a) * a for b, a in zip(block, align, strict=True))
    seen = []

    def local(data, inner):
        seen.append(data[inner].shape)
        return data[inner]

    map_blocks(local, [source], [target], block=block, align=align)
    assert all(n % a == 0 for extents in seen for n, a in zip(extents, align, strict=True))
    np.testing.assert_array_equal(target, source)


@settings(deadline=None, max_examples=20)
@given(shape=shapes, block=shapes)
def test_channels_and_several_arrays(shape, block):
    image = volume((3, *shape), 0)
    labels = volume(shape, 1)
    total, largest = np.zeros(shape, np.int64), np.zeros((2, *shape), np.int64)

    def local(image, labels, inner):
        image, labels = image[(..., *inner)], labels[inner]
        return image.sum(axis=0) + labels, np.stack([image.max(axis=0), labels])

    map_blocks(local, [image, labels], [total, largest], block=block, halo=(1, 1, 1))
    np.testing.assert_array_equal(total, image.sum(axis=0) + labels)
    np.testing.assert_array_equal(largest, np.stack([image.max(axis=0), labels]))


@settings(deadline=None, max_examples=20)
@given(shape=shapes, block=shapes, order=st.randoms(use_true_random=False))
def test_the_order_of_blocks_does_not_matter(shape, block, order):
    source, target = volume(shape, 0), np.full(shape, -1)

    def shuffled(*arguments):
        windows = list(blocks(*arguments))
        order.shuffle(windows)
        return windows

    def local(data, inner):
        return window_sum(data, (1, 1, 1), "constant")[inner]

    with mock.patch("gigaseg.blockwise.blocks", shuffled):
        map_blocks(local, [source], [target], block=block, halo=(1, 1, 1))
    np.testing.assert_array_equal(target, window_sum(source, (1, 1, 1), "mirror"))
