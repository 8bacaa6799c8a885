"""What auto chooses for a training, and why."""

import pytest
import torch
from gigaseg.geometry import UNetGeometry
from gigaseg.networks import build
from gigaseg.sizing import (
    DEEPEST,
    Extent,
    Objects,
    choose_sizes,
    deepest_within,
    is_open,
    training_bytes,
)
from gigaseg.unet import Architecture

NETWORK = {"kind": "unet", "depth": "auto", "padding": "valid", "width": 16}
TRAINING = {"tile": "auto", "batch": "auto", "memory_gb": 2.0}


def chosen(side, diameter, images=100, network=NETWORK, **training):
    extent = Extent(side, diameter, images * side**2)
    network, training, reasons = choose_sizes(network, {**TRAINING, **training}, extent)
    return network["depth"], training["tile"], training["batch"], reasons


@pytest.mark.parametrize(
    ("side", "diameter", "depth", "reason"),
    [
        (512, 5, 1, "because objects are 5 px across (median) and each pixel sees 8 px"),
        (512, 8, 1, "each pixel sees 8 px"),  # just far enough
        (512, 9, 2, "each pixel sees 20 px"),
        (512, 40, 3, "because objects are 40 px across (median) and each pixel sees 44 px"),
        (512, 90, 4, "each pixel sees 92 px"),
        (512, 150, 5, "each pixel sees 188 px"),
        (512, 400, 5, "the deepest auto takes, although objects are 400 px across"),
        (64, 90, 3, "because images are 64 px wide (median) and each pixel sees 44 px"),
        (6, 90, 1, "because images are 6 px wide"),
    ],
)
def test_depth_follows_objects_as_far_as_images_allow(side, diameter, depth, reason):
    found, *_, reasons = chosen(side, diameter)
    assert found == depth
    assert reasons[0].startswith(f"depth {depth}, ")
    assert reason in reasons[0]


def test_depth_follows_the_kind_of_network():
    assert chosen(512, 40, network={**NETWORK, "kind": "fcn"})[0] == 4  # 37 px at depth 3
    assert chosen(512, 40, network={**NETWORK, "kind": "unet++"})[0] == 3


def test_little_memory_makes_the_network_flat():
    depth, *_, reasons = chosen(512, 90, memory_gb=0.01)
    assert depth == 2
    assert "takes more than training.memory_gb, 0.01" in reasons[0]


@pytest.mark.parametrize(
    ("side", "batch", "memory_gb", "tile", "reason"),
    [
        (256, 1, 2.0, 444, "because images are 256 px wide (median)"),
        (250, 1, 2.0, 444, "because images are 250 px wide (median)"),  # on the lattice
        (4096, 1, 2.0, 1148, "the largest that fits training.memory_gb, 2.0"),
        (4096, 4, 2.0, 572, "the largest that fits training.memory_gb, 2.0"),
    ],
)
def test_the_tile_is_as_large_as_images_and_memory_allow(side, batch, memory_gb, tile, reason):
    network = {**NETWORK, "depth": 4}
    _, found, number, reasons = chosen(side, 50, network=network, batch=batch, memory_gb=memory_gb)
    assert (found, number, len(reasons)) == (tile, batch, 1)
    assert reason in reasons[0]
    geometry = UNetGeometry(4)
    assert geometry.is_legal(tile)
    assert training_bytes(geometry, 16, tile) * batch <= 1e9 * memory_gb
    larger = tile + geometry.lattice
    assert geometry.step(tile) >= side or training_bytes(geometry, 16, larger) * batch > 2e9


@pytest.mark.parametrize(
    ("images", "memory_gb", "batch", "reason"),
    [
        (1000, 2.0, 6, "as many as fit training.memory_gb, 2.0"),
        (60, 2.0, 3, "which is 5% of the training pixels"),
        (2, 2.0, 1, "the least there is"),
    ],
)
def test_the_batch_is_what_memory_and_images_allow(images, memory_gb, batch, reason):
    network = {**NETWORK, "depth": 4}
    *_, found, reasons = chosen(256, 50, images, network, memory_gb=memory_gb)
    assert found == batch
    assert reason in reasons[-1]


def test_no_tile_within_the_memory_names_both_numbers():
    with pytest.raises(ValueError, match=r"204 px, takes 0\.06 GB at width 16 and batch 1: raise"):
        chosen(256, 50, network={**NETWORK, "depth": 4}, memory_gb=0.05, batch=1)


def test_numbers_are_left_alone():
    network, training = {**NETWORK, "depth": 2}, {"tile": 48, "batch": 3, "memory_gb": 0.001}
    assert not is_open(network, training)
    assert choose_sizes(network, training, Extent(9, 9.0, 81)) == (network, training, [])
    assert is_open(network, {**training, "batch": "auto"})


def test_objects_count_as_often_as_they_are():
    shapes, one = [(1, 9, 9)], Objects(0, 0.0)
    assert Extent.of(shapes, [one]).diameter == 0
    assert Extent.of(shapes * 3, [Objects(2, 30.0), Objects(5, 7.0), one]).diameter == 7
    assert Extent.of(shapes * 2, [Objects(6, 30.0), Objects(5, 7.0)]).diameter == 30


def test_the_shorter_side_decides():
    assert Extent.of([(3, 10, 40), (1, 30, 20), (1, 99, 99)], []).side == 20


@pytest.mark.parametrize("kind", ["unet", "unet++", "fcn"])
@pytest.mark.parametrize("depth", [1, 3])
def test_memory_is_what_a_step_keeps(kind, depth):
    """Counted: the storages that the way back needs; gradients come on top."""
    architecture = Architecture(depth=depth, width=16, kind=kind)
    network, storages = build(architecture).train(), {}
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    tile = architecture.geometry.input_size(64)

    def keep(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = network.outputs(torch.zeros(1, 1, tile, tile))
    kept = sum(size for place, size in storages.items() if place not in own)
    assert outputs
    estimate = training_bytes(architecture.geometry, 16, tile)
    assert kept < estimate < 4.5 * kept


def test_the_deepest_is_what_the_schema_allows():
    assert deepest_within(10**6) == DEEPEST <= 8
