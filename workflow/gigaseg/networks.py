"""The kinds of networks: built, cut to a lesser depth, and what they cost."""

from dataclasses import replace
from math import prod

import torch
from torch import Tensor, nn

from .fcn import FCN
from .nested import NestedUNet
from .unet import Architecture, Network, UNet

KINDS: dict[str, type[Network]] = {"unet": UNet, "unet++": NestedUNet, "fcn": FCN}


def build(architecture: Architecture) -> Network:
    """Return a new network of a kind.

    Examples
    --------
    >>> type(build(Architecture(kind="unet++", depth=1, width=1))).__name__
    'NestedUNet'
    """
    return KINDS[architecture.kind](architecture)


def depths_of(architecture: Architecture) -> list[int]:
    """List the depths at which a trained network can predict.

    Examples
    --------
    >>> depths_of(Architecture(kind="unet++", depth=3)), depths_of(Architecture(depth=3))
    ([1, 2, 3], [3])
    """
    if architecture.kind == "unet++":
        return list(range(1, architecture.depth + 1))
    return [architecture.depth]


def at_depth(network: Network, depth: int) -> Network:
    """Return the part of a network that predicts at a depth, with the same weights.

    Parameters
    ----------
    network : Network
    depth : int
        One of `depths_of`.

    Raises
    ------
    ValueError
        If the network has no output at this depth.
    """
    known = depths_of(network.architecture)
    if depth not in known:
        raise ValueError(
            f"prediction.depth is {depth}, but this {network.architecture.kind} was trained for "
            f"depth {' and '.join(map(str, known))}: choose one of these, or null; only a network "
            f"of kind unet++ can predict at several"
        )
    if depth == network.architecture.depth:
        return network
    part = build(replace(network.architecture, depth=depth)).train(network.training)
    state = network.state_dict()
    part.load_state_dict({name: state[name] for name in part.state_dict()})
    return part


def count_parameters(architecture: Architecture) -> int:
    """Return the number of trained values, without drawing any.

    Examples
    --------
    >>> count_parameters(Architecture())  # the paper's network
    31030658
    """
    with torch.device("meta"):
        return sum(values.numel() for values in build(architecture).parameters())


def multiply_adds(architecture: Architecture) -> float:
    """Return the multiplications of all convolutions per output pixel of a large image.

    What tiles repeat of their context is left out. It is counted on one cell of the lattice, with
    zero padding, where every layer has just its share of a larger image.

    Examples
    --------
    >>> round(multiply_adds(Architecture()))  # the paper's network
    733888
    """
    counted = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal counted
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        # Each value of the one, spread or gathered by a kernel, meets those of its group.
        spread = isinstance(layer, nn.ConvTranspose2d)
        values = (inputs[0] if spread else output).numel()
        partners = layer.out_channels if spread else layer.in_channels
        counted += values * partners // layer.groups * prod(layer.kernel_size)

    with torch.device("meta"), torch.inference_mode():
        network = build(replace(architecture, padding="same")).eval()
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.register_forward_hook(count)
        side = architecture.geometry.lattice
        network(torch.empty(1, architecture.in_channels, side, side))
    return counted / side**2
