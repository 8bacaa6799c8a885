"""What a job tells: everything to its log file, the essence to the console."""

import logging
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from .disk import writing
from .termination import install

DETAILED = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LIBRARY = __package__ or "gigaseg"

# What a cluster tells a job about its place, and how the log names it.
PLACE = {
    "SLURM_JOB_ID": "SLURM job",
    "SLURM_ARRAY_TASK_ID": "task",
    "CUDA_VISIBLE_DEVICES": "CUDA_VISIBLE_DEVICES",
}

logger = logging.getLogger(__name__)


def start(path: str | Path, job: str) -> None:
    """Send this process's messages to a log file, and end with one clear line if it fails.

    The file receives all messages from level INFO on and the traceback of an error, the first of
    them where this process runs; stderr shows the library's own warnings and errors, after the name of the job. From here on, the process ends
    in order when it is told to: see `gigaseg.termination`.

    Parameters
    ----------
    path : path
        The log file; made anew.
    job : str
        Name of the job, such as ``convert nuclei-0000``.

    Raises
    ------
    DiskError
        If the log cannot be written.
    """
    path = Path(path)
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(logging.WARNING)
    console.addFilter(logging.Filter(LIBRARY))
    console.setFormatter(logging.Formatter(f"{job.replace('%', '%%')}: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[console], force=True)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # on a full disk, what fails says so; the log need not
    sys.excepthook = _Ending(path, job)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        # An earlier job that outlived its Snakemake may still write here: each at the end.
        file = logging.FileHandler(path, mode="a", encoding="utf-8")
    file.setFormatter(logging.Formatter(DETAILED))
    logging.getLogger().addHandler(file)
    logger.info("%s on %s", job, describe_place(socket.gethostname(), os.environ))
    install(job)


class _Ending:
    """Reports an exception that nothing caught: one line for the user, the rest for the log."""

    def __init__(self, path: Path, job: str) -> None:
        self.path, self.job = path, job

    def __call__(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        # Not a message of the library: the console is told once, below.
        logging.getLogger("job").error("%s failed", self.job, exc_info=(kind, error, trace))
        print(f"{self.job} failed: {describe(error)}\nThe log is {self.path}", file=sys.stderr)


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
