import numpy as np
import pytest
from gigaseg.lookup import look_up


@pytest.mark.parametrize("shape", [(9, 8), (2, 9, 8)])
def test_dense_numbers_and_their_ids_give_what_the_tables_say(shape):
    random = np.random.default_rng(0)
    labels = random.integers(0, 30, shape).astype(np.uint32)
    parts = []
    for y, x in ((0, 0), (0, 5), (4, 0), (4, 5)):
        table = random.integers(0, 2**63, 30, dtype=np.uint64)
        table[0] = table[7] = 0
        place = (..., slice(y, y + 4 if y == 0 else 9), slice(x, x + 5 if x == 0 else 8))
        parts.append((place, table))
    dense, ids = look_up(labels, parts)
    assert ids[0] == 0
    assert (np.diff(ids.astype(object)) > 0).all()
    for place, table in parts:
        np.testing.assert_array_equal(ids[dense[place]], table[labels[place]])
    np.testing.assert_array_equal(np.unique(dense)[-(ids.size - 1) :], np.arange(1, ids.size))


def test_ids_that_do_not_occur_are_left_out():
    whole = ((slice(None), slice(None)), np.array([0, 9, 8], np.uint64))
    dense, ids = look_up(np.array([[2, 2]], np.uint32), [whole])
    assert (dense.tolist(), ids.tolist()) == ([[1, 1]], [0, 8])


def test_nothing_but_background():
    whole = ((slice(None), slice(None)), np.zeros(1, np.uint64))
    dense, ids = look_up(np.zeros((2, 2), np.uint32), [whole])
    assert not dense.any()
    assert ids.tolist() == [0]
