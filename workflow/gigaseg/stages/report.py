"""Report: everything below the results folder in, one self-contained HTML page out."""

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import comparison as compare
from ..addresses import Addresses, link_samples
from ..charts import find_drawings
from ..fingerprints import digest
from ..glossary import describe
from ..manifests import write_atomically, write_manifest
from ..page import build_context, kinds_of_labels, kinds_of_objects, render
from ..pictures import STRIP, Pictures, Place, draw_sample, draw_strip
from ..scoreboard import list_tables
from ..spreads import format_size
from ..summaries import Record, Results, read_results
from ..views import Sample, View, open_sample
from . import stamp

#: What each picture is called, in the order in which they are shown; the first there is is large.
TITLES = {
    "errors": "Errors",
    "overlay": "Instances over the image",
    "image": "Image",
    "probability": "Probability",
    "instances": "Instances",
    "truth": "Truth",
    "overview": "Where it is",
}
RANKS: dict[int, tuple[str, ...]] = {
    1: ("worst",),
    2: ("best", "worst"),
    3: ("best", "median", "worst"),
}

#: Columns of the table of objects that hold a size, the first there is being shown.
SIZES = {"area_um2": "µm²", "volume_um3": "µm³", "area_px": "px", "volume_px": "px"}

#: Further places shown of a large sample, and places in a strip.
PLACES = 3
STRIP_PLACES = 2
#: Largest size of all strips together, in characters of the page: those beyond it are left out.
STRIPS = 16_000_000

Stores = dict[tuple[str, ...], Path | None]


def run(
    *,
    manifest: Path,
    settings: Mapping[str, Any],
    code: str,
    threads: int,
    results: Path,
) -> None:
    """Write the report of a results folder, whatever state it is in.

    Parameters
    ----------
    manifest : Path
        Written last. The page lies beside it, as ``report.html``, its charts in ``figures``, and
        what it says of experiments in numbers as ``tables/*.csv``.
    settings : mapping
        ``title``, ``samples_per_experiment``, ``config``, the settings of the whole run, and
        ``manifests``, what is shown: see `gigaseg.summaries.read_results`.
    code : str
        Digest of this stage's code.
    threads : int
        Samples drawn at once; it never changes a byte.
    results : Path
        The results folder. Manifests and tables that are missing are named in the report.
    """
    found = read_results(results, settings.get("manifests"))
    context = build_context(found, settings)
    labels, objects = kinds_of_labels(settings), kinds_of_objects(settings)
    chosen = list(choose_samples(found, settings.get("samples_per_experiment", 3), labels))
    context["galleries"] = draw_galleries(found, chosen, threads, objects)
    every = list(choose_samples(found, len(found.records), labels))
    strips = draw_strips(found, every, threads, objects, settings.get("strips_per_experiment", 100))
    context["strip_limit"] = STRIPS // 1_000_000
    for gallery, strip in zip(context["galleries"], strips, strict=True):
        gallery["strips"] = strip
    link_samples(context, Addresses(found.at("view"), manifest.parent))
    figures = write_figures(manifest.parent / "figures", context)
    write_atomically(manifest.with_suffix(".html"), render(context))
    for name, table in list_tables(context).items():
        write_atomically(manifest.parent / "tables" / f"{name}.csv", table.to_csv(index=False))
    summary = summarise(found, context, digest([code, settings])) | {"figures": figures}
    write_manifest(manifest, summary | stamp(settings, code))


def write_figures(folder: Path, context: Mapping[str, Any]) -> list[str]:
    """Write every chart of the page as SVG and PNG, and remove those of earlier pages.

    Returns
    -------
    list of str
        Names of the files; charts of one name are numbered in the order of the page.
    """
    files: dict[str, bytes] = {}
    for chart in find_drawings(context):
        name, number = chart.name, 2
        while f"{name}.svg" in files:
            name, number = f"{chart.name}-{number}", number + 1
        files |= {f"{name}.svg": chart.svg, f"{name}.png": chart.png}
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.suffix in (".svg", ".png") and path.name not in files:
            path.unlink()
    for name, data in files.items():
        write_atomically(folder / name, data)
    return list(files)


