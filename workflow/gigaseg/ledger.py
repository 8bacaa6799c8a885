"""What is done, by whom, and from what: block ledgers, and stores under construction."""

import json
import logging
import os
import resource
import shutil
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from functools import partial, singledispatch
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakSet

from .disk import blame, writing
from .fingerprints import canonical_json, digest, file_identity, fingerprint
from .jsonlines import append_line, read_lines
from .lease import Lease
from .lease import check as lease_check
from .manifests import write_atomically

__all__ = [
    "BlockLedger",
    "Construction",
    "abandon",
    "canonical_json",
    "check_block",
    "clear_block",
    "digest",
    "file_identity",
    "fingerprint",
    "read_attempts",
]

logger = logging.getLogger(__name__)

_open: WeakSet["Construction"] = WeakSet()  # stores that this process is working on

PATIENCE = 1.0  # seconds to wait for a record in hand before the process ends
BOOKS = ".gigaseg"  # folder of a store that holds its bookkeeping


@singledispatch
def clear_block(target: Any, block: tuple[slice, ...]) -> None:
    """Remove the files of a block that is about to be written.

    A process killed while it wrote a shard leaves a torn one, and a shard that the volume's edge
    cuts is written by reading it first. Arrays in memory have nothing to remove; each kind of
    stored array registers its own way.

    Parameters
    ----------
    target : array-like
        The array to be written.
    block : tuple of slice
        The block's place along the last axes of `target`: whole shards.
    """


@singledispatch
def check_block(target: Any, block: tuple[slice, ...]) -> None:
    """Raise ValueError if a file of a block is damaged, even where its values do not show it.

    Parameters are those of `clear_block`, and so is the way to register kinds of stored arrays.
    """


class BlockLedger:
    """Append-only list of finished blocks, one file per process; readers take the union.

    Parameters
    ----------
    folder : Path
        Where the ledger's files lie.
    name : str
        Which work of the store: a store may have several (``level-0``, ``labels``).
    lease : Lease, optional
        Checked before each entry, so that a process that lost its store stops.
    title : str
        What the work is called in front of people.

    Attributes
    ----------
    checksums : dict
        Of the blocks recorded so far, by key.
    check : callable
        Raises RuntimeError if another process has taken the store over. Can be sent to processes
        that work for this one.
    """

    def __init__(
        self, folder: Path, name: str, lease: Lease | None = None, title: str = ""
    ) -> None:
        self.check = _agree if lease is None else partial(lease_check, lease.path, lease.token)
        self._lock = threading.Lock()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.name, self.title = name, title
        self.recorded = self.voxels = 0
        self.checksums = _read_entries(folder.glob(f"{name}.*.jsonl"))
        self._path = folder / f"{name}.{uuid.uuid4().hex}.jsonl"

    @property
    def done(self) -> set[str]:
        """Keys of the blocks that are recorded as finished."""
        return set(self.checksums)

    def record(self, block: str, checksum: str | None = None, voxels: int = 0) -> None:
        """Note that a block is finished; call it after its shards were written.

        Parameters
        ----------
        block : str
            Key of the block.
        checksum : str, optional
            Of the block's values, with which a later run can verify them.
        voxels : int
            Size of the block; how fast the work went is told from it.
        """
        entry = {"block": block, "checksum": checksum}
        with self._lock:
            self.check()
            with writing(self._path):
                append_line(self._path, entry)
            self.checksums[block] = checksum
            self.recorded += 1
            self.voxels += voxels

    def close(self) -> None:
        """Let nobody record anything any more: this process is about to end."""
        self._lock.acquire(timeout=PATIENCE)


def _agree() -> None:
    """Stand in for a check where nobody else can be."""


def _read_entries(files: Iterable[Path]) -> dict[str, str | None]:
    entries: dict[str, str | None] = {}
    for file in sorted(files):
        for entry in read_lines(file):
            if entry.keys() == {"block", "checksum"}:
                entries[entry["block"]] = entry["checksum"]
    return entries


