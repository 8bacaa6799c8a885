"""Tuning: the choice is that of an obvious loop, on validation samples and on nothing else."""

import csv
import json
import math
from itertools import product

import numpy as np
import pytest
from gigaseg import pace
from gigaseg.crossed import choose_threshold
from gigaseg.cuts import Cut
from gigaseg.fingerprints import canonical_json
from gigaseg.grids import MAP_METRICS
from gigaseg.instances import Evidence, Splitting, segment
from gigaseg.labels import boundary_truth, components, contingency
from gigaseg.manifests import read_manifest, write_manifest
from gigaseg.rand import information_counts, rand_counts
from gigaseg.scores import BEST, add, score, tally_instances
from gigaseg.stages import evaluate, split, tune
from gigaseg.thinning import thin
from gigaseg.tuning import MAPS, SCORES, Aim, cross_score
from gigaseg.volumes import commit_image, commit_labels, create_array, open_volume
from gigaseg.warping import warping_counts
from scipy import ndimage

STORAGE = {"chunk": 16, "shard": 32, "smallest_level": 256}
SPACING = (2.0, 0.5, 0.5)
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
IOU = [0.5, 0.75]
RADIUS = 3
GRID = {"threshold": [0.3, 0.5, 0.6], "h": [2.0, 0.5], "minimum_size": [0, 9, 30]}

# The scores of the evaluation that say the same.
SAME = {"ap": ("mean_ap", None), "seg": ("seg", None), "dice": ("dice", None)}
SAME |= {"det": ("det", None), "iou": ("iou", None), "rand": ("rand", None)}
SAME |= {"f1": ("f1", 0.5), "pq": ("pq", 0.5)}


def blobs(seed, shape=(2, 40, 48), channels=1):
    """Probabilities of smooth blobs, and a truth that has something to do with them."""
    noise = np.random.default_rng(seed).normal(size=(channels + 1, *shape))
    smooth = ndimage.gaussian_filter(noise, (0, 0, 2.5, 2.5))
    smooth /= smooth.std(axis=(1, 2, 3), keepdims=True)
    maps = 255 / (1 + np.exp(-1.5 * smooth[:channels])) / channels
    truth = components(smooth[0] + 0.3 * smooth[-1] > 0.4)
    return truth, maps.astype(np.uint8)


class Lots:
    """Lots of converted and predicted samples, each of a data set of its own."""

    def __init__(self, root):
        self.root, self.rows, self.lots = root, [], {}

    def add(self, name, truth, maps, *, dataset="d", part="validation", objects="plane"):
        row = {"sample": name, "dataset": dataset, "split": part, "objects": objects}
        entries = self.lots.setdefault(dataset, [])
        store = f"{dataset}/{name}.ome.zarr"
        common = {"spacing": SPACING, "levels": 1}
        for stage, data in (("convert", np.zeros_like(maps)), ("predict", maps)):
            folder = self.root / stage / store
            create_array(folder, "0", data.shape, data.dtype, storage=STORAGE)[...] = data
            if stage == "convert":
                made = create_array(folder, "labels/truth/0", truth.shape, "u4", storage=STORAGE)
                made[...] = truth
                commit_labels(folder / "labels/truth", **common, attributes={})
            names = [str(c) for c in range(len(data))]
            commit_image(folder, channel_names=names, attributes={}, **common)
        done = {"status": "done", "message": None, "store": store, "fingerprint": name}
        entries.append({key: row[key] for key in ("sample", "dataset", "split")} | done)
        if part == "validation":
            self.rows.append(row)
        return self

    def paths(self, stage):
        for dataset, entries in self.lots.items():
            manifest = {"stage": stage, "lot": f"{dataset}-0000", "samples": entries}
            (self.root / stage).mkdir(exist_ok=True)
            write_manifest(self.root / stage / f"{dataset}-0000.json", manifest)
        return [self.root / stage / f"{dataset}-0000.json" for dataset in self.lots]

    def run(
        self,
        grid,
        *,
        metric="ap",
        iou=IOU,
        threads=2,
        target="foreground",
        aggregation="pooled",
        **instances,
    ):
        kept = {k: v for k, v in (INSTANCES | instances).items() if k not in grid}
        told = {
            "experiment": "e",
            "fold": 0,
            "target": target,
            "samples": self.rows,
            "instances": kept,
            "tune": {
                "metric": metric,
                "grid": grid,
                "iou_thresholds": iou,
                "iou_match": "at_least",
                "warping_radius": RADIUS,
                "aggregation": aggregation,
            },
        }
        manifest = self.root / "tune" / "e" / "fold-0.json"
        tune.run(
            manifest=manifest,
            convert=self.paths("convert"),
            predict=self.paths("predict"),
            settings=json.loads(canonical_json(told)),
            code="c0de",
            threads=threads,
        )
        return read_manifest(manifest)


