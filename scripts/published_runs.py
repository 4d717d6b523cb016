"""`python scripts/published_runs.py`: what others measured on H100s, beside what the planner says of the same runs.

In: published runs of plain Transformers, as standard models of the same sizes under ZeRO 3. Out: a table of tokens per
second and device with each error, and their mean. Always: the planner takes its assumptions from pretrain/devices.py as
for any run; nothing is fitted to one row.

MPT's feed-forward network has two matrices of 4 D, a SwiGLU of as many elements three of 8/3 D. What a run had and this
project's layers do not (learned positions, biases, torch.compile) is not planned.
"""

import statistics
import sys
from dataclasses import dataclass, replace

from common.cli import run_command
from common.flags import FlagParser
from data.batch import BatchConfig
from data.config import DataConfig
from model.config import ModelConfig
from model.kinds.standard import Standard
from pretrain.config import ParallelConfig, RunConfig, TrainConfig
from pretrain.devices import DEFAULT_DEVICE, DEVICES, Device

MPT_SIZES = {
    "760M": (24, 1536),
    "1B": (24, 2048),
    "3B": (32, 2560),
    "7B": (32, 4096),
    "13B": (40, 5120),
    "30B": (48, 7168),
    "70B": (80, 8192),
}
"""layers, hidden size; heads of 128"""
MPT_ROWS = (
    ("760M", 2048, 32, 24, 1, False, 67971),
    ("1B", 2048, 8, 14, 1, False, 45455),
    ("1B", 2048, 64, 20, 1, False, 44402),
    ("1B", 8192, 8, 3, 4, False, 29157),
    ("3B", 2048, 16, 10, 3, False, 24142),
    ("3B", 2048, 64, 6, 3, False, 22525),
    ("3B", 4096, 8, 5, 6, False, 20964),
    ("7B", 2048, 8, 6, 1, False, 10643),
    ("7B", 4096, 8, 16, 2, True, 8611),
    ("13B", 2048, 8, 2, 1, False, 4792),
    ("13B", 2048, 64, 2, 1, False, 4800),
    ("13B", 4096, 8, 10, 3, True, 4717),
    ("30B", 2048, 32, 14, 3, True, 2308),
    ("70B", 2048, 64, 8, 4, True, 1039),
)
"""size, tokens of a sequence, devices, micro-batch, micro-batches, full recomputation, tokens per second and device:
mosaicml/llm-foundry, scripts/train/benchmarking, table "H100 80GB BF16" """


@dataclass(frozen=True)
class Published:
    """One run that others have measured."""

    name: str
    devices: int
    config: RunConfig
    tokens_per_second: float
    """of one device"""
    device: Device = DEVICES[DEFAULT_DEVICE]


def published() -> list[Published]:
    """All of them."""
    return [*(_mpt(*row) for row in MPT_ROWS), _llama_8b(8, 6667), _llama_8b(128, 6514)]


def planned_tokens_per_second(run: Published) -> float:
    """Of one device, by the planner."""
    from pretrain.plan.cluster import Cluster
    from pretrain.plan.time import step_time
    from pretrain.topology import plan_topology

    topology = plan_topology(run.config.parallel, run.devices)
    time = step_time(run.config, topology, Cluster(run.device))
    return time.tokens_per_second / run.devices


def report() -> list[str]:
    """The table's lines."""
    lines = [f"{'run':<34}{'devices':>8}{'published':>11}{'planned':>9}{'error':>8}"]
    errors = []
    for run in published():
        planned = planned_tokens_per_second(run)
        errors.append(planned / run.tokens_per_second - 1)
        lines.append(f"{run.name:<34}{run.devices:>8}{run.tokens_per_second:>11,.0f}{planned:>9,.0f}{errors[-1]:>8.0%}")
    size = statistics.mean(abs(error) for error in errors)
    return [*lines, f"tokens per second and device; error: mean {statistics.mean(errors):+.0%}, mean size {size:.0%}"]


def main(arguments: list[str]) -> int:
    """Prints the table."""
    FlagParser(prog="python scripts/published_runs.py", description=__doc__).parse_args(arguments)
    print("\n".join(report()))
    return 0


def _mpt(
    size: str, length: int, devices: int, micro_size: int, micro_batches: int, recomputes: bool, speed: float
) -> Published:
    layers, hidden = MPT_SIZES[size]
    model = ModelConfig(
        attention=Standard.name,
        num_layers=layers,
        hidden_size=hidden,
        ffn_hidden_size=8 * hidden // 3,
        num_heads=hidden // 256,
        head_dim=128,
        vocab_size=50368,
    )
    name = f"MPT {size}, T {length}" + ", recomputed" * recomputes
    return Published(name, devices, _run(model, length, devices, micro_size, micro_batches, recomputes), speed)


def _llama_8b(devices: int, speed: float) -> Published:
    """torchtitan, benchmarks/llama3_h100_202412: FSDP, compiled, H100s of 500 W with slower memory."""
    model = ModelConfig(
        attention=Standard.name,
        num_layers=32,
        hidden_size=4096,
        ffn_hidden_size=14336,
        num_heads=16,
        head_dim=128,
        num_kv_heads=8,
        vocab_size=128256,
        tie_embeddings=False,
    )
    device = replace(DEVICES[DEFAULT_DEVICE], memory_bandwidth=2.4e12)
    config = _run(model, 8192, devices, 2, 1, False)
    return Published("Llama 3.1 8B, T 8192 (torchtitan)", devices, config, speed, device)


def _run(model: ModelConfig, length: int, devices: int, micro_size: int, micro_batches: int, full: bool) -> RunConfig:
    return RunConfig(
        model=model,
        data=DataConfig(sequence_length=length),
        parallel=ParallelConfig(zero_stage=3),
        batch=BatchConfig(global_size=devices * micro_size * micro_batches, micro_size=micro_size),
        train=TrainConfig(precision="bf16", activation_checkpointing="full" if full else "none"),
    )


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
