"""Several processes that train one network together, on one machine and as if on two."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gigaseg.replicas import Place
from numpy.testing import assert_allclose
from safetensors.numpy import load_file
from test_train import change, run, write_lot, write_sample

# A job of its own, as a rule starts it; `preparation` may break something first.
JOB = """
import json, sys
from pathlib import Path
from gigaseg import logs, replicas
from gigaseg.stages import train

folder, settings, nodes, preparation = sys.argv[1:]
logs.start(Path(folder) / "log.txt", "train")
exec(preparation)
train.run(
    manifest=Path(folder) / "train" / "fold-0.json",
    weigh=[Path(folder) / "weigh" / "d-0000.json"],
    settings=json.loads(settings), code="c0de", threads=1, nodes=int(nodes),
)
"""

# A follower that is not well: it does this before it trains.
UNWELL = "train.FOLLOWER = {!r} + train.FOLLOWER; replicas.PATIENCE = {}"

# Stands in for SLURM's: starts the tasks of all nodes here, each with the whole standard input.
SRUN = """#!{python}
import os, subprocess, sys, threading
options = dict(a[2:].split("=") for a in sys.argv[1:] if a.startswith("--") and "=" in a)
command = sys.argv[next(i for i, a in enumerate(sys.argv[1:], 1) if not a.startswith("--")):]
assert int(options["nodes"]) * int(options["ntasks-per-node"]) == int(options["ntasks"])
tasks = [
    subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | {{"SLURM_PROCID": str(n)}})
    for n in range(int(options["ntasks"]))
]

def forward():
    while data := os.read(0, 65536):
        for task in tasks:
            try:
                task.stdin.write(data)
                task.stdin.flush()
            except BrokenPipeError:  # task 0 has stepped aside
                pass
    for task in tasks:
        task.stdin.close()

threading.Thread(target=forward, daemon=True).start()
sys.exit(max(task.wait() for task in tasks))
"""

# Momenta carry rounding on as it is; what divides by small gradients, as AdamW, makes much of it.
TRAINING = {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.05, "batch": 3, "steps": 6}
TRAINING |= {"checkpoint_every": 2}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_lot(tmp_path, [write_sample(tmp_path, name) for name in "abc"])
    return tmp_path


def job(
    root: Path, processes: int, nodes: int = 1, preparation: str = "", **training: Any
) -> "subprocess.CompletedProcess[str]":
    chosen = {**TRAINING, "processes": processes, **training}
    settings = json.dumps(change(training=chosen))
    return subprocess.run(
        [sys.executable, "-c", JOB, str(root), settings, str(nodes), preparation],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{root}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def curve(model: Path) -> np.ndarray:
    return np.genfromtxt(model / "metrics.csv", delimiter=",", skip_header=1)


def said(done: subprocess.CompletedProcess) -> list[str]:
    """Return what a job wrote to the console, but not how far it is: slow machines are told."""
    return [line for line in done.stderr.splitlines() if " steps" not in line]


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 1e-2)])
def test_two_processes_learn_what_one_learns(
    root: Path, tmp_path_factory: pytest.TempPathFactory, precision: str, tolerance: float
) -> None:
    done = job(root, 2, precision=precision)
    assert (done.returncode, said(done)) == (0, [])
    one = tmp_path_factory.mktemp("one")
    weigh = write_lot(one, [write_sample(one, name) for name in "abc"])
    together, alone = (
        root / "train" / "fold-0",
        run(weigh, training={**TRAINING, "precision": precision}),
    )
    assert_allclose(curve(together), curve(alone), rtol=tolerance)
    weights = load_file(together / "last.safetensors")
    for name, values in load_file(alone / "last.safetensors").items():
        assert_allclose(weights[name], values, rtol=10 * tolerance, atol=tolerance / 100)


@pytest.mark.heavy
def test_two_processes_go_on_after_a_kill(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    killed = tmp_path_factory.mktemp("killed")
    write_lot(killed, [write_sample(killed, name) for name in "abc"])
    dies = (
        "from gigaseg.training import Training; import os; learn = Training.learn\n"
        "Training.learn = lambda t, b: os.kill(os.getpid(), 9) if t.step == 4 else learn(t, b)"
    )
    assert job(killed, 2, preparation=dies).returncode == -signal.SIGKILL
    for where in (killed, root):
        assert job(where, 2).returncode == 0
    for name in ("best.safetensors", "last.safetensors", "metrics.csv"):
        found, expected = (w / "train" / "fold-0" / name for w in (killed, root))
        assert found.read_bytes() == expected.read_bytes()
    notes = (killed / "train" / "fold-0" / ".gigaseg" / "attempts.jsonl").read_text()
    assert '"resumed_after_step":4' in notes


@pytest.mark.heavy
def test_processes_on_two_nodes_are_started_by_slurm(root: Path) -> None:
    (root / "srun").write_text(SRUN.format(python=sys.executable))
    (root / "srun").chmod(0o755)
    # This machine stands for both: it need not find itself by its name.
    here = "import socket; socket.gethostname = lambda: '127.0.0.1'"
    done = job(root, 2, nodes=2, preparation=here, steps=2)
    assert (done.returncode, said(done)) == (0, [])
    assert json.loads((root / "train" / "fold-0" / "model.json").read_text())["device"] == "cpu"


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("raise ValueError('unwell')", "another process of this training failed with status 1"),
        pytest.param(
            "from gigaseg.training import Training; learn = Training.learn\n"
            "def unwell(t, b):\n if t.step == 2: raise ValueError('unwell')\n learn(t, b)\n"
            "Training.learn = unwell\n",
            "another process of this training failed, and said why on the console",
            marks=pytest.mark.heavy,
        ),
    ],
)
def test_a_process_that_fails_ends_the_job(root: Path, when: str, message: str) -> None:
    patience = 0.1 if when.startswith("raise") else 100
    done = job(root, 2, preparation=UNWELL.format(f"{when}\n", patience))
    assert done.returncode == 1
    assert message in done.stderr
    assert "unwell" in done.stderr
    notes = (root / "train" / "fold-0" / ".gigaseg" / "attempts.jsonl").read_text()
    assert (
        "another process of this training failed" in json.loads(notes.splitlines()[-1])["outcome"]
    )


def test_places_are_shared_out_evenly() -> None:
    with pytest.raises(ValueError, match="processes is 3, which 2 nodes cannot share evenly"):
        Place.first(3, 2)
    assert Place.first(1, 1) == Place()


def test_a_batch_has_a_tile_for_every_process() -> None:
    with pytest.raises(ValueError, match="processes is 3, and a batch of 2 tiles has none for"):
        Place(processes=3).check_batch(2)
    Place(processes=3).check_batch(3)


def test_as_many_gpus_as_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError, match="asks for 2 GPUs on each machine, and there are 1 here"):
        Place(processes=4, nodes=2).check_devices("cuda")
    Place(processes=4, nodes=2).check_devices("cpu")
