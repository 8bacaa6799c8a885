"""What planning a run takes: ten thousand samples in lots, beside as many lots of one sample."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SNAKEMAKE = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-n", "-q", "rules"]
PROFILES = {"here": ["--cores", "1"], "slurm": ["--workflow-profile", str(ROOT / "profiles/slurm")]}

# A small process starts it: the system counts what the starting one has as taken by the other.
STARTER = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(f"\\n{used.ru_utime + used.ru_stime} {used.ru_maxrss}")
sys.exit(status)
"""


def write_sheet(folder: Path, samples: int, lot: int) -> Path:
    """Write a sheet of empty files, which a dry run does not open; one in ten is validated."""
    folder.mkdir()
    rows = ["sample\tdataset\tsplit\timage\tlabel"]
    for k in range(samples):
        split = "train" if k % 10 < 7 else "validation" if k % 10 == 7 else "test"
        rows.append(f"s{k}\tsmall\t{split}\ti{k}.tif\tl{k}.tif")
        for name in "il":
            (folder / f"{name}{k}.tif").touch()
    (folder / "sheet.tsv").write_text("\n".join(rows))
    (folder / "own.yaml").write_text(
        "samples: sheet.tsv\ndata_root: .\n"
        f"datasets: {{small: {{lot: {lot}}}}}\nexperiments: {{small: {{datasets: [small]}}}}\n"
    )
    return folder


def plan(folder: Path, profile: str) -> tuple[str, float, float]:
    """Plan everything; return the number of jobs, CPU time in s and peak memory in MB."""
    command = [*SNAKEMAKE, *PROFILES[profile], "--configfile", "own.yaml"]
    done = subprocess.run(
        [sys.executable, "-c", STARTER, *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    jobs = re.findall(r"^total +(\d+)$", done.stdout, re.MULTILINE)[0]  # of two tables
    seconds, kilobytes = done.stdout.splitlines()[-1].split()
    return jobs, float(seconds), float(kilobytes) / 1024


@pytest.mark.parametrize("profile", PROFILES)
def test_dry_run(bench, tmp_path, profile):
    lots, lot = (200, 50) if bench.measured else (10, 50)
    # As many lots with a sample of each split, as that decides which jobs a lot has.
    many = write_sheet(tmp_path / "many", lots * lot, lot)
    few = write_sheet(tmp_path / "few", lots * 10, 10)
    names = (f"dry run, {profile}", f"{lots * lot} samples, {lots} lots", f"{lots} lots of 10")
    aim = "30 s, 500 MB"
    ours, peer = bench.compare(
        lambda: plan(many, profile), lambda: plan(few, profile), names=names, aim=aim, rounds=1
    )
    (jobs, cpu, peak), (others, other_cpu, other_peak) = ours, peer
    assert jobs == others
    assert peak < 500
    # The time of a process of its own is not in this one's.
    bench.rows[-1].cpu_ratio = other_cpu / cpu
    bench.remark(f"{jobs} jobs; {cpu:.1f} CPU s, {peak:.0f} MB; peer {other_peak:.0f} MB")
