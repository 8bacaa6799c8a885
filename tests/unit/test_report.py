"""The report of complete, partial, faulty and hostile results folders."""

import base64
import json
import re
import shutil
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from gigaseg import choices
from gigaseg.calibration import CalibrationCounts
from gigaseg.comparison import format_score, main_metric
from gigaseg.crossed import cross_thresholds
from gigaseg.fingerprints import digest as text_digest
from gigaseg.glossary import METRICS
from gigaseg.ledger import canonical_json
from gigaseg.manifests import read_manifest, write_manifest
from gigaseg.matching import CtcCounts, MatchCounts, PixelCounts
from gigaseg.modelcards import describe_models
from gigaseg.offsets import OffsetCounts
from gigaseg.outlook import amount
from gigaseg.pyramids import write_pyramid
from gigaseg.rand import RandCounts
from gigaseg.schema import read_schema
from gigaseg.scores import BEST, FAMILIES, Mean, encode, score
from gigaseg.scoretable import frame, records
from gigaseg.stages import report
from gigaseg.stages.tabulate import aggregate
from gigaseg.stages.train import VALIDATION_TILES
from gigaseg.standings import list_standings
from gigaseg.summaries import FOLDERS, Tuned, read_results
from gigaseg.volumes import commit_image, commit_labels, create_array
from gigaseg.warping import WarpingCounts

STORAGE = {"chunk": 64, "shard": 128, "smallest_level": 64}
RANKS = ("worst", "median", "best")
HOSTILE = "<script>alert(1)</script>"
SETTINGS = {
    "title": "Nuclei, autumn plates",
    "samples_per_experiment": 3,
    "config": {"evaluation": {"iou_match": "at_least"}, "report": {"title": "Nuclei"}},
}


# ------------------------------------------------------------------------- a made-up results folder


