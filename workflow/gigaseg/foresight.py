"""What was forecast before the run beside what it took: time, memory and disk of each stage."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .benchmarks import STAGES, read_job
from .manifests import read_manifest
from .summaries import FOLDERS, Results

_STAGE_OF = {folder: stage for stage, folder in FOLDERS.items()}


@dataclass(frozen=True)
class Comparison:
    """One stage: forecast and actual, in seconds and bytes; None where it is not known.

    Only jobs of which both are known are counted, for each quantity by itself: `jobs` says how
    many of `of` in seconds.
    """

    stage: str
    jobs: int
    of: int
    seconds: tuple[float, float] | None
    memory: tuple[float, float] | None
    disk: tuple[float, float] | None


def compare_forecast(results: Results) -> list[Comparison] | None:
    """Compare the forecast of the jobs of a run with what they took.

    Parameters
    ----------
    results : Results

    Returns
    -------
    list of Comparison, or None
        None if no forecast was kept: the run was begun by an older version, or in an environment
        without the packages that a forecast needs.
    """
    path = results.root / "benchmarks" / "forecast.json"
    if not path.is_file():
        return None
    told = read_manifest(path)["jobs"]
    stores = _stores(results)
    stages: dict[str, list[str]] = {}
    for manifest in told:
        if manifest in stores:
            folder = Path(manifest).parts[0]
            stages.setdefault(_STAGE_OF.get(folder, folder), []).append(manifest)
    order = {stage: place for place, stage in enumerate(STAGES)}
    return [
        _compare(stage, stages[stage], told, stores, results.root)
        for stage in sorted(stages, key=lambda stage: (order.get(stage, len(order)), stage))
    ]


def _stores(results: Results) -> dict[str, list[Path]]:
    """Return the stores of every job of the run, by its manifest."""
    stores: dict[str, list[Path]] = {}
    for record in results.records:
        folder = FOLDERS.get(record.stage, record.stage)
        model = [record.experiment, f"fold-{record.fold}"] if record.experiment else []
        job = "/".join([folder, *model, f"{record.lot}.json"])
        stores.setdefault(job, []).extend([record.store] if record.store else [])
    for model_ in results.models:
        job = f"train/{model_.experiment}/fold-{model_.fold}.json"
        stores[job] = [(results.root / job).with_suffix("")]
    return stores


def _compare(
    stage: str,
    manifests: Sequence[str],
    told: Mapping[str, Any],
    stores: Mapping[str, Sequence[Path]],
    root: Path,
) -> Comparison:
    took = {
        one: read_job(
            (root / "benchmarks" / stage / Path(*Path(one).parts[1:])).with_suffix(".tsv")
        )
        for one in manifests
    }
    times = _pairs((told[m]["seconds"], took[m]["seconds"]) for m in manifests)
    peaks = _pairs((told[m]["memory"], took[m]["memory"]) for m in manifests)
    sizes = _pairs((told[m]["disk"] or None, _bytes(stores[m])) for m in manifests)
    return Comparison(
        stage,
        len(times),
        len(manifests),
        _reduce(times, sum),
        _reduce(peaks, max),
        _reduce(sizes, sum),
    )


def _pairs(values: Iterable[tuple[float | None, float | None]]) -> list[tuple[float, float]]:
    return [(a, b) for a, b in values if a is not None and b is not None]


def _reduce(pairs: Sequence[tuple[float, float]], how: Any) -> tuple[float, float] | None:
    return (how(a for a, _ in pairs), how(b for _, b in pairs)) if pairs else None


def _bytes(folders: Iterable[Path]) -> float | None:
    """Return the size of all files in some folders; None if there is none."""
    total = 0
    for folder in folders:
        for where, _, names in os.walk(folder):
            total += sum((Path(where) / name).stat().st_size for name in names)
    return float(total) or None
