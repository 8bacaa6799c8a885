"""Choose what to show of a sample: its worst places, as windows of single planes.

A large plane is never read whole at full resolution: places are chosen on a level of the pyramid
that fits the eye, and only their windows are read at full resolution.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .faults import KINDS, Faults, find_faults
from .labels import Contingency, contingency
from .volumes import Volume, open_volume

#: Planes up to this extent (px) are shown whole; of larger ones, a window of `WINDOW` px.
WHOLE = 768
WINDOW = 512
#: What is read around the window (px), so that objects it cuts are judged by more than the cut.
MARGIN = 128
#: Largest extent (px) of the level on which places are chosen: of a plane, of 3-D objects.
SEARCH = 2048
SEARCH_VOLUME = 512
#: Of a stack, at most so many planes, evenly spaced, are searched for the worst.
PLANES = 16


@dataclass(frozen=True)
class Sample:
    """The volumes of one sample; the truth is None where there is none.

    `objects` is "plane" or "volume": whether every plane is a problem of its own.
    """

    image: Volume
    probabilities: Volume | None
    instances: Volume
    truth: Volume | None
    objects: str = "plane"

    @property
    def ignored(self) -> int | None:
        """Id of the voxels whose truth is not known; None if there is none."""
        return None if self.truth is None else self.truth.attributes.get("ignored")

    def known(self, truth: NDArray[np.integer]) -> NDArray[np.integer]:
        """Return a part of the truth with what is not known as background."""
        if self.ignored is None:
            return truth
        return np.where(truth == self.ignored, truth.dtype.type(0), truth)


@dataclass(frozen=True)
class View:
    """A window of one plane, in px of full resolution."""

    plane: int
    top: int
    left: int
    height: int
    width: int

    def overlaps(self, other: "View") -> bool:
        """Return whether two windows share a pixel, seen along z."""
        down = self.top < other.top + other.height and other.top < self.top + self.height
        across = self.left < other.left + other.width and other.left < self.left + self.width
        return down and across


def open_sample(
    image: Path, probabilities: Path | None, instances: Path, objects: str = "plane"
) -> Sample:
    """Open the stores of a sample.

    Raises
    ------
    ValueError
        If a store is missing or unfinished.
    """
    has_truth = (image / "labels" / "truth" / "zarr.json").is_file()
    return Sample(
        image=open_volume(image),
        probabilities=None if probabilities is None else open_volume(probabilities),
        instances=open_volume(instances),
        truth=open_volume(image, "truth") if has_truth else None,
        objects=objects,
    )


def choose_views(sample: Sample, count: int, limit: int | None = None) -> list[View]:
    """Choose the places with most pixels of objects at fault (without truth: most objects).

    Parameters
    ----------
    sample : Sample
    count : int
        At most so many, which do not overlap: in one plane, or with 3-D objects seen along z.
    limit : int, optional
        Extent of the windows in px; by default planes up to `WHOLE` px are taken whole, and of
        larger ones `WINDOW` px.

    Returns
    -------
    list of View
        The worst first; of equally bad places the first in raster order. There is always one: if
        there is no fault anywhere, the place with most objects. The others have a fault.
    """
    depth, height, width = sample.instances.shape
    level = _search_level(sample)
    limit = limit or (WHOLE if max(height, width) <= WHOLE else WINDOW)
    size = min(height, limit), min(width, limit)
    faults = _faults_of_volume(sample, level) if sample.objects == "volume" else None
    found: list[tuple[int, bool, View]] = []
    for plane in _planes(depth):
        interest = _interest(sample, level, plane, faults)
        for total, top, left in _densest(interest, size, level, count):
            # A pixel of the level is several of the plane: the last window may reach beyond it.
            top, left = min(top, height - size[0]), min(left, width - size[1])
            at_fault = sample.truth is not None and total >= interest.size
            found.append((total, at_fault, View(plane, top, left, *size)))
    found.sort(key=lambda one: -one[0])  # stable: the planes that come first win ties
    return _choose(found, count, sample.objects == "volume")


def _choose(found: list[tuple[int, bool, View]], count: int, along_z: bool) -> list[View]:
    chosen = [found[0][2]]
    for _, at_fault, view in found[1:]:
        near = (one for one in chosen if along_z or one.plane == view.plane)
        if len(chosen) < count and at_fault and not any(view.overlaps(one) for one in near):
            chosen.append(view)
    return chosen


def _planes(depth: int) -> Iterator[int]:
    """Go through evenly spaced planes, the middle ones first: they win ties."""
    planes = np.unique(np.linspace(0, depth - 1, PLANES).round().astype(int))
    yield from sorted(planes.tolist(), key=lambda z: (abs(2 * z - (depth - 1)), z))


def _search_level(sample: Sample) -> int:
    extent = SEARCH_VOLUME if sample.objects == "volume" else SEARCH
    return level_below(sample.instances, extent)


def _faults_of_volume(sample: Sample, level: int) -> Faults | None:
    """Find the 3-D objects at fault, on one level of the pyramid, plane by plane."""
    if sample.truth is None:
        return None
    true, found = sample.truth.levels[level], sample.instances.levels[level]
    planes = ((np.asarray(true[z]), np.asarray(found[z])) for z in range(true.shape[0]))
    table = Contingency.total(contingency(a, b) for a, b in planes)
    return find_faults(table, sample.ignored)


def _interest(sample: Sample, level: int, plane: int, faults: Faults | None) -> NDArray[np.int64]:
    """Weigh the pixels of one plane of a level: at fault, in an object, or background.

    One pixel at fault outweighs all others: objects decide between faultless places only.
    """
    instances = np.asarray(sample.instances.levels[level][plane])
    interest = (instances != 0).astype(np.int64)
    if sample.truth is None:
        return interest
    truth = np.asarray(sample.truth.levels[level][plane])
    faults = faults or find_faults(contingency(truth, instances), sample.ignored)
    return interest + fault_mask(faults, truth, instances) * np.int64(instances.size)


def fault_mask(
    faults: Faults, truth: NDArray[np.integer], instances: NDArray[np.integer]
) -> NDArray[np.bool_]:
    """Mark the pixels of objects at fault."""
    in_truth = np.isin(truth, np.concatenate([faults.split, faults.missed]))
    return in_truth | np.isin(instances, np.concatenate([faults.merged, faults.invented]))


def _densest(
    interest: NDArray[np.int64], size: tuple[int, int], level: int, count: int
) -> Iterator[tuple[int, int, int]]:
    """Yield the largest sums over windows of this size, and where they lie (px of level 0).

    The windows do not overlap, and the first has the largest sum of all.
    """
    sums = np.pad(interest.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    h, w = (min(-(-n >> level), m) for n, m in zip(size, interest.shape, strict=True))
    totals = sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]
    for _ in range(count):
        top, left = map(int, np.unravel_index(int(totals.argmax()), totals.shape))
        if totals[top, left] < 0:
            return
        yield int(totals[top, left]), top << level, left << level
        totals[max(top - h + 1, 0) : top + h, max(left - w + 1, 0) : left + w] = -1


def level_below(volume: Volume, extent: int) -> int:
    """Return the finest level whose planes do not exceed an extent; the coarsest if none."""
    fits = (i for i, array in enumerate(volume.levels) if max(array.shape[-2:]) <= extent)
    return next(fits, len(volume.levels) - 1)


def read_window(volume: Volume, view: View, margin: int = 0) -> NDArray[Any]:
    """Read the view at full resolution as (c, y, x), clipped at the edges of the plane."""
    top, left = max(view.top - margin, 0), max(view.left - margin, 0)
    bottom, right = view.top + view.height + margin, view.left + view.width + margin
    plane = slice(view.plane, view.plane + 1)
    window = np.asarray(volume.array[..., plane, top:bottom, left:right])
    return window.reshape(-1, *window.shape[-2:])


def faults_in_view(sample: Sample, view: View, planes: range | None = None) -> Faults:
    """Judge the objects in a view, and what lies `MARGIN` px around it.

    Parameters
    ----------
    sample : Sample
        With truth.
    view : View
    planes : range, optional
        Of 3-D objects: the planes they are judged by, read one by one. By default that of the view.
    """
    assert sample.truth is not None
    tables = []
    for plane in [view.plane] if planes is None else planes:
        here = View(plane, view.top, view.left, view.height, view.width)
        pair = (read_window(v, here, MARGIN) for v in (sample.truth, sample.instances))
        tables.append(contingency(*pair))
    return find_faults(Contingency.total(tables), sample.ignored)


def count_visible(
    faults: Faults, truth: NDArray[np.integer], instances: NDArray[np.integer]
) -> dict[str, int]:
    """Count the objects of each kind of error that are seen in two label arrays."""
    seen = {"truth": np.unique(truth), "instances": np.unique(instances)}
    side = {"split": "truth", "missed": "truth", "merged": "instances", "invented": "instances"}
    return {kind: int(np.isin(getattr(faults, kind), seen[side[kind]]).sum()) for kind in KINDS}
