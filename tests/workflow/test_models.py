"""Models that are brought, trained further, and predict together, from the command line."""

import json
import re
import shutil

import pytest

BROUGHT = "  brought: {datasets: [cells], model: kept/model.json}\n"
MORE = """\
  further: {datasets: [cells], start_from: kept/model.json}
  folds: {datasets: [cells], folds: 2, prediction: {jobs_per_sample: 2}}
"""


def read(run, path):
    return json.loads((run.folder / "results" / path).read_text())


def count_jobs(console):
    """Return how many jobs of each rule a run had."""
    table = console.split("Job stats:")[1].split("total")[0]
    return {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


@pytest.fixture
def kept(run):
    """Keep the model of the finished run, and use it in place of training."""
    shutil.copytree(run.folder / "results/train/tiny/fold-0", run.folder / "kept")
    run.edit("tiny.yaml", "  tiny: {datasets: [cells]}\n", BROUGHT)
    run.edit("tiny.yaml", "storage:", "view: {samples: none}\nstorage:")
    return run


def test_a_model_is_brought_and_predicts_as_where_it_was_trained(kept):
    done = kept.snakemake()
    assert done.returncode == 0, done.stdout
    jobs = count_jobs(done.stdout)
    assert "train" not in jobs
    assert jobs["predict"] == 2
    for lot in ("cells-0000", "cells-0001"):
        one, other = (
            read(kept, f"predict/{name}/fold-0/{lot}.json") for name in ("tiny", "brought")
        )
        for key in ("digest", "fingerprint"):
            assert [s[key] for s in one["samples"]] == [s[key] for s in other["samples"]]
    page = (kept.folder / "results/report/report.html").read_text()
    assert "model: kept/model.json" in page
    assert kept.pending() == {}


def test_models_are_trained_further_and_predict_together(kept):
    kept.edit("tiny.yaml", BROUGHT, MORE)
    lint = kept.snakemake("--lint")
    assert lint.returncode == 0, lint.stdout
    test, trained = "predict/folds/fold-all/cells-0001.json", "train/further/fold-0.json"
    done = kept.snakemake(f"results/{test}", f"results/{trained}")
    assert done.returncode == 0, done.stdout
    jobs = count_jobs(done.stdout)
    assert jobs["train"] == 3
    assert (jobs["predict_open"], jobs["predict_part"], jobs["predict"]) == (1, 2, 1)
    assert [sample["status"] for sample in read(kept, test)["samples"]] == ["done", "done"]
    begun = json.loads((kept.folder / "kept/model.json").read_text())
    further = read(kept, "train/further/fold-0/model.json")
    assert further["start_from"]["model"] == begun["fingerprint"]


def test_a_model_file_that_was_altered_stops_a_run_before_it_begins(kept):
    (kept.folder / "kept/best.safetensors").write_bytes(b"something else")
    done = kept.snakemake()
    assert done.returncode != 0
    assert "best.safetensors is not the file that model.json describes" in done.stdout
    assert not (kept.folder / "results/predict/brought").exists()
