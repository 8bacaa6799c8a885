"""What the report shows as proof that cutting the work changed nothing: seams and digests."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from .fingerprints import digest
from .glossary import TERMS
from .summaries import Record, Results

#: Longest table of samples the page holds.
MAXIMUM_ROWS = 500


def build_proof(results: Results) -> dict[str, Any]:
    """Collect what the template shows of seams and digests.

    Returns
    -------
    dict
        ``experiments``, ``samples``, ``left_out`` (samples too many to show) and ``terms``.
    """
    records = [r for r in results.records if r.stage in ("predict", "audit_seams", "split")]
    samples = [
        _sample({record.stage: record for record in group})
        for _, group in groupby(sorted(records, key=_key), _key)
    ]
    samples = [sample for sample in samples if sample["probabilities"] or sample["checked"]]
    return {
        "experiments": [
            _experiment(name, list(group))
            for name, group in groupby(samples, lambda sample: sample["experiment"])
        ],
        "samples": samples[:MAXIMUM_ROWS],
        "left_out": max(len(samples) - MAXIMUM_ROWS, 0),
        "terms": list(TERMS.items()),
    }


def _key(record: Record) -> tuple[str, ...]:
    return record.experiment, record.dataset, record.fold, record.sample


def _sample(stages: dict[str, Record]) -> dict[str, Any]:
    """Describe one sample of one model by what each stage says of it."""
    one = next(iter(stages.values()))
    facts = {
        stage: stages[stage].facts if stage in stages and stages[stage].status == "done" else {}
        for stage in ("predict", "audit_seams", "split")
    }
    seams = facts["audit_seams"]
    comparable = facts["predict"].get("comparable", True)
    return {
        **{key: getattr(one, key) for key in ("experiment", "dataset", "fold", "sample")},
        "checked": "audit_seams" in stages and stages["audit_seams"].status != "skipped",
        "failed": "audit_seams" in stages and stages["audit_seams"].status == "failed",
        "note": seams.get("note") or "",
        "seams": dict(seams.get("seams", {})),
        "windows": seams.get("windows", 0),
        "values": seams.get("values", 0),
        "differing": seams.get("differing", 0),
        "steps": seams.get("steps") if seams.get("windows") else None,
        "delta": seams.get("delta"),
        "probabilities": facts["predict"].get("digest"),
        "labels": facts["split"].get("digest"),
        "hardware": "" if comparable else "; ".join(facts["predict"].get("hardware", [])),
        "comparable": comparable,
    }


def _experiment(name: str, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sum up the samples of an experiment."""
    seams = {kind: sum(s["seams"].get(kind, 0) for s in samples) for kind in ("block", "tile")}
    return {
        "experiment": name,
        "samples": len(samples),
        "failed": sum(sample["failed"] for sample in samples),
        "seams": seams,
        **{key: sum(s[key] for s in samples) for key in ("windows", "values", "differing")},
        "steps": _largest(sample["steps"] for sample in samples),
        "delta": _largest(sample["delta"] for sample in samples),
        "probabilities": _joint(samples, "probabilities"),
        "labels": _joint(samples, "labels"),
        "comparable": all(sample["comparable"] for sample in samples),
    }


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _joint(samples: Sequence[dict[str, Any]], kind: str) -> str | None:
    """Return one digest of the digests of all samples; None if there is none."""
    names = ("dataset", "fold", "sample")
    found = [[*(s[name] for name in names), s[kind]] for s in samples if s[kind]]
    return digest(sorted(found)) if found else None
