"""How a grid of tiles is chosen, and what is refused."""

import pytest
from gigaseg.geometry import UNetGeometry
from gigaseg.tiling import (
    LARGEST_TILE,
    TileGrid,
    check_tile,
    choose_tile,
    share_blocks,
    tile_memory_gb,
)
from hypothesis import given
from hypothesis import strategies as st

PAPER = UNetGeometry(4)


def choose(shape, block=(1024, 1024), geometry=PAPER, width=16, memory_gb=2.0, device="cpu"):
    return choose_tile(geometry, shape, block, width=width, memory_gb=memory_gb, device=device)


@pytest.mark.parametrize(
    ("shape", "tile"),
    [
        ((4096, 4096), 1212),  # as large as blocks of 1024 px
        ((256, 256), 444),  # one tile, exactly as large as the image
        ((250, 100), 444),  # one tile, rounded up to the lattice
        ((2, 2), 204),  # the smallest tile there is
        ((512, 512), 700),  # one tile reads less than four
        ((520, 696), 892),  # one tile of step 704
    ],
)
def test_the_grid_that_reads_fewest_pixels_is_chosen(shape, tile):
    assert choose(shape) == tile


@pytest.mark.parametrize("shape", [(1, 1), (300, 1000), (1025, 40), (5000, 5000)])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("depth", [1, 3, 5])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_choice_is_legal_fits_the_blocks_and_the_memory(shape, padding, depth, device):
    geometry = UNetGeometry(depth, padding)
    tile = choose(shape, geometry=geometry, width=64, memory_gb=1.0, device=device)
    geometry.check(tile)
    check_tile(geometry, tile, shape, (1024, 1024))
    assert tile <= LARGEST_TILE[device]
    assert tile_memory_gb(geometry, tile, 64) <= 1.0


def test_less_memory_gives_smaller_tiles():
    assert choose((4096, 4096), width=64, memory_gb=0.5) == 444


def test_the_largest_tile_may_be_exceeded_where_the_network_needs_it():
    deep = UNetGeometry(8)
    assert deep.smallest > LARGEST_TILE["cpu"]
    assert choose((4096, 4096), geometry=deep, memory_gb=100.0) == deep.smallest


def test_a_gpu_takes_tiles_as_large_as_the_memory_allows():
    large = (16384, 16384)
    assert choose(large, (4096, 4096), memory_gb=16.0) == 1212
    assert choose(large, (4096, 4096), memory_gb=16.0, device="cuda") == 2236
    assert choose(large, (4096, 4096), memory_gb=2.0, device="cuda") == 1212
    assert choose((1800, 1800), (4096, 4096), memory_gb=8.0, device="cuda") == 1996  # one tile
    assert choose((1800, 1800), (4096, 4096), memory_gb=1.0, device="cuda") <= 1250


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=40), parts=st.integers(1, 9))
def test_parts_are_consecutive_and_about_equal(sizes, parts):
    owners = share_blocks(sizes, parts)
    assert owners == sorted(owners)
    assert {0} <= {*owners, 0} <= {*range(parts)}
    for part in range(parts):
        work = sum(size for size, owner in zip(sizes, owners, strict=True) if owner == part)
        assert abs(work - sum(sizes) / parts) <= max(sizes)


def test_too_little_memory_is_an_error():
    with pytest.raises(
        ValueError, match=r"204 px, takes 0\.02 GB.*prediction\.memory_gb, which is 0\.01"
    ):
        choose((4096, 4096), memory_gb=0.01)


def test_blocks_off_the_lattice_are_an_error():
    with pytest.raises(ValueError, match=r"blocks of \(1000, 1000\) px: .* a multiple of 16 px"):
        choose((4096, 4096), block=(1000, 1000))
    with pytest.raises(ValueError, match=r"572 px steps by 384 px.* a multiple of 16 px"):
        check_tile(PAPER, 572, (4096, 4096), (1000, 1000))


def test_a_tile_that_does_not_divide_the_block_names_the_next_that_does():
    with pytest.raises(ValueError, match=r"384 px, which does not divide .* that fits is 700, or"):
        check_tile(PAPER, 572, (4096, 4096), (1024, 1024))
    check_tile(PAPER, 700, (4096, 4096), (1024, 1024))
    with pytest.raises(ValueError, match="the largest tile that fits is 1212"):
        check_tile(PAPER, 188 + 2048, (4096, 4096), (1024, 1024))


def test_a_volume_of_one_block_takes_any_legal_tile():
    check_tile(PAPER, 572, (1024, 700), (1024, 1024))


def test_illegal_tiles_are_refused():
    with pytest.raises(ValueError, match="the next size that does is 524"):
        TileGrid(PAPER, 512)
    with pytest.raises(ValueError, match="the next size that does is 524"):
        check_tile(PAPER, 512, (100, 100), (1024, 1024))
