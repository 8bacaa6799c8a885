import socket
import subprocess
import sys
from pathlib import Path

import pytest
from gigaseg.logs import describe

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


def test_an_error_is_one_message_and_the_path_of_the_log(job):
    code, shown, log = job("raise ValueError('tile 570 px does not fit')")
    assert code == 1
    first, second = shown.splitlines()
    assert first == "convert 100%-0000 failed: tile 570 px does not fit"
    assert second.startswith("The log is ")
    assert second.endswith("job.log")
    assert "Traceback" in log
    assert "ValueError: tile 570 px does not fit" in log


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
