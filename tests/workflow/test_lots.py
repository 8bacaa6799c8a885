"""How many jobs a run has: one per stage and lot, whatever a lot holds and wherever it is run."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PREDICTED = {"predict", "audit_seams", "split", "evaluate", "view"}
ONCE = {"train", "tabulate", "audit", "report", "verdict", "all"}
SNAKEMAKE = ["-m", "snakemake"]
# Snakemake that prints what a job asks for, also where its rule has a message.
DETAILED = """
import sys
from snakemake.cli import main
from snakemake.logging import DefaultFormatter
brief = DefaultFormatter.format_job_info
DefaultFormatter.format_job_info = lambda self, job: brief(self, {**job, "rule_msg": None})
main(sys.argv[1:])
"""
PROFILES = {"here": ["--cores", "1"], "slurm": ["--workflow-profile", str(ROOT / "profiles/slurm")]}


def write_sheet(folder: Path, samples: int, lot: int) -> None:
    """Write a sheet of empty files, as planning opens none; all but the first are validated."""
    rows = ["sample\tdataset\tsplit\timage\tlabel"]
    for k in range(samples):
        (folder / f"{k}.tif").touch()
        rows.append(f"s{k}\tsmall\t{'validation' if k else 'train'}\t{k}.tif\t{k}.tif")
    (folder / "sheet.tsv").write_text("\n".join(rows))
    (folder / "own.yaml").write_text(
        "samples: sheet.tsv\ndata_root: .\n"
        f"datasets: {{small: {{lot: {lot}}}}}\nexperiments: {{small: {{datasets: [small]}}}}\n"
    )


def dry_run(folder: Path, profile: str, *arguments: str, snakemake: list[str]) -> str:
    """Return what a dry run prints."""
    command = [sys.executable, *snakemake, "-s", str(ROOT / "Snakefile"), "-n"]
    command += [*arguments, *PROFILES[profile], "--configfile", "own.yaml"]
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def count_jobs(folder: Path, profile: str) -> dict[str, int]:
    """Return the jobs of a dry run, by rule."""
    text = dry_run(folder, profile, "-q", "rules", snakemake=SNAKEMAKE)
    table = text.split("Job stats:")[1].split("total")[0]
    return {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


@pytest.mark.parametrize(
    ("samples", "lot", "profile"),
    [
        (40, 10, "here"),
        (400, 100, "here"),  # ten times the samples in as many lots: as many jobs
        (41, 10, "here"),  # one more than fits: a lot of its own
        (40, 1, "here"),  # large images, each a lot
        (400, 100, "slurm"),  # nothing of it changes on a cluster
    ],
)
def test_jobs_follow_lots_and_not_samples(tmp_path, samples, lot, profile):
    write_sheet(tmp_path, samples, lot)
    lots = math.ceil(samples / lot)
    # The first sample is learned from and not predicted: alone in its lot, it leaves it no job.
    predicted = lots - (lot == 1)
    assert count_jobs(tmp_path, profile) == {
        **dict.fromkeys(("convert", "weigh"), lots),
        **dict.fromkeys(PREDICTED, predicted),
        **dict.fromkeys(ONCE, 1),
    }


@pytest.mark.parametrize(
    ("profile", "arguments", "asked"),
    [
        ("slurm", [], 3),
        ("here", [], 1),  # there are no more, unless one says so
        ("here", ["--resources", "gpu=2"], 2),
        ("here", ["--resources", "gpu=4"], 3),
        ("slurm", ["--set-resources", "train:gpu=0"], 0),
    ],
)
def test_a_training_asks_for_a_gpu_for_each_of_its_processes(tmp_path, profile, arguments, asked):
    write_sheet(tmp_path, 2, 2)
    with (tmp_path / "own.yaml").open("a") as own:
        own.write("training: {processes: 3, batch: 3}\n")
    text = dry_run(tmp_path, profile, *arguments, snakemake=["-c", DETAILED])
    (job,) = re.findall(r"^rule train:$(.*?nodes=1)", text, re.MULTILINE | re.DOTALL)
    assert re.findall(r"\bgpu=(\d+)", job) == [str(asked)]
