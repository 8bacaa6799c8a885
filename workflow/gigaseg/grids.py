"""The grid of settings that tuning tries: which combinations, in which order."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

#: Settings of instances that can be tuned; the last varies fastest.
KEYS = ("threshold", "seed_threshold", "h", "minimum_size")

#: Metrics of the probability map, which is cut by a threshold and by nothing else.
MAP_METRICS = ("v_rand", "v_info", "splits_and_mergers")

LARGEST = 500  # combinations; each segments all validation samples of a model anew

Grid = Mapping[str, Sequence[float] | None]


def grid_of(instances: Mapping[str, Any]) -> dict[str, Sequence[float]]:
    """Return what is tuned of the settings of instances; empty if nothing is.

    Examples
    --------
    >>> grid_of({"tune": None}), grid_of({"tune": {"grid": {"h": [1, 2], "threshold": None}}})
    ({}, {'h': [1, 2]})
    """
    return listed(instances["tune"]["grid"]) if instances["tune"] else {}


def map_metric_of(instances: Mapping[str, Any]) -> str | None:
    """Return the metric of the map by which instances are tuned; None if it is another, or none.

    Examples
    --------
    >>> map_metric_of({"tune": {"metric": "v_rand"}}), map_metric_of({"tune": {"metric": "ap"}})
    ('v_rand', None)
    """
    metric = (instances.get("tune") or {}).get("metric")
    return metric if metric in MAP_METRICS else None


def listed(grid: Grid) -> dict[str, Sequence[float]]:
    """Return what is tuned, in the order of `KEYS`: a key that is null keeps its own value.

    Examples
    --------
    >>> listed({"h": [1, 2], "threshold": [0.5], "seed_threshold": None})
    {'threshold': [0.5], 'h': [1, 2]}
    """
    return {key: values for key in KEYS if (values := grid.get(key))}


def size(grid: Grid) -> int:
    """Count the combinations of a grid.

    Examples
    --------
    >>> size({"threshold": [0.5, 0.7, 0.9], "h": [1, 2]})
    6
    """
    return math.prod(len(values) for values in listed(grid).values())


def combinations(grid: Grid) -> list[dict[str, float]]:
    """List every combination of a grid, whatever the order in which its keys are written.

    Examples
    --------
    >>> combinations({"h": [2, 1], "threshold": [0.5, 0.7]})[:3]
    [{'threshold': 0.5, 'h': 2}, {'threshold': 0.5, 'h': 1}, {'threshold': 0.7, 'h': 2}]
    """
    tried = listed(grid)
    return [dict(zip(tried, values, strict=True)) for values in product(*tried.values())]


def complaints(instances: Mapping[str, Any], grid: Grid) -> Iterator[tuple[str, str]]:
    """Say what is wrong with a grid: a key of it, empty for the grid as a whole, and why.

    Parameters
    ----------
    instances : mapping
        The settings that the grid varies: ``method``, ``seeds`` and the metric in ``tune`` decide
        which have an effect.
    grid : mapping of key to sequence of float
    """
    method, seeds = instances.get("method"), instances.get("seeds")
    for key, needed in (("h", "dynamics"), ("seed_threshold", "probability")):
        if not grid.get(key):
            continue
        if method == "components":
            yield key, "has no effect with method components: leave it out, or set it to null"
        elif seeds != needed:
            yield key, f"has no effect with seeds {seeds}: leave it out, or set seeds to {needed}"
    yield from _complain_of_map(instances, grid)
    if not grid:
        yield "", f"nothing is to be tuned: list values of {', '.join(KEYS[:-1])} or {KEYS[-1]}"
    if (count := size(grid)) > LARGEST:
        lengths = " x ".join(str(len(values)) for values in listed(grid).values())
        yield "", f"{lengths} = {count} combinations are more than {LARGEST}: list fewer values"


def _complain_of_map(instances: Mapping[str, Any], grid: Grid) -> Iterator[tuple[str, str]]:
    """Say where a metric of the map would not judge the instances that are made."""
    metric = map_metric_of(instances)
    if metric is None or not listed(grid):
        return
    if (method := instances.get("method")) != "components":
        text = f"{metric} is of the map, whose cells are no instances of method {method}"
        yield "", f"{text}: set method to components, or take another metric"
    if grid.get("minimum_size"):
        text = f"has no effect on {metric}, which is of the map"
        yield "minimum_size", f"{text}: leave it out, or take another metric"
