from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from gigaseg import settings
from gigaseg.intensity import QUANTILES
from gigaseg.schema import Problem, follow, read_schema
from gigaseg.settings import SettingsError, changes, complete, resolve

ROOT = Path(__file__).parents[2]
MINIMAL = {
    "datasets": {"cells": {}},
    "experiments": {"one": {"datasets": ["cells"]}},
}


def change(**sections):
    """Return the minimal config with sections changed."""
    return {**deepcopy(MINIMAL), **sections}


def quote(**more):
    return {"source": "A 2015", "metric": "seg", "value": 0.9, **more}


def tuned(grid, **tune):
    """Return the minimal config with settings that are to be tuned."""
    return change(instances={"tune": {"grid": grid, **tune}})


def mapped(grid):
    tune = {"grid": grid, "metric": "v_info"}
    return change(instances={"method": "components", "tune": tune})


def two_classes():
    experiment = {**MINIMAL["experiments"]["one"], "target": "interior_boundary"}
    return {"experiments": {"one": experiment}}


def problems(config, given=None):
    return [str(problem) for problem in resolve(config, given or {})[1]]


def test_everything_has_a_default_but_data_sets_and_experiments():
    resolved, found = resolve(MINIMAL, {})
    assert found == []
    assert resolved["datasets"]["cells"]["lot"] == 50
    assert resolved["experiments"]["one"]["network"]["depth"] == 4
    assert resolved["experiments"]["one"]["training"]["augmentation"]["elastic"]["sigma"] == 10


def test_config_yaml_shows_every_key_with_its_default():
    written = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    defaults, _ = resolve(MINIMAL, {})
    own = ("datasets", "experiments")
    assert {k: v for k, v in written.items() if k not in own} == {
        k: v for k, v in defaults.items() if k not in own
    }
    assert set(written["datasets"]["nuclei"]) == set(defaults["datasets"]["cells"])
    shown = set(written["experiments"]["nuclei"]) | set(settings.PER_EXPERIMENT)
    assert shown == set(defaults["experiments"]["one"])


def test_percentiles_are_those_that_are_stored():
    assert read_schema("config")["$defs"]["percentile"]["enum"] == [*QUANTILES]


def test_every_knob_of_the_schema_is_described():
    def leaves(schema, path=()):
        for name, part in schema.get("properties", {}).items():
            part = follow(part)
            if "properties" in part or isinstance(part.get("additionalProperties"), dict):
                yield from leaves(part, (*path, name))
            else:
                yield (*path, name), part

    assert [p for p, s in leaves(read_schema("config")) if "description" not in s] == []


def test_an_experiment_starts_from_the_common_sections():
    config = change(network={"width": 8})
    config["experiments"]["two"] = {"datasets": ["cells"], "network": {"depth": 3}}
    config["experiments"]["two"]["training"] = {"tile": 316, "augmentation": {"gain": 0.0}}
    resolved, found = resolve(config, {})
    assert found == []
    assert (
        resolved["experiments"]["one"]["network"] | {"depth": 3}
        == (resolved["experiments"]["two"]["network"])
    )
    assert resolved["experiments"]["two"]["training"]["augmentation"]["gain"] == 0
    assert resolved["experiments"]["two"]["training"]["augmentation"]["noise"] == 0.02


