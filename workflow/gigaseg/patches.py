"""Batches of training tiles, made ahead by threads, with a fast torch resampler."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .sampling import Tile, TileSource

Batch = dict[str, Any]


def resample_fast(data: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    """Bicubic `deformation.resample` by torch: 1e-4 of the data's range apart, much faster.

    Parameters
    ----------
    data : ndarray, shape (c, y, x)
        Must hold `deformation.source_window` of the coordinates.
    coordinates : ndarray of float32, shape (2, v, u)
        Rows and columns of `data`.

    Returns
    -------
    ndarray of float32, shape (c, v, u)
    """
    size = np.array(data.shape[1:], np.float32)[:, None, None]
    grid = torch.from_numpy(coordinates * (2 / (size - 1)) - 1).flip(0).permute(1, 2, 0)
    image = torch.from_numpy(np.ascontiguousarray(data, np.float32))
    result = functional.grid_sample(image[None], grid[None], mode="bicubic", align_corners=True)
    return result[0].numpy()


class TrainingBatches:
    """The batches of a training, in order, made ahead by threads.

    Threads and not processes: nearly all the work releases the interpreter, the samples in memory
    are shared, and neither Zarr's threads nor a script without a main guard survive a new process.

    Parameters
    ----------
    source : TileSource
        Where tiles are drawn.
    steps, batch : int
        Number of batches, and tiles in each.
    seed : int
        Seed of the run.
    augmentation : mapping, optional
        See `TileSource.draw`.
    workers : int
        Threads; 0 makes each batch when it is asked for. They never change a value.
    part : (int, int)
        Number of this process and how many there are: a batch is divided among them, and each
        tile is what it is in the whole batch.
    """

    def __init__(
        self,
        source: TileSource,
        *,
        steps: int,
        batch: int,
        seed: int,
        augmentation: Mapping[str, Any] | None,
        workers: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.source, self.steps, self.seed = source, steps, seed
        self.indices = range(part[0], batch, part[1])
        self.augmentation, self.workers = augmentation, workers

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        return self.since(0)

    def since(self, step: int) -> Iterator[Batch]:
        """Yield the batches of the steps from this one on, counted from 0."""
        steps = range(step, self.steps)
        if self.workers == 0:
            yield from map(self._make, steps)
            return
        with ThreadPoolExecutor(self.workers, thread_name_prefix="tiles") as pool:
            yield from _in_order(pool, self._make, steps, ahead=2 * self.workers)

    def plain(self, count: int) -> Iterator[Batch]:
        """Yield tiles of the first `count` steps as they lie in the volumes, one per batch."""
        for step in range(count):
            yield collate([self.source.draw(self.seed, step, 0)])

    def _make(self, step: int) -> Batch:
        keys = ((self.seed, step, index) for index in self.indices)
        return collate([self.source.draw(*key, self.augmentation) for key in keys])


class ValidationBatches:
    """The same tiles at every validation, one per batch: `TileSource.grid`, unchanged."""

    def __init__(self, source: TileSource, limit: int) -> None:
        self.source, self._tiles = source, source.grid(limit)

    def __len__(self) -> int:
        return len(self._tiles)

    def __iter__(self) -> Iterator[Batch]:
        for number, plane, start in self._tiles:
            yield collate([self.source.read(self.source.samples[number], plane, start)])


def collate(tiles: Sequence[Tile]) -> Batch:
    """Stack tiles to a batch: ``image``, ``labels``, ``weights`` (tensors) and ``origin``."""

    def stack(key: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(tile, key) for tile in tiles]))

    image = stack("image").contiguous(memory_format=torch.channels_last)
    return {
        "image": image,
        "labels": stack("labels"),
        "weights": stack("weights"),
        "origin": [tile.origin for tile in tiles],
    }


def _in_order(
    pool: ThreadPoolExecutor, make: Any, numbers: Iterable[int], ahead: int
) -> Iterator[Batch]:
    """Yield ``make(number)`` of each number with at most `ahead` of them under way."""
    steps = iter(numbers)
    waiting: deque[Future[Batch]] = deque(
        pool.submit(make, step) for step in itertools.islice(steps, ahead)
    )
    while waiting:
        batch = waiting.popleft().result()
        waiting.extend(pool.submit(make, step) for step in itertools.islice(steps, 1))
        yield batch
