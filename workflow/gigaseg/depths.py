"""What a trained network is worth at each depth at which it can predict, and what that costs."""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch

from .curves import Scores
from .inference import Predictor, prepare
from .lanes import Lane, open_lane
from .networks import at_depth, depths_of, multiply_adds
from .patches import Batch
from .runtime import Runtime, memory_explained
from .tiling import TileGrid
from .training import confusion_matrix, output_window, weighted_cross_entropy
from .unet import Network

COLUMNS = ("depth", "multiply_adds", "seconds_per_mpx", "loss", "dice", "error")
OUTPUT = 256  # px in y and x; the tile that is timed predicts about this much

Row = dict[str, float]


def measure_depths(
    network: Network, batches: Iterable[Batch], runtime: Runtime, *, tile: int
) -> list[Row]:
    """Score and time every depth of a network at the end of its training.

    Parameters
    ----------
    network, batches
        As for `score_depths`.
    runtime : Runtime
        Of the training.
    tile : int
        Side of the batches' tiles in px, for the message.

    Returns
    -------
    list of dict
        As of `score_depths`, with ``seconds_per_mpx``, which differ from run to run.

    Raises
    ------
    RuntimeError
        If the device has too little memory; names the settings to lower.
    """
    lane = open_lane(runtime.device)
    advice = (
        f"the memory of the {runtime.device} device is too small to score and time the trained "
        f"network, of width {network.architecture.width}, on tiles of {tile} px: run again where "
        f"more is free, and the training goes on from its last checkpoint, or lower training.tile "
        f"or network.width"
    )
    with memory_explained(advice):
        rows = score_depths(network, batches, lane.device)
        seconds = time_depths(network, runtime, lane)
    return [{**row, "seconds_per_mpx": seconds[int(row["depth"])]} for row in rows]


def score_depths(network: Network, batches: Iterable[Batch], device: torch.device) -> list[Row]:
    """Score every output of a network on validation tiles.

    Parameters
    ----------
    network : Network
        Trained; put into evaluation mode and onto the device.
    batches : iterable of Batch
        Each output predicts the same pixels of them.
    device : torch.device

    Returns
    -------
    list of dict
        For each depth: ``depth``, ``multiply_adds`` per output pixel, and ``loss``, ``dice`` and
        ``error`` as in `gigaseg.curves.Scores`, nan without batches.
    """
    prepare(network, device)
    depths = depths_of(network.architecture)
    scores = [Scores.empty(network.architecture.classes) for _ in depths]
    with torch.inference_mode():
        for batch in batches:
            labels, weights = batch["labels"].to(device), batch["weights"].to(device)
            outputs = network.outputs(batch["image"].to(device))
            for score, output in zip(scores, outputs, strict=True):
                logits = output_window(output, network.architecture)
                loss = weighted_cross_entropy(logits, labels, weights)
                score.add(confusion_matrix(logits, labels).cpu().numpy(), float(loss))
    return [
        {
            "depth": depth,
            "multiply_adds": multiply_adds(replace(network.architecture, depth=depth)),
            **score.summary(),
        }
        for depth, score in zip(depths, scores, strict=True)
    ]


def time_depths(network: Network, runtime: Runtime, lane: Lane) -> dict[int, float]:
    """Measure the seconds that each depth takes to predict a million pixels on a lane.

    The context that tiles repeat is included: with tiles of about 256 px of output.
    """
    return {
        depth: _seconds_per_mpx(prepare(at_depth(network, depth), lane.device), runtime, lane)
        for depth in depths_of(network.architecture)
    }


def _seconds_per_mpx(network: Network, runtime: Runtime, lane: Lane) -> float:
    geometry = network.architecture.geometry
    grid = TileGrid(geometry, geometry.input_size(OUTPUT))
    side = grid.step + 2 * grid.halo
    data = np.zeros((network.architecture.in_channels, side, side), np.float32)
    predictor, seconds = Predictor(network, runtime, lane=lane), []
    for _ in range(2):  # the first prepares the libraries
        start = time.perf_counter()
        predictor.probabilities(data, grid)
        seconds.append(time.perf_counter() - start)
    return 1e6 * min(seconds) / grid.step**2


def format_table(rows: Iterable[Mapping[str, float]]) -> str:
    """Write rows as CSV; what is missing or nan stays empty.

    Examples
    --------
    >>> print(format_table([{"depth": 1, "multiply_adds": 62.5, "loss": math.nan}]), end="")
    depth,multiply_adds,seconds_per_mpx,loss,dice,error
    1,62.5,,,,
    """
    lines = [",".join(COLUMNS)]
    for row in rows:
        cells = (row.get(column, math.nan) for column in COLUMNS)
        lines.append(",".join("" if math.isnan(cell) else f"{cell:.7g}" for cell in cells))
    return "\n".join(lines) + "\n"
