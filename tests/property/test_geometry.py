"""Blocks partition any shape; mirrored indices are NumPy's; networks agree with the geometry."""

from itertools import product

import numpy as np
import torch
from gigaseg.geometry import UNetGeometry, Window, blocks, mirror_indices, read_mirrored
from gigaseg.networks import build
from gigaseg.tiling import TileGrid
from gigaseg.unet import Architecture
from hypothesis import given, settings
from hypothesis import strategies as st

extents = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=3)
geometries = st.builds(
    UNetGeometry,
    st.integers(1, 5),
    st.sampled_from(["valid", "same"]),
    st.sampled_from(["unet", "unet++", "fcn"]),
)


@settings(deadline=None)
@given(extents)
def test_blocks_partition_any_shape(pairs):
    shape, block = zip(*pairs, strict=True)
    count = np.zeros(shape, int)
    windows = list(blocks(shape, block))
    for window in windows:
        count[window.slices] += 1
        assert all(n <= b for n, b in zip(window.shape, block, strict=True))
    assert (count == 1).all()
    assert windows == sorted(windows, key=lambda w: w.start)


@settings(deadline=None)
@given(size=st.integers(1, 12), before=st.integers(0, 50), after=st.integers(0, 50))
def test_mirror_indices_are_those_of_numpy(size, before, after):
    mode = "reflect" if size > 1 else "edge"
    expected = np.pad(np.arange(size), (before, after), mode=mode)
    np.testing.assert_array_equal(mirror_indices(-before, size + after, size), expected)


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    start=st.tuples(st.integers(-20, 20), st.integers(-20, 20)),
    extent=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_any_window_can_be_read(shape, start, extent):
    volume = np.arange(2 * np.prod(shape)).reshape(2, *shape)
    window = Window(start, tuple(a + n for a, n in zip(start, extent, strict=True)))
    rows, columns = (
        mirror_indices(a, b, n) for a, b, n in zip(window.start, window.stop, shape, strict=True)
    )
    expected = volume[:, rows][:, :, columns]
    np.testing.assert_array_equal(read_mirrored(volume, window), expected)


@settings(deadline=None)
@given(geometry=geometries, output=st.integers(1, 600))
def test_the_input_size_is_the_smallest_that_suffices(geometry, output):
    tile = geometry.input_size(output)
    assert geometry.is_legal(tile)
    assert geometry.step(tile) >= output
    smaller = tile - geometry.lattice
    assert not geometry.is_legal(smaller) or geometry.step(smaller) < output


@settings(deadline=None, max_examples=15)
@given(geometry=geometries, more=st.integers(0, 2))
def test_networks_return_what_the_geometry_says(geometry, more):
    tile = geometry.smallest + more * geometry.lattice
    shape_of = {"depth": geometry.depth, "padding": geometry.padding, "kind": geometry.kind}
    network = build(Architecture(width=1, **shape_of)).eval()
    with torch.inference_mode():
        shape = network(torch.zeros(1, 1, tile, tile)).shape[-2:]
    kept = geometry.output_size(tile)
    assert tuple(shape) == ((kept, kept) if geometry.padding == "valid" else (tile, tile))
    assert 0 < geometry.step(tile) <= kept
    assert geometry.step(tile) % geometry.lattice == 0


@settings(deadline=None)
@given(geometry=geometries, more=st.integers(0, 5), steps=st.tuples(*[st.integers(1, 3)] * 2))
def test_tiles_cover_a_block_and_stay_inside_its_halo(geometry, more, steps):
    grid = TileGrid(geometry, geometry.smallest + more * geometry.lattice)
    shape = tuple(n * grid.step for n in steps)
    tiles = list(grid.tiles(shape))
    assert {write.start for _, write in tiles} == set(
        product(*(range(0, n, grid.step) for n in shape))
    )
    for read, write in tiles:
        assert read.shape == (grid.tile,) * 2
        assert all(a >= 0 for a in read.start)
        assert all(b <= n + 2 * grid.halo for b, n in zip(read.stop, shape, strict=True))
        # The context lies before the output window, in coordinates that count the halo.
        assert all(
            w + grid.halo - r == geometry.context
            for w, r in zip(write.start, read.start, strict=True)
        )
