"""Where the pages of the viewer are: beside the panes of their sample, and as links."""

from collections.abc import Iterable, Mapping
from os.path import relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

PANES, PAGE = ".panes", ".html"


def page_of(panes: Path) -> Path:
    """Return the page that shows a folder of panes.

    Examples
    --------
    >>> page_of(Path("view/e/fold-0/cells/a.1.panes")).as_posix()
    'view/e/fold-0/cells/a.1.html'
    """
    return panes.with_name(panes.name.removesuffix(PANES) + PAGE)


class Addresses:
    """Links from a folder to the pages of the viewer.

    Parameters
    ----------
    records : iterable
        What the manifests of stage view say, see `gigaseg.summaries.Record`.
    folder : Path
        Where the page with the links is.

    Examples
    --------
    >>> Addresses([], Path("report")).find("e", "0", "cells", "a")
    ''
    """

    def __init__(self, records: Iterable[Any], folder: Path) -> None:
        self._pages = {
            (r.experiment, str(r.fold), r.dataset, r.sample): page_of(r.store)
            for r in records
            if r.store is not None
        }
        self._folder = folder

    def find(self, *sample: Any, place: Mapping[str, int] | None = None) -> str:
        """Return the address of a sample's page; empty if there is none.

        Parameters
        ----------
        *sample : str
            Experiment, fold, data set and sample.
        place : mapping of str to int, optional
            What is shown first: plane ``z``, and a box of ``w`` by ``h`` px from ``x``, ``y``.
        """
        experiment, fold, dataset, name = sample
        page = self._pages.get((experiment, str(fold), dataset, name))
        if page is None or not page.is_file():
            return ""
        hash_ = "&".join(f"{key}={value}" for key, value in (place or {}).items())
        return quote(Path(relpath(page, self._folder)).as_posix()) + (f"#{hash_}" if hash_ else "")


def link_samples(context: Mapping[str, Any], addresses: Addresses) -> None:
    """Give each sample that the report shows the address of its ``viewer``; empty without one.

    Parameters
    ----------
    context : mapping
        ``sample_rows`` of the table, and ``galleries`` with ``samples``, which say their ``fold``
        and, as ``place``, what of them is shown.
    addresses : Addresses
        As links from the report.
    """
    for row in context["sample_rows"]:
        keys = ("experiment", "fold", "dataset", "sample")
        row["viewer"] = addresses.find(*(row[key] for key in keys))
    for gallery in context["galleries"]:
        for shown in gallery["samples"]:
            sample = gallery["experiment"], shown["fold"], gallery["dataset"], shown["sample"]
            shown["viewer"] = addresses.find(*sample, place=shown.get("place"))
