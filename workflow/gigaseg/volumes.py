"""Create, commit and open the workflow's stores: Zarr v3 arrays with OME-Zarr 0.5 metadata.

A store is a folder. Its arrays come first, its root ``zarr.json`` comes last: until `commit_image`,
`commit_labels` or `commit_arrays` has written that one file, the folder is not a Zarr group and no
reader can mistake it for a finished one.

Three sizes matter. A *chunk* is the unit of reading, a *shard* (one file, whole chunks) the unit of
writing, and both are one plane thick; all channels lie in one chunk. Two tasks must never write
into one shard.
"""

import json
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from . import ome
from .disk import settle, writing
from .ledger import check_block, clear_block
from .manifests import write_atomically
from .shards import ZSTD_LEVEL, check_shards

__all__ = [
    "Volume",
    "commit_arrays",
    "commit_image",
    "commit_labels",
    "create_array",
    "foreign_codecs",
    "open_arrays",
    "open_volume",
    "shard_extent",
]

# Sharded reads and writes are 2 to 3 times faster than with zarr's own pipeline.
zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})

_config = threading.Lock()  # zarr's settings are those of all threads

# Blocks of small planes are many, for many threads; those of large planes are few, each still small
# beside a job's memory and soon redone.
SMALL_SHARD, LARGE_PLANE = 1024, 8192
STAGES = ("convert", "weigh", "predict", "split")


@dataclass(frozen=True)
class Volume:
    """A finished store seen as space.

    Attributes
    ----------
    path : Path
        Folder of the image or of the label image.
    array : zarr.Array
        Level 0, full resolution.
    levels : tuple of zarr.Array
        The pyramid, `array` first; y and x halve from level to level.
    axes : {"czyx", "zyx"}
        One letter per axis of the arrays.
    spacing : tuple of float
        Size of a voxel along z, y, x in micrometres.
    attributes : dict
        What the workflow knows about it: fingerprint, statistics, channels, ...
    """

    path: Path
    array: zarr.Array
    levels: tuple[zarr.Array, ...]
    axes: str
    spacing: tuple[float, float, float]
    attributes: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Extent along z, y, x in voxels."""
        z, y, x = self.array.shape[-3:]
        return z, y, x

    @property
    def known_spacing(self) -> tuple[float, float, float] | None:
        """Spacing; None if neither raw file nor settings say it, and 1 µm stands for it."""
        return self.spacing if self.attributes.get("spacing_known", True) else None

    @property
    def channels(self) -> int:
        """Number of channels; 1 for labels."""
        return self.array.shape[0] if self.axes[0] == "c" else 1

    @property
    def name(self) -> str:
        """Name of the sample: the store's name up to its suffixes."""
        return _root(self.path).name.removesuffix(".zarr").removesuffix(".ome")


def foreign_codecs() -> AbstractContextManager[Any]:
    """Open the arrays of others with zarr's own codecs: the fast ones do not know all of them."""
    return zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"})


