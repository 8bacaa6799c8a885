"""Convert and split by Dask workers of their own, through rules and scripts: the same files."""

import shutil

import pytest

WORKERS = "dask: {workers: 2}\nnetwork:"


@pytest.mark.parametrize("stage", ["convert", "split"])
def test_workers_of_a_job_leave_the_same_files(run, stage):
    def content():
        files = (path for path in (run.folder / "results" / stage).rglob("*") if path.is_file())
        named = {str(path.relative_to(run.folder)): path for path in files}
        return {name: p.read_bytes() for name, p in named.items() if ".gigaseg" not in p.parts}

    before = content()
    shutil.rmtree(run.folder / "results" / stage)
    run.edit("tiny.yaml", "network:", WORKERS)
    done = run.snakemake(f"{stage}_all")
    assert done.returncode == 0, done.stdout
    after = content()
    assert len(before) > 10
    assert [name for name in before | after if before.get(name) != after.get(name)] == []
    logs = [*(run.folder / "results" / "logs" / stage).rglob("*.workers.log")]
    assert len(logs) == 2  # a lot each
    assert all("Starting established connection" in log.read_text() for log in logs)
    assert run.pending() == {}
