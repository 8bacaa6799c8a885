"""On which voxels tiles are centred: drawn exactly, from what the chunks of the volumes hold."""

import logging
from collections.abc import Sequence
from math import prod
from typing import Any, Protocol

import numpy as np

from .classes import NAMES, codes_of
from .tally import CODES, SEPARATED, Tally

logger = logging.getLogger(__name__)

LABELLED = tuple(range(CODES))
HIGH_SEPARATION = (CODES,)

Place = tuple[int, tuple[int, int, int]]


class Weighed(Protocol):
    """A volume with its target, its separation weights, and what its chunks hold of both."""

    @property
    def target(self) -> Any:
        """Array-like of uint8, shape (z, y, x)."""

    @property
    def separation(self) -> Any:
        """Array-like of float32, shape (z, y, x)."""

    @property
    def tally(self) -> Tally | None:
        """None: every voxel counts as labelled, and nothing more is known."""


class Pool:
    """All voxels of some kinds: numbered by sample, by chunk, and in raster order in a chunk.

    Parameters
    ----------
    samples : sequence of Weighed
        Where they are.
    kinds : tuple of int
        Codes of the target, or `HIGH_SEPARATION`.
    """

    def __init__(self, samples: Sequence[Weighed], kinds: tuple[int, ...]) -> None:
        self._samples, self._kinds = samples, kinds
        self._chunk_ends = [self._ends_of(sample) for sample in samples]
        sizes = [
            prod(sample.target.shape) if ends is None else int(ends[-1])
            for sample, ends in zip(samples, self._chunk_ends, strict=True)
        ]
        self._ends = np.cumsum(sizes)

    @property
    def size(self) -> int:
        """Number of voxels."""
        return int(self._ends[-1])

    def place(self, number: int) -> Place:
        """Return the sample and the voxel (z, y, x) of a number below `size`."""
        of, number = _locate(self._ends, number)
        sample, ends = self._samples[of], self._chunk_ends[of]
        if ends is None:
            z, y, x = (int(i) for i in np.unravel_index(number, sample.target.shape))
            return of, (z, y, x)
        chunk, number = _locate(ends, number)
        assert sample.tally is not None
        window = sample.tally.window(chunk)
        found = np.nonzero(self._holds(sample, window.slices))
        z, y, x = (int(i[number]) + a for i, a in zip(found, window.start, strict=True))
        return of, (z, y, x)

    def _holds(self, sample: Weighed, where: tuple[slice, ...]) -> np.ndarray:
        if self._kinds == HIGH_SEPARATION:
            return np.asarray(sample.separation[where]) > SEPARATED
        return np.isin(np.asarray(sample.target[where]), self._kinds)

    def _ends_of(self, sample: Weighed) -> np.ndarray | None:
        """Add up the voxels chunk by chunk; None if all voxels of the sample are in the pool."""
        if sample.tally is None:
            return None
        counts = sample.tally.counts[list(self._kinds)].sum(axis=0, dtype=np.int64)
        return None if counts.sum() == prod(sample.target.shape) else np.cumsum(counts)


def _locate(ends: np.ndarray, number: int) -> tuple[int, int]:
    """Return in which part a number falls, and its number within that part."""
    part = int(np.searchsorted(ends, number, side="right"))
    return part, number - (int(ends[part - 1]) if part else 0)


class Centres:
    """Draws the voxels on which tiles are centred.

    Parameters
    ----------
    samples : sequence of Weighed
        At least one.
    target : {"foreground", "interior_boundary"}
        What the network learns.
    oversample : float
        This share of the tiles is centred on a voxel of the rarest class or, equally often, of high
        separation weight; the others on any labelled voxel.
    separation : bool
        Whether the loss uses separation weights; without them there is nothing to oversample there.

    Raises
    ------
    ValueError
        If no voxel is labelled, or a sample was not counted although that is needed.

    Notes
    -----
    Every voxel of a pool is equally likely: a sample and a chunk are drawn in proportion to the
    voxels of that kind in them, which weigh has counted, and the chunk is read to find the voxel.
    """

    def __init__(
        self,
        samples: Sequence[Weighed],
        target: str,
        *,
        oversample: float = 0.0,
        separation: bool = True,
    ) -> None:
        self._labelled, self._share = Pool(samples, LABELLED), oversample
        if not self._labelled.size:
            raise ValueError(
                "nobody annotated a voxel of these samples: every one is ignored (ignore_label)"
            )
        self._rare = _rare_pools(samples, target, separation) if oversample else []

    def draw(self, random: np.random.Generator) -> Place:
        """Draw the number of a sample and a voxel (z, y, x) of it."""
        rare, which = random.random(2)
        pool = self._labelled
        if self._rare and rare < self._share:
            pool = self._rare[int(which * len(self._rare))]
        return pool.place(int(random.integers(pool.size)))


def _rare_pools(samples: Sequence[Weighed], target: str, separation: bool) -> list[Pool]:
    """Return the pools of the rarest class and of high separation, those of them that hold any."""
    if any(sample.tally is None for sample in samples):
        raise ValueError("oversampling needs the tally of every sample, which weigh makes")
    kinds = {name: codes_of(target, number) for number, name in enumerate(NAMES[target])}
    pools = {name: Pool(samples, codes) for name, codes in kinds.items()}
    found = [name for name in pools if pools[name].size]
    rarest = min(found, key=lambda name: pools[name].size)
    chosen = {f"the rarest class, {rarest}": pools[rarest]}
    if separation:
        chosen[f"separation weights above {SEPARATED:g}"] = Pool(samples, HIGH_SEPARATION)
    for what, pool in chosen.items():
        if pool.size:
            logger.info("tiles are oversampled on %s: %d voxels", what, pool.size)
        else:
            logger.warning("nothing to oversample: no training voxel has %s", what)
    return [pool for pool in chosen.values() if pool.size]
