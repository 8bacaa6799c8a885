"""Train: images with targets and weights in, a network with its scores out."""

import hashlib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from os.path import relpath
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints import Checkpoint, Checkpoints, Progress
from ..classes import NAMES
from ..curves import COLUMNS, format_row
from ..depths import format_table, measure_depths
from ..fingerprints import canonical_json, digest, fingerprint
from ..geometry import UNetGeometry
from ..ledger import Construction
from ..lessons import Lesson, read_lesson, weigh_classes
from ..loading import load_start
from ..manifests import write_atomically, write_manifest
from ..models import FORMAT, learned_by, read_model
from ..networks import count_parameters
from ..pace import Pace
from ..patches import TrainingBatches, ValidationBatches
from ..replicas import Place, companions, join, leave
from ..runtime import Runtime, arithmetic, choose_runtime, hardware_name, keep_freed_memory
from ..sampling import TileSource, load_within
from ..sizing import choose_sizes
from ..training import fit, initialise, take_steps
from ..unet import Architecture, Network
from . import read_entries, stamp

logger = logging.getLogger(__name__)

LIBRARIES = ("torch", "lightning", "numpy")
MEMORY = 2 * 2**30  # bytes for decoded images, targets and weights; what does not fit is read again
VALIDATION_TILES = 32
FOLLOWER = "from gigaseg.stages.train import follow; follow()"


def run(
    *,
    manifest: Path,
    weigh: Sequence[Path],
    settings: Mapping[str, Any],
    code: str,
    threads: int,
    nodes: int = 1,
    start: Path | None = None,
) -> None:
    """Train one network: one experiment, one fold.

    Parameters
    ----------
    manifest : Path
        Written last. Beside it lies the folder ``fold-<k>`` with ``best.safetensors``,
        ``last.safetensors``, ``metrics.csv``, ``depths.csv`` (scores and cost of each depth at
        which the network can predict) and, written after these, ``model.json``.
    weigh : sequence of Path
        Manifests of the lots with targets and weights.
    settings : mapping
        ``experiment``, ``fold``, ``target``, ``network``, ``training``, ``intensity``, and the
        samples' names, ``<dataset>/<sample>``: ``train``, ``validation``. With `start` also
        ``start_from``, what tells that model from others.
    code : str
        Digest of this stage's code.
    threads : int
        Threads of each process that make tiles for a GPU; they never change a value. The arithmetic
        runs on ``training.threads``, which do.
    nodes : int
        Machines among which ``training.processes`` are shared out; they change no value either.
    start : Path, optional
        Model file whose best weights the training starts from.

    Raises
    ------
    ValueError
        If the tile does not fit the network, ``auto`` finds none that fits the memory, no training
        sample is left, a class has no voxel, the samples differ in their number of channels or too
        much in spacing, or a GPU that is asked for is missing.
    RuntimeError
        If the device has too little memory, or another process of the training failed.
    FloatingPointError
        If the loss is not finite.
    """
    lesson = read_lesson(_entries(weigh), settings)
    sized = _settle_sizes(settings, lesson)
    folder = manifest.with_suffix("")
    made_from = _fingerprint(lesson, sized, code)
    with Construction(folder, made_from, marker="model.json") as construction:
        if not construction.committed:
            job = {
                "folder": str(folder),
                "weigh": [str(path) for path in weigh],
                "start": None if start is None else str(start),
                "threads": threads,
            }
            facts = _train(construction, lesson, sized, job, nodes)
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


def _settle_sizes(settings: Mapping[str, Any], lesson: Lesson) -> dict[str, Any]:
    """Return the settings with numbers for what is ``auto``, and check the tile."""
    network, training, reasons = choose_sizes(
        settings["network"], settings["training"], lesson.extent
    )
    for reason in reasons:
        logger.info("chose %s", reason)
    geometry = UNetGeometry(network["depth"], network["padding"], network["kind"])
    geometry.check(training["tile"])
    return {**settings, "network": network, "training": training, "chosen": reasons}


def _fingerprint(lesson: Lesson, settings: Mapping[str, Any], code: str) -> dict[str, Any]:
    keys = ("target", "network", "training", "intensity")
    decisive = {key: settings[key] for key in keys}
    # How much a kill costs, and what is refused.
    unimportant = ("checkpoint_every", "spacing_tolerance")
    decisive["training"] = {k: v for k, v in settings["training"].items() if k not in unimportant}
    return fingerprint(
        code=code,
        settings=decisive,
        inputs=lesson.identities | _start_of(settings),
        libraries=LIBRARIES,
    )


