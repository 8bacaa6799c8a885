"""Tune: choose settings of the instances by their score on a model's validation samples."""

import csv
import io
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np

from ..cuts import PLANE_SIDE, VOLUME_SIDE, Cut, Work, label_dtype
from ..disk import telling
from ..fingerprints import digest, fingerprint
from ..grids import combinations
from ..instances import Splitting
from ..labels import Contingency, contingency
from ..lease import Lease
from ..manifests import write_atomically, write_manifest
from ..pace import Pace
from ..planes import boundary_maps
from ..splitting import split_volume
from ..tuning import Aim, Counts, choose, cross_score, drop_small
from ..volumes import Volume, create_array, open_volume
from . import Row, attempt, read_entries, share_threads, stamp

LIBRARIES = ("numpy", "scipy", "numba", "zarr")
SCRATCH_CHUNK = 256  # px

Name = tuple[str, str]  # data set and sample


def run(
    *,
    manifest: Path,
    convert: Sequence[Path],
    predict: Sequence[Path],
    settings: Mapping[str, Any],
    code: str,
    threads: int,
) -> None:
    """Try every combination of the grid, and choose the best.

    Parameters
    ----------
    manifest : Path
        Written last, with ``chosen`` and its ``score``, ``cross_score``, what
        `gigaseg.tuning.cross_score` says the choice is worth on other samples, and ``trials``,
        every combination with its score. Beside it lies the same table for people, with the suffix
        ``.csv``.
    convert, predict : sequence of Path
        Manifests of the lots that hold the model's validation samples.
    settings : mapping
        ``samples``, those the choice rests on; ``instances``, what is not tuned; ``tune``; and
        ``target``, ``experiment`` and ``fold``.
    code : str
        Digest of this stage's code.
    threads : int
        Threads; they never change a value.

    Raises
    ------
    ValueError
        If the ``instances`` settings are not valid, if a sample is not for validation, if no
        sample can be scored, or if no combination has a score.
    """
    rows, tune = settings["samples"], settings["tune"]
    if strangers := [row["sample"] for row in rows if row["split"] != "validation"]:
        raise ValueError(f"settings are tuned on validation samples only, not on {strangers[0]}")
    trials = combinations(tune["grid"])
    for values in trials:
        Splitting(**settings["instances"] | values)
    aim = _aim(tune)
    images, predictions = _read_lots(convert), _read_lots(predict)
    at_once, workers = share_threads(threads, len(rows))
    counted: dict[Name, list[Counts]] = {}

    def work(row: Row) -> dict[str, Any]:
        name = _name(row)
        inputs = {"image": images[name], "probabilities": predictions[name]}
        facts, counted[name] = _try_sample(
            row, inputs, trials, aim, settings=settings, code=code, workers=workers, folder=scratch
        )
        return facts

    def enter(row: Row) -> dict[str, Any]:
        entry = {key: row[key] for key in ("sample", "dataset", "split")}
        return entry | attempt("tune", row, work, predictions[_name(row)])

    with _scratch(manifest.with_suffix("")) as scratch, ThreadPoolExecutor(at_once) as pool:
        entries = list(pool.map(enter, rows))
    found = [counted[_name(row)] for row in rows if _name(row) in counted]
    scores = _pool(aim, found, entries)
    told = {**settings, "samples": entries, "cross_score": _known(cross_score(aim, found))}
    _write(manifest, trials, scores, told, stamp(settings, code))


