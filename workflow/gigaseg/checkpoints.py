"""Checkpoints: weights worth keeping, and all that a training needs to go on after a kill."""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor, nn

from .fingerprints import canonical_json, digest
from .manifests import write_atomically

logger = logging.getLogger(__name__)

State = dict[str, Tensor]


@dataclass
class Checkpoint:
    """Weights of a network after a step, and their scores."""

    step: int
    state: State
    scores: dict[str, float]

    def is_better_than(self, other: "Checkpoint | None") -> bool:
        """Compare validation losses: they see the gaps between objects, which Dice hardly does.

        One that is not finite is never better.
        """
        loss = self.scores["loss"]
        return math.isfinite(loss) and (other is None or not other.scores["loss"] <= loss)

    def to_bytes(self) -> bytes:
        """Return the weights as a safetensors file."""
        return save(self.state)


@dataclass
class Progress:
    """Everything that the steps to come depend on.

    Parameters
    ----------
    step : int
        Steps taken.
    network, optimizer, average : dict of str to Tensor
        State of each; `average` is empty without one.
    best : Checkpoint or None
        The best weights so far.
    losses : list of float
        Training losses since the last row of the table.
    rows : list of mapping
        The table so far, see `curves.COLUMNS`.
    precision : str
        In which steps are taken, also on another machine, on which ``auto`` would mean another.
    hardware : list of str
        Kinds of hardware on which steps were taken (`gigaseg.runtime.hardware_name`).
    """

    step: int
    network: State
    optimizer: State
    average: State = field(default_factory=dict)
    best: Checkpoint | None = None
    losses: list[float] = field(default_factory=list)
    rows: list[Mapping[str, float]] = field(default_factory=list)
    precision: str = "float32"
    hardware: list[str] = field(default_factory=list)

    def to_files(self) -> tuple[bytes, dict[str, Any]]:
        """Return the content of two files: tensors, and what JSON can say."""
        best = self.best or Checkpoint(0, {}, {})
        parts = {
            "network": self.network,
            "optimizer": self.optimizer,
            "average": self.average,
            "best": best.state,
        }
        tensors = {
            f"{part}/{name}": t for part, state in parts.items() for name, t in state.items()
        }
        told = {
            "step": self.step,
            "best": {"step": best.step, **_written(best.scores)} if self.best else None,
            "losses": [repr(loss) for loss in self.losses],
            "rows": [_written(row) for row in self.rows],
            "precision": self.precision,
            "hardware": self.hardware,
        }
        return save(tensors), told

    @classmethod
    def from_files(cls, data: bytes, told: Mapping[str, Any]) -> "Progress":
        """Undo `to_files`."""
        parts: dict[str, State] = {"network": {}, "optimizer": {}, "average": {}, "best": {}}
        for name, tensor in load(data).items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        best, state = told["best"], parts.pop("best")
        if best is not None:
            scores = {key: float(value) for key, value in best.items() if key != "step"}
            best = Checkpoint(best["step"], state, scores)
        return cls(
            step=told["step"],
            best=best,
            losses=[float(loss) for loss in told["losses"]],
            rows=[{key: float(value) for key, value in row.items()} for row in told["rows"]],
            precision=told["precision"],
            hardware=told["hardware"],
            **parts,
        )


def _written(numbers: Mapping[str, float]) -> dict[str, str]:
    """Write numbers as text: JSON knows neither nan nor, for some readers, the last digits."""
    return {key: repr(float(value)) for key, value in numbers.items()}


class Checkpoints:
    """The last two checkpoints of a training, on disk.

    Each is a safetensors file and, written after it, a JSON file with the checksums of both: a
    checkpoint is there once the second is, and one that was torn or spoilt since is not used.

    Parameters
    ----------
    folder : Path
        Where they lie; made when the first is written.

    Examples
    --------
    >>> import torch
    >>> checkpoints = Checkpoints(getfixture("tmp_path") / "checkpoints")
    >>> checkpoints.write(Progress(5, {"weight": torch.ones(2)}, {}, losses=[0.1]))
    >>> progress = checkpoints.latest()
    >>> progress.step, progress.network["weight"].tolist(), progress.losses
    (5, [1.0, 1.0], [0.1])
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, progress: Progress) -> None:
        """Write a checkpoint, and delete all but the one before.

        Raises
        ------
        DiskError
            If there is no room; the earlier ones stay.
        """
        data, told = progress.to_files()
        told["sha256"] = hashlib.sha256(data).hexdigest()
        name = self._name(progress.step)
        write_atomically(self.folder / f"{name}.safetensors", data)
        content = canonical_json({"told": told, "digest": digest(told)}, indent=1)
        write_atomically(self.folder / f"{name}.json", content + "\n")
        before = [path.stem for path in self._descriptions() if path.stem < name]
        self._forget({name, *before[-1:]})

    def latest(self) -> Progress | None:
        """Return the latest checkpoint that is whole, or None; say which ones are not."""
        for path in reversed(self._descriptions()):
            try:
                return self._read(path)
            except (ValueError, FileNotFoundError) as problem:
                logger.warning("%s is not used, %s: the one before is", path, problem)
        return None

    def remove(self) -> None:
        """Delete all checkpoints: the training has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, path: Path) -> Progress:
        content = json.loads(path.read_bytes())
        told = content.get("told") if isinstance(content, dict) else None
        if told is None or content.get("digest") != digest(told):
            raise ValueError("its checksum does not agree")
        data = path.with_suffix(".safetensors").read_bytes()
        if hashlib.sha256(data).hexdigest() != told["sha256"]:
            raise ValueError("the checksum of its tensors does not agree")
        return Progress.from_files(data, told)

    def _descriptions(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.json"))

    def _forget(self, kept: Iterable[str]) -> None:
        for path in self.folder.iterdir():
            if path.stem not in kept:
                path.unlink()

    @staticmethod
    def _name(step: int) -> str:
        return f"step-{step:09d}"


def plain(state: Mapping[str, Tensor]) -> State:
    """Return tensors as files hold them: on the CPU and in the usual memory layout."""
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def copy_state(network: nn.Module) -> State:
    """Return a copy of all weights, on the CPU and in the usual memory layout."""
    return {name: value.clone() for name, value in plain(network.state_dict()).items()}
