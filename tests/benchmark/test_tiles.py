"""Making tiles against the training steps they are made for, with the default settings."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from gigaseg.patches import TrainingBatches
from gigaseg.sampling import Sample, TileSource
from gigaseg.training import initialise, take_steps
from gigaseg.unet import Architecture
from gigaseg.volumes import create_array
from gigaseg.weights import encode_target, separation

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "config" / "config.yaml").read_text())
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Cached(TrainingBatches):
    """Reads the first batch once, and renders it anew in every step."""

    def _read(self, renderer, step):
        del step
        if not hasattr(self, "read"):
            self.read = super()._read(renderer, 0)
        return self.read


@pytest.fixture(params=["memory", "Zarr"])
def training(request, bench, nuclei, tmp_path):
    """Return where samples lie, the settings, and functions that make batches and learn."""
    settings = {**CONFIG["training"], "device": DEVICE, "precision": "float32"}
    network = CONFIG["network"]
    if not bench.measured:
        settings |= {"tile": 44, "threads": 1}
        network = {**network, "depth": 2, "width": 2}
    architecture = Architecture(in_channels=1, classes=2, **network)
    image, labels = nuclei(bench.side(2048, 96))
    data = {
        "image": image[None, None],
        "target": encode_target(labels, boundary_width=2)[None],
        "separation": separation(labels, w0=10, sigma=5)[None],
    }
    arrays = {}
    for name, array in data.items():
        storage = {"chunk": 256, "shard": 1024}
        arrays[name] = create_array(tmp_path, name, array.shape, array.dtype, storage=storage)
        arrays[name][...] = array
    low, stretch = np.full((1, 1), image.min()), np.full((1, 1), 1 / np.ptp(image))
    constants = low.astype(np.float32), stretch.astype(np.float32)
    sample = Sample("d/a", *(arrays[name] for name in data), *constants)
    source = TileSource(
        [sample.load() if request.param == "memory" else sample],
        architecture.geometry,
        settings["tile"],
        target="foreground",
        class_weights=[0.7, 2],
    )

    def batches(kind, steps):
        wishes = {key: settings[key] for key in ("batch", "seed", "augmentation")}
        return kind(source, steps=steps, workers=2 if DEVICE == "cuda" else 1, **wishes)

    def learn(kind, steps):
        chosen = {**settings, "steps": steps, "validate_every": steps + 1}
        take_steps(initialise(architecture, 1), chosen, batches(kind, steps), None, lambda _: None)

    return request.param, settings, batches, learn


def test_tiles_are_a_small_share_of_a_step(bench, training):
    place, settings, batches, learn = training
    steps = 20 if bench.measured else 2
    made, _ = bench.compare(
        lambda: sum(1 for _ in batches(TrainingBatches, steps)),
        lambda: learn(Cached, steps),
        names=(
            f"{steps} batches from {place}, {DEVICE}",
            f"tile {settings['tile']}, batch {settings['batch']}",
            "the training steps they are made for",
        ),
        aim="20",
        rounds=3,
    )
    assert made == steps
