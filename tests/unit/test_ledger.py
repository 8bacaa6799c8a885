"""Fingerprints, manifests, ledgers, leases, stores under construction, and lots."""

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from gigaseg import lease as leases
from gigaseg import ledger as ledgers
from gigaseg.fingerprints import SMALL_FILE
from gigaseg.lease import Lease
from gigaseg.ledger import (
    BlockLedger,
    Construction,
    canonical_json,
    digest,
    file_identity,
    fingerprint,
)
from gigaseg.manifests import read_manifest, write_atomically, write_manifest
from gigaseg.stages import read_entries, run_lot


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),  # key order
        (3, 3.0),  # whole floats
        ([1, 2], (1, 2)),  # tuples
        ({"image": Path("a/b")}, {"image": "a/b"}),  # paths
        ({1: "x"}, {"1": "x"}),  # keys that are no strings
    ],
)
def test_equal_values_share_one_text(one, other):
    assert canonical_json(one) == canonical_json(other)
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 1.5), ([1, 2], [2, 1]), ({"a": 1, "b": 2}, {"a": 2, "b": 1}), (True, "true"), (0, None)],
)
def test_different_values_differ(one, other):
    assert digest(one) != digest(other)


def test_canonical_json_keeps_booleans_and_numbers_of_other_libraries():
    numpy = pytest.importorskip("numpy")
    assert canonical_json([True, numpy.float32(0.5), numpy.int64(3)]) == "[true,0.5,3]"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_json_does_not_know_are_refused(value):
    with pytest.raises(ValueError, match=r"Out of range float|not JSON compliant"):
        canonical_json({"score": value})


def test_objects_json_does_not_know_are_refused():
    with pytest.raises(TypeError, match="cannot write a set as JSON"):
        canonical_json({1, 2})


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "new" / "manifest.json"
    write_atomically(path, "old")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(ledgers.os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, b"new")
    assert [p.name for p in path.parent.iterdir()] == ["manifest.json"]
    assert path.read_text() == "old"


def test_manifests_are_the_same_whatever_the_order(tmp_path):
    write_manifest(tmp_path / "a.json", {"stage": "split", "lot": "x", "samples": []})
    write_manifest(tmp_path / "b.json", {"samples": [], "lot": "x", "stage": "split"})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_manifest(tmp_path / "a.json")["lot"] == "x"


def test_a_broken_manifest_says_what_to_do(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"is not a manifest .* delete it and run again"):
        read_manifest(tmp_path / "a.json")


def test_a_fingerprint_holds_versions():
    made = fingerprint(code="c", settings={"t": 1.0}, inputs={}, libraries=("numpy",))
    assert made["settings"] == {"t": 1}
    assert made["libraries"]["numpy"][0].isdigit()


def test_small_files_are_identified_by_content(tmp_path):
    file = tmp_path / "a.tif"
    file.write_bytes(b"pixels")
    before = file_identity(file)
    os.utime(file, ns=(1, 1))
    assert file_identity(file) == before
    file.write_bytes(b"PIXELS")
    assert file_identity(file) != before


def test_large_files_are_identified_by_time(tmp_path):
    file = tmp_path / "a.tif"
    file.write_bytes(bytes(SMALL_FILE + 1))
    before = file_identity(file)
    os.utime(file, ns=(1, 1))
    assert file_identity(file) != before
    assert "sha256" not in before


def test_series_and_folders_are_identified_by_all_their_files(tmp_path):
    for name in ("a_2.png", "a_1.png", "b.png"):
        (tmp_path / name).write_text(name)
    series = file_identity(tmp_path / "a_*.png")
    assert (series["files"], file_identity(tmp_path)["files"]) == (2, 3)
    (tmp_path / "a_1.png").write_text("other")
    assert file_identity(tmp_path / "a_*.png") != series


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file, folder or series"):
        file_identity(tmp_path / "nothing.tif")


def test_readers_take_the_union_of_all_processes(tmp_path):
    BlockLedger(tmp_path, "0").record("a", "1")
    BlockLedger(tmp_path, "0").record("b")
    BlockLedger(tmp_path, "labels").record("c")
    ledger = BlockLedger(tmp_path, "0")
    assert ledger.done == {"a", "b"}
    assert ledger.checksums == {"a": "1", "b": None}


