"""Train: images with targets and weights in, a network with its scores out."""

import hashlib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path
from typing import Any

import numpy as np

from ..classes import NAMES, count_classes
from ..curves import COLUMNS, format_row
from ..fingerprints import canonical_json, digest, fingerprint
from ..intensity import intensity_window
from ..ledger import Construction, write_atomically, write_manifest
from ..patches import Sample, TileSource, TrainingBatches, ValidationBatches, load_within
from ..training import Checkpoint, count_parameters, fit, initialise, settle
from ..unet import Architecture
from ..volumes import open_arrays, open_volume
from ..weights import class_balance
from . import read_entries

logger = logging.getLogger(__name__)

LIBRARIES = ("torch", "lightning", "numpy")
MEMORY = 2 * 2**30  # bytes for decoded images, targets and weights; what does not fit is read again
VALIDATION_TILES = 32


@dataclass(frozen=True, eq=False)
class Source:
    """A sample to learn from, and what its stores say about it."""

    sample: Sample
    counts: Sequence[int]
    spacing: tuple[float, ...]
    fingerprint: str

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return int(self.sample.image.shape[0])


@dataclass(frozen=True, eq=False)
class Lesson:
    """Everything one network is trained on."""

    train: list[Source]
    validation: list[Source]
    left_out: list[dict[str, str]]

    @property
    def identities(self) -> dict[str, dict[str, str]]:
        """Fingerprints by part and name."""
        return {
            "train": {s.sample.name: s.fingerprint for s in self.train},
            "validation": {s.sample.name: s.fingerprint for s in self.validation},
        }


def run(
    *,
    manifest: Path,
    weigh: Sequence[Path],
    settings: Mapping[str, Any],
    code: str,
    threads: int,
) -> None:
    """Train one network: one experiment, one fold.

    Parameters
    ----------
    manifest : Path
        Written last. Beside it lies the folder ``fold-<k>`` with ``best.safetensors``,
        ``last.safetensors``, ``metrics.csv`` and, written after these, ``model.json``.
    weigh : sequence of Path
        Manifests of the lots with targets and weights.
    settings : mapping
        ``experiment``, ``fold``, ``target``, ``network``, ``training``, ``intensity``, and the
        samples' names, ``<dataset>/<sample>``: ``train``, ``validation``.
    code : str
        Digest of this stage's code.
    threads : int
        Threads that make tiles for a GPU; they never change a value. The arithmetic runs on
        ``training.threads``, which do.

    Raises
    ------
    ValueError
        If the tile does not fit the network, no training sample is left, a class has no voxel, the
        samples differ in their number of channels, or a GPU that is asked for is missing.
    FloatingPointError
        If the loss is not finite.
    """
    architecture = Architecture(classes=len(NAMES[settings["target"]]), **settings["network"])
    architecture.geometry.check(settings["training"]["tile"])
    lesson = read_lesson(weigh, settings)
    architecture = _with_channels(architecture, lesson)
    folder = manifest.with_suffix("")
    made_from = _fingerprint(lesson, settings, code)
    with Construction(folder, made_from, marker="model.json") as construction:
        if not construction.committed:
            class_weights = weigh_classes(lesson, settings)
            facts = _describe(lesson, architecture, settings, class_weights, made_from)
            facts |= _train(folder, lesson, architecture, settings, class_weights, threads)
            write_atomically(folder / "model.json", canonical_json(facts, indent=1) + "\n")
    names = {part: list(found) for part, found in lesson.identities.items()}
    write_manifest(
        manifest,
        {
            "stage": "train",
            "experiment": settings["experiment"],
            "fold": settings["fold"],
            "model": Path(relpath(folder / "model.json", manifest.parent)).as_posix(),
            "fingerprint": digest(made_from),
            **names,
            "left_out": lesson.left_out,
        },
    )


def read_lesson(weigh: Iterable[Path], settings: Mapping[str, Any]) -> Lesson:
    """Open the samples of a fold; those that an earlier stage could not finish are left out.

    Raises
    ------
    ValueError
        If no training sample is left, or a sample is in none of the manifests.
    """
    entries = {
        f"{entry['dataset']}/{entry['sample']}": entry
        for path in weigh
        for entry in read_entries(path).values()
    }
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
    return lesson


def _open(name: str, entry: Mapping[str, Any], intensity: Mapping[str, Any]) -> Source:
    volume = open_volume(entry["image_store"])
    arrays, _ = open_arrays(entry["store"])
    windows = [
        intensity_window(volume.attributes["statistics"], intensity, plane)
        for plane in range(volume.shape[0])
    ]
    offset, scale = (np.stack(column) for column in zip(*windows, strict=True))
    sample = Sample(name, volume.array, arrays["target"], arrays["separation"], offset, scale)
    return Source(sample, entry["counts"], volume.spacing, entry["fingerprint"])


def _with_channels(architecture: Architecture, lesson: Lesson) -> Architecture:
    """Take the number of input channels from the samples, which must agree on it."""
    first = lesson.train[0]
    for other in (*lesson.train, *lesson.validation):
        if other.channels != first.channels:
            raise ValueError(
                f"sample {first.sample.name} has {first.channels} channels, sample "
                f"{other.sample.name} has {other.channels}: choose the same number for both data "
                f"sets (datasets: channels), or train an experiment for each"
            )
        if other.spacing != first.spacing:
            logger.warning(
                "the spacing of %s is %s µm, that of %s is %s µm: the network learns in pixels",
                *(first.sample.name, first.spacing, other.sample.name, other.spacing),
            )
            break
    return Architecture(**{**architecture.to_dict(), "in_channels": first.channels})  # type: ignore[arg-type]


