"""The stage view: what lies beside its manifest, after kills, edits and damage; and its pages."""

import csv
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from gigaseg import layers, viewer
from gigaseg.addresses import Addresses
from gigaseg.intensity import measure
from gigaseg.ledger import read_attempts
from gigaseg.manifests import read_manifest, write_manifest
from gigaseg.pyramids import write_pyramid
from gigaseg.stages import view
from gigaseg.summaries import read_results
from gigaseg.volumes import commit_image, commit_labels, create_array

STORAGE = {"chunk": 32, "shard": 64, "smallest_level": 64}
SETTINGS = {"samples": "all", "pane": 64, "quality": 85, "files": 8000, "planes": 256}
HOSTILE = "</script><script>alert(1)</script>"
ROW = {"sample": "a.1", "dataset": "cells", "split": "test"}


def write(store, data, commit, mode, attributes=None, **facts):
    create_array(store, "0", data.shape, data.dtype, storage=STORAGE)[...] = data
    levels = write_pyramid(store, mode=mode, storage=STORAGE)
    commit(store, spacing=(1, 0.5, 0.5), levels=levels, attributes=attributes or {}, **facts)


class Lot:
    """A lot of one sample, 2 planes of 150 x 100 px, with an object in the first pane only."""

    def __init__(self, root):
        self.root = root
        self.manifest = root / "view/e/fold-0/cells-0000.json"
        self.folder = self.manifest.parent / "cells/a.1.panes"
        labels = np.zeros((2, 150, 100), np.uint32)
        labels[:, 10:40, 20:50] = 1
        image = np.random.default_rng(0).integers(0, 255, (1, *labels.shape)).astype(np.uint8)
        self.stores = {
            stage: root / f"{stage}.ome.zarr" for stage in ("convert", "predict", "split")
        }
        write(self.stores["convert"] / "labels" / "truth", labels, commit_labels, "nearest")
        statistics = {"statistics": measure(image)}
        write(self.stores["convert"], image, commit_image, "mean", statistics, channel_names=["a"])
        maps = (labels[None] * 255).astype(np.uint8)
        write(self.stores["predict"], maps, commit_image, "mean", channel_names=["interior"])
        write(self.stores["split"], labels, commit_labels, "nearest")
        for stage, store in self.stores.items():
            entry = {**ROW, "status": "done", "message": None, "fingerprint": stage}
            entry["store"] = store.name
            write_manifest(root / f"{stage}.json", {"stage": stage, "samples": [entry]})

    def run(self, **settings):
        told = {"lot": "cells-0000", "samples": [ROW], "experiment": "e", "fold": 0}
        told["view"] = {**SETTINGS, **settings}
        before = {stage: self.root / f"{stage}.json" for stage in self.stores}
        view.run(manifest=self.manifest, settings=told, code="c0de", threads=2, **before)
        return read_manifest(self.manifest)["samples"][0]

    def content(self):
        return {
            p: p.read_bytes() for p in self.folder.glob("*/**/*") if p.suffix in (".jpg", ".png")
        }

    @property
    def reasons(self):
        return [a["reason"] for a in read_attempts(self.folder) if a["event"] == "start"]


@pytest.fixture
def lot(tmp_path):
    return Lot(tmp_path)


def test_what_lies_beside_the_manifest(lot):
    entry = lot.run()
    assert (entry["store"], entry["page"]) == ("cells/a.1.panes", "cells/a.1.html")
    names = {p.relative_to(lot.folder).as_posix() for p in lot.content()}
    # 150 x 100 px in panes of 64 px, the half in 2 x 1, the quarter in one; of two planes.
    images = {f"image/{z}/0-{y}-{x}.jpg" for z in (0, 1) for y in range(3) for x in range(2)}
    images |= {f"image/{z}/1-{y}-0.jpg" for z in (0, 1) for y in range(2)}
    images |= {f"image/{z}/2-0-0.jpg" for z in (0, 1)}
    assert {name for name in names if name.startswith("image/")} == images
    # The object lies in the first pane of each level: all others are no files.
    others = {f"{z}/{level}-0-0.png" for z in (0, 1) for level in range(3)}
    for layer in ("probability-0", "truth", "instances"):
        assert {n.removeprefix(f"{layer}/") for n in names if n.startswith(layer)} == others
    shown = json.loads((lot.folder / "panes.json").read_text())
    assert shown["shape"] == [2, 150, 100]
    assert shown["levels"][1] == {"level": 1, "extent": [75, 50]}
    assert [layer["there"][0] for layer in shown["layers"]] == [
        ["111111", "11", "1"], *[["100000", "10", "1"]] * 3
    ]  # fmt: skip
    program = lot.manifest.parent / "viewer"
    assert {path.name for path in program.iterdir()} == {Path(n).name for n in viewer.PROGRAM}


