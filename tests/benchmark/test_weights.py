"""Separation weights against the usual ways of computing them, and against themselves."""

import tracemalloc
from math import ceil

import numpy as np
import pytest
from gigaseg.labels import boundaries
from gigaseg.weights import cutoff, encode_target, separation
from scipy import ndimage

W0, SIGMA = 10.0, 5.0
LIMIT = cutoff(W0, SIGMA)


def drawn_cells(side, count):
    """Draw about `count` ellipses on a jittered lattice, many of which touch."""
    random, labels = np.random.default_rng(0), np.zeros((side, side), np.int32)
    rows = round(count**0.5)
    pitch = side / rows
    for k in range(rows**2):
        y, x = (np.array(divmod(k, rows)) + 0.5 + random.uniform(-0.15, 0.15, 2)) * pitch
        height, width = random.uniform(0.35, 0.55, 2) * pitch
        box = tuple(slice(max(0, int(c - r)), int(c + r) + 2) for c, r in ((y, height), (x, width)))
        grid = np.ogrid[tuple(slice(b.start, min(b.stop, side)) for b in box)]
        labels[box][((grid[0] - y) / height) ** 2 + ((grid[1] - x) / width) ** 2 < 1] = k + 1
    return labels


@pytest.fixture
def cells(bench):
    """Return the labels of the table, about 1000 cells in 2048² where it is measured."""
    side = bench.side(2048, 96)
    return drawn_cells(side, 1000 * (side / 2048) ** 2 if bench.measured else 9)


def ours(labels):
    return separation(labels, w0=W0, sigma=SIGMA)


def nearest_two(labels, ids, boxes):
    """Keep the two smallest of one distance transform per cell, each within a box."""
    two = np.full((2, *labels.shape), np.inf)
    for i, box in zip(ids, boxes, strict=True):
        distance = ndimage.distance_transform_edt(labels[box] != i)
        first, second = two[0][box], two[1][box]
        np.minimum(second, np.maximum(first, distance), out=second)
        np.minimum(first, distance, out=first)
    return two


def weights_of(labels, two):
    total = two.sum(axis=0)
    weights = np.where(total <= LIMIT, W0 * np.exp(-(total**2) / (2 * SIGMA**2)), 0)
    return np.where((labels == 0) | boundaries(labels), weights, 0)


def name(labels):
    return f"{len(labels)}², {len(np.unique(labels)) - 1} cells"


def test_one_transform_of_the_plane_per_cell(bench, cells):
    ids = np.unique(cells)[1:]
    sample = np.random.default_rng(0).permutation(ids)[:20] if bench.measured else ids
    weights, two = bench.compare(
        lambda: ours(cells),
        lambda: nearest_two(cells, sample, [...] * len(sample)),
        names=("separation weights", name(cells), "a scipy distance transform per cell"),
        aim="500",
        part=len(sample) / len(ids),
        rounds=3,
    )
    bench.remark(f"peer timed on {len(sample)} cells and scaled")
    if len(sample) == len(ids):
        np.testing.assert_allclose(weights, weights_of(cells, two), atol=1e-6)


def test_one_cropped_transform_per_cell(bench, cells):
    ids, reach = np.unique(cells)[1:], ceil(LIMIT)

    def peer():
        found = [box for box in ndimage.find_objects(cells) if box]
        boxes = [
            tuple(slice(max(0, s.start - reach), s.stop + reach) for s in box) for box in found
        ]
        return weights_of(cells, nearest_two(cells, ids, boxes))

    weights, expected = bench.compare(
        lambda: ours(cells),
        peer,
        names=(
            "separation weights",
            name(cells),
            "the same from transforms cropped to each cell and the cut-off",
        ),
        aim="2",
        rounds=3,
    )
    np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_one_pass_over_all_labels(bench, cells):
    edt = pytest.importorskip("edt", reason="the floor needs the package edt: pip install edt")
    weights, distance = bench.compare(
        lambda: ours(cells),
        lambda: edt.edt(cells, parallel=1),
        names=("separation weights", name(cells), "one multi-label edt.edt pass: the floor"),
        aim="0.25",
    )
    assert weights.shape == distance.shape


def test_time_follows_pixels(bench):
    sides = (512, 4096) if bench.measured else (32, 64)
    small, large = drawn_cells(sides[0], 60), drawn_cells(sides[1], 5000)
    weights, _ = bench.compare(
        lambda: ours(large),
        lambda: ours(small),
        names=("separation weights", name(large), f"itself at {name(small)}, per px"),
        aim="0.83",
        part=(sides[0] / sides[1]) ** 2,
    )
    assert weights.shape == large.shape


@pytest.mark.parametrize(
    "function",
    [ours, lambda labels: encode_target(labels, boundary_width=2)],
    ids=["separation", "target"],
)
def test_memory_is_at_most_eight_times_that_of_the_labels(benchmark, function):
    labels = drawn_cells(512, 60)
    function(labels[:8])  # compiles
    tracemalloc.start()
    benchmark.pedantic(function, (labels,))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 8 * labels.nbytes, peak / labels.nbytes
