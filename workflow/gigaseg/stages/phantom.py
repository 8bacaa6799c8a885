"""phantom: draw the raw files of a data set, so that the workflow runs without any."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..phantoms import draw
from ..tiffs import write_tiff

logger = logging.getLogger(__name__)

TILE = 256  # px; planes larger than a few of these are written in tiles, as microscopes do


def run(*, outputs: Sequence[Path], settings: Mapping[str, Any]) -> None:
    """Draw every sample of a data set and write its image and labels as TIFF files.

    A file has its name once it is whole.

    Parameters
    ----------
    outputs : sequence of Path
        Files that must be there at the end.
    settings : mapping
        ``samples``: rows of the sheet; ``phantom``: ``kind``, ``seed`` and ``shape`` (z, y, x), see
        `gigaseg.phantoms.draw`.

    Raises
    ------
    ValueError
        If the samples do not name the outputs.
    """
    named = {Path(row[key]) for row in settings["samples"] for key in ("image", "label")}
    if named != set(outputs):
        different = ", ".join(sorted(map(str, named ^ set(outputs))))
        raise ValueError(f"the sheet and the outputs of the rule name different files: {different}")
    drawn = settings["phantom"]
    for row in settings["samples"]:
        sample = draw(drawn["kind"], drawn["shape"], seed=drawn["seed"], name=row["sample"])
        tile = TILE if max(sample.image.shape) > 4 * TILE else None
        for key, data in (("image", sample.image), ("label", sample.labels)):
            path = Path(row[key])
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tiff(path, data, sample.spacing, tile=tile)
        logger.info("drew %s: %s %s", row["sample"], drawn["kind"], sample.image.shape)
