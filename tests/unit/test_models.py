"""Files of trained networks: what is refused before anything runs, and what they decide."""

import json
import os
import re
from dataclasses import replace
from hashlib import sha256

import pytest
from gigaseg.fingerprints import file_identity
from gigaseg.lineage import check_learned
from gigaseg.models import read_model, read_weights, spacings_of
from gigaseg.plan import Plan, load
from gigaseg.samples import Sample
from gigaseg.settings import SettingsError, resolve

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


def test_a_model_may_say_that_its_spacing_is_not_known_but_not_nothing(tmp_path):
    path = write(tmp_path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"spacing": None}))
    assert spacings_of(read_model(path)) == [None]
    # Older files said 1 µm for it, newer ones mean that.
    assert spacings_of(content) == [[1, 1, 1], None]
    assert spacings_of(content | {"learned": []}) == [[1, 1, 1]]
    assert spacings_of(content | {"spacing": [1, 1, 2]}) == [[1, 1, 2]]
    del content["spacing"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has no spacing"):
        read_model(path)


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
        ({"scores": None}, "has no scores"),
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


# ------------------------------------------------------------------ what models have learned from


def leaks(folder, rows, *, names, key="model", folds=1):
    """List what is said of an experiment with a model that has learned from these samples."""
    path = write(folder, samples={"train": dict.fromkeys(names, "f")})
    experiment = {"datasets": ["cells"], "folds": folds, "model": None, "start_from": None}
    problems = check_learned({"one": experiment | {key: str(path)}}, rows, folder)
    return [str(problem) for problem in problems]


def draw(folder, content=b"pixels", name="b.tif"):
    """Write an image file; return its identity."""
    (folder / name).write_bytes(content)
    return file_identity(folder / name)


@pytest.mark.parametrize("key", ["model", "start_from"])
def test_what_a_model_has_learned_from_is_not_scored(tmp_path, key):
    [problem] = leaks(tmp_path, ROWS, names=["cells/a", "cells/b"], key=key)
    assert problem.startswith(f"experiments.one.{key}: {tmp_path}/model.json has learned from ")
    assert "cells/b (validation), to be scored here" in problem
    assert "cells/a" not in problem  # is learned from here, too
    assert "give them the split 'train'" in problem.lower()


def test_what_has_no_label_or_another_name_is_not_scored_or_not_learned_from(tmp_path):
    assert leaks(tmp_path, ROWS, names=["cells/c", "nuclei/b", "b"]) == []
    assert leaks(tmp_path, [replace(ROWS[1], dataset="nuclei")], names=["nuclei/b"]) == []


def test_with_folds_every_sample_is_scored_once(tmp_path):
    [problem] = leaks(tmp_path, ROWS, names=["cells/a"], key="start_from", folds=2)
    assert "cells/a (train), to be scored here" in problem


def test_all_files_of_an_ensemble_are_compared(tmp_path):
    files = [str(write(tmp_path / n, samples={"train": {f"cells/{n}": "f"}})) for n in "abc"]
    rows = [replace(row, split="test", label="l.tif") for row in ROWS]
    rows += [replace(ROWS[2], sample=f"c{k}", label="l.tif") for k in range(4)]
    experiment = {"datasets": ["cells"], "folds": 1, "model": files, "start_from": None}
    told = [str(problem) for problem in check_learned({"one": experiment}, rows, tmp_path)]
    assert [text.split(" has ")[0].split(": ")[1] for text in told] == files
    many = {"train": {f"cells/{row.sample}": "f" for row in rows}}
    write(tmp_path / "a", samples=many)
    first = next(check_learned({"one": experiment}, rows, tmp_path))
    assert "cells/c (test) and 4 more, to be scored here" in str(first)


@pytest.mark.parametrize(
    ("content", "row", "planes", "found", "reason"),
    [
        (b"pixels", {}, None, 1, "the same file"),
        (b"others", {}, None, 0, "another image of the same name and size"),
        (b"longer pixels", {}, None, 0, "another image of the same name"),
        (b"pixels", {"dataset": "mine", "sample": "x"}, None, 1, "the same file, called otherwise"),
        (b"others", {"dataset": "mine", "sample": "x"}, None, 0, "another file of this name"),
        (b"pixels", {"planes": "6-9"}, [0, 6], 0, "other planes of the same stack"),
        (b"pixels", {"planes": "5-9"}, [0, 6], 1, "a plane in common"),
        (b"pixels", {"planes": "5-9"}, None, 1, "planes of a stack learned whole"),
        (None, {}, None, 1, "the file is not there yet: the names decide"),
        (None, {"dataset": "mine"}, None, 0, "not there yet, of another data set"),
    ],
)
def test_files_tell_samples_apart(tmp_path, content, row, planes, found, reason):
    learned = [{"sample": "cells/b", "image": draw(tmp_path), "planes": planes}]
    (tmp_path / "b.tif").unlink()
    if content:
        draw(tmp_path, content)
    rows = [replace(ROWS[1], **{"dataset": "cells", **row})]
    assert len(_told(tmp_path, rows, learned)) == found, reason


def _told(folder, rows, learned):
    path = write(folder, learned=learned)
    experiment = {"datasets": [rows[0].dataset], "folds": 1, "model": str(path)}
    return list(check_learned({"one": experiment}, rows, folder))


@pytest.mark.parametrize(
    ("copied", "row", "found"),
    [(False, {}, 1), (True, {}, 1), (False, {"sample": "x"}, 1), (True, {"sample": "x"}, 0)],
)
def test_large_files_are_known_by_size_and_name_or_time(tmp_path, copied, row, found):
    learned = [{"sample": "cells/b", "image": draw(tmp_path, bytes(1_000_001)), "planes": None}]
    if copied:
        os.utime(tmp_path / "b.tif", ns=(1, 1))
    assert len(_told(tmp_path, [replace(ROWS[1], **row)], learned)) == found


@pytest.mark.parametrize(("size", "found"), [(3, 1), (4, 0)])
def test_series_are_compared_by_their_files(tmp_path, size, found):
    for k in range(2):
        draw(tmp_path, bytes(3), f"z{k}.tif")
    learned = [{"sample": "cells/b", "image": file_identity(tmp_path / "z*.tif"), "planes": None}]
    draw(tmp_path, bytes(size), "z1.tif")
    assert len(_told(tmp_path, [replace(ROWS[1], image="z*.tif")], learned)) == found


def test_a_leak_is_one_of_the_problems_with_the_settings(tmp_path):
    sheet = tmp_path / "samples.tsv"
    rows = ["sample\tdataset\tsplit\timage\tlabel", "b\tcells\ttest\tb.tif\tb.tif"]
    sheet.write_text("\n".join(rows))
    draw(tmp_path)
    model = write(tmp_path, samples={"train": {"cells/b": "f"}})
    config = {
        "samples": str(sheet),
        "data_root": str(tmp_path),
        "datasets": {"cells": {}},
        "experiments": {"one": {"datasets": ["cells"], "model": str(model)}},
    }
    with pytest.raises(SettingsError, match=r"1 problem(.|\n)*has learned from cells/b \(test\)"):
        load(config, {})


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
    near = str(write(tmp_path / "near", spacing=[1, 1.05, 1]))
    assert planned(model=[*paths, near]).models("one", "0") == [*paths, near]
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
