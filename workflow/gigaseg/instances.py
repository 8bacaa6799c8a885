"""From probabilities to instances on one array.

Everything here takes one plane (y, x) or one volume (z, y, x); where the workflow's setting is
``objects: plane``, each plane is such an array.
"""

from dataclasses import dataclass
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
    foreground = evidence.inside > 255 * how.threshold
    if how.method == "components":
        labels = components(foreground, objects="volume")
    elif foreground.any():
        labels = _flood(evidence, foreground, how, spacing)
    else:
        labels = np.zeros(foreground.shape, np.uint32)
    if how.ridge:
        labels = grow_into_ridge(labels)
    if how.fill_holes:
        labels = fill_holes(labels)
    return renumber(drop_small(labels, how.minimum_size))


def _flood(
    evidence: Evidence, foreground: np.ndarray, how: Splitting, spacing: tuple[float, ...] | None
) -> np.ndarray:
    mask = np.ones_like(foreground) if how.fill else foreground
    if how.level == "distance":
        levels = distance_levels(foreground, beyond=how.fill, spacing=spacing)
        pass_level = climb_distance(how.h, spacing)
    else:
        levels, pass_level = evidence.boundary, climb(how.h)
    if how.seeds == "dynamics":
        return dynamics_watershed(levels, mask, pass_level)
    seeds = components((evidence.core > 255 * how.seed_threshold) & mask, objects="volume")
    return seeded_watershed(levels, mask, seeds)


def _choose(name: str, value: str, *allowed: str) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(allowed)}, not {value!r}")
