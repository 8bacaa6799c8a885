"""The audit of stamps: what is stale, missing or made from other inputs is named."""

import json
import shutil

import pytest
from gigaseg.fingerprints import digest
from gigaseg.ledger import BOOKS
from gigaseg.manifests import read_manifest, write_manifest
from gigaseg.stages import audit

MODEL = "e/fold-0"


class Folder:
    """A results folder as the stages leave it; every job is stamped with its own settings."""

    def __init__(self, root, samples=("a", "b")):
        self.root, self.samples, self.jobs = root, samples, []
        self.lot("convert", [], lambda name: {"image": f"{name}.tif"})
        self.lot("weigh", ["convert"], lambda name: {"image": self.stamp("convert", name)})
        self.model()
        image = {name: self.stamp("convert", name) for name in samples}
        model = read_manifest(self.path("train"))["fingerprint"]
        self.lot(
            "predict", ["convert", "train"], lambda name: {"image": image[name], "model": model}
        )
        maps = {name: self.stamp("predict", name) for name in samples}
        self.lot(
            "split",
            ["convert", "predict"],
            lambda name: {"image": image[name], "probabilities": maps[name]},
        )
        self.lot(
            "evaluate",
            ["convert", "predict", "split"],
            lambda name: {
                stage: self.stamp(stage, name) for stage in ("convert", "predict", "split")
            },
            stores=False,
        )
        self.lot(
            "audit_seams",
            ["convert", "train", "predict"],
            lambda name: {"image": image[name], "probabilities": maps[name], "model": model},
            stores=False,
        )
        labels = {name: self.stamp("split", name) for name in samples}
        self.lot(
            "view",
            ["convert", "predict", "split"],
            lambda name: {
                "image": image[name],
                "probabilities": maps[name],
                "instances": labels[name],
            },
            marker="panes.json",
        )
        self.write("tabulate", {"samples": []}, [])

    def path(self, stage):
        names = {"train": "train/e/fold-0.json", "tabulate": "evaluate/scores.json"}
        folder = stage if stage in ("convert", "weigh") else f"{stage}/{MODEL}"
        return self.root / names.get(stage, f"{folder}/d-0000.json")

    def store(self, stage, name):
        return self.path(stage).parent / "d" / f"{name}.ome.zarr"

    def stamp(self, stage, name):
        entries = read_manifest(self.path(stage))["samples"]
        return next(entry["fingerprint"] for entry in entries if entry["sample"] == name)

    def lot(self, stage, upstream, inputs, *, stores=True, marker="zarr.json"):
        entries = []
        for name in self.samples:
            made_from = {"code": "1", "inputs": inputs(name)}
            entry = {"sample": name, "dataset": "d", "status": "done", "store": None}
            entry |= {"fingerprint": digest(made_from)}
            if stores:
                finish(self.store(stage, name), marker, made_from)
                entry["store"] = f"d/{name}.ome.zarr"
            else:
                entry["inputs"] = made_from["inputs"]
            entries.append(entry)
        self.write(stage, {"samples": entries}, upstream)

    def model(self):
        weights = {f"d/{name}": self.stamp("weigh", name) for name in self.samples}
        inputs = {"train": weights, "validation": {}}
        finish(self.path("train").with_suffix(""), "model.json", {"code": "1", "inputs": inputs})
        made_from = digest({"code": "1", "inputs": inputs})
        self.write("train", {"model": "fold-0/model.json", "fingerprint": made_from}, ["weigh"])

    def write(self, stage, content, upstream):
        stamps = {"settings": digest(stage), "code": f"code of {stage}"}
        write_manifest(self.path(stage), {"stage": stage, **content, **stamps})
        self.jobs.append(
            {
                "stage": stage,
                "output": str(self.path(stage)),
                "inputs": [str(self.path(name)) for name in upstream],
                **stamps,
            }
        )

    def edit(self, stage, change):
        content = read_manifest(self.path(stage))
        change(content)
        write_manifest(self.path(stage), content)

    def audit(self, name="now"):
        manifest = self.root / "audit" / f"{name}.json"
        audit.run(manifest=manifest, settings={"jobs": self.jobs}, code="c0de", threads=2)
        return manifest

    def message(self):
        with pytest.raises(RuntimeError) as error:
            self.audit()
        assert not (self.root / "audit/now.json").exists()
        return str(error.value)


