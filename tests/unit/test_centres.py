"""Centres of tiles: every voxel of a pool equally likely, found by reading one chunk."""

import logging

import numpy as np
import pytest
from gigaseg.centres import HIGH_SEPARATION, LABELLED, Centres, Pool
from gigaseg.deformation import generator
from gigaseg.geometry import UNetGeometry
from gigaseg.rendering import Renderer
from gigaseg.sampling import Sample, TileSource
from gigaseg.tally import KINDS, Tally, count_chunks
from numpy.testing import assert_array_equal

CHUNK = (1, 8, 8)


def make_sample(
    target: np.ndarray, separation: np.ndarray | None = None, name: str = "d/a"
) -> Sample:
    separation = np.zeros(target.shape, np.float32) if separation is None else separation
    counts = count_chunks(target, separation, CHUNK).reshape(KINDS, -1)
    tally = Tally(counts, target.shape, CHUNK)
    image, one = np.zeros((1, *target.shape), np.uint8), np.ones((len(target), 1), np.float32)
    return Sample(name, image, target, separation, 0 * one, one, tally)


def random_sample(seed: int, shape: tuple[int, ...] = (2, 13, 20), ignored: float = 0.3) -> Sample:
    random = generator(seed, 0, 0)
    others = (1 - ignored) * np.array([0.7, 0.2, 0.07, 0.03])
    target = random.choice([0, 1, 2, 3, 255], shape, p=[*others, ignored]).astype(np.uint8)
    separation = (random.random(shape) * 1.2 * (target != 255)).astype(np.float32)
    return make_sample(target, separation, f"d/{seed}")


@pytest.mark.parametrize("kinds", [LABELLED, (1, 2), (3,), HIGH_SEPARATION], ids=str)
def test_a_pool_numbers_each_of_its_voxels_once(kinds: tuple[int, ...]) -> None:
    samples = [random_sample(0), random_sample(1, (1, 5, 9), ignored=0), random_sample(2)]
    pool = Pool(samples, kinds)
    places = [pool.place(number) for number in range(pool.size)]
    expected = set()
    for number, sample in enumerate(samples):
        holds = np.isin(sample.target, kinds)
        if kinds == HIGH_SEPARATION:
            holds = sample.separation > 1
        expected |= {(number, tuple(v)) for v in np.argwhere(holds).tolist()}
    assert len(places) == len(set(places)) == len(expected)
    assert set(places) == expected


def test_samples_without_a_tally_count_everywhere() -> None:
    sample = Sample("d/a", None, np.zeros((1, 2, 2)), None, np.zeros(1), np.zeros(1))
    pool = Pool([sample], LABELLED)
    assert [pool.place(k) for k in range(4)] == [(0, (0, y, x)) for y in range(2) for x in range(2)]
    with pytest.raises(ValueError, match="oversampling needs the tally"):
        Centres([sample], "foreground", oversample=0.5)


def test_the_share_asked_for_is_drawn_from_what_is_rare(caplog: pytest.LogCaptureFixture) -> None:
    target = np.zeros((1, 40, 40), np.uint8)
    target[0, 3, 5] = 1
    separation = np.zeros((1, 40, 40), np.float32)
    separation[0, 30, 31] = 1.5
    caplog.set_level(logging.INFO)
    centres = Centres([make_sample(target, separation)], "foreground", oversample=0.5)
    assert "the rarest class, foreground: 1 voxels" in caplog.text
    assert "separation weights above 1: 1 voxels" in caplog.text
    drawn = [centres.draw(generator(0, step, 0))[1] for step in range(800)]
    assert 150 < drawn.count((0, 3, 5)) < 250
    assert 150 < drawn.count((0, 30, 31)) < 250
    assert len(set(drawn)) > 300


def test_without_oversampling_what_is_rare_is_drawn_as_often_as_anything() -> None:
    target = np.zeros((1, 40, 40), np.uint8)
    target[0, 3, 5] = 1
    centres = Centres([make_sample(target)], "foreground")
    drawn = [centres.draw(generator(0, step, 0))[1] for step in range(800)]
    assert drawn.count((0, 3, 5)) < 5


def test_where_nothing_touches_only_the_rarest_class_is_oversampled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    target = np.zeros((1, 40, 40), np.uint8)
    target[0, 3, 5] = 1
    centres = Centres([make_sample(target)], "foreground", oversample=1.0)
    assert "no training voxel has separation weights above 1" in caplog.text
    assert {centres.draw(generator(0, step, 0)) for step in range(20)} == {(0, (0, 3, 5))}


def test_weights_that_are_not_used_are_not_oversampled() -> None:
    sample = random_sample(0)
    centres = Centres([sample], "foreground", oversample=1.0, separation=False)
    rare = {0: (0, 3), 1: (1, 2)}
    rarest = min(rare.values(), key=lambda codes: np.isin(sample.target, codes).sum())
    drawn = {centres.draw(generator(0, step, 0))[1] for step in range(100)}
    assert {int(sample.target[voxel]) for voxel in drawn} <= set(rarest)


def test_where_nothing_is_annotated_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="nobody annotated a voxel"):
        Centres([make_sample(np.full((1, 9, 9), 255, np.uint8))], "foreground")


def test_sparse_annotation_gives_no_tile_without_labelled_pixels() -> None:
    target = np.full((1, 300, 300), 255, np.uint8)
    target[0, 40, 250] = 1
    target[0, 222, 17] = 0
    sample, geometry = make_sample(target), UNetGeometry(1)
    source = TileSource([sample], geometry, 20, target="foreground", class_weights=[1, 1])
    renderer = Renderer(source)
    augmentation = {
        "flips": True,
        "rotation": 180.0,
        "scale": 0.4,
        "elastic": {"spacing": 9.0, "sigma": 4.0},
        "blur": 1.0,
    }
    for step in range(50):
        crop = source.draw(0, step, 0, augmentation)
        labels = renderer.render(crop, renderer.upload(crop)).labels
        assert labels[source.output // 2, source.output // 2] != 255


def test_validation_leaves_out_what_nobody_annotated() -> None:
    target = np.full((1, 64, 64), 255, np.uint8)
    target[0, 3, 60] = 1
    target[0, 40, 8:16] = 0
    geometry = UNetGeometry(1)
    tile = geometry.input_size(8)
    source = TileSource(
        [make_sample(target)], geometry, tile, target="foreground", class_weights=[1, 1]
    )
    starts = [start for _, _, start in source.grid(100)]
    context = geometry.context
    assert starts == [(-context, 56 - context), (40 - context, 8 - context)]


def test_a_centre_of_a_large_volume_takes_one_chunk() -> None:
    class Watched:
        def __init__(self, array: np.ndarray) -> None:
            self.array, self.shape, self.read = array, array.shape, []

        def __getitem__(self, where: tuple[slice, ...]) -> np.ndarray:
            self.read.append(self.array[where].shape)
            return self.array[where]

    sample = random_sample(3, (1, 70, 70))
    watched = Watched(sample.target)
    object.__setattr__(sample, "target", watched)
    pool = Pool([sample], (3,))
    assert watched.read == []
    pool.place(pool.size // 2)
    assert watched.read == [(1, 8, 8)]


def test_chunks_are_counted_in_raster_order() -> None:
    sample = random_sample(5, (2, 20, 13))
    assert sample.tally is not None
    for number in range(sample.tally.counts.shape[1]):
        where = sample.tally.window(number).slices
        expected = [(sample.target[where] == code).sum() for code in range(4)]
        expected.append((sample.separation[where] > 1).sum())
        assert_array_equal(sample.tally.counts[:, number], expected)
