"""The predict stage: stores, manifests, refusals, and exactness through real stores."""

import json
import shutil
from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gigaseg import blockwise, ensembles, runtime
from gigaseg.digests import volume_digest
from gigaseg.ensembles import Model, load
from gigaseg.geometry import Window, blocks, read_mirrored
from gigaseg.inference import Predictor
from gigaseg.intensity import QUANTILES, Bins, intensity_window, summary
from gigaseg.ledger import read_attempts
from gigaseg.manifests import read_manifest, write_manifest
from gigaseg.networks import at_depth, build
from gigaseg.pyramids import create_pyramid
from gigaseg.runtime import Runtime, hardware_name
from gigaseg.stages import predict, predict_open, predict_part, read_entries
from gigaseg.tiling import TileGrid, tile_memory_gb
from gigaseg.unet import Architecture, UNet
from gigaseg.volumes import commit_image, create_array, open_volume
from safetensors.torch import save_file

STORAGE = {"chunk": 16, "shard": 32, "smallest_level": 16}
INTENSITY = {"method": "percentile", "low": 1.0, "high": 99.8, "per": "plane"}
ARCHITECTURE = Architecture(in_channels=1, classes=3, depth=2, width=2)


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


def write_image(store, image):
    array = create_array(store, "0", image.shape, image.dtype, storage=STORAGE)
    array[:] = image
    commit_image(
        store,
        spacing=(0.5, 0.1, 0.1),
        levels=1,
        channel_names=[f"c{c}" for c in range(len(image))],
        attributes={"statistics": statistics(image)},
    )


def write_pyramid(store, image, storage=STORAGE, **attributes):
    """Put an image with all its levels in place of one that is there."""
    shutil.rmtree(store)
    pyramid = create_pyramid(store, "", image.shape, image.dtype, storage=storage)
    for block in blocks(image.shape[-3:], pyramid.shards[-3:]):
        pyramid[(..., *block.slices)] = image[(..., *block.slices)]
    facts, levels = {"statistics": statistics(image), **attributes}, pyramid.finish()
    commit_image(store, spacing=(9, 0.1, 0.1), levels=levels, channel_names=["a"], attributes=facts)


