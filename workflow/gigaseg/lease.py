"""One writer at a time: a lease that a dead process cannot hold."""

import json
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType

NOBODY = {"token": None, "pid": 0, "host": "?"}

logger = logging.getLogger(__name__)

HEARTBEAT = 10.0  # seconds between two signs of life of the owner
STALE = 60.0  # seconds without a sign of life after which a lease may be taken over
POLL = 0.5  # seconds between two looks at somebody else's lease


class Lease:
    """Exclusive use of a folder, from `acquire` to `release`.

    Parameters
    ----------
    path : Path
        The lease file. Its folder must exist.

    Notes
    -----
    The file names its owner, and the owner touches it every `HEARTBEAT` seconds. Whoever finds it
    waits as long as it is being touched. It is taken over when its owner is a process of this
    machine that is no longer there, or when it was not touched for `STALE` seconds of the waiting
    process's own clock: clocks of different machines are never compared.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._beat: threading.Thread | None = None

    def __enter__(self) -> "Lease":
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lease, waiting for a living owner to release it."""
        self._stop.clear()
        while not self._create():
            self._wait()
        self._beat = threading.Thread(target=self._touch, name="lease", daemon=True)
        self._beat.start()

    def release(self) -> None:
        """Give the lease back."""
        self._stop.set()
        if self._beat is not None:
            self._beat.join()
        try:
            if self.held:
                self.path.unlink()
        except OSError as problem:  # others see that this process is dead, or silent
            logger.warning("%s cannot be given back: %s", self.path.parent, problem)

    def wait(self) -> None:
        """Return as soon as nobody alive holds the lease; it is not taken."""
        while self.path.exists():
            self._wait()

    @property
    def held(self) -> bool:
        """Whether the file still names this owner."""
        state = _read(self.path)
        return state is not None and state[0].get("token") == self.token

    def check(self) -> None:
        """Raise RuntimeError if another process has taken the lease over."""
        check(self.path, self.token)

    def _create(self) -> bool:
        """Create the file with its content in one step; False if there is one already."""
        if self.path.exists():  # who waits writes nothing, so leaves nothing behind when ended
            return False
        mine = self.path.with_name(f"{self.path.name}.{self.token}")
        owner = {"token": self.token, "pid": os.getpid(), "host": _machine()}
        try:
            mine.write_text(json.dumps(owner))
            os.link(mine, self.path)
        except FileExistsError:
            return False
        finally:
            mine.unlink(missing_ok=True)
        return True

    def _wait(self) -> None:
        """Return when the present owner has released the lease or is known to be dead."""
        seen = _read(self.path)
        since = time.monotonic()
        told = False
        while seen is not None and not _is_dead(seen[0]) and time.monotonic() - since < STALE:
            if not told:
                logger.info("waiting for %s, written by %s", self.path.parent, _describe(seen[0]))
                told = True
            self._stop.wait(POLL)
            now = _read(self.path)
            if now != seen:
                seen, since = now, time.monotonic()
        if seen is not None:
            self._take_over(seen[0])

    def _take_over(self, owner: dict) -> None:
        """Move a dead owner's lease out of the way; put it back if it was renewed meanwhile."""
        grave = self.path.with_name(f"{self.path.name}.{self.token}.stale")
        try:
            os.rename(self.path, grave)
        except FileNotFoundError:
            return  # released, or taken over by a third process
        moved = _read(grave)
        if moved is not None and moved[0] != owner and not self.path.exists():
            os.link(grave, self.path)
        else:
            logger.warning("took over %s from %s", self.path.parent, _describe(owner))
        grave.unlink()

    def _touch(self) -> None:
        while not self._stop.wait(HEARTBEAT) and self.held:
            try:
                os.utime(self.path)
            except OSError as problem:  # taken over this very moment: `check` will tell
                logger.warning("no sign of life in %s: %s", self.path.parent, problem)


def check(path: Path, token: str) -> None:
    """Raise RuntimeError unless a lease is held by the owner of this token.

    Processes that work for the owner ask so, too.
    """
    state = _read(path)
    if state is None or state[0].get("token") != token:
        raise RuntimeError(
            f"{path.parent} is now written by another process: this one gave no sign of life for "
            f"{STALE:.0f} s (suspended?), or has ended; run the same command again"
        )


def _read(path: Path) -> tuple[dict, int] | None:
    """Return owner and time stamp of a lease file, or None if there is none."""
    try:
        # Opening first makes network file systems fetch fresh attributes.
        with path.open("rb") as file:
            content, time_stamp = file.read(), os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None
    try:
        return {**NOBODY, **json.loads(content)}, time_stamp
    except (ValueError, TypeError):
        return NOBODY, time_stamp  # spoilt: whoever it was shows no sign of life


def _machine() -> str:
    """Name what process ids are counted in: the host and, on Linux, the container."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _is_dead(owner: dict) -> bool:
    if owner["host"] != _machine():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _is_zombie(owner["pid"])


def _is_zombie(pid: int) -> bool:
    """Whether a process is dead and only nobody asked how it ended, as in some containers."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False  # no Linux, or gone this very moment
    return status.rpartition(")")[2].split()[0] == "Z"


def _describe(owner: dict) -> str:
    return f"process {owner['pid']} on {owner['host'].split()[0]}"
