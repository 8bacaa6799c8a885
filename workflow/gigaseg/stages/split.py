"""Split: probabilities in, instances and a table of them out."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import gcd, prod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..cuts import Cut, Work, label_dtype
from ..digests import volume_digest
from ..fingerprints import digest, fingerprint
from ..instances import Splitting
from ..labels import Objects
from ..ledger import Construction
from ..manifests import read_manifest
from ..objects import Quanta, Tally
from ..pyramids import create_pyramid
from ..splitting import split_volume
from ..volumes import Volume, commit_labels, create_array, open_volume
from . import Row, read_entries, run_lot, share_threads

LIBRARIES = ("numpy", "scipy", "numba", "zarr", "pandas", "pyarrow")
TABLES = (".objects.parquet", ".objects.csv")
SCRATCH = "scratch"  # folder of a store under construction
SCRATCH_CHUNK = 256  # px


def run(
    *,
    manifest: Path,
    convert: Path,
    predict: Path,
    settings: Mapping[str, Any],
    code: str,
    threads: int,
    tune: Path | None = None,
    scheduler: str | None = None,
) -> None:
    """Turn the probabilities of a lot into instances.

    Parameters
    ----------
    manifest : Path
        Written last. Beside it lie the label images ``<dataset>/<sample>.ome.zarr`` (axes z y x,
        ids from 1) and the tables ``<dataset>/<sample>.objects.parquet`` and ``.csv`` with one row
        per instance (`object_table`).
    convert, predict : Path
        Manifests of the lot's images and probabilities.
    settings : mapping
        ``lot``, ``samples``, ``instances``, ``target`` and ``storage``.
    code : str
        Digest of this stage's code.
    threads : int
        Threads; they never change a value.
    tune : Path, optional
        Manifest that says which ``instances`` settings were chosen; they are added to those told.
    scheduler : str, optional
        Address of a Dask cluster that does the blocks, which never changes a value either.

    Raises
    ------
    ValueError
        If the ``instances`` settings are not valid.
    """
    chosen = read_manifest(tune)["chosen"] if tune else {}
    # A store says by which values it was made, not how they were found.
    own = {**settings, "instances": {**settings["instances"], **chosen}}
    Splitting(**own["instances"])
    images, predictions = read_entries(convert), read_entries(predict)
    at_once, workers = share_threads(threads, len(settings["samples"]))

    def work(row: Row) -> dict[str, Any]:
        store = manifest.parent / row["dataset"] / f"{row['sample']}.ome.zarr"
        inputs = {"image": images[row["sample"]], "probabilities": predictions[row["sample"]]}
        return split_sample(
            *(inputs, store, row["objects"]),
            settings=own,
            code=code,
            workers=workers,
            scheduler=scheduler,
        )

    rows = settings["samples"]
    run_lot("split", manifest, settings, rows, work, predictions, code=code, workers=at_once)


def split_sample(
    inputs: Mapping[str, Mapping[str, Any]],
    store: Path,
    objects: Objects,
    *,
    settings: Mapping[str, Any],
    code: str,
    workers: int,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Turn the probabilities of one sample into instances.

    Parameters
    ----------
    inputs : mapping
        The sample's entries in the manifests of convert and predict: ``image``, ``probabilities``.
    store : Path
        Where the labels go; the tables go beside it.
    objects : {"plane", "volume"}
        Whether each plane is a problem of its own (ids continue from plane to plane).
    settings, code, workers, scheduler
        As for `run`.

    Returns
    -------
    dict
        Facts for the manifest: among them ``instances``, their number.
    """
    made_from = fingerprint(
        code=code,
        settings={key: settings[key] for key in ("instances", "target", "storage")}
        | {"objects": objects},
        inputs={name: entry["fingerprint"] for name, entry in inputs.items()},
        libraries=LIBRARIES,
    )
    if not all(_beside(store, suffix).exists() for suffix in TABLES):
        (store / "zarr.json").unlink(missing_ok=True)  # without its tables it is not finished
    with Construction(store, made_from) as construction:
        if not construction.committed:
            volumes = {name: open_volume(entry["store"]) for name, entry in inputs.items()}
            _fill(
                construction,
                **volumes,
                objects=objects,
                settings=settings,
                workers=workers,
                scheduler=scheduler,
            )
    shutil.rmtree(store / SCRATCH, ignore_errors=True)
    labels = open_volume(store)
    return {
        "store": store,
        "table": _beside(store, TABLES[0]),
        "fingerprint": digest(made_from),
        "shape": labels.shape,
        "spacing": labels.spacing,
        "dtype": str(labels.array.dtype),
        "instances": labels.attributes["instances"],
        "digest": labels.attributes["digest"],
        "threshold": settings["instances"]["threshold"],
    }


