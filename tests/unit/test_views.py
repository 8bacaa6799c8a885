"""Which places of a sample are shown, how, and that large planes are never read whole."""

import base64
import io

import numpy as np
import pytest
from gigaseg import pictures, sections, views
from gigaseg.faults import find_faults
from gigaseg.labels import contingency
from gigaseg.pyramids import write_pyramid
from gigaseg.volumes import commit_image, commit_labels, create_array
from PIL import Image

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


def write(store, data, commit, mode, spacing=(1, 1, 1), attributes=None, **facts):
    create_array(store, "0", data.shape, data.dtype, storage=STORAGE)[...] = data
    levels = write_pyramid(store, mode=mode, storage=STORAGE)
    commit(store, spacing=spacing, levels=levels, attributes=attributes or {}, **facts)


def make_sample(root, labels, found, truth=True, probabilities=None, ignored=None, **how):
    spacing = {"spacing": how.pop("spacing", (1, 1, 1))}
    image = np.where(labels > 0, 200, 10).astype(np.uint8)[None]
    store = root / "image.ome.zarr"
    if truth:
        facts = {**spacing, "attributes": {"ignored": ignored}}
        write(store / "labels" / "truth", labels, commit_labels, "nearest", **facts)
    write(store, image, commit_image, "mean", channel_names=["a"], **spacing)
    write(root / "found.ome.zarr", found, commit_labels, "nearest", **spacing)
    if probabilities is not None:
        names = ["interior", "boundary"][: len(probabilities)]
        write(root / "p.ome.zarr", probabilities, commit_image, "mean", channel_names=names)
    predicted = None if probabilities is None else root / "p.ome.zarr"
    return views.open_sample(store, predicted, root / "found.ome.zarr", **how)


@pytest.fixture
def small_windows(monkeypatch):
    """Treat planes of a few hundred px as large."""
    for name, value in {
        "WHOLE": 96,
        "WINDOW": 64,
        "SEARCH": 128,
        "MARGIN": 8,
    }.items():
        monkeypatch.setattr(views, name, value)
    monkeypatch.setattr(pictures, "OVERVIEW", 40)
    monkeypatch.setattr(pictures, "STRIP", 48)


@pytest.mark.usefixtures("small_windows")
def test_large_plane_is_shown_at_its_worst_place_by_a_window(tmp_path):
    labels = draw_cells((300, 421), seed=1)[None]
    lost = np.isin(labels, np.unique(labels[:, 192:240, 336:384])[1:])
    found = np.where(lost, 0, labels)
    drawn = pictures.draw_sample(make_sample(tmp_path, labels, found))
    view = drawn.view
    assert (view.height, view.width) == (64, 64)
    assert lost[0, view.top : view.top + 64, view.left : view.left + 64].sum() == lost.sum()
    assert set(drawn.pictures) == {"image", "instances", "truth", "errors", "overview"}
    assert drawn.faults == {"split": 0, "merged": 0, "missed": 4, "invented": 0}


@pytest.mark.usefixtures("small_windows")
def test_window_never_leaves_the_plane(tmp_path):
    labels = np.zeros((1, 301, 423), np.uint32)
    labels[0, 296:, 419:] = 1
    view = views.choose_views(make_sample(tmp_path, labels, np.zeros_like(labels)), 1)[0]
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
    pictures.draw_sample(sample, places=2)
    pictures.draw_strip(sample, 2)
    assert max(largest) <= 128 * 128


def test_worst_plane_of_a_stack_is_shown(tmp_path):
    labels = np.stack([draw_cells((96, 96), seed=z) for z in range(5)])
    found = labels.copy()
    found[3, 20:70] = 0
    assert views.choose_views(make_sample(tmp_path, labels, found), 1)[0].plane == 3


def test_middle_plane_of_a_stack_without_faults_is_shown(tmp_path):
    labels = np.repeat(draw_cells((96, 96), seed=0)[None], 5, axis=0)
    assert views.choose_views(make_sample(tmp_path, labels, labels), 1)[0].plane == 2


def test_without_truth_the_densest_place_is_shown_and_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(views, "WHOLE", 32)
    monkeypatch.setattr(views, "WINDOW", 32)
    found = np.zeros((1, 80, 120), np.uint32)
    found[0, 40:70, 80:110] = 1
    drawn = pictures.draw_sample(make_sample(tmp_path, found, found, truth=False))
    assert (drawn.view.top, drawn.view.left) == (38, 78)
    assert drawn.faults is None
    assert set(drawn.pictures) == {"image", "instances", "overlay", "overview"}


