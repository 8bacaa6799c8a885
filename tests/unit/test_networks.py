"""U-Net, U-Net++ and the fully convolutional network: shapes, sizes, costs and what they see."""

import json

import pytest
import torch
from gigaseg.geometry import UNetGeometry
from gigaseg.loading import load_model
from gigaseg.networks import at_depth, build, count_parameters, depths_of, multiply_adds
from gigaseg.training import mean_loss, weighted_cross_entropy
from gigaseg.unet import Architecture, UNet, crop
from safetensors.torch import save_file
from torch import nn

KINDS = ("unet", "unet++", "fcn")
PADDINGS = ("valid", "same")


def averaging(architecture):
    """A network whose weights are positive: all that an output can see changes it."""
    network = build(architecture).double().eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
    return network


def change(network, size, columns):
    """How much each column of the output changes if columns of the input do."""
    image = torch.ones(1, network.architecture.in_channels, 1, size, dtype=torch.float64)
    image = image.expand(-1, -1, size, -1).clone()
    with torch.inference_mode():
        before = network(image)
        image[..., columns] += 1e6
        return (network(image) - before).abs().amax(dim=(0, 1, 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_the_context_is_what_a_pixel_sees(kind, padding, depth):
    geometry = UNetGeometry(depth, padding, kind)
    network = averaging(Architecture(depth=depth, width=1, padding=padding, kind=kind))
    context, lattice = geometry.context, geometry.lattice
    size = geometry.input_size(4 * lattice) + 2 * lattice
    # Column of the output that lies on the lattice, and where the same column is in the input.
    shift = context if padding == "valid" else 0
    place = 2 * lattice if padding == "valid" else context + lattice
    left = place + shift - context
    slack = 1 if padding == "valid" else lattice
    assert not change(network, size, slice(None, left))[place:].any()
    assert change(network, size, slice(None, left + slack))[place] > 0
    # The same on the right: both ends of a tile are corners of the lattice.
    right = size - left
    last = -place
    assert not change(network, size, slice(right, None))[:last].any()
    assert change(network, size, slice(right - slack, None))[:last][-1] > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", PADDINGS)
def test_less_than_a_step_of_the_lattice_is_no_symmetry(kind, padding):
    """A finer lattice than the geometry says would change values: it is not too cautious."""
    torch.manual_seed(0)
    geometry = UNetGeometry(3, padding, kind)
    network = build(Architecture(depth=3, width=4, padding=padding, kind=kind)).eval()
    lattice, tile = geometry.lattice, geometry.input_size(16)
    image = torch.randn(1, 1, tile + lattice, tile + lattice)
    margin = geometry.context if padding == "same" else 0

    def window(offset):
        with torch.inference_mode():
            seen = network(image[..., offset : offset + tile, offset : offset + tile])
        start = margin + lattice - offset
        return seen[..., start : start + 4, start : start + 4]

    torch.testing.assert_close(window(0), window(lattice))
    assert (window(0) - window(lattice // 2)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "depth", "tile", "output"),
    [
        ("unet++", 4, 572, 388),  # as wide a view as the U-Net in it
        ("unet++", 1, 18, 2),
        ("fcn", 4, 572, 418),
        ("fcn", 1, 18, 4),
        ("fcn", 2, 44, 10),
    ],
)
def test_tiles_and_outputs(kind, depth, tile, output):
    network = build(Architecture(width=1, depth=depth, kind=kind)).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, tile, tile)).shape == (1, 2, output, output)
    assert UNetGeometry(depth, kind=kind).output_size(tile) == output


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [
        (Architecture(kind="fcn", depth=1, width=2), 330),
        (Architecture(kind="unet++", depth=2, width=2), 2074),
        # One level of skips is a U-Net.
        (Architecture(kind="unet++", depth=1, width=2), count_parameters(Architecture(1, 2, 1, 2))),
    ],
)
def test_parameters_counted_by_hand(architecture, parameters):
    # fcn: 20 + 38 + 76 + 148 of the levels, 6 + 10 of the scores, 2 * 16 of the enlargement.
    # unet++: 1162 of the levels; (0,1) 34 + 74 + 38; (1,1) 132 + 292 + 148; (0,2) 34 + 110 + 38;
    # heads 2 * 6.
    assert count_parameters(architecture) == parameters


