"""Prediction against the bare network, against sliding windows, and what it takes of a machine."""

import json
import subprocess
import sys
from hashlib import sha256
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from gigaseg.ensembles import Model
from gigaseg.geometry import Window, read_mirrored
from gigaseg.inference import Predictor, predict_image, prepare
from gigaseg.intensity import measure
from gigaseg.lanes import open_lane
from gigaseg.manifests import write_manifest
from gigaseg.runtime import Runtime, has_native_bfloat16
from gigaseg.stages import predict
from gigaseg.tiling import TileGrid, choose_tile
from gigaseg.unet import Architecture, UNet
from gigaseg.volumes import commit_image, create_array
from safetensors.torch import save_file

STORAGE = {"chunk": 256, "shard": 1024, "smallest_level": 256}
INTENSITY = {"method": "percentile", "low": 1.0, "high": 99.8, "per": "volume"}
PREDICTION = {"tile": "auto", "memory_gb": 2.0, "batch": 1, "symmetries": 1, "depth": None}
PREDICTION |= {"checkpoint": "best"}
PREDICTION |= {"compile": "never", "device": "cpu", "precision": "float32"}
PREDICTION |= {"spacing_tolerance": 0.1}

PAPER = 1_468_000  # operations per output pixel of the paper's network, context not counted

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])

# A process of its own, so that the peak is that of the stage. VmHWM, because ru_maxrss of a child
# starts at what its parent took.
ALONE = """
import json, sys
from pathlib import Path
from gigaseg.stages import predict

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

before, folder = peak(), Path(sys.argv[1])
predict.run(
    manifest=folder / "predict.json", convert=folder / "convert.json",
    train=[folder / "train.json"],
    settings=json.loads(sys.argv[2]), code="1", threads=int(sys.argv[3]),
)
print(json.dumps([before, peak()]))
"""


