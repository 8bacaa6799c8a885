"""Evaluate: score probabilities and instances against the truth, per lot.

The table of a lot (see `gigaseg.scoretable`) has a row per sample, metric and threshold, and one
per plane of a stack. Column `counts` holds, as JSON, the numbers behind a score; tabulate pools
these, so pooled scores are exact and no image is read again.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pandas as pd

from .. import semantics
from ..census import Census, count_problems
from ..disk import telling
from ..labels import Objects
from ..ledger import digest, fingerprint
from ..maps import BoundaryMap
from ..pace import Pace
from ..planes import boundary_maps
from ..remarks import remark
from ..scores import Score, Tally, add, score, tally_instances, tally_map
from ..scoretable import frame, records, write_parquet
from ..volumes import Volume, open_volume
from . import Row, read_entries, run_lot, share_threads

LIBRARIES = ("numpy", "scipy", "numba", "zarr")


@dataclass(frozen=True)
class Evaluated:
    """One sample's scores, those of the planes of a stack, its facts, and its census."""

    scores: Sequence[Score]
    planes: Mapping[int, Sequence[Score]]
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
        ``lot``, ``samples``, ``experiment``, ``fold``, ``target``, ``weights`` (for the width of
        rims) and ``evaluation``. A sample whose ``label``
        is null gets facts and no scores.
    code : str
        Digest of this stage's code.
    threads : int
        Samples scored at once, then pieces and thresholds of each; they never change a value.
    """
    images, maps, instances = read_entries(convert), read_entries(predict), read_entries(split)
    at_once, workers = share_threads(threads, len(settings["samples"]))
    manifest.parent.mkdir(parents=True, exist_ok=True)

    def evaluate(row: Row) -> Evaluated:
        name = row["sample"]
        entries = images[name], maps[name], instances[name]
        found = evaluate_sample(
            row, *entries, settings=settings, code=code, workers=workers, folder=manifest.parent
        )
        if len(ready) > 1:
            pace.advance()
        return found

    ready = [row for row in settings["samples"] if instances[row["sample"]]["status"] == "done"]
    pace = Pace("", len(ready), "samples")
    with ThreadPoolExecutor(at_once) as pool:
        futures = {row["sample"]: pool.submit(evaluate, row) for row in ready}
    # The table comes before the manifest, which `run_lot` writes: hence the futures, whose errors
    # are raised a second time there.
    done = [row for row in ready if futures[row["sample"]].exception() is None]
    rows = [
        record
        for row in done
        for record in _records(_group(row, settings), futures[row["sample"]].result())
    ]
    write_parquet(manifest.with_suffix(".parquet"), frame(rows))
    sizes = {row["sample"]: futures[row["sample"]].result().census for row in done}
    write_parquet(manifest.with_suffix(".sizes.parquet"), _sizes(sizes))
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
    folder: Path | None = None,
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
    folder : Path, optional
        See `tally_planes`.

    Raises
    ------
    ValueError
        If truth, probabilities and instances do not cover the same voxels, or these differ in size.

    Notes
    -----
    Empty truth, nothing found, a single object and the like are no errors: the scores that are
    then 0/0 are NaN (see `gigaseg.matching`, `gigaseg.rand`), and the fact ``remarks`` says why.
    """
    width = _rim_width(settings)
    evaluation = settings["evaluation"]
    stamp = fingerprint(
        code=code,
        settings={"evaluation": evaluation, "objects": row["objects"], "rim": width},
        inputs={entry["stage"]: entry["fingerprint"] for entry in (image, probability, instances)},
        libraries=LIBRARIES,
    )
    facts = {"store": None, "fingerprint": digest(stamp), "inputs": stamp["inputs"]}
    facts |= {"scored": row["label"] is not None}
    if not facts["scored"]:
        return Evaluated([], {}, facts)
    truth = open_volume(image["store"], "truth")
    found, segments = open_volume(probability["store"]), open_volume(instances["store"])
    _check_shapes(truth, found, segments)
    objects = row["objects"]
    on_map = tally_planes(truth, found, evaluation, workers=workers, folder=folder)
    on_instances, census = tally_problems(
        truth, found, segments, objects, evaluation, workers=workers
    )
    problems = [*on_map, *on_instances]
    whole: Tally = {("calibration", None): census.calibration}
    if width is not None:
        rims = semantics.Rims(width, objects, truth.spacing, truth.attributes.get("ignored"))
        classes = semantics.class_counts(truth.array, found.array, rims, workers=workers)
        whole |= {(f"class_{name}", None): counts for name, counts in classes.items()}
    tally = add([*(counts for _, counts in problems), whole])
    scores, planes = score(tally), _score_planes(problems)
    every = chain(scores, *planes.values())
    content = [[one.metric, one.at, repr(one.value), one.counts] for one in every]
    facts |= {"shape": truth.shape, "scores": digest(content), "sizes": digest([*census.rows()])}
    facts |= {"remarks": remark(tally, math.prod(truth.shape))}
    return Evaluated(scores, planes, facts, census)


