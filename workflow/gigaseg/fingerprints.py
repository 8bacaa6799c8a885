"""What an artifact is made from, as text that is equal exactly when the content is."""

import glob
import hashlib
import json
import numbers
import os
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

_version = cache(version)  # reads the metadata of a package from disk

SMALL_FILE = 1_000_000  # bytes; Snakemake, too, compares files up to 1 MB by content


def canonical_json(value: Any, indent: int | None = None) -> str:
    """Write a value as the one JSON text that all equal values share.

    Keys are sorted, whole floats become integers, tuples become lists, paths become strings.

    Raises
    ------
    ValueError
        For NaN and infinities, which JSON does not know.

    Examples
    --------
    >>> canonical_json({"b": 3.0, "a": (1, 2.5)})
    '{"a":[1,2.5],"b":3}'
    """
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(
        _plain(value),
        sort_keys=True,
        separators=separators,
        indent=indent,
        ensure_ascii=False,
        allow_nan=False,
    )


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return int(number) if number.is_integer() else number
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"cannot write a {type(value).__name__} as JSON: {value!r}")


def digest(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def fingerprint(
    *, code: str, settings: Any, inputs: Mapping[str, Any], libraries: tuple[str, ...]
) -> dict[str, Any]:
    """Collect everything that decides the content of an artifact.

    Parameters
    ----------
    code : str
        Digest of the stage's source.
    settings : JSON value
        The settings that matter for this artifact.
    inputs : mapping
        Identity of each input: `file_identity` of a raw file, fingerprint of a store.
    libraries : tuple of str
        Distributions whose version may change values.

    Returns
    -------
    dict with the keys code, settings, inputs, libraries
        Its `digest` is what manifests and stores carry.
    """
    versions = {name: _version(name) for name in libraries}
    whole = {"code": code, "settings": settings, "inputs": inputs, "libraries": versions}
    return json.loads(canonical_json(whole))


def file_identity(path: Path) -> dict[str, Any]:
    """Identify a raw file, a folder, or a series given by a pattern such as ``stack_*.png``.

    Parameters
    ----------
    path : Path
        Files up to 1 MB are identified by content, larger ones by size and modification time.

    Returns
    -------
    dict
        ``name``, ``size`` and ``sha256`` or ``mtime_ns``; for several files their number, total
        size and a digest over all identities.
    """
    path = Path(path)
    if path.is_file():
        return _one_file(path)
    files = _members(path)
    if not files:
        raise FileNotFoundError(f"{path}: no such file, folder or series")
    base = path if path.is_dir() else path.parent
    members = [{**_one_file(file), "name": file.relative_to(base).as_posix()} for file in files]
    size = sum(member["size"] for member in members)
    return {"name": path.name, "files": len(files), "size": size, "digest": digest(members)}


def _members(path: Path) -> list[Path]:
    found = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path)))
    return sorted(file for file in found if file.is_file())


def _one_file(path: Path) -> dict[str, Any]:
    status = path.stat()
    identity: dict[str, Any] = {"name": path.name, "size": status.st_size}
    if status.st_size <= SMALL_FILE:
        return {**identity, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return {**identity, "mtime_ns": status.st_mtime_ns}
