"""The stages one after the other, as the plan of a run tells them, on small real files."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from gigaseg import pace, plan
from gigaseg.manifests import read_manifest
from gigaseg.stages import (
    audit_seams,
    convert,
    evaluate,
    predict,
    report,
    split,
    tabulate,
    train,
    verdict,
    view,
    weigh,
)
from gigaseg.volumes import open_volume

CONFIG = {
    "storage": {"chunk": 16, "shard": 32, "smallest_level": 32},
    "network": {"depth": 1, "width": 2, "dropout": 0.0},
    "training": {"steps": 3, "tile": 44, "validate_every": 3, "warmup_steps": 0, "threads": 1},
    "evaluation": {"iou_thresholds": [0.5], "thresholds": [0.5], "warping_radius": 2},
}
SPLITS = ("train", "validation", "test")


def cells(planes=1, size=50):
    """Draw square objects, some of them touching, that reach through all planes."""
    y, x = np.indices((size, size)) // 8
    ids = np.where((y + 2 * x) % 5 < 3, 1 + y * 99 + x, 0).astype("u2")
    return np.repeat(ids[None], planes, axis=0)


def picture(labels, seed=0):
    noise = np.random.default_rng(seed).integers(0, 50, labels.shape)
    return (np.where(labels > 0, 180, 40) + noise).astype("u1")


class Lab:
    """A folder of raw files, a sheet and settings; stages are run as the workflow runs them."""

    def __init__(self, folder):
        self.folder, self.rows, self.dataset, self.experiment = folder, [], {}, {}

    def add(self, sample, part, image, label=None):
        """Add a sample: arrays are written as TIFF files, names are taken as they are."""
        cells = []
        for kind, data in (("image", image), ("label", label)):
            if isinstance(data, np.ndarray):
                path = self.folder / f"{sample}-{kind}.tif"
                tifffile.imwrite(path, data, photometric="minisblack")
                data = f"{sample}-{kind}.tif"
            cells.append(data or "")
        self.rows.append((sample, "set", part, *cells))

    @property
    def plan(self):
        table = [("sample", "dataset", "split", "image", "label"), *self.rows]
        (self.folder / "samples.tsv").write_text("".join("\t".join(r) + "\n" for r in table))
        own = {
            "samples": str(self.folder / "samples.tsv"),
            "data_root": str(self.folder),
            "results": str(self.folder / "results"),
            "datasets": {"set": self.dataset},
            "experiments": {"one": {"datasets": ["set"], **self.experiment}},
        }
        return plan.load({**CONFIG, **own}, {})

    def run(self, *stages):
        """Run stages in order; all up to the table of scores by default."""
        jobs = self.plan
        for stage in stages or RUN:
            for path in jobs.manifests(stage):
                RUN[stage](jobs, Path(path))
        scores = self.folder / "results/evaluate/scores.json"
        if not stages:
            paths = [Path(path) for path in jobs.manifests("evaluate")]
            tabulate.run(manifest=scores, evaluate=paths, settings={}, code="", threads=1)
        return jobs

    def entries(self, stage, folder=""):
        path = self.folder / "results" / stage / folder / "set-0000.json"
        return {entry["sample"]: entry for entry in read_manifest(path)["samples"]}

    def scores(self):
        return pd.read_parquet(self.folder / "results/evaluate/scores.parquet")


MODEL = "one/fold-0"


def lot_job(stage, upstream):
    """Return the function that runs one job of a stage from the plan and its manifest."""

    def job(jobs, path):
        model = ("one", 0) if MODEL in str(path) else None
        before = {name: jobs.path(name, path.stem, ("one", 0)) for name in upstream}
        settings = json.loads(jobs.job(stage.__name__.rpartition(".")[2], path.stem, model))
        inputs = {name: Path(found) for name, found in before.items()}
        inputs |= {name: [inputs[name]] for name in ("train",) if name in inputs}
        threads = {} if stage is audit_seams else {"threads": 1}
        stage.run(manifest=path, settings=settings, code="", **threads, **inputs)

    return job


def train_job(jobs, path):
    weighed = [Path(found) for found in jobs.weighed("one", 0)]
    settings = json.loads(jobs.job("train", model=("one", 0)))
    train.run(manifest=path, weigh=weighed, settings=settings, code="", threads=1)


RUN = {
    "convert": lot_job(convert, ()),
    "weigh": lot_job(weigh, ("convert",)),
    "train": train_job,
    "predict": lot_job(predict, ("convert", "train")),
    "split": lot_job(split, ("convert", "predict")),
    "evaluate": lot_job(evaluate, ("convert", "predict", "split")),
    "audit_seams": lot_job(audit_seams, ("convert", "predict", "train")),
    "view": lot_job(view, ("convert", "predict", "split")),
}


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def add_good(lab, labels=None):
    """Add a sample for each split."""
    labels = cells() if labels is None else labels
    for k, part in enumerate(SPLITS):
        lab.add(part, part, picture(labels, k), labels)


# ----------------------------------------------------------------------------- kinds of experiments


@pytest.mark.parametrize(("channels", "count"), [("all", 3), ([2, 0], 2)])
def test_colour_images_are_learned_from_and_predicted(lab, channels, count):
    lab.dataset = {"channels": channels}
    for k, part in enumerate(SPLITS):
        colours = np.stack([picture(cells()[0], 10 * k + c) for c in range(3)], axis=-1)
        lab.add(part, part, f"{part}-image.tif", cells())
        tifffile.imwrite(lab.folder / f"{part}-image.tif", colours, photometric="rgb")
    lab.run()
    model = json.loads((lab.folder / "results/train/one/fold-0/model.json").read_text())
    assert model["architecture"]["in_channels"] == count
    entry = lab.entries("predict", MODEL)["test"]
    assert (entry["status"], entry["channels"]) == ("done", ["foreground"])
    table = pd.read_parquet(lab.folder / "results/split" / MODEL / "set/test.objects.parquet")
    assert [name for name in table if name.startswith("mean_")] == [
        f"mean_channel {c}" for c in range(count)
    ]
    assert set(lab.scores()["sample"]) == {"validation", "test", ""}


@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_interior_and_boundary_from_files_to_scores(lab, normalization):
    lab.experiment = {
        "target": "interior_boundary",
        "network": {"normalization": normalization, "padding": "same"},
        "training": {"tile": 32},
        "instances": {"level": "probability", "seeds": "probability", "seed_threshold": 0.4},
    }
    add_good(lab)
    lab.run()
    model = json.loads((lab.folder / "results/train/one/fold-0/model.json").read_text())
    assert model["classes"] == ["background", "interior", "boundary"]
    volume = open_volume(lab.folder / "results/predict" / MODEL / "set/test.ome.zarr")
    assert volume.array.shape == (2, 1, 50, 50)
    assert lab.entries("split", MODEL)["test"]["status"] == "done"
    scores = lab.scores()
    found = scores[(scores["sample"] == "test") & (scores["metric"] == "pixel_error")]
    assert np.isfinite(found["value"]).all()
    assert len(found)


def test_objects_in_space_are_one_problem_from_weights_to_scores(lab):
    lab.dataset = {"objects": "volume", "spacing": [2, 1, 1]}
    truth = cells(planes=3, size=48)
    add_good(lab, truth)
    jobs = lab.run("convert", "weigh", "train", "predict")
    assert lab.entries("convert")["test"]["instances"] == len(np.unique(truth)) - 1
    # Whatever the network has learned in 3 steps, perfect probabilities must give the truth.
    store = lab.folder / "results/predict" / MODEL / "set/test.ome.zarr"
    apart = truth.copy()
    for axis in (1, 2):
        apart[truth != np.roll(truth, 1, axis)] = 0  # a gap of 1 px, which split gives back
    zarr.open_array(store / "0", mode="r+")[0] = np.where(apart > 0, 255, 0)
    lab.run("split", "evaluate")
    labels = open_volume(lab.folder / "results/split" / MODEL / "set/test.ome.zarr").array[...]
    assert labels.max() == len(np.unique(truth)) - 1
    assert (labels == labels[0]).all()
    paths = [Path(path) for path in jobs.manifests("evaluate")]
    table = pd.read_parquet(paths[0].with_suffix(".parquet"))
    mine = table[(table["sample"] == "test") & (table["metric"] == "f1")]
    assert mine["value"].tolist() == [1.0]
    assert mine["n"].tolist() == [1]
    columns = pd.read_parquet(lab.folder / "results/split" / MODEL / "set/test.objects.parquet")
    assert (columns["volume_um3"] == 2 * columns["volume_px"]).all()


def test_every_stage_tells_how_far_it_is(lab, monkeypatch, caplog):
    monkeypatch.setattr(pace, "FIRST", 0)
    caplog.set_level("INFO")
    add_good(lab)
    told = {}
    for stage in RUN:
        caplog.clear()
        lab.run(stage)
        lines = [r.getMessage() for r in caplog.records if r.name == "gigaseg.pace"]
        told[stage] = " ".join(lines)
        assert all(re.search(r"\b\d+ (of \d+ )?[a-z]+\b", line) for line in lines)
    units = dict.fromkeys(("convert", "weigh", "predict", "split"), "blocks")
    units |= {"train": "steps", "evaluate": "pieces", "view": "panes"}
    units |= {"audit_seams": "samples"}  # each is one tile: there are no windows
    assert {stage for stage, unit in units.items() if unit not in told[stage]} == set()
    assert units.keys() == RUN.keys()


# --------------------------------------------------------------------------------------- small data


@pytest.mark.parametrize("size", [(2, 2), (2, 50), (3, 7)])
def test_images_smaller_than_any_tile_are_mirrored(lab, size):
    small = cells(size=50)[:, : size[0], : size[1]]
    for part in SPLITS:
        lab.add(part, part, picture(small), (small > 0).astype("u1"))
    lab.dataset = {"labels": "foreground"}
    lab.add("large", "train", picture(cells()), (cells() > 0).astype("u1"))
    lab.run()
    for stage in ("predict", "split", "evaluate"):
        entry = lab.entries(stage, MODEL)["test"]
        assert (entry["status"], entry["message"]) == ("done", None)
    volume = open_volume(lab.folder / "results/predict" / MODEL / "set/test.ome.zarr")
    assert volume.shape == (1, *size)


def test_empty_labels_among_others_are_learned_from_and_scored(lab):
    add_good(lab)
    for part in ("train", "test"):
        lab.add(f"empty-{part}", part, picture(cells()), np.zeros_like(cells()))
    lab.run()
    assert read_manifest(lab.folder / "results/train/one/fold-0.json")["train"] == [
        "set/train",
        "set/empty-train",
    ]
    assert lab.entries("evaluate", MODEL)["empty-test"]["status"] == "done"


@pytest.mark.parametrize(("labels", "value"), [("instances", 60000), ("foreground", 128)])
def test_what_nobody_annotated_is_neither_learned_nor_scored(lab, labels, value):
    truth = cells() if labels == "instances" else np.where(cells() > 0, 255, 0).astype("u2")
    sparse = truth.copy()
    sparse[:, 20:] = value
    add_good(lab, sparse)
    lab.dataset = {"labels": labels, "ignore_label": value}
    lab.run()
    known = 20 * truth.shape[2]
    facts = lab.entries("weigh")["train"]
    assert (facts["ignored"], sum(facts["counts"])) == (truth.size - known, known)
    assert lab.entries("evaluate", MODEL)["test"]["remarks"][0].startswith("60.0% of the voxels")
    table = lab.scores()
    mine = table[(table["sample"] == "test") & table["metric"].isin(["dice", "pixel_error"])]
    assert {sum(json.loads(counts).values()) for counts in mine["counts"] if "tp" in counts} == {
        known
    }


@pytest.mark.parametrize(("value", "missing"), [(0, "foreground"), (1, "background")])
def test_training_data_of_one_class_stop_with_its_name(lab, value, missing):
    lab.dataset = {"labels": "foreground"}
    for part in SPLITS:
        lab.add(part, part, picture(cells()), np.full_like(cells(), value))
    with pytest.raises(ValueError, match=f"the training samples have no {missing}"):
        lab.run()


# ------------------------------------------------------------------------------------------- faults


def faulty(kind):
    """Return an image and labels of which one is at fault; None if it is not their values."""
    image, labels = picture(cells()), cells()
    match kind:
        case "float":
            return image, labels + np.float32(0.5)
        case "negative":
            return image, labels.astype("i2") - 1
        case "large":
            return image, labels.astype("u8") * 2**60
        case "shape":
            return image, labels[:, :-3]
        case "line":
            return image[:, :1], labels[:, :1]
        case _:
            return None


FAULTS = {
    "float": ["labels must be whole numbers, but it holds", "save instance ids as"],
    "negative": ["labels must not be negative, but it holds -1", "number instances from 1"],
    "large": ["is too large for uint64 labels, the limit is", "number the instances from 1"],
    "shape": ["(1, 50, 50)", "(1, 47, 50)", "check the row of the sheet"],
    "line": ["1 x 50 px", "at least 2 px"],
    "truncated": ["truncated-image.tif is truncated", "of", "bytes", "copy it again"],
    "unsupported": ["(.czi)", "cannot be read", "bfconvert"],
}


def test_files_at_fault_are_named_with_what_to_do_and_the_others_are_finished(lab):
    add_good(lab)
    for kind in FAULTS:
        if (arrays := faulty(kind)) is not None:
            lab.add(kind, "test", *arrays)
    lab.add("truncated", "test", picture(cells(), 5))
    path = lab.folder / "truncated-image.tif"
    path.write_bytes(path.read_bytes()[:-500])
    (lab.folder / "film.czi").write_bytes(b"ZISRAWFILE")
    lab.add("unsupported", "test", "film.czi")
    jobs = lab.run()
    converted = lab.entries("convert")
    for kind, parts in FAULTS.items():
        assert converted[kind]["status"] == "failed"
        for part in parts:
            assert part in converted[kind]["message"], converted[kind]["message"]
    for stage in ("predict", "split", "evaluate"):
        statuses = {name: e["status"] for name, e in lab.entries(stage, MODEL).items()}
        assert statuses == {
            name: "skipped" if name in FAULTS else "done"
            for name in ("validation", "test", *FAULTS)
            if name in statuses
        }
    results = lab.folder / "results"
    page = results / "report/report.json"
    told = json.loads(jobs.report())
    report.run(manifest=page, settings=told, code="", threads=1, results=results)
    assert read_manifest(page)["failures"] == len(FAULTS)
    outcomes = [Path(path) for path in jobs.outcomes()]
    with pytest.raises(RuntimeError, match=f"^{len(FAULTS)} samples failed, all others") as error:
        verdict.run(manifest=results / "verdict.json", report=page, outcomes=outcomes)
    for kind in FAULTS:
        assert f"convert of set/{kind}: " in str(error.value)


@pytest.mark.parametrize(
    ("gone", "stage", "remade"),
    [
        ("convert/set/test.ome.zarr", "predict", "convert"),
        (f"predict/{MODEL}/set/test.ome.zarr", "split", "predict"),
        (f"split/{MODEL}/set/test.ome.zarr", "evaluate", "split"),
    ],
)
def test_a_store_deleted_by_hand_is_an_error_with_the_command(lab, gone, stage, remade):
    add_good(lab)
    lab.run()
    shutil.rmtree(lab.folder / "results" / gone)
    shutil.rmtree(lab.folder / "results" / stage / "one")
    lab.run(stage)
    entries = lab.entries(stage, MODEL)
    assert entries["validation"]["status"] == "done"
    assert entries["test"]["status"] == "failed"
    assert (
        f"{lab.folder / 'results' / gone} is missing: make it again" in entries["test"]["message"]
    )
    assert f"--forcerun {remade}`" in entries["test"]["message"]
    lab.run(remade, stage)
    assert lab.entries(stage, MODEL)["test"]["status"] == "done"


@pytest.mark.parametrize(
    ("gone", "stage", "remade"),
    [
        ("weigh/set/train.zarr", "train", "weigh"),
        ("convert/set/train.ome.zarr", "train", "convert"),
        ("train/one/fold-0", "predict", "train"),
    ],
)
def test_what_a_model_needs_deleted_by_hand_stops_with_the_command(lab, gone, stage, remade):
    add_good(lab)
    lab.run("convert", "weigh", "train")
    shutil.rmtree(lab.folder / "results" / gone)
    shutil.rmtree(lab.folder / "results" / "train" / "one" / "fold-0", ignore_errors=True)
    with pytest.raises(ValueError, match=f"is missing.*--forcerun {remade}"):
        lab.run(stage)
