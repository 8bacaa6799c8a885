"""Elastic deformation, rotation, zoom and flips of a tile: drawn here, applied by `rendering`.

A tile is interpolated once, whatever is done to it: everything that moves pixels is composed into
the coordinates at which the image is read. Coordinates are counted from the tile's centre pixel,
and that pixel is never moved: the voxel a tile is centred on is always in it.
"""

from dataclasses import dataclass
from math import ceil, floor

import numpy as np

from .geometry import Window

# Keys' cubic convolution. -0.5 reproduces straight lines, as a displacement should; -0.75 is what
# OpenCV and torch use for images: it keeps the strength of pixel noise almost as it is.
SMOOTH, SHARP = -0.5, -0.75

# How far bicubic interpolation with SMOOTH leaves the range of the nodes, as a share of that range:
# along one axis the negative weights sum to at most 1/8, the positive ones to 9/8.
_OVERSHOOT = 2 * (1 / 8) * (9 / 8)


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
    """Where each pixel of a tile is read: rotation, flips, zoom and elastic displacement.

    Parameters
    ----------
    angle : float
        Rotation in degrees.
    flips : tuple of bool
        Whether y and x are reversed.
    scale : float
        Pixels of the image per pixel of the tile: above 1, objects look smaller.
    vectors : ndarray of float32, shape (2, ky, kx), optional
        Displacements in px (y, x) at the nodes of a coarse grid; see `draw`.
    spacing : float
        Distance of the nodes in px.

    Notes
    -----
    Pixel ``p`` of the tile, counted from its centre pixel, is read at ``s R F p + u(p)`` of the
    image, counted from the voxel on which the tile is centred: s the scale, R the rotation, F the
    flips, u the bicubic interpolation of `vectors` (Ronneberger et al. 2015, section 3.1).

    Examples
    --------
    >>> Deformation(angle=180.0, scale=2.0).matrix.diagonal().tolist()
    [-2.0, -2.0]
    """

    angle: float = 0.0
    flips: tuple[bool, bool] = (False, False)
    scale: float = 1.0
    vectors: np.ndarray | None = None
    spacing: float = 190.0

    @classmethod
    def draw(
        cls,
        random: np.random.Generator,
        size: int,
        *,
        flips: bool = True,
        rotation: float = 180.0,
        scale: float = 0.0,
        spacing: float = 190.0,
        sigma: float = 10.0,
    ) -> "Deformation":
        """Draw a deformation for square tiles of a size.

        Parameters
        ----------
        random : numpy.random.Generator
            See `generator`.
        size : int
            Extent of the tile in px.
        flips : bool
            Reverse each axis with probability 1/2.
        rotation : float
            Largest angle in degrees, uniform and of either sign.
        scale : float
            The scale is drawn from ``exp(U(-scale, scale))``.
        spacing, sigma : float
            Distance of the nodes, and standard deviation of each component of their displacements,
            in px. One node lies on the tile's centre pixel: at a spacing of half the tile the nodes
            on the tile are the paper's 3x3 grid. Those around it that bicubic interpolation asks
            for are drawn as well. The centre's displacement is taken from all, so that the centre
            stays (its voxel is random already). With ``sigma = 0`` the tile stays stiff.
        """
        angle = random.uniform(-rotation, rotation)
        reverse = random.random(2) < 0.5
        zoom = np.exp(random.uniform(-1, 1) * scale)
        vectors, reach = None, reach_of(size, spacing)
        if sigma:
            vectors = random.normal(0.0, sigma, (2, *(2 * reach + 4,) * 2)).astype(np.float32)
            vectors -= vectors[:, reach + 1, reach + 1, None, None]
        reverse = flips & reverse
        return cls(
            float(angle), (bool(reverse[0]), bool(reverse[1])), float(zoom), vectors, spacing
        )

    @property
    def matrix(self) -> np.ndarray:
        """``s R F``, shape (2, 2); quarter turns are exact, so they cost no interpolation error."""
        quarter, rest = divmod(self.angle, 90.0)
        cosine, sine = np.cos(np.radians(rest)), np.sin(np.radians(rest))
        turn = np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), int(quarter) % 4)
        rotation = turn @ np.array([[cosine, -sine], [sine, cosine]])
        return self.scale * rotation * np.where(self.flips, -1.0, 1.0)

    def window(self, size: int) -> Window:
        """Return a window in which every pixel of a tile can be interpolated, up to bicubic.

        Parameters
        ----------
        size : int
            Extent of the tile in px.

        Returns
        -------
        Window
            Counted from the voxel on which the tile is centred. It follows from the largest
            displacement of a node, so it is a little larger than the smallest such window.

        Examples
        --------
        >>> Deformation(angle=45.0).window(4)
        Window(start=(-4, -4), stop=(6, 6))
        """
        half = np.abs(self.matrix).sum(axis=1) * (size // 2)
        low, high = np.zeros(2), np.zeros(2)
        if self.vectors is not None:
            low, high = self.vectors.min(axis=(1, 2)), self.vectors.max(axis=(1, 2))
            low, high = low - _OVERSHOOT * (high - low), high + _OVERSHOOT * (high - low)
        # One voxel before and two after are what bicubic interpolation reads beside a position.
        return Window(
            tuple(floor(value) - 1 for value in low - half),
            tuple(floor(value) + 4 for value in high + half),
        )


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


def reach_of(size: int, spacing: float) -> int:
    """Return the number of nodes between a tile's centre pixel and its edge, rounded up.

    Examples
    --------
    >>> reach_of(572, 190.0)
    2
    """
    return ceil(size // 2 / spacing)
