"""Prediction by tiles equals one forward pass over the whole mirrored plane."""

from contextlib import suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import pytest
import torch
from gigaseg.blockwise import map_blocks
from gigaseg.digests import volume_digest
from gigaseg.ensembles import Model
from gigaseg.geometry import UNetGeometry, Window
from gigaseg.inference import SYMMETRIES, Predictor, predict_image, prepare
from gigaseg.intensity import measure
from gigaseg.lanes import CpuLane
from gigaseg.networks import at_depth, build
from gigaseg.runtime import Runtime
from gigaseg.stages import predict
from gigaseg.tiling import TileGrid
from gigaseg.unet import Architecture
from gigaseg.volumes import commit_image, create_array, open_volume
from hypothesis import given, settings
from hypothesis import strategies as st

PADDINGS = ("valid", "same")
KINDS = ("unet", "unet++", "fcn")


def network(depth, padding="valid", *, kind="unet", channels=1, classes=2, width=2, seed=0):
    """A network with random weights and biases: zero biases would hide errors at the edges."""
    torch.manual_seed(seed)
    network = build(Architecture(channels, classes, depth, width, padding, kind=kind))
    model = prepare(network, torch.device("cpu"))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def picture(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def mirrored(image, window):
    """Oracle: NumPy's own mirroring, at any distance from the edge."""
    (top, left), (bottom, right) = window.start, window.stop
    pads = [(-top, bottom - image.shape[1]), (-left, right - image.shape[2])]
    for axis, (before, after) in enumerate(pads, start=1):
        # A line of one sample has no mirror image in NumPy: it is constant.
        mode = "reflect" if image.shape[axis] > 1 else "edge"
        widths = [(0, 0)] * 3
        widths[axis] = (before, after)
        image = np.pad(image, widths, mode=mode)
    return image


def whole(model, image, symmetry=(0, False)):
    """Oracle: the network on the whole mirrored plane, in one pass."""
    geometry = model.architecture.geometry
    data = torch.from_numpy(mirrored(image, geometry.whole(image.shape[1:])))[None]
    turns, flipped = symmetry
    data = data.transpose(-2, -1) if flipped else data
    with torch.no_grad():
        answer = model(data.rot90(turns, (-2, -1))).softmax(1)[0, 1:]
    answer = answer.rot90(-turns, (-2, -1))
    answer = answer.transpose(-2, -1) if flipped else answer
    margin = geometry.context if geometry.padding == "same" else 0
    y, x = image.shape[1:]
    return answer[:, margin : margin + y, margin : margin + x].numpy()


def tile_of(geometry, steps):
    return geometry.input_size(steps * geometry.lattice)


def largest_difference(a, b):
    assert a.shape == b.shape
    return float(np.abs(a - b).max())


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_tiled_prediction_is_the_whole_prediction(kind, depth, padding):
    model = network(depth, padding, kind=kind, width=1 if depth > 3 else 2)
    image = picture(1, 3 * 2**depth + 5, 2 * 2**depth + 1)
    expected = whole(model, image)
    for steps in (1, 2, 3):
        grid = TileGrid(model.architecture.geometry, tile_of(model.architecture.geometry, steps))
        assert largest_difference(predict_image(Predictor(model), image, grid), expected) < 1e-5


@settings(deadline=None, max_examples=30)
@given(
    depth=st.integers(1, 3),
    padding=st.sampled_from(PADDINGS),
    kind=st.sampled_from(KINDS),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    steps=st.integers(1, 4),
    channels=st.integers(1, 3),
    classes=st.integers(2, 3),
)
def test_any_size_and_tile(depth, padding, kind, size, steps, channels, classes):
    model = network(depth, padding, kind=kind, channels=channels, classes=classes)
    grid = TileGrid(model.architecture.geometry, tile_of(model.architecture.geometry, steps))
    image = picture(channels, *size)
    result = predict_image(Predictor(model), image, grid)
    assert largest_difference(result, whole(model, image)) < 1e-5


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 2), (2, 40), (13, 1)])
def test_images_smaller_than_the_context(size, padding):
    model = network(3, padding)
    grid = TileGrid(model.architecture.geometry, tile_of(model.architecture.geometry, 2))
    image = picture(1, *size)
    result = predict_image(Predictor(model), image, grid)
    assert largest_difference(result, whole(model, image)) < 1e-5


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_symmetry_is_that_of_the_whole_plane(kind, symmetry, padding):
    model = network(2, padding, kind=kind)
    grid = TileGrid(model.architecture.geometry, tile_of(model.architecture.geometry, 3))
    predictor = Predictor(model)
    predictor.symmetries = (symmetry,)
    image = picture(1, 23, 30)
    result = predict_image(predictor, image, grid)
    assert largest_difference(result, whole(model, image, symmetry)) < 1e-5


