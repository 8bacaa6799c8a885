import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gigaseg import lock
from gigaseg.disk import DiskError

WORKFLOW = Path(__file__).parents[2] / "workflow"


def test_a_second_run_is_refused_and_told_who_works(tmp_path):
    held = lock.hold(tmp_path / "results")
    with pytest.raises(BlockingIOError, match=f"another run.*process {os.getpid()} on "):
        lock.hold(tmp_path / "results")
    os.close(held)
    os.close(lock.hold(tmp_path / "results"))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match=rf"does not lock files \({os.strerror(number)}\)"):
        lock.hold(tmp_path)


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(DiskError, match="results cannot be written"):
        lock.hold(tmp_path / "results")


def test_the_lock_of_a_killed_process_is_gone(tmp_path):
    code = "import pathlib, sys, time; from gigaseg import lock; "
    code += "lock.hold(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(600)"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path],
        env={"PYTHONPATH": str(WORKFLOW)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder, holder.stdout:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match=f"process {holder.pid} on "):
            lock.hold(tmp_path)
        holder.kill()
    os.close(lock.hold(tmp_path))
