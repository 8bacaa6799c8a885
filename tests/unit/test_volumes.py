"""Stores: layout, metadata, levels, and the rule that the root file comes last."""

import errno
import json
import os

import numpy as np
import pytest
import zarr
from gigaseg import disk, volumes
from gigaseg.blockwise import map_blocks
from gigaseg.geometry import blocks
from gigaseg.ledger import BlockLedger
from gigaseg.pyramids import create_pyramid, write_pyramid
from gigaseg.shards import join_shards, shard_path, write_shards
from ome_zarr_models.v05.image import Image
from ome_zarr_models.v05.image_label import ImageLabel
from ome_zarr_models.v05.labels import Labels

STORAGE = {"chunk": 16, "shard": 32, "smallest_level": 20}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def write_image(store, data, **attributes):
    array = volumes.create_array(store, "0", data.shape, data.dtype, storage=STORAGE)
    array[:] = data
    levels = write_pyramid(store, storage=STORAGE)
    names = [f"channel {i}" for i in range(data.shape[0])]
    volumes.commit_image(
        store, spacing=(2, 0.5, 0.25), levels=levels, channel_names=names, attributes=attributes
    )


def write_truth(store, data):
    truth = store / "labels" / "truth"
    volumes.create_array(truth, "0", data.shape, data.dtype, storage=STORAGE)[:] = data
    levels = write_pyramid(store, "labels/truth", mode="nearest", storage=STORAGE)
    volumes.commit_labels(truth, spacing=(2, 0.5, 0.25), levels=levels, attributes={"instances": 3})


@pytest.mark.parametrize(
    ("shape", "chunks", "shards"),
    [
        ((1, 10, 12), (1, 10, 12), (1, 10, 12)),  # smaller than a chunk
        ((3, 17, 16), (1, 16, 16), (1, 32, 16)),  # clipped to whole chunks
        ((2, 3, 100, 40), (2, 1, 16, 16), (2, 1, 32, 32)),  # channels stay together
    ],
)
def test_chunks_and_shards_are_clipped_to_the_volume(tmp_path, shape, chunks, shards):
    array = volumes.create_array(tmp_path, "a", shape, "u1", storage=STORAGE)
    assert (array.chunks, array.shards) == (chunks, shards)


def test_sharded_arrays_use_the_fast_pipeline_and_checksums(tmp_path):
    array = volumes.create_array(tmp_path, "a", (1, 40, 40), "u2", storage=STORAGE)
    assert type(array._async_array.codec_pipeline).__name__ == "ZarrsCodecPipeline"
    assert array._async_array.codec_pipeline.impl is not None
    codecs = json.loads((tmp_path / "a/zarr.json").read_text())["codecs"]
    inner = codecs[0]["configuration"]["codecs"]
    assert [c["name"] for c in inner] == ["bytes", "zstd", "crc32c"]


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "f4", "f8"])
def test_values_survive(tmp_path, rng, dtype):
    data = rng.integers(0, 100, (2, 2, 37, 41)).astype(dtype)
    write_image(tmp_path / "a.ome.zarr", data)
    read = volumes.open_volume(tmp_path / "a.ome.zarr").array[:]
    assert read.dtype == data.dtype
    np.testing.assert_array_equal(read, data)


def test_zero_chunks_are_not_stored_and_read_as_zero(tmp_path):
    array = volumes.create_array(tmp_path, "a", (1, 64, 64), "u2", storage=STORAGE)
    array[:, :32, :32] = 7
    array[:, 32:, :] = 0
    assert len([p for p in (tmp_path / "a/c").rglob("*") if p.is_file()]) == 1
    assert array[:].sum() == 7 * 32 * 32


def test_an_array_of_an_earlier_try_is_kept_and_a_different_one_replaced(tmp_path):
    array = volumes.create_array(tmp_path, "a", (1, 40, 40), "u1", storage=STORAGE)
    array[:] = 3
    again = volumes.create_array(tmp_path, "a", (1, 40, 40), "u1", storage=STORAGE)
    assert again[:].min() == 3
    other = volumes.create_array(tmp_path, "a", (1, 40, 40), "u2", storage=STORAGE)
    assert other[:].max() == 0


