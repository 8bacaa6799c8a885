"""Batches of training tiles: read ahead by threads, rendered on the device."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
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

    def since(self, step: int, device: torch.device | None = None) -> Iterator[Batch]:
        """Yield the batches of the steps from this one on, counted from 0.

        Parameters
        ----------
        step : int
            Nothing that comes before it is made.
        device : torch.device, optional
            Where the batches are rendered and stay; the CPU by default.
        """
        renderer, steps = Renderer(self.source, device), range(step, self.steps)
        read, render = partial(self._read, renderer), partial(_render, renderer)
        if self.workers == 0:
            yield from map(render, map(read, steps))
            return
        with ThreadPoolExecutor(self.workers, thread_name_prefix="tiles") as pool:
            ahead = _in_order(pool, read, steps, ahead=2 * self.workers)
            yield from map(render, ahead)

    def plain(self, count: int) -> Iterator[Batch]:
        """Yield a tile of each of the first `count` steps as it lies in the volume, on the CPU."""
        renderer = Renderer(self.source)
        for step in range(count):
            yield _render(renderer, [_upload(renderer, self.source.draw(self.seed, step, 0))])

    def _read(self, renderer: Renderer, step: int) -> list[Read]:
        keys = ((self.seed, step, index) for index in self.indices)
        return [_upload(renderer, self.source.draw(*key, self.augmentation)) for key in keys]


class ValidationBatches:
    """The same tiles at every validation, one per batch: `TileSource.grid`, unchanged.

    Parameters
    ----------
    source : TileSource
        Samples that are not learned from.
    limit : int
        At most so many tiles.
    """

    def __init__(self, source: TileSource, limit: int) -> None:
        self.source, self._tiles = source, source.grid(limit)
        self._renderer = Renderer(source)

    def __len__(self) -> int:
        return len(self._tiles)

    def __iter__(self) -> Iterator[Batch]:
        for number, plane, start in self._tiles:
            crop = self.source.read(self.source.samples[number], plane, start)
            yield _render(self._renderer, [_upload(self._renderer, crop)])


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


def _upload(renderer: Renderer, crop: Crop) -> Read:
    return crop, renderer.upload(crop)


def _render(renderer: Renderer, crops: Iterable[Read]) -> Batch:
    return collate([renderer.render(crop, arrays) for crop, arrays in crops])


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
