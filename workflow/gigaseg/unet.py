"""The U-Net of Ronneberger, Fischer & Brox (2015), doi:10.1007/978-3-319-24574-4_28."""

import math
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .geometry import Kind, Padding, UNetGeometry

Normalization = Literal["none", "batch"]


@dataclass(frozen=True)
class Architecture:
    """Everything that decides the shape of a network; stored in every model file.

    Parameters
    ----------
    in_channels : int
        Image channels the network reads.
    classes : int
        Output classes, at least 2.
    depth : int
        Number of 2x2 poolings (4 in the paper).
    width : int
        Features of the first level (64 in the paper); doubled at each level.
    padding : {"valid", "same"}
        ``valid`` is the paper's; ``same`` keeps sizes by zero padding.
    normalization : {"none", "batch"}
        Batch normalisation after each 3x3 convolution, or none, as in the paper.
    dropout : float
        Probability of dropping a unit at the end of the contracting path.
    kind : {"unet", "unet++", "fcn"}
        How the levels are joined on the way up; see `gigaseg.networks.build`.
    """

    in_channels: int = 1
    classes: int = 2
    depth: int = 4
    width: int = 64
    padding: Padding = "valid"
    normalization: Normalization = "none"
    dropout: float = 0.5
    kind: Kind = "unet"

    def __post_init__(self) -> None:
        if self.in_channels < 1 or self.classes < 2 or self.width < 1:
            raise ValueError(
                f"a U-Net needs in_channels >= 1, classes >= 2 and width >= 1, not "
                f"{self.in_channels}, {self.classes} and {self.width}"
            )
        if self.normalization not in ("none", "batch"):
            # Instance and group statistics would depend on the tile, so tiling could not be exact.
            raise ValueError(f"normalization is 'none' or 'batch', not {self.normalization!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")

    @property
    def geometry(self) -> UNetGeometry:
        """Context, lattice and legal tile sizes of this network."""
        return UNetGeometry(self.depth, self.padding, self.kind)

    @property
    def features(self) -> list[int]:
        """Features of each level, the first one first."""
        return [self.width << level for level in range(self.depth + 1)]

    def to_dict(self) -> dict[str, int | float | str]:
        """Return the fields as plain values, ready for JSON."""
        return asdict(self)


class DoubleConvolution(nn.Sequential):
    """Two 3x3 convolutions, each followed by optional batch normalisation and a ReLU."""

    def __init__(self, inputs: int, outputs: int, architecture: Architecture) -> None:
        layers: list[nn.Module] = []
        batch = architecture.normalization == "batch"
        for channels in (inputs, outputs):
            layers.append(
                nn.Conv2d(channels, outputs, 3, padding=architecture.padding, bias=not batch)
            )
            if batch:
                layers.append(nn.BatchNorm2d(outputs))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class Network(nn.Module):
    """What all networks have: an architecture, the paper's contracting path, and logits.

    Parameters
    ----------
    architecture : Architecture
        Shape of the network.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        features = architecture.features
        inputs = [architecture.in_channels, *features]
        self.down = nn.ModuleList(
            DoubleConvolution(a, b, architecture) for a, b in zip(inputs, features, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(architecture.dropout)

    def contract(self, image: Tensor) -> list[Tensor]:
        """Return the features of each level, the first one first."""
        levels = []
        for level, block in enumerate(self.down):
            image = block(image if level == 0 else self.pool(image))
            levels.append(image)
        # The paper: "drop-out layers at the end of the contracting path".
        levels[-1] = self.dropout(image)
        return levels

    def outputs(self, image: Tensor) -> list[Tensor]:
        """Return all that training compares with the truth: logits of one size, the deepest last.

        Most networks have one output, that of `forward`.
        """
        return [self(image)]


class UNet(Network):
    """Contracting path, expanding path with cropped skips, and a 1x1 convolution to logits.

    Parameters
    ----------
    architecture : Architecture
        Shape of the network. The defaults are the paper's: 23 convolutional layers.

    Notes
    -----
    Weights are drawn from a normal distribution of standard deviation sqrt(2 / N), N the number of
    incoming nodes of one neuron (He et al. 2015, as in the paper, section 3); biases are zero. An
    up-convolution with kernel and stride 2 reads each output pixel from one pixel of the level
    below, so its N is its number of input channels.

    Examples
    --------
    >>> network = UNet(Architecture(width=2))
    >>> network(torch.zeros(1, 1, 572, 572)).shape
    torch.Size([1, 2, 388, 388])
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        upward = list(reversed(architecture.features[:-1]))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * n, n, 2, stride=2) for n in upward)
        self.merge = nn.ModuleList(DoubleConvolution(2 * n, n, architecture) for n in upward)
        self.head = nn.Conv2d(architecture.width, architecture.classes, 1)
        self.apply(initialise_layer)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits.

        Parameters
        ----------
        image : Tensor, shape (batch, in_channels, y, x), float
            y and x must be legal tile sizes (`UNetGeometry.check`).

        Returns
        -------
        Tensor, shape (batch, classes, y - 2 * context, x - 2 * context)
            For ``same`` padding the size is that of the input.
        """
        skips = self.contract(image)
        image = skips.pop()
        for up, block in zip(self.up, self.merge, strict=True):
            image = up(image)
            image = block(torch.cat([crop(skips.pop(), image), image], dim=1))
        return self.head(image)


def crop(skip: Tensor, like: Tensor) -> Tensor:
    """Cut the centre of a skip connection to the size of the upsampled features.

    Examples
    --------
    >>> crop(torch.arange(6.0)[None], torch.zeros(1, 2))
    tensor([[2., 3.]])
    """
    y, x = ((a - b) // 2 for a, b in zip(skip.shape[-2:], like.shape[-2:], strict=True))
    return skip[..., y : y + like.shape[-2], x : x + like.shape[-1]]


def initialise_layer(layer: nn.Module) -> None:
    """Draw weights with standard deviation sqrt(2 / N) and set biases to zero."""
    if isinstance(layer, nn.ConvTranspose2d):
        incoming = layer.in_channels
    elif isinstance(layer, nn.Conv2d):
        incoming = layer.in_channels * math.prod(layer.kernel_size)
    else:
        return
    nn.init.normal_(layer.weight, std=math.sqrt(2 / incoming))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