def draw_cells(shape, spacing, seed):
    """Draw round objects on a jittered grid; many touch. Returns labels of shape (y, x)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(shape)
    labels = np.zeros(shape, np.uint32)
    for y in range(spacing // 2, shape[0], spacing):
        for x in range(spacing // 2, shape[1], spacing):
            centre = np.array([y, x]) + rng.normal(0, spacing / 8, 2)
            radii = rng.uniform(0.35, 0.6, 2) * spacing
            window = np.s_[max(y - spacing, 0) : y + spacing, max(x - spacing, 0) : x + spacing]
            far = ((rows[window] - centre[0]) / radii[0]) ** 2
            far += ((columns[window] - centre[1]) / radii[1]) ** 2
            if rng.random() < 0.85:
                labels[window][(far < 1) & (labels[window] == 0)] = labels.max() + 1
    return labels


def spoil(truth, seed):
    """Split one object, merge two neighbours, lose one, invent one: a typical segmentation."""
    rng = np.random.default_rng(seed)
    labels = truth.copy()
    ids = rng.permutation(np.unique(truth)[1:])
    rows, columns = np.nonzero(truth == ids[0])
    labels[rows[columns > columns.mean()], columns[columns > columns.mean()]] = truth.max() + 1
    beside = truth[:, 1:][(truth[:, :-1] == ids[1]) & (truth[:, 1:] != ids[1])]
    neighbour = next((i for i in beside if i), ids[2])
    labels[truth == neighbour] = ids[1]
    labels[truth == ids[3]] = 0
    free = np.argwhere(truth == 0)
    y, x = free[rng.integers(len(free))]
    corner = labels[y : y + 6, x : x + 6]
    corner[corner == 0] = truth.max() + 2
    return labels


def write_levels(store, prefix, data, mode):
    folder = store / prefix
    create_array(store, f"{prefix}/0".lstrip("/"), data.shape, data.dtype, storage=STORAGE)[...] = (
        data
    )
    return folder, write_pyramid(store, prefix, mode=mode, storage=STORAGE)


def write_image(store, data, truth=None, names=("channel",)):
    _, levels = write_levels(store, "", data, "mean")
    if truth is not None:
        write_labels(store / "labels" / "truth", truth)
    commit_image(store, spacing=(1, 0.5, 0.5), levels=levels, channel_names=names, attributes={})


def write_labels(store, labels):
    _, levels = write_levels(store, "", labels, "nearest")
    commit_labels(store, spacing=(1, 0.5, 0.5), levels=levels, attributes={})


def entry(sample, split="test", dataset="plates", **facts):
    return {
        "sample": sample,
        "dataset": dataset,
        "split": split,
        "status": "done",
        "message": None,
        "fingerprint": f"{sample:0<64}".encode().hex()[:64],
        **facts,
    }


def write_sample(root, experiment, name, labels, *, truth, seed=0, dataset="plates"):
    """Write image, probabilities and instances of one sample; labels have shape (z, y, x)."""
    rng = np.random.default_rng(seed)
    image = np.where(labels > 0, 90, 20)[None] + rng.normal(0, 9, (1, *labels.shape))
    store = root / "convert" / dataset / f"{name}.ome.zarr"
    if not store.exists():
        write_image(store, image.clip(0, 255).astype(np.uint8), labels if truth else None)
    found = np.stack([spoil(plane, seed + z) for z, plane in enumerate(labels)])
    folder = Path(experiment) / "fold-0"
    noise = rng.normal(0, 12, (1, *labels.shape))
    probability = (np.where(found > 0, 225, 25)[None] + noise).clip(0, 255).astype(np.uint8)
    write_image(
        root / "predict" / folder / dataset / f"{name}.ome.zarr", probability, names=("foreground",)
    )
    write_labels(root / "split" / folder / dataset / f"{name}.ome.zarr", found)
    ids, area = np.unique(found[found > 0], return_counts=True)
    pd.DataFrame({"id": ids, "area_px": area, "area_um2": area / 4}).to_parquet(
        root / "split" / folder / dataset / f"{name}.objects.parquet"
    )


def proof(experiment, sample):
    """Return what predict, the audit of seams and split note of a sample."""
    return {
        "predict": {"digest": text_digest(["p", experiment, sample])},
        "split": {"digest": text_digest(["l", experiment, sample])},
        "audit_seams": {
            "windows": 2,
            "seams": {"block": 3, "tile": 1},
            "values": 1_200_000,
            "differing": 2,
            "steps": 1,
            "delta": 2.5e-7,
            "note": None,
        },
    }


def write_lots(root, experiment, entries, dataset="plates"):
    """Write the manifests of one lot for the stages up to evaluate."""
    for stage in ("convert", "weigh", "predict", "audit_seams", "split", "evaluate", "view"):
        folder = root / FOLDERS.get(stage, stage)
        if stage not in ("convert", "weigh"):
            folder = folder / experiment / "fold-0"
        samples = []
        for item in entries:
            store = f"{dataset}/{item['sample']}.ome.zarr" if item["status"] == "done" else None
            facts = {"shape": [1, 1, 96, 96], "dtype": "uint8", "spacing": [1.0, 0.5, 0.5]}
            if item["status"] == "failed" and stage != "convert":
                message = f"convert failed: {item['message']}"
                item = item | {"status": "skipped", "message": message}
            if item["status"] == "done":
                facts |= proof(experiment, item["sample"]).get(stage, {})
            samples.append({**facts, **item, "store": None if stage == "audit_seams" else store})
        lot = f"{dataset}-0000"
        folder.mkdir(parents=True, exist_ok=True)
        write_manifest(folder / f"{lot}.json", {"stage": stage, "lot": lot, "samples": samples})


def write_model(root, experiment, seed=0):
    folder = root / "train" / experiment / "fold-0"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    step = np.arange(1, 41) * 50
    loss = 0.6 * np.exp(-step / 500) + 0.08
    table = pd.DataFrame(
        {
            "step": step,
            "train_loss": loss + rng.normal(0, 0.02, 40),
            "validation_loss": loss + 0.03 + rng.normal(0, 0.008, 40),
            "validation_dice": 0.95 - 0.7 * np.exp(-step / 400),
            "learning_rate": 0.001,
        }
    )
    table.to_csv(folder / "metrics.csv", index=False)
    (folder / ".gigaseg").mkdir(exist_ok=True)
    notes = [{"event": "note", "resumed_after_step": step} for step in (300, 900)]
    text = "".join(json.dumps(note) + "\n" for note in [{"event": "start"}, *notes])
    (folder / ".gigaseg" / "attempts.jsonl").write_text(text)
    (folder / "model.json").write_text(
        json.dumps(
            {
                "architecture": {"depth": 4, "width": 16, "padding": "valid"},
                "parameters": 1941042,
                "device": "cpu",
                "scores": {"best": {"step": 1850}},
                "settings": {"training": {"steps": 2000, "batch": 1, "tile": 316, "ema": 0.999}},
                "stopped_early_after": 2000,
            }
        )
    )
    write_manifest(
        folder.parent / "fold-0.json",
        {"stage": "train", "experiment": experiment, "fold": 0, "train": ["a/b", "a/c"]},
    )


def describe_model(**changes):
    """Return what a model file says of a network."""
    training = {
        "steps": 100,
        "batch": 1,
        "tile": 92,
        "optimizer": "adamw",
        "learning_rate": 0.001,
        "seed": 7,
        "ema": 0.99,
        "patience": 4,
        "validate_every": 10,
        "class_balance": True,
        "separation": True,
        "augmentation": {
            "flips": True,
            "rotation": 180.0,
            "scale": 0.1,
            "elastic": {"spacing": 190.0, "sigma": 10.0},
            "blur": 0,
            "noise": 0.02,
        },
    }
    return {
        "architecture": {
            "in_channels": 1,
            "classes": 2,
            "depth": 2,
            "width": 8,
            "padding": "valid",
        },
        "channels": 1,
        "classes": ["background", "foreground"],
        "class_weights": [0.64551, 2.21804],
        "device": "cuda",
        "precision": "bfloat16",
        "hardware": ["NVIDIA A", "NVIDIA B"],
        "fingerprint": "f00d" * 16,
        "intensity": {"method": "percentile", "low": 1, "high": 99.8},
        "left_out": [{"sample": "em/c", "message": "truncated"}],
        "parameters": 28000,
        "samples": {
            "train": {"em/a": "a" * 64, "em/b": "b" * 64},
            "validation": {"em/v": "c" * 64},
        },
        "scores": {
            "best": {"step": 70, "loss": 0.25, "dice": None},
            "last": {"step": 90, "loss": 0.5, "dice": 0.875},
        },
        "settings": {"training": training | changes.pop("training", {})},
        "sha256": {"best": "5" * 64, "last": "6" * 64},
        "spacings": [[1, 0.25, 0.25]],
        "start_from": {"model": "0123456789abcdef", "weights": "9"},
        "stopped_early_after": 90,
    } | changes


def cards(folder, says, config=None):
    """Return a page with the card of one model that was brought, and where it lies."""
    root = write_results(folder, samples=1)
    kept = folder / "kept"
    kept.mkdir()
    (kept / "model.json").write_text(json.dumps(says))
    settings = {"models": {"brought": [str(kept / "model.json")]}, "config": config or {}}
    return make(root, settings)[0], kept / "model.json"


def test_cards_say_what_models_are_and_how_to_use_them(tmp_path):
    page, path = cards(tmp_path, describe_model())
    text = section(page, "models")
    assert f"model: {path}" in text
    assert "brought, not trained here" in text
    assert "the weights of model 0123456789ab" in text
    assert "20 px to each side" in text
    assert "em/a" in text
    assert "say whose images it was trained on" in text
    # Of a model of this run: what is known, where it lies, and its learning curve.
    assert f"model: {tmp_path}/train/nuclei/fold-0/model.json" in text
    assert "1,941,042" in text
    # Its table of trainings does not list what was not trained.
    assert "brought" not in section(page, "training")


def test_an_ensemble_that_is_brought_says_what_its_files_tell(tmp_path):
    root, files = write_results(tmp_path, samples=1), []
    for name in ("one.json", "other.json"):
        files.append(str(tmp_path / name))
        (tmp_path / name).write_text(json.dumps(describe_model()))
    page, _ = make(root, {"models": {"brought": files}})
    text = section(page, "models")
    assert "these 2 models. As far as their files tell, none has learned from a sample that" in text


def test_says_what_is_not_known_of_spacings_and_what_is_predicted_coarsely(tmp_path):
    root = write_results(tmp_path, samples=1)
    edit(root / "predict/nuclei/fold-0/plates-0000.json", lambda item: item.update(level=2))
    edit(root / "convert/plates-0000.json", lambda item: item.update(spacing_known=False))
    path = tmp_path / "model.json"
    path.write_text(json.dumps(describe_model(spacings=[None])))
    page, _ = make(root, {"models": {"brought": [str(path)]}})
    text = section(page, "models")
    assert text.count("2 samples were predicted from level 2 of the image's pyramid, 1 : 4 in") == 1
    assert "Voxel not known" in text
    assert "0.5 × 0.5" not in section(page, "data")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Learned from", "2 samples (2 of em)"),
        ("Watched on", "1 sample (1 of em)"),
        ("Left out", "1 sample, which failed in an earlier step"),
        ("Voxel", "1 × 0.25 × 0.25 µm (z × y × x)"),
        ("Intensity", "method percentile, low 1, high 99.8"),
        ("Classes", "background, foreground"),
        ("Network", "depth 2, width 8, padding valid"),
        ("Parameters", "28,000"),
        ("Training", "100 steps of 1 tile of 92 px, optimizer adamw, learning rate 0.001"),
        ("Seed", "7"),
        (
            "Augmentation",
            "mirror images, rotation by up to 180°, size ± 10%, elastic deformation of 10 px (SD) "
            "every 190 px, noise of up to 0.02",
        ),
        (
            "Loss",
            "cross-entropy, weighted by class balance (background 0.646, foreground 2.22) and "
            "separation of touching objects",
        ),
        ("Average of weights", "exponential (EMA), decay 0.99"),
        (
            "Early stopping",
            "after 4 validations, one every 10 steps, without a lower loss: at step 90",
        ),
        ("Predicted with", "best weights, of step 70: the lowest validation loss"),
        ("Device", "cuda, bfloat16"),
        ("Hardware", "NVIDIA A, then NVIDIA B"),
    ],
)
def test_a_card_has_a_row_for_each_fact(described, name, value):
    rows = re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", described)
    assert rows.count((name, value)) == 1, dict(rows).get(name)


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """Return the HTML of the card of `describe_model`."""
    config = {"experiments": {"brought": {"prediction": {"checkpoint": "best"}}}}
    page, _ = cards(tmp_path_factory.mktemp("card"), describe_model(), config)
    return page.html.split("brought, not trained here")[1].split("</article>")[0]


def test_a_card_has_scores_and_checksums(described):
    rows = re.findall("<tr>(.*?)</tr>", described)
    cells = [re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    assert cells == [
        ["Checkpoint", "Step", "validation loss", "Dice"],
        ["best", "70", "0.250", "–"],
        ["last", "90", "0.500", "0.875"],
    ]
    assert f"On at most {VALIDATION_TILES} tiles of the validation samples" in described
    sums = described.split("SHA-256 of the weights")[1]
    assert [name for name in ("best", "last") if name in sums] == ["best", "last"]
    assert "5" * 64 in sums
    assert "6" * 64 in sums


def test_a_card_links_to_scores_if_there_are_any(whole, described):
    assert '<a href="#scores">the scores</a> of nuclei' in whole[1].html
    assert "#scores" not in described


@pytest.mark.parametrize(
    ("changes", "checkpoint", "name", "value"),
    [
        ({}, "last", "Predicted with", "last weights, of step 90: where the training ended"),
        # Without validation the best are the last.
        (
            {"samples": {"train": {"em/a": "a"}, "validation": {}}},
            "best",
            "Predicted with",
            "best weights, of step 70: where the training ended",
        ),
        (
            {"training": {"class_balance": False, "separation": False}},
            "best",
            "Loss",
            "cross-entropy, not weighted",
        ),
        ({"training": {"ema": 0}}, "best", "Average of weights", "none"),
        ({"training": {"patience": 0}}, "best", "Early stopping", "off"),
        (
            {"stopped_early_after": None},
            "best",
            "Early stopping",
            "after 4 validations, one every 10 steps, without a lower loss: not reached",
        ),
        ({"left_out": []}, "best", "Left out", None),
        ({"settings": {}}, "best", "Loss", None),  # of an older version
    ],
)
def test_rows_of_a_card_follow_the_model(tmp_path, changes, checkpoint, name, value):
    path = tmp_path / "model.json"
    path.write_text(json.dumps(describe_model(**changes)))
    results = read_results(tmp_path, brought={"one": [str(path)]})
    [group] = describe_models(results, {"prediction": {"checkpoint": checkpoint}})
    assert dict(group["cards"][0]["facts"]).get(name) == value


def test_thresholds_are_chosen_on_the_other_folds(tmp_path):
    root = write_results(tmp_path, samples=1)
    peaks = {"0": 0.2, "1": 0.5, "2": 0.8}  # chosen on itself, each fold would have its own
    folds = [
        sample_rows(
            "nuclei", NAMES[k::3], seed=k, fold=str(k), split="validation", peak=peaks[str(k)]
        )
        for k in range(3)
    ]
    table = aggregate(pd.concat(folds))
    write_scores(root, table)
    [one] = cross_thresholds(table)
    assert (one["experiment"], one["folds"]) == ("nuclei", 3)
    found = {row["key"]["title"]: row for row in one["rows"]}
    # Oracle: these metrics are means over samples, so they can be read from the table.
    for title, metric, higher in (("V-Rand", "v_rand", 1), ("warping error", "warping_error", -1)):
        rows = table[(table["metric"] == metric) & (table["aggregation"] == "sample")]
        rows = rows[rows["at"].notna()]
        values, best, chosen = [], [], []
        for fold in "012":
            others = rows[rows["fold"] != fold].groupby("at")["value"].mean()
            own = rows[rows["fold"] == fold].groupby("at")["value"].mean()
            chosen.append((others * higher).idxmax())
            values.append(own[chosen[-1]])
            best.append(own[(own * higher).idxmax()])
        row = found[title]
        assert row["thresholds"] == chosen
        assert row["chosen"] == pytest.approx(np.mean(values))
        assert row["best"] == pytest.approx(np.mean(best))
        assert (row["best"] - row["chosen"]) * higher > 0
    page, _ = make(root)
    assert "Thresholds of the map, cross-validated: nuclei" in section(page, "scores")


def made_up_tally(quality, rng, peak=0.5):
    """Return counts of a sample whose scores lie around `quality`, its map best at `peak`."""
    good = np.clip(quality + rng.normal(0, 0.02, 40), 0, 1)
    hits = lambda q, n: {"tp": int(q * n), "fp": n - int(q * n), "fn": n - int(q * n)}  # noqa: E731
    tally = {
        ("ctc", None): CtcCounts(30, 30 * good[0], 1, 2, 3),
        ("foreground", None): PixelCounts(**hits(good[1], 4000), tn=5000),
        ("adapted_rand", None): RandCounts(10**12, 10**9, 10**9, int(good[2] * 10**9)),
    }
    for i, at in enumerate((0.5, 0.75, 0.9)):
        found = good[10 + i] - max(at - 0.7, 0)
        tally["matching", at] = MatchCounts(**hits(found, 30), sum_iou=25 * found)
    for i, at in enumerate((0.2, 0.5, 0.8)):
        tally["v_rand", at] = Mean.of(good[20 + i] - (at - peak) ** 2)
        tally["pixel", at] = PixelCounts(**hits(good[30 + i], 4000), tn=5000)
        off = int(100 * abs(at - peak))
        tally["warping", at] = WarpingCounts(area=10**6, split=int(100 * good[3]), merge=50 + off)
    return tally


def sample_rows(
    experiment, samples, seed=0, *, dataset="plates", split="test", quality=0.8, fold="0", peak=0.5
):
    """Return the scores of made-up samples; the seed decides the noise, not the level."""
    group = {"experiment": experiment, "fold": fold, "dataset": dataset, "split": split}
    hard = np.random.default_rng(99).normal(0, 0.05, len(samples))  # for every experiment
    return frame(
        row
        for number, name in enumerate(samples)
        for row in records(
            {**group, "aggregation": "sample", "sample": name},
            score(
                made_up_tally(quality + hard[number], np.random.default_rng([seed, number]), peak)
            ),
        )
    )


def score_rows(experiment, samples, seed=0, **more):
    """Return the whole table of scores of made-up samples."""
    return _score_rows(experiment, tuple(samples), seed, **more).copy()


@cache
def _score_rows(*arguments, **more):
    return aggregate(sample_rows(*arguments, **more))


def calibration_rows(experiment, samples, dataset="plates", split="test"):
    """Return pooled counts of a network that is a little too sure."""
    voxels = [1000 + 40 * abs(v - 128) for v in range(256)]
    inside = [int(n * min(max((v / 255 - 0.5) * 0.8 + 0.5, 0), 1)) for v, n in enumerate(voxels)]
    counts = CalibrationCounts(tuple(inside), tuple(voxels))
    row = {"sample": "", "aggregation": "pooled", "metric": "calibration_error", "at": np.nan}
    row |= {"value": counts.error, "n": len(samples), "family": "calibration"}
    row |= {"counts": encode(counts), "experiment": experiment, "fold": "0"}
    return pd.DataFrame([row | {"dataset": dataset, "split": split}])


def write_sizes(root, experiment, samples, lot="plates-0000"):
    """Write sizes as evaluate does: the prediction has more small objects."""
    rng = np.random.default_rng(0)
    rows = []
    for sample in samples:
        for side, shift in (("truth", 0), ("predicted", -0.4)):
            sizes = np.exp(rng.normal(5.5 + shift, 0.5, 60)).astype(int) + 1
            for measure, values in (("voxels", sizes), ("fill", rng.integers(600, 900, 60))):
                for value, count in zip(*np.unique(values, return_counts=True), strict=True):
                    rows.append((sample, side, measure, int(value), int(count)))
    columns = ["sample", "side", "measure", "value", "objects"]
    path = root / "evaluate" / experiment / "fold-0" / f"{lot}.sizes.parquet"
    pd.DataFrame(rows, columns=columns).to_parquet(path, index=False)


def write_forecast(root):
    jobs = {
        "convert/plates-0000.json": {"disk": 4e6, "memory": 5.4e8, "seconds": None},
        "predict/nuclei/fold-0/plates-0000.json": {"disk": 2e6, "memory": 9e8, "seconds": 31.0},
        "audit/nuclei/fold-0/plates-0000.json": {"disk": 0, "memory": 9e8, "seconds": 3.0},
        "split/bygone/fold-0/plates-0000.json": {"disk": 2e6, "memory": 9e8, "seconds": 31.0},
    }
    write_manifest(root / "benchmarks" / "forecast.json", {"jobs": jobs})


def write_scores(root, *tables):
    (root / "evaluate").mkdir(parents=True, exist_ok=True)
    pd.concat(tables, ignore_index=True).to_parquet(root / "evaluate" / "scores.parquet")


def write_benchmarks(root):
    head = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    lot = "nuclei/fold-0/plates-0000"
    jobs = {"convert/plates-0000": 3.5, "train/nuclei/fold-0": 312.25}
    jobs |= {f"predict/{lot}": 40, f"audit_seams/{lot}": 4}
    for job, seconds in jobs.items():
        path = root / "benchmarks" / f"{job}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{head}{seconds}\t0:00:03\t512.5\t-\t-\t-\t0\t0\t98\tNA\n")


def write_results(root, *, samples=3, size=96, experiments=("nuclei",), unscored=1, failed=True):
    """Write a whole results folder: scored samples, samples without truth, and a failed one."""
    for number, experiment in enumerate(experiments):
        entries = []
        for i in range(samples + unscored):
            name = f"plate_{i:02d}" if i < samples else f"unknown_{i}"
            labels = draw_cells((size, size), 24, seed=i)[None]
            write_sample(root, experiment, name, labels, truth=i < samples, seed=10 * number + i)
            entries.append(entry(name))
        if failed:
            message = "plate_99.tif is truncated: 100 of 200 bytes"
            entries.append(
                entry("plate_99") | {"status": "failed", "message": message, "fingerprint": None}
            )
        write_lots(root, experiment, entries)
        write_model(root, experiment, seed=number)
    names = [f"plate_{i:02d}" for i in range(samples)]
    for experiment in experiments:
        write_sizes(root, experiment, names)
    tables = [score_rows(e, names, seed=i) for i, e in enumerate(experiments)]
    write_scores(root, *tables, *(calibration_rows(e, names) for e in experiments))
    write_benchmarks(root)
    write_forecast(root)
    return root


# --------------------------------------------------------------------------------- reading the page


class Page(HTMLParser):
    """What a page holds: texts, scripts, addresses, and tags that were not closed."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, html):
        super().__init__()
        self.html, self.open, self.texts, self.addresses, self.scripts = html, [], [], [], 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "data") and v]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))


