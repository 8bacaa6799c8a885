"""What is known before a run: which jobs are left, how large samples are, how long jobs took.

Everything takes what `gigaseg.plan.Plan.forecast` tells: ``config``, ``samples`` (rows of the sheet
by ``<dataset>/<sample>``), ``jobs`` and ``todo``. Nothing here decodes a voxel or writes a file.
"""

import csv
import os
import socket
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from . import grids
from .benchmarks import number
from .forecast import STARTING, Attempt, Size
from .headers import Header, read_header
from .ledger import canonical_json, read_attempts
from .manifests import read_manifest
from .tiffs import LARGEST_SEGMENT
from .volumes import shard_extent

Job = Mapping[str, Any]
Told = Mapping[str, Any]

READERS = 8  # headers read at once: network disks answer late
LOOKED_AT = 200  # earlier stores per stage: enough for a rate
PHANTOM = {"nuclei": 2, "membranes": 1}  # bytes per value


# ------------------------------------------------------------------------------------- what is left


def jobs_left(told: Told) -> list[Job]:
    """List the jobs to be done, in the order of the stages.

    These are the jobs of ``todo``; without it those whose manifest is missing, older than a raw
    file, or made by other settings or code, and those that read what they make.
    """
    jobs = told["jobs"]
    if told["todo"] is not None:
        chosen = set(told["todo"])
        return [job for job in jobs if not chosen.isdisjoint(job["outputs"])]
    stale: set[str] = set()
    needed: set[str] = set()
    for job in jobs:
        if "stamp" in job and (not stale.isdisjoint(job["inputs"]) or not _is_current(job, told)):
            stale.update(job["outputs"])
            needed.update(job["samples"] if job["stage"] == "convert" else ())
    return [job for job in jobs if not stale.isdisjoint(job["outputs"]) or _is_source(job, needed)]


def _is_source(job: Job, needed: set[str]) -> bool:
    """Whether a job brings raw files that are missing and needed."""
    return "stamp" not in job and not needed.isdisjoint(job["samples"]) and _is_missing(job)


def _is_missing(job: Job) -> bool:
    return not all(os.path.exists(path) for path in job["outputs"])


def _is_current(job: Job, told: Told) -> bool:
    """Whether a job's manifest is there, and made by the raw files, settings, code of today."""
    if _is_missing(job) or (job["stage"] == "convert" and _is_older(job, told)):
        return False
    manifest = read_manifest(Path(job["outputs"][0]))
    return all(manifest.get(key) == value for key, value in job["stamp"].items())


def _is_older(job: Job, told: Told) -> bool:
    """Whether a manifest was written before one of its raw files."""
    written = os.path.getmtime(job["outputs"][0])
    rows = (told["samples"][name] for name in job["samples"])
    raw = (row[key] for row in rows for key in ("image", "label") if row[key])
    return any(os.path.getmtime(path) > written for path in raw if os.path.exists(path))


def bytes_present(left: Iterable[Job]) -> float:
    """Add up the bytes of the stores that jobs make anew, or go on with."""
    stores = (store for job in left for name in job["samples"] if (store := _store(job, name)))
    files = (file for store in stores for file in store.rglob("*"))
    return float(sum(file.stat().st_size for file in files if file.is_file()))


def _store(job: Job, name: str) -> Path | None:
    """Return where a job keeps what it makes of a sample."""
    folder, kind = Path(job["outputs"][0]).parent, {"weigh": ".zarr"}.get(job["stage"], ".ome.zarr")
    known = job["stage"] in ("convert", "weigh", "predict", "split")
    return folder / f"{name}{kind}" if known else None


# ------------------------------------------------------------------------------------------- sizes


class Sizes(dict[str, Size]):
    """Sizes of the samples whose size is known, by name.

    Attributes
    ----------
    headers : dict of name to Header
        Of the samples whose raw file had to be looked at.
    faults : list of str
        Messages of raw files that cannot be read.
    """

    headers: dict[str, Header]
    faults: list[str]