def network(depth, width, padding="valid"):
    """A network of random weights and biases whose probabilities are spread, as if trained."""
    torch.manual_seed(0)
    model = UNet(Architecture(depth=depth, width=width)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    with torch.inference_mode():
        tile = model.architecture.geometry.input_size(64)
        logits = model(torch.randn(1, 1, tile, tile))
        model.head.bias -= logits.mean((0, 2, 3))
        for parameter in model.head.parameters():
            parameter *= 3 / logits.std()
    if padding != "valid":
        padded = UNet(Architecture(depth=depth, width=width, padding=padding))
        padded.load_state_dict(model.state_dict())
        model = padded
    return prepare(model, torch.device("cpu"))


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def converted(image, store):
    """Store a plane as convert does; return its entry in a manifest."""
    array = create_array(store, "0", (1, 1, *image.shape), image.dtype, storage=STORAGE)
    array[0, 0] = image
    commit_image(
        store,
        spacing=(1, 1, 1),
        levels=1,
        channel_names=["grey"],
        attributes={"statistics": measure(array)},
    )
    shape = [*array.shape]
    return {"store": store, "fingerprint": "image", "shape": shape, "status": "done"}


def model_of(model, device, precision):
    runtime, lane = Runtime(device, precision), open_lane(device, threads=1)
    metadata = {"intensity": INTENSITY, "target": "foreground"}
    identity = {"model": "random"}
    return Model((model,), runtime, lane, metadata, identity, [[(1, 1, 1)]])


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@devices
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("times", [1, 2, 4])
@pytest.mark.usefixtures("one_thread")
def test_predict(bench, nuclei, tmp_path, times, precision, device):
    if bench.measured and precision == "bfloat16" and not has_native_bfloat16(device):
        pytest.skip("no bfloat16 in hardware")
    side = times * bench.side(1024, 40)
    depth, width = (4, 16) if bench.measured else (2, 2)
    model = model_of(network(depth, width), device, precision)
    image = converted(nuclei(side)[0], tmp_path / "image.ome.zarr")
    settings = {"experiment": "e", "fold": 0, "prediction": PREDICTION, "storage": STORAGE}
    number = count()

    def stage():
        task = predict.Task.of(image, tmp_path / f"{next(number)}.zarr", model, settings, "1")
        return predict.predict_sample(task, workers=model.lane.feeders)

    tile = predict.Task.of(image, tmp_path / "no.zarr", model, settings, "1").grid.tile
    tiles = cut(side, TileGrid(model.architecture.geometry, tile), device)

    def loop():
        with torch.inference_mode(), model.runtime.autocast():
            answers = [model.networks[0](tile) for tile in tiles]
        return [len(answers), float(answers[-1].flatten()[0])]  # waits for a GPU

    model.networks[0].to(device, memory_format=torch.channels_last)
    facts, (computed, _) = bench.compare(
        stage,
        loop,
        names=(
            f"predict, zarr → zarr, {device}, {precision}",
            f"{side}², depth {depth}, width {width}, {len(tiles)} tiles of {tile}",
            "the bare network on the same tiles in memory",
        ),
        aim="0.95" if device == "cpu" else "0.90",
    )
    assert facts["shape"] == (1, side, side)
    assert computed == len(tiles)


def cut(side, grid, device):
    """Cut a plane of noise into the tiles of a grid, ready for the network."""
    window = Window.whole((side, side)).align((grid.step,) * 2)
    data = torch.from_numpy(read_mirrored(normal(1, side, side), window.expand((grid.halo,) * 2)))
    tiles = [data[(slice(None), *read.slices)][None] for read, _ in grid.tiles(window.shape)]
    return [tile.to(device).contiguous(memory_format=torch.channels_last) for tile in tiles]


@pytest.mark.parametrize("overlap", [0.25, 0.5])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore")  # of a package that is not ours
def test_against_sliding_windows(bench, times, overlap):
    """Tiles that know their context, against windows that are blended since they do not."""
    inferers = pytest.importorskip("monai.inferers", reason="pip install monai")
    side = times * bench.side(2048, 140)
    depth, width, roi = (4, 16, 512) if bench.measured else (2, 4, 64)
    model, padded = network(depth, width), network(depth, width, "same")
    padded.to(memory_format=torch.channels_last)
    geometry, plane = model.architecture.geometry, (side, side)
    tile = choose_tile(geometry, plane, plane, width=width, memory_gb=2.0)
    predictor, grid = Predictor(model), TileGrid(geometry, tile)
    sliding = inferers.SlidingWindowInferer(roi, overlap=overlap, mode="gaussian")

    def ours(image):
        return predict_image(predictor, image, grid)

    def theirs(image):
        with torch.inference_mode():
            logits = sliding(torch.from_numpy(image)[None], padded)
            return logits.softmax(1)[0, 1:].numpy()

    image = normal(1, side, side)
    bench.compare(
        lambda: ours(image),
        lambda: theirs(image),
        names=(
            "predict by tiles in memory, 1 thread",
            f"{side}², depth {depth}, width {width}, tile {tile}",
            f"MONAI SlidingWindowInferer, roi {roi}, Gaussian, overlap {overlap}",
        ),
        aim={0.25: "1.25", 0.5: "2.3"}[overlap],
        rounds=3,
    )
    small = image[:, : 2 * roi, : 2 * roi]  # few windows: the whole must fit into memory
    errors = [seam_error(f(small), small, m) for f, m in ((ours, model), (theirs, padded))]
    assert errors[0] <= 1e-5 < errors[1]
    bench.remark(f"largest Δp at seams {errors[0]:.0e}, MONAI's {errors[1]:.2f} (untrained)")


def seam_error(answer, image, model):
    """Return the largest difference from the whole plane in one pass, away from its edges."""
    geometry = model.architecture.geometry
    data = read_mirrored(image, geometry.whole(image.shape[1:]))
    with torch.inference_mode():
        tensor = torch.from_numpy(data)[None].contiguous(memory_format=torch.channels_last)
        truth = model(tensor).softmax(1)[0, 1:].numpy()
    edge = geometry.context if geometry.padding == "same" else 0
    y, x = image.shape[1:]
    truth = truth[:, edge : edge + y, edge : edge + x]
    margin = geometry.context
    inner = slice(margin, -margin)
    return float(np.abs(answer - truth)[:, inner, inner].max())


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
    image = normal(1, side, side)

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


@pytest.mark.parametrize("threads", [1, 2])
def test_memory(bench, nuclei, tmp_path, threads):
    """The peak of a whole job; sixteen times the pixels must not raise it."""
    small, factor = bench.side(4096, 40), 4
    model = network(4, 16) if bench.measured else network(2, 2)
    peaks = {}
    for side in (small, factor * small):
        folder = tmp_path / str(side)
        settings = project(folder, nuclei(side)[0], model)
        command = [sys.executable, "-c", ALONE, folder, json.dumps(settings), str(threads)]
        peaks[side] = json.loads(subprocess.check_output(command)) if bench.measured else [0, 1]
    (imports, before), (_, after) = peaks.values()
    bench.compare(lambda: before, lambda: after, names=("", "", ""), aim="", rounds=1)
    row = bench.rows[-1]
    row.what, row.size = f"predict, peak memory, {threads} threads", f"{small}²"
    row.peer, row.aim = f"{factor * small}²", "1.15 at most, 2 GB"
    row.ours_s, row.ratio, row.cpu_ratio = 0.0, after / before, after / before
    bench.remark(f"{before:.0f} MB, {after:.0f} MB; {imports:.0f} MB of it imports")


def project(folder, image, model):
    """Leave what convert and train leave; return the settings of a job that predicts it."""
    precision = "bfloat16" if has_native_bfloat16("cpu") else "float32"
    entry = converted(image, folder / "image.ome.zarr")
    row = {"sample": "a", "dataset": "d", "split": "test"}
    samples = [{**row, "message": None, **entry, "store": "image.ome.zarr"}]
    write_manifest(folder / "convert.json", {"stage": "convert", "lot": "d-0", "samples": samples})
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "best.safetensors"
    )
    metadata = {"architecture": model.architecture.to_dict(), "intensity": INTENSITY}
    metadata |= {"target": "foreground", "weights": {"best": "best.safetensors"}, "format": 1}
    content = (folder / "best.safetensors").read_bytes()
    metadata |= {"sha256": {"best": sha256(content).hexdigest()}, "spacing": [1, 1, 1]}
    metadata |= {"channels": 1, "classes": ["background", "foreground"]}
    metadata |= {"fingerprint": "model", "samples": {}, "scores": {}}
    Path(folder / "model.json").write_text(json.dumps(metadata))
    write_manifest(folder / "train.json", {"stage": "train", "model": "model.json"})
    prediction = PREDICTION | {"precision": precision}
    told = {"lot": "d-0", "samples": [row], "experiment": "e", "fold": 0}
    return told | {"prediction": prediction, "storage": STORAGE}


