"""OME-Zarr 0.5 metadata of the workflow's stores: axes, spacing in micrometres, levels, channels.

Pure dictionaries in and out, checked by the models of ome-zarr-models; nothing is read or written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ome_zarr_models.common.omero import Channel, Omero, Window
from ome_zarr_models.v05.axes import Axis
from ome_zarr_models.v05.image import ImageAttrs
from ome_zarr_models.v05.image_label import ImageLabelAttrs
from ome_zarr_models.v05.image_label_types import Label
from ome_zarr_models.v05.labels import LabelsAttrs
from ome_zarr_models.v05.multiscales import Dataset, Multiscale

COLORS = ("00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")


@dataclass(frozen=True)
class Scene:
    """What the metadata of a store says about its arrays.

    Attributes
    ----------
    axes : str
        One letter per axis.
    paths : tuple of str
        Arrays of the pyramid, full resolution first.
    spacing : tuple of float
        Size of a voxel along z, y, x in micrometres.
    """

    axes: str
    paths: tuple[str, ...]
    spacing: tuple[float, float, float]


def image(
    name: str,
    axes: str,
    spacing: Sequence[float],
    levels: int,
    channels: Sequence[str],
    contrast: Sequence[tuple[float, float]],
) -> dict[str, Any]:
    """Return the ``ome`` attributes of an image.

    Parameters
    ----------
    name : str
        Shown by viewers.
    axes : {"czyx", "zyx"}
        One letter per axis.
    spacing : sequence of float
        Size of a voxel along z, y, x in micrometres.
    levels : int
        Number of levels; y and x halve from each to the next.
    channels : sequence of str
        Names.
    contrast : sequence of (float, float)
        Range of values to show, per channel.

    Examples
    --------
    >>> scene = read(image("a", "czyx", (1, 0.5, 0.5), 2, ["nuclei"], [(0, 255)]))
    >>> scene.axes, scene.paths, scene.spacing
    ('czyx', ('0', '1'), (1.0, 0.5, 0.5))
    """
    model = ImageAttrs(version="0.5", multiscales=[_multiscale(name, axes, spacing, levels)])
    colors = COLORS if len(channels) > 1 else ("FFFFFF",)
    shown = [
        Channel.model_validate(
            {
                "color": colors[i % len(colors)],
                "window": Window(min=low, start=low, end=high, max=high),
                "label": channel,
                "active": True,
            }
        )
        for i, (channel, (low, high)) in enumerate(zip(channels, contrast, strict=True))
    ]
    return _plain(model) | {"omero": _plain(Omero(channels=shown))}


def labels(
    name: str, axes: str, spacing: Sequence[float], levels: int, *, nested: bool
) -> dict[str, Any]:
    """Return the ``ome`` attributes of a label image; `nested`: it lies inside its image.

    Examples
    --------
    >>> labels("truth", "zyx", (1, 1, 1), 1, nested=True)["image-label"]["source"]
    {'image': '../../'}
    """
    source = {"source": {"image": "../../"}} if nested else {}
    label = Label.model_validate({"version": "0.5", **source})
    scales = [_multiscale(name, axes, spacing, levels)]
    return _plain(ImageLabelAttrs(version="0.5", multiscales=scales, **{"image-label": label}))


def label_list(names: Sequence[str]) -> dict[str, Any]:
    """Return the ``ome`` attributes of the group that holds an image's label images."""
    return _plain(LabelsAttrs(version="0.5", labels=list(names)))


def read(attributes: Any) -> Scene:
    """Read ``ome`` attributes written by `image` or `labels`."""
    scales = ImageAttrs.model_validate(attributes).multiscales[0]
    finest = _plain(scales.datasets[0])["coordinateTransformations"][0]
    z, y, x = (float(n) for n in finest["scale"][-3:])
    axes = "".join(str(axis.name) for axis in scales.axes)
    return Scene(axes, tuple(d.path for d in scales.datasets), (z, y, x))


def _multiscale(name: str, axes: str, spacing: Sequence[float], levels: int) -> Multiscale:
    named = [
        Axis(name=a, type="channel") if a == "c" else Axis(name=a, type="space", unit="micrometer")
        for a in axes
    ]
    datasets = tuple(_dataset(level, len(axes) - 3, spacing) for level in range(levels))
    return Multiscale(axes=named, datasets=datasets, name=name)


def _dataset(level: int, lead: int, spacing: Sequence[float]) -> Dataset:
    factors = (1, 2**level, 2**level)
    scale = [float(n) * f for n, f in zip(spacing, factors, strict=True)]
    # Positions are those of voxel centres, so a coarse voxel sits between the fine ones it covers.
    shift = [float(n) * (f - 1) / 2 for n, f in zip(spacing, factors, strict=True)]
    translation = [0.0] * lead + shift if level else None
    return Dataset.build(path=str(level), scale=[1.0] * lead + scale, translation=translation)


def _plain(model: Any) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)
