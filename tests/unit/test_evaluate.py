import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from gigaseg.fingerprints import canonical_json
from gigaseg.labels import contingency
from gigaseg.ledger import read_manifest, write_manifest
from gigaseg.scores import FAMILIES, add, average, score, tally_instances, tally_map
from gigaseg.stages import evaluate
from gigaseg.volumes import commit_image, commit_labels, create_array

NAN = float("nan")
STORAGE = {"chunk": 16, "shard": 32, "smallest_level": 256}
EVALUATION = {
    "iou_thresholds": [0.5, 0.75],
    "iou_match": "at_least",
    "thresholds": [0.0, 0.5],
    "warping_radius": 20,
}


def cells(seed, shape=(2, 40, 40)):
    """Blocks of 8 x 8 separated by one pixel, some of them missing; ids continue over planes."""
    z, y, x = np.indices(shape)
    ids = (z * 25 + (y // 8) * 5 + x // 8 + 1) * ((y % 8 > 0) & (x % 8 > 0))
    missing = np.random.default_rng(seed).choice(50, 10, replace=False) + 1
    return np.where(np.isin(ids, missing), 0, ids).astype(np.uint32)


def entry(stage, name, store):
    row = {"sample": name, "dataset": "d", "split": "test", "status": "done", "message": None}
    return row | {"store": store, "fingerprint": f"{stage}-{name}"}


class Lot:
    """The stages before evaluate, done for samples made of arrays."""

    def __init__(self, root: Path, name: str = "d-0000") -> None:
        self.name, self.root = name, root
        self.rows: list[dict] = []
        self.entries: dict[str, list[dict]] = {"convert": [], "predict": [], "split": []}

    def sample(self, name, truth, probability, segments, *, objects="plane", label="l.tif"):
        self._store("convert", name, np.zeros((1, *probability.shape[1:]), np.uint8), truth)
        self._store("predict", name, probability)
        self._store("split", name, segments)
        row = {"sample": name, "dataset": "d", "split": "test", "objects": objects, "label": label}
        self.rows.append(row)
        return self

    def _store(self, stage, name, data, truth=None):
        store = self.root / stage / "d" / f"{name}.ome.zarr"
        create_array(store, "0", data.shape, data.dtype, storage=STORAGE)[...] = data
        common = {"spacing": (1.0, 1.0, 1.0), "levels": 1, "attributes": {}}
        if truth is not None:
            array = create_array(store, "labels/truth/0", truth.shape, truth.dtype, storage=STORAGE)
            array[...] = truth
            commit_labels(store / "labels/truth", **common)
        if data.ndim == 4:
            commit_image(store, channel_names=["c"] * len(data), **common)
        else:
            commit_labels(store, **common)
        self.entries[stage].append(entry(stage, name, f"d/{name}.ome.zarr"))

    def run(self, threads=1, **evaluation):
        paths = {stage: self.root / stage / f"{self.name}.json" for stage in self.entries}
        for stage, entries in self.entries.items():
            write_manifest(paths[stage], {"stage": stage, "lot": self.name, "samples": entries})
        told = {
            "lot": self.name,
            "samples": self.rows,
            "experiment": "e",
            "fold": 0,
            "target": "foreground",
            "evaluation": EVALUATION | evaluation,
        }
        manifest = self.root / "evaluate" / f"{self.name}.json"
        settings = json.loads(canonical_json(told))
        evaluate.run(manifest=manifest, settings=settings, code="0", threads=threads, **paths)
        return manifest, pd.read_parquet(manifest.with_suffix(".parquet"))


def perfect(labels):
    return labels, ((labels > 0) * 255).astype(np.uint8)[None], labels


def noisy(seed, shape=(2, 40, 40)):
    rng = np.random.default_rng(seed)
    truth, found = cells(seed, shape), cells(seed + 100, shape)
    probability = np.where(found > 0, 200, 60) + rng.integers(-55, 55, found.shape)
    return truth, probability.astype(np.uint8)[None], found


def value(table, metric, at=None, **where):
    rows = table[(table["metric"] == metric)]
    rows = rows[rows["at"].isna() if at is None else rows["at"] == at]
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    assert len(rows) == 1, rows
    return rows["value"].item()


def join(root, manifests):
    scores = root / "evaluate" / "scores.json"
    evaluate.tabulate(manifest=scores, evaluate=manifests, settings={}, code="0", threads=1)
    return pd.read_parquet(scores.with_suffix(".parquet"))


@pytest.mark.parametrize("objects", ["plane", "volume"])
def test_a_perfect_sample_has_perfect_scores(tmp_path, objects):
    manifest, table = Lot(tmp_path).sample("a", *perfect(cells(0)), objects=objects).run()
    ones = ["dice", "iou", "seg", "det", "mean_ap", "rand", "pixel_f", "v_rand", "v_info"]
    zeros = [
        "adapted_rand_error",
        "voi_split",
        "voi_merge",
        "pixel_error",
        "warping_error",
        "splits_and_mergers",
    ]
    # In space, cells that touch across z have a ridge between them, which was not predicted.
    zeros += ["calibration_error"] if objects == "plane" else []
    assert {metric: value(table, metric) for metric in ones} == dict.fromkeys(ones, 1)
    assert {metric: value(table, metric) for metric in zeros} == dict.fromkeys(zeros, 0)
    assert value(table, "f1", 0.5) == value(table, "pq", 0.75) == 1
    (fact,) = read_manifest(manifest)["samples"]
    assert (fact["status"], fact["scored"], fact["shape"]) == ("done", True, [2, 40, 40])


def test_planes_are_problems_of_their_own_and_add_up(tmp_path):
    truth, probability, found = noisy(1)
    _, table = Lot(tmp_path).sample("a", truth, probability, found).run()
    planes = [
        add(
            [
                tally_map(truth[z], probability[0, z], thresholds=[0.0, 0.5], radius=20),
                tally_instances(
                    contingency(truth[z], found[z]),
                    iou_thresholds=[0.5, 0.75],
                    iou_match="at_least",
                ),
            ]
        )
        for z in range(2)
    ]
    expected = {(one.metric, one.at): one.value for one in score(add(planes))}
    got = {
        (metric, None if np.isnan(at) else at): v
        for metric, at, v in zip(table["metric"], table["at"], table["value"], strict=True)
    }
    assert 0 < got.pop(("calibration_error", None)) < 1  # tests/property/test_census.py
    assert got == pytest.approx(expected, nan_ok=True)


def test_objects_of_a_volume_are_matched_in_three_dimensions(tmp_path):
    truth, _, segments = perfect(np.ones((2, 8, 8), np.uint32))
    segments = segments.copy()
    segments[1] = 2  # one object, cut between the planes: an error only in three dimensions
    probability = np.full((1, 2, 8, 8), 255, np.uint8)
    lot = Lot(tmp_path).sample("volume", truth, probability, segments, objects="volume")
    _, table = lot.sample("plane", truth, probability, segments).run()
    assert value(table, "f1", 0.75, sample="volume") == 0
    assert value(table, "f1", 0.75, sample="plane") == 1


@pytest.mark.parametrize("objects", ["plane", "volume"])
@pytest.mark.parametrize("threads", [1, 3])
def test_scores_do_not_depend_on_the_pieces_that_are_read(tmp_path, monkeypatch, objects, threads):
    rng = np.random.default_rng(3)
    truth, found = rng.integers(0, 12, (2, 2, 45, 70)).astype(np.uint32)
    lot = Lot(tmp_path).sample(
        "a", truth, np.zeros((1, 2, 45, 70), np.uint8), found, objects=objects
    )
    _, whole = lot.run(threads=threads)
    monkeypatch.setattr(evaluate, "PIECE", 17)  # chunks are 16 px: pieces of 32
    _, parts = lot.run(threads=threads)
    pd.testing.assert_frame_equal(whole, parts)


def test_without_thresholds_no_plane_is_read_whole(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a plane was read")

    lot = Lot(tmp_path).sample("a", *noisy(2))
    _, full = lot.run()
    monkeypatch.setattr(evaluate, "_plane", refuse)
    manifest, table = lot.run(thresholds=[])
    of_instances = ~full["metric"].isin(
        [
            m
            for f in ("pixel", "v_rand", "v_info", "v_rand_pooled", "warping")
            for m in FAMILIES[f].metrics
        ]
    )
    pd.testing.assert_frame_equal(table, full[of_instances].reset_index(drop=True))
    assert len(join(tmp_path, [manifest])) == 3 * len(table)


@pytest.mark.parametrize("objects", ["plane", "volume"])
def test_sizes_of_true_and_predicted_objects_lie_beside_the_scores(tmp_path, objects):
    truth = cells(0)
    truth[1] = truth[0]  # ids go on through both planes
    found = np.where(truth == truth.max(), 0, truth)
    lot = Lot(tmp_path).sample("a", truth, perfect(truth)[1], found, objects=objects)
    manifest, _ = lot.run()
    table = pd.read_parquet(manifest.with_suffix(".sizes.parquet"))
    sides = table[table["measure"] == "voxels"].groupby("side")["objects"].sum()
    ids = len(np.unique(truth)) - 1
    assert sides["truth"] == (2 * ids if objects == "plane" else ids)
    assert sides["truth"] - sides["predicted"] == (2 if objects == "plane" else 1)
    assert len(read_manifest(manifest)["samples"][0]["sizes"]) == 64


def test_the_best_threshold_is_chosen_and_recorded(tmp_path):
    truth = cells(3)
    probability = np.where(truth > 0, 250, 100).astype(np.uint8)[None]
    _, table = Lot(tmp_path).sample("a", truth, probability, truth).run()
    assert value(table, "pixel_f", 0.0) < value(table, "pixel_f", 0.5) == value(table, "pixel_f")
    best = table[(table["metric"] == "v_rand") & table["at"].isna()]
    assert json.loads(best["counts"].item()) == {"threshold": 0.5}


def test_touching_instances_are_apart_in_the_truth_of_the_map():
    truth = np.ones((6, 9), int)
    truth[:, 4:] = 2
    probability = np.full(truth.shape, 255, np.uint8)
    scores = score(tally_map(truth, probability, thresholds=[0.5], radius=20))
    values = {(one.metric, one.at): one.value for one in scores}
    assert values["splits_and_mergers", None] > 0
    assert values["v_rand", None] < 1


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        (
            "none",
            "none",
            {"f1": np.nan, "seg": np.nan, "rand": np.nan, "dice": 1, "v_rand": np.nan},
        ),
        ("none", "some", {"f1": 0, "seg": np.nan, "rand": np.nan, "dice": 0, "v_rand": np.nan}),
        ("some", "none", {"f1": 0, "seg": 0, "det": 0, "dice": 0, "iou": 0}),
    ],
)
def test_empty_truth_and_empty_predictions_are_defined(tmp_path, truth, found, expected):
    masks = {"none": np.zeros((1, 16, 16), np.uint32), "some": cells(0, (1, 16, 16))}
    probability = ((masks[found] > 0) * 255).astype(np.uint8)[None]
    _, table = Lot(tmp_path).sample("a", masks[truth], probability, masks[found]).run()
    got = {m: value(table, m, 0.5 if m == "f1" else None) for m in expected}
    assert got == pytest.approx(expected, nan_ok=True)


def test_a_faulty_sample_is_recorded_and_the_others_are_scored(tmp_path):
    truth, probability, found = noisy(2)
    lot = Lot(tmp_path).sample("bad", truth, probability, found[:1]).sample("good", *noisy(3))
    manifest, table = lot.run(threads=2)
    bad, good = read_manifest(manifest)["samples"]
    assert set(table["sample"]) == {"good"}
    assert (bad["status"], good["status"]) == ("failed", "done")
    assert "has shape (1, 40, 40), the truth (2, 40, 40)" in bad["message"]


def test_samples_without_truth_or_instances_have_no_scores(tmp_path):
    lot = Lot(tmp_path).sample("free", *noisy(4), label=None).sample("lost", *noisy(5))
    lot.entries["split"][1] |= {"status": "failed", "message": "no seeds", "store": None}
    manifest, table = lot.run()
    free, lost = read_manifest(manifest)["samples"]
    assert (free["status"], free["scored"]) == ("done", False)
    assert (lost["status"], lost["message"]) == ("skipped", "split failed: no seeds")
    assert list(table.columns) == list(evaluate.COLUMNS)
    assert table.empty


def test_the_manifest_tells_different_scores_apart_and_equal_ones_not(tmp_path):
    first = Lot(tmp_path).sample("a", *noisy(6))
    before = first.run()[0].read_bytes()
    assert first.run(threads=2)[0].read_bytes() == before
    assert first.run(iou_match="above")[0].read_bytes() != before


def test_pooled_rows_come_from_summed_counts_and_mean_rows_from_scores(tmp_path):
    lot = Lot(tmp_path).sample("a", *noisy(7)).sample("b", *noisy(8, (1, 24, 40)))
    manifest, table = lot.run()
    joined = join(tmp_path, [manifest])
    f1 = [value(table, "f1", 0.5, sample=s) for s in "ab"]
    assert value(joined, "f1", 0.5, aggregation="mean") == pytest.approx(np.mean(f1))
    counts = [
        json.loads(table[(table["sample"] == s) & (table["metric"] == "rand")]["counts"].item())
        for s in "ab"
    ]
    joint, truth, segments = (sum(c[k] for c in counts) for k in ("joint", "truth", "segments"))
    pooled = value(joined, "rand", aggregation="pooled")
    assert pooled == pytest.approx(2 * joint / (truth + segments), abs=1e-15)
    assert joined[joined["aggregation"] == "pooled"]["n"].unique().tolist() == [2]


def test_scores_do_not_depend_on_how_samples_are_divided_into_lots(tmp_path):
    samples = {name: noisy(seed) for seed, name in enumerate("abc", start=9)}
    one = Lot(tmp_path / "one")
    for name, arrays in samples.items():
        one.sample(name, *arrays)
    many = [
        Lot(tmp_path / "many", f"d-000{i}").sample(name, *arrays)
        for i, (name, arrays) in enumerate(samples.items())
    ]
    whole = join(tmp_path / "one", [one.run()[0]])
    parts = join(tmp_path / "many", [lot.run()[0] for lot in reversed(many)])
    pd.testing.assert_frame_equal(whole, parts)
    texts = [(tmp_path / n / "evaluate/scores.csv").read_text() for n in ("one", "many")]
    assert texts[0] == texts[1]
    manifests = [read_manifest(tmp_path / n / "evaluate/scores.json") for n in ("one", "many")]
    assert manifests[0] == manifests[1]


def test_the_mean_of_a_best_uses_one_common_threshold():
    def curve(low, high):
        tally = tally_map(
            np.array([[1, 1, 0, 0]]),
            np.array([[low, low, high, 0]]),
            thresholds=[0.0, 0.5],
            radius=1,
        )
        return score(tally)

    means = average([curve(255, 255), curve(100, 0)])
    by_key = {(one.metric, one.at): one.value for one in means}
    both = (by_key["pixel_f", 0.0], by_key["pixel_f", 0.5])
    assert by_key["pixel_f", None] == max(both)


def test_no_lots_make_an_empty_table_of_the_same_columns(tmp_path):
    joined = join(tmp_path, [])
    assert joined.empty
    assert list(joined.columns) == list(evaluate.COLUMNS)
    assert (tmp_path / "evaluate/scores.csv").read_text().startswith("experiment,fold,dataset")


def test_a_lot_without_samples_is_an_empty_table(tmp_path):
    manifest, table = Lot(tmp_path).run()
    assert table.empty
    assert join(tmp_path, [manifest]).empty


def test_counts_survive_the_table_whatever_their_size():
    table = contingency(np.array([1]), np.array([1]))
    big = type(table)(table.truth, table.segment, table.voxels * 2**40)
    tally = tally_instances(big, iou_thresholds=[0.5], iou_match="at_least")
    assert asdict(add([tally, tally])["rand", None])["joint"] == 2 * 2**80