def _rim_width(settings: Mapping[str, Any]) -> float | None:
    """Return how wide the class of rims is, if the network learns it and the map is measured."""
    if settings["target"] != semantics.TARGET or not settings["evaluation"]["thresholds"]:
        return None
    return settings["weights"]["boundary_width"]


def tally_planes(
    truth: Volume,
    probability: Volume,
    evaluation: Mapping[str, Any],
    *,
    workers: int = 1,
    folder: Path | None = None,
) -> list[tuple[int, Tally]]:
    """Count what the metrics of boundary maps need, for each plane; those of a sample are the sum.

    Pixels that the truth does not know (its attribute ``ignored`` is their id) count in none. The
    map is the first channel (the foreground, or the interior); without thresholds there are none.
    Planes may be of any size; `folder` is where files of a moment may lie.

    Raises
    ------
    DiskError
        If such a file finds no room.
    """
    if not (thresholds := evaluation["thresholds"]):
        return []
    pace = Pace(f"{truth.name}, map", truth.shape[0] * len(thresholds), "thresholds")

    def count(plane: BoundaryMap) -> Tally:
        return tally_map(
            plane,
            thresholds=thresholds,
            radius=evaluation["warping_radius"],
            workers=workers,
            step=pace.advance,
        )

    with telling(folder or Path(gettempdir())):
        return [(z, count(plane)) for z, plane in boundary_maps(truth, probability, folder)]


def tally_problems(
    truth: Volume,
    probability: Volume,
    segments: Volume,
    objects: Objects,
    evaluation: Mapping[str, Any],
    *,
    workers: int = 1,
) -> tuple[list[tuple[int | None, Tally]], Census]:
    """Count what the metrics of instances need, and take the census of the sample.

    Every plane (`objects` "plane") or the volume ("volume") is a problem of its own. Voxels that
    the truth does not know count in none.

    Returns
    -------
    list of (int or None, Tally)
        The plane of the problem, None for the volume.
    Census
    """
    tallies: list[tuple[int | None, Tally]] = []
    total = Census()
    problems = count_problems(truth, probability, segments, objects, workers=workers)
    for z, (pairs, census) in enumerate(problems):
        tally = tally_instances(
            pairs,
            iou_thresholds=evaluation["iou_thresholds"],
            iou_match=evaluation["iou_match"],
            ignored=truth.attributes.get("ignored"),
        )
        tallies.append((z if objects == "plane" else None, tally))
        total += census
    return tallies, total


def _score_planes(problems: Iterable[tuple[int | None, Tally]]) -> dict[int, list[Score]]:
    """Score the planes that are problems of their own, if there are several."""
    planes: dict[int, list[Tally]] = {}
    for z, tally in problems:
        if z is not None:
            planes.setdefault(z, []).append(tally)
    return {z: score(add(tallies)) for z, tallies in planes.items()} if len(planes) > 1 else {}


def _group(row: Row, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "experiment": settings["experiment"],
        "fold": str(settings["fold"]),
        "dataset": row["dataset"],
        "split": row["split"],
        "aggregation": "sample",
        "sample": row["sample"],
    }


def _records(group: Mapping[str, Any], sample: Evaluated) -> Iterator[dict[str, Any]]:
    yield from records(group, sample.scores)
    for z, scores in sample.planes.items():
        # The counts of planes would be as many again; those of the sample are enough to pool.
        yield from records({**group, "aggregation": "plane"}, scores, plane=z, family="", counts="")


def _sizes(samples: Mapping[str, Census | None]) -> pd.DataFrame:
    """Arrange the sizes and shapes of the objects of a lot as a table."""
    rows = [
        {"sample": n, **row} for n, census in samples.items() if census for row in census.rows()
    ]
    kinds = {"sample": "str", "side": "str", "measure": "str", "value": "int64", "objects": "int64"}
    return pd.DataFrame(rows, columns=list(kinds)).astype(kinds)


def _check_shapes(truth: Volume, *others: Volume) -> None:
    for other in others:
        for fact, unit in (("shape", ""), ("spacing", " µm")):
            own, true = getattr(other, fact), getattr(truth, fact)
            if own != true:
                raise ValueError(
                    f"{other.path} has {fact} {own}{unit}, the truth {true}{unit}: one of them is "
                    "out of date; run the stages from convert on again with --forcerun convert."
                )
