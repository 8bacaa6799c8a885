import hashlib
import json

import numpy as np
import pytest
import zarr
from gigaseg import digests
from gigaseg.digests import volume_digest
from hypothesis import given, settings
from hypothesis import strategies as st

TYPES = ("?", "u1", "i1", "u2", "i4", "u8", "f4", "f8", ">u2", ">f4")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles of 4 px: what is tested is the order of tiles, not their size."""
    monkeypatch.setattr(digests, "TILE", 4)
    monkeypatch.setattr(digests, "LARGEST_READ", 16)


def slow_digest(values, tile=4):
    """Hash one tile after the other, as the definition says."""
    kind = np.dtype(values.dtype).newbyteorder("<")
    header = {"dtype": kind.str, "shape": list(values.shape), "tile": tile}
    total = hashlib.sha256()
    total.update((json.dumps(header, separators=(",", ":")) + "\n").encode())
    for plane in values.reshape(-1, *values.shape[-2:]):
        for y in range(0, plane.shape[0], tile):
            for x in range(0, plane.shape[1], tile):
                part = plane[y : y + tile, x : x + tile].astype(kind)
                total.update(hashlib.sha256(part.tobytes()).digest())
    return total.hexdigest()


shapes = st.tuples(*(st.integers(1, 3),) * 2, *(st.integers(1, 20),) * 2)


@st.composite
def volumes(draw):
    shape = draw(shapes)[draw(st.integers(0, 2)) :]
    seed = draw(st.integers(0, 99))
    values = np.random.default_rng(seed).integers(0, 200, shape)
    return values.astype(draw(st.sampled_from(TYPES)))


@settings(deadline=None, max_examples=40)
@given(volumes(), st.data())
def test_the_digest_is_that_of_the_definition_for_any_chunks_shards_and_workers(values, data):
    expected = slow_digest(values)
    assert volume_digest(values, workers=data.draw(st.integers(1, 3))) == expected
    chunks = tuple(data.draw(st.integers(1, 7)) for _ in values.shape)
    shards = tuple(n * data.draw(st.integers(1, 3)) for n in chunks)
    stored = zarr.create_array({}, data=values, chunks=chunks, shards=shards)
    assert volume_digest(stored, workers=data.draw(st.integers(1, 3))) == expected


@settings(deadline=None, max_examples=40)
@given(volumes(), st.data())
def test_every_voxel_the_shape_and_the_type_count(values, data):
    before = volume_digest(values)
    place = tuple(data.draw(st.integers(0, n - 1)) for n in values.shape)
    other = values.copy()
    other[place] = not other[place] if values.dtype == bool else other[place] + 1
    assert volume_digest(other) != before
    assert volume_digest(values[None]) != before
    assert volume_digest(values.astype("c16")) != before


def test_tiles_that_change_places_change_the_digest():
    values = np.arange(64, dtype="u1").reshape(8, 8)
    assert volume_digest(np.roll(values, 4, axis=1)) != volume_digest(values)
    assert volume_digest(np.stack([values, values.T])) != volume_digest(
        np.stack([values.T, values])
    )


def test_strides_and_byte_order_do_not_count():
    values = np.arange(120, dtype="<i4").reshape(2, 6, 10)
    expected = volume_digest(values)
    assert volume_digest(np.asfortranarray(values)) == expected
    assert volume_digest(values.astype(">i4")) == expected
    assert volume_digest(np.repeat(values, 2, axis=2)[..., ::2]) == expected


class Counted:
    """An array that counts how often each chunk is decoded, and remembers the largest read."""

    def __init__(self, values, chunks):
        self.values, self.chunks, self.reads, self.largest = values, chunks, {}, 0
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __getitem__(self, window):
        spans = [
            range(s.start // c, -(-s.stop // c)) for s, c in zip(window, self.chunks, strict=True)
        ]
        for place in np.ndindex(*map(len, spans)):
            chunk = tuple(span[k] for span, k in zip(spans, place, strict=True))
            self.reads[chunk] = self.reads.get(chunk, 0) + 1
        data = self.values[window]
        self.largest = max(self.largest, data.size)
        return data


@pytest.mark.parametrize("chunks", [(2, 1, 2, 2), (2, 1, 4, 8), (1, 2, 6, 5), (2, 3, 20, 30)])
def test_no_chunk_is_decoded_twice(chunks):
    values = np.random.default_rng(1).integers(0, 99, (2, 3, 20, 30)).astype("u1")
    array = Counted(values, chunks)
    digests.LARGEST_READ = 60  # lcm(5, 4), lcm(6, 4), and the planes of 30
    assert volume_digest(array, workers=2) == slow_digest(values)
    assert set(array.reads.values()) == {1}


def test_memory_is_bounded_whatever_the_chunks():
    values = np.zeros((1, 400, 400), "u1")
    array = Counted(values, (1, 7, 9))
    assert volume_digest(array) == slow_digest(values)
    assert array.largest <= 16 * 16


@pytest.mark.parametrize("values", [np.zeros(4), np.zeros((2, 2), "O"), np.zeros((2, 2), "U3")])
def test_what_has_no_digest_is_refused(values):
    with pytest.raises(ValueError, match="has no digest"):
        volume_digest(values)