class Construction:
    """A store or folder being made: exclusive, resumable, and wiped only when it must be.

    Parameters
    ----------
    path : Path
        Folder of the artifact. It is created if it does not exist.
    fingerprint : dict
        What the artifact is made from, as `fingerprint` returns it.
    marker : str
        File whose presence means that the artifact is finished.
    part : str, optional
        Name of this process among several that fill one store at the same time, each its own
        blocks. A part never begins a store and never wipes one: it works in a store that was
        opened before, by a `Construction` without `part`. That one waits until all parts have
        ended, and parts wait for it, so that whoever opens or commits is alone.

    Attributes
    ----------
    committed : bool
        The artifact with this fingerprint is finished: nothing is left to do.
    resumed : bool
        Work of an earlier process with the same fingerprint was found.

    Raises
    ------
    FileExistsError
        If the folder holds files that were not made by this program.
    ValueError
        If a part meets a store that was not opened, or that has another fingerprint.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "store"
    >>> with Construction(path, {"code": "1"}) as work:
    ...     work.ledger("level-0").record("0,0,0")
    >>> with Construction(path, {"code": "1"}) as work:
    ...     sorted(work.ledger("level-0").done)
    ['0,0,0']
    """

    def __init__(
        self,
        path: Path,
        fingerprint: Mapping[str, Any],
        marker: str = "zarr.json",
        part: str | None = None,
    ) -> None:
        self.path = Path(path)
        self.fingerprint = json.loads(canonical_json(fingerprint))
        self.marker = marker
        self.part = part
        self.committed = self.resumed = False
        self._books = self.path / BOOKS
        self._ledgers: list[BlockLedger] = []
        self._lease = Lease(self._books / f"lease{self._suffix}.json")
        self._closing = threading.RLock()
        self._start: float | None = None

    def __enter__(self) -> "Construction":
        self.committed = self._is_finished()
        if self.committed:
            return self
        self._refuse_foreign_folder()
        if self.part is not None and not self._books.is_dir():
            raise self._unopened()
        _open.add(self)
        try:
            with writing(self.path):
                self._books.mkdir(parents=True, exist_ok=True)
                self._acquire()
                self._prepare()
        except BaseException as error:
            self.close(type(error).__name__)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        explained = blame(self.path, error)
        self.close("done" if kind is None else f"{kind.__name__}: {explained or error}")
        if explained is not None:
            raise explained from error

    def close(self, outcome: str) -> None:
        """Note the end of this attempt and give the store back; a second call does nothing.

        Parameters
        ----------
        outcome : str
            ``done``, or what went wrong.
        """
        with self._closing:
            _open.discard(self)
            if self._start is not None:
                seconds, self._start = time.time() - self._start, None
                try:
                    self._note("end", seconds=round(seconds, 3), outcome=outcome)
                except OSError as problem:  # a full disk, perhaps the very reason of this end
                    logger.warning("the end of the work on %s is not noted: %s", self.path, problem)
            self._lease.release()

    def abandon(self, outcome: str) -> None:
        """Close the store while blocks are still in hand: what they write is not recorded."""
        for ledger in self._ledgers:
            ledger.close()
        self.close(outcome)

    def ledger(self, name: str) -> BlockLedger:
        """Open the ledger of one kind of work in this store."""
        sample = self.path.name.removesuffix(".zarr").removesuffix(".ome")
        ledger = BlockLedger(self._books / "ledger", name, self._lease, f"{sample}, {name}")
        self._ledgers.append(ledger)
        return ledger

    def note(self, **facts: Any) -> None:
        """Add facts to the attempts of this store, such as its device or its tile size."""
        self._note("note", **facts)

    def attempts(self) -> list[dict[str, Any]]:
        """Read what every attempt at this store noted, in order of time; see `read_attempts`."""
        return read_attempts(self.path)

    @property
    def _suffix(self) -> str:
        return "" if self.part is None else f"-{self.part}"

    def _acquire(self) -> None:
        """Take the lease; who has no part shares the store with nobody."""
        if self.part is None:
            self._lease.acquire()
            for path in self._books.glob("lease-*.json"):
                Lease(path).wait()
            return
        alone = Lease(self._books / "lease.json")
        self._lease.acquire()
        while alone.path.exists():  # it waits for parts: step back, lest both wait for ever
            self._lease.release()
            alone.wait()
            self._lease.acquire()

    def _unopened(self) -> ValueError:
        recorded = self._recorded()
        if recorded is None:
            problem = "was not opened"
        else:
            problem = f"was opened for something else: {_difference(recorded, self.fingerprint)}"
        return ValueError(
            f"{self.path} {problem}, so part {self.part} has no place in it: run the same "
            f"snakemake command again"
        )

    def _is_finished(self) -> bool:
        return (self.path / self.marker).is_file() and self._recorded() == self.fingerprint

    def _recorded(self) -> dict[str, Any] | None:
        try:
            return json.loads((self._books / "fingerprint.json").read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            return {}  # spoilt: it is nobody's, and so is what it was to describe

    def _refuse_foreign_folder(self) -> None:
        if self.path.is_dir() and not self._books.is_dir() and any(self.path.iterdir()):
            raise FileExistsError(
                f"{self.path} holds files that were not made by gigaseg: move them away, "
                f"or choose another folder for the results"
            )

    def _prepare(self) -> None:
        """Find out, with the lease in hand, whether to begin, resume, or begin again."""
        self.committed = self._is_finished()  # another process may have finished it meanwhile
        if self.committed:
            return
        recorded = self._recorded()
        self.resumed = recorded == self.fingerprint
        if self.part is not None and not self.resumed:
            raise self._unopened()
        reason = "resumed" if self.resumed else "first"
        if recorded is not None and not self.resumed:
            reason = f"begun again: {_difference(recorded, self.fingerprint)}"
            logger.warning("%s is %s", self.path, reason)
        if not self.resumed:
            self._wipe()
            write_atomically(
                self._books / "fingerprint.json", canonical_json(self.fingerprint, indent=1)
            )
        start = time.time()
        self._note("start", reason=reason)
        self._start = start

    def _wipe(self) -> None:
        """Delete everything but the lease and the history, the mark of being finished first."""
        (self.path / self.marker).unlink(missing_ok=True)
        (self._books / "fingerprint.json").unlink(missing_ok=True)
        for item in (*self.path.iterdir(), self._books / "ledger"):
            if item == self._books or not item.exists():
                continue
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            else:
                item.unlink()

    def _note(self, event: str, **facts: Any) -> None:
        line = {
            "attempt": self._lease.token,
            "event": event,
            "time": round(time.time(), 3),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "blocks": sum(ledger.recorded for ledger in self._ledgers),
            "voxels": sum(ledger.voxels for ledger in self._ledgers),
            "passes": {ledger.name: ledger.voxels for ledger in self._ledgers},
            "cpu_seconds": round(time.process_time(), 1),
            "peak_memory_mb": _peak_memory_mb(),
            **facts,
        }
        append_line(self._books / f"attempts{self._suffix}.jsonl", line)


def abandon(outcome: str) -> None:
    """Close the books of every store in hand, from any thread, because this process ends now.

    Parameters
    ----------
    outcome : str
        What the attempts end with.
    """
    for construction in list(_open):
        construction.abandon(outcome)


def read_attempts(path: Path) -> list[dict[str, Any]]:
    """Read what every attempt at an artifact noted, in order of time.

    Parameters
    ----------
    path : Path
        Folder of the artifact; one that was never begun has no attempts.

    Returns
    -------
    list of dict
        ``event`` is ``start`` (with ``reason``), ``note`` or ``end`` (with ``seconds`` and
        ``outcome``; a killed attempt has none). Each has ``attempt``, ``time`` (seconds since
        1970), ``host``, ``pid``, the process's ``cpu_seconds`` and ``peak_memory_mb``, and what
        the attempt has done so far:
        ``blocks``, ``voxels`` and ``passes``, the voxels by kind of work.
    """
    lines = [line for file in path.glob(f"{BOOKS}/attempts*.jsonl") for line in read_lines(file)]
    timed = (line for line in lines if isinstance(line.get("time"), int | float))
    return sorted(timed, key=lambda line: line["time"])


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Say which parts of two fingerprints differ, and in which keys."""
    if not old:
        return "its fingerprint cannot be read"
    parts = []
    for part in sorted({*old, *new}):
        before, after = old.get(part), new.get(part)
        if before == after:
            continue
        keys: list[str] = []
        if isinstance(before, dict) and isinstance(after, dict):
            keys = sorted(k for k in {*before, *after} if before.get(k) != after.get(k))
        parts.append(f"{part} ({', '.join(keys)})" if keys else part)
    return f"{', '.join(parts)} {'differs' if len(parts) == 1 else 'differ'}"


def _peak_memory_mb() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 2**20 if sys.platform == "darwin" else peak // 2**10
