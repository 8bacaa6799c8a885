"""The settings of a run: defaults filled in, checked against the schema, all problems at once."""

import difflib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

from . import grids, lineage
from .geometry import UNetGeometry
from .schema import Path_, Problem, follow, read_schema, validate
from .sizing import DEEPEST

# An overlay that names data sets or experiments means those and no others; everything else of an
# overlay is merged into the defaults.
REPLACED = ("datasets", "experiments")

# What an experiment may set for itself; the sections of the same names are its defaults.
PER_EXPERIMENT = ("network", "training", "prediction", "instances")


class SettingsError(ValueError):
    """Everything that is wrong with the settings and the sheet, in one message.

    Parameters
    ----------
    problems : iterable of Problem
        At least one.

    Examples
    --------
    >>> print(SettingsError([Problem(("network", "depth"), "0 is below 1")]))
    1 problem with the settings:
      - network.depth: 0 is below 1
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"{count} with the settings:{lines}")


def resolve(
    config: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Problem]]:
    """Fill in defaults and complete every experiment; list what is wrong.

    Parameters
    ----------
    config : mapping
        All config files and the command line, merged by Snakemake.
    given : mapping
        What the command line alone brought (``--configfile``, ``--config``): its `REPLACED`
        sections stand in place of the merged ones.

    Returns
    -------
    settings : dict
        Complete where no problem says otherwise: every experiment carries its own
        `PER_EXPERIMENT` sections in full; of one that brings a model, network and target are those
        of the model's file, which is read.
    problems : list of Problem
    """
    own = _with_whole_numbers({**config, **{k: given[k] for k in REPLACED if k in given}})
    problems = validate(own, read_schema("config"))
    settings = complete(_without(own, problems))
    named = own.get("experiments") or {}
    problems += lineage.settle(settings["experiments"], named, settings["datasets"])
    return settings, problems + list(check(settings))


def _with_whole_numbers(value: Any) -> Any:
    """Copy a value with 3 for 3.0, which YAML and the schema take for the same."""
    if isinstance(value, Mapping):
        return {key: _with_whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _without(config: dict[str, Any], problems: Iterable[Problem]) -> dict[str, Any]:
    """Blank out what is wrong, so that the rest can still be checked."""
    for problem in problems:
        parent: Any = config
        for key in problem.where[:-1]:
            parent = parent.get(key) if isinstance(parent, Mapping) else None
        if problem.where and isinstance(parent, dict):
            is_section = len(problem.where) == 1 + (problem.where[0] in REPLACED)
            parent[problem.where[-1]] = {} if is_section else None
    return config


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the schema's defaults; sections of an experiment start from the common ones."""
    schema = read_schema("config")
    sections = schema["properties"]
    common = {key: value for key, value in config.items() if key not in REPLACED}
    common["datasets"] = config.get("datasets") or {}
    settings = _fill(common, schema)
    settings["experiments"] = {
        name: {
            **_fill(experiment, sections["experiments"]["additionalProperties"]),
            **{
                s: _fill(_merge(settings[s], experiment.get(s) or {}), sections[s])
                for s in PER_EXPERIMENT
            },
        }
        for name, experiment in (config.get("experiments") or {}).items()
    }
    return settings


def _fill(value: Any, schema: Mapping[str, Any]) -> Any:
    """Copy a value, with the schema's default for every key that is not there."""
    schema = follow(schema)
    if not isinstance(value, Mapping):
        return deepcopy(value)
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties") or {}
    defaults = {
        key: follow(part)["default"]
        for key, part in properties.items()
        if "default" in follow(part)
    }
    return {
        key: _fill(item, properties.get(key, others)) for key, item in {**defaults, **value}.items()
    }


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = deepcopy(dict(base))
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else deepcopy(value)
    return merged


