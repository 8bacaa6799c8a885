"""U-Net++ with deep supervision: Zhou et al. (2018, 2020), doi:10.1109/TMI.2019.2959609."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .unet import Architecture, DoubleConvolution, Network, crop, initialise_layer


class NestedUNet(Network):
    """U-Nets of every depth on one contracting path, their nodes joined by dense skips.

    Node (i, j) lies on level i and joins the j nodes left of it with the one below them::

        (0,0) - (0,1) - (0,2)     X(i, j) = H([X(i, 0), ..., X(i, j - 1), up(X(i + 1, j - 1))])
          |   /       /
        (1,0) - (1,1)             Nodes with i + j <= k are the U-Net++ of depth k.
          |   /
        (2,0)

    Each node (0, j) has a head of its own, so that one training gives a network of each depth.

    Parameters
    ----------
    architecture : Architecture
        Of kind ``unet++``. ``valid`` padding is not the paper's: earlier nodes are then larger, and
        cut at their centre.

    Notes
    -----
    Zhou et al. have one convolution with batch normalisation where this has the two of the U-Net,
    so that at depth 1 both are the same network.

    Examples
    --------
    >>> network = NestedUNet(Architecture(kind="unet++", depth=2, width=2))
    >>> [tuple(logits.shape) for logits in network.outputs(torch.zeros(1, 1, 44, 44))]
    [(1, 2, 4, 4), (1, 2, 4, 4)]
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        depth, features = architecture.depth, architecture.features
        self.up, self.node = nn.ModuleDict(), nn.ModuleDict()
        for j in range(1, depth + 1):
            for i in range(depth - j + 1):
                n, name = features[i], _name(i, j)
                self.up[name] = nn.ConvTranspose2d(2 * n, n, 2, stride=2)
                self.node[name] = DoubleConvolution((j + 1) * n, n, architecture)
        self.heads = nn.ModuleList(
            nn.Conv2d(architecture.width, architecture.classes, 1) for _ in range(depth)
        )
        self.apply(initialise_layer)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of the deepest head; shapes as for `gigaseg.unet.UNet.forward`."""
        *_, last = self._first_level(image)
        return self.heads[-1](last)

    def outputs(self, image: Tensor) -> list[Tensor]:
        """Return the logits of depths 1, 2, ..., cut to the output window of the deepest."""
        found = list(self._first_level(image))
        return [
            crop(head(features), found[-1])
            for head, features in zip(self.heads, found, strict=True)
        ]

    def _first_level(self, image: Tensor) -> Iterator[Tensor]:
        """Yield the nodes (0, 1), (0, 2), ..., each as soon as all it needs is there."""
        rows: list[list[Tensor]] = []
        for level, features in enumerate(self.contract(image)):
            rows.append([features])
            for i in reversed(range(level)):
                name = _name(i, level - i)
                below = self.up[name](rows[i + 1][-1])
                left = [crop(skip, below) for skip in rows[i]]
                rows[i].append(self.node[name](torch.cat([*left, below], dim=1)))
            if level:
                yield rows[0][-1]


def _name(level: int, column: int) -> str:
    return f"{level}_{column}"
