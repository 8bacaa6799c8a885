"""Files of trained networks: what is refused before anything runs, and what they decide."""

import json
import re
from hashlib import sha256

import pytest
from gigaseg.models import read_model, read_weights
from gigaseg.plan import Plan
from gigaseg.samples import Sample
from gigaseg.settings import resolve

NETWORK = {"depth": 2, "width": 3, "padding": "same", "normalization": "batch", "dropout": 0.1}
ROWS = [
    Sample("a", "cells", "train", "a.tif", "a-label.tif"),
    Sample("b", "cells", "validation", "b.tif", "b-label.tif"),
    Sample("c", "cells", "test", "c.tif"),
]


def write(folder, name="model.json", **changes):
    folder.mkdir(exist_ok=True)
    weights = {"best": "best.safetensors", "last": "last.safetensors"}
    for file in weights.values():
        (folder / file).write_bytes(file.encode())
    content = {
        "format": 1,
        "architecture": {"in_channels": 1, "classes": 3, **NETWORK},
        "channels": 1,
        "classes": ["background", "interior", "boundary"],
        "fingerprint": "f" * 64,
        "intensity": {"method": "none"},
        "samples": {},
        "scores": {},
        "sha256": {k: sha256(name.encode()).hexdigest() for k, name in weights.items()},
        "spacing": [1, 1, 1],
        "target": "interior_boundary",
        "weights": weights,
    } | changes
    path = folder / name
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return path


def resolved(**experiment):
    config = {
        "datasets": {"cells": {}},
        "experiments": {
            "one": {"datasets": ["cells"], **experiment},
            "two": {"datasets": ["cells"]},
        },
    }
    settings, problems = resolve(config, {})
    return settings, [str(problem) for problem in problems]


def test_a_model_file_decides_network_and_target(tmp_path):
    settings, problems = resolved(model=str(write(tmp_path)))
    assert problems == []
    assert settings["experiments"]["one"]["network"] == {"kind": "unet", **NETWORK}
    assert settings["experiments"]["one"]["target"] == "interior_boundary"
    assert settings["experiments"]["two"]["network"]["width"] == 16


def test_what_a_model_file_says_too_may_be_said(tmp_path):
    own = {"target": "interior_boundary", "network": {"depth": 2}}
    assert resolved(model=str(write(tmp_path)), **own)[1] == []


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"network": {"depth": 3}}, r"one.network.depth: 3 contradicts .*, whose depth is 2"),
        ({"target": "foreground"}, r"foreground contradicts .*, whose target is interior_boundary"),
        ({"training": {"steps": 5}}, r"one.training: the model is trained: start_from trains it"),
        ({"folds": 3}, r"3 folds are models of this run, but the model is brought"),
        ({"start_from": "x"}, r"has a model and start_from"),
    ],
)
def test_what_contradicts_a_model_file_is_refused(tmp_path, own, message):
    [problem] = resolved(model=str(write(tmp_path)), **own)[1]
    assert re.search(message, problem), problem


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2, this version of gigaseg reads up to 1"),
        ({"format": None}, "does not describe a model"),
        ({"intensity": None}, "has no intensity"),
        ({"spacing": 1}, "has the spacing 1"),
        ({"target": "nuclei"}, "has the target 'nuclei', which is not one of foreground"),
        ({"weights": {}}, "names no weights"),
        ({"weights": {"best": "../best.safetensors"}}, "must be a .safetensors file beside it"),
        ({"weights": {"best": "best.pt"}}, "must be a .safetensors file beside it"),
        ({"weights": {"best": "b.safetensors"}}, "b.safetensors is missing: it must lie beside"),
        ({"sha256": {}}, "no SHA-256 of best.safetensors"),
        ({"weights": {"last": "last.safetensors"}}, "no weights called 'best' (there: last)"),
        (
            {"architecture": {"in_channels": 1, "classes": 3, **NETWORK, "attention": 1}},
            "an architecture with attention, of which this version of gigaseg knows nothing",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_one_problem(tmp_path, changes, message):
    [problem] = resolved(model=str(write(tmp_path, **changes)))[1]
    assert problem.startswith("experiments.one.model: ")
    assert message in problem


@pytest.mark.parametrize("key", ["model", "start_from"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("net.pt", "is a pickle, and loading one runs whatever program it contains"),
        ("pytorch_model.bin", "is a pickle"),
        ("epoch.ckpt", "is a pickle"),
        ("best.safetensors", "holds weights, which do not say what they are of"),
        ("missing.json", "is missing"),
        ("text.json", "is no JSON text"),
        ("list.json", "does not describe a model"),
    ],
)
def test_a_file_that_is_no_model_is_one_problem(tmp_path, key, name, message):
    for there in ("net.pt", "pytorch_model.bin", "epoch.ckpt", "best.safetensors", "text.json"):
        (tmp_path / there).write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    [problem] = resolved(**{key: str(tmp_path / name)})[1]
    assert problem.startswith(f"experiments.one.{key}: {tmp_path / name} ")
    assert message in problem


@pytest.mark.parametrize("key", ["model", "start_from"])
@pytest.mark.parametrize(("channels", "found"), [("all", 0), ([1], 0), ([0, 2], 1)])
def test_data_of_other_channels_are_refused_before_anything_runs(tmp_path, key, channels, found):
    own = {"target": "interior_boundary", "network": NETWORK} if key == "start_from" else {}
    config = {
        "datasets": {"cells": {"channels": channels}},
        "experiments": {"one": {"datasets": ["cells"], key: str(write(tmp_path)), **own}},
    }
    problems = [str(problem) for problem in resolve(config, {})[1]]
    assert len(problems) == found
    assert all(text.startswith(f"experiments.one.{key}: ") for text in problems)
    assert all("reads 1 channel, data set cells keeps 2: [0, 2]" in text for text in problems)


def test_weights_are_those_that_are_described(tmp_path):
    path = write(tmp_path)
    assert read_weights(path, read_model(path), "last") == b"last.safetensors"
    (tmp_path / "last.safetensors").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"not the file that model\.json describes"):
        read_weights(path, read_model(path), "last")
    with pytest.raises(ValueError, match="has no weights called 'middle'"):
        read_weights(path, read_model(path), "middle")


