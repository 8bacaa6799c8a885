"""Predict: images and a trained network in, volumes of probabilities out."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..blockwise import map_blocks
from ..classes import NAMES
from ..geometry import Window
from ..inference import Predictor, load_model
from ..intensity import intensity_window
from ..ledger import Construction, digest, fingerprint, read_manifest
from ..pyramids import write_pyramid
from ..runtime import Runtime, choose_runtime
from ..tiling import TileGrid, check_tile, choose_tile
from ..unet import Architecture
from ..volumes import Volume, commit_image, create_array, open_volume
from . import Row, read_entries, run_lot, share_threads

logger = logging.getLogger(__name__)

LIBRARIES = ("torch", "numpy", "zarr")


@dataclass(frozen=True)
class Model:
    """A trained network, ready to predict, with what is known about it."""

    predictor: Predictor
    metadata: Mapping[str, Any]
    identity: Mapping[str, str]

    @property
    def architecture(self) -> Architecture:
        """Shape of the network."""
        return self.predictor.network.architecture

    @property
    def runtime(self) -> Runtime:
        """Where and in which precision it runs."""
        return self.predictor.runtime

    @property
    def channels(self) -> list[str]:
        """Names of the classes whose probabilities are stored: all but the background."""
        return list(NAMES[self.metadata["target"]][1:])


def run(
    *,
    manifest: Path,
    convert: Path,
    train: Path,
    settings: Mapping[str, Any],
    code: str,
    threads: int,
) -> None:
    """Predict the samples of a lot with one trained network.

    Parameters
    ----------
    manifest : Path
        Written last. The stores lie beside it, as ``<dataset>/<sample>.ome.zarr``: uint8 of axes
        c z y x, ``round(255 * p)`` for every class but the first.
    convert, train : Path
        Manifests of the lot's images and of the model.
    settings : mapping
        ``lot``, ``samples``, ``experiment``, ``fold``, ``prediction`` and ``storage``.
    code : str
        Digest of this stage's code.
    threads : int
        Threads; they never change a value.

    Raises
    ------
    ValueError
        If the model cannot be loaded or a GPU that is asked for is missing.
    """
    model = _load(train, settings["prediction"])
    images = read_entries(convert)
    at_once, workers = share_threads(threads, len(settings["samples"]))

    def work(row: Row) -> dict[str, Any]:
        store = manifest.parent / row["dataset"] / f"{row['sample']}.ome.zarr"
        return predict_sample(
            images[row["sample"]], store, model, settings=settings, code=code, workers=workers
        )

    rows = settings["samples"]
    run_lot("predict", manifest, settings, rows, work, images, code=code, workers=at_once)


def predict_sample(
    image: Mapping[str, Any],
    store: Path,
    model: Model,
    *,
    settings: Mapping[str, Any],
    code: str,
    workers: int,
) -> dict[str, Any]:
    """Predict one volume.

    Parameters
    ----------
    image : mapping
        The image's entry in the manifest of convert.
    store : Path
        Where the probabilities go.
    model : Model
        The network and how it runs.
    settings, code, workers
        As for `run`; `workers` blocks are predicted at once.

    Returns
    -------
    dict
        Facts for the manifest.

    Raises
    ------
    ValueError
        If the image has another number of channels than the model, or no grid of tiles fits.
    """
    volume = open_volume(image["store"])
    _check_channels(volume, model)
    grid = _grid(volume, model, settings)
    made_from = _fingerprint(image, model, grid, settings, code)
    with Construction(store, made_from) as construction:
        if not construction.committed:
            construction.note(device=model.runtime.device, tile=grid.tile, workers=workers)
            _fill(construction, volume, model, grid, settings, workers)
    return {
        "store": store,
        "fingerprint": digest(made_from),
        "shape": volume.shape,
        "spacing": volume.spacing,
        "channels": model.channels,
        "tile": grid.tile,
        "step": grid.step,
        "precision": model.runtime.precision,
    }


def _load(train: Path, prediction: Mapping[str, Any]) -> Model:
    """Load the model that a training manifest points to."""
    trained = read_manifest(train)
    description = train.parent / trained["model"]
    network, metadata = load_model(description, prediction["checkpoint"])
    weights = description.parent / metadata["weights"][prediction["checkpoint"]]
    with weights.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    identity = {"model": trained["fingerprint"], "weights": content}
    predictor = Predictor(
        network,
        choose_runtime(prediction, "prediction"),
        batch=prediction["batch"],
        symmetries=prediction["symmetries"],
    )
    return Model(predictor, metadata, identity)


def _check_channels(volume: Volume, model: Model) -> None:
    expected = model.architecture.in_channels
    if volume.channels != expected:
        raise ValueError(
            f"the image has {volume.channels} channels, the model was trained on {expected}: "
            f"choose the same channels for both (datasets: channels), or train an experiment on "
            f"images like this one"
        )


def _grid(volume: Volume, model: Model, settings: Mapping[str, Any]) -> TileGrid:
    """Take the configured tile if it fits this volume's blocks, or choose one."""
    architecture, prediction = model.architecture, settings["prediction"]
    plane, block = volume.shape[1:], (settings["storage"]["shard"],) * 2
    tile = prediction["tile"]
    if tile == "auto":
        width, memory = architecture.width, prediction["memory_gb"] / prediction["batch"]
        tile = choose_tile(architecture.geometry, plane, block, width=width, memory_gb=memory)
    else:
        check_tile(architecture.geometry, tile, plane, block)
    return TileGrid(architecture.geometry, tile)


