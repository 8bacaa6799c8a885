"""The optimiser of a training: which weights it decays, and its state as named tensors."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .curves import learning_rate_factor


def make_optimizer(network: nn.Module, settings: Mapping[str, Any]) -> Optimizer:
    """Return SGD with momentum, as in the paper, or AdamW.

    Parameters
    ----------
    network : nn.Module
        Whose weights are trained.
    settings : mapping
        ``optimizer``, ``learning_rate``, ``momentum``, ``weight_decay``.

    Notes
    -----
    Kernels of convolutions are decayed; biases, and the gain and offset of batch normalisation, are
    not. Decay limits how strongly features are combined; a bias or an offset only says where a
    feature begins to count, and drawing it to 0 is a wrong guess, not a smaller model.

    Examples
    --------
    >>> settings = {"optimizer": "adamw", "learning_rate": 0.1, "weight_decay": 0.01}
    >>> optimizer = make_optimizer(nn.Conv2d(1, 1, 3), settings)
    >>> [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
    [(1, 0.01), (1, 0.0)]
    """
    kernels = [values for values in network.parameters() if values.ndim > 1]
    others = [values for values in network.parameters() if values.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": kernels, "weight_decay": settings["weight_decay"]},
        {"params": others, "weight_decay": 0.0},
    ]
    # Fused: one pass over the weights instead of one per operation.
    common = {"lr": settings["learning_rate"], "fused": True}
    if settings["optimizer"] == "sgd":
        return torch.optim.SGD(groups, momentum=settings["momentum"], **common)
    return torch.optim.AdamW(groups, **common)


def set_learning_rate(optimizer: Optimizer, settings: Mapping[str, Any], step: int) -> float:
    """Set the learning rate of a step, counted from 0, and return it; see `learning_rate_factor`.

    It follows from the step alone, so a schedule has no state that a checkpoint could lose.
    """
    rate: float = settings["learning_rate"] * learning_rate_factor(
        step,
        steps=settings["steps"],
        warmup=settings["warmup_steps"],
        schedule=settings["schedule"],
    )
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def optimizer_state(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return what an optimiser remembers, as ``<number of the parameter>/<name>``."""
    return {
        f"{number}/{name}": value
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: Optimizer, state: Mapping[str, Tensor]) -> None:
    """Have a new optimiser remember what `optimizer_state` returned of another.

    Parameters
    ----------
    optimizer : Optimizer
        Of a network like the one it was; must not have taken a step.
    state : mapping
        On any device, in any memory layout.
    """
    parameters = [values for group in optimizer.param_groups for values in group["params"]]
    for key, value in state.items():
        number, _, name = key.partition("/")
        parameter = parameters[int(number)]
        # Fused optimisers take the layout in memory for that of the parameter and do not look.
        like = torch.empty_like(parameter if value.shape == parameter.shape else value)
        optimizer.state[parameter][name] = like.to(parameter.device).copy_(value).detach()
