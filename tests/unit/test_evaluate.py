import errno
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from gigaseg import census, planes, relaxation, semantics
from gigaseg.disk import DiskError
from gigaseg.fingerprints import canonical_json
from gigaseg.labels import boundary_truth, components, contingency
from gigaseg.manifests import read_manifest, write_manifest
from gigaseg.maps import BoundaryMap, step_of
from gigaseg.matching import pixel_counts
from gigaseg.rand import rand_counts
from gigaseg.scores import FAMILIES, add, average, score, tally_instances, tally_map
from gigaseg.scoretable import COLUMNS
from gigaseg.stages import evaluate, tabulate
from gigaseg.thinning import thin
from gigaseg.volumes import commit_image, commit_labels, create_array
from gigaseg.warping import warping_counts

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

    def sample(
        self, name, truth, probability, segments, *, objects="plane", label="l.tif", ignored=None
    ):
        data = np.zeros((1, *probability.shape[1:]), np.uint8)
        self._store("convert", name, data, truth, {"ignored": ignored})
        self._store("predict", name, probability)
        self._store("split", name, segments)
        row = {"sample": name, "dataset": "d", "split": "test", "objects": objects, "label": label}
        self.rows.append(row)
        return self

    def _store(self, stage, name, data, truth=None, facts=None):
        store = self.root / stage / "d" / f"{name}.ome.zarr"
        create_array(store, "0", data.shape, data.dtype, storage=STORAGE)[...] = data
        common = {"spacing": (1.0, 1.0, 1.0), "levels": 1, "attributes": {}}
        if truth is not None:
            array = create_array(store, "labels/truth/0", truth.shape, truth.dtype, storage=STORAGE)
            array[...] = truth
            commit_labels(store / "labels/truth", **common | {"attributes": facts})
        if data.ndim == 4:
            commit_image(store, channel_names=["c"] * len(data), **common)
        else:
            commit_labels(store, **common)
        self.entries[stage].append(entry(stage, name, f"d/{name}.ome.zarr"))

    def run(self, threads=1, target="foreground", **evaluation):
        paths = {stage: self.root / stage / f"{self.name}.json" for stage in self.entries}
        for stage, entries in self.entries.items():
            write_manifest(paths[stage], {"stage": stage, "lot": self.name, "samples": entries})
        told = {
            "lot": self.name,
            "samples": self.rows,
            "experiment": "e",
            "fold": 0,
            "target": target,
            "weights": {"boundary_width": 2},
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


def value(table, metric, at=None, *, aggregation="sample", **where):
    rows = table[(table["metric"] == metric) & (table["aggregation"] == aggregation)]
    rows = rows[rows["at"].isna() if at is None else rows["at"] == at]
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    assert len(rows) == 1, rows
    return rows["value"].item()


def join(root, manifests):
    scores = root / "evaluate" / "scores.json"
    tabulate.run(manifest=scores, evaluate=manifests, settings={}, code="0", threads=1)
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
        "offset",
    ]
    # In space, cells that touch across z have a ridge between them, which was not predicted.
    zeros += ["calibration_error"] if objects == "plane" else []
    assert {metric: value(table, metric) for metric in ones} == dict.fromkeys(ones, 1)
    assert {metric: value(table, metric) for metric in zeros} == dict.fromkeys(zeros, 0)
    assert value(table, "f1", 0.5) == value(table, "pq", 0.75) == 1
    (fact,) = read_manifest(manifest)["samples"]
    assert (fact["status"], fact["scored"], fact["shape"]) == ("done", True, [2, 40, 40])


def test_thresholds_and_pieces_of_a_sample_count_as_progress(tmp_path, paced):
    Lot(tmp_path).sample("a", *noisy(1)).run()
    assert paced() == [
        *(f"a, map: {n} of 4 thresholds" for n in (1, 2, 3)),
        "a, map: 4 thresholds",
        "a, instances: 1 of 2 pieces",
        "a, instances: 2 pieces",
    ]


