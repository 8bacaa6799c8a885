"""What a run will take: disk, files, memory and time of every stage, from sizes alone.

Nothing here opens a file. Disk follows from the arrays that a stage stores; how well they compress
is assumed (`TYPICAL`), and bounded (`BEST`). Memory is that of the largest job: what the stage's
libraries take, and the arrays that are alive at its peak; it is rounded up rather than down. Time
is what a pixel took before.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .classes import NAMES
from .geometry import UNetGeometry
from .panes import Panes
from .phantoms import LARGEST_FIELD
from .tiling import choose_tile, tile_memory_gb

Shape = tuple[int, ...]

#: Stages in the order in which they run.
STAGES = (
    "phantom", "fetch", "convert", "weigh", "train", "predict", "tune", "split", "evaluate",
    "audit_seams", "view",
)  # fmt: skip

#: Bytes on disk per byte in memory: measured on nuclei and membranes, rounded up.
TYPICAL = {"image": 0.7, "probabilities": 0.8, "labels": 0.05, "target": 0.08, "separation": 0.25}
#: Bytes on disk per pixel of the viewer's panes.
PICTURE = {"image": 0.4, "probability": 0.2, "outlines": 0.06}
#: Nothing that a microscope records, or a network makes of it, compresses better than this.
BEST = {"image": 0.01, "probabilities": 0.01, "labels": 0.001, "target": 0.001, "separation": 0.0}

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


def stored(stage: str, size: Size, target: str = "foreground") -> list[Stored]:
    """List the arrays that a stage stores of one sample.

    Parameters
    ----------
    stage : str
    size : Size
        Of the sample.
    target : {"foreground", "interior_boundary"}
        What the network learns: one channel of probabilities per class but the background.
    """
    space = size.shape[1:]
    match stage:
        case "convert":
            truth = [Stored(space, 4, "labels")] if size.labels else []
            return [Stored(size.shape, size.itemsize, "image"), *truth]
        case "weigh":
            return [Stored(space, 1, "target", False), Stored(space, 4, "separation", False)]
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


# ------------------------------------------------------------------------------------------- memory

MB = 1e6
#: What the libraries of a stage and its small things take in bytes, with two threads.
LIBRARIES = {
    "phantom": 150 * MB, "fetch": 150 * MB, "convert": 300 * MB, "weigh": 320 * MB,
    "train": 700 * MB, "predict": 500 * MB, "tune": 450 * MB, "split": 450 * MB,
    "evaluate": 400 * MB, "audit_seams": 450 * MB, "view": 300 * MB,
}  # fmt: skip
LESSON = 2**31  # bytes of decoded samples that training keeps
# What bounds the stages' blocks; the tests compare these with the stages' own.
BLOCK_BYTES, BYTES_AT_ONCE = 2**27, 2**26  # of convert
SPLIT_SIDE = 2048  # px of a block of a plane that split works on
FLOOD_VOXELS, WRITE_VOXELS = 2**23, 2**25  # of its blocks in space
MAP_PIECE, MAP_CHUNK, MAP_HALO, MAP_LIST = 2**21, 256, 24, 2**26  # of evaluate, see `maps`
SPACE = 2**24  # voxels of a block of weigh in space, with its halo


def parameters(channels: int, classes: int, depth: int, width: int) -> int:
    """Count the parameters of the U-Net, without batch normalisation.

    Examples
    --------
    >>> parameters(1, 2, 4, 64)  # the paper's
    31030658
    """
    features = [width << level for level in range(depth + 1)]
    double = [
        9 * (a + b) * b + 2 * b for a, b in zip([channels, *features[:-1]], features, strict=True)
    ]
    up = [4 * 2 * f * f + f + 9 * 3 * f * f + 2 * f for f in features[:-1]]
    return sum(double) + sum(up) + classes * (width + 1)


def training_memory(network: Any, training: Any) -> float:
    """Bytes that a training step keeps of its tiles for the way back.

    Per pixel of the first level about 8 maps of its width are kept: four convolutions, the
    concatenation of two and its copies. Each level below has half of the one above, together as
    much again; the gradients of one level come on top.
    """
    maps = 8 * 4 * network["width"] * training["tile"] ** 2 * training["batch"]
    return 3.0 * maps


def prediction_memory(size: Size, network: Any, prediction: Any, shard: int) -> float:
    """Bytes of one thread that predicts: the activations of a batch, and a block with its halo.

    The activations are what `gigaseg.tiling.tile_memory_gb` says, by which the tile was chosen. Of
    the block, raw values, their mirrored copy, and results with coarser levels are alive.

    Raises
    ------
    ValueError
        If no tile fits: see `gigaseg.tiling.choose_tile`.
    """
    geometry = UNetGeometry(network["depth"], network["padding"])
    tile, width, plane = prediction["tile"], network["width"], size.shape[2:]
    if tile == "auto":
        memory = prediction["memory_gb"] / prediction["batch"]
        tile = choose_tile(geometry, plane, (shard, shard), width=width, memory_gb=memory)
    sides = [min(n, shard) + tile for n in plane]  # whole steps and the halo
    block = math.prod(sides) * (2 * size.shape[0] * size.itemsize + 4)
    return 1e9 * tile_memory_gb(tile, width) * prediction["batch"] + block


def conversion_memory(size: Size, shard: int, threads: int) -> float:
    """Bytes of all threads that convert: blocks, as they are read, stored and encoded.

    Blocks are as wide as the strips of a file may be, up to `BLOCK_BYTES`; several are in hand only
    up to `BYTES_AT_ONCE`. A longer strip is kept while blocks are cut from it. Components need the
    whole plane, or volume, of which they are.
    """
    c, z, y, x = size.shape
    block = min(BLOCK_BYTES, c * size.itemsize * min(y, shard) * x)
    held = max(block, min(threads * block, BYTES_AT_ONCE))
    found = 0
    if size.labels in ("foreground", "boundary"):
        found = 12 * (1 if size.objects == "plane" else z) * y * x
    return 3.0 * held + 2 * size.segment + found


def sample_memory(
    stage: str, size: Size, settings: Mapping[str, Any], shard: int, threads: int
) -> float:
    """Bytes of the work on one sample at its peak, beside the libraries.

    Parameters
    ----------
    stage : str
    size : Size
        Of the sample.
    settings : mapping
        Of the run; of an experiment's own where the stage belongs to one.
    shard : int
        Extent of a block in y and x.
    threads : int
        Blocks of the sample that are worked on at once.
    """
    plane = math.prod(size.shape[2:])
    problem = plane if size.objects == "plane" else size.voxels
    match stage:
        case "phantom":  # image in float64, labels, distances between objects; fields of nuclei
            field = LARGEST_FIELD**2 if size.labels == "instances" else size.voxels
            return 28.0 * min(size.voxels, field)
        case "convert":
            return conversion_memory(size, shard, threads)
        case "weigh":  # labels, two distances and two nearest ids per voxel of a block with halo
            block = 1.2 * math.prod(min(n, shard) for n in size.shape[2:])
            return 80.0 * threads * (block if size.objects == "plane" else min(problem, SPACE))
        case "predict":
            each = prediction_memory(size, settings["network"], settings["prediction"], shard)
            return threads * each
        case "audit_seams":
            return prediction_memory(size, settings["network"], settings["prediction"], 0)
        case "tune" | "split":  # evidence, levels, order, sets, fragments of a block; labels
            flat = size.objects == "plane"
            flooded = min(problem, SPLIT_SIDE**2 if flat else FLOOD_VOXELS)
            written = min(problem, max(SPLIT_SIDE, shard) ** 2 if flat else WRITE_VOXELS)
            return threads * (48.0 * flooded + 12.0 * written)
        case "view":  # a window as stored, stretched and encoded
            side = settings["view"]["pane"]
            return threads * (size.shape[0] * (size.itemsize + 16.0) + 16) * min(plane, side**2)
        case "evaluate":  # pieces of truth and instances, objects that overlap; maps
            at_once = min(threads, len(settings["evaluation"]["thresholds"]))
            return 100 * MB + 0.5 * problem + map_memory(size, at_once)
    return 0.0


def map_memory(size: Size, thresholds: int) -> float:
    """Bytes that boundary maps take while so many thresholds of a plane are worked on.

    For each a bit map, a list of mismatches as long as it is not in a file, and a band of rows with
    labels, keys and their predecessors.

    Examples
    --------
    >>> plane = Size((1, 1, 32768, 32768), 2)
    >>> round(map_memory(plane, 1) / MB), round(map_memory(plane, 2) / MB), map_memory(plane, 0)
    (1132, 2131, 0.0)
    """
    y, x = size.shape[2:]
    bits = y * x / 8
    rows = min(y, max(MAP_CHUNK, MAP_PIECE // x // MAP_CHUNK * MAP_CHUNK) + 2 * MAP_HALO)
    each = bits + min(4 * y * x, MAP_LIST) + 80 * rows * x
    return thresholds * each + bits * (thresholds > 0)


def mismatch_files(size: Size, thresholds: int) -> float:
    """Bytes of disk that boundary maps take for a moment while so many thresholds are worked on.

    At most: at threshold 0 every pixel of the background is a mismatch.

    Examples
    --------
    >>> [mismatch_files(Size((1, 1, n, n), 2), thresholds=2) / 1e9 for n in (4096, 32768)]
    [0.0, 8.589934592]
    """
    pixels = math.prod(size.shape[2:])
    each = pixels * (4.0 if pixels + size.shape[2] * 8 < 2**32 else 8.0)
    return thresholds * each if each > MAP_LIST else 0.0


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
