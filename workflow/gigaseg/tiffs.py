"""TIFF and its dialects (OME, ImageJ, SVS, BigTIFF) as lazy sources."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from .geometry import Window
from .segments import Contiguous, Segmented
from .sources import Layout, Source, Spacing, decoding, micrometres

# Slide scanners add a thumbnail, a label and an overview to the image, which comes first.
SLIDES = ("svs", "ndpi", "scn", "bif", "philips", "qpi")
ALPHA = (1, 2)  # associated and unassociated alpha among the extra samples
DAMAGE = (
    tifffile.TiffFileError,
    ElementTree.ParseError,
    ArithmeticError,
    AssertionError,
    TypeError,
)
CLASSIC = 2**32 - 2**25  # bytes of voxels from which on a file is a BigTIFF
WRITTEN_AT_ONCE = 2**25  # bytes compressed together, by several threads
LARGEST_SEGMENT = 2**31  # bytes; a compressed tile or strip is decoded as a whole
RESOLUTION_UNITS = {3: 1e4}  # centimetres; inches are for printers (72 dpi says nothing)


def open_tiff(path: Path, workers: int = 1) -> Source:
    """Open a TIFF file as a `Source`; see `gigaseg.readers.open_source`."""
    with _decoding(path):
        tiff = tifffile.TiffFile(path)
    try:
        return _source(path, tiff, workers)
    except BaseException:
        tiff.close()
        raise


def write_tiff(path: Path, data: Any, spacing: Spacing, *, tile: int | None = None) -> None:
    """Write planes as an ordinary TIFF file: OME-TIFF, compressed, with its spacing.

    The file has its name once it is whole.

    Parameters
    ----------
    path : Path
        File to write.
    data : array-like, shape (z, y, x)
        Planes; what has ``shape``, ``dtype`` and windows, such as `gigaseg.mosaics.Mosaic`, is
        read, if in tiles, by rows of these, so that it need not fit in memory.
    spacing : tuple of float
        Size of a voxel along z, y, x in micrometres.
    tile : int, optional
        Edge of square tiles in pixels, a multiple of 16; strips if None.
    """
    metadata: dict[str, Any] = {"axes": "ZYX"}
    for axis, size in zip("ZYX", spacing, strict=True):
        metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    unfinished = path.with_name(f"{path.name}.unfinished")
    tifffile.imwrite(
        unfinished,
        data if tile is None else _tiles(data, tile),
        shape=data.shape,
        dtype=data.dtype,
        bigtiff=math.prod(data.shape) * data.dtype.itemsize >= CLASSIC,
        ome=True,
        photometric="minisblack",
        compression="zlib",
        predictor=data.dtype.kind in "iu",
        tile=None if tile is None else (tile, tile),
        metadata=metadata,
        buffersize=WRITTEN_AT_ONCE,
    )
    unfinished.replace(path)


def _tiles(data: Any, side: int) -> Iterator[np.ndarray]:
    depth, height, width = data.shape
    for z, top in product(range(depth), range(0, height, side)):
        row = data[z, top : top + side, :]
        yield from (row[:, left : left + side] for left in range(0, width, side))


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Add what tifffile raises where the tags of a damaged file contradict each other."""
    with decoding(path):
        try:
            yield
        except DAMAGE as error:
            raise ValueError(error) from error


def _source(path: Path, tiff: tifffile.TiffFile, workers: int) -> Source:
    with _decoding(path):
        series = tiff.series
    if not series:
        raise ValueError(f"{path} is truncated or damaged: it holds no page; copy it again")
    if len(series) != 1 and not any(getattr(tiff, f"is_{kind}", False) for kind in SLIDES):
        shapes = ", ".join(str(s.shape) for s in series)
        raise ValueError(
            f"{path} holds {len(series)} images or scenes of shapes {shapes}: save the one you "
            f"want as a file of its own"
        )
    image = series[0].levels[0]
    _check_complete(path, tiff, image)
    page = image.keyframe
    alpha = sum(kind in ALPHA for kind in page.extrasamples) if "S" in image.axes else 0
    layout = Layout.of(path, image.axes, image.shape, alpha)
    array, chunks = _array(path, image, workers)

    def fetch(channels: Sequence[int], window: Window) -> np.ndarray:
        with _decoding(path):
            return layout.read(array, channels, window)

    with _decoding(path):
        spacing = _spacing(tiff, page)
    segment = layout.segment(chunks)

    def close() -> None:
        array.close()
        tiff.close()

    return Source(path, layout.czyx, image.dtype, spacing, segment, fetch, close)


