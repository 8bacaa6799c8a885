"""Random elastic deformation, rotation, flip and shift as one field of coordinates.

A tile is interpolated once, whatever is done to it: everything that moves pixels is composed into
the coordinates at which the image is read. Coordinates are counted from the centre of the tile, so
the field of an output window is the centre of the field of its input tile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Literal

import numpy as np

from .geometry import Window

Order = Literal[0, 1, 3]

# Keys' cubic convolution. -0.5 reproduces straight lines, as a displacement should; -0.75 is what
# OpenCV and torch use for images: it keeps the strength of pixel noise almost as it is.
SMOOTH, SHARP = -0.5, -0.75


def generator(seed: int, step: int, index: int, stream: int = 0) -> np.random.Generator:
    """Return the random numbers of one tile, which depend on nothing that was drawn before.

    Parameters
    ----------
    seed : int
        Seed of the run, at least 0.
    step, index : int
        Training step, and position of the tile in its batch.
    stream : int
        Keeps different uses of the same seed apart.

    Returns
    -------
    numpy.random.Generator
        Philox with key (seed, step); `index` and `stream` are the high words of its counter.

    Examples
    --------
    >>> a, b = (generator(seed=1, step=5, index=0).random() for _ in range(2))
    >>> a == b, a == generator(seed=1, step=5, index=1).random()
    (True, False)
    """
    bits = np.random.Philox(key=[seed, step], counter=[0, 0, stream, index])
    return np.random.Generator(bits)


@dataclass(frozen=True, eq=False)
class Deformation:
    """Where each pixel of a tile is read: rotation, flips, shift and elastic displacement.

    Parameters
    ----------
    angle : float
        Rotation in degrees.
    flips : tuple of bool
        Whether y and x are reversed.
    shift : tuple of float
        Added to all coordinates (y, x), in px.
    vectors : ndarray of float32, shape (2, ky, kx), optional
        Displacements in px (y, x) at the nodes of a coarse grid; see `draw`.
    spacing : float
        Distance of the nodes in px.

    Notes
    -----
    Pixel ``p`` of the tile, counted from its centre, is read at ``R F p + shift + u(p)`` of the
    image, counted from where the tile is centred: R the rotation, F the flips, u the bicubic
    interpolation of `vectors` (Ronneberger et al. 2015, section 3.1).

    Examples
    --------
    >>> Deformation(flips=(False, True)).field((1, 3))[1]
    array([[ 1.,  0., -1.]], dtype=float32)
    """

    angle: float = 0.0
    flips: tuple[bool, bool] = (False, False)
    shift: tuple[float, float] = (0.0, 0.0)
    vectors: np.ndarray | None = None
    spacing: float = 190.0

    @classmethod
    def draw(
        cls,
        random: np.random.Generator,
        shape: Sequence[int],
        *,
        flips: bool = True,
        rotation: float = 180.0,
        shift: float = 0.0,
        spacing: float = 190.0,
        sigma: float = 10.0,
    ) -> "Deformation":
        """Draw a deformation for tiles of a shape.

        Parameters
        ----------
        random : numpy.random.Generator
            See `generator`.
        shape : sequence of int
            Extent of the input tile (y, x) in px.
        flips : bool
            Reverse each axis with probability 1/2.
        rotation, shift : float
            Largest angle in degrees and largest shift in px, both uniform and of either sign.
        spacing, sigma : float
            Distance of the nodes, and standard deviation of each component of their displacements,
            in px. One node lies on the tile's centre: at a spacing of half the tile the nodes on
            the tile are the paper's 3x3 grid. Those around it that bicubic interpolation asks for
            are drawn as well. With ``sigma = 0`` the tile stays stiff.
        """
        angle = random.uniform(-rotation, rotation)
        reverse = random.random(2) < 0.5
        offset = random.uniform(-shift, shift, 2)
        nodes = [2 * _reach(n, spacing) + 4 for n in shape]
        vectors = random.normal(0.0, sigma, (2, *nodes)).astype(np.float32) if sigma else None
        return cls(
            float(angle),
            (flips and bool(reverse[0]), flips and bool(reverse[1])),
            (float(offset[0]), float(offset[1])),
            vectors,
            spacing,
        )

    def field(self, shape: Sequence[int]) -> np.ndarray:
        """Return the coordinates, counted from the centre, at which a tile is read.

        Parameters
        ----------
        shape : sequence of int
            Extent of the tile (y, x) in px; no larger than that of `draw`.

        Returns
        -------
        ndarray of float32, shape (2, y, x)
        """
        y, x = (np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2) for n in shape)
        matrix = self._matrix().astype(np.float32)
        offset = np.asarray(self.shift, np.float32)
        field = np.empty((2, *shape), np.float32)
        for axis in range(2):
            field[axis] = (matrix[axis, 0] * y + offset[axis])[:, None] + matrix[axis, 1] * x
        if self.vectors is not None:
            field += interpolate_nodes(self.vectors, shape, self.spacing)
        return field

    def _matrix(self) -> np.ndarray:
        """Rotation after flips; quarter turns are exact, so they cost no interpolation error."""
        quarter, rest = divmod(self.angle, 90.0)
        cosine, sine = np.cos(np.radians(rest)), np.sin(np.radians(rest))
        turn = np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), int(quarter) % 4)
        rotation = turn @ np.array([[cosine, -sine], [sine, cosine]])
        return rotation * np.where(self.flips, -1.0, 1.0)


def interpolate_nodes(vectors: np.ndarray, shape: Sequence[int], spacing: float) -> np.ndarray:
    """Interpolate displacements between nodes by bicubic convolution.

    Parameters
    ----------
    vectors : ndarray, shape (2, ky, kx)
        Displacements in px at nodes `spacing` px apart; node ``(k - 4) // 2 + 1`` of each axis
        lies on the centre.
    shape : sequence of int
        Extent (y, x) of the tile in px.
    spacing : float
        Distance of the nodes in px.

    Returns
    -------
    ndarray of float32, shape (2, y, x)

    Raises
    ------
    ValueError
        If the nodes do not reach around a tile of this shape.
    """
    for axis, (size, nodes) in enumerate(zip(shape, vectors.shape[1:], strict=True)):
        needed = 2 * _reach(size, spacing) + 4
        if nodes < needed:
            raise ValueError(
                f"{nodes} nodes do not cover {size} px at a spacing of {spacing:g} px: "
                f"bicubic interpolation needs {needed}"
            )
        position = (np.arange(size) - (size - 1) / 2) / spacing
        node = np.floor(position)
        weights = cubic_weights((position - node).astype(np.float32), SMOOTH)
        first = node.astype(np.int64) + (nodes - 4) // 2
        lines = np.moveaxis(vectors, axis + 1, -1)
        # Four taps written out: a matrix product would leave the order of the sum to the library.
        line = sum(weights[tap] * lines[..., first + tap] for tap in range(4))
        vectors = np.moveaxis(np.asarray(line), -1, axis + 1)
    return vectors.astype(np.float32, copy=False)


def cubic_weights(fraction: np.ndarray, sharpness: float = SHARP) -> np.ndarray:
    """Return the weights of the samples at -1, 0, 1, 2 for a position `fraction` past sample 0.

    Parameters
    ----------
    fraction : ndarray of float, any shape
        In [0, 1).
    sharpness : float
        Parameter ``a`` of Keys (1981), doi:10.1109/TASSP.1981.1163711.

    Returns
    -------
    ndarray, shape (4, *fraction.shape)
        They sum to one.

    Examples
    --------
    >>> cubic_weights(np.array([0.5]), SMOOTH).T.tolist()
    [[-0.0625, 0.5625, 0.5625, -0.0625]]
    """
    t, a = fraction, fraction.dtype.type(sharpness)
    s = 1 - t
    return np.stack(
        [
            a * t * s * s,
            (a + 2) * t * t * t - (a + 3) * t * t + 1,
            (a + 2) * s * s * s - (a + 3) * s * s + 1,
            a * s * t * t,
        ]
    )


def source_window(coordinates: np.ndarray) -> Window:
    """Return the smallest window in which all coordinates can be interpolated, up to cubic.

    Parameters
    ----------
    coordinates : ndarray, shape (2, y, x)
        In px of the image.

    Examples
    --------
    >>> source_window(np.array([[[2.0, 3.5]], [[0.0, 0.0]]]))
    Window(start=(1, -1), stop=(6, 3))
    """
    low, high = coordinates.min(axis=(1, 2)), coordinates.max(axis=(1, 2))
    return Window(
        tuple(floor(value) - 1 for value in low), tuple(floor(value) + 3 for value in high)
    )


def resample(data: np.ndarray, coordinates: np.ndarray, order: Order = 1) -> np.ndarray:
    """Read an array at fractional coordinates.

    Parameters
    ----------
    data : ndarray, shape (..., y, x)
        Must hold `source_window` of the coordinates.
    coordinates : ndarray of float, shape (2, v, u)
        Rows and columns of `data`.
    order : {0, 1, 3}
        0 nearest (labels), 1 bilinear (weights), 3 bicubic convolution (images). A spline is not
        offered: its prefilter makes every value depend on the whole window.

    Returns
    -------
    ndarray, shape (..., v, u)
        Of the type of `data` for order 0, else float32.

    Examples
    --------
    >>> resample(np.array([[0.0, 4.0], [0.0, 4.0]]), np.array([[[0.0]], [[0.25]]]))
    array([[1.]], dtype=float32)
    """
    if order == 0:
        y, x = np.floor(coordinates + coordinates.dtype.type(0.5)).astype(np.int64)
        return data[..., y, x]
    base = np.floor(coordinates)
    fraction = (coordinates - base).astype(np.float32)
    y, x = base.astype(np.int64) - (order == 3)
    weights = cubic_weights(fraction) if order == 3 else np.stack([1 - fraction, fraction])
    result = np.zeros((*data.shape[:-2], *y.shape), np.float32)
    for row, vertical in enumerate(weights[:, 0]):
        for column, horizontal in enumerate(weights[:, 1]):
            result += vertical * horizontal * data[..., y + row, x + column]
    return result


def _reach(size: int, spacing: float) -> int:
    """Nodes between the centre and the last pixel, rounded up."""
    return ceil((size - 1) / 2 / spacing)