@pytest.mark.parametrize("channels", [1, 2])
def test_probabilities_of_one_or_two_channels_are_shown(tmp_path, channels):
    labels = draw_cells((48, 50), seed=0)[None]
    probabilities = np.stack([np.where(labels > 0, 255, 0).astype(np.uint8)] * channels)
    drawn = pictures.draw_sample(make_sample(tmp_path, labels, labels, probabilities=probabilities))
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
    drawn = pictures.draw_sample(make_sample(tmp_path, labels, found))
    assert sum(drawn.faults.values()) == 0


def test_a_window_with_one_line_in_a_shard_is_read(tmp_path):
    """Zarrs refuses it if the plane is chosen by a number."""
    labels = draw_cells((160, 100), seed=0)[None]
    sample = make_sample(tmp_path, labels, labels)
    window = views.read_window(sample.instances, views.View(0, 60, 0, 69, 50))
    np.testing.assert_array_equal(window[0], labels[0, 60:129, :50])


def test_nothing_is_at_fault_where_nobody_annotated(tmp_path):
    labels = draw_cells((96, 96), seed=4)[None]
    right = np.s_[:, :, 48:]
    truth, ignored = labels.copy(), 2**32 - 1
    truth[right] = ignored
    found = labels.copy()
    found[:, 50:60, 60:70] = 999  # would be a split or an invention
    seen = pictures.draw_sample(make_sample(tmp_path / "a", labels, found))
    spared = pictures.draw_sample(make_sample(tmp_path / "b", truth, found, ignored=ignored))
    assert sum(seen.faults.values()) > 0
    assert sum(spared.faults.values()) == 0
    blank = np.where(truth == ignored, 0, truth)
    plain = pictures.draw_sample(make_sample(tmp_path / "c", blank, found))
    assert spared.pictures["truth"] == plain.pictures["truth"]


# --------------------------------------------------------------------------------- several places


def fault_pixels(labels, found):
    """Mark the pixels at fault of whole planes, slowly."""
    masks = [
        views.fault_mask(find_faults(contingency(*p)), *p) for p in zip(labels, found, strict=True)
    ]
    return np.stack(masks)


def inside(mask, view):
    rows, columns = (
        slice(view.top, view.top + view.height),
        slice(view.left, view.left + view.width),
    )
    return int(mask[view.plane, rows, columns].sum())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.usefixtures("small_windows")
