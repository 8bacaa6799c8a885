"""A forecast in words: the table, the few lines at the start of a run, what cannot fit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .benchmarks import duration
from .forecast import TYPICAL, Need, Size, total

#: A forecast of memory is at most this many times what a job really takes.
CAUTION = 3

WIDTH = 100  # columns
#: What makes the peak of a stage smaller.
ADVICE = {
    "phantom": "draw smaller samples (phantom: shape)",
    "convert": "save the file in tiles, or its planes as files of their own",
    "weigh": "lower storage.shard",
    "train": "lower training.tile, training.batch (training.memory_gb, if auto) or network.width",
    "predict": "lower prediction.memory_gb, prediction.batch or storage.shard",
    "tune": "validate on smaller samples",
    "split": "cut the volume into smaller samples, or split plane by plane (objects: plane)",
    "evaluate": "set evaluation.thresholds to [], or cut the volume into smaller samples",
}


@dataclass(frozen=True)
class Machine:
    """What there is: free bytes and files of the results' disk, bytes of memory; None: unknown."""

    disk: float
    files: float | None = None
    memory: float | None = None


@dataclass(frozen=True)
class Part:
    """One sample or experiment in one stage, where it came from, and what it takes."""

    name: str
    stage: str
    need: Need
    size: Size | None = None
    path: str = ""
    stored: int = 0


@dataclass(frozen=True)
class Outlook:
    """A forecast.

    Attributes
    ----------
    groups : mapping of title to mapping of stage to Need
        Large samples, the small ones of a data set together, experiments.
    stages : mapping of stage to Need
        All together.
    extremes : sequence of Part
        The parts that take most, for messages.
    faults : sequence of str
        Messages of raw files whose header cannot be read.
    jobs : mapping of path to Need
        Each job by itself, by its manifest.
    """

    groups: Mapping[str, Mapping[str, Need]]
    stages: Mapping[str, Need]
    extremes: Sequence[Part] = ()
    faults: Sequence[str] = ()
    jobs: Mapping[str, Need] = field(default_factory=dict)

    @property
    def total(self) -> Need:
        """The whole run."""
        return total(self.stages.values())


def amount(size: float) -> str:
    """Write a number of bytes for people.

    Examples
    --------
    >>> amount(0), amount(312), amount(4.2e6), amount(2.0**50)
    ('0 B', '312 B', '4.2 MB', '1.1 PB')
    """
    units = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
    power = 0
    while size >= 999.5 and power < len(units) - 1:
        size, power = size / 1000, power + 1
    return f"{size:.{1 if power and size < 99.95 else 0}f} {units[power]}"


def table(outlook: Outlook, machine: Machine) -> str:
    """Write the whole forecast, at most 100 columns wide.

    Parameters
    ----------
    outlook : Outlook
    machine : Machine

    Examples
    --------
    >>> need = Need(disk=4e6, files=12, jobs=1, memory=5e8, seconds=70)
    >>> outlook = Outlook({"cells: 2 samples": {"convert": need}}, {"convert": need})
    >>> print(table(outlook, Machine(1e9, memory=8e9)).split("Disk")[0].rstrip())
                                  jobs       disk      files     memory          time
    cells: 2 samples
      convert                        1     4.0 MB         12     500 MB   1 min 10 s
    whole run
      convert                        1     4.0 MB         12     500 MB   1 min 10 s
      together                       1     4.0 MB         12     500 MB   1 min 10 s
    there is                               1.0 GB                8.0 GB
    """
    if not outlook.stages:
        return "Nothing is left to do: all results are there and up to date."
    lines = [_cells("", "jobs", "disk", "files", "memory", "time")]
    for title, needs in outlook.groups.items():
        lines += [title[:WIDTH], *(_line(stage, need) for stage, need in needs.items())]
    lines += ["whole run", *(_line(stage, need) for stage, need in outlook.stages.items())]
    lines.append(_line("together", outlook.total))
    files = "" if machine.files is None else f"{machine.files:,.0f}"
    memory = "" if machine.memory is None else amount(machine.memory)
    lines.append(_cells("there is", "", amount(machine.disk), files, memory, ""))
    return "\n".join(line.rstrip() for line in [*lines, "", *_notes(outlook)])


def brief(outlook: Outlook, machine: Machine) -> str:
    """Write the forecast in a line, for the start of a run.

    Examples
    --------
    >>> need = Need(disk=4e6, files=12, jobs=3, memory=5e8, seconds=70, unknown=1)
    >>> print(brief(Outlook({}, {"split": need}), Machine(1e9, memory=8e9)))
    Forecast: 4.0 MB of disk (1.0 GB free), 500 MB of memory (of 8.0 GB), 1 min 10 s + 1 job
    """
    need = outlook.total
    memory = "" if machine.memory is None else f" (of {amount(machine.memory)})"
    return (
        f"Forecast: {amount(need.room)} of disk ({amount(machine.disk)} free), "
        f"{amount(need.memory)} of memory{memory}, {_time(need).replace('unknown', 'time unknown')}"
    )