def test_an_overlay_replaces_data_sets_and_experiments_and_merges_the_rest():
    given = {
        "datasets": {"mine": {}},
        "experiments": {"mine": {"datasets": ["mine"]}},
        "network": {"width": 8},
    }
    merged = {  # as Snakemake merges: deeply, everywhere
        "datasets": {"cells": {}, "mine": {}},
        "experiments": {**MINIMAL["experiments"], **given["experiments"]},
        "network": {"depth": 3, "width": 8},
    }
    resolved, found = resolve(merged, given)
    assert found == []
    assert list(resolved["datasets"]) == list(resolved["experiments"]) == ["mine"]
    assert resolved["network"]["depth"] == 3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (change(trainig={}), "trainig: unknown key; did you mean training?"),
        (change(network={"dept": 4}), "network.dept: unknown key; did you mean depth?"),
        (change(sigma=5), "sigma: unknown key; it belongs under weights"),
        (change(training={"learning_rate": "1e-3"}), "write 1.0e-3"),
        (change(training={"learning_rate": "1e3"}), "write 1.0e+3"),
        (change(training={"weight_decay": float("nan")}), "weight_decay: nan is not a finite"),
        (change(training={"steps": "100"}), "'100' is not a whole number; YAML reads it as a text"),
        (change(network={"normalization": False}), "YAML reads yes, no, on and off as true"),
        (change(network={"padding": "vald"}), "one of valid, same; did you mean valid?"),
        (change(network={"depth": 0}), "network.depth: 0 is below 1, the smallest allowed"),
        (change(network={"depth": True}), "network.depth: true is not a whole number"),
        (change(network={"dropout": 1}), "network.dropout: 1 is not below 1"),
        (change(network={"depth": 9}), "9 is above 8, the largest allowed"),
        (change(weights={"sigma": 0}), "weights.sigma: 0 is not above 0 (width of"),
        (change(intensity={"low": 3}), "intensity.low: 3 is not one of 0, 0.1, 0.5, 1, 2, 5, 10,"),
        (change(instances={"threshold": 1}), "instances.threshold: 1 is not below 1"),
        (change(datasets={"cells": {}, "a" * 101: {}}), "has 101 characters, 100 are allowed"),
        (change(weights=None), "weights: null is not a section of keys"),
        (
            change(prediction={"tile": "large"}),
            "prediction.tile: 'large' is not a whole number (or auto) (network",
        ),
        (change(evaluation={"iou_thresholds": []}), "evaluation.iou_thresholds: [] has 0 entries"),
        (change(datasets={"cells": {}, "a b": {}}), "datasets.a b: not safe as a file name"),
        (change(datasets={"cells": {}, "<script>x</script>": {}}), "not safe as a file name"),
        (change(datasets={"cells": {"spacing": [1, 2]}}), "[1, 2] has 2 entries, not 3"),
        (
            change(datasets={"cells": {"published": [{"source": "A", "metric": "seg"}]}}),
            "datasets.cells.published.0: 'value' is missing",
        ),
        (
            change(datasets={"cells": {"published": [quote(metric="sge")]}}),
            "datasets.cells.published.0.metric: 'sge' is not one of seg, det, f1",
        ),
        (
            change(datasets={"cells": {"published": [quote(url="javascript:alert(1)")]}}),
            "published.0.url: 'javascript:alert(1)' does not match ^https?://",
        ),
        (
            change(evaluation={"baseline": "./results"}),
            "evaluation.baseline: ./results is the results folder of this run: name that of an",
        ),
        (change(evaluation={"baseline": 3}), "evaluation.baseline: 3 is not a text or null"),
        (
            change(dask={"scheduler_address": "tcp://node7:8786", "workers": 2}),
            "dask.workers: another cluster is named in dask.scheduler_address: set one of the two",
        ),
        (change(dask={"workers": -1}), "dask.workers: -1 is below 0, the smallest allowed"),
        (change(experiments={"one": {}}), "experiments.one: 'datasets' is missing"),
        (change(experiments={"one": {"datasets": ["cels"]}}), "'cels'; did you mean cells?"),
        (change(experiments={"one": {"datasets": ["cells", "cells"]}}), "names something twice"),
        ({"datasets": {"cells": {}}}, "'experiments' is missing"),
        (
            change(storage={"chunk": 256, "shard": 1040}),
            "of chunk, 256 px: the next that is, is 1280",
        ),
        (
            change(storage={"chunk": 100}),
            "storage.shard: 1100 px is no multiple of 2**depth = 16, as one needs: the next that "
            "is, is 1200",
        ),
        (
            change(storage={"chunk": 24, "shard": 72}),
            "storage.shard: 72 px is no multiple of 2**depth = 16, as one needs: the next that is, "
            "is 96",
        ),
        (tuned({"threshold": [0.5, 1]}), "instances.tune.grid.threshold.1: 1 is not below 1"),
        (tuned({"treshold": [0.5]}), "grid.treshold: unknown key; did you mean threshold?"),
        (tuned({"threshold": []}), "grid.threshold: [] has 0 entries, not 1"),
        (
            tuned({"threshold": 0.5}),
            "grid.threshold: 0.5 is not a list or null (probabilities to try)",
        ),
        (tuned({"h": [1, 1.0]}), "grid.h: [1, 1] names something twice"),
        (tuned({"h": [1]}, metric="voi"), "tune.metric: 'voi' is not one of ap, f1, pq, seg,"),
        (change(instances={"tune": {"metric": "ap"}}), "instances.tune: 'grid' is missing"),
        (change(instances={"tune": True}), "instances.tune: true is not a section of keys or null"),
        (
            tuned({}),
            "experiments.one.instances.tune.grid: nothing is to be tuned: list values of "
            "threshold, seed_threshold, h or minimum_size",
        ),
        (
            tuned({"threshold": [0.3, 0.5], "seed_threshold": [0.8]}),
            "one.instances.tune.grid.seed_threshold: has no effect with seeds dynamics: "
            "leave it out, or set seeds to probability",
        ),
        (
            change(
                instances={"method": "components", "tune": {"grid": {"h": [1, 2]}}},
            ),
            "grid.h: has no effect with method components: leave it out, or set it to null",
        ),
        (
            tuned({"threshold": [0.5, 0.7]}, metric="v_rand"),
            "experiments.one.instances.tune.grid: v_rand is of the map, whose cells are no "
            "instances of method watershed: set method to components, or take another metric",
        ),
        (
            mapped({"threshold": [0.5], "minimum_size": [0, 9]}),
            "tune.grid.minimum_size: has no effect on v_info, which is of the map: leave it out",
        ),
        (
            {**mapped({"threshold": [0.5, 0.7]}), **two_classes()},
            "experiments.one.instances.tune.metric: v_info is of a map of cells, which target "
            "interior_boundary does not give: use ap, f1 or rand",
        ),
        (
            tuned({"h": [k / 10 for k in range(1, 31)], "minimum_size": [*range(20)]}),
            "experiments.one.instances.tune.grid: 30 x 20 = 600 combinations are more than 500: "
            "list fewer values",
        ),
        (change(intensity={"low": 99.9}), "intensity.high: 99.8 is not above low, 99.9"),
        (
            change(training={"tile": 317}),
            "experiments.one.training.tile: tile 317 px does not fit a network of depth 4 with "
            "padding 'valid': the next size that does is 332",
        ),
        (
            change(prediction={"tile": 572}),
            "tile 572 px predicts 384 px at a time, which does not divide the shard of 1024 px: "
            "the nearest tile that does is 444, and the next storage.shard for this one is 1536",
        ),
        (
            change(prediction={"tile": 573}),
            "experiments.one.prediction.tile: tile 573 px does not fit a network of depth 4 with "
            "padding 'valid': the next size that does is 588",
        ),
        (
            change(network={"depth": "auto"}),
            "experiments.one.training.tile: 316 px may not fit a network of depth auto: write "
            "tile: auto, or a depth",
        ),
        (
            change(prediction={"depth": 2}),
            "experiments.one.prediction.depth: 2 is for networks of kind unet++, which can predict "
            "at lesser depths: write null, as this is a unet",
        ),
        (
            change(network={"kind": "unet++"}, prediction={"depth": 5}),
            "experiments.one.prediction.depth: 5 is above network.depth, 4: choose 1 to 4",
        ),
        (
            change(network={"kind": "unet++"}, prediction={"depth": 3, "tile": 204}),
            "tile 204 px predicts 112 px",
        ),
    ],
)
def test_a_problem_is_named_with_what_to_do(config, message):
    found = problems(config)
    assert len(found) == 1, found
    assert message in found[0]


