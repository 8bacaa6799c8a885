"""Splitting block by block gives what the definition gives on the whole, bit for bit."""

import numpy as np
import pytest
from gigaseg.cuts import Cut, Work
from gigaseg.instances import Evidence, Splitting, segment
from gigaseg.labels import boundary_truth
from gigaseg.ledger import BlockLedger
from gigaseg.objects import Quanta
from gigaseg.splitting import split_volume
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

SPACINGS = [(1.0, 1.0, 1.0), (2.5, 1.0, 0.5)]
hows = st.builds(
    Splitting,
    method=st.sampled_from(["watershed", "watershed", "watershed", "components"]),
    level=st.sampled_from(["distance", "probability"]),
    seeds=st.sampled_from(["dynamics", "probability"]),
    h=st.sampled_from([0.0, 1.0, 2.5, 40.0]),
    seed_threshold=st.sampled_from([0.6, 0.8]),
    fill=st.booleans(),
    ridge=st.sampled_from([True, True, False]),
    fill_holes=st.sampled_from([True, True, False]),
    minimum_size=st.sampled_from([0, 0, 3, 12]),
)


shapes = st.sampled_from([(1, 14, 17), (3, 9, 11), (1, 1, 25), (5, 6, 7)])
randoms = st.integers(0, 10**6).map(np.random.default_rng)


@st.composite
def cells(draw):
    """Touching cells parted by a ridge, as a network that learned it shows them, with holes."""
    shape, random = draw(shapes), draw(randoms)
    count = draw(st.integers(3, 14))
    places = [random.integers(0, n, count) for n in shape]
    grid = np.indices(shape)[..., None]
    nearest = sum((axis - place) ** 2 for axis, place in zip(grid, places, strict=True))
    labels = nearest.argmin(axis=-1) + 1
    density = draw(st.sampled_from([0.8, 0.95, 1.0]))
    inside = boundary_truth(labels) & (random.random(shape) < density)
    return np.where(inside, random.choice([180, 255], shape), 0).astype(np.uint8)[None]


