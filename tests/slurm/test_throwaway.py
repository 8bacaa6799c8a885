"""The cluster of these tests says why it cannot be, and is gone when nobody needs it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import throwaway
from projects import Cluster, wait_until

# Starts a cluster, hands its first line on, and never stops it.
USER = """
import subprocess, sys, time

command = [sys.executable, *sys.argv[1:]]
keeper = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
time.sleep(600)
"""

# Tells by a file beside it that it is deaf to SIGTERM, then starts what it is given and stays.
DEAF = """
import pathlib, signal, subprocess, sys, time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(__file__).with_name(sys.argv[1]).touch()
if sys.argv[2:]:
    subprocess.run(sys.argv[2:])
time.sleep(600)
"""


def keep(folder: Path, path: str) -> str:
    """Return the problem of a cluster that cannot start."""
    done = subprocess.run(
        [sys.executable, throwaway.__file__, str(folder)],
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["problem"]


def test_it_names_the_packages_of_programs_that_are_missing(tmp_path):
    problem = keep(tmp_path / "cluster", path="/nowhere")
    assert "sbatch" in problem
    assert f"apt-get install {throwaway.PACKAGES}" in problem


def test_it_tells_what_a_daemon_said_that_does_not_start(tmp_path):
    for name in (*throwaway.DAEMONS, *throwaway.COMMANDS):
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho no place for me\nexit 1\n")
        program.chmod(0o755)
    problem = keep(tmp_path / "cluster", path=f"{tmp_path}:/usr/bin:/bin")
    assert problem == "munged ends: no place for me\n"


@pytest.mark.slurm
def test_nothing_is_left_of_a_cancelled_job_that_does_not_heed(cluster, tmp_path):
    deaf = tmp_path / "deaf.py"
    deaf.write_text(DEAF)
    # As Snakemake in a job: the shell ends at SIGTERM, its child does not, nor does the step.
    inner = f"srun -n1 {sys.executable} {deaf} step"
    outer = f"{sys.executable} {deaf} batch {inner}; true"
    job = cluster.call("sbatch", "--parsable", "--output=/dev/null", f"--wrap={outer}")

    def marks():
        lines = (Path("/proc", str(p), "cmdline") for p in cluster.processes())
        return [x for x in (read(line).split(b"\0") for line in lines) if str(deaf).encode() in x]

    wait_until(lambda: {(tmp_path / name).exists() for name in ("batch", "step")} == {True})
    assert marks()
    cluster.call("scancel", job)
    wait_until(lambda: not marks())


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # gone


@pytest.mark.slurm
def test_it_ends_with_its_jobs_when_its_user_is_killed(cluster, tmp_path):
    folder = tmp_path / "cluster"
    with subprocess.Popen(
        [sys.executable, "-c", USER, throwaway.__file__, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    ) as user:
        mine = Cluster(folder, **json.loads(user.stdout.readline()))
        sleeper = "trap '' TERM; sleep 600 & wait; wait"
        job = mine.call("sbatch", "--parsable", "--output=/dev/null", f"--wrap={sleeper}")
        wait_until(lambda: mine.queue("--states=running") == [job])
        wait_until(lambda: "sleep" in mine.processes().values())
        there = mine.processes()
        os.kill(user.pid, signal.SIGKILL)
    assert {*throwaway.DAEMONS, "slurmstepd", "sleep"} <= {*there.values()}
    wait_until(lambda: not any(Path("/proc", str(p)).exists() for p in [*there, mine.keeper]))
    assert {*throwaway.DAEMONS} <= {*cluster.processes().values()}
