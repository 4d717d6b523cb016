"""`make calibrate`: how fast this device multiplies, attends, reads and sends, for the planner.

In: the devices of one node, a process each, under torchrun; of several nodes where it is started on all. Out: a table,
and a file that `scripts/plan.py --device FILE` takes. Always: all processes measure at once, as they would train, and
the slowest of them counts.
"""

import datetime
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

from common.cli import run_command
from common.environment import whole_number
from common.flags import FlagParser
from pretrain.plan.calibration import Calibration, write_calibration
from scripts.speed.timing import median_seconds

OUTPUT = "runs/calibration.json"
ATTENTION_PASSES = 3.5
"""products of both passes for one of the forward pass, as pretrain/plan/layer_times.py counts them"""


@dataclass(frozen=True)
class Sizes:
    """Of what is measured."""

    tokens: int
    width: int
    ffn_width: int
    length: int
    """tokens of a sample"""
    head_dim: int
    sent: int
    """bytes of one exchange"""
    rounds: int


ON_GPU = Sizes(tokens=16_384, width=3072, ffn_width=8192, length=4096, head_dim=128, sent=2**28, rounds=20)
ON_CPU = Sizes(tokens=1024, width=768, ffn_width=2048, length=1024, head_dim=64, sent=2**23, rounds=7)


def main(arguments: list[str]) -> int:
    """Measures; the first process writes and tells."""
    parser = FlagParser(prog="python scripts/calibrate.py", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(OUTPUT), help="file for the figures")
    flags = parser.parse_args(arguments)
    device = _device()
    ranks = whole_number("WORLD_SIZE", 1, low=1)
    if ranks > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        found = measure(device, ON_GPU if device.type == "cuda" else ON_CPU)
    finally:
        if ranks > 1:
            dist.destroy_process_group()
    if whole_number("RANK", 0) == 0:
        write_calibration(flags.output, found)
        print("\n".join([*table(found), f"written to {flags.output}; plan with it: --device {flags.output}"]))
    return 0


def measure(device: torch.device, sizes: Sizes) -> Calibration:
    """A collective call of all processes, if there are several."""
    rate = partial(_slowest, device=device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    link, network = _links(device, sizes)
    return Calibration(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        torch=torch.__version__,
        backend="nccl" if device.type == "cuda" else "gloo",
        memory=_memory(device),
        bf16_products=rate(_products(device, torch.bfloat16, sizes)),
        fp32_products=rate(_products(device, torch.float32, sizes)),
        attention=rate(_attention(device, dtype, sizes)),
        memory_bandwidth=rate(_norm(device, dtype, sizes)),
        link=link,
        network=network,
    )


def table(found: Calibration) -> list[str]:
    """The figures, beside those of the data sheet where there is one."""
    rows = [
        ("products in bf16, TFLOP/s", 1e12, "bf16_products", "bf16_flops"),
        ("products in fp32, TFLOP/s", 1e12, "fp32_products", "fp32_flops"),
        ("attention, TFLOP/s", 1e12, "attention", ""),
        ("memory, in a norm, GB/s", 1e9, "memory_bandwidth", "memory_bandwidth"),
        ("link inside the node, GB/s", 1e9, "link", "link"),
        ("network between nodes, GB/s", 1e9, "network", "network"),
    ]
    lines = [f"{found.device:<32}{'measured':>12}{'data sheet':>12}"]
    for words, unit, ours, sheet in rows:
        cells = (getattr(found, ours), getattr(found.known, sheet, None))
        lines.append(f"  {words:<30}" + "".join(f"{_shown(value, unit):>12}" for value in cells))
    return lines


def _shown(value: float | None, unit: float) -> str:
    return "-" if value is None else f"{value / unit:,.4g}"


Work = tuple[Callable[[], object], float, int]
"""what is timed, what it does (FLOP, bytes), and how often it is timed"""


def _products(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Work:
    """The products of a block: an attention projection, and both of a feed-forward network."""
    T, D, width = sizes.tokens, sizes.width, sizes.ffn_width
    x, y = torch.randn(T, D, device=device, dtype=dtype), torch.randn(T, width, device=device, dtype=dtype)
    square = torch.randn(D, D, device=device, dtype=dtype)
    up, down = torch.randn(width, D, device=device, dtype=dtype), torch.randn(D, width, device=device, dtype=dtype)

    def run() -> None:
        F.linear(x, square)
        F.linear(x, up)
        F.linear(y, down)

    return run, 2.0 * T * D * (D + 2 * width), sizes.rounds


def _attention(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Work:
    """Causal, both passes: of T x T the half that counts."""
    T, K, heads = sizes.length, sizes.head_dim, sizes.width // sizes.head_dim
    B = max(1, sizes.tokens // T)
    q, k, v = (torch.randn(B, heads, T, K, device=device, dtype=dtype, requires_grad=True) for _ in range(3))

    def run() -> None:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.autograd.grad(out, (q, k, v), torch.ones_like(out))

    return run, ATTENTION_PASSES * 2.0 * B * heads * T * T * K, sizes.rounds


def _norm(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Work:
    """Reads and writes every number once."""
    x = torch.randn(sizes.tokens, sizes.ffn_width, device=device, dtype=dtype)
    weight = torch.ones(sizes.ffn_width, device=device, dtype=dtype)
    return lambda: F.rms_norm(x, (sizes.ffn_width,), weight), 2.0 * x.numel() * x.itemsize, sizes.rounds


def _links(device: torch.device, sizes: Sizes) -> tuple[float | None, float | None]:
    """Bytes/s that a rank sends in an all-reduce inside its node, and, as its part of it, in one of all ranks."""
    if not dist.is_initialized():
        return None, None
    ranks, inside = dist.get_world_size(), whole_number("LOCAL_WORLD_SIZE", dist.get_world_size(), low=1)
    values = torch.zeros(sizes.sent // 4, device=device)

    def rate(members: int, group: dist.ProcessGroup | None) -> float:
        sent = 2 * (members - 1) / members * sizes.sent
        return _slowest((partial(dist.all_reduce, values, group=group), sent, sizes.rounds), device)

    groups: Sequence[dist.ProcessGroup] = [
        dist.new_group(list(range(first, first + inside))) for first in range(0, ranks, inside)
    ]
    link = rate(inside, groups[dist.get_rank() // inside]) if inside > 1 else None
    network = rate(ranks, None) / inside if ranks > inside else None
    return link, network


def _slowest(work: Work, device: torch.device) -> float:
    """What it does in a second, on the slowest of all processes."""
    run, amount, rounds = work
    seconds = torch.tensor(median_seconds({"": run}, rounds, device)[""], device=device)
    if dist.is_initialized():
        dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    return amount / seconds.item()


def _memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return pages / whole_number("LOCAL_WORLD_SIZE", 1, low=1)


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", whole_number("LOCAL_RANK", 0))
    torch.cuda.set_device(device)
    return device


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:], quiet=os.environ.get("RANK", "0") != "0"))
