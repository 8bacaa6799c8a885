"""Seams of a stored prediction: right ones pass, every kind of wrong one is found."""

import json
import re
from hashlib import sha256

import numpy as np
import pytest
import torch
import zarr
from gigaseg import pace
from gigaseg.geometry import UNetGeometry
from gigaseg.intensity import QUANTILES, Bins, summary
from gigaseg.manifests import read_manifest, write_manifest
from gigaseg.pyramids import write_pyramid
from gigaseg.seams import Layout, audit_size, compare, draw_windows
from gigaseg.stages import audit_seams, predict
from gigaseg.unet import Architecture, UNet
from gigaseg.volumes import commit_image, create_array, open_volume
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

STORAGE = {"chunk": 32, "shard": 64, "smallest_level": 64}
INTENSITY = {"method": "percentile", "low": 1.0, "high": 99.8, "per": "plane"}
PREDICTION = {
    "tile": 32 + 2 * 44 + 4,  # steps by 32 px at depth 3
    "memory_gb": 1.0,
    "precision": "float32",
    "device": "cpu",
    "batch": 1,
    "symmetries": 1,
    "checkpoint": "best",
    "depth": None,
    "compile": "never",
    "spacing_tolerance": 0.1,
}


# ------------------------------------------------------------------------------------ where to look


@settings(deadline=None, max_examples=60)
@given(
    depth=st.integers(1, 4),
    shape=st.tuples(st.integers(1, 3), st.integers(2, 300), st.integers(2, 300)),
    steps=st.integers(1, 5),
    blocks=st.integers(1, 3),
    seed=st.text(max_size=3),
)
def test_windows_lie_over_seams_on_another_phase(depth, shape, steps, blocks, seed):
    geometry = UNetGeometry(depth)
    step = steps * geometry.lattice
    layout = Layout(shape, step, blocks * step)
    drawn = draw_windows(layout, geometry, 5, seed)
    assert bool(drawn) == layout.has_seams == (max(shape[1:]) > step)
    assert drawn == draw_windows(layout, geometry, 5, seed)
    for straddle in drawn:
        start, stop = straddle.window.start, straddle.window.stop
        assert 0 <= start[0] < shape[0]
        assert stop[0] == start[0] + 1
        inside = []
        for axis in (1, 2):
            assert stop[axis] - start[axis] == audit_size(geometry, step)
            assert 0 <= start[axis] < shape[axis]
            assert start[axis] % geometry.lattice == 0
            seams = [s for s in range(step, shape[axis], step) if start[axis] < s < stop[axis]]
            assert len(seams) == (shape[axis] > step)
            if seams and steps > 1:
                assert start[axis] % step
            inside += ["tile" if s % layout.block else "block" for s in seams]
        assert tuple(inside) == straddle.seams


def test_both_kinds_of_seams_are_looked_at():
    layout = Layout((1, 5000, 5000), 64, 1024)
    for seed in "abc":
        kinds = [kind for s in draw_windows(layout, UNetGeometry(4), 4, seed) for kind in s.seams]
        assert kinds.count("block") == kinds.count("tile") == 4


def test_every_sample_with_seams_gets_its_share():
    layouts = {name: Layout((1, 90, 90), 32, 64) for name in "abcde"}
    layouts["small"] = Layout((1, 30, 32), 32, 64)
    for windows in (2, 5, 13):
        shares = audit_seams.share_windows(layouts, windows, seed="x")
        assert shares.pop("small") == 0
        assert sum(shares.values()) == windows
        assert max(shares.values()) - min(shares.values()) <= 1
    assert audit_seams.share_windows({"small": layouts["small"]}, 4, seed="x") == {"small": 0}


def test_values_of_other_shapes_are_not_compared():
    with pytest.raises(ValueError, match="do not match"):
        compare(np.zeros((1, 1, 2, 2), "u1"), np.zeros((1, 1, 2, 3), "f4"))


