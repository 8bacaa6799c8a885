"""Times and memory of the run's jobs, from Snakemake's benchmark files."""

import csv
import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

#: The order in which stages are listed; others follow by name.
STAGES = (
    "fetch", "phantom", "convert", "weigh", "train", "predict", "tune", "split", "evaluate",
    "tabulate", "view",
)  # fmt: skip


def read_benchmarks(root: Path, manifests: Collection[str] | None = None) -> list[dict[str, Any]]:
    """Sum Snakemake's benchmark files per stage.

    Parameters
    ----------
    root : Path
        The results folder.
    manifests : collection of str, optional
        Those of this run, relative to `root`: the other jobs of a stage that writes manifests are
        left out. By default all jobs are counted.

    Returns
    -------
    list of dict
        ``stage``, ``jobs``, ``seconds`` (sum of wall times), ``longest`` (seconds),
        ``cpu_seconds`` and ``memory_mb`` (largest resident set); NaN where not measured.
    """
    kept = None if manifests is None else {str(Path(m).with_suffix(".tsv")) for m in manifests}
    named = {Path(m).parts[0] for m in manifests or ()}
    jobs: dict[str, list[Path]] = {}
    for path in sorted((root / "benchmarks").glob("*/**/*.tsv")):
        job = path.relative_to(root / "benchmarks")
        if kept is None or job.parts[0] not in named or str(job) in kept:
            jobs.setdefault(job.parts[0], []).append(path)
    # Those of the report itself can only be of an earlier run.
    order = {name: i for i, name in enumerate(STAGES)}
    stages = sorted(
        jobs.keys() - {"report", "verdict"}, key=lambda s: (order.get(s, len(order)), s)
    )
    return [_sum_benchmarks(stage, jobs[stage]) for stage in stages]


def read_job(path: Path) -> dict[str, float | None]:
    """Read what one job took: ``seconds`` and ``memory`` in bytes; None where not measured."""
    found = _sum_benchmarks("", [path] if path.is_file() else [])
    peak, seconds = found["memory_mb"] * 2**20, found["longest"]
    return {
        "seconds": seconds if math.isfinite(seconds) else None,
        "memory": peak if math.isfinite(peak) else None,
    }


def _sum_benchmarks(stage: str, paths: Iterable[Path]) -> dict[str, Any]:
    rows = []
    for path in paths:
        with path.open(newline="") as file:
            rows += list(csv.DictReader(file, delimiter="\t"))
    columns = {
        name: [n for row in rows if math.isfinite(n := number(row.get(name)))]
        for name in ("s", "cpu_time", "max_rss")
    }
    return {
        "stage": stage,
        "jobs": len(rows),
        "seconds": sum(columns["s"]),
        "longest": max(columns["s"], default=math.nan),
        "cpu_seconds": sum(columns["cpu_time"]) if columns["cpu_time"] else math.nan,
        "memory_mb": max(columns["max_rss"], default=math.nan),
    }


def duration(seconds: float) -> str:
    """Write a time for people.

    Examples
    --------
    >>> duration(4.26), duration(75), duration(7265), duration(float("nan"))
    ('4.3 s', '1 min 15 s', '2 h 1 min', '–')
    """
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def memory(megabytes: float) -> str:
    """Write an amount of memory for people.

    Examples
    --------
    >>> memory(312.4), memory(5120), memory(float("nan"))
    ('312 MB', '5.0 GB', '–')
    """
    if not math.isfinite(megabytes):
        return "–"
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1024:.1f} GB"


def number(text: str | None) -> float:
    """Read a number; what is missing or no number is NaN.

    Examples
    --------
    >>> number("2.5"), number("NA"), number(None)
    (2.5, nan, nan)
    """
    try:
        return float(text or "nan")
    except ValueError:  # Snakemake writes NA or - where it could not measure
        return math.nan