class Project:
    """A results folder as convert and train leave it."""

    def __init__(self, root, sizes):
        self.root, self.train = root, []
        random = np.random.default_rng(0)
        self.images = {
            name: random.integers(0, 200, size, dtype=np.uint8) for name, size in sizes.items()
        }
        self.write_images()
        self.write_model(seed=0)

    def write_images(self):
        entries = []
        for name, image in self.images.items():
            write_image(self.root / f"convert/d/{name}.ome.zarr", image)
            entries.append(
                {
                    "sample": name,
                    "dataset": "d",
                    "split": "test",
                    "status": "done",
                    "message": None,
                    "store": f"d/{name}.ome.zarr",
                    "shape": image.shape,
                    "fingerprint": f"image {name}",
                }
            )
        write_manifest(
            self.root / "convert/d-0000.json",
            {"stage": "convert", "lot": "d-0000", "samples": entries},
        )

    def write_model(self, seed, architecture=ARCHITECTURE):
        torch.manual_seed(seed)
        self.network = build(architecture).eval()
        self.write_trained(0, self.network, f"model {seed}")

    def write_trained(self, fold, network, fingerprint, **changes):
        folder = self.root / f"train/e/fold-{fold}"
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("best", "last"):
            save_file(network.state_dict(), folder / f"{name}.safetensors")
        weights = {name: f"{name}.safetensors" for name in ("best", "last")}
        sums = {k: sha256((folder / name).read_bytes()).hexdigest() for k, name in weights.items()}
        metadata = {
            "format": 1,
            "architecture": network.architecture.to_dict(),
            "channels": 1,
            "classes": ["background", "interior", "boundary"],
            "fingerprint": fingerprint,
            "intensity": INTENSITY,
            "samples": {"train": {}},
            "scores": {},
            "sha256": sums,
            "spacing": [0.5, 0.1, 0.1],
            "target": "interior_boundary",
            "weights": weights,
        } | changes
        (folder / "model.json").write_text(json.dumps(metadata))
        manifest = folder.with_suffix(".json")
        content = {"stage": "train", "model": f"fold-{fold}/model.json", "fingerprint": fingerprint}
        write_manifest(manifest, content)
        return manifest

    @property
    def manifest(self):
        return self.root / "predict/e/fold-0/d-0000.json"

    @property
    def given(self):
        return {
            "convert": self.root / "convert/d-0000.json",
            "train": self.train or [self.root / "train/e/fold-0.json"],
        }

    def settings(self, storage=STORAGE, **changes):
        return {
            "lot": "d-0000",
            "samples": [{"sample": n, "dataset": "d", "split": "test"} for n in self.images],
            "experiment": "e",
            "fold": 0,
            "storage": storage,
            "prediction": {
                "tile": "auto",
                "memory_gb": 1.0,
                "precision": "float32",
                "device": "cpu",
                "batch": 1,
                "symmetries": 1,
                "checkpoint": "best",
                "depth": None,
                "compile": "auto",
                "spacing_tolerance": 0.1,
                **changes,
            },
        }

    def predict(self, *, threads=1, code="1", opened=False, **changes):
        predict.run(
            manifest=self.manifest,
            **self.given,
            settings=self.settings(**changes),
            code=code,
            threads=threads,
            opened=opened,
        )
        return read_entries(self.manifest)

    def open(self, *, code="1", **changes):
        manifest = self.root / "predict_open/e/fold-0/d-0000.json"
        predict_open.run(
            manifest=manifest,
            **self.given,
            predict=self.manifest,
            settings=self.settings(**changes),
            codes=("opens", code),
        )
        return read_manifest(manifest)

    def part(self, number, parts, *, code="1", threads=1, **changes):
        manifest = self.root / f"predict_part/e/fold-0/d-0000/{number}-of-{parts}.json"
        predict_part.run(
            manifest=manifest,
            **self.given,
            predict=self.manifest,
            settings=self.settings(**changes),
            codes=("fills", code),
            part=(number, parts),
            threads=threads,
        )
        return read_manifest(manifest)

    def attempts(self, name):
        return read_attempts(self.root / f"predict/e/fold-0/d/{name}.ome.zarr")

    def stored(self, name):
        return open_volume(self.root / f"predict/e/fold-0/d/{name}.ome.zarr")


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path, {"large": (1, 2, 70, 50), "small": (1, 1, 9, 13)})


def expected(project, name, tile, network=None):
    """Oracle: plane by plane, each in one call, from the arrays in memory."""
    image = project.images[name]
    network = network or project.network
    predictor, grid = Predictor(network), TileGrid(network.architecture.geometry, tile)
    planes = []
    for z in range(image.shape[1]):
        offset, scale = intensity_window(statistics(image), INTENSITY, z)
        plane = (image[:, z].astype(np.float32) - offset[:, None, None]) * scale[:, None, None]
        frame = Window.whole(plane.shape[1:]).align((grid.step,) * 2).expand((grid.halo,) * 2)
        planes.append(predictor.quantised(read_mirrored(plane, frame), grid))
    return np.stack(planes, axis=1)[..., : image.shape[2], : image.shape[3]]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_lot_is_predicted(project, threads):
    entries = project.predict(threads=threads)
    assert [entry["status"] for entry in entries.values()] == ["done", "done"]
    for name, entry in entries.items():
        volume = project.stored(name)
        assert volume.array.dtype == np.uint8
        assert volume.axes == "czyx"
        assert volume.spacing == (0.5, 0.1, 0.1)
        assert volume.attributes["channels"] == ["interior", "boundary"]
        assert volume.attributes["fingerprint"] == entry["fingerprint"]
        np.testing.assert_array_equal(volume.array[:], expected(project, name, entry["tile"]))
    assert len(project.stored("large").levels) > 1


