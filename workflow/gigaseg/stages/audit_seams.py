"""Audit of seams: a few windows of a lot, predicted again by tiles that start elsewhere."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..ensembles import Model, load
from ..geometry import UNetGeometry, Window, read_mirrored
from ..inference import Predictor
from ..intensity import intensity_window
from ..ledger import digest
from ..pace import Pace
from ..runtime import Runtime
from ..seams import STEPS, Difference, Layout, Straddle, audit_size, compare, draw_windows
from ..tiling import TileGrid
from ..volumes import Volume, open_volume, shard_extent
from . import Row, read_entries, run_lot

NO_SEAM = "no seam: one tile holds a plane"
NOT_DRAWN = "not drawn: the windows lie in other samples of the lot"


def run(
    *,
    manifest: Path,
    convert: Path,
    predict: Path,
    train: Sequence[Path],
    settings: Mapping[str, Any],
    code: str,
) -> None:
    """Predict random windows over the seams of a lot's stored probabilities again.

    Parameters
    ----------
    manifest : Path
        The only output. A sample fails if a value differs by more than one step of uint8.
    convert, predict : Path
        Manifests of the lot's images and probabilities.
    train : sequence of Path
        As for `gigaseg.stages.predict.run`.
    settings : mapping
        ``lot``, ``samples``, ``prediction``, ``storage``, and ``audit``, whose ``windows`` is
        their number in the whole lot.
    code : str
        Digest of this stage's code.

    Raises
    ------
    ValueError
        If the model cannot be loaded or a GPU that is asked for is missing.
    """
    images, maps = read_entries(convert), read_entries(predict)
    model = load(train, settings["prediction"], threads=1)
    counts = share_windows(
        {name: _layout(entry, settings) for name, entry in maps.items() if _is_done(entry)},
        settings["audit"]["windows"],
        seed=digest(sorted(str(entry["fingerprint"]) for entry in maps.values())),
    )

    def work(row: Row) -> dict[str, Any]:
        image, stored = images[row["sample"]], maps[row["sample"]]
        layout, count = _layout(stored, settings), counts[row["sample"]]
        checks = []
        if count:
            audit = Audit.open(image, stored, model)
            checks = audit.check_all(layout, count)
            _refuse_seams(checks, stored, predict)
        inputs = {"image": image["fingerprint"], "probabilities": stored["fingerprint"]}
        inputs |= {"model": model.identity["model"]}
        return {
            "store": None,
            "fingerprint": digest({"code": code, "audit": settings["audit"], "inputs": inputs}),
            "inputs": inputs,
            "note": None if count else NOT_DRAWN if layout.has_seams else NO_SEAM,
            **summarise(checks),
        }

    run_lot("audit_seams", manifest, settings, settings["samples"], work, maps, code=code)


def share_windows(layouts: Mapping[str, Layout], windows: int, *, seed: str) -> dict[str, int]:
    """Divide the windows of a lot among its samples, at random where they cannot be equal.

    Examples
    --------
    >>> with_seams, without = Layout((1, 90, 90), 48, 96), Layout((1, 40, 40), 48, 96)
    >>> share_windows({"a": with_seams, "b": without}, 4, seed="")
    {'a': 4, 'b': 0}
    """
    able = sorted(name for name, layout in layouts.items() if layout.has_seams)
    random.Random(seed).shuffle(able)
    share = {name: windows // len(able) + (k < windows % len(able)) for k, name in enumerate(able)}
    return {name: share.get(name, 0) for name in layouts}


@dataclass(frozen=True)
class Check:
    """One window that was predicted again.

    Attributes
    ----------
    straddle : Straddle
        The window and the kinds of its seams.
    difference : Difference
        Between the stored values and the new ones.
    delta : float
        Largest difference between the probabilities of two phases of the grid in float32, where
        the new tile and a tile of the stored grid overlap.
    """

    straddle: Straddle
    difference: Difference
    delta: float


@dataclass(frozen=True)
class Audit:
    """A stored prediction, and all that is needed to make a part of it again.

    All places are those of the level of the image that was predicted.
    """

    image: Volume
    stored: Volume
    level: int
    predictor: Predictor
    intensity: Mapping[str, Any]
    grid: TileGrid

    @classmethod
    def open(cls, image: Mapping[str, Any], stored: Mapping[str, Any], model: Model) -> "Audit":
        """Open the stores of two entries, of convert and of predict.

        Everything that decides a value is as the store recorded it, whatever ``auto`` means here.
        """
        volumes = open_volume(image["store"]), open_volume(stored["store"])
        chosen = volumes[1].attributes["settings"]["prediction"]
        runtime = Runtime(model.runtime.device, chosen["precision"], chosen["compile"])
        how = {key: chosen[key] for key in ("batch", "symmetries")}
        predictor = Predictor(model.networks, runtime, lane=model.lane, **how)
        grid = TileGrid(model.architecture.geometry, chosen["tile"])
        if stored["step"] != grid.step:
            raise ValueError(
                f"{stored['store']} is not seamless: it was predicted in steps of {stored['step']} "
                f"px, but only steps of {grid.step} px keep tiles of {grid.tile} px on the "
                f"network's lattice of {grid.geometry.lattice} px: predict it again"
            )
        return cls(*volumes, chosen["level"], predictor, model.metadata["intensity"], grid)

    @property
    def geometry(self) -> UNetGeometry:
        """The network's; the lattice is taken from it, and not from what predict made of it."""
        return self.predictor.architecture.geometry

    @property
    def shape(self) -> tuple[int, int, int]:
        """Extent of the level that was predicted."""
        z, y, x = self.image.levels[self.level].shape[-3:]
        return z, y, x

    def draw(self, layout: Layout, count: int) -> list[Straddle]:
        """Draw windows by the fingerprint of the store."""
        seed = self.stored.attributes["fingerprint"]
        return draw_windows(layout, self.geometry, count, seed)

    def check_all(self, layout: Layout, count: int) -> list[Check]:
        """Draw windows and check each."""
        windows, checks = self.draw(layout, count), []
        pace = Pace(f"{self.stored.name}, seams", len(windows), "windows")
        for window in windows:
            checks.append(self.check(window))
            pace.advance()
        return checks

    def check(self, straddle: Straddle) -> Check:
        """Predict a window again, and compare."""
        drawn, step = straddle.window, self.grid.step
        size = audit_size(self.geometry, step)
        again = self._predict(drawn.start, self.geometry.input_size(size))
        seen = drawn.clip(self.shape)
        difference = compare(self._stored(seen), _cut(again, seen.within(drawn)))
        # The tile of the stored grid in which the window starts.
        z, y, x = drawn.start
        top, left = y // step * step, x // step * step
        home = Window((z, top, left), (z + 1, top + step, left + step))
        there, both = self._predict(home.start, self.grid.tile), Window(drawn.start, home.stop)
        both = both.clip(self.shape)
        delta = _cut(again, both.within(drawn)) - _cut(there, both.within(home))
        return Check(straddle, difference, float(np.abs(delta).max()))

    def _stored(self, window: Window) -> np.ndarray:
        """Read stored values, one of the many that a pixel of a coarser level stands for."""
        factor, (z, y, x) = 2**self.level, window.slices
        rows, columns = (slice(s.start * factor, s.stop * factor, factor) for s in (y, x))
        return np.asarray(self.stored.array[..., z, rows, columns])

    def _predict(self, start: tuple[int, ...], tile: int) -> np.ndarray:
        """Predict the output window of one tile, of one plane; float32, shape (c, 1, y, x)."""
        grid, z = TileGrid(self.geometry, tile), start[0]
        window = Window(start, start).expand((0, 0, 0), (1, grid.step, grid.step))
        array = self.image.levels[self.level]
        data = read_mirrored(array, window.expand((0, grid.halo, grid.halo)))
        constants = intensity_window(self.image.attributes["statistics"], self.intensity, z)
        return self.predictor.probabilities(data[:, 0], grid, constants)[:, None]


