"""Depth, tile and batch of a training, chosen by rule from images, objects and memory.

The rules follow the planning of nnU-Net (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z):
fixed, few, and explained. What is chosen depends on what was recorded of the samples for training
and validation together, so that all folds choose alike, and on the settings, never on the machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .geometry import Kind, UNetGeometry

DEEPEST = 5  # of what auto chooses: 188 px of context, and four times the parameters of depth 4
LARGEST_SHARE = 0.05  # of all pixels in one batch, as in nnU-Net


@dataclass(frozen=True)
class Objects:
    """Cross-sections of the objects of one sample, in the planes that a network sees.

    Parameters
    ----------
    count : int
        Number of cross-sections.
    diameter : float
        Median diameter of a circle of their area, in px; 0 if there are none.
    """

    count: int
    diameter: float


@dataclass(frozen=True)
class Extent:
    """What the choice rests on, of all samples for training and validation.

    Parameters
    ----------
    side : int
        Median of the shorter sides of the planes, in px.
    diameter : float
        Median diameter of the objects, in px.
    pixels : int
        All of them.
    """

    side: int
    diameter: float
    pixels: int

    @classmethod
    def of(cls, shapes: Sequence[Sequence[int]], objects: Sequence[Objects]) -> "Extent":
        """Join the samples: of each, the shape (z, y, x) and its objects.

        The median of the diameters is that of the samples' medians, each as often as it has
        objects.

        Examples
        --------
        >>> few, many = Objects(3, 10.0), Objects(9, 40.0)
        >>> Extent.of([(1, 64, 80), (2, 99, 90)], [few, many])
        Extent(side=64, diameter=40.0, pixels=22940)
        """
        sides = sorted(min(shape[1:]) for shape in shapes)
        known = sorted((one.diameter, one.count) for one in objects)
        passed, half = 0, sum(count for _, count in known) / 2
        diameter = 0.0
        for value, count in known:
            passed += count
            if count and passed >= half:
                diameter = value
                break
        pixels = sum(z * y * x for z, y, x in shapes)
        return cls(sides[(len(sides) - 1) // 2], diameter, pixels)


def is_open(network: Mapping[str, Any], training: Mapping[str, Any]) -> bool:
    """Say whether anything is left to choose."""
    return "auto" in (network["depth"], training["tile"], training["batch"])


def choose_sizes(
    network: Mapping[str, Any], training: Mapping[str, Any], extent: Extent
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Settle what is ``auto`` in the sections ``network`` and ``training``.

    The memory for tiles is what `state_bytes` leaves. Depth is the least at which every pixel sees
    as far as objects are wide, but not so deep that it would see beyond an image on all sides, or
    that the smallest tile takes more than the memory.
    The tile is the largest that fits the memory and is no larger than an image needs. The batch is
    as many tiles as fit beside each other, up to a twentieth of all pixels.

    Parameters
    ----------
    network, training : mapping
        Of the settings.
    extent : Extent
        Of the samples for training and validation.

    Returns
    -------
    network, training : dict
        With numbers.
    reasons : list of str
        One sentence for each choice.

    Raises
    ------
    ValueError
        If not even the smallest tile fits the memory, or the parameters alone do not.

    Examples
    --------
    >>> network = {"kind": "unet", "depth": "auto", "padding": "valid", "width": 16}
    >>> training = {"tile": "auto", "batch": "auto", "memory_gb": 1.0}
    >>> training |= {"optimizer": "adamw", "ema": 0}
    >>> chosen = choose_sizes(network, training, Extent(256, 40.0, 100 * 256**2))
    >>> chosen[0]["depth"], chosen[1]["tile"], chosen[1]["batch"]
    (3, 348, 5)
    >>> chosen[2][0]
    'depth 3, because objects are 40 px across (median) and each pixel sees 44 px to every side'
    """
    reasons, planned = [], is_open(network, training)
    if network["depth"] == "auto":
        depth, reason = _depth(network, training, extent)
        network = {**network, "depth": depth}
        reasons.append(f"depth {depth}, {reason}")
    if planned:
        _check_parameters(network, training)
    if training["tile"] == "auto":
        tile, reason = _tile(network, training, extent)
        training = {**training, "tile": tile}
        reasons.append(f"tile {tile} px, {reason}")
    if training["batch"] == "auto":
        batch, reason = _batch(network, training, extent)
        training = {**training, "batch": batch}
        reasons.append(f"batch {batch}, {reason}")
    return dict(network), dict(training), reasons


