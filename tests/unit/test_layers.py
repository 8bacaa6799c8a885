"""The pictures of a viewer: pane by pane they are those of the whole plane, drawn the slow way."""

import io

import numpy as np
import pytest
from gigaseg.geometry import Window
from gigaseg.intensity import measure
from gigaseg.layers import CHANNELS, PREDICTED, STEPS, TRUE, draw_image, open_layers
from gigaseg.panes import Panes
from gigaseg.pyramids import write_pyramid
from gigaseg.volumes import commit_image, commit_labels, create_array
from PIL import Image

STORAGE = {"chunk": 16, "shard": 32, "smallest_level": 32}


def write(store, data, commit, mode, attributes=None, **facts):
    create_array(store, "0", data.shape, data.dtype, storage=STORAGE)[...] = data
    levels = write_pyramid(store, mode=mode, storage=STORAGE)
    commit(store, spacing=(1, 1, 1), levels=levels, attributes=attributes or {}, **facts)


def make_sample(root, image, probabilities, found, truth=None):
    """Write the stores of a sample; return what `open_layers` takes."""
    paths = [root / name for name in ("image.ome.zarr", "p.ome.zarr", "found.ome.zarr")]
    if truth is not None:
        write(paths[0] / "labels" / "truth", truth, commit_labels, "nearest")
    names = [f"channel {c}" for c in range(len(image))]
    statistics = {"statistics": measure(image)}
    write(paths[0], image, commit_image, "mean", statistics, channel_names=names)
    names = ["interior", "boundary"][: len(probabilities)]
    write(paths[1], probabilities, commit_image, "mean", channel_names=names)
    write(paths[2], found, commit_labels, "nearest")
    return paths


@pytest.fixture
def sample(tmp_path):
    rng = np.random.default_rng(1)
    labels = np.repeat(np.repeat(rng.integers(0, 4, (2, 11, 15), np.uint32), 7, 1), 7, 2)
    labels = labels[:, :75, :101]
    image = rng.integers(0, 4000, (1, *labels.shape), np.uint16)
    probabilities = rng.integers(0, 256, (1, *labels.shape)).astype(np.uint8)
    paths = make_sample(tmp_path, image, probabilities, np.roll(labels, 3, axis=2), labels)
    return open_layers(*paths, quality=90)


def outlines(labels, both):
    """Mark by a loop over pixels those that differ from a neighbour."""
    marked = np.zeros(labels.shape, bool)
    for y, x in np.ndindex(labels.shape):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= v < labels.shape[0] and 0 <= u < labels.shape[1]:
                differ = labels[v, u] != labels[y, x]
                marked[y, x] |= differ and (both or labels[y, x] != 0)
    return marked


def put_together(layer, plane, level, side=32):
    """Decode all panes of a plane of a level as one picture (y, x, RGBA)."""
    panes = Panes(layer.volume.shape, side, (level,), (plane,))
    whole = np.zeros((*panes.extent(level), 4), np.uint8)
    for window in panes.windows(level):
        data = layer.pane(plane, level, window)
        if data is not None:
            whole[window.slices] = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    return whole


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("plane", [0, 1])
@pytest.mark.parametrize("side", [16, 32])  # with 16, windows reach one line into the next shard
def test_outlines_of_panes_are_those_of_the_plane(sample, plane, level, side):
    *_, truth, instances = sample
    for layer, both, colour in ((truth, True, TRUE), (instances, False, PREDICTED)):
        marked = outlines(layer.volume.levels[level][plane], both)
        assert marked.any()
        drawn = put_together(layer, plane, level, side)
        np.testing.assert_array_equal(drawn[..., 3], 255 * marked)
        assert (drawn[marked][:, :3] == colour).all()


def test_probabilities_are_rounded_to_steps_of_opacity(sample):
    _, layer, *_ = sample
    values = layer.volume.array[0, 1].astype(int)
    drawn = put_together(layer, 1, 0)
    steps = np.rint(values / 255 * (STEPS - 1))
    assert np.abs(drawn[..., 3] - 255 / (STEPS - 1) * steps).max() == 0
    assert (drawn[drawn[..., 3] > 0][:, :3] == CHANNELS[0]).all()


@pytest.mark.parametrize("level", [0, 2])
def test_images_are_stretched_by_percentiles_of_the_whole_volume(sample, level):
    image = sample[0]
    low, high = np.percentile(image.volume.array[...], [0.5, 99.8])
    expected = np.clip((image.volume.levels[level][0, 1] - low) / (high - low), 0, 1) * 255
    drawn = put_together(image, 1, level)[..., 0].astype(float)
    # What JPEG loses of noise; another stretching would be off on average.
    assert abs((drawn - expected).mean()) < 1
    assert np.abs(drawn - expected).mean() < 16


