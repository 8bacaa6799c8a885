import logging

import numpy as np
import pytest
from gigaseg.manifests import read_manifest, write_manifest
from gigaseg.stages import weigh
from gigaseg.tally import count_chunks
from gigaseg.volumes import commit_image, commit_labels, create_array, open_arrays
from gigaseg.weights import encode_target, separation

STORAGE = {"chunk": 16, "shard": 32, "smallest_level": 64}
WEIGHTS = {"w0": 10.0, "sigma": 2.0, "separation_on": "background", "boundary_width": 1}
SPACING = (2.0, 0.5, 0.5)


def cells(seed=0, shape=(3, 70, 50)):
    """Blocky instances, many touching, none of which vanishes."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 5, (shape[0], *(-(-n // 6) for n in shape[1:])))
    coarse[coarse > 0] += 5 * np.arange((coarse > 0).sum())
    grown = coarse.repeat(6, axis=1).repeat(6, axis=2)
    return grown[:, : shape[1], : shape[2]].astype(np.uint32)


@pytest.fixture
def lot(tmp_path):
    """Build a converted lot: samples by name, each with its truth, None if it has none."""

    def build(truths, objects="plane", splits=None, ignored=None):
        folder, rows, entries = tmp_path / "convert", [], []
        for name, truth in truths.items():
            store = folder / "data" / f"{name}.ome.zarr"
            shape = (3, 70, 50) if truth is None else truth.shape
            facts = {"ignored": ignored}
            create_array(store, "0", (1, *shape), "u1", storage=STORAGE)
            if truth is not None:
                array = create_array(store, "labels/truth/0", shape, "u4", storage=STORAGE)
                array[...] = truth
                commit_labels(store / "labels/truth", spacing=SPACING, levels=1, attributes=facts)
            commit_image(store, spacing=SPACING, levels=1, channel_names=["a"], attributes={})
            split = (splits or {}).get(name, "train")
            row = {"sample": name, "dataset": "data", "split": split}
            path = f"data/{name}.ome.zarr"
            entries.append(
                {**row, "status": "done", "message": None, "store": path, "fingerprint": name}
            )
            rows.append({**row, "label": truth is not None and "x.tif", "objects": objects})
        write_manifest(
            folder / "lot.json", {"stage": "convert", "lot": "data-0000", "samples": entries}
        )
        return {"lot": "data-0000", "samples": rows, "weights": WEIGHTS, "storage": STORAGE}

    return build


def run(tmp_path, settings, threads=1, code="c"):
    manifest = tmp_path / "weigh" / "lot.json"
    weigh.run(
        manifest=manifest,
        convert=tmp_path / "convert" / "lot.json",
        settings=settings,
        code=code,
        threads=threads,
    )
    return {entry["sample"]: entry for entry in read_manifest(manifest)["samples"]}


@pytest.mark.parametrize("objects", ["plane", "volume"])
def test_stores_hold_target_and_separation_of_the_whole(tmp_path, lot, objects):
    truth = cells()
    entry = run(tmp_path, lot({"a": truth}, objects), threads=2)["a"]
    arrays, attributes = open_arrays(tmp_path / "weigh" / entry["store"])
    parts = truth[None] if objects == "volume" else truth
    spacing = SPACING if objects == "volume" else SPACING[1:]
    target = np.stack([encode_target(p, boundary_width=1, spacing=spacing) for p in parts])
    weight = np.stack([separation(p, w0=10, sigma=2, spacing=spacing) for p in parts])
    np.testing.assert_array_equal(arrays["target"][...], target.reshape(truth.shape))
    np.testing.assert_array_equal(arrays["separation"][...], weight.reshape(truth.shape))
    counts = count_chunks(target.reshape(truth.shape), weight.reshape(truth.shape), (1, 16, 16))
    np.testing.assert_array_equal(arrays["tally"][...], counts)
    assert arrays["target"].dtype == np.uint8
    assert arrays["separation"].dtype == np.float32
    assert entry["counts"] == np.bincount(target.ravel(), minlength=4).tolist()
    assert attributes["counts"] == entry["counts"]
    assert attributes["parameters"]["sigma"] == 2
    assert "exp" in attributes["formula"]
    assert attributes["spacing"] == list(SPACING)
    assert attributes["fingerprint"] == entry["fingerprint"]
    assert (tmp_path / "weigh" / entry["image_store"]).is_dir()


def test_only_labelled_samples_for_training_have_entries(tmp_path, lot):
    truth = cells()
    splits = {"b": "validation", "c": "test"}
    settings = lot({"a": truth, "b": truth, "c": truth, "d": None}, splits=splits)
    assert list(run(tmp_path, settings)) == ["a", "b"]


def test_samples_that_failed_before_are_skipped(tmp_path, lot):
    settings = lot({"a": cells()})
    path = tmp_path / "convert" / "lot.json"
    manifest = read_manifest(path)
    manifest["samples"][0] |= {"status": "failed", "message": "truncated", "store": None}
    write_manifest(path, manifest)
    entry = run(tmp_path, settings)["a"]
    assert entry["status"] == "skipped"
    assert entry["message"] == "convert failed: truncated"


def test_vanished_instances_are_reported(tmp_path, lot, caplog):
    truth = np.zeros((1, 40, 40), np.uint32)
    truth[0, 10:20, 10:20], truth[0, 10:20, 20], truth[0, 10:20, 21:30] = 4, 9, 11
    with caplog.at_level(logging.WARNING):
        entry = run(tmp_path, lot({"a": truth}))["a"]
    assert entry["vanished"] == [9]
    assert "a: 1 instances vanish" in caplog.text
    assert "(ids 9)" in caplog.text


def test_cross_sections_are_measured_in_planes_and_across_blocks(tmp_path, lot):
    truth = np.zeros((2, 70, 50), np.uint32)
    truth[0, 10:50, 10:40] = 4  # over several blocks, and in another plane again
    truth[1, 10:20, 10:20], truth[1, 60:62, 0:2] = 4, 5
    entry = run(tmp_path, lot({"a": truth}, "volume"))["a"]
    assert entry["cross_sections"] == {"count": 3, "diameter": 2 * np.sqrt(100 / np.pi)}
    empty = run(tmp_path, lot({"b": np.zeros((1, 40, 40), np.uint32)}))["b"]
    assert empty["cross_sections"] == {"count": 0, "diameter": 0.0}


def test_empty_labels_weigh_nothing_and_warn(tmp_path, lot, caplog):
    with caplog.at_level(logging.WARNING):
        entry = run(tmp_path, lot({"a": np.zeros((1, 40, 40), np.uint32)}))["a"]
    arrays, _ = open_arrays(tmp_path / "weigh" / entry["store"])
    assert entry["counts"] == [1600, 0, 0, 0]
    assert not arrays["separation"][...].any()
    assert "a: the label image is empty" in caplog.text


def test_a_finished_store_is_left_alone_until_something_changes(tmp_path, lot):
    settings = lot({"a": cells()})
    first = run(tmp_path, settings)["a"]
    store = tmp_path / "weigh" / first["store"]
    stamp = (store / "zarr.json").stat().st_mtime_ns
    assert run(tmp_path, settings)["a"] == first
    assert (store / "zarr.json").stat().st_mtime_ns == stamp
    changed = run(tmp_path, settings | {"weights": WEIGHTS | {"w0": 5.0}})["a"]
    assert changed["fingerprint"] != first["fingerprint"]


@pytest.mark.parametrize("objects", ["plane", "volume"])
def test_voxels_nobody_annotated_have_no_weight_and_are_background_to_others(
    tmp_path, lot, objects
):
    truth, ignored = cells(1), 2**32 - 1
    unknown = np.random.default_rng(2).random(truth.shape) < 0.1
    known = np.where(unknown, 0, truth).astype(np.uint32)
    settings = lot({"a": np.where(unknown, ignored, truth), "b": known}, objects, ignored=ignored)
    marked, plain = run(tmp_path, settings).values()
    arrays, expected = (open_arrays(tmp_path / "weigh" / e["store"])[0] for e in (marked, plain))
    target, weight = (arrays[name][...] for name in ("target", "separation"))
    assert (target[unknown] == 255).all()
    assert not weight[unknown].any()
    for name, found in (("target", target), ("separation", weight)):
        np.testing.assert_array_equal(found[~unknown], expected[name][...][~unknown])
    assert marked["ignored"] == np.count_nonzero(unknown)
    assert plain["ignored"] == 0
    assert ignored not in marked["vanished"]
    assert marked["cross_sections"] == plain["cross_sections"]
