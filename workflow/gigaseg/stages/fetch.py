"""Bring the files of a public data set: those that are not there yet, each checked by its sum."""

import csv
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch

from ..manifests import write_manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A line of a registry: where a file belongs, what it holds, where it comes from."""

    path: str
    sha256: str
    url: str


def run(*, manifest: Path, registry: Path, settings: Mapping[str, Any]) -> None:
    """Fetch the files that the sheet names; files with the right sum are left as they are.

    Parameters
    ----------
    manifest : Path
        Written last: every file with its sum.
    registry : Path
        Table with columns ``path`` (below the data root), ``sha256`` and ``url``, separated by
        tabs. An empty address means that the file cannot be downloaded as it is.
    settings : mapping
        ``dataset``, ``data_root`` and ``files``, the paths that are needed.

    Raises
    ------
    ValueError
        If a file is not in the registry, or has another sum than the registry says.
    FileNotFoundError
        If a file is missing and has no address.
    """
    known = read_registry(registry)
    root = Path(settings["data_root"])
    unknown = [path for path in settings["files"] if path not in known]
    if unknown:
        raise ValueError(
            f"{registry} does not list {_some(unknown)}: add path, sha256 and url, or take "
            f"`registry` from data set {settings['dataset']!r}"
        )
    sources = [known[path] for path in settings["files"]]
    missing = [source for source in sources if not (root / source.path).exists()]
    _refuse_unfetchable(registry, root, missing)
    _refuse_changed(registry, root, [source for source in sources if source not in missing])
    for source in missing:
        _download(source, root / source.path)
    logger.info("%d files were there, %d fetched", len(sources) - len(missing), len(missing))
    sums = {source.path: source.sha256 for source in sources}
    write_manifest(manifest, {"stage": "fetch", "dataset": settings["dataset"], "files": sums})


def read_registry(path: Path) -> dict[str, Source]:
    """Read a registry as a mapping of path to source.

    Raises
    ------
    ValueError
        If the columns are not ``path``, ``sha256``, ``url``.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, delimiter="\t")
        if reader.fieldnames != ["path", "sha256", "url"]:
            raise ValueError(
                f"{path} has the columns {reader.fieldnames}, not path, sha256, url separated by "
                "tabs"
            )
        return {row["path"]: Source(**row) for row in reader}


def _refuse_unfetchable(registry: Path, root: Path, missing: list[Source]) -> None:
    paths = [source.path for source in missing if not source.url]
    if paths:
        raise FileNotFoundError(
            f"{len(paths)} {'file is' if len(paths) == 1 else 'files are'} not below {root} and "
            f"cannot be fetched, as {registry} has no address: {_some(paths)}. config/README.md "
            "says how to make them, `data_root` where they are looked for"
        )


def _refuse_changed(registry: Path, root: Path, present: list[Source]) -> None:
    for source in present:
        found = pooch.file_hash(str(root / source.path), alg="sha256")
        if found != source.sha256:
            raise ValueError(
                f"{root / source.path} has the sum {found}, and {registry} says {source.sha256}: "
                "move the file away to fetch it anew, or correct the registry"
            )


def _download(source: Source, target: Path) -> None:
    pooch.retrieve(
        url=source.url,
        known_hash=f"sha256:{source.sha256}",
        fname=target.name,
        path=target.parent,
        downloader=pooch.HTTPDownloader(timeout=60),
    )


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
