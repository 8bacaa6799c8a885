"""Lanes: batches in order, errors where they are asked for, and what a GPU is told to wait for."""

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gigaseg import lanes
from gigaseg.geometry import UNetGeometry
from gigaseg.inference import Predictor, normalise
from gigaseg.lanes import CpuLane, CudaLane, open_lane
from gigaseg.runtime import Runtime
from gigaseg.tiling import TileGrid
from gigaseg.unet import Architecture, UNet

SMALL = Architecture(depth=1, width=2, dropout=0.0)
GRID = TileGrid(UNetGeometry(1), 24)


class Gpu:
    """Stands in for `torch.cuda`: computes at once, on the CPU, and writes down who waits for whom.

    Each stream counts what it was given, and each remembers how much of the others it waits for.
    """

    def __init__(self):
        self.log = []
        self.current = ["compute"]
        self.asked = []
        self.names = iter(["up", "down"])

    def Stream(self):
        return self.stream_of(next(self.names))

    def stream_of(self, name):
        return SimpleNamespace(
            name=name, wait_stream=lambda other: self.log.append((name, "waits for", other.name))
        )

    def Event(self, blocking):
        assert blocking
        event = SimpleNamespace(recorded=False)

        def record():
            event.recorded = True
            self.log.append((self.current[-1], "records"))

        event.record = record
        event.synchronize = lambda: self.asked.append(event.recorded)
        return event

    def current_stream(self):
        return self.stream_of(self.current[-1])

    @contextmanager
    def stream(self, stream):
        self.current.append(stream.name)
        yield
        self.current.pop()

    @contextmanager
    def device(self, device):
        assert device.type == "cpu"
        yield

    @staticmethod
    def device_count():
        return 2


@pytest.fixture
def gpu(monkeypatch):
    gpu = Gpu()
    for name in ("Stream", "Event", "current_stream", "stream", "device", "device_count"):
        monkeypatch.setattr(torch.cuda, name, getattr(gpu, name))
    monkeypatch.setattr(
        lanes, "_page_locked", lambda *shape, like: torch.empty(shape, dtype=like.dtype)
    )
    return gpu


def test_threads_of_the_cpu_work_on_several_batches_at_once():
    lane, together = CpuLane(2), threading.Barrier(2)
    work = lambda images: (together.wait(10), [images + 1])[1]  # noqa: E731
    answers = [lane.submit(work, [np.full((1, 1, 1), n)]) for n in range(4)]
    assert [int(answer.result()[0][0, 0, 0, 0]) for answer in answers] == [1, 2, 3, 4]
    assert (lane.ahead, lane.feeders) == (3, 3)


def test_an_error_is_raised_where_the_answer_is_asked_for():
    def work(_images):
        raise OSError("broken")

    answer = open_lane("cpu").submit(work, [np.zeros((1, 1, 1))])
    with pytest.raises(OSError, match="broken"):
        answer.result()


def test_a_gpu_computes_after_the_upload_and_copies_back_after_it_has_computed(gpu):
    lane = CudaLane(torch.device("cpu"), threads=1)

    def work(images):
        gpu.log.append((gpu.current[-1], "computes"))
        return [images * 2, images.sum()]

    tile = np.arange(12, dtype=np.uint16).reshape(1, 3, 4)
    answers = lane.submit(work, [tile[:, ::2], tile[:, 1:]])  # views, as tiles of a block are
    order = [
        ("compute", "waits for", "up"),
        ("compute", "computes"),
        ("down", "waits for", "compute"),
        ("down", "records"),
    ]
    assert gpu.log == order
    assert gpu.asked == []
    doubled, total = answers.result()
    assert gpu.asked == [True]
    np.testing.assert_array_equal(doubled, 2 * np.stack([tile[:, ::2], tile[:, 1:]]))
    assert total == doubled.sum() / 2
    assert (lane.ahead, lane.feeders) == (2, 3)


