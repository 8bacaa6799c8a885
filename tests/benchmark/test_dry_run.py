"""What planning a run takes: ten thousand samples in lots, beside as many lots of one sample."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SNAKEMAKE = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-n", "-q", "rules"]
PROFILES = {"here": ["--cores", "1"], "slurm": ["--workflow-profile", str(ROOT / "profiles/slurm")]}


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
    with (
        (folder / "out.txt").open("w+") as out,
        subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT) as process,
    ):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read()
    assert process.returncode == 0, text
    return (
        re.findall(r"^total +(\d+)$", text, re.MULTILINE)[0],
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss / 1024,
    )


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
