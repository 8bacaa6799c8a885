"""The whole chain on a SLURM cluster, through everything that goes wrong on one.

One project lives through five calls of Snakemake, each a fixture that ends where the next begins:

    killed       the calling Snakemake is killed while its job is running
    timed_out    called again; a part of a prediction reaches its time limit
    starved      in the same call a job takes more memory than it asked for
    interrupted  the same call is ended by Ctrl-C
    cancelled    called again; a job is cancelled by somebody
    finished     called again; the node breaks down, and comes back

What it leaves is compared with a run that nothing disturbed, on this machine without SLURM.
"""

import json
import re
import signal
from collections import Counter
from itertools import combinations
from types import SimpleNamespace

import pytest
import throwaway
from projects import Project, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]

PLACE = re.compile(r" on \S+, SLURM job (\d+)(?:, CUDA_VISIBLE_DEVICES (\S+))?$", re.MULTILINE)
DAEMONS = {*throwaway.DAEMONS, "slurmscriptd"}  # slurmctld starts the last
NOT_RESULTS = {".gigaseg", "logs", "benchmarks", ".lock"}
TELL_TIMES = {"depths.csv", "report.html"}


@pytest.fixture(scope="module")
def project(cluster, tmp_path_factory):
    made = Project.make(tmp_path_factory.mktemp("project"), cluster.environment)
    yield made
    made.close()


@pytest.fixture(scope="module")
def undisturbed(cluster, tmp_path_factory):
    """Start the same run without SLURM; nobody waits for it before it is needed."""
    mark = {throwaway.MARK: cluster.environment[throwaway.MARK]}
    made = Project.make(tmp_path_factory.mktemp("undisturbed"), mark)
    yield made, made.start("all", "--cores", "2")
    made.close()


@pytest.fixture(scope="module")
def killed(cluster, project, undisturbed):
    del undisturbed  # begun before, to run beside
    call = project.submit(hold="convert convert a 2")
    job = project.held("convert", call)
    second = project.submit()
    refused = second.wait()
    call.process.kill()
    call.wait()
    return SimpleNamespace(job=job, queue=cluster.queue(), refused=refused, answer=second.text)


@pytest.fixture(scope="module")
def timed_out(cluster, project, killed):
    del killed  # begun after
    call = project.submit(hold="part predict_part c 2; split split b 2; memory split d 1 4000")
    wait_until(lambda: "waiting for" in project.log("convert/cells-0000"), call)
    waiting = project.log("convert/cells-0000")
    project.release("convert")
    job = project.held("part", call)
    part = "predict_part/tiny/fold-0/cells-0001/1-of-2"
    log = project.log(part)
    wait_until(lambda: len(cluster.queue("--partition=gpu", "--states=running")) == 2, call)
    # Not "now": by the time the controller reads it, that may be the past, which it refuses.
    cluster.call("scontrol", "update", f"JobId={job}", "EndTime=now+2")
    manifest = project.folder / "results/predict/tiny/fold-0/cells-0001.json"
    wait_until(manifest.exists, call)
    return SimpleNamespace(call=call, waiting=waiting, job=job, log=log)


@pytest.fixture(scope="module")
def starved(project, timed_out):
    job = project.held("memory", timed_out.call)
    wait_until(lambda: "(Rule: split)" in timed_out.call.text, timed_out.call)  # its next attempt
    log = project.log("split/tiny/fold-0/cells-0001")
    return SimpleNamespace(job=job, text=timed_out.call.text, second=PLACE.search(log)[1])


@pytest.fixture(scope="module")
def interrupted(cluster, project, timed_out, starved):
    del starved  # begun after
    job = project.held("split", timed_out.call)
    before = cluster.queue()
    timed_out.call.process.send_signal(signal.SIGINT)
    status = timed_out.call.wait()
    wait_until(lambda: not cluster.queue())
    return SimpleNamespace(job=job, before=before, status=status, state=cluster.jobs()[job])