def measure(told: Told, left: Sequence[Job]) -> Sizes:
    """Find the sizes of all samples: from manifests, from raw headers, or as they will be drawn."""
    rows, datasets = told["samples"], told["config"]["datasets"]
    converting = {name for job in left if job["stage"] == "convert" for name in job["samples"]}
    sizes = Sizes(_converted(told, converting))
    rest = {name: row for name, row in rows.items() if name not in sizes}
    sizes.headers, sizes.faults = _read_headers(rest)
    for name, row in rest.items():
        drawn = datasets[row["dataset"]]["phantom"]
        if header := sizes.headers.get(name):
            # Larger segments are refused: nobody ever holds them in memory.
            segment = header.segment if header.segment <= LARGEST_SEGMENT else 0
            sizes[name] = _size(row, header.shape, header.itemsize, segment)
        elif drawn:
            sizes[name] = _size(row, (1, *drawn["shape"]), PHANTOM[drawn["kind"]])
    return sizes


def _size(row: Mapping[str, Any], shape: Sequence[int], itemsize: int, segment: int = 0) -> Size:
    c, z, y, x = shape
    z = min(z, row["planes"][1] - row["planes"][0]) if row["planes"] else z
    channels = c if row["channels"] == "all" else len(row["channels"])
    labels = row["labels"] if row["label"] else ""
    return Size((channels, z, y, x), itemsize, segment, labels, row["objects"])


def _converted(told: Told, converting: set[str]) -> dict[str, Size]:
    """Read the sizes of samples that are converted, and are not to be again."""
    found = {}
    for job in told["jobs"]:
        if job["stage"] != "convert" or _is_missing(job):
            continue
        if not converting.isdisjoint(job["samples"]):
            continue
        for entry in read_manifest(Path(job["outputs"][0]))["samples"]:
            row = told["samples"].get(f"{entry['dataset']}/{entry['sample']}")
            if row is not None and entry["status"] == "done":
                itemsize = np.dtype(entry["dtype"]).itemsize
                name = f"{entry['dataset']}/{entry['sample']}"
                found[name] = _size({**row, "channels": "all"}, entry["shape"], itemsize)
    return found


def _read_headers(rows: Mapping[str, Any]) -> tuple[dict[str, Header], list[str]]:
    """Read the headers of the raw files that are there."""

    def read(name: str) -> Header | str:
        try:
            return read_header(Path(rows[name]["image"]))
        except FileNotFoundError:
            return ""  # drawn or fetched first, or else an error of the sheet
        except (ValueError, OSError) as error:
            return f"{name}: {error}"

    with ThreadPoolExecutor(READERS) as pool:
        found = dict(zip(rows, pool.map(read, rows), strict=True))
    headers = {name: header for name, header in found.items() if isinstance(header, Header)}
    return headers, sorted(text for text in found.values() if isinstance(text, str) and text)


# -------------------------------------------------------------------------------- earlier attempts


def speed_of(job: Job, told: Told) -> str:
    """Say what besides the number of pixels decides how long a job takes, as text."""
    if job["stage"] not in ("train", "predict", "audit_seams"):
        return ""
    experiment = told["config"]["experiments"][job["experiment"]]
    how = experiment["training" if job["stage"] == "train" else "prediction"]
    # The work is counted in steps if the tile is not known, and depends on the depth used.
    more = how["depth"] if job["stage"] != "train" else "auto" in (how["tile"], how["batch"])
    return canonical_json([experiment["network"], how["device"], how["precision"], more])


def models_of(job: Job) -> int:
    """Return how many models a job predicts with: of an ensemble several."""
    # Beside the images, and for an audit the prediction.
    return max(1, len(job.get("inputs", ())) - (2 if job["stage"] == "audit_seams" else 1))


def work_of(job: Job, sizes: Iterable[Size], told: Told) -> float:
    """Return the work of a job in Mpx: of its samples, of all training tiles; or in windows.

    The work of a training whose tile or batch is ``auto`` is in steps.
    """
    if job["stage"] == "train":
        training = told["config"]["experiments"][job["experiment"]]["training"]
        if "auto" in (training["tile"], training["batch"]):
            return training["steps"]
        return training["steps"] * training["batch"] * training["tile"] ** 2 / 1e6
    if job["stage"] == "audit_seams":
        return told["config"]["audit"]["windows"]
    times, own = 1, told["config"]["experiments"].get(job.get("experiment"), {})
    if job["stage"] == "predict":
        times = own["prediction"]["symmetries"] * models_of(job)
    if job["stage"] == "tune":
        times = grids.size(grids.grid_of(own["instances"]))
    return times * sum(size.mpx for size in sizes)


