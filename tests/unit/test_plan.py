import json

import pytest
from gigaseg.plan import Plan
from gigaseg.samples import Sample
from gigaseg.settings import resolve

ROWS = [
    Sample("a", "cells", "train", "a.tif", "a-label.tif"),
    Sample("b", "cells", "train", "b.tif", "b-label.tif"),
    Sample("c", "cells", "validation", "c.tif", "c-label.tif"),
    Sample("d", "cells", "test", "d.tif", "d-label.tif"),
    Sample("e", "cells", "test", "e.tif"),
    Sample("x", "public", "test", "x.png"),
]


def plan(**changes) -> Plan:
    config = {
        "datasets": {"cells": {"lot": 2}, "public": {"registry": "r.tsv"}},
        "experiments": {"one": {"datasets": ["cells", "public"]}},
        **changes,
    }
    settings, problems = resolve(config, {})
    assert problems == []
    return Plan(settings, ROWS)


def names(text: str) -> dict[str, str]:
    return {row["sample"]: row["split"] for row in json.loads(text)["samples"]}


def test_the_jobs_of_one_fold():
    jobs = plan()
    assert jobs.manifests("convert") == [
        *(f"results/convert/cells-000{n}.json" for n in range(3)),
        "results/convert/public-0000.json",
    ]
    assert jobs.manifests("weigh") == [f"results/weigh/cells-000{n}.json" for n in range(2)]
    assert jobs.manifests("train") == ["results/train/one/fold-0.json"]
    predicted = ["cells-0001", "cells-0002", "public-0000"]
    for stage in ("predict", "split", "view"):
        assert jobs.manifests(stage) == [
            f"results/{stage}/one/fold-0/{lot}.json" for lot in predicted
        ]
    assert jobs.manifests("evaluate") == ["results/evaluate/one/fold-0/cells-0001.json"]
    assert jobs.weighed("one", "0") == jobs.manifests("weigh")


def test_a_job_is_told_of_its_samples_only():
    jobs, model = plan(), ("one", "0")
    assert names(jobs.job("convert", "cells-0001")) == {"c": "validation", "d": "test"}
    assert names(jobs.job("weigh", "cells-0001")) == {"c": "validation"}
    assert names(jobs.job("predict", "cells-0001", model)) == {"c": "validation", "d": "test"}
    assert names(jobs.job("evaluate", "cells-0001", model)) == {"c": "validation", "d": "test"}
    told = json.loads(jobs.job("train", model=model))
    assert told["train"] == ["cells/a", "cells/b"]
    assert told["validation"] == ["cells/c"]


def test_the_jobs_of_a_cross_validation():
    jobs = plan(experiments={"cv": {"datasets": ["cells"], "folds": 3}})
    assert len(jobs.manifests("train")) == 3
    assert jobs.weighed("cv", 1) == [f"results/weigh/cells-000{n}.json" for n in range(2)]
    # A sample that a fold is validated on is told so, whatever the sheet says of it.
    assert names(jobs.job("predict", "cells-0000", ("cv", "1"))) == {"b": "validation"}
    assert names(jobs.job("predict", "cells-0001", ("cv", "2"))) == {"c": "validation"}
    # All models together predict the test samples, from which none has learned.
    assert names(jobs.job("predict", "cells-0001", ("cv", "all"))) == {"d": "test"}
    assert jobs.models("cv", "all") == jobs.manifests("train")
    assert jobs.models("cv", "1") == ["results/train/cv/fold-1.json"]
    for (_, fold), roles in jobs.roster.roles.items():
        for k in jobs.roster.members("cv", fold):
            assert not set(jobs.roster.folds["cv"][k].train) & set(roles)


def test_without_ensemble_each_model_predicts_the_test_samples():
    cv = {"datasets": ["cells"], "folds": 3, "prediction": {"ensemble": False}}
    jobs = plan(experiments={"cv": cv})
    assert ("cv", "all") not in jobs.roster.roles
    assert names(jobs.job("predict", "cells-0001", ("cv", "2"))) == {"c": "validation", "d": "test"}


@pytest.mark.parametrize(
    ("stage", "own"),
    [
        ("convert", {"storage"}),
        ("weigh", {"storage", "weights"}),
        ("train", {"target", "network", "training", "intensity", "train", "validation"}),
        ("predict", {"storage", "prediction"}),
        ("split", {"storage", "instances", "target"}),
        ("evaluate", {"evaluation", "target", "weights"}),
        ("view", {"view"}),
    ],
)
def test_a_job_is_told_of_its_sections_only(stage, own):
    model = None if stage in ("convert", "weigh") else ("one", "0")
    told = json.loads(plan().job(stage, "" if stage == "train" else "cells-0001", model))
    common = {"lot", "samples"} if stage != "train" else set()
    assert told.keys() == own | common | ({"experiment", "fold"} if model else set())


