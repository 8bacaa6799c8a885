"""The report of complete, partial, faulty and hostile results folders."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from gigaseg.calibration import CalibrationCounts
from gigaseg.comparison import compare, main_metric
from gigaseg.fingerprints import digest as text_digest
from gigaseg.glossary import METRICS
from gigaseg.ledger import canonical_json, read_manifest, write_manifest
from gigaseg.outlook import amount
from gigaseg.pyramids import write_pyramid
from gigaseg.scores import BEST, FAMILIES, encode
from gigaseg.stages import report
from gigaseg.summaries import FOLDERS
from gigaseg.volumes import commit_image, commit_labels, create_array

STORAGE = {"chunk": 64, "shard": 128, "smallest_level": 64}
RANKS = ("worst", "median", "best")
HOSTILE = "<script>alert(1)</script>"
SETTINGS = {
    "title": "Nuclei, autumn plates",
    "samples_per_experiment": 3,
    "config": {"evaluation": {"iou_match": "at_least"}, "report": {"title": "Nuclei"}},
}


# ------------------------------------------------------------------------- a made-up results folder


def draw_cells(shape, spacing, seed):
    """Draw round objects on a jittered grid; many touch. Returns labels of shape (y, x)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(shape)
    labels = np.zeros(shape, np.uint32)
    for y in range(spacing // 2, shape[0], spacing):
        for x in range(spacing // 2, shape[1], spacing):
            centre = np.array([y, x]) + rng.normal(0, spacing / 8, 2)
            radii = rng.uniform(0.35, 0.6, 2) * spacing
            window = np.s_[max(y - spacing, 0) : y + spacing, max(x - spacing, 0) : x + spacing]
            far = ((rows[window] - centre[0]) / radii[0]) ** 2
            far += ((columns[window] - centre[1]) / radii[1]) ** 2
            if rng.random() < 0.85:
                labels[window][(far < 1) & (labels[window] == 0)] = labels.max() + 1
    return labels


def spoil(truth, seed):
    """Split one object, merge two neighbours, lose one, invent one: a typical segmentation."""
    rng = np.random.default_rng(seed)
    labels = truth.copy()
    ids = rng.permutation(np.unique(truth)[1:])
    rows, columns = np.nonzero(truth == ids[0])
    labels[rows[columns > columns.mean()], columns[columns > columns.mean()]] = truth.max() + 1
    beside = truth[:, 1:][(truth[:, :-1] == ids[1]) & (truth[:, 1:] != ids[1])]
    neighbour = next((i for i in beside if i), ids[2])
    labels[truth == neighbour] = ids[1]
    labels[truth == ids[3]] = 0
    free = np.argwhere(truth == 0)
    y, x = free[rng.integers(len(free))]
    corner = labels[y : y + 6, x : x + 6]
    corner[corner == 0] = truth.max() + 2
    return labels


def write_levels(store, prefix, data, mode):
    folder = store / prefix
    create_array(store, f"{prefix}/0".lstrip("/"), data.shape, data.dtype, storage=STORAGE)[...] = (
        data
    )
    return folder, write_pyramid(store, prefix, mode=mode, storage=STORAGE)


def write_image(store, data, truth=None, names=("channel",)):
    _, levels = write_levels(store, "", data, "mean")
    if truth is not None:
        write_labels(store / "labels" / "truth", truth)
    commit_image(store, spacing=(1, 0.5, 0.5), levels=levels, channel_names=names, attributes={})


def write_labels(store, labels):
    _, levels = write_levels(store, "", labels, "nearest")
    commit_labels(store, spacing=(1, 0.5, 0.5), levels=levels, attributes={})


def entry(sample, split="test", dataset="plates", **facts):
    return {
        "sample": sample,
        "dataset": dataset,
        "split": split,
        "status": "done",
        "message": None,
        "fingerprint": f"{sample:0<64}".encode().hex()[:64],
        **facts,
    }


def write_sample(root, experiment, name, labels, *, truth, seed=0, dataset="plates"):
    """Write image, probabilities and instances of one sample; labels have shape (z, y, x)."""
    rng = np.random.default_rng(seed)
    image = np.where(labels > 0, 90, 20)[None] + rng.normal(0, 9, (1, *labels.shape))
    store = root / "convert" / dataset / f"{name}.ome.zarr"
    if not store.exists():
        write_image(store, image.clip(0, 255).astype(np.uint8), labels if truth else None)
    found = np.stack([spoil(plane, seed + z) for z, plane in enumerate(labels)])
    folder = Path(experiment) / "fold-0"
    noise = rng.normal(0, 12, (1, *labels.shape))
    probability = (np.where(found > 0, 225, 25)[None] + noise).clip(0, 255).astype(np.uint8)
    write_image(
        root / "predict" / folder / dataset / f"{name}.ome.zarr", probability, names=("foreground",)
    )
    write_labels(root / "split" / folder / dataset / f"{name}.ome.zarr", found)
    ids, area = np.unique(found[found > 0], return_counts=True)
    pd.DataFrame({"id": ids, "area_px": area, "area_um2": area / 4}).to_parquet(
        root / "split" / folder / dataset / f"{name}.objects.parquet"
    )


def proof(experiment, sample):
    """Return what predict, the audit of seams and split note of a sample."""
    return {
        "predict": {"digest": text_digest(["p", experiment, sample])},
        "split": {"digest": text_digest(["l", experiment, sample])},
        "audit_seams": {
            "windows": 2,
            "seams": {"block": 3, "tile": 1},
            "values": 1_200_000,
            "differing": 2,
            "steps": 1,
            "delta": 2.5e-7,
            "note": None,
        },
    }


def write_lots(root, experiment, entries, dataset="plates"):
    """Write the manifests of one lot for the stages up to evaluate."""
    for stage in ("convert", "weigh", "predict", "audit_seams", "split", "evaluate"):
        folder = root / FOLDERS.get(stage, stage)
        if stage not in ("convert", "weigh"):
            folder = folder / experiment / "fold-0"
        samples = []
        for item in entries:
            store = f"{dataset}/{item['sample']}.ome.zarr" if item["status"] == "done" else None
            facts = {"shape": [1, 1, 96, 96], "dtype": "uint8", "spacing": [1.0, 0.5, 0.5]}
            if item["status"] == "failed" and stage != "convert":
                message = f"convert failed: {item['message']}"
                item = item | {"status": "skipped", "message": message}
            if item["status"] == "done":
                facts |= proof(experiment, item["sample"]).get(stage, {})
            samples.append({**facts, **item, "store": None if stage == "audit_seams" else store})
        lot = f"{dataset}-0000"
        folder.mkdir(parents=True, exist_ok=True)
        write_manifest(folder / f"{lot}.json", {"stage": stage, "lot": lot, "samples": samples})


def write_model(root, experiment, seed=0):
    folder = root / "train" / experiment / "fold-0"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    step = np.arange(1, 41) * 50
    loss = 0.6 * np.exp(-step / 500) + 0.08
    table = pd.DataFrame(
        {
            "step": step,
            "train_loss": loss + rng.normal(0, 0.02, 40),
            "validation_loss": loss + 0.03 + rng.normal(0, 0.008, 40),
            "validation_dice": 0.95 - 0.7 * np.exp(-step / 400),
            "learning_rate": 0.001,
        }
    )
    table.to_csv(folder / "metrics.csv", index=False)
    (folder / "model.json").write_text(
        json.dumps(
            {
                "architecture": {"depth": 4, "width": 16, "padding": "valid"},
                "parameters": 1941042,
                "device": "cpu",
                "scores": {"best": {"step": 1850}},
            }
        )
    )
    write_manifest(
        folder.parent / "fold-0.json",
        {"stage": "train", "experiment": experiment, "fold": 0, "train": ["a/b", "a/c"]},
    )


def calibration_rows(experiment, samples, dataset="plates", split="test"):
    """Return pooled counts of a network that is a little too sure."""
    voxels = [1000 + 40 * abs(v - 128) for v in range(256)]
    inside = [int(n * min(max((v / 255 - 0.5) * 0.8 + 0.5, 0), 1)) for v, n in enumerate(voxels)]
    counts = CalibrationCounts(tuple(inside), tuple(voxels))
    row = {"sample": "", "aggregation": "pooled", "metric": "calibration_error", "at": np.nan}
    row |= {"value": counts.error, "n": len(samples), "family": "calibration"}
    row |= {"counts": encode(counts), "experiment": experiment, "fold": 0}
    return pd.DataFrame([row | {"dataset": dataset, "split": split}])


def write_sizes(root, experiment, samples, lot="plates-0000"):
    """Write sizes as evaluate does: the prediction has more small objects."""
    rng = np.random.default_rng(0)
    rows = []
    for sample in samples:
        for side, shift in (("truth", 0), ("predicted", -0.4)):
            sizes = np.exp(rng.normal(5.5 + shift, 0.5, 60)).astype(int) + 1
            for measure, values in (("voxels", sizes), ("fill", rng.integers(600, 900, 60))):
                for value, count in zip(*np.unique(values, return_counts=True), strict=True):
                    rows.append((sample, side, measure, int(value), int(count)))
    columns = ["sample", "side", "measure", "value", "objects"]
    path = root / "evaluate" / experiment / "fold-0" / f"{lot}.sizes.parquet"
    pd.DataFrame(rows, columns=columns).to_parquet(path, index=False)


def write_forecast(root):
    jobs = {
        "convert/plates-0000.json": {"disk": 4e6, "memory": 5.4e8, "seconds": None},
        "predict/nuclei/fold-0/plates-0000.json": {"disk": 2e6, "memory": 9e8, "seconds": 31.0},
        "audit/nuclei/fold-0/plates-0000.json": {"disk": 0, "memory": 9e8, "seconds": 3.0},
        "split/bygone/fold-0/plates-0000.json": {"disk": 2e6, "memory": 9e8, "seconds": 31.0},
    }
    write_manifest(root / "benchmarks" / "forecast.json", {"jobs": jobs})


def score_rows(experiment, samples, seed=0, dataset="plates", split="test"):
    rng = np.random.default_rng(seed)
    rows = []
    metrics = [("seg", None, 0.8), ("dice", None, 0.92), ("adapted_rand_error", None, 0.08)]
    metrics += [("v_rand", None, 0.93), ("pixel_error", None, 0.02), ("warping_error", None, 2e-4)]
    metrics += [("f1", at, 0.95 - 2 * max(at - 0.7, 0)) for at in np.arange(50, 100, 5) / 100]
    metrics += [("v_rand", at, 0.93 - abs(at - 0.5) ** 2) for at in np.arange(10) / 10]
    for metric, at, centre in metrics:
        values = np.clip(centre + rng.normal(0, 0.06 * centre, len(samples)), 0, 1)
        for sample, value in zip(samples, values, strict=True):
            rows.append((sample, "sample", metric, at, float(value), 30))
        rows.append(("", "mean", metric, at, float(np.mean(values)), len(samples)))
        rows.append(("", "pooled", metric, at, float(np.mean(values)) - 0.01 * centre, 30))
    table = pd.DataFrame(rows, columns=["sample", "aggregation", "metric", "at", "value", "n"])
    table["at"] = table["at"].astype(float)
    return table.assign(experiment=experiment, fold=0, dataset=dataset, split=split)


def write_scores(root, *tables):
    (root / "evaluate").mkdir(parents=True, exist_ok=True)
    pd.concat(tables, ignore_index=True).to_parquet(root / "evaluate" / "scores.parquet")


def write_benchmarks(root):
    head = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    lot = "nuclei/fold-0/plates-0000"
    jobs = {"convert/plates-0000": 3.5, "train/nuclei/fold-0": 312.25}
    jobs |= {f"predict/{lot}": 40, f"audit_seams/{lot}": 4}
    for job, seconds in jobs.items():
        path = root / "benchmarks" / f"{job}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{head}{seconds}\t0:00:03\t512.5\t-\t-\t-\t0\t0\t98\tNA\n")


def write_results(root, *, samples=3, size=96, experiments=("nuclei",), unscored=1, failed=True):
    """Write a whole results folder: scored samples, samples without truth, and a failed one."""
    for number, experiment in enumerate(experiments):
        entries = []
        for i in range(samples + unscored):
            name = f"plate_{i:02d}" if i < samples else f"unknown_{i}"
            labels = draw_cells((size, size), 24, seed=i)[None]
            write_sample(root, experiment, name, labels, truth=i < samples, seed=10 * number + i)
            entries.append(entry(name))
        if failed:
            message = "plate_99.tif is truncated: 100 of 200 bytes"
            entries.append(
                entry("plate_99") | {"status": "failed", "message": message, "fingerprint": None}
            )
        write_lots(root, experiment, entries)
        write_model(root, experiment, seed=number)
    names = [f"plate_{i:02d}" for i in range(samples)]
    for experiment in experiments:
        write_sizes(root, experiment, names)
    tables = [score_rows(e, names, seed=i) for i, e in enumerate(experiments)]
    write_scores(root, *tables, *(calibration_rows(e, names) for e in experiments))
    write_benchmarks(root)
    write_forecast(root)
    return root


# --------------------------------------------------------------------------------- reading the page


class Page(HTMLParser):
    """What a page holds: texts, scripts, addresses, and tags that were not closed."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, html):
        super().__init__()
        self.html, self.open, self.texts, self.addresses, self.scripts = html, [], [], [], 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "data") and v]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))


def make(root, settings=SETTINGS, threads=1):
    manifest = root / "report" / "report.json"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    report.run(manifest=manifest, settings=settings, code="c0de", threads=threads, results=root)
    page = Page((root / "report" / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    return page, read_manifest(manifest)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = write_results(tmp_path_factory.mktemp("whole"), experiments=("nuclei", "wide"))
    return root, *make(root)


def test_needs_nothing_from_outside(whole):
    _, page, _ = whole
    outside = [a for a in page.addresses if not a.startswith(("data:image/", "#"))]
    assert outside == []
    assert "@import" not in page.html
    assert "url(" not in page.html


def test_says_how_good_each_experiment_is(whole):
    root, page, manifest = whole
    scores = pd.read_parquet(root / "evaluate" / "scores.parquet")
    chosen = (scores["metric"] == "seg") & (scores["aggregation"] == "pooled")
    for row in scores[chosen].to_dict("records"):
        line = {"metric": "SEG", "sentence": "plates: pooled over 3 test samples."}
        assert manifest["experiments"][row["experiment"]] == [line | {"value": row["value"]}]
        assert f"{row['value']:.3f}" in page.text
    assert "plates: pooled over 3 test samples." in page.text


def test_shows_what_ran(whole):
    _, page, _ = whole
    for text in ("5 test", "1 × 1 × 96 × 96", "uint8", "1 × 0.5 × 0.5", "5 min 12 s", "512 MB"):
        assert text in page.text
    assert "1,941,042" in page.text  # parameters of the model
    assert '"iou_match": "at_least"' in page.text  # settings


def section(page, name):
    """Return the text of a section, tags removed."""
    part = page.html.split(f'<section id="{name}">')[1].split("</section>")[0]
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", part))


def edit(path, change):
    """Change the entries of a lot's manifest."""
    content = read_manifest(path)
    for item in content["samples"]:
        change(item)
    write_manifest(path, content)


def test_proves_that_seams_and_blocks_changed_nothing(whole):
    _, page, _ = whole
    text = section(page, "proof")
    # Four samples of each experiment, each with 3 + 1 seams and 2 of 1.2 million values.
    assert (
        text.count("seamless 16 (12 of blocks, 4 of tiles) 8 of 4,800,000 by 1 step 2.5e-07") == 2
    )
    for experiment in ("nuclei", "wide"):
        for sample in ("plate_00", "unknown_3"):
            facts = proof(experiment, sample)
            for stage in ("predict", "split"):
                whole_digest = facts[stage]["digest"]
                assert f'data-copy="{whole_digest}"><code>{whole_digest[:12]}</code>' in page.html
    for word in ("seam", "digest", "audit"):
        assert f"<dt>{word}</dt>" in page.html
    assert "mixed hardware </" not in page.html


def test_the_digest_of_an_experiment_is_that_of_all_its_samples(tmp_path):
    def joint(folder, change=None):
        root = write_results(folder, samples=1, failed=False)
        if change:
            edit(root / "predict/nuclei/fold-0/plates-0000.json", change)
        return section(make(root)[0], "proof").split("2.5e-07 ")[1].split()[:2]

    first = joint(tmp_path / "a")
    assert joint(tmp_path / "b") == first
    other = joint(tmp_path / "c", lambda item: item.update(digest="0" * 64))
    assert other[0] != first[0]
    assert other[1] == first[1]


def test_marks_what_was_computed_on_mixed_hardware_and_seams_that_fail(tmp_path):
    root = write_results(tmp_path, samples=2, unscored=0, failed=False)
    mixed = {"comparable": False, "hardware": ["A100", "H100"]}
    edit(
        root / "predict/nuclei/fold-0/plates-0000.json",
        lambda item: item.update(mixed if item["sample"] == "plate_00" else {}),
    )
    known = ("sample", "dataset", "split")
    gone = {"status": "failed", "message": "it is not seamless", "store": None, "fingerprint": None}

    def spoil_one(item):
        kept = {key: item[key] for key in known}
        if item["sample"] == "plate_01":
            item.clear()
            item.update(kept | gone)

    edit(root / "audit/nuclei/fold-0/plates-0000.json", spoil_one)
    page, manifest = make(root)
    text = section(page, "proof")
    assert "nuclei 1 sample fails 4 (3 of blocks, 1 of tiles)" in text
    assert text.count("mixed hardware") == 3  # experiment, sample, glossary
    assert 'title="A100; H100">mixed hardware' in page.html
    assert manifest["failures"] == 1
    assert "it is not seamless" in section(page, "failures")


def test_samples_of_one_tile_have_no_seam_to_check(tmp_path):
    root = write_results(tmp_path, samples=1, unscored=0, failed=False)
    nothing = {"windows": 0, "seams": {"block": 0, "tile": 0}, "values": 0, "differing": 0}
    nothing |= {"steps": 0, "delta": None, "note": "no seam: one tile holds a plane"}
    edit(root / "audit/nuclei/fold-0/plates-0000.json", lambda item: item.update(nothing))
    text = section(make(root)[0], "proof")
    assert "nuclei none checked – – –" in text
    assert "no seam: one tile holds a plane" in text


def test_names_failures_with_stage_and_message(whole):
    _, page, manifest = whole
    assert "plate_99.tif is truncated: 100 of 200 bytes" in page.text
    assert "Left out of 9 later steps." in page.text
    assert manifest["failures"] == 1


def test_shows_best_median_and_worst_and_what_has_no_truth(whole):
    root, page, _ = whole
    scores = pd.read_parquet(root / "evaluate" / "scores.parquet")
    mine = scores[(scores["metric"] == "seg") & (scores["experiment"] == "wide")]
    order = mine[mine["aggregation"] == "sample"].sort_values("value")["sample"].tolist()
    gallery = page.text[page.text.index("wide on plates") :]
    places = [gallery.index(f"{rank} {s}") for rank, s in zip(RANKS, order, strict=True)]
    assert places == sorted(places, reverse=True)
    assert "no score unknown_3" in gallery
    assert page.html.count("<figcaption>Errors</figcaption>") == 6
    assert page.html.count("<figcaption>Truth</figcaption>") == 6
    assert page.html.count("<figcaption>Instances over the image</figcaption>") == 2


def test_repeats_byte_for_byte_and_whatever_the_threads(whole):
    root, page, manifest = whole
    assert (page.html, manifest) == ((again := make(root, threads=3))[0].html, again[1])


def test_manifest_is_canonical_and_without_times(whole):
    root, _, manifest = whole
    text = (root / "report" / "report.json").read_text()
    assert text == canonical_json(manifest, indent=1) + "\n"
    assert set(manifest) == {
        "stage", "samples", "report", "fingerprint", "experiments", "failures", "figures", "notes",
        "settings", "code",
    }  # fmt: skip


# ----------------------------------------------------------------------- strips, charts, settings


def strips(page):
    """Return the names of the samples that are shown small, by experiment and data set."""
    groups = re.findall(r'<details class="strips">(.*?)</details>', page.html, re.DOTALL)
    return [re.findall(r"<h5>(\S+) ", group) for group in groups]


def test_shows_every_sample_small_the_worst_first(whole):
    root, page, _ = whole
    scores = pd.read_parquet(root / "evaluate" / "scores.parquet")
    for experiment, names in zip(("nuclei", "wide"), strips(page), strict=True):
        mine = scores[(scores["metric"] == "seg") & (scores["experiment"] == experiment)]
        order = mine[mine["aggregation"] == "sample"].sort_values("value")["sample"].tolist()
        assert names == [*order, "unknown_3"]
    assert "left out" not in page.text


def test_samples_beyond_the_limit_are_left_out_and_counted(tmp_path):
    root = write_results(tmp_path, samples=3, failed=False)
    page, _ = make(root, SETTINGS | {"strips_per_experiment": 2})
    assert len(strips(page)[0]) == 2
    assert "2 more samples are left out to keep this page small" in page.text


def test_strips_beyond_their_share_of_the_page_are_left_out(tmp_path, monkeypatch):
    root = write_results(tmp_path, samples=3, failed=False)
    whole_size = len(make(root)[0].html)
    monkeypatch.setattr(report, "STRIPS", 12_000)
    page, _ = make(root)
    left_out = 4 - len(strips(page)[0])
    assert 0 < left_out < 4
    assert f"{left_out} more samples are left out" in page.text
    assert len(page.html) < whole_size
    shown = re.findall(r'<details class="strips">(.*?)</details>', page.html, re.DOTALL)[0]
    assert sum(map(len, re.findall(r'src="(.*?)"', shown))) <= 12_000


def test_charts_lie_beside_the_page(whole):
    root, page, manifest = whole
    folder = root / "report" / "figures"
    assert sorted(path.name for path in folder.iterdir()) == sorted(manifest["figures"])
    svgs = [a for a in page.addresses if a.startswith("data:image/svg+xml")]
    names = [name for name in manifest["figures"] if name.endswith(".svg")]
    assert len(svgs) == len(names) > 5
    drawn = {(folder / name).read_bytes() for name in names}
    assert drawn == {base64.b64decode(svg.partition(",")[2]) for svg in svgs}
    for name in ("learning-loss", "sizes-wide-plates", "calibration-nuclei-plates"):
        assert (folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_charts_of_earlier_pages_are_removed(tmp_path):
    write_model(tmp_path, "nuclei")
    make(tmp_path)
    old = tmp_path / "report" / "figures" / "learning-bygone.svg"
    old.write_text("<svg/>")
    _, manifest = make(tmp_path)
    assert not old.exists()
    assert "learning-loss.svg" in manifest["figures"]


def test_says_how_large_objects_are_in_truth_and_prediction(whole):
    root, page, _ = whole
    table = pd.read_parquet(root / "evaluate/nuclei/fold-0/plates-0000.sizes.parquet")
    text = section(page, "spreads")
    for side, name in (("truth", "truth"), ("predicted", "prediction")):
        mine = table[(table["side"] == side) & (table["measure"] == "voxels")]
        values = np.sort(np.repeat(mine["value"], mine["objects"]))
        middle = values[(len(values) - 1) // 2] / 4  # of 0.5 x 0.5 µm
        assert f"{name}: 180 objects, median area {middle:.3g} µm²" in text


def test_charts_write_no_formulas(whole):
    root, _, manifest = whole
    svgs = [name for name in manifest["figures"] if name.endswith(".svg")]
    assert not [n for n in svgs if "$" in (root / "report" / "figures" / n).read_text()]


def test_says_how_well_probabilities_are_calibrated(whole):
    root, page, _ = whole
    scores = pd.read_parquet(root / "evaluate" / "scores.parquet")
    [error] = scores.loc[scores["metric"] == "calibration_error", "value"].unique()
    text = section(page, "spreads")
    assert text.count(f"expected calibration error {error:.3f}") == 2


def test_tables_without_sizes_and_counts_show_no_empty_section(tmp_path):
    root = write_results(tmp_path, samples=1, failed=False)
    (root / "evaluate/nuclei/fold-0/plates-0000.sizes.parquet").unlink()
    write_scores(root, score_rows("nuclei", ["plate_00"]))
    page, _ = make(root)
    assert 'id="spreads"' not in page.html
    assert 'href="#spreads"' not in page.html


def test_shows_forecast_beside_actual(whole):
    root, page, _ = whole
    text = section(page, "run")
    files = (root / "predict/nuclei").rglob("*.ome.zarr/**/*")
    size = sum(file.stat().st_size for file in files if file.is_file())
    assert f"predict 1 31.0 s 40.0 s 858 MB 512 MB 2.0 MB {amount(size)}" in text
    assert "convert 1 – – 515 MB 512 MB 4.0 MB" in text
    assert "audit_seams 1 3.0 s 4.0 s 858 MB 512 MB – –" in text
    assert "split" not in text.split("Forecast and actual")[1]  # of another run


def test_says_that_no_forecast_was_kept(tmp_path):
    page, _ = make(tmp_path)
    assert "No forecast was kept of this run" in page.text


def test_shows_first_what_differs_from_the_defaults(tmp_path):
    changed = [{"setting": "network.depth", "value": 3, "default": 4}]
    page, _ = make(tmp_path, SETTINGS | {"changes": changed})
    text = section(page, "settings")
    assert "network.depth 3 4" in text
    assert text.index("network.depth") < text.index("All settings")
    assert "Every setting has its default" in section(
        make(tmp_path, SETTINGS | {"changes": []})[0], "settings"
    )


def test_objects_in_space_are_shown_by_sections(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.stack([draw_cells((96, 96), 24, seed=0)] * 5)
    write_sample(tmp_path, "nuclei", "stack", labels, truth=True, seed=int(rng.integers(9)))
    write_lots(tmp_path, "nuclei", [entry("stack")])
    config = {"datasets": {"plates": {"objects": "volume"}}}
    page, _ = make(tmp_path, {"title": "t", "config": config})
    assert "sections through the place where" in page.text
    assert "planes 0 to 4" in page.text


# ------------------------------------------------------------------------------- unfinished results


def test_empty_folder_gives_a_page_that_says_so(tmp_path):
    page, manifest = make(tmp_path)
    assert "No experiment has results yet." in page.text
    assert "The stage train has no results yet." in page.text
    assert manifest["experiments"] == {}
    assert len(manifest["notes"]) == 8


def test_partial_folder_shows_what_there_is(tmp_path):
    write_model(tmp_path, "nuclei")
    page, manifest = make(tmp_path)
    assert "Learning curves" in page.text
    assert "No sample has been segmented yet." in page.text
    assert manifest["experiments"] == {"nuclei": []}


def test_what_earlier_runs_left_is_not_shown(tmp_path):
    root = write_results(tmp_path, samples=1, experiments=("bygone", "wide"), unscored=0)
    write_scores(root, score_rows("wide", ["plate_00"]))
    shutil.copytree(root / "train" / "wide", root / "train" / "wider")
    shutil.copy(root / "train/wide/fold-0.json", root / "train/wide/fold-7.json")
    shutil.copy(root / "convert/plates-0000.json", root / "convert/bygone-0000.json")
    lots = [f"{stage}/plates-0000.json" for stage in ("convert", "weigh")]
    folders = ("predict", "audit", "split", "evaluate")
    lots += [f"{folder}/wide/fold-0/plates-0000.json" for folder in folders]
    own = ["train/wide/fold-0.json", *lots]
    page, manifest = make(root, SETTINGS | {"manifests": own})
    assert list(manifest["experiments"]) == ["wide"]
    assert manifest["failures"] == 1
    assert manifest["notes"] == []
    assert "bygone" not in page.text
    assert "wider" not in page.text
    assert "fold 7" not in page.text
    assert "5 min 12 s" not in page.text  # of a training that is not among them


def test_manifest_that_is_none_is_noted(tmp_path):
    (tmp_path / "convert").mkdir()
    (tmp_path / "convert" / "plates-0000.json").write_text('{"stage": "conv')
    page, _ = make(tmp_path)
    assert "A manifest could not be read and was left out" in page.text


def test_store_that_is_gone_is_said_in_its_place(tmp_path):
    write_lots(tmp_path, "nuclei", [entry("plate_00")])
    page, _ = make(tmp_path)
    assert "is missing: make it again with `snakemake" in page.text


def test_scores_that_are_not_defined(tmp_path):
    table = score_rows("nuclei", ["plate_00", "plate_01", "plate_02"])
    write_scores(tmp_path, table.assign(value=np.nan))
    labels = draw_cells((96, 96), 24, seed=0)[None]
    write_sample(tmp_path, "nuclei", "plate_00", labels, truth=True)
    write_lots(tmp_path, "nuclei", [entry("plate_00")])
    page, manifest = make(tmp_path)
    assert manifest["experiments"] == {"nuclei": []}
    assert "nan" not in page.text.lower().replace("finance", "")
    assert "only sample plate_00" in page.text


def test_table_of_scores_without_rows(tmp_path):
    write_scores(tmp_path, score_rows("nuclei", ["a"]).iloc[:0])
    page, _ = make(tmp_path)
    assert "No sample with known truth has been evaluated" in page.text


def test_no_object_at_all(tmp_path):
    empty = np.zeros((1, 64, 80), np.uint32)
    store = tmp_path / "convert" / "plates" / "blank.ome.zarr"
    write_image(store, np.zeros((1, 1, 64, 80), np.uint16), empty)
    for stage in ("predict", "split"):
        target = tmp_path / stage / "nuclei" / "fold-0" / "plates" / "blank.ome.zarr"
        if stage == "predict":
            write_image(target, np.zeros((1, 1, 64, 80), np.uint8), names=("foreground",))
        else:
            write_labels(target, empty)
    write_lots(tmp_path, "nuclei", [entry("blank")])
    page, _ = make(tmp_path)
    assert "<figcaption>Errors</figcaption>" in page.html


# ------------------------------------------------------------------------------------ hostile input


def test_every_given_string_is_escaped(tmp_path):
    hostile = HOSTILE.replace("/", "")  # it is part of paths, too
    labels = draw_cells((96, 96), 24, seed=0)[None]
    write_sample(tmp_path, "nuclei", hostile, labels, truth=True, dataset="plates")
    failed = {"status": "failed", "message": HOSTILE, "split": HOSTILE, "fingerprint": HOSTILE}
    write_lots(tmp_path, "nuclei", [entry(hostile), entry("bad") | failed])
    write_lots(tmp_path, hostile, [entry("bad", dataset=hostile) | failed], dataset="other")
    write_model(tmp_path, hostile)
    names = [hostile, "b", "c"]
    write_scores(tmp_path, score_rows(hostile, names, dataset=HOSTILE, split=HOSTILE))
    page, _ = make(tmp_path, {"title": HOSTILE, HOSTILE: HOSTILE, "samples_per_experiment": 3})
    assert page.scripts == 1
    assert page.text.count("alert(1)") > 10
    svgs = [a for a in page.addresses if a.startswith("data:image/svg+xml")]
    assert svgs
    for svg in svgs:
        assert b"<script" not in base64.b64decode(svg.partition(",")[2])


def test_names_that_matplotlib_would_interpret(tmp_path):
    write_model(tmp_path, "_hidden")
    write_model(tmp_path, "$x^2")
    page, _ = make(tmp_path)
    svg = next(a for a in page.addresses if a.startswith("data:image/svg+xml"))
    drawing = base64.b64decode(svg.partition(",")[2]).decode()
    assert "_hidden" in drawing
    assert "$x^2" in drawing


# -------------------------------------------------------------------------- which samples are shown


@pytest.mark.parametrize(
    ("wanted", "ranks"),
    [
        (1, ["worst"]),
        (2, ["best", "worst"]),
        (3, ["best", "median", "worst"]),
        (4, ["rank 1 of 4", "rank 2 of 4", "rank 3 of 4", "rank 4 of 4"]),
    ],
)
def test_number_of_samples_shown_is_a_setting(tmp_path, wanted, ranks):
    names = list("abcd")
    write_lots(tmp_path, "nuclei", [entry(name) for name in names])
    write_scores(tmp_path, score_rows("nuclei", names))
    results = report.read_results(tmp_path)
    [(group, choices)] = report.choose_samples(results, wanted, {})
    assert group == ("nuclei", "plates")
    assert [choice.rank for choice in choices] == ranks


def test_undefined_scores_rank_last(tmp_path):
    write_lots(tmp_path, "nuclei", [entry(name) for name in "abc"])
    table = score_rows("nuclei", list("abc"))
    table.loc[table["sample"] == "b", "value"] = np.nan
    write_scores(tmp_path, table)
    [(_, choices)] = report.choose_samples(report.read_results(tmp_path), 3, {})
    assert choices[-1].record.sample == "b"


def test_every_metric_of_the_evaluation_is_explained():
    known = {name for family in FAMILIES.values() for name in family.metrics} | set(BEST)
    assert known | {"mean_ap"} == set(METRICS)


@pytest.mark.parametrize(("labels", "main"), [("instances", "seg"), ("boundary", "v_rand")])
def test_main_metric_follows_what_the_labels_hold(labels, main):
    assert main_metric(score_rows("em", ["a", "b"]), labels) == (main, None)


def test_numbers_that_look_the_same_are_equally_good():
    table = pd.concat([score_rows(name, ["a"]) for name in ("one", "two", "three")])
    table = table[(table["metric"] == "seg") & (table["aggregation"] == "pooled")]
    table["value"] = [0.80001, 0.80002, 0.7]
    [comparison] = compare(table)
    [(_, cells)] = comparison.rows
    marked = {experiment for (experiment, _), cell in cells.items() if cell.best}
    assert marked == {"one", "two"}


@pytest.mark.parametrize(("metric", "best"), [("seg", "two"), ("pixel_error", "one")])
def test_direction_of_better_is_the_metrics_own(metric, best):
    table = pd.concat([score_rows(name, ["a"]) for name in ("one", "two")])
    table = table[(table["metric"] == metric) & (table["aggregation"] == "mean")]
    table["value"] = [0.1, 0.2]
    [(_, cells)] = compare(table)[0].rows
    assert [experiment for (experiment, _), cell in cells.items() if cell.best] == [best]


def test_scores_of_folds_are_averaged():
    folds = [score_rows("one", ["a"], seed=k).assign(fold=k) for k in range(3)]
    table = pd.concat(folds)
    table = table[(table["metric"] == "seg") & (table["aggregation"] == "pooled")]
    [(_, cells)] = compare(table)[0].rows
    cell = cells["one", "pooled"]
    assert cell.folds == 3
    assert cell.value == pytest.approx(table["value"].mean())
