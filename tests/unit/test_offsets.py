"""Offsets of the truth from a map: known shifts are found, and a narrow map is taken for none."""

import math

import numpy as np
import pytest
from gigaseg.bands import cut_bands
from gigaseg.offsets import REACH, OffsetCounts, count_offset
from gigaseg.remarks import remark_offset
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

SIDE = 160
TAPS = np.array([1, 4, 6, 4, 1])


def field(shift=(0.0, 0.0), seed=0):
    """A smooth random field, moved by `shift` px (y, x); 0 is where outlines run."""
    noise = np.random.default_rng(seed).normal(size=(SIDE, SIDE))
    moved = ndimage.fourier_shift(
        np.fft.fft2(ndimage.gaussian_filter(noise, 5, mode="wrap")), shift
    )
    values = np.fft.ifft2(moved).real
    return values / values.std()


def soft_map(values):
    """Outlines as soft as a network's, some three pixels wide."""
    return np.rint(255 / (1 + np.exp(-6 * values))).astype(np.uint8)


def slow_sums(cells, values, known):
    """The sums of the formula, pixel by pixel."""

    def smooth(array, y, x):
        window = array[y - 2 : y + 3, x - 2 : x + 3].astype(int)
        return int(TAPS @ window @ TAPS)

    lacking = 255 * cells.astype(int) - values
    counts = dict.fromkeys(("y", "yy", "x", "xx"), 0)
    for y in range(3, cells.shape[0] - 3):
        for x in range(3, cells.shape[1] - 3):
            read = known[y - 3 : y + 4, x - 2 : x + 3], known[y - 2 : y + 3, x - 3 : x + 4]
            if read[0].all() and read[1].all():
                for name, (dy, dx) in {"y": (1, 0), "x": (0, 1)}.items():
                    g = smooth(values, y + dy, x + dx) - smooth(values, y - dy, x - dx)
                    counts[name] += g * smooth(lacking, y, x)
                    counts[2 * name] += g * g
    return OffsetCounts(**counts)


@given(st.tuples(st.integers(0, 11), st.integers(0, 11)), st.integers(1, 9), st.data())
def test_the_sums_are_those_of_the_formula_however_rows_are_cut(shape, rows, data):
    cells, values = (data.draw(hnp.arrays(kind, shape)) for kind in (bool, np.uint8))
    hidden = data.draw(st.sampled_from([0, 0.05, 1]))
    known = np.random.default_rng(shape[0]).random(shape) >= hidden
    everywhere = slow_sums(cells, values, np.ones(shape, bool))
    assert count_offset(cells, values) == everywhere
    assert count_offset(cells, values, known) == slow_sums(cells, values, known)
    total = OffsetCounts()
    for band in cut_bands(shape[0], rows, REACH):
        read, own = slice(band.top, band.bottom), band.own
        total += count_offset(
            cells[read], values[read], known[read], start=own.start, stop=own.stop
        )
    assert total == slow_sums(cells, values, known)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, 0.0), (0.0, -0.5), (-0.7, 0.3), (1.0, -1.0)])
def test_a_shift_of_a_pixel_or_less_is_found(shift):
    found = count_offset(field(shift) > 0, soft_map(field())).vector
    assert found == pytest.approx(shift, rel=0.3, abs=0.11)


@pytest.mark.parametrize("shift", [-4.0, -2.0, 2.0, 4.0])
def test_of_a_larger_shift_the_side_is_right(shift):
    y, x = count_offset(field((shift, 0)) > 0, soft_map(field())).vector
    assert y * shift > 0
    assert 1 < abs(y) < 1.2 * abs(shift)
    assert abs(x) < 0.25


@pytest.mark.parametrize("level", [-0.5, 0.5])
def test_a_map_that_is_too_narrow_or_too_wide_is_hardly_shifted(level):
    found = count_offset(field() > 0, soft_map(field() - level)).vector
    assert found == pytest.approx((0, 0), abs=0.2)


def test_what_is_not_known_has_no_say():
    cells, values, known = field((0.6, 0)) > 0, soft_map(field()), np.ones((SIDE, SIDE), bool)
    known[40:90, 30:120] = False
    one = count_offset(cells, values, known)
    cells[~known] = ~cells[~known]
    values[~known] = 255 - values[~known]
    assert count_offset(cells, values, known) == one


def test_a_flat_map_has_no_offset():
    flat = count_offset(np.eye(5, dtype=bool), np.full((5, 5), 9, np.uint8))
    assert math.isnan(flat.length)
    assert remark_offset(flat) is None


@pytest.mark.parametrize(
    ("y", "x", "told"),
    [
        (25, 0, "0.5 px above the map"),
        (-25, 1, "0.5 px below the map"),
        (0, 20, "0.4 px left of the map"),
        (10, -30, "0.2 px above and 0.6 px right of the map"),
        (12, 0, None),
    ],
)
def test_an_offset_is_put_in_words(y, x, told):
    text = remark_offset(OffsetCounts(y=y, yy=100, x=x, xx=100))
    assert text == (told and f"the truth lies {told}")
