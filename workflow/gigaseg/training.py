"""Training of a U-Net: the paper's weighted loss in a Lightning module.

Lightning brings devices, precision, the loop and the progress bar. It writes nothing: checkpoints
are safetensors (its own are pickles) and the table of scores is ours (its logger deletes the table
of an interrupted run).
"""

import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor, nn
from torch.nn import functional

from .checkpoints import Checkpoint, Recorder, copy_state, re_estimate_batch_norm
from .classes import IGNORED
from .curves import Scores, learning_rate_factor
from .networks import build
from .patches import Batch, TrainingBatches, ValidationBatches
from .unet import Architecture, Network

logger = logging.getLogger(__name__)

BATCH_NORM_TILES = 32


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


class Segmentation(lightning.LightningModule):
    """A network with its loss, optimiser and schedule.

    Parameters
    ----------
    network : Network
        Trained in place.
    settings : mapping
        Section ``training``.
    """

    def __init__(self, network: Network, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.scores = Scores.empty(network.architecture.classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of the output window: with ``same`` padding, the context is cut off."""
        return self.within_context(self.network(image))

    def within_context(self, logits: Tensor) -> Tensor:
        """Cut off what zero padding reaches; unpadded networks have done so themselves."""
        if self.network.architecture.padding == "valid":
            return logits
        context = self.network.architecture.geometry.context
        return logits[..., context:-context, context:-context]

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """Return the loss of a batch: the mean over all outputs of the network.

        Raises
        ------
        FloatingPointError
            If it is not finite; with the step, the learning rate and the tiles.
        """
        losses = [
            weighted_cross_entropy(self.within_context(o), batch["labels"], batch["weights"])
            for o in self.network.outputs(batch["image"])
        ]
        loss = sum(losses[1:], losses[0]) / len(losses)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.global_step} with learning rate "
                f"{self.learning_rate:.3g} on tiles {'; '.join(batch['origin'])}: lower "
                f"learning_rate, lengthen warmup_steps or set gradient_clip"
            )
        return loss

    def validation_step(self, batch: Batch, _index: int) -> None:
        """Add a batch to the scores."""
        logits = self(batch["image"])
        loss = weighted_cross_entropy(logits, batch["labels"], batch["weights"])
        self.scores.add(confusion_matrix(logits, batch["labels"]).cpu().numpy(), float(loss))

    def on_validation_start(self) -> None:
        """Begin to add up anew."""
        self.scores = Scores.empty(self.network.architecture.classes)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the step under way."""
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Shorten gradients that are too long."""
        del optimizer, gradient_clip_algorithm  # the names are Lightning's
        # Lightning refuses fused optimisers here, for the sake of a scaler that bfloat16 has not.
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> Any:
        """Return SGD with momentum, as in the paper, or Adam, and the schedule."""
        chosen = self.settings
        # Fused: one pass over the weights instead of one per operation.
        common = {"lr": chosen["learning_rate"], "weight_decay": chosen["weight_decay"]}
        common |= {"fused": True}
        optimizer: torch.optim.Optimizer
        if chosen["optimizer"] == "sgd":
            optimizer = torch.optim.SGD(self.parameters(), momentum=chosen["momentum"], **common)
        else:
            optimizer = torch.optim.Adam(self.parameters(), **common)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: learning_rate_factor(
                step,
                steps=chosen["steps"],
                warmup=chosen["warmup_steps"],
                schedule=chosen["schedule"],
            ),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def initialise(architecture: Architecture, seed: int) -> Network:
    """Return a new network whose weights depend on the seed only."""
    torch.manual_seed(seed)
    return build(architecture)


def fit(
    network: Network,
    settings: Mapping[str, Any],
    batches: TrainingBatches,
    validation: ValidationBatches | None,
    write: Callable[[Mapping[str, float]], None],
) -> tuple[Checkpoint, Checkpoint]:
    """Train a network.

    Parameters
    ----------
    network : Network
        Trained in place.
    settings : mapping
        Section ``training``, with device and precision settled by `settle`.
    batches : TrainingBatches
        One per step.
    validation : ValidationBatches or None
        Without them the best weights are the last.
    write : callable
        Takes the rows of the learning curve, see `curves.COLUMNS`.

    Returns
    -------
    best, last : Checkpoint
        With batch-norm statistics re-estimated over training tiles; scores are of these.

    Notes
    -----
    Bits are reproducible on one kind of CPU with the same number of threads.
    """
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(settings["seed"])
    recorder = Recorder(write, settings["validate_every"])
    trainer = make_trainer(settings, recorder, validate=validation is not None)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    module = Segmentation(network, settings)
    with quiet_lightning():
        trainer.fit(module, batches, validation)
    last = Checkpoint(trainer.global_step, copy_state(network), {"loss": math.nan})
    best = recorder.best or last
    for checkpoint in (best,) if best is last else (best, last):
        network.load_state_dict(checkpoint.state)
        re_estimate_batch_norm(network, batches.plain(BATCH_NORM_TILES))
        checkpoint.state = copy_state(network)
        if validation is not None:
            with quiet_lightning():
                trainer.validate(module, validation, verbose=False)
            checkpoint.scores = module.scores.summary()
    if recorder.has_news:
        recorder.report(last.step, last.scores if validation else {})
    return (last if last.is_better_than(best) else best), last


def make_trainer(
    settings: Mapping[str, Any], recorder: Recorder, *, validate: bool
) -> lightning.Trainer:
    """Return a Lightning trainer that writes no files and leaves SLURM alone."""
    # Below a warning it says what hardware it found, why it stopped, and what its makers sell.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    return lightning.Trainer(
        accelerator=settings["device"],
        devices=1,
        precision="bf16-mixed" if settings["precision"] == "bfloat16" else "32-true",
        max_steps=settings["steps"],
        gradient_clip_val=settings["gradient_clip"] or None,
        val_check_interval=min(settings["validate_every"], settings["steps"]),
        check_val_every_n_epoch=None,
        limit_val_batches=None if validate else 0,
        num_sanity_val_steps=0,
        callbacks=[recorder],
        # Its requeueing of SLURM jobs would fight with Snakemake's retries.
        plugins=[LightningEnvironment()],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
    )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hide what Lightning warns about itself; all other warnings stay."""
    with warnings.catch_warnings():
        # It asks torch for the class of a tree's leaves, which newer versions call deprecated.
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        # Training without validation samples is said by the stage.
        warnings.filterwarnings("ignore", message="You defined a `validation_step` but have no")
        yield


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
