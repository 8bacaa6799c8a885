"""What each metric means, in words a biologist reads, and which way is better."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """How to name, order and explain a metric.

    Parameters
    ----------
    title : str
        Short name for headings.
    group : str
        Heading under which tables list it.
    better : {"higher", "lower", ""}
        Empty if nothing is known about the metric.
    words : str
        One plain sentence.
    """

    title: str
    group: str
    better: Literal["higher", "lower", ""]
    words: str


OBJECTS = "Objects found"
PIXELS = "Pixels covered"
PARTITION = "Splits and merges"
MAP = "Probability map, at its best threshold"
PROBABILITIES = "Probabilities"

#: Every metric the evaluation knows, in the order in which tables list them.
METRICS: dict[str, Metric] = {
    "seg": Metric(
        "SEG",
        OBJECTS,
        "higher",
        "For each true object, how much of it and its instance coincide (overlap over union; 0 if "
        "no instance covers more than half of it); the mean over all true objects.",
    ),
    "det": Metric(
        "DET",
        OBJECTS,
        "higher",
        "How few objects one would have to add, delete or cut apart; 1 means that each true object "
        "has exactly one instance.",
    ),
    "f1": Metric(
        "F1",
        OBJECTS,
        "higher",
        "Balance of objects missed and objects invented. A pair counts as found if it coincides "
        "at least as well (IoU) as the number behind the @ says.",
    ),
    "ap": Metric(
        "AP", OBJECTS, "higher", "Objects found over all that were found, missed or invented."
    ),
    "mean_ap": Metric(
        "mean AP", OBJECTS, "higher", "AP averaged over all IoU thresholds: the score of DSB 2018."
    ),
    "pq": Metric(
        "PQ", OBJECTS, "higher", "Panoptic quality: F1 times the mean IoU of the objects found."
    ),
    "sq": Metric("SQ", OBJECTS, "higher", "Mean IoU of the objects found."),
    "precision": Metric("precision", OBJECTS, "higher", "Share of the instances that are real."),
    "recall": Metric("recall", OBJECTS, "higher", "Share of the true objects that were found."),
    "dice": Metric(
        "Dice", PIXELS, "higher", "Overlap of all objects with all true objects, not told apart."
    ),
    "iou": Metric("IoU", PIXELS, "higher", "As Dice, as overlap over union."),
    "dice_interior": Metric(
        "Dice, interior", PIXELS, "higher", "Overlap of the class that fills objects, in the map."
    ),
    "iou_interior": Metric("IoU, interior", PIXELS, "higher", "The same as overlap over union."),
    "dice_boundary": Metric(
        "Dice, boundary",
        PIXELS,
        "higher",
        "Overlap of the class of rims, in the map. Rims are thin: one pixel aside halves it.",
    ),
    "iou_boundary": Metric("IoU, boundary", PIXELS, "higher", "The same as overlap over union."),
    "rand": Metric(
        "Rand F",
        PARTITION,
        "higher",
        "Of two pixels, are they in the same object in both segmentations? Balance of splits and "
        "merges, weighted by size.",
    ),
    "rand_split": Metric("Rand split", PARTITION, "higher", "1 if no true object is split."),
    "rand_merge": Metric("Rand merge", PARTITION, "higher", "1 if no true objects are merged."),
    "adapted_rand_error": Metric(
        "adapted Rand error",
        PARTITION,
        "lower",
        "1 minus a Rand F-score that takes the missed pixels of all objects for one more object, "
        "as scikit-image does. It looks bad on large images of many objects, near 1 even if each "
        "misses only a thin rim; Rand F, where each missed pixel stands alone, does not.",
    ),
    "voi_split": Metric(
        "VOI split", PARTITION, "lower", "Information (bits) lost by splits; 0 if there are none."
    ),
    "voi_merge": Metric(
        "VOI merge", PARTITION, "lower", "Information (bits) lost by merges; 0 if there are none."
    ),
    "v_rand": Metric(
        "V-Rand",
        MAP,
        "higher",
        "Rand F-score of the map after thinning its boundaries: the ISBI 2012 challenge's number.",
    ),
    "v_rand_pooled": Metric(
        "V-Rand, pooled", MAP, "higher", "V-Rand with the pixel pairs of all planes together."
    ),
    "v_info": Metric(
        "V-Info", MAP, "higher", "As V-Rand, from the information that both partitions share."
    ),
    "pixel_error": Metric("pixel error", MAP, "lower", "Share of pixels on the wrong side."),
    "pixel_f": Metric("pixel F", MAP, "higher", "F-score of the pixels inside cells."),
    "warping_error": Metric(
        "warping error",
        MAP,
        "lower",
        "Share of pixels wrong after boundaries were shifted to fit: only errors that change how "
        "objects hang together are left.",
    ),
    "splits_and_mergers": Metric(
        "splits and mergers", MAP, "lower", "The part of the warping error that splits or merges."
    ),
    "calibration_error": Metric(
        "calibration error",
        PROBABILITIES,
        "lower",
        "How far probabilities are from the truth on average: of the pixels that were given 80 %, "
        "80 % should lie in an object. Mean over all pixels of the distance between both shares, "
        "each of the 256 stored values counted by itself (expected calibration error).",
    ),
    "offset": Metric(
        "offset",
        PROBABILITIES,
        "lower",
        "How many pixels the truth as a whole lies aside from the map. A quarter or more may mean "
        "that labels were shifted against their images.",
    ),
}

#: The words of the proof that cutting the work changed nothing.
TERMS = {
    "tile": "What the network reads at once. Its output window, and so the distance to the next "
    "tile, is smaller, as the network needs context on all sides.",
    "block": "What is computed and written at once: whole tiles.",
    "seam": "A line where two tiles meet, or two blocks. The values on its two sides were computed "
    "from different tiles; nothing may show that.",
    "audit": "Random windows over seams are predicted again, by tiles that start elsewhere, so "
    "that what was a seam lies in the middle of a tile. A sample fails if a stored value differs "
    "by more than one step of 1/255.",
    "|Δp|": "How much a probability differs between the two predictions, before it is rounded to "
    "steps of 1/255.",
    "digest": "A fingerprint of values (SHA-256): two volumes have the same digest only if every "
    "voxel is the same. It does not depend on files, chunks, blocks or workers.",
    "mixed hardware": "Parts of a volume were computed on different kinds of processors, whose "
    "last bits differ. Its digest cannot be compared with that of another run.",
}

#: What sums up an experiment, by what a data set's labels hold: the first that is defined.
MAIN_METRICS: dict[str, tuple[str, ...]] = {
    "instances": ("seg", "f1", "dice"),
    "foreground": ("v_rand", "rand", "dice"),
    "boundary": ("v_rand", "rand", "dice"),
}

#: What a score of each of these says, in a sentence.
PLAIN_WORDS = {
    "seg": "On average, an object and its instance share {percent} of what either covers",
    "f1": "The objects that were found agree with the true ones to {percent}",
    "dice": "Segmentation and truth overlap by {percent}",
    "v_rand": "The cells that pixels are grouped into agree with the true ones to {percent}",
    "rand": "The objects that pixels are grouped into agree with the true ones to {percent}",
}

#: The columns of the table of experiments, by what a data set's labels hold.
OVERVIEW_METRICS: dict[str, tuple[str, ...]] = {
    "instances": ("seg", "f1", "mean_ap", "pq", "dice"),
    "foreground": ("v_rand", "v_info", "splits_and_mergers", "rand", "pixel_f"),
    "boundary": ("v_rand", "v_info", "splits_and_mergers", "rand", "pixel_f"),
}

#: The columns of the table of samples: one metric for each kind of question.
SAMPLE_METRICS = (
    "seg", "f1", "dice", "adapted_rand_error", "v_rand", "pixel_error", "warping_error",
)  # fmt: skip

#: The charts over thresholds.
CURVES = ("f1", "ap", "v_rand")


def describe(metric: str) -> Metric:
    """Return what is known about a metric; an unknown one has no better direction.

    Examples
    --------
    >>> describe("seg").better, describe("my_own").title
    ('higher', 'my own')
    """
    return METRICS.get(metric, Metric(metric.replace("_", " "), "Other", "", ""))