def test_the_manifest_holds_no_times_and_no_machine(project):
    project.predict()
    content = (project.root / "predict/e/fold-0/d-0000.json").read_bytes()
    (project.root / "predict/e/fold-0/d-0000.json").unlink()
    project.predict(threads=2)
    assert (project.root / "predict/e/fold-0/d-0000.json").read_bytes() == content


@pytest.mark.parametrize("shard", [16, 32, 64, 96])
def test_shards_never_change_a_value(project, shard):
    storage = {**STORAGE, "shard": shard}
    entries = project.predict(storage=storage, tile=ARCHITECTURE.geometry.input_size(16))
    np.testing.assert_array_equal(
        project.stored("large").array[:], expected(project, "large", entries["large"]["tile"])
    )


def test_a_finished_store_is_not_predicted_again(project, monkeypatch):
    first = project.predict()
    monkeypatch.setattr(predict, "map_blocks", None)
    assert project.predict() == first


@pytest.mark.parametrize("change", [{"tile": 48}, {"symmetries": 8}, {"batch": 2}, {"code": "2"}])
def test_what_changes_values_is_in_the_fingerprint(project, change):
    first = project.predict()
    second = project.predict(**change)
    assert all(first[name]["fingerprint"] != second[name]["fingerprint"] for name in first)


def test_a_lesser_depth_of_a_nested_network_is_another_model(project):
    nested = replace(ARCHITECTURE, kind="unet++", depth=2)
    project.write_model(0, nested)
    whole = project.predict()
    part = project.predict(depth=1)
    for name in whole:
        assert whole[name]["fingerprint"] != part[name]["fingerprint"]
        values = project.stored(name).array[:]
        assert values.shape[0] == 2
    part_of = at_depth(project.network, 1)
    entry = part["small"]
    np.testing.assert_array_equal(
        project.stored("small").array[:], expected(project, "small", entry["tile"], part_of)
    )
    with pytest.raises(ValueError, match=r"prediction\.depth is 3, but this unet\+\+ was trained"):
        project.predict(depth=3)


def test_another_model_predicts_again(project):
    project.predict()
    before = project.stored("small").array[:]
    project.write_model(seed=1)
    project.predict()
    assert not np.array_equal(project.stored("small").array[:], before)


def test_a_stopped_prediction_goes_on(project, monkeypatch):
    whole = project.predict()
    reference = project.stored("large").array[:]
    calls = []

    def stop(self, *block):
        calls.append(1)
        if len(calls) == 5:
            raise OSError("no space left on device")
        return original(self, *block)

    original = Predictor.quantised
    monkeypatch.setattr(Predictor, "quantised", stop)
    with pytest.raises(OSError, match="no space left"):
        project.predict(code="2")
    assert not (project.root / "predict/e/fold-0/d/large.ome.zarr/zarr.json").exists()
    project.predict(code="2")
    blocks = 2 * 3 * 2 + 1  # planes, blocks of 32 px, and the small image
    assert len(calls) == blocks + 1  # one was tried twice
    np.testing.assert_array_equal(project.stored("large").array[:], reference)
    assert whole["large"]["tile"] == project.predict(code="2")["large"]["tile"]


def test_an_image_with_other_channels_is_a_fault_of_that_sample(project):
    project.images["small"] = np.zeros((3, 1, 9, 9), np.uint8)
    project.write_images()
    entries = project.predict()
    assert entries["large"]["status"] == "done"
    assert entries["small"]["message"] == (
        "the image has 3 channels, the model was trained on 1: choose the same channels for both "
        "(datasets: channels), or train an experiment on images like this one"
    )


def test_a_tile_that_does_not_fit_the_blocks_is_a_fault_of_the_large_sample(project):
    entries = project.predict(tile=40 + 12)
    assert (
        "steps by 12 px, which does not divide blocks of (32, 32) px"
        in (entries["large"]["message"])
    )
    assert entries["small"]["status"] == "done"


