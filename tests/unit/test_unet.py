"""The network is the paper's."""

import math

import pytest
import torch
from gigaseg.unet import Architecture, UNet
from torch import nn


@pytest.fixture(scope="module")
def paper():
    torch.manual_seed(0)
    return UNet(Architecture()).eval()


def convolutions(network):
    return [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]


def test_the_paper_s_network_has_23_convolutional_layers(paper):
    assert len(convolutions(paper)) == 23


def test_the_paper_s_network_has_31_030_658_parameters(paper):
    assert sum(p.numel() for p in paper.parameters()) == 31_030_658


def test_features_double_from_64_to_1024(paper):
    assert [block[0].out_channels for block in paper.down] == [64, 128, 256, 512, 1024]
    assert [block[0].out_channels for block in paper.merge] == [512, 256, 128, 64]


def test_a_tile_of_572_gives_388():
    network = UNet(Architecture(width=1)).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 572, 572)).shape == (1, 2, 388, 388)


def test_weights_have_standard_deviation_sqrt_2_over_n(paper):
    for layer in convolutions(paper):
        if isinstance(layer, nn.ConvTranspose2d):
            incoming = layer.in_channels  # each output pixel sees one input pixel
        else:
            incoming = layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]
        expected = math.sqrt(2 / incoming)
        tolerance = 4 / math.sqrt(2 * layer.weight.numel())  # 4 standard errors
        assert layer.weight.std().item() == pytest.approx(expected, rel=tolerance)
        assert not layer.bias.any()


def test_activations_keep_their_size():
    torch.manual_seed(0)
    network = UNet(Architecture(width=32, depth=3, dropout=0)).eval()
    with torch.inference_mode():
        features = network.down[0](torch.randn(1, 1, 60, 60))
        deeper = network.down[1](network.pool(features))
    assert 0.3 < deeper.pow(2).mean() / features.pow(2).mean() < 4


def test_skips_are_cropped_at_the_centre():
    # With the lower path silenced, the output is a function of the skip connection alone: moving
    # the input by one lattice unit must move the output by the same distance.
    torch.manual_seed(0)
    network = UNet(Architecture(width=2, depth=1, dropout=0)).eval()
    image = torch.randn(1, 1, 42, 42)
    with torch.inference_mode():
        whole = network(image)
        part = network(image[..., 2:40, 2:40])
    torch.testing.assert_close(whole[..., 2:-2, 2:-2], part)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_batch_normalisation_replaces_biases(padding):
    network = UNet(Architecture(3, 3, depth=2, width=4, padding=padding, normalization="batch"))
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 2 * (2 * 2 + 1)
    assert all(m.bias is None for m in convolutions(network)[:2])
    with torch.inference_mode():
        assert network.eval()(torch.zeros(1, 3, 48 - 4, 48 - 4)).shape[1] == 3


def test_dropout_acts_at_the_end_of_the_contracting_path():
    torch.manual_seed(0)
    network = UNet(Architecture(width=2, depth=1, dropout=0.5)).train()
    image = torch.randn(1, 1, 20, 20)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"in_channels": 0}, "in_channels >= 1, classes >= 2 and width >= 1, not 0, 2 and 64"),
        ({"classes": 1}, "not 1, 1 and 64"),
        ({"width": 0}, "not 1, 2 and 0"),
        ({"normalization": "group"}, "'none' or 'batch', not 'group'"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
    ],
)
def test_impossible_architectures_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Architecture(**fields)
