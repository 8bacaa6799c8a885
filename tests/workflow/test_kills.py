"""Jobs and Snakemake killed with SIGKILL at chosen and at random moments: the next call goes on.

All processes of a run are one group, as those of a machine that loses power. They are killed from
within, at a chosen event of one of them: see `KILLER`. What a run leaves must be, byte for byte,
what an undisturbed one leaves.
"""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

# Loaded by every Python process at its start. KILL names a job's script, an event and its number:
#   block k      the k-th finished block is written, and not yet in the ledger
#   torn k       the tensors of the k-th checkpoint of a training are there, its description is not
#   checkpoint k the k-th checkpoint is there
#   commit       all is written but the root zarr.json of a store, or model.json of a training
#   committed    the root zarr.json, or model.json, is there
#   manifest     all stores are finished, the manifest is not there
#   done         the manifest is there, the job has not ended
#   bookkeeping  the job has ended, Snakemake has not noted it
#   term k       as block k, or torn k of a training, but the job is told to stop
#   orphan k     likewise, but the job lives on, and waits for a file named `go`
KILLER = """
import os, re, signal, sys, time

job, event, number = os.environ["KILL"].split()
mine = sys.orig_argv[-1].endswith(f".{job}.py")
manifest = re.compile(rf"/{job}/(?!.*/checkpoints/|.*/model\\.json)[^.]*\\.json$")
seen, armed = 0, False

def kill():
    global seen
    seen += 1
    if seen == int(number) and event == "orphan":
        open("orphan", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.01)
    elif seen == int(number) and event == "term":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)
    elif seen == int(number):
        os.killpg(0, signal.SIGKILL)

def watch(name, arguments):
    global armed
    if name not in ("open", "os.rename"):
        return
    path = os.fsdecode(arguments[name == "os.rename"]) if not isinstance(arguments[0], int) else ""
    if event == "bookkeeping":
        writes = name == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        ended = any(manifest.search("/" + p) for p in outputs())
        if ".snakemake/metadata" in path and writes and ended:
            kill()
    elif not mine:
        return
    elif armed:
        armed = False
        kill()
    elif "/.gigaseg/ledger/" in path and arguments[1] == "a+":
        if event in ("block", "term", "orphan"):
            kill()
    elif name == "os.rename":
        here = {
            "root": path.endswith((".zarr/zarr.json", "/model.json")),
            "manifest": bool(manifest.search(path)),
            "checkpoint": "/checkpoints/" in path and path.endswith(".json"),
        }
        before = {"commit": "root", "manifest": "manifest"}
        before |= dict.fromkeys(("torn", "term", "orphan"), "checkpoint")
        if event in before and here[before[event]]:
            kill()
        after = {"committed": "root", "done": "manifest", "checkpoint": "checkpoint"}
        armed = event in after and here[after[event]]

def outputs():
    for folder, folders, files in os.walk("results/" + job):
        folders[:] = [f for f in folders if not f.endswith(".zarr")]
        yield from (os.path.join(folder, f) for f in files)

sys.addaudithook(watch)
"""

STAGES = ("convert", "weigh", "predict", "split")
EVENTS = ("commit", "committed", "manifest", "done", "bookkeeping")
NOT_RESULTS = {".gigaseg", "logs", "benchmarks", ".lock"}


def snakemake(run, tmp_path, target, *arguments, kill=None):
    """Start a call of Snakemake, to be killed at an event."""
    (tmp_path / "killer").mkdir(exist_ok=True)
    (tmp_path / "killer" / "sitecustomize.py").write_text(KILLER)
    added = {"KILL": kill, "PYTHONPATH": str(tmp_path / "killer")} if kill else {}
    with (run.folder / "killed.txt").open("w") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "snakemake", "-s", str(run.checkout / "Snakefile")),
                *("--cores", "2", target, *arguments, "--configfile", "tiny.yaml"),
            ],
            cwd=run.folder,
            env={**os.environ, "WITNESS": os.devnull, "OMP_NUM_THREADS": "1", **added},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def content(run):
    results = run.folder / "results"
    return {
        str(path.relative_to(results)): read(path)
        for path in results.rglob("*")
        if path.is_file() and not NOT_RESULTS & {*path.relative_to(results).parts}
    }


def read(path):
    """Return what a file holds, but for how long a network took: that differs between two runs."""
    if path.name != "depths.csv":
        return path.read_bytes()
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert all(float(row.pop("seconds_per_mpx")) > 0 for row in rows)
    return rows


