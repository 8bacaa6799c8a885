"""Commands that the documentation shows, as dry runs on the checkout itself."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALWAYS = {
    "snakemake --cores 8 all",
    "snakemake --cores 8 predict_all",
    "snakemake --cores 8 all --configfile config/isbi2012.yaml",
    "snakemake --cores 8 all --configfile config/isbi2012-folds.yaml",
    "snakemake --cores 8 all --configfile config/dsb2018.yaml",
    "snakemake --cores 8 all --configfile config/paper.yaml",
    "snakemake --cores 8 all --configfile config/ablation.yaml",
    "snakemake --workflow-profile profiles/slurm all",
    "snakemake --lint",
}


def documented() -> set[str]:
    """Find the Snakemake commands in the documentation; paths of users' own are left out."""
    found = set()
    for path in [ROOT / "README.md", *ROOT.glob("config/*.md"), *ROOT.glob("docs/*.md")]:
        text = path.read_text() if path.exists() else ""
        found |= set(
            re.findall(r"(?:^|`)(?:\$ )?(snakemake [^\n`#]*?) *(?:#.*)?(?:$|`)", text, re.M)
        )
    return {
        c for c in found if "mine" not in c and "…" not in c and "<" not in c and "..." not in c
    }


def snakemake(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", *arguments]
    return subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize("command", sorted(ALWAYS | documented()))
def test_a_documented_command_finds_all_it_needs(command, tmp_path):
    arguments = shlex.split(command)[1:]
    if "--lint" not in arguments:
        arguments += [
            "-n",
            "-q",
            "rules",
            "--config",
            f"results={tmp_path}",
            f"data_root={tmp_path}",
        ]
    done = snakemake(*arguments)
    assert done.returncode == 0, done.stdout


def test_two_hundred_small_images_are_a_handful_of_jobs_per_stage(tmp_path):
    done = snakemake(
        *("-n", "-q", "rules", "--configfile", "config/dsb2018.yaml"),
        *("--config", f"results={tmp_path}"),
    )
    table = done.stdout.split("Job stats:")[1]
    jobs = {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}
    assert jobs["convert"] == 6
    assert jobs["train"] == jobs["report"] == jobs["fetch"] == 1
    assert max(n for rule, n in jobs.items() if rule != "total") <= 6
