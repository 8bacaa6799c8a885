"""The model of a run against what is really stored, its texts, and what it refuses."""

import json
import os
import re
import tracemalloc
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from gigaseg import cuts, maps, memory, relaxation, sources, thinning
from gigaseg.fingerprints import canonical_json
from gigaseg.forecast import (
    BOOKS,
    STARTING,
    TYPICAL,
    Attempt,
    Need,
    Size,
    Stored,
    checkpoints,
    disk,
    duration,
    rates,
    stored,
    total,
)
from gigaseg.geometry import UNetGeometry, blocks
from gigaseg.ledger import Construction
from gigaseg.manifests import read_manifest, write_manifest
from gigaseg.memory import (
    LIBRARIES,
    MB,
    WEIGHED,
    models_memory,
    prediction_memory,
    sample_memory,
    training_memory,
    weighed_voxels,
)
from gigaseg.networks import count_parameters
from gigaseg.outlook import (
    CAUTION,
    Machine,
    Outlook,
    Part,
    amount,
    brief,
    refusals,
    table,
    warnings,
)
from gigaseg.plan import load
from gigaseg.pyramids import create_pyramid
from gigaseg.sizing import parameters, training_bytes
from gigaseg.stages import forecast as stage
from gigaseg.stages import train, weigh
from gigaseg.survey import earlier, jobs_left, measure, models_of
from gigaseg.unet import Architecture
from gigaseg.volumes import commit_image, commit_labels, create_array, open_arrays
from gigaseg.weights import halo

NETWORK = {"kind": "unet", "depth": 4, "width": 16, "padding": "valid"}
PREDICTION = {"tile": "auto", "memory_gb": 2.0, "batch": 1, "symmetries": 1, "depth": None}
PREDICTION |= {"device": "auto", "precision": "auto", "jobs_per_sample": 1}
TRAINING = {
    "tile": 316,
    "batch": 1,
    "memory_gb": 2.0,
    "steps": 100,
    "device": "auto",
    "precision": "auto",
}
TRAINING |= {"optimizer": "adamw", "ema": 0, "processes": 1}
EXPERIMENT = {"network": NETWORK, "prediction": PREDICTION, "training": TRAINING}
EXPERIMENT |= {"target": "foreground", "evaluation": {"thresholds": [0.5]}}
EXPERIMENT |= {"view": {"pane": 1024}}
WEIGHTS = {"w0": 10.0, "sigma": 5.0, "boundary_width": 2, "separation_on": "background"}
EXPERIMENT |= {"weights": WEIGHTS}
STORAGE = {"chunk": 256, "shard": 1024, "smallest_level": 256}
PLANE = Size((1, 1, 4096, 4096), 2, labels="instances")


# -------------------------------------------------------------------------------------------- disk


@pytest.mark.parametrize("shard", [16, 32, 64, "auto"])
@pytest.mark.parametrize("shape", [(1, 20, 20), (2, 33, 150), (1, 300, 200)])
def test_the_files_of_a_store_are_counted(shape, shard, tmp_path):
    storage = {"chunk": 16, "shard": shard, "smallest_level": 20}
    pyramid = create_pyramid(tmp_path, "", shape, "u1", storage=storage)
    for block in blocks(shape, pyramid.shards):
        pyramid[block.slices] = np.ones(block.shape, "u1")
    pyramid.finish()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    size = Size((1, *shape), 1)
    need = stage._store("convert", size, "foreground", (16, shard, 20))
    assert len(files) <= need.files - BOOKS <= 1.5 * len(files)


@pytest.mark.parametrize(
    ("name", "size", "target", "expected"),
    [
        ("convert", PLANE, "foreground", [("image", 2), ("labels", 4)]),
        ("convert", replace(PLANE, labels=""), "foreground", [("image", 2)]),
        ("predict", PLANE, "foreground", [("probabilities", 1)]),
        ("split", PLANE, "foreground", [("labels", 4)]),
        ("split", replace(PLANE, shape=(1, 1, 2**17, 2**17)), "foreground", [("labels", 8)]),
        ("evaluate", PLANE, "foreground", []),
        ("train", PLANE, "foreground", []),
    ],
)
def test_what_a_stage_stores(name, size, target, expected):
    arrays = stored(name, size, target)
    assert [(array.kind, array.itemsize) for array in arrays] == expected
    assert all(array.shape[-3:] == size.shape[1:] for array in arrays)


