"""Files that are there or not, never half: manifests, and whatever else is written at once."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .disk import writing
from .fingerprints import canonical_json


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file so that, whenever the process dies, the old or the new content is there.

    Raises
    ------
    DiskError
        If it cannot be written.
    """
    # One name, so that the next try overwrites what a killed process left.
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(temporary) as file:
            try:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink()
                raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Open a file for nobody else to write, empty; a lock ends with the process that has it."""
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever had the lock has moved the file to its place: it must not be touched there.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                yield file
                return


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest: the declared output of a job, its last act."""
    write_atomically(path, canonical_json(manifest, indent=1) + "\n")


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest.

    Raises
    ------
    ValueError
        If the file is not a manifest.
    """
    try:
        manifest = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a manifest ({error}): delete it and run again") from error
    return manifest
