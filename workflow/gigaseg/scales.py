"""The level of an image's pyramid at which objects have the size that a network has learned."""

from collections.abc import Mapping, Sequence

Spacing = Sequence[float]  # µm along z, y, x


def choose_level(image: Spacing, levels: int, trained: Sequence[Spacing], tolerance: float) -> int:
    """Choose the finest level whose spacing along y and x a network was trained at.

    Networks see single planes, so z has no part in it. From level to level y and x halve.

    Parameters
    ----------
    image : (z, y, x)
        Spacing at full resolution, level 0, in µm.
    levels : int
        Number of levels of the image.
    trained : sequence of (z, y, x)
        Spacings of the samples that the network was trained on.
    tolerance : float
        Largest relative difference, of the larger spacing from the smaller.

    Raises
    ------
    ValueError
        If there is none.

    Examples
    --------
    >>> choose_level((2, 0.1, 0.1), 3, [(1, 0.4, 0.4)], 0.1)
    2
    >>> choose_level((1, 0.33, 0.33), 1, [(1, 0.31, 0.31)], 0.1)
    0
    """
    for level in range(levels):
        own = [n * 2**level for n in image[-2:]]
        if any(_is_near(own, spacing[-2:], tolerance) for spacing in trained):
            return level
    seen = ", ".join(_write([n * 2**level for n in image[-2:]]) for level in range(levels))
    learned = " or ".join(dict.fromkeys(_write(spacing[-2:]) for spacing in trained))
    raise ValueError(
        f"the image has a spacing of {_write(image[-2:])} µm (y x), the model was trained at "
        f"{learned}, and no level of the image's pyramid ({seen}) comes within "
        f"{100 * tolerance:g} % of that: if the file is wrong, give datasets.spacing; if the "
        f"difference does not matter, raise prediction.spacing_tolerance; else train on images "
        f"like this one"
    )


def check_alike(spacings: Mapping[str, Spacing], tolerance: float) -> None:
    """Raise ValueError unless samples to be learned from together show objects at one size.

    Parameters
    ----------
    spacings : mapping of name to (z, y, x)
        Of the samples, in µm; along y and x they count.
    tolerance : float
        Largest relative difference, of the larger spacing from the smaller.

    Examples
    --------
    >>> check_alike({"d/a": (1, 0.2, 0.2), "d/b": (5, 0.21, 0.21)}, 0.1)
    """
    for axis in (-2, -1):
        low, high = (pick(spacings, key=lambda n: spacings[n][axis]) for pick in (min, max))
        if not _is_near(spacings[low][-2:], spacings[high][-2:], tolerance):
            raise ValueError(
                f"sample {low} has a spacing of {_write(spacings[low][-2:])} µm (y x), sample "
                f"{high} {_write(spacings[high][-2:])}, further apart than {100 * tolerance:g} %, "
                f"and a network learns in pixels: if a file is wrong, give datasets.spacing; if it "
                f"is to learn both sizes, raise training.spacing_tolerance; else train an "
                f"experiment for each"
            )


def check_start(
    spacings: Mapping[str, Spacing], start: Sequence[Spacing], tolerance: float
) -> None:
    """Raise ValueError unless all samples are like those that a training's start has learned.

    Parameters
    ----------
    spacings, tolerance
        As for `check_alike`.
    start : sequence of (z, y, x)
        Spacings at which the model was trained from which the training starts.

    Examples
    --------
    >>> check_start({"d/a": (1, 0.2, 0.2)}, [(5, 0.8, 0.8), (5, 0.21, 0.21)], 0.1)
    """
    for name, spacing in spacings.items():
        if not any(_is_near(spacing[-2:], own[-2:], tolerance) for own in start):
            learned = " or ".join(dict.fromkeys(_write(own[-2:]) for own in start))
            raise ValueError(
                f"sample {name} has a spacing of {_write(spacing[-2:])} µm (y x), the model in "
                f"start_from was trained at {learned}, further apart than {100 * tolerance:g} %: "
                f"if the file is wrong, give datasets.spacing; if the network is to learn another "
                f"size of objects, raise training.spacing_tolerance; else train without start_from"
            )


def _is_near(one: Spacing, other: Spacing, tolerance: float) -> bool:
    return all(max(a / b, b / a) <= 1 + tolerance for a, b in zip(one, other, strict=True))


def _write(spacing: Spacing) -> str:
    return " x ".join(f"{n:g}" for n in spacing)
