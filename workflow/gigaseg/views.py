"""Choose what to show of a sample, and show it: one plane, or a window of a large plane.

A large plane is never read whole at full resolution: the place is chosen on a level of the pyramid
that fits the eye, and only its window is read at full resolution.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import figures
from .faults import KINDS, Faults, find_faults
from .labels import contingency
from .volumes import Volume, open_volume

#: Planes up to this extent (px) are shown whole; of larger ones, a window of `WINDOW` px.
WHOLE = 768
WINDOW = 512
#: What is read around the window (px), so that objects it cuts are judged by more than the cut.
MARGIN = 128
#: Largest extent (px) of the level on which the place is chosen, and of the overview.
SEARCH = 2048
OVERVIEW = 384
#: Of a stack, at most so many planes, evenly spaced, are searched for the worst.
PLANES = 16

_CHANNEL_COLOURS = np.array([(0.25, 0.80, 0.78), (1.0, 0.55, 0.15)])


@dataclass(frozen=True)
class Sample:
    """The volumes of one sample; the truth is None where there is none."""

    image: Volume
    probabilities: Volume | None
    instances: Volume
    truth: Volume | None

    @property
    def ignored(self) -> int | None:
        """Id of the voxels whose truth is not known; None if there is none."""
        return None if self.truth is None else self.truth.attributes.get("ignored")


@dataclass(frozen=True)
class View:
    """A window of one plane, in px of full resolution."""

    plane: int
    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Pictures:
    """What the report shows of one sample.

    Parameters
    ----------
    view : View
    shape : tuple of int
        Extent of the sample along z, y, x in px.
    faults : dict or None
        Objects of each kind of error in the view; None without truth.
    pictures : dict of str to str
        Title to ``data:`` address; ``errors`` (or ``overlay`` without truth) is the main one,
        ``overview`` is there if the view is not the whole plane.
    channels : tuple of str
        Names of the channels of the probabilities.
    """

    view: View
    shape: tuple[int, int, int]
    faults: dict[str, int] | None
    pictures: dict[str, str]
    channels: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """The view is the whole plane."""
        return (self.view.height, self.view.width) == self.shape[1:]


def open_sample(image: Path, probabilities: Path | None, instances: Path) -> Sample:
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
    )


def draw_sample(sample: Sample) -> Pictures:
    """Draw the worst place of a sample: image, probability, instances, truth and errors."""
    view = choose_view(sample)
    image = figures.stretch(_read_window(sample.image, view))
    pictures = {"image": figures.png_uri(image)}
    channels: tuple[str, ...] = ()
    if sample.probabilities is not None:
        channels = tuple(sample.probabilities.attributes["channels"])
        shown = colour_probabilities(_read_window(sample.probabilities, view))
        pictures["probability"] = figures.png_uri(shown)
    instances = _read_window(sample.instances, view)[0]
    pictures["instances"] = figures.png_uri(figures.colour_instances(instances))
    counts = None
    if sample.truth is None:
        pictures["overlay"] = figures.png_uri(figures.lay_over(image, instances))
    else:
        truth = _read_window(sample.truth, view)[0]
        if sample.ignored is not None:
            truth = np.where(truth == sample.ignored, truth.dtype.type(0), truth)
        faults = _faults_in_view(sample, view)
        counts = _count_visible(faults, truth, instances)
        marked = figures.mark_faults(image, truth, instances, faults)
        pictures["truth"] = figures.png_uri(figures.colour_instances(truth))
        pictures["errors"] = figures.png_uri(marked)
    drawn = Pictures(view, sample.instances.shape, counts, pictures, channels)
    if not drawn.whole:
        pictures["overview"] = figures.png_uri(_draw_overview(sample.image, view))
    return drawn


def colour_probabilities(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Show probabilities, shape (c, y, x): one channel in grey, interior and boundary in colour.

    Examples
    --------
    >>> colour_probabilities(np.full((1, 1, 1), 200, np.uint8))
    array([[200]], dtype=uint8)
    """
    if len(values) == 1:
        return values[0]
    mixed = np.tensordot(values[:2].astype(float), _CHANNEL_COLOURS, axes=(0, 0))
    return np.clip(mixed, 0, 255).astype(np.uint8)