def test_a_line_cut_off_by_death_is_not_an_entry(tmp_path):
    BlockLedger(tmp_path, "0").record("a")
    (file,) = tmp_path.glob("0.*.jsonl")
    with file.open("a") as stream:
        stream.write('{"block":"b","check')
    assert BlockLedger(tmp_path, "0").done == {"a"}


def test_a_committed_store_has_nothing_to_do(tmp_path):
    store = tmp_path / "a.zarr"
    with Construction(store, {"code": "1"}) as work:
        assert not work.committed
        (store / "zarr.json").write_text("{}")
    with Construction(store, {"code": "1"}) as work:
        assert work.committed


def test_the_mark_of_being_finished_can_be_another_file(tmp_path):
    with Construction(tmp_path / "fold-0", {}, marker="model.json"):
        (tmp_path / "fold-0" / "model.json").write_text("{}")
    with Construction(tmp_path / "fold-0", {}, marker="model.json") as work:
        assert work.committed


def interrupt(store, fingerprint, error):
    """Finish one block, then stop."""

    def begin():
        with Construction(store, fingerprint) as work:
            work.ledger("0").record("a")
            raise error

    with pytest.raises(type(error)):
        begin()


def test_the_same_fingerprint_resumes(tmp_path):
    interrupt(tmp_path / "s", {"code": "1"}, KeyboardInterrupt())
    with Construction(tmp_path / "s", {"code": "1"}) as work:
        assert work.resumed
        assert work.ledger("0").done == {"a"}


def test_another_fingerprint_wipes_once_and_says_why(tmp_path, caplog):
    store = tmp_path / "s"
    old = {"code": "1", "settings": {"tile": 572, "batch": 1}}
    new = {"code": "1", "settings": {"tile": 700, "batch": 1}}
    with Construction(store, old) as work:
        work.ledger("0").record("a")
        (store / "0").mkdir()
        (store / "0" / "shard").write_text("values")
        (store / "zarr.json").write_text("{}")
    with Construction(store, new) as work:
        assert not work.committed
        assert work.ledger("0").done == set()
    assert "begun again: settings (tile) differs" in caplog.text
    assert [p.name for p in store.iterdir()] == [".gigaseg"]
    with Construction(store, new) as work:
        assert work.resumed


def test_a_folder_of_the_user_is_not_touched(tmp_path):
    (tmp_path / "precious.tif").write_text("years of work")
    with pytest.raises(FileExistsError, match="not made by gigaseg: move them away"):
        Construction(tmp_path, {}).__enter__()
    assert (tmp_path / "precious.tif").exists()


