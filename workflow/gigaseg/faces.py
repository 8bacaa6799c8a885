"""Faces: the outermost voxels of a block where other blocks begin, and which of them meet.

What blocks have to agree on passes through their faces only, so an agreement over a volume of any
size needs the faces in memory, never the blocks. Blocks are the cells of a grid, whose lines need
not be evenly spaced.
"""

import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gigaseg.geometry import Window

Face = tuple[int, int]
"""Axis, and which end of the block along it: 0 or 1."""

_SUM = 4  # bytes of the CRC-32 after packed arrays


def inner_faces(window: Window, shape: Sequence[int], first_axis: int = 0) -> list[Face]:
    """List the faces of a block that are not the volume's edge.

    Parameters
    ----------
    window : Window
        The block.
    shape : sequence of int
        Of the volume.
    first_axis : int
        Axes before this one part the volume into problems of their own: they have no faces.

    Examples
    --------
    >>> inner_faces(Window((0, 4), (2, 8)), (2, 12))
    [(1, 0), (1, 1)]
    """
    axes = range(first_axis, len(shape))
    ends = [(axis, end) for axis in axes for end in (0, 1)]
    beyond = {0: window.start, 1: tuple(n - b for n, b in zip(shape, window.stop, strict=True))}
    return [(axis, end) for axis, end in ends if beyond[end][axis] > 0]


def plane_of(array: np.ndarray, face: Face) -> np.ndarray:
    """View the voxels of a block's array on one face; the axis stays, with one voxel."""
    return array[face_window(Window.whole(array.shape), face).slices]


def face_window(window: Window, face: Face) -> Window:
    """Return the box of a block's voxels on one face.

    Examples
    --------
    >>> face_window(Window((0, 4), (2, 8)), (1, 1))
    Window(start=(0, 7), stop=(2, 8))
    """
    axis, end = face
    place = window.stop[axis] - 1 if end else window.start[axis]
    return Window(_with(window.start, axis, place), _with(window.stop, axis, place + 1))


def raster_index(window: Window, shape: Sequence[int]) -> np.ndarray:
    """Return the raster index in the volume of every voxel of a window, as int64.

    Examples
    --------
    >>> raster_index(Window((1, 1), (3, 3)), (4, 10)).tolist()
    [[11, 12], [21, 22]]
    """
    index = np.zeros((1,) * len(shape), np.int64)
    for a, b, n, axis in zip(window.start, window.stop, shape, range(len(shape)), strict=True):
        line = np.arange(a, b).reshape((-1,) + (1,) * (len(shape) - axis - 1))
        index = index * n + line
    return index


@dataclass(frozen=True)
class Meeting:
    """Two blocks with a face in common.

    Attributes
    ----------
    axis : int
        Across which they meet.
    window : Window
        The voxels of the lower block on the face.
    lower, upper : Any
        What the blocks brought, see `Meetings`.
    """

    axis: int
    window: Window
    lower: Any
    upper: Any


@dataclass
class Meetings:
    """Pairs up the faces of blocks that come in any order; keeps only those still alone.

    Examples
    --------
    >>> meetings = Meetings((1, 6))
    >>> list(meetings.add(Window((0, 0), (1, 4)), {(1, 1): "left"}))
    []
    >>> [(m.lower, m.upper) for m in meetings.add(Window((0, 4), (1, 6)), {(1, 0): "right"})]
    [('left', 'right')]
    >>> meetings.close()
    """

    shape: tuple[int, ...]
    _alone: dict[Any, Any] = field(default_factory=dict, init=False)

    def add(self, window: Window, faces: Mapping[Face, Any]) -> Iterator[Meeting]:
        """Bring a block, and iterate over its meetings with blocks brought before.

        Parameters
        ----------
        window : Window
        faces : mapping
            For each inner face, anything.

        Raises
        ------
        ValueError
            If the blocks are not cells of one grid.
        """
        for (axis, end), brought in faces.items():
            place = window.stop[axis] if end else window.start[axis]
            box = (axis, _with(window.start, axis, place))
            other, guest = self._alone.pop((*box, 1 - end), (None, None))
            if other is None:
                if (*box, end) in self._alone:
                    raise ValueError(f"block {window} came twice: give every block once")
                self._alone[*box, end] = window, brought
                continue
            if _with(other.stop, axis, 0) != _with(window.stop, axis, 0):
                raise ValueError(
                    f"blocks {other} and {window} do not share a whole face: cut the volume by "
                    f"one grid"
                )
            lower = Window(_with(window.start, axis, place - 1), _with(window.stop, axis, place))
            pair = (guest, brought) if end == 0 else (brought, guest)
            yield Meeting(axis, lower, *pair)

    def waiting(self) -> Iterator[Any]:
        """Iterate over what was brought for faces that have met none yet."""
        return (brought for _, brought in self._alone.values())

    def close(self) -> None:
        """Raise ValueError unless every face has met its counterpart."""
        for (axis, start, end), (window, _) in self._alone.items():
            raise ValueError(
                f"{len(self._alone)} faces of blocks are alone, such as that of {window} at "
                f"{start} across axis {axis}, {'after' if end else 'before'} which no block came: "
                f"give all blocks of the volume {self.shape}"
            )


def _with(corner: tuple[int, ...], axis: int, value: int) -> tuple[int, ...]:
    return (*corner[:axis], value, *corner[axis + 1 :])


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return arrays as the bytes of one .npz file and its CRC-32, the same for the same arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    content = buffer.getvalue()
    return content + zlib.crc32(content).to_bytes(_SUM, "little")


def unpack(content: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of `pack`.

    Raises
    ------
    ValueError
        If the bytes are torn or something else.
    """
    # The sums within leave out the archive's headers, and come too late for those of the arrays,
    # which NumPy reads first.
    whole, sum_ = content[:-_SUM], content[-_SUM:]
    if not whole or zlib.crc32(whole).to_bytes(_SUM, "little") != sum_:
        raise ValueError(
            f"{len(content)} bytes are not the arrays of a block, as their sum differs: run again, "
            f"which does the block again"
        )
    with np.load(io.BytesIO(whole), allow_pickle=False) as arrays:
        return dict(arrays)
