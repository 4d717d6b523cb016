"""`torchrun --nproc-per-node 2 scripts/bench_pipeline.py`: how long stages wait for one another, by schedule.

In: a process for each stage. Out: one table of seconds waited in a step, beside the formula of
pretrain/engines/zero_bubble.py. Always: the real engine with all its messages; its passes sleep besides, far longer
than they compute, so that the figures do not depend on how fast this machine is.
"""

import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist

from common.cli import run_command
from common.flags import FlagParser
from common.ranges import check_range
from data.batch import BatchConfig
from data.config import DataConfig
from model.config import ModelConfig
from pretrain.config import ParallelConfig, RunConfig
from pretrain.engines.accelerator import choose_accelerator

Schedule = Literal["1f1b", "zero_bubble"]
SCHEDULES: tuple[Schedule, ...] = ("1f1b", "zero_bubble")
TOKENS = 16


def main(arguments: list[str]) -> int:
    """Prints the table on rank 0."""
    parser = FlagParser(prog="scripts/bench_pipeline.py", description=__doc__)
    parser.add_argument("--stages", type=int, default=2, help="as many processes")
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[2, 4, 8], help="of a step")
    parser.add_argument("--seconds", type=float, default=0.1, help="of a forward pass, and of each half of a backward")
    parser.add_argument("--rounds", type=int, default=2, help="steps of which the fastest counts")
    flags = parser.parse_args(arguments)
    check_range(flags, "--", "stages", low=2, high=64)
    check_range(flags, "--", "rounds", low=1)
    check_range(flags, "--", "seconds", low=0.001, high=10)
    choose_accelerator()
    from pretrain.engines.connection import connect, disconnect
    from pretrain.topology import topology_from_environment

    torch.set_num_threads(1)
    topology = topology_from_environment(ParallelConfig(pipeline=flags.stages))
    connect(topology)
    if topology.is_main:
        print("micro-batches  schedule     step (s)  waited (s)  by formula (s)  share")
    for micro_batches in flags.micro_batches:
        for schedule in SCHEDULES:
            step = _step_seconds(_config(flags.stages, micro_batches, schedule), flags.seconds, flags.rounds)
            waited = step - 3 * micro_batches * flags.seconds
            formula = (flags.stages - 1) * flags.seconds * {"1f1b": 3, "zero_bubble": 1}[schedule]
            if topology.is_main:
                line = f"{micro_batches:>13}  {schedule:<11}  {step:>8.2f}  {waited:>10.2f}  {formula:>14.2f}"
                print(f"{line}  {waited / step:>5.0%}", flush=True)
    disconnect()
    return 0


def _config(stages: int, micro_batches: int, schedule: Schedule) -> RunConfig:
    """A model of one tiny block for each stage."""
    return RunConfig(
        model=ModelConfig(
            num_layers=stages, hidden_size=16, ffn_hidden_size=24, num_heads=1, head_dim=8, rank=2, vocab_size=64
        ),
        data=DataConfig(sequence_length=TOKENS),
        parallel=ParallelConfig(pipeline=stages, pipeline_schedule=schedule),
        batch=BatchConfig(global_size=micro_batches, micro_size=1),
    )


def _step_seconds(config: RunConfig, seconds: float, rounds: int) -> float:
    """Of the fastest step, on the slowest stage; ``seconds`` are F, B and W each."""
    from pretrain.build import build_model
    from pretrain.engines import compat
    from pretrain.engines.build import build_engine
    from pretrain.engines.micro_batch import MicroBatch
    from pretrain.topology import topology_from_environment

    topology = topology_from_environment(config.parallel)
    engine = build_engine(config, topology, build_model(config, topology), judge=lambda loss, norm: True)
    tokens = torch.arange(TOKENS + 1)[None]
    batches = [MicroBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())] * engine.accumulation_steps
    engine.train_step(batches, 1e-3)
    both = 2 if config.parallel.pipeline_schedule == "1f1b" else 1
    for kind, times in (("ForwardPass", 1), ("BackwardPass", both), ("WeightGradients", 1)):
        compat.after_each(engine.deepspeed, kind, partial(time.sleep, times * seconds))
    return min(_timed(engine, batches) for _ in range(rounds))


def _timed(engine: Any, batches: Sequence[Any]) -> float:
    dist.barrier()
    start = time.perf_counter()
    engine.train_step(batches, 1e-3)
    dist.barrier()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
