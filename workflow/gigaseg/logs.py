"""What a job tells: everything to its log file, the essence to the console."""

import atexit
import logging
import os
import socket
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from traceback import format_exception
from types import TracebackType
from typing import Any, NoReturn

from .attempts import LASTING, Attempt, identify
from .disk import writing
from .termination import install

DETAILED = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LIBRARY = __package__ or "gigaseg"
PACE = f"{LIBRARY}.pace"

# What a cluster tells a job about its place, and how the log names it.
PLACE = {
    "SLURM_JOB_ID": "SLURM job",
    "SLURM_ARRAY_TASK_ID": "task",
    "CUDA_VISIBLE_DEVICES": "CUDA_VISIBLE_DEVICES",
}

logger = logging.getLogger(__name__)


def start_script(snakemake: Any) -> None:
    """Call `start` for the job of the script that Snakemake runs, named by rule and wildcards.

    Parameters
    ----------
    snakemake : object
        What Snakemake gives to a script, by this name.
    """
    job = " ".join([snakemake.rule, *snakemake.wildcards])
    start(snakemake.log[0], job, snakemake.params, snakemake.input)


def start(
    path: str | Path, job: str, params: Iterable[Any] = (), inputs: Iterable[str | Path] = ()
) -> None:
    """Send this process's messages to a log file, and end with one clear line if it fails.

    The file receives all messages from level INFO on and the traceback of an error, the first of
    them where this process runs; stderr shows the library's own warnings and errors, and how far
    the work is, after the name of the job. From here on, the process ends in order when it is told
    to: see `gigaseg.termination`. How it ends is noted beside the log: see `gigaseg.attempts`.

    Parameters
    ----------
    path : path
        The log file; made anew.
    job : str
        Name of the job, such as ``convert nuclei-0000``.
    params, inputs : iterable
        What the job is told, and its files. If an attempt of the same run failed for what lies in
        these, the process ends here with the same message and traceback.

    Raises
    ------
    DiskError
        If the log cannot be written.
    """
    path = Path(path)
    console = logging.StreamHandler(sys.stderr)
    console.addFilter(_is_for_the_console)
    console.setFormatter(logging.Formatter(f"{job.replace('%', '%%')}: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[console], force=True)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # on a full disk, what fails says so; the log need not
    attempt = Attempt(path, job, identify(params, inputs))
    before = attempt.hopeless()
    sys.excepthook = _Ending(path, attempt)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        # An earlier job that outlived its Snakemake may still write here: each at the end.
        file = logging.FileHandler(path, mode="a", encoding="utf-8")
        if before is None:
            attempt.begin()
    file.setFormatter(logging.Formatter(DETAILED))
    logging.getLogger().addHandler(file)
    logger.info("%s on %s", job, describe_place(socket.gethostname(), os.environ))
    if before is not None:
        _refuse(path, job, *before)
    atexit.register(attempt.end, "done")  # unless another end was noted before
    install(job, attempt.end)


def shorten(record: logging.LogRecord) -> bool:
    """Filter Snakemake's own messages: drop those that say nothing, and long lists from the others.

    To be added to its logger. What a job began with and ended in is told job by job; the error of
    a job that reads thousands of manifests names its log, and not all of them.
    """
    if str(record.msg).startswith(("Select jobs to execute...", "Execute ")):
        return False
    if str(getattr(record, "event", "")).endswith("job_error"):
        record.input = record.output = ()
    return True


def _is_for_the_console(record: logging.LogRecord) -> bool:
    serious = record.levelno >= logging.WARNING and logging.Filter(LIBRARY).filter(record)
    return bool(serious) or record.name == PACE


def _refuse(path: Path, job: str, outcome: str, trace: str) -> NoReturn:
    """End a retry that could only repeat the attempt before it."""
    vain = "Settings, code and inputs are as before, so it was not tried again."
    logging.getLogger("job").error("%s failed before. %s\n%s", job, vain, trace)
    print(f"{job} failed: {outcome}\n{vain}\nThe log is {path}", file=sys.stderr)
    sys.exit(1)


class _Ending:
    """Reports an exception that nothing caught: one line for the user, the rest for the log."""

    def __init__(self, path: Path, attempt: Attempt) -> None:
        self.path, self.attempt = path, attempt

    def __call__(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        job, told = self.attempt.job, describe(error)
        # Not a message of the library: the console is told once, below.
        logging.getLogger("job").error("%s failed", job, exc_info=(kind, error, trace))
        text = "".join(format_exception(kind, error, trace))
        self.attempt.end(told, lasting=isinstance(error, LASTING), trace=text)
        print(f"{job} failed: {told}\nThe log is {self.path}", file=sys.stderr)


def describe_place(host: str, environment: Mapping[str, str]) -> str:
    """Say where a job runs and what it was given, as far as the environment tells.

    Examples
    --------
    >>> describe_place("node7", {"SLURM_JOB_ID": "4711", "CUDA_VISIBLE_DEVICES": "1"})
    'node7, SLURM job 4711, CUDA_VISIBLE_DEVICES 1'
    >>> describe_place("laptop", {})
    'laptop'
    """
    told = [f"{word} {environment[name]}" for name, word in PLACE.items() if name in environment]
    return ", ".join([host, *told])


def describe(error: BaseException) -> str:
    """Say what an exception says; one that is not written for users is named as well.

    Examples
    --------
    >>> describe(ValueError("tile 570 px does not fit")), describe(KeyError("depth"))
    ('tile 570 px does not fit', "KeyError: 'depth'")
    """
    speaks = isinstance(error, ValueError | OSError | RuntimeError) and str(error)
    return str(error) if speaks else f"{type(error).__name__}: {error}".rstrip(": ")
