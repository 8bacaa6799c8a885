"""What jobs ask a cluster for."""

import json
import os
from pathlib import Path

import pytest
from gigaseg.allocations import STARTERS, STARTING, Allocations, allocation
from gigaseg.manifests import write_manifest


class Wildcards(dict):
    """Like Snakemake's: a mapping with items."""


LOT = Wildcards(lot="cells-0001")


def forecast(results: Path, jobs: dict) -> None:
    path = results / "benchmarks" / "forecast.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(path, {"jobs": jobs})


@pytest.fixture
def results(tmp_path) -> Path:
    return tmp_path / "results"


def asks(results, *, longest=1440, resumes=True):
    pattern = f"{results}/convert/{{lot}}.json"
    return Allocations(results, longest).asks(4000, 240, pattern, resumes=resumes)


def test_without_a_forecast_a_job_asks_for_what_its_rule_says(results):
    rule = asks(results)
    assert rule["mem_mb"](LOT, 1) == 4000
    assert rule["runtime"](LOT, 1) == 240


def test_with_a_forecast_it_asks_for_that(results):
    forecast(results, {"convert/cells-0001.json": {"mem_mb": 900, "runtime": 17}})
    rule = asks(results)
    assert (rule["mem_mb"](LOT, 1), rule["runtime"](LOT, 1)) == (900, 17)
    other = Wildcards(lot="cells-0002")
    assert (rule["mem_mb"](other, 1), rule["runtime"](other, 1)) == (4000, 240)


def test_what_is_not_forecast_is_taken_from_the_rule(results):
    forecast(results, {"convert/cells-0001.json": {"mem_mb": 900, "runtime": None}})
    rule = asks(results)
    assert (rule["mem_mb"](LOT, 1), rule["runtime"](LOT, 1)) == (900, 240)


def test_a_forecast_of_an_older_version_is_no_error(results):
    forecast(results, {"convert/cells-0001.json": {"memory": 1e9, "seconds": 3}})
    assert asks(results)["mem_mb"](LOT, 1) == 4000


def test_a_newer_forecast_replaces_an_older_one(results):
    rule = asks(results)
    forecast(results, {"convert/cells-0001.json": {"mem_mb": 900}})
    assert rule["mem_mb"](LOT, 1) == 900
    forecast(results, {"convert/cells-0001.json": {"mem_mb": 1900}})
    path = results / "benchmarks" / "forecast.json"
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert rule["mem_mb"](LOT, 1) == 1900


def test_memory_doubles_once(results):
    # Attempts also count what was cut by a time limit, which is no sign of too little memory.
    assert [asks(results)["mem_mb"](LOT, n) for n in (1, 2, 3, 9)] == [4000, 8000, 8000, 8000]


def test_only_a_job_that_begins_anew_asks_for_more_time(results):
    assert [asks(results)["runtime"](LOT, n) for n in (1, 2, 9)] == [240, 240, 240]
    anew = asks(results, resumes=False)
    assert [anew["runtime"](LOT, n) for n in (1, 2, 3, 9)] == [240, 480, 960, 960]


def test_no_job_asks_for_more_time_than_the_partition_has(results):
    assert asks(results, longest=100)["runtime"](LOT, 1) == 100
    assert asks(results, longest=300, resumes=False)["runtime"](LOT, 2) == 300


def test_parts_share_the_time_of_what_they_share(results):
    forecast(results, {"convert/cells-0001.json": {"mem_mb": 900, "runtime": STARTING + 91}})
    rule = asks(results)
    part = Wildcards(lot="cells-0001", part="2", parts="3")
    assert rule["runtime"](part, 1) == STARTING + 31
    assert rule["mem_mb"](part, 1) == 900


def test_a_job_asks_for_more_than_it_takes_itself():
    asked = allocation(memory=1e9, seconds=60.0)
    assert asked["mem_mb"] > 1000 + STARTERS
    assert asked["runtime"] > STARTING
    assert json.loads(json.dumps(asked)) == asked
