"""Generated samples: deterministic, touching, and not solved by a threshold."""

import numpy as np
import pytest
from gigaseg.labels import boundary_truth
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
