"""Label files of any convention as one truth: an id per instance, 0 for background."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .blockwise import map_blocks
from .geometry import Window, blocks
from .labels import Objects, components
from .ledger import Construction
from .pyramids import Pyramid, create_pyramid
from .readers import open_source
from .sources import Source
from .stitching import Components, join_components
from .volumes import commit_labels, shard_extent

logger = logging.getLogger(__name__)

LARGEST_ID = 2**63 - 1  # tables of objects hold ids as int64
LARGEST_SHORT_ID = 2**32 - 2  # beyond these, ids take 64 bits: the last value means ignored
LARGEST_FLOAT_ID = {4: 2**24, 8: 2**53}  # beyond these, floats skip whole numbers
VOXEL = 8  # bytes that a voxel takes on its way from file to store
BAND = 256  # rows looked at together
SPACING_TOLERANCE = 0.01  # files round the size of a voxel


@dataclass(frozen=True)
class How:
    """How arrays are written; nothing but `storage` shows in the result.

    Attributes
    ----------
    storage : mapping
        As for `gigaseg.volumes.create_array`.
    workers : int
        Threads.
    scheduler : str or None
        Address of a Dask cluster that does the blocks.
    """

    storage: Mapping[str, Any]
    workers: int
    scheduler: str | None = None


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
    ignore_label : int or None
        The value of voxels that nobody annotated. In the store they have the greatest value of its
        type, whatever becomes of the ids, and the store's attribute ``ignored`` says so; null if
        there is no such value.
    """

    source: Source
    kind: Literal["instances", "foreground", "boundary"]
    objects: Objects
    ignore_label: int | None = None

    def write(
        self,
        construction: Construction,
        spacing: Sequence[float],
        how: How,
    ) -> int:
        """Write the finished label image and return its number of instances.

        Memory is bounded by a block, the faces of blocks and the ids of the volume.

        Parameters
        ----------
        construction : Construction
            Of the image store; the labels become its ``labels/truth``.
        spacing : sequence of float
            Size of a voxel along z, y, x in micrometres.
        how : How

        Raises
        ------
        ValueError
            If ids are not whole numbers from 0 to 2**63 - 1.
        """
        job = _Job(self, construction, how)
        write = _write_ids if self.kind == "instances" else _write_components
        pyramid, count = write(job)
        if count == 0:
            logger.warning("%s holds no instance", self.source.path)
        if count == 1 and self.kind == "instances":
            logger.warning(
                "%s holds one single id: for a mask of several objects use `labels: foreground`",
                self.source.path,
            )
        ignored = None if self.ignore_label is None else _ignored_id(pyramid.array.dtype)
        facts: dict[str, Any] = {"instances": count, "labels": self.kind, "objects": self.objects}
        facts["ignored"] = ignored
        levels = pyramid.finish(how.workers)
        commit_labels(job.folder, spacing=spacing, levels=levels, attributes=facts)
        shutil.rmtree(job.scratch, ignore_errors=True)
        return count


def open_truth(
    row: Mapping[str, Any], image: Source, files: ExitStack, workers: int = 1
) -> Truth | None:
    """Open a sample's label file, if it has one.

    Parameters
    ----------
    row : mapping
        ``label`` (path or None), ``planes`` (of both files, or None), ``labels``, ``objects``,
        ``ignore_label``, ``spacing``.
    image : Source
        The image it belongs to.
    files : ExitStack
        Closes the file.
    workers : int
        Threads that decode it.

    Raises
    ------
    ValueError
        If image and labels differ in shape, or in the voxel size that their files state (and the
        row states none), or instance ids come in several channels.
    """
    if row["label"] is None:
        return None
    source = files.enter_context(open_source(Path(row["label"]), indexed=True, workers=workers))
    source = source.cut(row["planes"])
    if source.shape[1:] != image.shape[1:]:
        raise ValueError(
            f"image and labels differ in shape (z, y, x): {image.path} is {image.shape[1:]}, "
            f"{source.path} is {source.shape[1:]}; check the row of the sheet, and that neither "
            f"was cropped or resampled"
        )
    _check_spacing(row, image, source)
    if row["labels"] == "instances" and source.shape[0] != 1:
        raise ValueError(
            f"{source.path} has {source.shape[0]} channels: instance ids need one; save them as "
            f"grey values, or use `labels: foreground` if it is a coloured mask"
        )
    return Truth(source, row["labels"], row["objects"], row["ignore_label"])


