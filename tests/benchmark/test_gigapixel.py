"""The run of `make gigapixel`: its settings fit, and its comparison reads what a run leaves."""

import json
import runpy
from pathlib import Path

import pytest
import yaml
from gigaseg import plan
from gigaseg.ledger import BOOKS

ROOT = Path(__file__).parents[2]
MEGAPIXELS, GIGAPIXEL = (1, 8192, 8192), (1, 32768, 32768)
STAGES = ("phantom", "convert", "predict", "split", "evaluate", "audit_seams", "view")


@pytest.fixture(scope="module")
def scaling():
    return runpy.run_path(str(ROOT / ".ci" / "scaling.py"))["main"]


def test_the_settings_are_complete_and_each_plane_is_a_job(monkeypatch):
    monkeypatch.chdir(ROOT)
    default, given = (
        yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())
        for name in ("config", "gigapixel")
    )
    loaded = plan.load(default | given, given)
    drawn = {name: facts["phantom"]["shape"] for name, facts in given["datasets"].items()}
    assert drawn["megapixels"] == list(MEGAPIXELS)
    assert drawn["gigapixel"] == list(GIGAPIXEL)
    assert len(loaded.manifests("split")) == 3


def leave_results(root, dataset, factor, shape):
    """Write what a run leaves of a sample whose stages took `factor` seconds."""
    for stage in STAGES:
        where = Path(dataset if stage == "phantom" else f"{dataset}-0000")
        folder = root / ("audit" if stage == "audit_seams" else stage)
        entry = {"status": "done", "message": None, "store": f"{dataset}.ome.zarr", "shape": shape}
        if stage != "phantom":
            folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"stage": stage, "samples": [entry | {"digest": stage, "seams": 3}]})
            (folder / where.with_suffix(".json")).write_text(text)
            books = folder / f"{dataset}.ome.zarr" / BOOKS
            books.mkdir(parents=True)
            (books.parent / "c").write_bytes(bytes(10**6))
            notes = [
                {"attempt": "1", "time": 0, "cpu_seconds": 0, "peak_memory_mb": 9000},
                {"attempt": "2", "time": 500, "cpu_seconds": 3, "peak_memory_mb": 200},
                {"attempt": "2", "time": 500 + factor, "cpu_seconds": 3 + 2 * factor}
                | {"peak_memory_mb": 300 + factor},
            ]
            (books / "attempts.jsonl").write_text("\n".join(map(json.dumps, notes)))
        table = root / "benchmarks" / stage / where.with_suffix(".tsv")
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(f"s\tmax_rss\tcpu_time\n{factor}\t200\tNA\n")


def test_stages_are_compared_per_pixel(tmp_path, capsys, scaling):
    leave_results(tmp_path, "megapixels", 10, (1, 1000, 1000))
    leave_results(tmp_path, "gigapixel", 80, (1, 2000, 2000))
    scaling(tmp_path, "megapixels", "gigapixel")
    text = capsys.readouterr().out
    assert "From 1 to 4 Mpx" in text
    assert "| split | 10.000 → 20.000 | 2.00 | 20.000 → 40.000 | 2.00 | 310 → 380 | 1.23 |" in text
    assert "| evaluate | 10.000 → 20.000 | 2.00 | nan → nan | nan | 200 → 200 | 1.00 |" in text
    assert "| split | 2 | 1 | split |" in text
    assert '"seams": 3' in text


def test_an_unfinished_run_is_not_compared(tmp_path, scaling):
    leave_results(tmp_path, "megapixels", 10, (1, 1000, 1000))
    with pytest.raises(SystemExit, match="0 files, not 1; finish the run first"):
        scaling(tmp_path, "megapixels", "gigapixel")
