"""One pass over the blocks of a target counts what obvious loops over the whole count."""

import numpy as np
from gigaseg.geometry import blocks
from gigaseg.inventory import take_inventory
from gigaseg.tally import SEPARATED
from gigaseg.weights import BACKGROUND, IGNORED, RIDGE, encode_target
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

VOLUMES = hnp.arrays(
    np.uint32,
    hnp.array_shapes(min_dims=3, max_dims=3, max_side=9),
    elements=st.sampled_from([0, 1, 2, 7, 2**32 - 2]),
    fill=st.integers(0, 2),
)
UNKNOWN = 7
CHUNKS = st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4))
TIMES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))


def summarise(labels, target):
    """Say it in words of Python, as `take_inventory` does."""
    areas, left = {}, set()
    for (z, y, x), name in np.ndenumerate(labels):
        code = target[z, y, x]
        if code != IGNORED and name:
            areas[z, int(name)] = areas.get((z, int(name)), 0) + 1
        if code not in (RIDGE, BACKGROUND):
            left.add(int(name))
    median = np.median(list(areas.values())) if areas else 0
    return {
        "counts": [int((target == code).sum()) for code in range(RIDGE + 1)],
        "ignored": int((target == IGNORED).sum()),
        "vanished": sorted({name for _, name in areas} - left),
        "cross_sections": {"count": len(areas), "diameter": float(2 * np.sqrt(median / np.pi))},
    }


@settings(deadline=None, max_examples=150)
@given(VOLUMES, CHUNKS, TIMES, st.booleans(), st.integers(0, 2**32))
def test_an_inventory_is_that_of_obvious_loops(labels, chunk, times, unknown, seed):
    known = np.where(labels == UNKNOWN, np.uint32(0), labels) if unknown else labels
    target = encode_target(known, boundary_width=1)
    target[(labels == UNKNOWN) & unknown] = IGNORED
    weights = np.random.default_rng(seed).choice(np.float32([0, SEPARATED, 9]), labels.shape)
    block = [c * n for c, n in zip(chunk, times, strict=True)]
    tally, summary = take_inventory(labels, target, weights, chunk=chunk, block=block)
    assert summary == summarise(labels, target)
    assert tally.dtype == np.uint32
    for counts, window in zip(
        tally.reshape(len(tally), -1).T, blocks(labels.shape, chunk), strict=True
    ):
        codes = [np.count_nonzero(target[window.slices] == code) for code in range(RIDGE + 1)]
        assert counts.tolist() == [*codes, np.count_nonzero(weights[window.slices] > SEPARATED)]


def test_every_array_is_read_once():
    class Watched:
        def __init__(self, array):
            self.array, self.shape, self.seen = array, array.shape, np.zeros(array.shape, int)

        def __getitem__(self, place):
            self.seen[place] += 1
            return self.array[place]

    labels = np.random.default_rng(0).integers(0, 9, (3, 20, 30)).astype(np.uint32)
    target = encode_target(labels, boundary_width=0)
    arrays = [Watched(a) for a in (labels, target, np.zeros(labels.shape, np.float32))]
    take_inventory(*arrays, chunk=(1, 4, 4), block=(2, 8, 8))
    for array in arrays:
        assert (array.seen == 1).all()
