"""Batches that grow and shrink while the run goes on, against a plain loop: every loss and norm within 1e-5."""

import functools
from dataclasses import replace

import numpy as np
import pytest

from data.config import RampConfig
from data.stream import Samples
from pretrain.config import RunConfig
from pretrain.feed import BatchFeed
from tests.parallel.plain_loop import plain_losses
from tests.parallel.training import SyntheticTokens, run_steps, start_engine, variant
from tests.world import run_world

RATE = 1e-3
RAMP = [RampConfig(steps=4, global_size=4), RampConfig(steps=5, global_size=12), RampConfig(steps=3, global_size=20)]
"""1, 3 and 5 micro-batches of 2 on 2 ranks; then 2"""
LONGER_FROM = 4 * 4 + 2 * 12
"""the first sample of step 6"""


class GrowingTokens(Samples):
    """Samples of 16 tokens, then of 24 of another distribution, as a stage of a run changes both."""

    eod_id = 0

    def __init__(self, vocab_size: int) -> None:
        self._short, self._long = SyntheticTokens(vocab_size, 16), SyntheticTokens(vocab_size // 3, 24)

    def fetch(self, sample_numbers: np.ndarray) -> np.ndarray:
        """Tokens of shape [samples, T + 1]; all samples are of one length."""
        late = np.asarray(sample_numbers) >= LONGER_FROM
        assert late.all() or not late.any()
        return (self._long if late.any() else self._short).fetch(sample_numbers)


def config_for(**parallel: object) -> RunConfig:
    return variant(
        parallel={"zero_stage": 1, **parallel},
        batch={"global_size": 8, "micro_size": 2, "ramp": RAMP},
        train={"steps": 17},
    )


@functools.cache
def expected() -> tuple[list[float], list[float]]:
    return plain_losses(config_for(), GrowingTokens(config_for().model.vocab_size), RATE)


def train(config: RunConfig) -> tuple[list[float], list[float]]:
    """One rank; with an evaluation in the middle, which must leave no trace."""
    engine, _ = start_engine(config)
    feed = BatchFeed(GrowingTokens(config.model.vocab_size), config, engine.topology)
    results = run_steps(engine, feed, 0, 8, RATE)
    engine.evaluate(feed.step(13))
    results += run_steps(engine, feed, 8, config.train.steps, RATE)
    return [result.loss for result in results], [result.grad_norm for result in results]


CASES = {
    "zero0": (2, {"zero_stage": 0}),
    "zero1": (2, {}),
    "zero2": (2, {"zero_stage": 2}),
    "zero3": (2, {"zero_stage": 3}),
    "zero2-tp2": (4, {"zero_stage": 2, "tensor": 2}),
    "zero0-pp2": (4, {"zero_stage": 0, "pipeline": 2}),
    "zero1-pp2-alone": (2, {"pipeline": 2}),
    "zero1-tp2-pp2-sp": (8, {"pipeline": 2, "tensor": 2, "sequence": True}),
}


@pytest.mark.parametrize("name", CASES)
def test_every_step_equals_a_plain_loop(name: str) -> None:
    processes, parallel = CASES[name]
    losses, norms = run_world(processes, train, config_for(**parallel))[0]
    assert losses == pytest.approx(expected()[0], abs=1e-5)
    assert norms == pytest.approx(expected()[1], rel=1e-5, abs=1e-5)


def test_another_micro_batch_or_number_of_ranks_changes_nothing() -> None:
    for processes, micro_size in ((1, 4), (4, 1)):
        config = config_for(zero_stage=1)
        config = replace(config, batch=replace(config.batch, micro_size=micro_size))
        losses, norms = run_world(processes, train, config)[0]
        assert losses == pytest.approx(expected()[0], abs=1e-5)
        assert norms == pytest.approx(expected()[1], rel=1e-5, abs=1e-5)