def _array(path: Path, image: tifffile.TiffPageSeries, workers: int) -> tuple[Any, tuple[int, ...]]:
    """Return the voxels as an array-like that decodes on indexing, and what it decodes at once."""
    if image.dataoffset is not None:  # any window, at no cost
        dtype = image.dtype.newbyteorder(image.keyframe.parent.byteorder)
        return Contiguous(path, image.dataoffset, image.shape, dtype), (1,) * len(image.shape)
    with _decoding(path):
        array = Segmented(path, image, workers)
    size = math.prod(array.chunks) * array.dtype.itemsize
    if size > LARGEST_SEGMENT:
        raise ValueError(
            f"{path} is compressed in pieces of {array.chunks} voxels, {size / 2**30:.1f} GB each, "
            f"the limit is {LARGEST_SEGMENT / 2**30:.0f} GB: save it in tiles (or it is damaged)"
        )
    return array, array.chunks


def _check_complete(path: Path, tiff: tifffile.TiffFile, image: tifffile.TiffPageSeries) -> None:
    """Raise ValueError if pages or their data lie beyond the end of the file."""
    size = tiff.filehandle.size
    end = 0 if image.dataoffset is None else image.dataoffset + image.nbytes
    with _decoding(path):
        tiff.filehandle.seek(tiff.pages.next_page_offset or 0)
        width = 8 if tiff.is_bigtiff else 4
        chain_ends = not any(tiff.filehandle.read(width))
        for page in image.pages:
            if page is not None and page.parent is tiff and len(page.dataoffsets):
                ends = map(sum, zip(page.dataoffsets, page.databytecounts, strict=True))
                end = max(end, *ends, 0)
    if end > size or not chain_ends:
        wanted = f"its data reach to byte {end}" if end > size else "its list of pages breaks off"
        raise ValueError(
            f"{path} is truncated: it has {size} bytes, but {wanted}; copy it again from where it "
            f"was recorded"
        )


def _spacing(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> Spacing | None:
    if tiff.is_ome:
        return _ome_spacing(tiff.ome_metadata or "")
    if tiff.is_imagej:
        details = tiff.imagej_metadata or {}
        unit = micrometres(str(details.get("unit", "")))
        return _from_resolution(page, unit, details.get("spacing"))
    if tiff.is_svs:
        size = tifffile.tifffile.svs_description_metadata(page.description).get("MPP")
        return None if size is None else (1.0, float(size), float(size))
    return _from_resolution(page, RESOLUTION_UNITS.get(int(page.resolutionunit)), None)


def _ome_spacing(xml: str) -> Spacing | None:
    pixels = ElementTree.fromstring(xml).find("{*}Image/{*}Pixels")
    if pixels is None:
        return None
    sizes: list[float | None] = []
    for axis in "ZYX":
        size = pixels.get(f"PhysicalSize{axis}")
        unit = micrometres(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        sizes.append(None if size is None or unit is None else float(size) * unit)
    z, y, x = sizes
    return None if y is None or x is None else (z or 1.0, y, x)


def _from_resolution(
    page: tifffile.TiffPage, unit: float | None, depth: float | None
) -> Spacing | None:
    """Read a spacing from the tags X- and YResolution, in pixels per unit."""
    tags = [page.tags[key].value for key in ("YResolution", "XResolution") if key in page.tags]
    if unit is None or len(tags) != 2 or any(0 in tag for tag in tags):
        return None
    y, x = (unit * tag[1] / tag[0] for tag in tags)
    return (float(depth) * unit if depth else 1.0, y, x)
