"""Gradient norms and update ratios against a plain backward pass, and copies of the weights, of one process."""

import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.layers import LanguageModel, build_layers
from model.loss import mean_loss
from model.parallel import Unsharded, logical_parameters
from model.recorder import Recorder
from pretrain.checkpoint.layout import TensorLayout
from pretrain.config import MetricsConfig, RunConfig
from pretrain.telemetry import telemetry as telemetry_room
from pretrain.telemetry.telemetry import Telemetry, before_clipping
from pretrain.telemetry.updates import SAMPLED, sampled_positions
from tests.parallel.training import start_engine, variant
from tests.world import run_world

RATE = 1e-3
CLIPPED = variant(optimizer={"gradient_clipping": 0.05}, parallel={"zero_stage": 1}, batch={"micro_size": 2})
NEVER_CLIPPED = variant(optimizer={"gradient_clipping": 0.0}, model={"attention": "diff_v2", "tie_embeddings": False})
Found = tuple[dict[str, float | list[float]], dict[str, float | list[float]], list[float]]


def parts_of(values: dict[str, float]) -> dict[str, list[float]]:
    """Squares by part of the model, and by block."""
    squares = defaultdict(list)
    for name, square in values.items():
        words = name.removesuffix(".weight").split(".")
        if words[0] == "blocks":
            squares[words[1]].append(square)
            words = words[2:]
        squares[".".join(words)].append(square)
    return squares


def expect(config: RunConfig, steps: list) -> dict[str, float | list[float]]:
    """From torch's own AdamW on plain layers, step after step; of the last step."""
    model = LanguageModel(build_layers(config.model, Unsharded(), seed=config.seed))
    named = logical_parameters(model)
    settings = config.optimizer
    decays = [[p for p in named.values() if p.info.decay is decay] for decay in (True, False)]
    optimizer = torch.optim.AdamW(
        [{"params": decays[0], "weight_decay": settings.weight_decay}, {"params": decays[1], "weight_decay": 0.0}],
        lr=RATE, betas=(settings.beta1, settings.beta2), eps=settings.eps,
    )  # fmt: skip
    for micro_batches in steps:
        optimizer.zero_grad()
        for batch in micro_batches:
            loss = model(batch.tokens_BT, finish=mean_loss(batch.labels_BT))
            (loss / len(micro_batches)).backward()
        gradients = {name: float(p.grad.double().square().sum()) for name, p in named.items()}
        whole = math.sqrt(sum(gradients.values()))
        if settings.gradient_clipping:
            for parameter in named.values():
                parameter.grad.mul_(min(1.0, settings.gradient_clipping / (whole + 1e-6)))
        before = {name: p.detach().clone() for name, p in named.items()}
        optimizer.step()
    changes = {name: float((p.detach() - before[name]).double().square().sum()) for name, p in named.items()}
    weights = {name: float(value.double().square().sum()) for name, value in before.items()}
    expected: dict[str, float | list[float]] = {}
    norms = {part: math.sqrt(sum(squares)) for part, squares in parts_of(gradients).items()}
    sums, wholes = parts_of(changes), parts_of(weights)
    ratios = {part: math.sqrt(sum(sums[part]) / sum(wholes[part])) for part in sums}
    for what, numbers in (("gradient_norm", norms), ("update_ratio", ratios)):
        expected[what] = [numbers[str(layer)] for layer in range(config.model.num_layers)]
        expected |= {f"{what}/{part}": number for part, number in numbers.items() if not part.isdigit()}
    return expected


def look(config: RunConfig) -> Found:
    """(found, expected, losses) of the second step of one process."""
    telemetry_room.DIGITS = 12
    recorder = Recorder()
    config = replace(config, metrics=MetricsConfig(telemetry_every=2))
    engine, feed = start_engine(config, recorder)
    telemetry = Telemetry(config, engine, recorder)
    steps = list(feed.steps(0, 3))
    losses = [engine.train_step(steps[0], RATE).loss]
    telemetry.begin()
    result = engine.train_step(steps[1], RATE)
    found = telemetry.end(result)["telemetry"]
    losses += [result.loss, engine.train_step(steps[2], RATE).loss]
    return found, expect(config, steps[:2]), losses


def plain_losses(config: RunConfig) -> list[float]:
    engine, feed = start_engine(config)
    return [engine.train_step(micro_batches, RATE).loss for micro_batches in feed.steps(0, 3)]


@pytest.mark.parametrize("config", [CLIPPED, NEVER_CLIPPED], ids=["zero 1, clipped", "zero 0, not clipped"])
def test_parts_are_those_of_a_plain_backward_pass(config: RunConfig) -> None:
    ((found, expected, losses),) = run_world(1, look, config)
    assert [name for name in found if "gradient_norm" in name or "update_ratio" in name] == [
        name for name in found if name in expected
    ]
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=2e-5), name
    assert losses == run_world(1, plain_losses, config)[0]  # bit for bit


def refuse(config: RunConfig) -> dict[str, float | list[float]]:
    recorder = Recorder()
    config = replace(config, metrics=MetricsConfig(telemetry_every=1))
    engine, feed = start_engine(config, recorder)
    engine._judge = lambda loss, norm: False
    telemetry = Telemetry(config, engine, recorder)
    telemetry.begin()
    return telemetry.end(engine.train_step(next(iter(feed.steps(0, 1))), RATE))["telemetry"]


def test_a_refused_step_tells_its_gradients_and_no_update() -> None:
    (numbers,) = run_world(1, refuse, NEVER_CLIPPED)
    assert numbers["update_ratio"] == [0.0] * 4
    assert all(norm > 0 for norm in numbers["gradient_norm"])


@pytest.mark.parametrize(
    ("shape", "shard_dim"),
    [((96, 192), None), ((8192, 192), 0), ((192, 512), 1), ((6, 2, 32, 24), None), ((192,), None), ((512, 7), 1)],
)
def test_sampled_elements_are_the_same_whatever_the_split(shape: tuple[int, ...], shard_dim: int | None) -> None:
    whole = torch.arange(math.prod(shape)).view(shape)
    expected = whole.flatten()[sampled_positions(TensorLayout(shape, None, 1), 0)].tolist()
    sizes = [1] if shard_dim is None else [size for size in (1, 2, 4, 7) if shape[shard_dim] % size == 0]
    for size in sizes:
        layout = TensorLayout(shape, shard_dim, size)
        shards = [whole] if shard_dim is None else whole.chunk(size, shard_dim)
        found = [shard.flatten()[sampled_positions(layout, rank)] for rank, shard in enumerate(shards)]
        assert sorted(torch.cat(found).tolist()) == expected
    assert 0 < len(expected) <= SAMPLED
    assert len(expected) > SAMPLED / 3 or len(expected) == whole.numel()
    assert len(np.unique(np.array(expected) % shape[-1])) == min(shape[-1], len(expected))  # every column


def test_norms_of_parts_make_up_the_norm_of_the_step() -> None:
    numbers = {"gradient_norm/a": 0.3, "gradient_norm/b": 0.4, "blocks.0.gradient_norm": 0.4, "x": 1.0}
    scaled = before_clipping(numbers, grad_norm=5.0)
    assert scaled == pytest.approx(
        {"gradient_norm/a": 3.0, "gradient_norm/b": 4.0, "blocks.0.gradient_norm": 4.0, "x": 1.0}
    )
    assert math.isnan(before_clipping({"gradient_norm/a": math.nan}, math.inf)["gradient_norm/a"])
