"""Open the stores of a lot that several jobs are to predict: settle what is automatic, and wipe."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..ensembles import load
from ..ledger import Construction
from . import Row, read_entries, run_lot
from .predict import Task, store_of


def run(
    *,
    manifest: Path,
    convert: Path,
    train: Sequence[Path],
    predict: Path,
    settings: Mapping[str, Any],
    codes: tuple[str, str],
) -> None:
    """Begin the stores of a lot, or find that they were begun for the same result.

    No other job of the lot wipes a store. What ``auto`` means is settled here, on this machine, and
    recorded in the fingerprint of each store.

    Parameters
    ----------
    manifest : Path
        The only output besides the stores.
    convert : Path
        Manifest of the lot's images.
    train : sequence of Path
        As for `gigaseg.stages.predict.run`.
    predict : Path
        Manifest that `gigaseg.stages.predict` will write; the stores lie beside it.
    settings : mapping
        As for `gigaseg.stages.predict.run`.
    codes : tuple of str
        Digests of this stage's code and of that of `gigaseg.stages.predict`.
    """
    model = load(train, settings["prediction"], threads=1)
    images = read_entries(convert)

    def work(row: Row) -> dict[str, Any]:
        task = Task.of(images[row["sample"]], store_of(predict, row), model, settings, codes[1])
        with Construction(task.store, task.made_from) as construction:
            if not construction.committed:
                task.create()
        return task.facts

    run_lot("predict_open", manifest, settings, settings["samples"], work, images, code=codes[0])