def make(root, settings=SETTINGS, threads=1):
    manifest = root / "report" / "report.json"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    report.run(manifest=manifest, settings=settings, code="c0de", threads=threads, results=root)
    page = Page((root / "report" / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    return page, read_manifest(manifest)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = write_results(tmp_path_factory.mktemp("whole"), experiments=("nuclei", "wide"))
    return root, *make(root)


def test_needs_nothing_from_outside(whole):
    _, page, _ = whole
    outside = [a for a in page.addresses if not a.startswith(("data:image/", "#"))]
    assert outside == []
    assert "@import" not in page.html
    assert "url(" not in page.html


def test_says_how_good_each_experiment_is(whole):
    root, page, manifest = whole
    scores = pd.read_parquet(root / "evaluate" / "scores.parquet")
    chosen = (scores["metric"] == "seg") & (scores["aggregation"] == "pooled")
    for row in scores[chosen].to_dict("records"):
        value, low, high = row["value"], row["low"], row["high"]
        assert low < value < high
        sentence = (
            f"On average, an object and its instance share {100 * value:.2g} % of what either "
            f"covers (SEG {value:.3f}, 95 % interval {low:.3f} to {high:.3f}), pooled over the 3 "
            "test samples of plates."
        )
        line = {"metric": "SEG", "sentence": sentence, "value": value, "low": low, "high": high}
        assert manifest["experiments"][row["experiment"]] == [line]
        assert sentence in page.text


def test_shows_what_ran(whole):
    _, page, _ = whole
    for text in ("5 test", "1 × 1 × 96 × 96", "uint8", "1 × 0.5 × 0.5", "5 min 12 s", "512 MB"):
        assert text in page.text
    assert "1,941,042" in page.text  # parameters of the model
    training = section(page, "training")
    assert "stopped early after step average of weights resumed after steps" in training
    assert "1850 2000 0.999 300, 900" in training
    assert '"iou_match": "at_least"' in page.text  # settings


def test_says_what_is_odd_about_samples(tmp_path):
    root = write_results(tmp_path, samples=2, unscored=1)
    remark = "the truth is empty: scores that need an object are not defined"
    path = root / "evaluate" / "nuclei" / "fold-0" / "plates-0000.json"
    edit(path, lambda item: item.update(remarks=[remark] if item["sample"] == "plate_01" else []))
    page, _ = make(root)
    told = section(page, "scores")
    assert "Samples to know about" in told
    assert told.count("plates/plate_01, nuclei: " + remark) == 1
    assert "plate_00" not in told.partition("Samples to know about")[2].partition("What the")[0]


@pytest.mark.parametrize(("second", "told"), [(-40, 1), (60, 0)])
def test_says_which_labels_lie_aside_over_all_samples_and_folds(tmp_path, second, told):
    root = write_results(tmp_path, samples=2)
    tables = [score_rows("nuclei", ["plate_00", "plate_01"])]
    for fold, y in (("0", -60), ("1", second)):
        counts = OffsetCounts(y=-y, yy=200, x=10, xx=200)
        row = {"sample": "", "aggregation": "pooled", "metric": "offset", "at": np.nan, "n": 2}
        row |= {"value": counts.length, "family": "offset", "counts": encode(counts)}
        row |= {"experiment": "nuclei", "fold": fold, "dataset": "plates", "split": "test"}
        tables.append(pd.DataFrame([row]))
    write_scores(root, *tables)
    scores = section(make(root)[0], "scores")
    text = "plates, test, nuclei: the truth lies 0.5 px above and 0.1 px left of the map"
    assert scores.count(text) == told
    assert scores.count("Labels that lie aside") == told


def test_samples_without_truth_have_pictures_and_sizes_and_no_scores(tmp_path):
    page, _ = make(write_results(tmp_path, samples=1, unscored=1))
    articles = (part.split("</article>")[0] for part in page.html.split("<article")[1:])
    (part,) = (part for part in articles if "unknown_1</h4>" in part)
    assert "no score" in part
    assert "median size" in part
    assert "data:image/" in part
    assert ">SEG" not in part
    assert "unknown_1" not in section(page, "samples")
    assert "Samples to know about" not in page.text


def section(page, name):
    """Return the text of a section, tags removed."""
    part = page.html.split(f'<section id="{name}">')[1].split("</section>")[0]
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", part))


def edit(path, change):
    """Change the entries of a lot's manifest."""
    content = read_manifest(path)
    for item in content["samples"]:
        change(item)
    write_manifest(path, content)


def test_proves_that_seams_and_blocks_changed_nothing(whole):
    _, page, _ = whole
    text = section(page, "proof")
    # Four samples of each experiment, each with 3 + 1 seams and 2 of 1.2 million values.
    assert (
        text.count("seamless 16 (12 of blocks, 4 of tiles) 8 of 4,800,000 by 1 step 2.5e-07") == 2
    )
    for experiment in ("nuclei", "wide"):
        for sample in ("plate_00", "unknown_3"):
            facts = proof(experiment, sample)
            for stage in ("predict", "split"):
                whole_digest = facts[stage]["digest"]
                assert f'data-copy="{whole_digest}"><code>{whole_digest[:12]}</code>' in page.html
    for word in ("seam", "digest", "audit"):
        assert f"<dt>{word}</dt>" in page.html
    assert "mixed hardware </" not in page.html


def test_the_digest_of_an_experiment_is_that_of_all_its_samples(tmp_path):
    def joint(folder, change=None):
        root = write_results(folder, samples=1, failed=False)
        if change:
            edit(root / "predict/nuclei/fold-0/plates-0000.json", change)
        return section(make(root)[0], "proof").split("2.5e-07 ")[1].split()[:2]

    first = joint(tmp_path / "a")
    assert joint(tmp_path / "b") == first
    other = joint(tmp_path / "c", lambda item: item.update(digest="0" * 64))
    assert other[0] != first[0]
    assert other[1] == first[1]


def test_marks_what_was_computed_on_mixed_hardware_and_seams_that_fail(tmp_path):
    root = write_results(tmp_path, samples=2, unscored=0, failed=False)
    mixed = {"comparable": False, "hardware": ["A100", "H100"]}
    edit(
        root / "predict/nuclei/fold-0/plates-0000.json",
        lambda item: item.update(mixed if item["sample"] == "plate_00" else {}),
    )
    known = ("sample", "dataset", "split")
    gone = {"status": "failed", "message": "it is not seamless", "store": None, "fingerprint": None}

    def spoil_one(item):
        kept = {key: item[key] for key in known}
        if item["sample"] == "plate_01":
            item.clear()
            item.update(kept | gone)

    edit(root / "audit/nuclei/fold-0/plates-0000.json", spoil_one)
    page, manifest = make(root)
    text = section(page, "proof")
    assert "nuclei 1 sample fails 4 (3 of blocks, 1 of tiles)" in text
    assert text.count("mixed hardware") == 3  # experiment, sample, glossary
    assert 'title="A100; H100">mixed hardware' in page.html
    assert manifest["failures"] == 1
    assert "it is not seamless" in section(page, "failures")


def test_samples_of_one_tile_have_no_seam_to_check(tmp_path):
    root = write_results(tmp_path, samples=1, unscored=0, failed=False)
    nothing = {"windows": 0, "seams": {"block": 0, "tile": 0}, "values": 0, "differing": 0}
    nothing |= {"steps": 0, "delta": None, "note": "no seam: one tile holds a plane"}
    edit(root / "audit/nuclei/fold-0/plates-0000.json", lambda item: item.update(nothing))
    text = section(make(root)[0], "proof")
    assert "nuclei none checked – – –" in text
    assert "no seam: one tile holds a plane" in text


def test_names_failures_with_stage_and_message(whole):
    _, page, manifest = whole
    assert "plate_99.tif is truncated: 100 of 200 bytes" in page.text
    assert "Left out of 11 later steps." in page.text
    assert manifest["failures"] == 1


def test_shows_best_median_and_worst_and_what_has_no_truth(whole):
    root, page, _ = whole
    scores = pd.read_parquet(root / "evaluate" / "scores.parquet")
    mine = scores[(scores["metric"] == "seg") & (scores["experiment"] == "wide")]
    order = mine[mine["aggregation"] == "sample"].sort_values("value")["sample"].tolist()
    gallery = page.text[page.text.index("wide on plates") :]
    places = [gallery.index(f"{rank} {s}") for rank, s in zip(RANKS, order, strict=True)]
    assert places == sorted(places, reverse=True)
    assert "no score unknown_3" in gallery
    assert page.html.count("<figcaption>Errors</figcaption>") == 6
    assert page.html.count("<figcaption>Truth</figcaption>") == 6
    assert page.html.count("<figcaption>Instances over the image</figcaption>") == 2


def test_repeats_byte_for_byte_and_whatever_the_threads(whole):
    root, page, manifest = whole
    assert (page.html, manifest) == ((again := make(root, threads=3))[0].html, again[1])


def test_manifest_is_canonical_and_without_times(whole):
    root, _, manifest = whole
    text = (root / "report" / "report.json").read_text()
    assert text == canonical_json(manifest, indent=1) + "\n"
    assert set(manifest) == {
        "stage", "samples", "report", "fingerprint", "experiments", "failures", "figures", "notes",
        "settings", "code",
    }  # fmt: skip


# ----------------------------------------------------------------------- strips, charts, settings


def strips(page):
    """Return the names of the samples that are shown small, by experiment and data set."""
    groups = re.findall(r'<details class="strips">(.*?)</details>', page.html, re.DOTALL)
    return [re.findall(r"<h5>(\S+) ", group) for group in groups]


def test_shows_every_sample_small_the_worst_first(whole):
    root, page, _ = whole
    scores = pd.read_parquet(root / "evaluate" / "scores.parquet")
    for experiment, names in zip(("nuclei", "wide"), strips(page), strict=True):
        mine = scores[(scores["metric"] == "seg") & (scores["experiment"] == experiment)]
        order = mine[mine["aggregation"] == "sample"].sort_values("value")["sample"].tolist()
        assert names == [*order, "unknown_3"]
    assert "left out" not in page.text


def test_samples_beyond_the_limit_are_left_out_and_counted(tmp_path):
    root = write_results(tmp_path, samples=3, failed=False)
    page, _ = make(root, SETTINGS | {"strips_per_experiment": 2})
    assert len(strips(page)[0]) == 2
    assert "2 more samples are left out to keep this page small" in page.text


def test_strips_beyond_their_share_of_the_page_are_left_out(tmp_path, monkeypatch):
    root = write_results(tmp_path, samples=3, failed=False)
    whole_size = len(make(root)[0].html)
    monkeypatch.setattr(report, "STRIPS", 12_000)
    page, _ = make(root)
    left_out = 4 - len(strips(page)[0])
    assert 0 < left_out < 4
    assert f"{left_out} more samples are left out" in page.text
    assert len(page.html) < whole_size
    shown = re.findall(r'<details class="strips">(.*?)</details>', page.html, re.DOTALL)[0]
    assert sum(map(len, re.findall(r'src="(.*?)"', shown))) <= 12_000


def test_charts_lie_beside_the_page(whole):
    root, page, manifest = whole
    folder = root / "report" / "figures"
    assert sorted(path.name for path in folder.iterdir()) == sorted(manifest["figures"])
    svgs = [a for a in page.addresses if a.startswith("data:image/svg+xml")]
    names = [name for name in manifest["figures"] if name.endswith(".svg")]
    assert len(svgs) == len(names) > 5
    drawn = {(folder / name).read_bytes() for name in names}
    assert drawn == {base64.b64decode(svg.partition(",")[2]) for svg in svgs}
    for name in ("learning-loss", "sizes-wide-plates", "calibration-nuclei-plates"):
        assert (folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_accuracy_is_shown_against_cost(tmp_path):
    for name, rows in {
        "nested": "1,100.5,0.25,0.3,0.8,0.1\n2,200,0.5,0.2,0.9,0.05",
        "plain": "2,150,,,,",
    }.items():
        write_model(tmp_path, name)
        table = f"depth,multiply_adds,seconds_per_mpx,loss,dice,error\n{rows}\n"
        (tmp_path / "train" / name / "fold-0" / "depths.csv").write_text(table)
    described = tmp_path / "train" / "plain" / "fold-0" / "model.json"
    said = {"chosen": ["depth 2, because of this", "batch 1, because of that"]}
    described.write_text(json.dumps(json.loads(described.read_text()) | said))
    page, manifest = make(tmp_path)
    assert (
        "Chosen for plain, fold 0: depth 2, because of this; batch 1, because of that" in page.html
    )
    assert any(name.startswith("costs-") for name in manifest["figures"])
    # Chart and table say on how much, and with which weights.
    text, tiles = (
        section(page, "training"),
        f"on at most {VALIDATION_TILES} tiles of the validation",
    )
    assert (
        f"{tiles} samples and with the best weights, even where prediction.checkpoint: last" in text
    )
    assert f"Loss, Dice and pixel error: of the best weights, {tiles} samples" in text
    assert "<td>nested</td><td>0</td><td>2</td>" in page.html
    for cell in ("100", "0.25", "0.9000", "–"):
        assert f'<td class="num">{cell}</td>' in page.html


def test_charts_of_earlier_pages_are_removed(tmp_path):
    write_model(tmp_path, "nuclei")
    make(tmp_path)
    old = tmp_path / "report" / "figures" / "learning-bygone.svg"
    old.write_text("<svg/>")
    _, manifest = make(tmp_path)
    assert not old.exists()
    assert "learning-loss.svg" in manifest["figures"]


def test_says_how_large_objects_are_in_truth_and_prediction(whole):
    root, page, _ = whole
    table = pd.read_parquet(root / "evaluate/nuclei/fold-0/plates-0000.sizes.parquet")
    text = section(page, "spreads")
    for side, name in (("truth", "truth"), ("predicted", "prediction")):
        mine = table[(table["side"] == side) & (table["measure"] == "voxels")]
        values = np.sort(np.repeat(mine["value"], mine["objects"]))
        middle = values[(len(values) - 1) // 2] / 4  # of 0.5 x 0.5 µm
        assert f"{name}: 180 objects, median area {middle:.3g} µm²" in text


def test_charts_write_no_formulas(whole):
    root, _, manifest = whole
    svgs = [name for name in manifest["figures"] if name.endswith(".svg")]
    assert not [n for n in svgs if "$" in (root / "report" / "figures" / n).read_text()]


def test_says_how_well_probabilities_are_calibrated(whole):
    root, page, _ = whole
    scores = pd.read_parquet(root / "evaluate" / "scores.parquet")
    [error] = scores.loc[scores["metric"] == "calibration_error", "value"].unique()
    text = section(page, "spreads")
    assert text.count(f"expected calibration error {error:.3f}") == 2


def test_tables_without_sizes_and_counts_show_no_empty_section(tmp_path):
    root = write_results(tmp_path, samples=1, failed=False)
    (root / "evaluate/nuclei/fold-0/plates-0000.sizes.parquet").unlink()
    write_scores(root, score_rows("nuclei", ["plate_00"]))
    page, _ = make(root)
    assert 'id="spreads"' not in page.html
    assert 'href="#spreads"' not in page.html


def test_shows_forecast_beside_actual(whole):
    root, page, _ = whole
    text = section(page, "run")
    files = (root / "predict/nuclei").rglob("*.ome.zarr/**/*")
    size = sum(file.stat().st_size for file in files if file.is_file())
    assert f"predict 1 31.0 s 40.0 s 858 MB 512 MB 2.0 MB {amount(size)}" in text
    assert "convert 1 – – 515 MB 512 MB 4.0 MB" in text
    assert "audit_seams 1 3.0 s 4.0 s 858 MB 512 MB – –" in text
    assert "split" not in text.split("Forecast and actual")[1]  # of another run


def test_says_that_no_forecast_was_kept(tmp_path):
    page, _ = make(tmp_path)
    assert "No forecast was kept of this run" in page.text


def test_shows_first_what_differs_from_the_defaults(tmp_path):
    changed = [{"setting": "network.depth", "value": 3, "default": 4}]
    page, _ = make(tmp_path, SETTINGS | {"changes": changed})
    text = section(page, "settings")
    assert "network.depth 3 4" in text
    assert text.index("network.depth") < text.index("All settings")
    assert "Every setting has its default" in section(
        make(tmp_path, SETTINGS | {"changes": []})[0], "settings"
    )


def test_objects_in_space_are_shown_by_sections(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.stack([draw_cells((96, 96), 24, seed=0)] * 5)
    write_sample(tmp_path, "nuclei", "stack", labels, truth=True, seed=int(rng.integers(9)))
    write_lots(tmp_path, "nuclei", [entry("stack")])
    config = {"datasets": {"plates": {"objects": "volume"}}}
    page, _ = make(tmp_path, {"title": "t", "config": config})
    assert "sections through the place where" in page.text
    assert "planes 0 to 4" in page.text


# ------------------------------------------------------------------------------- unfinished results


def test_empty_folder_gives_a_page_that_says_so(tmp_path):
    page, manifest = make(tmp_path)
    assert "No experiment has results yet." in page.text
    assert "The stage train has no results yet." in page.text
    assert manifest["experiments"] == {}
    assert len(manifest["notes"]) == 9


def test_partial_folder_shows_what_there_is(tmp_path):
    write_model(tmp_path, "nuclei")
    page, manifest = make(tmp_path)
    assert "Learning curves" in page.text
    assert "No sample has been segmented yet." in page.text
    assert manifest["experiments"] == {"nuclei": []}


def test_what_earlier_runs_left_is_not_shown(tmp_path):
    root = write_results(tmp_path, samples=1, experiments=("bygone", "wide"), unscored=0)
    write_scores(root, score_rows("wide", ["plate_00"]))
    shutil.copytree(root / "train" / "wide", root / "train" / "wider")
    shutil.copy(root / "train/wide/fold-0.json", root / "train/wide/fold-7.json")
    shutil.copy(root / "convert/plates-0000.json", root / "convert/bygone-0000.json")
    lots = [f"{stage}/plates-0000.json" for stage in ("convert", "weigh")]
    folders = ("predict", "audit", "split", "evaluate")
    lots += [f"{folder}/wide/fold-0/plates-0000.json" for folder in folders]
    own = ["train/wide/fold-0.json", *lots]
    page, manifest = make(root, SETTINGS | {"manifests": own})
    assert list(manifest["experiments"]) == ["wide"]
    assert manifest["failures"] == 1
    assert manifest["notes"] == []
    assert "bygone" not in page.text
    assert "wider" not in page.text
    assert "fold 7" not in page.text
    assert "5 min 12 s" not in page.text  # of a training that is not among them


def test_manifest_that_is_none_is_noted(tmp_path):
    (tmp_path / "convert").mkdir()
    (tmp_path / "convert" / "plates-0000.json").write_text('{"stage": "conv')
    page, _ = make(tmp_path)
    assert "A manifest could not be read and was left out" in page.text


def test_store_that_is_gone_is_said_in_its_place(tmp_path):
    write_lots(tmp_path, "nuclei", [entry("plate_00")])
    page, _ = make(tmp_path)
    assert "is missing: make it again with `snakemake" in page.text


def test_scores_that_are_not_defined(tmp_path):
    table = score_rows("nuclei", ["plate_00", "plate_01", "plate_02"])
    write_scores(tmp_path, table.assign(value=np.nan))
    labels = draw_cells((96, 96), 24, seed=0)[None]
    write_sample(tmp_path, "nuclei", "plate_00", labels, truth=True)
    write_lots(tmp_path, "nuclei", [entry("plate_00")])
    page, manifest = make(tmp_path)
    assert manifest["experiments"] == {"nuclei": []}
    assert "nan" not in page.text.lower().replace("finance", "")
    assert "only sample plate_00" in page.text


def test_table_of_scores_without_rows(tmp_path):
    write_scores(tmp_path, score_rows("nuclei", ["a"]).iloc[:0])
    page, _ = make(tmp_path)
    assert "No sample with known truth has been evaluated" in page.text


def test_no_object_at_all(tmp_path):
    empty = np.zeros((1, 64, 80), np.uint32)
    store = tmp_path / "convert" / "plates" / "blank.ome.zarr"
    write_image(store, np.zeros((1, 1, 64, 80), np.uint16), empty)
    for stage in ("predict", "split"):
        target = tmp_path / stage / "nuclei" / "fold-0" / "plates" / "blank.ome.zarr"
        if stage == "predict":
            write_image(target, np.zeros((1, 1, 64, 80), np.uint8), names=("foreground",))
        else:
            write_labels(target, empty)
    write_lots(tmp_path, "nuclei", [entry("blank")])
    page, _ = make(tmp_path)
    assert "<figcaption>Errors</figcaption>" in page.html


# ------------------------------------------------------------------------------------ hostile input


def test_every_given_string_is_escaped(tmp_path):
    hostile = HOSTILE.replace("/", "")  # it is part of paths, too
    labels = draw_cells((96, 96), 24, seed=0)[None]
    write_sample(tmp_path, "nuclei", hostile, labels, truth=True, dataset="plates")
    failed = {"status": "failed", "message": HOSTILE, "split": HOSTILE, "fingerprint": HOSTILE}
    write_lots(tmp_path, "nuclei", [entry(hostile), entry("bad") | failed])
    write_lots(tmp_path, hostile, [entry("bad", dataset=hostile) | failed], dataset="other")
    write_model(tmp_path, hostile)
    names = [hostile, "b", "c"]
    write_scores(tmp_path, score_rows(hostile, names, dataset=HOSTILE, split=HOSTILE))
    page, _ = make(tmp_path, {"title": HOSTILE, HOSTILE: HOSTILE, "samples_per_experiment": 3})
    assert page.scripts == 1
    assert page.text.count("alert(1)") > 10
    svgs = [a for a in page.addresses if a.startswith("data:image/svg+xml")]
    assert svgs
    for svg in svgs:
        assert b"<script" not in base64.b64decode(svg.partition(",")[2])


def test_names_that_matplotlib_would_interpret(tmp_path):
    write_model(tmp_path, "_hidden")
    write_model(tmp_path, "$x^2")
    page, _ = make(tmp_path)
    svg = next(a for a in page.addresses if a.startswith("data:image/svg+xml"))
    drawing = base64.b64decode(svg.partition(",")[2]).decode()
    assert "_hidden" in drawing
    assert "$x^2" in drawing


# -------------------------------------------------------------------------- which samples are shown


@pytest.mark.parametrize(
    ("wanted", "ranks"),
    [
        (1, ["worst"]),
        (2, ["best", "worst"]),
        (3, ["best", "median", "worst"]),
        (4, ["rank 1 of 4", "rank 2 of 4", "rank 3 of 4", "rank 4 of 4"]),
    ],
)
def test_number_of_samples_shown_is_a_setting(tmp_path, wanted, ranks):
    names = list("abcd")
    write_lots(tmp_path, "nuclei", [entry(name) for name in names])
    write_scores(tmp_path, score_rows("nuclei", names))
    results = report.read_results(tmp_path)
    [(group, choices)] = report.choose_samples(results, wanted, {})
    assert group == ("nuclei", "plates")
    assert [choice.rank for choice in choices] == ranks


def test_undefined_scores_rank_last(tmp_path):
    write_lots(tmp_path, "nuclei", [entry(name) for name in "abc"])
    table = score_rows("nuclei", list("abc"))
    table.loc[table["sample"] == "b", "value"] = np.nan
    write_scores(tmp_path, table)
    [(_, choices)] = report.choose_samples(report.read_results(tmp_path), 3, {})
    assert choices[-1].record.sample == "b"


def test_every_metric_of_the_evaluation_is_explained():
    known = {name for family in FAMILIES.values() for name in family.metrics} | set(BEST)
    assert known | {"mean_ap"} == set(METRICS)


@pytest.mark.parametrize(("labels", "main"), [("instances", "seg"), ("boundary", "v_rand")])
def test_main_metric_follows_what_the_labels_hold(labels, main):
    assert main_metric(score_rows("em", ["a", "b"]), labels) == (main, None)


# ---------------------------------------------------------- which differences are more than chance


def marks(table, metric="seg", kind="pooled"):
    [standings] = list_standings(table)
    cells = next(cells for (name, _), cells in standings.rows if name == metric)
    return {name: cell.mark for (name, aggregation), cell in cells.items() if aggregation == kind}


def test_a_stage_that_is_no_part_of_the_run_is_not_missing(tmp_path):
    root = write_results(tmp_path, samples=1, unscored=0)
    shutil.rmtree(root / "view")
    shown = [path.relative_to(root).as_posix() for path in root.glob("*/**/*.json")]
    assert read_results(root, shown).notes == []
    shown.append("view/nuclei/fold-0/plates-0000.json")
    assert read_results(root, shown).notes == ["The stage view has no results yet."]


NAMES = [f"s{i}" for i in range(12)]


@pytest.mark.parametrize(
    ("qualities", "expected"),
    [
        ({"one": 0.70, "two": 0.80}, {"one": "", "two": "best"}),
        ({"one": 0.80, "two": 0.801}, {"one": "tied", "two": "tied"}),
        ({"one": 0.80, "two": 0.801, "three": 0.6}, {"one": "tied", "two": "tied", "three": ""}),
    ],
)
@pytest.mark.parametrize("kind", ["pooled", "mean"])
def test_the_best_is_marked_only_if_it_is_told_apart(qualities, expected, kind):
    tables = [score_rows(e, NAMES, i, quality=q) for i, (e, q) in enumerate(qualities.items(), 3)]
    assert marks(pd.concat(tables), kind=kind) == expected


def test_pairing_tells_apart_what_intervals_alone_do_not():
    """Samples differ by far more than the experiments, but alike in both."""
    table = pd.concat([score_rows("a", NAMES, 1, quality=0.76), score_rows("b", NAMES, 2)])
    [standings] = list_standings(table)
    a, b = (dict(standings.rows)["dice", None][name, "mean"] for name in "ab")
    assert a.high > b.low
    assert b.mark == "best"


def test_direction_of_better_is_the_metrics_own():
    table = pd.concat([score_rows("a", NAMES, quality=0.7), score_rows("b", NAMES, quality=0.8)])
    assert marks(table, "adapted_rand_error") == {"a": "", "b": "best"}
    assert marks(table, "splits_and_mergers") == {"a": "best", "b": ""}


def test_with_two_samples_nothing_is_marked_and_no_interval_given():
    table = pd.concat([score_rows("a", ["x", "y"], quality=0.5), score_rows("b", ["x", "y"])])
    assert set(marks(table).values()) == {""}
    [standings] = list_standings(table)
    assert all(np.isnan(cell.low) for _, cells in standings.rows for cell in cells.values())
    assert {pair.verdict for pair in standings.pairs} == {"not tested: it takes 3 samples", "equal"}


def test_pairs_count_the_samples_that_are_better():
    table = pd.concat(
        [score_rows("a", NAMES, 1), score_rows("b", NAMES, 2), score_rows("c", ["x"])]
    )
    [standings] = list_standings(table)
    values = {
        (r["experiment"], r["sample"]): r["value"]
        for r in table[(table["metric"] == "seg") & (table["sample"] != "")].to_dict("records")
    }
    better = sum(values["b", name] > values["a", name] for name in NAMES)
    pairs = {(p.first, p.second, p.metric, p.aggregation): p for p in standings.pairs}
    pair = pairs["a", "b", "seg", "pooled"]
    assert (pair.better, pair.worse, pair.equal) == (better, 12 - better, 0)
    assert pair.difference.samples == 12
    # Without a sample in common there is nothing to compare.
    assert not [p for p in standings.pairs if "c" in (p.first, p.second)]


def test_an_experiment_of_several_folds_is_their_mean_with_its_spread():
    folds = [sample_rows("one", NAMES, seed=k, fold=str(k)) for k in range(3)]
    table = aggregate(pd.concat(folds))
    [standings] = list_standings(table)
    cell = dict(standings.rows)["seg", None]["one", "pooled"]
    each = table[(table["metric"] == "seg") & (table["aggregation"] == "pooled")]["value"]
    assert (cell.folds, cell.samples) == (3, 12)
    assert cell.value == pytest.approx(each.mean())
    assert cell.sd == pytest.approx(each.std())
    assert cell.low < cell.value < cell.high


# ------------------------------------------------------------------------------- published figures


def with_datasets(**facts):
    return SETTINGS | {"config": SETTINGS["config"] | {"datasets": {"plates": facts}}}


def test_published_figures_are_a_row_of_their_own(tmp_path):
    write_scores(tmp_path, score_rows("nuclei", NAMES))
    quote = {"source": "A & B 2015", "url": "https://doi.org/10.1/x", "note": "on <other> slices."}
    figures = [
        {**quote, "metric": "seg", "value": 0.654321},
        {"source": "A & B 2015", "metric": "rand", "value": 0.9618},
    ]
    page, _ = make(tmp_path, with_datasets(published=figures))
    row = page.html.split('<tr class="quoted">')[1].split("</tr>")[0]
    assert "A &amp; B 2015" in row
    assert "0.654" in row
    assert "0.962" in row  # a metric that was not measured here
    assert "SEG: on &lt;other&gt; slices." in page.html
    table = pd.read_csv(tmp_path / "report/tables/experiments.csv")
    assert table.loc[table["quoted"].notna(), "value"].tolist() == [0.654321, 0.9618]
    assert set(table.loc[table["quoted"].isna(), "experiment"]) == {"nuclei"}


def test_every_metric_that_can_be_quoted_is_one_of_ours():
    schema = read_schema("config")["$defs"]["dataset"]["properties"]["published"]["items"]
    assert set(schema["properties"]["metric"]["enum"]) == set(METRICS)


# ---------------------------------------------------------------------------------- an earlier run


def against(folder):
    evaluation = SETTINGS["config"]["evaluation"] | {"baseline": str(folder)}
    return SETTINGS | {"config": SETTINGS["config"] | {"evaluation": evaluation}}


def test_compares_with_an_earlier_run(tmp_path):
    now, then = tmp_path / "now", tmp_path / "then"
    write_scores(now, score_rows("nuclei", NAMES), score_rows("new", NAMES))
    write_scores(then, score_rows("nuclei", NAMES[2:], quality=0.7), score_rows("old", NAMES))
    before = {path: path.stat().st_mtime_ns for path in then.rglob("*")}
    page, _ = make(now, against(then))
    assert {path: path.stat().st_mtime_ns for path in then.rglob("*")} == before
    text = section(page, "baseline")
    assert "Only in this run: new." in text
    assert "Only in the earlier run: old." in text
    assert "10 samples in both runs." in text
    rows = pd.read_csv(now / "report/tables/baseline.csv")
    seg = rows[(rows["metric"] == "seg") & (rows["aggregation"] == "pooled")].iloc[0]
    assert (seg["first"], seg["second"], seg["verdict"], seg["samples"]) == (
        "then",
        "now",
        "better",
        10,
    )
    assert seg["low"] < seg["difference"] < seg["high"]
    assert seg["difference"] == pytest.approx(seg["second_value"] - seg["first_value"])
    changes = pd.read_csv(now / "report/tables/changes.csv")
    assert changes["change"].abs().is_monotonic_decreasing
    assert set(changes["sample"]) <= set(NAMES[2:])
    assert "Samples that changed most" in text
    assert changes["sample"][0] in text


def test_against_itself_nothing_changed(tmp_path):
    for folder in ("now", "then"):
        write_scores(tmp_path / folder, score_rows("nuclei", NAMES))
    page, _ = make(tmp_path / "now", against(tmp_path / "then"))
    assert "No sample changed." in section(page, "baseline")
    rows = pd.read_csv(tmp_path / "now/report/tables/baseline.csv")
    assert set(rows["verdict"]) == {"equal"}
    assert pd.read_csv(tmp_path / "now/report/tables/changes.csv").empty


def test_tables_without_intervals_of_an_older_version_are_understood(tmp_path):
    write_scores(tmp_path / "now", score_rows("nuclei", NAMES))
    old = sample_rows("nuclei", NAMES, quality=0.7).astype({"fold": "int64"})
    write_scores(tmp_path / "then", old.drop(columns=["plane", "low", "high", "sd"]))
    make(tmp_path / "now", against(tmp_path / "then"))
    rows = pd.read_csv(tmp_path / "now/report/tables/baseline.csv")
    assert set(rows.loc[rows["metric"] == "dice", "verdict"]) == {"better"}


def test_an_earlier_run_that_is_gone_is_said_so(tmp_path):
    write_scores(tmp_path / "now", score_rows("nuclei", NAMES))
    page, _ = make(tmp_path / "now", against(tmp_path / "gone"))
    assert "is not there any more" in section(page, "baseline")
    assert pd.read_csv(tmp_path / "now/report/tables/baseline.csv").empty


def test_an_earlier_run_of_other_experiments_is_said_so(tmp_path):
    write_scores(tmp_path / "now", score_rows("nuclei", NAMES))
    write_scores(tmp_path / "then", score_rows("old", NAMES))
    page, _ = make(tmp_path / "now", against(tmp_path / "then"))
    assert "no experiment in common" in section(page, "baseline")


def test_without_an_earlier_run_there_is_no_such_section(whole):
    root, page, _ = whole
    assert 'id="baseline"' not in page.html
    for name in ("baseline", "changes"):
        assert pd.read_csv(root / f"report/tables/{name}.csv").empty


def test_the_table_of_differences_holds_what_the_page_says(whole):
    root, page, _ = whole
    table = pd.read_csv(root / "report/tables/differences.csv")
    row = table[(table["metric"] == "seg") & (table["aggregation"] == "pooled")].iloc[0]
    assert format_score(abs(row["difference"])) in section(page, "scores")
    assert row["verdict"] in section(page, "scores")


# ------------------------------------------------------------------------------------------- tuning


def write_choice(root, experiment, trials, *, metric="ap", fold=0, better=max, cross_score=None):
    """Write the manifest of tune: trials are (values, score), the first best is chosen."""
    best = better((t for t in trials if t[1] is not None), key=lambda trial: trial[1])
    entries = [entry("plate_00", "validation"), entry("plate_01", "validation")]
    lost = {"status": "failed", "message": "of another shape", "fingerprint": None}
    content = {
        "stage": "tune",
        "samples": [*entries, entry("plate_02", "validation") | lost],
        "aim": {
            "metric": metric,
            "iou_thresholds": [0.5, 0.75],
            "iou_match": "at_least",
            "aggregation": "pooled",
        },
        "chosen": best[0],
        "score": best[1],
        "cross_score": cross_score,
        "trials": [{"values": values, "score": score} for values, score in trials],
    }
    folder = root / "tune" / experiment
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder / f"fold-{fold}.json", content)


TRIALS = [
    (
        {"threshold": t, "h": h},
        None if (t, h) == (0.9, 3) else round(0.9 - abs(t - 0.7) - h / 99, 4),
    )
    for t in (0.5, 0.7, 0.9)
    for h in (1, 2, 3)
]


def test_says_what_was_tuned_on_what(tmp_path):
    root = write_results(tmp_path, samples=2, experiments=("nuclei", "wide"))
    write_choice(root, "nuclei", TRIALS, cross_score=0.61)
    names = ["plate_00", "plate_01"]
    splits = [
        score_rows(e, names, split=split)
        for e in ("nuclei", "wide")
        for split in ("test", "validation")
    ]
    write_scores(root, *splits)
    page, manifest = make(root)
    text = section(page, "tuning")
    assert "threshold 0.7 , h 1" in text
    assert "scored on the others, each in its turn: 0.610." in text
    assert "for the best AP, mean over IoU 0.5 to 0.75, 0.890, pooled over 2 validation" in text
    assert "; 1 more could not be scored" in text
    assert "h 1 is the smallest that was tried: the best may lie beyond." in text
    assert "threshold 0.7 is" not in text
    assert "9 combinations, and the samples" in text
    assert "Tuned on plates/plate_00, plates/plate_01." in text
    assert text.count("chosen") == 2
    scores = section(page, "scores")
    flattered = "The instances of nuclei were tuned on these samples, so these scores flatter"
    assert scores.count(flattered) == 1
    assert scores.count("The instances of nuclei were tuned on validation samples, never on") == 1
    assert "never on these" in manifest["experiments"]["nuclei"][0]["sentence"]
    assert "tuned" not in manifest["experiments"]["wide"][0]["sentence"]
    assert "plate_02 plates tune nuclei, fold 0 of another shape" in section(page, "failures")


def test_a_headline_of_validation_samples_says_that_they_were_tuned_on(tmp_path):
    root = write_results(tmp_path, samples=2, failed=False)
    write_choice(root, "nuclei", [({"threshold": 0.5}, 0.8)], metric="dice")
    write_scores(root, score_rows("nuclei", ["plate_00", "plate_01"], split="validation"))
    page, manifest = make(root)
    sentence = manifest["experiments"]["nuclei"][0]["sentence"]
    assert sentence.endswith("so these scores flatter: expect less on new ones.")
    assert "for the best Dice, 0.800" in section(page, "tuning")


def test_of_a_score_that_is_better_if_lower_the_lowest_is_the_best(tmp_path):
    root = write_results(tmp_path, samples=2, failed=False)
    trials = [({"threshold": 0.3}, 0.02), ({"threshold": 0.5}, 0.01), ({"threshold": 0.7}, None)]
    write_choice(root, "nuclei", trials, metric="splits_and_mergers", better=min)
    page, _ = make(root)
    text = section(page, "tuning")
    assert "threshold 0.5 , for the best splits and mergers, 0.010, pooled over" in text
    [described] = choices.describe_choices(read_results(root).tuned)
    assert described["charts"]
    rows = [(row["values"], row["score"], row["chosen"]) for row in described["rows"]]
    assert rows == [([0.3], 0.02, False), ([0.5], 0.01, True), ([0.7], None, False)]


@pytest.mark.parametrize(
    ("metric", "kept"), [("dice", [0.5, 0.7, 0.9]), ("splits_and_mergers", [0.3, 0.5, 0.8])]
)
def test_of_many_combinations_the_best_are_listed(monkeypatch, metric, kept):
    monkeypatch.setattr(choices, "MAXIMUM_TRIALS", 3)
    values = {0.3: 0.2, 0.5: 0.3, 0.6: None, 0.7: 0.5, 0.8: 0.1, 0.9: 0.4}
    best = {"dice": 0.7, "splits_and_mergers": 0.8}[metric]
    trials = [{"values": {"threshold": t}, "score": score} for t, score in values.items()]
    manifest = {
        "aim": {"metric": metric, "aggregation": "pooled"},
        "chosen": {"threshold": best},
        "score": values[best],
        "cross_score": None,
        "trials": trials,
        "samples": [],
    }
    [described] = choices.describe_choices([Tuned("e", "0", manifest)])
    assert [row["values"] for row in described["rows"]] == [[t] for t in kept]
    assert described["left_out"] == 3


def test_without_tuning_there_is_no_word_of_it(whole):
    _, page, _ = whole
    assert 'id="tuning"' not in page.html
    assert "tuned" not in page.text