def test_planes_are_problems_of_their_own_and_add_up(tmp_path):
    truth, probability, found = noisy(1)
    _, table = Lot(tmp_path).sample("a", truth, probability, found).run()
    planes = [
        add(
            [
                tally_map(
                    BoundaryMap(truth[z], probability[0, z]), thresholds=[0.0, 0.5], radius=20
                ),
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
    got = keyed(table[table["aggregation"] == "sample"])
    assert 0 < got.pop(("calibration_error", None)) < 1  # tests/property/test_census.py
    assert got == pytest.approx(expected, nan_ok=True)
    for z in range(2):
        alone = {(one.metric, one.at): one.value for one in score(planes[z])}
        rows = table[(table["aggregation"] == "plane") & (table["plane"] == z)]
        assert keyed(rows) == pytest.approx(alone, nan_ok=True)
        assert set(rows["sample"]) == {"a"}
        assert set(rows["counts"]) == {""}


def keyed(rows):
    return {
        (metric, None if np.isnan(at) else at): v
        for metric, at, v in zip(rows["metric"], rows["at"], rows["value"], strict=True)
    }


def test_planes_have_rows_only_where_they_are_problems_of_their_own(tmp_path):
    lot = Lot(tmp_path).sample("flat", *noisy(1, (1, 40, 40)))
    lot.sample("stack", *noisy(2)).sample("volume", *noisy(3), objects="volume")
    _, table = lot.run()
    planes = table[table["aggregation"] == "plane"]
    assert set(planes["sample"]) == {"stack", "volume"}
    assert "seg" in set(planes.loc[planes["sample"] == "stack", "metric"])
    # Objects of a volume have no score in a plane; the map has.
    of_volume = set(planes.loc[planes["sample"] == "volume", "metric"])
    assert "seg" not in of_volume
    assert "v_rand" in of_volume


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
    monkeypatch.setattr(census, "PIECE", 17)  # chunks are 16 px: pieces of 32
    _, parts = lot.run(threads=threads)
    pd.testing.assert_frame_equal(whole, parts)


def test_a_full_disk_under_the_list_of_mismatches_is_told_as_such(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(relaxation, "IN_MEMORY", 0)
    monkeypatch.setattr(relaxation, "TemporaryFile", full)
    lot = Lot(tmp_path).sample("a", *noisy(2))
    with pytest.raises(DiskError, match=r"cannot be written \(No space left.*make room"):
        lot.run()


def test_without_thresholds_no_plane_is_read_whole(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a plane was read")

    lot = Lot(tmp_path).sample("a", *noisy(2))
    _, full = lot.run()
    monkeypatch.setattr(planes.Plane, "__getitem__", refuse)
    manifest, table = lot.run(thresholds=[])
    of_instances = ~full["metric"].isin(
        [
            m
            for f in ("pixel", "v_rand", "v_info", "v_rand_pooled", "warping", "offset")
            for m in FAMILIES[f].metrics
        ]
    )
    pd.testing.assert_frame_equal(table, full[of_instances].reset_index(drop=True))
    samples = table[table["aggregation"] == "sample"]
    assert len(join(tmp_path, [manifest])) == 2 * len(samples) + len(table)


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
    best = best[best["aggregation"] == "sample"]
    assert json.loads(best["counts"].item()) == {"threshold": 0.5}


def test_touching_instances_are_apart_in_the_truth_of_the_map():
    truth = np.ones((6, 9), int)
    truth[:, 4:] = 2
    probability = np.full(truth.shape, 255, np.uint8)
    scores = score(tally_map(BoundaryMap(truth, probability), thresholds=[0.5], radius=20))
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
    assert list(table.columns) == list(COLUMNS)
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
        json.loads(table[(table["sample"] == s) & (table["metric"] == "rand")]["counts"].iloc[0])
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
            BoundaryMap(np.array([[1, 1, 0, 0]]), np.array([[low, low, high, 0]], np.uint8)),
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
    assert list(joined.columns) == list(COLUMNS)
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


def fold_rows(root, names, fold, seed):
    lot = Lot(root / f"fold-{fold}")
    for i, name in enumerate(names):
        lot.sample(name, *noisy(seed + i, (1, 24, 24)))
    return lot.run()[1].assign(fold=str(fold)).astype({"fold": "string"})


def test_folds_have_a_mean_a_spread_and_an_interval(tmp_path):
    parts = [fold_rows(tmp_path, "abcd", 0, 1), fold_rows(tmp_path, "efg", 1, 20)]
    table = tabulate.aggregate(pd.concat(parts))
    each = [value(table, "rand", aggregation="pooled", fold=k) for k in "01"]
    over = table[(table["aggregation"] == "folds_pooled") & (table["metric"] == "rand")]
    row = over.iloc[0]
    assert row["value"] == pytest.approx(np.mean(each))
    assert row["sd"] == pytest.approx(np.std(each, ddof=1))
    assert row["low"] <= row["value"] <= row["high"]
    assert (row["n"], row["sample"]) == (2, "")
    assert pd.isna(row["fold"])
    pooled = table[table["aggregation"].isin(["pooled", "mean"])]
    assert pooled["sd"].isna().all()
    assert set(table.loc[table["aggregation"].str.startswith("folds"), "n"]) <= {0, 1, 2}


def test_one_fold_is_no_spread(tmp_path):
    table = tabulate.aggregate(fold_rows(tmp_path, "abc", 0, 1))
    assert set(table["aggregation"]) == {"sample", "pooled", "mean"}
    dice = table[(table["metric"] == "dice") & (table["aggregation"] != "sample")]
    assert (dice["low"] < dice["value"]).all()
    assert (dice["value"] < dice["high"]).all()


def test_two_samples_have_no_interval(tmp_path):
    table = tabulate.aggregate(fold_rows(tmp_path, "ab", 0, 1))
    assert table["low"].isna().all()
    assert table["high"].isna().all()


# ------------------------------------------------------------------------------- degenerate truth


def told(manifest):
    return {entry["sample"]: entry.get("remarks") for entry in read_manifest(manifest)["samples"]}


def test_what_is_odd_about_a_sample_is_said(tmp_path):
    shape = (1, 16, 16)
    none, full, some = np.zeros(shape, np.uint32), np.ones(shape, np.uint32), cells(0, shape)
    lot = Lot(tmp_path).sample("ordinary", *perfect(some))
    lot.sample("empty", none, perfect(some)[1], some).sample("lost", some, perfect(none)[1], none)
    lot.sample("giant", *perfect(full))
    manifest, table = lot.run()
    said = told(manifest)
    assert said["ordinary"] == []
    assert said["empty"] == ["the truth is empty: scores that need an object are not defined"]
    assert said["lost"] == ["no instance was found"]
    assert said["giant"] == [
        "the truth has no background: no instance can be invented",
        "the truth is one single object: no objects can be merged, V-Info says nothing",
    ]
    got = {m: value(table, m, sample="giant") for m in ("seg", "rand", "voi_merge", "dice")}
    assert got == {"seg": 1, "rand": 1, "voi_merge": 0, "dice": 1}
    assert np.isnan(value(table, "v_info", sample="giant"))


def test_a_truth_without_background_is_scored_like_any_other(tmp_path):
    truth = np.repeat(np.repeat(np.arange(1, 17).reshape(1, 4, 4), 8, 1), 8, 2).astype(np.uint32)
    _, table = Lot(tmp_path).sample("a", *perfect(truth)).run()
    got = {m: value(table, m) for m in ("seg", "det", "mean_ap", "rand", "voi_split", "dice")}
    assert got == {"seg": 1, "det": 1, "mean_ap": 1, "rand": 1, "voi_split": 0, "dice": 1}


@pytest.mark.parametrize("beyond", [2**31, 2**32, 2**62])
def test_large_ids_are_scored_like_small_ones(tmp_path, beyond):
    truth, probability, found = noisy(11)
    raised = [np.where(a > 0, a + np.uint64(beyond), 0).astype(np.uint64) for a in (truth, found)]
    small = Lot(tmp_path / "small").sample("a", truth, probability, found)
    large = Lot(tmp_path / "large").sample("a", raised[0], probability, raised[1])
    pd.testing.assert_frame_equal(small.run()[1], large.run()[1])


def test_another_spacing_than_that_of_the_truth_is_refused(tmp_path, monkeypatch):
    opened = evaluate.open_volume

    def coarser(store, label=None):
        volume = opened(store, label)
        return volume if label else replace(volume, spacing=(1.0, 0.5, 0.5))

    monkeypatch.setattr(evaluate, "open_volume", coarser)
    (entry,) = read_manifest(Lot(tmp_path).sample("a", *noisy(12)).run()[0])["samples"]
    assert "spacing (1.0, 0.5, 0.5) µm, the truth (1.0, 1.0, 1.0) µm" in entry["message"]


@pytest.mark.parametrize("objects", ["plane", "volume"])
def test_ignored_voxels_decide_nothing(tmp_path, objects):
    truth, probability, found = noisy(13)
    unknown = np.zeros(truth.shape, bool)
    unknown[:, 9:26, 17:34] = True  # what is predicted there is forgiven
    ignored = int(np.iinfo(np.uint32).max)
    masked = np.where(unknown, ignored, truth).astype(np.uint32)
    shuffled = np.where(unknown & (found > 0), 1000 + found % 2, found).astype(np.uint32)
    tables = []
    for name, segments in (("as it is", found), ("other objects", shuffled)):
        lot = Lot(tmp_path / name)
        lot.sample("a", masked, probability, segments, objects=objects, ignored=ignored)
        manifest, table = lot.run()
        (remark,) = told(manifest)["a"]
        assert remark == "18.1% of the voxels are not annotated and left out of every score"
        tables.append(table)
    pd.testing.assert_frame_equal(*tables)
    _, without = Lot(tmp_path / "w").sample("a", truth, probability, found, objects=objects).run()
    known = contingency(truth[~unknown], found[~unknown])
    inside = int(known.voxels[(known.truth > 0) & (known.segment > 0)].sum())
    table = tables[0][tables[0]["aggregation"] == "sample"]
    dice = table[table["metric"] == "dice"]["counts"].item()
    assert json.loads(dice)["tp"] == inside
    assert sum(json.loads(dice).values()) == np.count_nonzero(~unknown)
    assert value(tables[0], "seg") != value(without, "seg")


def test_ignored_pixels_are_no_mismatches_of_the_map():
    truth = np.ones((12, 12), np.uint32)
    truth[:, 6] = 0
    probability = np.full(truth.shape, 255, np.uint8)  # the line is missing: a merger
    hidden = truth.copy()
    hidden[:, 5:8] = 77
    options = {"thresholds": [0.5], "radius": 20}
    seen = score(tally_map(BoundaryMap(truth, probability), **options))
    spared = score(tally_map(BoundaryMap(hidden, probability, ignored=77), **options))
    names = ("pixel_error", "warping_error", "splits_and_mergers")
    assert all(one.value > 0 for one in seen if one.metric in names)
    assert all(one.value == 0 for one in spared if one.metric in names)


@pytest.mark.parametrize("seed", range(3))
def test_what_a_map_holds_in_ignored_pixels_changes_no_score(seed):
    rng = np.random.default_rng(seed)
    truth = cells(seed, (1, 40, 40))[0]
    truth[12:20] = 77
    there = truth == 77
    probability = rng.integers(0, 256, truth.shape).astype(np.uint8)
    tallies = []
    for fill in (probability, np.uint8(0), np.uint8(255)):  # as it is, cut, bridged
        plane = BoundaryMap(truth, np.where(there, fill, probability), ignored=77)
        tallies.append(tally_map(plane, thresholds=[0.2, 0.5], radius=20))
    assert tallies[0] == tallies[1] == tallies[2]


# ----------------------------------------------------------------------------------------- classes


def class_map(truth, width, objects):
    """The class of every voxel, from distances to what is not the voxel's own instance."""
    classes = np.zeros(truth.shape, int)
    space = np.ones(3) if objects == "volume" else np.array([1e9, 1, 1])
    places = np.argwhere(np.ones(truth.shape, bool))
    for at in np.argwhere(truth > 0):
        steps = np.abs(places - at)
        far = np.sqrt(((steps * space) ** 2).sum(axis=1))
        others = far[(truth.ravel() != truth[tuple(at)])]
        classes[tuple(at)] = 2 if others.min() <= width else 1
    return classes


@pytest.mark.parametrize("objects", ["plane", "volume"])
@pytest.mark.parametrize("ignored", [None, 2**32 - 1])
def test_classes_are_scored_against_what_training_aims_at(tmp_path, monkeypatch, objects, ignored):
    rng = np.random.default_rng(5)
    coarse = np.arange(1, 13).reshape(2, 2, 3) * rng.integers(0, 2, (2, 2, 3))
    truth = coarse.repeat(9, axis=1).repeat(8, axis=2).astype(np.uint32)
    probability = rng.integers(0, 120, (2, *truth.shape)).astype(np.uint8)
    marked = truth.copy()
    if ignored:
        marked[:, 3:6, 4:14] = ignored
    known = marked != (ignored or -1)
    true = class_map(np.where(known, marked, 0), 2, objects)
    stored = probability.astype(int)
    found = np.argmax([255 - stored.sum(0), *stored], axis=0)
    monkeypatch.setattr(semantics, "BLOCK", (1, 7, 11))
    monkeypatch.setattr(semantics, "THICK_BLOCK", (1, 8, 5))
    lot = Lot(tmp_path)
    lot.sample("a", marked, probability, truth, objects=objects, ignored=ignored)
    _, table = lot.run(target="interior_boundary", threads=2)
    for k, name in ((1, "interior"), (2, "boundary")):
        tp = np.count_nonzero((true == k) & (found == k) & known)
        either = np.count_nonzero(((true == k) | (found == k)) & known)
        assert value(table, f"iou_{name}") == pytest.approx(tp / either)
        assert value(table, f"dice_{name}") == pytest.approx(2 * tp / (either + tp))


def test_classes_are_scored_only_where_there_are_two_and_the_map_is_measured(tmp_path):
    truth, probability, found = noisy(14)
    lot = Lot(tmp_path).sample("a", truth, np.concatenate([probability, probability]), found)
    assert "dice_boundary" not in set(lot.run()[1]["metric"])
    assert "dice_boundary" not in set(
        lot.run(target="interior_boundary", thresholds=[])[1]["metric"]
    )
    assert "dice_boundary" in set(lot.run(target="interior_boundary")[1]["metric"])


@pytest.mark.parametrize("seed", range(4))
def test_ignored_pixels_of_a_map_are_masked_as_in_functions_of_arrays(seed):
    rng = np.random.default_rng(seed)
    truth = cells(seed, (1, 40, 40))[0]
    truth[:, 5:21] = np.where(truth[:, 5:21] > 0, truth[:, 5:21], 60)  # some touch
    probability = rng.integers(0, 256, truth.shape).astype(np.uint8)
    hidden, known = truth.copy(), rng.random(truth.shape) > 0.2
    known[:9] = False
    hidden[~known] = 77
    plane = BoundaryMap(hidden, probability, rows=8, columns=16, ignored=77)
    inside = boundary_truth(np.where(known, truth, 0))
    for threshold in (0.2, 0.5):
        found = probability > step_of(threshold)
        shares = probability.astype(np.float32) / np.float32(255)
        confidence = np.abs(shares - np.float32(threshold))
        expected = warping_counts(inside, found, confidence=confidence, mask=known, radius=5)
        assert plane.warping(threshold, 5) == expected
        assert plane.pixels(threshold) == pixel_counts(inside[known], found[known])
        whole = contingency(components(inside), thin(found & known))
        assert rand_counts(plane.thinned(threshold)) == rand_counts(whole)
