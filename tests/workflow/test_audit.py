"""What is stale is found, and repaired by the command that the message names."""

import json
import re
import shutil


def test_an_edit_that_snakemake_forgot_is_found_and_the_named_command_repairs_it(run):
    results = run.folder / "results"
    page = (results / "report/report.html").read_bytes()
    shutil.rmtree(run.folder / ".snakemake/metadata")
    assert run.pending() == {}
    run.edit("tiny.yaml", "iou_thresholds: [0.5]", "iou_thresholds: [0.7]")

    done = run.snakemake()
    assert done.returncode != 0
    assert "audit failed: 2 results are not what the settings and the code of now" in done.stdout
    for lot in ("cells-0000", "cells-0001"):
        manifest = f"results/evaluate/tiny/fold-0/{lot}.json"
        assert f"  - {manifest}: made with other settings\n" in done.stdout
    assert "Traceback" not in done.stdout
    assert (results / "report/report.html").read_bytes() == page
    forced = re.search("  snakemake --cores all (--forcerun .*)", done.stdout)[1].split()
    assert "the report is" not in done.stdout.lower()

    done = run.snakemake(*forced)
    assert done.returncode == 0, done.stdout
    [audit] = [json.loads(path.read_text()) for path in (results / "audit").glob("*.json")]
    assert audit["jobs"] == 15
    assert "f1,0.7" in (results / "evaluate/scores.csv").read_text()
    assert run.pending() == {}


def test_a_result_of_other_code_is_found_though_snakemake_forgot(run):
    shutil.rmtree(run.folder / ".snakemake/metadata")
    path = run.checkout / "workflow/gigaseg/watershed.py"
    path.write_text(path.read_text() + "\n_EDITED = 1\n")
    shutil.rmtree(run.folder / "results/predict/tiny/fold-0/cells/b.ome.zarr")
    done = run.snakemake()
    assert done.returncode != 0
    assert "audit failed: 3 results are not what the settings" in done.stdout
    assert "split/tiny/fold-0/cells-0000.json: made with other code\n" in done.stdout
    assert "predict/tiny/fold-0/cells-0000.json: results/predict/tiny/fold-0" in done.stdout
    assert "cells/b.ome.zarr is missing\n" in done.stdout
