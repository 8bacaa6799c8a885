"""The head of the report: how good each experiment is, in a sentence and in one table of all."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from .comparison import Key, describe_key, format_score, held_out, main_metric
from .glossary import OVERVIEW_METRICS, PLAIN_WORDS, describe
from .resampling import FEWEST_SAMPLES
from .scores import BEST
from .standings import Cell, Standings, whole_rows


@dataclass
class Quote:
    """Published figures of one source, as a row of the table of experiments.

    Attributes
    ----------
    source, url : str
    values : mapping of (metric, threshold) to float
    notes : list of str
        Why they may not be comparable.
    """

    source: str
    url: str
    values: dict[Key, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Overview:
    """Experiments by their main metrics on one split of a data set, held-out for one of them.

    Attributes
    ----------
    keys : list of (metric, threshold)
    rows : mapping of experiment to one Cell or None per key
    quotes : list of Quote
    """

    dataset: str
    split: str
    keys: list[Key]
    rows: Mapping[str, Sequence[Cell | None]]
    quotes: list[Quote]


def headlines(
    experiments: Iterable[str],
    scores: pd.DataFrame,
    standings: Sequence[Standings],
    labels: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Say how good each experiment is: its main metric on each data set, on held-out samples.

    Parameters
    ----------
    experiments : iterable of str
        All there are; those without scores are told so.
    scores : DataFrame
    standings : sequence of Standings
        Of these scores.
    labels : mapping of data set to what its label files hold
    """
    lines = []
    for name in sorted({*experiments, *scores["experiment"]}):
        mine = scores[scores["experiment"] == name]
        found = [
            line
            for dataset, group in mine.groupby("dataset", sort=True)
            if (line := _headline(name, group, standings, labels.get(str(dataset), "instances")))
        ]
        lines.append({"experiment": name, "scores": found, "sentence": "No scores yet."})
    return lines


def _headline(
    experiment: str, group: pd.DataFrame, standings: Iterable[Standings], labels: str
) -> dict[str, Any] | None:
    split, dataset = held_out(group), group["dataset"].iloc[0]
    key = main_metric(whole_rows(group[group["split"] == split]), labels)
    mine = [s for s in standings if (s.dataset, s.split) == (dataset, split)]
    cells = dict(mine[0].rows).get(key, {}) if mine and key else {}
    for kind in ("pooled", "mean"):
        cell = cells.get((experiment, kind))
        if key and cell and math.isfinite(cell.value):
            sentence = say(key, cell, kind, f"{split} sample", str(dataset))
            ends = {"low": cell.low, "high": cell.high}
            facts = {"key": describe_key(key), "value": cell.value, "split": str(split)}
            return {**facts, **ends, "sentence": sentence}
    return None


def say(key: Key, cell: Cell, kind: str, noun: str, dataset: str) -> str:
    """Say in one sentence how good a score is, how sure that is, and what is behind it.

    Examples
    --------
    >>> cell = Cell(0.812, 0.784, 0.838, float("nan"), 54, 1)
    >>> print(say(("dice", None), cell, "pooled", "test sample", "dsb2018"))
    Segmentation and truth overlap by 81 % (Dice 0.812, 95 % interval 0.784 to 0.838), pooled over \
the 54 test samples of dsb2018.
    """
    metric, at = describe(key[0]), key[1]
    words = PLAIN_WORDS.get(key[0], "Its main metric says this")
    text = words.format(percent=f"{100 * cell.value:.{3 if cell.value > 0.99 else 2}g} %")
    text += f" ({metric.title}{'' if at is None else f' @ {at:g}'} {format_score(cell.value)}, "
    if math.isnan(cell.low):
        text += f"no interval: that takes {FEWEST_SAMPLES} samples)"
    else:
        text += f"95 % interval {format_score(cell.low)} to {format_score(cell.high)})"
    if at is None and key[0] in BEST:
        text += " at the threshold that is best on these samples"
    samples = f"the {cell.samples} {noun}s" if cell.samples > 1 else f"the only {noun}"
    text += f", {kind} over {samples} of {dataset}"
    if cell.folds > 1:
        text += f" in each of {cell.folds} folds" if noun.startswith("test") else ", fold by fold"
        text += f": mean of {cell.folds} folds, standard deviation {format_score(cell.sd)}"
    text += "."
    if noun.startswith("train"):
        text += " These samples were also trained on: expect less on new ones."
    return text