def deepest_within(side: int, padding: Any = "valid", kind: Kind = "unet") -> int:
    """Return the largest depth that auto may choose for planes whose shorter side is `side` px.

    Examples
    --------
    >>> [deepest_within(side) for side in (10, 100, 4096)]
    [1, 4, 5]
    """
    fitting = (d for d in range(1, DEEPEST + 1) if UNetGeometry(d, padding, kind).context <= side)
    return max(fitting, default=1)


def parameters(channels: int, classes: int, network: Any) -> int:
    """Count the parameters of a network, without batch normalisation.

    Parameters
    ----------
    channels, classes : int
    network : mapping
        ``kind``, ``width`` and ``depth``, the deepest there may be if that is ``auto``.

    Examples
    --------
    >>> parameters(1, 2, {"kind": "unet", "depth": 4, "width": 64})  # the paper's
    31030658
    """
    kind, width = network["kind"], network["width"]
    depth = DEEPEST if network["depth"] == "auto" else network["depth"]
    features = [width << level for level in range(depth + 1)]
    down = sum(_double(a, b) for a, b in zip([channels, *features[:-1]], features, strict=True))
    if kind == "fcn":
        return down + sum(classes * (f + 1) for f in features) + 16 * classes * depth
    # The j-th node of a level joins j + 1 maps; a U-Net has one node on each.
    nodes = [
        (f, j)
        for level, f in enumerate(features[:-1])
        for j in range(1, depth - level + 1 if kind == "unet++" else 2)
    ]
    up = sum(8 * f * f + f + _double((j + 1) * f, f) for f, j in nodes)
    heads = depth if kind == "unet++" else 1
    return down + up + heads * classes * (width + 1)


def _double(inputs: int, outputs: int) -> int:
    """Count the parameters of two 3x3 convolutions."""
    return 9 * (inputs + outputs) * outputs + 2 * outputs


def state_bytes(network: Mapping[str, Any], training: Mapping[str, Any]) -> float:
    """Count the bytes that a training step keeps of the parameters, whatever the tiles.

    In float32, of one process: weights, gradients, what the optimizer remembers, and the average of
    the weights. Channels and classes are not asked for: what they add to the first and the last
    layer is nothing beside the rest.

    Parameters
    ----------
    network : mapping
        As for `parameters`.
    training : mapping
        ``optimizer``, ``momentum`` and ``ema``.

    Examples
    --------
    >>> paper = {"kind": "unet", "depth": 4, "width": 64}
    >>> state_bytes(paper, {"optimizer": "adamw", "ema": 0}) / 1e9
    0.496490528
    """
    # AdamW keeps two moments of each gradient, SGD one, and that only if it has momentum.
    moments = 2 if training["optimizer"] == "adamw" else int(training["momentum"] > 0)
    copies = 2 + moments + int(training["ema"] > 0)
    return 4.0 * copies * parameters(1, 2, network)


def training_bytes(geometry: UNetGeometry, width: int, tile: int) -> float:
    """Estimate the bytes that a training step keeps of one tile for the way back.

    Per pixel of a level of a U-Net about 8 maps as wide as the level are kept: four convolutions,
    the concatenation of two and its copies. Each level below has half of the one above; the
    gradients of one level come on top. A U-Net++ has a node more for each level further up, the
    j-th of which joins j + 1 maps. A fully convolutional network has only the way down.
    """
    maps = [_maps(geometry, level) for level in range(geometry.depth + 1)]
    kept = sum(n / 2**level for level, n in enumerate(maps)) + max(8, maps[0])
    return 4.0 * width * tile**2 * kept


def _maps(geometry: UNetGeometry, level: int) -> int:
    nodes = geometry.depth - level
    match geometry.kind:
        case "unet":
            return 8
        case "unet++":
            return max(8, 3 + sum(j + 4 for j in range(1, nodes + 1)))
        case "fcn":
            return 5


