"""From probabilities to instances: what the settings mean.

Everything here takes one plane (y, x) or one volume (z, y, x); where the workflow's setting is
``objects: plane``, each plane is such an array. `segment` is the definition of the result, on an
array in memory; `gigaseg.splitting` computes the same block by block, from the same `Relief`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import floor
from typing import Literal

import numpy as np

from gigaseg.labels import components
from gigaseg.objects import drop_small, fill_holes, grow_into_ridge, renumber
from gigaseg.watershed import (
    climb,
    climb_distance,
    distance_levels,
    dynamics_watershed,
    seeded_watershed,
)

Target = Literal["foreground", "interior_boundary"]


@dataclass(frozen=True)
class Splitting:
    """How probabilities become instances: the ``instances`` section of the settings.

    Attributes
    ----------
    method : {"watershed", "components"}
        ``components``: each connected component above `threshold` is an instance.
    threshold : float
        A voxel may belong to an instance if its probability of being inside one is above this.
    fill : bool
        Flood everything, not only what is above `threshold`: instances then cover all voxels.
    level : {"distance", "probability"}
        What is flooded: minus the distance to the background, or the boundary's probability.
    seeds : {"dynamics", "probability"}
        One seed per minimum of dynamics at least `h`, or per component above `seed_threshold`.
    h : float
        In px of the finest axis for `level` distance, in steps of 1/255 for probability.
    seed_threshold : float
        Probability of the interior above which voxels are seeds.
    ridge : bool
        Give voxels between instances back to them: see `grow_into_ridge`.
    fill_holes : bool
        See `fill_holes`.
    minimum_size : int
        Instances of fewer voxels are dropped.

    Raises
    ------
    ValueError
        If a value is not allowed.
    """

    method: Literal["watershed", "components"] = "watershed"
    level: Literal["distance", "probability"] = "distance"
    seeds: Literal["dynamics", "probability"] = "dynamics"
    h: float = 1.0
    seed_threshold: float = 0.8
    threshold: float = 0.5
    fill: bool = False
    ridge: bool = True
    minimum_size: int = 0
    fill_holes: bool = False

    def __post_init__(self) -> None:
        _choose("method", self.method, "watershed", "components")
        _choose("level", self.level, "distance", "probability")
        _choose("seeds", self.seeds, "dynamics", "probability")
        for name in ("threshold", "seed_threshold"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name} {getattr(self, name)} is not a probability: use 0 <= {name} < 1"
                )
        if self.h < 0 or self.minimum_size < 0:
            raise ValueError(
                f"h {self.h} and minimum_size {self.minimum_size} must not be negative"
            )


@dataclass(frozen=True)
class Evidence:
    """What the network says about each voxel, as uint8 (255 is certain).

    Attributes
    ----------
    inside : ndarray
        That it belongs to an instance: decides the mask.
    core : ndarray
        That it is inside and not at the rim: decides the seeds.
    boundary : ndarray
        That it parts instances: a level to flood.
    """

    inside: np.ndarray
    core: np.ndarray
    boundary: np.ndarray

    @classmethod
    def read(cls, probabilities: np.ndarray, target: Target) -> "Evidence":
        """Interpret the network's channels.

        Parameters
        ----------
        probabilities : ndarray of uint8, shape (c, y, x) or (c, z, y, x)
            One channel for ``foreground``, two for ``interior_boundary``.
        target : {"foreground", "interior_boundary"}
            What the network was trained on.
        """
        _choose("target", target, "foreground", "interior_boundary")
        expected = 1 if target == "foreground" else 2
        if len(probabilities) != expected or probabilities.dtype != np.uint8:
            raise ValueError(
                f"target {target!r} has {expected} channels of uint8, the probabilities have "
                f"{len(probabilities)} of {probabilities.dtype}: predict again"
            )
        if target == "foreground":
            inside = probabilities[0]
            return cls(inside, inside, 255 - inside)
        core, boundary = probabilities
        total = np.minimum(core.astype(np.uint16) + boundary, 255).astype(np.uint8)
        return cls(total, core, boundary)

    def crop(self, place: tuple[slice, ...]) -> "Evidence":
        """Return the evidence on a part of the voxels."""
        return Evidence(self.inside[place], self.core[place], self.boundary[place])

    def foreground(self, how: Splitting) -> np.ndarray:
        """Return where the probability of being inside an instance is above the threshold."""
        return _above(self.inside, how.threshold)


@dataclass(frozen=True)
class Relief:
    """What is flooded, and from where: by dynamics, from seeds, or nothing but components.

    Attributes
    ----------
    levels : ndarray of int
        Flooded from low to high; constant for method ``components``.
    mask : ndarray of bool
        Where instances may be.
    pass_level : callable or None
        As for `gigaseg.watershed.dynamics_watershed`.
    seeds : ndarray of bool or None
        Each connected component of these voxels is a seed.
    """

    levels: np.ndarray
    mask: np.ndarray
    pass_level: Callable[[np.ndarray], np.ndarray] | None = None
    seeds: np.ndarray | None = None

    @classmethod
    def build(
        cls,
        evidence: Evidence,
        how: Splitting,
        spacing: tuple[float, ...] | None,
        distances: Callable[[], np.ndarray],
    ) -> "Relief":
        """Build the relief of an array, or of a block of it.

        Parameters
        ----------
        evidence : Evidence
            Of the same voxels.
        how : Splitting
            Settings.
        spacing : tuple of float or None
            Voxel edges.
        distances : callable
            Returns what `gigaseg.watershed.distance_levels` gives on the whole array, for these
            voxels; called only if they are flooded.
        """
        foreground = evidence.foreground(how)
        if how.method == "components":
            return cls(np.zeros(foreground.shape, np.uint8), foreground)
        mask = np.ones_like(foreground) if how.fill else foreground
        levels = distances() if how.level == "distance" else evidence.boundary
        if how.seeds == "probability":
            return cls(levels, mask, seeds=_above(evidence.core, how.seed_threshold) & mask)
        rise = climb_distance(how.h, spacing) if how.level == "distance" else climb(how.h)
        return cls(levels, mask, pass_level=rise)

    def flood(self) -> np.ndarray:
        """Return the instances, as uint32 ids in raster order of their first voxels."""
        if self.pass_level is not None:
            return dynamics_watershed(self.levels, self.mask, self.pass_level)
        if self.seeds is not None:
            seeds = components(self.seeds, objects="volume")
            return seeded_watershed(self.levels, self.mask, seeds)
        return components(self.mask, objects="volume")


def segment(
    evidence: Evidence, how: Splitting, spacing: tuple[float, ...] | None = None
) -> np.ndarray:
    """Turn probabilities into instances.

    Parameters
    ----------
    evidence : Evidence
        Of one plane or volume.
    how : Splitting
        Settings.
    spacing : tuple of float, optional
        Voxel edges; isotropic by default.

    Returns
    -------
    ndarray of uint32
        Instance ids in raster order of their first voxels, 0 background. Without a voxel above the
        threshold there is no instance, with `fill` neither.

    Examples
    --------
    >>> inside = np.array([[0, 255, 255, 255, 0, 255, 255]], np.uint8)
    >>> segment(Evidence.read(inside[None], "foreground"), Splitting(ridge=False)).tolist()
    [[0, 1, 1, 1, 0, 2, 2]]
    """
    foreground = evidence.foreground(how)
    if not foreground.any():
        return np.zeros(foreground.shape, np.uint32)

    def distances() -> np.ndarray:
        return distance_levels(foreground, beyond=how.fill, spacing=spacing)

    labels = Relief.build(evidence, how, spacing, distances).flood()
    if how.ridge:
        labels = grow_into_ridge(labels)
    if how.fill_holes:
        labels = fill_holes(labels)
    return renumber(drop_small(labels, how.minimum_size))


def _above(values: np.ndarray, probability: float) -> np.ndarray:
    # An integer is above a number if it is above the integer below; uint8 compares much faster.
    return values > np.uint8(floor(255 * probability))


def _choose(name: str, value: str, *allowed: str) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(allowed)}, not {value!r}")