def earlier(told: Told, sizes: Mapping[str, Size]) -> Iterator[Attempt]:
    """Yield what earlier jobs did, and in what time.

    Stores note their attempts; of a stage that makes none, Snakemake's benchmark files tell.
    """
    looked_at: dict[str, int] = defaultdict(int)
    for job in told["jobs"]:
        names = [name for name in job["samples"] if name in sizes]
        if looked_at[job["stage"]] < LOOKED_AT:
            looked_at[job["stage"]] += len(names)
            yield from _noted(job, names, told, sizes) or _benchmarked(job, names, told, sizes)


def _noted(job: Job, names: Sequence[str], told: Told, sizes: Mapping[str, Size]) -> list[Attempt]:
    """Read the attempts at a job's stores: of each process the time between first and last."""
    spans: dict[tuple[str, int], list[tuple[float, float, float]]] = defaultdict(list)
    if job["stage"] == "train":
        folders = [(Path(job["outputs"][0]).with_suffix(""), work_of(job, (), told), 0.0)]
    else:
        folders = [
            (store, work_of(job, [sizes[name]], told), _block(sizes[name], told))
            for name in names
            if (store := _store(job, name))
        ]
    for folder, mpx, block in folders:
        for who, start, seconds, share in _attempts(folder, block / mpx if mpx else 0.0):
            spans[who].append((start, start + seconds, mpx * share))
    return [
        Attempt(job["stage"], speed_of(job, told), host, sum(s[2] for s in found), _covered(found))
        for (host, _), found in spans.items()
    ]


def _block(size: Size, told: Told) -> float:
    """Return the millions of pixels of a block."""
    shard = shard_extent(size.shape, told["config"]["storage"])
    return min(shard, size.shape[2]) * min(shard, size.shape[3]) / 1e6


def _attempts(folder: Path, block: float) -> Iterator[tuple[tuple[str, int], float, float, float]]:
    """Yield process, start, seconds and share of the work of each attempt that noted its end.

    An attempt that did not do everything did as much as its blocks, of which each is `block` of
    the work.
    """
    whole: dict[str, bool] = {}
    for line in read_attempts(folder):
        if line["event"] == "start":
            whole[line["attempt"]] = line["reason"] != "resumed"
        if line["event"] == "end":
            is_whole = whole.get(line["attempt"], False) and line["outcome"] == "done"
            share = 1.0 if is_whole else min(1.0, line["blocks"] * block)
            who = (line["host"], line["pid"])
            yield who, line["time"] - line["seconds"], line["seconds"], share


def _covered(spans: Iterable[tuple[float, float, float]]) -> float:
    """Return the seconds in which at least one of several spans went on.

    Examples
    --------
    >>> _covered([(0, 4, 1.0), (1, 2, 1.0), (10, 13, 1.0)])
    7.0
    """
    seconds, reached = 0.0, -np.inf
    for start, stop, _ in sorted(spans):
        seconds += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return float(seconds)


def _benchmarked(
    job: Job, names: Sequence[str], told: Told, sizes: Mapping[str, Size]
) -> list[Attempt]:
    """Read Snakemake's benchmark of a job, which is of this machine as far as anyone knows."""
    results = Path(told["config"]["results"])
    path = results / "benchmarks" / "phantom" / f"{_dataset(job)}.tsv"
    if job["stage"] != "phantom":
        path = results / "benchmarks" / Path(job["outputs"][0]).relative_to(results)
    path = path.with_suffix(".tsv")
    if not path.exists() or not names:
        return []
    with path.open(newline="") as file:
        seconds = [number(row.get("s")) for row in csv.DictReader(file, delimiter="\t")]
    mpx = work_of(job, [sizes[name] for name in names], told)
    # Starting a job is counted apart; of a job that did little else, something is left.
    taken = [max(s - STARTING, s / 5) for s in seconds if s > 0]
    return [Attempt(job["stage"], speed_of(job, told), socket.gethostname(), mpx, s) for s in taken]


def _dataset(job: Job) -> str:
    return next(iter(job["samples"])).partition("/")[0]