def object_table(
    found: Tally, means: np.ndarray, *, objects: str, channels: list[str], spacing: Sequence[float]
) -> pd.DataFrame:
    """Arrange what was measured as one row per instance.

    Parameters
    ----------
    found : Tally
        Of the instances 1, 2, ...
    means : ndarray, shape (n, c)
        Their mean intensities.
    objects : {"plane", "volume"}
        Whether a size is an area (``area_px``, ``area_um2``) or a volume (``volume_px``,
        ``volume_um3``).
    channels : list of str
        Names of the image's channels, for ``mean_<channel>``.
    spacing : sequence of float
        Size of a voxel along z, y, x in µm.

    Returns
    -------
    DataFrame
        ``id``, ``plane`` (the first), size, ``centroid_<axis>_um``, ``start_<axis>`` and
        ``stop_<axis>`` (half-open box in px), ``mean_<channel>``.
    """
    planar = objects == "plane"
    size, power = ("area", 2) if planar else ("volume", 3)
    centroids = found.centroids(spacing)
    columns = {
        "id": np.arange(1, found.voxels.size + 1, dtype=np.uint64),
        "plane": found.start[:, 0],
        f"{size}_px": found.voxels,
        f"{size}_um{power}": found.voxels * prod(spacing[planar:]),
    }
    columns |= {f"centroid_{axis}_um": centroids[:, k] for k, axis in enumerate("zyx")}
    for end, corners in (("start", found.start), ("stop", found.stop)):
        columns |= {f"{end}_{axis}": corners[:, k] for k, axis in enumerate("zyx")}
    columns |= {f"mean_{name}": means[:, k] for k, name in enumerate(channels)}
    return pd.DataFrame(columns)


def _fill(
    construction: Construction,
    image: Volume,
    probabilities: Volume,
    *,
    objects: Objects,
    settings: Mapping[str, Any],
    workers: int,
    scheduler: str | None,
) -> None:
    """Write labels, tables and the pyramid, then the commit."""
    store, storage, shape = construction.path, settings["storage"], probabilities.shape
    labels = create_pyramid(store, "", shape, label_dtype(shape), mode="nearest", storage=storage)
    quanta = tuple(_quanta(image))
    cut = Cut.choose(shape, objects, labels.shards)
    work = Work(
        probabilities=probabilities.array,
        image=image.array,
        fragments=_create_scratch(store, shape, cut),
        folder=store / SCRATCH,
        how=Splitting(**settings["instances"]),
        target=settings["target"],
        objects=objects,
        spacing=probabilities.spacing,
        quanta=quanta,
        cut=cut,
    )
    found = split_volume(work, labels, construction.ledger, workers=workers, scheduler=scheduler)
    names = image.attributes["channels"]
    table = object_table(
        found, found.means(quanta), objects=objects, channels=names, spacing=image.spacing
    )
    _write_tables(store, table)
    commit_labels(
        store,
        spacing=probabilities.spacing,
        levels=labels.finish(workers),
        attributes={
            **construction.fingerprint,
            "fingerprint": digest(construction.fingerprint),
            "objects": objects,
            "instances": len(table),
            "digest": volume_digest(labels.array, workers=workers),
        },
    )


def _create_scratch(store: Path, shape: tuple[int, int, int], cut: Cut) -> Any:
    """Create the array of fragments: a block is whole shards, and a halo few chunks."""
    side = max(cut.flood[1:])
    storage = {"chunk": gcd(side, SCRATCH_CHUNK), "shard": side}
    return create_array(store / SCRATCH, "labels", shape, np.uint32, storage=storage)


def _quanta(image: Volume) -> Iterator[Quanta]:
    """Choose how the intensities of each channel are counted."""
    dtype = image.array.dtype
    if dtype.kind != "f":
        yield from [Quanta.choose(dtype)] * image.channels
        return
    if "statistics" not in image.attributes:
        raise ValueError(
            f"{image.path} has no statistics, which say how finely its {dtype} intensities are to "
            f"be summed: make it again with `snakemake --cores all --forcerun convert`"
        )
    measured = image.attributes["statistics"]["volume"]
    for low, high in zip(measured["minimum"], measured["maximum"], strict=True):
        yield Quanta.choose(dtype, max(abs(low), abs(high)))


def _write_tables(store: Path, table: pd.DataFrame) -> None:
    """Write the tables beside a store, each whole or not at all, row by row."""
    writers = (
        partial(table.to_parquet, index=False),
        partial(table.to_csv, index=False, lineterminator="\n"),
    )
    for suffix, write in zip(TABLES, writers, strict=True):
        draft = store / SCRATCH / f"table{suffix}"
        write(draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, _beside(store, suffix))


def _beside(store: Path, suffix: str) -> Path:
    return store.with_name(store.name.removesuffix(".ome.zarr") + suffix)