def test_equal_inputs_give_equal_bytes_and_nothing_is_drawn_twice(lot, monkeypatch):
    lot.run()
    first = lot.content()
    drawn = []
    pane = layers.Layer.pane
    monkeypatch.setattr(layers.Layer, "pane", lambda *a: drawn.append(a) or pane(*a))
    lot.run()
    assert drawn == []
    (lot.folder / "panes.json").unlink()
    lot.run()
    assert drawn == []
    assert lot.reasons == ["first", "resumed"]
    for path in (lot.folder, *lot.folder.rglob("*")):
        assert path.exists()
    other = Lot(lot.root / "other")
    other.run()
    assert [*other.content().values()] == [*first.values()]


def test_a_killed_job_goes_on_and_panes_that_are_torn_or_gone_are_drawn_again(lot, monkeypatch):
    lot.run()
    expected = lot.content()
    for number in (1, 7, 20):
        fresh = Lot(lot.root / f"killed-{number}")
        record, done = view.BlockLedger.record, []

        def die(ledger, *facts, record=record, done=done, number=number):
            if len(done) == number:
                raise SystemExit("killed before a pane is recorded")
            done.append(facts[0])
            record(ledger, *facts)

        with monkeypatch.context() as patch:
            patch.setattr(view.BlockLedger, "record", die)
            with pytest.raises(SystemExit):
                fresh.run()
        assert not (fresh.folder / "panes.json").exists()
        files = sorted(fresh.content())
        files[0].write_bytes(files[0].read_bytes()[:20])
        files[-1].unlink()
        fresh.run()
        assert [*fresh.content().values()] == [*expected.values()]
        assert fresh.reasons == ["first", "resumed"]


def test_other_settings_begin_again_and_say_so(lot, caplog):
    lot.run()
    lot.run(pane=128)
    assert "begun again: settings (pane) differs" in caplog.text
    assert not (lot.folder / "image/0/0-2-0.jpg").exists()
    assert (lot.folder / "image/0/0-1-0.jpg").exists()


def test_limits_of_planes_and_files_are_kept(lot):
    lot.run(planes=1, files=4)
    shown = json.loads((lot.folder / "panes.json").read_text())
    assert shown["planes"] == [0]
    assert [level["level"] for level in shown["levels"]] == [2]


def test_a_sample_that_was_not_segmented_is_skipped(lot):
    content = read_manifest(lot.root / "split.json")
    content["samples"][0] |= {"status": "failed", "message": "broken", "store": None}
    write_manifest(lot.root / "split.json", content)
    entry = lot.run()
    assert (entry["status"], entry["message"]) == ("skipped", "split failed: broken")
    assert not lot.folder.exists()


def test_the_report_finds_the_pages_that_are_there(lot):
    lot.run()
    records = read_results(lot.root).at("view")
    sample = ("e", "0", "cells", "a.1")
    addresses = Addresses(records, lot.root / "report")
    assert addresses.find(*sample) == "../view/e/fold-0/cells/a.1.html"
    place = addresses.find(*sample, place={"z": 1, "x": 5})
    assert place == "../view/e/fold-0/cells/a.1.html#z=1&x=5"
    assert addresses.find("e", "1", "cells", "a.1") == ""
    (lot.folder.parent / "a.1.html").unlink()
    assert addresses.find(*sample) == ""


def test_every_given_string_of_a_page_is_escaped():
    names = ("sample", "dataset", "experiment", "fold", "folder", "report")
    page = viewer.render_viewer({"layers": [{"title": HOSTILE}]}, dict.fromkeys(names, HOSTILE))
    assert page.count("<script") == 4  # two of data, two of program
    assert page.count("</script>") == 4
    assert "<script>alert" not in page
    assert page.count("alert(1)") == 10


def test_pages_ask_for_nothing_from_outside(lot):
    lot.run()
    page = (lot.folder.parent / "a.1.html").read_text()
    assert re.findall(r'(?:src|href)="([^"]*)"', page) == [
        "data:,",
        "../viewer/viewer.css",
        "../../../../report/report.html",
        "../viewer/openseadragon.min.js",
        "../viewer/viewer.js",
    ]
    for name in ("viewer.css", "viewer.js"):
        text = (viewer.RESOURCES / name).read_text()
        assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest", text)


def test_what_is_bundled_is_what_its_table_says():
    folder = viewer.RESOURCES / "vendor"
    with (folder / "vendor.tsv").open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file, delimiter="\t")}
    assert {path.name for path in folder.iterdir()} == {"vendor.tsv", *rows}
    for name, row in rows.items():
        data = (folder / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
    library = (folder / "openseadragon.min.js").read_text()
    assert library.startswith(f"//! openseadragon {rows['openseadragon.min.js']['version']}\n")
    assert "OpenSeadragon contributors" in (folder / "openseadragon.LICENSE.txt").read_text()