# --------------------------------------------------------------------------------------- the stage


def statistics(image):
    def part(data):
        bins = [Bins.between(c.min(), c.max(), c.dtype) for c in data]
        return summary([b.histogram(c) for b, c in zip(bins, data, strict=True)], bins)

    planes = [part(image[:, z]) for z in range(image.shape[1])]
    return {
        "quantiles": list(QUANTILES),
        "volume": part(image),
        "planes": {key: [plane[key] for plane in planes] for key in planes[0]},
    }


def network(depth=3, padding="valid"):
    """A network whose probabilities are spread, as if trained; one of random weights is flat."""
    torch.manual_seed(0)
    model = UNet(Architecture(1, 2, depth, 2, padding)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    with torch.inference_mode():
        side = model.architecture.geometry.input_size(64)
        logits = model(torch.rand(1, 1, side, side))
        model.head.bias -= logits.mean((0, 2, 3))
        for parameter in model.head.parameters():
            parameter *= 2 / logits.std()
    return model


class Project:
    """A results folder with images and a model; predicts and audits like the workflow."""

    def __init__(self, root, **sizes):
        self.root, self.names = root, list(sizes)
        self.write_model(network())
        entries = []
        for seed, (name, size) in enumerate(sizes.items()):
            random = np.random.default_rng(seed)
            image = random.integers(0, 200, (1, *size)).astype("u1")
            self.write_image(name, image)
            entries.append(self.entry(name, store=f"d/{name}.ome.zarr", fingerprint=name))
        self.write_lot("convert", entries)

    def entry(self, name, **facts):
        known = {"sample": name, "dataset": "d", "split": "test", "status": "done"}
        return {**known, "message": None, **facts}

    def write_lot(self, stage, entries):
        content = {"stage": stage, "lot": "d-0000", "samples": entries}
        write_manifest(self.root / stage / "d-0000.json", content)

    def write_image(self, name, image):
        store = self.root / "convert" / "d" / f"{name}.ome.zarr"
        array = create_array(store, "0", image.shape, image.dtype, storage=STORAGE)
        array[:] = image
        commit_image(
            store,
            spacing=(1, 1, 1),
            levels=1,
            channel_names=["a"],
            attributes={"statistics": statistics(image)},
        )

    def write_model(self, model):
        folder = self.root / "train/e/fold-0"
        folder.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), folder / "best.safetensors")
        content = (folder / "best.safetensors").read_bytes()
        metadata = {
            "format": 1,
            "architecture": model.architecture.to_dict(),
            "channels": 1,
            "classes": ["background", "foreground"],
            "fingerprint": "model",
            "intensity": INTENSITY,
            "samples": {},
            "scores": {},
            "sha256": {"best": sha256(content).hexdigest()},
            "spacing": [1, 1, 1],
            "target": "foreground",
            "weights": {"best": "best.safetensors"},
        }
        (folder / "model.json").write_text(json.dumps(metadata))
        content = {"stage": "train", "model": "fold-0/model.json", "fingerprint": "model"}
        write_manifest(self.root / "train/e/fold-0.json", content)

    def told(self, windows=4, **changes):
        return {
            "lot": "d-0000",
            "samples": [{"sample": n, "dataset": "d", "split": "test"} for n in self.names],
            "experiment": "e",
            "fold": 0,
            "storage": STORAGE,
            "prediction": {**PREDICTION, **changes},
            "audit": {"windows": windows},
        }

    @property
    def inputs(self):
        return {
            "convert": self.root / "convert/d-0000.json",
            "train": [self.root / "train/e/fold-0.json"],
        }

    @property
    def predicted(self):
        return self.root / "predict/e/fold-0/d-0000.json"

    def predict(self, **changes):
        told = self.told(**changes)
        predict.run(manifest=self.predicted, settings=told, code="1", threads=1, **self.inputs)

    def probabilities(self, name):
        return zarr.open_array(self.predicted.parent / f"d/{name}.ome.zarr/0", mode="r+")

    def audit(self, windows=4, **changes):
        manifest = self.root / "audit/e/fold-0/d-0000.json"
        audit_seams.run(
            manifest=manifest,
            predict=self.predicted,
            settings=self.told(windows, **changes),
            code="1",
            **self.inputs,
        )
        return {entry["sample"]: entry for entry in read_manifest(manifest)["samples"]}


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path, a=(2, 150, 110))