def finish(folder, marker, made_from):
    (folder / BOOKS).mkdir(parents=True)
    (folder / BOOKS / "fingerprint.json").write_text(json.dumps(made_from))
    (folder / marker).write_text("{}")


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def test_results_that_agree_pass_and_the_marks_of_earlier_settings_go(folder):
    seams = folder.path("audit_seams")
    old = folder.audit("before")
    new = folder.audit()
    assert read_manifest(new)["jobs"] == 9
    assert not old.exists()
    assert seams.exists()


@pytest.mark.parametrize("key", ["settings", "code"])
@pytest.mark.parametrize(
    "stage",
    [
        "convert",
        "weigh",
        "train",
        "predict",
        "split",
        "evaluate",
        "audit_seams",
        "view",
        "tabulate",
    ],
)
def test_every_result_of_other_settings_or_code_is_named(folder, stage, key):
    next(job for job in folder.jobs if job["stage"] == stage)[key] = "edited"
    path = folder.path(stage)
    message = folder.message()
    assert message.startswith("1 result is not what the settings and the code of now make:\n")
    assert f"\n  - {path}: made with other {key}\n" in message
    assert message.endswith(f"\n  snakemake --cores all --forcerun {path}")


def test_a_result_without_stamps_is_of_other_settings_and_code(folder):
    folder.edit("split", lambda content: [content.pop(key) for key in ("settings", "code")])
    assert f"{folder.path('split')}: made with other settings and other code\n" in folder.message()


@pytest.mark.parametrize("stage", ["convert", "weigh", "predict", "split"])
def test_a_store_deleted_by_hand_or_never_finished_is_named(folder, stage):
    (folder.store(stage, "a") / "zarr.json").unlink()
    shutil.rmtree(folder.store(stage, "b"))
    message = folder.message()
    path = folder.path(stage)
    assert f"{path}: {folder.store(stage, 'a')} is unfinished" in message
    assert f"{path}: {folder.store(stage, 'b')} is missing" in message
    assert message.endswith(f"--forcerun {path}")


def test_a_model_deleted_by_hand_is_named(folder):
    (folder.path("train").with_suffix("") / "model.json").unlink()
    assert f"{folder.path('train').with_suffix('')} is unfinished" in folder.message()


def test_a_store_that_is_not_that_of_its_manifest_is_named(folder):
    books = folder.store("predict", "b") / BOOKS / "fingerprint.json"
    books.write_text(json.dumps({"inputs": {}}))
    assert f"{folder.store('predict', 'b')} is another result than its manif" in folder.message()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("convert", ["weigh", "predict", "split", "evaluate", "audit_seams", "view"]),
        ("predict", ["split", "evaluate", "audit_seams", "view"]),
        ("split", ["evaluate", "view"]),
    ],
)
def test_what_was_made_from_an_earlier_result_is_named(folder, changed, named):
    """As if the stage had run again, and nothing after it."""
    made_from = {"code": "2", "inputs": json.loads(books(folder, changed).read_text())["inputs"]}
    books(folder, changed).write_text(json.dumps(made_from))

    def change(content):
        content["samples"][0]["fingerprint"] = digest(made_from)

    folder.edit(changed, change)
    message = folder.message()
    lines = [line for line in message.splitlines() if line.startswith("  - ")]
    text = f"a was made from another result of {changed} than there is now"
    assert lines == [f"  - {folder.path(stage)}: {text}" for stage in named]


def books(folder, stage):
    return folder.store(stage, "a") / BOOKS / "fingerprint.json"


def test_a_model_of_earlier_weights_and_predictions_of_an_earlier_model_are_named(folder):
    made_from = {"code": "2", "inputs": json.loads(books(folder, "weigh").read_text())["inputs"]}
    books(folder, "weigh").write_text(json.dumps(made_from))
    folder.edit("weigh", lambda c: c["samples"][0].update(fingerprint=digest(made_from)))
    text = "the model was trained on other weights of d/a than there are now"
    assert f"{folder.path('train')}: {text}" in folder.message()
    path = folder.path("train").with_suffix("") / BOOKS / "fingerprint.json"
    made_from = json.loads(path.read_text()) | {"code": "2"}
    path.write_text(json.dumps(made_from))
    folder.edit("train", lambda content: content.update(fingerprint=digest(made_from)))
    message = folder.message()
    for stage in ("predict", "audit_seams"):
        for name in ("a", "b"):
            text = f"{name} was made from another result of train than there is now"
            assert f"{folder.path(stage)}: {text}" in message


