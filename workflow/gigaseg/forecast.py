"""What a run will take: disk, files and time of every stage, from sizes alone.

Nothing here opens a file. Disk follows from the arrays that a stage stores; how well they compress
is assumed (`TYPICAL`), and bounded (`BEST`). Time is what a pixel took before. For memory see
`gigaseg.memory`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .classes import NAMES
from .panes import Panes
from .tally import KINDS

Shape = tuple[int, ...]

#: Stages in the order in which they run.
STAGES = (
    "phantom", "fetch", "convert", "weigh", "train", "predict", "tune", "split", "evaluate",
    "audit_seams", "view",
)  # fmt: skip

#: Bytes on disk per byte in memory: measured on nuclei and membranes, rounded up.
TYPICAL = {"image": 0.7, "probabilities": 0.8, "labels": 0.05, "target": 0.08, "separation": 0.25}
TYPICAL |= {"tally": 1.0}
#: Bytes on disk per pixel of the viewer's panes.
PICTURE = {"image": 0.4, "probability": 0.2, "outlines": 0.06}
#: Nothing that a microscope records, or a network makes of it, compresses better than this.
BEST = {"image": 0.01, "probabilities": 0.01, "labels": 0.001, "target": 0.001, "separation": 0.0}
BEST |= {"tally": 0.01}

BOOKS = 5  # files of a store beside its shards: two of the group's, three of the ledger's
STARTING = 5.0  # seconds until a job has loaded its libraries and Snakemake has noticed its end


@dataclass(frozen=True)
class Size:
    """What decides how much work a sample is.

    Attributes
    ----------
    shape : tuple of int
        (c, z, y, x).
    itemsize : int
        Bytes per value of the image.
    segment : int
        Bytes of the raw file that are decoded at once.
    labels : {"", "instances", "foreground", "boundary"}
        What its label file holds; empty without one.
    objects : {"plane", "volume"}
        Whether every plane is a problem of its own.
    """

    shape: tuple[int, int, int, int]
    itemsize: int
    segment: int = 0
    labels: str = ""
    objects: str = "plane"

    @property
    def voxels(self) -> int:
        """Number of voxels, whatever the number of channels."""
        return math.prod(self.shape[1:])

    @property
    def mpx(self) -> float:
        """Millions of voxels."""
        return self.voxels / 1e6


@dataclass(frozen=True)
class Need:
    """What something takes; needs add up, and memory is that of the largest job.

    Attributes
    ----------
    disk, least : float
        Bytes on disk: as things usually compress, and at the very best.
    files, jobs : int
        How many.
    memory : float
        Peak of one job in bytes.
    seconds : float
        Of all jobs, one after another; jobs of `unknown` time do not count.
    unknown : int
        Jobs of which nothing says how long they take.
    unseen : int
        Samples whose size is not known yet, counted nowhere else.
    passing : float
        Bytes on disk that the largest job needs meanwhile, and gives back.
    """

    disk: float = 0.0
    least: float = 0.0
    files: int = 0
    jobs: int = 0
    memory: float = 0.0
    seconds: float = 0.0
    unknown: int = 0
    unseen: int = 0
    passing: float = 0.0

    def __add__(self, other: "Need") -> "Need":
        both = {name: getattr(self, name) + getattr(other, name) for name in vars(self)}
        largest = ("memory", "passing")
        both |= {name: max(getattr(self, name), getattr(other, name)) for name in largest}
        return Need(**both)

    @property
    def room(self) -> float:
        """Bytes on disk that must be free: what stays, and what passes."""
        return self.disk + self.passing


def total(needs: Iterable[Need]) -> Need:
    """Add up needs; of none, nothing.

    Examples
    --------
    >>> total([Need(disk=3, memory=5), Need(disk=4, memory=2)])
    Need(disk=7.0, ..., memory=5, ...)
    """
    return sum(needs, Need())


# -------------------------------------------------------------------------------------------- disk


@dataclass(frozen=True)
class Stored:
    """An array of a store: axes (c) z y x.

    Attributes
    ----------
    shape : tuple of int
    itemsize : int
        Bytes per value.
    kind : str
        A key of `TYPICAL`.
    pyramid : bool
        Whether coarser levels are stored too.
    """

    shape: Shape
    itemsize: int
    kind: str
    pyramid: bool = True


def stored(stage: str, size: Size, target: str = "foreground", *, chunk: int = 256) -> list[Stored]:
    """List the arrays that a stage stores of one sample.

    Parameters
    ----------
    stage : str
    size : Size
        Of the sample.
    target : {"foreground", "interior_boundary"}
        What the network learns: one channel of probabilities per class but the background.
    chunk : int
        Extent of a chunk in y and x: weigh has a tally of each.
    """
    space = size.shape[1:]
    match stage:
        case "convert":
            truth = [Stored(space, 4, "labels")] if size.labels else []
            return [Stored(size.shape, size.itemsize, "image"), *truth]
        case "weigh":
            kinds = Stored(space, 1, "target", False), Stored(space, 4, "separation", False)
            chunks = (space[0], *(-(-n // chunk) for n in space[1:]))
            return [*kinds, Stored((KINDS, *chunks), 4, "tally", False)]
        case "predict":
            return [Stored((len(NAMES[target]) - 1, *space), 1, "probabilities")]
        case "split":
            return [Stored(space, 4 if size.voxels < 2**32 else 8, "labels")]
    return []


def disk(arrays: Sequence[Stored], *, smallest: int, edge: Callable[[int], int]) -> Need:
    """Forecast the bytes and files of a store.

    Parameters
    ----------
    arrays : sequence of Stored
    smallest : int
        Extent in y and x at which pyramids stop.
    edge : callable
        ``edge(level)``: extent in y and x of the voxels in one file of that level.

    Examples
    --------
    >>> need = disk([Stored((1, 600, 600), 1, "image")], smallest=256, edge=lambda level: 300)
    >>> need.files, round(need.least)
    (14, 4725)
    """
    need = Need(files=BOOKS if arrays else 0)
    for array in arrays:
        levels = _levels(array.shape, smallest) if array.pyramid else [array.shape]
        for level, shape in enumerate(levels):
            size = math.prod(shape) * array.itemsize
            pieces = shape[-3] * math.prod(-(-n // edge(level)) for n in shape[-2:])
            need += Need(size * TYPICAL[array.kind], size * BEST[array.kind], pieces + 1)
    return need


def checkpoints(parameters: int, training: Mapping[str, Any]) -> float:
    """Return the bytes on disk that the checkpoints of a training take while it lasts.

    Two are kept and a third is written. Each has the weights, the best so far, their average if
    there is one, and one (sgd) or two (adamw) momenta of each.

    Examples
    --------
    >>> checkpoints(1000, {"optimizer": "adamw", "ema": 0.999})
    60000
    """
    momenta = 1 if training["optimizer"] == "sgd" else 2
    return 3 * 4 * parameters * (2 + momenta + bool(training["ema"]))


def pictures(size: Size, target: str, view: Mapping[str, Any], smallest: int) -> Need:
    """Forecast the bytes and files of the viewer of one sample.

    Parameters
    ----------
    size : Size
    target : {"foreground", "interior_boundary"}
        As for `stored`.
    view : mapping
        ``pane``, ``files`` and ``planes``.
    smallest : int
        Extent in y and x at which pyramids stop.

    Examples
    --------
    >>> size = Size((1, 1, 3000, 2000), 1, labels="instances")
    >>> pictures(size, "foreground", {"pane": 1024, "files": 100, "planes": 1}, 256).files
    41
    """
    kinds = ["image", *["probability"] * (len(NAMES[target]) - 1), "outlines"]
    kinds += ["outlines"] if size.labels else []
    depth = len(_levels(size.shape, smallest))
    cut = {"side": view["pane"], "files": view["files"], "planes": view["planes"]}
    panes = Panes.choose(size.shape[1:], depth, len(kinds), **cut)
    pixels = len(panes.planes) * sum(math.prod(panes.extent(level)) for level in panes.levels)
    taken = pixels * sum(PICTURE[kind] for kind in kinds)
    return Need(taken, 0.0, len(kinds) * panes.count + BOOKS)


def _levels(shape: Shape, smallest: int) -> list[Shape]:
    levels = [shape]
    while max(levels[-1][-2:]) > smallest:
        *rest, y, x = levels[-1]
        levels.append((*rest, -(-y // 2), -(-x // 2)))
    return levels


# --------------------------------------------------------------------------------------------- time


@dataclass(frozen=True)
class Attempt:
    """Earlier work of a stage.

    Attributes
    ----------
    stage : str
    about : str
        What else decides the speed, such as the network; only equal ones are compared.
    host : str
        Name of the machine.
    mpx, seconds : float
        What was done in what time.
    """

    stage: str
    about: str
    host: str
    mpx: float
    seconds: float


def rates(attempts: Iterable[Attempt], host: str) -> dict[tuple[str, str], float]:
    """Return the seconds per million pixels of each stage, of this machine where it is known.

    Examples
    --------
    >>> done = [Attempt("split", "", "here", 2, 4), Attempt("split", "", "there", 9, 90)]
    >>> rates(done, "here"), rates(done, "elsewhere")
    ({('split', ''): 2.0}, {('split', ''): 8.545...})
    """
    known = [a for a in attempts if a.mpx > 0 and a.seconds > 0]
    sums: dict[tuple[str, str], list[float]] = {}
    local = {(a.stage, a.about) for a in known if a.host == host}
    for a in known:
        if a.host == host or (a.stage, a.about) not in local:
            both = sums.setdefault((a.stage, a.about), [0.0, 0.0])
            both[0], both[1] = both[0] + a.seconds, both[1] + a.mpx
    return {key: seconds / mpx for key, (seconds, mpx) in sums.items()}


def duration(mpx: float, rate: float | None) -> Need:
    """Forecast the time of one job.

    Examples
    --------
    >>> duration(10, 2.0).seconds, duration(10, None).unknown
    (25.0, 1)
    """
    return Need(unknown=1) if rate is None else Need(seconds=STARTING + rate * mpx)