def attempts(store):
    lines = (store / ".gigaseg/attempts.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_every_attempt_is_noted(tmp_path):
    interrupt(tmp_path / "s", {"code": "1"}, RuntimeError("disk on fire"))
    with Construction(tmp_path / "s", {"code": "1"}) as work:
        work.note(device="cpu")
    with Construction(tmp_path / "s", {"code": "2"}):
        pass
    lines = attempts(tmp_path / "s")
    starts = [line["reason"] for line in lines if line["event"] == "start"]
    ends = [(line["outcome"], line["blocks"]) for line in lines if line["event"] == "end"]
    assert starts == ["first", "resumed", "begun again: code differs"]
    assert ends == [("RuntimeError: disk on fire", 1), ("done", 0), ("done", 0)]
    assert [line["device"] for line in lines if line["event"] == "note"] == ["cpu"]
    assert all(line["peak_memory_mb"] > 0 and line["host"] for line in lines)


def test_a_lease_is_released_when_the_preparation_fails(tmp_path, monkeypatch):
    work = Construction(tmp_path / "s", {})
    monkeypatch.setattr(work, "_prepare", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        work.__enter__()
    assert not (tmp_path / "s/.gigaseg/lease.json").exists()


def write_lease(path, *, pid, host):
    path.write_text(json.dumps({"token": "other", "pid": pid, "host": host}))


def test_the_lease_of_a_dead_process_is_taken_over(tmp_path, caplog):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    write_lease(tmp_path / "lease.json", pid=dead.pid, host=leases._machine())
    with Lease(tmp_path / "lease.json") as lease:
        assert lease.held
    assert f"from process {dead.pid}" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_silent_lease_of_another_machine_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "STALE", 0.02)
    monkeypatch.setattr(leases, "POLL", 0.005)
    write_lease(tmp_path / "lease.json", pid=1, host="elsewhere")
    with Lease(tmp_path / "lease.json") as lease:
        assert lease.held


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"tokem": "a"}', b"\xff"])
def test_a_spoilt_lease_is_taken_over(tmp_path, monkeypatch, text):
    monkeypatch.setattr(leases, "STALE", 0.02)
    monkeypatch.setattr(leases, "POLL", 0.005)
    (tmp_path / "lease.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with Lease(tmp_path / "lease.json") as lease:
        assert lease.held


def test_a_live_lease_is_waited_for(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(leases, "POLL", 0.005)
    waiting = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: waiting.set() if "waiting for" in record.getMessage() else None
    caplog.set_level(logging.INFO, leases.logger.name)
    leases.logger.addHandler(handler)
    store, seen = tmp_path / "s", []

    def second():
        with Construction(store, {"code": "1"}) as work:
            seen.append(work.committed)

    thread = threading.Thread(target=second)
    try:
        with Construction(store, {"code": "1"}):
            thread.start()
            assert waiting.wait(10)
            (store / "zarr.json").write_text("{}")
        thread.join(10)
    finally:
        leases.logger.removeHandler(handler)
    assert seen == [True]


WORKER = """
import logging, sys
from pathlib import Path
from gigaseg.ledger import Construction

logging.basicConfig(level=logging.INFO)
with Construction(Path(sys.argv[1]), {"code": "1"}) as work:
    print(work.committed, sorted(work.ledger("0").done), flush=True)
    if not work.committed:
        work.ledger("0").record("a")
        print("recorded", flush=True)
        sys.stdin.readline()
        (work.path / "zarr.json").write_text("{}")
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_second_process_waits_and_uses_what_is_there(tmp_path, killed):
    def start():
        return subprocess.Popen(
            [sys.executable, "-u", "-c", WORKER, tmp_path / "s"],
            env={"PYTHONPATH": str(Path(ledgers.__file__).parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    with start() as first:
        assert [first.stdout.readline() for _ in range(2)] == ["False []\n", "recorded\n"]
        with start() as second:
            assert f"written by process {first.pid}" in second.stderr.readline()
            if killed:
                first.kill()
                assert second.stdout.readline() == "False ['a']\n"
            else:
                first.communicate("go on\n")
                assert second.stdout.readline() == "True ['a']\n"
            second.communicate("go on\n")
            assert second.returncode == 0


def test_a_lease_renewed_at_the_last_moment_is_put_back(tmp_path):
    write_lease(tmp_path / "lease.json", pid=os.getpid(), host="elsewhere")
    Lease(tmp_path / "lease.json")._take_over({"token": "older", "pid": 1, "host": "elsewhere"})
    assert json.loads((tmp_path / "lease.json").read_text())["pid"] == os.getpid()
    assert [p.name for p in tmp_path.iterdir()] == ["lease.json"]


def test_the_owner_shows_that_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT", 0.001)
    touched = threading.Event()
    monkeypatch.setattr(leases.os, "utime", lambda _: touched.set())
    with Lease(tmp_path / "lease.json"):
        assert touched.wait(10)


def test_a_process_that_lost_its_lease_stops(tmp_path):
    with Construction(tmp_path / "s", {}) as work:
        ledger = work.ledger("0")
        write_lease(tmp_path / "s/.gigaseg/lease.json", pid=1, host="elsewhere")
        with pytest.raises(RuntimeError, match="now written by another process"):
            ledger.record("a")


def test_parts_work_in_a_store_that_was_opened(tmp_path):
    store = tmp_path / "s"
    with Construction(store, {"code": "1"}):
        pass
    with (
        Construction(store, {"code": "1"}, part="0") as one,
        Construction(store, {"code": "1"}, part="1") as other,
    ):
        assert one.resumed
        one.ledger("0").record("a")
        other.ledger("0").record("b")
        assert (store / ".gigaseg/lease-0.json").exists()
    with Construction(store, {"code": "1"}) as work:
        assert work.ledger("0").done == {"a", "b"}
        assert len({line["attempt"] for line in work.attempts()}) == 4
    assert [*store.glob(".gigaseg/lease*")] == []


@pytest.mark.parametrize(
    ("opened", "message"),
    [
        (None, "was not opened, so part 1 has no place in it"),
        ({"code": "1", "settings": {"tile": 4}}, r"opened for something else: settings \(tile\)"),
    ],
)
def test_a_part_refuses_a_store_of_something_else_and_leaves_it_alone(tmp_path, opened, message):
    if opened is not None:
        interrupt(tmp_path / "s", opened, KeyboardInterrupt())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message):
        Construction(tmp_path / "s", {"code": "1", "settings": {"tile": 8}}, part="1").__enter__()
    assert sorted(tmp_path.rglob("*")) == before


def test_who_opens_waits_for_parts_and_parts_for_who_opens(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "POLL", 0.002)
    store, order, started = tmp_path / "s", [], threading.Event()
    with Construction(store, {"code": "1"}):
        pass

    def use(part, name):
        started.set()
        with Construction(store, {"code": "1"}, part=part):
            order.append(name)

    for first, second in ((None, "0"), ("0", None)):
        started.clear()
        thread = threading.Thread(target=use, args=(second, "second"))
        with Construction(store, {"code": "1"}, part=first):
            thread.start()
            assert started.wait(10)
            order.append("first")
        thread.join(10)
    assert order == ["first", "second"] * 2


def test_a_line_after_a_torn_one_is_read(tmp_path):
    with Construction(tmp_path / "s", {}) as work:
        file = tmp_path / "s/.gigaseg/attempts.jsonl"
        file.write_bytes(file.read_bytes() + b'{"event":"no')
        work.note(device="cpu")
        assert [line["event"] for line in work.attempts()] == ["start", "note"]


LOT = {"lot": "lot"}
ROWS = [{"sample": name, "dataset": "d", "split": "train"} for name in ("a", "b", "c")]


def test_a_bad_sample_is_recorded_and_the_others_are_finished(tmp_path, caplog):
    def work(row):
        if row["sample"] == "b":
            raise ValueError("the TIFF is cut off")
        return {"store": tmp_path / "r/d" / row["sample"], "fingerprint": "f", "shape": (1, 2, 3)}

    run_lot("convert", tmp_path / "r" / "lot.json", LOT, ROWS, work, code="c0de")
    manifest = read_manifest(tmp_path / "r" / "lot.json")
    assert [e["status"] for e in manifest["samples"]] == ["done", "failed", "done"]
    assert (manifest["settings"], manifest["code"]) == (digest(LOT), "c0de")
    assert manifest["samples"][1]["message"] == "the TIFF is cut off"
    assert manifest["samples"][0]["store"] == "d/a"
    assert "sample b failed: the TIFF is cut off" in caplog.text
    entries = read_entries(tmp_path / "r" / "lot.json")
    assert entries["c"]["store"] == tmp_path / "r/d/c"


@pytest.mark.parametrize("workers", [1, 3])
def test_samples_that_failed_before_are_skipped(tmp_path, workers):
    convert = tmp_path / "convert.json"

    def fail_some(row):
        if row["sample"] != "a":
            raise FileNotFoundError("gone")
        return {"store": tmp_path / "a", "fingerprint": "f"}

    run_lot("convert", convert, LOT, ROWS, fail_some, code="c0de")
    for stage, before in (("predict", "convert"), ("split", "predict")):
        upstream = read_entries(tmp_path / f"{before}.json")
        run_lot(
            stage,
            tmp_path / f"{stage}.json",
            LOT,
            ROWS,
            lambda row: {"store": tmp_path / row["sample"], "fingerprint": "g"},
            upstream,
            code="c0de",
            workers=workers,
        )
        after = read_entries(tmp_path / f"{stage}.json")
        assert [e["status"] for e in after.values()] == ["done", "skipped", "skipped"]
        assert after["b"]["message"] == "convert failed: gone"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_fault_of_the_machine_stops_the_lot(tmp_path, workers):
    def work(_row):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        run_lot("convert", tmp_path / "lot.json", LOT, ROWS, work, code="c0de", workers=workers)
    assert not (tmp_path / "lot.json").exists()