def count_trials(
    truth: Volume,
    probabilities: Volume,
    trials: Sequence[Mapping[str, float]],
    aim: Aim,
    *,
    settings: Mapping[str, Any],
    objects: Any,
    workers: int,
    folder: Path,
) -> list[Counts]:
    """Segment one sample once per combination, and count what the metric needs.

    A metric of the map needs no instances: each plane is cut at the threshold of the combination,
    as evaluate cuts it.

    Parameters
    ----------
    truth, probabilities : Volume
    trials : sequence of mapping
        Combinations as `gigaseg.grids.combinations` lists them. Those that follow each other and
        differ in ``minimum_size`` only are segmented once.
    aim : Aim
    settings : mapping
        ``instances`` and ``target``.
    objects : {"plane", "volume"}
        What one problem is.
    workers : int
        Threads.
    folder : Path
        For scratch.

    Returns
    -------
    list of Counts
        One per combination, in order.
    """
    whole: list[dict[str, Any]] = [{**settings["instances"], **values} for values in trials]
    if aim.of_map:
        return _count_maps(truth, probabilities, whole, aim, folder=folder, workers=workers)
    counts: list[Counts] = []
    bench = _Bench.of(truth, probabilities, objects, folder, workers)
    pace = Pace(truth.name, len(whole), "combinations")
    for flooded, group in groupby(whole, _of_any_size):
        tables = bench.compare(Splitting(**flooded), settings["target"])
        for one in group:
            large = (drop_small(table, one["minimum_size"]) for table in tables)
            counts.append(aim.count(large, truth.attributes.get("ignored")))
            pace.advance()
    return counts


def _count_maps(
    truth: Volume,
    probabilities: Volume,
    trials: Sequence[Mapping[str, Any]],
    aim: Aim,
    *,
    folder: Path,
    workers: int,
) -> list[Counts]:
    """Count, per combination, what a metric of the map needs, over all planes."""
    thresholds = [trial["threshold"] for trial in trials]
    pace = Pace(truth.name, truth.shape[0], "planes")
    planes = []
    folder.mkdir(parents=True)
    with telling(folder), ThreadPoolExecutor(workers) as pool:
        for _, plane in boundary_maps(truth, probabilities, folder):
            planes.append(list(pool.map(partial(aim.count_map, plane), thresholds)))
            pace.advance()
    return [aim.add(parts) for parts in zip(*planes, strict=True)]


def _aim(tune: Mapping[str, Any]) -> Aim:
    """Take what is aimed at from the settings."""
    iou = tuple(tune["iou_thresholds"])
    return Aim(
        tune["metric"],
        iou,
        tune["iou_match"],
        tune["warping_radius"],
        tune["aggregation"],
    )


def _of_any_size(instances: Mapping[str, Any]) -> dict[str, Any]:
    return {**instances, "minimum_size": 0}


@dataclass(frozen=True)
class _Bench:
    """One sample, and where it is segmented again and again."""

    truth: Volume
    probabilities: Volume
    objects: Any
    cut: Cut
    fragments: Any
    folder: Path
    workers: int

    @classmethod
    def of(
        cls, truth: Volume, probabilities: Volume, objects: Any, folder: Path, workers: int
    ) -> "_Bench":
        write = PLANE_SIDE if objects == "plane" else VOLUME_SIDE  # where split has shards
        cut = Cut.choose(truth.shape, objects, (1, write, write))
        side = max(cut.flood[1:])
        storage = {"chunk": gcd(side, SCRATCH_CHUNK), "shard": side}
        fragments = create_array(folder, "labels", truth.shape, np.uint32, storage=storage)
        return cls(truth, probabilities, objects, cut, fragments, folder, workers)

    def compare(self, how: Splitting, target: Any) -> list[Contingency]:
        """Segment exactly as split does, and return the table of each problem."""
        shape = self.truth.shape
        work = Work(
            probabilities=self.probabilities.array,
            image=np.empty((0, *shape), np.uint8),  # no channels: no intensity is measured
            fragments=self.fragments,
            folder=self.folder,
            how=how,
            target=target,
            objects=self.objects,
            spacing=self.probabilities.spacing,
            quanta=(),
            cut=self.cut,
        )
        compared = _Compared(self.truth.array, shape, label_dtype(shape))
        split_volume(work, compared, lambda _: None, workers=self.workers)
        tables = sorted(compared.tables, key=lambda pair: pair[0])
        problems = groupby(tables, lambda pair: pair[0] if work.planar else 0)
        return [Contingency.total(table for _, table in group) for _, group in problems]


@dataclass(frozen=True)
class _Compared:
    """Takes labels as an array would, and keeps only how they overlap with the truth."""

    truth: Any
    shape: tuple[int, int, int]
    dtype: np.dtype
    tables: list[tuple[int, Contingency]] = field(default_factory=list)

    def __setitem__(self, place: tuple[Any, ...], labels: np.ndarray) -> None:
        where = place[-3:]
        truth = np.asarray(self.truth[where])
        self.tables.append((where[0].start, contingency(truth, labels)))


