"""The train stage: from manifests of weigh to a model that describes itself."""

import copy
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gigaseg import lessons
from gigaseg.intensity import QUANTILES, Bins, summary
from gigaseg.ledger import digest
from gigaseg.loading import load_model
from gigaseg.manifests import write_manifest
from gigaseg.stages import read_entries, train
from gigaseg.tally import count_chunks
from gigaseg.volumes import commit_arrays, commit_image, create_array
from gigaseg.weights import encode_target, separation
from safetensors.numpy import load_file

STORAGE = {"chunk": 32, "shard": 32, "smallest_level": 64}
SETTINGS: dict[str, Any] = {
    "experiment": "squares",
    "fold": 0,
    "target": "foreground",
    "network": {
        "depth": 1,
        "width": 2,
        "padding": "valid",
        "kind": "unet",
        "normalization": "none",
        "dropout": 0.0,
    },
    "training": {
        "seed": 1,
        "steps": 4,
        "batch": 1,
        "tile": 30,
        "memory_gb": 1.0,
        "optimizer": "adamw",
        "learning_rate": 0.01,
        "momentum": 0.99,
        "weight_decay": 0.0,
        "warmup_steps": 1,
        "schedule": "cosine",
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
        "processes": 1,
        "deterministic": False,
        "validate_every": 2,
        "checkpoint_every": 2,
        "spacing_tolerance": 0.1,
        "patience": 0,
        "ema": 0,
        "class_balance": True,
        "separation": True,
        "gradient_clip": 1.0,
        "oversample": 0.0,
        "augmentation": {"flips": True, "rotation": 180.0, "noise": 0.02},
    },
    "intensity": {"method": "percentile", "low": 1, "high": 99, "per": "volume"},
    "train": ["d/a", "d/b"],
    "validation": ["d/c"],
}


def write_sample(
    root: Path,
    name: str,
    *,
    channels: int = 1,
    objects: int = 3,
    spacing: tuple[float, ...] = (1.0, 0.5, 0.5),
    **made_from: Any,
) -> dict[str, Any]:
    """Write the stores of one sample and return its entry for the manifest of weigh."""
    random = np.random.default_rng(list(name.encode()))
    labels = np.zeros((1, 40, 44), np.int64)
    for k, (y, x) in enumerate(random.integers(0, 36, (objects, 2)), start=1):
        labels[0, y : y + 8, x : x + 8] = k
    image = np.where(labels > 0, 200, 50).astype(np.uint8) + random.integers(0, 40, labels.shape)
    image = np.repeat(image.astype(np.uint8)[None], channels, axis=0)
    target = encode_target(labels[0], boundary_width=2)[None]
    weights = separation(labels[0], w0=10, sigma=5)[None]

    store = root / "convert" / "d" / f"{name}.ome.zarr"
    create_array(store, "0", image.shape, image.dtype, storage=STORAGE)[...] = image
    bins = [Bins.between(0, 255, image.dtype)] * channels
    statistics = summary([b.histogram(c) for b, c in zip(bins, image, strict=True)], bins)
    commit_image(
        store,
        spacing=spacing,
        levels=1,
        channel_names=[f"channel {k}" for k in range(channels)],
        attributes={
            "statistics": {"quantiles": list(QUANTILES), "volume": statistics},
            **made_from,
        },
    )
    weighed = root / "weigh" / "d" / f"{name}.zarr"
    create_array(weighed, "target", target.shape, np.uint8, storage=STORAGE)[...] = target
    create_array(weighed, "separation", weights.shape, np.float32, storage=STORAGE)[...] = weights
    tally = count_chunks(target, weights, (1, 32, 32)).astype(np.uint32)
    create_array(weighed, "tally", tally.shape, tally.dtype, storage=STORAGE)[...] = tally
    commit_arrays(weighed, {})
    return {
        "sample": name,
        "dataset": "d",
        "split": "train",
        "status": "done",
        "message": None,
        "store": f"d/{name}.zarr",
        "image_store": f"../convert/d/{name}.ome.zarr",
        "fingerprint": hashlib.sha256(f"{name} {spacing}".encode()).hexdigest(),
        "counts": np.bincount(target.ravel(), minlength=4).tolist(),
        "cross_sections": {"count": objects, "diameter": 9.0},
    }


