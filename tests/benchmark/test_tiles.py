"""Making tiles against the training steps they are made for, with the default settings."""

from pathlib import Path

import pytest
import torch
import yaml
from gigaseg.unet import Architecture

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "config" / "config.yaml").read_text())
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("place", ["memory", "Zarr"])
def test_tiles_are_a_small_share_of_a_step(bench, loop, weighed, place):
    steps = 20 if bench.measured else 2
    settings = {**CONFIG["training"], "device": DEVICE, "precision": "float32", "steps": steps}
    network = CONFIG["network"]
    if not bench.measured:
        settings |= {"tile": 44, "threads": 1}
        network = {**network, "depth": 2, "width": 2}
    sample = weighed(bench.side(2048, 96))
    architecture = Architecture(in_channels=1, classes=2, **network)
    training = loop(sample.load() if place == "memory" else sample, architecture, settings)
    made, _ = bench.compare(
        lambda: sum(1 for _ in training.batches()),
        lambda: training.learn(cached=True),
        names=(
            f"{steps} batches from {place}, {DEVICE}",
            f"tile {settings['tile']}, batch {settings['batch']}",
            "the training steps they are made for",
        ),
        aim="20",
        rounds=3,
    )
    assert made == steps