def test_store_is_no_group_until_committed(tmp_path, rng):
    store = tmp_path / "results/convert/set/a.ome.zarr"
    volumes.create_array(store, "0", (1, 1, 9, 9), "u1", storage=STORAGE)
    with pytest.raises(zarr.errors.GroupNotFoundError):
        zarr.open_group(store, mode="r")
    with pytest.raises(ValueError, match=r"unfinished.*--forcerun convert"):
        volumes.open_volume(store)
    write_image(store, rng.integers(0, 9, (1, 1, 9, 9)).astype("u1"))
    assert volumes.open_volume(store).shape == (1, 9, 9)


def test_the_disk_holds_all_before_the_root_file_says_so(tmp_path, rng, monkeypatch):
    held, store = set(), tmp_path / "a.zarr"
    monkeypatch.setattr(disk.os, "fsync", lambda file: held.add(os.fstat(file).st_ino))
    replace = os.replace

    def notice(source, target):
        if target == store / "zarr.json":
            rest = {p for p in (store, *store.rglob("*")) if p.stat().st_ino not in held}
            assert rest == set()
            held.add("committed")
        replace(source, target)

    monkeypatch.setattr(os, "replace", notice)
    write_image(store, rng.integers(0, 9, (1, 2, 60, 70), "u1"))
    assert "committed" in held


def test_a_disk_that_fails_late_leaves_the_store_unfinished(tmp_path, rng, monkeypatch):
    """Network disks may take what is written, and find out later that there is no room."""

    def fail(_):
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(disk.os, "fsync", fail)
    with pytest.raises(disk.DiskError, match="No space left on device"):
        write_image(tmp_path / "a.zarr", rng.integers(0, 9, (1, 2, 60, 70), "u1"))
    assert not (tmp_path / "a.zarr" / "zarr.json").exists()


def test_missing_store_names_the_command(tmp_path):
    with pytest.raises(ValueError, match=r"missing.*--forcerun weigh`"):
        volumes.open_arrays(tmp_path / "results/weigh/set/a.zarr")


def test_image_with_truth_is_valid_ome_zarr(tmp_path, rng):
    store = tmp_path / "cells.ome.zarr"
    write_truth(store, rng.integers(0, 4, (2, 50, 70)).astype("u4"))
    write_image(store, rng.integers(0, 200, (3, 2, 50, 70)).astype("u2"), note="x")
    image = Image.from_zarr(zarr.open_group(store, mode="r"))
    units = [(a.name, a.type, a.unit) for a in image.ome_attributes.multiscales[0].axes]
    assert units == [("c", "channel", None)] + [(a, "space", "micrometer") for a in "zyx"]
    Labels.from_zarr(zarr.open_group(store / "labels", mode="r"))
    ImageLabel.from_zarr(zarr.open_group(store / "labels/truth", mode="r"))


def test_volume_says_what_it_is(tmp_path, rng):
    store = tmp_path / "cells.ome.zarr"
    truth = rng.integers(0, 4, (2, 50, 70)).astype("u4")
    write_truth(store, truth)
    write_image(store, rng.integers(0, 200, (3, 2, 50, 70)).astype("u2"), fingerprint="f")
    image, labels = volumes.open_volume(store), volumes.open_volume(store, "truth")
    assert (image.name, image.axes, image.channels, image.shape) == (
        "cells",
        "czyx",
        3,
        (2, 50, 70),
    )
    assert image.spacing == labels.spacing == (2.0, 0.5, 0.25)
    assert image.attributes["fingerprint"] == "f"
    assert image.attributes["channels"] == ["channel 0", "channel 1", "channel 2"]
    assert (labels.name, labels.axes, labels.channels) == ("cells", "zyx", 1)
    assert labels.attributes == {"instances": 3}
    np.testing.assert_array_equal(labels.array[:], truth)


def test_unknown_label_image_is_named(tmp_path, rng):
    write_image(tmp_path / "a.ome.zarr", rng.integers(0, 9, (1, 1, 9, 9)).astype("u1"))
    with pytest.raises(ValueError, match=r"no label image 'truth'.*none"):
        volumes.open_volume(tmp_path / "a.ome.zarr", "truth")


