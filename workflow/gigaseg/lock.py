"""One run at a time per results folder."""

import errno
import fcntl
import os
from pathlib import Path

from .disk import writing


def hold(folder: Path) -> int:
    """Lock a folder for this process until it ends, however it ends.

    Snakemake's own lock is a file that outlives a killed process; this one cannot.

    Parameters
    ----------
    folder : Path
        Made if it is not there.

    Returns
    -------
    int
        Descriptor that carries the lock: closing it gives the lock back.

    Raises
    ------
    BlockingIOError
        If another process holds the folder.
    OSError
        If the folder cannot be written, or its file system knows no locks.
    """
    path = folder / ".lock"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise _explained(error, folder, owner) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
    return descriptor


def _explained(error: OSError, folder: Path, owner: str) -> OSError:
    if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
        text = (
            f"another run is working on {folder} ({owner}): wait for it, stop it, or give this "
            "one a folder of its own with --config results=..."
        )
        return BlockingIOError(error.errno, text)
    text = (
        f"the file system of {folder} does not lock files ({error.strerror}), so two runs could "
        "spoil each other's work: put `results` on one that does"
    )
    return OSError(error.errno, text)
