"""What a job does when it is told to stop, asked of real processes."""

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from gigaseg.ledger import BlockLedger, Construction, read_attempts

WORKFLOW = Path(__file__).parents[2] / "workflow"

# Two blocks are finished, then each worker is in compiled code for minutes, as in a kernel or a
# network; with `busy`, so is the main thread.
JOB = textwrap.dedent("""
    import hashlib, sys, threading
    from pathlib import Path
    import numpy as np
    from gigaseg import logs
    from gigaseg.blockwise import map_blocks
    from gigaseg.ledger import Construction

    folder, busy = Path(sys.argv[1]), sys.argv[2] == "busy"
    calls, barrier = [], threading.Barrier(2, timeout=60)

    def compute(data, inner):
        calls.append(1)
        if len(calls) > 2:
            barrier.wait()
            print("ready", flush=True)
            hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)
        return data

    logs.start(folder / "logs/job.log", "convert cells-0000")
    with Construction(folder / "s", {"code": "1"}) as work:
        ledger = work.ledger("0")
        volume = np.ones((1, 1, 8))

        def run():
            map_blocks(compute, [volume], [volume.copy()], block=(1, 1, 1),
                       ledger=ledger, workers=2)

        if busy:
            threading.Thread(target=run, daemon=True).start()
            hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)
        run()
""")


@pytest.mark.parametrize("busy", ["busy", "idle"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_is_told_to_stop_ends_soon_and_in_order(tmp_path, number, busy):
    job = subprocess.Popen(
        [sys.executable, "-c", JOB, tmp_path, busy],
        env={"PYTHONPATH": str(WORKFLOW)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert job.stdout.readline() == "ready\n"
    job.send_signal(number)
    _, shown = job.communicate(timeout=10)
    outcome = f"terminated by {number.name}"
    assert job.returncode == 128 + number
    assert shown.splitlines()[-1] == (
        f"convert cells-0000 {outcome}: the same command goes on from here"
    )
    assert "Traceback" not in shown
    assert outcome in (tmp_path / "logs/job.log").read_text()
    start, end = read_attempts(tmp_path / "s")
    assert (start["event"], end["event"]) == ("start", "end")
    assert (end["outcome"], end["blocks"], end["voxels"]) == (outcome, 2, 2)
    books = tmp_path / "s/.gigaseg"
    assert not (books / "lease.json").exists()
    assert len(BlockLedger(books / "ledger", "0").done) == 2
    for file in books.glob("ledger/*"):
        assert [json.loads(line) for line in file.read_text().splitlines()]
    with Construction(tmp_path / "s", {"code": "1"}) as work:
        assert work.resumed


def test_a_job_waiting_for_a_lease_ends_too(tmp_path):
    code = "\n".join(
        (
            "import sys",
            "from pathlib import Path",
            "from gigaseg import logs",
            "from gigaseg.ledger import Construction",
            "logs.start(Path(sys.argv[1]) / 'job.log', 'split a')",
            "print('ready', flush=True)",
            "Construction(Path(sys.argv[1]) / 's', {}).__enter__()",
        )
    )
    with Construction(tmp_path / "s", {}):
        job = subprocess.Popen(
            [sys.executable, "-c", code, tmp_path],
            env={"PYTHONPATH": str(WORKFLOW)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert job.stdout.readline() == "ready\n"
        job.send_signal(signal.SIGTERM)
        job.communicate(timeout=10)
        assert job.returncode == 128 + signal.SIGTERM
        assert (tmp_path / "s/.gigaseg/lease.json").exists()
        assert not [*tmp_path.glob("s/.gigaseg/lease.json.*")]
    assert [line["event"] for line in read_attempts(tmp_path / "s")] == ["start", "end"]