def _fingerprint(
    image: Mapping[str, Any],
    model: Model,
    grid: TileGrid,
    settings: Mapping[str, Any],
    code: str,
) -> dict[str, Any]:
    """Collect what decides the stored values; the device and the number of threads do not."""
    chosen = {key: settings["prediction"][key] for key in ("batch", "symmetries", "checkpoint")}
    chosen |= {"tile": grid.tile, "precision": model.runtime.precision}
    return fingerprint(
        code=code,
        settings={"prediction": chosen, "storage": settings["storage"]},
        inputs={"image": image["fingerprint"], **model.identity},
        libraries=LIBRARIES,
    )


def _fill(
    construction: Construction,
    volume: Volume,
    model: Model,
    grid: TileGrid,
    settings: Mapping[str, Any],
    workers: int,
) -> None:
    """Write the probabilities block by block, then the pyramid, then the commit."""
    store, storage, names = construction.path, settings["storage"], model.channels
    target = create_array(store, "0", (len(names), *volume.shape), np.uint8, storage=storage)
    map_blocks(
        _block_function(volume, model, grid),
        [volume.array],
        [target],
        block=(1, storage["shard"], storage["shard"]),
        halo=(0, grid.halo, grid.halo),
        align=(1, grid.step, grid.step),
        located=True,
        ledger=construction.ledger("0"),
        workers=workers,
    )
    commit_image(
        store,
        spacing=volume.spacing,
        levels=write_pyramid(store, storage=storage, workers=workers),
        channel_names=names,
        attributes={
            **construction.fingerprint,
            "fingerprint": digest(construction.fingerprint),
            "target": model.metadata["target"],
            "experiment": settings["experiment"],
            "fold": settings["fold"],
        },
    )


def _block_function(volume: Volume, model: Model, grid: TileGrid) -> Callable[..., np.ndarray]:
    """Return the function of one block: normalise each plane, predict it."""
    statistics, intensity = volume.attributes["statistics"], model.metadata["intensity"]

    def predict(data: np.ndarray, inner: tuple[slice, ...], window: Window) -> np.ndarray:
        del inner  # the whole halo is the network's
        planes = []
        for index, z in enumerate(range(window.start[0], window.stop[0])):
            constants = intensity_window(statistics, intensity, z)
            planes.append(model.predictor.quantised(data[:, index], grid, constants))
        return np.stack(planes, axis=1)

    return predict
