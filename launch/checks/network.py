"""All-reduce inside every node and between neighbouring nodes, with bandwidths; slow nodes are named.

In: the connected ranks. Out: Findings. Between nodes, every node is measured with its neighbour on either side, all
ranks of both nodes taking part; a node whose better side is slow is the slow one, its neighbours are not.
Bandwidth is 2 (n - 1) / n * bytes / seconds for n ranks: what each rank sends.
Always: no group of these outlives the check.
"""

import statistics
import time
from collections.abc import Sequence

import torch
import torch.distributed as dist

from launch.checks.finding import Finding, Level
from launch.checks.ranks import Ranks

GPU_BYTES, CPU_BYTES = 256 * 2**20, 8 * 2**20
WARM_UP, REPETITIONS = 2, 5
SLOW = 0.6
"""share of the median bandwidth below which a node is slow"""


def check_network(ranks: Ranks) -> list[Finding]:
    """Measures and judges; a collective call."""
    findings = []
    nodes = ranks.nodes
    inside = {name: group for name, group in nodes.items() if len(group) > 1}
    if inside:
        measured = _measure(ranks, list(inside.values()))
        findings += judge_bandwidths("all-reduce inside nodes", dict(zip(inside, measured, strict=True)))
    if len(nodes) > 1:
        names = list(nodes)
        best: dict[str, float] = dict.fromkeys(names, 0.0)
        for pairs in neighbour_rounds(len(names)):
            groups = [nodes[names[left]] + nodes[names[right]] for left, right in pairs]
            for (left, right), bandwidth in zip(pairs, _measure(ranks, groups), strict=True):
                for node in (names[left], names[right]):
                    best[node] = max(best[node], bandwidth)
        findings += judge_bandwidths("all-reduce between nodes", best)
    return findings


def neighbour_rounds(nodes: int) -> list[list[tuple[int, int]]]:
    """Every node with its neighbour on either side of a ring, in rounds in which no node appears twice."""
    if nodes == 2:
        return [[(0, 1)]]
    even = [(first, first + 1) for first in range(0, nodes - 1, 2)]
    odd = [(first, first + 1) for first in range(1, nodes - 1, 2)]
    closing = (nodes - 1, 0)
    return [even, [*odd, closing]] if nodes % 2 == 0 else [even, odd, [closing]]


def judge_bandwidths(what: str, bandwidths: dict[str, float]) -> list[Finding]:
    """Names the nodes far below the median; ``bandwidths`` in bytes per second."""
    typical = statistics.median(bandwidths.values())
    slow = [
        Finding(what, f"{node} reaches {_gigabytes(value)}, the median is {_gigabytes(typical)}", Level.WARNING)
        for node, value in bandwidths.items()
        if value < SLOW * typical
    ]
    return [*slow, Finding(what, f"{_gigabytes(typical)} (median of {len(bandwidths)})")]


def _measure(ranks: Ranks, groups: Sequence[list[int]]) -> list[float]:
    """Bytes per second of an all-reduce in each group, all at once; a collective call of all ranks."""
    size = CPU_BYTES if ranks.device.type == "cpu" else GPU_BYTES
    mine = None
    for members in groups:
        group = dist.new_group(sorted(members))
        if ranks.rank in members:
            mine = group, len(members)
    seconds = 0.0
    if mine is not None:
        group, count = mine
        data = torch.zeros(size // 4, dtype=torch.float32, device=ranks.device)
        times = []
        for _ in range(WARM_UP + REPETITIONS):
            began = time.perf_counter()
            dist.all_reduce(data, group=group)
            if ranks.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        seconds = statistics.median(times[WARM_UP:]) / (2 * (count - 1) / count)
        dist.destroy_process_group(group)
    slowest = ranks.ask(seconds)
    return [size / max(slowest[rank] for rank in members) for members in groups]


def _gigabytes(bandwidth: float) -> str:
    return f"{bandwidth / 1e9:.2f} GB/s"
