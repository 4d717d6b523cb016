"""A tiny training run on synthetic tokens, the same on every topology: what the parity tests compare."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from data.config import DataConfig
from data.stream import Samples
from model.config import ModelConfig
from model.recorder import Recorder
from pretrain.build import build_model
from pretrain.checks import check_run
from pretrain.config import BatchConfig, OptimizerConfig, ParallelConfig, RunConfig, ScheduleConfig, TrainConfig
from pretrain.engines.build import build_engine
from pretrain.engines.connection import connect
from pretrain.engines.engine import Engine, StepResult
from pretrain.feed import BatchFeed
from pretrain.topology import topology_from_environment

STEPS = 20

TINY = RunConfig(
    model=ModelConfig(
        attention="shared_diff",
        num_layers=4,
        hidden_size=32,
        ffn_hidden_size=64,
        num_heads=4,
        head_dim=8,
        rank=6,
        vocab_size=96,
    ),
    data=DataConfig(sequence_length=16),
    parallel=ParallelConfig(zero_stage=0),
    batch=BatchConfig(global_size=8, micro_size=8),
    optimizer=OptimizerConfig(learning_rate=3e-3, gradient_clipping=1.0),
    schedule=ScheduleConfig(warmup_steps=2),
    train=TrainConfig(steps=STEPS, prefetch=0),
)


class SyntheticTokens(Samples):
    """Samples whose tokens depend on their number only; token 0 ends a document."""

    eod_id = 0

    def __init__(self, vocab_size: int, sequence_length: int) -> None:
        self._vocab_size = vocab_size
        self._length = sequence_length + 1

    def fetch(self, sample_numbers: np.ndarray) -> np.ndarray:
        """Tokens of shape [samples, T + 1], skewed so that there is something to learn."""
        rows = []
        for number in sample_numbers:
            draws = np.random.default_rng(int(number)).random(self._length)
            rows.append((draws**3 * self._vocab_size).astype(np.int64))
        return np.stack(rows)


@dataclass(frozen=True)
class Trace:
    """What one rank saw."""

    losses: list[float]
    grad_norms: list[float]
    replicated: dict[str, torch.Tensor]
    """replicated parameters after the last step, by logical name (ZeRO 0 to 2)"""


def start_engine(config: RunConfig, recorder: Recorder | None = None) -> tuple[Engine, BatchFeed]:
    """Connects this rank and builds its engine and data."""
    topology = topology_from_environment(config.parallel)
    check_run(config, topology)
    connect(topology)
    layers = build_model(config, topology, recorder)
    engine = build_engine(config, topology, layers, judge=lambda loss, norm: True)
    samples = SyntheticTokens(config.model.vocab_size, config.data.sequence_length)
    return engine, BatchFeed(samples, config, topology)


def run_steps(engine: Engine, feed: BatchFeed, start: int, stop: int, rate: float = 1e-3) -> list[StepResult]:
    """Steps ``start`` .. ``stop - 1`` at a constant learning rate."""
    return [engine.train_step(batches, rate) for batches in feed.steps(start, stop)]


def train(config: RunConfig) -> Trace:
    """One rank's whole run."""
    engine, feed = start_engine(config)
    results = run_steps(engine, feed, 0, config.train.steps)
    engine.settle()
    replicated = {
        parameter.info.name: parameter.detach().clone()
        for parameter in engine.parameters
        if parameter.info.shard_dim is None and config.parallel.zero_stage < 3
    }
    return Trace([r.loss for r in results], [r.grad_norm for r in results], replicated)


def variant(**sections: dict[str, object]) -> RunConfig:
    """TINY with some settings of some sections changed."""
    return replace(TINY, **{name: replace(getattr(TINY, name), **keys) for name, keys in sections.items()})
