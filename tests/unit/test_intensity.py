"""Normalisation: one definition for training and prediction, whatever the volume's cut."""

import numpy as np
import pytest
from gigaseg.geometry import blocks
from gigaseg.intensity import Tally, intensity_window, measure

PERCENTILE = {"method": "percentile", "low": 1, "high": 99.8, "per": "volume"}


@pytest.fixture
def data():
    return np.random.default_rng(0).integers(50, 900, (2, 3, 40, 50)).astype("u2")


def normalise(data, window):
    offset, scale = (n[:, None, None, None] for n in window)
    return (data - offset) * scale


def test_percentiles_map_to_0_and_1(data):
    result = normalise(data, intensity_window(measure(data), PERCENTILE))
    np.testing.assert_allclose(np.percentile(result[1], [1, 99.8]), [0, 1], atol=1e-6)


def test_standard_gives_mean_0_and_deviation_1(data):
    window = intensity_window(measure(data), {"method": "standard", "per": "volume"})
    result = normalise(data, window)
    np.testing.assert_allclose(result.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(result.std(axis=(1, 2, 3)), 1, atol=1e-5)


def test_none_changes_nothing(data):
    window = intensity_window(measure(data), {"method": "none", "per": "volume"})
    np.testing.assert_array_equal(normalise(data, window), data)


def test_each_plane_by_itself(data):
    settings = {"method": "standard", "per": "plane"}
    offset, _ = intensity_window(measure(data), settings, plane=1)
    np.testing.assert_allclose(offset, data[:, 1].mean(axis=(1, 2)), rtol=1e-6)
    single = measure(data[:, :1])
    np.testing.assert_array_equal(
        intensity_window(single, settings, plane=0), intensity_window(single, PERCENTILE | settings)
    )


def test_sparse_and_constant_channels_stay_finite():
    data = np.zeros((2, 1, 100, 100), "u1")
    data[0, 0, 0, :3] = 200  # less than 0.2 percent: both percentiles are 0
    result = normalise(data, intensity_window(measure(data), PERCENTILE))
    assert (result[0].min(), result[0].max(), result[1].max()) == (0, 1, 0)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "i4", "f4", "f8"])
def test_extremes_of_every_type_are_counted(dtype):
    kind = np.dtype(dtype)
    limits = np.finfo("f4") if kind.kind == "f" else np.iinfo(kind)
    data = np.array([limits.min, limits.max], kind).reshape(1, 1, 1, 2)
    volume = measure(data)["volume"]
    np.testing.assert_allclose(volume["minimum"], float(limits.min))
    np.testing.assert_allclose(volume["maximum"], float(limits.max))


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4"])
@pytest.mark.parametrize("block", [(1, 7, 9), (2, 16, 50), (3, 40, 50)])
@pytest.mark.parametrize("share", [0, 0.5, 1])
@pytest.mark.parametrize("workers", [1, 3])
def test_cut_threads_and_what_was_seen_do_not_matter(data, dtype, block, share, workers):
    data = (data / 4).astype(dtype)
    tally = Tally(data.shape, data.dtype)
    windows = list(blocks(data.shape[1:], block))
    np.random.default_rng(0).shuffle(windows)
    for window in windows[: int(share * len(windows))]:
        tally.add(data[(slice(None), *window.slices)], window)
    assert tally.finish(data, block=block, workers=workers) == measure(data)


def test_unknown_percentile_is_refused(data):
    with pytest.raises(ValueError, match=r"percentile 3 is not stored; choose one of \[0, 0.1"):
        intensity_window(measure(data), PERCENTILE | {"low": 3})


@pytest.mark.parametrize("plane", [None, 3])
def test_missing_plane_is_refused(data, plane):
    with pytest.raises(ValueError, match="needs a plane from 0 to 2"):
        intensity_window(measure(data), PERCENTILE | {"per": "plane"}, plane)
