"""Tiles: what is drawn depends on the key only, and equals what prediction would read."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from gigaseg.augmentation import draw_deformation, vary
from gigaseg.classes import IGNORED, class_table, count_classes
from gigaseg.deformation import Deformation, generator, resample, source_window
from gigaseg.geometry import UNetGeometry, Window, read_mirrored
from gigaseg.patches import TrainingBatches, ValidationBatches, resample_fast
from gigaseg.sampling import Sample, TileSource, load_within
from gigaseg.volumes import create_array
from numpy.testing import assert_allclose, assert_array_equal

GEOMETRY = UNetGeometry(depth=1)  # context 8
AUGMENTATION = {
    "flips": True,
    "rotation": 180.0,
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
    tile = source.read(sample, plane=1, start=(-7, 20))
    window = Window((1, -7, 20), (2, 13, 40))
    image = read_mirrored(sample.image, window)[:, 0].astype(np.float32)
    assert_array_equal(tile.image, (image - np.float32(1000)) * np.float32(1 / 2000))
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
    plain = source.read(sample, 0, (3, 5))
    turned = source.read(sample, 0, (3, 5), Deformation(angle=90, flips=(True, False)))
    assert_array_equal(turned.labels, np.rot90(plain.labels, -1)[::-1])
    assert_allclose(turned.weights, np.rot90(plain.weights, -1)[::-1], atol=1e-5)
    assert_allclose(turned.image, np.rot90(plain.image, -1, (1, 2))[:, ::-1], atol=1e-4)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_output_window_is_the_centre_without_the_context(padding: str) -> None:
    geometry = UNetGeometry(1, padding)  # type: ignore[arg-type]
    tile = make_source(geometry=geometry, tile=geometry.input_size(6)).draw(0, 0, 0)
    assert (
        tile.labels.shape == tile.weights.shape == (geometry.output_size(tile.image.shape[1]),) * 2
    )


def test_same_key_same_tile_and_other_key_other_tile() -> None:
    source = make_source()
    first, second, *others = (
        source.draw(*key, AUGMENTATION)
        for key in [(1, 2, 3), (1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0)]
    )
    assert_array_equal(first.image, second.image)
    assert_array_equal(first.weights, second.weights)
    for other in others:
        assert not np.array_equal(first.image, other.image)


def test_memory_and_zarr_give_equal_tiles(tmp_path: Path) -> None:
    sample = make_sample()
    zarr = stored(sample, tmp_path)
    for step in range(5):
        one, two = (make_source(s).draw(0, step, 0, AUGMENTATION) for s in (sample, zarr))
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


@pytest.mark.parametrize("workers", [1, 3])
def test_number_of_workers_changes_no_bit(workers: int) -> None:
    def run(workers: int) -> list[dict]:
        return list(
            TrainingBatches(
                make_source(),
                steps=5,
                batch=2,
                seed=4,
                augmentation=AUGMENTATION,
                workers=workers,
            )
        )

    for one, two in zip(run(0), run(workers), strict=True):
        assert one["origin"] == two["origin"]
        for key in ("image", "labels", "weights"):
            assert_array_equal(one[key].numpy(), two[key].numpy())


def test_batches_may_begin_at_any_step() -> None:
    batches = TrainingBatches(make_source(), steps=6, batch=2, seed=4, augmentation=AUGMENTATION)
    whole, rest = list(batches), list(batches.since(4))
    for one, two in zip(whole[4:], rest, strict=True):
        assert_array_equal(one["image"].numpy(), two["image"].numpy())
    assert list(batches.since(6)) == []


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_tiles_of_a_batch(processes: int) -> None:
    def run(part: tuple[int, int]) -> list[dict]:
        source = make_source()
        return list(
            TrainingBatches(source, steps=2, batch=3, seed=4, augmentation=AUGMENTATION, part=part)
        )

    parts = [run((rank, processes)) for rank in range(processes)]
    for step, whole in enumerate(run((0, 1))):
        for index in range(3):
            part = parts[index % processes][step]
            for key in ("image", "labels", "weights"):
                assert_array_equal(part[key][index // processes].numpy(), whole[key][index].numpy())


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


def test_fast_resampling_equals_the_reference() -> None:
    random = generator(5, 0, 0)
    coordinates = Deformation.draw(random, (40, 40), spacing=15, sigma=4).field((40, 40)) + 300
    window = source_window(coordinates)
    data = random.random((2, *window.shape), dtype=np.float32)
    local = coordinates - np.asarray(window.start, np.float32)[:, None, None]
    assert_allclose(resample_fast(data, local), resample(data, local, order=3), atol=1e-4)


def test_grey_values_vary_within_their_limits() -> None:
    image = np.full((2, 50, 50), 0.25, np.float32)
    for step in range(20):
        bright = vary(image, generator(0, step, 0), {"gain": 0.1, "offset": 0.2, "gamma": 0.3})
        low, high = (
            0.25 ** np.exp(0.3) * np.exp(-0.1) - 0.2,
            0.25 ** np.exp(-0.3) * np.exp(0.1) + 0.2,
        )
        assert low <= bright.min() <= bright.max() <= high
        assert bright[0, 0, 0] != bright[1, 0, 0]
        assert np.ptp(bright, axis=(1, 2)).max() == 0
    noisy = [vary(image, generator(0, step, 0), {"noise": 0.2}) for step in range(50)]
    strengths = [float((n - image).std()) for n in noisy]
    assert 0 < min(strengths) < 0.05 < 0.15 < max(strengths) < 0.21
    assert all(n.dtype == np.float32 for n in noisy)


def test_gamma_keeps_the_sign_of_values_below_the_window() -> None:
    image = np.array([[[-0.5, 0.0, 0.5]]], np.float32)
    result = vary(image, generator(0, 0, 0), {"gamma": 0.5})
    assert_array_equal(np.sign(result), np.sign(image))
    assert_array_equal(result[..., 0], -result[..., 2])


def test_settings_that_ask_for_nothing_do_nothing() -> None:
    still = draw_deformation(generator(0, 0, 0), 20, {})
    assert_array_equal(still.field((20, 20)), Deformation().field((20, 20)))


def test_classes_of_stored_values() -> None:
    assert class_table("foreground")[:5].tolist() == [0, 1, 1, 0, IGNORED]
    assert count_classes("foreground", [70, 20, 6, 4]) == [74, 26]
