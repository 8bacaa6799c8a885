"""Turn records and scores into what the report's template shows: words, numbers and charts."""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from . import baseline
from . import comparison as compare
from .benchmarks import duration, memory
from .charts import draw_curves, learning_charts, strip_chart, threshold_charts
from .choices import describe_choices, remark
from .comparison import KINDS, describe_key
from .glossary import METRICS, describe
from .headlines import Overview, headlines, overview_table, overviews
from .pairs import pair_table
from .proof import build_proof
from .resampling import RESAMPLES
from .standings import Standings, list_standings
from .summaries import Model, Results, describe_datasets, list_failures, list_remarks

TEMPLATES = Path(__file__).parents[2] / "resources" / "report"

#: Longest tables the page holds; the rest is in the files beside it.
MAXIMUM_ROWS = 2000
MAXIMUM_FINGERPRINTS = 500

LIBRARIES = ("torch", "lightning", "zarr", "dask", "numpy", "scipy", "numba", "snakemake")


def render(context: Mapping[str, Any]) -> str:
    """Fill the template; every value is escaped, a missing one is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=True,
    )
    environment.filters["score"] = compare.format_score
    return environment.get_template("report.html.jinja").render(
        css=_asset("report.css"),
        script=_asset("report.js"),
        version=installed_version("gigaseg"),
        sections=_sections(context),
        **context,
    )


def _asset(name: str) -> Any:
    # Our own files, not user input: escaping would break selectors and operators.
    return jinja2.utils.markupsafe.Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _sections(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    sections = [
        ("failures", "Failures"),
        ("scores", "Scores"),
        ("baseline", "Earlier run"),
        ("tuning", "Tuning"),
        ("pictures", "Pictures"),
        ("training", "Training"),
        ("proof", "Proof"),
        ("data", "Data"),
        ("samples", "All samples"),
        ("run", "The run"),
        ("settings", "Settings"),
    ]
    absent = {"failures": not context["failures"], "samples": not context["sample_rows"]}
    absent["baseline"] = context["baseline"] is None
    absent["tuning"] = not context["tuning"]
    return [(name, title) for name, title in sections if not absent.get(name, False)]


def build_context(results: Results, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Collect everything the template shows but the pictures of samples.

    Parameters
    ----------
    results : Results
    settings : mapping
        ``title``; ``config``, if there, is shown section by section.
    """
    labels = kinds_of_labels(settings)
    standings = list_standings(results.scores)
    experiments = {model.experiment for model in results.models}
    experiments |= {record.experiment for record in results.records} - {""}
    config = settings.get("config", {})
    return {
        "title": str(settings.get("title") or "Segmentation report"),
        "headlines": _headlines(results, headlines(experiments, results.scores, standings, labels)),
        "resamples": f"{RESAMPLES:,}",
        **_overviews(overviews(results.scores, standings, config.get("datasets", {}))),
        "notes": results.notes,
        "failures": list_failures(results.records),
        "remarks": list_remarks(results.records)[:MAXIMUM_ROWS],
        **_scores(results, standings, labels),
        "baseline": _baseline(results.scores, config, labels),
        "tuning": describe_choices(results.tuned),
        **_training(results.models),
        "proof": build_proof(results),
        "datasets": _datasets(results),
        **_sample_table(results.scores),
        "benchmarks": [_benchmark(row) for row in results.benchmarks],
        "machine": _machine(results),
        "settings": _settings(settings, results.models),
        **_fingerprints(results),
    }