@pytest.mark.parametrize("shape", [(1, 40, 50), (3, 33, 70)])
def test_what_weigh_stores(tmp_path, shape):
    storage = {"chunk": 16, "shard": 32, "smallest_level": 256}
    truth = np.arange(np.prod(shape), dtype="u4").reshape(shape) // 7
    image = tmp_path / "image"
    create_array(image, "0", (1, *shape), "u1", storage=storage)
    create_array(image, "labels/truth/0", shape, "u4", storage=storage)[...] = truth
    facts = {"spacing": (1, 1, 1), "levels": 1, "attributes": {}}
    commit_labels(image / "labels/truth", **facts)
    commit_image(image, channel_names=["a"], **facts)
    entry = {"store": image, "fingerprint": "f"}
    settings = {"weights": WEIGHTS, "storage": storage}
    weigh.weigh_sample(entry, tmp_path / "a", "plane", settings=settings, code="c", workers=1)
    found, _ = open_arrays(tmp_path / "a")
    expected = stored("weigh", Size((1, *shape), 1), chunk=16)
    assert [(array.kind, array.shape) for array in expected] == [
        (name, found[name].shape) for name in ("target", "separation", "tally")
    ]
    assert [array.itemsize for array in expected] == [
        found[array.kind].dtype.itemsize for array in expected
    ]
    files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    need = stage._store("weigh", Size((1, *shape), 1), "foreground", (16, 32, 256))
    assert len(files) <= need.files <= len(files) + BOOKS
    made = (path for path in (tmp_path / "a" / "tally").rglob("*") if path.is_file())
    bytes_made = sum(path.stat().st_size for path in made if path.name != "zarr.json")
    assert bytes_made <= 2 * TYPICAL["tally"] * 4 * np.prod(expected[2].shape)


def test_two_classes_have_two_channels_of_probabilities():
    assert stored("predict", PLANE, "interior_boundary")[0].shape == (2, 1, 4096, 4096)


def whole(level: int) -> int:
    """Have each of a few coarser levels in one file."""
    return 512 >> level


def test_disk_is_the_sum_over_levels():
    need = disk([Stored((1, 512, 512), 2, "image")], smallest=128, edge=whole)
    voxels = 512**2 + 256**2 + 128**2
    assert need.disk == pytest.approx(2 * voxels * TYPICAL["image"])
    assert need.least == pytest.approx(2 * voxels / 100)
    flat = disk([Stored((1, 512, 512), 2, "image", pyramid=False)], smallest=128, edge=whole)
    assert flat.disk == pytest.approx(2 * 512**2 * TYPICAL["image"])


def test_nothing_stored_needs_nothing():
    assert disk([], smallest=128, edge=whole) == Need()


# ------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(("channels", "depth", "width"), [(1, 4, 64), (3, 2, 5), (2, 1, 8)])
@pytest.mark.parametrize("classes", [2, 3])
def test_parameters_are_counted(channels, classes, depth, width):
    for kind in ("unet", "unet++", "fcn"):
        network = Architecture(channels, classes, depth, width, kind=kind)
        told = {"kind": kind, "depth": depth, "width": width}
        assert parameters(channels, classes, told) == count_parameters(network)


@pytest.mark.parametrize(
    ("objects", "shape", "spacing"),
    [
        ("plane", (1, 400, 500), (1, 1, 1)),
        ("volume", (30, 60, 70), (1, 1, 1)),
        ("volume", (30, 60, 70), (1.0, 0.9973, 0.9973)),  # squared distances of 64 bit
    ],
)
@pytest.mark.parametrize("ignored", [None, 9])
def test_a_block_of_weigh_takes_what_was_forecast(objects, shape, spacing, ignored):
    labels = np.random.default_rng(0).integers(0, 20, shape).astype("u4")
    of_block = weigh.block_function(WEIGHTS, objects, spacing, ignored=ignored)
    inner = tuple(slice(0, n) for n in shape)
    of_block(labels[:, :20, :20], inner)  # compiles
    tracemalloc.start()
    of_block(labels, inner)
    peak = tracemalloc.get_traced_memory()[1] + labels.nbytes
    tracemalloc.stop()
    assert peak <= WEIGHED * labels.size <= 3 * peak


@pytest.mark.parametrize("weights", [WEIGHTS, {**WEIGHTS, "sigma": 9.0}, {**WEIGHTS, "w0": 0.0}])
def test_the_halo_of_weigh_is_known_before(weights):
    chosen = {key: weights[key] for key in ("w0", "sigma", "boundary_width")}
    z, y, x = halo(**chosen, spacing=(1, 1, 1))
    large = Size((1, 999, 9000, 9000), 1)
    assert weighed_voxels(large, weights, 256) == (256 + 2 * y) * (256 + 2 * x)
    solid = replace(large, objects="volume")
    assert weighed_voxels(solid, weights, 256) == (
        (weigh.THICKNESS + 2 * z) * (256 + 2 * y) * (256 + 2 * x)
    )
    assert weighed_voxels(replace(solid, shape=(1, 2, 30, 40)), weights, 256) == 2400


