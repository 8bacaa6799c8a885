"""The sheet of samples: rows and lots."""

import csv
import glob
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .schema import Problem, nearest, read_schema, validate


@dataclass(frozen=True)
class Sample:
    """A row of the sheet.

    An empty `label` means that there is no truth. Samples of one `group` are of one specimen, slide
    or patient: too alike to learn from some and be judged by others. `planes`, such as ``0-5``, are
    those of the files that are the sample; empty for all.
    """

    sample: str
    dataset: str
    split: str
    image: str
    label: str = ""
    group: str = ""
    planes: str = ""

    @property
    def cut(self) -> tuple[int, int] | None:
        """First plane, and the one behind the last; None for all."""
        if not self.planes:
            return None
        first, last = map(int, self.planes.split("-"))
        return first, last + 1


def read_sheet(path: Path) -> tuple[list[Sample], list[Problem]]:
    """Read the table of samples, texts separated by tabs, and list what is wrong with it.

    Rows with a problem of form are left out of the samples.
    """
    where = (str(path),)
    if not path.is_file():
        return [], [Problem(where, "the sheet of samples does not exist")]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        return [], [Problem(where, f"not a text in UTF-8: {error}")]
    reader = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    problems = list(_check_columns(where, reader.fieldnames or ()))
    if problems:
        return [], problems
    samples = []
    for number, row in enumerate(reader, start=2):
        found = list(_check_row((f"{path}, row {number}",), row))
        problems += found
        if not found:
            samples.append(Sample(**{key: value or "" for key, value in row.items()}))
    if not samples and not problems:
        problems.append(Problem(where, "the sheet has no rows"))
    return samples, problems


def _check_columns(where: tuple[str, ...], columns: Sequence[str]) -> Iterator[Problem]:
    schema = read_schema("samples")
    if len(columns) == 1 and ("," in columns[0] or ";" in columns[0]):
        yield Problem(where, "columns are separated by tabs, not by commas or semicolons")
        return
    for column in columns:
        if column not in schema["properties"]:
            text = f"unknown column {column!r}{nearest(column, schema['properties'])}"
            yield Problem(where, text)
    for column in schema["required"]:
        if column not in columns:
            yield Problem(where, f"column {column!r} is missing")


def _check_row(where: tuple[str, ...], row: Mapping[Any, Any]) -> Iterator[Problem]:
    if None in row:
        yield Problem(where, f"has more cells than the header has columns: {row[None]}")
        return
    schema = read_schema("samples")["properties"]
    for column, value in row.items():
        for problem in validate(value or "", schema[column]):
            yield Problem(where, f"{column}: {problem}")


def check(samples: Sequence[Sample], settings: Mapping[str, Any], sheet: str) -> Iterator[Problem]:
    """Yield what is wrong between the sheet and the settings, and files that are not there."""
    where, datasets = (sheet,), settings.get("datasets", {})
    counts = Counter((s.dataset, s.sample) for s in samples)
    for (dataset, name), count in counts.items():
        if count > 1:
            text = f"sample {name!r} stands {count} times in data set {dataset!r}"
            yield Problem(where, text)
    for dataset, first, second in _alike(counts):
        text = f"samples {first!r} and {second!r} of data set {dataset!r} differ in case only"
        yield Problem(where, f"{text}: not all file systems tell them apart")
    for dataset in dict.fromkeys(s.dataset for s in samples):
        if datasets and dataset not in datasets:
            near = nearest(dataset, datasets) or f"; there are {', '.join(datasets)}"
            yield Problem(where, f"data set {dataset!r} is not in the config{near}")
    for dataset, facts in datasets.items():
        yield from _check_source(("datasets", str(dataset)), facts)
    for sample in samples:
        yield from _check_planes(where, sample, datasets)
        if not sample.label and (use := _use_of_label(sample, datasets)):
            yield Problem(where, f"sample {sample.sample!r} is {use} and has no label")
        if sample.dataset in datasets and not is_made(datasets[sample.dataset]):
            yield from _check_files(where, sample, Path(settings["data_root"] or ""))


def _alike(names: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Yield data set and names of the samples whose files some file systems would take for one."""
    seen: dict[tuple[str, str], str] = {}
    for dataset, name in names:
        known = seen.setdefault((dataset, name.casefold()), name)
        if known != name:
            yield dataset, known, name


def _check_planes(
    where: tuple[str, ...], sample: Sample, datasets: Mapping[str, Any]
) -> Iterator[Problem]:
    if not sample.cut:
        return
    text = f"sample {sample.sample!r} is planes {sample.planes}"
    if sample.cut[0] >= sample.cut[1]:
        yield Problem(where, f"{text}: the first comes first, as in 0-5")
    if datasets.get(sample.dataset, {}).get("phantom"):
        yield Problem(where, f"{text} of a file that is drawn: draw a file for each sample")


def _use_of_label(sample: Sample, datasets: Mapping[str, Any]) -> str:
    """Say why a sample cannot do without a label; empty if it can."""
    if sample.split != "test":
        return f"for {sample.split}"
    return "drawn" if datasets.get(sample.dataset, {}).get("phantom") else ""


def _check_source(where: tuple[str, ...], dataset: Mapping[str, Any]) -> Iterator[Problem]:
    registry = dataset["registry"]
    if registry and dataset["phantom"]:
        yield Problem(where, "has a registry and a phantom: the files are fetched or drawn")
    if registry and not Path(registry).is_file():
        yield Problem((*where, "registry"), f"{registry} does not exist")


def _check_files(where: tuple[str, ...], sample: Sample, root: Path) -> Iterator[Problem]:
    for column in ("image", "label"):
        cell = getattr(sample, column)
        for file in files(root / cell) if cell else ():
            if not file.exists():
                yield Problem(where, f"{column} of sample {sample.sample!r} does not exist: {file}")


def is_made(dataset: Mapping[str, Any]) -> bool:
    """Say whether the workflow itself brings the files of a data set."""
    return bool(dataset.get("phantom") or dataset.get("registry"))


def files(path: Path) -> list[Path]:
    """List the files a cell of the sheet names: a file, a folder, or a series like ``z*.png``.

    A series that matches nothing stands for itself.
    """
    if not glob.has_magic(str(path)):
        return [path]
    return sorted(map(Path, glob.glob(str(path)))) or [path]


def choose(samples: Iterable[Sample], experiment: Mapping[str, Any]) -> list[Sample]:
    """Pick the samples of an experiment's data sets, in sheet order."""
    names = set(experiment.get("datasets") or ())
    return [sample for sample in samples if sample.dataset in names]


def cut_into_lots(
    samples: Iterable[Sample], datasets: Mapping[str, Any]
) -> dict[str, tuple[Sample, ...]]:
    """Cut every data set into lots of its ``lot`` samples, in sheet order.

    Returns
    -------
    dict of lot name to samples
        Names are ``<dataset>-<nnnn>``, counted from 0.

    Examples
    --------
    >>> rows = [Sample(name, "nuclei", "train", f"{name}.tif") for name in "abc"]
    >>> {lot: len(part) for lot, part in cut_into_lots(rows, {"nuclei": {"lot": 2}}).items()}
    {'nuclei-0000': 2, 'nuclei-0001': 1}
    """
    members: dict[str, list[Sample]] = {}
    for sample in samples:
        members.setdefault(sample.dataset, []).append(sample)
    return {
        f"{dataset}-{start // (size := datasets[dataset]['lot']):04d}": tuple(
            rows[start : start + size]
        )
        for dataset, rows in members.items()
        for start in range(0, len(rows), datasets[dataset]["lot"])
    }
