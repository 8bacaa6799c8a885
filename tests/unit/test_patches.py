"""Tiles: what is drawn depends on the key only, and equals what prediction would read."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gigaseg.augmentation import Variation, draw_variation
from gigaseg.classes import IGNORED, class_table, count_classes
from gigaseg.deformation import Deformation, generator
from gigaseg.geometry import UNetGeometry, Window, read_mirrored
from gigaseg.patches import TrainingBatches, ValidationBatches
from gigaseg.rendering import Renderer, Tile, blur, vary
from gigaseg.sampling import Crop, Sample, TileSource, load_within
from gigaseg.volumes import create_array
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

GEOMETRY = UNetGeometry(depth=1)  # context 8
AUGMENTATION = {
    "flips": True,
    "rotation": 180.0,
    "scale": 0.2,
    "blur": 1.0,
    "elastic": {"spacing": 9.0, "sigma": 2.0},
    "gain": 0.2,
    "offset": 0.1,
    "gamma": 0.2,
    "noise": 0.05,
}


def make_sample(
    name: str = "d/a", shape: tuple[int, ...] = (2, 2, 20, 31), seed: int = 0
) -> Sample:
    random = generator(seed, 0, 0)
    space = shape[1:]
    return Sample(
        name,
        random.integers(0, 4000, shape).astype(np.uint16),
        random.choice([0, 1, 2, 3, 255], space).astype(np.uint8),
        random.uniform(0, 10, space).astype(np.float32),
        np.full((space[0], shape[0]), 1000, np.float32),
        np.full((space[0], shape[0]), 1 / 2000, np.float32),
    )


def make_source(*samples: Sample, geometry: UNetGeometry = GEOMETRY, tile: int = 20) -> TileSource:
    return TileSource(
        samples or (make_sample(),), geometry, tile, target="foreground", class_weights=[0.5, 2]
    )


def render(source: TileSource, crop: Crop) -> Tile:
    renderer = Renderer(source)
    return renderer.render(crop, renderer.upload(crop))


def still(deformation: Deformation) -> Variation:
    """Return a variation that only moves pixels of one or two channels."""
    one = np.ones(1, np.float32)
    return Variation(deformation, 0.0, one, one, 0 * one, None)


def varied(image: np.ndarray, seed: int, augmentation: dict) -> np.ndarray:
    """Vary grey values alone."""
    drawn = draw_variation(generator(0, seed, 0), len(image), image.shape[1], augmentation)
    arrays = {
        key: torch.from_numpy(getattr(drawn, key))[:, None, None]
        for key in ("gamma", "gain", "brightness")
    }
    if drawn.noise is not None:
        arrays["noise"] = torch.from_numpy(drawn.noise)
    return vary(torch.from_numpy(image), 0.0, arrays).numpy()


def stored(sample: Sample, folder: Path) -> Sample:
    """Return the same sample in Zarr arrays."""
    storage, arrays = {"chunk": 16, "shard": 16}, {}
    for name in ("image", "target", "separation"):
        data = getattr(sample, name)
        arrays[name] = create_array(folder, name, data.shape, data.dtype, storage=storage)
        arrays[name][...] = data
    return Sample(sample.name, **arrays, offset=sample.offset, scale=sample.scale)


def test_an_undeformed_tile_is_what_prediction_reads() -> None:
    sample, source = make_sample(), make_source()
    tile = render(source, source.read(sample, plane=1, start=(-7, 20)))
    window = Window((1, -7, 20), (2, 13, 40))
    image = read_mirrored(sample.image, window)[:, 0].astype(np.float32)
    assert_array_equal(tile.image, (image - np.float32(1000)) * np.float32(1 / 2000))
    assert tile.origin == "d/a plane 1 y -7 x 20"
    inner = Window((1, 1, 28), (2, 5, 32))
    values = read_mirrored(sample.target, inner)[0]
    separation = read_mirrored(sample.separation, inner)[0]
    for (y, x), value in np.ndenumerate(values):
        label = {0: 0, 1: 1, 2: 1, 3: 0, 255: IGNORED}[int(value)]
        assert tile.labels[y, x] == label
        weight = 0 if label == IGNORED else (0.5, 2)[label] + separation[y, x]
        assert tile.weights[y, x] == pytest.approx(weight, abs=1e-6)


def test_a_symmetry_of_the_tile_is_the_tile_turned() -> None:
    sample, source = make_sample(), make_source()
    # What turns about a pixel of an even tile starts one px later where its direction is reversed.
    plain = render(source, source.read(sample, 0, (4, 5)))
    turn = still(Deformation(angle=90, flips=(False, False)))
    turned = render(source, source.read(sample, 0, (3, 5), turn))
    assert_array_equal(turned.labels, np.rot90(plain.labels, -1))
    assert_allclose(turned.weights, np.rot90(plain.weights, -1), atol=1e-4)
    assert_allclose(turned.image, np.rot90(plain.image, -1, (1, 2)), atol=1e-3)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_output_window_is_the_centre_without_the_context(padding: str) -> None:
    geometry = UNetGeometry(1, padding)  # type: ignore[arg-type]
    source = make_source(geometry=geometry, tile=geometry.input_size(6))
    tile = render(source, source.draw(0, 0, 0))
    assert (
        tile.labels.shape == tile.weights.shape == (geometry.output_size(tile.image.shape[1]),) * 2
    )


def test_same_key_same_tile_and_other_key_other_tile() -> None:
    source = make_source()
    first, second, *others = (
        render(source, source.draw(*key, AUGMENTATION))
        for key in [(1, 2, 3), (1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0)]
    )
    assert_array_equal(first.image, second.image)
    assert_array_equal(first.weights, second.weights)
    for other in others:
        assert not torch.equal(first.image, other.image)


def test_memory_and_zarr_give_equal_tiles(tmp_path: Path) -> None:
    sample = make_sample()
    zarr = stored(sample, tmp_path)
    for step in range(5):
        sources = make_source(sample), make_source(zarr)
        one, two = (render(s, s.draw(0, step, 0, AUGMENTATION)) for s in sources)
        assert_array_equal(one.image, two.image)
        assert_array_equal(one.labels, two.labels)
        assert_array_equal(one.weights, two.weights)


def test_only_samples_within_the_budget_are_loaded(tmp_path: Path) -> None:
    samples = [stored(make_sample(f"d/{k}", seed=k), tmp_path / str(k)) for k in range(3)]
    size = 2 * 2 * 20 * 31 * 2 + 2 * 20 * 31 * (1 + 4)
    assert samples[0].bytes == size
    loaded = load_within(samples, budget=2 * size + 5)
    assert [isinstance(s.image, np.ndarray) for s in loaded] == [True, True, False]
    assert_array_equal(loaded[1].separation, samples[1].separation[...])


def run(**changes: Any) -> list[dict[str, Any]]:
    options = {"steps": 5, "batch": 4, "seed": 4, "augmentation": AUGMENTATION, **changes}
    return list(TrainingBatches(make_source(), **options))


def assert_equal_batches(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one["origin"] == two["origin"]
    for key in ("image", "labels", "weights"):
        assert_array_equal(one[key].numpy(), two[key].numpy())


@pytest.mark.parametrize("workers", [1, 3])
def test_number_of_workers_changes_no_bit(workers: int) -> None:
    for one, two in zip(run(), run(workers=workers), strict=True):
        assert_equal_batches(one, two)


def test_batches_are_channels_last_for_the_network() -> None:
    (batch,) = run(steps=1)
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert batch["image"].dtype == torch.float32


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_may_begin_at_any_step(workers: int) -> None:
    options = {"steps": 6, "batch": 2, "seed": 4, "augmentation": AUGMENTATION}
    batches = TrainingBatches(make_source(), workers=workers, **options)
    for one, two in zip(run(**options)[4:], batches.since(4), strict=True):
        assert_equal_batches(one, two)
    assert list(batches.since(6)) == []


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_share_the_tiles_of_a_batch(processes: int) -> None:
    parts = [run(part=(rank, processes)) for rank in range(processes)]
    for step, whole in enumerate(run()):
        for index, origin in enumerate(whole["origin"]):
            part, place = parts[index % processes][step], index // processes
            assert part["origin"][place] == origin
            for key in ("image", "labels", "weights"):
                assert_array_equal(part[key][place].numpy(), whole[key][index].numpy())


def test_an_abandoned_iteration_ends_its_threads() -> None:
    batches = iter(
        TrainingBatches(make_source(), steps=50, batch=1, seed=0, augmentation=None, workers=2)
    )
    next(batches)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batches.close()  # type: ignore[attr-defined]


def test_large_samples_are_drawn_more_often_and_every_plane() -> None:
    source = make_source(
        make_sample("d/small", (1, 1, 10, 10)), make_sample("d/large", (1, 3, 10, 10))
    )
    drawn = [source.draw(0, step, 0).origin.split(" y ")[0] for step in range(400)]
    shares = {name: drawn.count(name) / 400 for name in sorted(set(drawn))}
    assert list(shares) == [
        "d/large plane 0",
        "d/large plane 1",
        "d/large plane 2",
        "d/small plane 0",
    ]
    assert_allclose(list(shares.values()), 0.25, atol=0.08)


def test_every_pixel_can_be_the_centre() -> None:
    source = make_source(make_sample("d/a", (1, 1, 3, 3)), tile=20)
    origins = {source.draw(0, step, 0).origin for step in range(200)}
    assert origins == {f"d/a plane 0 y {y - 10} x {x - 10}" for y in range(3) for x in range(3)}


def test_validation_covers_everything_once_and_keeps_within_a_limit() -> None:
    source = make_source(make_sample("d/a", (1, 2, 9, 10)), tile=24)  # output 8
    batches = ValidationBatches(source, limit=100)
    origins = [batch["origin"][0] for batch in batches]
    assert len(batches) == len(set(origins)) == 8
    assert origins[:2] == ["d/a plane 0 y -8 x -8", "d/a plane 0 y -8 x 0"]
    assert [b["origin"][0] for b in ValidationBatches(source, limit=2)] == [origins[2], origins[6]]


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "i2", "u4", "f4", "f8", "?"])
def test_images_of_every_type_are_read_in_their_own(dtype: str) -> None:
    sample = make_sample()
    image = (sample.image % 2).astype(dtype)
    image.flags.writeable = False
    source = make_source(dataclasses.replace(sample, image=image))
    crop = source.draw(0, 1, 0)
    assert crop.image.dtype == image.dtype
    expected = (crop.image.astype(np.float32) - np.float32(1000)) * np.float32(1 / 2000)
    assert_array_equal(render(source, crop).image, expected)


def test_separation_weights_are_not_read_if_they_are_not_used() -> None:
    sample = dataclasses.replace(make_sample(), separation=None)
    source = TileSource(
        [sample], GEOMETRY, 20, target="foreground", class_weights=[0.5, 2], separation=False
    )
    tile = render(source, source.draw(0, 0, 0, AUGMENTATION))
    assert set(tile.weights.unique().tolist()) <= {0.0, 0.5, 2.0}


def test_grey_values_vary_within_their_limits() -> None:
    image = np.full((2, 50, 50), 0.25, np.float32)
    for step in range(20):
        bright = varied(image, step, {"gain": 0.1, "offset": 0.2, "gamma": 0.3})
        low, high = (
            0.25 ** np.exp(0.3) * np.exp(-0.1) - 0.2,
            0.25 ** np.exp(-0.3) * np.exp(0.1) + 0.2,
        )
        assert low <= bright.min() <= bright.max() <= high
        assert bright[0, 0, 0] != bright[1, 0, 0]
        assert np.ptp(bright, axis=(1, 2)).max() == 0
    noisy = [varied(image, step, {"noise": 0.2}) for step in range(50)]
    strengths = [float((n - image).std()) for n in noisy]
    assert 0 < min(strengths) < 0.05 < 0.15 < max(strengths) < 0.21
    assert all(n.dtype == np.float32 for n in noisy)


def test_gamma_keeps_the_sign_of_values_below_the_window() -> None:
    image = np.array([[[-0.5, 0.0, 0.5]] * 3], np.float32)
    result = varied(image, 0, {"gamma": 0.5})
    assert_array_equal(np.sign(result), np.sign(image))
    assert_array_equal(result[..., 0], -result[..., 2])
    assert (result != image).any()


def test_blur_and_scale_are_drawn_within_their_limits() -> None:
    wishes = {"blur": 2.0, "scale": 0.5}
    drawn = [draw_variation(generator(0, step, 0), 1, 20, wishes) for step in range(200)]
    sharp = sum(v.blur == 0 for v in drawn)
    assert 70 < sharp < 130
    assert 1.8 < max(v.blur for v in drawn) <= 2
    scales = [v.deformation.scale for v in drawn]
    assert np.exp(-0.5) <= min(scales) < 0.65 < 1.5 < max(scales) <= np.exp(0.5)


def test_blur_reads_beyond_the_tile_and_keeps_the_mean() -> None:
    image = torch.from_numpy(generator(0, 0, 0).normal(size=(1, 60, 60)).astype(np.float32))
    blurred = blur(image, 1.5)
    assert blurred.shape == (1, 50, 50)
    expected = gaussian_filter(image[0].numpy(), 1.5, truncate=3.0)
    assert_allclose(blurred[0, 2:-2, 2:-2], expected[7:-7, 7:-7], atol=0.02)


def test_switching_one_variation_off_leaves_the_others() -> None:
    def drawn(**changes: float) -> Variation:
        return draw_variation(generator(0, 0, 0), 1, 20, {**AUGMENTATION, **changes})

    plain, other = drawn(), drawn(gain=0.0, blur=0.0, noise=0.0)
    assert other.gain == 1
    assert other.noise is None
    assert_array_equal(plain.gamma, other.gamma)
    assert plain.deformation.angle == other.deformation.angle
    assert_array_equal(plain.deformation.vectors, other.deformation.vectors)


def test_settings_that_ask_for_nothing_do_nothing() -> None:
    source = make_source()
    crop = source.draw(0, 1, 0, {"flips": False})
    plain = source.draw(0, 1, 0)
    assert_allclose(render(source, crop).image, render(source, plain).image, atol=1e-4)
    assert_array_equal(render(source, crop).labels, render(source, plain).labels)


def test_classes_of_stored_values() -> None:
    assert class_table("foreground")[:5].tolist() == [0, 1, 1, 0, IGNORED]
    assert count_classes("foreground", [70, 20, 6, 4]) == [74, 26]