def test_failed_and_skipped_samples_pass_unless_they_could_be_made_now(folder):
    nothing = {"store": None, "fingerprint": None}

    def stop(status):
        return lambda content: content["samples"][0].update(status=status, **nothing)

    folder.edit("predict", stop("failed"))
    for stage in ("split", "evaluate", "audit_seams", "view"):
        folder.edit(stage, stop("skipped"))
    folder.audit()
    folder.edit("split", stop("failed"))
    folder.edit("predict", lambda content: content["samples"].reverse())
    folder.audit()
    again = Folder(folder.root / "again")
    again.edit("split", stop("skipped"))
    again.edit("evaluate", stop("skipped"))
    message = again.message()
    text = "a was skipped, though all it is made from is there now"
    assert f"{again.path('split')}: {text}" in message
    assert f"{again.path('evaluate')}: " not in message


def test_a_long_list_is_cut_and_the_command_names_rules(tmp_path):
    folder = Folder(tmp_path)
    edited = folder.jobs[0] | {"code": "edited"}
    folder.jobs[0] = edited
    for n in range(30):
        path = tmp_path / "convert" / f"lot-{n:04d}.json"
        shutil.copy(folder.path("convert"), path)
        folder.jobs.append(edited | {"output": str(path)})
    message = folder.message()
    assert message.startswith("31 results are not")
    assert message.count("\n  - ") == 21
    assert "\n  - and 11 more\n" in message
    assert message.endswith("\n  snakemake --cores all --forcerun convert")


def tuned(folder, chosen):
    """Add a choice that the split of `folder` reads, made from the maps of now."""
    names = folder.samples
    made_from = {
        name: {
            "image": folder.stamp("convert", name),
            "probabilities": folder.stamp("predict", name),
        }
        for name in names
    }
    folder.lot("tune", ["convert", "predict"], made_from.get, stores=False)
    folder.edit("tune", lambda content: content.update(chosen=chosen))
    job = next(job for job in folder.jobs if job["stage"] == "split")
    job["inputs"].append(str(folder.path("tune")))
    for name in names:
        path = folder.store("split", name) / BOOKS / "fingerprint.json"
        made = json.loads(path.read_text()) | {
            "settings": {"instances": {"h": 1, "threshold": 0.5}}
        }
        path.write_text(json.dumps(made))

        def restamp(content, name=name, made=made):
            entry = next(entry for entry in content["samples"] if entry["sample"] == name)
            entry["fingerprint"] = digest(made)

        folder.edit("split", restamp)
        folder.edit("evaluate", lambda content, name=name, made=made: follow(content, name, made))
    folder.jobs = [job for job in folder.jobs if job["stage"] != "view"]  # made of other labels


def follow(content, name, made):
    entry = next(entry for entry in content["samples"] if entry["sample"] == name)
    entry["inputs"]["split"] = digest(made)


def test_instances_of_other_values_than_were_chosen_are_named(folder):
    tuned(folder, {"threshold": 0.5})
    folder.audit("before")
    folder.edit("tune", lambda content: content.update(chosen={"threshold": 0.7}))
    message = folder.message()
    for name in ("a", "b"):
        assert f"{name} was split by other values than tune has chosen" in message
    assert message.endswith(f"--forcerun {folder.path('split')}")


def test_a_choice_by_earlier_maps_is_named(folder):
    tuned(folder, {"threshold": 0.5})

    def change(content):
        content["samples"][1]["inputs"]["probabilities"] = "earlier"

    folder.edit("tune", change)
    assert "b was made from another result of predict than there is now" in folder.message()
    assert folder.message().endswith(f"--forcerun {folder.path('tune')}")


def test_models_that_were_brought_are_compared_too(folder):
    kept = folder.root / "kept.json"
    kept.write_text(json.dumps({"fingerprint": read_manifest(folder.path("train"))["fingerprint"]}))
    train = str(folder.path("train"))
    jobs = [job for job in folder.jobs if job["stage"] != "train"]
    jobs = [
        job | {"inputs": [str(kept) if path == train else path for path in job["inputs"]]}
        for job in jobs
    ]
    manifest = folder.root / "audit" / "now.json"
    told = {"jobs": jobs, "models": [str(kept)]}
    audit.run(manifest=manifest, settings=told, code="c0de", threads=1)
    assert manifest.exists()
    kept.write_text(json.dumps({"fingerprint": "of another model"}))
    with pytest.raises(RuntimeError, match="a was made from another result of train than there is"):
        audit.run(manifest=manifest, settings=told, code="c0de", threads=1)


@pytest.mark.parametrize(("names", "expected"), [("a", "a"), ("ba", ["b", "a"])])
def test_an_ensemble_is_all_its_models_in_order(names, expected):
    contents = {name: {"stage": "train", "fingerprint": name} for name in "ab"}
    assert audit._find(contents, {"inputs": list(names)}, "train") == {None: expected}
