"""What telemetry costs: `python scripts/bench_telemetry.py`, or under torchrun with more processes.

In: a training config, for its sizes. Out: one table: seconds of wall clock and of this process's CPU for each step
without telemetry and with it every `--every` steps, and their ratio. Always: two engines of one process take every step
in turn, so that a noisy machine disturbs both alike; a round is `--every` steps of each, and the median of the rounds
counts.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist

from common.cli import parse_config, run_command
from common.errors import InputError
from common.flags import FlagParser
from pretrain.config import RunConfig
from pretrain.engines.accelerator import choose_accelerator


@dataclass
class Contender:
    """One engine, and what its rounds took for each step."""

    step: Callable[[int], None]
    """takes the step of this number"""
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def main(arguments: list[str]) -> int:
    """Prints the table on rank 0."""
    parser = FlagParser(prog="python scripts/bench_telemetry.py", description=__doc__)
    parser.add_argument("--config", default="configs/debug_cpu.yaml", help="training config, for its sizes")
    parser.add_argument("--every", type=int, default=10, help="steps between those that are looked into")
    parser.add_argument("--rounds", type=int, default=10, help="measured rounds, after one that is not")
    flags = parser.parse_args(arguments)
    for name in ("every", "rounds"):
        if getattr(flags, name) < 1:
            raise InputError(f"--{name}: must be at least 1, is {getattr(flags, name)}")
    choose_accelerator()
    from pretrain.engines.connection import connect, disconnect
    from pretrain.topology import topology_from_environment

    config = parse_config(RunConfig, ["--config", flags.config], "python scripts/bench_telemetry.py")
    topology = topology_from_environment(config.parallel)
    connect(topology)
    torch.set_num_threads(1)
    off, on = _contender(config, 0), _contender(config, flags.every)
    for number in range(1 + flags.rounds):
        _round(off, on, number, flags.every)
    if topology.is_main:
        print("\n".join(table(off, on, flags.every)), flush=True)
    disconnect()
    return 0


def table(off: Contender, on: Contender, every: int) -> list[str]:
    """The lines, without the round that warms up."""
    lines = [f"{'per step':<10}{'off (ms)':>10}{f'every {every} (ms)':>16}{'ratio':>8}{'of the rounds':>20}"]
    for name in ("wall", "cpu"):
        without, with_it = (getattr(contender, name)[1:] for contender in (off, on))
        ratios = [b / a for a, b in zip(without, with_it, strict=True)]
        milliseconds = [1000 * statistics.median(values) for values in (without, with_it)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        lines.append(
            f"{name:<10}{milliseconds[0]:>10.1f}{milliseconds[1]:>16.1f}{statistics.median(ratios):>8.3f}{spread:>20}"
        )
    return lines


def _round(off: Contender, on: Contender, number: int, every: int) -> None:
    """``every`` steps of each, one after the other, each first in every other step."""
    wall, cpu = {id(off): 0.0, id(on): 0.0}, {id(off): 0.0, id(on): 0.0}
    for step in range(number * every, (number + 1) * every):
        for contender in (off, on) if step % 2 else (on, off):
            dist.barrier()
            began = time.perf_counter(), time.process_time()
            contender.step(step)
            wall[id(contender)] += time.perf_counter() - began[0]
            cpu[id(contender)] += time.process_time() - began[1]
    for contender in (off, on):
        contender.wall.append(wall[id(contender)] / every)
        contender.cpu.append(cpu[id(contender)] / every)


def _contender(config: RunConfig, every: int) -> Contender:
    """An engine whose telemetry looks into every ``every``-th step, with tokens drawn at random."""
    from model.recorder import Recorder
    from pretrain.build import build_model
    from pretrain.engines.build import build_engine
    from pretrain.engines.micro_batch import MicroBatch
    from pretrain.telemetry.telemetry import Telemetry
    from pretrain.topology import topology_from_environment

    config = replace(config, metrics=replace(config.metrics, telemetry_every=every))
    topology = topology_from_environment(config.parallel)
    recorder = Recorder()
    layers, sharding = build_model(config, topology, recorder)
    engine = build_engine(config, topology, layers, sharding, judge=lambda loss, norm: True)
    telemetry = Telemetry(config, engine, recorder)
    shape = (config.batch.micro_size, config.data.sequence_length + 1)
    tokens = torch.randint(0, config.model.vocab_size, shape, generator=torch.Generator().manual_seed(topology.rank))
    batches = [MicroBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())] * engine.accumulation_steps

    def step(number: int) -> None:
        inside = telemetry.due(number + 1)
        if inside:
            telemetry.begin()
        result = engine.train_step(batches, config.optimizer.learning_rate)
        if inside:
            telemetry.end(result)

    return Contender(step)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