def test_training_goes_on_with_the_same_network_only(tmp_path):
    path = str(write(tmp_path))
    own = {"target": "interior_boundary", "network": {**NETWORK, "dropout": 0.5}}
    assert resolved(start_from=path, **own)[1] == []
    own["network"] |= {"width": 4}
    [problem] = resolved(start_from=path, **own)[1]
    assert f"network.width is 4, that of {path} is 3" in problem
    assert any("target is foreground" in problem for problem in resolved(start_from=path)[1])


# ---------------------------------------------------------------------------------------- the plan


def planned(**experiment):
    settings, problems = resolved(**experiment)
    assert problems == []
    del settings["experiments"]["two"]
    return Plan(settings, ROWS)


def test_a_model_that_is_brought_is_not_trained(tmp_path):
    path = str(write(tmp_path))
    jobs = planned(model=path)
    assert jobs.manifests("train") == jobs.manifests("weigh") == []
    assert jobs.manifests("predict") == ["results/predict/one/fold-0/cells-0000.json"]
    assert jobs.models("one", "0") == [path]
    # What was for training is not predicted: who knows whether the model has learned from it.
    told = json.loads(jobs.job("predict", "cells-0000", ("one", "0")))["samples"]
    assert [row["sample"] for row in told] == ["b", "c"]
    assert json.loads(jobs.audit())["models"] == [path]
    assert json.loads(jobs.report())["models"] == {"one": [path]}
    assert json.loads(jobs.job("split", "cells-0000", ("one", "0")))["target"] == (
        "interior_boundary"
    )


def test_several_models_are_an_ensemble(tmp_path):
    paths = [str(write(tmp_path / name)) for name in "ab"]
    assert planned(model=paths).models("one", "0") == paths
    other = str(write(tmp_path / "c", intensity={"method": "standard"}))
    [problem] = resolved(model=[*paths, other])[1]
    assert "must agree in intensity" in problem


def test_altered_weights_are_found_before_the_run(tmp_path):
    for key in ("model", "start_from"):
        path = write(tmp_path / key)
        own = {} if key == "model" else {"target": "interior_boundary", "network": NETWORK}
        jobs = planned(**{key: str(path)}, **own)
        jobs.roster.check()
        (path.parent / "best.safetensors").write_bytes(b"other")
        with pytest.raises(ValueError, match=r"not the file that model\.json describes"):
            jobs.roster.check()


def test_a_training_is_told_what_it_starts_from_and_not_where_that_lies(tmp_path):
    own = {"target": "interior_boundary", "network": NETWORK}
    jobs = [
        planned(start_from=str(write(tmp_path / name, fingerprint=fingerprint)), **own)
        for name, fingerprint in (("a", "1" * 64), ("b", "1" * 64), ("c", "2" * 64))
    ]
    first, moved, other = (one.job("train", model=("one", "0")) for one in jobs)
    assert first == moved != other
    assert json.loads(first)["start_from"]["model"] == "1" * 64
    assert "start_from" not in json.loads(planned().job("train", model=("one", "0")))