def test_the_device_is_noted_with_the_attempt(project):
    tile = project.predict()["large"]["tile"]
    notes = project.attempts("large")
    begun, computed = [note for note in notes if note["event"] == "note"]
    assert (begun["device"], begun["precision"], begun["tile"]) == ("cpu", "float32", tile)
    assert computed["hardware"] == hardware_name(torch.device("cpu"))
    manifest = read_manifest(project.root / "predict/e/fold-0/d-0000.json")
    assert "device" not in manifest["samples"][0]


def test_the_engine_is_the_only_one_that_writes(project, monkeypatch):
    written = []

    def note(_target, block):
        written.append(block)

    clearing = SimpleNamespace(dispatch=lambda _: note)
    monkeypatch.setattr(blockwise, "clear_block", clearing)
    project.predict()
    assert len(written) == len(set(map(str, written))) == BLOCKS


# ------------------------------------------------------------------------------------ several jobs

BLOCKS = 2 * 3 * 2 + 1  # planes, blocks of 32 px, and the small image


def done(project):
    """Count the blocks that every attempt at both stores computed."""
    ends = [a for name in project.images for a in project.attempts(name) if a["event"] == "end"]
    return [attempt["blocks"] for attempt in ends]


@pytest.mark.parametrize("parts", [1, 2, 5, 20])
def test_parts_together_make_what_one_job_makes(project, parts):
    whole = project.predict()
    project.open(code="2")
    for number in range(1, parts + 1):
        entries = project.part(number, parts, code="2")["samples"]
        assert {entry["status"] for entry in entries} <= {"done"}
    assert not (project.root / "predict/e/fold-0/d/large.ome.zarr/zarr.json").exists()
    filled = sum(done(project)) - BLOCKS
    entries = project.predict(code="2", opened=True)
    assert filled == BLOCKS
    assert sum(done(project)) == 2 * BLOCKS  # nothing was left to do
    assert [e["digest"] for e in entries.values()] == [e["digest"] for e in whole.values()]


def test_another_number_of_parts_keeps_every_finished_block(project):
    project.open()
    project.part(1, 3)
    first = sum(done(project))
    assert 0 < first < BLOCKS
    for number in (1, 2, 3, 4):
        project.part(number, 4)
    assert sum(done(project)) == BLOCKS
    project.predict()  # and one job, too, goes on from there
    assert sum(done(project)) == BLOCKS


def test_the_last_job_does_what_parts_have_left_out(project):
    whole = project.predict()
    project.open(code="2")
    project.part(2, 3, code="2")
    entries = project.predict(code="2", opened=True)
    assert [e["digest"] for e in entries.values()] == [e["digest"] for e in whole.values()]


def test_a_torn_shard_of_a_part_is_found_and_done_again(project):
    whole = project.predict()
    project.open(code="2")
    for number in (1, 2):
        project.part(number, 2, code="2")
    shard = next((project.root / "predict/e/fold-0/d/large.ome.zarr/0").rglob("c/*/*/*/*"))
    shard.write_bytes(shard.read_bytes()[:-9])
    before = sum(done(project))
    entries = project.predict(code="2", opened=True)
    assert sum(done(project)) == before + 1
    assert entries["large"]["digest"] == whole["large"]["digest"]


def test_only_opening_wipes(project):
    project.open()
    project.part(1, 1)
    refused = project.part(1, 1, code="2")["samples"]
    assert all("was opened for something else: code differs" in e["message"] for e in refused)
    with pytest.raises(RuntimeError, match=r"gone or for something else now: run .* predict_open"):
        project.predict(code="2", opened=True)
    project.predict(opened=True)  # all blocks are still there
    assert sum(done(project)) == BLOCKS
    project.open(code="2")
    assert not (project.root / "predict/e/fold-0/d/large.ome.zarr/zarr.json").exists()