def test_panes_with_nothing_to_see_are_none(tmp_path):
    empty = np.zeros((1, 40, 70), np.uint32)
    found = empty.copy()
    found[0, 35, 60:65] = 7  # below and right of the first pane
    paths = make_sample(tmp_path, np.zeros((1, *empty.shape), np.uint8),
                        np.zeros((1, *empty.shape), np.uint8), found, empty)  # fmt: skip
    image, probability, truth, instances = open_layers(*paths, quality=85)
    first, last = Window((0, 0), (32, 32)), Window((32, 32), (40, 64))
    assert image.pane(0, 0, first) is not None
    assert [layer.pane(0, 0, last) for layer in (probability, truth)] == [None, None]
    assert instances.pane(0, 0, first) is None
    assert instances.pane(0, 0, last) is not None


def test_a_line_in_the_halo_alone_is_nothing_to_see(tmp_path):
    found = np.zeros((1, 40, 70), np.uint32)
    found[0, :, 32:] = 1
    blank = np.zeros((1, *found.shape), np.uint8)
    *_, instances = open_layers(*make_sample(tmp_path, blank, blank, found), quality=85)
    assert instances.pane(0, 0, Window((0, 0), (32, 32))) is None


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "RGB"), (3, "RGB"), (5, "RGB")])
def test_channels_become_colours(tmp_path, channels, mode):
    labels = np.zeros((1, 20, 30), np.uint32)
    image = np.random.default_rng(0).integers(0, 255, (channels, *labels.shape)).astype(np.uint8)
    paths = make_sample(tmp_path, image, image[:1], labels)
    layer, *_ = open_layers(*paths, quality=85)
    assert Image.open(io.BytesIO(layer.pane(0, 0, Window((0, 0), (20, 30))))).mode == mode


def test_photographs_in_colour_keep_their_hues(tmp_path):
    """As stained tissue: a channel of a narrow range is not stretched by itself."""
    labels = np.zeros((1, 20, 30), np.uint32)
    image = np.stack([np.full(labels.shape, value, np.uint8) for value in (250, 120, 180)])
    image[:, 0, :10] = 0
    image[:, 0, :2, 15:] = 255
    layer, *_ = open_layers(*make_sample(tmp_path, image, image[:1], labels), quality=95)
    drawn = layer.draw(image[:, 0])
    assert np.abs(drawn[15, 25].astype(int) - (250, 120, 180)).max() <= 1


def test_two_classes_are_a_layer_each(tmp_path):
    labels = np.zeros((1, 20, 30), np.uint32)
    values = np.full((2, *labels.shape), 255, np.uint8)
    layers = open_layers(*make_sample(tmp_path, values[:1], values, labels), quality=85)
    assert [layer.title for layer in layers] == [
        "Image", "Probability: interior", "Probability: boundary", "Predicted outlines",
    ]  # fmt: skip
    assert [layer.colour for layer in layers[1:3]] == [*CHANNELS]


def test_volumes_of_other_voxels_are_refused(tmp_path):
    labels = np.zeros((1, 20, 30), np.uint32)
    image = np.zeros((1, 1, 20, 31), np.uint8)
    paths = make_sample(tmp_path, image, image, labels)
    with pytest.raises(ValueError, match=r"has shape \(1, 20, 30\), the image \(1, 20, 31\)"):
        open_layers(*paths, quality=85)


def test_an_image_without_statistics_is_refused(tmp_path):
    labels = np.zeros((1, 20, 30), np.uint32)
    image = np.zeros((1, 1, 20, 30), np.uint8)
    paths = make_sample(tmp_path, image, image, labels)
    write(tmp_path / "bare.ome.zarr", image, commit_image, "mean", channel_names=["a"])
    with pytest.raises(ValueError, match="has no statistics, which say what is black and white"):
        open_layers(tmp_path / "bare.ome.zarr", *paths[1:], quality=85)


def test_a_constant_image_is_black():
    flat = np.full((1, 2, 2), 7, np.uint16)
    assert draw_image(flat, np.full(1, 7, np.float32), np.ones(1, np.float32)).max() == 0


def test_no_more_is_read_than_a_pane_and_its_halo(sample):
    largest = []

    class Watched:
        def __init__(self, array):
            self.array, self.shape = array, array.shape

        def __getitem__(self, key):
            data = self.array[key]
            largest.append(data.size)
            return data

    for layer in sample:
        object.__setattr__(layer.volume, "levels", tuple(map(Watched, layer.volume.levels)))
        for level in (0, 1, 2):
            put_together(layer, 1, level, 16)
    assert max(largest) == 18 * 18
