"""Raw files as lazy sources: TIFF, PNG and JPEG, numbered series of them, and Zarr.

A `Source` knows its shape, type and spacing at once and decodes only the segments (tiles, strips,
planes, chunks) that a window touches. Every fault of a file is one ValueError that says what to do.
"""

import glob
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any

import imagecodecs
import numpy as np
import zarr
from PIL import Image

from . import tiffs
from .geometry import Window
from .sources import BLOCK_BYTES, Layout, Source, decoding, micrometres
from .volumes import foreign_codecs

MAGIC = {
    b"\x89PNG": "png",
    b"\xff\xd8\xff": "jpeg",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
}
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
ZARR_MARKS = ("zarr.json", ".zgroup", ".zarray")
READABLE = "TIFF (OME, ImageJ, BigTIFF, SVS), PNG, JPEG, a folder or pattern of these, Zarr"


def open_source(path: Path, *, indexed: bool = False, workers: int = 1) -> Source:
    """Open a raw image or label file without reading its voxels.

    Parameters
    ----------
    path : Path
        A TIFF, PNG or JPEG file; a folder or a pattern such as ``stack/*.png`` with one plane per
        file, in natural order (``2.png`` before ``10.png``); a Zarr array (version 2 or 3) or an
        OME-Zarr image (0.4 or 0.5), of which level 0 is read.
    indexed : bool
        Of a PNG with a palette, return the index (an instance id) instead of its colour.
    workers : int
        Threads that decode the tiles or strips of a TIFF; they never change a value.

    Returns
    -------
    Source
        Axes c z y x. RGB samples are channels; alpha is dropped. Use it as a context manager. It
        can be pickled: the process that receives it opens the files again.

    Raises
    ------
    FileNotFoundError
        If nothing is there.
    ValueError
        If the file is empty, damaged or truncated, of an unknown kind, or holds several time points
        or scenes.
    """
    opener = partial(open_source, path, indexed=indexed, workers=workers)
    return replace(_open(Path(path), indexed, workers), opener=opener)


def _open(path: Path, indexed: bool, workers: int) -> Source:
    if path.is_file():
        return _open_file(path, indexed, workers)
    if path.is_dir():
        if any((path / mark).exists() for mark in ZARR_MARKS):
            return _open_zarr(path)
        return _open_series(path, _pictures(path), indexed)
    files = sorted(map(Path, glob.glob(str(path))), key=natural_order)
    if not files:
        raise FileNotFoundError(f"{path}: no such file, folder or series")
    return _open_series(path, files, indexed)


def natural_order(path: Path) -> tuple[list[str | int], str]:
    """Sort key by which numbers in names count as numbers.

    Examples
    --------
    >>> sorted([Path("z10.png"), Path("z9.png")], key=natural_order)[0].name
    'z9.png'
    """
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if part.isdecimal() else part for part in parts], path.name


def _open_file(path: Path, indexed: bool, workers: int) -> Source:
    with path.open("rb") as file:
        head = file.read(26)
    if not head:
        raise ValueError(f"{path} is empty (0 bytes): copy it again from where it was recorded")
    kind = next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None)
    if kind == "tiff":
        return tiffs.open_tiff(path, workers)
    if kind == "png" and indexed and head[25] == 3:
        return _open_picture(path, _decode_index)
    if kind is not None:
        return _open_picture(path, imagecodecs.png_decode if kind == "png" else _decode_jpeg)
    raise ValueError(
        f"{path} is of a kind that cannot be read ({path.suffix or 'no suffix'}): readable are "
        f"{READABLE}; Fiji and bfconvert write OME-TIFF from almost anything else"
    )


def _decode_jpeg(data: bytes) -> np.ndarray:
    return imagecodecs.jpeg8_decode(data)


def _decode_index(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image)


def _open_picture(path: Path, decode: Callable[[bytes], np.ndarray]) -> Source:
    """Decode a picture, which has no parts that could be decoded alone."""
    with decoding(path):
        data = decode(path.read_bytes())
    layout = Layout("YX", data.shape)
    if data.ndim == 3:
        # Grey + alpha and RGB + alpha: an even number of samples ends in alpha.
        layout = Layout("YXS", data.shape, data.shape[2] - (data.shape[2] + 1) % 2)
    fetch = partial(layout.read, data)
    return Source(path, layout.czyx, data.dtype, None, (1, *data.shape[:2]), fetch)


def _pictures(folder: Path) -> list[Path]:
    files = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    found = [p for p in files if p.suffix.lower() in PICTURES]
    kinds = sorted({p.suffix.lower() for p in found})
    if len(kinds) != 1:
        held = ", ".join(kinds or sorted({p.suffix for p in files})) or "no file"
        raise ValueError(
            f"{folder} is no series of planes: it holds {held}, not files of one of the kinds "
            f"{', '.join(PICTURES)}; a pattern such as {folder.name}/*.png selects some"
        )
    return sorted(found, key=natural_order)