def summarise(checks: Sequence[Check]) -> dict[str, Any]:
    """Return what the checks of a sample found, for the manifest.

    Returns
    -------
    dict
        ``windows``, ``seams`` (number of each kind), ``values`` compared, ``differing`` among
        them, ``steps`` (the most a value differs by) and ``delta`` (the most a probability does,
        null without windows).
    """
    kinds = [kind for check in checks for kind in check.straddle.seams]
    differences = [check.difference for check in checks]
    return {
        "windows": len(checks),
        "seams": {kind: kinds.count(kind) for kind in ("block", "tile")},
        "values": sum(one.values for one in differences),
        "differing": sum(one.differing for one in differences),
        "steps": max((one.steps for one in differences), default=0),
        "delta": max((check.delta for check in checks), default=None),
    }


def _refuse_seams(checks: Sequence[Check], stored: Mapping[str, Any], predict: Path) -> None:
    worst = max(checks, key=lambda check: check.difference.steps)
    found = worst.difference
    if found.steps <= STEPS:
        return
    start, factor = worst.straddle.window.start, 2 ** stored["level"]
    z, y, x = (a + n for a, n in zip(start, found.place, strict=True))
    place = z, y * factor, x * factor
    seams = " and a ".join(worst.straddle.seams)
    raise ValueError(
        f"{stored['store']} is not seamless: at (z, y, x) = {place} it differs by {found.steps} "
        f"steps of 1/255 from a prediction whose tiles start elsewhere ({STEPS} is allowed), and "
        f"{found.differing} of {found.values} values around a {seams} seam differ. Predict it "
        f"again: `snakemake --cores all --forcerun {predict}`. If that does not help, its values "
        f"depend on how the work was cut: do not use them, and report this"
    )


def _cut(values: Any, window: Window) -> np.ndarray:
    return np.asarray(values[(..., *window.slices)])


def _is_done(entry: Mapping[str, Any]) -> bool:
    return entry["status"] == "done"


def _layout(stored: Mapping[str, Any], settings: Mapping[str, Any]) -> Layout:
    z, y, x = stored["shape"]
    level, shard = stored["level"], shard_extent((y, x), settings["storage"])
    y, x = (-(-n // 2**level) for n in (y, x))
    return Layout((z, y, x), stored["step"], shard >> level)
