"""Windows, mirrored indices, and the arithmetic of unpadded networks."""

import numpy as np
import pytest
from gigaseg.geometry import UNetGeometry, Window, blocks, mirror_indices, read_mirrored


def test_windows_move_grow_and_shrink():
    window = Window((2, 3), (5, 9))
    assert window.shape == (3, 6)
    assert window.slices == (slice(2, 5), slice(3, 9))
    assert window.expand((1, 0), (0, 2)) == Window((1, 3), (5, 11))
    assert window.clip((4, 4)) == Window((2, 3), (4, 4))
    assert window.shift((-2, 1)) == Window((0, 4), (3, 10))
    assert window.within(Window((1, 1), (9, 9))) == Window((1, 2), (4, 8))
    assert window.align((4, 4)) == Window((2, 3), (6, 11))
    assert Window.whole((4, 5)) == Window((0, 0), (4, 5))


def test_a_window_beside_the_volume_clips_to_nothing():
    assert Window((9, 0), (12, 2)).clip((4, 4)).shape[0] == 0


def test_blocks_without_extent_are_refused():
    with pytest.raises(ValueError, match=r"block \(0, 2\) has an extent below 1"):
        list(blocks((3, 3), (0, 2)))


def test_a_line_without_samples_cannot_be_mirrored():
    with pytest.raises(ValueError, match="cannot mirror a line of 0 samples"):
        mirror_indices(0, 1, 0)


@pytest.mark.parametrize(
    ("depth", "padding", "tile", "context", "output", "step"),
    [
        (4, "valid", 572, 92, 388, 384),  # the paper's figure 1
        (4, "valid", 188, 92, 4, 0),  # nothing is left after cropping: not legal
        (1, "valid", 18, 8, 2, 2),
        (2, "valid", 44, 20, 4, 4),  # 4 is a multiple of 2**2: nothing to crop
        (3, "valid", 100, 44, 12, 8),
        (5, "valid", 444, 188, 68, 64),
        (4, "same", 576, 96, 384, 384),
    ],
)
def test_what_a_network_consumes(depth, padding, tile, context, output, step):
    geometry = UNetGeometry(depth, padding)
    assert geometry.context == context
    assert geometry.is_legal(tile) == (step > 0)
    if step:
        assert (geometry.output_size(tile), geometry.step(tile)) == (output, step)
        assert geometry.input_size(step) == tile


@pytest.mark.parametrize(
    ("padding", "tile", "following"), [("valid", 512, 524), ("valid", 100, 204), ("same", 570, 576)]
)
def test_a_tile_that_does_not_fit_names_the_next_that_does(padding, tile, following):
    with pytest.raises(
        ValueError, match=f"tile {tile} px .* the next size that does is {following} "
    ):
        UNetGeometry(4, padding).check(tile)
    UNetGeometry(4, padding).check(following)


def test_impossible_networks_are_refused():
    with pytest.raises(ValueError, match="needs depth >= 1, not 0"):
        UNetGeometry(0)
    with pytest.raises(ValueError, match="'valid' or 'same', not 'full'"):
        UNetGeometry(4, "full")


def test_only_the_part_that_is_shown_is_read():
    class Watched(np.ndarray):
        def __getitem__(self, index):
            reads.append(index)
            return np.asarray(self).__getitem__(index)

    reads: list = []
    volume = np.arange(100 * 100).reshape(100, 100).view(Watched)
    read_mirrored(volume, Window((-3, 40), (2, 50)))
    assert reads == [(..., slice(0, 4), slice(40, 50))]