def test_all_problems_come_at_once():
    config = change(
        network={"dept": 3},
        training={"tile": 317, "steps": "1e3"},
        storage={"chunk": 100, "shard": 1024},
    )
    found = problems(config)
    assert len(found) == 4
    assert str(SettingsError(resolve(config, {})[1])).count("\n  - ") == 4


def test_what_depends_on_a_wrong_value_is_not_complained_about():
    assert len(problems(change(network={"depth": "four"}, training={"tile": 317}))) == 1
    assert len(problems(change(datasets=3))) == 1
    assert len(problems({"datasets": [], "experiments": 3, "samples": 5})) == 3


def test_whole_numbers_may_be_written_as_floats():
    config = change(storage={"shard": 1024.0}, prediction={"tile": 572.0}, network={"depth": 4.0})
    config["datasets"]["cells"]["lot"] = 2.0
    resolved, found = resolve(config, {})
    assert "the nearest tile that does is 444" in str(found[0])
    assert repr(resolved["datasets"]["cells"]["lot"]) == "2"
    assert repr(resolved["experiments"]["one"]["network"]["depth"]) == "4"


def test_the_error_carries_its_problems():
    problem = Problem(("network", "depth"), "0 is below 1")
    assert SettingsError([problem]).problems == (problem,)
    assert issubclass(SettingsError, ValueError)


