"""Train: images with targets and weights in, a network with its scores out."""

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from os.path import relpath
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints import Checkpoint, Checkpoints
from ..classes import NAMES
from ..curves import COLUMNS, format_row
from ..fingerprints import canonical_json, digest, fingerprint
from ..geometry import UNetGeometry
from ..ledger import Construction
from ..lessons import Lesson, read_lesson, weigh_classes
from ..manifests import write_atomically, write_manifest
from ..patches import TrainingBatches, ValidationBatches, resample_fast
from ..runtime import choose_runtime
from ..sampling import TileSource, load_within
from ..training import count_parameters, fit, initialise
from ..unet import Architecture
from . import read_entries, stamp

logger = logging.getLogger(__name__)

LIBRARIES = ("torch", "lightning", "numpy")
MEMORY = 2 * 2**30  # bytes for decoded images, targets and weights; what does not fit is read again
VALIDATION_TILES = 32


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
    UNetGeometry(settings["network"]["depth"], settings["network"]["padding"]).check(
        settings["training"]["tile"]
    )
    lesson = read_lesson(_entries(weigh), settings)
    folder = manifest.with_suffix("")
    made_from = _fingerprint(lesson, settings, code)
    with Construction(folder, made_from, marker="model.json") as construction:
        if not construction.committed:
            facts = _train(construction, lesson, settings, threads)
            facts |= {"fingerprint": digest(made_from), "made_from": made_from}
            write_atomically(folder / "model.json", canonical_json(facts, indent=1) + "\n")
    _checkpoints(folder).remove()
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
            **stamp(settings, code),
        },
    )


def _fingerprint(lesson: Lesson, settings: Mapping[str, Any], code: str) -> dict[str, Any]:
    keys = ("target", "network", "training", "intensity")
    decisive = {key: settings[key] for key in keys}
    unimportant = ("checkpoint_every",)  # only for how much a kill costs
    decisive["training"] = {k: v for k, v in settings["training"].items() if k not in unimportant}
    return fingerprint(
        code=code,
        settings=decisive,
        inputs=lesson.identities,
        libraries=LIBRARIES,
    )


def _entries(weigh: Iterable[Path]) -> dict[str, dict[str, Any]]:
    found = (entry for path in weigh for entry in read_entries(path).values())
    return {f"{entry['dataset']}/{entry['sample']}": entry for entry in found}


def _checkpoints(folder: Path) -> Checkpoints:
    return Checkpoints(folder / "checkpoints")


def _train(
    construction: Construction, lesson: Lesson, settings: Mapping[str, Any], threads: int
) -> dict[str, Any]:
    """Train, write the weights and the table, and return what is to be said about the model."""
    runtime = choose_runtime(settings["training"], "training")
    training = {**settings["training"], **asdict(runtime)}
    balance = weigh_classes(lesson, settings["target"])
    class_weights = balance if training["class_balance"] else np.ones_like(balance)
    architecture = Architecture(
        in_channels=lesson.channels, classes=len(class_weights), **settings["network"]
    )
    batches, validation = _batches(
        lesson, architecture.geometry, training, settings["target"], class_weights, threads
    )
    logger.info(
        "training on %d samples on %s in %s, validating on %d tiles",
        *(len(lesson.train), training["device"], training["precision"]),
        len(validation) if validation else 0,
    )
    network = initialise(architecture, training["seed"])
    checkpoints = _checkpoints(construction.path)
    progress = checkpoints.latest()
    if progress is not None:
        logger.info("the training goes on after step %d", progress.step)
        construction.note(resumed_after_step=progress.step)
    write = _recorder(construction.path / "metrics.csv", training)
    best, last = fit(
        network, training, batches, validation, write, progress=progress, keep=checkpoints.write
    )
    return {
        **{key: settings[key] for key in ("experiment", "fold", "target", "intensity")},
        "settings": {key: settings[key] for key in ("network", "training")},
        "architecture": architecture.to_dict(),
        "parameters": count_parameters(architecture),
        "classes": NAMES[settings["target"]],
        "class_weights": class_weights.tolist(),
        "channels": lesson.channels,
        "spacing": lesson.spacing,
        "samples": lesson.identities,
        "left_out": lesson.left_out,
        **{key: training[key] for key in ("device", "precision")},
        "stopped_early_after": last.step if last.step < training["steps"] else None,
        **_write_weights(construction.path, {"best": best, "last": last}),
    }


def _recorder(
    table: Path, training: Mapping[str, Any]
) -> Callable[[Sequence[Mapping[str, float]]], None]:
    """Return a function that writes the learning curve to the table, and its end to the log."""

    def write(rows: Sequence[Mapping[str, float]]) -> None:
        write_atomically(table, ",".join(COLUMNS) + "\n" + "".join(map(format_row, rows)))
        for row in rows[-1:]:
            logger.info("%s", _line(row, training["steps"]))

    return write


def _batches(
    lesson: Lesson,
    geometry: UNetGeometry,
    training: Mapping[str, Any],
    target: str,
    class_weights: np.ndarray,
    threads: int,
) -> tuple[TrainingBatches, ValidationBatches | None]:
    both = load_within([s.sample for s in (*lesson.train, *lesson.validation)], MEMORY)
    source, held_out = (
        TileSource(
            samples,
            geometry,
            training["tile"],
            target=target,
            class_weights=class_weights.tolist(),
            separation=training["separation"],
            resample_image=resample_fast,
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
    parts = [f"step {row['step']:.0f} of {steps}: loss {row['train_loss']:.4f}"]
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
