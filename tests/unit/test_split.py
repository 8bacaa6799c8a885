import json
import signal
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from gigaseg.cuts import Cut, Work
from gigaseg.digests import volume_digest
from gigaseg.geometry import Window
from gigaseg.instances import Evidence, Splitting, segment
from gigaseg.ledger import BlockLedger
from gigaseg.manifests import read_manifest, write_manifest
from gigaseg.stages import split
from gigaseg.volumes import commit_image, create_array, open_volume

STORAGE = {"chunk": 16, "shard": 32, "smallest_level": 32}
INSTANCES = {
    "method": "watershed",
    "level": "distance",
    "seeds": "dynamics",
    "h": 1.0,
    "seed_threshold": 0.8,
    "threshold": 0.5,
    "fill": False,
    "ridge": True,
    "minimum_size": 0,
    "fill_holes": False,
}
SPACING = (2.0, 0.5, 0.25)


def balls(shape=(3, 50, 60)):
    """Probabilities of pairs of touching disks, different in every plane."""
    z, y, x = np.indices(shape)
    inside = np.zeros(shape, bool)
    for k in range(shape[0]):
        for a, b, r in ((15, 15 + k, 9), (15, 31 + k, 9), (38, 40, 7 + k)):
            inside |= (z == k) & ((y - a) ** 2 + (x - b) ** 2 <= r * r)
    return np.where(inside, 230, 20).astype(np.uint8)[None]


@pytest.fixture
def lot(tmp_path):
    """Build a predicted lot of one sample."""

    def build(probabilities, objects="plane", target="foreground", dtype=np.uint16):
        rows = [{"sample": "a", "dataset": "data", "split": "test", "objects": objects}]
        image = (np.arange(2 * probabilities[0].size) % 251).astype(dtype) / dtype(1)
        image = image.astype(dtype).reshape(2, *probabilities.shape[1:])
        ends = {"minimum": [0.0, 0.0], "maximum": [250.0, 250.0]}
        contents = {
            "convert": (image, ["dna", "actin"]),
            "predict": (probabilities, [f"class {c}" for c in range(len(probabilities))]),
        }
        for stage, (values, channels) in contents.items():
            store = tmp_path / stage / "data" / "a.ome.zarr"
            array = create_array(store, "0", values.shape, values.dtype, storage=STORAGE)
            array[...] = values
            commit_image(
                store,
                spacing=SPACING,
                levels=1,
                channel_names=channels,
                attributes={"statistics": {"volume": ends}} if stage == "convert" else {},
            )
            done = {"status": "done", "message": None, "fingerprint": stage}
            entry = {**rows[0], **done, "store": "data/a.ome.zarr"}
            manifest = {"stage": stage, "lot": "data-0000", "samples": [entry]}
            write_manifest(tmp_path / stage / "lot.json", manifest)
        return {
            "lot": "data-0000",
            "samples": rows,
            "instances": INSTANCES,
            "target": target,
            "storage": STORAGE,
        }

    return build


def run(tmp_path, settings, threads=1):
    manifest = tmp_path / "split" / "lot.json"
    split.run(
        manifest=manifest,
        convert=tmp_path / "convert" / "lot.json",
        predict=tmp_path / "predict" / "lot.json",
        settings=settings,
        code="c",
        threads=threads,
    )
    return read_manifest(manifest)["samples"][0]


def test_ids_continue_from_plane_to_plane(tmp_path, lot):
    probabilities = balls()
    entry = run(tmp_path, lot(probabilities))
    labels = open_volume(tmp_path / "split" / entry["store"]).array[...]
    assert labels.dtype == np.uint32
    assert entry["status"] == "done"
    assert entry["instances"] == labels.max() == 9
    for z in range(3):
        own = segment(
            Evidence.read(probabilities[:, z], "foreground"), Splitting(**INSTANCES), SPACING[1:]
        )
        np.testing.assert_array_equal(labels[z], np.where(own, own + 3 * z, 0))