def shard_extent(shape: Sequence[int], storage: Mapping[str, Any]) -> int:
    """Return the extent of a volume's shards in y and x, which is that of the blocks of work.

    Parameters
    ----------
    shape : sequence of int
        Of the volume at full resolution; y and x come last.
    storage : mapping
        ``chunk``, and ``shard``: an extent in voxels, or ``auto``, which is few files for large
        planes and many blocks for small ones: the first multiple of the chunk from 1024 px on, and
        four times that for planes from 8192 px on.

    Examples
    --------
    >>> shard_extent((1, 5000, 6000), {"chunk": 256, "shard": "auto"})
    1024
    >>> shard_extent((1, 5000, 32768), {"chunk": 256, "shard": "auto"})
    4096
    """
    if storage["shard"] != "auto":
        return int(storage["shard"])
    small = -(-SMALL_SHARD // storage["chunk"]) * int(storage["chunk"])
    return small if max(shape[-2:]) < LARGE_PLANE else 4 * small


def create_array(
    store: Path,
    name: str,
    shape: Sequence[int],
    dtype: Any,
    *,
    storage: Mapping[str, Any],
    fill_value: float = 0,
) -> zarr.Array:
    """Create an array in a store under construction, or return the one an earlier try created.

    Parameters
    ----------
    store : Path
        Folder of the store; need not exist.
    name : str
        Path of the array inside it, such as ``"0"`` or ``"labels/truth/0"``.
    shape : sequence of int
        ``(z, y, x)`` or ``(c, z, y, x)``.
    dtype : dtype-like
        Any numeric or bool type.
    storage : mapping
        ``chunk`` and ``shard``: extent in y and x, in voxels; both are clipped to the volume. For
        ``shard: auto`` see `shard_extent`.
    fill_value : float
        Value of what is never written; chunks that hold nothing else are not stored.

    Returns
    -------
    zarr.Array
        Compressed by Zstandard, each chunk protected by a CRC-32C checksum.

    Raises
    ------
    ValueError
        If the shard is not a whole number of chunks, or `shape` has no (z, y, x).
    DiskError
        If it cannot be written.

    Examples
    --------
    >>> store = getfixture("tmp_path") / "a.zarr"
    >>> array = create_array(store, "target", (1, 500, 700), "u1",
    ...                      storage={"chunk": 256, "shard": 1024})
    >>> array.chunks, array.shards
    ((1, 256, 256), (1, 512, 768))
    """
    chunks, shards = _cut(shape, storage)
    path = store / name
    options: dict[str, Any] = {
        "shape": tuple(shape),
        "dtype": np.dtype(dtype),
        "chunks": chunks,
        "shards": shards,
        "compressors": [ZstdCodec(level=ZSTD_LEVEL), Crc32cCodec()],
        "fill_value": fill_value,
        "dimension_names": _axes(len(shape)),
        "zarr_format": 3,
    }
    memory: dict[str, Any] = {}
    zarr.create_array(store=memory, **options)
    if (path / "zarr.json").exists():
        if (path / "zarr.json").read_bytes() == memory["zarr.json"].to_bytes():
            with _chunks_in_order():
                return zarr.open_array(path, mode="r+")
        shutil.rmtree(path)  # torn, or of another array
    with writing(path), _chunks_in_order():
        return zarr.create_array(store=path, **options)


@contextmanager
def _chunks_in_order() -> Iterator[None]:
    """Make arrays opened here encode the chunks of a shard one by one.

    Several at once would land in the shard in any order, and equal values in unequal files. Whole
    shards are written at once all the same, and those are what threads share.
    """
    with _config, zarr.config.set({"threading.max_workers": 1}):
        yield


@clear_block.register
def _remove_shards(target: zarr.Array, block: tuple[slice, ...]) -> None:
    """Remove the shards of a block: a torn one at the volume's edge could not be overwritten."""
    shard = (target.shards or target.chunks)[-len(block) :]
    spans = [range(s.start // n, -(-s.stop // n)) for s, n in zip(block, shard, strict=True)]
    channels = (0,) * (target.ndim - len(block))  # all channels lie in one shard
    store: Any = target.store  # a folder: `create_array` makes no others
    folder = Path(store.root) / target.path
    for place in product(*spans):
        (folder / target.metadata.encode_chunk_key((*channels, *place))).unlink(missing_ok=True)


@check_block.register
def _check_shards(target: zarr.Array, block: tuple[slice, ...]) -> None:
    check_shards(target, block)


def commit_image(
    store: Path,
    *,
    axes: str = "czyx",
    spacing: Sequence[float],
    levels: int,
    channel_names: Sequence[str],
    attributes: Mapping[str, Any],
) -> None:
    """Finish an image store: label groups first, the root ``zarr.json`` last.

    Parameters
    ----------
    store : Path
        Folder that holds the arrays ``0`` to ``levels - 1``, and finished ``labels/<name>``.
    axes : str
        One letter per axis of the arrays.
    spacing : sequence of float
        Size of a voxel along z, y, x in micrometres.
    levels : int
        Number of levels, as returned by `gigaseg.pyramids.write_pyramid`.
    channel_names : sequence of str
        One name per channel.
    attributes : mapping
        Stored under ``gigaseg``; must be JSON. ``statistics`` sets the viewers' contrast.

    Raises
    ------
    ValueError
        If the arrays do not agree with `axes`, `levels` or the number of channel names.
    """
    array = _level_arrays(store, levels, axes)[0]
    channels = array.shape[0] if axes[0] == "c" else 1
    if len(channel_names) != channels:
        raise ValueError(f"{store}: {channels} channels, but {len(channel_names)} channel names")
    contrast = _contrast(array, channels, attributes.get("statistics"))
    image = ome.image(store.name, axes, spacing, levels, list(channel_names), contrast)
    finished = sorted(p.parent.name for p in store.glob("labels/*/zarr.json"))
    if finished:
        _write_group(store / "labels", {"ome": ome.label_list(finished)})
    own = {**attributes, "channels": list(channel_names)}
    _write_group(store, {"ome": image, "gigaseg": own})


def commit_labels(
    store: Path,
    *,
    axes: str = "zyx",
    spacing: Sequence[float],
    levels: int,
    attributes: Mapping[str, Any],
) -> None:
    """Finish a label image: a store of its own, or ``<image store>/labels/<name>``.

    Parameters
    ----------
    store, axes, spacing, levels, attributes
        As for `commit_image`. A nested label image must be finished before its image is, whose
        commit lists it.

    Raises
    ------
    ValueError
        If the arrays do not agree with `axes` or `levels`, or are no integers.
    """
    array = _level_arrays(store, levels, axes)[0]
    if array.dtype.kind not in "iu":
        raise ValueError(f"{store}: labels are integers, not {array.dtype}")
    labels = ome.labels(store.name, axes, spacing, levels, nested=_root(store) != store)
    _write_group(store, {"ome": labels, "gigaseg": dict(attributes)})


def commit_arrays(store: Path, attributes: Mapping[str, Any]) -> None:
    """Finish a store of plain named arrays, such as the weights: a Zarr group without levels.

    Parameters
    ----------
    store : Path
        Folder that holds the arrays.
    attributes : mapping
        Stored under ``gigaseg``; must be JSON.
    """
    _write_group(store, {"gigaseg": dict(attributes)})


def open_volume(store: Path, label: str | None = None) -> Volume:
    """Open a finished image or label store for reading.

    Parameters
    ----------
    store : Path
        Folder of the store.
    label : str, optional
        Open this label image of the store, such as ``"truth"``, instead of the image.

    Raises
    ------
    ValueError
        If the store is missing or unfinished (the message names the command that makes it again),
        or has no such label image.
    """
    group = _open_group(store)
    path = store
    if label is not None:
        path = store / "labels" / label
        if not (path / "zarr.json").exists():
            known = ", ".join(sorted(p.name for p in store.glob("labels/*/"))) or "none"
            raise ValueError(f"{store} has no label image {label!r} (there: {known})")
        group = zarr.open_group(path, mode="r")
    scene = ome.read(group.attrs["ome"])
    levels = tuple(zarr.open_array(path / name, mode="r") for name in scene.paths)
    own: Any = group.attrs["gigaseg"]
    return Volume(path, levels[0], levels, scene.axes, scene.spacing, dict(own))


def open_arrays(store: Path) -> tuple[dict[str, zarr.Array], dict[str, Any]]:
    """Open a finished store of plain named arrays for reading.

    Returns
    -------
    arrays : dict of zarr.Array
        By name.
    attributes : dict
        What `commit_arrays` was given.

    Raises
    ------
    ValueError
        If the store is missing or unfinished; the message names the command that makes it again.
    """
    attributes: Any = _open_group(store).attrs["gigaseg"]
    names = sorted(p.parent.name for p in store.glob("*/zarr.json"))
    return {name: zarr.open_array(store / name, mode="r") for name in names}, dict(attributes)


def _open_group(store: Path) -> zarr.Group:
    if (store / "zarr.json").exists():
        return zarr.open_group(store, mode="r")
    stage = next((part for part in reversed(store.parts) if part in STAGES), "<stage>")
    state = "is unfinished" if store.exists() else "is missing"
    raise ValueError(
        f"{store} {state}: make it again with `snakemake --cores all --forcerun {stage}`"
    )


def _root(path: Path) -> Path:
    return path.parent.parent if path.parent.name == "labels" else path


def _axes(ndim: int) -> str:
    axes = {3: "zyx", 4: "czyx"}.get(ndim)
    if axes is None:
        raise ValueError(f"an array of {ndim} axes: stores hold zyx or czyx arrays")
    return axes


def _cut(shape: Sequence[int], storage: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a chunk and of a shard."""
    channels, plane = tuple(shape[: len(_axes(len(shape))) - 3]), shape[-2:]
    chunk, shard = storage["chunk"], shard_extent(shape, storage)
    if chunk < 1 or shard % chunk:
        raise ValueError(f"storage: shard {shard} is not a multiple of chunk {chunk}")
    chunks = [min(chunk, n) for n in plane]
    shards = [min(shard, -(-n // chunk) * chunk) if n > chunk else n for n in plane]
    return (*channels, 1, *chunks), (*channels, 1, *shards)


def _level_arrays(store: Path, levels: int, axes: str) -> list[zarr.Array]:
    found = [zarr.open_array(store / str(n), mode="r") for n in range(levels)]
    for array in found:
        if _axes(array.ndim) != axes:
            raise ValueError(f"{array.store_path}: axes {axes!r}, but {array.ndim} dimensions")
    return found


def _contrast(array: zarr.Array, channels: int, statistics: Any) -> list[tuple[float, float]]:
    """Return the range that viewers show, per channel."""
    if statistics is not None:
        volume = statistics["volume"]
        return list(zip(volume["minimum"], volume["maximum"], strict=True))
    last = float(np.iinfo(array.dtype).max) if array.dtype.kind in "iu" else 1.0
    return [(0.0, last)] * channels


def _write_group(path: Path, attributes: Mapping[str, Any]) -> None:
    settle(path)  # the group's file says that all others are there
    content = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    write_atomically(path / "zarr.json", json.dumps(content, indent=1, allow_nan=False))
