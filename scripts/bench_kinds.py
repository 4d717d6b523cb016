"""The kinds of attention side by side, forward and backward of a whole model: `python scripts/bench_kinds.py`.

In: a training config, for its sizes; few of its layers are enough. Out: for each sequence length a table: time as a
ratio to `standard`, tokens per second, utilization where the device's peak is known, memory of the activations.
Always: the kinds take turns within one run, so that a noisy machine disturbs all alike; the median of
the rounds counts.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from common.cli import parse_config, run_command
from common.errors import InputError
from common.flags import FlagParser
from common.ranges import check_range
from model.block import kernels_of
from model.config import ModelConfig
from model.counts import training_flops_per_token
from model.kinds.registry import kind_names
from model.layers import LanguageModel, build_layers
from model.loss import mean_loss
from model.parallel import Unsharded
from pretrain.config import RunConfig
from pretrain.devices import device_peak_flops


@dataclass
class Contender:
    """One kind's model, and what was measured of it."""

    config: ModelConfig
    step: Callable[[torch.Tensor], None]
    form: str
    """of its attention product"""
    seconds: list[float] = field(default_factory=list)
    activation_bytes: int = 0


def main(arguments: list[str]) -> int:
    """Prints the tables."""
    parser = FlagParser(prog="python scripts/bench_kinds.py", description=__doc__)
    parser.add_argument("--config", default="configs/shared_diff_830m.yaml", help="training config, for its sizes")
    parser.add_argument("--layers", type=int, default=4, help="blocks that are built")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192], help="sequence lengths")
    parser.add_argument("--tokens", type=int, default=16384, help="tokens of a micro-batch")
    parser.add_argument("--rounds", type=int, default=10, help="measured rounds, after two that are not")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda or cpu")
    flags = parser.parse_args(arguments)
    check_range(flags, "--", "layers", "lengths", "tokens", "rounds", low=1)
    if flags.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {flags.device}: there is no CUDA device here; --device cpu runs without one")
    sizes = parse_config(RunConfig, ["--config", flags.config], "python scripts/bench_kinds.py").model
    device = torch.device(flags.device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, {str(dtype).removeprefix('torch.')}")
    print(f"{Path(flags.config).stem} with {flags.layers} blocks, {flags.tokens} tokens per micro-batch")
    for length in flags.lengths:
        contenders = [build(replace(sizes, num_layers=flags.layers, attention=kind), device) for kind in kind_names()]
        measure(contenders, flags.tokens, length, flags.rounds, device)
        print(f"\nsequence length {length}\n{'':<14}{'ratio':>8}{'tokens/s':>12}{'MFU':>8}{'activations':>14}  form")
        peak = device_peak_flops() if device.type == "cuda" else None
        for line in table(contenders, max(1, flags.tokens // length) * length, length, peak):
            print(line, flush=True)
    return 0


def build(config: ModelConfig, device: torch.device) -> Contender:
    """The model, and a function that runs it forward and backward."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    model = LanguageModel(build_layers(config, Unsharded(), seed=1, dtype=dtype, device=device))

    def step(tokens_BT: torch.Tensor) -> None:
        loss = model(tokens_BT[:, :-1], finish=mean_loss(tokens_BT[:, 1:]))
        loss.backward()
        model.zero_grad(set_to_none=False)

    return Contender(config, step, kernels_of(model).attention.name)


def measure(contenders: list[Contender], tokens: int, length: int, rounds: int, device: torch.device) -> None:
    """Lets the contenders take turns."""
    shape = (max(1, tokens // length), length + 1)
    tokens_BT = torch.randint(contenders[0].config.vocab_size, shape, device=device)
    for number in range(2 + rounds):
        for contender in contenders:
            before = _memory(device)
            begin = time.perf_counter()
            contender.step(tokens_BT)
            _wait(device)
            if number >= 2:
                contender.seconds.append(time.perf_counter() - begin)
                contender.activation_bytes = _peak_memory(device) - before


def table(contenders: list[Contender], tokens: int, length: int, peak: float | None) -> list[str]:
    """One line per kind; the first is what the others are compared with."""
    times = [statistics.median(contender.seconds) for contender in contenders]
    lines = []
    for contender, seconds in zip(contenders, times, strict=True):
        flops = training_flops_per_token(contender.config, length) * tokens / seconds
        utilization = f"{flops / peak:.1%}" if peak else "-"
        memory = f"{contender.activation_bytes / 2**30:.2f} GiB" if contender.activation_bytes else "-"
        lines.append(
            f"{contender.config.attention:<14}{seconds / times[0]:>8.2f}{tokens / seconds:>12,.0f}"
            f"{utilization:>8}{memory:>14}  {contender.form}"
        )
    return lines


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _memory(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak_memory(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