def shake(steps):
    """Change every value by so many steps, away from the ends of the range."""
    return lambda values: np.where(values < 128, values + steps, values - steps).astype("u1")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"symmetries": 8},
        {"batch": 3},
        {"precision": "bfloat16"},
        {"tile": 64 + 2 * 44 + 4},
        {"tile": 8 + 2 * 44 + 4},  # steps by the lattice: no other phase, so by larger tiles
    ],
)
def test_a_seamless_prediction_passes(project, changes):
    project.predict(**changes)
    entry = project.audit(**changes)["a"]
    assert (entry["status"], entry["message"], entry["note"]) == ("done", None, None)
    assert 2 <= entry["windows"] <= 4  # one drawn twice is left out
    assert entry["steps"] <= 1
    assert entry["differing"] <= entry["values"] / 1000
    assert entry["delta"] <= (1e-5 if changes.get("precision") != "bfloat16" else 1e-2)
    assert entry["seams"]["block"] + entry["seams"]["tile"] == 2 * entry["windows"]
    assert entry["inputs"]["image"] == "a"
    assert entry["inputs"]["model"] == "model"


def test_zero_padding_passes_too(tmp_path):
    project = Project(tmp_path, a=(1, 100, 150))
    project.write_model(network(2, "same"))
    project.predict(tile=80)
    assert project.audit(tile=80)["a"]["status"] == "done"


def test_it_tells_how_far_it_is(project, monkeypatch, caplog):
    project.predict()
    monkeypatch.setattr(pace, "FIRST", 0)
    caplog.set_level("INFO")
    windows = project.audit()["a"]["windows"]
    lines = [r.getMessage() for r in caplog.records if r.name == "gigaseg.pace"]
    assert len(lines) == 1 + (windows > 1)
    assert lines[-1].startswith(f"a, seams: {windows} windows in ")


def test_the_report_is_the_same_again_and_names_other_windows_after_another_prediction(project):
    project.predict()
    assert project.audit() == project.audit()


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_misaligned_lattice_is_found(project, monkeypatch, everywhere):
    """Steps by the network's whole output, as 388 for 384; the audit may be as wrong about it."""
    monkeypatch.setitem(STORAGE, "shard", 72)
    monkeypatch.setitem(STORAGE, "chunk", 36)
    with monkeypatch.context() as patch:
        patch.setattr(UNetGeometry, "step", UNetGeometry.output_size)
        project.predict()
        assert read_manifest(project.predicted)["samples"][0]["step"] == 36
        if everywhere:
            entry = project.audit()["a"]
    if not everywhere:
        entry = project.audit()["a"]
    assert entry["status"] == "failed"
    told = "1/255 from a prediction whose tiles start elsewhere" if everywhere else "steps of 36 px"
    assert "is not seamless" in entry["message"]
    assert told in entry["message"]


def flip(array):
    array[:, :, 64:128, 64:] = array[:, :, 64:128, 64:][..., ::-1]


def shift(array):
    array[:, :, 64:128] = np.roll(array[:, :, 64:128], 1, axis=-1)


def offset(array):
    array[:, :, :64, :64] = shake(2)(array[:, :, :64, :64])


@pytest.mark.parametrize("spoil", [flip, shift, offset])
def test_a_spoilt_block_is_found_at_its_seam(project, spoil):
    project.predict()
    spoil(project.probabilities("a"))
    entry = project.audit(windows=8)["a"]
    assert entry["status"] == "failed"
    message = entry["message"]
    assert "a.ome.zarr is not seamless: at (z, y, x) = (" in message
    assert "steps of 1/255 from a prediction whose tiles start elsewhere (1 is allowed)" in message
    assert f"`snakemake --cores all --forcerun {project.predicted}`" in message


