"""Stores return what was written, whatever the shape, chunk, shard, order and threads."""

import contextlib
import os
from itertools import count
from types import SimpleNamespace
from unittest import mock

import numpy as np
import zarr
from gigaseg import pyramids, shards, volumes
from gigaseg.blockwise import map_blocks
from gigaseg.pyramids import create_pyramid, write_pyramid
from hypothesis import given, settings
from hypothesis import strategies as st

quick = settings(deadline=None, max_examples=15)
extents = st.integers(1, 24)


@st.composite
def storages(draw):
    chunk = draw(st.integers(3, 16))
    shard = chunk * draw(st.integers(1, 3))
    return {"chunk": chunk, "shard": shard, "smallest_level": draw(st.integers(1, 20))}


@st.composite
def images(draw):
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 3), extents, extents))
    dtype = draw(st.sampled_from(["?", "u1", "i1", "u2", "i2", "u4", "f4"]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    # Many zeros: chunks of zeros are not stored.
    values = rng.integers(0, 127, shape) * (rng.random(shape) < draw(st.sampled_from([0, 0.01, 1])))
    return values.astype(dtype)


def slow_level(fine, mode):
    """The next level, voxel by voxel."""
    *lead, height, width = fine.shape
    coarse = np.zeros((*lead, (height + 1) // 2, (width + 1) // 2), fine.dtype)
    for y in range(coarse.shape[-2]):
        for x in range(coarse.shape[-1]):
            square = fine[..., 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            if mode == "nearest":
                coarse[..., y, x] = square[..., 0, 0]
            else:
                mean = square.astype(float).mean(axis=(-2, -1))
                coarse[..., y, x] = mean if fine.dtype.kind == "f" else np.floor(mean + 0.5)
    return coarse


@quick
@given(images(), storages(), st.integers(1, 3))
def test_blocks_written_in_any_way_read_the_same(tmp_path_factory, image, storage, workers):
    store = tmp_path_factory.mktemp("store")
    array = volumes.create_array(store, "0", image.shape, image.dtype, storage=storage)
    block = array.shards[-3:]
    map_blocks(lambda data, inner: data, [image], [array], block=block, workers=workers)  # noqa: ARG005
    np.testing.assert_array_equal(array[:], image)


@quick
@given(images(), storages(), st.sampled_from(["mean", "nearest"]), st.integers(1, 3))
def test_levels_equal_the_slow_ones(tmp_path_factory, image, storage, mode, workers):
    store = tmp_path_factory.mktemp("store")
    volumes.create_array(store, "0", image.shape, image.dtype, storage=storage)[:] = image
    count = write_pyramid(store, mode=mode, storage=storage, workers=workers)
    names = [f"{c}" for c in range(image.shape[0])]
    volumes.commit_image(store, spacing=(1, 1, 1), levels=count, channel_names=names, attributes={})
    levels = volumes.open_volume(store).levels
    expected = image
    for level in levels:
        np.testing.assert_array_equal(level[:], expected)
        expected = slow_level(expected, mode)
    assert max(levels[-1].shape[-2:]) <= storage["smallest_level"]
    assert all(max(level.shape[-2:]) > storage["smallest_level"] for level in levels[:-1])


@quick
@given(images(), storages(), st.sampled_from(["mean", "nearest"]), st.booleans(), st.data())
def test_levels_made_along_with_level_0_are_the_same(
    tmp_path_factory, image, storage, mode, large, data
):
    store, ledger, workers = tmp_path_factory.mktemp("store"), Books(), data.draw(st.integers(1, 3))

    def fill(function, block):
        pyramid = create_pyramid(
            store, "", image.shape, image.dtype, mode=mode, storage=storage, workers=workers
        )
        extents = [block[0], *(n * s for n, s in zip(block[1:], pyramid.shards[-2:], strict=True))]
        map_blocks(function, [image], [pyramid], block=extents, ledger=ledger, workers=workers)
        return pyramid

    block = (1, data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2)))
    with mock.patch.object(pyramids, "_is_large", return_value=large):
        fill(same, block)
        for path in sorted((store / ".levels").rglob("[1-9]*/c/**/*")):
            if path.is_file() and data.draw(st.booleans()):
                path.write_bytes(path.read_bytes()[:-3])  # torn by a kill
        for kill in data.draw(st.lists(st.integers(1, 9), max_size=2)):
            with contextlib.suppress(KeyboardInterrupt), dies_at_rename(kill):
                fill(fails, block).finish()  # nothing is computed again
        pyramid = fill(fails, block)
        number = pyramid.finish(workers)
    levels = [zarr.open_array(store / str(level), mode="r") for level in range(number)]
    np.testing.assert_array_equal(pyramid.array[:], image)
    assert max(levels[-1].shape[-2:]) <= storage["smallest_level"]
    expected = image
    for level in levels:
        np.testing.assert_array_equal(level[:], expected)
        expected = slow_level(expected, mode)
    assert {p.name for p in store.iterdir()} == {str(level) for level in range(number)}


@contextlib.contextmanager
def dies_at_rename(number):
    """Kill whoever gives a file its final name for the so-many-th time."""
    replace, calls = os.replace, count(1)

    def dies(*paths):
        if next(calls) == number:
            raise KeyboardInterrupt
        replace(*paths)

    with mock.patch.object(shards, "os", SimpleNamespace(replace=dies)):
        yield


class Books:
    """A ledger in memory."""

    title = "image"

    def __init__(self):
        self.checksums = {}

    def check(self):
        pass

    def record(self, block, checksum, voxels):  # noqa: ARG002
        self.checksums[block] = checksum


def same(data, inner):  # noqa: ARG001
    return data


def fails(data, inner):  # noqa: ARG001
    raise AssertionError
