"""Networks that a user brings: what their files decide, and what the config may not say then."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .fingerprints import file_identity
from .models import check_together, learned_by, read_model
from .samples import Sample, choose
from .schema import Path_, Problem, read_schema

OF_DATA = ("in_channels", "classes")  # keys of an architecture that are no settings


def files_of(experiment: Mapping[str, Any]) -> list[str]:
    """List the model files with which an experiment predicts; none if it trains its own."""
    named = experiment.get("model") or []
    return [named] if isinstance(named, str) else list(named)


def settle(
    experiments: Mapping[str, Any], given: Mapping[str, Any], datasets: Mapping[str, Any]
) -> Iterator[Problem]:
    """Put what model files decide into the experiments that name some; yield what is wrong.

    Parameters
    ----------
    experiments : mapping of name to experiment
        Complete; network and target of one with ``model`` become those of the file.
    given : mapping of name to experiment
        As the config says it, without defaults: what contradicts a file.
    datasets : mapping of name to data set
        Complete: the channels they keep must be as many as a network reads.
    """
    for name, experiment in experiments.items():
        where, own = ("experiments", str(name)), given.get(name) or {}
        if experiment.get("model") and experiment.get("start_from"):
            yield Problem(where, "has a model and start_from: it is used as it is, or trained on")
            continue
        if files := files_of(experiment):
            yield from _bring(where, experiment, own, files, datasets)
        elif start := experiment.get("start_from"):
            yield from _start(where, experiment, str(start), datasets)


def _bring(
    where: Path_,
    experiment: dict[str, Any],
    own: Mapping[str, Any],
    files: Sequence[str],
    datasets: Mapping[str, Any],
) -> Iterator[Problem]:
    """Take network and target from model files."""
    try:
        models = [read_model(Path(file)) for file in files]
        for other in models[1:]:
            check_together(models[0], other)
    except ValueError as error:
        yield Problem((*where, "model"), str(error))
        return
    kept = _channels_of(experiment, datasets)
    for model, file in zip(models, files, strict=True):
        yield from _check_channels((*where, "model"), model, file, kept)
        yield from _check_target((*where, "model"), model, file)
        yield from _check_keys((*where, "model"), model, file)
        yield from _check_checkpoint((*where, "model"), model, file, experiment)
        yield from _contradict(where, model, file, own)
    if own.get("training"):
        yield Problem((*where, "training"), "the model is trained: start_from trains it further")
    if isinstance(own.get("folds"), int) and own["folds"] > 1:
        text = (
            f"{own['folds']} folds are models of this run, but the model is brought: leave it out"
        )
        yield Problem((*where, "folds"), text)
    experiment["target"] = models[0]["target"]
    # Of keys that an older version did not know, the default is what it did.
    usual = {key: part["default"] for key, part in _known_keys().items()}
    experiment["network"] = usual | _network(models[0])


def _start(
    where: Path_, experiment: Mapping[str, Any], file: str, datasets: Mapping[str, Any]
) -> Iterator[Problem]:
    """Check that a network can begin with the weights of another."""
    where = (*where, "start_from")
    try:
        model = read_model(Path(file))
    except ValueError as error:
        yield Problem(where, str(error))
        return
    yield from _check_channels(where, model, file, _channels_of(experiment, datasets))
    yield from _check_keys(where, model, file)
    for key, value in _network(model).items():
        asked = experiment["network"].get(key)
        if key != "dropout" and asked != value:  # dropout has no weights
            yield Problem(where, f"network.{key} is {asked}, that of {file} is {value}: {SAME}")
    if experiment["target"] != model["target"]:
        asked = experiment["target"]
        yield Problem(where, f"target is {asked}, that of {file} is {model['target']}: {SAME}")


SAME = "what goes on with a model's weights must have its shape"


def _contradict(
    where: Path_, model: Mapping[str, Any], file: str, own: Mapping[str, Any]
) -> Iterator[Problem]:
    """Yield what an experiment itself says, and the model says otherwise."""
    said: dict[Path_, Any] = {
        ("network", key): value for key, value in (own.get("network") or {}).items()
    }
    said |= {("target",): own["target"]} if own.get("target") else {}
    known: dict[Path_, Any] = {("network", key): value for key, value in _network(model).items()}
    known |= {("target",): model["target"]}
    for key, value in said.items():
        if key in known and known[key] != value:
            text = f"{value} contradicts {file}, whose {key[-1]} is {known[key]}: leave it out"
            yield Problem((*where, *key), text)


def _network(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model's architecture has of the settings of a network."""
    return {key: value for key, value in model["architecture"].items() if key not in OF_DATA}


def _known_keys() -> dict[str, Any]:
    return read_schema("config")["$defs"]["network"]["properties"]


def _check_target(where: Path_, model: Mapping[str, Any], file: str) -> Iterator[Problem]:
    known = read_schema("config")["properties"]["experiments"]["additionalProperties"]
    targets = known["properties"]["target"]["enum"]
    if model["target"] not in targets:
        text = (
            f"{file} has the target {model['target']!r}, which is not one of {', '.join(targets)}"
        )
        yield Problem(where, text)