@pytest.fixture(scope="module")
def cancelled(cluster, project, interrupted):
    del interrupted  # begun after
    # Without another attempt: that would be the next call's first.
    call = project.submit("--retries", "0", hold="again split b 1")
    job = project.held("again", call)
    cluster.call("scancel", job)
    status = call.wait()
    done = {
        path.relative_to(project.folder / "results").as_posix()
        for path in project.folder.glob("results/*/tiny/fold-0/*.json")
    }
    return SimpleNamespace(job=job, status=status, text=call.text, done=done)


@pytest.fixture(scope="module")
def finished(cluster, project, cancelled):
    del cancelled  # begun after
    call = project.submit(hold="node split b 1")
    job = project.held("node", call)
    cluster.call("scontrol", "update", f"NodeName={cluster.node}", "State=DOWN", "Reason=test")
    broken = cluster.jobs()[job]
    wait_until(cluster.resume)
    # SLURM waits two minutes, until nothing can be left of the job, before it starts it again.
    assert call.wait() == 0, call.text
    return SimpleNamespace(text=call.text, jobs=cluster.jobs(), job=job, broken=broken)


def values(project):
    """Return what was made, but not from what: each project drew its own raw files."""
    results = project.folder / "results"
    return {
        str(path.relative_to(results)): path.read_bytes()
        for path in results.rglob("*")
        if path.is_file()
        and path.suffix != ".json"
        and path.name not in TELL_TIMES
        and not NOT_RESULTS & {*path.relative_to(results).parts}
    }


def digests(project):
    manifests = project.folder.glob("results/*/**/cells-000?.json")
    read = {path.relative_to(project.folder): json.loads(path.read_text()) for path in manifests}
    return {
        (path, entry["sample"]): entry["digest"]
        for path, manifest in read.items()
        for entry in manifest.get("samples", ())
        if "digest" in entry
    }


def recorded(project):
    """Count how often each block of each store was recorded as finished."""
    return Counter(
        (file.parents[2].relative_to(project.folder), file.name.split(".")[0], entry["block"])
        for file in project.folder.glob("results/**/.gigaseg/ledger/*.jsonl")
        for entry in map(json.loads, file.read_text().splitlines())
    )


def megabytes(job):
    number, unit = re.fullmatch(r"([0-9.]+)([MG])", job["memory"]).groups()
    return float(number) * {"M": 1, "G": 1024}[unit]


def attempts(project, store, part=""):
    file = project.folder / "results" / store / ".gigaseg" / f"attempts{part}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.usefixtures("finished")
def test_the_results_are_those_of_an_undisturbed_local_run(project, undisturbed):
    local, call = undisturbed
    assert call.wait() == 0, call.text
    ours, theirs = values(project), values(local)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert {"evaluate/scores.csv", "train/tiny/fold-0/best.safetensors"} <= ours.keys()
    assert digests(project) == digests(local)
    assert {path.parts[1] for path, _ in digests(project)} == {"predict", "split"}
    assert recorded(project) == recorded(local)
    assert {*recorded(project).values()} == {1}, "a finished block was done again"


@pytest.mark.usefixtures("finished")
def test_nothing_is_left_to_do(project):
    call = project.start("all", "-n")
    assert call.wait() == 0
    assert "Nothing to be done" in call.text


def test_networks_get_a_gpu_of_their_own(finished, project, timed_out):
    logs = [path.read_text() for path in (project.folder / "results" / "logs").rglob("*.log")]
    devices = dict(place for log in [timed_out.log, *logs] for place in PLACE.findall(log))
    on_gpus = {job: facts for job, facts in finished.jobs.items() if facts["partition"] == "gpu"}
    assert {facts["partition"] for facts in finished.jobs.values()} == {"cpu", "gpu"}
    assert devices[timed_out.job] in ("0", "1")
    for log in ("train/tiny/fold-0", "predict/tiny/fold-0/cells-0000"):
        job, device = PLACE.search(project.log(log)).groups()
        assert job in on_gpus
        assert device in ("0", "1")
    for job in devices.keys() - on_gpus.keys():
        assert devices[job] not in ("0", "1")
    together = [
        (first, second)
        for first, second in combinations(devices.keys() & on_gpus.keys(), 2)
        if on_gpus[first]["start"] < on_gpus[second]["end"]
        and on_gpus[second]["start"] < on_gpus[first]["end"]
    ]
    assert any(timed_out.job in pair for pair in together)
    for first, second in together:
        assert devices[first] != devices[second]