def test_parts_of_a_finished_store_have_nothing_to_do(project):
    first = project.predict()
    assert project.open()["samples"][0]["fingerprint"] == first["large"]["fingerprint"]
    project.part(1, 2)
    assert project.predict(opened=True) == first
    assert sum(done(project)) == BLOCKS


def test_a_fault_of_one_sample_is_reported_by_the_last_job(project):
    project.images["small"] = np.zeros((3, 1, 9, 9), np.uint8)
    project.write_images()
    project.open()
    for number in (1, 2):
        project.part(number, 2)
    entries = project.predict(opened=True)
    assert (entries["large"]["status"], entries["small"]["status"]) == ("done", "failed")
    assert "the image has 3 channels" in entries["small"]["message"]


# ------------------------------------------------------------------------------------- other nodes


def on_another_node(monkeypatch, *, native=False, name="another processor"):
    monkeypatch.setattr(runtime, "has_native_bfloat16", lambda _: native)
    monkeypatch.setattr(predict, "has_native_bfloat16", lambda _: native)
    monkeypatch.setattr(predict, "hardware_name", lambda _: name)


@pytest.mark.parametrize("native", [True, False])
def test_nodes_that_differ_agree_on_what_was_settled_first(project, monkeypatch, caplog, native):
    on_another_node(monkeypatch, native=native)
    asked = {"precision": "auto", "tile": "auto"}
    opened = project.open(**asked)["samples"][0]
    assert opened["precision"] == ("bfloat16" if native else "float32")
    on_another_node(monkeypatch, native=not native)
    caplog.set_level("INFO")
    project.part(1, 1, **asked)
    assert ("bfloat16 is emulated by this cpu" in caplog.text) == native
    entry = project.predict(**asked)["large"]
    assert {key: entry[key] for key in ("tile", "precision")} == {
        key: opened[key] for key in ("tile", "precision")
    }
    assert sum(done(project)) == BLOCKS
    # What is not left to choose is done anew.
    other = "float32" if native else "bfloat16"
    assert project.predict(precision=other)["large"]["precision"] == other
    assert sum(done(project)) == 2 * BLOCKS


def test_less_memory_than_the_settled_tile_takes_begins_again(project):
    first = project.predict(tile="auto", memory_gb=1.0)["large"]["tile"]
    assert project.predict(tile="auto", memory_gb=2.0)["large"]["tile"] == first
    limit = tile_memory_gb(ARCHITECTURE.geometry, first - 1, ARCHITECTURE.width)
    assert project.predict(tile="auto", memory_gb=limit)["large"]["tile"] < first


def test_the_tile_is_told(project, caplog):
    caplog.set_level("INFO", predict.logger.name)
    tile = project.predict()["large"]["tile"]
    assert f"large.ome.zarr: tile {tile} px, float32" in caplog.text


def test_blocks_of_several_kinds_of_hardware_are_told(project, monkeypatch):
    project.open()
    for number, name in ((1, "one"), (2, "another")):
        on_another_node(monkeypatch, name=name)
        project.part(number, 2)
    on_another_node(monkeypatch, name="a third")  # computes nothing
    entries = project.predict(opened=True)
    assert entries["large"]["hardware"] == ["another", "one"]
    assert entries["large"]["comparable"] is False
    assert "hardware" not in entries["small"]
    assert project.stored("large").attributes["hardware"] == ["another", "one"]
    assert project.stored("small").attributes["comparable"] is True
    again = project.predict(code="2")  # all on the third
    assert "comparable" not in again["large"]
    assert project.stored("large").attributes["hardware"] == ["a third"]


def test_the_digest_is_that_of_the_stored_values(project):
    entries = project.predict()
    for name, entry in entries.items():
        values = expected(project, name, entry["tile"])
        assert entry["digest"] == volume_digest(values)
        assert project.stored(name).attributes["digest"] == entry["digest"]


