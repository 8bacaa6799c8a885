"""What a job tells: everything to its log file, the essence to the console."""

import logging
import sys
from pathlib import Path
from types import TracebackType

from .disk import writing
from .termination import install

DETAILED = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LIBRARY = __package__ or "gigaseg"
PACE = f"{LIBRARY}.pace"


def start(path: str | Path, job: str) -> None:
    """Send this process's messages to a log file, and end with one clear line if it fails.

    The file receives all messages from level INFO on and the traceback of an error; stderr shows
    the library's own warnings and errors, and how far the work is, after the name of the job. From
    here on, the process ends in order when it is told to: see `gigaseg.termination`.

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
    console.addFilter(_is_for_the_console)
    console.setFormatter(logging.Formatter(f"{job.replace('%', '%%')}: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[console], force=True)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # on a full disk, what fails says so; the log need not
    sys.excepthook = _Ending(path, job)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(path, mode="w", encoding="utf-8")
    file.setFormatter(logging.Formatter(DETAILED))
    logging.getLogger().addHandler(file)
    install(job)


def _is_for_the_console(record: logging.LogRecord) -> bool:
    serious = record.levelno >= logging.WARNING and logging.Filter(LIBRARY).filter(record)
    return bool(serious) or record.name == PACE


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


def describe(error: BaseException) -> str:
    """Say what an exception says; one that is not written for users is named as well.

    Examples
    --------
    >>> describe(ValueError("tile 570 px does not fit")), describe(KeyError("depth"))
    ('tile 570 px does not fit', "KeyError: 'depth'")
    """
    speaks = isinstance(error, ValueError | OSError | RuntimeError) and str(error)
    return str(error) if speaks else f"{type(error).__name__}: {error}".rstrip(": ")