def test_a_second_run_in_the_same_folder_is_refused(killed):
    assert killed.refused == 1
    assert "another run is working on results (process " in killed.answer
    assert "Traceback" not in killed.answer


def test_jobs_that_outlive_snakemake_are_waited_for(killed, timed_out, project):
    assert killed.job in killed.queue
    assert "waiting for results/convert/cells/a.ome.zarr" in timed_out.waiting
    starts = [a for a in attempts(project, "convert/cells/a.ome.zarr") if a["event"] == "start"]
    assert [start["reason"] for start in starts] == ["first"]


def test_a_job_that_reached_its_time_limit_goes_on_by_itself(finished, timed_out, project):
    assert finished.jobs[timed_out.job]["state"] == "TIMEOUT"
    first, *_, second = (
        a
        for a in attempts(project, "predict/tiny/fold-0/cells/c.ome.zarr", "-1-of-2")
        if a["event"] == "end"
    )
    assert first["outcome"] == "terminated by SIGTERM"
    assert second["outcome"] == "done"
    assert 0 < first["blocks"] < 4
    assert first["blocks"] + second["blocks"] == 4
    assert f"SLURM-job '{timed_out.job}' failed, SLURM status is: 'TIMEOUT'" in timed_out.call.text


def test_a_job_that_runs_out_of_memory_gets_twice_as_much(finished, starved, project):
    first = finished.jobs[starved.job]
    assert first["state"] in ("FAILED", "OUT_OF_MEMORY")  # the second where there are cgroups
    assert f"SLURM-job '{starved.job}' failed, SLURM status is: '{first['state']}'" in starved.text
    assert "results/logs/split/tiny/fold-0/cells-0001.log" in starved.text
    assert megabytes(finished.jobs[starved.second]) == 2 * megabytes(first)
    tried = attempts(project, "split/tiny/fold-0/cells/d.ome.zarr")
    assert [(a["event"], a.get("reason") or a.get("outcome")) for a in tried] == [
        ("start", "first"),
        ("start", "resumed"),
        ("end", "done"),
    ]


def test_a_job_whose_node_breaks_down_is_started_again(finished, project):
    assert finished.broken["state"] in ("PENDING", "COMPLETING")
    assert finished.jobs[finished.job]["state"] == "COMPLETED"
    job, _ = PLACE.search(project.log("split/tiny/fold-0/cells-0000")).groups()
    assert job == finished.job


def test_ctrl_c_cancels_the_jobs(interrupted):
    assert interrupted.job in interrupted.before
    assert interrupted.status == 1
    assert interrupted.state["state"] == "CANCELLED"


def test_no_other_job_failed_or_took_more_memory_than_it_asked_for(
    finished, killed, timed_out, starved, interrupted, cancelled
):
    disturbed = {killed.job, timed_out.job, starved.job, *interrupted.before, cancelled.job}
    others = finished.jobs.keys() - disturbed
    assert {finished.jobs[job]["state"] for job in others} == {"COMPLETED"}
    assert finished.jobs[killed.job]["state"] == "COMPLETED"


def test_a_cancelled_job_is_reported_and_the_others_go_on(cancelled):
    assert cancelled.status == 1
    assert f"SLURM-job '{cancelled.job}' failed, SLURM status is: 'CANCELLED'" in cancelled.text
    assert "results/logs/split/tiny/fold-0/cells-0000.log" in cancelled.text
    assert re.search(rf"slurm-logs/rule_split/\S*/{cancelled.job}\.log", cancelled.text)
    assert {"split/tiny/fold-0/cells-0001.json", "evaluate/tiny/fold-0/cells-0001.json"} <= (
        cancelled.done
    )
    assert not {"split/tiny/fold-0/cells-0000.json", "evaluate/tiny/fold-0/cells-0000.json"} & (
        cancelled.done
    )


@pytest.mark.usefixtures("finished")
def test_no_process_is_left_but_the_daemons(cluster, undisturbed):
    undisturbed[1].wait()
    wait_until(lambda: {*cluster.processes().values()} <= DAEMONS)