def _fingerprint(lesson: Lesson, settings: Mapping[str, Any], code: str) -> dict[str, Any]:
    keys = ("target", "network", "training", "intensity")
    return fingerprint(
        code=code,
        settings={key: settings[key] for key in keys},
        inputs=lesson.identities,
        libraries=LIBRARIES,
    )


def weigh_classes(lesson: Lesson, settings: Mapping[str, Any]) -> np.ndarray:
    """Count the classes over the training samples and return their weights.

    Raises
    ------
    ValueError
        If the training samples lack a class; names it.
    """
    target = settings["target"]
    counts = count_classes(target, np.sum([s.counts for s in lesson.train], axis=0).tolist())
    missing = [name for name, n in zip(NAMES[target], counts, strict=True) if not n]
    if missing:
        found = ", ".join(f"{n} {name}" for name, n in zip(NAMES[target], counts, strict=True))
        raise ValueError(
            f"the training samples have no {' and no '.join(missing)} (voxels: {found}): a network "
            f"cannot learn what it never sees; check the labels, or the dataset's key 'labels'"
        )
    weights = class_balance(counts)
    return weights if settings["training"]["class_balance"] else np.ones_like(weights)


def _train(
    folder: Path,
    lesson: Lesson,
    architecture: Architecture,
    settings: Mapping[str, Any],
    class_weights: np.ndarray,
    threads: int,
) -> dict[str, Any]:
    """Train, write the weights and the table, and return what is to be said about them."""
    training = settle(settings["training"])
    batches, validation = _batches(
        lesson, architecture, training, settings["target"], class_weights, threads
    )
    network = initialise(architecture, training["seed"])
    logger.info(
        "training on %d samples on %s in %s, validating on %d tiles",
        *(len(lesson.train), training["device"], training["precision"]),
        len(validation) if validation else 0,
    )
    with (folder / "metrics.csv").open("w") as table:
        table.write(",".join(COLUMNS) + "\n")

        def write(row: Mapping[str, float]) -> None:
            table.write(format_row(row))
            table.flush()
            logger.info("%s", _line(row, training["steps"]))

        best, last = fit(network, training, batches, validation, write)
    facts = {key: training[key] for key in ("device", "precision")}
    return facts | _write_weights(folder, {"best": best, "last": last})


def _batches(
    lesson: Lesson,
    architecture: Architecture,
    training: Mapping[str, Any],
    target: str,
    class_weights: np.ndarray,
    threads: int,
) -> tuple[TrainingBatches, ValidationBatches | None]:
    both = load_within([s.sample for s in (*lesson.train, *lesson.validation)], MEMORY)
    source, held_out = (
        TileSource(
            samples,
            architecture.geometry,
            training["tile"],
            target=target,
            class_weights=class_weights.tolist(),
            separation=training["separation"],
        )
        for samples in (both[: len(lesson.train)], both[len(lesson.train) :])
    )
    batches = TrainingBatches(
        source,
        **{key: training[key] for key in ("steps", "batch", "seed", "augmentation")},
        # On a CPU the network keeps all threads busy: tiles made meanwhile would only slow it down.
        workers=threads if training["device"] == "cuda" else 0,
    )
    if not lesson.validation:
        logger.warning("there are no validation samples: the best weights are the last")
        return batches, None
    return batches, ValidationBatches(held_out, VALIDATION_TILES)


def _line(row: Mapping[str, float], steps: int) -> str:
    """Write a row of the learning curve for the log."""
    parts = [f"step {row['step']} of {steps}: loss {row['train_loss']:.4f}"]
    if "validation_loss" in row:
        parts.append(
            f"validation: loss {row['validation_loss']:.4f}, Dice {row['validation_dice']:.4f}, "
            f"pixel error {row['validation_error']:.4f}"
        )
    return "; ".join(parts)


def _write_weights(folder: Path, checkpoints: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """Write one file per checkpoint; return their names, digests and scores."""
    facts: dict[str, dict[str, Any]] = {"weights": {}, "sha256": {}, "scores": {}}
    for name, checkpoint in checkpoints.items():
        content = checkpoint.to_bytes()
        write_atomically(folder / f"{name}.safetensors", content)
        facts["weights"][name] = f"{name}.safetensors"
        facts["sha256"][name] = hashlib.sha256(content).hexdigest()
        # JSON knows no nan.
        finite = {k: v if math.isfinite(v) else None for k, v in checkpoint.scores.items()}
        facts["scores"][name] = {"step": checkpoint.step, **finite}
    return facts


def _describe(
    lesson: Lesson,
    architecture: Architecture,
    settings: Mapping[str, Any],
    class_weights: np.ndarray,
    made_from: Mapping[str, Any],
) -> dict[str, Any]:
    """Say what a model is and where it comes from."""
    return {
        **{key: settings[key] for key in ("experiment", "fold", "target", "intensity")},
        "settings": {key: settings[key] for key in ("network", "training")},
        "architecture": architecture.to_dict(),
        "parameters": count_parameters(architecture),
        "classes": NAMES[settings["target"]],
        "class_weights": class_weights.tolist(),
        "channels": architecture.in_channels,
        "spacing": lesson.train[0].spacing,
        "samples": lesson.identities,
        "left_out": lesson.left_out,
        "fingerprint": digest(made_from),
        "made_from": made_from,
    }
