"""Evaluate: score probabilities and instances against the truth, per lot; tabulate: join the lots.

The table of a lot is tidy: one row per sample, metric and threshold (`at`; NaN for a metric
without one and for the best over thresholds). Column `counts` holds, as JSON, the whole numbers
behind a score; `tabulate` pools these, so pooled scores are exact and no image is read again.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..census import Census, take_census
from ..geometry import Window, blocks
from ..labels import Contingency, LabelArray, contingency
from ..ledger import digest, fingerprint, write_atomically, write_manifest
from ..scores import Score, Tally, add, average, decode, score, tally_instances, tally_map
from ..volumes import Volume, open_volume
from . import Row, read_entries, run_lot, share_threads, stamp

LIBRARIES = ("numpy", "scipy", "numba", "zarr")

PIECE = 2048  # px; what a thread reads at a time of truth and instances, 16 MB each

COLUMNS = {
    "experiment": "str",
    "fold": "int64",
    "dataset": "str",
    "split": "str",
    "aggregation": "str",  # sample, pooled (over the counts of samples), mean (over samples)
    "sample": "str",
    "metric": "str",
    "at": "float64",
    "value": "float64",
    "n": "int64",
    "family": "str",
    "counts": "str",
}
GROUP = ["experiment", "fold", "dataset", "split"]


@dataclass(frozen=True)
class Evaluated:
    """One sample's scores, its facts for the manifest, and what was counted for the report."""

    scores: Sequence[Score]
    facts: Mapping[str, Any]
    census: Census | None = None


def run(
    *,
    manifest: Path,
    convert: Path,
    predict: Path,
    split: Path,
    settings: Mapping[str, Any],
    code: str,
    threads: int,
) -> None:
    """Score the samples of a lot.

    Parameters
    ----------
    manifest : Path
        Written last. Beside it lie the lot's table, with the suffix ``.parquet``, and with
        ``.sizes.parquet`` how many objects of which size and shape there are.
    convert, predict, split : Path
        Manifests of the lot's images with truth, its probabilities and its instances.
    settings : mapping
        ``lot``, ``samples``, ``experiment``, ``fold`` and ``evaluation``. A sample whose ``label``
        is null gets facts and no scores.
    code : str
        Digest of this stage's code.
    threads : int
        Samples scored at once, then pieces and thresholds of each; they never change a value.
    """
    images, maps, instances = read_entries(convert), read_entries(predict), read_entries(split)
    at_once, workers = share_threads(threads, len(settings["samples"]))

    def evaluate(row: Row) -> Evaluated:
        name = row["sample"]
        entries = images[name], maps[name], instances[name]
        return evaluate_sample(row, *entries, settings=settings, code=code, workers=workers)

    ready = [row for row in settings["samples"] if instances[row["sample"]]["status"] == "done"]
    with ThreadPoolExecutor(at_once) as pool:
        futures = {row["sample"]: pool.submit(evaluate, row) for row in ready}
    # The table comes before the manifest, which `run_lot` writes: hence the futures, whose errors
    # are raised a second time there.
    done = [row for row in ready if futures[row["sample"]].exception() is None]
    rows = [
        record
        for row in done
        for record in _records(_group(row, settings), row, futures[row["sample"]].result().scores)
    ]
    _write_parquet(manifest.with_suffix(".parquet"), _frame(rows))
    sizes = {row["sample"]: futures[row["sample"]].result().census for row in done}
    _write_parquet(manifest.with_suffix(".sizes.parquet"), _sizes(sizes))
    run_lot(
        "evaluate",
        manifest,
        settings,
        settings["samples"],
        lambda row: futures[row["sample"]].result().facts,
        instances,
        code=code,
    )


def evaluate_sample(
    row: Row,
    image: Mapping[str, Any],
    probability: Mapping[str, Any],
    instances: Mapping[str, Any],
    *,
    settings: Mapping[str, Any],
    code: str,
    workers: int = 1,
) -> Evaluated:
    """Score one sample.

    Parameters
    ----------
    row : mapping
        The sample's row of the sheet.
    image, probability, instances : mapping
        Its entries in the manifests of convert, predict and split.
    settings, code
        As for `run`.
    workers : int
        Threads.

    Raises
    ------
    ValueError
        If truth, probabilities and instances do not cover the same voxels.
    """
    stamp = fingerprint(
        code=code,
        settings={"evaluation": settings["evaluation"], "objects": row["objects"]},
        inputs={entry["stage"]: entry["fingerprint"] for entry in (image, probability, instances)},
        libraries=LIBRARIES,
    )
    facts = {"store": None, "fingerprint": digest(stamp), "inputs": stamp["inputs"]}
    facts |= {"scored": row["label"] is not None}
    if not facts["scored"]:
        return Evaluated([], facts)
    truth = open_volume(image["store"], "truth")
    found, segments = open_volume(probability["store"]), open_volume(instances["store"])
    _check_shapes(truth, found, segments)
    objects = row["objects"]
    tally = tally_volume(truth, found, segments, objects, settings["evaluation"], workers=workers)
    census = take_census(truth, found, segments, objects, workers=workers)
    scores = score({**tally, ("calibration", None): census.calibration})
    content = [[one.metric, one.at, repr(one.value), one.counts] for one in scores]
    facts |= {"shape": truth.shape, "scores": digest(content), "sizes": digest([*census.rows()])}
    return Evaluated(scores, facts, census)


