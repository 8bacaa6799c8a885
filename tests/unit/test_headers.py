"""Headers say what the readers say, at once, and also of files that the readers refuse."""

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from gigaseg.headers import read_header
from gigaseg.readers import open_source
from gigaseg.volumes import commit_image, create_array
from PIL import Image

RNG = np.random.default_rng(1)


def claim(path: Path, side: int, compression: int = 8) -> Path:
    """Write a BigTIFF of a few hundred bytes that claims to be a square of `side` px."""
    entries = [
        (256, 4, side),  # width
        (257, 4, side),  # length
        (258, 3, 8),  # bits per sample
        (259, 3, compression),
        (262, 3, 1),  # black is zero
        (273, 16, 400),  # offset of the only strip
        (277, 3, 1),  # samples per pixel
        (278, 4, side),  # rows per strip
        (279, 16, side**2 if compression == 1 else 16),  # bytes of the strip
    ]
    data = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(entries))
    data += b"".join(struct.pack("<HHQQ", tag, kind, 1, value) for tag, kind, value in entries)
    path.write_bytes(data.ljust(420, b"\0"))
    return path


def tiff(path: Path, shape: tuple[int, ...], dtype: str = "u1", **options: object) -> Path:
    tifffile.imwrite(path, RNG.integers(0, 99, shape).astype(dtype), **options)
    return path


def picture(path: Path, mode: str) -> Path:
    Image.fromarray(RNG.integers(0, 99, (20, 30, 4), dtype="u1"), "RGBA").convert(mode).save(path)
    return path


def deep_picture(path: Path) -> Path:
    Image.fromarray(RNG.integers(0, 9999, (20, 30), dtype="u2")).save(path)
    return path


def series(folder: Path) -> Path:
    folder.mkdir()
    for z in (2, 10):
        picture(folder / f"{z}.png", "L")
    return folder


def array(path: Path) -> Path:
    zarr.create_array(path, shape=(3, 40, 50), chunks=(1, 20, 20), dtype="u2")
    return path


def ome_zarr(path: Path) -> Path:
    storage = {"chunk": 16, "shard": 32}
    create_array(path, "0", (2, 3, 40, 50), "u2", storage=storage)
    commit_image(path, spacing=(1, 1, 1), levels=1, channel_names=["a", "b"], attributes={})
    return path


MAKERS = {
    "plain": lambda p: tiff(p / "a.tif", (20, 30)),
    "rgb": lambda p: tiff(p / "a.tif", (20, 30, 3), photometric="rgb"),
    "alpha": lambda p: tiff(
        p / "a.tif", (20, 30, 4), photometric="rgb", extrasamples=["ASSOCALPHA"]
    ),
    "pages": lambda p: tiff(p / "a.tif", (5, 20, 30), "u2", photometric="minisblack"),
    "ome": lambda p: tiff(p / "a.ome.tif", (2, 5, 20, 30), "f4", metadata={"axes": "CZYX"}),
    "imagej": lambda p: tiff(
        p / "a.tif", (4, 2, 20, 30), "u2", imagej=True, metadata={"axes": "ZCYX"}
    ),
    "tiles": lambda p: tiff(p / "a.tif", (80, 90), tile=(32, 32), compression="zlib"),
    "strips": lambda p: tiff(p / "a.tif", (80, 90), rowsperstrip=8, compression="zlib"),
    "grey": lambda p: picture(p / "a.png", "L"),
    "grey and alpha": lambda p: picture(p / "a.png", "LA"),
    "colour": lambda p: picture(p / "a.png", "RGB"),
    "colour and alpha": lambda p: picture(p / "a.png", "RGBA"),
    "palette": lambda p: picture(p / "a.png", "P"),
    "16 bits": lambda p: deep_picture(p / "a.png"),
    "jpeg": lambda p: picture(p / "a.jpg", "RGB"),
    "grey jpeg": lambda p: picture(p / "a.jpg", "L"),
    "series": lambda p: series(p / "a"),
    "zarr": lambda p: array(p / "a.zarr"),
    "ome-zarr": lambda p: ome_zarr(p / "a.zarr"),
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("indexed", [False, True])
def test_a_header_claims_what_is_there(kind, indexed, tmp_path):
    path = MAKERS[kind](tmp_path)
    header = read_header(path, indexed=indexed)
    with open_source(path, indexed=indexed) as source:
        assert header.shape == source.shape
        assert header.itemsize == source.dtype.itemsize


def test_a_pattern_is_a_series(tmp_path):
    series(tmp_path / "a")
    assert read_header(tmp_path / "a" / "*.png").shape == (1, 2, 20, 30)


@pytest.mark.parametrize(
    ("kind", "segment"),
    [("plain", 0), ("tiles", 32 * 32), ("strips", 8 * 90), ("grey", 600), ("zarr", 2 * 20 * 20)],
)
def test_what_is_decoded_at_once(kind, segment, tmp_path):
    assert read_header(MAKERS[kind](tmp_path)).segment == segment


def test_the_bytes_of_a_series_are_those_of_its_files(tmp_path):
    folder = series(tmp_path / "a")
    assert read_header(folder).stored == sum(p.stat().st_size for p in folder.iterdir())


@pytest.mark.parametrize("compression", [1, 8])
def test_a_claim_is_believed_and_costs_nothing(compression, tmp_path):
    path = claim(tmp_path / "huge.tif", 2**25, compression)
    header = read_header(path)
    assert header.shape == (1, 1, 2**25, 2**25)
    assert header.stored == 420
    assert header.segment in (0, 2**50)
    with pytest.raises(ValueError, match=r"truncated|compressed in pieces"):
        open_source(path)


@pytest.mark.parametrize(
    "content", [b"", b"MM\0*", b"II*\0\xff\xff\xff\xff", b"\xff\xd8\xff\xe0", b"x"]
)
def test_a_file_without_a_header_is_a_fault(content, tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.tif"):
        read_header(path)


def test_nothing_there_is_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_header(tmp_path / "none.tif")