def compiles(asked, device, side):
    def model(device):
        return Model((UNet(ARCHITECTURE),), Runtime(device, "float32"), None, {}, {}, [])

    prediction = {"tile": "auto", "memory_gb": 2.0, "batch": 1, "compile": asked}
    settings = {"prediction": prediction, "storage": STORAGE}
    return predict._choose((1, side, side), STORAGE["shard"], model(device), settings).compile


@pytest.mark.parametrize(
    ("asked", "device", "side", "expected"),
    [
        ("auto", "cuda", 1024, True),  # 1024 tiles of 32 px
        ("auto", "cuda", 960, False),
        ("auto", "cpu", 4096, False),
        ("always", "cpu", 32, True),
        ("never", "cuda", 4096, False),
    ],
)
def test_networks_are_compiled_where_it_pays(asked, device, side, expected):
    assert compiles(asked, device, side) is expected


@pytest.mark.parametrize(
    ("device", "threads", "shard", "expected"),
    [
        ("cpu", 8, 16, 9),
        ("cpu", 8, 32, 4),
        ("cpu", 8, 96, 2),
        ("cpu", 1, 32, 2),
        ("cuda", 1, 96, 3),
    ],
)
def test_few_large_blocks_are_in_hand_at_once(project, device, threads, shard, expected):
    task = predict.Task.of(
        read_entries(project.given["convert"])["large"],
        project.root / "store",
        load(project.given["train"], project.settings()["prediction"], threads=threads),
        project.settings(tile=ARCHITECTURE.geometry.input_size(16)),
        "1",
    )
    task = replace(task, model=replace(task.model, runtime=Runtime(device, "float32")))
    feeders = threads + 1 if device == "cpu" else 3
    assert task._blocks_at_once((shard, shard), feeders) == expected


# ------------------------------------------------------------------------------- ensembles, files


@pytest.fixture
def ensemble(project):
    """Make the project predict by the mean of two models."""
    torch.manual_seed(7)
    second = UNet(ARCHITECTURE).eval()
    project.train = [
        project.root / "train/e/fold-0.json",
        project.write_trained(1, second, "model 7"),
    ]
    project.networks = [project.network, second]
    return project


def test_an_ensemble_of_two_is_the_mean_of_the_two(ensemble):
    ensemble.predict(symmetries=8)
    image = ensemble.images["large"]
    predictors = [Predictor(network, symmetries=8) for network in ensemble.networks]
    stored = ensemble.stored("large").array
    for z in range(image.shape[1]):
        constants = intensity_window(statistics(image), INTENSITY, z)
        # Oracle: each network over the whole plane as one tile, then the mean, then rounded.
        grid = TileGrid(ARCHITECTURE.geometry, ARCHITECTURE.geometry.input_size(72))
        frame = Window((0, 0), (72, 72)).expand((grid.halo,) * 2)
        plane = read_mirrored(image[:, z], frame)
        each = [predictor.probabilities(plane, grid, constants) for predictor in predictors]
        mean = (255 * np.mean(each, axis=0)).round()[:, :70, :50]
        assert np.abs(stored[:, z] - mean).max() <= 1
        assert (stored[:, z] == mean).mean() > 0.999


@pytest.mark.parametrize("shard", [32, 64])
def test_shards_and_parts_never_change_an_ensemble(ensemble, shard):
    whole = ensemble.predict(tile="auto")["large"]["digest"]
    shutil.rmtree(ensemble.root / "predict")
    storage = {**STORAGE, "shard": shard}
    tile = ARCHITECTURE.geometry.input_size(32)
    ensemble.open(storage=storage, tile=tile)
    for number in (2, 1):
        ensemble.part(number, 2, storage=storage, tile=tile)
    assert ensemble.predict(storage=storage, tile=tile, opened=True)["large"]["digest"] == whole


