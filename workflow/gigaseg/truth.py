"""Label files of any convention as one truth: an id per instance, 0 for background."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from .blockwise import map_blocks
from .geometry import Window, blocks
from .labels import Objects, components
from .pyramids import write_pyramid
from .readers import open_source
from .sources import Source
from .volumes import commit_labels, create_array

logger = logging.getLogger(__name__)

LARGEST_ID = 2**63 - 1  # tables of objects hold ids as int64
LARGEST_FLOAT_ID = {4: 2**24, 8: 2**53}  # beyond these, floats skip whole numbers


@dataclass(frozen=True)
class Truth:
    """A label file and how to read it.

    Attributes
    ----------
    source : Source
        The file.
    kind : {"instances", "foreground", "boundary"}
        ``instances``: values are ids, and are kept. ``foreground``: everything but 0 is object (as
        in ISBI 2012, where 255 is cell and 0 membrane). ``boundary``: everything but 0 is a line
        between objects. The last two number the connected components in raster order.
    objects : {"plane", "volume"}
        Whether every plane is a problem of its own (4-connected), or the volume is one
        (6-connected). Ids are unique in the whole volume: with ``plane``, ids that occur on
        several planes are renumbered plane by plane.
    """

    source: Source
    kind: Literal["instances", "foreground", "boundary"]
    objects: Objects

    def write(
        self, folder: Path, spacing: Sequence[float], storage: Mapping[str, int], workers: int
    ) -> int:
        """Write the finished label image and return its number of instances.

        Components need a plane (``objects: plane``) or the volume in memory; ids do not.

        Parameters
        ----------
        folder : Path
            ``<image store>/labels/truth``; what an earlier try left there is deleted.
        spacing : sequence of float
            Size of a voxel along z, y, x in micrometres.
        storage : mapping
            As for `gigaseg.volumes.create_array`.
        workers : int
            Threads.

        Raises
        ------
        ValueError
            If ids are not whole numbers from 0 to 2**63 - 1.
        """
        shutil.rmtree(folder, ignore_errors=True)
        write = _write_ids if self.kind == "instances" else _write_components
        count = write(self, folder, storage, workers)
        if count == 0:
            logger.warning("%s holds no instance", self.source.path)
        if count == 1 and self.kind == "instances":
            logger.warning(
                "%s holds one single id: for a mask of several objects use `labels: foreground`",
                self.source.path,
            )
        levels = write_pyramid(folder, mode="nearest", storage=storage, workers=workers)
        facts = {"instances": count, "labels": self.kind, "objects": self.objects}
        commit_labels(folder, spacing=spacing, levels=levels, attributes=facts)
        return count


def open_truth(row: Mapping[str, Any], image: Source, files: ExitStack) -> Truth | None:
    """Open a sample's label file, if it has one.

    Parameters
    ----------
    row : mapping
        ``label`` (path or None), ``labels``, ``objects``.
    image : Source
        The image it belongs to.
    files : ExitStack
        Closes the file.

    Raises
    ------
    ValueError
        If image and labels differ in shape, or instance ids come in several channels.
    """
    if row["label"] is None:
        return None
    source = files.enter_context(open_source(Path(row["label"]), indexed=True))
    if source.shape[1:] != image.shape[1:]:
        raise ValueError(
            f"image and labels differ in shape (z, y, x): {image.path} is {image.shape[1:]}, "
            f"{source.path} is {source.shape[1:]}; check the row of the sheet, and that neither "
            f"was cropped or resampled"
        )
    if row["labels"] == "instances" and source.shape[0] != 1:
        raise ValueError(
            f"{source.path} has {source.shape[0]} channels: instance ids need one; save them as "
            f"grey values, or use `labels: foreground` if it is a coloured mask"
        )
    return Truth(source, row["labels"], row["objects"])


def _write_components(truth: Truth, folder: Path, storage: Mapping[str, int], workers: int) -> int:
    del workers  # components of a plane are found by one thread
    source = truth.source
    target = create_array(folder, "0", source.shape[1:], np.uint32, storage=storage)
    thickness = 1 if truth.objects == "plane" else source.shape[1]
    count = 0
    for window in blocks(source.shape[1:], (thickness, *source.shape[2:])):
        data = source.read(window)
        _check_finite(source.path, data)
        inside = (data != 0).any(axis=0)
        found = components(~inside if truth.kind == "boundary" else inside, objects=truth.objects)
        found[found != 0] += np.uint32(count)
        count = max(count, int(found.max()))
        target[window.slices] = found
    return count


def _write_ids(truth: Truth, folder: Path, storage: Mapping[str, int], workers: int) -> int:
    source = truth.source
    planes = _survey(source, workers)
    distinct = np.unique(np.concatenate(planes))
    count = sum(len(ids) for ids in planes)
    renumber = truth.objects == "plane" and count != len(distinct)
    highest = count if renumber else int(distinct.max(initial=0))
    dtype = np.dtype(np.uint32 if highest < 2**32 else np.uint64)
    first = np.cumsum([1, *map(len, planes)])

    def convert(data: np.ndarray, inner: tuple[slice, ...], window: Window) -> np.ndarray:
        del inner
        ids = _ids(source.path, data[0])
        if renumber:
            for z, plane in enumerate(ids, window.start[0]):
                rank = np.searchsorted(planes[z], plane) + first[z]
                plane[...] = np.where(plane == 0, 0, rank)
        return ids.astype(dtype)

    target = create_array(folder, "0", source.shape[1:], dtype, storage=storage)
    block = source.block(_shards(target))
    map_blocks(convert, [source], [target], block=block, located=True, workers=workers)
    return count if renumber else len(distinct)


def _shards(array: zarr.Array) -> tuple[int, ...]:
    return (array.shards or array.chunks)[-3:]


def _survey(source: Source, workers: int) -> list[np.ndarray]:
    """Return the ids of each plane, sorted, without 0."""
    windows = list(blocks(source.shape[1:], source.block((1, 1024, 1024))))

    def look(window: Window) -> list[np.ndarray]:
        return [np.unique(plane) for plane in _ids(source.path, source.read(window)[0])]

    found: list[list[np.ndarray]] = [[] for _ in range(source.shape[1])]
    with ThreadPoolExecutor(workers) as pool:
        for window, planes in zip(windows, pool.map(look, windows), strict=True):
            for z, ids in enumerate(planes, window.start[0]):
                found[z].append(ids)
    merged = (np.unique(np.concatenate(parts)) for parts in found)
    return [ids[ids != 0] for ids in merged]


def _ids(path: Path, data: np.ndarray) -> np.ndarray:
    """Check that values are ids, and return them as uint64."""
    _check_finite(path, data)
    limit = LARGEST_ID
    if data.dtype.kind == "f":
        limit = LARGEST_FLOAT_ID[data.dtype.itemsize]
        broken = data[data != np.rint(data)]
        if broken.size:
            raise ValueError(
                f"{path}: labels must be whole numbers, but it holds {broken[0]}: save instance "
                f"ids as 16- or 32-bit integers"
            )
    low, high = data.min(), data.max()
    if low < 0:
        raise ValueError(
            f"{path}: labels must not be negative, but it holds {low}: give background the value 0 "
            f"and number instances from 1"
        )
    if high > limit:
        raise ValueError(
            f"{path}: the id {high} is too large for {data.dtype} labels, the limit is {limit}: "
            f"number the instances from 1"
        )
    return data.astype(np.uint64)


def _check_finite(path: Path, data: np.ndarray) -> None:
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        raise ValueError(f"{path}: labels hold NaN or infinity: save them as integers")
