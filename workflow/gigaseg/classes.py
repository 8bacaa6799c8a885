"""The classes a network learns, and the values that stores hold for them."""

from collections.abc import Sequence

import numpy as np

IGNORED = 255

NAMES = {
    "foreground": ("background", "foreground"),
    "interior_boundary": ("background", "interior", "boundary"),
}
# Class of each stored target value: background, interior, inner boundary, ridge.
_OF_VALUE = {"foreground": (0, 1, 1, 0), "interior_boundary": (0, 1, 2, 2)}


def class_table(target: str) -> np.ndarray:
    """Return the class of each stored target value.

    Parameters
    ----------
    target : {"foreground", "interior_boundary"}
        What the network learns.

    Returns
    -------
    ndarray of int64, shape (256,)
        Values without a class are `IGNORED`.

    Examples
    --------
    >>> class_table("interior_boundary")[[0, 1, 2, 3, 255]].tolist()
    [0, 1, 2, 2, 255]
    """
    table = np.full(256, IGNORED, np.int64)
    table[: len(_OF_VALUE[target])] = _OF_VALUE[target]
    return table


def codes_of(target: str, number: int) -> tuple[int, ...]:
    """Return the stored target values of a class.

    Examples
    --------
    >>> codes_of("interior_boundary", 2)
    (2, 3)
    """
    return tuple(code for code, of in enumerate(_OF_VALUE[target]) if of == number)


def count_classes(target: str, counts: Sequence[int]) -> list[int]:
    """Turn the numbers of voxels per stored target value into numbers per class.

    Parameters
    ----------
    target : {"foreground", "interior_boundary"}
        What the network learns.
    counts : sequence of int
        Voxels of background, interior, inner boundary and ridge.

    Examples
    --------
    >>> count_classes("interior_boundary", [70, 20, 6, 4])
    [70, 20, 10]
    """
    result = [0] * len(NAMES[target])
    for value, number in zip(_OF_VALUE[target], counts, strict=True):
        result[value] += int(number)
    return result