@pytest.mark.usefixtures("machine")
def test_every_model_of_an_ensemble_is_in_memory(told):
    predict = told["jobs"][2]
    network = 4 * parameters(1, 2, NETWORK)
    one = stage.look_ahead(told, local=False)[0].stages["predict"].memory
    predict["inputs"] += ["two.json", "three.json"]
    three = stage.look_ahead(told, local=False)[0].stages["predict"].memory
    assert three - one == 2 * network
    assert models_memory(parameters(1, 2, NETWORK), 1) == 3 * network


@pytest.mark.usefixtures("machine")
def test_dask_workers_of_a_job_take_as_much_as_it_each(told):
    alone = stage.look_ahead(told, local=True)[0].stages
    told["config"]["dask"]["workers"] = 3
    hired = stage.look_ahead(told, local=True)[0].stages
    grown = {name: hired[name].memory / need.memory for name, need in alone.items()}
    assert grown == {"convert": 4, "train": 1, "predict": 1, "split": 4}


def test_an_audit_loads_the_models_that_have_predicted():
    job = {"stage": "audit_seams", "inputs": ["convert", "one", "two", "predict"]}
    assert models_of(job) == models_of({"stage": "predict", "inputs": ["convert", "one", "two"]})
    assert models_of({"stage": "predict"}) == 1


def test_what_is_auto_is_forecast_as_what_it_may_take():
    known = training_memory(NETWORK, TRAINING)
    one = {**TRAINING, "memory_gb": 1.5}
    deepest = parameters(1, 2, {**NETWORK, "depth": 5})
    # The parameters are counted by themselves.
    left, least = (1.5e9 - 16 * n for n in (parameters(1, 2, NETWORK), deepest))
    assert training_memory(NETWORK, {**one, "tile": "auto"}) == left
    assert training_memory({**NETWORK, "depth": "auto"}, {**one, "tile": "auto"}) == least
    assert training_memory(NETWORK, {**one, "batch": "auto"}) == left
    assert training_memory(NETWORK, {**one, "batch": "auto", "memory_gb": 0.01}) == known
    assert training_memory(NETWORK, {**one, "tile": "auto", "memory_gb": 0.01}) == 0
    assert parameters(1, 2, {**NETWORK, "depth": "auto"}) == deepest
    small = replace(PLANE, shape=(1, 1, 100, 400))  # no deeper than 4
    assert prediction_memory(small, {**NETWORK, "depth": "auto"}, PREDICTION, 1024) == (
        prediction_memory(small, NETWORK, PREDICTION, 1024)
    )


def test_training_keeps_maps_of_every_pixel_of_a_batch():
    once = training_memory(NETWORK, TRAINING)
    assert once == training_bytes(UNetGeometry(4), 16, 316)
    assert training_memory(NETWORK, {**TRAINING, "batch": 4}) == 4 * once


def test_checkpoints_hold_what_the_training_has():
    bare = checkpoints(1000, {"optimizer": "sgd", "ema": 0})
    assert bare == 3 * 4 * 1000 * 3  # weights, momenta and the best weights, three times
    assert checkpoints(1000, {"optimizer": "adamw", "ema": 0.9}) == bare * 5 / 3


def test_of_what_passes_the_largest_must_find_room():
    both = Need(disk=5, passing=3) + Need(disk=2, passing=4)
    assert (both.disk, both.passing, both.room) == (7, 4, 11)


def test_a_tile_that_is_given_decides_what_prediction_takes():
    small = prediction_memory(PLANE, NETWORK, {**PREDICTION, "tile": 316}, 1024)
    large = prediction_memory(PLANE, NETWORK, {**PREDICTION, "tile": 700}, 1024)
    assert large - small > 8 * 16 * 4 * (700**2 - 316**2)


def test_prediction_needs_less_than_it_may_have_and_its_block():
    for size in (PLANE, replace(PLANE, shape=(1, 1, 2**25, 2**25)), replace(PLANE, itemsize=4)):
        assert prediction_memory(size, NETWORK, PREDICTION, 1024) < 2.2e9


