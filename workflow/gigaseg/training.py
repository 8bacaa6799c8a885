"""Training of a U-Net: the paper's weighted loss, and a loop that can be killed at any step.

Lightning Fabric brings devices, precision and several processes; the loop is ours, because what a
step computes must follow from its number and the checkpoint before it. Fabric writes nothing:
checkpoints are safetensors (its own are pickles).
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from .averaging import Average, re_estimate_batch_norm
from .checkpoints import Checkpoint, Progress, copy_state, plain
from .classes import IGNORED
from .curves import Scores
from .networks import build
from .optimisation import make_optimizer, optimizer_state, restore_optimizer, set_learning_rate
from .patches import Batch, TrainingBatches, ValidationBatches
from .replicas import Place
from .runtime import arithmetic, hardware_name, memory_explained
from .unet import Architecture, Network

logger = logging.getLogger(__name__)

BATCH_NORM_TILES = 32

Row = Mapping[str, float]


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the paper's loss, per labelled pixel.

    Parameters
    ----------
    logits : Tensor, shape (batch, classes, y, x)
        What the network returned.
    labels : Tensor of int64, shape (batch, y, x)
        True class l(x), or 255 where it is unknown.
    weights : Tensor of float32, shape (batch, y, x)
        w(x).

    Returns
    -------
    Tensor, scalar
        ``-1/n sum w(x) log p_l(x)(x)`` over the n labelled pixels: the energy of Ronneberger et al.
        (2015), eq. 1, with the sign that makes it a loss, divided by the number of pixels. (Divided
        by the sum of weights, a rare class would count less in tiles where it is frequent.)
        Without labelled pixels: 0.

    Examples
    --------
    >>> loss = weighted_cross_entropy(torch.zeros(1, 2, 1, 2), torch.tensor([[[1, 255]]]),
    ...                               torch.tensor([[[3.0, 0.0]]]))
    >>> round(float(loss), 4)  # 3 log 2
    2.0794
    """
    entropy = functional.cross_entropy(
        logits.float(), labels, reduction="none", ignore_index=IGNORED
    )
    labelled = (labels != IGNORED).sum().clamp(min=1)
    return (weights * entropy).sum() / labelled


def mean_loss(outputs: Sequence[Tensor], batch: Batch, architecture: Architecture) -> Tensor:
    """Return the mean over the outputs of a network of `weighted_cross_entropy` with a batch."""
    losses = [
        weighted_cross_entropy(output_window(o, architecture), batch["labels"], batch["weights"])
        for o in outputs
    ]
    return torch.stack(losses).mean()


def initialise(architecture: Architecture, seed: int) -> Network:
    """Return a new network whose weights depend on the seed only."""
    torch.manual_seed(seed)
    return build(architecture)


