"""How jobs ended, told from what they noted; asked of real processes where they die."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gigaseg.attempts import RUN, Attempt, identify, name_run, tell
from gigaseg.disk import DiskError

WORKFLOW = Path(__file__).parents[2] / "workflow"
HERE = os.uname().nodename


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.setenv(RUN, "this-run")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    path = tmp_path / "logs" / "a.b-0000.log"
    path.parent.mkdir()
    path.write_text("")
    return path


def attempt(log, told="told"):
    made = Attempt(log, "predict cells-0000", told)
    made.begin()
    return made


def lines(log):
    text = log.with_name("a.b-0000.attempts.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


# --------------------------------------------------------------------------------------- hopeless


def test_a_retry_of_the_same_is_hopeless_after_a_lasting_error(log):
    assert Attempt(log, "a", "told").hopeless() is None
    attempt(log).end("tile 570 px does not fit", lasting=True, trace="Traceback ...")
    assert Attempt(log, "a", "told").hopeless() == ("tile 570 px does not fit", "Traceback ...")


def test_another_run_tries_again(log, monkeypatch):
    attempt(log).end("tile 570 px does not fit", lasting=True)
    monkeypatch.setenv(RUN, "the-next-run")
    assert Attempt(log, "a", "told").hopeless() is None


def test_without_a_run_to_belong_to_nothing_is_hopeless(log, monkeypatch):
    monkeypatch.delenv(RUN)
    attempt(log).end("tile 570 px does not fit", lasting=True)
    assert Attempt(log, "a", "told").hopeless() is None


def test_other_settings_or_inputs_may_end_otherwise(log):
    attempt(log).end("no such model", lasting=True)
    assert Attempt(log, "a", "told otherwise").hopeless() is None


@pytest.mark.parametrize("outcome", ["terminated by SIGTERM", "done"])
def test_what_a_retry_can_mend_is_not_hopeless(log, outcome):
    attempt(log).end(outcome)
    attempt(log)  # killed
    assert Attempt(log, "a", "told").hopeless() is None


def test_a_torn_line_is_nobodys(log):
    attempt(log).end("bad", lasting=True)
    path = log.with_name("a.b-0000.attempts.jsonl")
    path.write_bytes(path.read_bytes()[:-30])
    assert Attempt(log, "a", "told").hopeless() is None


def test_jobs_are_told_apart_by_params_and_by_files(tmp_path):
    file = tmp_path / "model.json"
    missing = identify(["tile: 570"], [file])
    file.write_text("{}")
    there = identify(["tile: 570"], [file])
    os.utime(file, ns=(1, 1))
    touched = identify(["tile: 570"], [str(file)])
    other = identify(["tile: 572"], [file])
    assert len({missing, there, touched, other}) == 4
    assert identify(["tile: 570"], [file]) == touched


def test_every_run_has_a_name_of_its_own(monkeypatch):
    monkeypatch.setenv(RUN, "inherited")
    names = ["inherited"]
    for _ in range(2):
        name_run()
        names.append(os.environ[RUN])
    assert len(set(names)) == 3


# ------------------------------------------------------------------------------------------- tell


def test_an_error_is_told_with_its_log(log):
    attempt(log).end("2 samples failed:\n  - a\n  - b", lasting=True)
    told = tell(log, "", "this-run")
    assert told == f"predict cells-0000: 2 samples failed; its log is {log}"


def test_the_last_of_several_attempts_is_told_with_host_and_time(log):
    attempt(log)
    made = attempt(log)
    made._start -= 3700
    made.end("terminated by SIGTERM")
    told = tell(log, "", "this-run")
    expected = f"terminated by SIGTERM, on {HERE} after 1 h 1 min (2 attempts); its log is {log}"
    assert told == f"predict cells-0000: {expected}"


def test_who_noted_no_end_was_killed(log):
    attempt(log).end("terminated by SIGTERM")
    attempt(log)
    start = lines(log)[-1]["time"]
    os.utime(log, (start + 90, start + 90))
    assert tell(log, "", "this-run") == (
        f"predict cells-0000: killed without a word on {HERE}, last heard of after 1 min 30 s: out "
        f"of memory, or the machine was lost (2 attempts); its log is {log}"
    )


@pytest.mark.parametrize(
    ("variables", "number"),
    [
        ({"SLURM_JOB_ID": "17"}, "17"),
        (
            {"SLURM_JOB_ID": "18", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "2"},
            "17_2",
        ),
    ],
)
def test_on_slurm_its_number_and_its_log_there_are_told_too(
    log, tmp_path, monkeypatch, variables, number
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    attempt(log)
    there = tmp_path / "slurm_logs" / "rule_predict" / "cells-0000" / f"{number}.log"
    there.parent.mkdir(parents=True)
    there.write_text("")
    there.with_name("170.log").write_text("")
    told = tell(log, "", "this-run", tmp_path / "slurm_logs")
    assert f"; `sacct -j {number}` may say; " in told
    assert told.endswith(f"its log is {log} and {there}")


def test_attempts_of_other_runs_are_not_told(log):
    attempt(log).end("bad")
    assert tell(log, "predict cells-0000", "the-next-run") == (
        f"predict cells-0000: no attempt got as far as its log; its log is {log}"
    )
    log.unlink()
    assert tell(log, "split a", "the-next-run").endswith("; it has no log")


def test_a_good_end_of_a_failed_job_is_told_as_such(log):
    attempt(log).end("done")
    assert "ended well, but what it was to make is not there" in tell(log, "", "this-run")


def test_only_the_first_end_counts(log):
    made = attempt(log)
    made.end("terminated by SIGTERM")
    made.end("done")
    assert [line["event"] for line in lines(log)] == ["start", "end"]


def test_an_end_that_cannot_be_noted_is_a_warning(log, monkeypatch, caplog):
    made = attempt(log)

    def full(*_):
        raise DiskError("no room")

    monkeypatch.setattr("gigaseg.attempts.append_line", full)
    made.end("bad")
    assert "the end of predict cells-0000 is not noted: no room" in caplog.text


# ---------------------------------------------------------------------------- as the log's business


@pytest.fixture
def job(log):
    """Run statements as a job's script does; return exit code, stderr and noted lines."""

    def run(*statements: str, params=("a",)):
        code = ["import logging, os, signal, sys", "from gigaseg import logs"]
        code += [f"logs.start({str(log)!r}, 'split a', {params!r}, [])", *statements]
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(code)],
            env={"PYTHONPATH": str(WORKFLOW), RUN: "this-run"},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stderr, lines(log)

    return run