@pytest.mark.parametrize("count", [7, 8])
def test_symmetries_are_averaged(count):
    """The paper averages seven: all but the mirror image that is turned three times."""
    model = network(2)
    grid = TileGrid(model.architecture.geometry, 44 + 12)
    image = picture(1, 21, 33)
    each = [whole(model, image, symmetry) for symmetry in SYMMETRIES]
    result = predict_image(Predictor(model, symmetries=count), image, grid)
    assert len(set(SYMMETRIES)) == 8
    assert largest_difference(result, np.mean(each[:count], axis=0)) < 1e-5
    assert largest_difference(result, np.mean(each[: 15 - count], axis=0)) > 1e-5


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("depth", [1, 2])
def test_a_lesser_depth_of_a_nested_network_is_seamless(depth, padding):
    model = prepare(at_depth(network(3, padding, kind="unet++"), depth), torch.device("cpu"))
    geometry = model.architecture.geometry
    image = picture(1, 27, 41)
    result = predict_image(Predictor(model), image, TileGrid(geometry, tile_of(geometry, 2)))
    assert largest_difference(result, whole(model, image)) < 1e-5


class FullOutput(TileGrid):
    """The textbook's grid: it steps by the network's whole output, off the pooling lattice."""

    @property
    def step(self):
        return self.geometry.output_size(self.tile)


@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.parametrize(("kind", "surplus"), [("unet", 4), ("unet++", 4), ("fcn", 2)])
def test_stepping_by_the_full_output_is_wrong(kind, surplus, depth):
    model = network(depth, kind=kind)
    geometry = model.architecture.geometry
    tile = tile_of(geometry, 2)
    assert geometry.output_size(tile) % geometry.lattice == surplus
    image = picture(1, 3 * tile // 2, tile)
    expected = whole(model, image)
    wrong = predict_image(Predictor(model), image, FullOutput(geometry, tile))
    right = predict_image(Predictor(model), image, TileGrid(geometry, tile))
    assert largest_difference(wrong, expected) > 1e-3
    assert largest_difference(right, expected) < 1e-5


def test_the_textbook_step_of_388_is_wrong_and_384_is_right():
    model = network(4)
    geometry = UNetGeometry(4)
    image = picture(1, 600, 400) / 4  # about as wide as a normalised image
    textbook, ours = FullOutput(geometry, 572), TileGrid(geometry, 572)
    assert (textbook.step, ours.step) == (388, 384)
    expected = whole(model, image)
    wrong = predict_image(Predictor(model), image, textbook)
    right = predict_image(Predictor(model), image, ours)
    assert largest_difference(wrong, expected) > 1e-3
    assert largest_difference(right, expected) < 1e-5


def in_blocks(model, volume, block, *, workers, batch=1):
    """Predict a volume (c, z, y, x) as the predict stage does."""
    grid = TileGrid(model.architecture.geometry, tile_of(model.architecture.geometry, 2))
    predictor = Predictor(model, batch=batch)

    def predict(data, _inner):
        planes = [predictor.quantised(data[:, z], grid) for z in range(data.shape[1])]
        return np.stack(planes, axis=1)

    target = np.zeros((model.architecture.classes - 1, *volume.shape[1:]), np.uint8)
    map_blocks(
        predict,
        [volume],
        [target],
        block=block,
        halo=(0, grid.halo, grid.halo),
        align=(1, grid.step, grid.step),
        workers=workers,
    )
    return target


@settings(deadline=None, max_examples=12)
@given(
    padding=st.sampled_from(PADDINGS),
    size=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70)),
    block=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4)),
    workers=st.sampled_from([1, 4]),
    batch=st.sampled_from([1, 2, 3]),
)
def test_blocks_and_workers_never_change_a_value(padding, size, block, workers, batch):
    model = network(2, padding, classes=3)
    volume = picture(1, *size)
    step = 2 * model.architecture.geometry.lattice
    block = (block[0], block[1] * step, block[2] * step)
    reference = in_blocks(model, volume, (1, 128, 128), workers=1, batch=batch)
    result = in_blocks(model, volume, block, workers=workers, batch=batch)
    np.testing.assert_array_equal(result, reference)


def test_planes_are_predicted_independently():
    model = network(2)
    volume = picture(1, 3, 20, 20)
    together = in_blocks(model, volume, (3, 64, 64), workers=1)
    for z in range(3):
        alone = in_blocks(model, volume[:, z : z + 1], (1, 64, 64), workers=1)
        np.testing.assert_array_equal(together[:, z : z + 1], alone)


