"""The overlays that stand for the paper, and for its ablation, say what they claim."""

from pathlib import Path

import pytest
import yaml
from gigaseg.geometry import UNetGeometry
from gigaseg.networks import count_parameters
from gigaseg.settings import resolve
from gigaseg.unet import Architecture

ROOT = Path(__file__).parents[2]


def read(name):
    return yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())


def resolved(name):
    own = read(name)
    settings, problems = resolve({**read("config"), **own}, own)
    assert problems == []
    return settings


def experiments(name):
    return resolved(name)["experiments"]


def differences(one, other, where=""):
    """Yield the settings in which two experiments differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from differences(one.get(key), other.get(key), f"{where}.{key}".lstrip("."))
    elif one != other:
        yield where


def test_the_paper_s_experiment_is_the_paper_s():
    [paper] = experiments("paper").values()
    network, training = paper["network"], paper["training"]
    architecture = Architecture(1, 2, **network)
    assert architecture == Architecture()
    assert count_parameters(architecture) == 31_030_658
    assert (training["tile"], training["batch"]) == (572, 1)
    assert architecture.geometry.output_size(training["tile"]) == 388
    assert (training["optimizer"], training["momentum"]) == ("sgd", 0.99)
    assert training["separation"]
    assert training["class_balance"]
    elastic = training["augmentation"]["elastic"]
    assert elastic["sigma"] == 10
    assert training["augmentation"]["scale"] == training["augmentation"]["blur"] == 0
    absent = ("weight_decay", "ema", "patience", "oversample", "gradient_clip", "warmup_steps")
    assert {key: training[key] for key in absent} == dict.fromkeys(absent, 0)
    assert training["schedule"] == "constant"
    assert training["augmentation"]["rotation"] == 180
    assert training["augmentation"]["flips"]
    assert network["dropout"] == 0.5
    weights = resolved("paper")["weights"]
    assert (weights["w0"], weights["sigma"]) == (10, 5)
    assert round(training["tile"] / elastic["spacing"]) == 3  # the grid over a tile is 3 by 3
    assert paper["prediction"]["symmetries"] == 7
    assert paper["prediction"]["precision"] == training["precision"] == "float32"
    assert paper["target"] == "foreground"


def test_the_paper_s_overlay_leaves_to_the_defaults_only_how_it_is_computed():
    [paper] = experiments("paper").values()
    own = read("paper")
    assert own["network"].keys() == paper["network"].keys()
    assert paper["training"].keys() - own["training"].keys() == {
        *("device", "threads", "processes", "deterministic", "seed"),
        *("memory_gb", "checkpoint_every", "spacing_tolerance"),
    }
    assert own["training"]["augmentation"].keys() == paper["training"]["augmentation"].keys()


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("no-separation", {"training.separation"}),
        ("no-elastic", {"training.augmentation.elastic.sigma"}),
        ("three-classes", {"target"}),
        (
            "paper-optimizer",
            {f"training.{key}" for key in ("optimizer", "learning_rate", "schedule")}
            | {"training.warmup_steps", "training.gradient_clip", "training.weight_decay"},
        ),
        (
            "paper-mode",
            {f"training.{key}" for key in ("optimizer", "learning_rate", "schedule")}
            | {"training.warmup_steps", "training.gradient_clip", "training.weight_decay"}
            | {"training.augmentation.scale", "training.augmentation.blur"}
            | {"training.precision", "network.normalization"},
        ),
        ("padding-same", {"network.padding"}),
        ("nested", {"network.kind"}),
        ("fcn", {"network.kind"}),
        *((f"depth-{n}", {"network.depth"}) for n in (1, 2, 3, 5, "auto")),
    ],
)
def test_an_experiment_of_the_ablation_differs_in_one_thing(name, changed):
    matrix = experiments("ablation")
    found = set(differences(matrix["baseline"], matrix[name]))
    assert changed <= found <= changed | {"training.tile"}  # which follows the network's context


def test_the_paper_s_way_of_training_in_the_ablation_is_the_paper_s():
    [paper] = experiments("paper").values()
    mode = experiments("ablation")["paper-mode"]
    own = {"training.steps", "training.tile", "training.memory_gb", "network.width"}
    apart = differences({k: paper[k] for k in ("network", "training", "target")}, mode)
    assert {key for key in apart if key.split(".")[0] in ("network", "training", "target")} == own


def test_the_ablation_learns_from_tiles_of_about_one_output():
    outputs = {
        UNetGeometry(*(e["network"][k] for k in ("depth", "padding", "kind"))).output_size(
            e["training"]["tile"]
        )
        for e in experiments("ablation").values()
        if e["network"]["depth"] != "auto"
    }
    assert 256 <= min(outputs) <= max(outputs) <= 260
