"""Where batches of tiles are computed: threads of the CPU, or a GPU that never waits for copies.

A lane takes batches from any number of threads and returns at once; what it returns is asked for
the answer later. So reading, decoding, encoding and writing go on while the network computes.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .runtime import Device

# What is to be done with a batch: tiles in, of shape (batch, c, y, x) and the tiles' own dtype, on
# the lane's device; answers out, on the same device.
Work = Callable[[Tensor], Sequence[Tensor]]


class Answer(Protocol):
    """What will become of a batch."""

    def result(self) -> list[np.ndarray]:
        """Wait, and return the answers, or raise what `Work` raised."""


class Lane(Protocol):
    """A device that works on batches one after the other, in the order in which they come.

    Attributes
    ----------
    device : torch.device
        Where `Work` finds its tiles and must have its network.
    ahead : int
        Batches that a thread should have under way so that the lane never waits for it.
    feeders : int
        Threads that it takes to keep the lane busy: they read, hand in batches, wait and write.
    """

    device: torch.device
    ahead: int
    feeders: int

    def submit(self, work: Work, tiles: Sequence[np.ndarray]) -> Answer:
        """Have `work` done on a batch of tiles of one shape (c, y, x) and dtype."""


def open_lane(device: Device, *, threads: int = 1, index: int = 0) -> Lane:
    """Return a lane on a device.

    Parameters
    ----------
    device : {"cpu", "cuda"}
    threads : int
        Threads of the CPU that compute, each on a batch of its own, or that feed a GPU.
    index : int
        Which of several GPUs; counted on from the first after the last.

    Examples
    --------
    >>> lane = open_lane("cpu")
    >>> tile = np.ones((1, 2, 2), np.uint8)
    >>> lane.submit(lambda images: [images.sum()], [tile, tile]).result()
    [array(8)]
    """
    if device == "cpu":
        return CpuLane(threads)
    return CudaLane(torch.device("cuda", index % torch.cuda.device_count()), threads)


class CpuLane:
    """Threads of the CPU, each with a batch of its own and one thread per operation.

    Other numbers of threads per operation would add up in another order.
    """

    device = torch.device("cpu")

    def __init__(self, threads: int) -> None:
        self.ahead = self.feeders = threads + 1
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="network")

    def submit(self, work: Work, tiles: Sequence[np.ndarray]) -> Answer:
        """See `Lane`."""
        return self._pool.submit(self._run, work, tiles)

    def _run(self, work: Work, tiles: Sequence[np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode(), one_thread():
            return [answer.numpy() for answer in work(torch.from_numpy(np.stack(tiles)))]


class CudaLane:
    """A GPU fed through page-locked memory, by two streams beside the one that computes.

    A batch is copied to the device while the one before it is computed, and answers are copied back
    while the next is. The host's memory for both comes from PyTorch's pool of page-locked blocks,
    which is a ring as long as all batches are of one size.
    """

    ahead = 2

    def __init__(self, device: torch.device, threads: int) -> None:
        self.device = device
        self.feeders = max(threads, 2) + 1  # one block read, one computed, one written
        self._turn = threading.Lock()  # streams are filled in one order, and cuDNN's flags global
        with torch.cuda.device(device):
            self._up, self._down = torch.cuda.Stream(), torch.cuda.Stream()

    def submit(self, work: Work, tiles: Sequence[np.ndarray]) -> Answer:
        """See `Lane`."""
        staged = _page_locked(len(tiles), *tiles[0].shape, like=torch.from_numpy(tiles[0][:0]))
        for place, tile in zip(staged, tiles, strict=True):
            place.copy_(torch.from_numpy(tile))
        with self._turn, torch.cuda.device(self.device), torch.inference_mode():
            compute = torch.cuda.current_stream()
            with torch.cuda.stream(self._up):
                images = staged.to(self.device, non_blocking=True)
            compute.wait_stream(self._up)
            with _exact_convolutions():
                answers = work(images)
            self._down.wait_stream(compute)
            with torch.cuda.stream(self._down):
                fetched = [self._fetch(answer) for answer in answers]
                done = torch.cuda.Event(blocking=True)  # waiting threads sleep
                done.record()
        return _Fetched(fetched, done, (staged, images, answers))

    def _fetch(self, answer: Tensor) -> Tensor:
        return _page_locked(*answer.shape, like=answer).copy_(answer, non_blocking=True)


class _Fetched:
    """Answers on their way back from a GPU."""

    def __init__(
        self, answers: list[Tensor], done: torch.cuda.Event, in_use: Sequence[object]
    ) -> None:
        self._answers, self._done = answers, done
        # Freed memory may be given out again before the streams have come to its use.
        self._in_use = in_use

    def result(self) -> list[np.ndarray]:
        self._done.synchronize()
        self._in_use = ()
        return [answer.numpy() for answer in self._answers]


def _page_locked(*shape: int, like: Tensor) -> Tensor:
    """Allocate memory that the GPU reads and writes by itself."""
    return torch.empty(shape, dtype=like.dtype, pin_memory=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run each operation on one thread.

    OpenMP counts threads per calling thread, so this must be set in the thread that computes.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    """Have cuDNN choose algorithms by shape alone, and keep the full float32 mantissa."""
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        yield
