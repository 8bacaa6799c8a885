"""Which planes and levels a viewer shows, and how they are cut."""

import numpy as np
import pytest
from gigaseg.panes import Panes
from hypothesis import given
from hypothesis import strategies as st


@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 600), st.integers(1, 600)),
    side=st.integers(16, 200),
    files=st.integers(1, 400),
    planes=st.integers(1, 20),
    layers=st.integers(1, 4),
)
def test_panes_cover_every_level_once_and_keep_to_the_limits(shape, side, files, planes, layers):
    depth = 1
    while max(shape[1:]) >> (depth - 1) > 64:
        depth += 1
    panes = Panes.choose(shape, depth, layers, side=side, files=files, planes=planes)
    assert 1 <= len(panes.planes) <= planes
    assert panes.planes[0] == 0
    assert panes.planes[-1] < shape[0]
    assert len(set(np.diff(panes.planes))) <= 1
    assert panes.levels == tuple(range(panes.levels[0], panes.levels[-1] + 1))
    fits = max(panes.extent(panes.levels[-1])) <= side
    assert fits or panes.levels[-1] == depth - 1
    assert layers * panes.count <= files or panes.levels == (panes.levels[-1],)
    listed = sum(len(list(panes.windows(level))) for level in panes.levels)
    assert panes.count == listed * len(panes.planes)
    for level in panes.levels:
        seen = np.zeros(panes.extent(level), int)
        assert seen.shape == np.zeros(shape[1:])[:: 2**level, :: 2**level].shape
        for window in panes.windows(level):
            assert max(window.shape) <= side
            seen[window.slices] += 1
        assert (seen == 1).all()


@pytest.mark.parametrize(
    ("files", "levels"),
    [
        (5460, (0, 1, 2, 3, 4, 5)),  # 4 layers of 1024 + 256 + 64 + 16 + 4 + 1
        (5459, (1, 2, 3, 4, 5)),
        (1, (5,)),  # what fits into one pane is always shown
    ],
)
def test_a_gigapixel_keeps_to_the_files(files, levels):
    panes = Panes.choose((1, 32768, 32768), 8, 4, side=1024, files=files, planes=1)
    assert panes.levels == levels
