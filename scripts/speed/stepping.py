"""Training steps of a config on tokens drawn at random: what `scripts/profile.py` looks into and benchmarks time.

In: a RunConfig; the process groups are there. Out: a RandomRun, whose `step` takes one optimizer step. Always: the
model, the engine and the optimizer are those of a real run; every sequence is one document.
"""

from dataclasses import dataclass

import torch

from pretrain.build import build_model
from pretrain.config import RunConfig
from pretrain.engines.build import build_engine
from pretrain.engines.engine import Engine
from pretrain.engines.micro_batch import MicroBatch
from pretrain.topology import Topology


@dataclass(frozen=True)
class RandomRun:
    """An engine and the micro-batches of each of its steps."""

    engine: Engine
    batches: list[MicroBatch]
    learning_rate: float

    def step(self) -> float:
        """One optimizer step; its loss, which is there when the device is done."""
        return self.engine.train_step(self.batches, self.learning_rate).loss


def random_run(config: RunConfig, topology: Topology) -> RandomRun:
    """Builds the engine of ``config`` on this rank; a collective call."""
    engine = build_engine(config, topology, build_model(config, topology), judge=lambda loss, norm: True)
    batches = random_batches(config, engine.accumulation_steps, seed=topology.data_rank)
    return RandomRun(engine, batches, config.optimizer.learning_rate)


def random_batches(config: RunConfig, count: int, seed: int) -> list[MicroBatch]:
    """The same micro-batch ``count`` times."""
    shape = (config.batch.micro_size, config.data.sequence_length + 1)
    tokens = torch.randint(0, config.model.vocab_size, shape, generator=torch.Generator().manual_seed(seed))
    return [MicroBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())] * count