def test_pyramid_halves_y_and_x_until_small_enough(tmp_path, rng):
    data = rng.integers(0, 255, (2, 3, 81, 33)).astype("u1")
    write_image(tmp_path, data)
    shapes = [level.shape[1:] for level in volumes.open_volume(tmp_path).levels]
    assert shapes == [(3, 81, 33), (3, 41, 17), (3, 21, 9), (3, 11, 5)]


def test_level_positions_are_those_of_voxel_centres(tmp_path, rng):
    write_image(tmp_path, rng.integers(0, 255, (1, 1, 40, 40)).astype("u1"))
    levels = zarr.open_group(tmp_path, mode="r").attrs["ome"]["multiscales"][0]["datasets"]
    scale, translation = levels[1]["coordinateTransformations"]
    assert scale["scale"] == [1, 2, 1, 0.5]
    assert translation["translation"] == [0, 0, 0.25, 0.125]


def test_viewers_get_names_and_contrast(tmp_path):
    volume = {"minimum": [5.0], "maximum": [60.0]}
    write_image(tmp_path, np.full((1, 1, 9, 9), 5, "u2"), statistics={"volume": volume})
    (channel,) = zarr.open_group(tmp_path, mode="r").attrs["ome"]["omero"]["channels"]
    assert channel["label"] == "channel 0"
    assert (channel["window"]["start"], channel["window"]["end"]) == (5, 60)


def test_a_torn_level_of_an_earlier_try_is_replaced(tmp_path, rng):
    data = rng.integers(0, 255, (1, 1, 70, 70)).astype("u1")
    write_image(tmp_path, data)
    expected = volumes.open_volume(tmp_path).levels[1][:]
    shard = tmp_path / "1/c/0/0/1/1"
    shard.write_bytes(shard.read_bytes()[:-5])
    write_pyramid(tmp_path, storage=STORAGE)
    np.testing.assert_array_equal(volumes.open_volume(tmp_path).levels[1][:], expected)


def test_plain_arrays_round_trip(tmp_path):
    store = tmp_path / "a.zarr"
    for name, dtype in (("target", "u1"), ("separation", "f4")):
        volumes.create_array(store, name, (1, 9, 9), dtype, storage=STORAGE)[:] = 2
    volumes.commit_arrays(store, {"w0": 10})
    arrays, attributes = volumes.open_arrays(store)
    assert sorted(arrays) == ["separation", "target"]
    assert attributes == {"w0": 10}
    assert arrays["separation"][:].sum() == 162


@pytest.mark.parametrize(
    ("shape", "storage", "message"),
    [
        ((9, 9), STORAGE, "2 axes: stores hold zyx or czyx"),
        ((1, 9, 9), {"chunk": 16, "shard": 40}, "shard 40 is not a multiple of chunk 16"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, shape, storage, message):
    with pytest.raises(ValueError, match=message):
        volumes.create_array(tmp_path, "a", shape, "u1", storage=storage)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": ["a", "b"]}, "1 channels, but 2 channel names"),
        ({"axes": "zyx"}, "axes 'zyx', but 4 dimensions"),
    ],
)
def test_contradictions_are_refused_at_commit(tmp_path, changes, message):
    volumes.create_array(tmp_path, "0", (1, 1, 9, 9), "u1", storage=STORAGE)
    wanted = {"spacing": (1, 1, 1), "levels": 1, "channel_names": ["a"], "attributes": {}}
    with pytest.raises(ValueError, match=message):
        volumes.commit_image(tmp_path, **(wanted | changes))
    assert not (tmp_path / "zarr.json").exists()


def test_labels_are_integers(tmp_path):
    volumes.create_array(tmp_path, "0", (1, 9, 9), "f4", storage=STORAGE)
    with pytest.raises(ValueError, match="labels are integers, not float32"):
        volumes.commit_labels(tmp_path, spacing=(1, 1, 1), levels=1, attributes={})


# ------------------------------------------------------------------------------------------ shards