def refusals(outlook: Outlook, machine: Machine, present: float = 0.0) -> list[str]:
    """Say what cannot fit, and what to change; nothing if all may fit.

    Only what is certain: disk at the best compression, memory with all caution taken off.

    Parameters
    ----------
    outlook : Outlook
    machine : Machine
    present : float
        Bytes of stores that the run makes anew or goes on with: they are not needed twice.
    """
    need = outlook.total
    if need.least + need.passing - present > machine.disk:
        return [
            f"disk: {amount(need.room)} are needed, at the very best compression "
            f"{amount(need.least + need.passing)}, and {amount(machine.disk)} are free"
            f"{_blame(outlook, 'least')}. Set `results` to a folder with more room, or take "
            f"samples from the sheet: this one, if its header is wrong"
        ]
    return [_memory(*found, machine) for found in _beyond(outlook, machine, CAUTION)]


def warnings(outlook: Outlook, machine: Machine, present: float = 0.0) -> list[str]:
    """Say what may not fit, and what of the raw files cannot be foreseen."""
    found = []
    need = outlook.total
    if need.room - present > machine.disk >= need.least + need.passing - present:
        found.append(
            f"disk may run out: about {amount(need.room)} are needed, {amount(machine.disk)} are "
            f"free{_blame(outlook, 'disk')}"
        )
    if machine.files is not None and need.files > machine.files:
        found.append(
            f"the disk may run out of files: {need.files:,} are needed, {machine.files:,.0f} are "
            f"free{_blame(outlook, 'files')}: raise storage.shard"
        )
    sure = {stage for stage, _ in _beyond(outlook, machine, CAUTION)}
    for stage, part in _beyond(outlook, machine, 1):
        if stage not in sure:
            found.append(f"{_memory(stage, part, machine)} (it may still fit)")
    if outlook.faults:
        count = len(outlook.faults)
        which = f"{count} samples cannot be forecast, the first" if count > 1 else "no forecast"
        found.append(f"{which}: {outlook.faults[0]}")
    return found


def _beyond(outlook: Outlook, machine: Machine, factor: int) -> Iterator[tuple[str, Part | None]]:
    """Yield the stages whose largest job has more than `factor` times the machine's memory."""
    for stage, need in outlook.stages.items():
        if machine.memory is not None and need.memory > factor * machine.memory:
            parts = [p for p in outlook.extremes if p.stage == stage]
            yield stage, max(parts, key=lambda part: part.need.memory, default=None)


def _memory(stage: str, part: Part | None, machine: Machine) -> str:
    peak = "" if part is None else f" {amount(part.need.memory)} for {_describe(part)}"
    return (
        f"memory: {stage} takes about{peak}, and this machine has {amount(machine.memory or 0)}: "
        f"{ADVICE.get(stage, 'use a larger machine')}, or use a larger machine"
    )


def _blame(outlook: Outlook, what: str) -> str:
    """Name the part that takes most of something."""
    parts = [part for part in outlook.extremes if getattr(part.need, what) > 0]
    if not parts:
        return ""
    part = max(parts, key=lambda part: getattr(part.need, what))
    return f"; most goes to {_describe(part)}"


def _describe(part: Part) -> str:
    if part.size is None:
        return part.name
    extents = [n for n in part.size.shape[1:] if n > 1] or [1]
    where = f" in {part.path} (a file of {amount(part.stored)})" if part.path else ""
    return f"{part.name}, {' x '.join(map(str, extents))} px{where}"


def _line(stage: str, need: Need) -> str:
    disk, files = (amount(need.disk), f"{need.files:,}") if need.files else ("", "")
    if need.unseen:
        disk, files = f"> {disk}" if disk else "unknown", f"> {files}" if files else "unknown"
    memory = amount(need.memory) if need.memory else "unknown"
    return _cells(f"  {stage}", f"{need.jobs:,}", disk, files, memory, _time(need))


def _time(need: Need) -> str:
    if not need.seconds:
        return "unknown" if need.unknown else ""
    more = f" + {need.unknown} job{'s' if need.unknown > 1 else ''}" if need.unknown else ""
    return duration(need.seconds) + more


def _cells(title: str, *cells: str) -> str:
    jobs, disk, files, memory, time = cells
    return f"{title:<24}{jobs:>8}{disk:>11}{files:>13}{memory:>10}{time:>30}"


def _notes(outlook: Outlook) -> Iterator[str]:
    """Yield what the numbers rest on."""
    need = outlook.total
    assumed = ", ".join(f"{kind} {ratio:g}" for kind, ratio in TYPICAL.items())
    yield "Disk: stored bytes per byte of data as microscope images usually have them"
    yield f"      ({assumed})."
    yield "Memory: peak of the largest job, rounded up."
    yield "Time: of all jobs, one after another, by earlier ones; unknown where there is none."
    if need.unseen:
        yield f"{need.unseen} samples are not here yet, and of unknown size: they are not counted."
