from itertools import product

import numpy as np
import pytest
from gigaseg.faces import Meetings, inner_faces, pack, plane_of, raster_index, unpack
from gigaseg.geometry import Window, blocks


def everything(window, shape):
    return dict.fromkeys(inner_faces(window, shape), window)


def test_edges_of_the_volume_are_no_faces():
    assert inner_faces(Window.whole((2, 3, 4)), (2, 3, 4)) == []
    middle = Window((1, 1, 1), (2, 2, 2))
    assert len(inner_faces(middle, (3, 3, 3))) == 6
    assert inner_faces(middle, (3, 3, 3), first_axis=1) == [(1, 0), (1, 1), (2, 0), (2, 1)]


def test_raster_indices_are_those_of_the_volume():
    window, shape = Window((1, 0, 2), (3, 2, 4)), (4, 5, 6)
    expected = np.arange(120).reshape(shape)[window.slices]
    np.testing.assert_array_equal(raster_index(window, shape), expected)


def test_planes_keep_their_axis():
    array = np.arange(12).reshape(3, 4)
    assert plane_of(array, (0, 1)).tolist() == [[8, 9, 10, 11]]
    assert plane_of(array, (1, 0)).tolist() == [[0], [4], [8]]


def test_every_face_meets_its_counterpart_in_any_order():
    shape = (5, 7, 3)
    windows = list(blocks(shape, (2, 3, 2)))
    np.random.default_rng(0).shuffle(windows)
    meetings = Meetings(shape)
    met = [meeting for w in windows for meeting in meetings.add(w, everything(w, shape))]
    meetings.close()
    assert len(met) == 2 * 3 * 2 + 3 * 2 * 2 + 3 * 3 * 1
    for meeting in met:
        assert meeting.lower.stop[meeting.axis] == meeting.upper.start[meeting.axis]
        assert meeting.window.stop[meeting.axis] == meeting.lower.stop[meeting.axis]
        assert meeting.window.shape[meeting.axis] == 1


def test_a_missing_block_is_told():
    meetings, window = Meetings((1, 6)), Window((0, 0), (1, 4))
    assert list(meetings.add(window, everything(window, (1, 6)))) == []
    with pytest.raises(ValueError, match=r"1 faces of blocks are alone.*give all blocks"):
        meetings.close()


def test_a_block_given_twice_is_told():
    meetings, window = Meetings((1, 6)), Window((0, 0), (1, 4))
    assert list(meetings.add(window, everything(window, (1, 6)))) == []
    with pytest.raises(ValueError, match="came twice"):
        list(meetings.add(window, everything(window, (1, 6))))


def test_blocks_of_different_grids_are_refused():
    meetings, shape = Meetings((4, 6)), (4, 6)
    left, right = Window((0, 0), (2, 3)), Window((0, 3), (4, 6))
    assert list(meetings.add(left, everything(left, shape))) == []
    with pytest.raises(ValueError, match=r"do not share a whole face: cut the volume by one grid"):
        list(meetings.add(right, everything(right, shape)))


def test_packed_arrays_come_back_and_have_equal_bytes():
    arrays = {"a": np.arange(3), "b-0-1": np.zeros((2, 0), bool)}
    content = pack(arrays)
    assert content == pack(arrays)
    assert {name: array.tolist() for name, array in unpack(content).items()} == {
        "a": [0, 1, 2],
        "b-0-1": [[], []],
    }


@pytest.mark.parametrize("content", [pack({"a": np.arange(3)})[:-40], b"", b"text"])
def test_torn_bytes_are_told(content):
    with pytest.raises(ValueError, match="are not the arrays of a block"):
        unpack(content)


def test_each_flipped_bit_is_told_in_headers_too():
    content = bytearray(pack({"a": np.arange(3), "box": np.zeros((2, 2))}))
    for at, bit in product(range(len(content)), range(8)):
        content[at] ^= 1 << bit
        with pytest.raises(ValueError, match="are not the arrays of a block"):
            unpack(bytes(content))
        content[at] ^= 1 << bit