def test_a_job_that_ends_well_says_so(job):
    code, shown, (start, end) = job("print('worked')")
    assert (code, shown) == (0, "")
    assert (start["event"], end["event"], end["outcome"]) == ("start", "end", "done")
    assert start["attempt"] == end["attempt"]


@pytest.mark.parametrize(
    ("error", "lasting"),
    [
        ("ValueError('tile 570 px does not fit')", True),
        ("FileNotFoundError(2, 'No such file', 'model.json')", False),  # perhaps on this node only
        ("KeyError('depth')", True),
        ("FloatingPointError('the loss is nan')", True),
        ("OSError(28, 'No space left on device')", False),
        ("PermissionError(13, 'Permission denied')", False),
        ("ConnectionError('no Dask scheduler answers')", False),
        ("TimeoutError('slow')", False),
        ("MemoryError()", False),
        ("RuntimeError('CUDA out of memory')", False),
        ("ModuleNotFoundError('torch')", False),
    ],
)
def test_an_error_is_tried_again_if_another_attempt_may_mend_it(job, log, error, lasting):
    code, shown, noted = job(f"raise {error}")
    assert code == 1
    assert bool(noted[-1].get("lasting")) == lasting
    log.unlink()  # as Snakemake does
    again, shown_again, noted_again = job("print('tried', file=sys.stderr)")
    if not lasting:
        assert "tried" in shown_again
        assert again == 0
        return
    assert again == 1
    message, refusal, where = shown_again.splitlines()
    assert [message, where] == shown.splitlines()
    assert refusal == "Settings, code and inputs are as before, so it was not tried again."
    assert noted_again == noted
    text = log.read_text()
    assert "Traceback (most recent call last)" in text
    assert refusal in text


def test_a_repaired_job_is_tried_again(job):
    job("raise ValueError('tile 570 px does not fit')")
    code, shown, _ = job("print('tried', file=sys.stderr)", params=("b",))
    assert (code, shown) == (0, "tried\n")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_job_that_is_told_to_stop_notes_it(job, log, name):
    code, _, noted = job(f"os.kill(os.getpid(), signal.{name})", "signal.pause()", "signal.pause()")
    assert code > 128
    assert noted[-1]["outcome"] == f"terminated by {name}"
    assert f"terminated by {name}, on {HERE} after " in tell(log, "", "this-run")


def test_a_killed_job_notes_no_end(job, log):
    code, _, noted = job("os.kill(os.getpid(), signal.SIGKILL)")
    assert code < 0
    assert [line["event"] for line in noted] == ["start"]
    assert "killed without a word" in tell(log, "", "this-run")
