"""A training that is killed at any step and begun again: the same bits as one that never was."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gigaseg import disk, patches
from gigaseg.averaging import Average, average_decay
from gigaseg.checkpoints import Checkpoint, Checkpoints, Progress, copy_state
from gigaseg.disk import DiskError
from gigaseg.optimisation import make_optimizer, optimizer_state, restore_optimizer
from gigaseg.patches import TrainingBatches, ValidationBatches
from gigaseg.training import fit, initialise, step_seed
from gigaseg.unet import Architecture
from numpy.testing import assert_allclose
from test_train import change, run, write_lot, write_sample
from test_training import SETTINGS as TRAINING
from test_training import make_source

# A process that dies at the n-th step it takes, in the middle of it: by a signal from within.
VICTIM = """
import json, os, sys
from pathlib import Path
import torch
from gigaseg import logs
from gigaseg.stages import train

folder, settings, number, after, threads = sys.argv[1:]
logs.start(Path(folder) / "log.txt", "train")
steps, step = 0, torch.optim.AdamW.step

def dying(self, *arguments, **more):
    global steps
    steps += 1
    if steps == int(after):
        os.kill(os.getpid(), int(number))
        if int(number) != 9:
            import time
            time.sleep(600)
    return step(self, *arguments, **more)

torch.optim.AdamW.step = dying
# As on a GPU: on a CPU the stage leaves the making of tiles to one thread.
batches = train.TrainingBatches
train.TrainingBatches = lambda *parts, **more: batches(*parts, **more | {"workers": int(threads)})
train.run(
    manifest=Path(folder) / "train" / "squares" / "fold-0.json",
    weigh=[Path(folder) / "weigh" / "d-0000.json"],
    settings=json.loads(settings), code="c0de", threads=int(threads),
)
"""

# Everything that has a state: momenta, an average, running statistics, dropout, rows, a best.
STATEFUL: dict[str, Any] = {
    "network": {"dropout": 0.5, "normalization": "batch"},
    "training": {"steps": 12, "checkpoint_every": 3, "validate_every": 2, "ema": 0.9}
    | {"learning_rate": 0.3},  # so high that the best comes early
}
FILES = ("best.safetensors", "last.safetensors", "metrics.csv", "model.json")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train without a kill; return the model's folder."""
    root = tmp_path_factory.mktemp("undisturbed")
    folder = run(write_lot(root, [write_sample(root, name) for name in "abc"]), **STATEFUL)
    # Were the best the last, a best that is forgotten at a kill would not be missed.
    assert json.loads((folder / "model.json").read_text())["scores"]["best"]["step"] <= 6
    return folder


@pytest.fixture
def weigh(tmp_path: Path) -> Path:
    return write_lot(tmp_path, [write_sample(tmp_path, name) for name in "abc"])


def kill(root: Path, number: int, after: int, threads: int = 1, **changes: Any) -> int:
    """Begin or continue a training that dies; return its exit status."""
    settings = json.dumps(change(**{**STATEFUL, **changes}))
    arguments = [str(root), settings, str(int(number)), str(after), str(threads)]
    done = subprocess.run(
        [sys.executable, "-c", VICTIM, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    return done.returncode


def same(one: Path, two: Path) -> None:
    for file in FILES:
        assert (one / file).read_bytes() == (two / file).read_bytes(), file
    assert not (one / "checkpoints").exists()


def attempts(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / ".gigaseg" / "attempts.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train until after step 9 and the checkpoint there."""
    root = tmp_path_factory.mktemp("victim")
    write_lot(root, [write_sample(root, name) for name in "abc"])
    assert kill(root, signal.SIGKILL, 10) == -signal.SIGKILL
    return root


@pytest.fixture
def interrupted(victim: Path, tmp_path: Path) -> Path:
    """Return the folder of a model whose training was killed after step 9."""
    shutil.copytree(victim, tmp_path / "copy")
    folder = tmp_path / "copy" / "train" / "squares" / "fold-0"
    names = sorted(path.name for path in (folder / "checkpoints").glob("*.json"))
    assert names == ["step-000000006.json", "step-000000009.json"]
    return folder


def go_on(folder: Path, **changes: Any) -> Path:
    """Continue a training."""
    return run(folder.parents[2] / "weigh" / "d-0000.json", **{**STATEFUL, **changes})


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.heavy) for n in (1, 2, 3))]
)
def test_killed_again_and_again(weigh: Path, undisturbed: Path, seed: int) -> None:
    draw = random.Random(seed)
    root, taken = weigh.parent.parent, 0
    for _ in range(3):
        after = draw.randint(1, 12 - taken)
        assert kill(root, signal.SIGKILL, after, threads=draw.randint(1, 3)) == -signal.SIGKILL
        taken += (after - 1) // 3 * 3
    same(run(weigh, **STATEFUL), undisturbed)
    assert not any("resumed_after_step" in note for note in attempts(undisturbed))
    resumed = [note.get("resumed_after_step") for note in attempts(root / "train/squares/fold-0")]
    assert taken in resumed or taken == 0


