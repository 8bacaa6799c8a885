"""forecast: what the jobs that are left will take, and whether it is there; writes nothing."""

import math
import os
import shutil
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..allocations import allocation
from ..classes import NAMES
from ..forecast import Need, Size, checkpoints, disk, duration, pictures, rates, stored, total
from ..grids import map_metric_of
from ..manifests import read_manifest, write_manifest
from ..memory import (
    LESSON,
    LIBRARIES,
    mismatch_files,
    models_memory,
    sample_memory,
    training_memory,
)
from ..outlook import Machine, Outlook, Part, brief, refusals, table, warnings
from ..pyramids import COARSE, MANY_FILES
from ..sizing import parameters
from ..survey import (
    Sizes,
    bytes_present,
    earlier,
    jobs_left,
    measure,
    models_of,
    speed_of,
    work_of,
)
from ..volumes import shard_extent

Job = Mapping[str, Any]

THREADS = 2  # of every job but training, as the rules say
LARGE = 10.0  # Mpx; samples from here on have lines of their own ...
LINES = 10  # ... but at most this many of a data set

MODEL = 10  # files of a trained network
ONE_BY_ONE = ("phantom", "convert")  # stages that work on one sample of a lot after the other
HIRING = ("convert", "split")  # stages whose jobs have Dask workers, each as large as the job
RAW = 1.0  # bytes on disk per voxel of a drawn sample with its labels


class CannotFit(OSError):
    """A run needs more than there is."""


def run(*, settings: Mapping[str, Any]) -> str:
    """Write the forecast of all that is left, as text.

    Parameters
    ----------
    settings : mapping
        What `gigaseg.plan.Plan.forecast` tells.
    """
    outlook, machine, present = look_ahead(settings, local=True)
    notes = [*refusals(outlook, machine, present), *warnings(outlook, machine, present)]
    return "\n".join([table(outlook, machine), *(f"Look out: {note}" for note in notes)])


def before_run(settings: Mapping[str, Any], *, local: bool) -> tuple[str, Outlook]:
    """Write the forecast of a run that is about to begin, in a few lines.

    Parameters
    ----------
    settings : mapping
        What `gigaseg.plan.Plan.forecast` tells.
    local : bool
        Whether the jobs run on this machine, whose memory then counts.

    Returns
    -------
    str, Outlook
        The lines, empty if nothing is left to do; and what they sum up, for `keep`.

    Raises
    ------
    CannotFit
        If it needs more disk or memory than there is; the message says what to change.
    """
    outlook, machine, present = look_ahead(settings, local=local)
    if not outlook.stages:
        return "", outlook
    if problems := refusals(outlook, machine, present):
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise CannotFit(f"This run cannot fit, so nothing was begun:{lines}")
    notes = warnings(outlook, machine, present)
    text = "\n".join([brief(outlook, machine), *(f"Look out: {note}" for note in notes)])
    return text, outlook


def keep(outlook: Outlook, results: Path) -> None:
    """Remember what was forecast of each job; newer forecasts replace older ones.

    The report compares it with what jobs took, and on a cluster jobs ask for it.

    Parameters
    ----------
    outlook : Outlook
        From `before_run`.
    results : Path
        Folder of the results; ``benchmarks/forecast.json`` is written as a whole or not at all.
    """
    path = results / "benchmarks" / "forecast.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    jobs = read_manifest(path)["jobs"] if path.is_file() else {}
    for manifest, need in outlook.jobs.items():
        if Path(manifest).is_relative_to(results):  # not the raw files that are drawn
            seen, alone = not need.unseen, need.jobs == 1  # several jobs: its own is the last
            jobs[Path(manifest).relative_to(results).as_posix()] = {
                "disk": need.disk if seen else None,
                "memory": need.memory if seen and alone else None,
                "seconds": need.seconds if seen and alone and not need.unknown else None,
                **(allocation(need.memory, None if need.unknown else need.seconds) if seen else {}),
            }
    write_manifest(path, {"jobs": jobs})


def look_ahead(settings: Mapping[str, Any], *, local: bool) -> tuple[Outlook, Machine, float]:
    """Forecast the jobs that are left.

    Returns
    -------
    outlook : Outlook
    machine : Machine
    present : float
        Bytes that the stores to be made have already; looked for only where the disk is short.
    """
    machine = look_around(Path(settings["config"]["results"]), local=local)
    left = jobs_left(settings)
    if not left:
        return Outlook({}, {}), machine, 0.0
    sizes = measure(settings, left)
    speeds = rates(earlier(settings, sizes), socket.gethostname())
    outlook = _Forecast(settings, sizes, speeds).outlook(left)
    short = outlook.total.room > machine.disk
    return outlook, machine, bytes_present(left) if short else 0.0


