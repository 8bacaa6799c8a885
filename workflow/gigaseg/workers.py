"""Dask workers that a job starts for itself, within what the cluster gave it, and that end with it.

Scheduler and client stay in the process of the job. Workers are told its address and nothing else:
when it ends, in whatever way, the system closes their connections, and they end, too.
"""

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

PATIENCE = 120.0  # seconds for all workers to begin: they read Python from a shared disk
ALONE = 60  # seconds for which a worker looks for its scheduler before it ends
# Seconds without a worker that takes blocks after which a job fails. None does while all are short
# of memory, until a block in hand is done.
DESERTED = 600
COURTESY = 10.0  # seconds in which workers that are told to end may do so
LEAST = 500  # MB: what a worker takes before it has read a block, twice
OWN = 500  # MB of a job that are left to the process that schedules

# What a step inherits of the job. The rest describes the step that this process is in, and would
# bind the workers to its CPUs and its share of memory.
_KEPT = {"SLURM_JOB_ID", "SLURM_JOBID", "SLURM_CLUSTER_NAME", "SLURM_CONF"}


@contextmanager
def hire(
    wanted: Mapping[str, Any], threads: int, resources: Mapping[str, Any], log: str | Path
) -> Iterator[str | None]:
    """Give the address of the scheduler whose workers do the blocks, while it is needed.

    In a job of SLURM the workers are one step of it, on all of its nodes; elsewhere they are
    processes of this machine.

    Parameters
    ----------
    wanted : mapping
        Section ``dask`` of the config: ``scheduler_address``, ``workers``, ``interface``.
    threads : int
        CPUs of the job; in SLURM, of each of its tasks.
    resources : mapping
        Of the job: ``mem_mb``, on each node, which the workers there share; in SLURM also
        ``tasks`` and ``nodes``, 1 if they are not given.
    log : path
        Of the job. What the workers print goes beside it, to ``<name>.workers.log``.

    Yields
    ------
    str or None
        Address, such as ``tcp://10.0.0.7:40123``; None for threads of this process.

    Raises
    ------
    ValueError
        If there are more workers than CPUs, or too little memory for each.
    FileNotFoundError
        In a job of SLURM without ``srun``.
    RuntimeError
        If workers do not begin.

    Examples
    --------
    >>> own = {"scheduler_address": "tcp://node7:8786", "workers": 0, "interface": None}
    >>> with hire(own, 2, {"mem_mb": 4000}, "convert.log") as scheduler:
    ...     print(scheduler)
    tcp://node7:8786
    """
    count, log = wanted["workers"], Path(log).with_suffix(".workers.log")
    if not count:
        yield wanted["scheduler_address"]
        return
    slurm = "SLURM_JOB_ID" in os.environ
    tasks, nodes = (resources.get(key, 1) if slurm else 1 for key in ("tasks", "nodes"))
    share = _share(count, cpus=threads * tasks, memory_mb=resources.get("mem_mb"), nodes=nodes)
    step = _step(count, int(share["--nthreads"])) if slurm else []
    with ExitStack() as stack:
        scheduler = stack.enter_context(_schedule(wanted["interface"], alone=not slurm))
        options = [text for option in share.items() for text in option]
        if wanted["interface"]:
            options += ["--interface", wanted["interface"]]
        command = [*step, *_worker(scheduler.scheduler_address), *options]
        crew = stack.enter_context(_started(command, 1 if step else count, log))
        stack.callback(scheduler.close)  # which tells the workers to end
        _wait(scheduler, crew, count, log)
        logger.info("%d Dask workers with %s", count, " ".join(options))
        yield scheduler.scheduler_address


