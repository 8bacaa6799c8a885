"""Training from stores against the same loop on one batch that is in memory already."""

import pytest
import torch
from gigaseg.unet import Architecture

AUGMENTATION = {
    "flips": True, "rotation": 180.0, "elastic": {"spacing": 190.0, "sigma": 10.0},
    "scale": 0.1, "blur": 0.5, "gain": 0.1, "offset": 0.1, "gamma": 0.2, "noise": 0.02,
}  # fmt: skip
SETTINGS = {
    "seed": 1, "optimizer": "adamw", "learning_rate": 1e-3, "momentum": 0.99, "weight_decay": 0.01,
    "warmup_steps": 0, "schedule": "constant", "threads": 1, "gradient_clip": 1.0, "ema": 0,
    "patience": 0, "augmentation": AUGMENTATION,
}  # fmt: skip

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize(
    ("device", "precision", "threads", "width", "tile", "batch"),
    [
        ("cpu", "float32", 1, 16, 316, 1),
        ("cpu", "bfloat16", 1, 16, 316, 1),
        ("cpu", "bfloat16", 2, 16, 316, 1),  # as configured; the loader competes for the cores
        pytest.param("cuda", "bfloat16", 2, 64, 572, 4, marks=needs_gpu),
    ],
)
def test_steps_from_stores(bench, loop, weighed, device, precision, threads, width, tile, batch):
    sample = weighed(bench.side(2048, 128))
    depth, width, tile = (4, width, tile) if bench.measured else (1, 2, 36)
    steps = {"cpu": 12, "cuda": 100}[device] if bench.measured else 2
    architecture = Architecture(depth=depth, width=width)
    settings = {**SETTINGS, "device": device, "precision": precision, "steps": steps}
    settings |= {"tile": tile, "batch": batch, "threads": threads}
    stored, loaded = (loop(one, architecture, settings) for one in (sample, sample.load()))
    ours, theirs = bench.compare(
        stored.learn,
        lambda: loaded.learn(cached=True),
        names=(
            f"{steps} steps of training, from stores, {device}, {precision}, {threads} thread(s)",
            f"{sample.target.shape[-1]}², width {width}, {batch} tile(s) of {tile}",
            "the same loop on one batch in memory, deformed anew",
        ),
        aim="0.95",
    )
    assert ours == theirs == steps