def test_places_are_the_worst_windows_and_do_not_overlap(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(views, "SEARCH", 400)  # level 0, so that the places are exact
    labels = draw_cells((200, 260), seed)[None]
    rng = np.random.default_rng(seed)
    found = np.where(np.isin(labels, rng.choice(labels.max(), 9) + 1), 0, labels)
    chosen = views.choose_views(make_sample(tmp_path, labels, found), 4)
    mask = fault_pixels(labels, found)
    taken = np.zeros_like(mask)
    for view in chosen:
        assert inside(taken, view) == 0
        # The slow search over all windows that share no pixel with those before.
        free = (
            views.View(0, top, left, 64, 64)
            for top in range(0, 200 - 63, 4)
            for left in range(0, 260 - 63, 4)
        )
        worst = max(inside(mask, one) for one in free if inside(taken, one) == 0)
        assert inside(mask, view) >= worst
        taken[0, view.top : view.top + 64, view.left : view.left + 64] = True
    assert all(inside(mask, view) for view in chosen)


@pytest.mark.usefixtures("small_windows")
def test_only_places_with_faults_follow_the_first(tmp_path):
    labels = draw_cells((200, 260), seed=1)[None]
    sample = make_sample(tmp_path, labels, labels)
    assert len(views.choose_views(sample, 5)) == 1
    assert pictures.draw_sample(sample, places=3).places == []


def test_places_of_a_stack_lie_in_several_planes(tmp_path):
    labels = np.stack([draw_cells((96, 96), seed=z) for z in range(5)])
    found = labels.copy()
    found[1, 20:50] = 0
    found[3, 20:70] = 0
    chosen = views.choose_views(make_sample(tmp_path, labels, found), 3)
    assert [view.plane for view in chosen] == [3, 1]


@pytest.mark.usefixtures("small_windows")
def test_a_large_sample_shows_its_next_worst_places(tmp_path):
    labels = draw_cells((300, 421), seed=1)[None]
    lost = np.isin(labels, np.unique(labels[:, 192:240, 336:384])[1:])
    lost |= np.isin(labels, np.unique(labels[:, 24:48, 24:48])[1:])
    drawn = pictures.draw_sample(make_sample(tmp_path, labels, np.where(lost, 0, labels)), places=2)
    [place] = drawn.places  # the other fault lies in the main picture
    assert (place.view.height, place.view.width) == (48, 48)
    assert place.view.top < 48
    assert place.faults["missed"] == 1
    assert list(place.pictures) == ["image", "truth", "prediction"]


def test_the_strip_of_a_sample_without_truth_shows_what_was_found(tmp_path):
    labels = draw_cells((48, 50), seed=0)[None]
    [place] = pictures.draw_strip(make_sample(tmp_path, labels, labels, truth=False), 2)
    assert place.faults is None
    assert list(place.pictures) == ["image", "prediction"]
    assert place.size == sum(map(len, place.pictures.values()))


# ------------------------------------------------------------------------------------ 3-D objects


def decode(uri):
    kind, _, text = uri.partition(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_objects_in_space_are_judged_in_space(tmp_path):
    labels = np.zeros((8, 48, 48), np.uint32)
    labels[:, 10:30, 10:30] = 1
    found = labels.copy()
    found[4:] *= 2  # split along z: every plane by itself looks right
    plane, space = (
        make_sample(tmp_path / kind, labels, found, objects=kind) for kind in ("plane", "volume")
    )
    assert sum(pictures.draw_sample(plane).faults.values()) == 0
    drawn = pictures.draw_sample(space)
    assert drawn.faults == {"split": 1, "merged": 0, "missed": 0, "invented": 0}
    assert drawn.planes == range(8)
    [strip] = pictures.draw_strip(space, 2)
    assert strip.faults["split"] == 1


def test_sections_are_true_to_the_size_of_voxels(tmp_path):
    labels = np.zeros((6, 40, 50), np.uint32)
    labels[2:4, 10:20, 10:20] = 1
    found = np.zeros_like(labels)
    sample = make_sample(tmp_path, labels, found, spacing=(3.0, 1.0, 1.0), objects="volume")
    drawn = pictures.draw_sample(sample)
    gap = 4
    for uri in drawn.pictures.values():
        assert decode(uri).shape == (40 + gap + 18, 50 + gap + 18, 3)
    truth = decode(drawn.pictures["truth"])
    below, beside = truth[40 + gap :, :50], truth[:40, 50 + gap :]
    ground = np.array((24, 30, 34))
    seen = [np.abs(part.astype(int) - ground).sum(axis=2) > 60 for part in (below, beside)]
    # Two planes of 3 px each; lines through the place may add to them.
    assert seen[0][6:12, 11:19].all()
    assert seen[1][11:19, 6:12].all()


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.5])
def test_sections_show_the_very_voxels(tmp_path, ratio):
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 2**32, (9, 20, 24), dtype=np.uint32)
    sample = make_sample(tmp_path, labels, labels, spacing=(ratio, 1.0, 1.0))
    view = views.View(4, 2, 3, 16, 18)
    mask = np.zeros((16, 18), bool)
    mask[5, 7] = True
    box = sections.place_box(view, 9, sample.instances.spacing, mask)
    cut = sections.cut(sample.instances, box)
    whole = labels[box.first : box.stop, 2:18, 3:21]
    nearest = (np.arange(round(len(whole) * ratio)) + 0.5) / ratio
    planes = whole[np.minimum(nearest.astype(int), len(whole) - 1)]
    assert (cut.xy[0] == labels[4, 2:18, 3:21]).all()
    assert (cut.xz[0] == planes[:, 5]).all()
    assert (cut.yz[0] == planes[:, :, 7].T).all()
    z, y, x = sections.meeting_point(box, sample.instances.spacing)
    if ratio >= 1:  # else the plane itself may be left out
        assert cut.xz[0][z, x] == cut.yz[0][y, z] == cut.xy[0][y, x]