class Training:
    """A training under way: the network, and all that its next step depends on.

    Parameters
    ----------
    network : Network
        Trained in place.
    settings : mapping
        Section ``training``.
    fabric : Fabric
        Device, precision, and the other processes if there are any.
    validation : ValidationBatches or None
    write : callable
        See `fit`.

    Attributes
    ----------
    step : int
        Steps taken.
    rows : list of mapping
        The learning curve so far.
    hardware : list of str
        Kinds of hardware on which steps were taken, this process's the last.
    """

    def __init__(
        self,
        network: Network,
        settings: Mapping[str, Any],
        fabric: Fabric,
        validation: ValidationBatches | None,
        write: Callable[[Sequence[Row]], None],
    ) -> None:
        self.settings, self.fabric = settings, fabric
        self.validation, self._write = validation, write
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(network, settings)
        self._module, self._optimizer = fabric.setup(network, self.optimizer)
        self._module.mark_forward_method("outputs")
        self.average = Average(network, settings["ema"]) if settings["ema"] else None
        self.step, self.rows = 0, list[Row]()
        self.hardware = [hardware_name(fabric.device)]
        self._best: Checkpoint | None = None
        self._best_step = 0  # known to all processes; the first has the weights
        self._losses: list[float] = []
        self._rate = math.nan

    @property
    def kept(self) -> Network:
        """The network that is validated and kept: the average of weights if there is one."""
        return self.average.network if self.average else self.network

    @property
    def is_stale(self) -> bool:
        """Whether the last ``patience`` validations brought nothing better."""
        waited = self.step - self._best_step
        patience = self.settings["patience"] * self.settings["validate_every"]
        return bool(patience and self._best_step and waited >= patience)

    def learn(self, batch: Batch) -> None:
        """Take one step."""
        # Of dropout and whatever else torch draws: it follows from the step, as the tiles do.
        torch.manual_seed(step_seed(self.settings["seed"], self.step, self.fabric.global_rank))
        self._rate = set_learning_rate(self.optimizer, self.settings, self.step)
        self.network.train()
        self._optimizer.zero_grad()
        loss = self._loss(self.fabric.to_device(batch))
        # Averaged over processes by the library; each loss is one's share of that of the batch.
        self.fabric.backward(loss * self.fabric.world_size)
        limit = self.settings["gradient_clip"] or math.inf
        length = nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        self._optimizer.step()
        # The one moment at which the step waits for the device.
        total, longest = torch.stack([self._sum(loss.detach()), length]).tolist()
        self._check({"loss": total, "length of the gradient": longest}, batch)
        self.step += 1
        self._losses.append(total)
        if self.average:
            self.average.update(self.network, self.step)

    def _loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of all outputs; of several processes, this one's share of it."""
        # Fabric casts by itself only under a strategy that wraps the network.
        with self.fabric.autocast():
            outputs = self._module.outputs(batch["image"])
        loss = mean_loss(outputs, batch, self.network.architecture)
        if self.fabric.world_size == 1:
            return loss
        labelled = (batch["labels"] != IGNORED).sum().clamp(min=1)
        return loss * labelled / self._sum(labelled.clone())

    def _sum(self, values: Tensor) -> Tensor:
        """Add up over processes."""
        return cast(Tensor, self.fabric.all_reduce(values, reduce_op="sum"))

    def _check(self, values: Mapping[str, float], batch: Batch) -> None:
        for name, value in values.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the {name} is {value} at step {self.step} with learning rate "
                    f"{self._rate:.3g} on tiles {'; '.join(batch['origin'])}: lower "
                    f"learning_rate, lengthen warmup_steps or set gradient_clip"
                )

    def validate(self) -> None:
        """Add a row of scores, and keep the weights if they are the best so far."""
        scores: Mapping[str, float] = {}
        if self.validation and self.fabric.is_global_zero:
            candidate = Checkpoint(self.step, {}, self.evaluate())
            if not math.isfinite(candidate.scores["loss"]):
                logger.warning(
                    "the validation loss is %s at step %d: these weights are not taken as the "
                    "best; the learning rate may be too high, or the validation tiles have pixels "
                    "that are not finite, or no labels",
                    *(candidate.scores["loss"], self.step),
                )
            if candidate.is_better_than(self._best):
                candidate.state = copy_state(self.kept)
                self._best = candidate
            scores = candidate.scores
        if self.validation:
            mine = torch.tensor(self._best.step if self._best else 0, device=self.fabric.device)
            self._best_step = int(self._sum(mine))
        self._add_row(scores)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return the scores of the kept network on the validation tiles."""
        assert self.validation is not None
        network = self.kept.eval()
        scores = Scores.empty(network.architecture.classes)
        for batch in map(self.fabric.to_device, self.validation):
            with self.fabric.autocast():
                logits = output_window(network(batch["image"]), network.architecture)
            loss = weighted_cross_entropy(logits, batch["labels"], batch["weights"])
            scores.add(confusion_matrix(logits, batch["labels"]).cpu().numpy(), float(loss))
        return scores.summary()

    def _add_row(self, scores: Mapping[str, float]) -> None:
        row = {"step": self.step, "train_loss": math.fsum(self._losses) / len(self._losses)}
        row |= {f"validation_{key}": value for key, value in scores.items()}
        self.rows.append(row | {"learning_rate": self._rate})
        self._losses = []
        self._write(self.rows)

    def progress(self) -> Progress:
        """Return everything that the steps to come depend on."""
        return Progress(
            step=self.step,
            network=plain(self.network.state_dict()),
            optimizer=plain(optimizer_state(self.optimizer)),
            average=plain(self.average.network.state_dict()) if self.average else {},
            best=self._best,
            losses=self._losses,
            rows=self.rows,
            precision=self.settings["precision"],
            hardware=self.hardware,
        )

    def restore(self, progress: Progress) -> None:
        """Go on from what `progress` returned in an earlier process."""
        self.step, self.rows, self._losses = progress.step, progress.rows, progress.losses
        self._best = progress.best
        self._best_step = progress.best.step if progress.best else 0
        self._rate = set_learning_rate(self.optimizer, self.settings, self.step - 1)
        self.network.load_state_dict(progress.network)
        restore_optimizer(self.optimizer, progress.optimizer)
        if self.average:
            self.average.network.load_state_dict(progress.average)
        if progress.hardware[-1] != self.hardware[-1]:
            logger.warning(
                "steps up to %d were taken on %s, the others are on %s: the weights may differ "
                "in their last bits from those of one kind of hardware",
                *(self.step, progress.hardware[-1], self.hardware[-1]),
            )
        others = [name for name in progress.hardware if name != self.hardware[-1]]
        self.hardware = [*others, *self.hardware]
        self._write(self.rows)

    def agree(self) -> None:
        """Raise RuntimeError if the processes do not all go on from the same step."""
        steps = int(self._sum(torch.tensor(self.step, device=self.fabric.device)))
        if steps != self.step * self.fabric.world_size:
            raise RuntimeError(
                f"process {self.fabric.global_rank} goes on from step {self.step}, others do not: "
                f"all machines must see the same results folder"
            )

    def finish(self, batches: TrainingBatches) -> tuple[Checkpoint, Checkpoint]:
        """Return the best and the last weights, as prediction will use them."""
        last = Checkpoint(self.step, copy_state(self.kept), {"loss": math.nan})
        best = self._best or last
        for checkpoint in (best,) if best is last else (best, last):
            self.kept.load_state_dict(checkpoint.state)
            tiles = batches.plain(BATCH_NORM_TILES)
            re_estimate_batch_norm(self.kept, map(self.fabric.to_device, tiles))
            checkpoint.state = copy_state(self.kept)
            if self.validation:
                checkpoint.scores = self.evaluate()
        if self._losses:
            self._add_row(last.scores if self.validation else {})
        return (last if last.is_better_than(best) else best), last


def fit(
    network: Network,
    settings: Mapping[str, Any],
    batches: TrainingBatches,
    validation: ValidationBatches | None,
    write: Callable[[Sequence[Row]], None],
    **more: Any,
) -> tuple[Checkpoint, Checkpoint]:
    """Train a network, from where a killed training of it left off.

    Parameters
    ----------
    network, settings, batches, validation, write, **more
        See `take_steps`.

    Returns
    -------
    best, last : Checkpoint
        With batch-norm statistics re-estimated over training tiles; scores are of these.

    Raises
    ------
    FloatingPointError
        If a loss or a gradient is not finite; with the step, the learning rate and the tiles.
    RuntimeError
        If the device has too little memory; names the settings to lower.

    Notes
    -----
    Bits are reproducible on one kind of CPU with the same number of threads and processes, whether
    or not the training was killed meanwhile; on one kind of GPU with ``deterministic``.
    """
    with arithmetic(settings["device"], deterministic=settings["deterministic"]):
        training = take_steps(network, settings, batches, validation, write, **more)
        with memory_explained(_advice(settings, network.architecture)):
            return training.finish(batches)


def take_steps(
    network: Network,
    settings: Mapping[str, Any],
    batches: TrainingBatches,
    validation: ValidationBatches | None,
    write: Callable[[Sequence[Row]], None],
    *,
    progress: Progress | None = None,
    keep: Callable[[Progress], None] | None = None,
    advance: Callable[[], None] = lambda: None,
    place: Place | None = None,
) -> Training:
    """Take the steps of a training, all that are left.

    Parameters
    ----------
    network : Network
        Trained in place.
    settings : mapping
        Section ``training``, with device and precision settled by `runtime.choose_runtime`.
    batches : TrainingBatches
        One per step; of several processes, this one's part of each.
    validation : ValidationBatches or None
        Without them the best weights are the last.
    write : callable
        Takes all rows of the learning curve so far, see `curves.COLUMNS`, whenever there is one
        more, and when a training goes on.
    progress : Progress, optional
        Of a killed training, to go on from.
    keep : callable, optional
        Takes the progress every ``checkpoint_every`` steps.
    advance : callable
        Called after every step.
    place : Place, optional
        Of this process among several that train together; the first validates.
    """
    torch.set_num_threads(settings["threads"])
    with memory_explained(_advice(settings, network.architecture)):
        fabric = open_fabric(settings, place or Place())
        training = Training(network, settings, fabric, validation, write)
        if progress is not None:
            training.restore(progress)
        training.agree()
        for batch in batches.since(training.step, fabric.device):
            if training.is_stale:
                break
            training.learn(batch)
            if training.step % settings["validate_every"] == 0:
                training.validate()
            if keep is not None and training.step % settings["checkpoint_every"] == 0:
                keep(training.progress())
            advance()
    return training


def open_fabric(settings: Mapping[str, Any], place: Place) -> Fabric:
    """Return what knows the device, the precision and the other processes; it writes no files."""
    # Below a warning it says what hardware it found.
    for part in ("fabric", "pytorch"):
        logging.getLogger(f"lightning.{part}").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=settings["device"],
        devices=place.per_node,
        num_nodes=place.nodes,
        strategy="ddp" if place.processes > 1 else "auto",
        precision="bf16-mixed" if settings["precision"] == "bfloat16" else "32-true",
        plugins=[place],  # and not what it finds of SLURM, which starts one process only
    )
    fabric.launch()
    return fabric


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """Return the seed of what torch draws in a step.

    Examples
    --------
    >>> step_seed(1, 7) == step_seed(1, 7), step_seed(1, 7) == step_seed(1, 8)
    (True, False)
    """
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])


def output_window(logits: Tensor, architecture: Architecture) -> Tensor:
    """Cut off what `same` padding has put zeros into: the context."""
    if architecture.padding != "same":
        return logits
    context = architecture.geometry.context
    return logits[..., context:-context, context:-context]


def _advice(settings: Mapping[str, Any], architecture: Architecture) -> str:
    """Say what to lower if the device has too little memory for a step."""
    return (
        f"the memory of the {settings['device']} device is too small to train with tiles of "
        f"{settings['tile']} px, {settings['batch']} per step, and a network of width "
        f"{architecture.width}: lower training.memory_gb (with tile or batch: auto), "
        f"training.tile, training.batch or network.width"
    )


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """Count labelled pixels by true class (rows) and likeliest class (columns).

    Examples
    --------
    >>> confusion_matrix(torch.eye(2)[None, :, None], torch.tensor([[[0, 255]]])).tolist()
    [[1, 0], [0, 0]]
    """
    classes, seen = logits.shape[1], labels != IGNORED
    pairs = labels[seen] * classes + logits.argmax(dim=1)[seen]
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)