def test_volumes_are_split_in_space(tmp_path, lot):
    probabilities = balls()
    entry = run(tmp_path, lot(probabilities, "volume"))
    labels = open_volume(tmp_path / "split" / entry["store"]).array[...]
    expected = segment(Evidence.read(probabilities, "foreground"), Splitting(**INSTANCES), SPACING)
    np.testing.assert_array_equal(labels, expected)
    assert entry["instances"] == expected.max() < 9


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("objects", ["plane", "volume"])
def test_table_describes_each_instance(tmp_path, lot, objects, dtype):
    entry = run(tmp_path, lot(balls(), objects, dtype=dtype))
    labels = open_volume(tmp_path / "split" / entry["store"]).array[...]
    image = open_volume(tmp_path / "convert" / "data" / "a.ome.zarr").array[...]
    table = pd.read_parquet(tmp_path / "split" / entry["table"])
    assert table["id"].tolist() == list(range(1, entry["instances"] + 1))
    size, unit, voxel = ("area", "um2", 0.125) if objects == "plane" else ("volume", "um3", 0.25)
    for row in table.to_dict("records"):
        where = np.argwhere(labels == row["id"])
        assert row[f"{size}_px"] == len(where)
        assert row[f"{size}_{unit}"] == len(where) * voxel
        for k, axis in enumerate("zyx"):
            assert row[f"centroid_{axis}_um"] == pytest.approx(where[:, k].mean() * SPACING[k])
            assert row[f"start_{axis}"] == where[:, k].min()
            assert row[f"stop_{axis}"] == where[:, k].max() + 1
        assert row["plane"] == where[:, 0].min()
        for channel, name in enumerate(["dna", "actin"]):
            assert row[f"mean_{name}"] == pytest.approx(image[channel][labels == row["id"]].mean())
    csv = pd.read_csv(tmp_path / "split" / "data" / "a.objects.csv")
    pd.testing.assert_frame_equal(csv, table, check_dtype=False)


def test_labels_are_an_ome_zarr_pyramid_of_nearest_voxels(tmp_path, lot):
    volume = open_volume(tmp_path / "split" / run(tmp_path, lot(balls()))["store"])
    assert volume.spacing == SPACING
    assert len(volume.levels) == 2
    assert sorted(p.name for p in volume.path.iterdir()) == [".gigaseg", "0", "1", "zarr.json"]
    np.testing.assert_array_equal(volume.levels[1][...], volume.array[...][:, ::2, ::2])


def test_interior_and_boundary(tmp_path, lot):
    inside = balls()[0] // 2
    settings = lot(np.stack([inside, inside]), target="interior_boundary")
    assert run(tmp_path, settings)["instances"] == 9


def test_no_instances_make_an_empty_table(tmp_path, lot):
    entry = run(tmp_path, lot(np.zeros((1, 2, 20, 20), np.uint8)))
    assert entry["instances"] == 0
    table = pd.read_parquet(tmp_path / "split" / entry["table"])
    assert len(table) == 0
    assert {"id", "area_um2", "mean_dna"} <= set(table.columns)


def test_wrong_channels_fail_the_sample(tmp_path, lot):
    entry = run(tmp_path, lot(balls(), target="interior_boundary"))
    assert entry["status"] == "failed"
    assert "has 2 channels of uint8, the probabilities have 1" in entry["message"]


def test_senseless_settings_stop_the_lot(tmp_path, lot):
    settings = lot(balls())
    with pytest.raises(ValueError, match="threshold 2 is not a probability"):
        run(tmp_path, settings | {"instances": INSTANCES | {"threshold": 2}})


def test_finished_work_is_kept_unless_a_part_is_missing(tmp_path, lot):
    settings = lot(balls())
    first = run(tmp_path, settings)
    root = tmp_path / "split" / first["store"] / "zarr.json"
    stamp = root.stat().st_mtime_ns
    assert run(tmp_path, settings, threads=2) == first
    assert root.stat().st_mtime_ns == stamp
    (tmp_path / "split" / first["table"]).unlink()
    assert run(tmp_path, settings) == first
    assert (tmp_path / "split" / first["table"]).exists()
    assert root.stat().st_mtime_ns != stamp


