"""The report of complete, partial, faulty and hostile results folders."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gigaseg import views
from gigaseg.ledger import canonical_json, read_manifest, write_manifest
from gigaseg.stages import report
from gigaseg.volumes import commit_image, commit_labels, create_array, write_pyramid

STORAGE = {"chunk": 64, "shard": 128, "smallest_level": 64}
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


def write_lots(root, experiment, entries, dataset="plates"):
    """Write the manifests of one lot for the stages up to evaluate."""
    for stage in ("convert", "weigh", "predict", "split", "evaluate"):
        folder = root / stage
        if stage not in ("convert", "weigh"):
            folder = folder / experiment / "fold-0"
        samples = []
        for item in entries:
            store = f"{dataset}/{item['sample']}.ome.zarr" if item["status"] == "done" else None
            facts = {"shape": [1, 1, 96, 96], "dtype": "uint8", "spacing": [1.0, 0.5, 0.5]}
            if item["status"] == "failed" and stage != "convert":
                message = f"convert failed: {item['message']}"
                item = item | {"status": "skipped", "message": message}
            samples.append({**facts, **item, "store": store})
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
    (folder / "model.json").write_text(
        json.dumps(
            {
                "architecture": {"depth": 4, "width": 16, "padding": "valid"},
                "parameters": 1941042,
                "device": "cpu",
                "scores": {"best": {"step": 1850}},
            }
        )
    )
    write_manifest(
        folder.parent / "fold-0.json",
        {"stage": "train", "experiment": experiment, "fold": 0, "train": ["a/b", "a/c"]},
    )


def score_rows(experiment, samples, seed=0, dataset="plates", split="test"):
    rng = np.random.default_rng(seed)
    rows = []
    metrics = [("seg", None, 0.8), ("dice", None, 0.92), ("adapted_rand_error", None, 0.08)]
    metrics += [("v_rand", None, 0.93), ("pixel_error", None, 0.02), ("warping_error", None, 2e-4)]
    metrics += [("f1", at, 0.95 - 2 * max(at - 0.7, 0)) for at in np.arange(50, 100, 5) / 100]
    metrics += [("v_rand", at, 0.93 - abs(at - 0.5) ** 2) for at in np.arange(10) / 10]
    for metric, at, centre in metrics:
        values = np.clip(centre + rng.normal(0, 0.06 * centre, len(samples)), 0, 1)
        for sample, value in zip(samples, values, strict=True):
            rows.append((sample, "sample", metric, at, float(value), 30))
        rows.append(("", "mean", metric, at, float(np.mean(values)), len(samples)))
        rows.append(("", "pooled", metric, at, float(np.mean(values)) - 0.01 * centre, 30))
    table = pd.DataFrame(rows, columns=["sample", "aggregation", "metric", "at", "value", "n"])
    table["at"] = table["at"].astype(float)
    return table.assign(experiment=experiment, fold=0, dataset=dataset, split=split)


def write_scores(root, *tables):
    (root / "evaluate").mkdir(parents=True, exist_ok=True)
    pd.concat(tables, ignore_index=True).to_parquet(root / "evaluate" / "scores.parquet")


def write_benchmarks(root):
    head = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    for stage, seconds in (("convert", 3.5), ("train", 312.25), ("predict", 40)):
        path = root / "benchmarks" / stage / "nuclei" / "fold-0.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{head}{seconds}\t0:00:03\t512.5\t-\t-\t-\t0\t0\t98\tNA\n")


def write_results(root, *, samples=3, size=96, experiments=("nuclei",), unscored=1, failed=True):
    """Write a whole results folder: scored samples, samples without truth, and a failed one."""
    for number, experiment in enumerate(experiments):
        entries = []
        for i in range(samples + unscored):
            name = f"plate_{i:02d}" if i < samples else f"unknown_{i}"
            labels = draw_cells((size, size), 24, seed=i)[None]
            write_sample(
                root, experiment, name, labels, truth=i < samples, seed=10 * number + i
            )
            entries.append(entry(name))
        if failed:
            message = "plate_99.tif is truncated: 100 of 200 bytes"
            entries.append(
                entry("plate_99") | {"status": "failed", "message": message, "fingerprint": None}
            )
        write_lots(root, experiment, entries)
        write_model(root, experiment, seed=number)
    names = [f"plate_{i:02d}" for i in range(samples)]
    write_scores(root, *(score_rows(e, names, seed=i) for i, e in enumerate(experiments)))
    write_benchmarks(root)
    return root