def _start_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"start_from": settings["start_from"]} if "start_from" in settings else {}


def _entries(weigh: Iterable[Path]) -> dict[str, dict[str, Any]]:
    found = (entry for path in weigh for entry in read_entries(path).values())
    return {f"{entry['dataset']}/{entry['sample']}": entry for entry in found}


def _checkpoints(folder: Path) -> Checkpoints:
    return Checkpoints(folder / "checkpoints")


def _train(
    construction: Construction,
    lesson: Lesson,
    settings: Mapping[str, Any],
    job: Mapping[str, Any],
    nodes: int,
) -> dict[str, Any]:
    """Train, write the weights and the table, and return what is to be said about the model."""
    place = Place.first(settings["training"]["processes"], nodes)
    checkpoints = _checkpoints(construction.path)
    progress = checkpoints.latest()
    task = _prepare(lesson, settings, job, place, progress)
    logger.info(
        "training on %d samples on %s in %s, validating on %d tiles",
        *(len(lesson.train), task.training["device"], task.training["precision"]),
        len(task.validation) if task.validation else 0,
    )
    if not lesson.validation:
        logger.warning("there are no validation samples: the best weights are the last")
    if progress is not None:
        logger.info("the training goes on after step %d", progress.step)
        construction.note(resumed_after_step=progress.step)
    told = {**job, "settings": {**settings, "training": task.training}}
    before = len(progress.rows) if progress else 0
    curve = _Curve(construction.path / "metrics.csv", task.training["steps"], before)
    pace = Pace("", task.training["steps"], "steps", done=progress.step if progress else 0)
    with companions(place, FOLLOWER, told):
        best, last = fit(
            *(*task.arguments, curve.write),
            progress=progress,
            keep=checkpoints.write,
            advance=pace.advance,
            place=place,
        )
    curve.finish()
    return {
        "format": FORMAT,
        **_start_of(settings),
        **{key: settings[key] for key in ("experiment", "fold", "target", "intensity")},
        "settings": {key: settings[key] for key in ("network", "training")},
        **task.facts(),
        "hardware": _hardware(task, progress),
        "learned": _learned(lesson, job["start"]),
        "chosen": settings["chosen"],
        "stopped_early_after": last.step if last.step < task.training["steps"] else None,
        **_write_weights(construction.path, {"best": best, "last": last}),
        "depths": _write_depths(construction.path, task, best),
    }


def _learned(lesson: Lesson, start: str | None) -> list[dict[str, Any]]:
    """List what has formed the weights: the training samples, and those of the model before."""
    earlier = learned_by(read_model(Path(start))) if start else []
    return lesson.learned + [one for one in earlier if one not in lesson.learned]


def follow() -> None:
    """Train as one of the other processes of a job, whose first one says what is to be done."""
    place, job = join()
    settings = job["settings"]
    lesson = read_lesson(_entries(map(Path, job["weigh"])), settings)
    progress = _checkpoints(Path(job["folder"])).latest()
    task = _prepare(lesson, settings, job, place, progress)
    with arithmetic(task.training["device"], deterministic=task.training["deterministic"]):
        take_steps(*task.arguments, lambda _: None, progress=progress, place=place)
    leave()


@dataclass(frozen=True, eq=False)
class _Task:
    """What a process needs to train, made alike in all of them."""

    lesson: Lesson
    target: str
    training: dict[str, Any]
    class_weights: np.ndarray
    network: Network
    batches: TrainingBatches
    validation: ValidationBatches | None

    @property
    def arguments(
        self,
    ) -> tuple[Network, dict[str, Any], TrainingBatches, ValidationBatches | None]:
        """What `fit` and `take_steps` take first."""
        return self.network, self.training, self.batches, self.validation

    def facts(self) -> dict[str, Any]:
        """What is known of the model before it has learned anything."""
        return {
            "architecture": self.network.architecture.to_dict(),
            "parameters": count_parameters(self.network.architecture),
            "classes": NAMES[self.target],
            "class_weights": self.class_weights.tolist(),
            "channels": self.lesson.channels,
            "spacing": self.lesson.spacing,
            "spacings": self.lesson.spacings,
            "samples": self.lesson.identities,
            "left_out": self.lesson.left_out,
            **{key: self.training[key] for key in ("device", "precision")},
        }


