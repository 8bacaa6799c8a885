"""Predict: images and trained networks in, volumes of probabilities out.

One job predicts a lot, or several do: `predict_open` begins the stores, any number of
`predict_part` fill them at the same time, and this stage does what is missing and commits. All
three go through `Task`, so the result cannot depend on how many there were.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..blockwise import map_blocks
from ..digests import volume_digest
from ..ensembles import Model, load
from ..geometry import Window, read_mirrored
from ..inference import Predictor
from ..intensity import intensity_window
from ..ledger import BOOKS, Construction, digest, fingerprint
from ..pyramids import Pyramid, create_pyramid
from ..runtime import (
    Precision,
    Runtime,
    hardware_name,
    has_native_bfloat16,
)
from ..tiling import TileGrid, check_tile, choose_tile, tile_memory_gb
from ..volumes import Volume, commit_image, open_volume, shard_extent
from . import Row, read_entries, run_lot, share_threads

logger = logging.getLogger(__name__)

LIBRARIES = ("torch", "numpy", "zarr")

COMPILE_FROM = 1000  # tiles of a volume from which compiling, a minute or so, is made up for


def run(
    *,
    manifest: Path,
    convert: Path,
    train: Sequence[Path],
    settings: Mapping[str, Any],
    code: str,
    threads: int,
    opened: bool = False,
) -> None:
    """Predict the samples of a lot with one trained network, or with the mean of several.

    Parameters
    ----------
    manifest : Path
        Written last. The stores lie beside it, as ``<dataset>/<sample>.ome.zarr``: uint8 of axes
        c z y x, ``round(255 * p)`` for every class but the first.
    convert : Path
        Manifest of the lot's images.
    train : sequence of Path
        Manifests of trainings, or model files; of several, the probabilities are averaged.
    settings : mapping
        ``lot``, ``samples``, ``experiment``, ``fold``, ``prediction`` and ``storage``.
    code : str
        Digest of this stage's code.
    threads : int
        Threads that run the network; they never change a value.
    opened : bool
        Other jobs opened and filled the stores. Blocks they left out are done here, but a store
        that is not theirs is not wiped.

    Raises
    ------
    ValueError
        If the model cannot be loaded or a GPU that is asked for is missing.
    RuntimeError
        If a store that was opened is no longer there.
    """
    model = load(train, settings["prediction"], threads=threads)
    images = read_entries(convert)
    at_once, workers = share_threads(model.lane.feeders, len(settings["samples"]))

    def work(row: Row) -> dict[str, Any]:
        store = store_of(manifest, row)
        task = Task.of(images[row["sample"]], store, model, settings, code)
        if opened and not task.is_open:
            raise RuntimeError(
                f"{store} was opened by other jobs, and is gone or for something else now: run "
                f"the same snakemake command again with `--forcerun predict_open`"
            )
        return predict_sample(task, workers=workers)

    rows = settings["samples"]
    run_lot("predict", manifest, settings, rows, work, images, code=code, workers=at_once)


def store_of(manifest: Path, row: Row) -> Path:
    """Return where the probabilities of a sample lie, beside the manifest of the lot."""
    return manifest.parent / row["dataset"] / f"{row['sample']}.ome.zarr"


def predict_sample(task: "Task", *, workers: int) -> dict[str, Any]:
    """Predict one volume, or what is missing of it, and commit it.

    Parameters
    ----------
    task : Task
    workers : int
        Blocks in hand at once.

    Returns
    -------
    dict
        Facts for the manifest: among them ``digest``, of all stored values, and, if they were
        computed by different hardware, ``hardware`` and ``comparable``, which is false.
    """
    with Construction(task.store, task.made_from) as construction:
        if construction.committed:
            found = open_volume(task.store).attributes
        else:
            pyramid = task.create()
            task.fill(construction, pyramid, workers=workers)
            found = task.commit(construction, pyramid, workers)
    facts = task.facts | {"digest": found["digest"]}
    if found["comparable"]:
        return facts
    kinds = found["hardware"]
    logger.warning("%s: mixed hardware (%s), digest not comparable", task.store, "; ".join(kinds))
    return facts | {"comparable": False, "hardware": kinds}


@dataclass(frozen=True)
class Choices:
    """What ``auto`` means for one volume: settled when its store is opened, and recorded in it."""

    tile: int
    precision: Precision
    compile: bool


@dataclass(frozen=True)
class Task:
    """The prediction of one volume: everything that decides its values.

    Attributes
    ----------
    volume : Volume
        The image.
    store : Path
        Where the probabilities go.
    model : Model
    settings : mapping
        As for `run`.
    level : int
        Of the image's pyramid, at which the network sees objects in the size it has learned.
    choices : Choices
    made_from : mapping
        Fingerprint of the result.
    """

    volume: Volume
    store: Path
    model: Model
    settings: Mapping[str, Any]
    level: int
    choices: Choices
    made_from: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        image: Mapping[str, Any],
        store: Path,
        model: Model,
        settings: Mapping[str, Any],
        code: str,
    ) -> "Task":
        """Settle the prediction of the image of an entry of convert.

        Raises
        ------
        ValueError
            If the image has another number of channels than the model, if it has no level of a
            spacing the model was trained at, or if no grid of tiles fits.
        """
        volume = open_volume(image["store"])
        _check_channels(volume, model)
        tolerance = settings["prediction"]["spacing_tolerance"]
        level = model.choose_level(volume.known_spacing, len(volume.levels), tolerance)
        made_from = partial(_fingerprint, image, model, settings, code, level)
        extent = _extent(volume, level, model, settings["storage"])
        choices = _choose(volume.levels[level].shape[-3:], extent, model, settings)
        recorded = _recorded(store)
        kept = _kept(choices, recorded, model, settings["prediction"])
        if kept != choices and made_from(kept) == recorded:
            logger.info("%s: going on with %s, as it was begun", store, kept)
            choices = kept
        _tell(store, choices, model)
        _tell_level(store, level, volume)
        return cls(volume, store, model, settings, level, choices, made_from(choices))

    @property
    def is_open(self) -> bool:
        """Whether the store was begun for this very result."""
        return _recorded(self.store) == self.made_from

    @property
    def grid(self) -> TileGrid:
        """The volume's tiles."""
        return TileGrid(self.model.architecture.geometry, self.choices.tile)

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of the result before it is there, for a manifest."""
        return {
            "store": self.store,
            "fingerprint": digest(self.made_from),
            "shape": self.volume.shape,
            "spacing": self.volume.spacing,
            "channels": self.model.channels,
            "tile": self.choices.tile,
            "step": self.grid.step,
            "level": self.level,
            "precision": self.choices.precision,
        }

    def create(self) -> Pyramid:
        """Create the arrays of the result, or open those of an earlier process."""
        shape = (len(self.model.channels), *self.volume.shape)
        return create_pyramid(self.store, "", shape, np.uint8, storage=self.settings["storage"])

    def fill(
        self,
        construction: Construction,
        pyramid: Pyramid,
        *,
        workers: int,
        select: Callable[[Window], bool] | None = None,
    ) -> None:
        """Write the probabilities block by block; those that are there are verified and kept."""
        choices, block = asdict(self.choices), pyramid.shards[-2:]
        construction.note(device=self.model.runtime.device, workers=workers, **choices)
        first = cache(partial(construction.note, hardware=hardware_name(self.model.lane.device)))
        function, halo, step = self._block_function(first), self.grid.halo, self.grid.step
        if self.level:
            function, halo, step = self._enlarge(function), 0, step * 2**self.level
        map_blocks(
            function,
            [] if self.level else [self.volume.array],
            [pyramid],
            block=(1, *block),
            halo=(0, halo, halo),
            align=(1, step, step),
            located=True,
            ledger=construction.ledger("probabilities"),
            workers=self._blocks_at_once(block, workers),
            select=select,
        )

    def commit(self, construction: Construction, pyramid: Pyramid, workers: int) -> dict[str, Any]:
        """Write the coarser levels, then what the store says of itself, and return that."""
        kinds = _hardware(construction)
        attributes = {
            **construction.fingerprint,
            "fingerprint": digest(construction.fingerprint),
            "target": self.model.metadata["target"],
            "experiment": self.settings["experiment"],
            "fold": self.settings["fold"],
            "digest": volume_digest(pyramid.array, workers=workers),
            "hardware": kinds,
            "comparable": len(kinds) < 2,
        }
        commit_image(
            self.store,
            spacing=self.volume.spacing,
            levels=pyramid.finish(workers),
            channel_names=self.model.channels,
            attributes=attributes,
        )
        return attributes

    def _blocks_at_once(self, block: tuple[int, ...], workers: int) -> int:
        """Threads of a CPU are kept busy by few large blocks, of which each takes memory."""
        if self.model.runtime.device != "cpu":
            return workers
        tiles = prod(-(-(n >> self.level) // self.grid.step) for n in block)
        return min(workers, 1 - (-self.model.lane.ahead // tiles))

    def _block_function(self, before: Callable[[], None]) -> Callable[..., np.ndarray]:
        """Return the function of one block, which predicts plane by plane."""
        model, prediction = self.model, self.settings["prediction"]
        chosen = Runtime(model.runtime.device, self.choices.precision, self.choices.compile)
        how = {key: prediction[key] for key in ("batch", "symmetries")}
        predictor = Predictor(model.networks, chosen, lane=model.lane, **how)
        statistics, intensity = self.volume.attributes["statistics"], model.metadata["intensity"]
        grid = self.grid

        def predict(data: np.ndarray, inner: tuple[slice, ...], window: Window) -> np.ndarray:
            del inner  # the whole halo is the network's
            before()
            planes = []
            for index, z in enumerate(range(window.start[0], window.stop[0])):
                constants = intensity_window(statistics, intensity, z)
                planes.append(predictor.quantised(data[:, index], grid, constants))
            return np.stack(planes, axis=1)

        return predict

    def _enlarge(self, predict: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        """Predict from the coarser level; a value stands for all voxels that its pixel is of."""
        array, factor, halo = self.volume.levels[self.level], 2**self.level, self.grid.halo
        align = (1, self.grid.step * factor, self.grid.step * factor)

        def enlarged(inner: tuple[slice, ...], window: Window) -> np.ndarray:
            whole = window.align(align)
            start, stop = ((z, y // factor, x // factor) for z, y, x in (whole.start, whole.stop))
            data = read_mirrored(array, Window(start, stop).expand((0, halo, halo)))
            return predict(data, inner, window).repeat(factor, axis=-2).repeat(factor, axis=-1)

        return enlarged


def _check_channels(volume: Volume, model: Model) -> None:
    expected = model.architecture.in_channels
    if volume.channels != expected:
        raise ValueError(
            f"the image has {volume.channels} channels, the model was trained on {expected}: "
            f"choose the same channels for both (datasets: channels), or train an experiment on "
            f"images like this one"
        )


def _extent(volume: Volume, level: int, model: Model, storage: Mapping[str, Any]) -> int:
    """Return the extent of a block in pixels of the level that is predicted."""
    shard, lattice = shard_extent(volume.shape, storage), model.architecture.geometry.lattice
    if shard % (lattice << level):
        raise ValueError(
            f"the image is to be predicted at level {level} of its pyramid, but storage.shard, "
            f"{shard} px, is no multiple of {lattice << level} px: choose one that is"
        )
    return shard >> level


def _choose(
    shape: tuple[int, ...], extent: int, model: Model, settings: Mapping[str, Any]
) -> Choices:
    """Settle what is automatic for a volume of this shape and such blocks on this machine."""
    architecture, prediction = model.architecture, settings["prediction"]
    plane, block = shape[1:], (extent,) * 2
    device, tile = model.runtime.device, prediction["tile"]
    if tile == "auto":
        tile = choose_tile(
            architecture.geometry,
            plane,
            block,
            width=architecture.width,
            memory_gb=prediction["memory_gb"] / prediction["batch"],
            device=device,
        )
    else:
        check_tile(architecture.geometry, tile, plane, block)
    step = architecture.geometry.step(tile)
    tiles = shape[0] * prod(-(-n // step) for n in plane)
    pays = device == "cuda" and tiles >= COMPILE_FROM
    compiled = {"auto": pays, "always": True, "never": False}[prediction["compile"]]
    return Choices(tile, model.runtime.precision, compiled)


def _recorded(store: Path) -> dict[str, Any]:
    """Return the fingerprint of a store that was begun, empty if there is none."""
    try:
        return json.loads((store / BOOKS / "fingerprint.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}


def _kept(
    choices: Choices, recorded: Mapping[str, Any], model: Model, prediction: Mapping[str, Any]
) -> Choices:
    """Take over what an earlier process, perhaps on another machine, settled for ``auto``."""
    earlier = recorded.get("settings", {}).get("prediction", {})
    asked = [key for key in asdict(choices) if prediction[key] == "auto" and key in earlier]
    kept = replace(choices, **{key: earlier[key] for key in asked})
    memory = tile_memory_gb(model.architecture.geometry, kept.tile, model.architecture.width)
    memory *= prediction["batch"]
    return kept if memory <= prediction["memory_gb"] else replace(kept, tile=choices.tile)


def _tell(store: Path, choices: Choices, model: Model) -> None:
    compiled = ", compiled" if choices.compile else ""
    logger.info("%s: tile %d px, %s%s", store, choices.tile, choices.precision, compiled)
    if choices.precision == "bfloat16" and not has_native_bfloat16(model.runtime.device):
        logger.warning("%s: bfloat16 is emulated by this %s, slowly", store, model.runtime.device)


def _tell_level(store: Path, level: int, volume: Volume) -> None:
    if level:
        pixel = " x ".join(f"{n * 2**level:g}" for n in volume.spacing[-2:])
        text = "%s: predicted from level %d of the image's pyramid, %s µm per pixel (y x), as the "
        logger.info(text + "model was trained at", store, level, pixel)


def _fingerprint(
    image: Mapping[str, Any],
    model: Model,
    settings: Mapping[str, Any],
    code: str,
    level: int,
    choices: Choices,
) -> dict[str, Any]:
    """Collect what decides the stored values; the device and the number of threads do not."""
    chosen = {key: settings["prediction"][key] for key in ("batch", "symmetries", "checkpoint")}
    chosen["level"] = level
    return fingerprint(
        code=code,
        settings={"prediction": chosen | asdict(choices), "storage": settings["storage"]},
        inputs={"image": image["fingerprint"], **model.identity},
        libraries=LIBRARIES,
    )


def _hardware(construction: Construction) -> list[str]:
    """List the kinds of hardware that computed blocks of a store since it was begun."""
    attempts = construction.attempts()
    starts = [n for n, a in enumerate(attempts) if a.get("reason", "resumed") != "resumed"]
    since = attempts[starts[-1] if starts else 0 :]
    return sorted({attempt["hardware"] for attempt in since if "hardware" in attempt})
