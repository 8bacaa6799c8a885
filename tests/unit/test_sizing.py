"""What auto chooses for a training, and why."""

import pytest
import torch
from gigaseg.averaging import Average
from gigaseg.geometry import UNetGeometry
from gigaseg.networks import build
from gigaseg.optimisation import make_optimizer, optimizer_state
from gigaseg.sizing import (
    DEEPEST,
    Extent,
    Objects,
    choose_sizes,
    deepest_within,
    is_open,
    state_bytes,
    training_bytes,
)
from gigaseg.unet import Architecture

NETWORK = {"kind": "unet", "depth": "auto", "padding": "valid", "width": 16}
TRAINING = {"tile": "auto", "batch": "auto", "memory_gb": 2.0, "optimizer": "adamw", "ema": 0}


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
        (4096, 1, 2.0, 1132, "the largest that fits training.memory_gb, 2.0"),
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
    left = 1e9 * memory_gb - state_bytes(network, TRAINING)
    assert training_bytes(geometry, 16, tile) * batch <= left
    larger = tile + geometry.lattice
    assert geometry.step(tile) >= side or training_bytes(geometry, 16, larger) * batch > left


@pytest.mark.parametrize(
    ("images", "memory_gb", "batch", "reason"),
    [
        (1000, 2.0, 6, "as many as fit training.memory_gb, 2.0"),
        (60, 2.0, 3, "which is 5% of the pixels to train and validate on"),
        (2, 2.0, 1, "the least there is"),
    ],
)
def test_the_batch_is_what_memory_and_images_allow(images, memory_gb, batch, reason):
    network = {**NETWORK, "depth": 4}
    *_, found, reasons = chosen(256, 50, images, network, memory_gb=memory_gb)
    assert found == batch
    assert reason in reasons[-1]


def test_no_tile_within_the_memory_names_both_numbers():
    message = (
        r"204 px, takes 0\.06 GB at width 16 and batch 1, beside 0\.03 GB for its parameters: "
        r"raise training\.memory_gb, which is 0\.05"
    )
    with pytest.raises(ValueError, match=message):
        chosen(256, 50, network={**NETWORK, "depth": 4}, memory_gb=0.05, batch=1)


def test_numbers_are_left_alone():
    network = {**NETWORK, "depth": 2}
    training = {**TRAINING, "tile": 48, "batch": 3, "memory_gb": 0.001}
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


OPTIMIZERS = {
    "adamw": {"optimizer": "adamw"},
    "sgd": {"optimizer": "sgd", "momentum": 0.9},
    "plain": {"optimizer": "sgd", "momentum": 0},
}


@pytest.mark.parametrize(
    ("optimizer", "ema", "each"),
    [("adamw", 0, 16), ("adamw", 0.9, 20), ("sgd", 0, 12), ("sgd", 0.9, 16), ("plain", 0, 8)],
)
@pytest.mark.parametrize("kind", ["unet", "unet++", "fcn"])
def test_memory_is_what_a_step_keeps_of_the_parameters(kind, optimizer, ema, each):
    """Counted: what is there after a step of the training's own optimizer."""
    how = {**OPTIMIZERS[optimizer], "ema": ema, "learning_rate": 0.1, "weight_decay": 0.0}
    architecture = Architecture(depth=2, width=8, kind=kind)
    network = build(architecture)
    trained = make_optimizer(network, how)
    sum(values.sum() for values in network.parameters()).backward()
    trained.step()
    weights = list(network.parameters())
    there = [*weights, *(values.grad for values in weights)]
    there += [values for values in optimizer_state(trained).values() if values.ndim]
    there += Average(network, ema).network.parameters() if ema else []
    told = {"kind": kind, "depth": 2, "width": 8}
    assert state_bytes(told, how) == sum(values.nbytes for values in there)
    assert state_bytes(told, how) == each * sum(values.numel() for values in weights)


@pytest.mark.parametrize(("ema", "taken"), [(0, 0.4965e9), (0.9, 0.6206e9)])
def test_what_the_parameters_take_is_no_memory_for_tiles(ema, taken):
    wide, geometry = {**NETWORK, "depth": 4, "width": 64}, UNetGeometry(4)
    for batch in (1, 2):
        tile = chosen(1000, 50, network=wide, batch=batch, ema=ema)[1]
        fits = [
            batch * training_bytes(geometry, 64, side) + taken <= 2e9
            for side in (tile, tile + geometry.lattice)
        ]
        assert fits == [True, False]


def test_a_deep_network_leaves_memory_for_a_tile():
    """At width 64 the parameters of depth 5 alone take 2 GB."""
    depth, *_, reasons = chosen(512, 150, network={**NETWORK, "width": 64})
    assert depth == 4
    assert "takes more than training.memory_gb, 2.0" in reasons[0]
    assert chosen(512, 150, network={**NETWORK, "width": 64}, memory_gb=8.0)[0] == 5


@pytest.mark.parametrize(
    "open_", [{"depth": 5}, {"depth": 5, "tile": 572}, {"depth": 5, "batch": 1}]
)
def test_parameters_that_exceed_the_memory_name_both_numbers(open_):
    sizes = {key: value for key, value in open_.items() if key != "depth"}
    message = (
        r"^training\.memory_gb is 1\.5, but the parameters of a unet of depth 5 and width 64, with "
        r"their gradients and what adamw keeps of them, alone take 1\.99 GB: raise it, or lower "
        r"network\.depth or width$"
    )
    with pytest.raises(ValueError, match=message):
        chosen(512, 50, network={**NETWORK, "depth": 5, "width": 64}, memory_gb=1.5, **sizes)


def test_not_even_the_flattest_network_fits():
    with pytest.raises(ValueError, match="a unet of depth 1 and width 16"):
        chosen(512, 50, memory_gb=1e-4, tile=30, batch=1)


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
