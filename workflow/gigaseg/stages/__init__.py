"""One module per stage, each with ``run``: paths and settings in, one manifest out."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os.path import relpath
from pathlib import Path
from typing import Any

from ..ledger import digest
from ..manifests import read_manifest, write_manifest
from ..pace import Pace

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]


def run_lot(
    stage: str,
    manifest: Path,
    settings: Mapping[str, Any],
    samples: Sequence[Row],
    work: Callable[[Row], Mapping[str, Any]],
    upstream: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    code: str,
    workers: int = 1,
) -> None:
    """Do one stage's work on every sample of a lot, then write the lot's manifest.

    A sample whose data are at fault is recorded with its message, and the others are finished.

    Parameters
    ----------
    stage : str
        Name that goes into the manifest.
    manifest : Path
        Where the manifest is written, last.
    settings : mapping
        All that the job was told, among it ``lot``; the manifest carries its digest (`stamp`).
    samples : sequence of mapping
        Rows of the sheet, with ``sample``, ``dataset`` and ``split``.
    work : callable
        ``work(row)`` makes one sample's artifact and returns facts about it, among them ``store``
        and ``fingerprint``. Paths among the facts are written relative to the manifest's folder.
        ValueError and FileNotFoundError are faults of the sample; anything else stops the lot.
    upstream : mapping of sample name to entry, optional
        What `read_entries` returned for the stage before: samples not done there are skipped.
    code : str
        Digest of the stage's code.
    workers : int
        Samples worked on at once, in threads.
    """
    pace = Pace("", len(samples), "samples")

    def enter(row: Row) -> dict[str, Any]:
        before = None if upstream is None else upstream[row["sample"]]
        entry = {key: row[key] for key in ("sample", "dataset", "split")}
        entry |= attempt(stage, row, work, before)
        if len(samples) > 1:  # else its blocks say it all
            pace.advance()
        return {key: _relative(value, manifest.parent) for key, value in entry.items()}

    with ThreadPoolExecutor(workers) as pool:
        entries = list(pool.map(enter, samples)) if workers > 1 else [*map(enter, samples)]
    content = {"stage": stage, "lot": settings["lot"], "samples": entries}
    write_manifest(manifest, content | stamp(settings, code))


def stamp(settings: Mapping[str, Any], code: str) -> dict[str, str]:
    """Say in a manifest what its job was told and which code it ran.

    Whether an artifact is what the settings and the code of today would make can then be seen
    without Snakemake's own memory, which may be lost.

    Parameters
    ----------
    settings : mapping
        All that the job was told.
    code : str
        Digest of the stage's code.

    Returns
    -------
    dict
        ``settings``, the SHA-256 of their canonical JSON, and ``code``.

    Examples
    --------
    >>> stamp({"lot": "a-0000"}, "c0de")["settings"][:8]
    '62e941f3'
    """
    return {"settings": digest(settings), "code": code}


def read_entries(manifest: Path) -> dict[str, dict[str, Any]]:
    """Read a lot's manifest as one entry per sample.

    Returns
    -------
    dict of sample name to entry
        ``stage`` is added to each entry, and its stores are paths one can open.
    """
    content = read_manifest(manifest)
    return {
        entry["sample"]: {
            "stage": content["stage"],
            **{k: _absolute(k, v, manifest.parent) for k, v in entry.items()},
        }
        for entry in content["samples"]
    }


def share_threads(threads: int, samples: int) -> tuple[int, int]:
    """Divide a job's threads: samples at once, and threads for the blocks of each.

    Examples
    --------
    >>> share_threads(8, 50), share_threads(8, 3), share_threads(8, 1)
    ((8, 1), (3, 2), (1, 8))
    """
    at_once = max(1, min(threads, samples))
    return at_once, threads // at_once


def attempt(
    stage: str,
    row: Row,
    work: Callable[[Row], Mapping[str, Any]],
    before: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Do one stage's work on one sample, and say what became of it: see `run_lot`."""
    nothing = {"store": None, "fingerprint": None}
    if before is not None and before["status"] != "done":
        return {"status": "skipped", "message": _explain(before), **nothing}
    try:
        facts = work(row)
    except (ValueError, FileNotFoundError) as error:
        logger.error("%s of sample %s failed: %s", stage, row["sample"], error)
        return {"status": "failed", "message": str(error), **nothing}
    return {"status": "done", "message": None, **facts}


def _explain(before: Mapping[str, Any]) -> str:
    """Name the first stage that failed: a skipped entry already does."""
    if before["status"] == "skipped":
        return before["message"]
    return f"{before['stage']} failed: {before['message']}"


def _relative(value: Any, folder: Path) -> Any:
    return Path(relpath(value, folder)).as_posix() if isinstance(value, Path) else value


def _absolute(key: str, value: Any, folder: Path) -> Any:
    """Undo `_relative` for the keys that name stores."""
    is_store = key == "store" or key.endswith("_store")
    return folder / value if is_store and value is not None else value
