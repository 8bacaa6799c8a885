"""Train: images with targets and weights in, a network with its scores out."""

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from os.path import relpath
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ..checkpoints import Checkpoint
from ..classes import NAMES
from ..curves import COLUMNS, format_row
from ..fingerprints import canonical_json, digest, fingerprint
from ..geometry import UNetGeometry
from ..ledger import Construction
from ..lessons import Lesson, read_lesson, weigh_classes
from ..loading import load_model
from ..manifests import write_atomically, write_manifest
from ..models import FORMAT
from ..patches import TrainingBatches, ValidationBatches, resample_fast
from ..runtime import choose_runtime
from ..sampling import TileSource, load_within
from ..training import count_parameters, fit, initialise
from ..unet import Architecture, UNet
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
    start: Path | None = None,
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
        samples' names, ``<dataset>/<sample>``: ``train``, ``validation``. With `start` also
        ``start_from``, what tells that model from others.
    code : str
        Digest of this stage's code.
    threads : int
        Threads that make tiles for a GPU; they never change a value. The arithmetic runs on
        ``training.threads``, which do.
    start : Path, optional
        Model file whose best weights the training starts from.

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
            facts = _train(folder, lesson, settings, threads, start)
            facts |= {"fingerprint": digest(made_from), "made_from": made_from}
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
            **stamp(settings, code),
        },
    )


def _fingerprint(lesson: Lesson, settings: Mapping[str, Any], code: str) -> dict[str, Any]:
    keys = ("target", "network", "training", "intensity")
    return fingerprint(
        code=code,
        settings={key: settings[key] for key in keys},
        inputs=lesson.identities | _start_of(settings),
        libraries=LIBRARIES,
    )


def _start_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"start_from": settings["start_from"]} if "start_from" in settings else {}


def _entries(weigh: Iterable[Path]) -> dict[str, dict[str, Any]]:
    found = (entry for path in weigh for entry in read_entries(path).values())
    return {f"{entry['dataset']}/{entry['sample']}": entry for entry in found}


def _train(
    folder: Path, lesson: Lesson, settings: Mapping[str, Any], threads: int, start: Path | None
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
    if start is not None:
        network.load_state_dict(load_start(start, architecture).state_dict())
    with (folder / "metrics.csv").open("w") as table:
        best, last = fit(network, training, batches, validation, _recorder(table, training))
    return {
        "format": FORMAT,
        **_start_of(settings),
        **{key: settings[key] for key in ("experiment", "fold", "target", "intensity")},
        "settings": {key: settings[key] for key in ("network", "training")},
        "architecture": architecture.to_dict(),
        "parameters": count_parameters(architecture),
        "classes": NAMES[settings["target"]],
        "class_weights": class_weights.tolist(),
        "channels": lesson.channels,
        "spacing": lesson.spacing,
        "spacings": lesson.spacings,
        "samples": lesson.identities,
        "left_out": lesson.left_out,
        **{key: training[key] for key in ("device", "precision")},
        **_write_weights(folder, {"best": best, "last": last}),
    }


def load_start(model_json: Path, architecture: Architecture) -> UNet:
    """Load the network that a training starts from.

    Raises
    ------
    ValueError
        If its file is at fault, or it is of another architecture.
    """
    network, _ = load_model(model_json)
    own = network.architecture
    if replace(own, dropout=architecture.dropout) != architecture:
        raise ValueError(
            f"training starts from {model_json}, a network of {own}, but the data and settings ask "
            f"for {architecture}: they must be the same but for dropout"
        )
    return network


def _recorder(table: TextIO, training: Mapping[str, Any]) -> Callable[[Mapping[str, float]], None]:
    """Return a function that writes a row of the learning curve to the table and the log."""
    table.write(",".join(COLUMNS) + "\n")

    def write(row: Mapping[str, float]) -> None:
        table.write(format_row(row))
        table.flush()
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
