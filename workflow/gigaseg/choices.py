"""What the report says of settings that were tuned: on what, and which scores that flatters."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .charts import Chart, Curve, draw_curves
from .glossary import describe
from .grids import KEYS
from .summaries import Tuned

#: Combinations that the page lists; all are in the table beside the manifest.
MAXIMUM_TRIALS = 100
MAXIMUM_NAMES = 50


def describe_choices(tuned: Sequence[Tuned]) -> list[dict[str, Any]]:
    """Collect what the template shows of each model that was tuned.

    Parameters
    ----------
    tuned : sequence of Tuned

    Returns
    -------
    list of dict
        ``experiment``, ``fold``, ``metric``, ``aggregation``, ``samples`` (in words), their
        ``names``, ``chosen``, ``score``, ``cross_score``, ``hints``, ``charts`` and ``rows``, the
        trials, with ``left_out`` more.
    """
    return [_describe(one) for one in tuned]


def _describe(one: Tuned) -> dict[str, Any]:
    manifest = one.manifest
    trials = manifest["trials"]
    chosen = {key: manifest["chosen"][key] for key in KEYS if key in manifest["chosen"]}
    metric = describe(manifest["aim"]["metric"])
    title, sign = metric.title, -1 if metric.better == "lower" else 1
    best = next(k for k, trial in enumerate(trials) if trial["values"] == chosen)
    # The best ones, in the order of the grid; of equals the first.
    order = sorted(
        range(len(trials)), key=lambda k: (k != best, -_number(trials[k]["score"], sign), k)
    )
    shown = sorted(order[:MAXIMUM_TRIALS])
    return {
        "experiment": one.experiment,
        "fold": one.fold,
        "metric": _name_metric(title, manifest["aim"]),
        "aggregation": manifest["aim"]["aggregation"],
        "samples": _count(manifest["samples"]),
        "names": _names(manifest["samples"]),
        "chosen": chosen,
        "score": manifest["score"],
        "cross_score": manifest["cross_score"],
        "hints": list(_hints(trials, chosen)),
        "charts": draw_curves(list(_profiles(title, trials, chosen, sign))),
        "rows": [
            {
                "values": [trials[k]["values"][key] for key in chosen],
                "score": trials[k]["score"],
                "chosen": k == best,
            }
            for k in shown
        ],
        "left_out": len(trials) - len(shown),
    }


def _name_metric(title: str, aim: Mapping[str, Any]) -> str:
    if aim["metric"] not in ("ap", "f1", "pq"):
        return title
    thresholds = aim["iou_thresholds"]
    if len(thresholds) == 1:
        return f"{title} @ {thresholds[0]:g}"
    return f"{title}, mean over IoU {min(thresholds):g} to {max(thresholds):g}"


def _count(entries: Sequence[Mapping[str, Any]]) -> str:
    """Say in words how many samples of which data sets a choice rests on."""
    used = [entry["dataset"] for entry in entries if entry["status"] == "done"]
    parts = [f"{used.count(dataset)} of {dataset}" for dataset in dict.fromkeys(used)]
    lost = len(entries) - len(used)
    text = f"{len(used)} validation sample{'' if len(used) == 1 else 's'} ({', '.join(parts)})"
    return f"{text}; {lost} more could not be scored" if lost else text


def _names(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    used = [f"{e['dataset']}/{e['sample']}" for e in entries if e["status"] == "done"]
    more = len(used) - MAXIMUM_NAMES
    return [*used[:MAXIMUM_NAMES], f"and {more} more"] if more > 0 else used


def _values(trials: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return sorted({trial["values"][key] for trial in trials})


def _hints(trials: Sequence[Mapping[str, Any]], chosen: Mapping[str, float]) -> Iterator[str]:
    """Say where the best value may lie outside what was tried."""
    for key, value in chosen.items():
        tried = _values(trials, key)
        if len(tried) > 2 and value in (tried[0], tried[-1]) and value != 0:
            side = "largest" if value == tried[-1] else "smallest"
            yield f"{key} {value:g} is the {side} that was tried: the best may lie beyond."


def _profiles(
    title: str, trials: Sequence[Mapping[str, Any]], chosen: Mapping[str, float], sign: int
) -> Iterator[Chart]:
    """Show how the best score depends on each setting, whatever the others.

    `sign` is 1, or -1 for scores that are better if lower.
    """
    varied = [key for key in chosen if len(_values(trials, key)) > 1]
    label = title if len(varied) < 2 else f"best {title} over the others"
    for key in varied:
        values = _values(trials, key)
        heights = [
            max(_number(trial["score"], sign) for trial in trials if trial["values"][key] == value)
            for value in values
        ]
        heights = [sign * height if math.isfinite(height) else math.nan for height in heights]
        yield Chart(f"{key}: {chosen[key]:g} chosen", key, [Curve(label, values, heights)])


def _number(score: float | None, sign: int) -> float:
    return -math.inf if score is None else sign * score


def remark(tuned: Sequence[Tuned], experiments: Sequence[str], split: str) -> str:
    """Say of scores on a split what tuning makes of them; empty if nothing was tuned.

    Examples
    --------
    >>> remark([Tuned("a", "0", {})], ["a", "b"], "test")
    'The instances of a were tuned on validation samples, never on these.'
    >>> remark([Tuned("a", "0", {}), Tuned("a", "1", {})], ["a"], "validation")
    'The instances of a were tuned fold by fold, on the samples of the other folds.'
    """
    folds = {name: {one.fold for one in tuned if one.experiment == name} for name in experiments}
    names = [name for name in experiments if folds[name]]
    crossed = [name for name in names if len(folds[name]) > 1 and split == "validation"]
    flattered = [name for name in names if name not in crossed]
    text = []
    if crossed:
        text.append(f"{_who(crossed)} tuned fold by fold, on the samples of the other folds.")
    if flattered and split == "validation":
        flatters = "these samples, so these scores flatter: expect less on new ones."
        text.append(f"{_who(flattered)} tuned on {flatters}")
    elif flattered:
        text.append(f"{_who(flattered)} tuned on validation samples, never on these.")
    return " ".join(text)


def _who(experiments: Sequence[str]) -> str:
    return f"The instances of {' and '.join(experiments)} were"