def summarise(results: Results, context: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    """Return the report's manifest: its headline numbers, and nothing that varies from run to run.

    A score that is not defined is null.
    """
    lines = {
        line["experiment"]: [
            {"sentence": s["sentence"], "metric": s["key"]["title"], "value": s["value"]}
            | {end: None if math.isnan(s[end]) else s[end] for end in ("low", "high")}
            for s in line["scores"]
        ]
        for line in context["headlines"]
    }
    return {
        "stage": "report",
        "samples": [],
        "report": "report.html",
        "fingerprint": fingerprint,
        "experiments": lines,
        "failures": len(context["failures"]),
        "notes": results.notes,
    }


@dataclass(frozen=True)
class Choice:
    """A segmented sample that was chosen to be shown."""

    record: Record
    rank: str
    scores: Mapping[compare.Key, float]


#: Experiment and data set, and the samples that are shown of them.
Group = tuple[tuple[str, str], list[Choice]]


def draw_galleries(
    results: Results, groups: list[Group], threads: int, objects: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Draw the chosen samples of each experiment on each data set.

    Parameters
    ----------
    results : Results
    groups : list
        From `choose_samples`.
    threads : int
        Samples drawn at once.
    objects : mapping
        Of each data set, "plane" or "volume"; "plane" if nothing is said.
    """
    stores = _stores(results)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        shown = [
            (name, pool.map(lambda choice: _show(choice, stores, objects), choices))
            for name, choices in groups
        ]
        return [
            {"experiment": experiment, "dataset": dataset, "samples": list(samples)}
            for (experiment, dataset), samples in shown
        ]


def _stores(results: Results) -> Stores:
    return {(r.stage, r.experiment, r.fold, r.dataset, r.sample): r.store for r in results.records}


def draw_strips(
    results: Results, groups: list[Group], threads: int, objects: Mapping[str, str], wanted: int
) -> list[dict[str, Any]]:
    """Draw the worst places of every sample, small, the worst samples first.

    Parameters
    ----------
    results, groups, threads, objects
        As for `draw_galleries`; the groups hold every sample.
    wanted : int
        At most so many samples of a group.

    Returns
    -------
    list of dict
        Per group ``rows`` and ``left_out``, the samples beyond `wanted` or beyond the share of the
        group in `STRIPS`.
    """
    stores, strips = _stores(results), []
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for _, choices in groups:
            scored = [c for c in choices if c.scores][::-1]
            shown = [*scored, *(c for c in choices if not c.scores)][:wanted]
            rows, left = [], STRIPS // len(groups)
            for row in pool.map(lambda choice: _show_strip(choice, stores, objects), shown):
                left -= sum(place["size"] for place in row["places"])
                rows += [row] if left >= 0 else []
            strips.append({"rows": rows, "left_out": len(choices) - len(rows), "extent": STRIP})
    return strips


def _show_strip(choice: Choice, stores: Stores, objects: Mapping[str, str]) -> dict[str, Any]:
    record = choice.record
    row: dict[str, Any] = {key: getattr(record, key) for key in ("sample", "fold", "split")}
    row |= {"problem": "", "places": []}
    row["score"] = next(((compare.describe_key(k), v) for k, v in choice.scores.items()), None)
    try:
        sample = open_sample(*_paths(record, stores), objects.get(record.dataset, "plane"))
        places = draw_strip(sample, STRIP_PLACES)
    except ValueError as error:
        return {**row, "problem": str(error)}
    return {**row, "places": [_arrange_place(place, record.sample, sample) for place in places]}


def _arrange_place(place: Place, name: str, sample: Sample) -> dict[str, Any]:
    depth, *plane = sample.instances.shape
    whole = [place.view.height, place.view.width] == plane
    return {
        "pictures": [
            {"title": title, "alt": f"{title.capitalize()}: {name}", "uri": uri}
            for title, uri in place.pictures.items()
        ],
        "where": _where(place.view, depth, whole),
        "faults": [(kind, n) for kind, n in (place.faults or {}).items() if n],
        "known": place.faults is not None,
        "size": place.size,
    }


def _where(view: View, depth: int, whole: bool) -> str:
    plane = [f"plane {view.plane}"] if depth > 1 else []
    return ", ".join([*plane, "all of it" if whole else f"y = {view.top}, x = {view.left}"])


def choose_samples(results: Results, wanted: int, labels: Mapping[str, str]) -> Iterator[Group]:
    """Choose samples by rank of their main metric, and as many of those that have no scores.

    Yields
    ------
    (experiment, dataset), list of Choice
        From best to worst; with three, best, median and worst.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in results.at("split"):
        groups.setdefault((record.experiment, record.dataset), []).append(record)
    for (experiment, dataset), records in sorted(groups.items()):
        mine = results.scores[
            (results.scores["experiment"] == experiment) & (results.scores["dataset"] == dataset)
        ]
        scored = _rank(records, mine, wanted, labels.get(dataset, "instances"))
        known = {(choice.record.fold, choice.record.sample) for choice in scored}
        names = set(mine.loc[mine["aggregation"] == "sample", "sample"])
        rest = [r for r in records if r.sample not in names and (r.fold, r.sample) not in known]
        plain = [Choice(rest[i], "no score", {}) for i in compare.pick_ranks(len(rest), wanted)]
        yield (experiment, dataset), scored + plain


def _rank(records: list[Record], scores: pd.DataFrame, wanted: int, labels: str) -> list[Choice]:
    samples = scores[scores["aggregation"] == "sample"]
    samples = samples[samples["split"] == compare.held_out(samples)]
    if samples.empty:
        return []
    key = compare.main_metric(samples, labels) or compare.list_metrics(samples)[0]
    keys, rows = compare.per_sample(samples)
    values = {(row["fold"], row["sample"]): row["values"] for row in rows}
    scored = [record for record in records if (record.fold, record.sample) in values]
    # The metric that ranks comes first, then those of the table of samples.
    shown = list(dict.fromkeys([key, *keys]))
    own = [{k: values[r.fold, r.sample].get(k, float("nan")) for k in shown} for r in scored]
    main = [value[key] for value in own]
    order = compare.order_best_first(main, describe(key[0]).better)
    ranks = compare.pick_ranks(len(order), wanted)
    names = _name_ranks(ranks, len(order))
    return [
        Choice(scored[order[r]], name, own[order[r]]) for r, name in zip(ranks, names, strict=True)
    ]


def _name_ranks(ranks: list[int], count: int) -> tuple[str, ...]:
    if count == 1:
        return ("only sample",)
    if len(ranks) in RANKS:
        return RANKS[len(ranks)]
    return tuple(f"rank {rank + 1} of {count}" for rank in ranks)


def _paths(record: Record, stores: Stores) -> tuple[Path, Path | None, Path]:
    """Return the stores of image, probabilities and instances.

    Raises
    ------
    ValueError
        If one that is needed is not there.
    """
    image = stores.get(("convert", "", "", record.dataset, record.sample))
    predicted = stores.get(
        ("predict", record.experiment, record.fold, record.dataset, record.sample)
    )
    if image is None or record.store is None:
        raise ValueError("The image or the instances of this sample are missing.")
    return image, predicted, record.store


def _show(choice: Choice, stores: Stores, objects: Mapping[str, str]) -> dict[str, Any]:
    """Draw one sample; a store that is gone is said in place of its pictures."""
    record = choice.record
    base = {"sample": record.sample, "rank": choice.rank, "fold": record.fold, "problem": ""}
    try:
        sample = open_sample(*_paths(record, stores), objects.get(record.dataset, "plane"))
        pictures = draw_sample(sample, PLACES)
    except ValueError as error:
        return {**base, "problem": str(error)}
    return {
        **base,
        **_arrange(pictures, record.sample),
        "scores": [(compare.describe_key(k), choice.scores[k]) for k in list(choice.scores)[:4]],
        "facts": _facts(record),
        "faults": list((pictures.faults or {}).items()),
        "places": [_arrange_place(place, record.sample, sample) for place in pictures.places],
        "caption": _caption(pictures, record),
        "place": _place(pictures.view),
    }


def _place(view: View) -> dict[str, int]:
    """Say to the viewer where the pictures were taken."""
    return {"z": view.plane, "x": view.left, "y": view.top, "w": view.width, "h": view.height}


def _arrange(pictures: Pictures, sample: str) -> dict[str, Any]:
    """Sort pictures into the main one, its parts, and where it is."""
    there = [
        {"name": name, "title": title, "alt": f"{title}: {sample}", "uri": pictures.pictures[name]}
        for name, title in TITLES.items()
        if name in pictures.pictures
    ]
    return {
        "main": there[0],
        "parts": [p for p in there[1:] if p["name"] != "overview"],
        "overview": next((p for p in there if p["name"] == "overview"), None),
    }


def _caption(pictures: Pictures, record: Record) -> str:
    view, (depth, height, width) = pictures.view, pictures.shape
    text = f"{record.split.capitalize()} sample, fold {record.fold}; "
    text += f"plane {view.plane} of 0 to {depth - 1}, " if depth > 1 else ""
    if pictures.planes is not None:
        text += _sections_caption(pictures)
    elif pictures.whole:
        text += f"the whole plane, {height} × {width} px."
    else:
        why = "most objects lie" if pictures.faults is None else "most is at fault"
        text += (
            f"a window of {view.height} × {view.width} px at full resolution, at y = {view.top}, "
            f"x = {view.left} of {height} × {width} px, where {why}."
        )
    if len(pictures.channels) == 2:
        text += (
            f" Probability: {pictures.channels[0]} in blue-green, {pictures.channels[1]} in orange."
        )
    return text


def _sections_caption(pictures: Pictures) -> str:
    view, (_, height, width), planes = pictures.view, pictures.shape, pictures.planes
    assert planes is not None
    why = "most objects lie" if pictures.faults is None else "most is at fault"
    return (
        f"sections through the place where {why}: y and x; below, z and x (planes {planes.start} "
        f"to {planes.stop - 1}); beside, y and z. A window of {view.height} × {view.width} px at "
        f"y = {view.top}, x = {view.left} of {height} × {width} px; voxels in true proportions."
    )


def _facts(record: Record) -> list[tuple[str, str]]:
    """Number and size of the instances, from the table of objects beside the labels."""
    assert record.store is not None
    path = record.store.parent / f"{record.sample}.objects.parquet"
    if not path.is_file():
        return []
    table = pd.read_parquet(path)
    facts = [("instances", f"{len(table):,}")]
    # A spacing of exactly 1 µm along all axes is that of files which do not say.
    unknown = all(n == 1 for n in record.facts.get("spacing", [1]))
    shown = [c for c in SIZES if c in table and not (unknown and c.endswith(("um2", "um3")))]
    if shown and len(table):
        low, middle, high = np.percentile(table[shown[0]], [25, 50, 75])
        facts.append(("median size", f"{format_size(middle)} {SIZES[shown[0]]}"))
        facts.append(("half are", f"{format_size(low)} to {format_size(high)}"))
    return facts
