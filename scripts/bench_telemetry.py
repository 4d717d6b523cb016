"""What telemetry costs: `python scripts/bench_telemetry.py`, or under torchrun with more processes.

In: a training config, for its sizes. Out: one table: seconds of wall clock and of this process's CPU for each step
without telemetry and with it every `--every` steps, their ratio, and what a step costs more that is looked into.
Always: two engines of one process take every step in turn, so that a noisy machine disturbs both alike; a round is
`--every` steps of each, and medians count.
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
    """One engine, and what its steps took."""

    step: Callable[[int], None]
    """takes the step of this number"""
    wall: list[float] = field(default_factory=list)
    """seconds of every step"""
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
    heads = ("off (ms)", f"every {every} (ms)", "ratio", "of the rounds", "surplus (ms)")
    lines = [f"{'per step':<10}" + "".join(f"{head:>16}" for head in heads)]
    for name in ("wall", "cpu"):
        without, with_it = (getattr(contender, name)[every:] for contender in (off, on))
        rounds = [_rounds(steps, every) for steps in (without, with_it)]
        ratios = [b / a for a, b in zip(*rounds, strict=True)]
        milliseconds = [1000 * statistics.median(values) for values in rounds]
        looked = statistics.median(with_it[every - 1 :: every])
        others = statistics.median(
            seconds for number, seconds in enumerate(with_it, start=1) if number % every or every == 1
        )
        cells = (
            f"{milliseconds[0]:.1f}",
            f"{milliseconds[1]:.1f}",
            f"{statistics.median(ratios):.3f}",
            f"{min(ratios):.3f}-{max(ratios):.3f}",
            f"{1000 * (looked - others):.1f}",
        )
        lines.append(f"{name:<10}" + "".join(f"{cell:>16}" for cell in cells))
    return lines


def _rounds(seconds: list[float], every: int) -> list[float]:
    """Seconds per step of each round."""
    return [sum(seconds[first : first + every]) / every for first in range(0, len(seconds), every)]


def _round(off: Contender, on: Contender, number: int, every: int) -> None:
    """``every`` steps of each, one after the other, each first in every other step."""
    for step in range(number * every, (number + 1) * every):
        for contender in (off, on) if step % 2 else (on, off):
            dist.barrier()
            wall, cpu = time.perf_counter(), time.process_time()
            contender.step(step)
            contender.wall.append(time.perf_counter() - wall)
            contender.cpu.append(time.process_time() - cpu)


def _contender(config: RunConfig, every: int) -> Contender:
    """An engine whose telemetry looks into every ``every``-th step, with tokens drawn at random."""
    from model.recorder import Recorder
    from pretrain.build import build_model
    from pretrain.engines.build import build_engine
    from pretrain.telemetry.telemetry import Telemetry
    from pretrain.topology import topology_from_environment
    from scripts.speed.stepping import random_batches

    config = replace(config, metrics=replace(config.metrics, telemetry_every=every))
    topology = topology_from_environment(config.parallel)
    recorder = Recorder()
    layers = build_model(config, topology, recorder)
    engine = build_engine(config, topology, layers, judge=lambda loss, norm: True)
    telemetry = Telemetry(config, engine, recorder)
    batches = random_batches(config, engine.accumulation_steps, seed=topology.rank)

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