def _prepare(
    lesson: Lesson,
    settings: Mapping[str, Any],
    job: Mapping[str, Any],
    place: Place,
    progress: Progress | None,
) -> _Task:
    runtime = choose_runtime(_kept(settings["training"], progress), "training")
    place.check_devices(runtime.device)
    place.check_batch(settings["training"]["batch"])
    if runtime.device == "cpu":
        keep_freed_memory()  # before PyTorch starts threads
    training = {**settings["training"], **asdict(runtime)}
    balance = weigh_classes(lesson, settings["target"])
    class_weights = balance if training["class_balance"] else np.ones_like(balance)
    architecture = Architecture(
        in_channels=lesson.channels, classes=len(class_weights), **settings["network"]
    )
    both = load_within([s.sample for s in (*lesson.train, *lesson.validation)], MEMORY)
    source_of = partial(
        TileSource,
        geometry=architecture.geometry,
        tile=training["tile"],
        target=settings["target"],
        class_weights=class_weights.tolist(),
        separation=training["separation"],
    )
    batches = TrainingBatches(
        source_of(both[: len(lesson.train)], oversample=training["oversample"]),
        **{key: training[key] for key in ("steps", "batch", "seed", "augmentation")},
        # On a CPU the network keeps all cores busy: one thread is enough to wait for files.
        workers=job["threads"] if training["device"] == "cuda" else 1,
        part=(place.rank, place.processes),
    )
    validation = None
    if lesson.validation:
        held_out = source_of(both[len(lesson.train) :])
        validation = ValidationBatches(held_out, VALIDATION_TILES)
    network = initialise(architecture, training["seed"])
    if job["start"] is not None:
        start = load_start(
            Path(job["start"]), architecture, lesson.spacing_of, training["spacing_tolerance"]
        )
        network.load_state_dict(start.state_dict())
    return _Task(lesson, settings["target"], training, class_weights, network, batches, validation)


def _kept(training: Mapping[str, Any], progress: Progress | None) -> Mapping[str, Any]:
    """Take over what ``auto`` meant on the machine where the training was begun."""
    if progress is None or training["precision"] != "auto":
        return training
    return {**training, "precision": progress.precision}


def _hardware(task: _Task, progress: Progress | None) -> list[str]:
    """List the kinds of hardware on which the steps of a training were taken, this one last."""
    own = hardware_name(next(task.network.parameters()).device)
    return [*(name for name in (progress.hardware if progress else ()) if name != own), own]


class _Curve:
    """The table of the learning curve, which loses no row when a killed training goes on.

    Rows that were written after the checkpoint stay in the file until they are made again.

    Parameters
    ----------
    table : Path
        Need not exist.
    steps : int
        How many there are to be, for the log.
    told : int
        Rows that the log has had.
    """

    def __init__(self, table: Path, steps: int, told: int) -> None:
        self._table, self._steps, self._told = table, steps, told
        self._lines: list[str] = []
        self._old = _read_lines(table)

    def write(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Write these rows and what was there of later steps; tell the log of the last one."""
        step = max((row["step"] for row in rows), default=0)
        self._lines = [*map(format_row, rows)]
        self._save([line for number, line in self._old.items() if number > step])
        for row in rows[self._told :][-1:]:
            logger.info("%s", _line(row, self._steps))

    def finish(self) -> None:
        """Drop what this training has not made again: it may have stopped earlier than before."""
        self._save([])

    def _save(self, later: Sequence[str]) -> None:
        head = ",".join(COLUMNS) + "\n"
        write_atomically(self._table, head + "".join([*self._lines, *later]))


def _read_lines(table: Path) -> dict[int, str]:
    """Return the whole rows of a table by step; none of one that cannot be read."""
    try:
        lines = table.read_text().splitlines(keepends=True)
    except (FileNotFoundError, UnicodeDecodeError):
        return {}
    parts = (
        (line.partition(",")[0], line) for line in lines if line.count(",") == len(COLUMNS) - 1
    )
    return {int(step): line for step, line in parts if step.isdecimal()}


def _write_depths(folder: Path, task: _Task, best: Checkpoint) -> list[dict[str, float | None]]:
    """Write a table of what each depth scores and costs; return what is the same in every run."""
    runtime = Runtime(task.training["device"], task.training["precision"])
    task.network.load_state_dict(best.state)
    rows = measure_depths(task.network, task.validation or (), runtime, tile=task.training["tile"])
    write_atomically(folder / "depths.csv", format_table(rows))
    lasting = [{k: v for k, v in row.items() if k != "seconds_per_mpx"} for row in rows]
    return [{k: v if math.isfinite(v) else None for k, v in row.items()} for row in lasting]


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
