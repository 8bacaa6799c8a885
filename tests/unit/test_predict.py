"""The predict stage: stores, manifests, refusals, and exactness through real stores."""

import json

import numpy as np
import pytest
import torch
from gigaseg import blockwise
from gigaseg.geometry import Window, read_mirrored
from gigaseg.inference import Predictor
from gigaseg.intensity import QUANTILES, Bins, intensity_window, summary
from gigaseg.ledger import read_manifest, write_manifest
from gigaseg.runtime import hardware_name
from gigaseg.stages import predict, read_entries
from gigaseg.tiling import TileGrid
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


class Project:
    """A results folder as convert and train leave it."""

    def __init__(self, root, sizes):
        self.root = root
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

    def write_model(self, seed):
        torch.manual_seed(seed)
        self.network = UNet(ARCHITECTURE).eval()
        folder = self.root / "train/e/fold-0"
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("best", "last"):
            save_file(self.network.state_dict(), folder / f"{name}.safetensors")
        metadata = {
            "architecture": ARCHITECTURE.to_dict(),
            "intensity": INTENSITY,
            "target": "interior_boundary",
            "weights": {"best": "best.safetensors", "last": "last.safetensors"},
        }
        (folder / "model.json").write_text(json.dumps(metadata))
        write_manifest(
            self.root / "train/e/fold-0.json",
            {"stage": "train", "model": "fold-0/model.json", "fingerprint": f"model {seed}"},
        )

    def predict(self, *, threads=1, code="1", storage=STORAGE, **changes):
        settings = {
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
                "compile": "auto",
                **changes,
            },
        }
        manifest = self.root / "predict/e/fold-0/d-0000.json"
        predict.run(
            manifest=manifest,
            convert=self.root / "convert/d-0000.json",
            train=self.root / "train/e/fold-0.json",
            settings=settings,
            code=code,
            threads=threads,
        )
        return read_entries(manifest)

    def stored(self, name):
        return open_volume(self.root / f"predict/e/fold-0/d/{name}.ome.zarr")


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path, {"large": (1, 2, 70, 50), "small": (1, 1, 9, 13)})


def expected(project, name, tile):
    """Oracle: plane by plane, each in one call, from the arrays in memory."""
    image = project.images[name]
    grid = TileGrid(ARCHITECTURE.geometry, tile)
    predictor = Predictor(project.network)
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
    books = project.root / "predict/e/fold-0/d/large.ome.zarr/.gigaseg/attempts.jsonl"
    notes = [json.loads(line) for line in books.read_text().splitlines()]
    begun, computed = [note for note in notes if note["event"] == "note"]
    assert (begun["device"], begun["precision"], begun["tile"]) == ("cpu", "float32", tile)
    assert computed["hardware"] == hardware_name(torch.device("cpu"))
    manifest = read_manifest(project.root / "predict/e/fold-0/d-0000.json")
    assert "device" not in manifest["samples"][0]


def test_the_engine_is_the_only_one_that_writes(project, monkeypatch):
    written = []
    original = blockwise.clear_block
    monkeypatch.setattr(blockwise, "clear_block", lambda a, b: (written.append(b), original(a, b)))
    project.predict()
    assert len(written) == len(set(map(str, written)))