def _geometry(network: Mapping[str, Any]) -> UNetGeometry:
    return UNetGeometry(network["depth"], network["padding"], network["kind"])


def _depth(
    network: Mapping[str, Any], training: Mapping[str, Any], extent: Extent
) -> tuple[int, str]:
    every = [_geometry({**network, "depth": d}) for d in range(1, DEEPEST + 1)]
    wanted = next((g for g in every if g.context >= extent.diameter), every[-1])
    within = deepest_within(extent.side, network["padding"], network["kind"])
    affordable = [
        g
        for g in every
        if training_bytes(g, network["width"], g.smallest)
        <= _budget({**network, "depth": g.depth}, training)
    ] or every[:1]
    depth = min(wanted.depth, within, affordable[-1].depth)
    objects = f"objects are {extent.diameter:.0f} px across (median)"
    seen = every[depth - 1].context
    if depth == wanted.depth and seen >= extent.diameter:
        return depth, f"because {objects} and each pixel sees {seen} px to every side"
    if depth == wanted.depth:
        return depth, f"the deepest auto takes, although {objects}: each pixel sees {seen} px"
    if depth == within:
        return depth, (
            f"although {objects}, because images are {extent.side} px wide (median) and each pixel "
            f"sees {seen} px to every side already"
        )
    return depth, (
        f"although {objects}, because the smallest tile of a deeper network takes more than "
        f"training.memory_gb, {training['memory_gb']}"
    )


def _tile(
    network: Mapping[str, Any], training: Mapping[str, Any], extent: Extent
) -> tuple[int, str]:
    geometry, budget = _geometry(network), _budget(network, training)
    largest = geometry.input_size(extent.side)
    sizes = range(geometry.smallest, largest + 1, geometry.lattice)
    fitting = [n for n in sizes if training_bytes(geometry, network["width"], n) <= budget]
    if not fitting:
        least = training_bytes(geometry, network["width"], geometry.smallest) / 1e9
        raise ValueError(
            f"training.tile: auto finds no tile: the smallest of a {geometry.kind} of depth "
            f"{geometry.depth}, {geometry.smallest} px, takes {least:.2f} GB at width "
            f"{network['width']} and batch {training['batch']}, beside "
            f"{state_bytes(network, training) / 1e9:.2f} GB for its parameters: raise "
            f"training.memory_gb, which is {training['memory_gb']}, or lower network.depth or width"
        )
    if fitting[-1] == largest:
        return largest, f"because images are {extent.side} px wide (median)"
    return fitting[-1], f"the largest that fits training.memory_gb, {training['memory_gb']}"


def _batch(
    network: Mapping[str, Any], training: Mapping[str, Any], extent: Extent
) -> tuple[int, str]:
    geometry, budget = _geometry(network), _budget(network, training)
    side = geometry.step(training["tile"])
    within = int(budget // training_bytes(geometry, network["width"], training["tile"]))
    share = int(LARGEST_SHARE * extent.pixels / side**2)
    batch = max(1, min(within, share))
    if batch == within:
        return batch, f"as many as fit training.memory_gb, {training['memory_gb']}"
    if batch == share:
        return batch, f"which is {LARGEST_SHARE:.0%} of the pixels to train and validate on"
    needed = training_bytes(geometry, network["width"], training["tile"]) / 1e9
    return batch, f"the least there is; a tile of {training['tile']} px takes {needed:.2g} GB"


def _budget(network: Mapping[str, Any], training: Mapping[str, Any]) -> float:
    """Return the bytes that one tile may take."""
    tiles = 1 if training["batch"] == "auto" else training["batch"]
    return (1e9 * float(training["memory_gb"]) - state_bytes(network, training)) / tiles


def _check_parameters(network: Mapping[str, Any], training: Mapping[str, Any]) -> None:
    """Refuse a memory that the parameters of a network alone exceed."""
    if _budget(network, training) <= 0:
        raise ValueError(
            f"training.memory_gb is {training['memory_gb']}, but the parameters of a "
            f"{network['kind']} of depth {network['depth']} and width {network['width']}, with "
            f"their gradients and what {training['optimizer']} keeps of them, alone take "
            f"{state_bytes(network, training) / 1e9:.3g} GB: raise it, or lower network.depth or "
            f"width"
        )
