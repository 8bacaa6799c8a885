"""Files of one JSON object per line, to which processes that may die at any moment append."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .fingerprints import canonical_json


def append_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Add a line to a file; what a process that died while writing left is closed first."""
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        else:
            torn = False
        file.write(b"\n" * torn + canonical_json(entry).encode() + b"\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a file, without lines cut off by death or spoilt since."""
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry
