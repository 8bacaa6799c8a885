"""What the headers of raw files claim, believed as it stands: before a run, and in no time.

`gigaseg.readers.open_source` refuses a damaged file and decodes pictures whole; a forecast only
asks how much work a file would be, also if what it claims cannot be true.
"""

import glob
import math
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import tifffile
from PIL.JpegImagePlugin import JpegImageFile

from .readers import MAGIC, PICTURES, ZARR_MARKS, natural_order, open_source
from .sources import Layout, decoding
from .tiffs import ALPHA, DAMAGE

_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}  # by colour type; alpha is dropped


@dataclass(frozen=True)
class Header:
    """The size of a raw image.

    Attributes
    ----------
    shape : tuple of int
        (c, z, y, x).
    itemsize : int
        Bytes per value.
    segment : int
        Bytes that are decoded at once; 0 where any window can be read by itself.
    stored : int
        Bytes of the file, or of all files of a series; 0 for Zarr.
    """

    shape: tuple[int, int, int, int]
    itemsize: int
    segment: int
    stored: int


def read_header(path: Path, *, indexed: bool = False) -> Header:
    """Read what a raw file claims about itself, and none of its voxels.

    Parameters
    ----------
    path, indexed
        As for `gigaseg.readers.open_source`.

    Raises
    ------
    FileNotFoundError
        If nothing is there.
    ValueError
        If not even the header can be read.
    """
    if path.is_file():
        return _read_file(path, indexed)
    if path.is_dir() and any((path / mark).exists() for mark in ZARR_MARKS):
        with open_source(path) as source:
            segment = source.shape[0] * math.prod(source.segment) * source.dtype.itemsize
            return Header(source.shape, source.dtype.itemsize, segment, 0)
    files = _series(path)
    if not files:
        raise FileNotFoundError(f"{path}: no such file, folder or series")
    first = _read_file(files[0], indexed)
    c, z, y, x = first.shape
    stored = sum(file.stat().st_size for file in files)
    return replace(first, shape=(c, z * len(files), y, x), stored=stored)


def _series(path: Path) -> list[Path]:
    if path.is_dir():
        found = [p for p in path.iterdir() if p.is_file() and p.suffix.lower() in PICTURES]
    else:
        found = [Path(file) for file in glob.glob(str(path))]
    return sorted(found, key=natural_order)


def _read_file(path: Path, indexed: bool) -> Header:
    with path.open("rb") as file:
        head = file.read(26)
    kind = next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None)
    if kind == "tiff":
        return _read_tiff(path)
    if kind == "png" and len(head) == 26:
        width, height, depth, colour = struct.unpack(">IIBB", head[16:26])
        channels = 1 if indexed and colour == 3 else _PNG_CHANNELS.get(colour, 1)
        return _picture(path, channels, height, width, 2 if depth == 16 else 1)
    if kind == "jpeg":
        return _read_jpeg(path)
    raise ValueError(f"{path} has no header that can be read")


def _read_tiff(path: Path) -> Header:
    try:
        with decoding(path), tifffile.TiffFile(path) as tiff:
            return _first_image(path, tiff)
    except DAMAGE as error:
        raise ValueError(f"{path} has no header that can be read ({error})") from error


def _first_image(path: Path, tiff: tifffile.TiffFile) -> Header:
    if not tiff.series:
        raise ValueError("it holds no page")
    image = tiff.series[0].levels[0]
    page = image.keyframe
    alpha = sum(kind in ALPHA for kind in page.extrasamples) if "S" in image.axes else 0
    shape = Layout.of(path, image.axes, image.shape, alpha).czyx
    size = image.dtype.itemsize
    mapped = image.dataoffset is not None  # contiguous and uncompressed
    segment = 0 if mapped else math.prod(page.chunks) * size
    return Header(shape, size, segment, tiff.filehandle.size)


def _read_jpeg(path: Path) -> Header:
    try:
        # Not `Image.open`, which takes large pictures for an attack.
        with JpegImageFile(path) as image:
            width, height = image.size
            bands = len(image.getbands())
    except (SyntaxError, OSError, IndexError, struct.error) as error:
        raise ValueError(f"{path} has no header that can be read ({error})") from error
    return _picture(path, bands - (bands + 1) % 2, height, width, 1)


def _picture(path: Path, channels: int, height: int, width: int, size: int) -> Header:
    """Describe a picture, which is decoded as a whole."""
    segment = channels * height * width * size
    return Header((channels, 1, height, width), size, segment, path.stat().st_size)