def test_uint8_is_the_rounded_probability():
    model = network(2)
    grid = TileGrid(model.architecture.geometry, 44 + 4)
    predictor = Predictor(model)
    data = picture(1, *(2 * grid.halo + 2 * grid.step,) * 2)
    expected = np.rint(255 * predictor.probabilities(data, grid)).astype(np.uint8)
    np.testing.assert_array_equal(predictor.quantised(data, grid), expected)


def test_the_oracle_reads_what_the_window_says():
    window = Window((-3, -2), (8, 6))
    assert mirrored(picture(1, 4, 5), window).shape == (1, *window.shape)


# ------------------------------------------------------------------------------ from store to store

DEPTH = 2
STEP = 2 * 2**DEPTH  # px, of the tiles below unless they say otherwise


def stored_image(folder, volume):
    storage = {"chunk": 16, "shard": 32, "smallest_level": 16}
    array = create_array(
        folder / "image.ome.zarr", "0", volume.shape, volume.dtype, storage=storage
    )
    array[:] = volume
    commit_image(
        folder / "image.ome.zarr",
        spacing=(1, 1, 1),
        levels=1,
        channel_names=["grey"],
        attributes={"statistics": measure(array)},
    )
    return {"store": folder / "image.ome.zarr", "fingerprint": "image"}


def task(image, store, model, *, shard, threads=1, tile=None):
    geometry = model.architecture.geometry
    prediction = {"tile": tile or geometry.input_size(STEP), "memory_gb": 1.0, "batch": 1}
    prediction |= {"symmetries": 1, "checkpoint": "best", "precision": "auto", "compile": "auto"}
    prediction["spacing_tolerance"] = 0.1
    storage = {"chunk": 16, "shard": shard, "smallest_level": 16}
    settings = {"prediction": prediction, "storage": storage, "experiment": "e", "fold": 0}
    intensity = {"method": "percentile", "low": 1.0, "high": 99.8, "per": "plane"}
    metadata = {"intensity": intensity, "target": "foreground"}
    runtime, spacings = Runtime("cpu", "float32"), [[(1, 1, 1)]]
    loaded = Model((model,), runtime, CpuLane(threads), metadata, {}, spacings)
    return predict.Task.of(image, store, loaded, settings, "code")


class Killed(BaseException):
    """No part of the workflow catches it."""


def predicted(one, *, workers, killed_after=None):
    """Predict a volume, after another process was stopped in the middle of it."""
    predictions = count(1)

    def stop(self, *block):
        if next(predictions) == killed_after:
            raise Killed
        return whole_block(self, *block)

    whole_block = Predictor.quantised
    with patch.object(Predictor, "quantised", stop), suppress(Killed):
        return predict.predict_sample(one, workers=workers)
    return predict.predict_sample(one, workers=workers)


@settings(deadline=None, max_examples=15)
@given(
    size=st.tuples(st.integers(1, 3), st.integers(2, 75), st.integers(2, 75)),
    shard=st.sampled_from([16, 32, 48, 80]),
    workers=st.sampled_from([1, 4]),
    killed_after=st.none() | st.integers(1, 6),
    seed=st.integers(0, 9),
)
def test_neither_blocks_nor_workers_nor_death_change_the_digest(
    size, shard, workers, killed_after, seed
):
    model = network(DEPTH, seed=seed)
    volume = np.random.default_rng(seed).integers(0, 4000, (1, *size), dtype=np.uint16)
    with TemporaryDirectory() as name:
        image = stored_image(Path(name), volume)
        reference = task(image, Path(name, "a.zarr"), model, shard=80)
        expected = predict.predict_sample(reference, workers=1)["digest"]
        one = task(image, Path(name, "b.zarr"), model, shard=shard, threads=workers)
        found = predicted(one, workers=workers, killed_after=killed_after)
        levels = [np.asarray(v) for v in open_volume(one.store).levels]
        coarser = [np.asarray(v) for v in open_volume(reference.store).levels]
    assert found["digest"] == expected == volume_digest(levels[0])
    for ours, theirs in zip(levels, coarser, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@settings(deadline=None, max_examples=8)
@given(
    size=st.tuples(st.integers(1, 2), st.integers(2, 75), st.integers(2, 75)),
    steps=st.sampled_from([1, 4, 8]),
)
def test_another_tile_changes_the_stored_values_by_one_step_at_most(size, steps):
    model = network(DEPTH)
    volume = np.random.default_rng(0).integers(0, 4000, (1, *size), dtype=np.uint16)
    tile = model.architecture.geometry.input_size(4 * steps)
    with TemporaryDirectory() as name:
        image = stored_image(Path(name), volume)
        values = []
        for store, asked in (("a", None), ("b", tile)):
            one = task(image, Path(name, store), model, shard=32, tile=asked)
            predict.predict_sample(one, workers=1)
            values.append(np.asarray(open_volume(one.store).array).astype(int))
    assert np.abs(values[0] - values[1]).max() <= 1
