"""Spacings compared: the level a model reads of an image, and what may be learned from together."""

import re

import pytest
from gigaseg.scales import check_alike, check_start, choose_level

FINE, UNIT = (1, 0.25, 0.25), (1, 1, 1)


@pytest.mark.parametrize(
    ("image", "trained", "level", "reason"),
    [
        (FINE, [FINE], 0, "the same"),
        (FINE, [UNIT], 2, "two levels up"),
        (UNIT, [UNIT], 0, "1 µm that somebody said is a spacing as others"),
        (None, [None], 0, "neither is known: pixels are taken as they are"),
        (None, [UNIT, None], 0, "of an older model file, which may mean either"),
        (FINE, [UNIT, None], 2, "taken at its word"),
    ],
)
def test_level(image, trained, level, reason):
    assert choose_level(image, 3, trained, 0.1) == level, reason


@pytest.mark.parametrize(
    ("image", "trained", "message"),
    [
        (
            None,
            [FINE, (1, 0.3, 0.3)],
            r"^the spacing of the image is not known, the model was trained at 0\.25 x 0\.25 or "
            r"0\.3 x 0\.3 µm \(y x\), so nobody can tell .*: give datasets.spacing for it$",
        ),
        (
            FINE,
            [None],
            r"^the image has a spacing of 0\.25 x 0\.25 µm \(y x\), that of the images the model "
            r"was trained on is not known, .*: give datasets.spacing for those .* into model.json",
        ),
        (UNIT, [None], r"has a spacing of 1 x 1 µm"),
        (None, [UNIT], r"was trained at 1 x 1 µm"),
    ],
)
def test_a_known_spacing_is_not_compared_with_an_unknown_one(image, trained, message):
    with pytest.raises(ValueError, match=message):
        choose_level(image, 3, trained, 100.0)


@pytest.mark.parametrize(
    ("trained", "remedy", "reason"),
    [
        (
            (1, 1, 1),
            "level 2 (1 x 1) would, and is made if storage.smallest_level is less than the larger "
            "side of level 1; if the file is wrong, give datasets.spacing",
            "the pyramid ends too early",
        ),
        ((1, 0.1, 0.1), "of that: if the file is wrong, give datasets.spacing", "finer than any"),
        ((1, 0.35, 0.35), "of that: if the file is wrong, give datasets.spacing", "between two"),
    ],
)
def test_a_level_that_could_be_made_is_named(trained, remedy, reason):
    with pytest.raises(ValueError, match=re.escape(remedy)) as raised:
        choose_level(FINE, 2, [trained], 0.1)
    assert "pyramid (0.25 x 0.25, 0.5 x 0.5) comes within 10 %" in str(raised.value)
    assert ("smallest_level" in str(raised.value)) == (reason == "the pyramid ends too early")


def test_samples_are_learned_from_together_if_all_or_none_say_their_spacing():
    check_alike({"d/a": None, "d/b": None}, 0.1)
    told = r"sample d/b has a spacing of 0\.25 x 0\.25 µm .y x., that of sample d/a is not known, "
    with pytest.raises(ValueError, match=told + r".* datasets\.spacing for the data set of d/a"):
        check_alike({"d/a": None, "d/b": FINE}, 100.0)


def test_a_training_starts_from_a_model_that_says_its_spacing_if_its_samples_do():
    check_start({"d/a": None}, [None], 0.1)
    check_start({"d/a": None}, [UNIT, None], 0.1)  # of an older file
    with pytest.raises(
        ValueError, match=r"^the spacing of sample d/a is not known, the model in s"
    ):
        check_start({"d/a": None}, [FINE], 100.0)
    told = r"^sample d/a has a spacing of .* the images the model in start_from was trained on is n"
    with pytest.raises(ValueError, match=told):
        check_start({"d/a": FINE}, [None], 100.0)