@pytest.mark.parametrize("name", ["convert", "weigh", "predict", "split", "view"])
def test_memory_follows_the_block_and_not_the_plane(name):
    sizes = [replace(PLANE, shape=(1, 1, n, n)) for n in (2**15, 2**18)]
    small, large = (sample_memory(name, size, EXPERIMENT, 1024, 2) for size in sizes)
    assert large < (2.1 if name == "convert" else 1.1) * small  # whose strips may be as wide
    assert large + LIBRARIES[name] < 2500 * MB


def test_tuning_by_the_map_takes_what_maps_take():
    wide = replace(PLANE, shape=(1, 1, 2**15, 2**15))
    tune = {"metric": "v_rand"}
    by_map, by_instances = (
        sample_memory("tune", wide, {**EXPERIMENT, "instances": {"tune": chosen}}, 1024, 2)
        for chosen in (tune, {"metric": "ap"})
    )
    assert by_map == memory.map_memory(wide, 2) > by_instances
    assert by_instances == sample_memory("split", wide, EXPERIMENT, 1024, 2)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("metric", "files"), [("splits_and_mergers", 2), ("v_rand", 0)])
def test_tuning_by_warping_keeps_mismatches_on_disk_for_a_moment(told, metric, files):
    convert_samples(told, (1, 1, 20_000, 20_000))
    instances = {"tune": {"metric": metric, "grid": {"threshold": [0.3, 0.5]}}}
    told["config"]["experiments"]["e"]["instances"] = instances
    told["jobs"].append(job("tune", Path(told["config"]["results"]) / "t.json", ["d/a.tif"]))
    told["jobs"][-1]["experiment"] = "e"
    need = stage.look_ahead(told, local=False)[0].stages["tune"]
    assert need.passing == files * 4 * 20_000.0**2
    assert need.disk == 0


def test_blocks_are_bounded_as_the_stages_bound_them():
    assert sources.BLOCK_BYTES == memory.BLOCK_BYTES
    assert sources.BYTES_AT_ONCE == memory.BYTES_AT_ONCE
    assert cuts.PLANE_SIDE == memory.SPLIT_SIDE
    assert (maps.PIECE, maps.CHUNK) == (memory.MAP_PIECE, memory.MAP_CHUNK)
    assert (thinning.HALO, relaxation.IN_MEMORY) == (memory.MAP_HALO, memory.MAP_LIST)
    assert (cuts.FLOOD_VOXELS, cuts.WRITE_VOXELS) == (memory.FLOOD_VOXELS, memory.WRITE_VOXELS)
    assert train.MEMORY == memory.LESSON
    assert weigh.THICKNESS == memory.THICKNESS


@pytest.mark.parametrize("name", ["convert", "split", "weigh"])
def test_more_thickness_is_more_work_in_hand_at_most_for_objects_in_space(name):
    flat, thick = (replace(PLANE, shape=(1, z, 512, 512)) for z in (1, 50))
    space = replace(thick, objects="volume", labels="foreground")
    one, many, solid = (
        sample_memory(name, size, EXPERIMENT, 1024, 2) for size in (flat, thick, space)
    )
    assert one == many < solid


def test_one_large_strip_is_in_memory_as_a_whole():
    strip = replace(PLANE, segment=10**9)
    more = sample_memory("convert", strip, EXPERIMENT, 1024, 2)
    assert more - sample_memory("convert", PLANE, EXPERIMENT, 1024, 2) >= 10**9


# --------------------------------------------------------------------------------------------- time


def test_rates_are_those_of_this_machine_and_of_the_same_network():
    done = [
        Attempt("predict", "small", "here", 10, 10),
        Attempt("predict", "small", "here", 30, 10),
        Attempt("predict", "large", "there", 1, 9),
        Attempt("predict", "small", "there", 1, 99),
        Attempt("split", "", "here", 0, 5),
    ]
    assert rates(done, "here") == {("predict", "small"): 0.5, ("predict", "large"): 9.0}


def test_a_job_has_its_start_and_its_pixels():
    assert duration(100, 0.5) == Need(seconds=STARTING + 50)
    assert duration(100, None) == Need(unknown=1)


def test_needs_add_up_but_memory():
    one = Need(disk=1, least=0.5, files=2, jobs=1, memory=7, seconds=3, unknown=0, unseen=1)
    two = Need(disk=2, files=1, jobs=2, memory=5, unknown=2)
    both = Need(disk=3, least=0.5, files=3, jobs=3, memory=7, seconds=3, unknown=2, unseen=1)
    assert total([one, two]) == both


# -------------------------------------------------------------------------------------------- texts

