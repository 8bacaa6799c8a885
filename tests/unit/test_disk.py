"""Full disks and folders that cannot be written: one clear error, and the work goes on later."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from gigaseg import disk
from gigaseg.disk import DiskError, blame, settle, telling, writing
from gigaseg.ledger import Construction, read_attempts
from gigaseg.manifests import read_manifest, write_atomically

WORKFLOW = Path(__file__).parents[2] / "workflow"


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (OSError(errno.ENOSPC, "x"), r"No space left on device, [\d.]+ MB of .* free\): make room"),
        (RuntimeError("No space left on device (os error 28)"), "No space left .* make room"),
        (OSError(errno.EDQUOT, "x"), "your quota is used up"),
        (PermissionError(errno.EACCES, "x"), "Permission denied.*another folder with --config"),
        (OSError(errno.EROFS, "x"), "Read-only file system.*make it writable"),
        (RuntimeError("codec: Input/output error (os error 5)"), "repair the folder or the disk"),
        (FileNotFoundError(errno.ENOENT, "x"), "No such file or directory"),
    ],
)
def test_errors_of_the_disk_say_where_why_and_what_to_do(tmp_path, problem, message):
    path = tmp_path / "new" / "a.zarr"
    with (
        pytest.raises(DiskError, match=rf"{path} cannot be written \(.*{message}") as e,
        writing(path),
    ):
        raise problem
    assert "run the same command again: what is finished stays" in str(e.value)
    assert e.value.errno
    assert not isinstance(e.value, FileNotFoundError | ValueError)  # faults of a sample


@pytest.mark.parametrize("problem", [RuntimeError("no"), OSError("no"), ValueError("no")])
def test_other_errors_stay_what_they_are(tmp_path, problem):
    with pytest.raises(type(problem)) as caught, writing(tmp_path):
        raise problem
    assert caught.value is problem
    assert blame(tmp_path, problem) is None
    with pytest.raises(type(problem)) as caught, telling(tmp_path):
        raise problem
    assert caught.value is problem


def test_an_error_is_explained_once(tmp_path):
    with (
        pytest.raises(DiskError, match="inner cannot be written"),
        writing(tmp_path / "outer"),
        writing(tmp_path / "inner"),
    ):
        raise OSError(errno.ENOSPC, "x")


def test_a_file_that_another_process_takes_back_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "kept").touch()
    synced = []
    monkeypatch.setattr(Path, "rglob", lambda folder, _: [folder / "gone", folder / "kept"])
    monkeypatch.setattr(disk.os, "fsync", synced.append)
    settle(tmp_path)
    assert len(synced) == 2  # the file that is there, and the folder


def test_a_disk_without_room_for_names_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(disk.os, "statvfs", lambda _: os.statvfs_result([1] * 5 + [9, 0, 0, 1, 1]))
    with pytest.raises(DiskError, match="no files can be added"), writing(tmp_path):
        raise OSError(errno.ENOSPC, "x")


def test_a_file_in_the_way_is_an_error_of_the_disk(tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(DiskError, match=r"cannot be written \((Not a directory|File exists)\)"):
        write_atomically(tmp_path / "results" / "a.json", "{}")
    with pytest.raises(DiskError, match=r"cannot be written \((Not a directory|File exists)\)"):
        Construction(tmp_path / "results" / "s", {}).__enter__()


# A lot of two samples of nine blocks of noise each, as a stage would make it.
JOB = textwrap.dedent("""
    import resource, sys
    from pathlib import Path
    import numpy as np
    from gigaseg import logs
    from gigaseg.blockwise import map_blocks
    from gigaseg.ledger import Construction
    from gigaseg.stages import run_lot
    from gigaseg.volumes import commit_arrays, create_array

    folder, largest = Path(sys.argv[1]), int(sys.argv[2])
    source = np.random.default_rng(0).integers(0, 255, (1, 300, 300), np.uint8)

    def work(row):
        store = folder / f"{row['sample']}.zarr"
        with Construction(store, {"code": "1"}) as construction:
            if not construction.committed:
                target = create_array(store, "0", source.shape, "u1",
                                      storage={"chunk": 50, "shard": 100})
                ledger = construction.ledger("0")
                map_blocks(lambda data, inner: data, [source], [target], block=(1, 100, 100),
                           ledger=ledger)
                commit_arrays(store, {})
        return {"store": store, "fingerprint": "f"}

    logs.start(folder / "logs/job.log", "convert d-0000")
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    rows = [{"sample": s, "dataset": "d", "split": "test"} for s in "ab"]
    run_lot("convert", folder / "lot.json", {"lot": "d-0000"}, rows, work, code="c")
""")


def job(folder, largest=0):
    command = [sys.executable, "-c", JOB, folder, largest]
    return subprocess.run(
        [str(word) for word in command],
        env={"PYTHONPATH": str(WORKFLOW)},
        capture_output=True,
        text=True,
    )


def check_message(shown, reason):
    first, second = shown.splitlines()[-2:]
    assert first.startswith("convert d-0000 failed: ")
    assert f"cannot be written ({reason}" in first
    assert "run the same command again: what is finished stays" in first
    assert second.startswith("The log is ")
    assert "Traceback" not in shown


def test_a_write_that_fails_stops_the_job_and_the_next_one_goes_on(tmp_path):
    failed = job(tmp_path, largest=9000)  # less than a shard
    assert failed.returncode == 1
    check_message(failed.stderr, "File too large)")
    assert not (tmp_path / "lot.json").exists()
    assert "File too large" in read_attempts(tmp_path / "a.zarr")[-1]["outcome"]
    assert job(tmp_path).returncode == 0
    statuses = [entry["status"] for entry in read_manifest(tmp_path / "lot.json")["samples"]]
    assert statuses == ["done", "done"]


FULL = """
mount -t tmpfs -o size=200k none {folder} || exit 77
{job}
echo "code $?"
ls {folder} >&2
mount -o remount,ro {folder}
{job}
echo "code $?"
mount -o remount,rw,size=20m {folder}
{job}
echo "code $?"
cp -a {folder}/. {copy}
"""


def test_a_full_and_a_read_only_disk(tmp_path):
    """Both samples need 190 kB; the rest is for the books."""
    folder, copy = tmp_path / "disk", tmp_path / "copy"
    for made in (folder, copy):
        made.mkdir()
    (tmp_path / "job.py").write_text(JOB)
    command = FULL.format(
        folder=folder, copy=copy, job=f"{sys.executable} {tmp_path / 'job.py'} {folder} 0"
    )
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", command],
        env={"PYTHONPATH": str(WORKFLOW), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    if "code" not in done.stdout:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    assert done.stdout.split() == ["code", "1", "code", "1", "code", "0"], done.stderr
    full, read_only = done.stderr.split("b.zarr\n")
    assert "No space left on device, 0.0 MB of 0.0 GB are free): make room" in full
    assert "Traceback" not in done.stderr
    check_message(read_only, "Read-only file system)")
    assert read_manifest(copy / "lot.json")["samples"][0]["status"] == "done"
    events = [line for name in "ab" for line in read_attempts(copy / f"{name}.zarr")]
    assert sum(line["blocks"] for line in events if line["event"] == "end") <= 18
    recorded = [*copy.glob("?.zarr/.gigaseg/ledger/*.jsonl")]
    assert sum(len(file.read_text().splitlines()) for file in recorded) == 18
