"""Generated samples: deterministic, touching, and not solved by a threshold."""

import numpy as np
import pytest
from gigaseg import phantoms
from gigaseg.labels import boundary_truth
from gigaseg.mosaics import Mosaic
from gigaseg.phantoms import draw
from gigaseg.readers import open_source
from gigaseg.stages import phantom
from scipy import ndimage

NUCLEI, MEMBRANES = (1, 256, 320), (8, 128, 96)


def test_the_same_seed_and_name_give_the_same_voxels():
    for kind, shape in (("nuclei", NUCLEI), ("membranes", MEMBRANES)):
        first = draw(kind, shape, seed=1, name="a")
        again = draw(kind, shape, seed=1, name="a")
        np.testing.assert_array_equal(first.image, again.image)
        np.testing.assert_array_equal(first.labels, again.labels)


@pytest.mark.parametrize("other", [{"seed": 2, "name": "a"}, {"seed": 1, "name": "b"}])
def test_another_seed_or_name_gives_another_sample(other):
    first = draw("nuclei", (1, 64, 64), seed=1, name="a")
    assert (first.image != draw("nuclei", (1, 64, 64), **other).image).any()


def test_nuclei_are_connected_numbered_from_1_and_many_touch():
    labels = draw("nuclei", NUCLEI, seed=1, name="a").labels[0]
    ids = np.unique(labels)
    np.testing.assert_array_equal(ids, np.arange(len(ids)))
    assert len(ids) > 25
    assert all(ndimage.label(labels == i)[1] == 1 for i in ids[1:])
    touching = np.unique(labels[boundary_truth(labels)])
    assert len(touching) > 0.4 * len(ids)


def found_alone(labels, mask):
    """Share of the objects that overlap a component of the mask by more than half of both."""
    segments, _ = ndimage.label(mask)
    ids = np.unique(labels)[1:]
    hits = 0
    for i in ids:
        inside = labels == i
        counts = np.bincount(segments[inside])
        counts[0] = 0
        union = (inside | (segments == counts.argmax())).sum()
        hits += 2 * counts.max() > union
    return hits / len(ids)


def test_no_threshold_separates_the_nuclei():
    sample = draw("nuclei", NUCLEI, seed=1, name="a")
    smooth = ndimage.gaussian_filter(sample.image[0].astype(float), 1.5)
    thresholds = np.percentile(smooth, range(50, 96, 5))
    assert max(found_alone(sample.labels[0], smooth > t) for t in thresholds) < 0.7


def test_nuclei_are_16_bit_and_not_saturated():
    sample = draw("nuclei", NUCLEI, seed=1, name="a")
    assert (sample.image.dtype, sample.labels.dtype) == (np.uint16, np.uint16)
    assert 256 < sample.image.max() < 65535


def test_membranes_close_cells_and_change_slowly():
    sample = draw("membranes", MEMBRANES, seed=3, name="a")
    assert (sample.image.dtype, sample.image.shape) == (np.uint8, MEMBRANES)
    assert np.unique(sample.labels).tolist() == [0, 255]
    assert 0.05 < np.mean(sample.labels == 0) < 0.3
    assert ndimage.label(sample.labels[0])[1] > 5
    changes = [np.mean(sample.labels[0] != sample.labels[z]) for z in (1, 4, 7)]
    assert changes[0] < changes[1] < changes[2]
    assert sample.image[sample.labels == 0].mean() < sample.image[sample.labels > 0].mean() - 30


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("mitosis", (1, 64, 64), "no phantom of kind 'mitosis'"),
        ("nuclei", (2, 64, 64), "on one plane, not 2"),
    ],
)
def test_what_cannot_be_drawn_is_refused(kind, shape, message):
    with pytest.raises(ValueError, match=message):
        draw(kind, shape, seed=1, name="a")


@pytest.fixture
def small_fields(monkeypatch):
    """Draw planes of more than 128 px as mosaics of fields of 100 px."""
    for name, value in {"LARGEST_FIELD": 128, "MOSAIC_FIELD": 100, "MOSAIC_FIELDS": 3}.items():
        monkeypatch.setattr(phantoms, name, value)


@pytest.mark.usefixtures("small_fields")
def test_large_planes_are_mosaics_with_ids_of_their_own():
    sample = draw("nuclei", (1, 250, 330), seed=1, name="a")
    again = draw("nuclei", (1, 250, 330), seed=1, name="a")
    image, labels = sample.image[0, :, :], sample.labels[0, :, :]
    np.testing.assert_array_equal(image, again.image[0, :, :])
    np.testing.assert_array_equal(labels, again.labels[0, :, :])
    assert (image.shape, image.dtype, labels.dtype) == ((250, 330), np.uint16, np.uint32)
    places = [
        np.unique(labels[y : y + 100, x : x + 100])[1:]
        for y in range(0, 250, 100)
        for x in range(0, 330, 100)
    ]
    ids = np.concatenate(places)
    assert len(ids) == len(np.unique(ids)) > 20
    assert not labels[99:101].any()  # nuclei do not cross seams
    assert labels.astype(bool).mean() == pytest.approx(
        np.mean([field > 0 for field in sample.labels.fields]), abs=0.05
    )


