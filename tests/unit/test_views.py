"""Which place of a sample is shown, and that large planes are never read whole."""

import numpy as np
import pytest
from gigaseg import views
from gigaseg.pyramids import write_pyramid
from gigaseg.volumes import commit_image, commit_labels, create_array

STORAGE = {"chunk": 64, "shard": 128, "smallest_level": 64}


def draw_cells(shape, seed):
    """Draw one square of random place and size in each cell of a grid of 24 px."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint32)
    for y in range(0, shape[0] - 23, 24):
        for x in range(0, shape[1] - 23, 24):
            top, left = rng.integers(0, 8, 2)
            labels[y + top : y + 20, x + left : x + 20] = labels.max() + 1
    return labels


def write(store, data, commit, mode, attributes=None, **facts):
    create_array(store, "0", data.shape, data.dtype, storage=STORAGE)[...] = data
    levels = write_pyramid(store, mode=mode, storage=STORAGE)
    commit(store, spacing=(1, 1, 1), levels=levels, attributes=attributes or {}, **facts)


def make_sample(root, labels, found, truth=True, probabilities=None, ignored=None):
    image = np.where(labels > 0, 200, 10).astype(np.uint8)[None]
    store = root / "image.ome.zarr"
    if truth:
        facts = {"ignored": ignored}
        write(store / "labels" / "truth", labels, commit_labels, "nearest", facts)
    write(store, image, commit_image, "mean", channel_names=["a"])
    write(root / "found.ome.zarr", found, commit_labels, "nearest")
    if probabilities is not None:
        names = ["interior", "boundary"][: len(probabilities)]
        write(root / "p.ome.zarr", probabilities, commit_image, "mean", channel_names=names)
    predicted = None if probabilities is None else root / "p.ome.zarr"
    return views.open_sample(store, predicted, root / "found.ome.zarr")


@pytest.fixture
def small_windows(monkeypatch):
    """Treat planes of a few hundred px as large."""
    for name, value in {
        "WHOLE": 96,
        "WINDOW": 64,
        "SEARCH": 128,
        "MARGIN": 8,
        "OVERVIEW": 40,
    }.items():
        monkeypatch.setattr(views, name, value)


@pytest.mark.usefixtures("small_windows")
def test_large_plane_is_shown_at_its_worst_place_by_a_window(tmp_path):
    labels = draw_cells((300, 421), seed=1)[None]
    lost = np.isin(labels, np.unique(labels[:, 192:240, 336:384])[1:])
    found = np.where(lost, 0, labels)
    drawn = views.draw_sample(make_sample(tmp_path, labels, found))
    view = drawn.view
    assert (view.height, view.width) == (64, 64)
    assert lost[0, view.top : view.top + 64, view.left : view.left + 64].sum() == lost.sum()
    assert set(drawn.pictures) == {"image", "instances", "truth", "errors", "overview"}
    assert drawn.faults == {"split": 0, "merged": 0, "missed": 4, "invented": 0}


@pytest.mark.usefixtures("small_windows")
def test_window_never_leaves_the_plane(tmp_path):
    labels = np.zeros((1, 301, 423), np.uint32)
    labels[0, 296:, 419:] = 1
    view = views.choose_view(make_sample(tmp_path, labels, np.zeros_like(labels)))
    assert (view.top, view.left) == (301 - 64, 423 - 64)


@pytest.mark.usefixtures("small_windows")
def test_large_plane_is_not_read_whole_at_full_resolution(tmp_path):
    labels = draw_cells((300, 400), seed=1)[None]
    sample = make_sample(tmp_path, labels, labels)
    largest = []

    class Watched:
        def __init__(self, array):
            self.array, self.shape = array, array.shape

        def __getitem__(self, key):
            data = self.array[key]
            largest.append(data.size)
            return data

    for volume in (sample.image, sample.instances, sample.truth):
        object.__setattr__(volume, "levels", tuple(map(Watched, volume.levels)))
        object.__setattr__(volume, "array", volume.levels[0])
    views.draw_sample(sample)
    assert max(largest) <= 128 * 128


def test_worst_plane_of_a_stack_is_shown(tmp_path):
    labels = np.stack([draw_cells((96, 96), seed=z) for z in range(5)])
    found = labels.copy()
    found[3, 20:70] = 0
    assert views.choose_view(make_sample(tmp_path, labels, found)).plane == 3


def test_middle_plane_of_a_stack_without_faults_is_shown(tmp_path):
    labels = np.repeat(draw_cells((96, 96), seed=0)[None], 5, axis=0)
    assert views.choose_view(make_sample(tmp_path, labels, labels)).plane == 2


def test_without_truth_the_densest_place_is_shown_and_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(views, "WHOLE", 32)
    monkeypatch.setattr(views, "WINDOW", 32)
    found = np.zeros((1, 80, 120), np.uint32)
    found[0, 40:70, 80:110] = 1
    drawn = views.draw_sample(make_sample(tmp_path, found, found, truth=False))
    assert (drawn.view.top, drawn.view.left) == (38, 78)
    assert drawn.faults is None
    assert set(drawn.pictures) == {"image", "instances", "overlay", "overview"}


@pytest.mark.parametrize("channels", [1, 2])
def test_probabilities_of_one_or_two_channels_are_shown(tmp_path, channels):
    labels = draw_cells((48, 50), seed=0)[None]
    probabilities = np.stack([np.where(labels > 0, 255, 0).astype(np.uint8)] * channels)
    drawn = views.draw_sample(make_sample(tmp_path, labels, labels, probabilities=probabilities))
    assert drawn.whole
    assert drawn.channels == ("interior", "boundary")[:channels]
    assert "probability" in drawn.pictures


def test_faults_of_objects_cut_by_the_window_are_judged_by_more_than_the_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(views, "WHOLE", 32)
    monkeypatch.setattr(views, "WINDOW", 32)
    labels = np.zeros((1, 32, 128), np.uint32)
    labels[0, :, 20:60] = 1
    found = labels.copy()
    found[0, :, 20:36] = 0  # in a window of its left part the object would look missed
    drawn = views.draw_sample(make_sample(tmp_path, labels, found))
    assert sum(drawn.faults.values()) == 0


def test_a_window_with_one_line_in_a_shard_is_read(tmp_path):
    """Zarrs refuses it if the plane is chosen by a number."""
    labels = draw_cells((160, 100), seed=0)[None]
    sample = make_sample(tmp_path, labels, labels)
    window = views._read_window(sample.instances, views.View(0, 60, 0, 69, 50))
    np.testing.assert_array_equal(window[0], labels[0, 60:129, :50])


def test_nothing_is_at_fault_where_nobody_annotated(tmp_path):
    labels = draw_cells((96, 96), seed=4)[None]
    right = np.s_[:, :, 48:]
    truth, ignored = labels.copy(), 2**32 - 1
    truth[right] = ignored
    found = labels.copy()
    found[:, 50:60, 60:70] = 999  # would be a split or an invention
    seen = views.draw_sample(make_sample(tmp_path / "a", labels, found))
    spared = views.draw_sample(make_sample(tmp_path / "b", truth, found, ignored=ignored))
    assert sum(seen.faults.values()) > 0
    assert sum(spared.faults.values()) == 0
    blank = np.where(truth == ignored, 0, truth)
    plain = views.draw_sample(make_sample(tmp_path / "c", blank, found))
    assert spared.pictures["truth"] == plain.pictures["truth"]