def test_settings_do_not_depend_on_how_they_are_written():
    one = plan(storage={"chunk": 256, "shard": 1024}, network={"depth": 3.0, "width": 8})
    two = plan(network={"width": 8, "depth": 3}, storage={"shard": 1024.0, "chunk": 256})
    for job in (("convert", "cells-0000", None), ("train", "", ("one", "0"))):
        assert one.job(*job) == two.job(*job)


def test_a_row_says_where_its_files_are_and_what_they_hold():
    told = json.loads(plan(data_root="/raw").job("convert", "cells-0002"))
    assert told["samples"] == [
        {
            "sample": "e",
            "dataset": "cells",
            "split": "test",
            "image": "/raw/e.tif",
            "label": None,
            "labels": "instances",
            "objects": "plane",
            "channels": "all",
            "planes": None,
            "ignore_label": None,
            "spacing": None,
        }
    ]


def test_raw_files_are_inputs_unless_they_are_fetched():
    jobs = plan()
    assert jobs.raw("cells-0002") == ["data/e.tif"]
    assert jobs.raw("cells-0001")[:2] == ["data/c.tif", "data/c-label.tif"]
    assert jobs.raw("public-0000") == ["results/fetch/public.json"]
    assert json.loads(jobs.fetch("public"))["files"] == ["x.png"]
    assert jobs.registry("public") == "r.tsv"


def test_the_report_shows_the_results_of_this_run_only():
    jobs = plan(
        experiments={"a": {"datasets": ["cells"], "folds": 2}, "b": {"datasets": ["cells"]}}
    )
    shown = json.loads(jobs.report())["manifests"]
    assert [path for path in shown if path.startswith("train")] == [
        "train/a/fold-0.json",
        "train/a/fold-1.json",
        "train/b/fold-0.json",
    ]
    assert {f"results/{path}" for path in shown} == {*jobs.outcomes(), *jobs.manifests("train")}


def test_experiments_times_folds_are_models_in_one_table():
    experiment = {"datasets": ["cells"], "folds": 2}
    jobs = plan(experiments={"deep": experiment, "flat": {**experiment, "network": {"depth": 2}}})
    assert len(jobs.manifests("train")) == 4
    assert len({jobs.job("train", model=model) for model in jobs.roster.trained}) == 4
    joined = json.loads(jobs.tabulate())["evaluate"]
    assert {path.rpartition("/")[0] for path in joined} == {
        f"results/evaluate/{name}/fold-{k}" for name in ("deep", "flat") for k in (0, 1, "all")
    }


def test_a_training_uses_a_gpu_and_its_threads_in_each_of_its_processes():
    several = {"training": {"processes": 4, "batch": 8, "threads": 3}}
    jobs = plan(
        experiments={"one": {"datasets": ["cells"]}, "four": {"datasets": ["cells"], **several}}
    )
    assert jobs.training("one") == {"processes": 1, "threads": 2}
    assert jobs.training("four") == {"processes": 4, "threads": 12}


def test_without_viewer_no_job_makes_one():
    jobs = plan(view={"samples": "none"})
    assert jobs.manifests("view") == []
    assert not [path for path in (*jobs.outcomes(), jobs.report()) if "view/" in path]
    assert {job["stage"] for job in json.loads(jobs.audit())["jobs"]} >= {"split", "evaluate"}
    assert "view" not in {job["stage"] for job in json.loads(jobs.audit())["jobs"]}
    assert "view" in {job["stage"] for job in json.loads(plan().audit())["jobs"]}


def test_what_to_compare_with_is_told_to_the_report_only(tmp_path):
    results = tmp_path / "earlier"
    (results / "evaluate").mkdir(parents=True)
    (results / "evaluate" / "scores.parquet").touch()
    one, two = plan(), plan(evaluation={"baseline": str(results)})
    for stage in ("evaluate", "split"):
        job = (stage, "cells-0001", ("one", "0"))
        assert one.job(*job) == two.job(*job)
    assert (one.tabulate(), one.audit()) == (two.tabulate(), two.audit())
    assert one.report() != two.report()
    assert one.baseline() == []
    assert two.baseline() == [str(results / "evaluate" / "scores.parquet")]
    two.check_baseline()


def test_published_figures_are_told_to_the_report_only():
    figures = [{"source": "A 2015", "metric": "seg", "value": 0.9}]
    one = plan()
    two = plan(
        datasets={"cells": {"lot": 2, "published": figures}, "public": {"registry": "r.tsv"}}
    )
    assert one.audit() == two.audit()
    assert one.report() != two.report()


