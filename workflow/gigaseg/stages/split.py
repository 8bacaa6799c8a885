"""Split: probabilities in, instances and a table of them out."""

import io
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..fingerprints import digest, fingerprint
from ..instances import Evidence, Splitting, Target, segment
from ..ledger import Construction, write_atomically
from ..objects import measure
from ..pyramids import write_pyramid
from ..volumes import Volume, commit_labels, create_array, open_volume
from . import Row, read_entries, run_lot, share_threads

LIBRARIES = ("numpy", "scipy", "numba", "zarr", "pandas", "pyarrow")
TABLES = (".objects.parquet", ".objects.csv")


def run(
    *,
    manifest: Path,
    convert: Path,
    predict: Path,
    settings: Mapping[str, Any],
    code: str,
    threads: int,
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

    Raises
    ------
    ValueError
        If the ``instances`` settings are not valid.
    """
    Splitting(**settings["instances"])
    images, predictions = read_entries(convert), read_entries(predict)
    at_once, workers = share_threads(threads, len(settings["samples"]))

    def work(row: Row) -> dict[str, Any]:
        store = manifest.parent / row["dataset"] / f"{row['sample']}.ome.zarr"
        inputs = {"image": images[row["sample"]], "probabilities": predictions[row["sample"]]}
        return split_sample(
            inputs, store, row["objects"], settings=settings, code=code, workers=workers
        )

    rows = settings["samples"]
    run_lot("split", manifest, settings, rows, work, predictions, code=code, workers=at_once)


def split_sample(
    inputs: Mapping[str, Mapping[str, Any]],
    store: Path,
    objects: str,
    *,
    settings: Mapping[str, Any],
    code: str,
    workers: int,
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
    settings, code, workers
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
            _fill(construction, **volumes, objects=objects, settings=settings, workers=workers)
    labels = open_volume(store)
    return {
        "store": store,
        "table": _beside(store, TABLES[0]),
        "fingerprint": digest(made_from),
        "shape": labels.shape,
        "spacing": labels.spacing,
        "dtype": str(labels.array.dtype),
        "instances": labels.attributes["instances"],
        "threshold": settings["instances"]["threshold"],
    }


def label_planes(
    probabilities: Any,
    how: Splitting,
    target: Target,
    objects: str,
    spacing: tuple[float, float, float],
) -> Iterator[tuple[slice, np.ndarray]]:
    """Label a volume part by part: each plane by itself, or all planes together.

    Parameters
    ----------
    probabilities : array-like of uint8, shape (c, z, y, x)
        NumPy or Zarr; a part at a time is read.
    how : Splitting
        Settings.
    target : {"foreground", "interior_boundary"}
        What the channels mean.
    objects : {"plane", "volume"}
        One plane or all of them are a part.
    spacing : tuple of float
        Size of a voxel along z, y, x.

    Yields
    ------
    planes : slice
        Of the volume.
    labels : ndarray of uint32, shape (planes, y, x)
        Ids from 1 in every part.
    """
    depth = probabilities.shape[1]
    if objects == "volume":
        evidence = Evidence.read(np.asarray(probabilities[...]), target)
        yield slice(0, depth), segment(evidence, how, spacing)
        return
    for z in range(depth):
        evidence = Evidence.read(np.asarray(probabilities[:, z]), target)
        yield slice(z, z + 1), segment(evidence, how, spacing[1:])[None]


def label_dtype(shape: tuple[int, ...]) -> np.dtype:
    """Return the type that holds one instance id per voxel, the most there can be.

    Examples
    --------
    >>> label_dtype((1, 60_000, 60_000)), label_dtype((2, 60_000, 60_000))
    (dtype('uint32'), dtype('uint64'))
    """
    return np.dtype(np.uint32 if prod(shape) <= np.iinfo(np.uint32).max else np.uint64)


def object_table(
    measured: Mapping[str, np.ndarray], *, objects: str, channels: list[str], voxel: float
) -> pd.DataFrame:
    """Arrange what was measured as one row per instance.

    Parameters
    ----------
    measured : mapping
        As returned by `gigaseg.objects.measure`, and ``id``.
    objects : {"plane", "volume"}
        Whether a size is an area (``area_px``, ``area_um2``) or a volume (``volume_px``,
        ``volume_um3``).
    channels : list of str
        Names of the image's channels, for ``mean_<channel>``.
    voxel : float
        Size of one voxel in µm² or µm³.

    Returns
    -------
    DataFrame
        ``id``, ``plane`` (the first), size, ``centroid_<axis>_um``, ``start_<axis>`` and
        ``stop_<axis>`` (half-open box in px), ``mean_<channel>``.
    """
    size, power = ("area", 2) if objects == "plane" else ("volume", 3)
    columns = {
        "id": measured["id"],
        "plane": measured["start"][:, 0],
        f"{size}_px": measured["voxels"],
        f"{size}_um{power}": measured["voxels"] * voxel,
    }
    for k, axis in enumerate("zyx"):
        columns[f"centroid_{axis}_um"] = measured["centroid"][:, k]
    for end in ("start", "stop"):
        columns |= {f"{end}_{axis}": measured[end][:, k] for k, axis in enumerate("zyx")}
    columns |= {f"mean_{name}": measured["mean"][:, k] for k, name in enumerate(channels)}
    return pd.DataFrame(columns)


def _fill(
    construction: Construction,
    image: Volume,
    probabilities: Volume,
    objects: str,
    settings: Mapping[str, Any],
    workers: int,
) -> None:
    """Write labels, tables and the pyramid, then the commit."""
    store, storage = construction.path, settings["storage"]
    dtype = label_dtype(probabilities.shape)
    target = create_array(store, "0", probabilities.shape, dtype, storage=storage)
    measured, count = _label(target, image, probabilities, objects, settings)
    planar = objects == "plane"
    table = object_table(
        measured,
        objects=objects,
        channels=image.attributes["channels"],
        voxel=prod(image.spacing[planar:]),
    )
    _write_tables(store, table)
    commit_labels(
        store,
        spacing=probabilities.spacing,
        levels=write_pyramid(store, mode="nearest", storage=storage, workers=workers),
        attributes={
            **construction.fingerprint,
            "fingerprint": digest(construction.fingerprint),
            "objects": objects,
            "instances": count,
        },
    )


def _label(
    target: Any,
    image: Volume,
    probabilities: Volume,
    objects: str,
    settings: Mapping[str, Any],
) -> tuple[dict[str, np.ndarray], int]:
    """Write the labels; return what was measured on the instances, and their number."""
    how = Splitting(**settings["instances"])
    parts, count = [], 0
    for planes, labels in label_planes(
        probabilities.array, how, settings["target"], objects, probabilities.spacing
    ):
        part = measure(labels, np.asarray(image.array[:, planes]), image.spacing)
        offset = np.array([planes.start, 0, 0])
        part["centroid"] = part["centroid"] + offset * image.spacing
        part["start"], part["stop"] = part["start"] + offset, part["stop"] + offset
        part["id"] = np.arange(1, part["voxels"].size + 1, dtype=target.dtype) + count
        target[planes] = np.where(labels > 0, labels.astype(target.dtype) + count, 0)
        count += part["voxels"].size
        parts.append(part)
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}, count


def _write_tables(store: Path, table: pd.DataFrame) -> None:
    binary = io.BytesIO()
    table.to_parquet(binary, index=False)
    parquet, csv = (_beside(store, suffix) for suffix in TABLES)
    write_atomically(parquet, binary.getvalue())
    write_atomically(csv, table.to_csv(index=False, lineterminator="\n"))


def _beside(store: Path, suffix: str) -> Path:
    return store.with_name(store.name.removesuffix(".ome.zarr") + suffix)
