"""The metrics against slow, obvious versions of themselves, in plain Python."""

import math
from collections import Counter, deque
from itertools import combinations, permutations, product

import numpy as np
import pytest
from gigaseg.labels import (
    Contingency,
    boundaries,
    boundary_truth,
    components,
    contingency,
)
from gigaseg.matching import ctc_counts, match_counts
from gigaseg.rand import information_counts, rand_counts
from gigaseg.thinning import thin
from gigaseg.warping import count_clusters, mismatch_kinds, warp, warping_counts
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

FACES = ((-1, 0), (0, -1), (0, 1), (1, 0))
AROUND = tuple(step for step in product((-1, 0, 1), repeat=2) if step != (0, 0))

fast = settings(deadline=None, max_examples=40)
sides = st.integers(1, 9)
planes = st.tuples(sides, sides)
masks = planes.flatmap(lambda shape: hnp.arrays(bool, shape))
pairs_of_masks = planes.flatmap(
    lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
)


def label_arrays(shape, highest=4):
    return hnp.arrays(np.uint16, shape, elements=st.integers(0, highest))


pairs_of_labels = planes.flatmap(lambda s: st.tuples(label_arrays(s), label_arrays(s)))


def flood(mask, steps):
    """Label connected components in raster order of their first pixel."""
    labels = np.zeros(mask.shape, int)
    for seed in zip(*np.nonzero(mask), strict=True):
        if labels[seed]:
            continue
        labels[seed] = labels.max() + 1
        queue = deque([seed])
        while queue:
            at = queue.popleft()
            for step in steps:
                to = tuple(a + b for a, b in zip(at, step, strict=True))
                if inside(to, mask.shape) and mask[to] and not labels[to]:
                    labels[to] = labels[seed]
                    queue.append(to)
    return labels


def inside(at, shape):
    return all(0 <= a < n for a, n in zip(at, shape, strict=True))


# ------------------------------------------------------------------------------------- labels


@fast
@given(masks)
def test_components_are_those_of_a_flood_fill(mask):
    np.testing.assert_array_equal(components(mask), flood(mask, FACES))


@fast
@given(hnp.arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))))
def test_components_of_volumes_and_of_their_planes(mask):
    faces = [step for step in product((-1, 0, 1), repeat=3) if sum(map(abs, step)) == 1]
    np.testing.assert_array_equal(components(mask, objects="volume"), flood(mask, faces))
    in_plane = [step for step in faces if step[0] == 0]
    np.testing.assert_array_equal(components(mask, objects="plane"), flood(mask, in_plane))


@fast
@given(pairs_of_labels, st.booleans())
def test_boundaries_are_pixels_with_an_unlike_neighbour(pair, background):
    labels, _ = pair
    expected = np.zeros(labels.shape, bool)
    for at in np.ndindex(labels.shape):
        for step in FACES:
            to = (at[0] + step[0], at[1] + step[1])
            if inside(to, labels.shape) and labels[at] and labels[to] != labels[at]:
                expected[at] |= background or labels[to] != 0
    np.testing.assert_array_equal(boundaries(labels, background=background), expected)


@fast
@given(pairs_of_labels)
def test_no_two_instances_touch_in_the_truth_of_a_boundary_map(pair):
    labels, _ = pair
    cells = components(boundary_truth(labels))
    table = contingency(cells, labels)
    kept = table.truth[(table.truth > 0)]
    assert len(kept) == len(set(kept.tolist()))  # every component lies in one instance


@fast
@given(pairs_of_labels)
def test_a_contingency_table_counts_pairs(pair):
    table = contingency(*pair)
    counted = Counter(zip(pair[0].ravel().tolist(), pair[1].ravel().tolist(), strict=True))
    keys = zip(table.truth.tolist(), table.segment.tolist(), strict=True)
    assert dict(zip(keys, table.voxels.tolist(), strict=True)) == counted


