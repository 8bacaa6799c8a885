"""View: pictures of any size, cut into panes, and a page that pans and zooms over them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from os.path import relpath
from pathlib import Path
from typing import Any

from ..addresses import PANES, page_of
from ..disk import settle, writing
from ..fingerprints import canonical_json, digest, fingerprint
from ..geometry import Window
from ..layers import Layer, open_layers
from ..ledger import BlockLedger, Construction
from ..manifests import write_atomically
from ..pace import Pace
from ..panes import Panes
from ..viewer import FOLDER, copy_program, render_viewer
from . import Row, read_entries, run_lot, share_threads

LIBRARIES = ("numpy", "pillow", "zarr")
MARKER = "panes.json"  # of a folder whose panes are all there; says which


def run(
    *,
    manifest: Path,
    convert: Path,
    predict: Path,
    split: Path,
    settings: Mapping[str, Any],
    code: str,
    threads: int,
) -> None:
    """Make the viewer of each sample of a lot.

    Parameters
    ----------
    manifest : Path
        Written last. Beside it lie the pages ``<dataset>/<sample>.html``, their panes in
        ``<dataset>/<sample>.panes``, and in ``viewer`` what all pages load. A copy of that folder
        works anywhere, from a file share too.
    convert, predict, split : Path
        Manifests of the lot's images with truth, its probabilities and its instances.
    settings : mapping
        ``lot``, ``samples``, ``experiment``, ``fold`` and ``view``.
    code : str
        Digest of this stage's code.
    threads : int
        Samples drawn at once, then panes of each; they never change a byte.
    """
    stages = {"image": convert, "probabilities": predict, "instances": split}
    entries = {name: read_entries(path) for name, path in stages.items()}
    at_once, workers = share_threads(threads, len(settings["samples"]))
    copy_program(manifest.parent / FOLDER)

    def work(row: Row) -> dict[str, Any]:
        folder = manifest.parent / row["dataset"] / f"{row['sample']}{PANES}"
        inputs = {name: entries[name][row["sample"]] for name in stages}
        facts = view_sample(inputs, folder, settings=settings["view"], code=code, workers=workers)
        write_page(folder, row, settings, report=manifest.parents[3] / "report" / "report.html")
        return facts

    rows, before = settings["samples"], entries["instances"]
    run_lot("view", manifest, settings, rows, work, before, code=code, workers=at_once)


def view_sample(
    inputs: Mapping[str, Mapping[str, Any]],
    folder: Path,
    *,
    settings: Mapping[str, Any],
    code: str,
    workers: int,
) -> dict[str, Any]:
    """Draw the panes of one sample.

    Parameters
    ----------
    inputs : mapping
        The sample's entries in the manifests of convert, predict and split: ``image``,
        ``probabilities``, ``instances``.
    folder : Path
        Where the panes go: ``<layer>/<plane>/<level>-<row>-<column>``, ``.jpg`` or ``.png``. Panes
        without anything to see are no files.
    settings : mapping
        ``pane``, ``quality``, ``files`` and ``planes``.
    code, workers
        As for `run`.

    Returns
    -------
    dict
        Facts for the manifest.

    Raises
    ------
    ValueError
        If a store is missing or unfinished, or they do not cover the same voxels.
    """
    made_from = fingerprint(
        code=code,
        settings={key: settings[key] for key in ("pane", "quality", "files", "planes")},
        inputs={name: entry["fingerprint"] for name, entry in inputs.items()},
        libraries=LIBRARIES,
    )
    with Construction(folder, made_from, marker=MARKER) as construction:
        if not construction.committed:
            stores = {name: entry["store"] for name, entry in inputs.items()}
            _fill(
                construction, open_layers(**stores, quality=settings["quality"]), settings, workers
            )
    return {"store": folder, "page": page_of(folder), "fingerprint": digest(made_from)}


@dataclass(frozen=True)
class Pane:
    """A pane to be drawn."""

    layer: Layer
    plane: int
    level: int
    window: Window
    side: int

    @property
    def key(self) -> str:
        """Its place below the folder of the panes, without the ending."""
        row, column = (start // self.side for start in self.window.start)
        return f"{self.layer.name}/{self.plane}/{self.level}-{row}-{column}"

    def draw(self, folder: Path, ledger: BlockLedger) -> bool:
        """Draw and record it; return False if an earlier attempt did and it is still there."""
        path = folder / f"{self.key}.{self.layer.ending}"
        if self.key in ledger.checksums and ledger.checksums[self.key] == _checksum(path):
            return False
        data = self.layer.pane(self.plane, self.level, self.window)
        with writing(path):
            if data is None:
                path.unlink(missing_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        height, width = self.window.shape
        ledger.record(self.key, _checksum(path), height * width)
        return True


def _checksum(path: Path) -> str | None:
    """Return the digest of a pane; None if it is no file, as there is nothing to see."""
    return sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _fill(
    construction: Construction, layers: Sequence[Layer], settings: Mapping[str, Any], workers: int
) -> None:
    """Draw all panes, then say which there are."""
    panes = Panes.choose(
        layers[0].volume.shape,
        min(len(layer.volume.levels) for layer in layers),
        len(layers),
        side=settings["pane"],
        files=settings["files"],
        planes=settings["planes"],
    )
    ledger, folder = construction.ledger("panes"), construction.path
    every = list(_each(layers, panes))
    pace = Pace(ledger.title, len(every), "panes")

    def draw(pane: Pane) -> None:
        pace.advance(kept=not pane.draw(folder, ledger))

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(draw, every))
    settle(folder)  # the marker says that they are there
    image = layers[0].volume
    shown = {
        "shape": panes.shape,
        "spacing": image.spacing,
        "side": panes.side,
        "planes": panes.planes,
        "levels": [{"level": n, "extent": panes.extent(n)} for n in panes.levels],
        "layers": [_describe(layer, panes, ledger.checksums) for layer in layers],
    }
    write_atomically(folder / MARKER, canonical_json(shown, indent=1) + "\n")


def _each(layers: Sequence[Layer], panes: Panes) -> Iterator[Pane]:
    """Go through all panes, the coarsest levels of a plane first."""
    for plane in panes.planes:
        for level in reversed(panes.levels):
            for window in panes.windows(level):
                for layer in layers:
                    yield Pane(layer, plane, level, window, panes.side)


def _describe(layer: Layer, panes: Panes, checksums: Mapping[str, str | None]) -> dict[str, Any]:
    """Return what the page needs to know of a layer.

    ``there`` has a text per plane and level, with a 1 or a 0 per pane in raster order.
    """
    there = [
        [
            "".join(
                "1" if checksums[Pane(layer, plane, level, window, panes.side).key] else "0"
                for window in panes.windows(level)
            )
            for level in panes.levels
        ]
        for plane in panes.planes
    ]
    colour = None if layer.colour is None else "#{:02x}{:02x}{:02x}".format(*layer.colour)
    described = {"name": layer.name, "title": layer.title, "ending": layer.ending}
    return described | {"colour": colour, "there": there}


def write_page(folder: Path, row: Row, settings: Mapping[str, Any], *, report: Path) -> None:
    """Write the page of a sample whose panes are there.

    Parameters
    ----------
    folder : Path
        Of the panes.
    row : mapping
        The sample's row of the sheet.
    settings : mapping
        ``experiment`` and ``fold``.
    report : Path
        The page that the link back leads to.
    """
    facts = {
        "sample": row["sample"],
        "dataset": row["dataset"],
        "experiment": settings["experiment"],
        "fold": settings["fold"],
        "folder": folder.name,
        "report": Path(relpath(report, folder.parent)).as_posix(),
    }
    shown = json.loads((folder / MARKER).read_text())
    write_atomically(page_of(folder), render_viewer(shown, facts))