def failed(name: str) -> dict[str, Any]:
    message = f"{name} is truncated"
    nothing = {"store": None, "fingerprint": None}
    return (
        {"sample": name, "dataset": "d", "split": "train", "status": "failed"}
        | nothing
        | {"message": message}
    )


@pytest.fixture
def weigh(tmp_path: Path) -> Path:
    """Return the manifest of weigh of a lot of three samples."""
    return write_lot(tmp_path, [write_sample(tmp_path, name) for name in "abc"])


def write_lot(root: Path, entries: list[dict[str, Any]]) -> Path:
    path = root / "weigh" / "d-0000.json"
    path.parent.mkdir(exist_ok=True, parents=True)
    write_manifest(path, {"stage": "weigh", "lot": "d-0000", "samples": entries})
    return path


def change(**changes: Any) -> dict[str, Any]:
    """Return the settings with sections merged with changes."""
    settings = copy.deepcopy(SETTINGS)
    for key, value in changes.items():
        settings[key] = {**settings[key], **value} if isinstance(value, dict) else value
    return settings


def run(weigh: Path, name: str = "fold-0", code: str = "c0de", **changes: Any) -> Path:
    """Run the stage and return the model's folder."""
    manifest = weigh.parent.parent / "train" / "squares" / f"{name}.json"
    train.run(manifest=manifest, weigh=[weigh], settings=change(**changes), code=code, threads=1)
    return manifest.with_suffix("")


def test_model_describes_itself(weigh: Path) -> None:
    folder = run(weigh)
    model = json.loads((folder / "model.json").read_text())
    assert model["architecture"]["in_channels"] == 1
    assert model["target"] == "foreground"
    assert model["classes"] == ["background", "foreground"]
    assert model["spacing"] == [1, 0.5, 0.5]
    assert model["intensity"] == SETTINGS["intensity"]
    assert sorted(model["samples"]["train"]) == ["d/a", "d/b"]
    assert model["made_from"]["libraries"].keys() == {"torch", "lightning", "numpy"}
    for name in ("best", "last"):
        weights = folder / model["weights"][name]
        assert hashlib.sha256(weights.read_bytes()).hexdigest() == model["sha256"][name]
        assert sum(array.size for array in load_file(weights).values()) == model["parameters"]
        assert 0 <= model["scores"][name]["dice"] <= 1
    lines = (folder / "metrics.csv").read_text().splitlines()
    assert lines[0].split(",")[0] == "step"
    assert [line.split(",")[0] for line in lines[1:]] == ["2", "4"]


def test_manifest_says_what_was_learned_from(weigh: Path) -> None:
    folder = run(weigh)
    manifest = json.loads(folder.with_suffix(".json").read_text())
    model = json.loads((folder / "model.json").read_text())
    assert manifest == {
        "stage": "train",
        "experiment": "squares",
        "fold": 0,
        "model": "fold-0/model.json",
        "fingerprint": model["fingerprint"],
        "train": ["d/a", "d/b"],
        "validation": ["d/c"],
        "left_out": [],
        "settings": digest(SETTINGS),
        "code": "c0de",
    }


# Large enough for PyTorch to share out an operation among threads.
LARGE: dict[str, Any] = {"network": {"width": 4}, "training": {"tile": 76, "batch": 2}}


def threaded(threads: int) -> dict[str, Any]:
    return {**LARGE, "training": {**LARGE["training"], "threads": threads}}


@pytest.mark.parametrize("changes", [{}, threaded(2)], ids=["one thread", "two threads"])
def test_two_runs_write_the_same_bytes(weigh: Path, changes: dict[str, Any]) -> None:
    one, two = run(weigh, "fold-0", **changes), run(weigh, "fold-1", **changes)
    for file in ("best.safetensors", "last.safetensors", "metrics.csv", "model.json"):
        assert (one / file).read_bytes() == (two / file).read_bytes()


def test_a_training_runs_on_the_threads_of_its_settings(weigh: Path) -> None:
    """Without several threads at work, the test above would prove nothing about them."""
    one, two = (run(weigh, f"fold-{n}", **threaded(n)) / "last.safetensors" for n in (1, 2))
    assert one.read_bytes() != two.read_bytes()


