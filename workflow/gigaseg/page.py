"""Turn records and scores into what the report's template shows: words, numbers and charts."""

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from . import comparison as compare
from .figures import Chart, Curve, Strip, draw_curves, draw_strips
from .summaries import Model, Results, describe_datasets, list_failures

TEMPLATES = Path(__file__).parents[2] / "resources" / "report"

#: Longest tables the page holds; the rest is in the files beside it.
MAXIMUM_ROWS = 2000
MAXIMUM_FINGERPRINTS = 500

LIBRARIES = ("torch", "lightning", "zarr", "dask", "numpy", "scipy", "numba", "snakemake")
_KINDS = ("pooled", "mean")


def render(context: Mapping[str, Any]) -> str:
    """Fill the template; every value is escaped, a missing one is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=True,
    )
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
        ("pictures", "Pictures"),
        ("training", "Training"),
        ("data", "Data"),
        ("samples", "All samples"),
        ("run", "The run"),
        ("settings", "Settings"),
    ]
    absent = {"failures": not context["failures"], "samples": not context["sample_rows"]}
    return [(name, title) for name, title in sections if not absent.get(name, False)]


def build_context(results: Results, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Collect everything the template shows but the pictures of samples.

    Parameters
    ----------
    results : Results
    settings : mapping
        ``title``; ``config``, if there, is shown section by section.
    """
    return {
        "title": str(settings.get("title") or "Segmentation report"),
        "headlines": headlines(results),
        "notes": results.notes,
        "failures": list_failures(results.records),
        **_scores(results.scores),
        **_training(results.models),
        "datasets": _datasets(results),
        **_sample_table(results.scores),
        "benchmarks": [_benchmark(row) for row in results.benchmarks],
        "machine": _machine(results),
        "settings": _settings(settings, results.models),
        **_fingerprints(results),
    }


def headlines(results: Results) -> list[dict[str, Any]]:
    """Say how good each experiment is: its main metric on each data set, on held-out samples."""
    names = [model.experiment for model in results.models]
    names += [record.experiment for record in results.records if record.experiment]
    names += list(results.scores["experiment"])
    lines = []
    for name in sorted(set(names)):
        mine = results.scores[results.scores["experiment"] == name]
        scores = [
            line
            for _, group in mine.groupby("dataset", sort=True)
            if (line := _headline(group)) is not None
        ]
        lines.append({"experiment": name, "scores": scores, "sentence": "No scores yet."})
    return lines


def _headline(group: pd.DataFrame) -> dict[str, Any] | None:
    split = compare.held_out(group)
    group = group[group["split"] == split]
    key = compare.main_metric(group)
    if key is None:
        return None
    rows = compare.select(group, key)
    for kind in (*_KINDS, "sample"):
        values = rows.loc[rows["aggregation"] == kind, "value"].astype(float)
        if np.isfinite(values).any():
            break
    folds = rows["fold"].nunique()
    count = rows.loc[rows["aggregation"] == "sample", "sample"].nunique()
    sentence = f"{group['dataset'].iloc[0]}: {kind} over {_plural(count, f'{split} sample')}"
    sentence += f", mean of {folds} folds." if folds > 1 else "."
    if split == "train":
        sentence += " These samples were also trained on: expect less on new ones."
    return {"key": describe_key(key), "value": float(values.mean()), "sentence": sentence}


def describe_key(key: compare.Key) -> dict[str, Any]:
    """Return what the template shows of a metric at a threshold."""
    metric = compare.describe(key[0])
    return {"title": metric.title, "at": key[1], "better": metric.better, "words": metric.words}


def _scores(scores: pd.DataFrame) -> dict[str, Any]:
    metrics = dict.fromkeys(metric for metric, _ in compare.list_metrics(scores))
    return {
        "comparisons": [_comparison(scores, c) for c in compare.compare(scores)],
        "glossary": [compare.METRICS[name] for name in metrics if name in compare.METRICS],
    }


def _comparison(scores: pd.DataFrame, table: compare.Comparison) -> dict[str, Any]:
    mine = scores[(scores["dataset"] == table.dataset) & (scores["split"] == table.split)]
    kinds = [k for k in _KINDS if any(k == kind for _, row in table.rows for _, kind in row)]
    strips, caption = _strips(mine, table.experiments)
    return {
        "dataset": table.dataset,
        "split": table.split,
        "experiments": table.experiments,
        "kinds": kinds,
        "rows": [{"key": describe_key(key), "cells": cells} for key, cells in table.rows],
        "caption": _count_samples(mine, table.experiments),
        "strips": strips,
        "strips_caption": caption,
        "curves": _threshold_curves(mine),
    }