def overviews(
    scores: pd.DataFrame,
    standings: Iterable[Standings],
    datasets: Mapping[str, Mapping[str, Any]],
) -> list[Overview]:
    """Arrange the pooled main metrics of all experiments, and published figures, as tables.

    Parameters
    ----------
    scores : DataFrame
    standings : iterable of Standings
    datasets : mapping
        The section `datasets` of the settings.
    """
    tables = []
    for one in standings:
        mine = scores[scores["dataset"] == one.dataset]
        if not any(
            held_out(mine[mine["experiment"] == name]) == one.split for name in one.experiments
        ):
            continue
        facts = datasets.get(one.dataset, {})
        quotes = list_quotes(facts.get("published") or [])
        wanted = OVERVIEW_METRICS[facts.get("labels", "instances")]
        keys = _choose(one, wanted, [key for quote in quotes for key in quote.values])
        cells = dict(one.rows)
        rows = {
            name: [cells.get(key, {}).get((name, "pooled")) for key in keys]
            for name in one.experiments
        }
        tables.append(Overview(one.dataset, one.split, keys, rows, quotes))
    return tables


def _choose(one: Standings, wanted: Iterable[str], quoted: Iterable[Key]) -> list[Key]:
    """Choose the columns: of each wanted metric its first threshold, then what is quoted."""
    there = [key for key, _ in one.rows]
    first = [next((key for key in there if key[0] == metric), None) for metric in wanted]
    return list(dict.fromkeys([*(key for key in first if key), *quoted]))


def list_quotes(published: Iterable[Mapping[str, Any]]) -> list[Quote]:
    """Gather published figures by their source.

    Examples
    --------
    >>> figures = [{"source": "A", "metric": "seg", "value": 0.9}, {"source": "A", "metric": "f1",
    ...             "at": 0.5, "value": 0.8, "note": "other samples"}]
    >>> [(quote.values, quote.notes) for quote in list_quotes(figures)]
    [({('seg', None): 0.9, ('f1', 0.5): 0.8}, ['F1: other samples'])]
    """
    quotes: dict[str, Quote] = {}
    for figure in published:
        quote = quotes.setdefault(figure["source"], Quote(figure["source"], figure.get("url", "")))
        quote.values[figure["metric"], figure.get("at")] = figure["value"]
        if figure.get("note"):
            quote.notes.append(f"{describe(figure['metric']).title}: {figure['note']}")
    return list(quotes.values())


def overview_table(tables: Iterable[Overview]) -> pd.DataFrame:
    """Return the tables of all experiments and of what is quoted as one tidy table."""
    rows: list[dict[str, Any]] = []
    for one in tables:
        common = {"dataset": one.dataset, "split": one.split}
        for experiment, cells in one.rows.items():
            rows += [
                {**common, "experiment": experiment, "metric": key[0], "at": key[1],
                 "aggregation": "pooled", **vars(cell)}
                for key, cell in zip(one.keys, cells, strict=True) if cell
            ]  # fmt: skip
        for quote in one.quotes:
            rows += [
                {"dataset": one.dataset, "quoted": quote.source, "metric": metric, "at": at,
                 "value": value, "note": "; ".join(quote.notes)}
                for (metric, at), value in quote.values.items()
            ]  # fmt: skip
    columns = ["dataset", "split", "experiment", "quoted", "metric", "at", "aggregation", "value"]
    columns += ["low", "high", "sd", "samples", "folds", "mark", "note"]
    return pd.DataFrame(rows, columns=columns).astype({"samples": "Int64", "folds": "Int64"})
