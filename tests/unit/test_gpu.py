"""What only a GPU can show: bits that come again, precisions, and tiles that do not matter."""

import numpy as np
import pytest
import torch
from gigaseg.geometry import UNetGeometry, Window, read_mirrored
from gigaseg.inference import Predictor, predict_image, prepare
from gigaseg.lanes import open_lane
from gigaseg.networks import build
from gigaseg.runtime import Runtime
from gigaseg.tiling import TileGrid
from gigaseg.unet import Architecture
from test_preemption import train_in_pieces
from test_training import precisions, train

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    # Operations that have no deterministic kernel are named in a warning; here they add up no more
    # than one number per place, such as the gradient of pooling.
    pytest.mark.filterwarnings("ignore:.*eterministic"),
]

NETWORK = Architecture(depth=2, width=4, dropout=0.5, normalization="batch")


def test_two_deterministic_trainings_end_in_the_same_bits():
    repeatable = {"device": DEVICE, "deterministic": True, "steps": 8, "batch": 2}
    (best, last, rows), again = (train(NETWORK, **repeatable) for _ in range(2))
    assert last.to_bytes() == again[1].to_bytes()
    assert best.to_bytes() == again[0].to_bytes()
    assert rows == again[2]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_deterministic_training_is_interrupted_without_a_trace(precision):
    settings = {"device": DEVICE, "deterministic": True, "ema": 0.9, "precision": precision}
    assert train_in_pieces([1, 4, 7], **settings) == train_in_pieces([], **settings)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_steps_and_validation_are_in_the_precision_asked_for(monkeypatch, precision, dtype):
    settings = {"device": DEVICE, "precision": precision}
    plain = Architecture(depth=1, width=2)  # statistics of normalisation are estimated in float32
    assert precisions(monkeypatch, plain, **settings) == {(True, dtype), (False, dtype)}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = build(Architecture(depth=2, width=4))
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):  # zeros would hide errors at the edges
            torch.nn.init.normal_(parameter, std=0.5)
    return network


def picture():
    return np.random.default_rng(0).normal(size=(1, 61, 75)).astype(np.float32)


def grid(steps):
    geometry = UNetGeometry(2, "valid", "unet")
    return TileGrid(geometry, geometry.input_size(steps * geometry.lattice))


def test_tiles_change_a_prediction_by_rounding_only(network):
    expected = predict_image(Predictor(prepare(network, torch.device("cpu"))), picture(), grid(4))
    lane = open_lane(DEVICE)
    predictor = Predictor(prepare(network, lane.device), Runtime(DEVICE, "float32"), lane=lane)
    for steps in (1, 2, 4, 8):
        found = predict_image(predictor, picture(), grid(steps))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_blocks_change_no_bit_of_a_prediction(network, precision):
    lane, tiles = open_lane(DEVICE), grid(2)
    predictor = Predictor(
        prepare(network, lane.device), Runtime(DEVICE, precision), batch=3, lane=lane
    )
    whole = predict_image(predictor, picture(), tiles)
    for size in (tiles.step, 3 * tiles.step):
        for y in range(0, 61, size):
            for x in range(0, 75, size):
                block = Window((y, x), (y + size, x + size))
                data = read_mirrored(picture(), block.expand((tiles.halo,) * 2))
                found = predictor.probabilities(data, tiles)
                expected = whole[(slice(None), *block.slices)]
                np.testing.assert_array_equal(
                    found[:, : expected.shape[1], : expected.shape[2]], expected
                )
