"""What is kept of a network: running averages of its weights, and statistics that fit them."""

import copy
from collections.abc import Iterable

import torch
from torch import nn

from .patches import Batch
from .unet import UNet


def average_decay(decay: float, step: int) -> float:
    """Return the weight of the past in an average of weights, after so many steps.

    It rises to `decay`, ``min(decay, (1 + step) / (10 + step))``: with few steps behind it an
    average would otherwise hardly leave the weights that were drawn at random.

    Examples
    --------
    >>> average_decay(0.99, 1), average_decay(0.99, 5000)
    (0.18..., 0.99)
    """
    return min(decay, (1 + step) / (10 + step))


class Average:
    """Exponential moving average (EMA) of a network.

    Running statistics of batch normalisation are averaged as the weights are, so that the average
    can be validated as it is.

    Parameters
    ----------
    network : UNet
        Where it starts; must be on its device.
    decay : float
        Weight of the past in each update, see `average_decay`.

    Attributes
    ----------
    network : UNet
        The average, a network like the one it follows.
    """

    def __init__(self, network: UNet, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, network: UNet, step: int) -> None:
        """Take in the weights of a network after its step, counted from 1."""
        new = 1 - average_decay(self.decay, step)
        pairs = zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
        for mine, theirs in pairs:
            if mine.is_floating_point():
                mine.lerp_(theirs, new)
            else:
                mine.copy_(theirs)


def re_estimate_batch_norm(network: UNet, batches: Iterable[Batch]) -> None:
    """Replace running statistics of batch normalisation by means over tiles.

    During training they trail behind the weights and see one deformed tile at a time.

    Parameters
    ----------
    network : UNet
        Changed in place; nothing happens if it has no batch normalisation.
    batches : iterable
        Training tiles as prediction will read them: not deformed; on the network's device.
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
