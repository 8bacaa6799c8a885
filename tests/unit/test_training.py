"""The loss, the schedule, and a training that repeats itself bit for bit."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from gigaseg import training
from gigaseg.averaging import re_estimate_batch_norm
from gigaseg.checkpoints import Checkpoint
from gigaseg.curves import COLUMNS, Scores, format_row, learning_rate_factor
from gigaseg.patches import TrainingBatches, ValidationBatches
from gigaseg.sampling import Sample, TileSource
from gigaseg.training import confusion_matrix, fit, initialise, weighted_cross_entropy
from gigaseg.unet import Architecture
from numpy.testing import assert_allclose
from safetensors.torch import load

SETTINGS: dict[str, Any] = {
    "seed": 3,
    "steps": 4,
    "optimizer": "adamw",
    "learning_rate": 0.01,
    "momentum": 0.99,
    "weight_decay": 0.0,
    "warmup_steps": 2,
    "schedule": "cosine",
    "precision": "float32",
    "device": "cpu",
    "threads": 1,
    "validate_every": 2,
    "checkpoint_every": 3,
    "deterministic": False,
    "patience": 0,
    "ema": 0,
    "tile": 20,
    "batch": 1,
    "gradient_clip": 1.0,
}
NETWORK = Architecture(depth=1, width=2, dropout=0.5)


def make_source(architecture: Architecture = NETWORK, seed: int = 0) -> TileSource:
    """Make bright squares on dark ground."""
    random = np.random.default_rng(seed)
    target = np.zeros((1, 40, 40), np.uint8)
    for y, x in random.integers(0, 34, (6, 2)):
        target[0, y : y + 7, x : x + 7] = 1
    image = (target * 100 + random.normal(100, 20, target.shape)).astype(np.float32)
    separation = np.zeros(target.shape, np.float32)
    offset, scale = np.full((1, 1), 100, np.float32), np.full((1, 1), 0.01, np.float32)
    sample = Sample("d/a", image[None], target, separation, offset, scale)
    tile = architecture.geometry.input_size(16)
    return TileSource(
        [sample], architecture.geometry, tile, target="foreground", class_weights=[0.7, 2]
    )


def train(
    architecture: Architecture = NETWORK, *, validate: bool = True, **changes: Any
) -> tuple[Checkpoint, Checkpoint, list[Mapping[str, float]]]:
    settings = SETTINGS | changes
    tables: list[list[Mapping[str, float]]] = []
    batches = TrainingBatches(
        make_source(architecture),
        steps=settings["steps"],
        batch=settings["batch"],
        seed=settings["seed"],
        augmentation={"flips": True, "rotation": 180.0},
    )
    validation = ValidationBatches(make_source(architecture, seed=1), 4) if validate else None
    network = initialise(architecture, settings["seed"])
    found = fit(network, settings, batches, validation, lambda rows: tables.append([*rows]))
    assert [len(table) for table in tables] == list(range(1, len(tables) + 1))
    return *found, tables[-1]


def test_loss_is_the_sum_of_the_paper_written_out() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(2, 3, 4, 5))
    labels = random.choice([0, 1, 2, 255], (2, 4, 5))
    weights = random.uniform(0, 3, (2, 4, 5)) * (labels != 255)
    energy, pixels = 0.0, 0
    for n, y, x in np.ndindex(2, 4, 5):
        if labels[n, y, x] != 255:
            a = logits[n, :, y, x]
            p = np.exp(a[labels[n, y, x]]) / np.exp(a).sum()
            energy -= weights[n, y, x] * math.log(p)
            pixels += 1
    loss = weighted_cross_entropy(*(torch.from_numpy(a) for a in (logits, labels, weights)))
    assert_allclose(float(loss), energy / pixels, rtol=1e-5)


def test_loss_without_labelled_pixels_is_zero_and_has_a_gradient() -> None:
    logits = torch.zeros(1, 2, 3, 3, requires_grad=True)
    loss = weighted_cross_entropy(logits, torch.full((1, 3, 3), 255), torch.zeros(1, 3, 3))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_ignored_pixels_are_not_counted() -> None:
    logits = torch.zeros(1, 2, 1, 2)
    logits[0, 1, 0, 0] = 1
    result = confusion_matrix(logits, torch.tensor([[[0, 255]]]))
    assert result.tolist() == [[0, 1], [0, 0]]


def test_scores_of_known_pixels() -> None:
    scores = Scores.empty(3)
    scores.add(np.array([[5, 1, 0], [0, 3, 1], [0, 0, 2]]), loss=0.5)
    scores.add(np.array([[0, 0, 0], [4, 0, 0], [0, 0, 4]]), loss=2.0)
    summary = scores.summary()
    assert summary["loss"] == pytest.approx((12 * 0.5 + 8 * 2) / 20)
    assert summary["error"] == pytest.approx(6 / 20)
    assert summary["dice"] == pytest.approx(2 * 3 / (8 + 4))


def test_scores_of_nothing_are_nan() -> None:
    assert all(math.isnan(value) for value in Scores.empty(2).summary().values())


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        ("cosine", [0.25, 0.5, 0.75, 1, 1, math.cos(math.pi / 8) ** 2, 0.5, 0]),
    ],
)
def test_schedule(schedule: str, expected: list[float]) -> None:
    steps = (0, 1, 2, 3, 4, 5, 6, 8)
    found = [learning_rate_factor(s, steps=8, warmup=4, schedule=schedule) for s in steps]
    assert_allclose(found, expected, atol=1e-9)


def test_a_schedule_that_is_all_warmup_only_rises() -> None:
    rates = [learning_rate_factor(s, steps=3, warmup=5, schedule="cosine") for s in range(3)]
    assert rates == [0.2, 0.4, 0.6]


def test_same_seed_same_bits() -> None:
    one, two, other = train()[1], train()[1], train(seed=4)[1]
    assert one.to_bytes() == two.to_bytes()
    assert one.to_bytes() != other.to_bytes()


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.1), ("adamw", 0.03)])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_lowers_the_loss(optimizer: str, rate: float, precision: str) -> None:
    _, last, rows = train(
        Architecture(depth=1, width=4, dropout=0),
        optimizer=optimizer,
        precision=precision,
        steps=40,
        validate_every=5,
        momentum=0.9,
        learning_rate=rate,
    )
    assert last.step == 40
    assert rows[-1]["validation_loss"] < 0.8 * rows[0]["validation_loss"]


def precisions(
    monkeypatch: pytest.MonkeyPatch, architecture: Architecture, **changes: Any
) -> set[tuple[bool, torch.dtype]]:
    """Train, and return in which precisions steps (True) and validations (False) convolve."""
    seen, convolve = set(), torch.nn.Conv2d.forward

    def watch(self: torch.nn.Conv2d, image: torch.Tensor) -> torch.Tensor:
        found = convolve(self, image)
        seen.add((self.training, found.dtype))
        return found

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watch)
    best, _, _ = train(architecture, **changes)
    assert {w.dtype for w in best.state.values() if w.is_floating_point()} == {torch.float32}
    return seen


@pytest.mark.parametrize("kind", ["unet", "unet++"])
@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_steps_and_validation_are_in_the_precision_asked_for(
    monkeypatch: pytest.MonkeyPatch, kind: Any, precision: str, dtype: torch.dtype
) -> None:
    seen = precisions(monkeypatch, Architecture(kind=kind, depth=1, width=2), precision=precision)
    assert seen == {(True, dtype), (False, dtype)}


def test_the_network_learns_in_the_memory_layout_that_is_fastest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, convolve = set(), torch.nn.Conv2d.forward

    def watch(self: torch.nn.Conv2d, image: torch.Tensor) -> torch.Tensor:
        if min(self.weight.shape) > 1:  # else both layouts are one
            seen.add(
                tuple(
                    values.is_contiguous(memory_format=torch.channels_last)
                    for values in (image, self.weight)
                )
            )
        return convolve(self, image)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watch)
    train()
    assert seen == {(True, True)}


def test_the_gradient_is_clipped_to_its_length() -> None:
    step = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    step |= {"learning_rate": 0.5, "warmup_steps": 0, "steps": 1, "batch": 1}
    before = initialise(NETWORK, SETTINGS["seed"]).state_dict()

    def length(**changes: Any) -> float:
        after = train(**step, **changes)[1].state
        return math.sqrt(sum(float((after[k] - before[k]).square().sum()) for k in before))

    assert length(gradient_clip=0) > 0.5 * 1e-3
    assert length(gradient_clip=1e-3) == pytest.approx(0.5 * 1e-3, rel=1e-3)


def test_first_learning_rate_is_that_of_the_warmup() -> None:
    rates = [row["learning_rate"] for row in train(validate_every=1)[2]]
    factors = [learning_rate_factor(s, steps=4, warmup=2, schedule="cosine") for s in range(4)]
    assert_allclose(rates, 0.01 * np.array(factors))


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize(
    ("steps", "every", "expected"), [(4, 2, [2, 4]), (5, 2, [2, 4, 5]), (2, 9, [2])]
)
def test_a_row_per_validation_and_one_for_the_end(
    validate: bool, steps: int, every: int, expected: list[int]
) -> None:
    best, last, rows = train(validate=validate, steps=steps, validate_every=every)
    assert [row["step"] for row in rows] == expected
    assert all(math.isfinite(row["train_loss"]) for row in rows)
    assert last.step == steps
    if validate:
        assert set(rows[-1]) == set(COLUMNS)
        assert best.scores["loss"] == min(row["validation_loss"] for row in rows)
    else:
        assert best is last


def test_best_weights_are_those_that_were_validated() -> None:
    best, _, rows = train(steps=12, validate_every=1, learning_rate=0.3, warmup_steps=0)
    losses = [row["validation_loss"] for row in rows]
    assert best.step == 1 + int(np.argmin(losses))
    network = initialise(NETWORK, 0)
    network.load_state_dict(best.state)
    scores = Scores.empty(2)
    with torch.no_grad():
        for batch in ValidationBatches(make_source(seed=1), 4):
            logits = network.eval()(batch["image"])
            loss = weighted_cross_entropy(logits, batch["labels"], batch["weights"])
            scores.add(confusion_matrix(logits, batch["labels"]).numpy(), float(loss))
    assert scores.summary()["loss"] == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.parametrize(
    ("one", "two", "better"),
    [
        *((1.0, 2.0, True), (2.0, 1.0, False), (1.0, 1.0, False), (1.0, math.nan, True)),
        *((math.nan, 1.0, False), (math.nan, math.nan, False), (math.inf, math.nan, False)),
    ],
)
def test_comparison_of_checkpoints(one: float, two: float, better: bool) -> None:
    first, second = (Checkpoint(0, {}, {"loss": loss}) for loss in (one, two))
    assert first.is_better_than(second) is better
    assert first.is_better_than(None) is math.isfinite(one)


@pytest.mark.parametrize(
    ("losses", "best"),
    [([3.0, math.nan, 4.0], 1), ([math.nan, math.inf, 4.0], 3), ([math.nan] * 3, 4)],
)
def test_weights_whose_validation_is_not_finite_are_never_the_best(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    losses: list[float],
    best: int,
) -> None:
    coming = iter([*losses, 9.0, 1.0, 9.0])  # those of step 4, and at last of best and last

    def evaluate(_: training.Training) -> dict[str, float]:
        return {"loss": next(coming), "dice": 0.5, "error": 0.5}

    monkeypatch.setattr(training.Training, "evaluate", evaluate)
    found, last, rows = train(steps=4, validate_every=1)
    assert (found.step, last.step) == (best, 4)
    assert [row["validation_loss"] for row in rows[:3]] == pytest.approx(losses, nan_ok=True)
    told = [message for message in caplog.messages if "are not taken as the best" in message]
    assert [message.split(":")[0] for message in told] == [
        f"the validation loss is {loss} at step {step}"
        for step, loss in enumerate(losses, start=1)
        if not math.isfinite(loss)
    ]


def test_batch_norm_statistics_are_means_over_plain_tiles() -> None:
    architecture = Architecture(depth=1, width=2, normalization="batch", dropout=0.5)
    network = initialise(architecture, 0)
    batches = list(
        TrainingBatches(
            make_source(architecture), steps=3, batch=1, seed=0, augmentation={"noise": 9.0}
        ).plain(3)
    )
    re_estimate_batch_norm(network, batches)
    block = network.down[0]
    with torch.no_grad():
        features = [block[0](batch["image"]) for batch in batches]
    mean = torch.stack([f.mean((0, 2, 3)) for f in features]).mean(0)
    variance = torch.stack([f.var((0, 2, 3)) for f in features]).mean(0)
    assert_allclose(block[1].running_mean, mean, atol=1e-5)
    assert_allclose(block[1].running_var, variance, rtol=1e-4)
    assert block[1].momentum == 0.1
    assert not network.training


def test_batch_norm_is_estimated_again_for_both_checkpoints() -> None:
    architecture = Architecture(depth=1, width=2, normalization="batch")
    best, last, _ = train(architecture, steps=6, validate_every=1)
    for checkpoint in (best, last):
        assert int(checkpoint.state["down.0.1.num_batches_tracked"]) == training.BATCH_NORM_TILES


@pytest.mark.parametrize("deterministic", [False, True])
def test_steps_and_last_estimates_are_taken_with_the_arithmetic_asked_for(
    monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    asked: list[Any] = []

    @contextmanager
    def arithmetic(device: str, **more: Any) -> Iterator[None]:
        asked.append((device, more))
        yield
        asked.append("end")

    def seen(batch: Any) -> Any:
        asked.append("work")
        return batch

    monkeypatch.setattr(training, "arithmetic", arithmetic)
    monkeypatch.setattr(training.Fabric, "to_device", lambda _, batch: seen(batch))
    train(Architecture(depth=1, width=2, normalization="batch"), deterministic=deterministic)
    assert asked[0] == ("cpu", {"deterministic": deterministic})
    assert asked.index("end") == len(asked) - 1 > SETTINGS["steps"] + training.BATCH_NORM_TILES


def test_same_padding_trains_on_the_part_without_zeros() -> None:
    architecture = Architecture(depth=1, width=2, padding="same")
    assert train(architecture)[1].step == 4


def test_a_loss_that_is_not_finite_stops_with_the_tiles() -> None:
    message = (
        r"the loss is (nan|inf) at step \d+ with learning rate 1e\+30 on tiles d/a plane 0 y "
        r"-?\d+ x -?\d+: lower learning_rate"
    )
    with pytest.raises(FloatingPointError, match=message):
        train(
            optimizer="sgd",
            learning_rate=1e30,
            warmup_steps=0,
            gradient_clip=0,
            schedule="constant",
        )


def test_a_gradient_that_is_not_finite_stops_with_the_tiles() -> None:
    class Steep(torch.autograd.Function):
        """A finite value with an infinite slope."""

        @staticmethod
        def forward(_: Any, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(_: Any, *gradients: torch.Tensor) -> torch.Tensor:
            return gradients[0] * math.inf

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "output_window", lambda logits, _: Steep.apply(logits))
        message = r"the length of the gradient is nan at step 0 with .* on tiles d/a plane 0 y"
        with pytest.raises(FloatingPointError, match=message):
            train()


@pytest.mark.parametrize(
    "problem",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2 bytes"),
    ],
)
def test_too_little_memory_names_what_to_lower(problem: RuntimeError) -> None:
    def scarce(*_: Any) -> None:
        raise problem

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "weighted_cross_entropy", scarce)
        message = (
            r"the memory of the cpu device is too small to train with tiles of 20 px, 1 per step, "
            r"and a network of width 2: lower training.memory_gb \(with tile or batch: auto\), "
            r"training.tile, training.batch or network.width "
            r"\((CUDA out of|Default).*(GiB\.|bytes)\)$"
        )
        with pytest.raises(RuntimeError, match=message):
            train()


def test_other_errors_of_a_step_are_left_as_they_are() -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("something else")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "weighted_cross_entropy", fail)
        with pytest.raises(RuntimeError, match=r"^something else$"):
            train()


def test_an_average_is_what_is_validated_and_kept() -> None:
    seen: list[torch.Tensor] = []

    class Watched(training.Average):
        def update(self, network: Any, step: int) -> None:
            super().update(network, step)
            seen.append(self.network.state_dict()["head.weight"].clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "Average", Watched)
        best, last, rows = train(ema=0.9, steps=6, validate_every=1)
    assert torch.equal(last.state["head.weight"], seen[-1])
    assert torch.equal(best.state["head.weight"], seen[best.step - 1])
    assert not torch.equal(last.state["head.weight"], train(steps=6)[1].state["head.weight"])
    assert best.scores["loss"] == min(row["validation_loss"] for row in rows)


def test_weights_are_a_file_without_pickle() -> None:
    checkpoint = train()[1]
    state = load(checkpoint.to_bytes())
    initialise(NETWORK, 0).load_state_dict(state)
    assert all(torch.equal(state[name], value) for name, value in checkpoint.state.items())


def test_training_leaves_no_files(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train()
    assert not list(tmp_path.iterdir())


def test_rows_of_the_table() -> None:
    row = dict.fromkeys(COLUMNS, 0.5) | {"step": 7, "validation_dice": math.nan}
    assert format_row(row) == "7,0.5,0.5,,0.5,0.5\n"
