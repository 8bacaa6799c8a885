import errno
import fcntl
import os

import pytest
from gigaseg import lock


def test_a_second_run_is_refused_and_told_who_works(tmp_path):
    held = lock.hold(tmp_path / "results")
    with pytest.raises(BlockingIOError, match=f"another run.*process {os.getpid()} on "):
        lock.hold(tmp_path / "results")
    os.close(held)
    os.close(lock.hold(tmp_path / "results"))


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match=r"does not lock files \(No locks available\)"):
        lock.hold(tmp_path)
