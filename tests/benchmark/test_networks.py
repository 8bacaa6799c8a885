"""What networks cost per output pixel: one patch per pixel, tiles, and kinds of networks."""

import numpy as np
import pytest
import torch
from gigaseg.geometry import Window, read_mirrored
from gigaseg.inference import Predictor, predict_image, prepare
from gigaseg.networks import at_depth, build, multiply_adds
from gigaseg.tiling import TileGrid
from gigaseg.unet import Architecture

OUTPUT = 512  # px that a tile predicts


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(kind, depth, width):
    torch.manual_seed(0)
    return prepare(build(Architecture(depth=depth, width=width, kind=kind)), torch.device("cpu"))


def predicting(model, image, output):
    """Return a function that predicts an image by tiles."""
    geometry = model.architecture.geometry
    predictor, grid = Predictor(model), TileGrid(geometry, geometry.input_size(output))
    return lambda: predict_image(predictor, image, grid)


def test_one_patch_per_pixel(bench):
    """How networks were applied before: Ciresan et al. (2012), as section 1 of the paper recalls.

    Patches are as small as the network takes, and begin on its lattice, where a tile's values are
    theirs.
    """
    depth, width = (4, 16) if bench.measured else (2, 2)
    side = bench.side(1024, 40)
    image = np.random.default_rng(0).normal(size=(1, side, side)).astype(np.float32)
    model = network("unet", depth, width)
    geometry = model.architecture.geometry
    patch = geometry.smallest - geometry.lattice + (geometry.lattice if not geometry.surplus else 0)
    places = np.random.default_rng(1).integers(0, side // geometry.lattice, (16, 2))
    places *= geometry.lattice
    corner = geometry.context

    def sampled():
        values = []
        for y, x in places.tolist():
            window = Window((y - corner, x - corner), (y - corner + patch, x - corner + patch))
            data = torch.from_numpy(read_mirrored(image, window))[None]
            with torch.inference_mode():
                logits = model(data.contiguous(memory_format=torch.channels_last))
            values.append(logits.softmax(1)[0, 1, 0, 0].item())
        return np.array(values)

    tiled, alone = bench.compare(
        predicting(model, image, OUTPUT if bench.measured else 16),
        sampled,
        names=(
            "predict by tiles in memory, 1 thread",
            f"{side}², depth {depth}, width {width}, {OUTPUT} px per tile",
            f"the same network on a patch of {patch} px per pixel, {len(places)} of them, scaled",
        ),
        aim="",
        part=len(places) / side**2,
        rounds=3,
    )
    np.testing.assert_allclose(tiled[0, places[:, 0], places[:, 1]], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "lesser"), [("unet++", None), ("unet++", 2), ("fcn", None)], ids=str
)
def test_kinds_of_networks(bench, kind, lesser):
    """Above 1 the U-Net of the same depth and width is faster; below, the other one."""
    depth, width = (4, 16) if bench.measured else (2, 2)
    side = bench.side(1024, 40)
    image = np.random.default_rng(0).normal(size=(1, side, side)).astype(np.float32)
    plain, other = network("unet", depth, width), network(kind, depth, width)
    if lesser:
        other = prepare(at_depth(other, min(lesser, depth - 1)), torch.device("cpu"))
    output = OUTPUT if bench.measured else 16
    name = f"{kind}, depth {other.architecture.depth}"
    answers = bench.compare(
        predicting(plain, image, output),
        predicting(other, image, output),
        names=(
            "predict by tiles: U-Net, 1 thread",
            f"{side}², depth {depth}, width {width}, {output} px per tile",
            f"{name} of {depth}" if lesser else name,
        ),
        aim="",
        rounds=3,
    )
    assert answers[0].shape == answers[1].shape
    work = [multiply_adds(model.architecture) for model in (other, plain)]
    bench.remark(f"{work[0] / work[1]:.2f} times the multiply-adds, without context")
