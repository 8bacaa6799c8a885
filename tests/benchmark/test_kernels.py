"""The kernels of numba against the usual way of computing the same."""

import numpy as np
import pytest
from gigaseg.labels import contingency
from gigaseg.rand import adapted_rand_counts, information_counts
from gigaseg.warping import warp
from gigaseg.watershed import climb_distance, distance_levels, dynamics_watershed
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.metrics import adapted_rand_error, variation_of_information
from skimage.segmentation import watershed

grows = pytest.mark.parametrize("times", [1, 2])


def packed_cells(side):
    """Ellipses on a jittered lattice of 61 px that nearly all touch: 18 000 at 8192²."""
    random = np.random.default_rng(1)
    mask = np.zeros((side, side), bool)
    lattice = (
        (i * 57, (j + i % 2 / 2) * 65)
        for i in range(side // 57 + 2)
        for j in range(-1, side // 65 + 2)
    )
    for centre in lattice:
        y, x = random.normal(centre, 4)
        height, width = random.uniform(27, 36, 2)
        box = tuple(slice(max(0, int(c) - 40), max(0, min(side, int(c) + 41))) for c in (y, x))
        rows, columns = np.ogrid[box]
        mask[box] |= ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 <= 1
    return mask


def flood_of_scikit_image(mask):
    distance = ndimage.distance_transform_edt(mask)
    peaks = peak_local_max(distance, min_distance=5, labels=mask.astype(np.int32))
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-distance, markers, mask=mask)


@pytest.mark.parametrize("times", [1, 4])
def test_watershed(bench, times):
    side = times * bench.side(2048, 64)
    mask = packed_cells(side)
    ours, peer = bench.compare(
        lambda: dynamics_watershed(distance_levels(mask), mask, climb_distance(1.0)),
        lambda: flood_of_scikit_image(mask),
        names=(
            "distance, seeds, watershed",
            f"{side}², {100 * mask.mean():.0f} % touching cells",
            "scikit-image's distance, peaks, watershed",
        ),
        aim="10 × less CPU at 8192²",
        rounds=3 if times == 1 else 1,
    )
    np.testing.assert_array_equal(ours > 0, mask)
    bench.remark(f"{ours.max()} objects, peer {peer.max()}")


@grows
def test_rand_and_information(bench, nuclei, times):
    side = times * bench.side(2048, 64)
    _, truth = nuclei(side)
    segments = np.roll(truth, (2, 3), (0, 1)) // 2  # moved and merged

    def ours():
        table = contingency(truth, segments)
        rand = adapted_rand_counts(table)
        information = information_counts(table, background="object")
        return rand.error, rand.merge, rand.split, information.voi_split, information.voi_merge

    def peer():
        voi = variation_of_information(truth, segments, ignore_labels=(0,))
        return *adapted_rand_error(truth, segments), *voi

    found, expected = bench.compare(
        ours,
        peer,
        names=(
            "contingency, adapted Rand, VOI",
            f"{side}², {len(np.unique(truth)) - 1} cells",
            "scikit-image's two functions",
        ),
        aim="20 at 4096²",
        rounds=3,
    )
    np.testing.assert_allclose(sorted(found), sorted(expected), atol=1e-9)


def table_of_simple_pixels():
    """Whether flipping keeps the topology: one 4-connected piece of cell, and membrane, around."""
    around = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
    table = []
    for code in range(256):
        patch = np.zeros((3, 3), bool)
        for bit, (y, x) in enumerate(around):
            patch[y + 1, x + 1] = code >> bit & 1
        pieces, _ = ndimage.label(patch)
        cells = set(pieces[[0, 1, 1, 2], [1, 0, 2, 1]].tolist()) - {0}
        table.append(len(cells) == 1 and code < 255)
    return around, table


def mismatches_by_a_plain_loop(truth, cells, around, simple):
    """Flip simple mismatches, column by column, pass after pass; return how many are left."""
    source = np.pad(truth, 1).astype(np.uint8)
    x, y = np.nonzero((truth != cells).T)
    waiting = list(zip(y + 1, x + 1, strict=True))
    while True:
        left = []
        for y, x in waiting:
            code = 0
            for bit, (dy, dx) in enumerate(around):
                code |= source[y + dy, x + dx] << bit
            if simple[code]:
                source[y, x] ^= 1
            else:
                left.append((y, x))
        if len(left) == len(waiting):
            return len(left)
        waiting = left


def test_warping_error(bench, membranes):
    side = bench.side(512, 64)
    truth = membranes(side)
    blobs = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=truth.shape), 2)
    cells = np.roll(truth, 1, axis=0) ^ (blobs > 2.3 * blobs.std())
    around, simple = table_of_simple_pixels()
    found, expected = bench.compare(
        lambda: int(np.count_nonzero(warp(truth, cells) != cells)),
        lambda: mismatches_by_a_plain_loop(truth, cells, around, simple),
        names=(
            "warping error",
            f"{side}², pixel error {np.mean(truth != cells):.3f}",
            "the same as a plain Python loop with a look-up table",
        ),
        aim="100",
    )
    assert found == expected