def changes(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List where complete settings differ from the defaults.

    Parameters
    ----------
    settings : mapping
        From `resolve`. A section of an experiment is compared with the common section.

    Returns
    -------
    list of dict
        ``setting`` (keys joined by points), ``value`` and ``default``; null where there is none.

    Examples
    --------
    >>> changes(complete({"network": {"depth": 3}}))
    [{'setting': 'network.depth', 'value': 3, 'default': 4}]
    """
    named: dict[str, Any] = {name: {} for name in settings.get("datasets", {})}
    defaults = complete({"datasets": named})
    common = {section: settings[section] for section in PER_EXPERIMENT}
    bare = complete({"experiments": {name: {} for name in settings.get("experiments", {})}})
    defaults["experiments"] = {name: {**own, **common} for name, own in bare["experiments"].items()}
    own, usual = dict(_leaves(settings)), dict(_leaves(defaults))
    return [
        {"setting": ".".join(where), "value": value, "default": usual.get(where)}
        for where, value in own.items()
        if value != usual.get(where)
    ]


def _leaves(value: Any, where: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, (*where, str(key)))
    else:
        yield where, value


# ------------------------------------------------------------------ what one value says of another


def check(settings: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong between settings that are each right by themselves."""
    chunk, shard = settings["storage"]["chunk"], settings["storage"]["shard"]
    if _numbers(chunk, shard) and shard % chunk:
        text = f"{shard} px is no multiple of chunk, {chunk} px: the next that is, is "
        yield Problem(("storage", "shard"), f"{text}{_next(shard, chunk)}")
    low, high = settings["intensity"]["low"], settings["intensity"]["high"]
    if _numbers(low, high) and not low < high:
        yield Problem(("intensity", "high"), f"{high} is not above low, {low}")
    if settings["dask"]["scheduler_address"] and settings["dask"]["workers"]:
        text = "another cluster is named in dask.scheduler_address: set one of the two"
        yield Problem(("dask", "workers"), text)
    earlier = settings["evaluation"]["baseline"]
    if isinstance(earlier, str) and _same_folder(earlier, settings["results"]):
        text = f"{earlier} is the results folder of this run: name that of an earlier one"
        yield Problem(("evaluation", "baseline"), text)
    for name, experiment in settings["experiments"].items():
        where = ("experiments", str(name))
        yield from _check_datasets(where, experiment, settings.get("datasets", {}))
        yield from _check_network(where, experiment, settings["storage"])
        yield from _check_training(where, experiment["training"])
        yield from _check_tuning(where, experiment)


def _check_datasets(
    where: Path_, experiment: Mapping[str, Any], datasets: Mapping[str, Any]
) -> Iterator[Problem]:
    for name in experiment.get("datasets") or ():
        if datasets and name not in datasets:
            known = difflib.get_close_matches(str(name), map(str, datasets), n=1)
            near = f"; did you mean {known[0]}?" if known else f"; there are {', '.join(datasets)}"
            yield Problem((*where, "datasets"), f"no data set is called {name!r}{near}")


def _check_network(
    where: Path_, experiment: Mapping[str, Any], storage: Mapping[str, Any]
) -> Iterator[Problem]:
    """Check the tiles against the network, and the lattice and the step against the shards."""
    network, chunk, shard = experiment["network"], storage["chunk"], storage["shard"]
    if network["depth"] == "auto":
        yield from _check_auto(where, experiment)
        network = {**network, "depth": DEEPEST}  # of the lattices, that which all others divide
    lesser = experiment["prediction"]["depth"]
    unfit = list(_check_lesser_depth(where, network, lesser))
    yield from unfit
    try:
        geometry = UNetGeometry(network["depth"], network["padding"], network["kind"])
    except (TypeError, ValueError):
        return  # the schema has said so
    if shard == "auto" and _numbers(chunk):
        shard = _next(1024, chunk)  # the smallest there is; larger ones are multiples of it
    if not _numbers(chunk, shard):
        return
    if shard % geometry.lattice:
        text = f"{shard} px is no multiple of 2**depth = {geometry.lattice}, as {where[1]} needs"
        fitting = _next(shard, math.lcm(chunk, geometry.lattice))
        yield Problem(("storage", "shard"), f"{text}: the next that is, is {fitting}")
        return
    if experiment["network"]["depth"] == "auto" or unfit:
        return
    for section, depth in (("training", geometry.depth), ("prediction", lesser or geometry.depth)):
        tile, own = experiment[section]["tile"], replace(geometry, depth=depth)
        if not _numbers(tile):
            continue
        try:
            own.check(tile)
        except ValueError as error:
            yield Problem((*where, section, "tile"), str(error))
            continue
        if section == "prediction" and shard % own.step(tile):
            yield Problem((*where, section, "tile"), _uneven(own, tile, chunk, shard))


def _check_auto(where: Path_, experiment: Mapping[str, Any]) -> Iterator[Problem]:
    """Which tiles fit is not known before the depth is."""
    for section in ("training", "prediction"):
        tile = experiment[section]["tile"]
        if _numbers(tile):
            text = f"{tile} px may not fit a network of depth auto: write tile: auto, or a depth"
            yield Problem((*where, section, "tile"), text)


def _check_lesser_depth(where: Path_, network: Mapping[str, Any], lesser: Any) -> Iterator[Problem]:
    kind, depth, where = network["kind"], network["depth"], (*where, "prediction", "depth")
    if not _numbers(lesser):
        return
    if kind in ("unet", "fcn"):
        text = f"{lesser} is for networks of kind unet++, which can predict at lesser depths"
        yield Problem(where, f"{text}: write null, as this is a {kind}")
    elif _numbers(depth) and lesser > depth:
        yield Problem(where, f"{lesser} is above network.depth, {depth}: choose 1 to {depth}")


def _check_training(where: Path_, training: Mapping[str, Any]) -> Iterator[Problem]:
    processes, batch = training["processes"], training["batch"]
    if _numbers(processes, batch) and processes > batch:
        text = f"{processes} processes cannot share a batch of {batch}: raise training.batch"
        yield Problem((*where, "training", "processes"), f"{text} or lower this")


def _check_tuning(where: Path_, experiment: Mapping[str, Any]) -> Iterator[Problem]:
    instances, target = experiment["instances"], experiment.get("target")
    tune = instances.get("tune")
    grid = tune.get("grid") if isinstance(tune, Mapping) else None
    if not isinstance(grid, Mapping) or not all(map(_is_list, grid.values())):
        return  # off, or the schema has said so
    for key, text in grids.complaints(instances, grid):
        yield Problem((*where, "instances", "tune", "grid", *filter(None, [key])), text)
    if (metric := tune.get("metric")) in grids.MAP_METRICS and target == "interior_boundary":
        text = f"{metric} is of a map of cells, which target {target} does not give"
        yield Problem((*where, "instances", "tune", "metric"), f"{text}: use ap, f1 or rand")


def _uneven(geometry: UNetGeometry, tile: int, chunk: int, shard: int) -> str:
    steps = range(geometry.lattice, shard + 1, geometry.lattice)
    sizes = [geometry.input_size(step) for step in steps if shard % step == 0]
    nearest = min(sizes, key=lambda size: (abs(size - tile), size))
    step = geometry.step(tile)
    return (
        f"tile {tile} px predicts {step} px at a time, which does not divide the shard of {shard} "
        f"px: the nearest tile that does is {nearest}, and the next storage.shard for this one is "
        f"{_next(shard, math.lcm(chunk, step))}"
    )


def _same_folder(one: str, other: Any) -> bool:
    return isinstance(other, str) and os.path.abspath(one) == os.path.abspath(other)


def _next(value: int, factor: int) -> int:
    """Round up to a multiple."""
    return -(-value // factor) * factor


def _is_list(values: Any) -> bool:
    return values is None or isinstance(values, list)


def _numbers(*values: Any) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) and v > 0 for v in values)
