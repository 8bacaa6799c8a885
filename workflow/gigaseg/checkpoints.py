"""Weights worth keeping: recorded while training, finished after it."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import lightning
import torch
from safetensors.torch import save
from torch import Tensor, nn

from .patches import Batch
from .unet import Network

State = dict[str, Tensor]


@dataclass
class Checkpoint:
    """Weights of a network after a step, and their scores."""

    step: int
    state: State
    scores: dict[str, float]

    def is_better_than(self, other: "Checkpoint | None") -> bool:
        """Compare validation losses: they see the gaps between objects, which Dice hardly does."""
        return other is None or not other.scores["loss"] <= self.scores["loss"]

    def to_bytes(self) -> bytes:
        """Return the weights as a safetensors file."""
        return save(self.state)


@dataclass(eq=False)
class Recorder(lightning.Callback):
    """Reports one row of scores per validation and keeps the best weights.

    Parameters
    ----------
    write : callable
        Takes a row, see `curves.COLUMNS`.
    every : int
        Steps between rows when there are no validation samples.
    """

    write: Callable[[Mapping[str, float]], None]
    every: int
    best: Checkpoint | None = None
    _losses: list[Tensor] = field(default_factory=list)
    _rate: float = math.nan

    @property
    def has_news(self) -> bool:
        """Whether there were steps since the last row."""
        return bool(self._losses)

    def on_train_batch_start(self, _trainer: Any, module: Any, *_: Any) -> None:
        """Note the learning rate before the schedule moves on."""
        self._rate = module.learning_rate

    def on_train_batch_end(self, trainer: Any, _module: Any, outputs: Any, *_: Any) -> None:
        """Collect losses; without validation, report them."""
        self._losses.append(outputs["loss"].detach())
        if not trainer.enable_validation and trainer.global_step % self.every == 0:
            self.report(trainer.global_step, {})

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        """Report the scores and keep the weights if they are the best so far."""
        if trainer.state.fn != "fit":
            return
        candidate = Checkpoint(trainer.global_step, {}, module.scores.summary())
        if candidate.is_better_than(self.best):
            candidate.state = copy_state(module.network)
            self.best = candidate
        self.report(candidate.step, candidate.scores)

    def report(self, step: int, scores: Mapping[str, float]) -> None:
        """Write a row with the mean training loss since the last one."""
        loss = float(torch.stack(self._losses).mean()) if self._losses else math.nan
        self._losses.clear()
        row = {"step": step, "train_loss": loss}
        row |= {f"validation_{key}": value for key, value in scores.items()}
        self.write(row | {"learning_rate": self._rate})


def re_estimate_batch_norm(network: Network, batches: Iterable[Batch]) -> None:
    """Replace running statistics of batch normalisation by means over tiles.

    During training they trail behind the weights and see one deformed tile at a time.

    Parameters
    ----------
    network : Network
        Changed in place; nothing happens if it has no batch normalisation.
    batches : iterable
        Training tiles as prediction will read them: not deformed.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not layers:
        return
    network.eval()
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over all batches
        layer.train()
    with torch.no_grad():
        for batch in batches:
            network(batch["image"])
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.eval()


def copy_state(network: nn.Module) -> State:
    """Return a copy of all weights, on the CPU and in the usual memory layout."""
    return {
        name: value.detach().cpu().contiguous().clone(memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }
