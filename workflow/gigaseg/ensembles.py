"""Trained networks that predict together, one or several, ready on a device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .classes import NAMES
from .inference import check_ensemble, prepare
from .lanes import Lane, open_lane
from .loading import load_model
from .manifests import read_manifest
from .models import check_together, spacings_of
from .runtime import Runtime, choose_runtime, keep_freed_memory, memory_explained
from .scales import Spacing, choose_level
from .unet import Architecture, Network


@dataclass(frozen=True)
class Model:
    """A trained network or an ensemble, ready to predict, with what is known about it.

    Attributes
    ----------
    networks : tuple of Network
        Whose probabilities are averaged.
    runtime : Runtime
        What ``auto`` means on this machine.
    lane : Lane
        Where they compute.
    metadata : mapping
        Content of the model file; of several, of the first.
    identity : mapping
        What tells it from other models: ``model`` and ``weights``, of an ensemble lists.
    spacings : sequence of sequence of (z, y, x) or None
        Of each network those of the samples it was trained on, in µm; None if it is not known.
    """

    networks: tuple[Network, ...]
    runtime: Runtime
    lane: Lane
    metadata: Mapping[str, Any]
    identity: Mapping[str, Any]
    spacings: Sequence[Sequence[Spacing | None]]

    @property
    def architecture(self) -> Architecture:
        """Shape of the network."""
        return self.networks[0].architecture

    @property
    def channels(self) -> list[str]:
        """Names of the classes whose probabilities are stored: all but the background."""
        return list(NAMES[self.metadata["target"]][1:])

    def choose_level(self, spacing: Spacing | None, levels: int, tolerance: float) -> int:
        """Choose the level of an image to predict: see `gigaseg.scales.choose_level`.

        Raises
        ------
        ValueError
            If none fits, different ones for different networks, or only one spacing is known.
        """
        chosen = {choose_level(spacing, levels, own, tolerance) for own in self.spacings}
        if len(chosen) > 1:
            raise ValueError(
                f"the models of the ensemble were trained at spacings so different that they would "
                f"read levels {sorted(chosen)} of the image: use them in experiments of their own"
            )
        return chosen.pop()


def load(
    train: Sequence[Path], prediction: Mapping[str, Any], *, threads: int, index: int = 0
) -> Model:
    """Load models onto the device of the settings.

    Parameters
    ----------
    train : sequence of Path
        Manifests of trainings, or model files.
    prediction : mapping
        Section of the settings.
    threads : int
        Threads that run the network on a CPU.
    index : int
        Which GPU to take, if there are several.

    Raises
    ------
    ValueError
        If one cannot be loaded, or they differ in what an ensemble must agree in.
    RuntimeError
        If they do not fit into the memory of the device.
    """
    runtime = choose_runtime(prediction, "prediction")
    if runtime.device == "cpu":
        keep_freed_memory()  # before PyTorch starts threads
    checkpoint = prediction["checkpoint"]
    depth = prediction["depth"]
    loaded = [load_model(description_of(path), checkpoint, depth) for path in train]
    networks, every = zip(*loaded, strict=True)
    check_ensemble([network.architecture for network in networks])
    for own in every[1:]:
        check_together(every[0], own)
    identities = [
        {"model": own["fingerprint"], "weights": own["sha256"][checkpoint]} for own in every
    ]
    identity: dict[str, Any] = identities[0]
    if len(identities) > 1:
        identity = {key: [own[key] for own in identities] for key in identity}
    if networks[0].architecture.depth != every[0]["architecture"]["depth"]:
        identity["depth"] = networks[0].architecture.depth
    lane = open_lane(runtime.device, threads=threads, index=index)
    size = sum(values.nbytes for network in networks for values in network.state_dict().values())
    advice = (
        f"the memory of the {runtime.device} device is too small for the weights of "
        f"{len(networks)} network{'s' if len(networks) > 1 else ''}, {size / 1e9:.2f} GB: set "
        f"prediction.device to cpu, predict with fewer models, or leave this device to this job"
    )
    with memory_explained(advice):
        ready = tuple(prepare(network, lane.device) for network in networks)
    spacings = [spacings_of(own) for own in every]
    return Model(ready, runtime, lane, every[0], identity, spacings)


def description_of(path: Path) -> Path:
    """Return where the model file lies that a manifest of a training points to, or is itself."""
    trained = read_manifest(path) if path.is_file() else {}
    return path.parent / trained["model"] if trained.get("stage") == "train" else path
