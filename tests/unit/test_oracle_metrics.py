"""The metrics against the published programs: counts equal, scores to 1e-9.

``oracle_tiny.json`` beside this file holds tiny images and what Fiji's Trainable_Segmentation
(commit 41c7083, the ISBI 2012 challenge's program; key ``isbi``) and published Python packages (key
``labels``) return for them. A folder of larger images in the same layout, ``reference.json`` and
``cases/<name>_{truth,prop,mask,warped,thinlabels}.png``, is used where there is one: named by
GIGASEG_ORACLE, or ``../shared/oracle`` beside the repository.
"""

import json
import math
import os
from functools import cache
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from gigaseg.labels import components, contingency
from gigaseg.matching import ctc_counts, match_counts, pixel_counts
from gigaseg.rand import adapted_rand_counts, information_counts, rand_counts
from gigaseg.thinning import thin
from gigaseg.warping import count_clusters, mismatch_kinds, warp, warping_counts

TINY = json.loads(Path(__file__).with_name("oracle_tiny.json").read_text())
BESIDE = Path(__file__).resolve().parents[2].parent / "shared" / "oracle"
FOLDER = Path(os.environ.get("GIGASEG_ORACLE", BESIDE))
LARGE = (
    json.loads((FOLDER / "reference.json").read_text())["cases"]
    if (FOLDER / "reference.json").is_file()
    else {}
)
NO_FOLDER = pytest.param(
    None, marks=pytest.mark.skip(reason=f"no oracle at {FOLDER}: set GIGASEG_ORACLE"), id="images"
)
EVERY = [("tiny", name) for name in TINY] + [("image", name) for name in LARGE]
MAPS = [(source, name) for source, name in EVERY if name[0] != "i"]


def cases(names):
    missing = [] if LARGE else [NO_FOLDER]
    return pytest.mark.parametrize("case", [*names, *missing], ids=lambda c: c and "-".join(c))


def sweep(stop):
    """The thresholds as the reference adds them up, in double precision."""
    at, thresholds = 0.0, []
    while at <= stop:
        thresholds.append(at)
        at += 0.1
    return thresholds


class Case:
    """Images and reference values of one case."""

    def __init__(self, source, name):
        self.name, self.folder = name, source == "image"
        known = LARGE[name] if self.folder else TINY[name]
        self.isbi, self.reference = known.get("isbi"), known["labels"]
        if self.folder:
            self.truth, proposal = self.image("truth"), self.image("prop")
        else:
            self.truth, proposal = self.drawing("truth"), self.drawing("proposal")
        self.gray = self.folder and known["meta"]["proposal"] == "gray"
        self.probability = proposal / np.float32(255) if self.gray else (proposal > 0) * 1.0
        self.probability = self.probability.astype(np.float32)
        self.segments = proposal

    def image(self, kind):
        return iio.imread(FOLDER / "cases" / f"{self.name}_{kind}.png")

    def drawing(self, kind):
        digits = {".": 0, "#": 255}
        return np.array([[digits.get(c) or int(c.strip(".#") or 0) for c in row]
                         for row in TINY[self.name][kind]])  # fmt: skip

    def cells(self, threshold=0.5):
        return self.probability.astype(np.float64) > threshold

    def confidence(self, threshold=0.5):
        return np.abs(self.probability - np.float32(threshold))

    def table(self):
        """The contingency table of the labels that the Python packages were given."""
        if self.isbi is None:
            return contingency(self.truth, self.segments)
        return self.table_of(components(self.cells()))

    def table_of(self, segments):
        return contingency(components(self.truth > 0), segments)


@cache
def load(case):
    return Case(*case)


def near(value, reference, *, undefined=math.nan):
    """Equal to 1e-9; where we return NaN, the reference does so or returns `undefined`."""
    reference = float(reference)
    if math.isnan(value):
        return math.isnan(reference) or reference == undefined
    return value == pytest.approx(reference, abs=1e-9, rel=0)


@cases(MAPS)
def test_pixel_error(case):
    known = load(case)
    counts = pixel_counts(known.truth > 0, known.cells())
    assert near(counts.error, known.isbi["pixel_error_at_0.5"])
    assert near(counts.f, known.isbi["pixel_f_at_0.5"])


@cases(MAPS)
def test_rand(case):
    known = load(case)
    counts = rand_counts(known.table_of(components(known.cells())))
    for name in ("merge", "split", "f"):
        value = getattr(counts, name)
        assert near(value, known.isbi[f"rand_{name}_at_0.5"], undefined=0)


@cases(MAPS)
def test_v_rand_and_v_info_after_thinning(case):
    known, isbi = load(case), load(case).isbi
    table = known.table_of(thin(known.cells()))
    counts = rand_counts(table)
    assert near(counts.f, isbi["vrand_thinned_at_0.5"], undefined=0)
    assert near(counts.merge, isbi["vrand_thinned_merge_at_0.5"], undefined=0)
    assert near(counts.split, isbi["vrand_thinned_split_at_0.5"], undefined=0)
    assert near(information_counts(table).f, isbi["vinfo_thinned_at_0.5"], undefined=0)
    raw = information_counts(known.table_of(components(known.cells())))
    assert near(raw.f, isbi["vinfo_at_0.5"], undefined=0)