NEED = Need(disk=5e9, least=5e7, files=120, jobs=3, memory=9e8, seconds=600)
HUGE = Part("mine/a", "convert", NEED, PLANE, "data/a.tif", 400)
OUTLOOK = Outlook({"mine/a: large": {"convert": NEED}}, {"convert": NEED}, [HUGE])
ROOM = Machine(1e12, 1e6, 16e9)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (999, "999 B"),
        (999.6, "1.0 kB"),
        (99_900, "99.9 kB"),
        (123_456, "123 kB"),
        (1e21, "1000 EB"),
    ],
)
def test_amounts_are_short(size, text):
    assert amount(size) == text


def test_the_table_fits_a_terminal():
    long = replace(NEED, files=10**9, jobs=10**6, disk=1e15, seconds=9e5, unknown=12345, unseen=4)
    wide = Outlook({"mine/" + "a" * 90: {"audit_seams": long}}, {"audit_seams": long})
    for lines in (table(OUTLOOK, ROOM), table(wide, ROOM)):
        assert max(map(len, lines.splitlines())) <= 100
        assert not any(line.endswith(" ") for line in lines.splitlines())
    assert "4 samples are not here yet" in table(wide, ROOM)


def test_a_finished_run_says_so():
    assert table(Outlook({}, {}), ROOM).startswith("Nothing is left to do")


def test_the_start_of_a_run_is_one_line():
    line = brief(OUTLOOK, ROOM)
    assert line == (
        "Forecast: 5.0 GB of disk (1.0 TB free), 900 MB of memory (of 16.0 GB), 10 min 0 s"
    )
    assert "of memory, time unknown" in brief(
        Outlook({}, {"split": replace(NEED, seconds=0, unknown=3)}), replace(ROOM, memory=None)
    )


def test_what_fits_is_not_complained_about():
    assert refusals(OUTLOOK, ROOM) == warnings(OUTLOOK, ROOM) == []


def test_too_little_disk_is_refused_only_if_it_is_certain():
    tight = replace(ROOM, disk=4e9)
    assert refusals(OUTLOOK, tight) == []
    (warning,) = warnings(OUTLOOK, tight)
    assert "about 5.0 GB are needed, 4.0 GB are free" in warning
    assert "mine/a, 4096 x 4096 px in data/a.tif (a file of 400 B)" in warning
    full = replace(ROOM, disk=4e7)
    (refusal,) = refusals(OUTLOOK, full)
    assert (
        "5.0 GB are needed, at the very best compression 50.0 MB, and 40.0 MB are free" in refusal
    )
    assert "mine/a, 4096 x 4096 px in data/a.tif (a file of 400 B)" in refusal
    assert "results" in refusal
    assert warnings(OUTLOOK, full) == []


def test_what_is_there_already_is_not_needed_twice():
    assert refusals(OUTLOOK, replace(ROOM, disk=4e7), present=2e7) == []
    assert warnings(OUTLOOK, replace(ROOM, disk=4e9), present=2e9) == []


def test_too_little_memory_is_refused_only_if_it_is_certain():
    small = replace(ROOM, memory=8e8)
    assert refusals(OUTLOOK, small) == []
    (warning,) = warnings(OUTLOOK, small)
    assert "convert takes about 900 MB for mine/a" in warning
    assert "may still fit" in warning
    tiny = replace(ROOM, memory=NEED.memory / CAUTION - 1)
    (refusal,) = refusals(OUTLOOK, tiny)
    assert "and this machine has 300 MB: save the file in tiles" in refusal
    assert warnings(OUTLOOK, tiny) == []


def test_memory_elsewhere_is_not_known():
    assert refusals(OUTLOOK, replace(ROOM, memory=None)) == []


def test_too_many_files_are_told():
    (warning,) = warnings(OUTLOOK, replace(ROOM, files=100.0))
    assert "120 are needed, 100 are free" in warning
    assert "storage.shard" in warning
    assert warnings(OUTLOOK, replace(ROOM, files=None)) == []


def test_files_that_cannot_be_read_are_told():
    (one,) = warnings(replace(OUTLOOK, faults=["a: no header"]), ROOM)
    assert one == "no forecast: a: no header"
    (two,) = warnings(replace(OUTLOOK, faults=["a: no header", "b"]), ROOM)
    assert two == "2 samples cannot be forecast, the first: a: no header"


# ------------------------------------------------------------------------------------------- survey


def row(sample: str, folder: Path, **facts: object) -> dict[str, object]:
    told = {"sample": sample, "dataset": "d", "split": "train", "image": str(folder / sample)}
    told |= {
        "label": "x",
        "labels": "instances",
        "objects": "plane",
        "planes": None,
        "channels": "all",
    }
    return told | {"spacing": None} | facts