def _count_samples(scores: pd.DataFrame, experiments: Sequence[str]) -> str:
    samples = scores[scores["aggregation"] == "sample"]
    counts = [samples.loc[samples["experiment"] == e, "sample"].nunique() for e in experiments]
    folds = scores["fold"].nunique()
    many = f" With {folds} folds, each number is the mean over the folds." if folds > 1 else ""
    if len(set(counts)) == 1:
        return f"{_plural(counts[0], 'sample')}.{many}"
    each = "; ".join(
        f"{e}: {_plural(n, 'sample')}" for e, n in zip(experiments, counts, strict=True)
    )
    return f"{each}.{many}"


def _strips(scores: pd.DataFrame, experiments: Sequence[str]) -> tuple[str, str]:
    """Draw the main metric of each sample, one row per experiment, if there are samples enough."""
    key = compare.main_metric(scores[scores["aggregation"] == "sample"])
    if key is None:
        return "", ""
    rows = compare.select(scores, key)
    strips = []
    for name in experiments:
        mine = rows[rows["experiment"] == name]
        values = mine.loc[mine["aggregation"] == "sample", "value"].astype(float)
        pooled = mine.loc[mine["aggregation"] == "pooled", "value"].astype(float)
        strips.append(Strip(name, values.tolist(), float(pooled.mean())))
    if max(len(strip.values) for strip in strips) < 3:
        return "", ""
    metric = compare.describe(key[0])
    caption = f"{metric.title} of each sample: one dot is one sample, the bar is the pooled score."
    return draw_strips(strips, _axis_title(key)), caption


def _axis_title(key: compare.Key) -> str:
    metric, at = compare.describe(key[0]), key[1]
    hint = f" ({metric.better} is better)" if metric.better else ""
    return f"{metric.title}{'' if at is None else f' @ {at:g}'}{hint}"


def _threshold_curves(scores: pd.DataFrame) -> str:
    """Draw the pooled scores of metrics that have three thresholds or more."""
    pooled = scores[(scores["aggregation"] == "pooled") & scores["at"].notna()]
    charts = []
    for metric in dict.fromkeys(m for m, _ in compare.list_metrics(pooled)):
        mine = pooled[pooled["metric"] == metric]
        if mine["at"].nunique() < 3:
            continue
        curves = []
        for name, part in mine.groupby("experiment", sort=True):
            means = part.groupby("at")["value"].mean()
            curves.append(Curve(str(name), means.index.tolist(), means.tolist()))
        charts.append(Chart(compare.describe(metric).title, "threshold", curves))
    return draw_curves(charts[:3]) if charts else ""


def _training(models: Sequence[Model]) -> dict[str, Any]:
    charts = learning_charts(models)
    facts = [_model_facts(model) for model in models]
    columns = list(dict.fromkeys(name for own in facts for name in own))
    return {
        "learning": draw_curves(charts) if charts else "",
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


def learning_charts(models: Iterable[Model]) -> list[Chart]:
    """Arrange the histories of all models as charts: the loss, and each validation metric."""
    losses: list[Curve] = []
    others: dict[str, list[Curve]] = {}
    for model in models:
        steps = model.history.get("step", [])
        for name, values in sorted(model.history.items()):
            if name == "train_loss":
                losses.append(Curve(model.experiment, steps, values, faint=True))
            elif name == "validation_loss":
                losses.append(Curve(model.experiment, steps, values))
            elif name.startswith("validation_"):
                curve = Curve(model.experiment, steps, values)
                others.setdefault(name.removeprefix("validation_"), []).append(curve)
    charts = [Chart("Loss", "step", losses)] if losses else []
    for name, curves in sorted(others.items()):
        charts.append(Chart(f"Validation {compare.describe(name).title}", "step", curves))
    return charts[:3]


def _model_facts(model: Model) -> dict[str, str]:
    """Pick the plain values among what a model's manifest says about it."""
    hidden = {"stage", "experiment", "fold", "store", "fingerprint", "status", "message", "lot"}
    return {
        name.replace("_", " "): f"{value:.4g}" if isinstance(value, float) else str(value)
        for name, value in model.manifest.items()
        if name not in hidden and isinstance(value, str | int | float)
    }


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
    return {
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


def installed_version(name: str) -> str:
    """Return the version of an installed distribution, or a note that it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:  # a checkout on PYTHONPATH is not a distribution
        return "(not installed)"


def _machine(results: Results) -> list[tuple[str, str]]:
    def noted(key: str) -> list[str]:
        values = {str(n[key]) for n in results.attempts if key in n}
        values |= {str(m.manifest[key]) for m in results.models if m.manifest.get(key)}
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
