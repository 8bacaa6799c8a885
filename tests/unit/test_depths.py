"""Scores and costs of each depth at which a network can predict."""

import math

import pytest
import torch
from gigaseg.charts import cost_charts
from gigaseg.curves import Scores
from gigaseg.depths import format_table, score_depths, time_depths
from gigaseg.lanes import open_lane
from gigaseg.networks import at_depth, build, multiply_adds
from gigaseg.runtime import Runtime
from gigaseg.summaries import Model, read_history
from gigaseg.training import confusion_matrix, weighted_cross_entropy
from gigaseg.unet import Architecture

CPU = torch.device("cpu")


def network(kind, padding, depth=2):
    torch.manual_seed(0)
    return build(Architecture(depth=depth, width=2, padding=padding, kind=kind))


def batch(model, output, seed):
    torch.manual_seed(seed)
    geometry = model.architecture.geometry
    tile = geometry.input_size(output)
    size = geometry.output_size(tile)
    labels = torch.randint(2, (1, size, size))
    weights = torch.rand(1, size, size)
    return {"image": torch.randn(1, 1, tile, tile), "labels": labels, "weights": weights}


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_each_depth_is_scored_as_a_network_of_its_own(padding):
    model = network("unet++", padding)
    batches = [batch(model, 8, seed) for seed in (1, 2)]
    rows = score_depths(model, batches, CPU)
    assert [row["depth"] for row in rows] == [1, 2]
    for row in rows:
        part = at_depth(model, row["depth"]).eval()
        scores = Scores.empty(2)
        for one in batches:
            with torch.inference_mode():
                logits = part(one["image"])
            excess = (logits.shape[-1] - one["labels"].shape[-1]) // 2
            cut = slice(excess, logits.shape[-1] - excess)
            logits = logits[..., cut, cut]
            loss = weighted_cross_entropy(logits, one["labels"], one["weights"])
            scores.add(confusion_matrix(logits, one["labels"]).numpy(), float(loss))
        expected = {"depth": row["depth"], "multiply_adds": multiply_adds(part.architecture)}
        assert row == pytest.approx(expected | scores.summary())


def test_without_validation_there_are_costs_alone():
    [row] = score_depths(network("fcn", "valid"), [], CPU)
    assert row["multiply_adds"] > 0
    assert math.isnan(row["loss"])


def test_every_depth_is_timed():
    seconds = time_depths(network("unet++", "valid"), Runtime("cpu", "float32"), open_lane("cpu"))
    assert seconds.keys() == {1, 2}
    assert all(math.isfinite(value) for value in seconds.values())


def model(experiment, dataset, depths):
    return Model(experiment, "0", {"validation": [f"{dataset}/a"]}, {}, {}, depths)


def test_costs_are_compared_on_the_same_data(tmp_path):
    rows = [{"depth": d, "multiply_adds": 10.0 * d, "dice": 0.5 + d / 10} for d in (1, 2)]
    (tmp_path / "depths.csv").write_text(format_table(rows))
    nested = read_history(tmp_path / "depths.csv")
    plain = {"depth": [3.0], "multiply_adds": [50.0], "dice": [0.9]}
    untold = {"depth": [3.0], "multiply_adds": [50.0]}
    charts = cost_charts(
        [
            model("one", "cells", nested),
            model("two", "cells", plain),
            model("three", "cells", untold),  # trained without validation
            model("four", "membranes", plain),  # alone
        ]
    )
    assert [chart.title for chart in charts] == ["Validation Dice by cost, cells"]
    assert [(curve.label, curve.x, curve.y) for curve in charts[0].curves] == [
        ("one", [10.0, 20.0], [0.6, 0.7]),
        ("two", [50.0], [0.9]),
    ]
