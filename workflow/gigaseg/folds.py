"""Folds of a cross validation: who teaches each model, and who judges it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from .samples import Sample, choose
from .schema import Path_, Problem

ALL = "all"  # what stands for the number of the fold where all its models predict together


@dataclass(frozen=True)
class Fold:
    """Who teaches one model, who validates it, and who is only predicted."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]

    @property
    def taught(self) -> tuple[Sample, ...]:
        """The samples that training reads."""
        return self.train + self.validation


def cut_into_folds(samples: Sequence[Sample], folds: int) -> tuple[Fold, ...]:
    """Divide samples among the models of a cross validation.

    With one fold the splits of the sheet hold. With more, the samples for training and validation
    are cut into that many runs in sheet order, and each model is validated on one of them. So
    neighbouring planes of one stack, which are nearly alike, stay together but for the ends of the
    runs. Samples of one group are never parted: they stand where the first of them does. Every
    model may predict the test samples.

    Parameters
    ----------
    samples : sequence of Sample
        In sheet order.
    folds : int
        At least 1, and at most the number of groups; a sample without group is one by itself.

    Examples
    --------
    >>> rows = [Sample(name, "nuclei", "train", f"{name}.tif") for name in "abc"]
    >>> [[s.sample for s in fold.validation] for fold in cut_into_folds(rows, 2)]
    [['a', 'b'], ['c']]
    >>> rows = [Sample(name, "nuclei", "train", "", group=name[0]) for name in ("a1", "b1", "a2")]
    >>> [[s.sample for s in fold.validation] for fold in cut_into_folds(rows, 2)]
    [['a1', 'a2'], ['b1']]
    """
    by_split = {
        split: tuple(s for s in samples if s.split == split)
        for split in ("train", "validation", "test")
    }
    if folds == 1:
        return (Fold(**by_split),)
    groups = list_groups([s for s in samples if s.split != "test"])
    bounds = _cut([len(group) for group in groups], folds)
    runs = [
        [sample for group in groups[start:stop] for sample in group]
        for start, stop in pairwise(bounds)
    ]
    return tuple(
        Fold(
            tuple(s for j, run in enumerate(runs) if j != k for s in run),
            tuple(runs[k]),
            by_split["test"],
        )
        for k in range(folds)
    )


def list_groups(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Gather the samples that may not be parted, in the order of the first of each."""
    groups: dict[object, list[Sample]] = {}
    for sample in samples:
        key = sample.group or (sample.dataset, sample.sample)
        groups.setdefault(key, []).append(sample)
    return list(groups.values())


def _cut(sizes: Sequence[int], folds: int) -> list[int]:
    """Return the numbers of groups before each fold: runs of nearly equal size, none empty.

    Examples
    --------
    >>> _cut([1, 1, 1, 1, 1], 2), _cut([6, 1, 1], 3)
    ([0, 3, 5], [0, 1, 2, 3])
    """
    ends = [0, *accumulate(sizes)]
    bounds = [0]
    for k in range(1, folds):
        enough = next(n for n, end in enumerate(ends) if end * folds >= ends[-1] * k)
        bounds.append(min(max(enough, bounds[-1] + 1), len(sizes) - folds + k))
    return [*bounds, len(sizes)]


def check(experiments: Mapping[str, Any], samples: Sequence[Sample]) -> Iterator[Problem]:
    """Yield what experiments lack in the sheet, and why they cannot be cut into their folds.

    Parameters
    ----------
    experiments : mapping of name to experiment
        Complete but for what was complained about before.
    samples : sequence of Sample
        All that the sheet has.
    """
    for name, experiment in experiments.items():
        chosen, where = choose(samples, experiment), ("experiments", str(name))
        for dataset in experiment.get("datasets") or ():
            if not any(s.dataset == dataset for s in samples):
                yield Problem((*where, "datasets"), f"the sheet has no samples of {dataset!r}")
        if not chosen or not isinstance(experiment["folds"], int):
            continue
        yield from _check_splits(where, experiment, {s.split for s in chosen})
        if not experiment.get("model"):
            yield from _check_groups(where, chosen, experiment["folds"])


def _check_splits(
    where: Path_, experiment: Mapping[str, Any], there: set[str]
) -> Iterator[Problem]:
    """Yield the splits of which an experiment needs samples, and has none."""
    where = (*where, "datasets")
    text = f"the sheet has no samples of {', '.join(map(str, experiment['datasets']))} with split"
    needed: tuple[str, ...] = ("train", "validation") if experiment["folds"] == 1 else ()
    if experiment.get("model"):
        needed = ("validation",) if experiment["instances"].get("tune") else ()
        if there == {"train"}:
            yield Problem(where, f"{text} validation or test: the model would predict nothing")
    for split in needed:
        if split not in there:
            yield Problem(where, f"{text} {split}")


def _check_groups(where: Path_, samples: Sequence[Sample], folds: int) -> Iterator[Problem]:
    """Yield too few groups for the folds, and those that the sheet itself parts."""
    known = [sample for sample in samples if sample.split != "test"]
    groups = list_groups(known)
    if folds > 1 and folds > len(groups):
        what = "samples" if len(groups) == len(known) else "groups of samples"
        yield Problem(
            (*where, "folds"),
            f"{folds} folds need as many {what} for training and validation, not {len(groups)}: "
            f"set folds to {max(1, len(groups))} at most, or give more samples the split train or "
            f"validation in the sheet",
        )
    sides: dict[str, dict[str, str]] = {}
    for sample in samples:
        held_out = sample.split == "test" if folds > 1 else sample.split != "train"
        if sample.group and (sample.label or not held_out):
            side = "judged by" if held_out else "learned from"
            sides.setdefault(sample.group, {})[side] = sample.sample
    for group, found in sides.items():
        if len(found) == 2:
            text = " and ".join(f"{side} ({name})" for side, name in sorted(found.items())[::-1])
            yield Problem(
                (*where, "datasets"),
                f"group {group!r} is {text}: samples of one group are too alike for that; give "
                f"them the same split in the sheet",
            )
