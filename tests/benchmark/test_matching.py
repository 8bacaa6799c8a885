"""Scores of instances: against stardist, against reading the stores, and of a million objects."""

import tracemalloc

import numpy as np
import pytest
from gigaseg.census import PIECE, count_problems
from gigaseg.geometry import blocks
from gigaseg.labels import Contingency, contingency
from gigaseg.matching import ctc_counts, match_counts
from gigaseg.scores import tally_instances
from gigaseg.volumes import Volume, create_array

THRESHOLDS = [i / 100 for i in range(50, 100, 5)]
STORAGE = {"chunk": 256, "shard": 1024, "smallest_level": 256}


def segmentation(truth):
    """Move the objects a little, and merge some pairs of ids."""
    moved = np.roll(truth, (2, 3), (0, 1))
    return np.where(moved % 10 == 0, moved - (moved > 0), moved)


def test_against_stardist(bench, nuclei):
    stardist = pytest.importorskip(
        "stardist.matching", reason="needs `pip install --no-deps stardist csbdeep six tqdm`"
    )
    side = bench.side(4096, 256)
    _, truth = nuclei(side)
    segments = segmentation(truth)
    ours, peer = bench.compare(
        lambda: match_counts(contingency(truth, segments), [0.5])[0],
        lambda: stardist.matching(truth, segments, thresh=0.5),
        names=(
            "matching at IoU 0.5",
            f"{side}², {len(np.unique(truth)) - 1} cells",
            "stardist.matching",
        ),
        aim="10 at 4096², 10⁴ objects",
        rounds=2,
    )
    assert (ours.tp, ours.fp, ours.fn) == (peer.tp, peer.fp, peer.fn)
    assert ours.pq == pytest.approx(peer.panoptic_quality, rel=1e-6)  # stardist has float32


@pytest.fixture
def stores(bench, nuclei, tmp_path):
    """Return a function that writes truth, probabilities and instances of a number of sides."""

    def write(times):
        side = times * bench.side(4096, 96)
        truth = nuclei(side)[1].astype(np.uint32)
        noise = np.random.default_rng(1).integers(0, 20, truth.shape, dtype=np.uint8)
        maps = {
            "truth": truth[None],
            "probability": np.where(truth > 0, 255 - noise, noise).astype(np.uint8)[None, None],
            "found": segmentation(truth)[None],
        }
        volumes = []
        for name, data in maps.items():
            store = tmp_path / name
            array = create_array(store, "0", data.shape, data.dtype, storage=STORAGE)
            array[...] = data
            spacing = (1.0, 1.0, 1.0)
            volumes.append(Volume(store, array, (array,), "czyx"[-data.ndim :], spacing, {}))
        return truth, volumes

    return write


def read(volumes, windows):
    for window in windows:
        for volume in volumes:
            np.asarray(volume.array[(slice(None),) * (volume.array.ndim - 3) + window.slices])


OPTIONS = {"iou_thresholds": THRESHOLDS, "iou_match": "at_least"}


@pytest.mark.parametrize("times", [1, 2])
def test_scores_of_stores(bench, stores, times):
    """All metrics of instances must cost no more than three times the decoding of both stores."""
    truth, (true, _, found) = stores(times)
    windows = list(blocks((1, *truth.shape), (1, PIECE, PIECE)))

    def score_all():
        pairs = ([np.asarray(v.array[w.slices]) for v in (true, found)] for w in windows)
        return tally_instances(Contingency.total(contingency(*pair) for pair in pairs), **OPTIONS)

    tally, _ = bench.compare(
        score_all,
        lambda: read((true, found), windows),
        names=(
            "all scores of instances, stores → counts, 1 thread",
            f"{len(truth)}², {len(np.unique(truth)) - 1} cells",
            "decoding both stores, 1 thread",
        ),
        aim="0.33",
        rounds=3,
    )
    counts = tally["foreground", None]
    assert counts.tp + counts.fn == np.count_nonzero(truth)


def test_census_of_stores(bench, stores):
    """What evaluate counts in its one pass: pairs, calibration, sizes and shapes."""
    truth, volumes = stores(2)
    windows = list(blocks((1, *truth.shape), (1, PIECE, PIECE)))
    ((pairs, census),), _ = bench.compare(
        lambda: list(count_problems(*volumes, "plane")),
        lambda: read(volumes, windows),
        names=(
            "pairs, calibration, sizes and shapes, stores → counts, 1 thread",
            f"{len(truth)}², {len(np.unique(truth)) - 1} cells",
            "decoding truth, probabilities and instances, 1 thread",
        ),
        aim="none",
        rounds=3,
    )
    assert pairs.voxels.sum() == sum(census.calibration.voxels) == truth.size


def shifted_cells(count):
    """The table of cells in a row, each of 60 voxels and shifted by 10 to 25 of them."""
    ids = np.arange(1, count + 1, dtype=np.uint64)
    shift = 10 + np.arange(count) % 16
    own = Contingency(ids, ids, 60 - shift)
    return Contingency.total([own, Contingency(ids[1:], ids[:-1], shift[:-1])])


@pytest.mark.parametrize("low", [0.5, 0.1])
def test_many_objects(bench, low):
    """Low thresholds make groups in which objects compete; memory follows the objects."""
    count = 10**6 if bench.measured else 1000
    table = shifted_cells(count)
    thresholds = [low, *THRESHOLDS[1:]]
    (first, *_), _ = bench.compare(
        lambda: (*match_counts(table, thresholds), ctc_counts(table)),
        lambda: np.lexsort((table.voxels, table.segment, table.truth)),
        names=(
            f"SEG, DET, F1 at 10 IoU from {low}, of a table",
            f"{count} objects, {len(table.voxels)} pairs",
            "np.lexsort of the table",
        ),
        aim="",
        rounds=2,
    )
    found = count if low < 0.5 else np.count_nonzero(10 + np.arange(count) % 16 <= 20)
    assert first.tp in (found, found + 1)  # the last cell has no neighbour to overlap
    if bench.measured:
        tracemalloc.start()
        match_counts(table, thresholds)
        bench.remark(f"{tracemalloc.get_traced_memory()[1] / count:.0f} bytes per object")
        tracemalloc.stop()
