"""What a user learns before a run, and what is refused then."""

import csv
import json
import re
import struct

import yaml
from gigaseg.plan import load
from gigaseg.stages.forecast import look_ahead
from snakemake.utils import update_config


def claim(path, side):
    """Write a BigTIFF of a few hundred bytes that claims to be a square of `side` px."""
    entries = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 8), (262, 3, 1)]
    entries += [(273, 16, 400), (277, 3, 1), (278, 4, side), (279, 16, 16)]
    data = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(entries))
    data += b"".join(struct.pack("<HHQQ", tag, kind, 1, value) for tag, kind, value in entries)
    path.write_bytes(data.ljust(420, b"\0"))


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_run_begins_with_a_line_of_forecast(finished):
    console = (finished.folder / "console.txt").read_text()
    assert len(re.findall(r"^Forecast: .* of disk .* of memory .*unknown$", console, re.M)) == 1
    assert "Look out" not in console


def test_nothing_is_left_of_a_finished_run(run):
    done = run.snakemake("forecast")
    assert done.returncode == 0, done.stdout
    assert "Nothing is left to do" in done.stdout
    assert "Forecast:" not in done.stdout


def test_the_forecast_of_an_edit_is_what_follows_from_it(run):
    run.edit("tiny.yaml", "instances: {threshold: 0.5}", "instances: {threshold: 0.6}")
    before = files(run.folder / "results" / "split")
    done = run.snakemake("forecast")
    assert done.returncode == 0, done.stdout
    table = done.stdout.split("whole run")[1].split("there is")[0]
    jobs = dict(re.findall(r"^  (\w+) +(\d+)", table, re.M))
    assert jobs == {"split": "2", "evaluate": "2", "view": "2", "together": "6"}
    assert "unknown" not in table  # the first run has shown how long these take
    assert files(run.folder / "results" / "split") == before
    done = run.snakemake("--until", "split")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^Forecast: .* of disk", done.stdout, re.M)


def test_a_header_that_claims_too_much_stops_a_run_before_it_begins(run):
    path = run.folder / "data" / "image" / "c.tif"
    claim(path, 2**25)
    before = files(run.folder / "results")
    done = run.snakemake()
    assert done.returncode != 0
    assert "This run cannot fit, so nothing was begun:" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("  - disk: ")]
    assert "33554432 x 33554432 px in data/image/c.tif (a file of 420 B)" in line
    assert re.search(r"PB are needed, .* TB, and .* are free", line)
    assert "Traceback" not in done.stdout
    assert files(run.folder / "results") == before
    done = run.snakemake("forecast")
    assert done.returncode == 0
    assert "Look out: disk: " in done.stdout


def measured(results):
    """Return the largest resident set of every stage in bytes."""
    peaks = {}
    for path in results.glob("benchmarks/*/**/*.tsv"):
        with path.open(newline="") as file:
            (row,) = csv.DictReader(file, delimiter="\t")
        stage = path.relative_to(results / "benchmarks").parts[0]
        peaks[stage] = max(peaks.get(stage, 0.0), float(row["max_rss"]) * 2**20)
    return peaks


def test_jobs_take_no_more_than_was_forecast(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    given = yaml.safe_load((finished.folder / "tiny.yaml").read_text())
    config = yaml.safe_load((finished.checkout / "config" / "config.yaml").read_text())
    update_config(config, given)
    told = json.loads(load(config, given).forecast())
    told["todo"] = [path for job in told["jobs"] for path in job["outputs"]]
    outlook, _, _ = look_ahead(told, local=True)
    peaks = measured(finished.folder / "results")
    assert outlook.stages.keys() <= peaks.keys()
    for stage, need in outlook.stages.items():
        assert peaks[stage] <= need.memory, stage
    for stage in ("convert", "weigh", "predict", "split", "view"):
        made = [p for p in (finished.folder / "results" / stage).rglob("*") if p.is_file()]
        assert len(made) <= 1.5 * outlook.stages[stage].files, stage