def test_told_to_stop(weigh: Path, undisturbed: Path) -> None:
    root = weigh.parent.parent
    assert kill(root, signal.SIGTERM, 8) == 128 + signal.SIGTERM
    assert attempts(root / "train/squares/fold-0")[-1]["outcome"] == "terminated by SIGTERM"
    same(run(weigh, **STATEFUL), undisturbed)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("spoil", [flip, tear, Path.unlink])
@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_a_spoilt_checkpoint_falls_back_to_the_one_before(
    interrupted: Path,
    undisturbed: Path,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], None],
    kind: str,
) -> None:
    spoil(interrupted / "checkpoints" / f"step-000000009.{kind}")
    with caplog.at_level("INFO"):
        same(go_on(interrupted), undisturbed)
    assert "goes on after step 6" in caplog.text
    if (kind, spoil) != ("json", Path.unlink):  # as if killed before it was written
        assert "step-000000009.json is not used" in caplog.text


def test_without_a_whole_checkpoint_it_starts_again(interrupted: Path, undisturbed: Path) -> None:
    for path in (interrupted / "checkpoints").glob("*.safetensors"):
        tear(path)
    (interrupted / "metrics.csv").write_text("spoilt, too")
    same(go_on(interrupted), undisturbed)


def steps_of(folder: Path) -> list[int]:
    return [int(row.split(",")[0]) for row in (folder / "metrics.csv").read_text().split()[1:]]


def test_a_second_kill_takes_no_row_from_the_learning_curve(weigh: Path, undisturbed: Path) -> None:
    root, rare = weigh.parent.parent, {"training": {**STATEFUL["training"], "checkpoint_every": 5}}
    folder = root / "train" / "squares" / "fold-0"
    assert kill(root, signal.SIGKILL, 10, **rare) == -signal.SIGKILL  # in step 10, kept: 5
    assert steps_of(folder) == [2, 4, 6, 8]
    for after in (1, 2):  # in step 6 and step 7
        assert kill(root, signal.SIGKILL, after, **rare) == -signal.SIGKILL
        assert steps_of(folder) == [2, 4, 6, 8]
    run(weigh, **{**STATEFUL, **rare})
    assert (folder / "metrics.csv").read_bytes() == (undisturbed / "metrics.csv").read_bytes()


def test_rows_that_are_not_made_again_are_dropped_at_the_end(
    interrupted: Path, undisturbed: Path
) -> None:
    with (interrupted / "metrics.csv").open("a") as table:
        table.write("14,0.5,,,,0.1\n")  # as of a training on a GPU that went on for longer
    same(go_on(interrupted), undisturbed)


@pytest.mark.parametrize("before", ["float32", "bfloat16"])
def test_a_training_ends_in_the_precision_in_which_it_began(
    weigh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, before: str
) -> None:
    root, here = weigh.parent.parent, {"float32": "bfloat16", "bfloat16": "float32"}[before]
    for name in ("copy", "whole"):
        shutil.copytree(root / "weigh", root / name / "weigh")
        shutil.copytree(root / "convert", root / name / "convert")
    monkeypatch.setattr("gigaseg.runtime.has_native_bfloat16", lambda _: before == "bfloat16")
    asked = {"training": {**STATEFUL["training"], "precision": "auto"}}
    whole = run(root / "whole" / "weigh" / "d-0000.json", **{**STATEFUL, **asked})
    # The same training, whose checkpoint comes from such a machine, goes on on one of another kind.
    part = {"training": {**asked["training"], "steps": 12, "checkpoint_every": 3}}
    copy = root / "copy"

    def stop(self: Checkpoints, progress: Progress, write: Any = Checkpoints.write) -> None:
        write(self, progress)
        if progress.step == 6:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "write", stop)
        with pytest.raises(Killed):
            run(copy / "weigh" / "d-0000.json", **{**STATEFUL, **part})
    monkeypatch.setattr("gigaseg.runtime.has_native_bfloat16", lambda _: here == "bfloat16")
    monkeypatch.setattr("gigaseg.training.hardware_name", lambda _: "another CPU")
    monkeypatch.setattr("gigaseg.stages.train.hardware_name", lambda _: "another CPU")
    with caplog.at_level("WARNING"):
        folder = run(copy / "weigh" / "d-0000.json", **{**STATEFUL, **part})
    for file in ("last.safetensors", "metrics.csv"):
        assert (folder / file).read_bytes() == (whole / file).read_bytes()
    model, first = (json.loads((f / "model.json").read_text()) for f in (folder, whole))
    assert model["precision"] == before
    assert model["hardware"] == [*first["hardware"], "another CPU"]
    assert "steps up to 6 were taken on" in caplog.text
    assert "others are on another CPU" in caplog.text