def look_around(results: Path, *, local: bool) -> Machine:
    """Measure free disk and memory.

    Parameters
    ----------
    results : Path
        Folder of the results; need not exist.
    local : bool
        Whether jobs run here; if not, this machine's memory says nothing.
    """
    results = results.absolute()
    there = next(folder for folder in (results, *results.parents) if folder.exists())
    status = os.statvfs(there)
    files = status.f_favail if status.f_files else None  # some file systems do not count files
    return Machine(shutil.disk_usage(there).free, files, _memory() if local else None)


def _memory() -> float:
    """Return the bytes of memory of this machine, or of the part that a container may use."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdecimal():
        memory = min(memory, int(text))
    return float(memory)


@dataclass
class _Forecast:
    """What is known before a run, and the needs that follow."""

    settings: Mapping[str, Any]
    sizes: Sizes
    speeds: Mapping[tuple[str, str], float]
    known: dict[tuple[str, Size, str | None, int], float] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    def outlook(self, left: Sequence[Job]) -> Outlook:
        """Put the needs of jobs together: by group of samples, and by stage."""
        titles = self._titles(left)
        groups: dict[str, dict[str, Need]] = {title: {} for title in dict.fromkeys(titles.values())}
        stages: dict[str, Need] = {}
        jobs: dict[str, Need] = {}
        for job in left:
            stage, need = job["stage"], self.need(job, job["samples"])
            stages[stage] = stages.get(stage, Need()) + need
            jobs[job["outputs"][0]] = need
            for title, names in _grouped(job, titles).items():
                known = groups.setdefault(title, {})
                known[stage] = known.get(stage, Need()) + self.need(job, names)
        extremes = [self._extreme(job) for job in left if job["samples"]]
        faults = [*self.sizes.faults, *self.faults.values()]
        return Outlook(groups, stages, extremes, faults, jobs)

    def need(self, job: Job, names: Iterable[str]) -> Need:
        """Forecast one job, as far as it works on these samples."""
        names = list(names)
        known = [self.sizes[name] for name in names if name in self.sizes]
        speed = self.speeds.get((job["stage"], speed_of(job, self.settings)))
        time = duration(work_of(job, known, self.settings), speed)
        jobs = 1
        if job["stage"] == "predict":
            parts = self._settings(job)["prediction"]["jobs_per_sample"]
            jobs += parts + 1 if parts > 1 else 0  # one opens, the parts fill, one commits
        peak = Need(jobs=jobs, memory=self._peak(job, known))
        return peak + time + self._disk(job, known) + Need(unseen=len(names) - len(known))

    def _settings(self, job: Job) -> Mapping[str, Any]:
        config = self.settings["config"]
        return {**config, **config["experiments"].get(job.get("experiment"), {})}

    def _disk(self, job: Job, known: Sequence[Size]) -> Need:
        stage, settings = job["stage"], self._settings(job)
        if stage == "train":
            count = self._parameters(job, known)
            passing = checkpoints(count, settings["training"])
            return Need(disk=2 * 4 * count, passing=passing, files=MODEL)
        if stage == "phantom":
            return Need(disk=RAW * sum(size.voxels for size in known), files=2 * len(known))
        if stage == "tune" and map_metric_of(settings["instances"]) == "splits_and_mergers":
            files = (mismatch_files(size, THREADS) for size in known)
            return Need(passing=max(files, default=0.0))
        if stage == "evaluate":
            at_once = min(THREADS, len(settings["evaluation"]["thresholds"]))
            return Need(disk=max((mismatch_files(size, at_once) for size in known), default=0.0))
        target = settings.get("target", "foreground")
        if stage == "view":
            smallest = settings["storage"]["smallest_level"]
            return total(pictures(size, target, settings["view"], smallest) for size in known)
        storage = tuple(settings["storage"][key] for key in ("chunk", "shard", "smallest_level"))
        return total(_store(stage, size, target, storage) for size in known)

    def _peak(self, job: Job, known: Sequence[Size]) -> float:
        stage = job["stage"]
        peak = LIBRARIES[stage]
        if stage == "train":
            kept = sum(
                s.voxels * (s.shape[0] * s.itemsize + 5) for s in known
            )  # target, separation
            return self._training(job, peak + min(LESSON, kept), known)
        if stage in ("predict", "audit_seams"):
            peak += models_memory(self._parameters(job, known), models_of(job))
        at_once = 1 if stage in ONE_BY_ONE else max(1, min(THREADS, len(known)))
        works = (self._work(stage, size, job.get("experiment"), at_once) for size in set(known))
        hired = self.settings["config"]["dask"]["workers"] if stage in HIRING else 0
        return (1 + hired) * (peak + at_once * max(works, default=0.0))

    def _work(self, stage: str, size: Size, experiment: str | None, at_once: int) -> float:
        """Return the memory of one sample's work; samples of a size are asked about often."""
        key = stage, size, experiment, at_once
        if key not in self.known:
            settings = self._settings({"experiment": experiment})
            shard = _shard(stage, size, settings["storage"])
            threads = THREADS // at_once
            try:
                self.known[key] = sample_memory(stage, size, settings, shard, threads)
            except ValueError as error:  # no tile fits: the stage will say so of every such sample
                self.faults[str(error)] = f"{stage}: {error}"
                self.known[key] = 0.0
        return self.known[key]

    def _training(self, job: Job, common: float, known: Sequence[Size]) -> float:
        """Return the memory of all processes of a training, which share its batches."""
        experiment = self._settings(job)
        own = 6 * 4 * self._parameters(job, known)
        step = training_memory(experiment["network"], experiment["training"])
        return float(experiment["training"]["processes"] * (common + own) + step)

    def _parameters(self, job: Job, known: Sequence[Size]) -> int:
        experiment = self._settings(job)
        channels, classes = max((s.shape[0] for s in known), default=1), NAMES[experiment["target"]]
        return parameters(channels, len(classes), experiment["network"])

    def _titles(self, left: Sequence[Job]) -> dict[str, str]:
        """Say under which heading each sample stands, in the order of the sheet."""
        datasets: dict[str, list[str]] = {}
        for name in dict.fromkeys(n for j in left if j["stage"] != "train" for n in j["samples"]):
            datasets.setdefault(name.partition("/")[0], []).append(name)
        titles = {}
        for dataset, names in datasets.items():
            sized = {name: self.sizes[name] for name in names if name in self.sizes}
            large = sorted(sized, key=lambda name: -sized[name].mpx)[:LINES]
            alone = {name for name in large if sized[name].mpx >= LARGE}
            rest = [name for name in names if name not in alone]
            mpx = sum(sized[name].mpx for name in rest if name in sized)
            together = f"{dataset}: {_count(len(rest))}, {mpx:,.1f} Mpx"
            for name in names:
                titles[name] = _title(name, sized[name]) if name in alone else together
        return titles

    def _extreme(self, job: Job) -> Part:
        """Describe the largest sample of a job."""
        known = [name for name in job["samples"] if name in self.sizes]
        if not known or job["stage"] == "train":
            title = f"experiment {job['experiment']}" if job["stage"] == "train" else job["stage"]
            return Part(title, job["stage"], self.need(job, known))
        name = max(known, key=lambda name: self.sizes[name].voxels * self.sizes[name].shape[0])
        header = self.sizes.headers.get(name)
        path = self.settings["samples"][name]["image"] if header else ""
        stored_bytes = header.stored if header else 0
        need = self.need(job, [name])
        return Part(name, job["stage"], need, self.sizes[name], path, stored_bytes)


