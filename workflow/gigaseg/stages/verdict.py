"""The last word on a run: it fails, and says so, if any sample failed anywhere."""

from collections.abc import Sequence
from pathlib import Path

from ..manifests import read_manifest, write_manifest


def run(*, manifest: Path, report: Path, outcomes: Sequence[Path]) -> None:
    """Look through the manifests of all stages for samples that failed.

    Parameters
    ----------
    manifest : Path
        Written only if there are none.
    report : Path
        Manifest of the report; the page lies beside it.
    outcomes : sequence of Path
        Manifests of the lots of all stages.

    Raises
    ------
    RuntimeError
        Naming each failed sample, its stage and message, and the command that tries again.
    """
    failed: dict[Path, list[str]] = {}
    done = 0
    for path in outcomes:
        content = read_manifest(path)
        for entry in content["samples"]:
            done += entry["status"] == "done"
            if entry["status"] == "failed":
                name = f"{entry['dataset']}/{entry['sample']}"
                line = f"{content['stage']} of {name}: {entry['message']}"
                failed.setdefault(_origin(content["stage"], path), []).append(line)
    if failed:
        raise RuntimeError(_explain(failed, report.with_suffix(".html")))
    write_manifest(manifest, {"stage": "verdict", "manifests": len(outcomes), "done": done})


def _origin(stage: str, path: Path) -> Path:
    """Return the manifest of what is to be made again: for seams, that of the prediction."""
    if stage != "audit_seams":
        return path
    folder = path.parents[2]
    return folder.with_name("predict") / path.relative_to(folder)


def _explain(failed: dict[Path, list[str]], page: Path) -> str:
    lines = [line for found in failed.values() for line in found]
    count = f"{len(lines)} sample{'s' if len(lines) > 1 else ''}"
    return "\n  - ".join([f"{count} failed, all others are finished:", *lines]) + (
        "\nRepair the files, or take the samples from the sheet, and run the same command again. "
        "If the cause lay elsewhere (with the --configfile of this run, if it had one):\n"
        f"  snakemake --cores all --forcerun {' '.join(map(str, failed))}\n"
        f"The report shows the rest: {page}"
    )
