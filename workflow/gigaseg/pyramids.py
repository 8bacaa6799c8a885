"""Coarser levels of a volume, for viewers and overviews: y and x halve from level to level."""

import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from .geometry import Window, blocks
from .volumes import create_array


def write_pyramid(
    store: Path,
    prefix: str = "",
    *,
    mode: Literal["mean", "nearest"] = "mean",
    storage: Mapping[str, int],
    workers: int = 1,
) -> int:
    """Write levels 1, 2, ... below a finished level 0, halving y and x.

    Parameters
    ----------
    store : Path
        Folder of the store.
    prefix : str
        Where the levels are: ``""`` for the image itself, ``"labels/truth"`` for its truth.
    mode : {"mean", "nearest"}
        Mean of the 2 x 2 voxels (integers rounded half up; the last row or column of an odd extent
        averages the voxels there are) for intensities; the first of them for labels.
    storage : mapping
        As for `create_array`, and ``smallest_level``: the last level is the first whose larger
        extent in y and x does not exceed it.
    workers : int
        Threads; they never change a value.

    Returns
    -------
    int
        Number of levels, level 0 included.
    """
    reduce = {"mean": _mean, "nearest": _first}[mode]
    folder = store / prefix
    fine = zarr.open_array(folder / "0", mode="r")
    level = 0
    while max(fine.shape[-2:]) > storage["smallest_level"]:
        level += 1
        # A level left by a killed process may end in a torn shard, which cannot be overwritten.
        shutil.rmtree(folder / str(level), ignore_errors=True)
        shape = (*fine.shape[:-2], *(-(-n // 2) for n in fine.shape[-2:]))
        coarse = create_array(folder, str(level), shape, fine.dtype, storage=storage)
        _fill_level(fine, coarse, reduce, workers)
        fine = coarse
    return level + 1


def _fill_level(fine: zarr.Array, coarse: zarr.Array, reduce: Any, workers: int) -> None:
    def fill(block: Window) -> None:
        twice = Window(
            (*block.start[:-2], *(2 * n for n in block.start[-2:])),
            (*block.stop[:-2], *(2 * n for n in block.stop[-2:])),
        )
        coarse[block.slices] = reduce(np.asarray(fine[twice.clip(fine.shape).slices]))

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(fill, blocks(coarse.shape, coarse.shards or coarse.chunks)))


def _first(data: np.ndarray) -> np.ndarray:
    return data[..., ::2, ::2]


def _mean(data: np.ndarray) -> np.ndarray:
    # Repeating the last line of an odd extent makes the mean of four that of the voxels there are.
    odd = [(0, 0)] * (data.ndim - 2) + [(0, n % 2) for n in data.shape[-2:]]
    integral = data.dtype.kind in "biu"
    exact = np.pad(data, odd, mode="edge").astype(np.int64 if integral else np.float64)
    rows = exact[..., ::2, :] + exact[..., 1::2, :]
    total = rows[..., ::2] + rows[..., 1::2]
    return ((total + 2) // 4 if integral else total / 4).astype(data.dtype)