@pytest.mark.parametrize(
    ("architecture", "per_pixel"),
    [
        # 18 on level 0, 54 / 4 on level 1, up 2, merged 18 + 9, head 2
        (Architecture(depth=1, width=1), 62.5),
        (Architecture(depth=1, width=1, padding="same"), 62.5),
        # 18, 54 / 4, scores 2 + 4 / 4, enlarged 2 classes * 16 / 4
        (Architecture(depth=1, width=1, kind="fcn"), 18 + 13.5 + 3 + 8),
        # one head: the deepest
        (Architecture(depth=1, width=1, kind="unet++"), 62.5),
    ],
)
def test_multiplications_counted_by_hand(architecture, per_pixel):
    assert multiply_adds(architecture) == per_pixel


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_heads_of_a_nested_network_are_networks_of_lesser_depth(padding):
    torch.manual_seed(0)
    architecture = Architecture(2, 3, 3, 2, padding, "batch", kind="unet++")
    network = build(architecture).eval()
    tile = architecture.geometry.input_size(8)
    image = torch.randn(2, 2, tile, tile)
    with torch.inference_mode():
        outputs = network.outputs(image)
        assert len(outputs) == 3
        for depth, seen in enumerate(outputs, start=1):
            part = at_depth(network, depth)
            assert part.architecture.depth == depth
            alone = crop(part(image), seen)
            torch.testing.assert_close(seen, alone, rtol=0, atol=0)
            assert not part.training
        torch.testing.assert_close(outputs[-1], network(image), rtol=0, atol=0)


def test_lesser_depths_cost_less():
    nested = Architecture(kind="unet++", depth=4, width=8)
    network = build(nested)
    costs = [multiply_adds(at_depth(network, d).architecture) for d in depths_of(nested)]
    assert costs == sorted(costs)
    assert len(costs) == 4


@pytest.mark.parametrize("kind", ["unet", "fcn"])
def test_other_networks_have_one_depth(kind):
    network = build(Architecture(kind=kind, depth=2, width=1))
    assert at_depth(network, 2) is network
    assert len(network.outputs(torch.zeros(1, 1, 44, 44))) == 1
    with pytest.raises(ValueError, match=rf"depth is 1, but this {kind} was trained for depth 2:"):
        at_depth(network, 1)


def test_a_nested_network_is_taught_at_every_depth():
    torch.manual_seed(0)
    network = build(Architecture(kind="unet++", depth=2, width=2, dropout=0, padding="same"))
    tile, context = (
        network.architecture.geometry.input_size(8),
        network.architecture.geometry.context,
    )
    inner = tile - 2 * context
    batch = {
        "image": torch.randn(1, 1, tile, tile),
        "labels": torch.randint(2, (1, inner, inner)),
        "weights": torch.rand(1, inner, inner),
        "origin": ["a"],
    }
    loss = mean_loss(network.outputs(batch["image"]), batch, network.architecture)
    loss.backward()
    cut = slice(context, -context)
    losses = [
        weighted_cross_entropy(o[..., cut, cut], batch["labels"], batch["weights"])
        for o in network.outputs(batch["image"])
    ]
    torch.testing.assert_close(loss, sum(losses) / 2)
    assert all(head.weight.grad.abs().sum() > 0 for head in network.heads)


def test_scores_are_enlarged_by_interpolation_at_first():
    network = build(Architecture(kind="fcn", depth=1, width=1))
    line = torch.arange(5.0).expand(1, 2, 5, 5)
    with torch.inference_mode():
        enlarged = network.up[0](line)
    # Centres of the finer pixels lie a quarter of a pixel from those of the coarser ones.
    torch.testing.assert_close(enlarged[0, 1, 0], torch.arange(8) / 2 + 0.25)


def test_a_model_is_loaded_at_a_lesser_depth(tmp_path):
    network = build(Architecture(kind="unet++", depth=2, width=1))
    save_file(network.state_dict(), tmp_path / "best.safetensors")
    metadata = {"architecture": network.architecture.to_dict()}
    metadata |= {"weights": {"best": "best.safetensors"}}
    path = tmp_path / "model.json"
    path.write_text(json.dumps(metadata))
    part, _ = load_model(path, "best", 1)
    assert part.architecture.depth == 1
    torch.testing.assert_close(part.heads[0].weight, network.heads[0].weight)
    assert load_model(path, "best")[0].architecture.depth == 2


def test_models_that_name_no_kind_are_u_nets():
    described = json.loads('{"depth": 1, "width": 1}')  # as models of before this field
    assert isinstance(build(Architecture(**described)), UNet)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"'unet', 'unet.*' or 'fcn', not 'vgg'"):
        UNetGeometry(4, kind="vgg")
