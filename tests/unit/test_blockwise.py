"""The block engine: what it refuses, how it stops, and how it goes on."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import gigaseg
import numpy as np
import pytest
from gigaseg.blockwise import block_key, map_blocks
from gigaseg.geometry import Window, blocks
from gigaseg.ledger import BlockLedger, Construction
from gigaseg.volumes import create_array

STORAGE = {"chunk": 8, "shard": 16, "smallest_level": 8}


def copy(data, inner):
    return data[(..., *inner)]


class Sharded(np.ndarray):
    """An array that says that it is stored in shards of 4 x 4."""

    shards = (4, 4)


def test_a_block_must_be_whole_shards():
    target = np.zeros((20, 20)).view(Sharded)
    with pytest.raises(ValueError, match=r"block \(6, 8\) .* shards \(4, 4\): .* is \(8, 8\)"):
        map_blocks(copy, [target], [target], block=(6, 8), halo=(0, 0), align=(1, 1))


def test_a_block_that_covers_the_volume_needs_no_whole_shards():
    source = np.arange(42.0).reshape(6, 7)
    target = np.zeros((6, 7)).view(Sharded)
    map_blocks(copy, [source], [target], block=(6, 8), halo=(0, 0), align=(1, 1))
    np.testing.assert_array_equal(target, source)


def test_sources_and_targets_must_show_one_volume():
    with pytest.raises(ValueError, match=r"different shapes \[\(1, 2, 2\), \(1, 2, 3\)\]"):
        map_blocks(copy, [np.zeros((1, 2, 2))], [np.zeros((1, 2, 3))], block=(1, 2, 2))


def test_align_needs_mirrored_edges():
    volume = np.zeros((1, 4, 4))
    with pytest.raises(ValueError, match=r"align .* needs edge 'mirror'"):
        map_blocks(copy, [volume], [volume], block=(1, 2, 2), align=(1, 2, 2), edge="clip")


def test_extents_must_agree_on_the_number_of_axes():
    volume = np.zeros((4, 4))
    with pytest.raises(ValueError, match=r"block \(2, 2\), halo \(0, 0, 0\)"):
        map_blocks(copy, [volume], [volume], block=(2, 2), halo=(0, 0, 0))


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (np.zeros((1, 2, 3)), ValueError, r"returned shape \(1, 2, 3\), expected \(1, 2, 2\)"),
        (np.zeros((1, 2, 2), "f4"), TypeError, "returned float32 for a target of float64"),
        ((np.zeros((1, 2, 2)),) * 2, ValueError, "returned 2 arrays for 1 targets"),
    ],
)
def test_what_the_function_returns_is_checked(answer, error, message):
    volume = np.zeros((1, 4, 4))
    with pytest.raises(error, match=message):
        map_blocks(lambda *_: answer, [volume], [volume.copy()], block=(1, 2, 2))


def test_an_error_stops_the_work_and_nobody_writes_afterwards():
    volume, started = np.zeros((1, 1, 100)), []
    barrier = threading.Barrier(2, timeout=10)

    def fail(*_):
        started.append(1)
        if len(started) <= 2:
            barrier.wait()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        map_blocks(fail, [volume], [volume], block=(1, 1, 1), workers=2)
    assert len(started) < 100
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]


def test_no_more_blocks_than_workers_are_in_memory():
    volume = np.zeros((1, 1, 30))
    lock, alive, most = threading.Lock(), 0, 0

    def watch(data, inner):
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        result = copy(data, inner)
        with lock:
            alive -= 1
        return result

    map_blocks(watch, [volume], [volume.copy()], block=(1, 1, 1), workers=3)
    assert 1 <= most <= 3


def test_the_function_can_ask_where_it_is():
    volume, target = np.zeros((2, 3, 4)), np.zeros((2, 3, 4), np.int64)

    def plane(data, _inner, window):
        return np.full(data.shape, window.start[0])

    map_blocks(plane, [volume], [target], block=(1, 2, 2), located=True)
    np.testing.assert_array_equal(target[:, 0, 0], [0, 1])


def test_only_chosen_blocks_are_done():
    source, target = np.ones((1, 4, 6)), np.zeros((1, 4, 6))
    map_blocks(copy, [source], [target], block=(1, 2, 2), select=lambda w: w.start[2] == 2)
    np.testing.assert_array_equal(target[0], [[0, 0, 1, 1, 0, 0]] * 4)


def test_a_function_without_targets_is_called_once_per_block(tmp_path):
    source, seen = np.arange(8.0).reshape(1, 2, 4), []

    def look(data, inner):
        seen.append(data[inner].sum())
        return ()

    for _ in range(2):
        ledger = BlockLedger(tmp_path, "sums")
        map_blocks(look, [source], [], block=(1, 2, 2), ledger=ledger)
    assert sorted(seen) == [10, 18]
    with pytest.raises(ValueError, match="returned 1 arrays for 0 targets"):
        map_blocks(lambda *_: None, [source], [], block=(1, 2, 2))


def image(seed=0):
    return np.random.default_rng(seed).integers(1, 255, (2, 2, 37, 41), dtype=np.uint8)


class Interrupted(Exception):
    pass


def run_until(store, source, stop_at, *, workers=1, seen=None):
    """Copy a volume into a store, stopping at the given call; return the blocks worked on."""
    seen, lock = [] if seen is None else seen, threading.Lock()

    def count(data, inner, window):
        with lock:
            if len(seen) == stop_at:
                raise Interrupted
            seen.append(window)
        return copy(data, inner)

    with Construction(store, {"code": "1"}) as work:
        target = create_array(store, "0", source.shape, source.dtype, storage=STORAGE)
        map_blocks(
            count,
            [source],
            [target],
            block=(1, 16, 16),
            located=True,
            ledger=work.ledger("0"),
            workers=workers,
        )
    np.testing.assert_array_equal(target[:], source)
    return seen


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("stop_at", [0, 1, 7, 17])
def test_finished_blocks_are_not_done_again(tmp_path, stop_at, workers):
    source, first = image(), []
    everything = list(blocks(source.shape[1:], (1, 16, 16)))
    with pytest.raises(Interrupted):
        run_until(tmp_path / "s", source, stop_at, workers=workers, seen=first)
    done = BlockLedger(tmp_path / "s/.gigaseg/ledger", "0").done
    assert len(first) == stop_at
    second = run_until(tmp_path / "s", source, None, workers=workers)
    assert {block_key(w) for w in second} == {block_key(w) for w in everything} - done
    assert run_until(tmp_path / "s", source, None) == []


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda _: b"", lambda b: b[::-1]])
def test_torn_shards_are_done_again(tmp_path, damage):
    source = image()
    run_until(tmp_path / "s", source, None)
    shards = sorted(p for p in (tmp_path / "s/0/c").rglob("*") if p.is_file())
    for shard in (shards[0], shards[-1]):  # a whole one, and one cut by the volume's edge
        shard.write_bytes(damage(shard.read_bytes()))
    assert len(run_until(tmp_path / "s", source, None)) == 2


def test_a_damaged_source_is_named(tmp_path):
    source = image()
    run_until(tmp_path / "s", source, None)
    shard = next(path for path in (tmp_path / "s/0/c").rglob("*") if path.is_file())
    shard.write_bytes(bytes(len(shard.read_bytes())))
    broken = create_array(tmp_path / "s", "0", source.shape, source.dtype, storage=STORAGE)
    with pytest.raises(RuntimeError, match=r"s/0 cannot be read .*: delete the store .*--forcerun"):
        map_blocks(copy, [broken], [np.zeros_like(source)], block=(1, 16, 16))


def test_a_missing_shard_is_done_again(tmp_path):
    source = image()
    run_until(tmp_path / "s", source, None)
    shards = sorted(p for p in (tmp_path / "s/0/c").rglob("*") if p.is_file())
    shards[3].unlink()
    assert len(run_until(tmp_path / "s", source, None)) == 1


def test_blocks_of_zeros_count_as_done_though_no_file_exists(tmp_path):
    source = np.zeros((1, 1, 20, 20), np.uint8)
    run_until(tmp_path / "s", source, None)
    assert not any(p.is_file() for p in (tmp_path / "s/0/c").rglob("*"))
    assert run_until(tmp_path / "s", source, None) == []


KILLED = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    import numpy as np
    from gigaseg.blockwise import map_blocks
    from gigaseg.ledger import Construction
    from gigaseg.volumes import create_array

    store, stop_at = Path(sys.argv[1]), int(sys.argv[2])
    source = np.load(sys.argv[3])
    calls = 0

    def copy(data, inner):
        global calls
        if calls == stop_at:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1
        return data

    with Construction(store, {"code": "1"}) as work:
        target = create_array(store, "0", source.shape, source.dtype, storage=%r)
        map_blocks(copy, [source], [target], block=(1, 16, 16), ledger=work.ledger("0"))
""") % (STORAGE,)


def test_a_killed_process_is_continued(tmp_path):
    source = image()
    np.save(tmp_path / "source.npy", source)
    environment = {**os.environ, "PYTHONPATH": str(Path(gigaseg.__file__).parents[1])}
    command = [sys.executable, "-c", KILLED, tmp_path / "s", "5", tmp_path / "source.npy"]
    killed = subprocess.run(command, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "s/.gigaseg/lease.json").exists()
    everything = len(list(blocks(source.shape[1:], (1, 16, 16))))
    assert len(run_until(tmp_path / "s", source, None)) == everything - 5


def test_block_keys_hold_the_extent_too():
    # Blocks of another shape are other blocks: nothing of them is done.
    assert block_key(Window((0, 0), (4, 4))) != block_key(Window((0, 0), (4, 8)))