def _channels_of(experiment: Mapping[str, Any], datasets: Mapping[str, Any]) -> dict[str, Any]:
    """Return the channels that the data sets of an experiment keep."""
    names = experiment.get("datasets") or ()
    return {name: datasets[name]["channels"] for name in names if name in datasets}


def _check_channels(
    where: Path_, model: Mapping[str, Any], file: str, kept: Mapping[str, Any]
) -> Iterator[Problem]:
    """Compare with the channels that data sets list; of `all` only the images know how many."""
    reads = model["channels"]
    for name, channels in kept.items():
        if isinstance(channels, list) and len(channels) != reads:
            text = f"{file} reads {reads} channel{'s' if reads > 1 else ''}, data set {name} keeps "
            yield Problem(where, f"{text}{len(channels)}: {channels}")


def _check_keys(where: Path_, model: Mapping[str, Any], file: str) -> Iterator[Problem]:
    if unknown := sorted(_network(model).keys() - _known_keys().keys()):
        text = f"{file} has an architecture with {', '.join(unknown)}, of which this version of "
        yield Problem(where, f"{text}gigaseg knows nothing: use a newer one")


def _check_checkpoint(
    where: Path_, model: Mapping[str, Any], file: str, experiment: Mapping[str, Any]
) -> Iterator[Problem]:
    wanted = experiment["prediction"].get("checkpoint")
    if wanted and wanted not in model["weights"]:
        there = ", ".join(model["weights"])
        text = (
            f"{file} has no weights called {wanted!r} (there: {there}): set prediction.checkpoint"
        )
        yield Problem(where, text)


# ------------------------------------------------------------- what is scored, and what was learned


def check_learned(
    experiments: Mapping[str, Any], rows: Iterable[Sample], root: Path
) -> Iterator[Problem]:
    """Yield the samples to be scored from which a model, brought or started from, has learned.

    A sample is known by its file and planes, where the model noted them and the file is there: of
    up to 1 MB by content, larger ones by their size. Else the names of data set and sample decide.

    Parameters
    ----------
    experiments : mapping of name to experiment
        Complete but for what was complained about before.
    rows : iterable of Sample
        The sheet.
    root : Path
        Folder of the files that the sheet names.
    """
    for name, experiment in experiments.items():
        files, key = files_of(experiment), "model"
        if not files and experiment.get("start_from"):
            files, key = [str(experiment["start_from"])], "start_from"
        scored = _scored(experiment, rows) if files else []
        for file in files:
            try:
                learned = learned_by(read_model(Path(file)))
            except ValueError:
                continue  # `settle` has said so
            if found := _seen(learned, scored, root):
                where = ("experiments", str(name), key)
                yield Problem(where, f"{file} has learned from {_few(found)}{REMEDY}")


REMEDY = (
    ", to be scored here: that score would tell what was learned by heart. Give them the split "
    "'train', where no model scores them, or take them out of the sheet; if they are other images "
    "of the same names, call the data set something else"
)


def _scored(experiment: Mapping[str, Any], rows: Iterable[Sample]) -> list[Sample]:
    """List the labelled samples that an experiment predicts, in one fold or all."""
    folds = experiment["folds"]
    crossed = isinstance(folds, int) and folds > 1  # then each sample is held out once
    return [s for s in choose(rows, experiment) if s.label and (crossed or s.split != "train")]


def _seen(
    learned: Iterable[Mapping[str, Any]], scored: Iterable[Sample], root: Path
) -> list[Sample]:
    """List the samples that are among the learned ones."""
    named: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for one in learned:
        for name in {one["sample"], one.get("image", {}).get("name")}:
            named[name].append(one)
    return [
        row
        for row in scored
        if any(
            _is_same(row, one, root)
            for one in named[f"{row.dataset}/{row.sample}"] + named[Path(row.image).name]
        )
    ]


def _is_same(row: Sample, one: Mapping[str, Any], root: Path) -> bool:
    """Compare two samples of the same name, or the same name of a file."""
    same_name, path = one["sample"] == f"{row.dataset}/{row.sample}", root / row.image
    other = one.get("image")
    if not other:
        return same_name
    if path.is_file() and path.stat().st_size != other["size"]:
        return False  # most are told apart without being read
    try:
        own = file_identity(path)
    except FileNotFoundError:  # to be drawn or fetched
        return same_name
    if _meet(row.cut, one["planes"]):
        # A copy of a large file has another time than the file.
        return own == other or (same_name and _timeless(own) == _timeless(other))
    return False


def _meet(one: Sequence[int] | None, other: Sequence[int] | None) -> bool:
    return not one or not other or (one[0] < other[1] and other[0] < one[1])


def _timeless(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of a file's identity what copies and new names change."""
    kept = ("files", "size", "sha256")  # the digest of a series knows the times of large files
    return {key: identity[key] for key in kept if key in identity}


def _few(rows: Sequence[Sample]) -> str:
    names = ", ".join(f"{row.dataset}/{row.sample} ({row.split})" for row in rows[:3])
    return names + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")