def test_a_stopped_ensemble_goes_on(ensemble, monkeypatch):
    whole = ensemble.predict()["large"]["digest"]
    shutil.rmtree(ensemble.root / "predict")
    quantised, done = Predictor.quantised, []

    def stop(self, *block):
        done.append(block)
        if len(done) == 3:
            raise KeyboardInterrupt
        return quantised(self, *block)

    monkeypatch.setattr(Predictor, "quantised", stop)
    with pytest.raises(KeyboardInterrupt):
        ensemble.predict()
    monkeypatch.undo()
    calls = []
    monkeypatch.setattr(
        Predictor, "quantised", lambda self, *block: calls.append(1) or quantised(self, *block)
    )
    assert ensemble.predict()["large"]["digest"] == whole
    blocks = 2 * 3 * 2 + 1  # planes, rows and columns of the large image; the small one
    assert len(calls) == blocks - 2


def test_an_ensemble_names_all_its_models(ensemble):
    ensemble.predict()
    inputs = ensemble.stored("small").attributes["inputs"]
    assert inputs["model"] == ["model 0", "model 7"]
    assert len(set(inputs["weights"])) == 2
    alone = ensemble.stored("small").attributes["fingerprint"]
    ensemble.train = ensemble.train[::-1]
    assert ensemble.predict()["small"]["fingerprint"] != alone