def recorded(run, stage):
    """Return the blocks that the ledgers of a stage hold, each as often as it was recorded."""
    files = [*(run.folder / "results" / stage).rglob(".gigaseg/ledger/*.jsonl")]
    return Counter(
        (file.parents[2], file.name.split(".")[0], json.loads(line)["block"])
        for file in files
        for line in file.read_text().splitlines()
    )


def check(run, stage, expected, finished):
    """The next plain call succeeds, and nothing shows that there was a kill."""
    before = recorded(run, stage)
    done = run.snakemake(f"{stage}_all")
    assert done.returncode == 0, done.stdout
    found = content(run)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    after = recorded(run, stage)
    assert set(after.values()) <= {1}, "a finished block was done again"
    assert before <= after
    assert sum(after.values()) == sum(recorded(finished, stage).values())
    assert run.pending() == {}


@pytest.fixture(scope="module")
def expected(finished):
    return content(finished)


def cases():
    for stage in STAGES:
        yield pytest.param(stage, f"block {2 + STAGES.index(stage)}", id=f"{stage}-block")
        for event in EVENTS:
            for number in (1, 2) if event.startswith("commit") else (1,):
                case = f"{event} {number}"
                yield pytest.param(stage, case, id=f"{stage}-{case}", marks=pytest.mark.heavy)
        for seed in range(4):
            name = f"{stage}-block-seed-{seed}"
            yield pytest.param(stage, seed, id=name, marks=pytest.mark.heavy)
    yield pytest.param("view", "block 5", id="view-block")


@pytest.mark.parametrize(("stage", "event"), [*cases()])
def test_a_run_killed_at_an_event_is_continued(run, finished, expected, tmp_path, stage, event):
    if isinstance(event, int):
        stores = Counter(key[0] for key in recorded(finished, stage).elements())
        event = f"block {random.Random(event).randint(1, max(stores.values()))}"
    shutil.rmtree(run.folder / "results" / stage)
    killed = snakemake(run, tmp_path, f"{stage}_all", kill=f"{stage} {event}")
    assert killed.wait() == -signal.SIGKILL
    check(run, stage, expected, finished)


TRAINING = {
    "checkpoint 2": [2],
    "checkpoint 5": [5],
    "torn 1": [],
    "torn 3": [2],
    "commit 1": [5],
    "committed 1": [],
    "manifest 1": [],
    "done 1": [],
    "bookkeeping 1": [],
}


@pytest.mark.parametrize(
    ("event", "resumed"),
    [
        pytest.param(
            *case, id=case[0], marks=[] if case[0] == "checkpoint 2" else pytest.mark.heavy
        )
        for case in TRAINING.items()
    ],
)
def test_a_training_killed_at_an_event_is_continued(run, expected, tmp_path, event, resumed):
    """`resumed` are the steps after which it goes on: not one is taken twice that was kept."""
    folder = run.folder / "results" / "train"
    shutil.rmtree(folder)
    killed = snakemake(run, tmp_path, "train_all", kill=f"train {event}")
    assert killed.wait() == -signal.SIGKILL
    done = run.snakemake("train_all")
    assert done.returncode == 0, done.stdout
    (file,) = folder.rglob("attempts.jsonl")
    notes = map(json.loads, file.read_text().splitlines())
    assert [n["resumed_after_step"] for n in notes if "resumed_after_step" in n] == resumed
    assert not [*folder.rglob("checkpoints")]
    found = content(run)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    assert run.pending() == {}


@pytest.mark.heavy
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_a_random_time_is_continued(run, finished, expected, tmp_path, stage, seed):
    shutil.rmtree(run.folder / "results" / stage)
    killed = snakemake(run, tmp_path, f"{stage}_all")
    while not recorded(run, stage) and killed.poll() is None:
        time.sleep(0.001)
    try:
        killed.wait(random.Random(f"{stage} {seed}").uniform(0, 1.5))
    except subprocess.TimeoutExpired:
        os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    check(run, stage, expected, finished)


@pytest.mark.heavy
@pytest.mark.parametrize("stage", [*STAGES, "train"])
def test_a_job_told_to_stop_fails_and_is_continued(run, finished, expected, tmp_path, stage):
    shutil.rmtree(run.folder / "results" / stage)
    stopped = snakemake(run, tmp_path, f"{stage}_all", kill=f"{stage} term 2")
    assert stopped.wait() == 1
    console = (run.folder / "killed.txt").read_text()
    assert "terminated by SIGTERM: the same command goes on from here" in console
    assert "Traceback" not in console
    notes = [*(run.folder / "results" / stage).rglob("attempts.jsonl")]
    ends = [json.loads(file.read_text().splitlines()[-1]) for file in notes]
    assert "terminated by SIGTERM" in {end.get("outcome") for end in ends}
    check(run, stage, expected, finished)


