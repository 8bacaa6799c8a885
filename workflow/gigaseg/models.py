"""Files of trained networks: a description in JSON, and weights beside it, proved by their digest.

Nothing here runs a program that a file brings: weights are arrays, as safetensors, never a pickle.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = 1  # of the description; newer ones are refused

#: Endings of files that are pickles, or may be.
PICKLES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")

#: What a description must say, and of which type.
REQUIRED: dict[str, type | tuple[type, ...]] = {
    "architecture": dict,
    "channels": int,
    "classes": list,
    "fingerprint": str,
    "intensity": dict,
    "samples": dict,
    "scores": dict,
    "sha256": dict,
    "spacing": (list, type(None)),  # null if it is not known
    "target": str,
    "weights": dict,
}


def read_model(path: Path) -> dict[str, Any]:
    """Read the description of a trained network, ``model.json``.

    Parameters
    ----------
    path : Path
        The weights' files lie beside it, under the names it gives.

    Returns
    -------
    dict
        Its content.

    Raises
    ------
    ValueError
        If it is missing, no such description, incomplete, of a newer format, or names weights that
        are not there or that could be a pickle.
    """
    _refuse_weights(path)
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: a model is named by its description, model.json; if it was "
            f"trained here, make it again with `snakemake --cores all --forcerun train`"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON text, so no description of a model: {error}") from None
    version = content.get("format") if isinstance(content, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise ValueError(f"{path} does not describe a model: it has no format, such as {FORMAT}")
    if version > FORMAT:
        raise ValueError(
            f"{path} has format {version}, this version of gigaseg reads up to {FORMAT}: use a "
            f"newer one"
        )
    for key, kind in REQUIRED.items():
        if key not in content or not isinstance(content[key], kind):
            state = f"has the {key} {content[key]!r}" if key in content else f"has no {key}"
            raise ValueError(f"{path} {state}, so the model cannot be used: copy the file again")
    _check_weights(path, content)
    return content


def read_weights(path: Path, description: Mapping[str, Any], checkpoint: str) -> bytes:
    """Read the weights of a model, and prove that they are those it was written with.

    Parameters
    ----------
    path : Path
        Of the description.
    description : mapping
        From `read_model`.
    checkpoint : str
        ``best`` or ``last``.

    Returns
    -------
    bytes
        The content of a safetensors file.

    Raises
    ------
    ValueError
        If the model has no such checkpoint, or the file is missing or not the one described.
    """
    file = weights_file(path, description, checkpoint)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise ValueError(_missing(file, path)) from None
    found, expected = hashlib.sha256(content).hexdigest(), description["sha256"][checkpoint]
    if found != expected:
        raise ValueError(
            f"{file} is not the file that {path.name} describes: its SHA-256 is {found[:12]}…, not "
            f"{expected[:12]}…; copy both again, or train again with --forcerun train"
        )
    return content


def weights_file(path: Path, description: Mapping[str, Any], checkpoint: str) -> Path:
    """Return where the weights of a model lie.

    Raises
    ------
    ValueError
        If the model has no such checkpoint.
    """
    if checkpoint not in description["weights"]:
        known = ", ".join(description["weights"])
        raise ValueError(f"{path} has no weights called {checkpoint!r} (there: {known})")
    return path.parent / description["weights"][checkpoint]


def spacings_of(description: Mapping[str, Any]) -> list[list[float] | None]:
    """Return the spacings (z, y, x) of the samples that a model was trained on, in µm.

    None stands for one that is not known. The first versions wrote 1 µm along all axes for that, so
    that of theirs it may be either.

    Examples
    --------
    >>> spacings_of({"spacing": [1, 0.2, 0.2]})
    [[1, 0.2, 0.2]]
    >>> spacings_of({"spacing": [1, 1, 1]})
    [[1, 1, 1], None]
    """
    # The first versions told only the first, and not `learned`.
    found = description.get("spacings") or [description["spacing"]]
    return [*found, None] if "learned" not in description and [1, 1, 1] in found else found


def learned_by(description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the samples that a model has learned from, and the model it started from before it.

    Returns
    -------
    list of dict
        ``sample``, ``<dataset>/<sample>``, and if it was noted ``image``, the identity of the file,
        see `gigaseg.fingerprints.file_identity`, with ``planes``, those that were used.

    Examples
    --------
    >>> learned_by({"samples": {"train": {"cells/a": "1f0c"}, "validation": {"cells/b": "77ab"}}})
    [{'sample': 'cells/a'}]
    """
    # The first versions told only the names of its own samples.
    named = [{"sample": name} for name in description["samples"].get("train", ())]
    return list(description.get("learned") or named)


def check_together(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raise ValueError unless two models may stand in one ensemble.

    Spacings are compared with those of an image, see `gigaseg.ensembles.Model.choose_level`: those
    of folds differ as their training samples may.
    """
    for key in ("target", "intensity"):
        if one[key] != other[key]:
            raise ValueError(
                f"the models of an ensemble must agree in {key}, not have {one[key]} and "
                f"{other[key]}: use them in experiments of their own"
            )


def _refuse_weights(path: Path) -> None:
    """Say why a file of weights alone is no model."""
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path} is a pickle, and loading one runs whatever program it contains: none is ever "
            f"loaded. Name the model.json of a model that gigaseg has trained"
        )
    if path.suffix == ".safetensors":
        raise ValueError(
            f"{path} holds weights, which do not say what they are of: name the model.json beside"
        )


def _check_weights(path: Path, content: Mapping[str, Any]) -> None:
    if not content["weights"]:
        raise ValueError(f"{path} names no weights: copy the file again")
    for checkpoint, name in content["weights"].items():
        if (
            not isinstance(name, str)
            or Path(name).name != name
            or not name.endswith(".safetensors")
        ):
            raise ValueError(
                f"{path} names the weights {name!r}: they must be a .safetensors file beside it"
            )
        if not isinstance(content["sha256"].get(checkpoint), str):
            raise ValueError(f"{path} has no SHA-256 of {name}, so nothing proves what it holds")
        if not (path.parent / name).is_file():
            raise ValueError(_missing(path.parent / name, path))


def _missing(file: Path, path: Path) -> str:
    return (
        f"{file} is missing: it must lie beside {path.name}; if it was trained here, make it again "
        f"with `snakemake --cores all --forcerun train`"
    )
