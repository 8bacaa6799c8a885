"""Read a results folder into plain records: what ran, how it went, how long it took.

A results folder may be partial (a stage did not run, or stopped). What is missing is an empty list
and a note in plain words, never an error: a report must come out of any state of the results.
"""

import csv
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from .benchmarks import number, read_benchmarks
from .ledger import BOOKS
from .manifests import read_manifest
from .scoretable import frame

#: Stages that write one manifest per lot, in order; True where they run once per experiment.
LOT_STAGES = {
    "convert": False,
    "weigh": False,
    "predict": True,
    "audit_seams": True,
    "split": True,
    "evaluate": True,
    "view": True,
}
FOLDERS = {"audit_seams": "audit"}  # where they are not called like the stage
_KEYS = {"sample", "dataset", "split", "status", "message", "store", "fingerprint"}


@dataclass(frozen=True)
class Record:
    """One sample at one stage, from a lot's manifest.

    Parameters
    ----------
    stage, experiment, fold, lot, sample, dataset, split : str
        `experiment` and `fold` are empty for stages that run once for all experiments.
    status : {"done", "failed", "skipped"}
    message : str
        Why it was not done; else empty.
    store : Path or None
        The artifact; it need not exist any more.
    fingerprint : str
        Digest of what the artifact was made from; empty if there is none.
    facts : dict
        Everything else the stage noted, such as shape, dtype and spacing.
    """

    stage: str
    experiment: str
    fold: str
    lot: str
    sample: str
    dataset: str
    split: str
    status: str
    message: str
    store: Path | None
    fingerprint: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Model:
    """One trained model: the content of its manifest and of the files beside it.

    Of one that was brought there is no manifest; `fold` counts those of an experiment.
    """

    experiment: str
    fold: str
    manifest: dict[str, Any]
    description: dict[str, Any]
    history: dict[str, list[float]]
    depths: dict[str, list[float]] = field(default_factory=dict)
    path: Path = Path()
    brought: bool = False
    resumed: list[int] = field(default_factory=list)  # after these steps, by attempts


@dataclass(frozen=True)
class Tuned:
    """What was chosen for one model, and on what: the content of its manifest of tune."""

    experiment: str
    fold: str
    manifest: dict[str, Any]


@dataclass(frozen=True)
class Results:
    """Everything the report says in words and numbers."""

    root: Path
    records: list[Record]
    models: list[Model]
    scores: pd.DataFrame
    benchmarks: list[dict[str, Any]]
    attempts: list[dict[str, Any]]
    notes: list[str]
    tuned: list[Tuned] = field(default_factory=list)

    def at(self, stage: str, status: str = "done") -> list[Record]:
        """Return the records of one stage with one status."""
        return [r for r in self.records if r.stage == stage and r.status == status]


def read_results(
    root: Path,
    manifests: Collection[str] | None = None,
    brought: Mapping[str, Sequence[str]] | None = None,
) -> Results:
    """Read manifests, models, scores and benchmark files below a results folder.

    Parameters
    ----------
    root : Path
        The results folder; need not exist.
    manifests : collection of str, optional
        Those of this run, relative to `root`. All others are remains of earlier runs, with other
        experiments, folds or samples, and are left out. By default everything there is is read.
    brought : mapping of experiment to sequence of str, optional
        Model files that were not trained here.

    Returns
    -------
    Results
        Records are sorted by path, so the same files give the same records.
    """
    notes: list[str] = []
    records = [
        record
        for stage, per_model in LOT_STAGES.items()
        for path in _find(root, stage, "*/fold-*/*" if per_model else "*", manifests, notes)
        for record in _read_lot(path, stage, path.parent if per_model else None, notes)
    ]
    tuned = []
    for path in _find(root, "tune", "*/fold-*", manifests, []):  # a run may have none of these
        if manifest := _try_manifest(path, notes):
            fold = path.stem.removeprefix("fold-")
            tuned.append(Tuned(path.parent.name, fold, manifest))
            records += _list_records(manifest, "tune", path, path.with_suffix(""))
    models = [
        _read_model(path, notes) for path in _find(root, "train", "*/fold-*", manifests, notes)
    ]
    models += [
        _read_brought(name, str(number), Path(path))
        for name, paths in (brought or {}).items()
        for number, path in enumerate(paths)
    ]
    scores = _read_scores(root / "evaluate" / "scores.parquet", notes)
    benchmarks = read_benchmarks(root, manifests)
    return Results(root, records, models, scores, benchmarks, _read_attempts(records), notes, tuned)


def _find(
    root: Path, stage: str, pattern: str, manifests: Collection[str] | None, notes: list[str]
) -> list[Path]:
    """List the manifests of a stage that are there."""
    folder = FOLDERS.get(stage, stage)
    paths = [
        path
        for path in sorted((root / folder).glob(f"{pattern}.json"))
        if manifests is None or path.relative_to(root).as_posix() in manifests
    ]
    # A stage that is no part of the run is not missing.
    if not paths and (
        manifests is None or any(name.startswith(f"{folder}/") for name in manifests)
    ):
        notes.append(f"The stage {stage} has no results yet.")
    return paths


def _read_lot(path: Path, stage: str, model: Path | None, notes: list[str]) -> list[Record]:
    return _list_records(_try_manifest(path, notes), stage, path, model)