def _try_sample(
    row: Row,
    inputs: Mapping[str, Mapping[str, Any]],
    trials: Sequence[Mapping[str, float]],
    aim: Aim,
    *,
    settings: Mapping[str, Any],
    code: str,
    workers: int,
    folder: Path,
) -> tuple[dict[str, Any], list[Counts]]:
    """Return the facts of a sample for the manifest, and the counts of all combinations."""
    made_from = fingerprint(
        code=code,
        settings={key: settings[key] for key in ("instances", "tune", "target")}
        | {"objects": row["objects"]},
        inputs={name: entry["fingerprint"] for name, entry in inputs.items()},
        libraries=LIBRARIES,
    )
    truth = open_volume(inputs["image"]["store"], "truth")
    probabilities = open_volume(inputs["probabilities"]["store"])
    if truth.shape != probabilities.shape:
        raise ValueError(
            f"{probabilities.path} has shape {probabilities.shape}, the truth {truth.shape}: one "
            f"of them is out of date; run the stages from convert on again with --forcerun convert"
        )
    counts = count_trials(
        truth,
        probabilities,
        trials,
        aim,
        settings=settings,
        objects=row["objects"],
        workers=workers,
        folder=folder / row["dataset"] / row["sample"],
    )
    shutil.rmtree(folder / row["dataset"] / row["sample"])
    facts = {"store": None, "fingerprint": digest(made_from), "inputs": made_from["inputs"]}
    return facts | {"shape": truth.shape}, counts


def _pool(
    aim: Aim, counted: Sequence[Sequence[Counts]], entries: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Return the score of each combination over all samples."""
    if not counted:
        why = "; ".join(dict.fromkeys(str(entry["message"]) for entry in entries))
        raise ValueError(f"nothing can be tuned, as no validation sample can be scored: {why}")
    scores = [aim.overall(parts) for parts in zip(*counted, strict=True)]
    if all(map(math.isnan, scores)):
        raise ValueError(
            f"{aim.metric} is not defined on the validation samples, with no combination of the "
            f"grid: their truth, or what is found, has no objects. Take another metric "
            f"(instances.tune.metric) or other validation samples, or set instances.tune to null"
        )
    return scores


def _write(
    manifest: Path,
    trials: Sequence[Mapping[str, float]],
    scores: Sequence[float],
    told: Mapping[str, Any],
    stamped: Mapping[str, str],
) -> None:
    """Write the table, then the manifest."""
    best = choose(scores, _aim(told["tune"]).pick)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*trials[0], told["tune"]["metric"], "chosen"])
    for k, (values, score) in enumerate(zip(trials, scores, strict=True)):
        number = "" if math.isnan(score) else repr(score)
        table.writerow([*values.values(), number, "chosen" if k == best else ""])
    write_atomically(manifest.with_suffix(".csv"), text.getvalue())
    content = {
        "stage": "tune",
        **{key: told[key] for key in ("experiment", "fold", "samples")},
        "aim": {key: value for key, value in told["tune"].items() if key != "grid"},
        "chosen": trials[best],
        "score": scores[best],
        "cross_score": told["cross_score"],
        "trials": [
            {"values": values, "score": _known(score)}
            for values, score in zip(trials, scores, strict=True)
        ],
    }
    write_manifest(manifest, {**content, **stamped})


def _known(score: float) -> float | None:
    return None if math.isnan(score) else score


def _read_lots(manifests: Sequence[Path]) -> dict[Name, dict[str, Any]]:
    entries = (entry for path in manifests for entry in read_entries(path).values())
    return {_name(entry): entry for entry in entries}


def _name(row: Mapping[str, Any]) -> Name:
    return row["dataset"], row["sample"]


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Make an empty folder for this process alone; of an earlier one that was killed, too."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with Lease(folder.with_name(f".{folder.name}.lease")):
        shutil.rmtree(folder, ignore_errors=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