def test_networks_that_do_not_fit_the_device_say_what_to_change(ensemble, monkeypatch):
    def refuse(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore.")

    monkeypatch.setattr(ensembles, "prepare", refuse)
    message = (
        r"^the memory of the cpu device is too small for the weights of 2 networks, 0\.00 GB: set "
        r"prediction\.device to cpu, .* \(CUDA out of memory\.\)$"
    )
    with pytest.raises(RuntimeError, match=message):
        ensemble.predict()


def test_models_of_another_kind_are_no_ensemble(project):
    other = project.write_trained(1, project.network, "m", intensity={"method": "none"})
    project.train = [project.root / "train/e/fold-0.json", other]
    with pytest.raises(ValueError, match="an ensemble must agree in intensity"):
        project.predict()


def test_folds_trained_at_near_spacings_predict_together(ensemble):
    together = ensemble.predict()
    network = ensemble.networks[1]
    ensemble.write_trained(1, network, "model 7", spacing=[0.5, 0.104, 0.097])
    shutil.rmtree(ensemble.root / "predict")
    assert ensemble.predict() == together
    assert together["large"]["level"] == 0


@pytest.mark.parametrize(
    ("spacing", "message"),
    [
        (
            [0.5, 0.2, 0.2],
            "would read levels [0, 1] of the image: use them in experiments",
        ),
        ([0.5, 0.7, 0.7], "the model was trained at 0.7 x 0.7"),
    ],
)
def test_models_of_other_spacings_do_not_predict_together(ensemble, spacing, message):
    write_pyramid(ensemble.root / "convert/d/large.ome.zarr", ensemble.images["large"])
    ensemble.write_trained(1, ensemble.networks[1], "model 7", spacing=spacing)
    assert message in ensemble.predict()["large"]["message"]


def test_a_model_file_predicts_what_its_training_would(project, tmp_path_factory):
    trained = project.predict()["large"]
    away = tmp_path_factory.mktemp("away") / "model"
    shutil.copytree(project.root / "train/e/fold-0", away)
    shutil.rmtree(project.root / "predict")
    project.train = [away / "model.json"]
    brought = project.predict()["large"]
    assert {key: brought[key] for key in ("digest", "fingerprint")} == {
        key: trained[key] for key in ("digest", "fingerprint")
    }


# ---------------------------------------------------------------------------------------- spacing


@pytest.fixture
def coarse(project):
    """Make the model one that was trained at twice the spacing of the images, with pyramids."""
    for name, image in project.images.items():
        write_pyramid(project.root / f"convert/d/{name}.ome.zarr", image)
    project.write_trained(0, project.network, "m", spacing=[1, 0.2, 0.21])
    return project


def test_an_image_is_predicted_at_the_level_that_was_trained_at(coarse):
    entries = coarse.predict()
    assert entries["large"]["level"] == 1
    image = coarse.images["large"]
    half = open_volume(coarse.root / "convert/d/large.ome.zarr").levels[1][:]
    assert half.shape == (1, 2, 35, 25)
    stored = coarse.stored("large")
    assert stored.shape == image.shape[1:]
    for z in range(2):
        # Oracle: the level as one tile, each value for the pixels it is the mean of.
        grid = TileGrid(ARCHITECTURE.geometry, ARCHITECTURE.geometry.input_size(36))
        frame = Window((0, 0), (36, 36)).expand((grid.halo,) * 2)
        constants = intensity_window(statistics(image), INTENSITY, z)
        plane = read_mirrored(half[:, z], frame)
        expected = Predictor(coarse.network).quantised(plane, grid, constants)[:, :35, :25]
        enlarged = expected.repeat(2, axis=1).repeat(2, axis=2)[:, :70, :50]
        assert np.abs(stored.array[:, z].astype(int) - enlarged).max() <= 1
    # The small image has no such level.
    assert entries["small"]["status"] == "failed"
    assert (
        "spacing of 0.1 x 0.1 µm (y x), the model was trained at 0.2 x 0.21"
        in (entries["small"]["message"])
    )
    assert "prediction.spacing_tolerance" in entries["small"]["message"]
    assert (
        "storage.smallest_level is less than the larger side of level 0"
        in (entries["small"]["message"])
    )


def test_the_level_that_was_missing_is_made_as_the_message_says(coarse):
    store, image = coarse.root / "convert/d/small.ome.zarr", coarse.images["small"]
    write_pyramid(store, image, storage=STORAGE | {"smallest_level": max(image.shape) - 1})
    assert coarse.predict()["small"]["level"] == 1


def test_a_coarser_level_is_said(coarse, caplog):
    with caplog.at_level("INFO"):
        coarse.predict()
    told = "predicted from level 1 of the image's pyramid, 0.2 x 0.2 µm per pixel (y x), as the mo"
    assert told in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        coarse.predict(spacing_tolerance=9.0)  # then it is level 0
    assert "tile" in caplog.text
    assert "pyramid" not in caplog.text


def test_spacings_that_are_not_known_are_not_compared_with_known_ones(coarse):
    store, image = coarse.root / "convert/d/large.ome.zarr", coarse.images["large"]
    write_pyramid(store, image, spacing_known=False)
    assert "the spacing of the image is not known" in coarse.predict()["large"]["message"]
    coarse.write_trained(0, coarse.network, "m", spacing=None)
    assert coarse.predict()["large"]["level"] == 0
    write_pyramid(store, image)
    assert "the images the model was trained on is not" in coarse.predict()["large"]["message"]


@pytest.mark.parametrize("shard", [16, 64])
def test_shards_and_parts_never_change_a_prediction_from_a_coarser_level(coarse, shard):
    tile = ARCHITECTURE.geometry.input_size(8)
    whole = coarse.predict(tile=tile)["large"]["digest"]
    shutil.rmtree(coarse.root / "predict")
    storage = {**STORAGE, "shard": shard}
    coarse.open(storage=storage, tile=tile)
    for number in (2, 1):
        coarse.part(number, 2, storage=storage, tile=tile)
    assert coarse.predict(storage=storage, tile=tile, opened=True)["large"]["digest"] == whole


def test_a_level_whose_lattice_does_not_fit_the_shards_is_refused(coarse):
    storage = {"chunk": 4, "shard": 4, "smallest_level": 16}
    assert "is no multiple of 8 px" in coarse.predict(storage=storage)["large"]["message"]


def test_a_tolerance_takes_any_image_as_it_is(coarse):
    entries = coarse.predict(spacing_tolerance=9.0)
    assert [entries[name]["level"] for name in ("large", "small")] == [0, 0]
