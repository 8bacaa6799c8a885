"""How the attempts at a job went: a line for each start and each end, beside the job's log.

The log has the last attempt only, and nothing of one that was killed. These lines answer two
questions: how a job ended that failed (`tell`), and whether a retry can end otherwise than the
attempt before it (`Attempt.hopeless`). A retry is an attempt of the same run of Snakemake, which
names itself to all its jobs (`name_run`); whoever runs Snakemake again tries everything again.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .benchmarks import duration
from .fingerprints import digest
from .jsonlines import append_line, read_lines

logger = logging.getLogger(__name__)

RUN = "GIGASEG_RUN"  # environment variable that names the run

# What the same settings, code and inputs bring about again, on any machine. Not among them: what is
# full, lost, out of reach or not yet seen from this node (OSError), memory, devices and other
# processes (RuntimeError), and a package that one node cannot import.
LASTING = (
    *(ValueError, TypeError, LookupError, ArithmeticError),
    *(AssertionError, AttributeError, NameError, NotImplementedError),
)


def name_run() -> None:
    """Give a run, of which this is the main process, a new name that its jobs inherit."""
    os.environ[RUN] = uuid.uuid4().hex


def identify(params: Iterable[Any], inputs: Iterable[str | Path]) -> str:
    """Digest all that the outcome of a job depends on: what it is told, and its files as they are.

    Parameters
    ----------
    params : iterable
        Settings, code and the like; compared as text.
    inputs : iterable of path
        Files, compared by size and time of modification.
    """
    return digest([[str(p) for p in params], [[str(path), *_state(path)] for path in inputs]])


def _state(path: str | Path) -> tuple[int, int] | tuple[()]:
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns


class Attempt:
    """This process's attempt at a job.

    Parameters
    ----------
    log : Path
        The job's log; the lines go into a file beside it.
    job : str
        Name of the job.
    told : str
        What `identify` returned.

    Examples
    --------
    >>> log = getfixture("tmp_path") / "cells-0000.log"
    >>> attempt = Attempt(log, "convert cells-0000", identify(["tile: 570"], []))
    >>> attempt.begin()
    >>> attempt.end("tile 570 px does not fit", lasting=True)
    >>> attempt.hopeless()
    ('tile 570 px does not fit', '')
    >>> tell(log, "convert cells-0000", attempt.run)
    'convert cells-0000: tile 570 px does not fit; it has no log'
    """

    def __init__(self, log: Path, job: str, told: str) -> None:
        self.path, self.job, self.told = _beside(log), job, told
        self.run = os.environ.get(RUN) or uuid.uuid4().hex
        self._name = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._start: float | None = None

    def hopeless(self) -> tuple[str, str] | None:
        """Return outcome and traceback of an earlier attempt that this one can only repeat.

        It was of this run and failed by its settings, code or inputs (`LASTING`), and these are
        what they were. None if there is no such attempt.
        """
        for line in _of_run(self.path, self.run):
            if line.get("lasting") and line.get("told") == self.told:
                return str(line["outcome"]), str(line["trace"])
        return None

    def begin(self) -> None:
        """Note the start.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        self._start = time.time()
        self._note("start", told=self.told, slurm=_slurm_job())

    def end(self, outcome: str, *, lasting: bool = False, trace: str = "") -> None:
        """Note the end; after the first call nothing more is noted.

        Parameters
        ----------
        outcome : str
            ``done``, or what went wrong.
        lasting : bool
            Another attempt would end alike.
        trace : str
            The traceback, which Snakemake deletes with the log before the next attempt.
        """
        with self._lock:
            if self._start is None:
                return
            seconds, self._start = round(time.time() - self._start, 3), None
        facts = {"lasting": True, "told": self.told, "trace": trace} if lasting else {}
        try:
            self._note("end", outcome=outcome, seconds=seconds, **facts)
        except OSError as problem:  # a full disk, perhaps the very reason of this end
            logger.warning("the end of %s is not noted: %s", self.job, problem)

    def _note(self, event: str, **facts: Any) -> None:
        line = {
            "event": event,
            "attempt": self._name,
            "run": self.run,
            "job": self.job,
            "time": round(time.time(), 3),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        append_line(self.path, line | facts)


def tell(log: Path, job: str, run: str, cluster: Path | None = None) -> str:
    """Say in one line how a job of a run ended, and where to read more.

    Parameters
    ----------
    log : Path
        The job's log.
    job : str
        What the job is called if it did not live to give its name.
    run : str
        Name of the run.
    cluster : Path, optional
        Folder of the logs that a cluster's jobs have besides.
    """
    lines = list(_of_run(_beside(log), run))
    starts = [line for line in lines if line.get("event") == "start"]
    paths = [log] if log.exists() else []
    how = "no attempt got as far as its log"
    if starts:
        last = starts[-1]
        ends = [e for e in lines if e.get("event") == "end" and e["attempt"] == last["attempt"]]
        job, how = last["job"], _ended(ends[-1], last["host"]) if ends else _lost(last, log)
        if len(starts) > 1:
            how += f" ({len(starts)} attempts)"
        if cluster is not None and last.get("slurm"):
            paths += sorted(cluster.rglob(f"{last['slurm']}.log"))
    where = f"its log is {' and '.join(map(str, paths))}" if paths else "it has no log"
    return f"{job}: {how}; {where}"


def _ended(end: dict[str, Any], host: str) -> str:
    outcome = str(end["outcome"]).partition("\n")[0].rstrip(":")
    if outcome == "done":
        return "ended well, but what it was to make is not there"
    if end.get("lasting"):
        return outcome
    return f"{outcome}, on {host} after {duration(end['seconds'])}"


def _lost(start: dict[str, Any], log: Path) -> str:
    """Say what can be known of an attempt that noted no end."""
    heard = max(0.0, log.stat().st_mtime - start["time"]) if log.exists() else 0.0
    slurm = f"; `sacct -j {start['slurm']}` may say" if start.get("slurm") else ""
    return (
        f"killed without a word on {start['host']}, last heard of after {duration(heard)}: out of "
        f"memory, or the machine was lost{slurm}"
    )


def _beside(log: Path) -> Path:
    return log.with_suffix(".attempts.jsonl")


def _of_run(path: Path, run: str) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from (line for line in read_lines(path) if line.get("run") == run)


def _slurm_job() -> str | None:
    """Return the number of the SLURM job this is, if any; of an array, with that of the task."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