def job(name: str, path: Path, samples: list[str], inputs: list[Path] = []) -> dict[str, object]:  # noqa: B006
    stamp = {"settings": sha256(name.encode()).hexdigest(), "code": "c"}
    return {
        "stage": name,
        "outputs": [str(path)],
        "samples": samples,
        "inputs": [str(p) for p in inputs],
        "experiment": "e" if name in ("train", "predict", "split", "evaluate") else None,
        "stamp": stamp,
    }


@pytest.fixture
def told(tmp_path):
    """Two samples on disk, nothing done."""
    for name in ("a.tif", "b.tif"):
        tifffile.imwrite(tmp_path / name, np.zeros((200, 300), "u2"))
    results = tmp_path / "results"
    convert, predict = results / "convert/d-0000.json", results / "predict/e/fold-0/d-0000.json"
    train, split = results / "train/e/fold-0.json", results / "split/e/fold-0/d-0000.json"
    names = ["d/a.tif", "d/b.tif"]
    config = {
        "results": str(results),
        "datasets": {"d": {"phantom": None, "registry": None}},
        "experiments": {"e": EXPERIMENT},
        "storage": STORAGE,
        "audit": {"windows": 4},
        "dask": {"workers": 0},
        "evaluation": {"thresholds": []},
    }
    jobs = [
        job("convert", convert, names),
        job("train", train, names, [convert]),
        job("predict", predict, names, [convert, train]),
        job("split", split, names, [predict]),
    ]
    samples = {name: row(name[2:], tmp_path) for name in names}
    return json.loads(
        canonical_json({"config": config, "samples": samples, "jobs": jobs, "todo": None})
    )


def finish(told: dict, number: int, **content: object) -> None:
    """Write the manifest of a job."""
    done = told["jobs"][number]
    write_manifest(Path(done["outputs"][0]), done["stamp"] | content)


def convert_samples(told: dict, shape: tuple[int, ...] = (2, 3, 200, 300)) -> None:
    entries = [
        {"dataset": "d", "sample": name, "status": "done", "shape": shape, "dtype": "float32"}
        for name in ("a.tif", "b.tif")
    ]
    finish(told, 0, samples=entries)


def stages_left(told: dict) -> list[str]:
    return [job["stage"] for job in jobs_left(told)]


def test_a_job_is_left_with_all_that_follows(told):
    everything = ["convert", "train", "predict", "split"]
    assert stages_left(told) == everything
    convert_samples(told)
    assert stages_left(told) == everything[1:]
    for number in (1, 2, 3):
        finish(told, number)
    assert stages_left(told) == []
    told["jobs"][1]["stamp"]["settings"] = "others"
    assert stages_left(told) == everything[1:]


def test_a_raw_file_that_is_newer_is_converted_again(told, tmp_path):
    convert_samples(told)
    for number in (1, 2, 3):
        finish(told, number)
    os.utime(tmp_path / "b.tif", (4e9, 4e9))
    assert stages_left(told) == ["convert", "train", "predict", "split"]


def test_jobs_that_are_named_are_those_that_are_left(told):
    told["todo"] = told["jobs"][2]["outputs"]
    assert stages_left(told) == ["predict"]


def test_raw_files_are_drawn_only_for_a_conversion(told, tmp_path):
    drawing = {"stage": "phantom", "outputs": [str(tmp_path / "no.tif")], "samples": ["d/a.tif"]}
    told["jobs"].insert(0, drawing)
    assert stages_left(told)[:2] == ["phantom", "convert"]
    drawing["outputs"] = [str(tmp_path / "a.tif")]
    assert stages_left(told)[0] == "convert"


def test_sizes_come_from_headers_until_samples_are_converted(told):
    sizes = measure(told, jobs_left(told))
    assert sizes["d/a.tif"] == Size((1, 1, 200, 300), 2, 0, "instances", "plane")
    assert sizes.headers["d/a.tif"].stored > 120_000
    convert_samples(told)
    sizes = measure(told, jobs_left(told))
    assert sizes["d/a.tif"] == Size((2, 3, 200, 300), 4, 0, "instances", "plane")
    assert sizes.headers == {}


