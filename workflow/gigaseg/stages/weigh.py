"""Weigh: instance labels in, the training target and its separation weights out."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..blockwise import map_blocks
from ..fingerprints import digest, fingerprint
from ..inventory import take_inventory
from ..ledger import Construction
from ..volumes import Volume, commit_arrays, create_array, open_arrays, open_volume, shard_extent
from ..weights import (
    BACKGROUND,
    BOUNDARY,
    IGNORED,
    INTERIOR,
    RIDGE,
    cutoff,
    encode_target,
    halo,
    separation,
)
from . import Row, read_entries, run_lot, share_threads

logger = logging.getLogger(__name__)

LIBRARIES = ("numpy", "numba", "zarr")
FORMULA = "w0 * exp(-(d1 + d2)**2 / (2 * sigma**2)) where d1 + d2 <= cutoff, else 0"
CODES = {
    "background": BACKGROUND,
    "interior": INTERIOR,
    "boundary": BOUNDARY,
    "ridge": RIDGE,
    "ignored": IGNORED,
}
SUMMARY = ("counts", "ignored", "vanished", "cross_sections")
TALLY_STORAGE = {"chunk": 256, "shard": 256}  # chunks of the target; a file is 65536² px of these
THICKNESS = 64  # planes per block of a 3-D distance: much thinner, and most of the work is halo


def run(
    *, manifest: Path, convert: Path, settings: Mapping[str, Any], code: str, threads: int
) -> None:
    """Compute target and separation weights of the labelled samples of a lot.

    Samples that no training looks at (split ``test``, or without a label) have no entry in the
    manifest: there is nothing to compute for them.

    Parameters
    ----------
    manifest : Path
        Written last. The stores lie beside it, as ``<dataset>/<sample>.zarr`` with the arrays
        ``target`` (uint8) and ``separation`` (float32) of axes z y x, see `gigaseg.weights`, and
        ``tally`` (uint32), the voxels of each kind in each chunk, see `gigaseg.tally`.
    convert : Path
        Manifest of the lot's images.
    settings : mapping
        ``lot``, ``samples``, ``weights`` and ``storage``.
    code : str
        Digest of this stage's code.
    threads : int
        Threads; they never change a value.
    """
    images = read_entries(convert)
    rows = [row for row in settings["samples"] if row["split"] != "test" and row["label"]]
    at_once, workers = share_threads(threads, len(rows))

    def work(row: Row) -> dict[str, Any]:
        store = manifest.parent / row["dataset"] / f"{row['sample']}.zarr"
        image = images[row["sample"]]
        return weigh_sample(
            image, store, row["objects"], settings=settings, code=code, workers=workers
        )

    run_lot("weigh", manifest, settings, rows, work, images, code=code, workers=at_once)


def weigh_sample(
    image: Mapping[str, Any],
    store: Path,
    objects: str,
    *,
    settings: Mapping[str, Any],
    code: str,
    workers: int,
) -> dict[str, Any]:
    """Compute target and separation weights of one sample.

    Parameters
    ----------
    image : mapping
        The image's entry in the manifest of convert.
    store : Path
        Where the arrays go.
    objects : {"plane", "volume"}
        Whether distances are measured in each plane or in space.
    settings, code, workers
        As for `run`; `workers` blocks are computed at once.

    Returns
    -------
    dict
        Facts for the manifest: among them ``counts``, the voxels of background, interior, boundary
        and ridge, ``vanished``, the instances of which nothing is left but ridge, and
        ``cross_sections``: how many objects the planes show, and the median diameter of these.
    """
    truth = open_volume(image["store"], "truth")
    made_from = fingerprint(
        code=code,
        settings={key: settings[key] for key in ("weights", "storage")} | {"objects": objects},
        inputs={"image": image["fingerprint"]},
        libraries=LIBRARIES,
    )
    with Construction(store, made_from) as construction:
        if not construction.committed:
            _fill(construction, truth, objects, settings, workers)
    _, attributes = open_arrays(store)
    facts = {key: attributes[key] for key in (*SUMMARY, "shape", "spacing")}
    _warn(store.stem, facts)
    return {
        "store": store,
        "image_store": image["store"],
        "fingerprint": digest(made_from),
        **facts,
    }


def _fill(
    construction: Construction,
    truth: Volume,
    objects: str,
    settings: Mapping[str, Any],
    workers: int,
) -> None:
    """Write the arrays block by block, then the commit."""
    store, weights, storage = construction.path, settings["weights"], settings["storage"]
    if storage["shard"] == "auto":  # as of small planes: distances take much memory
        storage = {**storage, "shard": shard_extent((1, 1, 1), storage)}
    if objects == "volume":
        storage = {**storage, "shard": storage["chunk"]}  # smaller blocks, for they are thick
    depth = THICKNESS if objects == "volume" else 1
    target = create_array(store, "target", truth.shape, np.uint8, storage=storage)
    separations = create_array(store, "separation", truth.shape, np.float32, storage=storage)
    map_blocks(
        block_function(weights, objects, truth.spacing, ignored=truth.attributes.get("ignored")),
        [truth.array],
        [target, separations],
        block=(depth, storage["shard"], storage["shard"]),
        halo=block_halo(weights, objects, truth.spacing),
        edge="clip",
        ledger=construction.ledger("weights"),
        workers=workers,
    )
    block = (depth, storage["shard"], storage["shard"])
    tally, summary = take_inventory(
        truth.array, target, separations, chunk=target.chunks, block=block
    )
    create_array(store, "tally", tally.shape, tally.dtype, storage=TALLY_STORAGE)[...] = tally
    attributes = {
        **construction.fingerprint,
        "fingerprint": digest(construction.fingerprint),
        "formula": FORMULA,
        "parameters": {**weights, "cutoff": cutoff(weights["w0"], weights["sigma"])},
        "codes": CODES,
        "objects": objects,
        "axes": "zyx",
        "shape": truth.shape,
        "spacing": truth.spacing,
        **summary,
    }
    commit_arrays(store, attributes)


def block_halo(
    weights: Mapping[str, Any], objects: str, spacing: Sequence[float]
) -> tuple[int, ...]:
    """Return the voxels beyond a block, along z, y, x, that decide about its values."""
    chosen = {key: weights[key] for key in ("w0", "sigma", "boundary_width")}
    if objects == "plane":
        return (0, *halo(**chosen, spacing=spacing[1:]))
    return halo(**chosen, spacing=spacing)


def block_function(
    weights: Mapping[str, Any],
    objects: str,
    spacing: Sequence[float],
    *,
    ignored: int | None = None,
) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Return the function from the labels of a block with halo to its target and separation.

    Voxels of the id `ignored` are background to their neighbours, and have no weight themselves.
    """

    def of_array(labels: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        unknown = labels == ignored if ignored is not None else np.zeros((), bool)
        known = np.where(unknown, labels.dtype.type(0), labels) if unknown.any() else labels
        target = encode_target(known, boundary_width=weights["boundary_width"], spacing=spacing)
        weight = separation(
            known,
            w0=weights["w0"],
            sigma=weights["sigma"],
            on=weights["separation_on"],
            spacing=spacing,
        )
        if unknown.any():
            target[unknown], weight[unknown] = IGNORED, 0
        return target, weight

    def of_block(labels: np.ndarray, inner: tuple[slice, ...]) -> tuple[np.ndarray, np.ndarray]:
        if objects == "volume":
            target, weight = of_array(labels, spacing)
            return target[inner], weight[inner]
        planes = [of_array(plane, spacing[1:]) for plane in labels]
        target, weight = (np.stack(arrays)[inner] for arrays in zip(*planes, strict=True))
        return target, weight

    return of_block


def _warn(sample: str, facts: Mapping[str, Any]) -> None:
    if facts["vanished"]:
        shown = ", ".join(map(str, facts["vanished"][:10]))
        logger.warning(
            "%s: %d instances vanish in the ridge between touching instances, and training cannot "
            "see them (ids %s%s)",
            sample,
            len(facts["vanished"]),
            shown,
            ", ..." if len(facts["vanished"]) > 10 else "",
        )
    if not any(facts["counts"][1:]):
        logger.warning("%s: the label image is empty, so everything is background", sample)
