"""The peak of memory of every stage, from sizes alone.

It is that of the largest job: what the stage's libraries take, and the arrays that are alive at its
peak; it is rounded up rather than down. Nothing here opens a file.
"""

import math
from collections.abc import Mapping
from typing import Any

from .forecast import Size
from .geometry import UNetGeometry
from .grids import map_metric_of
from .phantoms import LARGEST_FIELD
from .sizing import deepest_within, state_bytes, training_bytes
from .tiling import choose_tile, tile_memory_gb

MB = 1e6
#: What the libraries of a stage and its small things take in bytes, with two threads.
LIBRARIES = {
    "phantom": 150 * MB, "fetch": 150 * MB, "convert": 300 * MB, "weigh": 360 * MB,
    "train": 700 * MB, "predict": 500 * MB, "tune": 450 * MB, "split": 450 * MB,
    "evaluate": 400 * MB, "audit_seams": 450 * MB, "view": 300 * MB,
}  # fmt: skip
LESSON = 2**31  # bytes of decoded samples that training keeps
# What bounds the stages' blocks; the tests compare these with the stages' own.
BLOCK_BYTES, BYTES_AT_ONCE = 2**27, 2**26  # of convert
SPLIT_SIDE = 2048  # px of a block of a plane that split works on
FLOOD_VOXELS, WRITE_VOXELS = 2**23, 2**25  # of its blocks in space
MAP_PIECE, MAP_CHUNK, MAP_HALO, MAP_LIST = 2**21, 256, 24, 2**26  # of evaluate, see `maps`
THICKNESS = 64  # planes of a block of weigh in space
WEIGHED = 44.0  # bytes per voxel of a block of weigh: labels, two distances, two labels, masks


def training_memory(network: Any, training: Any) -> float:
    """Bytes that a training step keeps of its tiles for the way back.

    What is ``auto`` is not chosen yet, but it will fit the memory that it may take beside what the
    parameters take.
    """
    depth, tile, batch = network["depth"], training["tile"], training["batch"]
    budget = max(0.0, 1e9 * training["memory_gb"] - state_bytes(network, training))
    if "auto" in (depth, tile):
        return budget
    geometry = UNetGeometry(depth, network["padding"], network["kind"])
    each = training_bytes(geometry, network["width"], tile)
    return max(each, budget) if batch == "auto" else batch * each


def prediction_memory(size: Size, network: Any, prediction: Any, shard: int) -> float:
    """Bytes of one thread that predicts: the activations of a batch, and a block with its halo.

    The activations are what `gigaseg.tiling.tile_memory_gb` says, by which the tile was chosen. If
    the depth is ``auto``, they are those of the deepest network that images of this size allow. Of
    the block, raw values, their mirrored copy, and results with coarser levels are alive.

    Raises
    ------
    ValueError
        If no tile fits: see `gigaseg.tiling.choose_tile`.
    """
    tile, width, plane = prediction["tile"], network["width"], size.shape[2:]
    kind, padding = network["kind"], network["padding"]
    depth = prediction["depth"] or network["depth"]
    depth = deepest_within(min(plane), padding, kind) if depth == "auto" else depth
    geometry = UNetGeometry(depth, padding, kind)
    if tile == "auto":
        memory = prediction["memory_gb"] / prediction["batch"]
        tile = choose_tile(geometry, plane, (shard, shard), width=width, memory_gb=memory)
    sides = [min(n, shard) + tile for n in plane]  # whole steps and the halo
    block = math.prod(sides) * (2 * size.shape[0] * size.itemsize + 4)
    return 1e9 * tile_memory_gb(geometry, tile, width) * prediction["batch"] + block


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
        case "weigh":
            return threads * WEIGHED * weighed_voxels(size, settings["weights"], shard)
        case "predict":
            each = prediction_memory(size, settings["network"], settings["prediction"], shard)
            return threads * each
        case "audit_seams":
            return prediction_memory(size, settings["network"], settings["prediction"], 0)
        case "tune" if map_metric_of(settings["instances"]):
            return map_memory(size, threads)
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


def weighed_voxels(size: Size, weights: Mapping[str, Any], shard: int) -> int:
    """Return the voxels of a block of weigh with its halo, at most.

    Along z the halo is counted as if voxels were cubes: the spacing is not known here.

    Examples
    --------
    >>> weights = {"w0": 10, "sigma": 5, "boundary_width": 2}
    >>> [weighed_voxels(Size((1, 1, n, n), 2), weights, 1024) for n in (300, 9000)]
    [90000, 1183744]
    """
    _, z, y, x = size.shape
    # As `weights.halo` has it, in px; that module compiles, which no forecast waits for.
    largest = max(1.0, weights["w0"] * 2.0**25)
    reach = weights["sigma"] * math.sqrt(2 * math.log(largest))
    halo = math.floor(max(1.0, weights["boundary_width"], reach)) + 1
    thick = 1 if size.objects == "plane" else min(z, THICKNESS + 2 * halo)
    return thick * math.prod(min(n, shard + 2 * halo) for n in (y, x))


def models_memory(parameters: int, models: int) -> float:
    """Bytes of the networks of a prediction, while the last of them is being read.

    Of that one the file and what was read from it are there, too.

    Examples
    --------
    >>> models_memory(1000, 1), models_memory(1000, 5)
    (12000.0, 28000.0)
    """
    return 4.0 * parameters * (models + 2)


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
