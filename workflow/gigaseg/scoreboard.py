"""What the report says of scores: its head, the comparisons, and the tables beside the page."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from . import baseline
from . import comparison as compare
from .charts import strip_chart, threshold_charts
from .choices import remark
from .comparison import KINDS, describe_key
from .glossary import METRICS, describe
from .headlines import Overview, headlines, overview_table, overviews
from .pairs import pair_table
from .resampling import RESAMPLES
from .standings import Standings, list_standings
from .summaries import Results


def build_scoreboard(
    results: Results, config: Mapping[str, Any], labels: Mapping[str, str]
) -> dict[str, Any]:
    """Collect what the template shows of scores.

    Parameters
    ----------
    results : Results
    config : mapping
        Settings of the run: published figures of its data sets, and an earlier run.
    labels : mapping
        What the label files of each data set hold.
    """
    standings = list_standings(results.scores)
    experiments = {model.experiment for model in results.models}
    experiments |= {record.experiment for record in results.records} - {""}
    return {
        "headlines": _headlines(results, headlines(experiments, results.scores, standings, labels)),
        "resamples": f"{RESAMPLES:,}",
        **_overviews(overviews(results.scores, standings, config.get("datasets", {}))),
        **_scores(results, standings, labels),
        "baseline": _baseline(results.scores, config, labels),
    }


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


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
