import logging
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from gigaseg.logs import describe, shorten

WORKFLOW = Path(__file__).parents[2] / "workflow"


@pytest.fixture
def job(tmp_path):
    """Run statements as a job's script does; return its exit code, stderr and log."""

    def run(*statements: str):
        log = tmp_path / "logs" / "job.log"
        lines = ["import logging, warnings", "from gigaseg import logs"]
        lines += [f"logs.start({str(log)!r}, 'convert 100%-0000')", *statements]
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(lines)],
            env={"PYTHONPATH": str(WORKFLOW)},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stderr, log.read_text()

    return run


def test_the_file_has_everything_and_the_console_the_essence(job):
    code, shown, log = job(
        "logging.getLogger('gigaseg.stages').info('reading')",
        "logging.getLogger('gigaseg.stages').warning('empty %s', 'labels')",
        "logging.getLogger('lightning').warning('a hint')",
        "warnings.warn('old style')",
    )
    assert code == 0
    assert shown == "convert 100%-0000: empty labels\n"
    for text in ("INFO gigaseg.stages: reading", "empty labels", "a hint", "old style"):
        assert text in log


def test_the_log_begins_with_the_place(job):
    _, _, log = job("raise SystemExit")
    assert f"INFO gigaseg.logs: convert 100%-0000 on {socket.gethostname()}\n" in log


def test_two_jobs_that_write_one_log_leave_no_holes(job):
    _, _, log = job(
        "logging.getLogger('gigaseg.stages').info('early')",
        "root = logging.getLogger()",
        "first = root.handlers[-1]",
        "logs.start(first.baseFilename, 'convert 100%-0000')",
        "root.addHandler(first)",
        "logging.getLogger('gigaseg.stages').info('late')",
    )
    assert "\0" not in log
    assert "early" not in log
    assert log.count("INFO gigaseg.stages: late\n") == 2


def test_how_far_the_work_is_is_the_essence_too(job):
    _, shown, log = job(
        "from gigaseg.pace import Pace",
        "now = iter([0, 20])",
        "Pace('a', 4, 'blocks', clock=lambda: next(now)).advance()",
        "logging.getLogger('gigaseg.pacemaker').info('not this')",
    )
    assert shown == "convert 100%-0000: a: 1 of 4 blocks, 0.05 blocks/s, 1 min 0 s left\n"
    assert "INFO gigaseg.pace: a: 1 of 4 blocks" in log


def record(text, **more):
    return logging.makeLogRecord({"msg": text, **more})


@pytest.mark.parametrize("text", ["Select jobs to execute...", "Execute 2 jobs..."])
def test_snakemake_is_spared_what_says_nothing(text):
    assert not shorten(record(text))
    assert shorten(record("Finished jobid: 3 (Rule: convert)"))


def test_of_an_error_snakemake_lists_no_files():
    error = record(None, event="job_error", input=["a"] * 1000, output=["b"], log=["c.log"])
    assert shorten(error)
    assert (error.input, error.output, error.log) == ((), (), ["c.log"])
    begun = record(None, event="job_info", input=["a"], output=["b"])
    assert shorten(begun)
    assert (begun.input, begun.output) == (["a"], ["b"])


def test_an_error_is_one_message_and_the_path_of_the_log(job):
    code, shown, log = job("raise ValueError('tile 570 px does not fit')")
    assert code == 1
    first, second = shown.splitlines()
    assert first == "convert 100%-0000 failed: tile 570 px does not fit"
    assert second.startswith("The log is ")
    assert second.endswith("job.log")
    assert "Traceback" in log
    assert "ValueError: tile 570 px does not fit" in log


def test_a_script_is_named_by_rule_and_wildcards(tmp_path):
    log = tmp_path / "job.log"
    code = (
        "from types import SimpleNamespace",
        "from gigaseg import logs",
        f"logs.start_script(SimpleNamespace(log=[{str(log)!r}], rule='train', wildcards=['a', '0'],"
        " params=['{}'], input=[]))",
        "raise ValueError('no sample is left')",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        env={"PYTHONPATH": str(WORKFLOW)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == f"train a 0 failed: no sample is left\nThe log is {log}\n"


def test_an_interruption_stays_one(job):
    code, shown, _ = job("raise KeyboardInterrupt")
    assert code != 0
    assert "failed" not in shown


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("too many ids"), "too many ids"),
        (FileNotFoundError(2, "No such file", "a.tif"), "[Errno 2] No such file: 'a.tif'"),
        (KeyError("depth"), "KeyError: 'depth'"),
        (MemoryError(), "MemoryError"),
        (ValueError(), "ValueError"),
    ],
)
def test_an_error_is_described_for_people(error, text):
    assert describe(error) == text