@needs_gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("tile", [1116, 1996])
def test_network_on_a_gpu(bench, compiled, tile):
    """Time the paper's network against a product of matrices of as many operations."""
    model = network(4, 64).to("cuda", memory_format=torch.channels_last)
    grid = TileGrid(model.architecture.geometry, tile)
    runtime = Runtime("cuda", "bfloat16")
    call = torch.compile(model, dynamic=False) if compiled else model
    [data, *_] = cut(grid.step, grid, "cuda")
    side = 8192
    factors = torch.randn(2, side, side, device="cuda", dtype=torch.bfloat16)
    operations = PAPER * grid.step**2

    def loop():
        with torch.inference_mode(), runtime.autocast():
            for _ in range(20):
                answer = call(data)
        return float(answer.flatten()[0])

    def product():
        repeats = max(1, round(20 * operations / (2 * side**3)))
        for _ in range(repeats):
            result = factors[0] @ factors[1]
        return float(result[0, 0])

    product()
    bench.compare(
        loop,
        product,
        names=(
            f"the paper's network{', compiled' if compiled else ''}, bfloat16",
            f"tile {tile}, {torch.cuda.get_device_name()}",
            "a product of matrices with 1468 kFLOP for each output pixel",
        ),
        aim="0.50" if compiled else "0.40",
    )
