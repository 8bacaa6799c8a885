"""The level of an image's pyramid at which objects have the size that a network has learned."""

from collections.abc import Iterable, Mapping, Sequence

Spacing = Sequence[float]  # µm along z, y, x

FURTHER = 16  # levels by which a pyramid might go on: more than any image has


def choose_level(
    image: Spacing | None, levels: int, trained: Sequence[Spacing | None], tolerance: float
) -> int:
    """Choose the finest level whose spacing along y and x a network was trained at.

    Networks see single planes, so z has no part in it. From level to level y and x halve. Where
    neither spacing is known it is level 0.

    Parameters
    ----------
    image : (z, y, x), optional
        Spacing at full resolution, level 0, in µm; None if it is not known.
    levels : int
        Number of levels of the image.
    trained : sequence of (z, y, x), optional
        Spacings of the samples that the network was trained on; None for one that is not known.
    tolerance : float
        Largest relative difference, of the larger spacing from the smaller.

    Raises
    ------
    ValueError
        If there is none, or only one of the two spacings is known.

    Examples
    --------
    >>> choose_level((2, 0.1, 0.1), 3, [(1, 0.4, 0.4)], 0.1)
    2
    >>> choose_level((1, 0.33, 0.33), 1, [(1, 0.31, 0.31)], 0.1)
    0
    >>> choose_level(None, 3, [None], 0.1)
    0
    """
    known = _comparable("the image", image, trained, "the model")
    if image is None:
        return 0
    fitting = _levels(image, range(levels + FURTHER), known, tolerance)
    if fitting and fitting[0] < levels:
        return fitting[0]
    seen = ", ".join(_write(_pixel(image, level)) for level in range(levels))
    raise ValueError(
        f"the image has a spacing of {_write(image[-2:])} µm (y x), the model was trained at "
        f"{_list(known)}, and no level of the image's pyramid ({seen}) comes within "
        f"{100 * tolerance:g} % of that: {_remedy(image, fitting)}if the file is wrong, give "
        f"datasets.spacing; if the difference does not matter, raise "
        f"prediction.spacing_tolerance; else train on images like this one"
    )


def _levels(
    image: Spacing, levels: Iterable[int], trained: Sequence[Spacing], tolerance: float
) -> list[int]:
    """List the levels at which a network was trained."""
    return [
        level
        for level in levels
        if any(_is_near(_pixel(image, level), own[-2:], tolerance) for own in trained)
    ]


def _remedy(image: Spacing, fitting: Sequence[int]) -> str:
    """Say how a pyramid that ends too early gets the level that is missing, if one would fit."""
    if not fitting:
        return ""
    level = fitting[0]
    return (
        f"level {level} ({_write(_pixel(image, level))}) would, and is made if "
        f"storage.smallest_level is less than the larger side of level {level - 1}; "
    )


def _pixel(image: Spacing, level: int) -> list[float]:
    return [n * 2**level for n in image[-2:]]


def check_alike(spacings: Mapping[str, Spacing | None], tolerance: float) -> None:
    """Raise ValueError unless samples to be learned from together show objects at one size.

    Parameters
    ----------
    spacings : mapping of name to (z, y, x) or None
        Of the samples, in µm; along y and x they count. None if it is not known: of all, or none.
    tolerance : float
        Largest relative difference, of the larger spacing from the smaller.

    Examples
    --------
    >>> check_alike({"d/a": (1, 0.2, 0.2), "d/b": (5, 0.21, 0.21)}, 0.1)
    """
    known = {name: spacing for name, spacing in spacings.items() if spacing is not None}
    unknown = [name for name, spacing in spacings.items() if spacing is None]
    if known and unknown:
        name = next(iter(known))
        raise ValueError(
            f"sample {name} has a spacing of {_write(known[name][-2:])} µm (y x), that of sample "
            f"{unknown[0]} is not known, and a network learns in pixels: give datasets.spacing for "
            f"the data set of {unknown[0]}"
        )
    for axis in (-2, -1) if known else ():
        low, high = (pick(known, key=lambda n: known[n][axis]) for pick in (min, max))
        if not _is_near(known[low][-2:], known[high][-2:], tolerance):
            raise ValueError(
                f"sample {low} has a spacing of {_write(known[low][-2:])} µm (y x), sample "
                f"{high} {_write(known[high][-2:])}, further apart than {100 * tolerance:g} %, "
                f"and a network learns in pixels: if a file is wrong, give datasets.spacing; if it "
                f"is to learn both sizes, raise training.spacing_tolerance; else train an "
                f"experiment for each"
            )


def check_start(
    spacings: Mapping[str, Spacing | None], start: Sequence[Spacing | None], tolerance: float
) -> None:
    """Raise ValueError unless all samples are like those that a training's start has learned.

    Parameters
    ----------
    spacings, tolerance
        As for `check_alike`.
    start : sequence of (z, y, x) or None
        Spacings at which the model was trained from which the training starts.

    Examples
    --------
    >>> check_start({"d/a": (1, 0.2, 0.2)}, [(5, 0.8, 0.8), (5, 0.21, 0.21)], 0.1)
    """
    for name, spacing in spacings.items():
        known = _comparable(f"sample {name}", spacing, start, "the model in start_from")
        if spacing and not any(_is_near(spacing[-2:], own[-2:], tolerance) for own in known):
            learned = _list(known)
            raise ValueError(
                f"sample {name} has a spacing of {_write(spacing[-2:])} µm (y x), the model in "
                f"start_from was trained at {learned}, further apart than {100 * tolerance:g} %: "
                f"if the file is wrong, give datasets.spacing; if the network is to learn another "
                f"size of objects, raise training.spacing_tolerance; else train without start_from"
            )


def _comparable(
    what: str, own: Spacing | None, trained: Sequence[Spacing | None], model: str
) -> list[Spacing]:
    """Return the spacings of a model that can be compared; raise ValueError if one side's is not.

    Without either there is nothing to compare, and nothing to refuse.
    """
    known = [spacing for spacing in trained if spacing is not None]
    if own is None and len(known) == len(trained):
        raise ValueError(
            f"the spacing of {what} is not known, {model} was trained at {_list(known)} µm (y x), "
            f"so nobody can tell whether objects have the size it has learned: give "
            f"datasets.spacing for it"
        )
    if own is not None and not known:
        raise ValueError(
            f"{what} has a spacing of {_write(own[-2:])} µm (y x), that of the images {model} was "
            f"trained on is not known, so nobody can tell whether objects have the size it has "
            f"learned: give datasets.spacing for those images and train again, or, if you know it, "
            f"write it into model.json: spacings, a list of [z, y, x] in µm"
        )
    return known


def _is_near(one: Spacing, other: Spacing, tolerance: float) -> bool:
    return all(max(a / b, b / a) <= 1 + tolerance for a, b in zip(one, other, strict=True))


def _write(spacing: Spacing) -> str:
    return " x ".join(f"{n:g}" for n in spacing)


def _list(spacings: Sequence[Spacing]) -> str:
    return " or ".join(dict.fromkeys(_write(spacing[-2:]) for spacing in spacings))