def _list_records(
    manifest: dict[str, Any], stage: str, path: Path, model: Path | None
) -> list[Record]:
    """Return the samples that a manifest lists; `model` ends with experiment and fold."""
    experiment = model.parent.name if model else ""
    fold = model.name.removeprefix("fold-") if model else ""
    return [
        Record(
            stage=stage,
            experiment=experiment,
            fold=fold,
            lot=str(manifest.get("lot", path.stem)),
            sample=str(entry["sample"]),
            dataset=str(entry["dataset"]),
            split=str(entry["split"]),
            status=str(entry["status"]),
            message=str(entry.get("message") or ""),
            store=path.parent / entry["store"] if entry.get("store") else None,
            fingerprint=str(entry.get("fingerprint") or ""),
            facts={k: v for k, v in entry.items() if k not in _KEYS},
        )
        for entry in manifest.get("samples", [])
    ]


def _try_manifest(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        return read_manifest(path)
    except ValueError as error:
        notes.append(f"A manifest could not be read and was left out: {error}")
        return {}


def _read_model(path: Path, notes: list[str]) -> Model:
    folder = path.with_suffix("")
    return Model(
        experiment=path.parent.name,
        fold=folder.name.removeprefix("fold-"),
        manifest=_try_manifest(path, notes),
        description=_read_json(folder / "model.json"),
        history=read_history(folder / "metrics.csv"),
        depths=read_history(folder / "depths.csv"),
        path=folder / "model.json",
        resumed=_read_resumptions(folder / BOOKS / "attempts.jsonl"),
    )


def _read_brought(experiment: str, number: str, path: Path) -> Model:
    history = read_history(path.parent / "metrics.csv")
    return Model(experiment, number, {}, _read_json(path), history, path=path, brought=True)


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def read_history(path: Path) -> dict[str, list[float]]:
    """Read a table of a training as columns of numbers; empty cells are NaN.

    Returns
    -------
    dict of column name to list of float
        Columns that hold no number at all are left out. Empty if there is no such file.
    """
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {
        name: [number(row[name]) for row in rows] for name in (rows[0] if rows else {}) if name
    }
    return {k: v for k, v in columns.items() if any(math.isfinite(n) for n in v)}


def _read_scores(path: Path, notes: list[str]) -> pd.DataFrame:
    if not path.is_file():
        notes.append("There is no table of scores yet.")
        return frame([])
    scores = pd.read_parquet(path)
    for name in ("experiment", "fold", "dataset", "sample", "split"):
        scores[name] = scores[name].astype("object").where(scores[name].notna(), "").astype(str)
    return scores


def _read_attempts(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Read what the stores noted about the machines that made them."""
    notes = []
    for record in records:
        if record.store is None:
            continue
        path = record.store / BOOKS / "attempts.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        notes += [{"stage": record.stage, **note} for line in lines if (note := _json_line(line))]
    return notes


def _read_resumptions(path: Path) -> list[int]:
    """Return the steps after which killed attempts at a training were taken up."""
    notes = map(_json_line, path.read_text().splitlines() if path.is_file() else [])
    return [note["resumed_after_step"] for note in notes if "resumed_after_step" in note]


def _json_line(line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return {}  # the process died while writing this line


def describe_datasets(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Summarise the converted samples of each data set.

    Parameters
    ----------
    records : sequence of Record
        Of the stage convert, all statuses.

    Returns
    -------
    list of dict
        ``dataset``, ``splits`` (samples per split), ``failed``, and the distinct ``shapes``,
        ``dtypes`` and known ``spacings`` of the samples that were converted.
    """
    table = []
    for dataset in dict.fromkeys(record.dataset for record in records):
        mine = [record for record in records if record.dataset == dataset]
        done = [record.facts for record in mine if record.status == "done"]
        splits: dict[str, int] = {}
        for record in mine:
            splits[record.split] = splits.get(record.split, 0) + 1
        table.append(
            {
                "dataset": dataset,
                "splits": splits,
                "failed": len(mine) - len(done),
                "shapes": sorted({tuple(f["shape"]) for f in done if f.get("shape")}),
                "dtypes": sorted({str(f["dtype"]) for f in done if f.get("dtype")}),
                "spacings": sorted({tuple(f["spacing"]) for f in done if _knows_spacing(f)}),
            }
        )
    return table


def _knows_spacing(facts: Mapping[str, Any]) -> bool:
    return bool(facts.get("spacing")) and facts.get("spacing_known", True)


def list_remarks(records: Sequence[Record]) -> list[dict[str, Any]]:
    """List what is odd about samples and decides which of their scores are defined.

    Returns
    -------
    list of dict
        ``sample``, ``dataset``, ``experiment``, ``remark``: one for each remark of the evaluation.
    """
    return [
        {
            "sample": record.sample,
            "dataset": record.dataset,
            "experiment": record.experiment,
            "remark": remark,
        }
        for record in records
        if record.stage == "evaluate"
        for remark in record.facts.get("remarks", [])
    ]


def list_failures(records: Sequence[Record]) -> list[dict[str, Any]]:
    """List each failed sample once per failure, with the number of later steps it was skipped in.

    Returns
    -------
    list of dict
        ``sample``, ``dataset``, ``stage``, ``experiment``, ``fold``, ``message``, ``skipped``.
    """
    skipped: dict[str, int] = {}
    for record in records:
        if record.status == "skipped":
            skipped[record.sample] = skipped.get(record.sample, 0) + 1
    return [
        {
            "sample": record.sample,
            "dataset": record.dataset,
            "stage": record.stage,
            "experiment": record.experiment,
            "fold": record.fold,
            "message": record.message,
            "skipped": skipped.get(record.sample, 0),
        }
        for record in records
        if record.status == "failed"
    ]
