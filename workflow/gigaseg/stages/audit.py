"""Audit: whether every result is what the settings and the code would make now.

Snakemake remembers what it ran in ``.snakemake/metadata``. Where that is lost, an edit goes
unnoticed. What the results themselves say of their making is compared here, without it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ledger import BOOKS, digest
from ..manifests import read_manifest, write_manifest

Job = Mapping[str, Any]

#: What the fingerprint of a stage's artifact calls the artifacts of earlier stages.
INPUTS = {
    "weigh": {"image": "convert"},
    "predict": {"image": "convert", "model": "train"},
    "tune": {"image": "convert", "probabilities": "predict"},
    "split": {"image": "convert", "probabilities": "predict"},
    "evaluate": {"convert": "convert", "predict": "predict", "split": "split"},
    "audit_seams": {"image": "convert", "probabilities": "predict", "model": "train"},
    "view": {"image": "convert", "probabilities": "predict", "instances": "split"},
}
#: Files without which an artifact is unfinished, where it is no store.
MARKERS = {"view": "panes.json"}

MANY = 20  # lines and paths that a message lists; the rest is counted


@dataclass(frozen=True)
class Fault:
    """What is wrong with the results of one job."""

    stage: str
    manifest: str
    text: str


def run(*, manifest: Path, settings: Mapping[str, Any], code: str, threads: int) -> None:
    """Compare the results of all jobs with what settings and code say now.

    Parameters
    ----------
    manifest : Path
        Written only if all agree. Its name is that of the settings and the code; others of its
        kind, which stand for those of earlier days, are removed.
    settings : mapping
        ``jobs``: for each its ``stage``, its ``output``, the ``inputs`` it reads (manifests), and
        the ``settings`` and ``code`` that its manifest must carry; and ``models``, the model files
        that some read though no job of the run has made them.
    code : str
        Digest of this stage's code.
    threads : int
        Files read at once.

    Raises
    ------
    RuntimeError
        Naming each result that is not up to date, what differs, and the command that makes it
        again.
    """
    jobs = settings["jobs"]
    with ThreadPoolExecutor(threads) as pool:
        manifests = pool.map(read_manifest, [Path(job["output"]) for job in jobs])
        contents = {job["output"]: content for job, content in zip(jobs, manifests, strict=True)}
        contents |= {path: _read_file(path) for path in settings.get("models", ())}
        found = pool.map(lambda job: list(inspect(job, contents)), jobs)
        faults = [fault for faults in found for fault in faults]
    if faults:
        raise RuntimeError(explain(faults))
    content = {"stage": "audit", "jobs": len(jobs), "settings": digest(settings), "code": code}
    write_manifest(manifest, content)
    for old in manifest.parent.glob("*.json"):
        if old != manifest:
            old.unlink()


def _read_file(path: str) -> dict[str, Any]:
    """Return of a model file what a manifest of its training would say."""
    return {"stage": "train", "fingerprint": read_manifest(Path(path))["fingerprint"]}


def inspect(job: Job, contents: Mapping[str, Mapping[str, Any]]) -> Iterator[Fault]:
    """Find what is wrong with the results of one job, reading no arrays.

    Parameters
    ----------
    job : mapping
        One of the ``jobs`` of `run`.
    contents : mapping
        The manifests of all jobs, by path.
    """
    stage, content = job["stage"], contents[job["output"]]
    differing = [key for key in ("settings", "code") if content.get(key) != job[key]]
    if differing:
        texts: Iterable[str] = [f"made with other {' and other '.join(differing)}"]
    else:
        texts = (_inspect_model if stage == "train" else _inspect_lot)(job, contents)
    yield from (Fault(stage, job["output"], text) for text in texts)


def _inspect_lot(job: Job, contents: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    folder, calls = Path(job["output"]).parent, INPUTS.get(job["stage"], {})
    before = {name: _find(contents, job, stage) for name, stage in calls.items()}
    chosen = _find_choice(contents, job)
    for entry in contents[job["output"]]["samples"]:
        sample, recorded = entry["sample"], entry.get("inputs", {})
        key = entry["dataset"], sample
        now = {name: known.get(key, known.get(None)) for name, known in before.items()}
        if entry["status"] == "skipped" and all(now.values()):
            yield f"{sample} was skipped, though all it is made from is there now"
        if entry["status"] != "done":
            continue
        if entry["store"]:
            store = folder / entry["store"]
            marker = MARKERS.get(job["stage"], "zarr.json")
            if problem := _inspect_folder(store, marker, entry["fingerprint"]):
                yield problem
                continue
            made_from = _made_from(store)
            recorded = made_from["inputs"]
            if chosen and not chosen.items() <= made_from["settings"]["instances"].items():
                yield f"{sample} was split by other values than tune has chosen"
        for name, stage in calls.items():
            if recorded.get(name) != now[name]:
                yield f"{sample} was made from another result of {stage} than there is now"


def _inspect_model(job: Job, contents: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    content = contents[job["output"]]
    marker = Path(job["output"]).parent / content["model"]
    if problem := _inspect_folder(marker.parent, marker.name, content["fingerprint"]):
        yield problem
        return
    entries = [entry for path in job["inputs"] for entry in contents[path]["samples"]]
    now = {f"{entry['dataset']}/{entry['sample']}": entry["fingerprint"] for entry in entries}
    recorded = _made_from(marker.parent)["inputs"]
    for part in ("train", "validation"):
        for name, fingerprint in recorded[part].items():
            if now.get(name) != fingerprint:
                yield f"the model was trained on other weights of {name} than there are now"


def _find(
    contents: Mapping[str, Mapping[str, Any]], job: Job, stage: str
) -> dict[tuple[str, str] | None, Any]:
    """Return the fingerprints of one of the results that a job reads, by data set and sample."""
    read = [contents[path] for path in job["inputs"] if contents[path]["stage"] == stage]
    if stage == "train":  # one result for all samples
        found = [content["fingerprint"] for content in read]
        return {None: found if len(found) > 1 else found[0]}  # several are an ensemble
    entries = (entry for content in read for entry in content["samples"])
    return {(entry["dataset"], entry["sample"]): entry["fingerprint"] for entry in entries}


def _find_choice(contents: Mapping[str, Mapping[str, Any]], job: Job) -> Mapping[str, float]:
    """Return the values that tune has chosen for a job; none if there is no such choice."""
    read = (contents[path] for path in job["inputs"])
    return next((content["chosen"] for content in read if content["stage"] == "tune"), {})


def _inspect_folder(folder: Path, marker: str, fingerprint: str) -> str:
    """Say what is wrong with an artifact; nothing, if it is finished and the one expected."""
    if not folder.exists():
        return f"{folder} is missing"
    if not ((folder / marker).is_file() and (folder / BOOKS / "fingerprint.json").is_file()):
        return f"{folder} is unfinished"
    if digest(_made_from(folder)) != fingerprint:
        return f"{folder} is another result than its manifest says"
    return ""


def _made_from(folder: Path) -> dict[str, Any]:
    return json.loads((folder / BOOKS / "fingerprint.json").read_text())


def explain(faults: Sequence[Fault]) -> str:
    """Put all faults and the command against them into one message."""
    lines = [f"{fault.manifest}: {fault.text}" for fault in faults[:MANY]]
    if len(faults) > MANY:
        lines.append(f"and {len(faults) - MANY} more")
    forced = list(dict.fromkeys(fault.manifest for fault in faults))
    if len(forced) > MANY:
        forced = list(dict.fromkeys(fault.stage for fault in faults))
    count = f"{len(faults)} result{'s are' if len(faults) > 1 else ' is'}"
    head = f"{count} not what the settings and the code of now make:"
    return "\n  - ".join([head, *lines]) + (
        "\nSnakemake does not know: its own records (.snakemake/metadata) were lost, or results "
        "were moved here or deleted by hand. Make them again, and with them all that follows "
        "(with the --configfile of this run, if it had one):\n"
        f"  snakemake --cores all --forcerun {' '.join(forced)}"
    )
