"""The page on which a sample is panned and zoomed, and the program that it needs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from .manifests import write_atomically

RESOURCES = Path(__file__).parents[2] / "resources" / "report"
VENDORED = "vendor/openseadragon.min.js"
#: What every page loads, from a folder beside the data sets.
PROGRAM = ("viewer.css", "viewer.js", VENDORED, "vendor/openseadragon.LICENSE.txt")
FOLDER = "viewer"


def copy_program(folder: Path) -> None:
    """Put what every page loads into a folder; others may do the same at the same time."""
    for name in PROGRAM:
        data = (RESOURCES / name).read_bytes()
        copy = folder / Path(name).name
        if not copy.is_file() or copy.read_bytes() != data:
            write_atomically(copy, data)


def render_viewer(shown: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Write the page of a sample.

    Parameters
    ----------
    shown : mapping
        What `gigaseg.stages.view` notes beside the panes; the page's script reads it.
    facts : mapping of str to str
        ``sample``, ``dataset``, ``experiment``, ``fold``, the folder of the panes, and the address
        of the ``report``.

    Returns
    -------
    str
        Every value is escaped, and a missing one is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(RESOURCES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    template = environment.get_template("viewer.html.jinja")
    return template.render(shown=shown, program=f"../{FOLDER}", **facts)
