"""Trouble with the disk, told once: where, why, how much room is left, and what to do."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

AGAIN = "run the same command again: what is finished stays"
ADVICE = {
    errno.ENOSPC: f"make room, or put `results` on a larger disk, and {AGAIN}",
    errno.EDQUOT: f"your quota is used up: make room and {AGAIN}",
    errno.EFBIG: f"a limit on the size of files (`ulimit -f`) is too small: raise it and {AGAIN}",
    errno.EACCES: f"make it writable, or choose another folder with --config results=..., and "
    f"{AGAIN}",
}
ADVICE[errno.EPERM] = ADVICE[errno.EROFS] = ADVICE[errno.EACCES]

# How the fast codecs, which are written in Rust, name an error of the operating system.
_NUMBERED = re.compile(r"\(os error (\d+)\)")


class DiskError(OSError):
    """Something could not be written: a fault of the machine, never of a sample."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the operating system in this block into one that a user understands.

    Parameters
    ----------
    path : Path
        What is being written; need not exist.

    Raises
    ------
    DiskError
        With the path, the reason, the room left and what to do. Among the reasons are those that
        zarr's codecs report as RuntimeError.

    Examples
    --------
    >>> with writing(Path("/results/a.zarr")):
    ...     raise RuntimeError("Permission denied (os error 13)")
    Traceback (most recent call last):
    gigaseg.disk.DiskError: /results/a.zarr cannot be written (Permission denied): make it ...
    """
    try:
        yield
    except (OSError, RuntimeError) as problem:
        number = _number(problem)
        if isinstance(problem, DiskError) or number is None:
            raise
        raise _explained(path, number) from problem


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Turn those errors into one that a user understands that can only come from writing.

    For blocks that read as well, see `writing`.

    Examples
    --------
    >>> with telling(Path("/results")):
    ...     raise OSError(27, "")
    Traceback (most recent call last):
    gigaseg.disk.DiskError: /results cannot be written (File too large): a limit on ...
    """
    try:
        yield
    except (OSError, RuntimeError) as problem:
        told = blame(path, problem)
        if told is None:
            raise
        raise told from problem


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say in an error of a codec which file of ours is damaged, and how to make it again.

    Raises
    ------
    RuntimeError
        In place of the codec's.
    """
    try:
        yield
    except RuntimeError as problem:
        raise RuntimeError(
            f"{path} cannot be read ({problem}): delete the store it belongs to, and make it again "
            f"with `snakemake --cores all --forcerun` and the name of its stage"
        ) from problem


def settle(folder: Path) -> None:
    """Wait until the disk holds every file below a folder, so that a power cut loses none of them.

    Network disks may tell only now that there was no room for what was written.

    Raises
    ------
    DiskError
        If the disk could not take a file.

    Examples
    --------
    >>> settle(getfixture("tmp_path"))
    """
    for path in (*folder.rglob("*"), folder):
        # A process that waits for the store's lease leaves files there for a moment.
        with writing(path), suppress(FileNotFoundError):
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)


def blame(path: Path, problem: BaseException | None) -> DiskError | None:
    """Explain an error that can only come from writing, wherever it was; None for all others.

    Examples
    --------
    >>> blame(Path("a"), OSError(27, "")), blame(Path("a"), OSError(2, ""))
    (DiskError('a cannot be written (File too large): a limit ...'), None)
    """
    if not isinstance(problem, OSError | RuntimeError) or isinstance(problem, DiskError):
        return None
    number = _number(problem)
    only = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
    return _explained(path, number) if number is not None and number in only else None


def _number(problem: OSError | RuntimeError) -> int | None:
    if isinstance(problem, OSError):
        return problem.errno
    found = _NUMBERED.search(str(problem))
    return int(found[1]) if found else None


def _explained(path: Path, number: int) -> DiskError:
    reason = os.strerror(number)
    if number == errno.ENOSPC:
        reason += f", {_room(path)}"
    advice = ADVICE.get(number, f"repair the folder or the disk it is on, and {AGAIN}")
    error = DiskError(f"{path} cannot be written ({reason}): {advice}")
    error.errno = number
    return error


def _room(path: Path) -> str:
    """Say how much room is left on the disk that holds a path."""
    folder = next(place for place in (path, *path.absolute().parents) if place.is_dir())
    disk = os.statvfs(folder)
    if not disk.f_favail and disk.f_files:
        return "no files can be added to its disk"
    usage = shutil.disk_usage(folder)
    return f"{usage.free / 1e6:.1f} MB of {usage.total / 1e9:.1f} GB are free"
