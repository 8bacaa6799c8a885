"""What is said of work under way, by a clock that is moved by hand."""

import logging
import threading

import numpy as np
import pytest
from gigaseg.blockwise import map_blocks
from gigaseg.ledger import Construction
from gigaseg.pace import Pace
from gigaseg.stages import run_lot

MPX = 10**6


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, logger="gigaseg.pace")
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_line_after_ten_seconds_then_every_thirty_and_at_the_end(clock, said):
    work = Pace("nuclei-3", 256, "blocks", voxels=256 * MPX, clock=clock)
    for second in range(1, 129):
        clock.now = second
        work.advance(2, voxels=2 * MPX)
    assert said() == [
        "nuclei-3: 20 of 256 blocks, 2 Mpx/s, 1 min 58 s left",
        "nuclei-3: 80 of 256 blocks, 2 Mpx/s, 1 min 28 s left",
        "nuclei-3: 140 of 256 blocks, 2 Mpx/s, 58 s left",
        "nuclei-3: 200 of 256 blocks, 2 Mpx/s, 28 s left",
        "nuclei-3: 256 blocks in 2 min 8 s, 2 Mpx/s",
    ]


def test_time_left_is_told_by_voxels_where_units_differ(clock, said):
    work = Pace("a", 3, "blocks", voxels=70 * MPX, clock=clock)
    clock.now = 10
    work.advance(voxels=10 * MPX)
    assert said() == ["a: 1 of 3 blocks, 1 Mpx/s, 1 min 0 s left"]


def test_short_work_is_done_without_a_word(clock, said):
    work = Pace("", 50, "samples", clock=clock)
    for _ in range(50):
        clock.now += 0.1
        work.advance()
    assert said() == []


def test_a_lot_of_small_samples_is_counted_by_samples(clock, said):
    work = Pace("", 50, "samples", clock=clock)
    for _ in range(37):
        clock.now += 0.5
        work.advance()
    assert said() == ["20 of 50 samples, 2 samples/s, 15 s left"]


def test_what_an_earlier_process_did_is_no_speed(clock, said):
    work = Pace("a", 100, "blocks", voxels=100 * MPX, clock=clock)
    for _ in range(50):
        clock.now += 1
        work.advance(voxels=MPX, kept=True)
    for _ in range(50):
        clock.now += 2
        work.advance(voxels=MPX)
    assert said() == [
        "a: 10 of 100 blocks",
        "a: 40 of 100 blocks",
        "a: 60 of 100 blocks, 0.5 Mpx/s, 1 min 20 s left",
        "a: 75 of 100 blocks, 0.5 Mpx/s, 50 s left",
        "a: 90 of 100 blocks, 0.5 Mpx/s, 20 s left",
        "a: 100 blocks, 50 of them done before, in 2 min 30 s, 0.5 Mpx/s",
    ]


def test_a_training_goes_on_from_its_step(clock, said):
    work = Pace("", 1000, "steps", done=900, clock=clock)
    for _ in range(100):
        clock.now += 0.5
        work.advance()
    assert said() == [
        "920 of 1000 steps, 2 steps/s, 40 s left",
        "980 of 1000 steps, 2 steps/s, 10 s left",
        "1000 steps, 900 of them done before, in 50 s, 2 steps/s",
    ]


def test_nothing_but_kept_blocks_has_no_speed(clock, said):
    work = Pace("a", 2, "blocks", voxels=2, clock=clock)
    for _ in range(2):
        clock.now += 9
        work.advance(voxels=1, kept=True)
    assert said() == ["a: 2 blocks, 2 of them done before, in 18 s"]


def test_threads_count_together(clock, said):
    work = Pace("a", 8000, "blocks", clock=clock)
    clock.now = 20

    def count():
        for _ in range(1000):
            work.advance()

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said() == [
        "a: 1 of 8000 blocks, 0.05 blocks/s, 44 h 26 min left",
        "a: 8000 blocks in 20 s, 400 blocks/s",
    ]


def test_blocks_are_told_under_the_name_of_sample_and_pass(tmp_path, paced):
    volume, target = np.ones((1, 32, 32), np.uint8), np.zeros((1, 32, 32), np.uint8)

    def copy(data, inner):
        return data[inner]

    def run(select=None):
        with Construction(tmp_path / "a.b.ome.zarr", {"code": "1"}) as work:
            where = {"block": (1, 16, 16), "ledger": work.ledger("image"), "select": select}
            map_blocks(copy, [volume], [target], **where)

    run(lambda window: window.start != (0, 16, 16))
    first = [f"a.b, image: {text}" for text in ("1 of 3 blocks", "2 of 3 blocks", "3 blocks")]
    assert paced() == first
    run()
    again = [f"a.b, image: {n} of 4 blocks" for n in (1, 2, 3)]
    assert paced()[3:] == [*again, "a.b, image: 4 blocks, 3 of them done before,"]


@pytest.mark.parametrize(("names", "told"), [("abc", ["1 of 3", "2 of 3", "3"]), ("a", [])])
def test_a_lot_of_several_samples_is_told_by_samples(tmp_path, paced, names, told):
    rows = [{"sample": name, "dataset": "d", "split": "train"} for name in names]

    def work(row):
        return {"store": None, "fingerprint": row["sample"]}

    run_lot("convert", tmp_path / "lot.json", {"lot": "d-0000"}, rows, work, code="c0de")
    assert paced() == [f"{count} samples" for count in told]


def test_lines_have_no_carriage_return(clock, said):
    work = Pace("a", 3, "blocks", clock=clock)
    for clock.now in (20, 60, 100):
        work.advance()
    assert len(said()) == 3
    assert not any("\r" in line or "\n" in line for line in said())