@pytest.mark.usefixtures("small_fields")
def test_planes_up_to_the_largest_field_are_drawn_as_one():
    assert isinstance(draw("nuclei", (1, 128, 128), seed=1, name="a").image, np.ndarray)
    assert isinstance(draw("nuclei", (1, 129, 20), seed=1, name="a").image, Mosaic)


def test_windows_of_a_mosaic_are_those_of_the_whole():
    rng = np.random.default_rng(2)
    fields = rng.integers(0, 50, (3, 7, 7), dtype=np.uint8)
    layout = rng.integers((3, 8), size=(3, 4, 2))
    offsets = 1000 * np.arange(12).reshape(3, 4)
    symmetries = [*(np.rot90(fields, k, (1, 2)) for k in range(4))]
    symmetries += [turned.swapaxes(1, 2) for turned in symmetries]
    turned = np.array([[symmetries[s][n] for n, s in row] for row in layout]).astype(int)
    turned += np.where(turned, offsets[..., None, None], 0)
    whole = turned.swapaxes(1, 2).reshape(21, 28)[:20, :27]
    mosaic = Mosaic((1, 20, 27), fields, layout, offsets)
    np.testing.assert_array_equal(mosaic[0, :, :], whole)
    for y, x in [
        (slice(3, 19), slice(6, 8)),
        (slice(7, 14), slice(None)),
        (slice(18, 99), slice(4)),
    ]:
        np.testing.assert_array_equal(mosaic[0, y, x], whole[y, x])


def rows(folder, names):
    return [
        {"sample": n, "image": str(folder / f"image/{n}.tif"), "label": str(folder / f"{n}.tif")}
        for n in names
    ]


def test_stage_writes_files_that_readers_understand(tmp_path):
    samples = rows(tmp_path, ["a", "b"])
    outputs = [tmp_path / n for n in ("image/a.tif", "a.tif", "image/b.tif", "b.tif")]
    settings = {"kind": "nuclei", "seed": 4, "shape": [1, 64, 80]}
    phantom.run(outputs=outputs, settings={"samples": samples, "phantom": settings})
    expected = draw("nuclei", (1, 64, 80), seed=4, name="b")
    with open_source(tmp_path / "image/b.tif") as source:
        assert source.spacing == pytest.approx(expected.spacing)
        np.testing.assert_array_equal(source[..., :, :, :][0], expected.image)
    with open_source(tmp_path / "b.tif") as source:
        np.testing.assert_array_equal(source[..., :, :, :][0], expected.labels)


def test_stage_notices_that_sheet_and_rule_disagree(tmp_path):
    settings = {"samples": rows(tmp_path, ["a"]), "phantom": {}}
    with pytest.raises(ValueError, match=r"different files: .*c\.tif"):
        phantom.run(
            outputs=[tmp_path / n for n in ("image/a.tif", "a.tif", "c.tif")], settings=settings
        )


@pytest.mark.usefixtures("small_fields")
def test_stage_writes_a_mosaic_without_holding_it(tmp_path, monkeypatch):
    read = []
    window = Mosaic.__getitem__
    monkeypatch.setattr(Mosaic, "__getitem__", lambda self, i: read.append(i) or window(self, i))
    settings = {"kind": "nuclei", "seed": 4, "shape": [1, 300, 1100]}
    outputs = [tmp_path / n for n in ("image/a.tif", "a.tif")]
    phantom.run(outputs=outputs, settings={"samples": rows(tmp_path, ["a"]), "phantom": settings})
    assert {i[1].stop - i[1].start for i in read} == {phantom.TILE}
    expected = draw("nuclei", (1, 300, 1100), seed=4, name="a")
    for path, data in zip(outputs, (expected.image, expected.labels), strict=True):
        with open_source(path) as source:
            np.testing.assert_array_equal(source[..., :, :, :][0, 0], data[0, :, :])


@pytest.mark.usefixtures("small_fields")
def test_a_file_that_could_not_be_finished_has_not_its_name(tmp_path, monkeypatch):
    def stop(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(Mosaic, "__getitem__", stop)
    settings = {"kind": "nuclei", "seed": 4, "shape": [1, 300, 1100]}
    outputs = [tmp_path / n for n in ("image/a.tif", "a.tif")]
    with pytest.raises(OSError, match="no space"):
        phantom.run(
            outputs=outputs, settings={"samples": rows(tmp_path, ["a"]), "phantom": settings}
        )
    assert not any(path.exists() for path in outputs)
