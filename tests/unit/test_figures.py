"""Pictures and charts: what is painted where, and that bytes repeat."""

import base64
import io

import numpy as np
import pytest
from gigaseg import figures
from gigaseg.charts import Chart, Curve, Strip, draw_curves, draw_strips, find_drawings
from gigaseg.faults import KINDS, Faults, find_faults
from gigaseg.labels import Contingency, contingency
from PIL import Image


def slow_faults(truth, instances):
    """Compare every object with every other, by the definition's words."""

    def belongs(a, b, here, there):
        mine = here == a
        return 2 * np.sum(mine & (there == b)) > np.sum(mine)

    true, found = (sorted(set(x[x != 0].tolist())) for x in (truth, instances))
    to_true = {j: [i for i in true if belongs(j, i, instances, truth)] for j in found}
    to_found = {i: [j for j in found if belongs(i, j, truth, instances)] for i in true}
    pieces = {i: [j for j in found if i in to_true[j]] for i in true}
    swallowed = {j: [i for i in true if j in to_found[i]] for j in found}
    return {
        "split": [i for i in true if len(pieces[i]) > 1],
        "merged": [j for j in found if len(swallowed[j]) > 1],
        "missed": [i for i in true if not pieces[i] and not to_found[i]],
        "invented": [j for j in found if not swallowed[j] and not to_true[j]],
    }


@pytest.mark.parametrize("seed", range(8))
def test_faults_are_those_of_the_slow_definition(seed):
    rng = np.random.default_rng(seed)
    truth, instances = (
        np.kron(rng.integers(0, 7, (6, 6)), np.ones((2, 2), int)).astype(np.uint32)
        for _ in range(2)
    )
    instances = np.roll(np.where(rng.random(truth.shape) < 0.6, truth, instances), 1, axis=1)
    found = find_faults(contingency(truth, instances))
    expected = slow_faults(truth, instances)
    assert {kind: getattr(found, kind).tolist() for kind in KINDS} == expected


def test_faults_of_a_whole_are_those_of_its_added_parts():
    rng = np.random.default_rng(3)
    truth, instances = rng.integers(0, 9, (2, 12, 12)).astype(np.uint64)
    parts = [contingency(truth[i : i + 5], instances[i : i + 5]) for i in range(0, 12, 5)]
    whole = find_faults(contingency(truth, instances))
    assert find_faults(Contingency.total(parts)).counts == whole.counts


@pytest.mark.parametrize(
    ("truth", "instances", "counts"),
    [
        ([1, 1, 1, 1], [1, 1, 2, 2], (1, 0, 0, 0)),  # two pieces
        ([1, 1, 2, 2], [1, 1, 1, 1], (0, 1, 0, 0)),  # two in one
        ([1, 1, 0, 0], [0, 0, 0, 0], (0, 0, 1, 0)),  # nothing found
        ([0, 0, 0, 0], [0, 0, 1, 1], (0, 0, 0, 1)),  # nothing there
        ([1, 1, 0, 0], [0, 1, 1, 0], (0, 0, 1, 1)),  # exactly half is not more than half
        ([1, 1, 1, 0], [0, 1, 1, 1], (0, 0, 0, 0)),  # a poor outline is no fault
        ([1, 1, 1, 1], [0, 0, 0, 1], (0, 0, 0, 0)),  # a small part of it was found
        ([0, 0, 0, 0], [0, 0, 0, 0], (0, 0, 0, 0)),  # nothing anywhere
    ],
)
def test_faults_case_by_case(truth, instances, counts):
    faults = find_faults(contingency(np.array(truth), np.array(instances)))
    assert tuple(faults.counts[kind] for kind in KINDS) == counts


def test_stretch_ignores_what_is_not_finite():
    image = np.array([[[0.0, 1.0, np.nan, np.inf]]])
    assert figures.stretch(image, 0, 100).tolist() == [[0, 255, 0, 255]]


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan])
def test_stretch_of_a_constant_is_black(value):
    assert not figures.stretch(np.full((1, 3, 3), value)).any()


@pytest.mark.parametrize(("channels", "shape"), [(1, (4, 5)), (2, (4, 5, 3)), (5, (4, 5, 3))])
def test_stretch_shows_any_number_of_channels(channels, shape):
    image = np.arange(channels * 20, dtype=np.uint16).reshape(channels, 4, 5)
    assert figures.stretch(image).shape == shape


def test_an_instance_keeps_its_colour_from_window_to_window():
    labels = np.zeros((9, 9), np.uint32)
    labels[2:7, 2:7] = 41
    whole = figures.colour_instances(labels)
    window = figures.colour_instances(labels[3:, 3:])
    assert (whole[4, 4] == window[1, 1]).all()


def test_large_ids_are_coloured_exactly():
    labels = np.array([[2**53, 2**53 + 1]], np.uint64)
    first, second = (
        figures.colour_instances(np.repeat(labels[:, i : i + 1], 3, 1)) for i in (0, 1)
    )
    assert (first != second).any()