def _check_spacing(row: Mapping[str, Any], image: Source, labels: Source) -> None:
    if row["spacing"] or not image.spacing or not labels.spacing:
        return
    if not np.allclose(image.spacing, labels.spacing, rtol=SPACING_TOLERANCE, atol=0):
        raise ValueError(
            f"image and labels differ in voxel size (z, y, x in µm): {image.path} says "
            f"{image.spacing}, {labels.path} says {labels.spacing}; correct the files, or set "
            f"`spacing` of the data set, which then holds for both"
        )


@dataclass(frozen=True)
class _Job:
    """Where and how the labels are written."""

    truth: Truth
    construction: Construction
    how: How

    @property
    def source(self) -> Source:
        return self.truth.source

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.source.shape[1:]

    @property
    def folder(self) -> Path:
        return self.construction.path / "labels" / "truth"

    @property
    def scratch(self) -> Path:
        return self.folder / ".scratch"

    @property
    def block(self) -> tuple[int, int, int]:
        extent = shard_extent(self.shape, self.how.storage)
        return self.source.block((1, extent, extent), VOXEL)

    @property
    def at_once(self) -> int:
        return self.source.at_once(self.block, self.how.workers, VOXEL)

    def create(self, dtype: Any, *, scratch: bool = False) -> Pyramid:
        """Create the labels, or an array without coarser levels beside them."""
        folder = self.scratch if scratch else self.folder
        storage = self.how.storage
        if scratch:
            storage = {**storage, "smallest_level": max(self.shape)}
        return create_pyramid(
            *(folder, "", self.shape, dtype),
            mode="nearest",
            storage=storage,
            workers=-(-self.how.workers // self.at_once),
        )

    def fill(self, target: Any, function: Any, sources: Sequence[Any], ledger: str) -> None:
        """Write a function of sources block by block, from where an earlier process ended."""
        map_blocks(
            function,
            sources,
            [target],
            block=self.block,
            located=True,
            ledger=self.construction.ledger(ledger),
            workers=self.at_once,
            scheduler=self.how.scheduler,
        )


def _write_components(job: _Job) -> tuple[Pyramid, int]:
    """Label each block by itself, join what touches, and look up the final ids."""
    kind, objects, path = job.truth.kind, job.truth.objects, job.source.path
    ignore = job.truth.ignore_label

    def label(data: np.ndarray, inner: tuple[slice, ...], window: Window) -> np.ndarray:
        del inner, window
        _check_finite(path, data)
        inside = (data != 0).any(axis=0)
        inside = ~inside if kind == "boundary" else inside
        return components(_mark_ignored(inside, data, ignore, False), objects=objects)

    local = job.create(np.uint32, scratch=True)
    job.fill(local, label, [job.source], "truth-blocks")
    tables, count = _join_blocks(job, local)

    def look_up(labels: np.ndarray, *rest: Any) -> np.ndarray:
        # The rest is the block of the label file if it is read again, slices, and the window.
        ids = tables[rest[-1].start][labels]
        return _mark_ignored(ids, rest[0], ignore, _ignored_id(np.uint32))

    pyramid = job.create(np.uint32)
    job.fill(pyramid, look_up, [local] if ignore is None else [local, job.source], "truth")
    return pyramid, count


def _join_blocks(job: _Job, local: Pyramid) -> tuple[dict[tuple[int, ...], np.ndarray], int]:
    """Return, by start of block, the final id of each of its components; and their number."""
    objects = job.truth.objects
    tables: dict[tuple[int, ...], np.ndarray] = {}
    count = 0

    def describe(window: Window) -> Components:
        return Components.of(np.asarray(local[window.slices]), window, job.shape, objects)

    windows = list(blocks(job.shape, job.block))
    # Planes that have nothing in common are joined one layer of blocks after the other.
    layers = groupby(windows, lambda w: w.start[0] if objects == "plane" else 0)
    for layer in (list(members) for _, members in layers):
        joined = join_components(map(describe, layer), offset=count)
        count = joined.count
        for window, table in zip(layer, joined.tables, strict=True):
            tables[window.start] = table.astype(np.uint32)
    return tables, count


def _write_ids(job: _Job) -> tuple[Pyramid, int]:
    path, planes, ignore = job.source.path, _survey(job), job.truth.ignore_label
    distinct = planes[0] if len(planes) == 1 else np.unique(np.concatenate(planes))
    count = sum(len(ids) for ids in planes)
    renumber = job.truth.objects == "plane" and count != len(distinct)
    highest = count if renumber else int(distinct.max(initial=0))
    dtype = np.dtype(np.uint32 if highest <= LARGEST_SHORT_ID else np.uint64)
    first = np.cumsum([1, *map(len, planes)])

    def convert(data: np.ndarray, inner: tuple[slice, ...], window: Window) -> np.ndarray:
        del inner
        ids = _read_ids(path, data, ignore).astype(dtype)
        if renumber:
            for z, plane in enumerate(ids, window.start[0]):
                _renumber(plane, planes[z], first[z])
        return _mark_ignored(ids, data, ignore, _ignored_id(dtype))

    pyramid = job.create(dtype)
    job.fill(pyramid, convert, [job.source], "truth")
    return pyramid, count if renumber else len(distinct)


def _renumber(plane: np.ndarray, known: np.ndarray, first: int) -> None:
    """Replace the ids of a plane by their ranks, in place; 0 stays."""
    for y in range(0, len(plane), BAND):
        band = plane[y : y + BAND]
        rank = np.searchsorted(known, band.astype(np.uint64)) + first
        band[...] = np.where(band == 0, 0, rank)


def _survey(job: _Job) -> list[np.ndarray]:
    """Return the ids of each plane, sorted, without 0."""
    source = job.source

    def look(window: Window) -> list[np.ndarray]:
        ids = _read_ids(source.path, source.read(window), job.truth.ignore_label)
        return [_distinct(plane) for plane in ids]

    found: list[list[np.ndarray]] = [[] for _ in range(source.shape[1])]
    windows = list(blocks(job.shape, job.block))
    with ThreadPoolExecutor(job.at_once) as pool:
        for window, planes in zip(windows, pool.map(look, windows), strict=True):
            for z, ids in enumerate(planes, window.start[0]):
                found[z].append(ids)
    merged = (np.unique(np.concatenate(parts)) for parts in found)
    return [ids[ids != 0] for ids in merged]


def _distinct(plane: np.ndarray) -> np.ndarray:
    """Return the values of a plane, sorted, as uint64."""
    # Neighbours are mostly alike: sorting the first of each run is ten times as fast.
    runs = [
        band[np.concatenate([[True], band[1:] != band[:-1]])]
        for band in (plane[y : y + BAND].reshape(-1) for y in range(0, len(plane), BAND))
    ]
    return np.unique(np.concatenate(runs)).astype(np.uint64)


def _ignored_id(dtype: Any) -> int:
    return 2 ** (8 * np.dtype(dtype).itemsize) - 1


def _mark_ignored(
    array: np.ndarray, data: np.ndarray, ignore: int | None, value: int
) -> np.ndarray:
    """Set the voxels that have the ignored label in `data` (c z y x), in place."""
    if ignore is not None:
        array[(data == ignore).all(axis=0)] = value
    return array


def _read_ids(path: Path, data: np.ndarray, ignore: int | None) -> np.ndarray:
    """Return the ids of a block, ignored voxels as background; raise ValueError if they are none.

    `data` has axes c z y x and one channel, ids z y x.
    """
    if ignore is not None:
        data = np.where(data == ignore, data.dtype.type(0), data)
    _check_ids(path, data)
    return data[0]


def _check_ids(path: Path, data: np.ndarray) -> None:
    """Raise ValueError unless values are ids."""
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


def _check_finite(path: Path, data: np.ndarray) -> None:
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        raise ValueError(f"{path}: labels hold NaN or infinity: save them as integers")
