"""Trained networks, read back from their files."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from .models import read_model, read_weights, spacings_of, weights_file
from .networks import at_depth, build
from .scales import Spacing, check_start
from .unet import Architecture, Network

# What an architecture has of the data, and what it is called for users.
OF_DATA = {"in_channels": "the number of channels", "classes": "the number of classes"}


def load_model(
    model_json: Path, checkpoint: Literal["best", "last"] = "best", depth: int | None = None
) -> tuple[Network, dict[str, Any]]:
    """Load a trained network for prediction.

    Parameters
    ----------
    model_json : Path
        Description of the model; the weights' file names are relative to its folder.
    checkpoint : {"best", "last"}
        Which weights.
    depth : int, optional
        Of the part of a U-Net++ that predicts; by default all of the network.

    Returns
    -------
    network : Network
        In evaluation mode.
    metadata : dict
        Content of `model_json`.

    Raises
    ------
    ValueError
        If the model is missing, its weights are altered, not finite or of another architecture, or
        it has no output at this depth.
    """
    metadata = read_model(model_json)
    content = read_weights(model_json, metadata, checkpoint)
    weights = weights_file(model_json, metadata, checkpoint)
    network = build(read_architecture(model_json, metadata))
    try:
        state = load(content)
        network.load_state_dict(state)
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{weights} does not fit {network.architecture}: {error}") from error
    for name, values in state.items():
        if not torch.isfinite(values).all():
            raise ValueError(f"{weights}: {name} holds values that are not finite: train again")
    if depth is not None:
        network = at_depth(network, depth)
    return network.eval(), metadata


def load_start(
    model_json: Path,
    architecture: Architecture,
    spacings: Mapping[str, Spacing | None],
    tolerance: float,
) -> Network:
    """Load the network that a training starts from.

    Parameters
    ----------
    model_json : Path
    architecture : Architecture
        Of the network to be trained.
    spacings, tolerance
        Of the samples it is trained on: see `gigaseg.scales.check_start`.

    Raises
    ------
    ValueError
        If its file is at fault, it is of another architecture, or has learned objects of another
        size.
    """
    network, metadata = load_model(model_json)
    check_start(spacings, spacings_of(metadata), tolerance)
    there = network.architecture.to_dict()
    differing = [
        f"{OF_DATA.get(key, f'network.{key}')} is {asked}, there {there[key]}"
        for key, asked in architecture.to_dict().items()
        if key != "dropout" and asked != there[key]  # dropout has no weights
    ]
    if differing:
        raise ValueError(
            f"training cannot start from the network in {model_json}: {'; '.join(differing)}. Make "
            f"them the same (datasets.channels chooses channels, target the classes), or train "
            f"without start_from"
        )
    return network


def read_architecture(model_json: Path, metadata: Mapping[str, Any]) -> Architecture:
    """Return the architecture that a model file describes.

    Raises
    ------
    ValueError
        If it is one that this version does not know, or contradicts the classes or channels.
    """
    own = metadata["architecture"]
    unknown = own.keys() - {field.name for field in fields(Architecture)}
    if unknown:
        raise ValueError(
            f"{model_json} has an architecture with {', '.join(sorted(unknown))}, of which this "
            f"version of gigaseg knows nothing: use a newer one"
        )
    architecture = Architecture(**own)
    said = metadata["channels"], len(metadata["classes"])
    if said != (built := (architecture.in_channels, architecture.classes)):
        raise ValueError(
            f"{model_json} contradicts itself: it says {said[0]} channels and {said[1]} classes, "
            f"its architecture {built[0]} and {built[1]}; copy the file again"
        )
    return architecture