@cases([case for case in MAPS if load(case).gray])
def test_best_rand_scores_over_thresholds(case):
    known = load(case)
    best = {"rand_f_max": 0.0, "vrand_thinned_max": 0.0, "vinfo_thinned_max": 0.0}
    for threshold in sweep(1):
        cells = known.cells(threshold)
        thinned = known.table_of(thin(cells))
        values = (
            rand_counts(known.table_of(components(cells))).f,
            rand_counts(thinned).f,
            information_counts(thinned).f,
        )
        for name, value in zip(best, values, strict=True):
            best[name] = max(best[name], 0 if math.isnan(value) else value)
    assert all(near(best[name], known.isbi[name]) for name in best)


@cases([case for case in MAPS if case[0] == "image"])
def test_thinned_labels_are_the_reference_s_up_to_their_names(case):
    known = load(case)
    pairs = contingency(known.image("thinlabels"), thin(known.cells()))
    assert len(pairs.truth) == len(set(pairs.truth.tolist())) == len(set(pairs.segment.tolist()))
    assert ((pairs.truth == 0) == (pairs.segment == 0)).all()


@cases(MAPS)
def test_kinds_of_mismatch(case):
    known = load(case)
    truth, cells = known.truth > 0, known.cells()
    counts = warping_counts(truth, cells, confidence=known.confidence())
    assert counts.mismatches == known.isbi["warping_mismatched_pixels"]
    assert near(counts.error, known.isbi["warping_error"])
    if known.name == "t05_split_line1":
        # The reference mistakes the kind where the truth is one cell without membrane.
        assert (counts.split, known.isbi["kinds_pixels_radius20"]["object_addition"]) == (1, 1)
        return
    warped = warp(truth, cells, confidence=known.confidence())
    clusters = count_clusters(mismatch_kinds(warped, cells), cells)
    for got, name in ((counts, "kinds_pixels_radius20"), (clusters, "kinds_clusters_radius20")):
        assert vars(got) == {"area": truth.size, **known.isbi[name]}


@cases([case for case in MAPS if case[0] == "image"])
def test_warped_truth_pixel_for_pixel(case):
    known = load(case)
    truth, cells, mask = known.truth > 0, known.cells(), known.image("mask") > 0
    free = warp(truth, cells, confidence=known.confidence())
    masked = warp(truth, cells, confidence=known.confidence(), mask=mask)
    np.testing.assert_array_equal(free, known.image("warped") > 0)
    np.testing.assert_array_equal(masked, known.image("warped_masked") > 0)
    counts = warping_counts(truth, cells, confidence=known.confidence(), mask=mask)
    assert counts.mismatches == known.isbi["masked_mismatched_pixels"]
    assert (masked != cells).sum() == known.isbi["masked_diff_everywhere"]


@cases([case for case in MAPS if load(case).name != "t05_split_line1"])
def test_splits_and_mergers(case):
    known = load(case)
    calls = {
        "(0,0.9,.1,false,20)": (sweep(0.9), 20),
        "(0,1,.1,false,20)": (sweep(1), 20),
        "(0.5,0.5,.1,false,20)": ([0.5], 20),
        "(0.5,0.5,.1,false)": ([0.5], None),
    }
    for call, (thresholds, radius) in calls.items():
        if f"WarpingError.minSplitsMergers{call}" in known.isbi:
            least = min(
                warping_counts(
                    known.truth > 0, known.cells(t), confidence=known.confidence(t), radius=radius
                ).splits_and_mergers
                for t in thresholds
            )
            assert near(least, known.isbi[f"WarpingError.minSplitsMergers{call}"])


@cases(EVERY)
def test_instance_matching(case):
    known = load(case)
    for threshold, rules in known.reference["matching"].items():
        for rule, expected in rules.items():
            (counts,) = match_counts(known.table(), [float(threshold)], match=rule)
            got = {n: counts.f1 if n == "rq" else getattr(counts, n) for n in expected}
            assert all(near(got[name], expected[name]) for name in expected), (got, expected)


@cases(EVERY)
def test_seg_and_det(case):
    known = load(case)
    counts, expected = ctc_counts(known.table()), known.reference["ctc"]
    assert (counts.splits, counts.fn, counts.fp) == tuple(expected[n] for n in ("NS", "FN", "FP"))
    assert near(counts.seg, expected["SEG"])
    assert near(counts.det, expected["DET"])


@cases(EVERY)
def test_variation_of_information_and_adapted_rand(case):
    known, expected = load(case), load(case).reference
    counts = information_counts(known.table(), background="object")
    assert near(counts.voi_split, expected["voi_split_bits"], undefined=0)
    assert near(counts.voi_merge, expected["voi_merge_bits"], undefined=0)
    if "skimage_adapted_rand_error" in expected:
        error = adapted_rand_counts(known.table()).error
        assert near(error, expected["skimage_adapted_rand_error"])
