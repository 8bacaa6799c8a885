"""The level of an image's pyramid at which objects have the size that a network has learned."""

from collections.abc import Sequence

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


def _is_near(one: Spacing, other: Spacing, tolerance: float) -> bool:
    return all(max(a / b, b / a) <= 1 + tolerance for a, b in zip(one, other, strict=True))


def _write(spacing: Spacing) -> str:
    return " x ".join(f"{n:g}" for n in spacing)
