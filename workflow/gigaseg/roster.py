"""The models of a run: which there are, who teaches, judges and is predicted by each."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from . import folds as cross_validation
from .folds import ALL, Fold, cut_into_folds
from .lineage import check_learned, files_of
from .models import read_model, read_weights
from .samples import Sample, choose
from .schema import Problem

Name = tuple[str, Any]  # experiment, and number of the fold or ALL


def check_roles(settings: Mapping[str, Any], rows: Sequence[Sample]) -> Iterator[Problem]:
    """Yield what is wrong with who teaches, judges and is predicted in the experiments.

    Parameters
    ----------
    settings : mapping
        Complete but for what was complained about before.
    rows : sequence of Sample
        The sheet.
    """
    yield from cross_validation.check(settings["experiments"], rows)
    yield from check_learned(settings["experiments"], rows, Path(settings["data_root"] or ""))


class Roster:
    """The models of all experiments, those trained here and those that are brought.

    Parameters
    ----------
    experiments : mapping of name to experiment
        Of complete settings.
    rows : iterable of Sample
        The sheet.
    """

    def __init__(self, experiments: Mapping[str, Any], rows: Iterable[Sample]) -> None:
        self.experiments = experiments
        self.folds: dict[str, tuple[Fold, ...]] = {
            name: cut_into_folds(choose(rows, own), own["folds"])
            for name, own in experiments.items()
        }

    @cached_property
    def brought(self) -> dict[str, list[str]]:
        """The model files of the experiments that bring some."""
        own = self.experiments.items()
        return {name: files for name, experiment in own if (files := files_of(experiment))}

    @cached_property
    def trained(self) -> list[tuple[str, int]]:
        """The models of this run: experiment and fold."""
        own = [name for name in self.folds if name not in self.brought]
        return [(name, k) for name in own for k in range(len(self.folds[name]))]

    @cached_property
    def roles(self) -> dict[Name, dict[Sample, Sample]]:
        """For every model and ensemble, the samples it predicts, each with its split in that fold.

        None that is trained here learns from any of them: an ensemble of folds predicts test
        samples only. What others have learned from, `check_roles` compares.
        """
        roles: dict[Name, dict[Sample, Sample]] = {}
        for name, folds in self.folds.items():
            together = len(folds) > 1 and self.experiments[name]["prediction"]["ensemble"]
            for k, fold in enumerate(folds):
                roles[name, k] = {row: replace(row, split="validation") for row in fold.validation}
                roles[name, k] |= {} if together else {row: row for row in fold.test}
            if together and folds[0].test:
                roles[name, ALL] = {row: row for row in folds[0].test}
        return roles

    def members(self, experiment: str, fold: Any) -> list[int]:
        """List the folds whose models predict together."""
        return [*range(len(self.folds[experiment]))] if fold == ALL else [int(fold)]

    def judges(self, experiment: str, fold: Any) -> list[int]:
        """List the folds on whose validation samples a model's instances are tuned.

        With several folds these are the others: no score of a sample has a part in the choice by
        which it is split, and none is predicted by a model that has learned from it.
        """
        folds = range(len(self.folds[experiment]))
        return [k for k in folds if len(folds) == 1 or str(k) != str(fold)]

    def judging(self, experiment: str, fold: Any) -> list[Sample]:
        """List these samples."""
        folds = self.folds[experiment]
        rows = (row for k in self.judges(experiment, fold) for row in folds[k].validation)
        return [replace(row, split="validation") for row in rows]

    def starts(self, experiment: str) -> list[str]:
        """List the model file whose weights an experiment's training starts from, if any."""
        start = self.experiments[experiment]["start_from"]
        return [start] if start else []

    def lesson(self, experiment: str, fold: Any) -> dict[str, Any]:
        """Return what a training is told of its samples, and of the model it starts from.

        That model is told by what it is, wherever it lies.
        """
        parts = self.folds[experiment][int(fold)]
        told: dict[str, Any] = {
            "train": [_name(row) for row in parts.train],
            "validation": [_name(row) for row in parts.validation],
        }
        for path in self.starts(experiment):
            model = read_model(Path(path))
            identity = {"model": model["fingerprint"], "weights": model["sha256"]["best"]}
            told["start_from"] = identity
        return told

    def check(self) -> None:
        """Read the weights of all models that are brought or started from.

        Raises
        ------
        ValueError
            If some are not those that their model file describes.
        """
        used = [
            (file, self.experiments[name]["prediction"]["checkpoint"])
            for name, files in self.brought.items()
            for file in files
        ]
        used += [(file, "best") for name in self.experiments for file in self.starts(name)]
        for file, checkpoint in dict.fromkeys(used):
            read_weights(Path(file), read_model(Path(file)), checkpoint)


def _name(row: Sample) -> str:
    return f"{row.dataset}/{row.sample}"
