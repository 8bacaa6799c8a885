"""Whole stages against the bare work inside them, and the error of seams."""

import json
import subprocess
import sys
from itertools import count

import numpy as np
import pytest
import tifffile
import torch
from gigaseg.geometry import Window, read_mirrored
from gigaseg.inference import Predictor, predict_image
from gigaseg.stages import convert, predict, read_entries
from gigaseg.tiling import TileGrid
from gigaseg.unet import Architecture, UNet

STORAGE = {"chunk": 256, "shard": 1024, "smallest_level": 256}
INTENSITY = {"method": "percentile", "low": 1.0, "high": 99.8, "per": "volume"}
grows = pytest.mark.parametrize("times", [1, 2])

PREDICTION = {"tile": "auto", "memory_gb": 2.0, "batch": 1, "symmetries": 1, "checkpoint": "best"}

# A process of its own, so that the peak is that of the stage. VmHWM, because ru_maxrss of a child
# starts at what its parent took.
ALONE = """
import json, sys
from pathlib import Path
from gigaseg.stages import convert

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

before = peak()
convert.run(manifest=Path(sys.argv[1]), settings=json.loads(sys.argv[2]), code="1", threads=1)
print(json.dumps([before, peak()]))
"""


def sheet(image):
    row = {"sample": "a", "dataset": "d", "split": "test", "image": str(image), "label": None}
    row |= {"spacing": None, "labels": "instances", "objects": "plane", "channels": "all"}
    return {"lot": "d-0000", "samples": [row], "storage": STORAGE}


def converted(image, folder):
    """Convert an image; return its entry in the manifest."""
    manifest = folder / "d-0000.json"
    convert.run(manifest=manifest, settings=sheet(image), code="1", threads=1)
    return read_entries(manifest)["a"]


def network(depth, width):
    """A network of random weights and biases whose probabilities are spread, as if trained."""
    torch.manual_seed(0)
    model = UNet(Architecture(in_channels=1, classes=2, depth=depth, width=width)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    with torch.inference_mode():
        tile = model.architecture.geometry.input_size(64)
        logits = model(torch.randn(1, 1, tile, tile))
        model.head.bias -= logits.mean((0, 2, 3))
        for parameter in model.head.parameters():
            parameter *= 3 / logits.std()
    return model


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@grows
@pytest.mark.usefixtures("one_thread")
def test_predict(bench, nuclei, tmp_path, times):
    side = times * bench.side(1024, 64)
    depth, width = (4, 16) if bench.measured else (2, 2)
    tifffile.imwrite(tmp_path / "a.tif", nuclei(side)[0])
    image = converted(tmp_path / "a.tif", tmp_path / "convert")
    metadata = {"intensity": INTENSITY, "target": "foreground"}
    model = predict.Model(Predictor(network(depth, width)), metadata, {"model": "random"})
    settings = {"experiment": "e", "fold": 0, "prediction": PREDICTION, "storage": STORAGE}
    number = count()

    def stage():
        store = tmp_path / f"{next(number)}.ome.zarr"
        return predict.predict_sample(image, store, model, settings=settings, code="1", workers=1)

    grid = TileGrid(model.architecture.geometry, stage()["tile"])
    window = Window.whole((side, side)).align((grid.step,) * 2)
    plane = np.random.default_rng(0).normal(size=(1, side, side)).astype(np.float32)
    data = torch.from_numpy(read_mirrored(plane, window.expand((grid.halo,) * 2)))
    tiles = [data[(slice(None), *read.slices)][None] for read, _ in grid.tiles(window.shape)]
    tiles = [tile.contiguous(memory_format=torch.channels_last) for tile in tiles]

    def loop():
        with torch.inference_mode():
            return [model.predictor.network(tile) for tile in tiles]

    facts, answers = bench.compare(
        stage,
        loop,
        names=(
            "predict, zarr → zarr, 1 thread",
            f"{side}², depth {depth}, width {width}, {len(tiles)} tiles of {grid.tile}",
            "the bare network on the same tiles in memory",
        ),
        aim="0.95",
    )
    assert facts["shape"] == (1, side, side)
    assert len(answers) == len(tiles)


@grows
def test_convert(bench, nuclei, tmp_path, times):
    side = times * bench.side(4096, 150)
    source = tmp_path / "a.tif"
    image = nuclei(side)[0]
    tifffile.imwrite(source, image, tile=(256, 256), compression="zlib", predictor=True)
    number = count()
    entry, decoded = bench.compare(
        lambda: converted(source, tmp_path / str(next(number))),
        lambda: tifffile.imread(source, maxworkers=1),
        names=(
            "convert to OME-Zarr with levels and statistics, 1 thread",
            f"{side}² uint16, tiled deflate, {source.stat().st_size / 2**20:.0f} MB",
            "decoding alone (tifffile, 1 thread)",
        ),
        aim="0.33",
        rounds=3,
    )
    np.testing.assert_array_equal(decoded, image)
    assert entry["shape"] == [1, 1, side, side]
    if bench.measured:
        command = [sys.executable, "-c", ALONE, tmp_path / "alone.json", json.dumps(sheet(source))]
        before, peak = json.loads(subprocess.check_output(command))
        bench.remark(f"peak RSS {peak:.0f} MB, {before:.0f} MB of it imports; aim 500 MB")


class FullOutput(TileGrid):
    """The textbook's grid: it steps by the network's whole output, off the pooling lattice."""

    @property
    def step(self):
        return self.geometry.output_size(self.tile)


@pytest.mark.usefixtures("one_thread")
def test_seams(bench):
    """The error of seams: a number, beside the price of repeating the context."""
    depth, width, tile = (4, 8, 572) if bench.measured else (3, 2, 108)
    side = bench.side(1024, 70)
    model = network(depth, width)
    predictor, geometry = Predictor(model), model.architecture.geometry
    image = np.random.default_rng(0).normal(size=(1, side, side)).astype(np.float32)

    def whole():
        data = read_mirrored(image, geometry.whole(image.shape[1:]))
        with torch.inference_mode():
            tensor = torch.from_numpy(data)[None].contiguous(memory_format=torch.channels_last)
            answer = model(tensor).softmax(1)[0, 1:]
        return answer[:, :side, :side].numpy()

    tiled, truth = bench.compare(
        lambda: predict_image(predictor, image, TileGrid(geometry, tile)),
        whole,
        names=(
            "prediction by tiles",
            f"{side}², depth {depth}, width {width}, tile {tile}",
            "the whole plane in one pass",
        ),
        aim="largest Δp ≤ 1e-5",
        rounds=3,
    )
    naive = predict_image(predictor, image, FullOutput(geometry, tile))
    errors = [float(np.abs(answer - truth).max()) for answer in (tiled, naive)]
    assert errors[0] <= 1e-5 < errors[1]
    full = geometry.output_size(tile)
    bench.remark(f"largest Δp {errors[0]:.1e}; stepping by {full}: {errors[1]:.1e} (untrained)")
