"""Draw a sample: its worst places, large and small; of 3-D objects, sections along three axes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import figures
from .faults import Faults
from .sections import EXTENT, Box, cut, meeting_point, place_box
from .views import (
    Sample,
    View,
    choose_views,
    count_visible,
    fault_mask,
    faults_in_view,
    level_below,
    read_window,
)
from .volumes import Volume

#: Extent (px) of the overview, and of the windows of strips.
OVERVIEW = 384
STRIP = 176
#: Planes on either side of a strip's by which 3-D objects are judged.
NEAR = 16

_CHANNEL_COLOURS = np.array([(0.25, 0.80, 0.78), (1.0, 0.55, 0.15)])


@dataclass(frozen=True)
class Place:
    """One window of a sample: image, truth and prediction side by side.

    Parameters
    ----------
    view : View
    faults : dict or None
        Objects of each kind of error in the view; None without truth.
    pictures : dict of str to str
        ``image``, ``truth`` (if there is one) and ``prediction`` as ``data:`` addresses.
    """

    view: View
    faults: dict[str, int] | None
    pictures: dict[str, str]

    @property
    def size(self) -> int:
        """Characters of its pictures."""
        return sum(map(len, self.pictures.values()))


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
    places : sequence of Place
        Further places, the worst first.
    planes : range or None
        Those that the sections of 3-D objects go through; None where a plane is shown.
    """

    view: View
    shape: tuple[int, int, int]
    faults: dict[str, int] | None
    pictures: dict[str, str]
    channels: tuple[str, ...] = ()
    places: Sequence[Place] = ()
    planes: range | None = None

    @property
    def whole(self) -> bool:
        """The view is the whole plane."""
        return (self.view.height, self.view.width) == self.shape[1:]


def draw_sample(sample: Sample, places: int = 0) -> Pictures:
    """Draw the worst place of a sample: image, probability, instances, truth and errors.

    Parameters
    ----------
    sample : Sample
        3-D objects (``objects`` "volume") are shown by sections along three axes.
    places : int
        Further places of a sample that is too large to be shown whole.
    """
    deep = sample.objects == "volume" and sample.instances.shape[0] > 1
    view = choose_views(sample, 1, EXTENT if deep else None)[0]
    drawn = _draw_sections(sample, view) if deep else _draw_plane(sample, view)
    if not drawn.whole:
        drawn.pictures["overview"] = figures.photo_uri(_draw_overview(sample.image, view))
    if places and sample.truth is not None and not (drawn.whole and drawn.shape[0] == 1):
        return Pictures(**{**vars(drawn), "places": _other_places(sample, view, places)})
    return drawn


def _other_places(sample: Sample, view: View, count: int) -> list[Place]:
    """Draw the worst places that the main picture does not show."""
    others = [
        one
        for one in choose_views(sample, count + 9, STRIP)
        if not (view.overlaps(one) and (sample.objects == "volume" or one.plane == view.plane))
    ]
    places = (_draw_place(sample, one) for one in others[:count])
    return [place for place in places if any((place.faults or {}).values())]


def draw_strip(sample: Sample, count: int) -> list[Place]:
    """Draw the worst places of a sample, small: at most `count`, the worst first."""
    return [_draw_place(sample, view) for view in choose_views(sample, count, STRIP)]


def _draw_place(sample: Sample, view: View) -> Place:
    image = figures.stretch(read_window(sample.image, view))
    instances = read_window(sample.instances, view)[0]
    pictures = {"image": figures.photo_uri(image)}
    if sample.truth is None:
        pictures["prediction"] = figures.drawing_uri(figures.colour_instances(instances))
        return Place(view, None, pictures)
    truth = sample.known(read_window(sample.truth, view)[0])
    faults = faults_in_view(sample, view, _planes_near(sample, view))
    for name, shown in zip(
        ("truth", "prediction"), figures.colour_faults(truth, instances, faults), strict=True
    ):
        pictures[name] = figures.drawing_uri(shown)
    return Place(view, count_visible(faults, truth, instances), pictures)


def _planes_near(sample: Sample, view: View) -> range | None:
    if sample.objects != "volume":
        return None
    return range(max(view.plane - NEAR, 0), min(view.plane + NEAR + 1, sample.instances.shape[0]))


