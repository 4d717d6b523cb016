"""`torchrun --nproc-per-node 2 scripts/bench_gradients.py`: partial gradients summed per step or per micro-batch.

In: two tensor-parallel processes and a small Shared DIFF model. Out: one table of step times, as a ratio, for 1, 4
and 16 micro-batches per step; both ways alternate within one run, so that a noisy machine disturbs both alike.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.distributed as dist

from common.cli import run_command
from common.flags import FlagParser
from data.batch import BatchConfig
from model.config import ModelConfig
from model.parallel import info_of
from pretrain.config import ParallelConfig, RunConfig
from pretrain.engines.accelerator import choose_accelerator

ROUNDS = 5


def main(arguments: list[str]) -> int:
    """Prints the table on rank 0."""
    FlagParser(prog="scripts/bench_gradients.py", description=__doc__).parse_args(arguments)
    choose_accelerator()
    from pretrain.engines.connection import connect, disconnect
    from pretrain.topology import topology_from_environment

    torch.set_num_threads(1)
    model = ModelConfig(hidden_size=256, ffn_hidden_size=704, num_heads=4, head_dim=32, rank=32, num_layers=4)
    config = RunConfig(model=model, parallel=ParallelConfig(tensor=2, zero_stage=0))
    topology = topology_from_environment(config.parallel)
    connect(topology)
    if topology.is_main:
        print("micro-batches  per step (ms)  per micro-batch (ms)  ratio")
    for micro_batches in (1, 4, 16):
        sized = replace(config, batch=BatchConfig(global_size=micro_batches, micro_size=1))
        times = _compare(sized)
        if topology.is_main:
            step, micro = (1000 * statistics.median(values) for values in times)
            print(f"{micro_batches:>13}  {step:>13.1f}  {micro:>20.1f}  {step / micro:>5.2f}", flush=True)
    disconnect()
    return 0


def _compare(config: RunConfig) -> tuple[list[float], list[float]]:
    """Step times of (one reduction per step, one per micro-batch)."""
    per_step, per_micro_batch = _steps(config, every_micro_batch=False), _steps(config, every_micro_batch=True)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        times[0].append(per_step())
        times[1].append(per_micro_batch())
    return times


def _steps(config: RunConfig, every_micro_batch: bool) -> Callable[[], float]:
    """A function that takes one optimizer step and returns its seconds."""
    from pretrain.build import build_model
    from pretrain.engines.build import build_engine
    from pretrain.engines.connection import tensor_group
    from pretrain.engines.exchange import DeepSpeedExchange
    from pretrain.engines.micro_batch import MicroBatch
    from pretrain.topology import topology_from_environment

    topology = topology_from_environment(config.parallel)
    layers = build_model(config, topology)
    engine = build_engine(config, topology, layers, judge=lambda loss, norm: True)
    if every_micro_batch:
        assert isinstance(engine.exchange, DeepSpeedExchange) and engine.exchange.partial_gradients is not None
        engine.exchange.partial_gradients.remove()
        for parameter in engine.parameters:
            if info_of(parameter).partial_gradient:
                parameter.register_hook(lambda gradient: _summed(gradient, tensor_group()))
    tokens = torch.randint(0, config.model.vocab_size, (1, 129), generator=torch.Generator().manual_seed(1))
    batches = [MicroBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())] * engine.accumulation_steps
    engine.train_step(batches, 1e-3)

    def step() -> float:
        dist.barrier()
        start = time.perf_counter()
        engine.train_step(batches, 1e-3)
        return time.perf_counter() - start

    return step


def _summed(gradient: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    total = gradient.clone()
    dist.all_reduce(total, group=group)
    return total


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
