"""Jobs that fail: what is tried again, and what a run says of them at its end."""

import json
import os

STAGE = "../checkout/workflow/gigaseg/stages/convert.py"
BEFORE = "    how = How(settings["
# One lot cannot be converted by anybody, the other one is lost to the machine.
TROUBLE = """\
    if settings["lot"] == "cells-0000":
        raise KeyError("depth")
    __import__("os").kill(__import__("os").getpid(), 9)
"""


def noted(run, lot):
    path = run.folder / f"results/logs/convert/{lot}.attempts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def events(lines):
    return [line["event"] for line in lines]


def test_what_cannot_end_otherwise_is_not_retried_and_each_failure_is_a_line(fresh, monkeypatch):
    fresh.edit(STAGE, BEFORE, TROUBLE + BEFORE)
    failed = fresh.snakemake("--retries", "2", "convert_all")
    assert failed.returncode == 1

    lasting = noted(fresh, "cells-0000")
    assert events(lasting) == ["start", "end"]
    assert lasting[1]["outcome"] == "KeyError: 'depth'"
    assert failed.stdout.count("convert cells-0000 failed: KeyError: 'depth'") == 3
    assert failed.stdout.count("so it was not tried again") == 2
    assert "Traceback" in (fresh.folder / "results/logs/convert/cells-0000.log").read_text()

    lost = noted(fresh, "cells-0001")
    assert events(lost) == ["start"] * 3
    assert len({line["run"] for line in [*lasting, *lost]}) == 1
    last = failed.stdout.split("Exiting because a job execution failed")[1].splitlines()
    told = sorted(line for line in last if line.startswith("convert "))
    logs = "results/logs/convert/cells-000"
    assert told[0] == f"convert cells-0000: KeyError: 'depth'; its log is {logs}0.log"
    assert told[1].startswith(
        f"convert cells-0001: killed without a word on {os.uname().nodename}, last heard of after"
    )
    assert told[1].endswith(
        f": out of memory, or the machine was lost (3 attempts); its log is {logs}1.log"
    )
    assert "    input: " not in failed.stdout

    # Whoever calls again wants it tried, even from within a job of the run before.
    monkeypatch.setenv("GIGASEG_RUN", lost[0]["run"])
    assert fresh.snakemake("convert_all").returncode == 1
    assert events(noted(fresh, "cells-0000")[2:]) == ["start", "end"]
    fresh.edit(STAGE, TROUBLE, "")
    assert fresh.snakemake("convert_all").returncode == 0
    for lot in ("cells-0000", "cells-0001"):
        assert noted(fresh, lot)[-1]["outcome"] == "done"


def test_the_console_is_plain_and_says_nothing_of_selecting_jobs(finished):
    console = (finished.folder / "console.txt").read_bytes()
    assert b"\r" not in console
    assert b"Convert cells-0000" in console
    assert b"Select jobs" not in console
    assert b"\nExecute " not in console
