"""What is counted of objects and probabilities: the whole is the sum of any parts."""

import json

import numpy as np
import pytest
from gigaseg import census
from gigaseg.calibration import CalibrationCounts, count_calibration
from gigaseg.geometry import blocks
from gigaseg.labels import boundary_truth, contingency
from gigaseg.measures import Joining, measure
from gigaseg.scores import decode, encode
from gigaseg.volumes import commit_image, commit_labels, create_array, open_volume
from hypothesis import given, settings
from hypothesis import strategies as st

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 13), st.integers(1, 13))
OBJECTS = st.sampled_from(["plane", "volume"])


def draw(shape, seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([0, 1, 2, 7, 2**40 + 1], np.uint64), shape)
    return labels, rng.integers(0, 256, shape, dtype=np.uint8)


def slow_spectra(labels):
    """Measure every object by its coordinates."""
    voxels, fill = {}, {}
    for label in np.unique(labels[labels > 0]):
        place = np.argwhere(labels == label)
        box = np.prod(place.max(axis=0) - place.min(axis=0) + 1)
        for spectrum, value in ((voxels, len(place)), (fill, int(1000 * len(place) / box + 0.5))):
            spectrum[value] = spectrum.get(value, 0) + 1
    return {"voxels": dict(sorted(voxels.items())), "fill": dict(sorted(fill.items()))}


@given(SHAPES, SHAPES, st.integers(0, 999))
def test_objects_of_blocks_are_those_of_the_whole(shape, block, seed):
    labels, _ = draw(shape, seed)
    joining = Joining()
    for window in blocks(shape, block):
        joining.add(measure(labels[window.slices], start=window.start))
    assert joining.total().spectra() == slow_spectra(labels)


def test_no_object_has_empty_spectra():
    assert Joining().total().spectra() == {"voxels": {}, "fill": {}}
    assert measure(np.zeros((1, 3, 3), np.uint32)).spectra() == {"voxels": {}, "fill": {}}


def slow_calibration(labels, values, ridge, objects):
    inside = boundary_truth(labels, objects=objects) if ridge else labels != 0
    return CalibrationCounts(
        tuple(np.bincount(values[inside], minlength=256).tolist()),
        tuple(np.bincount(values.ravel(), minlength=256).tolist()),
    )


@given(SHAPES, SHAPES, st.integers(0, 999), st.booleans(), OBJECTS)
def test_calibration_of_blocks_is_that_of_the_whole(shape, block, seed, ridge, objects):
    labels, values = draw(shape, seed)
    total = CalibrationCounts()
    for window in blocks(shape, block):
        near = window.expand((1, 1, 1)).clip(shape)
        start = window.within(near).start
        counts = count_calibration(
            labels[near.slices], values[window.slices], start=start, ridge=ridge, objects=objects
        )
        total += counts
    assert total == slow_calibration(labels, values, ridge, objects)


@given(SHAPES, st.integers(0, 999))
def test_calibration_error_is_the_mean_distance_of_both_shares(shape, seed):
    labels, values = draw(shape, seed)
    counts = count_calibration(labels, values, ridge=False)
    share = {v: np.mean(labels[values == v] > 0) for v in np.unique(values)}
    slow = np.mean([abs(share[v] - v / 255) for v in values.ravel()])
    assert counts.error == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "values", "error"),
    [
        ([1, 0], [255, 0], 0.0),  # sure and right
        ([1, 0], [0, 255], 1.0),  # sure and wrong
        ([1, 1, 1, 1, 0], [204] * 5, 0.0),  # four of five at 0.8
        ([0, 0], [51, 51], 0.2),  # too high by 0.2
    ],
)
def test_calibration_error_case_by_case(labels, values, error):
    counts = count_calibration(np.array([[labels]]), np.array([[values]], np.uint8))
    assert counts.error == pytest.approx(error, abs=1e-15)


def test_no_voxel_has_no_calibration_error_and_counts_survive_json():
    assert np.isnan(CalibrationCounts().error)
    large = CalibrationCounts((10**20,) * 256, (10**21,) * 256)
    assert decode("calibration", encode(large)) == large
    assert len(json.loads(encode(large))["inside"]) == 256


@settings(max_examples=12)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(40, 90), st.integers(40, 90)),
    seed=st.integers(0, 99),
    channels=st.integers(1, 2),
    objects=OBJECTS,
    workers=st.integers(1, 3),
    hidden=st.integers(0, 30),
)
def test_census_of_stores_is_that_of_arrays(
    tmp_path_factory, shape, seed, channels, objects, workers, hidden
):
    root = tmp_path_factory.mktemp("census")
    rng = np.random.default_rng(seed)
    small = [-(-n // 9) for n in shape[1:]]
    truth, found = (
        np.kron(rng.integers(0, 9, (shape[0], *small)), np.ones((9, 9), int)).astype(np.uint32)[
            :, : shape[1], : shape[2]
        ]
        for _ in range(2)
    )
    ignored = 2**32 - 1
    truth[..., :hidden] = ignored
    probabilities = rng.integers(0, 256, (channels, *shape), dtype=np.uint8)
    storage = {"chunk": 16, "shard": 32, "smallest_level": 256}
    volumes = []
    for name, data in {"t": truth, "p": probabilities, "f": found}.items():
        store = root / f"{name}.ome.zarr"
        create_array(store, "0", data.shape, data.dtype, storage=storage)[...] = data
        facts = {"spacing": (1, 1, 1), "levels": 1, "attributes": {"ignored": ignored}}
        if data.ndim == 4:
            commit_image(store, channel_names=[*"ab"][:channels], **facts)
        else:
            commit_labels(store, **facts)
        volumes.append(open_volume(store))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(census, "PIECE", 32)
        tables, parts = zip(*census.count_problems(*volumes, objects, workers=workers), strict=True)
    taken = sum(parts, census.Census())
    pairs = [truth] if objects == "volume" else truth[:, None]
    segments = [found] if objects == "volume" else found[:, None]
    for table, one, other in zip(tables, pairs, segments, strict=True):
        whole = contingency(one, other)
        assert all(np.array_equal(vars(table)[key], vars(whole)[key]) for key in vars(whole))
    values = np.minimum(probabilities.astype(int).sum(axis=0), 255).astype(np.uint8)
    truth = np.where(truth == ignored, 0, truth)
    known = slow_calibration(truth, values, channels == 1, objects)
    assert taken.calibration == known.without(values[..., :hidden])
    assert sum(taken.calibration.voxels) == truth[..., hidden:].size
    for side, labels in (("truth", truth), ("predicted", found)):
        problems = [plane[None] for plane in labels] if objects == "plane" else [labels]
        for name in ("voxels", "fill"):
            total = {}
            for one in problems:
                for value, count in slow_spectra(one)[name].items():
                    total[value] = total.get(value, 0) + count
            assert taken.spectra[side, name] == dict(sorted(total.items()))
    rows = list(taken.rows())
    assert sum(row["objects"] for row in rows) == sum(
        sum(spectrum.values()) for spectrum in taken.spectra.values()
    )