@st.composite
def blobs(draw):
    """Smooth blobs with plateaus, holes and gaps, up to one that is everything."""
    shape, random = draw(shapes), draw(randoms)
    channels = draw(st.sampled_from([1, 2]))
    field = random.random((channels, *shape))
    for axis in (1, 2, 3):
        for _ in range(draw(st.integers(0, 2))):
            field = (np.roll(field, 1, axis) + 2 * field + np.roll(field, -1, axis)) / 4
    field -= field.min()
    density = draw(st.sampled_from([0.3, 0.5, 0.8, 1.4, 99.0]))
    values = np.clip(density * field / max(field.max(), 1e-9), 0, 1) / channels
    levels = draw(st.sampled_from([4, 255]))
    return (np.rint(values * levels) * (255 // levels)).astype(np.uint8)


def make_work(folder, values, how, objects, cut, spacing=SPACINGS[0]):
    shape = values.shape[1:]
    image = np.random.default_rng(0).normal(0, 50, (2, *shape)).astype(np.float32)
    return Work(
        probabilities=values,
        image=image,
        fragments=np.zeros(shape, np.uint32),
        folder=folder,
        how=how,
        target="foreground" if len(values) == 1 else "interior_boundary",
        objects=objects,
        spacing=spacing,
        quanta=tuple(Quanta.choose(image.dtype, float(abs(c).max())) for c in image),
        cut=cut,
    )


def on_the_whole(work):
    """Follow the definition: label each problem in memory, number through."""
    values = work.probabilities
    if work.objects == "volume":
        return segment(Evidence.read(values, work.target), work.how, work.spacing)
    labels, total = np.zeros(work.shape, np.uint32), 0
    for z in range(len(labels)):
        own = segment(Evidence.read(values[:, z], work.target), work.how, work.spacing[1:])
        labels[z] = np.where(own > 0, own + total, 0)
        total += own.max(initial=0)
    return labels


def check_tally(work, labels, found):
    assert found.voxels.size == labels.max(initial=0)
    means = found.means(work.quanta)
    for k in range(found.voxels.size):
        where = np.argwhere(labels == k + 1)
        assert found.voxels[k] == len(where)
        assert found.place[k].tolist() == where.sum(axis=0).tolist()
        assert found.start[k].tolist() == where.min(axis=0).tolist()
        assert found.stop[k].tolist() == (where.max(axis=0) + 1).tolist()
        assert found.first[k] == np.ravel_multi_index(tuple(where[0]), labels.shape)
        exact = work.image[:, labels == k + 1].mean(axis=1, dtype=np.float64)
        np.testing.assert_allclose(means[k], exact, atol=1e-7)


def split(work, folder, workers=1):
    labels = np.full(work.shape, 7, np.uint32)
    found = split_volume(
        work, labels, lambda name: BlockLedger(folder / "ledger", name), workers=workers
    )
    return labels, found


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_disks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.mark.parametrize("objects", ["plane", "volume"])
@settings(max_examples=40)
@given(
    values=st.one_of(cells(), blobs()),
    how=hows,
    spacing=st.sampled_from(SPACINGS),
    sides=st.lists(st.sampled_from([2, 3, 5, 8]), min_size=6, max_size=6),
    times=st.tuples(st.just(1), st.integers(1, 2), st.integers(1, 2)),
    workers=st.sampled_from([1, 4]),
)
def test_any_cut_gives_the_whole(
    tmp_path_factory, objects, values, how, spacing, sides, times, workers
):
    folder = tmp_path_factory.mktemp("split")
    deep = objects == "volume"
    flood, part = ((sides[k] if deep else 1, *sides[k + 1 : k + 3]) for k in (0, 3))
    cut = Cut(flood, tuple(n * m for n, m in zip(part, times, strict=True)), part)
    work = make_work(folder, values, how, objects, cut, spacing)
    expected = on_the_whole(work)
    labels, found = split(work, folder, workers)
    np.testing.assert_array_equal(labels, expected)
    check_tally(work, labels, found)


@pytest.mark.parametrize("ridge", [True, False])
def test_fill_fills_no_plane_without_foreground(tmp_path, ridge):
    values = np.zeros((1, 4, 9, 9), np.uint8)
    values[0, 1, 2:5, 2:5] = values[0, 3, 6, 6] = 255
    cut = Cut((1, 5, 5), (1, 9, 4), (1, 4, 4))
    work = make_work(tmp_path, values, Splitting(fill=True, ridge=ridge), "plane", cut)
    labels, found = split(work, tmp_path)
    assert [labels[z].min() for z in range(4)] == [0, 1, 0, 2]
    np.testing.assert_array_equal(labels, on_the_whole(work))
    check_tally(work, labels, found)


def spiral(extent):
    """One object that goes around everywhere, one voxel wide between gaps of one."""
    inside = np.zeros((extent, extent), np.uint8)
    inside[::2] = 255
    inside[1::4, -1] = inside[3::4, 0] = 255
    return inside[None, None]


def ring(extent):
    """One object with one hole, both larger than any block."""
    inside = np.full((extent, extent), 255, np.uint8)
    inside[3:-3, 3:-3] = 0
    return inside[None, None]


@pytest.mark.parametrize("make", [spiral, ring, lambda n: np.full((1, 1, n, n), 255, np.uint8)])
@pytest.mark.parametrize("level", ["distance", "probability"])
@pytest.mark.parametrize("fill_holes", [True, False])
def test_one_object_spans_all_blocks(tmp_path, make, level, fill_holes):
    cut = Cut((1, 5, 5), (1, 7, 12), (1, 7, 6))
    how = Splitting(level=level, h=99, fill_holes=fill_holes)
    work = make_work(tmp_path, make(33), how, "plane", cut)
    labels, found = split(work, tmp_path, workers=4)
    np.testing.assert_array_equal(labels, on_the_whole(work))
    assert found.voxels.size == 1
    check_tally(work, labels, found)


def crowd(extent, spacing, seed):
    """Thousands of touching cells with the ridge of a network that learned it, and some noise."""
    random = np.random.default_rng(seed)
    sites = np.zeros((extent, extent), bool)
    places = np.indices((extent // spacing,) * 2).reshape(2, -1) * spacing
    y, x = places + random.integers(0, spacing, places.shape)
    sites[y, x] = True
    numbers = ndimage.label(sites)[0]
    away, (y, x) = ndimage.distance_transform_edt(~sites, return_indices=True)
    inside = boundary_truth(np.where(away < spacing, numbers[y, x], 0))
    smooth = ndimage.gaussian_filter(inside.astype(float), 0.7)
    noisy = np.clip(smooth + random.normal(0, 0.02, smooth.shape), 0, 1)
    return np.rint(255 * noisy).astype(np.uint8)[None, None]


@pytest.mark.heavy
@pytest.mark.parametrize(
    "how",
    [
        Splitting(),
        Splitting(level="probability", seeds="probability", fill=True),
        Splitting(level="probability", h=20, fill_holes=True, minimum_size=30, ridge=False),
    ],
)
def test_thousands_of_touching_cells_are_all_the_same(tmp_path, how):
    values = crowd(1200, 18, seed=3)
    expected = None
    cuts = [
        Cut((1, 100, 90), (1, 256, 256), (1, 256, 128)),
        Cut((1, 333, 500), (1, 96, 64), (1, 96, 64)),
    ]
    for name, cut in enumerate(cuts):
        work = make_work(tmp_path / str(name), values, how, "plane", cut)
        labels, found = split(work, tmp_path / str(name), workers=4)
        expected = on_the_whole(work) if expected is None else expected
        np.testing.assert_array_equal(labels, expected)
        np.testing.assert_array_equal(found.voxels, np.bincount(expected.ravel())[1:])
    assert expected.max() > 3000
