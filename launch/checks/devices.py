"""Every device computes, as fast as the others and the same.

In: one matrix product per rank. Out: Findings; a slow device is a warning, a wrong product an error, with its rank and
node.
"""

import hashlib
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from launch.checks.finding import Finding, Level
from launch.checks.ranks import Ranks

GPU_SIZE, CPU_SIZE = 4096, 512
WARM_UP, REPETITIONS = 3, 10
SLOW_GPU, SLOW_CPU = 1.25, 3.0
"""times the median above which a device is slow; the ranks of a CPU node share its cores"""


@dataclass(frozen=True)
class Product:
    """What one rank's device did."""

    device: str
    seconds: float
    digest: str
    """of the product; equal devices must give equal bits"""


def check_devices(ranks: Ranks) -> list[Finding]:
    """Multiplies two fixed matrices on every rank at once."""
    products = ranks.ask(multiply(ranks.device))
    size, slow = (CPU_SIZE, SLOW_CPU) if ranks.device.type == "cpu" else (GPU_SIZE, SLOW_GPU)
    return judge_products(ranks.hosts, products, operations=2 * size**3, slow=slow)


def multiply(device: torch.device) -> Product:
    """The median time of a product of seeded matrices on ``device``."""
    gpu = device.type == "cuda"
    size, dtype = (GPU_SIZE, torch.bfloat16) if gpu else (CPU_SIZE, torch.float32)
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    times = []
    for _ in range(WARM_UP + REPETITIONS):
        began = time.perf_counter()
        product = left @ right
        if gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    digest = hashlib.sha256(product.float().cpu().numpy().tobytes()).hexdigest()
    name = torch.cuda.get_device_name(device) if gpu else _cpu_name()
    return Product(name, statistics.median(times[WARM_UP:]), digest)


def judge_products(hosts: Sequence[str], products: Sequence[Product], operations: int, slow: float) -> list[Finding]:
    """Compares the ranks' products with each other."""
    findings = []
    typical = statistics.median(product.seconds for product in products)
    for rank, (host, product) in enumerate(zip(hosts, products, strict=True)):
        peers = Counter(other.digest for other in products if other.device == product.device)
        common, votes = peers.most_common(1)[0]
        if product.digest != common and votes > peers[product.digest]:
            text = f"rank {rank} on {host}: the matrix product differs from that of {votes} equal devices"
            findings.append(Finding("devices", f"{text}; take the node out", Level.ERROR))
        if product.seconds > slow * typical:
            text = f"rank {rank} on {host} takes {product.seconds / typical:.1f} times the median for a matrix product"
            findings.append(Finding("devices", text, Level.WARNING))
    names = ", ".join(f"{count} x {name}" for name, count in Counter(p.device for p in products).items())
    return [*findings, Finding("devices", f"{names}, {operations / typical / 1e12:.3g} TFLOP/s each (median)")]


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "CPU"