def test_predictions_cut_again_and_again_end_by_their_retries(run, finished, expected, tmp_path):
    """As on a cluster whose time limit is a third of what a job takes: nobody calls twice."""
    stage = "predict"
    shutil.rmtree(run.folder / "results" / stage)
    shutil.rmtree(run.folder / "results" / "logs" / stage)
    cut = snakemake(run, tmp_path, "predict_all", "--retries", "8", kill="predict term 3")
    assert cut.wait() == 0, (run.folder / "killed.txt").read_text()
    lots = sorted((run.folder / "results/logs/predict").rglob("*.attempts.jsonl"))
    assert len(lots) == 2
    for file in lots:
        ends = [n for n in map(json.loads, file.read_text().splitlines()) if n["event"] == "end"]
        *others, last = (end["outcome"] for end in ends)
        assert last == "done"
        assert len(others) >= 1
        assert {*others} == {"terminated by SIGTERM"}
    check(run, stage, expected, finished)


def wait_until(condition, *processes):
    """Wait for something that another process does; fail if one of these ends before."""
    while not condition():
        assert [p.poll() for p in processes] == [None] * len(processes)
        time.sleep(0.01)


@pytest.mark.heavy
@pytest.mark.parametrize("stage", [*STAGES, "train"])
def test_a_job_that_outlives_snakemake_is_waited_for(run, finished, expected, tmp_path, stage):
    """As on a cluster, where a killed Snakemake leaves its jobs running."""
    shutil.rmtree(run.folder / "results" / stage)
    killed = snakemake(run, tmp_path, f"{stage}_all", kill=f"{stage} orphan 2")
    wait_until((run.folder / "orphan").exists, killed)
    killed.kill()
    killed.wait()
    second = snakemake(run, tmp_path, f"{stage}_all")
    logs = run.folder / "results" / "logs" / stage
    wait_until(lambda: any("waiting for" in log.read_text() for log in logs.rglob("*.log")), second)
    (run.folder / "go").touch()
    assert second.wait() == 0
    check(run, stage, expected, finished)


@pytest.mark.heavy
@pytest.mark.parametrize("stage", [*STAGES, "train"])
@pytest.mark.parametrize("seed", range(3))
def test_a_byte_spoilt_after_a_kill_is_found(run, expected, tmp_path, stage, seed):
    shutil.rmtree(run.folder / "results" / stage)
    killed = snakemake(run, tmp_path, f"{stage}_all", kill=f"{stage} commit 1")
    assert killed.wait() == -signal.SIGKILL
    draw = random.Random(f"{stage} {seed}")
    store = next(p.parent for p in (run.folder / "results" / stage).rglob(".gigaseg"))
    name = store.name.split(".")[0]
    files = sorted(p for p in store.parent.glob(f"{name}*/**/*") if p.is_file())
    files += sorted(p for p in store.parent.iterdir() if p.is_file())  # tables
    path = draw.choice([p for p in files if p.name not in ("lease.json", "attempts.jsonl")])
    text = bytearray(path.read_bytes())
    text[draw.randrange(len(text))] ^= 1 << draw.randrange(8)
    path.write_bytes(text)
    done = run.snakemake(f"{stage}_all")
    assert done.returncode == 0, done.stdout
    found = content(run)
    assert [name for name in expected if found.get(name) != expected[name]] == [], path


@pytest.mark.heavy
def test_a_whole_run_killed_again_and_again_ends_the_same(run, expected, tmp_path):
    """Nothing but the raw files is there at first."""
    shutil.rmtree(run.folder / "results")
    shutil.rmtree(run.folder / ".snakemake")
    draw = random.Random(0)
    for _ in range(8):
        killed = snakemake(run, tmp_path, "all")
        try:
            killed.wait(draw.uniform(8, 20))
        except subprocess.TimeoutExpired:
            os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    done = run.snakemake()
    assert done.returncode == 0, done.stdout
    found = content(run)
    changed = {name for name in expected if found.get(name) != expected[name]}
    assert changed <= {"report/report.html"}  # it tells how long everything took
    assert found.keys() == expected.keys()
