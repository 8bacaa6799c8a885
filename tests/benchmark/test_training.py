"""Training from stores against the same loop on one batch that is in memory already."""

import numpy as np
import pytest
import torch
from gigaseg.patches import TrainingBatches
from gigaseg.sampling import Sample, TileSource
from gigaseg.training import initialise, take_steps
from gigaseg.unet import Architecture
from gigaseg.volumes import commit_arrays, commit_image, create_array, open_arrays, open_volume
from gigaseg.weights import encode_target, separation

STORAGE = {"chunk": 256, "shard": 1024, "smallest_level": 256}
AUGMENTATION = {
    "flips": True, "rotation": 180.0, "elastic": {"spacing": 190.0, "sigma": 10.0},
    "scale": 0.1, "blur": 0.5, "gain": 0.1, "offset": 0.1, "gamma": 0.2, "noise": 0.02,
}  # fmt: skip
SETTINGS = {
    "seed": 1, "optimizer": "adamw", "learning_rate": 1e-3, "momentum": 0.99, "weight_decay": 0.01,
    "warmup_steps": 0, "schedule": "constant", "threads": 1, "gradient_clip": 1.0, "ema": 0,
    "patience": 0, "validate_every": 10**9, "checkpoint_every": 10**9,
}  # fmt: skip

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


class Cached(TrainingBatches):
    """The tiles of the first step again and again, from memory, deformed each time."""

    def _read(self, renderer, step):  # noqa: ARG002
        return super()._read(renderer, 0)


def stored(folder, image, labels):
    """Store a sample as convert and weigh do; return it as train reads it."""
    shape = (1, *image.shape)
    array = create_array(folder / "image.zarr", "0", (1, *shape), image.dtype, storage=STORAGE)
    array[0, 0] = image
    commit_image(
        folder / "image.zarr", spacing=(1, 1, 1), levels=1, channel_names=["grey"], attributes={}
    )
    weighed = folder / "weighed.zarr"
    target = encode_target(labels, boundary_width=2)
    create_array(weighed, "target", shape, np.uint8, storage=STORAGE)[0] = target
    weights = separation(labels, w0=10, sigma=5)
    create_array(weighed, "separation", shape, np.float32, storage=STORAGE)[0] = weights
    commit_arrays(weighed, {})
    arrays, _ = open_arrays(weighed)
    constants = (np.full((1, 1), value, np.float32) for value in (100, 0.01))
    volume = open_volume(folder / "image.zarr")
    return Sample("d/a", volume.array, arrays["target"], arrays["separation"], *constants)


@pytest.mark.parametrize(
    ("device", "precision", "width", "tile", "batch"),
    [
        ("cpu", "float32", 16, 316, 1),
        pytest.param("cuda", "bfloat16", 64, 572, 4, marks=needs_gpu),
    ],
)
def test_steps_from_stores(bench, nuclei, tmp_path, device, precision, width, tile, batch):
    sample = stored(tmp_path, *nuclei(bench.side(2048, 128)))
    depth, width, tile = (4, width, tile) if bench.measured else (1, 2, 36)
    steps = {"cpu": 12, "cuda": 100}[device] if bench.measured else 2
    architecture = Architecture(depth=depth, width=width)
    settings = {**SETTINGS, "device": device, "precision": precision, "steps": steps}
    settings |= {"tile": tile, "batch": batch}

    def train(kind, sample):
        source = TileSource(
            [sample],
            architecture.geometry,
            tile,
            target="foreground",
            class_weights=[1.0, 1.0],
        )
        batches = kind(
            source,
            **{key: settings[key] for key in ("steps", "batch", "seed")},
            augmentation=AUGMENTATION,
            workers=8 if device == "cuda" else 1,
        )
        network = initialise(architecture, seed=1)
        return take_steps(network, settings, batches, None, lambda _: None).step

    loaded = sample.load()
    ours, theirs = bench.compare(
        lambda: train(TrainingBatches, sample),
        lambda: train(Cached, loaded),
        names=(
            f"{steps} steps of training, from stores, {device}, {precision}",
            f"{sample.target.shape[-1]}², width {width}, {batch} tile(s) of {tile}",
            "the same loop on one batch in memory, deformed anew",
        ),
        aim="0.95",
    )
    assert ours == theirs == steps