def choose_view(sample: Sample) -> View:
    """Choose the place with most pixels of objects at fault (without truth: most objects).

    Of equally bad places the first in raster order is taken; if there is no fault anywhere, the
    place with most objects.
    """
    depth, height, width = sample.instances.shape
    level = _level_below(sample.instances, SEARCH)
    limit = WHOLE if max(height, width) <= WHOLE else WINDOW
    size = min(height, limit), min(width, limit)
    best, worst = View(depth // 2, 0, 0, *size), -1
    for plane in _planes(depth):
        found, top, left = _densest(_interest(sample, level, plane), size, level)
        if found > worst:
            # A pixel of the level is several of the plane: the last window may reach beyond it.
            top, left = min(top, height - size[0]), min(left, width - size[1])
            best, worst = View(plane, top, left, *size), found
    return best


def _planes(depth: int) -> Iterator[int]:
    """Go through evenly spaced planes, the middle ones first: they win ties."""
    planes = np.unique(np.linspace(0, depth - 1, PLANES).round().astype(int))
    yield from sorted(planes.tolist(), key=lambda z: (abs(2 * z - (depth - 1)), z))


def _interest(sample: Sample, level: int, plane: int) -> NDArray[np.int64]:
    """Weigh the pixels of one plane of a level: at fault, in an object, or background.

    One pixel at fault outweighs all others: objects decide between faultless places only.
    """
    instances = np.asarray(sample.instances.levels[level][plane])
    interest = (instances != 0).astype(np.int64)
    if sample.truth is None:
        return interest
    truth = np.asarray(sample.truth.levels[level][plane])
    at_fault = _fault_mask(
        find_faults(contingency(truth, instances), sample.ignored), truth, instances
    )
    return interest + at_fault * np.int64(instances.size)


def _fault_mask(
    faults: Faults, truth: NDArray[np.integer], instances: NDArray[np.integer]
) -> NDArray[np.bool_]:
    in_truth = np.isin(truth, np.concatenate([faults.split, faults.missed]))
    return in_truth | np.isin(instances, np.concatenate([faults.merged, faults.invented]))


def _densest(
    interest: NDArray[np.int64], size: tuple[int, int], level: int
) -> tuple[int, int, int]:
    """Return the largest sum over a window of this size, and where it lies (px of level 0)."""
    sums = np.pad(interest.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    h, w = (min(-(-n >> level), m) for n, m in zip(size, interest.shape, strict=True))
    totals = sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]
    top, left = np.unravel_index(int(totals.argmax()), totals.shape)
    return int(totals[top, left]), int(top) << level, int(left) << level


def _level_below(volume: Volume, extent: int) -> int:
    """Return the finest level whose planes do not exceed an extent; the coarsest if none."""
    fits = (i for i, array in enumerate(volume.levels) if max(array.shape[-2:]) <= extent)
    return next(fits, len(volume.levels) - 1)


def _read_window(volume: Volume, view: View, margin: int = 0) -> NDArray[Any]:
    """Read the view at full resolution as (c, y, x), clipped at the edges of the plane."""
    top, left = max(view.top - margin, 0), max(view.left - margin, 0)
    bottom, right = view.top + view.height + margin, view.left + view.width + margin
    plane = slice(view.plane, view.plane + 1)
    window = np.asarray(volume.array[..., plane, top:bottom, left:right])
    return window.reshape(-1, *window.shape[-2:])


def _faults_in_view(sample: Sample, view: View) -> Faults:
    assert sample.truth is not None
    truth = _read_window(sample.truth, view, MARGIN)
    instances = _read_window(sample.instances, view, MARGIN)
    return find_faults(contingency(truth, instances), sample.ignored)


def _count_visible(
    faults: Faults, truth: NDArray[np.integer], instances: NDArray[np.integer]
) -> dict[str, int]:
    seen = {"truth": np.unique(truth), "instances": np.unique(instances)}
    side = {"split": "truth", "missed": "truth", "merged": "instances", "invented": "instances"}
    return {kind: int(np.isin(getattr(faults, kind), seen[side[kind]]).sum()) for kind in KINDS}


def _draw_overview(image: Volume, view: View) -> NDArray[np.uint8]:
    level = _level_below(image, OVERVIEW)
    array = image.levels[level]
    # A pyramid may end above the wanted extent: then take every n-th pixel of its last level.
    every = -(-max(array.shape[-2:]) // OVERVIEW)
    plane = np.asarray(array[..., view.plane, :, :])[..., ::every, ::every]
    scale = every << level
    return figures.frame(
        figures.stretch(plane),
        view.top / scale,
        view.left / scale,
        (view.top + view.height) / scale,
        (view.left + view.width) / scale,
    )