def test_a_damaged_file_is_a_fault_and_a_missing_one_unknown(told, tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    (tmp_path / "b.tif").unlink()
    sizes = measure(told, jobs_left(told))
    assert sizes == {}
    assert [text.partition(":")[0] for text in sizes.faults] == ["d/a.tif"]


def test_what_is_not_drawn_yet_has_the_size_of_the_config(told, tmp_path):
    (tmp_path / "a.tif").unlink()
    told["config"]["datasets"]["d"]["phantom"] = {"kind": "nuclei", "shape": [1, 64, 80]}
    assert measure(told, jobs_left(told))["d/a.tif"].shape == (1, 1, 64, 80)


def test_chosen_channels_count(told):
    told["samples"]["d/a.tif"]["channels"] = [0, 0, 0]
    assert measure(told, jobs_left(told))["d/a.tif"].shape == (3, 1, 200, 300)


def note(store: Path, lines: list[dict[str, object]]) -> None:
    """Write attempts of a process as the ledger does."""
    with Construction(store, {"code": "c"}):
        pass
    text = "\n".join(map(canonical_json, lines)) + "\n"
    (store / ".gigaseg" / "attempts.jsonl").write_text(text)


def attempt(number: int, start: float, stop: float, **facts: object) -> list[dict[str, object]]:
    common = {"attempt": f"t{number}", "host": "here", "pid": 1, "blocks": 0}
    begun = {"event": "start", "time": start, "reason": "first"}
    ended = {"event": "end", "time": stop, "seconds": stop - start, "outcome": "done"}
    return [{**common, **begun, **facts}, {**common, **ended, **facts}]


def test_attempts_of_one_process_count_once_where_they_overlap(told):
    store = Path(told["config"]["results"]) / "predict/e/fold-0/d"
    note(store / "a.tif.ome.zarr", attempt(1, 100, 140))
    note(store / "b.tif.ome.zarr", attempt(2, 120, 150))
    (found,) = earlier(told, measure(told, []))
    assert (found.stage, found.host, found.mpx, found.seconds) == ("predict", "here", 0.12, 50)


def test_an_attempt_that_was_broken_off_did_its_blocks(told):
    told["config"]["storage"] = {**STORAGE, "shard": 100}
    store = Path(told["config"]["results"]) / "split/e/fold-0/d/a.tif.ome.zarr"
    broken = attempt(1, 0, 10, outcome="KeyboardInterrupt", blocks=3)
    note(store, broken + attempt(2, 20, 40, reason="resumed", blocks=2))
    (found,) = earlier(told, measure(told, []))
    assert found.mpx == pytest.approx(5 * 0.01)
    assert found.seconds == 30


def test_a_killed_attempt_says_nothing(told):
    store = Path(told["config"]["results"]) / "split/e/fold-0/d/a.tif.ome.zarr"
    note(store, attempt(1, 0, 10)[:1])
    assert rates(earlier(told, measure(told, [])), "here") == {}


def test_training_counts_its_tiles(told):
    note(Path(told["config"]["results"]) / "train/e/fold-0", attempt(1, 0, 60))
    (found,) = earlier(told, measure(told, []))
    assert found.mpx == pytest.approx(100 * 316**2 / 1e6)


def test_benchmarks_speak_where_no_store_does(told):
    results = Path(told["config"]["results"])
    told["jobs"].append(job("evaluate", results / "evaluate/e/fold-0/d-0000.json", ["d/a.tif"]))
    table = results / "benchmarks/evaluate/e/fold-0/d-0000.tsv"
    table.parent.mkdir(parents=True)
    table.write_text("s\tmax_rss\n25.0\t100\n1.0\t90\nNA\t-\n")
    found = list(earlier(told, measure(told, [])))
    assert [(a.stage, a.seconds) for a in found] == [("evaluate", 20.0), ("evaluate", 0.2)]


# -------------------------------------------------------------------------------------------- stage


@pytest.fixture
def machine(monkeypatch):
    """Let the machine be another one."""

    def become(**facts: float) -> None:
        there = replace(Machine(1e12, 1e6, 16e9), **facts)
        monkeypatch.setattr(stage, "look_around", lambda *_, **__: there)

    become()
    return become


@pytest.mark.usefixtures("machine")
def test_the_forecast_lists_large_samples_alone_and_small_ones_together(told, tmp_path):
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((4000, 4000), "u1"))
    text = stage.run(settings=told)
    titles = [line for line in text.splitlines() if line and line[0] not in " DTM"]
    assert titles[:4] == [
        "d: 1 sample, 0.1 Mpx",
        "d/b.tif: 4000 x 4000 px, 16.0 Mpx",
        "experiment e",
        "whole run",
    ]
    assert titles[4].split() == ["there", "is", "1.0", "TB", "1,000,000", "16.0", "GB"]
    assert text.count("convert ") == 3