def _share(count: int, *, cpus: int, memory_mb: int | None, nodes: int) -> dict[str, str]:
    """Return what a worker may take, as options of its command.

    Examples
    --------
    >>> _share(4, cpus=8, memory_mb=16500, nodes=2)
    {'--nthreads': '2', '--memory-limit': '8000MB'}
    """
    if count > cpus:
        raise ValueError(
            f"dask.workers is {count}, and the job has {cpus} CPUs: lower it, or give the job more "
            f"(--set-threads; in SLURM that many for each of its tasks)"
        )
    share = {"--nthreads": str(cpus // count)}
    if memory_mb is not None:
        together = -(-count // nodes)
        each = (memory_mb - OWN) // together
        if each < LEAST:
            raise ValueError(
                f"{together} Dask workers share {memory_mb} MB, less {OWN} MB for the process that "
                f"schedules them: {each} MB each, and they need {LEAST}. Lower dask.workers, or "
                f"raise the job's mem_mb (--set-resources)"
            )
        share["--memory-limit"] = f"{each}MB"
    return share


def _step(count: int, threads: int) -> list[str]:
    """Return the command that starts a step of workers on all nodes of this job of SLURM."""
    if shutil.which("srun") is None:
        raise FileNotFoundError(
            "dask.workers needs srun in a job of SLURM, and it is not on the PATH (a container "
            "seldom has it): set dask.workers to 0, or install SLURM's client there"
        )
    return [
        "srun",
        f"--ntasks={count}",
        f"--cpus-per-task={threads}",
        "--overlap",  # this process is in a step that holds all there is
        "--cpu-bind=none",
        "--mpi=none",
        "--export=ALL",
        "--input=none",
        "--kill-on-bad-exit=0",  # the blocks of a lost worker are done by the others
        "--wait=0",
    ]


def _worker(address: str) -> list[str]:
    return [
        *(sys.executable, "-m", "distributed.cli.dask_worker", address),
        *("--no-nanny", "--no-dashboard", "--death-timeout", str(ALONE)),
    ]


@contextmanager
def _schedule(interface: str | None, *, alone: bool) -> Iterator[Any]:
    """Run a scheduler in this process; `alone` if all workers are on this machine."""
    import dask
    from distributed import LocalCluster

    host = None if interface else "127.0.0.1" if alone else "0.0.0.0"
    # Otherwise a job whose workers are all lost would wait for ever.
    patience = {"distributed.scheduler.no-workers-timeout": f"{DESERTED}s"}
    with (
        dask.config.set(patience),
        LocalCluster(
            n_workers=0,
            processes=True,
            host=host,
            interface=interface,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": ":0"},  # of the port that answers all the same
            silence_logs=logging.ERROR,
        ) as cluster,
    ):
        yield cluster


@contextmanager
def _started(command: Sequence[str], copies: int, log: Path) -> Iterator[list[subprocess.Popen]]:
    """Start copies of a command; end those that still run."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key in _KEPT or not key.startswith(("SLURM_", "SRUN_"))
    }
    # Snakemake withholds it from jobs in a conda environment.
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    log.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        file = stack.enter_context(log.open("wb"))
        crew: list[subprocess.Popen] = []
        stack.callback(_end, crew)
        for _ in range(copies):
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=kept
            )
            crew.append(process)
        yield crew


def _end(crew: Sequence[subprocess.Popen]) -> None:
    """Wait for processes that have been told to end; insist where that takes long."""
    for insist in (subprocess.Popen.terminate, subprocess.Popen.kill):
        for process in crew:
            try:
                process.wait(COURTESY)
            except subprocess.TimeoutExpired:
                insist(process)
    for process in crew:
        process.wait()


def _wait(scheduler: Any, crew: Sequence[subprocess.Popen], count: int, log: Path) -> None:
    """Wait until all workers have begun."""
    late = time.monotonic() + PATIENCE
    while (there := len(scheduler.scheduler.workers)) < count:
        ended = [process.returncode for process in crew if process.poll() is not None]
        if ended or time.monotonic() > late:
            why = (
                f"ended with status {ended[0]}" if ended else f"were not there in {PATIENCE:.0f} s"
            )
            lines = log.read_text(errors="replace").strip().splitlines()
            raise RuntimeError(
                f"{count - there} of {count} Dask workers {why}; see {log}, which ends: "
                f"{lines[-1] if lines else 'it is empty'}"
            )
        time.sleep(0.1)
