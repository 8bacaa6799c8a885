"""Learning curves: the schedule of the learning rate, and the scores of one validation."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

COLUMNS = (
    "step",
    "train_loss",
    "validation_loss",
    "validation_dice",
    "validation_error",
    "learning_rate",
)


def format_row(row: Mapping[str, float]) -> str:
    """Return one line of the table of scores; what is missing or nan stays empty.

    Examples
    --------
    >>> format_row({"step": 5, "train_loss": 0.25, "learning_rate": 0.001})
    '5,0.25,,,,0.001\\n'
    """
    cells = (row.get(column, math.nan) for column in COLUMNS)
    return ",".join("" if math.isnan(cell) else f"{cell:.7g}" for cell in cells) + "\n"


def learning_rate_factor(step: int, *, steps: int, warmup: int, schedule: str) -> float:
    """Return the factor of the learning rate at a step, counted from 0.

    It rises linearly over `warmup` steps; then it is 1 (``constant``), or falls to 0 along half a
    cosine (``cosine``).

    Examples
    --------
    >>> [learning_rate_factor(s, steps=8, warmup=2, schedule="cosine") for s in (0, 1, 2, 8)]
    [0.5, 1.0, 1.0, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return (1 + math.cos(math.pi * progress)) / 2


@dataclass
class Scores:
    """Loss, pixel error and Dice, added up over tiles.

    Parameters
    ----------
    confusion : ndarray of int64, shape (classes, classes)
        Labelled pixels by true and predicted class.
    energy : float
        Sum of the loss times the number of labelled pixels.

    Examples
    --------
    >>> scores = Scores.empty(classes=2)
    >>> scores.add(np.array([[5, 1], [0, 4]]), loss=0.5)
    >>> scores.summary()
    {'loss': 0.5, 'dice': 0.888..., 'error': 0.1}
    """

    confusion: np.ndarray
    energy: float = 0.0

    @classmethod
    def empty(cls, classes: int) -> "Scores":
        """Return scores of no pixels."""
        return cls(np.zeros((classes, classes), np.int64))

    def add(self, confusion: np.ndarray, loss: float) -> None:
        """Add a tile: its confusion matrix, and its loss per labelled pixel."""
        self.confusion = self.confusion + confusion
        self.energy += loss * int(confusion.sum())

    def summary(self) -> dict[str, float]:
        """Return loss, dice and error; all nan without labelled pixels.

        ``dice`` is that of class 1 (foreground, or interior): nan if it neither is nor was
        predicted. ``error`` is the share of labelled pixels whose likeliest class is wrong.
        """
        total, right = int(self.confusion.sum()), int(np.trace(self.confusion))
        either = int(self.confusion[1].sum() + self.confusion[:, 1].sum())
        return {
            "loss": self.energy / total if total else math.nan,
            "dice": 2 * int(self.confusion[1, 1]) / either if either else math.nan,
            "error": (total - right) / total if total else math.nan,
        }
