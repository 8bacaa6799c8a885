"""The whole chain on a tiny data set, and what a user sees of it."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from gigaseg import lock


def test_the_console_says_where_the_report_is(finished):
    console = (finished.folder / "console.txt").read_text()
    assert "The report is results/report/report.html" in console
    assert (finished.folder / "results" / "report" / "report.html").is_file()


def test_the_library_is_found_without_installation(finished):
    found = set((finished.folder / "witness").read_text().split())
    assert found == {str(finished.checkout / "workflow" / "gigaseg" / "__init__.py")}


def test_manifests_are_the_only_outputs_of_the_stages(finished):
    for stage in ("convert", "weigh", "predict", "split", "evaluate"):
        manifests = [*finished.folder.glob(f"results/{stage}/**/cells-*.json")]
        assert manifests
        for path in manifests:
            assert json.loads(path.read_text())["stage"] == stage


def test_every_job_left_a_log_and_a_benchmark(finished):
    logs = {p.stem for p in finished.folder.glob("results/logs/**/*.log")}
    assert {"cells", "cells-0000", "cells-0001", "fold-0", "scores"} <= logs
    assert {"audit", "report", "verdict"} <= logs
    assert len([*finished.folder.glob("results/benchmarks/**/*.tsv")]) == 19


def test_the_report_compares_the_forecast_of_every_stage(finished):
    page = (finished.folder / "results" / "report" / "report.html").read_text()
    table = page.split("<h3>Forecast and actual</h3>")[1].split("</table>")[0]
    stages = re.findall(r"<tr><td>(\w+)</td>", table)
    expected = "convert weigh train predict split evaluate view audit_seams"
    assert stages == expected.split()
    assert "network.depth" in page.split("<h3>All settings</h3>")[0].split("<h2>Settings</h2>")[1]


def test_a_bad_sample_is_recorded_and_the_others_are_finished(run):
    path = run.folder / "data" / "image" / "c.tif"
    path.write_bytes(path.read_bytes()[:2000])
    done = run.snakemake()
    assert done.returncode != 0
    assert "1 sample failed, all others are finished" in done.stdout
    assert "convert of cells/c:" in done.stdout
    manifest = json.loads((run.folder / "results/evaluate/tiny/fold-0/cells-0001.json").read_text())
    assert {s["sample"]: s["status"] for s in manifest["samples"]} == {"c": "skipped", "d": "done"}
    assert "The report shows the rest: results/report/report.html" in done.stdout
    assert "Traceback" not in done.stdout
    assert run.pending() == {"verdict": 1, "all": 1}
    forced = re.search("snakemake --cores all (--forcerun .*)", done.stdout)[1].split()
    assert run.pending(*forced)["convert"] == 1


def test_a_second_run_in_the_same_folder_is_refused(run):
    held = lock.hold(run.folder / "results")
    done = run.snakemake("--forcerun", "verdict")
    os.close(held)
    assert done.returncode != 0
    assert "another run is working on results" in done.stdout
    assert "Traceback" not in done.stdout


def test_problems_with_the_settings_end_a_run_with_one_message(run):
    run.edit("tiny.yaml", "width: 2", "widht: 2")
    run.edit("tiny.yaml", "steps: 5", "steps: 1e3")
    run.edit("samples.tsv", "validation", "valdation")
    done = run.snakemake("-n")
    assert done.returncode != 0
    lines = done.stdout.splitlines()
    start = lines.index("3 problems with the settings:")
    assert "network.widht: unknown key; did you mean width?" in lines[start + 1]
    assert "training.steps: '1e3' is not a whole number" in lines[start + 2]
    assert "did you mean validation?" in lines[start + 3]
    assert len(lines) == start + 4


PARSE = """
import sys
import zipfile
from pathlib import Path
from snakemake.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code
heavy = ("torch", "lightning", "zarr", "dask", "numba", "skimage", "scipy", "matplotlib")
print("loaded:", [name for name in heavy if name in sys.modules])
"""


def test_parsing_loads_nothing_heavy(run):
    arguments = ["-n", "-q", "-s", str(run.checkout / "Snakefile"), "--configfile", "tiny.yaml"]
    done = subprocess.run(
        [sys.executable, "-c", PARSE, *arguments],
        cwd=run.folder,
        env={**os.environ, "WITNESS": os.devnull},
        capture_output=True,
        text=True,
    )
    assert "loaded: []" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("target", "last"),
    [("convert_all", "convert"), ("predict_all", "predict"), ("evaluate_all", "evaluate")],
)
def test_there_is_a_target_per_stage(run, target, last):
    jobs = run.pending(target, "--forcerun", last)
    assert jobs == {last: 2, target: 1}


def test_snakemakes_own_report_holds_ours_and_the_scores(run):
    done = run.snakemake("--report", "all.zip")
    assert done.returncode == 0, done.stdout
    with zipfile.ZipFile(run.folder / "all.zip") as archive:
        names = [Path(name).name for name in archive.namelist()]
        page = b"".join(archive.read(name) for name in archive.namelist() if name.endswith(".html"))
    tables = {"scores.csv", "experiments.csv", "differences.csv"}
    assert {"report.html", "learning-loss.svg", *tables} <= set(names)
    assert b"The results of the experiments tiny follow" in page


def test_an_earlier_run_is_compared_with_and_only_read(run):
    run.edit("tiny.yaml", "evaluation: {", "evaluation: {baseline: earlier, ")
    before = {path: path.stat().st_mtime_ns for path in (run.folder / "results").rglob("*")}
    done = run.snakemake()
    assert done.returncode != 0
    assert "evaluation.baseline: earlier cannot be compared with" in done.stdout
    assert "Traceback" not in done.stdout
    assert {p: p.stat().st_mtime_ns for p in (run.folder / "results").rglob("*")} == before
    earlier = run.folder / "earlier"
    shutil.copytree(run.folder / "results" / "evaluate", earlier / "evaluate")
    before = {path: path.stat().st_mtime_ns for path in earlier.rglob("*")}
    done = run.snakemake()
    assert done.returncode == 0, done.stdout
    assert {path: path.stat().st_mtime_ns for path in earlier.rglob("*")} == before
    report = run.folder / "results" / "report"
    assert 'id="baseline"' in (report / "report.html").read_text()
    assert (report / "tables" / "changes.csv").is_file()
    assert run.pending() == {}
