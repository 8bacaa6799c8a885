"""What one network learns from: the samples of a fold, opened, checked and counted."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .classes import NAMES, count_classes
from .intensity import intensity_window
from .sampling import Sample
from .scales import check_alike
from .sizing import Extent, Objects
from .tally import KINDS, Tally
from .volumes import open_arrays, open_volume
from .weights import class_balance

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Source:
    """A sample to learn from, and what its stores say about it."""

    sample: Sample
    counts: Sequence[int]
    spacing: tuple[float, ...] | None
    fingerprint: str
    objects: Objects
    origin: Mapping[str, Any]

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return int(self.sample.image.shape[0])


@dataclass(frozen=True, eq=False)
class Lesson:
    """Everything one network is trained on; `left_out` has ``sample`` and ``message``."""

    train: list[Source]
    validation: list[Source]
    left_out: list[dict[str, str]]

    @property
    def channels(self) -> int:
        """Number of image channels, the same for all samples."""
        return self.train[0].channels

    @property
    def extent(self) -> Extent:
        """How large images and objects are, of all samples: the same for every fold."""
        both = [*self.train, *self.validation]
        shapes = [source.sample.image.shape[1:] for source in both]
        return Extent.of(shapes, [source.objects for source in both])

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Spacing of the first training sample, None if it is not known."""
        return self.train[0].spacing

    @property
    def spacings(self) -> list[tuple[float, ...] | None]:
        """All spacings of the training samples: they are known of all, or of none."""
        return sorted({source.spacing for source in self.train}, key=lambda known: known or ())

    @property
    def spacing_of(self) -> dict[str, tuple[float, ...] | None]:
        """Spacings of all samples by name."""
        return {s.sample.name: s.spacing for s in (*self.train, *self.validation)}

    @property
    def learned(self) -> list[dict[str, Any]]:
        """The training samples, and what tells them from others of the same name."""
        return [{"sample": s.sample.name, **s.origin} for s in self.train]

    @property
    def identities(self) -> dict[str, dict[str, str]]:
        """Fingerprints of the weighed samples, by part and name."""
        return {
            "train": {s.sample.name: s.fingerprint for s in self.train},
            "validation": {s.sample.name: s.fingerprint for s in self.validation},
        }


def read_lesson(entries: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]) -> Lesson:
    """Open the samples of a fold; those that an earlier stage could not finish are left out.

    Parameters
    ----------
    entries : mapping
        Entries of the manifests of weigh by the samples' names, ``<dataset>/<sample>``.
    settings : mapping
        Names of the samples ``train`` and ``validation``; ``intensity``; of ``training`` the
        ``spacing_tolerance``.

    Raises
    ------
    ValueError
        If no training sample is left, a sample has no entry, or the samples differ in their number
        of channels or, by more than the tolerance, in spacing, or it is known of some only.
    """
    left_out: list[dict[str, str]] = []

    def usable(part: str) -> list[Source]:
        sources = []
        for name in settings[part]:
            if name not in entries:
                raise ValueError(f"{part} sample {name} is in none of the manifests of weigh")
            entry = entries[name]
            if entry["status"] == "done":
                sources.append(_open(name, entry, settings["intensity"]))
                continue
            logger.warning("%s sample %s is left out: %s", part, name, entry["message"])
            left_out.append({"sample": name, "message": entry["message"]})
        return sources

    lesson = Lesson(usable("train"), usable("validation"), left_out)
    if not lesson.train:
        raise ValueError(
            f"there is no training sample left of {len(settings['train'])} "
            f"(left out: {', '.join(entry['sample'] for entry in left_out) or 'none'}): give "
            f"samples the split 'train' in the sheet, or mend those that failed"
        )
    _compare_channels([*lesson.train, *lesson.validation])
    check_alike(lesson.spacing_of, settings["training"]["spacing_tolerance"])
    return lesson


def _open(name: str, entry: Mapping[str, Any], intensity: Mapping[str, Any]) -> Source:
    volume = open_volume(entry["image_store"])
    arrays, _ = open_arrays(entry["store"])
    windows = [
        intensity_window(volume.attributes["statistics"], intensity, plane)
        for plane in range(volume.shape[0])
    ]
    offset, scale = (np.stack(column) for column in zip(*windows, strict=True))
    target = arrays["target"]
    tally = Tally(np.asarray(arrays["tally"][...]).reshape(KINDS, -1), target.shape, target.chunks)
    sample = Sample(name, volume.array, target, arrays["separation"], offset, scale, tally)
    return Source(
        sample,
        entry["counts"],
        volume.known_spacing,
        entry["fingerprint"],
        Objects(**entry["cross_sections"]),
        _origin(volume.attributes),
    )


def _origin(made_from: Mapping[str, Any]) -> dict[str, Any]:
    """Say which planes of which file an image is, as far as its store knows."""
    image = made_from.get("inputs", {}).get("image")
    return {"image": image, "planes": made_from["settings"]["planes"]} if image else {}


def _compare_channels(sources: Sequence[Source]) -> None:
    """Refuse different numbers of channels."""
    first = sources[0]
    for other in sources:
        if other.channels != first.channels:
            raise ValueError(
                f"sample {first.sample.name} has {first.channels} channels, sample "
                f"{other.sample.name} has {other.channels}: choose the same number for both data "
                f"sets (datasets: channels), or train an experiment for each"
            )


def _check_validation(lesson: Lesson, target: str) -> None:
    """Refuse validation samples without foreground, and say which class they lack."""
    counts = _count(lesson.validation, target)
    missing = [name for name, n in counts.items() if not n]
    if not any(list(counts.values())[1:]):
        raise ValueError(
            f"the validation samples have no foreground (labelled voxels: {_listed(counts)}), so "
            f"that they cannot tell which weights are best: check the labels of "
            f"{', '.join(source.sample.name for source in lesson.validation)}, or give others the "
            f"split 'validation' in the sheet; with folds above 1, which validate on every sample "
            f"in turn, lower folds, or give these samples one 'group' in the sheet with samples "
            f"that have foreground"
        )
    if missing:
        logger.warning(
            "the validation samples have no %s: their scores say nothing about it",
            " and no ".join(missing),
        )


def _count(sources: Sequence[Source], target: str) -> dict[str, int]:
    """Count the labelled voxels of each class."""
    counts = np.sum([source.counts for source in sources], axis=0).tolist()
    return dict(zip(NAMES[target], count_classes(target, counts), strict=True))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items())


def weigh_classes(lesson: Lesson, target: str) -> np.ndarray:
    """Return the class balance of the training samples, see `weights.class_balance`.

    Raises
    ------
    ValueError
        If the training samples lack a class, or the validation samples all foreground.
    """
    counts = _count(lesson.train, target)
    missing = [name for name, n in counts.items() if not n]
    if missing:
        raise ValueError(
            f"the training samples have no {' and no '.join(missing)} (voxels: "
            f"{_listed(counts)}): a network cannot learn what it never sees; check the labels, or "
            f"the dataset's key 'labels'"
        )
    if lesson.validation:
        _check_validation(lesson, target)
    return class_balance(list(counts.values()))