@pytest.mark.parametrize(
    ("there", "message"),
    [(False, "no such folder"), (True, r"no evaluate/scores\.parquet")],
)
def test_nothing_to_compare_with_is_an_error_before_the_run(tmp_path, there, message):
    if there:
        (tmp_path / "old").mkdir()
    jobs = plan(evaluation={"baseline": str(tmp_path / "old")})
    assert jobs.baseline() == []
    with pytest.raises(FileNotFoundError, match=f"old cannot be compared with: there is {message}"):
        jobs.check_baseline()


TUNE = {"grid": {"threshold": [0.5, 0.7], "h": [1, 2]}, "metric": "seg"}


def tuned(folds=1, tune=TUNE, **changes):
    experiment = {"datasets": ["cells"], "folds": folds}
    return plan(
        experiments={"one": experiment, "two": {**experiment, "instances": {"tune": None}}},
        instances={"tune": tune, "h": 3},
        **changes,
    )


def test_a_model_is_tuned_on_its_own_validation_samples_and_no_others():
    jobs = tuned()
    assert jobs.manifests("tune") == ["results/tune/one/fold-0.json"]
    assert jobs.validated("predict", "one", "0") == ["results/predict/one/fold-0/cells-0001.json"]
    assert jobs.validated("convert", "one", "0") == ["results/convert/cells-0001.json"]
    assert names(jobs.job("tune", model=("one", "0"))) == {"c": "validation"}


def test_with_folds_a_model_is_tuned_on_the_samples_of_the_others():
    jobs = tuned(folds=3)
    assert len(jobs.manifests("tune")) == 4
    for k, own in enumerate("abc"):
        others = {name: "validation" for name in "abc" if name != own}
        assert names(jobs.job("tune", model=("one", str(k)))) == others
    assert names(jobs.job("tune", model=("one", "all"))) == dict.fromkeys("abc", "validation")
    # Each was predicted by the model that has not learned from it.
    assert jobs.validated("predict", "one", 1) == [
        "results/predict/one/fold-0/cells-0000.json",
        "results/predict/one/fold-2/cells-0001.json",
    ]
    assert len(jobs.validated("predict", "one", "all")) == 3


def test_split_is_told_neither_the_grid_nor_what_is_replaced_by_the_choice():
    jobs, lot = tuned(), "cells-0001"
    told = json.loads(jobs.job("split", lot, ("one", 0)))
    assert "tune" not in told
    assert told["instances"].keys() & {"tune", "threshold", "h"} == set()
    untuned = json.loads(jobs.job("split", lot, ("two", 0)))["instances"]
    assert untuned == told["instances"] | {"threshold": 0.5, "h": 3}
    trying = json.loads(jobs.job("tune", model=("one", 0)))
    assert trying["instances"] == told["instances"]
    assert trying["tune"]["grid"] == TUNE["grid"]
    assert trying.keys() == {"instances", "tune", "target", "experiment", "fold", "samples"}


def test_what_tuning_is_told_depends_on_nothing_else():
    def texts(jobs):
        return jobs.job("tune", model=("one", 0)), jobs.job("split", "cells-0001", ("one", 0))

    first = texts(tuned())
    assert texts(tuned(evaluation={"iou_thresholds": [0.7], "iou_match": "above"})) == first
    turned = {
        "metric": "seg",
        "grid": {"seed_threshold": None, **dict(reversed(TUNE["grid"].items()))},
    }
    assert texts(tuned(tune=turned)) == first
    other = texts(tuned(tune={**TUNE, "grid": {**TUNE["grid"], "threshold": [0.5, 0.9]}}))
    assert other[0] != first[0]
    assert other[1] == first[1]


def test_a_grid_of_nothing_is_no_tuning():
    jobs = tuned(tune={"grid": {"threshold": None}})
    assert jobs.manifests("tune") == []
    assert json.loads(jobs.job("split", "cells-0001", ("one", 0)))["instances"]["threshold"] == 0.5


def test_jobs_stand_behind_those_whose_results_they_read():
    for jobs in (plan(), tuned(), tuned(folds=3)):
        made = set()
        for job in jobs._jobs():
            assert made.issuperset(job["inputs"]), job["outputs"]
            made.update(job["outputs"])
        assert made == {*jobs.outcomes(), *jobs.manifests("train")}
    [split] = [job for job in tuned()._jobs() if job["outputs"] == [SPLIT_LOT]]
    assert "results/tune/one/fold-0.json" in split["inputs"]
    for job in tuned()._jobs():  # none but split is audited by what was chosen
        assert job["stage"] == "split" or "results/tune/one/fold-0.json" not in job["inputs"]


SPLIT_LOT = "results/split/one/fold-0/cells-0001.json"