def test_another_interval_of_checkpoints_goes_on_all_the_same(
    interrupted: Path, undisturbed: Path
) -> None:
    go_on(interrupted, training={**STATEFUL["training"], "checkpoint_every": 5})
    assert attempts(interrupted)[-2]["resumed_after_step"] == 9
    for file in ("best.safetensors", "last.safetensors", "metrics.csv"):
        assert (interrupted / file).read_bytes() == (undisturbed / file).read_bytes()


def test_checkpoints_of_something_else_are_not_used(
    interrupted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        go_on(interrupted, code="0ther")
    assert "begun again: code differs" in caplog.text
    assert "goes on" not in caplog.text
    assert not (interrupted / "checkpoints").exists()


def test_checkpoints_left_beside_a_finished_model_are_removed(weigh: Path) -> None:
    folder = run(weigh)
    Checkpoints(folder / "checkpoints").write(Progress(4, {}, {}))
    run(weigh)
    assert not (folder / "checkpoints").exists()


def test_a_full_disk_leaves_the_checkpoint_before(
    weigh: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith("step-000000006.safetensors"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(
            DiskError, match=r"step-000000006\.safetensors cannot be written .*No sp"
        ):
            run(weigh, **STATEFUL)
    folder = weigh.parent.parent / "train" / "squares" / "fold-0"
    assert [path.name for path in (folder / "checkpoints").glob("*.json")] == [
        "step-000000003.json"
    ]
    assert disk.AGAIN in attempts(folder)[-1]["outcome"]
    same(run(weigh, **STATEFUL), undisturbed)


# ----------------------------------------------------------------------- every step, in one process


class Killed(Exception):
    """Stands for a kill."""


def train_in_pieces(stops: list[int], **changes: Any) -> tuple[bytes, bytes, str]:
    """Train, interrupted after each of these steps; return the best and last weights and rows."""
    settings = TRAINING | {"steps": 8, "validate_every": 3, "checkpoint_every": 1} | changes
    architecture = Architecture(depth=1, width=2, dropout=0.5, normalization="batch")
    kept: list[tuple[bytes, Any]] = []
    rows: list[Any] = []

    def keep(progress: Progress) -> None:
        kept.append(progress.to_files())
        if stops and progress.step == stops[0]:
            stops.pop(0)
            raise Killed

    while True:
        batches = TrainingBatches(
            make_source(architecture), steps=8, batch=2, seed=3, augmentation={"noise": 0.1}
        )
        validation = ValidationBatches(make_source(architecture, seed=1), 2)
        network = initialise(architecture, 3)
        torch.manual_seed(len(stops))  # what was drawn before must not matter
        before = Progress.from_files(*kept[-1]) if kept else None
        arguments = (network, settings, batches, validation, lambda found: rows.append([*found]))
        try:
            best, last = fit(*arguments, progress=before, keep=keep)
        except Killed:
            continue
        return best.to_bytes(), last.to_bytes(), repr([{**row, "step": 0} for row in rows[-1]])


@pytest.mark.parametrize(
    "changes", [{"optimizer": "sgd", "momentum": 0.9}, {"ema": 0.99, "precision": "bfloat16"}]
)
def test_interrupted_after_every_step(changes: dict[str, Any]) -> None:
    assert train_in_pieces([*range(1, 9)], **changes) == train_in_pieces([], **changes)


@pytest.mark.parametrize(
    ("tiles", "call", "resumed"),
    [
        pytest.param("ValidationBatches.__iter__", 3, 3, id="validation"),  # of step 6
        pytest.param("TrainingBatches.plain", 1, 12, id="batch norm of the best"),
        pytest.param("TrainingBatches.plain", 2, 12, id="batch norm of the last"),
        pytest.param("ValidationBatches.__iter__", 8, 12, id="last validation"),
    ],
)
def test_interrupted_between_steps(
    weigh: Path,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiles: str,
    call: int,
    resumed: int,
) -> None:
    owner, name = tiles.split(".")
    method = getattr(getattr(patches, owner), name)
    calls = itertools.count(1)

    def dying(*arguments: Any) -> Iterator[Any]:
        mine = next(calls)
        for number, tile in enumerate(method(*arguments)):
            if (mine, number) == (call, 2):
                raise Killed
            yield tile

    with monkeypatch.context() as patch:
        patch.setattr(f"gigaseg.patches.{tiles}", dying)
        with pytest.raises(Killed):
            run(weigh, **STATEFUL)
    folder = run(weigh, **STATEFUL)
    same(folder, undisturbed)
    assert [n["resumed_after_step"] for n in attempts(folder) if "resumed_after_step" in n] == [
        resumed
    ]


def test_early_stopping_is_continued_where_it_was(weigh: Path) -> None:
    steep = {"learning_rate": 3.0, "patience": 2, "validate_every": 1, "schedule": "constant"}
    whole, pieces = train_in_pieces([], **steep), train_in_pieces([1, 2, 3], **steep)
    assert whole == pieces
    folder = run(weigh, training={**steep, "steps": 40, "warmup_steps": 0})
    model = json.loads((folder / "model.json").read_text())
    stopped, best = model["stopped_early_after"], model["scores"]["best"]["step"]
    assert stopped == best + 2 < 40
    assert (folder / "metrics.csv").read_text().splitlines()[-1].startswith(f"{stopped},")
    assert (
        json.loads((run(weigh, "fold-1") / "model.json").read_text())["stopped_early_after"] is None
    )


# ---------------------------------------------------------------------------------------- its parts


def test_a_progress_is_what_it_was_after_it_was_written(tmp_path: Path) -> None:
    scores = {"dice": float("nan"), "error": 1.0, "loss": 0.1 + 0.2}
    progress = Progress(
        7,
        {"weight": torch.randn(2, 3)},
        {"0/step": torch.tensor(7.0)},
        {"weight": torch.randn(2, 3)},
        Checkpoint(5, {"weight": torch.randn(2, 3)}, scores),
        [0.1, 1e-30],
        [{"step": 5, "train_loss": float("inf")}],
    )
    Checkpoints(tmp_path).write(progress)
    found = Checkpoints(tmp_path).latest()
    assert repr(found) == repr(progress).replace("'step': 5", "'step': 5.0")


def test_an_average_follows_its_formula() -> None:
    architecture = Architecture(depth=1, width=2, normalization="batch")
    network = initialise(architecture, 0)
    average = Average(network, 0.5)
    expected = {name: value.double() for name, value in copy_state(network).items()}
    for step in range(1, 20):
        with torch.no_grad():
            for value in network.parameters():
                value.add_(torch.randn_like(value))
        network(torch.randn(1, 1, 20, 20))  # moves the running statistics
        average.update(network, step)
        old = average_decay(0.5, step)
        for name, value in network.state_dict().items():
            expected[name] = old * expected[name] + (1 - old) * value.double()
    for name, value in average.network.state_dict().items():
        if value.is_floating_point():
            assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)
    assert int(average.network.state_dict()["down.0.1.num_batches_tracked"]) == 19
    assert not any(value.requires_grad for value in average.network.parameters())


def test_the_state_of_an_optimiser_takes_the_layout_of_the_weights() -> None:
    network = initialise(Architecture(depth=1, width=2), 0)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    one, two = (make_optimizer(network, TRAINING) for _ in range(2))
    network(torch.randn(1, 1, 20, 20)).sum().backward()
    one.step()
    stored = {name: value.contiguous() for name, value in optimizer_state(one).items()}
    restore_optimizer(two, stored)
    for name, value in optimizer_state(one).items():
        again = optimizer_state(two)[name]
        assert again.stride() == value.stride()
        assert torch.equal(again, value)


def test_only_kernels_are_decayed() -> None:
    network = initialise(Architecture(depth=1, width=2, normalization="batch"), 0)
    settings = TRAINING | {"weight_decay": 0.5, "learning_rate": 0.1}
    before = copy_state(network)
    for values in network.parameters():
        values.grad = torch.zeros_like(values)
    make_optimizer(network, settings).step()
    for name, values in network.named_parameters():
        factor = 0.95 if values.ndim == 4 else 1.0  # 1 - learning rate * decay
        assert_allclose(values.detach(), before[name] * factor, rtol=1e-6)


def test_seeds_of_steps_differ() -> None:
    keys = [(s, t, r) for s in range(3) for t in range(50) for r in range(2)]
    assert len({step_seed(*key) for key in keys}) == len(keys)
    assert np.unique([step_seed(*key) % 2 for key in keys]).size == 2
