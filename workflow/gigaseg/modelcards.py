"""Model cards: what each network was trained on, what it is, how good, and how to use it again."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from .benchmarks import duration
from .comparison import format_score
from .geometry import UNetGeometry
from .ledger import read_attempts
from .summaries import Model, Results

ENSEMBLE = "all"  # what stands for the number of a fold where all predict together
MAXIMUM_NAMES = 200  # samples that a card lists; all are in the model file

#: Scores of a checkpoint, and what they are called.
SCORES = {
    "loss": "validation loss",
    "dice": "Dice",
    "error": "pixel error",
}
#: What may be done to a tile before it is learned from.
AUGMENTATIONS = {
    "flips": "mirror images",
    "rotation": "rotation by up to {:g}°",
    "scale": "size ± {:.0%}",
    "elastic": "elastic deformation of {sigma:g} px (SD) every {spacing:g} px",
    "blur": "blur of up to {:g} px",
    "gain": "contrast ± {:.0%}",
    "offset": "brightness ± {:g}",
    "gamma": "gamma ± {:.0%}",
    "noise": "noise of up to {:g}",
}
CHECKPOINTS = {"best": "the lowest validation loss", "last": "where the training ended"}


def describe_models(results: Results, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Collect what the template shows of each experiment's models.

    Parameters
    ----------
    results : Results
    config : mapping
        Settings of the run, as far as they are known: which weights predicted.

    Returns
    -------
    list of dict
        ``experiment``, ``cards``, one per model, ``together``, whether they predicted as an
        ensemble, ``brought``, whether they were trained elsewhere, ``line``, which uses all of them
        in another run, ``evaluated``, whether there are scores of whole samples, and ``coarse``:
        how many samples were predicted from which coarser level.
    """
    together = {record.experiment for record in results.at("predict") if record.fold == ENSEMBLE}
    groups: dict[str, list[Model]] = {}
    for model in results.models:
        if model.description:
            groups.setdefault(model.experiment, []).append(model)
    return [
        {
            "experiment": name,
            "cards": [_card(model, _checkpoint(config, name)) for model in models],
            "evaluated": bool((results.scores["experiment"] == name).any()),
            "together": len(models) > 1 and (name in together or models[0].brought),
            "brought": models[0].brought,
            "line": use_again([model.path for model in models]) if len(models) > 1 else "",
            "coarse": _coarse(results, name),
        }
        for name, models in groups.items()
    ]


def _coarse(results: Results, experiment: str) -> list[tuple[str, int]]:
    """Count the samples of each coarser level that was predicted, in words."""
    levels = {
        (record.dataset, record.sample): record.facts["level"]
        for record in results.at("predict")
        if record.experiment == experiment and record.facts.get("level")
    }
    counts = sorted(Counter(levels.values()).items())
    return [(f"{n} sample{' was' if n == 1 else 's were'}", level) for level, n in counts]


def use_again(paths: Sequence[Path]) -> str:
    """Write the line of an experiment that predicts with some models.

    Examples
    --------
    >>> use_again([Path("kept/model.json")])
    'model: kept/model.json'
    >>> use_again([Path("a/model.json"), Path("b/model.json")])
    'model: [a/model.json, b/model.json]'
    """
    names = [path.as_posix() for path in paths]
    return f"model: {names[0] if len(names) == 1 else '[' + ', '.join(names) + ']'}"


def _checkpoint(config: Mapping[str, Any], experiment: str) -> str:
    """Return which weights predict; empty if the settings do not say."""
    own = {**config, **config.get("experiments", {}).get(experiment, {})}
    return own.get("prediction", {}).get("checkpoint", "")


def _card(model: Model, checkpoint: str) -> dict[str, Any]:
    says = model.description
    return {
        "fold": model.fold,
        "brought": model.brought,
        "path": model.path.as_posix(),
        "line": use_again([model.path]),
        "facts": [(name, text) for name, text in _facts(model, checkpoint) if text],
        "scores": list(_scores(says)),
        "curve": bool(model.history) and not model.brought,
        "parts": list(_parts(says.get("samples", {}))),
        "fingerprint": says.get("fingerprint", ""),
        "sums": list(says.get("sha256", {}).items()),
    }


def _facts(model: Model, checkpoint: str) -> Iterator[tuple[str, str]]:
    says = model.description
    architecture = says.get("architecture", {})
    data = ("in_channels", "classes")
    yield "Learned from", _count(says.get("samples", {}).get("train", {}))
    yield "Watched on", _count(says.get("samples", {}).get("validation", {}))
    yield "Left out", _left_out(says.get("left_out", ()))
    yield "Began with", _start(says)
    yield "Channels", str(says.get("channels", ""))
    spacings = says.get("spacings") or [says[key] for key in ("spacing",) if key in says]
    yield "Voxel", "; ".join(map(_spacing, spacings))
    yield "Intensity", _list(says.get("intensity", {}))
    yield "Classes", ", ".join(says.get("classes", ()))
    yield "Network", _list({k: v for k, v in architecture.items() if k not in data})
    yield "Parameters", f"{says['parameters']:,}" if says.get("parameters") else ""
    yield "Context", _context(architecture)
    yield from _learning(says)
    yield "Predicted with", _weights(says, checkpoint)
    yield "Device", ", ".join(str(says[key]) for key in ("device", "precision") if says.get(key))
    yield "Hardware", ", then ".join(says.get("hardware", ()))
    yield "Time", _time(model.path.parent)


