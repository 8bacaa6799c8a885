import numpy as np
import pandas as pd
import pytest
from gigaseg.instances import Evidence, Splitting, segment
from gigaseg.ledger import read_manifest, write_manifest
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

    def build(probabilities, objects="plane", target="foreground"):
        rows = [{"sample": "a", "dataset": "data", "split": "test", "objects": objects}]
        image = np.arange(2 * probabilities[0].size, dtype=np.uint16) % 251
        contents = {
            "convert": (image.reshape(2, *probabilities.shape[1:]), ["dna", "actin"]),
            "predict": (probabilities, [f"class {c}" for c in range(len(probabilities))]),
        }
        for stage, (values, channels) in contents.items():
            store = tmp_path / stage / "data" / "a.ome.zarr"
            array = create_array(store, "0", values.shape, values.dtype, storage=STORAGE)
            array[...] = values
            commit_image(store, spacing=SPACING, levels=1, channel_names=channels, attributes={})
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


@pytest.mark.parametrize("objects", ["plane", "volume"])
def test_table_describes_each_instance(tmp_path, lot, objects):
    entry = run(tmp_path, lot(balls(), objects))
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
