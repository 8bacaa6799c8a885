"""Loading models, choosing how they run, and what prediction refuses."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
import torch
from gigaseg.geometry import UNetGeometry
from gigaseg.inference import Predictor, predict_image, prepare
from gigaseg.loading import load_model
from gigaseg.runtime import Runtime
from gigaseg.tiling import TileGrid
from gigaseg.unet import Architecture, UNet
from safetensors.torch import save_file

SMALL = Architecture(depth=1, width=2, dropout=0.0)
GRID = TileGrid(SMALL.geometry, 24)


def save(folder, network, **changes):
    """Write a model as training does."""
    weights = {"best": "best.safetensors", "last": "last.safetensors"}
    for name in weights.values():
        save_file(network.state_dict(), folder / name)
    sums = {k: sha256((folder / name).read_bytes()).hexdigest() for k, name in weights.items()}
    metadata = {
        "format": 1,
        "architecture": network.architecture.to_dict(),
        "channels": 1,
        "classes": ["background", "foreground"],
        "fingerprint": "f" * 64,
        "intensity": {"method": "none"},
        "samples": {"train": {"cells/a": "a" * 64}},
        "scores": {"best": {"step": 5}},
        "sha256": sums,
        "spacing": [1, 1, 1],
        "target": "foreground",
        "weights": weights,
    } | changes
    (folder / "model.json").write_text(json.dumps(metadata))
    return folder / "model.json"


def test_a_model_is_loaded_as_it_was_saved(tmp_path):
    network = UNet(SMALL)
    loaded, metadata = load_model(save(tmp_path, network, target="foreground"), "last")
    assert not loaded.training
    assert metadata["target"] == "foreground"
    for name, values in network.state_dict().items():
        assert torch.equal(values, loaded.state_dict()[name])


def test_missing_weights_name_the_command(tmp_path):
    model = save(tmp_path, UNet(SMALL))
    (tmp_path / "best.safetensors").unlink()
    with pytest.raises(ValueError, match=r"best.safetensors is missing: .* --forcerun train"):
        load_model(model)


def test_altered_weights_are_refused(tmp_path):
    model = save(tmp_path, UNet(SMALL))
    save_file(UNet(SMALL).state_dict(), tmp_path / "best.safetensors")
    with pytest.raises(ValueError, match=r"best.safetensors is not the file that model.json desc"):
        load_model(model)


def test_an_architecture_of_a_newer_version_is_refused(tmp_path):
    model = save(tmp_path, UNet(SMALL), architecture={**SMALL.to_dict(), "attention": 4})
    with pytest.raises(ValueError, match="an architecture with attention, of which this version"):
        load_model(model)


def test_a_description_that_contradicts_itself_is_refused(tmp_path):
    with pytest.raises(ValueError, match="says 3 channels and 2 classes, its architecture 1 and 2"):
        load_model(save(tmp_path, UNet(SMALL), channels=3))


def test_an_ensemble_is_the_mean_of_its_networks():
    networks = [UNet(SMALL).eval() for _ in range(3)]
    image = np.random.default_rng(0).normal(size=(1, 20, 20)).astype(np.float32)
    each = [predict_image(Predictor(network, symmetries=8), image, GRID) for network in networks]
    mean = predict_image(Predictor(networks, symmetries=8), image, GRID)
    np.testing.assert_allclose(mean, np.mean(each, axis=0), atol=1e-6)
    # Whatever the tiles.
    large = predict_image(Predictor(networks, symmetries=8), image, TileGrid(SMALL.geometry, 32))
    np.testing.assert_allclose(large, mean, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 2}, "agree in geometry"),
        ({"classes": 3}, "agree in classes, not have 2 and 3"),
        ({"in_channels": 2}, "agree in in_channels"),
    ],
)
def test_networks_that_cannot_be_averaged_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Predictor([UNet(SMALL), UNet(replace(SMALL, **change))])


def test_weights_of_another_architecture_are_refused(tmp_path):
    model = save(tmp_path, UNet(SMALL), architecture={**SMALL.to_dict(), "width": 4})
    with pytest.raises(ValueError, match=r"best.safetensors does not fit Architecture"):
        load_model(model)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    network = UNet(SMALL)
    torch.nn.init.constant_(network.head.bias, float("nan"))
    with pytest.raises(ValueError, match=r"head.bias holds values that are not finite"):
        load_model(save(tmp_path, network))


def test_bfloat16_is_close_to_float32():
    torch.manual_seed(0)
    network = UNet(SMALL)
    image = np.random.default_rng(0).normal(size=(1, 20, 20)).astype(np.float32)
    exact = predict_image(Predictor(network), image, GRID)
    fast = predict_image(Predictor(network, Runtime("cpu", "bfloat16")), image, GRID)
    assert fast.dtype == np.float32
    assert 0 < np.abs(fast - exact).max() < 0.1


def test_a_grid_of_another_network_is_refused():
    with pytest.raises(ValueError, match=r"made for UNetGeometry\(depth=2.*make the grid from"):
        predict_image(Predictor(UNet(SMALL)), np.zeros((1, 9, 9)), TileGrid(UNetGeometry(2), 48))


def test_a_block_must_be_whole_steps():
    data = np.zeros((1, GRID.step + 2 * GRID.halo, 3 + 2 * GRID.halo), np.float32)
    with pytest.raises(ValueError, match=r"a block of \(8, 3\) px is not a multiple of step 8"):
        Predictor(UNet(SMALL)).probabilities(data, GRID)


def test_an_image_that_is_not_finite_is_named():
    image = np.full((1, 9, 9), np.nan, np.float32)
    with pytest.raises(ValueError, match="the image holds values that are not finite"):
        predict_image(Predictor(UNet(SMALL)), image, GRID)


def test_a_network_that_overflows_is_named():
    network = UNet(SMALL)
    torch.nn.init.constant_(network.head.weight, 3e38)
    torch.nn.init.constant_(network.merge[0][2].bias, 3e38)
    with pytest.raises(
        ValueError, match=r"not finite for a finite image: try prediction\.precision"
    ):
        predict_image(Predictor(network), np.ones((1, 9, 9), np.float32), GRID)


def test_every_worker_computes_on_one_thread():
    network, seen = UNet(SMALL), []
    network.head.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    predictor = Predictor(network)
    before = torch.get_num_threads()
    with ThreadPoolExecutor(2) as pool:
        list(
            pool.map(
                lambda _: predict_image(predictor, np.zeros((1, 9, 9), np.float32), GRID), range(4)
            )
        )
    predict_image(predictor, np.zeros((1, 9, 9), np.float32), GRID)
    assert set(seen) == {1}
    assert torch.get_num_threads() == before


def test_every_call_gets_the_same_number_of_tiles():
    network, seen = UNet(SMALL), []
    network.head.register_forward_hook(lambda _layer, inputs, _: seen.append(len(inputs[0])))
    predict_image(Predictor(network, batch=4), np.zeros((1, 24, 24), np.float32), GRID)
    assert seen == [4, 4, 4]  # nine tiles


def test_predictors_of_one_network_leave_it_alone():
    """Threads compute with it meanwhile: converting it again would pull memory from under them."""
    network = prepare(UNet(SMALL), torch.device("cpu"))
    before = [values.data_ptr() for values in network.state_dict().values()]
    Predictor(network)
    Predictor(network, Runtime("cpu", "bfloat16"))
    assert [values.data_ptr() for values in network.state_dict().values()] == before


def test_dropout_is_off():
    network = UNet(Architecture(depth=1, width=2, dropout=0.5)).train()
    network = prepare(network, torch.device("cpu"))
    image = np.ones((1, 9, 9), np.float32)
    predictor = Predictor(network)
    np.testing.assert_array_equal(
        predict_image(predictor, image, GRID), predict_image(predictor, image, GRID)
    )
