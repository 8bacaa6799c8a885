"""convert: raw files to OME-Zarr images with statistics and, where there are labels, a truth."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ..blockwise import map_blocks
from ..geometry import Window
from ..intensity import Tally
from ..ledger import Construction, digest, file_identity, fingerprint
from ..pyramids import create_pyramid
from ..readers import open_source
from ..sources import Source
from ..truth import How, open_truth
from ..volumes import commit_image, open_volume, shard_extent
from . import run_lot

LIBRARIES = ("numpy", "tifffile", "imagecodecs", "zarr")
COLUMNS = (
    "channels",
    "planes",
    "spacing",
    "labels",
    "objects",
    "ignore_label",
)  # of the sheet, that change a store


def run(
    *,
    manifest: Path,
    settings: Mapping[str, Any],
    code: str,
    threads: int,
    scheduler: str | None = None,
) -> None:
    """Convert the samples of a lot, each to ``<dataset>/<sample>.ome.zarr`` beside the manifest.

    Parameters
    ----------
    manifest : Path
        Written last. Facts of a sample: ``shape`` (c, z, y, x), ``dtype``, ``spacing`` (z, y, x in
        micrometres, all 1 if it is not known), ``spacing_known``, ``has_truth``, ``instances``
        (None without truth).
    settings : mapping
        ``lot``, ``samples`` (rows of the sheet) and ``storage``.
    code : str
        Digest of the stage's code.
    threads : int
        Threads; they never change a value.
    scheduler : str, optional
        Address of a Dask cluster that does the blocks, which never changes a value either.
    """
    how = How(settings["storage"], threads, scheduler)

    def work(row: Mapping[str, Any]) -> dict[str, Any]:
        store = manifest.parent / row["dataset"] / f"{row['sample']}.ome.zarr"
        with Construction(store, _fingerprint(row, how.storage, code)) as construction:
            if not construction.committed:
                _convert(row, construction, how)
        own = open_volume(store).attributes
        return {"store": store, "fingerprint": own["fingerprint"], **own["facts"]}

    run_lot("convert", manifest, settings, settings["samples"], work, code=code)


def _fingerprint(row: Mapping[str, Any], storage: Mapping[str, Any], code: str) -> dict[str, Any]:
    files = {key: file_identity(Path(row[key])) for key in ("image", "label") if row[key]}
    settings = {"storage": storage, **{key: row[key] for key in COLUMNS}}
    return fingerprint(code=code, settings=settings, inputs=files, libraries=LIBRARIES)


def _convert(row: Mapping[str, Any], construction: Construction, how: How) -> None:
    with ExitStack() as files:
        image = files.enter_context(open_source(Path(row["image"]), workers=how.workers))
        image = image.cut(row["planes"])
        if row["channels"] != "all":
            image = image.select(row["channels"])
        _check_image(image)
        truth = open_truth(row, image, files, how.workers)
        known = row["spacing"] or image.spacing
        spacing = tuple(known or (1.0, 1.0, 1.0))
        levels, statistics = _write_image(image, construction, how)
        instances = None if truth is None else truth.write(construction, spacing, how)
    scale = {"spacing": spacing, "spacing_known": bool(known)}
    _commit(construction, image, scale, levels, statistics, instances)


def _check_image(image: Source) -> None:
    if image.dtype.kind in "iu" and image.dtype.itemsize == 8:
        raise ValueError(
            f"{image.path} holds {image.dtype} intensities: 8, 16 and 32 bits are understood; save "
            f"it with fewer bits (is it a label file?)"
        )
    if min(image.shape[2:]) < 2:
        raise ValueError(
            f"{image.path} is {image.shape[2]} x {image.shape[3]} px (y, x): an image needs at "
            f"least 2 px each way to be mirrored at its edges"
        )


def _write_image(image: Source, construction: Construction, how: How) -> tuple[int, dict[str, Any]]:
    """Write the image and its levels; return their number and the statistics."""
    extent = shard_extent(image.shape, how.storage)
    block = image.block((1, extent, extent))
    workers = image.at_once(block, how.workers)
    pyramid = create_pyramid(
        construction.path,
        "",
        image.shape,
        image.dtype,
        storage=how.storage,
        workers=-(-how.workers // workers),
    )
    tally, path = Tally(image.shape, image.dtype), image.path

    def check(data: np.ndarray, inner: tuple[slice, ...], window: Window) -> np.ndarray:
        del inner
        _check_finite(path, data, window)
        return data

    def take(data: np.ndarray, inner: tuple[slice, ...], window: Window) -> np.ndarray:
        data = check(data, inner, window)
        tally.add(data, window)
        return data

    map_blocks(
        check if how.scheduler else take,  # of a tally elsewhere nothing would come back
        [image],
        [pyramid],
        block=block,
        located=True,
        ledger=construction.ledger("image"),
        workers=workers,
        scheduler=how.scheduler,
    )
    levels = pyramid.finish(how.workers)
    return levels, tally.finish(pyramid.array, block=block, workers=how.workers)


def _check_finite(path: Path, data: np.ndarray, window: Window) -> None:
    if data.dtype.kind != "f" or np.isfinite(data).all():
        return
    at = np.argwhere(~np.isfinite(data))[0]
    place = tuple(int(n) + a for n, a in zip(at[1:], window.start, strict=True))
    raise ValueError(
        f"{path} holds {data[tuple(at)]} at (z, y, x) = {place}, channel {at[0]}: intensities must "
        f"be finite; replace such voxels before"
    )


def _commit(
    construction: Construction,
    image: Source,
    scale: Mapping[str, Any],
    levels: int,
    statistics: Mapping[str, Any],
    instances: int | None,
) -> None:
    store = construction.path
    facts = {
        "shape": image.shape,
        "dtype": image.dtype.name,
        **scale,
        "has_truth": instances is not None,
        "instances": instances,
    }
    attributes = {
        **construction.fingerprint,
        "fingerprint": digest(construction.fingerprint),
        "statistics": statistics,
        "axes": "czyx",
        **scale,
        "facts": facts,
    }
    names = [f"channel {c}" for c in range(image.shape[0])]
    commit_image(
        store,
        spacing=scale["spacing"],
        levels=levels,
        channel_names=names,
        attributes=attributes,
    )