@fast
@given(pairs_of_labels, st.integers(1, 4), st.integers(1, 4), st.randoms())
def test_tables_of_blocks_add_up_to_the_table_of_the_whole(pair, height, width, random):
    rows, columns = pair[0].shape
    blocks = [
        np.s_[y : y + height, x : x + width]
        for y in range(0, rows, height)
        for x in range(0, columns, width)
    ]
    random.shuffle(blocks)
    parts = [contingency(pair[0][b], pair[1][b]) for b in blocks]
    assert Contingency.total(parts) == contingency(*pair)
    assert sum(parts, start=Contingency.total([])) == contingency(*pair)


# --------------------------------------------------------------------------------------- Rand


def clusters(truth, segments, background):
    """Truth and segment of each foreground pixel; background by choice single or one object."""
    found = [(int(t), int(s)) for t, s in zip(truth.flat, segments.flat, strict=True) if t]
    if background == "object":
        return found
    return [(t, s or f"single {i}") for i, (t, s) in enumerate(found)]


@fast
@given(pairs_of_labels, st.sampled_from(["singletons", "object"]), st.booleans())
def test_rand_counts_are_those_of_all_pairs_of_pixels(pair, background, self_pairs):
    found = clusters(*pair, background)
    index = range(len(found))
    every = [(a, b) for a in index for b in index if self_pairs or a != b]
    same = [
        (found[a][0] == found[b][0], found[a][1] == found[b][1])
        for a, b in every
    ]  # fmt: skip
    counts = rand_counts(contingency(*pair), background=background, self_pairs=self_pairs)
    assert counts.pairs == len(every)
    assert counts.truth == sum(t for t, _ in same)
    assert counts.segments == sum(s for _, s in same)
    assert counts.joint == sum(t and s for t, s in same)
    if every:
        assert counts.index == pytest.approx(sum(t == s for t, s in same) / len(every))


@fast
@given(pairs_of_labels, st.sampled_from(["singletons", "object"]))
def test_information_is_that_of_the_textbook(pair, background):
    found = clusters(*pair, background)
    counts = information_counts(contingency(*pair), background=background)
    if not found:
        assert counts.voxels == 0
        return

    def entropy(values):
        return -sum(n / len(found) * math.log2(n / len(found)) for n in Counter(values).values())

    h_truth, h_segments = (entropy([pixel[i] for pixel in found]) for i in (0, 1))
    h_joint = entropy(found)
    mutual = h_truth + h_segments - h_joint
    assert counts.voi_split == pytest.approx(h_joint - h_truth, abs=1e-9)
    assert counts.voi_merge == pytest.approx(h_joint - h_segments, abs=1e-9)
    if h_truth + h_segments > 1e-9:
        assert counts.f == pytest.approx(2 * mutual / (h_truth + h_segments), abs=1e-9)
    else:
        assert math.isnan(counts.f)


@fast
@given(pairs_of_labels, st.permutations(range(1, 5)), st.permutations(range(1, 5)))
def test_names_of_labels_do_not_matter(pair, truth_names, segment_names):
    names = (np.array([0, *n]) for n in (truth_names, segment_names))
    renamed = [name[labels] for name, labels in zip(names, pair, strict=True)]
    one, other = contingency(*pair), contingency(*renamed)
    assert rand_counts(one) == rand_counts(other)
    assert information_counts(one) == information_counts(other)
    assert ctc_counts(one) == ctc_counts(other)
    for a, b in zip(match_counts(one, [0.3, 0.5]), match_counts(other, [0.3, 0.5]), strict=True):
        assert (a.tp, a.fp, a.fn) == (b.tp, b.fp, b.fn)
        assert a.sum_iou == pytest.approx(b.sum_iou)