def _learning(says: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Say how a network was trained; what an older file does not say is left out."""
    training = says.get("settings", {}).get("training") or {}
    yield "Training", _schedule(training)
    yield "Seed", str(training.get("seed", ""))
    yield (
        "Augmentation",
        _augmentation(training["augmentation"]) if "augmentation" in training else "",
    )
    yield "Loss", _loss(says, training)
    if "ema" in training:
        ema = training["ema"]
        yield "Average of weights", f"exponential (EMA), decay {ema:g}" if ema else "none"
    yield "Early stopping", _stopping(says, training)


def _augmentation(settings: Mapping[str, Any]) -> str:
    """Say what is done to tiles, leaving out what is set to nothing.

    Examples
    --------
    >>> _augmentation({"flips": True, "scale": 0.1, "noise": 0.0, "elastic": {"sigma": 0}})
    'mirror images, size ± 10%'
    >>> _augmentation({"flips": False})
    'none'
    """
    parts = []
    for key, text in AUGMENTATIONS.items():
        value = settings.get(key)
        if isinstance(value, Mapping):
            parts += [text.format(**value)] if value["sigma"] else []
        elif value:
            parts.append(text.format(value))
    return ", ".join(parts) or "none"


def _loss(says: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    """Say what the cross-entropy is weighted by."""
    if not {"class_balance", "separation"} <= training.keys():
        return ""
    parts = []
    if training["class_balance"]:
        pairs = zip(says.get("classes", ()), says.get("class_weights", ()), strict=False)
        weights = ", ".join(f"{name} {weight:.3g}" for name, weight in pairs)
        parts.append(f"class balance ({weights})" if weights else "class balance")
    if training["separation"]:
        parts.append("separation of touching objects")
    return f"cross-entropy, {'weighted by ' + ' and '.join(parts) if parts else 'not weighted'}"


def _stopping(says: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    if "patience" not in training:
        return ""
    if not training["patience"]:
        return "off"
    after = says.get("stopped_early_after")
    return (
        f"after {training['patience']} validations, one every {training['validate_every']} steps, "
        f"without a lower loss: {'not reached' if after is None else f'at step {after}'}"
    )


def _weights(says: Mapping[str, Any], checkpoint: str) -> str:
    """Say which weights predicted, and why there are these."""
    if not checkpoint:
        return ""
    step = says.get("scores", {}).get(checkpoint, {}).get("step")
    validated = bool(says.get("samples", {}).get("validation"))
    why = CHECKPOINTS[checkpoint if validated else "last"]
    return f"{checkpoint} weights{'' if step is None else f', of step {step}'}: {why}"


def _left_out(samples: Sequence[Mapping[str, str]]) -> str:
    """Count the samples that could not be learned from.

    Examples
    --------
    >>> _left_out([{"sample": "em/a", "message": "the file is truncated"}])
    '1 sample, which failed in an earlier step'
    """
    if not samples:
        return ""
    return (
        f"{len(samples)} sample{'' if len(samples) == 1 else 's'}, which failed in an earlier step"
    )


def _count(identities: Mapping[str, str]) -> str:
    """Count samples by data set."""
    datasets = [name.partition("/")[0] for name in identities]
    parts = [f"{datasets.count(name)} of {name}" for name in dict.fromkeys(datasets)]
    count = f"{len(datasets)} sample{'' if len(datasets) == 1 else 's'}"
    return f"{count} ({', '.join(parts)})" if datasets else ""


def _start(says: Mapping[str, Any]) -> str:
    start = says.get("start_from")
    return f"the weights of model {start['model'][:12]}" if start else ""


def _spacing(spacing: Sequence[float] | None) -> str:
    if spacing is None:
        return "not known"
    return f"{' × '.join(f'{n:g}' for n in spacing)} µm (z × y × x)"


def _list(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _context(architecture: Mapping[str, Any]) -> str:
    if not architecture:
        return ""
    known = {field.name for field in fields(UNetGeometry)}
    geometry = UNetGeometry(**{k: v for k, v in architecture.items() if k in known})
    return f"{geometry.context} px to each side of a pixel decide about it"


def _schedule(training: Mapping[str, Any]) -> str:
    if not training:
        return ""
    keys = ("optimizer", "learning_rate")
    how = "".join(f", {key.replace('_', ' ')} {training[key]}" for key in keys if key in training)
    tiles = f"{training['batch']} tile{'' if training['batch'] == 1 else 's'}"
    return f"{training['steps']} steps of {tiles} of {training['tile']} px{how}"


def _time(folder: Path) -> str:
    """Add up all attempts at a training, from what its folder remembers."""
    seconds = [line["seconds"] for line in read_attempts(folder) if line["event"] == "end"]
    return duration(sum(seconds)) if seconds else ""


def _scores(says: Mapping[str, Any]) -> Iterator[tuple[str, int, list[tuple[str, str]]]]:
    """Yield each checkpoint, its step, and its scores on the validation tiles."""
    for name, scores in says.get("scores", {}).items():
        found = [
            (SCORES.get(key, key), "–" if value is None else format_score(value))
            for key, value in scores.items()
            if key != "step"
        ]
        yield name, scores.get("step", 0), found


def _parts(
    samples: Mapping[str, Mapping[str, str]],
) -> Iterator[tuple[str, list[tuple[str, str]], int]]:
    """Yield the samples of each part with their fingerprints, and how many are left out."""
    for part, identities in samples.items():
        if identities:
            listed = list(identities.items())
            yield part, listed[:MAXIMUM_NAMES], max(0, len(listed) - MAXIMUM_NAMES)
