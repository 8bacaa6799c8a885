"""Compare what each stage took for a large sample and for a small one, from a run's own records.

Usage: python .ci/scaling.py results/gigapixel megapixels gigapixel

Reads manifests, Snakemake's benchmark files and the folders of the stores of a finished run whose
two data sets hold one sample each, and prints Markdown. Ratios are the large sample's by the small
one's: 1.15 or below is aimed at. What stores took is what the last attempt at them noted, without
the start of the process, but with the compiling of kernels that no run has needed yet.
"""

import csv
import json
import math
import sys
from pathlib import Path
from typing import Any

from gigaseg.benchmarks import number
from gigaseg.ledger import read_attempts

STORES = ("convert", "predict", "split")
STAGES = ("phantom", *STORES, "evaluate", "audit_seams", "view")
COLUMNS = {"s": "wall", "cpu_time": "CPU", "max_rss": "peak memory"}


def find_one(root: Path, pattern: str) -> Path:
    """Return the one file that fits a pattern."""
    found = sorted(root.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{root}/{pattern}: {len(found)} files, not 1; finish the run first")
    return found[0]


def read_cost(results: Path, stage: str, dataset: str) -> dict[str, float]:
    """Read wall and CPU time in seconds, and the peak resident set in MB, of a lot's job."""
    with find_one(results, f"benchmarks/{stage}/**/{dataset}*.tsv").open(newline="") as file:
        (row,) = csv.DictReader(file, delimiter="\t")
    cost = {name: number(row[key]) for key, name in COLUMNS.items()}
    if stage in STORES:
        # Snakemake looks every 30 s only, and at the start of the process too.
        folder, entry = read_entry(results, stage, dataset)
        notes = read_attempts(folder / entry["store"])
        first, *_, last = (note for note in notes if note["attempt"] == notes[-1]["attempt"])
        cost = {
            "wall": last["time"] - first["time"],
            "CPU": last["cpu_seconds"] - first["cpu_seconds"],
            "peak memory": last["peak_memory_mb"],
        }
    return cost


def read_entry(results: Path, stage: str, dataset: str) -> tuple[Path, dict[str, Any]]:
    """Read a sample's entry in the manifest of its lot; return also the manifest's folder."""
    folder = "audit" if stage == "audit_seams" else stage
    manifest = find_one(results, f"{folder}/**/{dataset}-[0-9]*.json")
    (entry,) = json.loads(manifest.read_text())["samples"]
    if entry["status"] != "done":
        raise SystemExit(f"{manifest}: {entry['status']}: {entry['message']}")
    return manifest.parent, entry


def count_files(store: Path) -> tuple[int, float]:
    """Return number and size in MB of the files of a store."""
    sizes = [path.stat().st_size for path in store.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes) / 1e6


def print_costs(results: Path, small: str, large: str, pixels: tuple[float, float]) -> None:
    """Print one line per stage: time per pixel and memory of both samples, and their ratios."""
    kinds = [f"{name}, {unit}" for name, unit in (("wall", "s/Mpx"), ("CPU", "s/Mpx"))]
    print("|".join(["", " stage ", *(f" {kind} | × " for kind in [*kinds, "peak memory, MB"]), ""]))
    print("|---" * 7 + "|")
    for stage in STAGES:
        costs = [read_cost(results, stage, name) for name in (small, large)]
        cells = [stage]
        for name in COLUMNS.values():
            per = pixels if name != "peak memory" else (1, 1)
            a, b = (cost[name] / n for cost, n in zip(costs, per, strict=True))
            digits = 3 if name != "peak memory" else 0
            cells += [f"{a:.{digits}f} → {b:.{digits}f}", f"{b / a:.2f}"]
        print(f"| {' | '.join(cells)} |")


def print_stores(results: Path, large: str) -> None:
    """Print files, size and digest of every store of a sample, and what its audit found."""
    print("\n| store | files | MB | digest |\n|---|---:|---:|---|")
    for stage in STORES:
        folder, entry = read_entry(results, stage, large)
        files, size = count_files(folder / entry["store"])
        print(f"| {stage} | {files} | {size:.0f} | {entry.get('digest', '–')} |")
    _, audit = read_entry(results, "audit_seams", large)
    known = ("sample", "dataset", "split", "status", "message", "store", "fingerprint", "inputs")
    print("\nAudit of seams:", json.dumps({k: v for k, v in audit.items() if k not in known}))


def main(results: Path, small: str, large: str) -> None:
    """Print the comparison."""
    shapes = [read_entry(results, "evaluate", name)[1]["shape"] for name in (small, large)]
    first, second = (math.prod(shape) / 1e6 for shape in shapes)
    print(f"From {first:.0f} to {second:.0f} Mpx:\n")
    print_costs(results, small, large, (first, second))
    print_stores(results, large)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), *sys.argv[2:])
