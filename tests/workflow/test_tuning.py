"""Tuning in real runs: what an edit repeats, and what it must leave alone."""

import json
import re

import pytest

TUNE = "instances: {threshold: 0.5, tune: {metric: dice, grid: {threshold: [0.3, 0.5, 0.7]}}}"
REPORT_ON = {"tabulate": 1, "audit": 1, "report": 1, "verdict": 1, "all": 1}


@pytest.fixture
def tuned(run):
    run.edit("tiny.yaml", "instances: {threshold: 0.5}", TUNE)
    return run


def stores(run):
    roots = run.folder.glob("results/split/**/zarr.json")
    return {path: path.stat().st_mtime_ns for path in roots}


def read(run, path):
    return json.loads((run.folder / "results" / path).read_text())


def test_a_run_is_tuned_on_its_validation_samples_and_reruns_what_it_must(tuned):
    assert tuned.pending() == {"tune": 1, "split": 2, "evaluate": 2, "view": 2, **REPORT_ON}
    done = tuned.snakemake("forecast")
    table = done.stdout.split("whole run")[1].split("there is")[0]
    jobs = dict(re.findall(r"^  (\w+) +(\d+)", table, re.M))
    assert jobs == {"tune": "1", "split": "2", "evaluate": "2", "view": "2", "together": "7"}

    done = tuned.snakemake()
    assert done.returncode == 0, done.stdout
    assert tuned.pending() == {}
    first = read(tuned, "tune/tiny/fold-0.json")
    assert [entry["sample"] for entry in first["samples"]] == ["b"]
    chosen = first["chosen"]["threshold"]
    for lot in ("cells-0000", "cells-0001"):
        entries = read(tuned, f"split/tiny/fold-0/{lot}.json")["samples"]
        assert {entry["threshold"] for entry in entries} == {chosen}
    page = (tuned.folder / "results/report/report.html").read_text()
    assert "tuned on these samples" in page
    assert "tuned on validation samples, never on these" in page
    assert sorted(p.name for p in tuned.folder.glob("results/tune/tiny/*")) == [
        "fold-0.csv",
        "fold-0.json",
    ]

    # An edit of the evaluation tunes nothing and segments nothing.
    tuned.edit("tiny.yaml", "iou_thresholds: [0.5]", "iou_thresholds: [0.7]")
    assert tuned.pending() == {"evaluate": 2, **REPORT_ON}
    tuned.edit("tiny.yaml", "iou_thresholds: [0.7]", "iou_thresholds: [0.5]")
    # What the choice replaces is the report's business only, which shows all settings.
    tuned.edit("tiny.yaml", "{threshold: 0.5, tune", "{threshold: 0.6, tune")
    assert tuned.pending() == {"report": 1, "verdict": 1, "all": 1}

    # Another grid of which the same value is the best: no store is touched.
    before = stores(tuned)
    listed = [0.3, 0.5, 0.7]
    kept = [chosen] if chosen == listed[0] else [listed[0], chosen]
    tuned.edit("tiny.yaml", "[0.3, 0.5, 0.7]", str(kept))
    assert tuned.pending()["tune"] == 1
    done = tuned.snakemake()
    assert done.returncode == 0, done.stdout
    second = read(tuned, "tune/tiny/fold-0.json")
    assert second["chosen"] == first["chosen"]
    assert len(second["trials"]) == len(kept)
    assert stores(tuned) == before
    assert tuned.pending() == {}