def _open_series(path: Path, files: Sequence[Path], indexed: bool) -> Source:
    """Stack files of one plane each along z."""
    with open_source(files[0], indexed=indexed) as first:
        expected = (first.shape, first.dtype)
        if first.shape[1] != 1:
            raise ValueError(
                f"{path} is a series of {len(files)} files, but {files[0].name} holds "
                f"{first.shape[1]} planes: a series has one plane per file"
            )

        def opened(z: int) -> Source:
            source = open_source(files[z], indexed=indexed)
            if (source.shape, source.dtype) != expected:
                source.closer()
                raise ValueError(
                    f"{path}: {files[z].name} is {source.dtype} {source.shape[2:]} with "
                    f"{source.shape[0]} channels, but {files[0].name} is {expected[1]} "
                    f"{expected[0][2:]} with {expected[0][0]}: all planes must be alike"
                )
            return source

        keep = _Keeper(opened, math.prod(first.shape) * first.dtype.itemsize > BLOCK_BYTES)

        def plane(z: int, channels: Sequence[int], window: Window) -> np.ndarray:
            with keep(z) as source:
                return source.fetch(channels, window)

        def fetch(channels: Sequence[int], window: Window) -> np.ndarray:
            flat = Window((0, *window.start[1:]), (1, *window.stop[1:]))
            planes = range(window.start[0], window.stop[0])
            return np.concatenate([plane(z, channels, flat) for z in planes], axis=1)

        c, _, y, x = first.shape
        shape = (c, len(files), y, x)
        return Source(path, shape, first.dtype, first.spacing, first.segment, fetch, keep.close)


class _Keeper:
    """Opens planes; keeps the last one if it is read in many blocks, each of which would decode it.

    Parameters
    ----------
    opener : callable
        Opens a plane, given its number.
    large : bool
        Whether planes are that large.
    """

    def __init__(self, opener: Callable[[int], Source], large: bool) -> None:
        self._opener, self._large = opener, large
        self._lock = Lock()
        self._kept: tuple[int, Source] | None = None

    @contextmanager
    def __call__(self, z: int) -> Iterator[Source]:
        if not self._large:
            with self._opener(z) as source:
                yield source
            return
        with self._lock:
            if self._kept is None or self._kept[0] != z:
                self.close()
                self._kept = z, self._opener(z)
            yield self._kept[1]

    def close(self) -> None:
        if self._kept is not None:
            self._kept[1].closer()
            self._kept = None


def _open_zarr(path: Path) -> Source:
    with decoding(path), foreign_codecs():
        node = zarr.open(path, mode="r")
    if isinstance(node, zarr.Array):
        return _zarr_source(path, node, _zarr_axes(path, node), None)
    attributes: dict[str, Any] = node.attrs.asdict()
    ome: Any = attributes.get("ome", attributes)
    if "bioformats2raw.layout" in ome:
        return _open_zarr(_only_scene(path))
    if "multiscales" not in ome:
        held = ", ".join(sorted(node.keys())) or "nothing"
        raise ValueError(
            f"{path} is a Zarr group without OME-Zarr metadata (it holds: {held}): give the path "
            f"of one array in it"
        )
    return _open_ome_zarr(path, ome["multiscales"][0])


def _only_scene(path: Path) -> Path:
    scenes = sorted((p for p in path.iterdir() if p.name.isdecimal()), key=natural_order)
    if len(scenes) != 1:
        raise ValueError(
            f"{path} holds {len(scenes)} scenes: give the path of one, such as {path.name}/0"
        )
    return scenes[0]


def _open_ome_zarr(path: Path, scales: Any) -> Source:
    level = scales["datasets"][0]
    with decoding(path), foreign_codecs():
        array = zarr.open_array(path / level["path"], mode="r")
    axes = scales["axes"]
    size = np.ones(len(axes))
    for part in (level, scales):
        for step in part.get("coordinateTransformations") or []:
            size *= np.array(step.get("scale", 1.0), dtype=float)
    named = {a["name"]: s * _axis_unit(a) for a, s in zip(axes, size, strict=True)}
    z, y, x = (float(named.get(a, 1.0)) for a in "zyx")
    return _zarr_source(path, array, "".join(a["name"] for a in axes).upper(), (z, y, x))


def _axis_unit(axis: dict[str, Any]) -> float:
    """Micrometres per unit of an axis; a unit that is not given is taken for micrometres."""
    return micrometres(axis["unit"]) or 1.0 if axis.get("unit") else 1.0


def _zarr_axes(path: Path, array: zarr.Array) -> str:
    names: Any = getattr(array.metadata, "dimension_names", None)
    names = names or array.attrs.get("_ARRAY_DIMENSIONS")
    if names and all(isinstance(n, str) and len(n) == 1 and n in "tczyxs" for n in names):
        return "".join(names).upper()
    usual = {2: "YX", 3: "ZYX", 4: "CZYX"}.get(array.ndim)
    if usual is None:
        raise ValueError(
            f"{path} has {array.ndim} axes without names, shape {array.shape}: readable are y x, "
            f"z y x and c z y x, or an OME-Zarr group, which names its axes"
        )
    return usual


def _zarr_source(
    path: Path, array: zarr.Array, axes: str, spacing: tuple[float, float, float] | None
) -> Source:
    layout = Layout.of(path, axes, array.shape)

    def fetch(channels: Sequence[int], window: Window) -> np.ndarray:
        with decoding(path):
            return layout.read(array, channels, window)

    segment = layout.segment(array.chunks)
    return Source(path, layout.czyx, array.dtype, spacing, segment, fetch)