# The blocks of the flood and of the rest; the shards of the labels are 32 x 32.
CUTS = [
    Cut((1, 64, 64), (1, 64, 64), (1, 64, 64)),
    Cut((1, 16, 16), (1, 32, 64), (1, 16, 32)),
    Cut((1, 24, 24), (1, 32, 32), (1, 32, 32)),
]
DEEP_CUTS = [
    Cut(*((n, *block[1:]) for block in (cut.flood, cut.write, cut.part)))
    for n, cut in zip((3, 1, 2), CUTS, strict=True)
]


class Died(BaseException):
    """Stands for a process that is no more."""


class Watch:
    """Follow the entries of all ledgers; raise instead of the one after `limit`."""

    def __init__(self, monkeypatch, cut):
        self.entries, self.limit = [], None
        record = BlockLedger.record

        def watched(ledger, block, *facts):
            if self.limit is not None and len(self.entries) >= self.limit:
                raise Died
            record(ledger, block, *facts)
            self.entries.append((ledger._path.name.split(".")[0], block))

        monkeypatch.setattr(BlockLedger, "record", watched)
        monkeypatch.setattr(Cut, "choose", lambda *_: cut)


def describe(tmp_path, entry):
    """Return all that a user gets: digest of the labels, and the table."""
    return entry["digest"], pd.read_parquet(tmp_path / "split" / entry["table"]).to_csv()


HARD = INSTANCES | {"fill_holes": True, "minimum_size": 2}


def holed():
    probabilities = balls()
    probabilities[0, :, 13:17, 14:17] = 0
    return probabilities


@pytest.fixture(scope="module")
def expected():
    """The results of the first cut, by kind of objects."""
    return {}


@pytest.mark.parametrize("objects", ["plane", "volume"])
@pytest.mark.parametrize("cut", range(3))
@pytest.mark.parametrize("threads", [1, 4])
def test_no_cut_changes_a_result(tmp_path, lot, monkeypatch, expected, objects, cut, threads):
    Watch(monkeypatch, (CUTS if objects == "plane" else DEEP_CUTS)[cut])
    settings = lot(holed(), objects) | {"instances": HARD}
    entry = run(tmp_path, settings, threads)
    found = describe(tmp_path, entry)
    assert expected.setdefault(objects, found) == found
    labels = open_volume(tmp_path / "split" / entry["store"]).array
    assert entry["digest"] == volume_digest(np.asarray(labels[...]))


@pytest.mark.parametrize("objects", ["plane", "volume"])
@pytest.mark.parametrize("threads", [1, 4])
def test_after_an_interruption_finished_blocks_are_kept(
    tmp_path, lot, monkeypatch, expected, objects, threads
):
    watch = Watch(monkeypatch, (CUTS if objects == "plane" else DEEP_CUTS)[2])
    settings = lot(holed(), objects) | {"instances": HARD}
    for watch.limit in (0, 5, 20, 30, 40, 49):
        with pytest.raises(Died):
            run(tmp_path, settings, threads)
    watch.limit = None
    entry = run(tmp_path, settings, threads)
    assert [e for e in set(watch.entries) if watch.entries.count(e) > 1] == []
    assert len(watch.entries) > 49
    assert {name for name, _ in watch.entries} == {"survey", "fragments", "objects", "labels"}
    found = describe(tmp_path, entry)
    assert expected.setdefault(objects, found) == found


