import numpy as np
import pytest
from gigaseg.geometry import Window, blocks
from gigaseg.levels import Survey, block_distance_levels


def surveyed(mask, block):
    return [Survey.of(mask[window.slices], window) for window in blocks(mask.shape, block)]


class Reader:
    """Reads windows of a mask, and remembers which."""

    def __init__(self, mask):
        self.mask, self.windows = mask, []

    def __call__(self, window):
        self.windows.append(window)
        return self.mask[window.slices]


def test_a_halo_that_shows_enough_is_all_that_is_read():
    mask = np.ones((40, 40), bool)
    mask[::8] = False
    read, window = Reader(mask), Window((10, 10), (20, 20))
    levels = block_distance_levels(
        read, window, mask.shape, surveys=surveyed(mask, (10, 10)), halo=4
    )
    assert levels.min() == -16
    assert read.windows == [Window((6, 6), (24, 24))]


def test_the_nearest_blocks_come_first_and_far_ones_never():
    mask = np.ones((1, 1000), bool)
    mask[0, [130, 900]] = False
    read, window = Reader(mask), Window((0, 200), (1, 210))
    levels = block_distance_levels(
        read, window, mask.shape, surveys=surveyed(mask, (1, 10)), halo=0
    )
    assert levels[0, [0, -1]].tolist() == [-(70**2), -(79**2)]
    assert read.windows == [window, Window((0, 130), (1, 131))]


def test_nothing_to_measure_to():
    window, full = Window((0, 2), (1, 4)), np.ones((1, 6), bool)
    for beyond in (False, True):
        for mask, expected in ((full, [[-1, -1]]), (~full, [[0, 0]])):
            levels = block_distance_levels(
                Reader(mask),
                window,
                mask.shape,
                surveys=surveyed(mask, (1, 3)),
                halo=1,
                beyond=beyond,
            )
            assert levels.tolist() == expected


def test_a_halo_is_as_wide_along_every_axis():
    mask = np.ones((9, 30, 30), bool)
    mask[0, 0, 0] = False
    read, window = Reader(mask), Window((4, 10, 10), (5, 20, 20))
    block_distance_levels(
        read,
        window,
        mask.shape,
        surveys=surveyed(mask, (9, 30, 30)),
        halo=6,
        spacing=(2.5, 1.0, 1.0),
    )
    assert read.windows[0] == Window((1, 4, 4), (8, 26, 26))


def test_levels_beyond_32_bits_are_exact():
    shape, sites = (1, 70_000), Window((0, 0), (1, 1))
    levels = block_distance_levels(
        lambda window: np.arange(window.start[1], window.stop[1])[None] > 0,
        Window((0, 69_990), (1, 70_000)),
        shape,
        surveys=[Survey(Window((0, 1), shape), sites)],
        halo=0,
    )
    assert levels.dtype == np.int64
    assert levels[0, -1] == -(69_999**2)


def test_spacing_is_checked():
    with pytest.raises(ValueError, match="1 values, the array 2 axes"):
        block_distance_levels(
            Reader(np.ones((1, 1), bool)),
            Window((0, 0), (1, 1)),
            (1, 1),
            surveys=[],
            halo=0,
            spacing=(1.0,),
        )