@pytest.mark.usefixtures("gpu")
def test_several_gpus_are_taken_in_turn(monkeypatch):
    monkeypatch.setattr(lanes, "CudaLane", lambda device, threads: (device.index, threads))
    assert [open_lane("cuda", threads=4, index=n) for n in range(3)] == [(0, 4), (1, 4), (0, 4)]


def block(steps, dtype=np.uint16):
    side = steps * GRID.step + 2 * GRID.halo
    return np.random.default_rng(0).integers(0, 900, (1, side, side)).astype(dtype)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_gpu_predicts_what_a_cpu_does_and_keeps_few_batches_under_way(gpu, batch):
    torch.manual_seed(0)
    network, data = UNet(SMALL), block(3)
    constants = np.float32([100]), np.float32([1 / 300])
    expected = Predictor(network, batch=batch).quantised(data, GRID, constants)
    lane, most = CudaLane(torch.device("cpu"), threads=1), []
    submit = lane.submit

    def watched(work, tiles):
        most.append(len(most) + 1 - len(gpu.asked))
        return submit(work, tiles)

    lane.submit = watched
    result = Predictor(network, batch=batch, lane=lane).quantised(data, GRID, constants)
    np.testing.assert_array_equal(result, expected)
    assert max(most) == lane.ahead + 1


CUDA_FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.\nMore.")
CPU_FULL = RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.\n")


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("lane", "problem", "says"),
    [
        (lambda: CudaLane(torch.device("cpu"), threads=1), CUDA_FULL, r"CUDA .* 9\.00 GiB\."),
        # Of a batch that is computed by another thread, the answer tells.
        (lambda: CpuLane(1), CPU_FULL, r"DefaultCPUAllocator: .* 9 bytes\."),
    ],
    ids=["gpu", "cpu"],
)
@pytest.mark.parametrize(("batch", "many"), [(1, "a tile"), (2, "2 tiles at once")])
def test_a_device_that_is_too_small_says_what_to_change(lane, problem, says, batch, many):
    def refuse(_images):
        raise problem

    predictor = Predictor(UNet(SMALL), batch=batch, lane=lane())
    predictor._calls = [refuse]
    message = (
        rf"^the memory of the cpu device is too small to predict {many} of 24 px: lower "
        rf"prediction.memory_gb \(with tile: auto\), prediction.tile or prediction.batch "
        rf"\({says}\)$"
    )
    with pytest.raises(RuntimeError, match=message):
        predictor.quantised(block(1), GRID)


def test_other_errors_of_a_lane_are_left_as_they_are():
    def fail(_images):
        raise RuntimeError("something else")

    predictor = Predictor(UNet(SMALL))
    predictor._calls = [fail]
    with pytest.raises(RuntimeError, match=r"^something else$"):
        predictor.quantised(block(1), GRID)


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]
)
def test_normalising_rounds_as_numpy_does(dtype):
    random, dtype = np.random.default_rng(0), np.dtype(dtype)
    if dtype.kind == "f":
        image = (1000 * random.normal(size=(2, 50, 50))).astype(dtype)
    else:
        info = np.iinfo(dtype)
        image = random.integers(info.min, info.max, (2, 50, 50), dtype, endpoint=True)
    offset, scale = np.float32([3.7, -0.3]), np.float32([0.0123, 7])
    expected = (image.astype(np.float32) - offset[:, None, None]) * scale[:, None, None]
    np.testing.assert_array_equal(normalise(image, offset, scale).numpy(), expected)
    again = normalise(torch.from_numpy(image)[None], offset, scale)[0]
    np.testing.assert_array_equal(again.numpy(), expected)


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiled_network_agrees_within_a_step(precision):
    torch.manual_seed(0)
    network, data = UNet(SMALL), block(2)
    constants = np.float32([100]), np.float32([1 / 300])
    plain = Predictor(network, Runtime("cpu", precision))
    compiled = Predictor(network, Runtime("cpu", precision, compiled=True))
    difference = np.subtract(
        *(p.quantised(data, GRID, constants) for p in (plain, compiled)), dtype=np.int16
    )
    assert np.abs(difference).max() <= (1 if precision == "float32" else 8)