def obvious(samples, grid, metric, target, objects, instances):
    """Return all combinations and their scores: segment whole arrays, score, pool."""
    keys = ("threshold", "seed_threshold", "h", "minimum_size")
    tried = [key for key in keys if key in grid]
    trials, scores = [], []
    for values in product(*(grid[key] for key in tried)):
        trials.append(dict(zip(tried, values, strict=True)))
        how = Splitting(**INSTANCES | instances | trials[-1])
        tallies = []
        for truth, maps in samples:
            whole = objects == "volume"
            places = [np.s_[:]] if whole else range(len(truth))
            for z in places:
                spacing = SPACING if whole else SPACING[1:]
                labels = segment(Evidence.read(maps[:, z], target), how, spacing)
                table = contingency(truth[z], labels)
                tallies.append(tally_instances(table, iou_thresholds=IOU, iou_match="at_least"))
        found = {(one.metric, one.at): one.value for one in score(add(tallies))}
        scores.append(found[SAME[metric]])
    return trials, scores


WAYS = {
    "dynamics": ("ap", GRID, {}, "foreground"),
    "seeds": (
        "ap",
        {"threshold": [0.4, 0.6], "seed_threshold": [0.4, 0.25], "minimum_size": [5, 0]},
        {"level": "probability", "seeds": "probability"},
        "interior_boundary",
    ),
    "components": (
        "ap",
        {"threshold": [0.5, 0.3, 0.6]},
        {"method": "components", "fill_holes": True, "minimum_size": 12},
        "foreground",
    ),
    "filled": ("rand", {"threshold": [0.6, 0.5], "h": [1, 3]}, {"fill": True}, "foreground"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("objects", ["plane", "volume"])
@pytest.mark.parametrize("cut", [None, 32])
def test_the_choice_is_that_of_an_obvious_loop(tmp_path, monkeypatch, way, objects, cut):
    if cut:
        blocks = (1 if objects == "plane" else 2, cut, cut)
        monkeypatch.setattr(Cut, "choose", lambda *_: Cut(blocks, blocks, blocks))
    metric, grid, instances, target = WAYS[way]
    channels = 1 if target == "foreground" else 2
    samples = [blobs(seed, channels=channels) for seed in (1, 2)]
    lots = Lots(tmp_path)
    for name, sample in zip("ab", samples, strict=True):
        lots.add(name, *sample, objects=objects)
    found = lots.run(grid, metric=metric, target=target, **instances)
    trials, scores = obvious(samples, grid, metric, target, objects, instances)
    assert [trial["values"] for trial in found["trials"]] == trials
    assert [trial["score"] for trial in found["trials"]] == pytest.approx(scores, abs=1e-12)
    assert found["chosen"] == trials[int(np.argmax(scores))]
    assert found["score"] == pytest.approx(max(scores), abs=1e-12)
    assert len(set(scores)) > 1


@pytest.mark.parametrize("metric", sorted(SAME))
def test_metrics_are_those_of_the_evaluation(tmp_path, metric):
    iou = [SAME[metric][1]] if SAME[metric][1] else IOU
    samples = [blobs(seed) for seed in (3, 4)]
    lots = Lots(tmp_path).add("a", *samples[0]).add("b", *samples[1], dataset="other")
    grid = {"threshold": [0.3, 0.6]}
    found = lots.run(grid, metric=metric, iou=iou)
    _, scores = obvious(samples, grid, metric, "foreground", "plane", {})
    assert [trial["score"] for trial in found["trials"]] == pytest.approx(scores, abs=1e-12)
    assert {(e["dataset"], e["sample"]) for e in found["samples"]} == {("d", "a"), ("other", "b")}


@pytest.mark.parametrize("aggregation", ["pooled", "mean"])
@pytest.mark.parametrize("number", [2, 9, 12])
def test_each_sample_is_also_scored_by_what_is_best_on_the_others(aggregation, number):
    rng = np.random.default_rng(6)
    aim = Aim("rand", (), "at_least", aggregation=aggregation)
    counted = [
        [aim.count([contingency(*rng.integers(0, 4, (2, 30)))]) for _ in range(5)]
        for _ in range(number)
    ]
    runs = {2: [1, 1], 9: [1] * 9, 12: [2, 2] + [1] * 8}[number]  # ten, in order
    part = np.repeat(range(len(runs)), runs)
    taken, choices = [], set()
    for k in range(number):
        others = [counts for counts, run in zip(counted, part, strict=True) if run != part[k]]
        best = max(range(5), key=lambda trial: aim.overall([counts[trial] for counts in others]))
        choices.add(best)
        taken.append(counted[k][best])
    assert cross_score(aim, counted) == aim.overall(taken)
    assert len(choices) > 1
    whole = max(aim.overall([counts[trial] for counts in counted]) for trial in range(5))
    assert cross_score(aim, counted) < whole


def test_what_a_choice_is_worth_on_other_samples_is_written(tmp_path):
    samples = {name: blobs(seed) for name, seed in (("a", 1), ("b", 2))}
    grid, how = {"threshold": [0.3, 0.6, 0.7]}, {"metric": "seg", "aggregation": "mean"}
    both, alone = Lots(tmp_path / "both"), {}
    for name, sample in samples.items():
        both.add(name, *sample)
        alone[name] = Lots(tmp_path / name).add(name, *sample).run(grid, **how)
    scores = [
        next(t["score"] for t in alone[own]["trials"] if t["values"] == alone[other]["chosen"])
        for own, other in ("ab", "ba")
    ]
    assert both.run(grid, **how)["cross_score"] == pytest.approx(np.mean(scores))


def test_one_sample_has_no_others(tmp_path):
    found = Lots(tmp_path).add("a", *blobs(1)).run({"threshold": [0.3, 0.6]})
    assert found["cross_score"] is None


def planes_of(samples):
    return [pair for truth, maps in samples for pair in zip(truth, maps[0], strict=True)]


def obvious_map_score(metric, samples, threshold):
    """Return a metric of the map, from whole arrays."""
    values = []
    for truth, probability in planes_of(samples):
        cells, found = boundary_truth(truth), probability > int(255 * threshold)
        table = contingency(components(cells), thin(found))
        if metric == "splits_and_mergers":
            doubt = np.abs(np.float32(probability) / np.float32(255) - np.float32(threshold))
            counts = warping_counts(cells, found, confidence=doubt, radius=RADIUS)
            values.append(counts.splits_and_mergers)
        else:
            values.append((rand_counts if metric == "v_rand" else information_counts)(table).f)
    return np.mean(values)


@pytest.mark.parametrize("metric", MAP_METRICS)
def test_metrics_of_the_map_are_those_of_the_evaluation_at_each_threshold(tmp_path, metric):
    samples = [blobs(seed) for seed in (3, 4, 5)]
    lots = Lots(tmp_path)
    for name, sample in zip("abc", samples, strict=True):
        lots.add(name, *sample)
    thresholds = [0.2, 0.3, 0.45, 0.6, 0.7, 0.8]
    found = lots.run({"threshold": thresholds}, metric=metric, method="components")
    scores = [trial["score"] for trial in found["trials"]]

    evaluation = {"thresholds": thresholds, "warping_radius": RADIUS}
    tallies = []
    for entry in lots.lots["d"]:
        truth = open_volume(tmp_path / "convert" / entry["store"], "truth")
        volume = open_volume(tmp_path / "predict" / entry["store"])
        planes = evaluate.tally_planes(truth, volume, evaluation)
        tallies.append(add(tally for _, tally in planes))  # a sample's, as tabulate pools them
    evaluated = score(add(tallies))
    curve = {one.at: one.value for one in evaluated if one.metric == metric and one.at is not None}
    assert scores == [curve[at] for at in thresholds]
    [best] = [one for one in evaluated if one.metric == metric and one.at is None]
    assert found["score"] == best.value
    assert found["chosen"]["threshold"] == choose_threshold(curve, BEST[metric])

    expected = [obvious_map_score(metric, samples, at) for at in thresholds]
    assert scores == pytest.approx(expected, abs=1e-12)
    assert min(scores) < max(scores)
    lower = metric == "splits_and_mergers"
    assert found["score"] == (min(scores) if lower else max(scores))


def test_maps_of_volumes_are_judged_plane_by_plane(tmp_path):
    truth, maps = blobs(3)
    (tmp_path / "planes").mkdir()
    grid, how = {"threshold": [0.3, 0.6]}, {"metric": "v_rand", "method": "components"}
    planes = Lots(tmp_path / "planes").add("a", truth, maps).run(grid, **how)
    volume = Lots(tmp_path).add("a", truth, maps, objects="volume").run(grid, **how)
    assert volume["trials"] == planes["trials"]


def test_what_a_grid_says_of_the_map_and_what_is_counted_agree():
    assert set(MAPS) == set(MAP_METRICS) <= set(BEST)
    assert not set(MAPS) & set(SCORES)


@pytest.mark.parametrize("way", [{}, {"level": "probability"}])
def test_components_are_among_what_can_be_tried(tmp_path, way):
    lots = Lots(tmp_path).add("a", *blobs(1)).add("b", *blobs(2))
    grid = {"threshold": [0.3, 0.5]}
    flooded = lots.run({**grid, "h": [10000]}, **way)
    whole = lots.run(grid, method="components")
    assert [t["score"] for t in flooded["trials"]] == [t["score"] for t in whole["trials"]]


def test_samples_of_one_name_in_two_data_sets_are_two_samples(tmp_path):
    samples = [blobs(seed) for seed in (5, 6)]
    lots = Lots(tmp_path).add("a", *samples[0]).add("a", *samples[1], dataset="other")
    found = lots.run({"threshold": [0.3, 0.6]})
    _, scores = obvious(samples, {"threshold": [0.3, 0.6]}, "ap", "foreground", "plane", {})
    assert [trial["score"] for trial in found["trials"]] == pytest.approx(scores, abs=1e-12)


def test_nothing_but_validation_samples_is_opened(tmp_path, monkeypatch):
    lots = Lots(tmp_path).add("a", *blobs(1)).add("t", *blobs(2), part="test")
    opened = []

    def watch(path, *label):
        opened.append(path)
        return open_volume(path, *label)

    monkeypatch.setattr(tune, "open_volume", watch)
    found = lots.run({"threshold": [0.3, 0.6]})
    assert {path.name for path in opened} == {"a.ome.zarr"}
    assert [entry["sample"] for entry in found["samples"]] == ["a"]


def test_a_test_sample_is_refused(tmp_path):
    lots = Lots(tmp_path).add("a", *blobs(1))
    lots.add("t", *blobs(2), part="test").rows.append({**lots.rows[0], "sample": "t"})
    lots.rows[-1]["split"] = "test"
    with pytest.raises(ValueError, match="tuned on validation samples only, not on t"):
        lots.run({"threshold": [0.3, 0.6]})


@pytest.mark.parametrize("order", [[0.7, 0.3], [0.3, 0.7]])
def test_of_equals_the_first_is_chosen(tmp_path, order):
    truth, _ = blobs(1)
    lots = Lots(tmp_path).add("a", truth, ((truth > 0) * np.uint8(255))[None])
    found = lots.run({"threshold": order}, metric="dice", ridge=False)
    assert [trial["score"] for trial in found["trials"]] == [1, 1]
    assert found["chosen"] == {"threshold": order[0]}


def test_threads_and_the_order_of_keys_change_no_byte(tmp_path):
    lots = Lots(tmp_path).add("a", *blobs(1)).add("b", *blobs(2)).add("c", *blobs(3))
    path = tmp_path / "tune" / "e" / "fold-0.json"
    lots.run(GRID, threads=1)
    first = path.read_bytes(), path.with_suffix(".csv").read_bytes()
    lots.run(dict(reversed(GRID.items())), threads=5)
    told = [json.loads(text) for text in (first[0], path.read_bytes())]
    assert told[0] == told[1]
    assert path.with_suffix(".csv").read_bytes() == first[1]


def test_the_table_for_people(tmp_path):
    found = Lots(tmp_path).add("a", *blobs(1)).run(GRID)
    with (tmp_path / "tune" / "e" / "fold-0.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["threshold", "h", "minimum_size", "ap", "chosen"]
    assert [float(row["ap"]) for row in rows] == [trial["score"] for trial in found["trials"]]
    [best] = [row for row in rows if row["chosen"]]
    assert {key: float(best[key]) for key in found["chosen"]} == found["chosen"]


def test_a_score_that_is_not_defined_is_never_chosen(tmp_path):
    truth = np.zeros((1, 20, 20), np.uint32)
    maps = np.zeros((1, 1, 20, 20), np.uint8)
    maps[..., 5:9, 5:9] = 100
    found = Lots(tmp_path).add("a", truth, maps).run({"threshold": [0.9, 0.1]})
    assert [trial["score"] for trial in found["trials"]] == [None, 0]
    assert found["chosen"] == {"threshold": 0.1}


def test_without_any_score_the_error_says_what_to_do(tmp_path):
    truth, maps = np.zeros((1, 20, 20), np.uint32), np.zeros((1, 1, 20, 20), np.uint8)
    lots = Lots(tmp_path).add("a", truth, maps)
    with pytest.raises(ValueError, match=r"(?s)ap is not defined .*Take another metric"):
        lots.run({"threshold": [0.5, 0.7]})
    assert list((tmp_path / "tune" / "e").iterdir()) == []


def test_a_sample_at_fault_is_recorded_and_the_others_decide(tmp_path):
    truth, maps = blobs(1)
    lots = Lots(tmp_path).add("a", truth, maps).add("b", truth[:, 1:], maps)
    alone = Lots(tmp_path / "alone")
    (tmp_path / "alone").mkdir()
    grid = {"threshold": [0.3, 0.5]}
    found = lots.run(grid)
    assert [entry["status"] for entry in found["samples"]] == ["done", "failed"]
    assert "has shape (2, 40, 48), the truth (2, 39, 48)" in found["samples"][1]["message"]
    assert found["trials"] == alone.add("a", truth, maps).run(grid)["trials"]


def test_if_no_sample_can_be_scored_the_causes_are_named(tmp_path):
    lots = Lots(tmp_path).add("a", *blobs(1))
    lots.lots["d"][0] |= {"status": "failed", "message": "a.tif is truncated", "store": None}
    with pytest.raises(ValueError, match=r"no validation sample can be scored: predict failed: a"):
        lots.run({"threshold": [0.5, 0.7]})


def test_senseless_values_stop_the_job(tmp_path):
    lots = Lots(tmp_path).add("a", *blobs(1))
    with pytest.raises(ValueError, match=r"threshold 1\.5 is not a probability"):
        lots.run({"threshold": [0.5, 1.5]})


def test_scratch_never_stays(tmp_path, monkeypatch):
    left = tmp_path / "tune" / "e" / "fold-0" / "d" / "a"
    create_array(left, "labels", (1, 8, 8), np.uint32, storage=STORAGE)  # by one that was killed
    lots = Lots(tmp_path).add("a", *blobs(1))
    lots.run({"threshold": [0.5, 0.7]})
    names = ["fold-0.csv", "fold-0.json"]
    assert sorted(path.name for path in left.parents[2].iterdir()) == names

    def die(*_, **__):
        raise MemoryError

    monkeypatch.setattr(tune, "split_volume", die)
    with pytest.raises(MemoryError):
        lots.run({"threshold": [0.5, 0.7]})
    assert sorted(path.name for path in left.parents[2].iterdir()) == names


def test_split_applies_the_choice_and_the_store_says_the_values_only(tmp_path):
    truth, maps = blobs(1)
    lots = Lots(tmp_path).add("a", truth, maps).add("t", *blobs(2), part="test")
    found = lots.run(GRID)
    for entry in lots.lots["d"]:  # of images of floats, split wants to know the range
        assert open_volume(tmp_path / "convert" / entry["store"]).array.dtype == np.uint8
    rows = [{**lots.rows[0], "sample": name} for name in "at"]
    rows[1]["split"] = "test"
    kept = {key: value for key, value in INSTANCES.items() if key not in GRID}

    def run(instances, choice=None):
        split.run(
            manifest=tmp_path / "split" / "lot.json",
            convert=tmp_path / "convert" / "d-0000.json",
            predict=tmp_path / "predict" / "d-0000.json",
            tune=choice,
            settings={
                "lot": "d-0000",
                "samples": rows,
                "instances": instances,
                "target": "foreground",
                "storage": STORAGE,
            },
            code="c0de",
            threads=1,
        )
        return read_manifest(tmp_path / "split" / "lot.json")["samples"]

    tuned = run(kept, tmp_path / "tune" / "e" / "fold-0.json")
    root = tmp_path / "split" / tuned[1]["store"] / "zarr.json"
    written = root.stat().st_mtime_ns
    assert run(INSTANCES | found["chosen"]) == tuned
    assert root.stat().st_mtime_ns == written
    assert tuned[0]["threshold"] == found["chosen"]["threshold"]
    assert not math.isnan(found["score"])
    labels = np.asarray(open_volume(root.parent).array[...])
    how, maps = Splitting(**INSTANCES | found["chosen"]), blobs(2)[1]
    evidence = Evidence.read(maps[:, 0], "foreground")
    np.testing.assert_array_equal(labels[0], segment(evidence, how, SPACING[1:]))


@pytest.mark.parametrize("metric", ["f1", "seg", "dice", "rand"])
def test_voxels_nobody_annotated_count_in_no_score_that_is_tuned(metric):
    rng = np.random.default_rng(3)
    truth, found = rng.integers(0, 5, (2, 30, 30))
    found = np.where(rng.random(truth.shape) < 0.8, truth, found)
    truth[:, 20:] = 99
    tally = tally_instances(
        contingency(truth, found), iou_thresholds=[0.1], iou_match="at_least", ignored=99
    )
    expected = {one.metric: one.value for one in score(tally) if one.at in (None, 0.1)}
    aim = Aim(metric, (0.1,), "at_least")
    assert aim.score(aim.count([contingency(truth, found)], ignored=99)) == expected[metric]
    assert aim.score(aim.count([contingency(truth, found)])) != expected[metric]


@pytest.mark.parametrize(
    ("metric", "grid", "instances", "line"),
    [
        ("ap", GRID, {}, "a: 18 combinations in 0 s"),
        ("v_rand", {"threshold": [0.3, 0.6]}, {"method": "components"}, "a: 2 planes in 0 s"),
    ],
)
def test_it_tells_how_far_it_is(tmp_path, monkeypatch, caplog, metric, grid, instances, line):
    monkeypatch.setattr(pace, "FIRST", 0)
    caplog.set_level("INFO")
    Lots(tmp_path).add("a", *blobs(1)).run(grid, metric=metric, **instances)
    lines = [r.getMessage() for r in caplog.records if r.name == "gigaseg.pace"]
    assert sum(told.startswith(line[:-5]) for told in lines) == 1


@pytest.mark.parametrize("metric", ["ap", "seg"])
def test_a_mean_weighs_every_sample_alike(tmp_path, metric):
    # Many objects, few, and none: no score there, and no part in the mean.
    nothing = np.zeros((1, 40, 48), np.uint32), np.zeros((1, 1, 40, 48), np.uint8)
    samples = {"a": blobs(1, (6, 40, 48)), "b": blobs(2, (1, 40, 48)), "c": nothing}
    runs = [Lots(tmp_path / n).add(n, *samples[n]).run(GRID, metric=metric) for n in "ab"]
    alone = [[trial["score"] for trial in run["trials"]] for run in runs]
    lots = Lots(tmp_path / "all")
    for name, sample in samples.items():
        lots.add(name, *sample)
    found = lots.run(GRID, metric=metric, aggregation="mean")
    assert found["aim"]["aggregation"] == "mean"
    scores = [trial["score"] for trial in found["trials"]]
    assert scores == pytest.approx(np.mean(alone, axis=0))
    assert found["score"] == max(scores)
    pooled = lots.run(GRID, metric=metric)
    assert [trial["score"] for trial in pooled["trials"]] != pytest.approx(scores)