@pytest.mark.parametrize(
    ("side", "chunk", "extent"),
    [(300, 256, 1024), (8191, 256, 1024), (8192, 256, 4096), (99999, 256, 4096), (9, 300, 1200)],
)
def test_automatic_shards_grow_with_the_plane(side, chunk, extent):
    assert volumes.shard_extent((1, 5, side), {"chunk": chunk, "shard": "auto"}) == extent
    assert volumes.shard_extent((1, 5, side), {"chunk": chunk, "shard": 2 * chunk}) == 2 * chunk


def test_large_planes_end_in_few_files(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(volumes, "SMALL_SHARD", 32)
    data = rng.integers(1, 255, (2, 250, 170)).astype("u1")
    pyramid = create_pyramid(tmp_path, "", data.shape, "u1", storage=STORAGE | {"shard": "auto"})
    for block in blocks(data.shape, pyramid.shards):
        pyramid[block.slices] = data[block.slices]
    assert (pyramid.shards, pyramid.finish()) == ((1, 32, 32), 5)
    assert [len(list((tmp_path / f"{n}/c").rglob("*/*/*"))) for n in range(5)] == [8, 2, 8, 2, 2]
    np.testing.assert_array_equal(pyramid.array[:], data)


@pytest.mark.parametrize("dtype", ["?", "u1", "u2", "i4", "u8", "f4", "f8"])
def test_shards_are_written_as_zarr_writes_them(tmp_path, rng, dtype):
    data = (rng.integers(-9, 9, (2, 3, 50, 70)) * (rng.random((2, 3, 50, 70)) < 0.001)).astype(
        dtype
    )
    ours, theirs = (
        volumes.create_array(tmp_path, name, data.shape, dtype, storage=STORAGE) for name in "ab"
    )
    theirs[:] = data
    write_shards(ours, [slice(1, 3), slice(32, 50), slice(0, 70)], data[:, 1:, 32:])
    write_shards(ours, [slice(0, 1), slice(0, 50), slice(0, 70)], data[:, :1], workers=2)
    write_shards(ours, [slice(1, 3), slice(0, 32), slice(0, 70)], data[:, 1:, :32])
    np.testing.assert_array_equal(ours[:], data)
    names = [
        {p.relative_to(a.store.root) for p in a.store.root.rglob("c/**/*")} for a in (ours, theirs)
    ]
    assert names[0] == names[1]
    if dtype[0] == "f":
        assert np.signbit(ours[:]).sum() == np.signbit(data).sum()


def test_no_flipped_bit_of_a_block_goes_unnoticed(tmp_path, rng):
    """Not even one of a checksum at the volume's edge, where the fast codecs do not look."""
    data = rng.integers(0, 9, (1, 40, 40)).astype("u1")
    pyramid = create_pyramid(tmp_path, "", data.shape, "u1", storage=STORAGE)
    for block in blocks(data.shape, pyramid.shards):
        pyramid[block.slices] = data[block.slices]
    ledger = BlockLedger(tmp_path / "ledger", "0")
    done = []

    def copy(values, inner):
        done.append(inner)
        return values

    def resume():
        done.clear()
        map_blocks(copy, [data], [pyramid], block=(1, 32, 32), ledger=ledger)
        return len(done)

    assert resume() == 4
    assert resume() == 0
    path = shard_path(pyramid.blocks, (0, 1, 1))
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        assert resume() == 1
        assert path.read_bytes() == whole


def test_parts_of_shards_are_not_written(tmp_path):
    array = volumes.create_array(tmp_path, "a", (1, 80, 80), "u1", storage=STORAGE)
    for a, b in ((16, 48), (0, 16)):
        with pytest.raises(ValueError, match=r"is no whole number of shards \(1, 32, 32\)"):
            write_shards(array, [slice(a, b), slice(0, 80)], np.ones((1, b - a, 80), "u1"))


def test_torn_shards_are_not_joined(tmp_path):
    pieces, whole = (
        volumes.create_array(tmp_path, name, (1, 80, 80), "u1", storage=STORAGE | {"shard": shard})
        for name, shard in (("a", 16), ("b", 64))
    )
    pieces[:] = 1
    shard = tmp_path / "a/c/0/1/1"
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"a/c/0/1/1 is torn: its index of 16 bytes does not"):
        join_shards(pieces, whole)