def _count(samples: int) -> str:
    return f"{samples:,} sample{'s' if samples != 1 else ''}"


def _title(name: str, size: Size) -> str:
    extents = " x ".join(str(n) for n in size.shape[1:] if n > 1)
    return f"{name}: {extents} px, {size.mpx:,.1f} Mpx"


def _grouped(job: Job, titles: Mapping[str, str]) -> dict[str, list[str]]:
    """Part the samples of a job by heading; training is the experiment's own."""
    if job["stage"] == "train":
        return {f"experiment {job['experiment']}": list(job["samples"])}
    groups: dict[str, list[str]] = {}
    for name in job["samples"]:
        groups.setdefault(titles[name], []).append(name)
    return groups


def _shard(stage: str, size: Size, storage: Mapping[str, Any]) -> int:
    """Return the extent of a block in y and x; weigh has small ones, and smaller ones in space."""
    if stage != "weigh":
        return shard_extent(size.shape, storage)
    return storage["chunk"] if size.objects == "volume" else shard_extent((1, 1, 1), storage)


@cache
def _store(stage: str, size: Size, target: str, storage: tuple[int, int | str, int]) -> Need:
    chunk, given, smallest = storage
    shard = _shard(stage, size, {"chunk": chunk, "shard": given})
    pieces = math.prod(-(-n // shard) for n in size.shape[2:])
    many = given == "auto" and pieces > MANY_FILES and stage != "weigh"

    def edge(level: int) -> int:
        """Coarser levels of whole chunks are joined from small files, and too many files are."""
        joined = (shard >> level) % chunk == 0 if level else many
        return shard * (COARSE if joined else 1)

    arrays = stored(stage, size, target, chunk=chunk)
    return disk(arrays, smallest=smallest, edge=edge)