def thin_slowly(cells):
    """Two-level flooding by immersion (Vincent and Soille), pixel by pixel."""
    if not cells.any():
        return np.ones(cells.shape, int)
    labels = np.where(cells, flood(cells, FACES), -1)
    height, width = cells.shape

    def neighbours(y, x):
        around = ((y, x - 1), (y - 1, x), (y, x + 1), (y + 1, x))
        return [at for at in around if inside(at, cells.shape)]

    columns = [(y, x) for x in range(width) for y in range(height)]
    start = [at for at in columns if labels[at] < 0 and any(labels[n] > 0 for n in neighbours(*at))]
    queue, queued = deque(start), set(start)
    while queue:
        at = queue.popleft()
        basins = {labels[n] for n in neighbours(*at) if labels[n] > 0}
        labels[at] = basins.pop() if len(basins) == 1 else 0
        for n in neighbours(*at):
            if labels[n] < 0 and n not in queued:
                queued.add(n)
                queue.append(n)
    return labels


@fast
@given(masks)
def test_thinning_is_a_breadth_first_flood(cells):
    np.testing.assert_array_equal(thin(cells), thin_slowly(cells))


# ----------------------------------------------------------------------------------- matching


def ious(truth, segments):
    table = {}
    for t, s in product(set(truth.flat) - {0}, set(segments.flat) - {0}):
        both = ((truth == t) & (segments == s)).sum()
        table[t, s] = both / ((truth == t) | (segments == s)).sum()
    return table


def best_assignment(candidates):
    """Try every one-to-one assignment: most pairs first, then the largest sum of IoU."""
    truths = sorted({t for t, _ in candidates})
    segments = sorted({s for _, s in candidates}) + [None] * len(truths)
    found = [(0, 0.0)]
    for chosen in permutations(segments, len(truths)):
        values = [candidates.get(pair) for pair in zip(truths, chosen, strict=True)]
        values = [v for v in values if v is not None]
        found.append((len(values), sum(values)))
    return max(found)


@settings(deadline=None, max_examples=40)
@given(pairs_of_labels, st.sampled_from([0.1, 0.25, 0.5, 0.75]), st.booleans())
def test_matching_is_the_best_of_all_assignments(pair, threshold, above):
    table = ious(*pair)
    candidates = {k: v for k, v in table.items() if (v > threshold if above else v >= threshold)}
    candidates = {k: v for k, v in candidates.items() if v > 0}
    match = "above" if above else "at_least"
    (counts,) = match_counts(contingency(*pair), [threshold], match=match)
    tp, total = best_assignment(candidates)
    assert counts.tp == tp
    assert counts.sum_iou == pytest.approx(total)
    assert counts.tp + counts.fn == len(set(pair[0].flat) - {0})
    assert counts.tp + counts.fp == len(set(pair[1].flat) - {0})


@fast
@given(pairs_of_labels)
def test_seg_and_det_follow_their_formulas(pair):
    truth, segments = pair
    objects, found = set(truth.flat) - {0}, set(segments.flat) - {0}
    cover = {
        t: s
        for t, s in product(objects, found)
        if 2 * ((truth == t) & (segments == s)).sum() > (truth == t).sum()
    }
    counts = ctc_counts(contingency(truth, segments))
    per_segment = Counter(cover.values())
    splits = sum(n - 1 for n in per_segment.values())
    fn, fp = len(objects) - len(cover), len(found) - len(per_segment)
    assert (counts.splits, counts.fn, counts.fp) == (splits, fn, fp)
    if objects:
        table = ious(truth, segments)
        assert counts.seg == pytest.approx(sum(table[p] for p in cover.items()) / len(objects))
        cost = min(5 * splits + 10 * fn + fp, 10 * len(objects))
        assert counts.det == pytest.approx(1 - cost / (10 * len(objects)))


# ------------------------------------------------------------------------------------ warping


def is_simple(source, y, x):
    """Topological numbers of a pixel of a framed map: both must be 1."""
    around = source[y - 1 : y + 2, x - 1 : x + 2].copy()
    around[1, 1] = False
    cells = flood(around, FACES)
    touching = {cells[1 + dy, 1 + dx] for dy, dx in FACES} - {0}
    membrane = ~around
    membrane[1, 1] = False
    return len(touching) == 1 and flood(membrane, AROUND).max() == 1