@pytest.mark.usefixtures("machine")
def test_lists_of_mismatches_of_large_planes_need_a_disk_and_are_no_reason_to_refuse(told):
    sample = told["samples"]["d/a.tif"]
    evaluate = job("evaluate", Path(told["config"]["results"]) / "e.json", ["d/a.tif"])
    told["jobs"].append(evaluate)
    for side, expected in ((4000, 0.0), (20_000, 2**2 * 20_000.0**2)):
        told["config"]["datasets"]["d"]["phantom"] = {"kind": "nuclei", "shape": [1, side, side]}
        Path(sample["image"]).unlink(missing_ok=True)
        need = stage.look_ahead(told, local=False)[0].jobs[evaluate["outputs"][0]]
        assert (need.disk, need.least) == (expected, 0)


@pytest.mark.usefixtures("machine")
def test_a_run_that_fits_is_told_in_a_line(told):
    text, _ = stage.before_run(told, local=True)
    assert text.startswith("Forecast: ")
    assert "\n" not in text


@pytest.mark.usefixtures("machine")
def test_a_run_with_nothing_known_to_do_is_silent(told):
    told["todo"] = ["something/else"]
    assert stage.before_run(told, local=True)[0] == ""


@pytest.mark.usefixtures("machine")
def test_the_newest_forecast_of_each_job_is_kept(told):
    results = Path(told["config"]["results"])
    path = results / "benchmarks" / "forecast.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"jobs": {"split/gone.json": {"disk": 1, "memory": 2, "seconds": 3}}}')
    _, outlook = stage.before_run(told, local=True)
    stage.keep(outlook, results)
    kept = read_manifest(path)["jobs"]
    assert kept.pop("split/gone.json") == {"disk": 1, "memory": 2, "seconds": 3}
    assert {name.split("/")[0] for name in kept} >= {"convert", "train", "predict"}
    for stage_name, need in outlook.stages.items():
        mine = [job for name, job in kept.items() if name.startswith(f"{stage_name}/")]
        assert sum(job["disk"] for job in mine) == pytest.approx(need.disk)
        assert max(job["memory"] for job in mine) == need.memory
        assert all(job["seconds"] is None for job in mine)  # nothing is known of time yet


def test_a_run_that_cannot_fit_is_refused(told, machine):
    machine(disk=1e3)
    with pytest.raises(stage.CannotFit, match="cannot fit, so nothing was begun") as caught:
        stage.before_run(told, local=True)
    assert "1.0 kB are free" in str(caught.value)
    assert "d/a.tif, 200 x 300 px" in str(caught.value)
    assert "Look out: disk: " in stage.run(settings=told)


def test_stores_that_are_there_already_are_counted_when_the_disk_is_short(told, machine):
    machine(disk=1e3)
    store = Path(told["config"]["results"]) / "convert/d/a.tif.ome.zarr/0"
    store.mkdir(parents=True)
    (store / "c").write_bytes(bytes(2 * 10**8))
    assert "may run out" not in stage.before_run(told, local=True)[0]


@pytest.mark.usefixtures("machine")
def test_no_tile_for_a_network_is_told_and_left_to_the_stage(told):
    told["config"]["experiments"]["e"]["prediction"]["memory_gb"] = 1e-6
    text, _ = stage.before_run(told, local=True)
    assert "no forecast: predict: the smallest tile" in text


def test_the_free_disk_is_that_of_the_first_folder_that_is_there(tmp_path):
    here, there = (
        stage.look_around(path, local=False) for path in (tmp_path, tmp_path / "not" / "yet")
    )
    assert here.memory is there.memory is None
    assert there.disk == pytest.approx(here.disk, rel=0.1)
    assert stage.look_around(tmp_path, local=True).memory > 1e8


def test_the_rules_ask_for_the_memory_that_the_default_run_takes(monkeypatch, tmp_path):
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    config = yaml.safe_load((root / "config" / "config.yaml").read_text())
    config |= {"results": str(tmp_path), "data_root": str(tmp_path)}
    told = json.loads(load(config, {}).forecast())
    outlook, _, _ = stage.look_ahead(told, local=False)
    assert {"convert", "weigh", "train", "predict", "split", "evaluate"} <= outlook.stages.keys()
    texts = "".join(path.read_text() for path in (root / "workflow" / "rules").glob("*.smk"))
    for name, need in outlook.stages.items():
        if name != "phantom":
            asked = re.search(rf"^rule {name}:.*?asks\((\d+)", texts, re.MULTILINE | re.DOTALL)
            assert need.memory <= int(asked[1]) * MB, name
