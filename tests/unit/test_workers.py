"""Dask workers of a job's own: what they are given, where they run, and that they end with it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import distributed
import psutil
import pytest
from gigaseg import cluster, workers
from gigaseg.workers import hire

ROOT = Path(__file__).parents[2]

# Starts the tasks of a step on this machine, and notes how it was called.
SRUN = f"""\
#!{sys.executable}
import json, os, signal, subprocess, sys
at = sys.argv.index({{python!r}})
options, command = sys.argv[1:at], sys.argv[at:]
slurm = [key for key in os.environ if key.startswith(("SLURM_", "SRUN_"))]
json.dump({{{{"options": options, "command": command, "slurm": slurm}}}}, open({{note!r}}, "w"))
count = next(int(a.partition("=")[2]) for a in options if a.startswith("--ntasks="))
tasks = [subprocess.Popen(command) for _ in range(count)]
signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""


def wanted(workers=2, **changes):
    return {"scheduler_address": None, "workers": workers, "interface": None, **changes}


def job(folder, threads=2, tasks=1, nodes=1, memory_mb=4000):
    resources = {"tasks": tasks, "nodes": nodes, "mem_mb": memory_mb}
    return {"threads": threads, "resources": resources, "log": folder / "convert.log"}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    """Leave the job of SLURM that the tests themselves may run in."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SRUN_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def in_slurm(tmp_path, monkeypatch):
    """Pretend to be in a step of a job of SLURM; return where a call of srun is noted."""
    note = tmp_path / "srun.json"
    (tmp_path / "bin").mkdir()
    srun = tmp_path / "bin" / "srun"
    srun.write_text(SRUN.format(python=sys.executable, note=str(note)))
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    step = {"JOB_ID": "7", "NNODES": "1", "CPU_BIND": "mask_cpu:0x3", "NTASKS": "1"}
    for name, value in step.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    return note


def test_no_workers_are_started_unless_they_are_asked_for(tmp_path):
    for address in (None, "tcp://node7:8786"):
        with hire(wanted(0, scheduler_address=address), **job(tmp_path)) as scheduler:
            assert scheduler == address
    assert not [*tmp_path.iterdir()]


def test_workers_share_what_the_job_has_and_end_with_it(tmp_path):
    with hire(wanted(), **job(tmp_path, threads=5, memory_mb=4500)) as address:
        with distributed.Client(address, set_as_default=False) as client:
            crew = client.scheduler_info(n_workers=-1)["workers"].values()
            pids = client.run(os.getpid)
        assert [(w["nthreads"], w["memory_limit"]) for w in crew] == [(2, 2 * 10**9)] * 2
        assert all(w["host"] == "127.0.0.1" for w in crew)
        assert os.getpid() not in pids.values()
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids.values())


def test_workers_find_the_library_as_the_job_found_it(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)  # as in a job of `--sdm conda`
    with (
        hire(wanted(1), **job(tmp_path)) as address,
        distributed.Client(address, set_as_default=False) as client,
    ):
        assert {*client.run(cluster.loaded).values()} == {cluster._digest_sources()}


def test_in_a_job_of_slurm_workers_are_one_step_of_it(tmp_path, in_slurm):
    with hire(wanted(4), **job(tmp_path, tasks=4, nodes=2, memory_mb=8500)) as address:
        with distributed.Client(address, set_as_default=False) as client:
            pids = client.run(os.getpid)
            limits = {w["memory_limit"] for w in client.scheduler_info(-1)["workers"].values()}
        assert not address.startswith("tcp://127.")  # other nodes would not reach it
    call = json.loads(in_slurm.read_text())
    assert len(pids) == 4
    assert limits == {4 * 10**9}  # two on each node
    assert {"--ntasks=4", "--cpus-per-task=2", "--overlap"} <= {*call["options"]}
    # What describes the step that this process is in would bind the workers to its CPUs.
    assert call["slurm"] == ["SLURM_JOB_ID"]
    assert not any(psutil.pid_exists(pid) for pid in pids.values())


KILLED = """
import os, sys, time
from distributed import Client
from gigaseg.workers import hire
own = {"scheduler_address": None, "workers": 2, "interface": None}
with hire(own, 2, {}, sys.argv[1]) as address, Client(address, set_as_default=False) as client:
    print(*client.run(os.getpid).values(), flush=True)
    client.gather(client.map(time.sleep, [600, 601]))
"""


@pytest.mark.parametrize("slurm", [False, True])
def test_workers_end_when_their_job_is_killed(tmp_path, request, slurm):
    if slurm:
        request.getfixturevalue("in_slurm")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "w.log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        crew = [psutil.Process(int(pid)) for pid in driver.stdout.readline().split()]
        assert len(crew) == 2
        driver.send_signal(signal.SIGKILL)
    gone, alive = psutil.wait_procs(crew, timeout=workers.ALONE)
    assert (len(gone), alive) == (2, [])


def test_a_job_that_lost_all_workers_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "DESERTED", 1)
    monkeypatch.setattr(cluster, "LOADED", cluster._digest_sources())

    def die(number):
        import os

        os._exit(number)

    with (
        hire(wanted(), **job(tmp_path)) as address,
        pytest.raises(RuntimeError, match=r"Dask workers .* were lost or stuck"),
    ):
        list(cluster.run_on_cluster(address, die, [(3,), (4,)]))


def test_workers_that_do_not_begin_are_an_error_that_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_worker", lambda _: ["sh", "-c", "echo no luck; exit 3"])
    with (
        pytest.raises(RuntimeError, match=r"2 of 2 Dask workers ended with status 3.*no luck"),
        hire(wanted(), **job(tmp_path)),
    ):
        pass


@pytest.mark.parametrize(
    ("asked", "given", "message"),
    [
        (3, {"threads": 2, "tasks": 3}, "dask.workers is 3, and the job has 2 CPUs"),
        (2, {"memory_mb": 1400}, "2 Dask workers share 1400 MB, less 500 MB .*: 450 MB each"),
    ],
)
def test_workers_that_the_job_has_no_room_for_are_refused(tmp_path, asked, given, message):
    with pytest.raises(ValueError, match=message), hire(wanted(asked), **job(tmp_path, **given)):
        pass


def test_a_job_of_slurm_without_srun_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="needs srun"), hire(wanted(), **job(tmp_path)):
        pass
