"""A local function gives the same volume whatever the blocks, the workers and their order."""

import shutil
from random import Random
from unittest import mock

import numpy as np
import pytest
from gigaseg.blockwise import map_blocks
from gigaseg.geometry import blocks
from gigaseg.ledger import Construction
from gigaseg.volumes import commit_arrays, create_array
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


STORAGE = {"chunk": 8, "shard": 16, "smallest_level": 8}
VOLUME = volume((2, 2, 37, 41), 3).astype(np.int16)
VOLUME[:, 0, :16, :16] = 0  # a block of nothing, of which no file is written


class Interrupted(Exception):
    pass


def copy_into(store, stop):
    """Copy a volume into a store, in 18 blocks; `stop` between the last block and the commit."""

    def copy(data, inner):
        return data[(..., *inner)]

    with Construction(store, {"code": "1"}) as work:
        target = create_array(store, "0", VOLUME.shape, VOLUME.dtype, storage=STORAGE)
        map_blocks(copy, [VOLUME], [target], block=(1, 16, 16), ledger=work.ledger("0"))
        if stop:
            raise Interrupted
        commit_arrays(store, {})


def content(store):
    files = (path for path in store.rglob("*") if path.is_file())
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in files
        if ".gigaseg" not in path.parts
    }


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """Make a store with all blocks but no commit, and a finished one."""
    folder = tmp_path_factory.mktemp("stores")
    copy_into(folder / "whole", stop=False)
    with pytest.raises(Interrupted):
        copy_into(folder / "unfinished", stop=True)
    return folder


KINDS = ("0/c/", "0/zarr.json", "ledger/", "fingerprint.json", "attempts.jsonl")


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(KINDS),
    change=st.sampled_from(["flip", "cut", "empty"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_whatever_is_spoilt_in_an_unfinished_store_the_end_is_the_same(
    unfinished, tmp_path_factory, kind, change, seed
):
    store = tmp_path_factory.mktemp("spoilt") / "s"
    shutil.copytree(unfinished / "unfinished", store)
    files = [p for p in sorted(store.rglob("*")) if p.is_file() and kind in str(p)]
    random = Random(seed)
    path = random.choice(files)
    text = bytearray(path.read_bytes())
    place = random.randrange(len(text))
    if change == "flip":
        text[place] ^= 1 << random.randrange(8)
    path.write_bytes(text if change == "flip" else text[:place] if change == "cut" else b"")
    copy_into(store, stop=False)
    assert content(store) == content(unfinished / "whole")
