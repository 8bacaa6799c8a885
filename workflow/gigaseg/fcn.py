"""Fully convolutional network: Long, Shelhamer & Darrell (2015), arXiv:1411.4038. A baseline."""

from typing import Any

import torch
from torch import Tensor, nn

from .unet import Architecture, Network, crop, initialise_layer


class FCN(Network):
    """Contracting path of the U-Net; each level is scored, and the scores are added up.

    Unlike a U-Net it has no features on the way up: only scores, as many as there are classes, are
    enlarged by two and added to those of the next finer level, down to the first.

    Parameters
    ----------
    architecture : Architecture
        Of kind ``fcn``.

    Notes
    -----
    Long et al. stop three levels below the first and enlarge by eight (FCN-8s), because on
    photographs finer levels gained little; objects a few pixels apart need them. As there,
    enlarging is learned, one kernel per class, and begins as bilinear interpolation: kernel 4,
    stride 2, each output pixel from the two nearest scores along each axis, on the lattice. (What
    PyTorch calls ``align_corners`` would depend on the size of the tile.) Here all weights are
    learned together from a random start, where Long et al. begin with a network for photographs.

    Examples
    --------
    >>> FCN(Architecture(kind="fcn", width=2))(torch.zeros(1, 1, 540, 540)).shape
    torch.Size([1, 2, 386, 386])
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        classes, depth = architecture.classes, architecture.depth
        self.score = nn.ModuleList(nn.Conv2d(n, classes, 1) for n in architecture.features)
        self.apply(initialise_layer)
        # Unpadded, pixels that lack a neighbour are left out: one more on each side.
        padding = 2 if architecture.padding == "valid" else 1
        how: dict[str, Any] = {"stride": 2, "padding": padding, "groups": classes, "bias": False}
        enlargers = [nn.ConvTranspose2d(classes, classes, 4, **how) for _ in range(depth)]
        self.up = nn.ModuleList(enlargers)
        line = torch.tensor([0.25, 0.75, 0.75, 0.25])
        with torch.no_grad():
            for layer in enlargers:
                layer.weight.copy_(torch.outer(line, line))

    def forward(self, image: Tensor) -> Tensor:
        """Return logits; shapes as for `gigaseg.unet.UNet.forward`, with another context."""
        levels = self.contract(image)
        total = self.score[-1](levels.pop())
        for up, score in zip(self.up, reversed(self.score[:-1]), strict=True):
            total = up(total)
            total = total + crop(score(levels.pop()), total)
        return total
