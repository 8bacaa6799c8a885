"""Training targets, separation weights and class balance (Ronneberger et al. 2015, eq. 2).

The paper's weight map is ``w(x) = w_c(x) + w0 * exp(-(d1(x) + d2(x))**2 / (2 * sigma**2))``. The
class balance ``w_c`` depends on the samples a fold trains on and is added by training, from
`class_balance`. The separation term depends on the labels alone and is computed here, exactly, from
the distances to the two nearest instances. Beyond a cut-off it is exactly 0, which makes it local:
a block computed with `halo` equals that block of the whole, bit for bit.
"""

from collections.abc import Sequence
from math import floor, log, sqrt
from typing import Literal

import numpy as np
from numba import njit

from gigaseg.distances import integer_spacing
from gigaseg.labels import boundaries
from gigaseg.nearest import two_nearest

BACKGROUND, INTERIOR, BOUNDARY, RIDGE, IGNORED = 0, 1, 2, 3, 255
"""Codes of the target: background, inside of an instance, its rim, the cut between touching
instances, and what was not annotated."""

SMALLEST_SEPARATION = 2.0**-25
"""Half a float32 rounding step below 1: what is smaller is lost when added to a weight of 1."""

SeparationOn = Literal["background", "all"]


def encode_target(
    labels: np.ndarray, *, boundary_width: float, spacing: Sequence[float] | None = None
) -> np.ndarray:
    """Turn instance labels into the codes the network is trained on.

    Parameters
    ----------
    labels : ndarray of int, any shape
        Instance ids; 0 is background.
    boundary_width : float
        A voxel of an instance is `BOUNDARY` if a voxel of anything else is at most this far, in px
        of the finest axis. The edge of the volume does not count as anything else.
    spacing : sequence of float, optional
        Voxel edges; isotropic by default.

    Returns
    -------
    ndarray of uint8
        `BACKGROUND`, `INTERIOR`, `BOUNDARY` or `RIDGE`.

    Examples
    --------
    >>> encode_target(np.array([0, 4, 4, 4, 9, 9, 9]), boundary_width=1).tolist()
    [0, 2, 1, 3, 3, 1, 1]
    """
    inside = labels != 0
    target = inside.astype(np.uint8)
    if boundary_width > 0:
        # With background as a label of its own, every voxel's nearest label is its own.
        reach = (boundary_width * _unit(spacing, labels.ndim)) ** 2
        _, other = two_nearest(labels, spacing, limit=reach, background=True)
        target[inside & (other <= reach)] = BOUNDARY
    target[boundaries(labels)] = RIDGE
    return target


def cutoff(w0: float, sigma: float) -> float:
    """Return the largest d1 + d2, in px, at which the separation weight is not set to 0.

    There ``w0 * exp(-(d1 + d2)**2 / (2 * sigma**2))`` equals `SMALLEST_SEPARATION`.

    Examples
    --------
    >>> round(cutoff(w0=10, sigma=5), 2)
    31.33
    """
    if w0 < 0 or sigma <= 0:
        raise ValueError(f"separation weights need w0 >= 0 and sigma > 0, not {w0} and {sigma}")
    return sigma * sqrt(2 * log(w0 / SMALLEST_SEPARATION)) if w0 > SMALLEST_SEPARATION else 0.0


def halo(
    *, w0: float, sigma: float, boundary_width: float, spacing: Sequence[float]
) -> tuple[int, ...]:
    """Return how many voxels around a block decide about its target and separation, per axis."""
    steps = integer_spacing(spacing)
    reach = max(1.0, boundary_width, cutoff(w0, sigma))
    # floor + 1 is the ceiling, and one more where rounding might have hidden a voxel.
    return tuple(floor(reach * min(steps) / step) + 1 for step in steps)


def separation(
    labels: np.ndarray,
    *,
    w0: float,
    sigma: float,
    on: SeparationOn = "background",
    spacing: Sequence[float] | None = None,
) -> np.ndarray:
    """Compute the weight that forces the network to separate touching instances.

    ``w0 * exp(-(d1 + d2)**2 / (2 * sigma**2))``, with the distances of a voxel to the nearest and
    second nearest instance (to its voxels as labelled, before the ridge is cut; 0 inside it).

    Parameters
    ----------
    labels : ndarray of int, any shape
        Instance ids; 0 is background.
    w0 : float
        Weight where instances touch, in units of the class balance; 10 in the paper.
    sigma : float
        Decay in px of the finest axis; 5 in the paper.
    on : {"background", "all"}
        Where: on background and ridge voxels, or inside instances as well.
    spacing : sequence of float, optional
        Voxel edges; isotropic by default.

    Returns
    -------
    ndarray of float32
        Exactly 0 where ``d1 + d2 > cutoff(w0, sigma)``, so also with fewer than two instances.

    Examples
    --------
    >>> separation(np.array([[1, 0, 0, 2]]), w0=10, sigma=5).round(2)
    array([[0.  , 8.35, 8.35, 0.  ]], dtype=float32)
    """
    if on not in ("background", "all"):
        raise ValueError(f"separation_on is 'background' or 'all', not {on!r}")
    unit = _unit(spacing, labels.ndim)
    # Rounded up by more than the square root is rounded below.
    limit = (cutoff(w0, sigma) * unit + 1) ** 2
    first, second = two_nearest(labels, spacing, limit=limit)
    where = np.ones(labels.shape, bool) if on == "all" else (labels == 0) | boundaries(labels)
    weight = np.zeros(labels.shape, np.float32)
    _separate(
        first.ravel(),
        second.ravel(),
        where.ravel(),
        unit,
        (float(w0), float(sigma), cutoff(w0, sigma)),
        weight.ravel(),
    )
    return weight


@njit(cache=True, nogil=True)
def _separate(first, second, where, unit, shape, weight):
    # Not NumPy: its vectorised exp may round differently at another position in the array.
    w0, sigma, limit = shape
    far = np.iinfo(second.dtype).max
    for i in range(weight.size):
        if where[i] and second[i] < far:
            distance = np.sqrt(np.float64(first[i])) / unit + np.sqrt(np.float64(second[i])) / unit
            if distance <= limit:
                weight[i] = w0 * np.exp(-(distance * distance) / (2 * sigma * sigma))


def class_balance(counts: Sequence[int]) -> np.ndarray:
    """Return the weight of each class that gives all classes the same total.

    ``w_c = N / (K * N_c)`` for K classes with N_c of N voxels: 1 on average, and 1 for all if the
    classes are equally frequent.

    Parameters
    ----------
    counts : sequence of int
        Training voxels of each class, ignored ones left out.

    Returns
    -------
    ndarray of float64, shape (K,)

    Raises
    ------
    ValueError
        If a class has no voxels: a network cannot learn it from these samples.

    Examples
    --------
    >>> class_balance([75, 25]).round(3).tolist()
    [0.667, 2.0]
    """
    missing = [c for c, count in enumerate(counts) if count <= 0]
    if missing:
        raise ValueError(
            f"the training samples have no voxel of class {', '.join(map(str, missing))} (voxels "
            f"per class: {list(counts)}): add samples that show it or check how labels are read"
        )
    total = sum(counts)
    return np.array([total / (len(counts) * count) for count in counts])


def _unit(spacing: Sequence[float] | None, axes: int) -> int:
    """Return the length of a px, the finest axis's voxel edge, in `integer_spacing`."""
    return min(integer_spacing((1.0,) * axes if spacing is None else spacing))
