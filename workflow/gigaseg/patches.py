"""Batches of training tiles: read ahead by threads, rendered on the device."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from .rendering import Renderer, Tile
from .sampling import Crop, TileSource

Batch = dict[str, Any]
Read = tuple[Crop, dict[str, Tensor]]


class TrainingBatches:
    """The batches of a training, in order: read ahead by threads, rendered on the device.

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
        Threads that read; 0 reads each batch when it is asked for. They never change a value.
    start : int
        The first batch: what came before is not made.
    indices : sequence of int, optional
        The tiles of every batch that are made here, all by default: processes that share a training
        take disjoint parts. A tile is the same wherever it is made.
    device : {"cpu", "cuda"}
        Where tiles are rendered and stay.
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
        start: int = 0,
        indices: Sequence[int] | None = None,
        device: str = "cpu",
    ) -> None:
        self.source, self.steps, self.batch, self.seed = source, steps, batch, seed
        self.augmentation, self.workers, self.start = augmentation, workers, start
        self.indices = range(batch) if indices is None else indices
        self._renderer = Renderer(source, device)

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[Batch]:
        steps = range(self.start, self.steps)
        if self.workers == 0:
            yield from map(self._render, map(self._read, steps))
            return
        with ThreadPoolExecutor(self.workers, thread_name_prefix="tiles") as pool:
            ahead = _in_order(pool, self._read, steps, ahead=2 * self.workers)
            yield from map(self._render, ahead)

    def plain(self, count: int) -> Iterator[Batch]:
        """Yield a tile of each of the first `count` steps as it lies in the volume, on the CPU."""
        renderer = Renderer(self.source)
        for step in range(count):
            crop = self.source.draw(self.seed, step, 0)
            yield collate([renderer.render(crop, renderer.upload(crop))])

    def _read(self, step: int) -> list[Read]:
        keys = ((self.seed, step, index) for index in self.indices)
        crops = [self.source.draw(*key, self.augmentation) for key in keys]
        return [(crop, self._renderer.upload(crop)) for crop in crops]

    def _render(self, crops: Iterable[Read]) -> Batch:
        return collate([self._renderer.render(crop, arrays) for crop, arrays in crops])


class ValidationBatches:
    """The same tiles at every validation, one per batch: `TileSource.grid`, unchanged.

    Parameters
    ----------
    source : TileSource
        Samples that are not learned from.
    limit : int
        At most so many tiles.
    device : {"cpu", "cuda"}
        Where they are rendered and stay.
    """

    def __init__(self, source: TileSource, limit: int, device: str = "cpu") -> None:
        self.source, self._tiles = source, source.grid(limit)
        self._renderer = Renderer(source, device)

    def __len__(self) -> int:
        return len(self._tiles)

    def __iter__(self) -> Iterator[Batch]:
        for number, plane, start in self._tiles:
            crop = self.source.read(self.source.samples[number], plane, start)
            yield collate([self._renderer.render(crop, self._renderer.upload(crop))])


def collate(tiles: Sequence[Tile]) -> Batch:
    """Stack tiles to a batch: ``image``, ``labels``, ``weights`` (tensors) and ``origin``."""

    def stack(key: str) -> Tensor:
        return torch.stack([getattr(tile, key) for tile in tiles])

    image = stack("image").contiguous(memory_format=torch.channels_last)
    return {
        "image": image,
        "labels": stack("labels"),
        "weights": stack("weights"),
        "origin": [tile.origin for tile in tiles],
    }


def _in_order(
    pool: ThreadPoolExecutor,
    read: Callable[[int], list[Read]],
    steps: Sequence[int],
    *,
    ahead: int,
) -> Iterator[list[Read]]:
    """Yield ``read(step)`` of every step with at most `ahead` of them under way."""
    coming = iter(steps)
    waiting: deque[Future[list[Read]]] = deque(
        pool.submit(read, step) for step in itertools.islice(coming, ahead)
    )
    while waiting:
        crops = waiting.popleft().result()
        waiting.extend(pool.submit(read, step) for step in itertools.islice(coming, 1))
        yield crops