def test_the_place_is_that_of_the_largest_difference(project):
    project.predict()
    array = project.probabilities("a")
    values = array[...]
    array[...] = shake(3)(values)
    array[:, :, 64, 64] = shake(90)(values[:, :, 64, 64])
    message = project.audit(windows=30)["a"]["message"]
    assert "at (z, y, x) = (0, 64, 64) it" in message or "at (z, y, x) = (1, 64, 64) it" in message
    assert "by 90 steps" in message


def test_one_step_of_rounding_is_allowed(project):
    project.predict()
    array = project.probabilities("a")
    array[...] = shake(1)(array[...])
    entry = project.audit()["a"]
    assert (entry["status"], entry["steps"]) == ("done", 1)
    assert entry["differing"] == entry["values"]


def test_samples_that_fail_are_skipped_or_have_no_seam_do_not_stop_the_others(tmp_path):
    sizes = {"good": (3, 100, 100), "small": (1, 32, 20), "bad": (1, 80, 80), "gone": (1, 70, 70)}
    project = Project(tmp_path, **sizes)
    converted = read_manifest(tmp_path / "convert/d-0000.json")["samples"]
    converted[-1] |= {"status": "failed", "message": "torn", "store": None, "fingerprint": None}
    project.write_lot("convert", converted)
    project.predict()
    shift(project.probabilities("bad"))
    entries = project.audit(windows=8)
    assert {name: entry["status"] for name, entry in entries.items()} == {
        "good": "done",
        "small": "done",
        "bad": "failed",
        "gone": "skipped",
    }
    assert entries["gone"]["message"] == "convert failed: torn"
    assert entries["good"]["windows"] > 1
    assert entries["small"]["note"] == "no seam: one tile holds a plane"
    assert entries["small"]["delta"] is None
    assert entries["small"]["seams"] == {"block": 0, "tile": 0}


def test_samples_that_were_not_drawn_say_so(tmp_path):
    project = Project(tmp_path, a=(1, 70, 70), b=(1, 70, 70))
    project.predict()
    entries = project.audit(windows=1)
    assert sorted(entry["windows"] for entry in entries.values()) == [0, 1]
    notes = {entry["windows"]: entry["note"] for entry in entries.values()}
    assert notes == {0: "not drawn: the windows lie in other samples of the lot", 1: None}


def test_a_store_deleted_by_hand_is_named(project):
    project.predict()
    (project.predicted.parent / "d/a.ome.zarr/zarr.json").unlink()
    entry = project.audit()["a"]
    assert entry["status"] == "failed"
    assert "is unfinished: make it again" in entry["message"]


@pytest.mark.parametrize("spoil", [False, True])
def test_a_prediction_from_a_coarser_level_is_audited_there(tmp_path, spoil):
    project = Project(tmp_path, a=(1, 300, 221))
    store = tmp_path / "convert/d/a.ome.zarr"
    facts, levels = open_volume(store).attributes, write_pyramid(store, storage=STORAGE)
    commit_image(store, spacing=(1, 0.5, 0.5), levels=levels, channel_names=["a"], attributes=facts)
    project.predict()
    probabilities = project.probabilities("a")
    assert read_manifest(project.predicted)["samples"][0]["level"] == 1
    if spoil:
        probabilities[:, :, 128:256] = shake(3)(probabilities[:, :, 128:256])
    entry = project.audit(windows=8)["a"]
    assert entry["status"] == ("failed" if spoil else "done"), entry["message"]
    if spoil:
        place = re.search(r"\(z, y, x\) = \(\d+, (\d+), \d+\)", entry["message"])
        assert 128 <= int(place[1]) < 256