def tally_volume(
    truth: Volume,
    probability: Volume,
    segments: Volume,
    objects: str,
    evaluation: Mapping[str, Any],
    *,
    workers: int = 1,
) -> Tally:
    """Count everything the metrics need.

    Boundary-map metrics are defined in the plane: each plane is held in memory, and its counts are
    added. They are taken from the first channel (the foreground, or the interior); without
    thresholds there are none. Instance metrics treat every plane (`objects` "plane") or the volume
    ("volume") as one problem of any size.
    """
    planes = range(truth.shape[0] if evaluation["thresholds"] else 0)
    on_map = (
        tally_map(
            _plane(truth, z),
            _plane(probability, z),
            thresholds=evaluation["thresholds"],
            radius=evaluation["warping_radius"],
            workers=workers,
        )
        for z in planes
    )
    on_instances = (
        tally_instances(
            table,
            iou_thresholds=evaluation["iou_thresholds"],
            iou_match=evaluation["iou_match"],
        )
        for table in count_pairs(truth, segments, objects, workers=workers)
    )
    return add(chain(on_map, on_instances))


def count_pairs(
    truth: Volume, segments: Volume, objects: str, *, workers: int = 1
) -> Iterator[Contingency]:
    """Yield the contingency table of every problem: of each plane, or of the volume.

    It is added up from pieces of `PIECE` px, so memory grows with the number of objects only, by
    about 300 bytes each.
    """

    def count(window: Window) -> Contingency:
        pair: list[Any] = [truth.array, segments.array]
        return contingency(*(np.asarray(array[window.slices]) for array in pair))

    # Whole chunks: those are decoded as a whole.
    sides = [-(-PIECE // chunk) * chunk for chunk in truth.array.chunks[-2:]]
    pieces = list(blocks(truth.shape, (1, *sides)))
    planes = (list(group) for _, group in groupby(pieces, lambda window: window.start[0]))
    with ThreadPoolExecutor(workers) as pool:
        for problem in planes if objects == "plane" else [pieces]:
            yield Contingency.total(pool.map(count, problem))


def tabulate(
    *,
    manifest: Path,
    evaluate: Sequence[Path],
    settings: Mapping[str, Any],
    code: str,
    threads: int,  # noqa: ARG001  every stage is called alike
) -> None:
    """Join the tables of all lots and add, per model, data set and split, pooled and mean rows.

    Parameters
    ----------
    manifest : Path
        ``scores.json``, written last, beside ``scores.parquet`` and, for people, ``scores.csv``.
    evaluate : sequence of Path
        Manifests of the lots.
    settings : mapping
        The list of lots, which Snakemake compares.
    code : str
        Digest of this stage's code.
    threads : int
        Not used.
    """
    lots = [pd.read_parquet(path.with_suffix(".parquet")) for path in evaluate]
    samples = _join(lots)
    table = _join([samples, _frame(_aggregates(samples))])
    order = [*GROUP, "aggregation", "sample", "metric", "at"]
    table = table.sort_values(order, kind="stable", na_position="first", ignore_index=True)
    text = table.drop(columns=["family", "counts"]).to_csv(index=False)
    _write_parquet(manifest.with_suffix(".parquet"), table)
    write_atomically(manifest.with_suffix(".csv"), text)
    write_manifest(
        manifest,
        {
            "stage": "tabulate",
            "lot": None,
            "samples": [],
            "rows": len(table),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            **stamp(settings, code),
        },
    )


def _aggregates(samples: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the pooled and the mean rows of every model, data set and split."""
    for values, rows in samples.groupby(GROUP, sort=True):
        group = dict(zip(GROUP, values, strict=True))
        tallies = [_tally(part) for _, part in rows.groupby("sample", sort=True)]
        pooled = score(add(tallies), n=len(tallies))
        means = average([score(tally) for tally in tallies])
        for aggregation, scores in (("pooled", pooled), ("mean", means)):
            yield from _records({**group, "aggregation": aggregation}, {"sample": ""}, scores)


def _tally(rows: pd.DataFrame) -> Tally:
    """Read the counts of one sample back from its rows."""
    counted = rows[rows["family"] != ""].drop_duplicates(["family", "at"])
    return {
        (family, None if np.isnan(at) else at): decode(family, text)
        for family, at, text in zip(
            counted["family"], counted["at"], counted["counts"], strict=True
        )
    }


def _group(row: Row, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "experiment": settings["experiment"],
        "fold": settings["fold"],
        "dataset": row["dataset"],
        "split": row["split"],
        "aggregation": "sample",
    }


def _records(
    group: Mapping[str, Any], row: Mapping[str, Any], scores: Iterable[Score]
) -> Iterator[dict[str, Any]]:
    for one in scores:
        yield {**group, "sample": row["sample"], **asdict(one)}


def _frame(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return records as a table whose columns have their types even without any row."""
    return pd.DataFrame(list(records), columns=list(COLUMNS)).astype(COLUMNS)


def _sizes(samples: Mapping[str, Census | None]) -> pd.DataFrame:
    """Arrange the sizes and shapes of the objects of a lot as a table."""
    rows = [
        {"sample": n, **row} for n, census in samples.items() if census for row in census.rows()
    ]
    kinds = {"sample": "str", "side": "str", "measure": "str", "value": "int64", "objects": "int64"}
    return pd.DataFrame(rows, columns=list(kinds)).astype(kinds)


def _join(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    full = [table for table in tables if len(table)]
    return pd.concat(full, ignore_index=True) if full else _frame([])


def _write_parquet(path: Path, table: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomically(path, buffer.getvalue())


def _plane(volume: Volume, z: int) -> LabelArray:
    """Read one plane, of the first channel if there are channels."""
    array: Any = volume.array
    return np.asarray(array[0, z] if volume.axes[0] == "c" else array[z])


def _check_shapes(truth: Volume, *others: Volume) -> None:
    for other in others:
        if other.shape != truth.shape:
            raise ValueError(
                f"{other.path} has shape {other.shape}, the truth {truth.shape}: one of them is "
                "out of date; run the stages from convert on again with --forcerun convert."
            )