def warp_slowly(truth, cells, confidence):
    source, target = np.pad(truth, 1), np.pad(cells, 1)
    weight = np.pad(confidence, 1)
    while True:
        ys, xs = np.nonzero(source != target)
        order = sorted(zip(xs, ys, strict=True), key=lambda at: (-weight[at[1], at[0]], *at))
        flips = 0
        for x, y in order:
            if is_simple(source, y, x):
                source[y, x] = not source[y, x]
                flips += 1
        if not flips:
            return source[1:-1, 1:-1]


@st.composite
def warps(draw):
    truth, cells = draw(pairs_of_masks)
    levels = st.sampled_from([0.1, 0.2, 0.3])
    confidence = draw(hnp.arrays(np.float32, truth.shape, elements=levels.map(np.float32)))
    return truth, cells, confidence


@fast
@given(warps())
def test_warping_is_the_relaxation_of_one_pixel_after_the_other(case):
    truth, cells, confidence = case
    warped = warp(truth, cells, confidence=confidence)
    np.testing.assert_array_equal(warped, warp_slowly(truth, cells, confidence))
    assert (truth[warped != truth] == ~cells[warped != truth]).all()


@fast
@given(warps())
def test_warping_keeps_the_topology_of_the_truth(case):
    truth, cells, confidence = case
    warped = warp(truth, cells, confidence=confidence)
    assert components(warped).max(initial=0) == components(truth).max(initial=0)
    holes = [flood(~np.pad(plane, 1), AROUND).max() for plane in (warped, truth)]
    assert holes[0] == holes[1]


@fast
@given(warps())
def test_clusters_of_mismatches_warp_independently(case):
    truth, cells, confidence = case
    whole = warp(truth, cells, confidence=confidence)
    clusters_ = flood(truth != cells, AROUND)
    parts = truth.copy()
    for cluster in range(clusters_.max(initial=0), 0, -1):
        parts = warp(parts, cells, confidence=confidence, mask=clusters_ == cluster)
    np.testing.assert_array_equal(parts, whole)


def kind_slowly(warped, y, x, radius):
    labels = np.pad(flood(warped, FACES), 1, constant_values=-1)  # outside is no id
    ids = {labels[y + 1 + dy, x + 1 + dx] for dy, dx in AROUND} - {-1}
    missing = warped[y, x]
    if len(ids) >= 3:
        return 2 if missing else 1
    if len(ids) == 2 and missing:
        without = warped.copy()
        without[y, x] = False
        near = np.zeros(warped.shape, bool)
        near[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1] = True
        again = np.pad(flood(without & near, FACES), 1)
        around = {again[y + 1 + dy, x + 1 + dx] for dy, dx in AROUND} | {0}
        return 2 if len(around) > 2 else 4
    if len(ids) == 2:
        return 3
    if ids - {0}:
        return 3 if missing else 4
    return 6 if missing else 5


@fast
@given(warps(), st.integers(1, 3))
def test_kinds_follow_the_ids_around_each_pixel(case, radius):
    truth, cells, confidence = case
    warped = warp(truth, cells, confidence=confidence)
    kinds = mismatch_kinds(warped, cells, radius=radius)
    expected = np.zeros(kinds.shape, int)
    for y, x in zip(*np.nonzero(warped != cells), strict=True):
        expected[y, x] = kind_slowly(warped, y, x, radius)
    np.testing.assert_array_equal(kinds, expected)
    counts = warping_counts(truth, cells, confidence=confidence, radius=radius)
    assert counts.mismatches == (warped != cells).sum()
    assert count_clusters(kinds, cells).mismatches <= counts.mismatches


def test_simple_pixels_are_those_of_the_topological_numbers():
    for size in range(9):
        for chosen in combinations(AROUND, size):
            truth = np.zeros((3, 3), bool)
            for dy, dx in chosen:
                truth[1 + dy, 1 + dx] = True
            cells = truth.copy()
            cells[1, 1] = True
            flipped = warp(truth, cells)[1, 1]
            assert flipped == is_simple(np.pad(truth, 1), 2, 2)
