"""One prediction by several jobs: what is planned, and what a killed one leaves to the others."""

import json

import pytest

LOT = "results/predict/tiny/fold-0/cells-0001.json"
BLOCKS = 8  # two samples of 96 x 96 px in blocks of 64 px

# Ends the process of one part without notice, as soon as it has finished a block.
MURDER = """

import os
import signal

from ..ledger import BlockLedger

_run, _record = run, BlockLedger.record


def _die(*arguments):
    _record(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)


def run(*, part, **others):
    if str(part[0]) == os.environ.get("DOOMED_PART"):
        BlockLedger.record = _die
    _run(part=part, **others)
"""


def divide(run, parts, before="device: cpu}\ninstances"):
    after = f"device: cpu, jobs_per_sample: {parts}}}\ninstances"
    run.edit("tiny.yaml", before, after)
    return after


def recorded(run):
    """List the blocks in the ledgers of the lot, once for each time they were done."""
    folder = run.folder / "results/predict/tiny/fold-0/cells"
    return [
        (ledger.parents[2].name, json.loads(line)["block"])
        for sample in "cd"
        for ledger in folder.glob(f"{sample}.ome.zarr/.gigaseg/ledger/*")
        for line in ledger.read_text().splitlines()
    ]


def digests(run):
    return [entry["digest"] for entry in json.loads((run.folder / LOT).read_text())["samples"]]


def test_every_lot_is_opened_filled_by_parts_and_committed(run):
    divide(run, 3)
    assert run.pending("predict_all") == {
        "predict_open": 2,
        "predict_part": 6,
        "predict": 2,
        "predict_all": 1,
    }


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_three_parts_of_which_one_is_killed_then_four(run, monkeypatch):
    before = digests(run)
    part = run.checkout / "workflow" / "gigaseg" / "stages" / "predict_part.py"
    part.write_text(part.read_text() + MURDER)
    # New code for predict, so that it begins again.
    predict = part.with_name("predict.py")
    predict.write_text(predict.read_text() + "\n_EDITED = 1\n")
    at_once = ("--cores", "3", "--resources", "gpu=3", "--set-threads", "predict_part=1")

    written = divide(run, 3)
    monkeypatch.setenv("DOOMED_PART", "2")
    killed = run.snakemake(LOT, *at_once)
    assert killed.returncode != 0
    finished = sorted(path.stem for path in run.folder.glob("results/predict_part/**/*.json"))
    assert finished == ["1-of-3", "3-of-3"]
    half = recorded(run)
    assert len({*half}) == len(half) < BLOCKS

    divide(run, 4, before=written)
    monkeypatch.delenv("DOOMED_PART")
    done = run.snakemake(LOT, *at_once)
    assert done.returncode == 0, done.stdout
    assert "predict_open" not in done.stdout
    assert len({*recorded(run)}) == len(recorded(run)) == BLOCKS  # none was done twice
    assert digests(run) == before
    assert run.pending(LOT) == {}