@pytest.mark.parametrize("changes", [{"threads": 2}, {"processes": 2}, {"deterministic": True}])
def test_whatever_changes_the_last_bits_trains_again(
    weigh: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    class Begun(Exception):
        pass

    def begin(*_: Any) -> None:
        raise Begun

    run(weigh)
    monkeypatch.setattr(train, "_train", begin)
    run(weigh)
    with pytest.raises(Begun):
        run(weigh, training=changes)


def test_what_is_auto_is_chosen_once_and_recorded(
    weigh: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_ = {"network": {"depth": "auto"}, "training": {"tile": "auto", "batch": "auto"}}
    with caplog.at_level(logging.INFO):
        says = json.loads((run(weigh, **open_) / "model.json").read_text())
    assert says["architecture"]["depth"] == says["settings"]["network"]["depth"] == 2
    assert says["chosen"][0] == (
        "depth 2, because objects are 9 px across (median) and each pixel sees 20 px to every side"
    )
    assert [reason.split(",")[0] for reason in says["chosen"][1:]] == ["tile 80 px", "batch 1"]
    assert "chose depth 2, because" in caplog.text
    assert (says["settings"]["training"]["tile"], says["settings"]["training"]["batch"]) == (80, 1)


def test_what_is_auto_is_the_same_for_every_fold(tmp_path: Path) -> None:
    entries = [write_sample(tmp_path, name) for name in "abc"]
    entries[2]["cross_sections"] = {"count": 7, "diameter": 15.0}
    entries[0]["cross_sections"] = {"count": 3, "diameter": 5.0}
    weigh = write_lot(tmp_path, entries)
    folds = [{"train": ["d/a", "d/b"], "validation": ["d/c"]}]
    folds.append({"train": ["d/c"], "validation": ["d/a", "d/b"]})
    entered = {f"d/{name}": entry for name, entry in read_entries(weigh).items()}
    first, second = (lessons.read_lesson(entered, change(**fold)).extent for fold in folds)
    assert first == second  # side, diameter and pixels, on which depth, tile and batch rest
    assert (first.diameter, first.pixels) == (15, 3 * 40 * 44)
    open_ = {"network": {"depth": "auto"}, "training": {"tile": "auto", "batch": "auto"}}
    one, other = (
        json.loads((run(weigh, f"fold-{k}", **fold, **open_) / "model.json").read_text())
        for k, fold in enumerate(folds)
    )
    assert one["chosen"] == other["chosen"]
    assert one["architecture"] == other["architecture"]


def test_a_tile_that_fits_no_memory_is_an_error(weigh: Path) -> None:
    with pytest.raises(ValueError, match=r"raise training\.memory_gb, which is 3e-05"):
        run(weigh, training={"tile": "auto", "memory_gb": 3e-5})
    assert not list(weigh.parent.parent.glob("train/**/*.safetensors"))
    with pytest.raises(ValueError, match=r"^training\.memory_gb is 1e-06, but the parameters"):
        run(weigh, training={"tile": "auto", "memory_gb": 1e-6})


@pytest.mark.parametrize("kind", ["unet++", "fcn"])
def test_other_networks_are_trained(weigh: Path, kind: str) -> None:
    folder = run(weigh, network={"kind": kind, "depth": 1}, training={"tile": 30})
    network, says = load_model(folder / "model.json")
    assert network.architecture.kind == says["architecture"]["kind"] == kind


def test_a_finished_model_is_not_trained_again(weigh: Path) -> None:
    folder = run(weigh)
    before = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.*")}
    folder.with_suffix(".json").unlink()
    run(weigh)
    assert {file.name: file.stat().st_mtime_ns for file in folder.glob("*.*")} == before
    assert folder.with_suffix(".json").exists()


def test_every_step_counts_as_progress(weigh: Path, paced: Callable[[], list[str]]) -> None:
    run(weigh)
    assert paced() == ["1 of 4 steps", "2 of 4 steps", "3 of 4 steps", "4 steps"]


def test_other_code_trains_again(weigh: Path) -> None:
    first = (run(weigh) / "model.json").read_text()
    assert (run(weigh, code="0ther") / "model.json").read_text() != first


def test_three_classes_and_batch_norm(weigh: Path) -> None:
    folder = run(weigh, target="interior_boundary", network={"normalization": "batch"})
    model = json.loads((folder / "model.json").read_text())
    assert model["architecture"]["classes"] == len(model["class_weights"]) == 3


def test_class_weights_balance_the_training_samples(weigh: Path) -> None:
    entries = {e["sample"]: e for e in json.loads(weigh.read_text())["samples"]}
    counts = np.sum([entries[name]["counts"] for name in "ab"], axis=0)
    background, foreground = counts[0] + counts[3], counts[1] + counts[2]
    total = background + foreground
    model = json.loads((run(weigh) / "model.json").read_text())
    expected = [total / (2 * background), total / (2 * foreground)]
    assert model["class_weights"] == pytest.approx(expected)


def test_without_class_balance_all_classes_weigh_one(weigh: Path) -> None:
    folder = run(weigh, training={"class_balance": False})
    assert json.loads((folder / "model.json").read_text())["class_weights"] == [1, 1]


def test_samples_that_failed_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weigh = write_lot(tmp_path, [write_sample(tmp_path, "a"), failed("b"), failed("c")])
    with caplog.at_level(logging.WARNING):
        folder = run(weigh)
    assert "train sample d/b is left out: b is truncated" in caplog.text
    manifest = json.loads(folder.with_suffix(".json").read_text())
    assert manifest["train"] == ["d/a"]
    assert manifest["left_out"] == [
        {"sample": "d/b", "message": "b is truncated"},
        {"sample": "d/c", "message": "c is truncated"},
    ]


def test_without_validation_the_best_weights_are_the_last(
    weigh: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        folder = run(weigh, validation=[])
    assert "there are no validation samples: the best weights are the last" in caplog.text
    best, last = (folder / f"{name}.safetensors" for name in ("best", "last"))
    assert best.read_bytes() == last.read_bytes()
    model = json.loads((folder / "model.json").read_text())
    assert model["scores"]["best"]["loss"] is None
    assert (folder / "metrics.csv").read_text().splitlines()[1].split(",")[2:5] == ["", "", ""]


def test_no_training_samples_are_an_error(tmp_path: Path, weigh: Path) -> None:
    with pytest.raises(ValueError, match=r"no training sample left of 0 \(left out: none\)"):
        run(weigh, train=[])
    lot = write_lot(tmp_path, [failed("a"), failed("b"), failed("c")])
    with pytest.raises(ValueError, match=r"left of 2 \(left out: d/a, d/b, d/c\): give samples"):
        run(lot)


def test_a_sample_without_entry_is_an_error(weigh: Path) -> None:
    with pytest.raises(ValueError, match="validation sample d/z is in none of the manifests"):
        run(weigh, validation=["d/z"])


def test_one_class_training_data_name_the_class(tmp_path: Path) -> None:
    weigh = write_lot(tmp_path, [write_sample(tmp_path, name, objects=0) for name in "abc"])
    with pytest.raises(ValueError, match=r"have no foreground \(voxels: 3520 background, 0 fore"):
        run(weigh, validation=[])


def test_validation_without_foreground_names_its_samples(tmp_path: Path) -> None:
    entries = [write_sample(tmp_path, name) for name in "ab"]
    entries.append(write_sample(tmp_path, "c", objects=0))
    weigh = write_lot(tmp_path, entries)
    message = (
        r"1760 background, 0 foreground\).* labels of d/c, or give others the split 'validation' "
        r"in the sheet; with folds above 1, .* lower folds, or give these samples one 'group' .* "
        r"have foreground$"
    )
    with pytest.raises(ValueError, match=message):
        run(weigh)


def test_validation_where_nobody_annotated_is_refused(tmp_path: Path) -> None:
    entries = [write_sample(tmp_path, name) for name in "abc"]
    entries[2]["counts"] = [0, 0, 0, 0]
    weigh = write_lot(tmp_path, entries)
    with pytest.raises(ValueError, match=r"validation samples have no foreground \(labelled vox"):
        run(weigh)


def test_a_class_that_validation_lacks_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = [write_sample(tmp_path, name) for name in "abc"]
    entries[2]["counts"] = [10, 5, 0, 0]
    caplog.set_level(logging.WARNING)
    lesson = lessons.read_lesson(train._entries([write_lot(tmp_path, entries)]), SETTINGS)
    lessons.weigh_classes(lesson, "interior_boundary")
    assert "the validation samples have no boundary: their scores" in caplog.text


def test_rare_voxels_are_oversampled_and_said(
    weigh: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run(weigh, training={"oversample": 0.5})
    assert "tiles are oversampled on the rarest class, foreground" in caplog.text


def test_samples_must_agree_on_channels(tmp_path: Path) -> None:
    entries = [write_sample(tmp_path, "a"), write_sample(tmp_path, "b", channels=3)]
    weigh = write_lot(tmp_path, entries)
    with pytest.raises(ValueError, match="sample d/a has 1 channels, sample d/b has 3: choose"):
        run(weigh, validation=[])


def test_a_tile_must_fit_the_network(weigh: Path) -> None:
    with pytest.raises(ValueError, match=r"tile 31 px does not fit a network of depth 1.* is 32"):
        run(weigh, training={"tile": 31})


def spaced(root: Path, **spacings: tuple[float, float]) -> Path:
    """Return the manifest of a lot of samples of these spacings along y and x."""
    entries = [write_sample(root, name, spacing=(1.0, *yx)) for name, yx in spacings.items()]
    return write_lot(root, entries)


def test_samples_of_different_spacings_are_refused(tmp_path: Path) -> None:
    weigh = spaced(tmp_path, a=(0.5, 0.5), b=(0.52, 0.5), c=(0.5, 0.6))
    told = r"sample d/a has a spacing of 0\.5 x 0\.5 µm .y x., sample d/c 0\.5 x 0\.6, further "
    with pytest.raises(ValueError, match=told + "apart than 10 %.*raise training.spacing_toler"):
        run(weigh)
    assert not list(tmp_path.glob("train/**/*.safetensors"))


def test_spacings_that_are_near_or_wanted_are_learned_from(tmp_path: Path) -> None:
    weigh = spaced(tmp_path, a=(0.5, 0.5), b=(0.54, 0.5), c=(0.5, 0.5))
    model = json.loads((run(weigh) / "model.json").read_text())
    assert model["spacings"] == [[1, 0.5, 0.5], [1, 0.54, 0.5]]
    weigh = spaced(tmp_path, a=(0.5, 0.5), b=(1.0, 1.0), c=(0.5, 0.5))
    run(weigh, "other", training={"spacing_tolerance": 1.0})


def test_a_model_says_that_its_spacing_is_not_known(tmp_path: Path) -> None:
    scale: dict[str, Any] = {"spacing": (1.0, 1.0, 1.0), "spacing_known": False}
    silent = [write_sample(tmp_path, name, **scale) for name in "abc"]
    model = run(write_lot(tmp_path, silent)) / "model.json"
    says = json.loads(model.read_text())
    assert says["spacing"] is None
    assert says["spacings"] == [None]
    start_from(tmp_path / "weigh" / "d-0000.json", model)
    with pytest.raises(
        ValueError, match=r"sample d/b has a spacing of 0\.5 x 0\.5 .*d/a is not kn"
    ):
        run(write_lot(tmp_path, [silent[0], *(write_sample(tmp_path, n) for n in "bc")]), "mixed")
    with pytest.raises(ValueError, match="model in start_from was trained on is not known"):
        start_from(write_lot(tmp_path, [write_sample(tmp_path, n) for n in "abc"]), model, "known")


def test_the_tolerance_of_spacings_is_no_reason_to_train_again(weigh: Path) -> None:
    weights = run(weigh) / "last.safetensors"
    written = weights.stat().st_mtime_ns
    run(weigh, training={"spacing_tolerance": 0.2})
    assert weights.stat().st_mtime_ns == written


def start_from(weigh: Path, start: Path, name: str = "further", **changes: Any) -> None:
    settings = {**change(**changes), "start_from": {"model": "m", "weights": "w"}}
    manifest = weigh.parent.parent / "train" / "squares" / f"{name}.json"
    train.run(
        manifest=manifest, weigh=[weigh], settings=settings, code="c0de", threads=1, start=start
    )


def test_a_training_starts_from_models_of_its_spacing_only(tmp_path: Path, weigh: Path) -> None:
    model = run(weigh) / "model.json"
    start_from(weigh, model)
    coarse = spaced(tmp_path, a=(1.0, 1.0), b=(1.0, 1.0), c=(1.0, 1.0))
    told = r"sample d/a has a spacing of 1 x 1 µm .y x., the model in start_from was trained at "
    with pytest.raises(ValueError, match=told + r"0\.5 x 0\.5, further apart than 10 %: if the fi"):
        start_from(coarse, model)
    start_from(coarse, model, training={"spacing_tolerance": 1.0})
    assert json.loads(model.read_text())["spacings"] == [[1, 0.5, 0.5]]
    several = {**json.loads(model.read_text()), "spacings": [[1, 0.5, 0.5], [3, 1.0, 1.04]]}
    model.write_text(json.dumps(several))
    start_from(coarse, model)


@pytest.mark.parametrize(
    ("changes", "channels", "differing"),
    [
        ({"width": 4}, 1, r"network\.width is 4, there 2"),
        ({}, 3, r"the number of channels is 3, there 1"),
        (
            {"padding": "same", "normalization": "batch"},
            1,
            r"network\.padding is same, there valid; network\.normalization is batch, there none",
        ),
    ],
)
def test_a_training_starts_from_its_own_architecture_only(
    tmp_path: Path, weigh: Path, changes: dict[str, Any], channels: int, differing: str
) -> None:
    model = run(weigh) / "model.json"
    entries = [write_sample(tmp_path / "n", name, channels=channels) for name in "abc"]
    other = write_lot(tmp_path / "n", entries)
    message = rf"^training cannot start from the network in {model}: {differing}\. Make them the "
    with pytest.raises(ValueError, match=message):
        start_from(other, model, network=changes)


def test_a_training_starts_from_another_dropout(weigh: Path) -> None:
    start_from(weigh, run(weigh) / "model.json", network={"dropout": 0.5})


def test_a_training_starts_from_its_own_classes_only(weigh: Path) -> None:
    model = run(weigh) / "model.json"
    with pytest.raises(ValueError, match=r": the number of classes is 3, there 2\. Make"):
        start_from(weigh, model, target="interior_boundary")


@pytest.mark.parametrize("part", ["scored", "timed"])
def test_a_device_too_small_to_score_the_model_names_what_to_change(
    weigh: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes\nmore")

    if part == "scored":
        monkeypatch.setattr("gigaseg.depths.output_window", refuse)
    else:  # by a prediction, which on its own would name other settings
        monkeypatch.setattr("gigaseg.inference.Predictor._forward", refuse)
    message = (
        r"^the memory of the cpu device is too small to score and time the trained network, of "
        r"width 2, on tiles of 30 px: .* lower training\.tile or network\.width "
        r"\(DefaultCPUAllocator: can't allocate memory: you tried 9 bytes\)$"
    )
    with pytest.raises(RuntimeError, match=message):
        run(weigh)


def test_a_model_lists_all_that_has_formed_its_weights(tmp_path: Path) -> None:
    file = {"name": "a.tif", "size": 3, "sha256": "f"}
    made_from = {"inputs": {"image": file}, "settings": {"planes": [0, 6]}}
    entries = [write_sample(tmp_path, "a", **made_from), write_sample(tmp_path, "b")]
    first = run(write_lot(tmp_path, entries), train=["d/a"], validation=["d/b"])
    own = {"sample": "d/a", "image": file, "planes": [0, 6]}
    model = json.loads((first / "model.json").read_text())
    assert model["learned"] == [own]
    weigh = tmp_path / "weigh" / "d-0000.json"
    start_from(weigh, first / "model.json", train=["d/b"], validation=[])
    further = json.loads((first.parent / "further" / "model.json").read_text())
    assert further["learned"] == [{"sample": "d/b"}, own]
    # Older files name only their own samples, and what is learned from twice is listed once.
    del model["learned"]
    (first / "model.json").write_text(json.dumps(model))
    start_from(weigh, first / "model.json", "again", train=["d/b"], validation=[])
    further = json.loads((first.parent / "again" / "model.json").read_text())
    assert further["learned"] == [{"sample": "d/b"}, {"sample": "d/a"}]
    start_from(weigh, first.parent / "again" / "model.json", "third", train=["d/b"], validation=[])
    third = json.loads((first.parent / "third" / "model.json").read_text())
    assert third["learned"] == further["learned"]


def test_a_gpu_that_is_not_there_leaves_no_model(
    weigh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="sees no CUDA device here"):
        run(weigh, training={"device": "cuda"})
    assert not list(weigh.parent.parent.glob("train/**/*.safetensors"))