def test_spoilt_scratch_is_found_and_done_again(tmp_path, lot, monkeypatch):
    watch = Watch(monkeypatch, CUTS[2])
    settings = lot(holed()) | {"instances": HARD}
    whole = describe(tmp_path, run(tmp_path, settings))
    blocks = len(watch.entries)
    settings |= {"storage": STORAGE | {"smallest_level": 16}}
    watch.entries, watch.limit = [], blocks - 2
    with pytest.raises(Died):
        run(tmp_path, settings)
    scratch = tmp_path / "split" / "data" / "a.ome.zarr" / "scratch"
    tables = [sorted((scratch / name).iterdir()) for name in ("survey", "fragments", "objects")]
    tables[0][1].unlink()
    tables[1][3].write_bytes(tables[1][3].read_bytes()[:100])
    flipped = bytearray(tables[2][0].read_bytes())
    flipped[300] ^= 1
    tables[2][0].write_bytes(flipped)
    shard = next(p for p in sorted((scratch / "labels" / "c").rglob("*")) if p.is_file())
    shard.write_bytes(b"torn")
    watch.limit = None
    assert describe(tmp_path, run(tmp_path, settings)) == whole
    assert len(watch.entries) == blocks + 4
    again = [entry for entry in watch.entries if watch.entries.count(entry) == 2]
    assert {name for name, _ in again} == {"survey", "fragments", "objects"}


def test_tables_that_spoil_while_they_are_needed_are_named(tmp_path):
    work = Work(**dict.fromkeys(f.name for f in fields(Work)) | {"folder": tmp_path})
    window = Window((0, 16, 0), (1, 32, 16))
    work.save("survey", window, {"ids": np.arange(4)})
    assert work.holds("survey", window)
    (path,) = (tmp_path / "survey").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert not work.holds("survey", window)
    with pytest.raises(ValueError, match=rf"{path}: \d+ bytes are not the arrays of a block"):
        work.load("survey", window)


def test_scratch_left_by_a_kill_after_the_commit_is_removed(tmp_path, lot):
    settings = lot(balls())
    entry = run(tmp_path, settings)
    left = tmp_path / "split" / entry["store"] / "scratch" / "fragments"
    left.mkdir(parents=True)
    assert run(tmp_path, settings) == entry
    assert not left.parent.exists()


def test_settings_that_change_no_flooded_instance_need_one_pass_less(tmp_path, lot, monkeypatch):
    watch = Watch(monkeypatch, CUTS[0])
    settings = lot(balls())
    entry = run(tmp_path, settings | {"instances": INSTANCES | {"ridge": False}})
    assert [name for name, _ in watch.entries] == ["fragments"] * 3 + ["labels"] * 3
    assert entry["instances"] == 9


def test_intensities_of_floats_need_their_range(tmp_path, lot):
    settings = lot(balls(), dtype=np.float32)
    store = tmp_path / "convert" / "data" / "a.ome.zarr" / "zarr.json"
    content = json.loads(store.read_text())
    content["attributes"]["gigaseg"].pop("statistics")
    store.write_text(json.dumps(content))
    entry = run(tmp_path, settings)
    assert entry["status"] == "failed"
    assert "has no statistics" in entry["message"]


KILLED = """
import os, signal, sys
from gigaseg.ledger import BlockLedger
from gigaseg.cuts import Cut
import json, pathlib
sys.path.insert(0, sys.argv[4])
from test_split import CUTS, run
record, left = BlockLedger.record, [int(sys.argv[1])]
def watched(ledger, block, *facts):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    record(ledger, block, *facts)
BlockLedger.record = watched
Cut.choose = lambda *_: CUTS[1]
run(pathlib.Path(sys.argv[2]), json.loads(sys.argv[3]), threads=4)
"""


@pytest.mark.heavy
def test_killed_again_and_again(tmp_path, lot, monkeypatch, request):
    watch = Watch(monkeypatch, CUTS[1])
    settings = lot(holed()) | {"instances": HARD}
    done = 0
    for at in (1, 40, 30, 28, 5):
        arguments = [str(at), str(tmp_path), json.dumps(settings), str(request.path.parent)]
        ended = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
        assert ended.returncode == -signal.SIGKILL
        done += at
    entry = run(tmp_path, settings, threads=4)
    killed = describe(tmp_path, entry)
    resumed = len(watch.entries)
    (tmp_path / "split" / entry["store"] / "zarr.json").unlink()
    watch.entries.clear()
    settings |= {"storage": STORAGE | {"smallest_level": 16}}
    assert describe(tmp_path, run(tmp_path, settings)) == killed
    assert resumed <= len(watch.entries) - done + 5 * 3  # at most the other threads' blocks again
