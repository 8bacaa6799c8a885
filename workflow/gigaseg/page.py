"""Turn records and scores into what the report's template shows: words, numbers and charts."""

import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from . import comparison as compare
from .benchmarks import duration, memory
from .charts import cost_charts, draw_curves, learning_charts
from .choices import describe_choices
from .comparison import describe_key
from .crossed import cross_thresholds
from .foresight import compare_forecast
from .modelcards import describe_models
from .outlook import amount
from .proof import build_proof
from .remarks import remark_offset
from .scoreboard import build_scoreboard
from .scoretable import pooled_counts
from .spreads import reliability_charts, size_charts
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
        ("pictures", "Where it goes wrong"),
        ("spreads", "Sizes and probabilities"),
        ("training", "Training"),
        ("models", "Models"),
        ("proof", "Proof"),
        ("data", "Data"),
        ("samples", "All samples"),
        ("run", "The run"),
        ("settings", "Settings"),
    ]
    absent = {"failures": not context["failures"], "samples": not context["sample_rows"]}
    absent["baseline"] = context["baseline"] is None
    absent["models"] = not context["cards"]
    absent["tuning"] = not context["tuning"]
    absent["spreads"] = not context["sizes"] and not context["calibrations"]
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
    return {
        "title": str(settings.get("title") or "Segmentation report"),
        "notes": results.notes,
        "failures": list_failures(results.records),
        "remarks": list_remarks(results.records)[:MAXIMUM_ROWS],
        "offsets": _offsets(results),
        **build_scoreboard(results, settings.get("config", {}), labels),
        "crossed": cross_thresholds(results.scores),
        "tuning": describe_choices(results.tuned),
        "sizes": size_charts(results, kinds_of_objects(settings)),
        "calibrations": reliability_charts(results.scores),
        **_training([model for model in results.models if not model.brought]),
        "cards": describe_models(results, settings.get("config", {})),
        "proof": build_proof(results),
        "datasets": _datasets(results),
        **_sample_table(results.scores),
        "benchmarks": [_benchmark(row) for row in results.benchmarks],
        "foresight": _foresight(results),
        "machine": _machine(results),
        "changes": None if "changes" not in settings else _changes(settings["changes"]),
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


def kinds_of_objects(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return whether the objects of each data set lie in planes or in the volume.

    Examples
    --------
    >>> kinds_of_objects({"config": {"datasets": {"em": {"objects": "volume"}}}})
    {'em': 'volume'}
    """
    datasets = settings.get("config", {}).get("datasets", {})
    return {name: facts.get("objects", "plane") for name, facts in datasets.items()}


def _training(models: Sequence[Model]) -> dict[str, Any]:
    charts = learning_charts(models)
    costs = draw_curves(cost_charts(models), "costs")
    facts = [_model_facts(model) for model in models]
    columns = list(dict.fromkeys(name for own in facts for name in own))
    return {
        "learning": draw_curves(charts, "learning"),
        "costs": costs,
        "depths": [row for model in models for row in _depths(model)],
        "model_columns": columns,
        "models": [
            {
                "experiment": model.experiment,
                "fold": model.fold,
                "values": [own.get(name, "–") for name in columns],
                "chosen": model.description.get("chosen", []),
            }
            for model, own in zip(models, facts, strict=True)
        ],
    }


def _depths(model: Model) -> list[dict[str, Any]]:
    """Say what a model scores and costs at each depth."""
    rows, columns = len(model.depths.get("depth", ())), model.depths

    def text(name: str, row: int, form: str) -> str:
        value = columns[name][row] if name in columns else math.nan
        return "–" if math.isnan(value) else format(value, form)

    shown = {"depth": ".0f", "multiply_adds": ",.0f", "seconds_per_mpx": ".3g"}
    shown |= dict.fromkeys(("loss", "dice", "error"), ".4f")
    return [
        {
            "experiment": model.experiment,
            "fold": model.fold,
            "values": [text(name, row, form) for name, form in shown.items()],
        }
        for row in range(rows)
    ]


def _model_facts(model: Model) -> dict[str, str]:
    """Pick what tells models apart; what a model does not say is left out."""
    says = model.description
    architecture = says.get("architecture", {})
    shown = ("kind", "depth", "width", "padding", "normalization")
    facts = {name: architecture.get(name) for name in shown}
    parameters = says.get("parameters")
    facts["parameters"] = None if parameters is None else f"{parameters:,}"
    for part in ("train", "validation"):
        names = model.manifest.get(part)
        facts[f"{part} samples"] = None if names is None else len(names)
    facts["best step"] = says.get("scores", {}).get("best", {}).get("step")
    facts["stopped early after step"] = says.get("stopped_early_after")
    facts["average of weights"] = says.get("settings", {}).get("training", {}).get("ema") or None
    facts["resumed after steps"] = ", ".join(map(str, model.resumed)) or None
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


def _offsets(results: Results) -> list[dict[str, Any]]:
    """List the data sets whose truth lies aside from the maps."""
    return [
        {"experiment": experiment, "dataset": dataset, "split": split, "remark": remark}
        for experiment, dataset, split, counts in pooled_counts(results.scores, "offset")
        if (remark := remark_offset(counts))
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


def _foresight(results: Results) -> list[dict[str, Any]] | None:
    """Return forecast and actual of each stage as texts; None if no forecast was kept."""
    compared = compare_forecast(results)
    if compared is None:
        return None

    def texts(pair: tuple[float, float] | None, write: Callable[[float], str]) -> tuple[str, str]:
        return ("–", "–") if pair is None else (write(pair[0]), write(pair[1]))

    return [
        {
            "stage": one.stage,
            "jobs": one.of if one.jobs in (0, one.of) else f"{one.jobs} of {one.of}",
            "pairs": [
                texts(one.seconds, duration),
                texts(one.memory, lambda size: memory(size / 2**20)),
                texts(one.disk, amount),
            ],
        }
        for one in compared
    ]


def _changes(changes: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    def text(value: Any) -> str:
        return "–" if value is None else json.dumps(value, ensure_ascii=False)

    return [
        {"setting": one["setting"], "value": text(one["value"]), "default": text(one["default"])}
        for one in changes
    ]


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