def test_processes_share_a_batch_that_has_a_tile_for_each():
    assert problems(change(training={"processes": 3, "batch": 2})) == [
        "experiments.one.training.processes: 3 processes cannot share a batch of 2: raise "
        "training.batch or lower this"
    ]
    assert problems(change(training={"processes": 2, "batch": 2})) == []


def test_an_experiment_may_tune_more_or_less_or_nothing():
    config = tuned({"threshold": [0.5, 0.7], "h": [1, 2]}, metric="seg")
    config["experiments"] |= {
        "two": {"datasets": ["cells"], "instances": {"tune": None}},
        "three": {
            "datasets": ["cells"],
            "instances": {"method": "components", "tune": {"grid": {"h": None}}},
        },
    }
    resolved, found = resolve(config, {})
    assert found == []
    one, two, three = (
        resolved["experiments"][k]["instances"]["tune"] for k in config["experiments"]
    )
    assert one == resolved["instances"]["tune"]
    assert (one["metric"], one["iou_match"], len(one["iou_thresholds"])) == ("seg", "at_least", 10)
    assert two is None
    assert three == {**one, "grid": {"threshold": [0.5, 0.7], "h": None}}


def test_a_wrong_grid_is_complained_about_once():
    assert problems(tuned({"threshold": None})) == []  # nothing is tuned
    assert problems(mapped({"threshold": [0.5, 0.7]})) == []
    assert len(problems(tuned({"threshold": [], "h": 3}))) == 2


def test_an_experiment_alone_may_tune():
    config = change(
        experiments={"one": {"datasets": ["cells"], "instances": {"tune": {"grid": {"h": [1, 2]}}}}}
    )
    resolved, found = resolve(config, {})
    assert found == []
    assert resolved["instances"]["tune"] is None
    assert resolved["experiments"]["one"]["instances"]["tune"]["metric"] == "ap"


def test_changes_name_what_differs_from_the_defaults_once():
    given = {
        "network": {"depth": 3},
        "datasets": {"cells": {"lot": 2, "labels": "instances"}},
        "experiments": {"one": {"datasets": ["cells"], "network": {"width": 8}}},
    }
    settings, problems = resolve(given, {})
    assert problems == []
    found = {one["setting"]: (one["value"], one["default"]) for one in changes(settings)}
    assert found == {
        "network.depth": (3, 4),
        "datasets.cells.lot": (2, 50),
        "experiments.one.datasets": (["cells"], None),
        "experiments.one.network.width": (8, 16),
    }


def test_the_defaults_are_no_change():
    assert changes(complete({})) == []


def test_what_is_auto_needs_no_tile():
    auto = {"network": {"depth": "auto"}, "training": {"tile": "auto", "batch": "auto"}}
    assert problems(change(**auto)) == []
    [found] = problems(change(**auto, storage={"chunk": 16, "shard": 48}))
    assert "48 px is no multiple of 2**depth = 32, as one needs: the next that is, is 64" in found


def test_a_lesser_depth_decides_which_tiles_fit_prediction():
    nested = {"network": {"kind": "unet++"}, "prediction": {"depth": 2, "tile": 44 - 4 + 8}}
    assert problems(change(**nested, storage={"chunk": 16, "shard": 48})) == []