def test_each_kind_of_fault_has_its_colour_inside_its_object():
    truth = np.kron(np.array([[1, 0, 2, 0, 0]]), np.ones((20, 20), int))
    instances = np.kron(np.array([[0, 0, 3, 0, 4]]), np.ones((20, 20), int))
    faults = Faults(
        split=np.array([2], np.uint64),
        merged=np.array([], np.uint64),
        missed=np.array([1], np.uint64),
        invented=np.array([4], np.uint64),
    )
    marked = figures.mark_faults(np.zeros(truth.shape, np.uint8), truth, instances, faults)
    inside = {
        "missed": np.s_[4:16, 4:16],
        "split": np.s_[4:16, 44:56],
        "invented": np.s_[4:16, 84:96],
    }
    for kind, window in inside.items():
        colour = np.array(figures.FAULT_COLOURS[kind])
        pixels = marked[window].reshape(-1, 3).astype(int)
        # On black, a share of the colour: hatched objects have two shares, filled ones have one.
        shares = pixels.sum(1) / colour.sum()
        assert np.abs(pixels - shares[:, None] * colour).max() <= 2
        assert len(set(shares.round(1))) == (1 if kind == "split" else 2)


def test_faultless_objects_are_only_outlined():
    truth = np.zeros((9, 9), int)
    truth[2:7, 2:7] = 1
    image = np.full((9, 9), 100, np.uint8)
    marked = figures.mark_faults(image, truth, truth, find_faults(contingency(truth, truth)))
    assert (marked[4, 4] == 80).all()
    assert (marked[2, 2:7] == 255).all()
    assert (marked[0] == 80).all()


@pytest.mark.parametrize(
    "corners", [(0, 0, 10, 10), (-5, -5, 3, 3), (2.5, 2.5, 2.6, 2.6), (8, 8, 40, 40)]
)
def test_frame_stays_inside_and_spares_the_picture(corners):
    image = np.zeros((10, 10), np.uint8)
    framed = figures.frame(image, *corners, thickness=1)
    assert framed.shape == (10, 10, 3)
    assert framed.any()
    assert not image.any()


def pixels_of(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_drawing_holds_the_very_pixels_and_photo_looks_alike():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3)).astype(np.uint8)
    assert (pixels_of(figures.drawing_uri(pixels[:, ::-1])) == pixels[:, ::-1]).all()
    ramp = np.linspace(0, 255, 64 * 64).astype(np.uint8).reshape(64, 64)
    assert np.abs(pixels_of(figures.photo_uri(ramp))[..., 0].astype(int) - ramp).max() < 8


def test_only_objects_at_fault_have_a_colour_in_truth_and_prediction():
    truth = np.kron(np.array([[1, 0, 2, 0, 3, 0, 4]]), np.ones((20, 20), int))
    instances = np.kron(np.array([[5, 0, 6, 0, 0, 9, 7]]), np.ones((20, 20), int))
    kinds = {"split": [1], "merged": [7], "missed": [3], "invented": [9]}
    faults = Faults(**{kind: np.array(ids, np.uint64) for kind, ids in kinds.items()})
    colours = [
        {
            n: np.unique(side[4:16, 20 * n + 4 : 20 * n + 16].reshape(-1, 3), axis=0)
            for n in range(7)
        }
        for side in figures.colour_faults(truth, instances, faults)
    ]
    for place, kind, sides in ((0, "split", "tp"), (4, "missed", "t"), (5, "invented", "p")):
        for side, found in zip("tp", colours, strict=True):
            assert (found[place] == figures.FAULT_COLOURS[kind]).all(axis=1).any() == (
                side in sides
            )
    assert [len(found[6]) for found in colours] == [1, 1]
    assert all((found[6] == figures.FAULT_COLOURS["merged"]).all() for found in colours)
    assert [len(colours[0][4]), len(colours[1][5])] == [2, 2]  # hatched
    assert all(len(set(found[2][0])) > 1 and found[2].std() < 10 for found in colours)  # grey


def decode(uri):
    return base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")).decode()


def test_curves_repeat_and_carry_no_date():
    curve = Curve("nuclei", [1, 2, 3], [0.5, np.nan, 0.1])
    charts = [Chart("Loss", "step", [curve]), Chart("Dice", "step", [])]
    first, second = draw_curves(charts), draw_curves(charts)
    assert first == second
    assert len(first) == 2
    assert "<dc:date>" not in decode(first[0])


def test_names_are_escaped_in_drawings():
    drawing = decode(draw_strips([Strip("<b>&x", [0.1, 0.2, np.nan], 0.2)], "SEG"))
    assert "&lt;b&gt;&amp;x" in drawing
    assert "<b>" not in drawing


def test_strip_without_any_defined_value_is_drawn():
    assert "<svg" in decode(draw_strips([Strip("none", [np.nan], np.nan)], "SEG"))


def test_a_drawing_is_its_address_and_knows_its_files():
    drawn = draw_curves([Chart("Loss & more", "step", [Curve("a", [1, 2], [3, 4])])], "learning")
    assert drawn[0].name == "learning-loss-more"
    assert decode(drawn[0]) == drawn[0].svg.decode()
    assert Image.open(io.BytesIO(drawn[0].png)).size[0] > 1000
    assert list(find_drawings({"a": [{"b": drawn}, "text"], "c": (drawn[0],)})) == [drawn[0]] * 2
    again = draw_curves([Chart("Loss & more", "step", [Curve("a", [1, 2], [3, 4])])], "learning")
    assert again[0].png == drawn[0].png