def _draw_plane(sample: Sample, view: View) -> Pictures:
    def each(volume: Volume, draw: Callable[[NDArray[Any]], NDArray[np.uint8]]) -> Any:
        return draw(read_window(volume, view))

    faults = None if sample.truth is None else faults_in_view(sample, view)
    image = figures.stretch(read_window(sample.image, view))
    instances = read_window(sample.instances, view)[0]
    truth = None if sample.truth is None else sample.known(read_window(sample.truth, view)[0])
    pictures = _draw_each(sample, each)
    main = _mark(image, truth, instances, faults)
    pictures["overlay" if truth is None else "errors"] = figures.photo_uri(main)
    counts = None
    if truth is not None and faults is not None:
        counts = count_visible(faults, truth, instances)
    return Pictures(view, sample.instances.shape, counts, pictures, _channels(sample))


def _draw_sections(sample: Sample, view: View) -> Pictures:
    """Draw sections along three axes; the objects are judged in the space around."""
    box, faults = _place_sections(sample, view)
    point = meeting_point(box, sample.instances.spacing)

    def each(volume: Volume, draw: Callable[[NDArray[Any]], NDArray[np.uint8]]) -> Any:
        return figures.place_sections((draw(one) for one in cut(volume, box)), point)

    images, instances = cut(sample.image, box), cut(sample.instances, box)
    truths: list[NDArray[Any] | None] = [None] * 3
    if sample.truth is not None:
        truths = [sample.known(one) for one in cut(sample.truth, box)]
    marked = [
        _mark(figures.stretch(image), None if truth is None else truth[0], found[0], faults)
        for image, truth, found in zip(images, truths, instances, strict=True)
    ]
    pictures = _draw_each(sample, each)
    main = figures.place_sections(marked, point)
    pictures["overlay" if sample.truth is None else "errors"] = figures.photo_uri(main)
    counts = None
    if faults is not None:
        counts = count_visible(faults, *(_together(three) for three in (truths, instances)))
    planes = range(box.first, box.stop)
    shape, channels = sample.instances.shape, _channels(sample)
    return Pictures(view, shape, counts, pictures, channels, planes=planes)


def _together(sections: Iterable[NDArray[Any] | None]) -> NDArray[Any]:
    return np.concatenate([one.ravel() for one in sections if one is not None])


def _place_sections(sample: Sample, view: View) -> tuple[Box, Faults | None]:
    depth, spacing = sample.instances.shape[0], sample.instances.spacing
    instances = read_window(sample.instances, view)[0]
    everything = place_box(view, depth, spacing, instances != 0)
    if sample.truth is None:
        return everything, None
    faults = faults_in_view(sample, view, range(everything.first, everything.stop))
    truth = sample.known(read_window(sample.truth, view)[0])
    mask = fault_mask(faults, truth, instances)
    return (place_box(view, depth, spacing, mask) if mask.any() else everything), faults


def _mark(
    image: NDArray[np.uint8],
    truth: NDArray[np.integer] | None,
    instances: NDArray[np.integer],
    faults: Faults | None,
) -> NDArray[np.uint8]:
    if truth is None or faults is None:
        return figures.lay_over(image, instances)
    return figures.mark_faults(image, truth, instances, faults)


def _draw_each(sample: Sample, each: Callable[..., Any]) -> dict[str, str]:
    """Draw every volume by itself."""

    def labels(array: NDArray[Any]) -> NDArray[np.uint8]:
        return figures.colour_instances(array[0])

    def truth(array: NDArray[Any]) -> NDArray[np.uint8]:
        return figures.colour_instances(sample.known(array[0]))

    pictures = {"image": figures.photo_uri(each(sample.image, figures.stretch))}
    if sample.probabilities is not None:
        shown = each(sample.probabilities, colour_probabilities)
        pictures["probability"] = figures.photo_uri(shown)
    pictures["instances"] = figures.drawing_uri(each(sample.instances, labels))
    if sample.truth is not None:
        pictures["truth"] = figures.drawing_uri(each(sample.truth, truth))
    return pictures


def _channels(sample: Sample) -> tuple[str, ...]:
    volume = sample.probabilities
    return () if volume is None else tuple(volume.attributes["channels"])


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


def _draw_overview(image: Volume, view: View) -> NDArray[np.uint8]:
    level = level_below(image, OVERVIEW)
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
