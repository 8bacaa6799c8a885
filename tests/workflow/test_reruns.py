"""What runs again after an edit: asked of real dry runs on a finished run."""

import os

import pytest

REPORT_ON = {"report": 1, "verdict": 1, "all": 1}
AUDIT_ON = {"audit": 1, **REPORT_ON}
EVALUATE_ON = {"evaluate": 2, "tabulate": 1, **AUDIT_ON}
VIEW_ON = {"view": 2, **AUDIT_ON}
SPLIT_ON = {"split": 2, **VIEW_ON, **EVALUATE_ON}
PREDICT_ON = {"predict": 2, "audit_seams": 2, **SPLIT_ON}
TRAIN_ON = {"train": 1, **PREDICT_ON}
EVERYTHING = {"convert": 2, "weigh": 1, **TRAIN_ON}
LOT = ("convert", "predict", "audit_seams", "split", "view", "evaluate")  # once per lot and model


def test_a_finished_run_has_nothing_to_do(run):
    assert run.pending() == {}


@pytest.mark.parametrize(
    ("old", "new", "jobs"),
    [
        ("iou_thresholds: [0.5]", "iou_thresholds: [0.7]", EVALUATE_ON),
        ("instances: {threshold: 0.5}", "instances: {threshold: 0.6}", SPLIT_ON),
        ("prediction: {tile: 48", "prediction: {tile: 32", PREDICT_ON),
        ("steps: 5", "steps: 6", TRAIN_ON),
        ("width: 2", "width: 3", TRAIN_ON),
        ("network:", "weights: {w0: 9.0}\nnetwork:", {"weigh": 1, **TRAIN_ON}),
        ("chunk: 32", "chunk: 64", EVERYTHING),
        ("network:", "audit: {windows: 1}\nnetwork:", {"audit_seams": 2, **AUDIT_ON}),
        ("network:", "view: {pane: 64}\nnetwork:", VIEW_ON),
        ("network:", "view: {samples: none}\nnetwork:", AUDIT_ON),
        ("network:", "report: {title: Mine}\nnetwork:", REPORT_ON),
        ("evaluation: {", "evaluation: {baseline: earlier, ", REPORT_ON),
        ("lot: 2", "lot: 2\n    published: [{source: A, metric: seg, value: 0.9}]", REPORT_ON),
    ],
)
def test_an_edit_of_settings_reruns_what_depends_on_them(run, old, new, jobs):
    run.edit("tiny.yaml", old, new)
    assert run.pending() == jobs


def test_a_config_written_differently_reruns_nothing(run):
    text = (run.folder / "tiny.yaml").read_text()
    sections = text.split("\n\n")
    text = "# A comment.\n" + "\n\n".join(reversed(sections))
    text = text.replace("width: 2", "width: 2.0").replace("[0.5]", "[0.50]")
    text = text.replace("{depth: 1, width: 2.0", "{width: 2.0, depth: 1")
    (run.folder / "tiny.yaml").write_text(text)
    assert run.pending() == {}


@pytest.mark.parametrize(
    "place",
    [
        "dask: {scheduler_address: tcp://node7:8786}",
        "dask: {workers: 2}",
        "container: gigaseg.sif",
        "cluster: {longest: 600}",
    ],
)
def test_where_the_work_is_done_reruns_nothing(run, place):
    run.edit("tiny.yaml", "network:", f"{place}\nnetwork:")
    assert run.pending() == {}


def test_touched_files_rerun_nothing(run):
    raw = [*run.folder.glob("data/*/*.tif")]
    code = [*run.checkout.rglob("*.py"), *run.checkout.rglob("*.smk")]
    config = [run.folder / "tiny.yaml", run.folder / "samples.tsv", run.checkout / "Snakefile"]
    manifests = [*run.folder.glob("results/**/*.json")]
    assert len(raw) == 8
    assert len(code) > 40
    for path in [*raw, *code, *config, *manifests, run.checkout / "environment.yml"]:
        os.utime(path)
    assert run.pending() == {}


@pytest.mark.parametrize(
    ("module", "jobs"),
    [
        ("warping.py", EVALUATE_ON),
        ("watershed.py", SPLIT_ON),
        ("unet.py", TRAIN_ON),
        ("stages/convert.py", EVERYTHING),
        ("seams.py", {"audit_seams": 2, **AUDIT_ON}),
        ("layers.py", VIEW_ON),
        ("uncertainty.py", {"tabulate": 1, **AUDIT_ON}),
        ("stages/audit.py", AUDIT_ON),
        ("baseline.py", REPORT_ON),
        ("stages/report.py", REPORT_ON),
    ],
)
def test_an_edit_of_code_reruns_the_stage_and_what_follows(run, module, jobs):
    path = run.checkout / "workflow" / "gigaseg" / module
    path.write_text(path.read_text() + "\n# A comment.\n")
    assert run.pending() == {}
    path.write_text(path.read_text() + "\n_EDITED = 1\n")
    assert run.pending() == jobs


def test_an_edited_raw_file_reruns_its_lot_only(run):
    path = run.folder / "data" / "image" / "d.tif"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    lot = dict.fromkeys((*LOT, "tabulate"), 1)
    assert run.pending() == {**lot, **AUDIT_ON}


def test_a_sample_more_reruns_its_lot_only(run):
    sheet = run.folder / "samples.tsv"
    for column in ("image", "label"):
        (run.folder / f"data/{column}/e.tif").write_bytes(
            (run.folder / f"data/{column}/d.tif").read_bytes()
        )
    run.edit("tiny.yaml", "phantom: {kind: nuclei, seed: 1, shape: [1, 96, 96]}", "spacing: null")
    sheet.write_text(sheet.read_text() + "e\tcells\ttest\timage/e.tif\tlabel/e.tif\n")
    lot = dict.fromkeys((*LOT, "tabulate"), 1)
    assert run.pending() == {**lot, **AUDIT_ON}


def test_two_experiments_of_two_folds_are_four_models_and_one_table(run):
    two = "{deep: {datasets: [cells], folds: 2}, "
    two += "wide: {datasets: [cells], folds: 2, network: {width: 3}}}"
    run.edit("tiny.yaml", "experiments:\n  tiny: {datasets: [cells]}", f"experiments: {two}")
    # Each fold predicts the lot of its validation sample, both together that of the test samples.
    lots = dict.fromkeys(LOT[1:], 6)
    assert run.pending() == {"train": 4, **lots, "tabulate": 1, **AUDIT_ON}
