"""Blocks done by the workers of a Dask cluster: the same values, whoever dies."""

import distributed
import numpy as np
import pytest
import tifffile
import zarr
from gigaseg import cluster
from gigaseg.blockwise import map_blocks
from gigaseg.ledger import BlockLedger, Construction
from gigaseg.manifests import read_manifest, write_manifest
from gigaseg.pyramids import create_pyramid
from gigaseg.stages import convert as convert_stage
from gigaseg.stages import split
from gigaseg.volumes import commit_image, create_array
from scipy import ndimage

STORAGE = {"chunk": 8, "shard": 16, "smallest_level": 8}
BLOCK = (1, 16, 16)
BLOCKS = 24


@pytest.fixture(scope="module")
def scheduler():
    """Start two worker processes, as a lab's cluster would have them; return the address."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as two,
        pytest.MonkeyPatch.context() as patch,
    ):
        # A source file may have been edited since this process began; the workers begin now.
        patch.setattr(cluster, "LOADED", cluster._digest_sources())
        yield two.scheduler_address


@pytest.fixture
def image(tmp_path):
    values = np.random.default_rng(0).integers(0, 60_000, (2, 2, 50, 41), dtype=np.uint16)
    array = create_array(tmp_path / "image", "0", values.shape, values.dtype, storage=STORAGE)
    array[...] = values
    return array


def convert(store, image, scheduler, trouble=None):
    """Copy an image with its coarser levels; return all levels."""

    def take(data, inner, window):
        if trouble is not None:
            trouble(window)
        return data[(..., *inner)]

    with Construction(store, {"code": "1"}) as work:
        pyramid = create_pyramid(store, "", image.shape, image.dtype, storage=STORAGE)
        where = {"ledger": work.ledger("image"), "scheduler": scheduler, "located": True}
        map_blocks(take, [image], [pyramid], block=BLOCK, **where)
        count = pyramid.finish()
    return [zarr.open_array(store / str(k), mode="r")[...] for k in range(count)]


def label(store, image, scheduler, trouble=None):
    """Label bright pixels by block, leaving a file per block, as a pass of a split does."""
    faces = store / "faces"
    faces.mkdir(parents=True)

    def label(data, inner, window):
        if trouble is not None:
            trouble(window)
        bright = ndimage.gaussian_filter(data[0].astype("f4"), 1) > 30_000
        labels = ndimage.label(bright)[0][inner].astype("u4")
        np.save(faces / ("_".join(map(str, window.start)) + ".npy"), labels[:, -1])
        return labels

    target = create_array(store, "0", image.shape[1:], "u4", storage=STORAGE)
    where = {"ledger": BlockLedger(store / "books", "0"), "scheduler": scheduler}
    map_blocks(label, [image], [target], block=BLOCK, halo=(0, 4, 4), located=True, **where)
    return [target[...], *(np.load(path) for path in sorted(faces.iterdir()))]


def die_once(mark):
    """Return what kills the worker that gets the block at (0, 16, 16), the first time."""

    def trouble(window):
        import os
        import signal

        if window.start == (0, 16, 16) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return trouble


@pytest.mark.parametrize("work", [convert, label])
@pytest.mark.parametrize("killed", [False, True])
def test_a_cluster_gives_what_threads_give(tmp_path, image, scheduler, work, killed):
    mark = tmp_path / "mark"
    trouble = die_once(mark) if killed else None
    here = work(tmp_path / "here", image, None)
    there = work(tmp_path / "there", image, scheduler, trouble)
    assert mark.exists() == killed
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_calling_process_keeps_the_books_and_finished_blocks_are_not_done_again(
    tmp_path, image, scheduler
):
    def fail(window):
        if window.start == (1, 48, 32):
            raise ValueError("the last block is bad")

    def note(window):
        (tmp_path / "seen" / "_".join(map(str, window.start))).touch()

    (tmp_path / "seen").mkdir()
    with pytest.raises(ValueError, match="the last block is bad"):
        convert(tmp_path / "s", image, scheduler, fail)
    (file,) = (tmp_path / "s/.gigaseg/ledger").iterdir()
    done = len(file.read_text().splitlines())
    assert done < BLOCKS
    shard = next(path for path in (tmp_path / "s/0/c").rglob("*") if path.is_file())
    shard.write_bytes(shard.read_bytes()[:-9])
    convert(tmp_path / "s", image, scheduler, note)
    assert BLOCKS - done <= len([*(tmp_path / "seen").iterdir()]) <= BLOCKS - done + 1
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "s/0")[...], image[...])


STAGE = {"lot": "d-0000", "storage": STORAGE}
INSTANCES = {
    "method": "watershed",
    "level": "distance",
    "seeds": "dynamics",
    "h": 1.0,
    "seed_threshold": 0.8,
    "threshold": 0.5,
    "fill": False,
    "ridge": True,
    "minimum_size": 3,
    "fill_holes": True,
}
ROW = {"sample": "a", "dataset": "d", "split": "test", "objects": "plane", "spacing": [1, 1, 1]}


def content(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if ".gigaseg" not in path.parts
    }


@pytest.mark.parametrize("labels", ["instances", "foreground"])
def test_convert_on_a_cluster_leaves_the_same_files(tmp_path, scheduler, labels):
    image = np.random.default_rng(0).integers(0, 200, (2, 60, 50)).astype("u1")
    for name, values in (("image", image), ("label", (image > 120).astype("u1"))):
        tifffile.imwrite(tmp_path / f"{name}.tif", values, photometric="minisblack")
    row = {**ROW, "labels": labels, "planes": None, "channels": "all", "ignore_label": None}
    row |= {name: str(tmp_path / f"{name}.tif") for name in ("image", "label")}
    for name, address in (("here", None), ("there", scheduler)):
        convert_stage.run(
            manifest=tmp_path / name / "convert" / "d-0000.json",
            settings={**STAGE, "samples": [row]},
            code="c",
            threads=2,
            scheduler=address,
        )
    here, there = content(tmp_path / "here"), content(tmp_path / "there")
    assert len(here) > 10
    assert [name for name in here | there if here.get(name) != there.get(name)] == []


def test_split_on_a_cluster_leaves_the_same_files(tmp_path, scheduler):
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(2, 60, 50)), (0, 2, 2))
    values = np.where(noise > 0, 200, 10).astype(np.uint8)[None]
    done = {"status": "done", "message": None, "store": "d/a.ome.zarr"}
    for stage in ("convert", "predict"):
        store = tmp_path / stage / "d" / "a.ome.zarr"
        array = create_array(store, "0", values.shape, values.dtype, storage=STORAGE)
        array[...] = values
        commit_image(
            store, spacing=(1, 1, 1), levels=1, channel_names=["a"], attributes={"statistics": None}
        )
        entry = {**ROW, **done, "fingerprint": stage}
        manifest = {"stage": stage, "lot": "d-0000", "samples": [entry]}
        write_manifest(tmp_path / stage / "d-0000.json", manifest)
    for name, address in (("here", None), ("there", scheduler)):
        split.run(
            manifest=tmp_path / name / "split" / "d-0000.json",
            convert=tmp_path / "convert" / "d-0000.json",
            predict=tmp_path / "predict" / "d-0000.json",
            settings={
                **STAGE,
                "samples": [ROW],
                "instances": INSTANCES,
                "target": "foreground",
            },
            code="c",
            threads=2,
            scheduler=address,
        )
    here, there = content(tmp_path / "here"), content(tmp_path / "there")
    assert read_manifest(tmp_path / "here/split/d-0000.json")["samples"][0]["instances"] > 9
    assert [name for name in here | there if here.get(name) != there.get(name)] == []


def test_workers_write_nothing_for_a_process_that_lost_its_store(tmp_path, image, scheduler):
    store = tmp_path / "s"

    def lose(window):
        del window
        (store / ".gigaseg" / "lease.json").write_text('{"token": "x", "pid": 1, "host": "y"}')

    with pytest.raises(RuntimeError, match="now written by another process"):
        convert(store, image, scheduler, lose)
    assert not [path for path in (store / "0/c").rglob("*") if path.is_file()]


def test_a_missing_scheduler_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 0.1)
    with pytest.raises(ConnectionError, match=r"no Dask scheduler answers at tcp://127.*to null"):
        [*cluster.run_on_cluster("tcp://127.0.0.1:9", print, [(1,)])]


def test_workers_with_other_code_are_refused(scheduler, monkeypatch):
    monkeypatch.setattr(cluster, "LOADED", "another")
    with pytest.raises(ConnectionError, match=r"2 workers .* run other code of gigaseg.*restart"):
        [*cluster.run_on_cluster(scheduler, print, [(1,)])]