def kinds_of_labels(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return what the label files of each data set hold, which decides its main metric.

    Examples
    --------
    >>> kinds_of_labels({"config": {"datasets": {"em": {"labels": "boundary"}}}})
    {'em': 'boundary'}
    """
    datasets = settings.get("config", {}).get("datasets", {})
    return {name: facts.get("labels", "instances") for name, facts in datasets.items()}


def _headlines(results: Results, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add what tuning makes of the scores that the sentences are about."""
    for line in lines:
        for one in line["scores"]:
            if said := remark(results.tuned, [line["experiment"]], one["split"]):
                one["sentence"] += f" {said}"
    return lines


def _overviews(tables: Sequence[Overview]) -> dict[str, Any]:
    return {
        "overviews": [
            {
                "dataset": one.dataset,
                "split": one.split,
                "heading": "Pooled over samples, mean of folds"
                if any(cell and cell.folds > 1 for cells in one.rows.values() for cell in cells)
                else "Pooled over samples",
                "keys": [describe_key(key) for key in one.keys],
                "rows": list(one.rows.items()),
                "quotes": [
                    {**vars(quote), "cells": [quote.values.get(key) for key in one.keys]}
                    for quote in one.quotes
                ],
            }
            for one in tables
        ],
        "overview_table": overview_table(tables),
    }


def _scores(
    results: Results, standings: Sequence[Standings], labels: Mapping[str, str]
) -> dict[str, Any]:
    scores = results.scores
    metrics = dict.fromkeys(metric for metric, _ in compare.list_metrics(scores))
    pairs = [("", one.dataset, one.split, pair) for one in standings for pair in one.pairs]
    return {
        "comparisons": [
            _comparison(scores, one, labels)
            | {"tuned": remark(results.tuned, one.experiments, one.split)}
            for one in standings
        ],
        "pair_table": pair_table(pairs),
        "glossary": [METRICS[name] for name in metrics if name in METRICS],
    }


def _comparison(
    scores: pd.DataFrame, table: Standings, labels: Mapping[str, str]
) -> dict[str, Any]:
    mine = scores[(scores["dataset"] == table.dataset) & (scores["split"] == table.split)]
    kinds = [k for k in KINDS if any(k == kind for _, row in table.rows for _, kind in row)]
    key = compare.main_metric(
        mine[mine["aggregation"] == "sample"], labels.get(table.dataset, "instances")
    )
    strips, caption = strip_chart(mine, table.experiments, key)
    return {
        "dataset": table.dataset,
        "split": table.split,
        "experiments": table.experiments,
        "kinds": [(kind, _heading(kind, table)) for kind in kinds],
        "groups": [
            (group, [{"key": describe_key(key), "cells": cells} for key, cells in rows])
            for group, rows in groupby(table.rows, lambda row: describe(row[0][0]).group)
        ],
        "caption": _count_samples(mine, table.experiments),
        "key": describe_key(key) if key else None,
        "pairs": [pair for pair in table.pairs if (pair.metric, pair.at) == key],
        "strips": strips,
        "strips_caption": caption,
        "curves": threshold_charts(mine),
    }


def _heading(kind: str, table: Standings) -> str:
    """Name an aggregation; over folds it is the mean of each fold's."""
    folds = any(cell.folds > 1 for _, cells in table.rows for cell in cells.values())
    name = {"pooled": "pooled", "mean": "mean over samples"}[kind]
    return f"{name}, mean of folds" if folds else name


def _baseline(
    scores: pd.DataFrame, config: Mapping[str, Any], labels: Mapping[str, str]
) -> dict[str, Any] | None:
    """Compare with an earlier run, if the settings name one; None if they do not."""
    folder = config.get("evaluation", {}).get("baseline")
    if folder is None:
        return None
    then = baseline.read_scores(Path(folder))
    progress = [] if then is None else baseline.compare_runs(scores, then, labels)
    new, gone = ([], []) if then is None else baseline.unmatched(scores, then)
    return {
        "folder": folder,
        "missing": then is None,
        "progress": [_progress(one) for one in progress],
        "new": new,
        "gone": gone,
        "pair_table": pair_table(
            (one.experiment, one.dataset, one.split, pair) for one in progress for pair in one.pairs
        ),
        "changes_table": baseline.changes_table(progress),
    }


def _progress(one: baseline.Progress) -> dict[str, Any]:
    pooled = [pair for pair in one.pairs if pair.aggregation == "pooled"]
    return {
        **vars(one),
        "key": describe_key(one.key) if one.key else None,
        "rows": [(describe_key((pair.metric, pair.at)), pair) for pair in pooled],
        "changes": one.changes[: baseline.MOST_CHANGED],
        "left_out": max(len(one.changes) - baseline.MOST_CHANGED, 0),
    }


def list_tables(context: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Return what the page says of experiments and runs as tables, by the name of their file.

    Without an earlier run to compare with, its tables have no rows.
    """
    earlier = context["baseline"] or {}
    return {
        "experiments": context["overview_table"],
        "differences": context["pair_table"],
        "baseline": earlier.get("pair_table", pair_table([])),
        "changes": earlier.get("changes_table", baseline.changes_table([])),
    }


def _count_samples(scores: pd.DataFrame, experiments: Sequence[str]) -> str:
    samples = scores[scores["aggregation"] == "sample"]
    counts = [samples.loc[samples["experiment"] == e, "sample"].nunique() for e in experiments]
    folds = samples["fold"].nunique()
    many = f" With {folds} folds, ± is the standard deviation over the folds." if folds > 1 else ""
    if len(set(counts)) == 1:
        return f"{_plural(counts[0], 'sample')}.{many}"
    each = "; ".join(
        f"{e}: {_plural(n, 'sample')}" for e, n in zip(experiments, counts, strict=True)
    )
    return f"{each}.{many}"


def _training(models: Sequence[Model]) -> dict[str, Any]:
    charts = learning_charts(models)
    facts = [_model_facts(model) for model in models]
    columns = list(dict.fromkeys(name for own in facts for name in own))
    return {
        "learning": draw_curves(charts),
        "model_columns": columns,
        "models": [
            {
                "experiment": model.experiment,
                "fold": model.fold,
                "values": [own.get(name, "–") for name in columns],
            }
            for model, own in zip(models, facts, strict=True)
        ],
    }


def _model_facts(model: Model) -> dict[str, str]:
    """Pick what tells models apart; what a model does not say is left out."""
    says = model.description
    architecture = says.get("architecture", {})
    shown = ("depth", "width", "padding", "normalization")
    facts = {name: architecture.get(name) for name in shown}
    parameters = says.get("parameters")
    facts["parameters"] = None if parameters is None else f"{parameters:,}"
    for part in ("train", "validation"):
        names = model.manifest.get(part)
        facts[f"{part} samples"] = None if names is None else len(names)
    facts["best step"] = says.get("scores", {}).get("best", {}).get("step")
    facts |= {name: says.get(name) for name in ("device", "precision")}
    return {name: str(value) for name, value in facts.items() if value is not None}


def _datasets(results: Results) -> list[dict[str, Any]]:
    converted = [record for record in results.records if record.stage == "convert"]
    return [
        {
            "dataset": row["dataset"],
            "samples": ", ".join(f"{count} {split}" for split, count in row["splits"].items()),
            "failed": row["failed"],
            "sizes": _few([" × ".join(map(str, shape)) for shape in row["shapes"]]),
            "dtypes": _few(row["dtypes"]),
            "spacings": _few([" × ".join(f"{n:g}" for n in s) for s in row["spacings"]]),
        }
        for row in describe_datasets(converted)
    ]


def _few(texts: Sequence[str]) -> str:
    if len(texts) <= 3:
        return ", ".join(texts) or "–"
    return f"{texts[0]} … {texts[-1]} ({len(texts)} different)"


def _sample_table(scores: pd.DataFrame) -> dict[str, Any]:
    keys, rows = compare.per_sample(scores)
    shown = [{**row, "numbers": [row["values"].get(key) for key in keys]} for row in rows]
    of_planes = scores[scores["aggregation"] == "plane"]
    return {
        "planes": len(of_planes[["experiment", "fold", "sample", "plane"]].drop_duplicates())
        if len(of_planes)
        else 0,
        "sample_columns": [describe_key(key) for key in keys],
        "sample_rows": shown[:MAXIMUM_ROWS],
        "sample_rows_left_out": max(len(shown) - MAXIMUM_ROWS, 0),
    }


def _benchmark(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "stage": row["stage"],
        "jobs": row["jobs"],
        "seconds": duration(row["seconds"]),
        "longest": duration(row["longest"]),
        "cpu": duration(row["cpu_seconds"]),
        "memory": memory(row["memory_mb"]),
    }


def installed_version(name: str) -> str:
    """Return the version of an installed distribution, or a note that it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:  # a checkout on PYTHONPATH is not a distribution
        return "(not installed)"


def _machine(results: Results) -> list[tuple[str, str]]:
    def noted(key: str) -> list[str]:
        values = {str(n[key]) for n in results.attempts if key in n}
        values |= {str(m.description[key]) for m in results.models if m.description.get(key)}
        return sorted(values)

    facts = [("Computers", noted("host")), ("Devices", noted("device"))]
    lines = [(name, ", ".join(values)) for name, values in facts if values]
    lines.append(("Python", platform.python_version()))
    return lines + [(name, installed_version(name)) for name in ("gigaseg", *LIBRARIES)]


def _settings(settings: Mapping[str, Any], models: Sequence[Model]) -> list[tuple[str, str]]:
    sections = settings.get("config", settings)
    shown = [(str(name), _pretty(section)) for name, section in sorted(sections.items())]
    for model in models:
        if model.description:
            name = f"model {model.experiment}, fold {model.fold}"
            shown.append((name, _pretty(model.description)))
    return shown


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=str)


def _fingerprints(results: Results) -> dict[str, Any]:
    every = [record for record in results.records if record.fingerprint]
    return {
        "fingerprints": every[:MAXIMUM_FINGERPRINTS],
        "fingerprints_left_out": max(len(every) - MAXIMUM_FINGERPRINTS, 0),
    }


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
