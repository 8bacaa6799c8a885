"""Benchmarks as ratios: each kernel and its peer by turns in one run, so that the machine cancels.

`make bench` measures, prints one table and writes it to ``.benchmarks/ratios.json``. Within
`make test` every benchmark runs once, small, and only its assertions count. ``BENCH_SIDE=2`` makes
every measured image twice as long and wide, ``BENCH_ROUNDS`` sets how often each pair is timed.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gigaseg.patches import TrainingBatches
from gigaseg.phantoms import draw
from gigaseg.runtime import keep_freed_memory
from gigaseg.sampling import Sample, TileSource
from gigaseg.training import initialise, take_steps
from gigaseg.unet import Architecture
from gigaseg.volumes import create_array
from gigaseg.weights import encode_target, separation

ROWS = pytest.StashKey[list]()
FILE = Path(".benchmarks", "ratios.json")
STORAGE = {"chunk": 256, "shard": 1024}


@dataclass
class Row:
    """One line of the table: `ratio` is wall time of the peer by ours, `cpu_ratio` CPU time."""

    what: str
    size: str
    peer: str
    ours_s: float
    ratio: float
    cpu_ratio: float
    aim: str
    note: str = ""


@dataclass
class Bench:
    """Runs and records comparisons; `measured` is False where benchmarks run as tests."""

    measured: bool
    benchmark: Any
    rows: list[Row]

    def side(self, measured: int, tested: int) -> int:
        """Return the side of an image in px, a multiple of 256 where it is measured."""
        factor = float(os.environ.get("BENCH_SIDE", "1"))
        return max(1, round(measured * factor / 256)) * 256 if self.measured else tested

    def compare(
        self,
        ours: Callable[[], Any],
        peer: Callable[[], Any],
        *,
        names: tuple[str, str, str],
        aim: str,
        part: float = 1.0,
        rounds: int = 5,
    ) -> tuple[Any, Any]:
        """Time two functions by turns, record their ratio, and return what they returned.

        `names` are what is measured, its size, and the peer; `part` is the share of the peer's
        work that `peer` does, whose time is scaled up.
        """
        rounds = int(os.environ.get("BENCH_ROUNDS", rounds)) if self.measured else 1
        if self.measured:
            ours()  # compiles, and fills caches
        times, answers = {ours: [], peer: []}, {}

        def timed(function: Callable[[], Any]) -> None:
            start = time.perf_counter(), time.process_time()
            answers[function] = function()
            end = time.perf_counter(), time.process_time()
            times[function].append([b - a for a, b in zip(start, end, strict=True)])

        self.benchmark.pedantic(timed, (ours,), setup=lambda: timed(peer), rounds=rounds)
        pairs = list(zip(times[peer], times[ours], strict=True))
        wall, cpu = (statistics.median(p[i] / part / o[i] for p, o in pairs) for i in (0, 1))
        seconds = statistics.median(t[0] for t in times[ours])
        what, size, name = names
        self.rows.append(Row(what, size, name, seconds, wall, cpu, aim))
        return answers[ours], answers[peer]

    def remark(self, note: str) -> None:
        """Add to the last line of the table."""
        self.rows[-1].note = note


@pytest.fixture
def bench(benchmark, pytestconfig):
    bench = Bench(not benchmark.disabled, benchmark, [])
    yield bench
    if bench.measured:
        benchmark.extra_info.update(rows=[asdict(row) for row in bench.rows])
        pytestconfig.stash.setdefault(ROWS, []).extend(bench.rows)


@cache
def drawn(kind: str, side: int) -> np.ndarray:
    sample = draw(kind, (1, side, side), seed=1, name="benchmark")
    return np.stack([sample.image[0].astype(np.int32), sample.labels[0].astype(np.int32)])


@pytest.fixture
def nuclei():
    """Return a function that gives image and labels of touching nuclei, of a side in px."""

    def repeat(side: int) -> tuple[np.ndarray, np.ndarray]:
        image, labels = drawn("nuclei", min(side, 512))
        copies = -(-side // len(labels))
        order = np.kron(np.arange(copies**2).reshape(copies, copies), np.ones_like(labels))
        ids = np.where(np.tile(labels, (copies, copies)), labels.max() * order, 0)
        ids += np.tile(labels, (copies, copies))
        image = np.tile(image, (copies, copies)).astype(np.uint16)
        return image[:side, :side], ids[:side, :side].astype(np.int32)

    return repeat


@pytest.fixture
def membranes():
    """Return a function that gives the map of cells, False on membranes, of a side in px."""
    return lambda side: drawn("membranes", side)[1] > 0


class Cached(TrainingBatches):
    """Reads the first batch once, and renders it anew in every step."""

    def _read(self, renderer, step):
        del step
        if not hasattr(self, "read"):
            self.read = super()._read(renderer, 0)
        return self.read


@dataclass
class Loop:
    """The loop of training on one sample, without validation."""

    sample: Sample
    architecture: Architecture
    settings: dict[str, Any]

    def batches(self, *, cached: bool = False) -> TrainingBatches:
        """Return the batches of all steps; `cached` reads but one."""
        source = TileSource(
            [self.sample],
            self.architecture.geometry,
            self.settings["tile"],
            target="foreground",
            class_weights=[0.7, 2.0],
        )
        wishes = {key: self.settings[key] for key in ("steps", "batch", "seed", "augmentation")}
        workers = 8 if self.settings["device"] == "cuda" else 1
        return (Cached if cached else TrainingBatches)(source, workers=workers, **wishes)

    def learn(self, *, cached: bool = False) -> int:
        """Take all steps, and return how many."""
        network, batches = initialise(self.architecture, 1), self.batches(cached=cached)
        settings = {**self.settings, "validate_every": 10**9, "checkpoint_every": 10**9}
        return take_steps(network, settings, batches, None, lambda _: None).step


@pytest.fixture
def loop():
    """Return the class of a training loop."""
    return Loop


@pytest.fixture
def weighed(nuclei, tmp_path):
    """Return a function that stores nuclei as convert and weigh do, as train reads them."""

    def store(side: int) -> Sample:
        image, labels = nuclei(side)
        data = {
            "image": image[None, None],
            "target": encode_target(labels, boundary_width=2)[None],
            "separation": separation(labels, w0=10, sigma=5)[None],
        }
        arrays = []
        for name, array in data.items():
            arrays.append(create_array(tmp_path, name, array.shape, array.dtype, storage=STORAGE))
            arrays[-1][...] = array
        low, stretch = np.full((1, 1), image.min()), np.full((1, 1), 1 / np.ptp(image))
        return Sample("d/a", *arrays, low.astype(np.float32), stretch.astype(np.float32))

    return store


def pytest_configure(config):
    if config.getoption("benchmark_enable"):
        keep_freed_memory()  # as the stages with a network do; peers gain by it as well


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False))
    terminalreporter.section(f"times as fast as the peer ({FILE})")
    head = ("what", "size", "against", "ours", "wall ×", "CPU ×", "aim", "")
    terminalreporter.write_line("| " + " | ".join(head) + " |")
    terminalreporter.write_line("|---" * len(head) + "|")
    for row in rows:
        speed = [f"{seconds(row.ours_s)}", f"{row.ratio:.3g}", f"{row.cpu_ratio:.3g}"]
        cells = (row.what, row.size, row.peer, *speed, row.aim, row.note)
        terminalreporter.write_line("| " + " | ".join(cells) + " |")


def seconds(value: float) -> str:
    return f"{1000 * value:.1f} ms" if value < 1 else f"{value:.1f} s"
