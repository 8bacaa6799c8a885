"""Predict a part of a lot's blocks, while other jobs predict the others."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from ..ensembles import load
from ..geometry import blocks
from ..ledger import Construction
from ..tiling import share_blocks
from ..volumes import shard_extent
from . import Row, read_entries, run_lot, share_threads
from .predict import Task, store_of

Start = tuple[int, ...]


def run(
    *,
    manifest: Path,
    convert: Path,
    train: Sequence[Path],
    predict: Path,
    settings: Mapping[str, Any],
    codes: tuple[str, str],
    part: tuple[int, int],
    threads: int,
) -> None:
    """Predict the blocks of one part in stores that `gigaseg.stages.predict_open` has begun.

    Parameters
    ----------
    manifest : Path
        The only output besides the blocks.
    convert : Path
        Manifest of the lot's images.
    train : sequence of Path
        As for `gigaseg.stages.predict.run`.
    predict : Path
        Manifest that `gigaseg.stages.predict` will write; the stores lie beside it.
    settings : mapping
        As for `gigaseg.stages.predict.run`.
    codes : tuple of str
        Digests of this stage's code and of that of `gigaseg.stages.predict`.
    part : tuple of int
        Number of this part, from 1, and number of parts. Of several GPUs it takes the one of its
        number.
    threads : int
        Threads that run the network; they never change a value.
    """
    number, parts = part
    model = load(train, settings["prediction"], threads=threads, index=number - 1)
    images = read_entries(convert)
    lot = [images[row["sample"]] for row in settings["samples"]]
    mine = choose_blocks(lot, settings["storage"], number, parts)
    rows = [row for row in settings["samples"] if mine.get(row["sample"])]
    at_once, workers = share_threads(model.lane.feeders, len(rows))

    def work(row: Row) -> dict[str, Any]:
        chosen = mine[row["sample"]]
        task = Task.of(images[row["sample"]], store_of(predict, row), model, settings, codes[1])
        with Construction(task.store, task.made_from, part=f"{number}-of-{parts}") as construction:
            if not construction.committed:
                pyramid, select = task.create(), lambda window: window.start in chosen
                task.fill(construction, pyramid, workers=workers, select=select)
        return task.facts

    run_lot("predict_part", manifest, settings, rows, work, images, code=codes[0], workers=at_once)


def choose_blocks(
    images: Iterable[Mapping[str, Any]], storage: Mapping[str, Any], number: int, parts: int
) -> dict[str, set[Start]]:
    """Choose the blocks of one part: a range of all blocks of the lot, sample after sample.

    Parameters
    ----------
    images : iterable of mapping
        Entries of convert; those that failed have no blocks.
    storage : mapping
        Section of the settings.
    number, parts : int
        Number of this part, from 1, and number of parts.

    Returns
    -------
    dict of sample name to set of (z, y, x)
        Where the part's blocks start; samples in which it has none are left out.

    Examples
    --------
    >>> images = [{"sample": "a", "status": "done", "shape": (1, 2, 64, 64)},
    ...           {"sample": "b", "status": "done", "shape": (1, 1, 32, 64)}]
    >>> choose_blocks(images, {"chunk": 16, "shard": 64}, 2, 2)
    {'a': {(1, 0, 0)}, 'b': {(0, 0, 0)}}
    """
    places, sizes = [], []
    for image in images:
        if image["status"] == "done":
            shape = tuple(image["shape"])[-3:]
            extent = shard_extent(shape, storage)
            for window in blocks(shape, (1, extent, extent)):
                places.append((image["sample"], window.start))
                sizes.append(prod(window.shape))
    mine: dict[str, set[Start]] = {}
    for (sample, start), owner in zip(places, share_blocks(sizes, parts), strict=True):
        if owner == number - 1:
            mine.setdefault(sample, set()).add(start)
    return mine
