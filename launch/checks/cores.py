"""Cores of one's own: the masks that Slurm or a container put on the ranks, against the threads that they start.

In: every rank's affinity mask and number of threads. Out: one Finding; ranks that share cores are a warning that names
node, ranks and cores.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.checks.finding import Finding, Level
from launch.checks.ranks import Ranks

SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


@dataclass(frozen=True)
class RankCores:
    """What one rank may compute on, and how many threads it does it with."""

    cores: Mapping[str, frozenset[int]]
    """cores of its mask, by the name that their hyperthreads share, and those of these that are in it"""
    threads: int


def check_cores(ranks: Ranks) -> Finding:
    """Which cores each rank may use, and whether ranks share them; a collective call."""
    import torch

    return judge_cores(ranks.hosts, ranks.ask(RankCores(own_cores(), torch.get_num_threads())))


def own_cores(siblings: str = SIBLINGS) -> dict[str, frozenset[int]]:
    """The cores of this process's own mask; two hyperthreads are one core."""
    cores: dict[str, frozenset[int]] = {}
    for number in sorted(os.sched_getaffinity(0)):
        try:
            name = Path(siblings.format(number)).read_text().strip()
        except OSError:
            name = str(number)
        cores[name] = cores.get(name, frozenset()) | {number}
    return cores


def judge_cores(hosts: Sequence[str], answers: Sequence[RankCores]) -> Finding:
    """``hosts`` and ``answers`` by rank."""
    nodes: dict[str, dict[int, RankCores]] = {}
    for rank, (host, answer) in enumerate(zip(hosts, answers, strict=True)):
        nodes.setdefault(host, {})[rank] = answer
    crowded = [text for node, ranks in nodes.items() if (text := _crowd(node, ranks))]
    if crowded:
        advice = "more cores (site.cpus_per_task) or fewer threads (OMP_NUM_THREADS) make it faster"
        return Finding("cores", f"{'; '.join(crowded)}; {advice}", Level.WARNING)
    counts = [len(set().union(*(answer.cores for answer in ranks.values()))) for ranks in nodes.values()]
    threads = [sum(answer.threads for answer in ranks.values()) for ranks in nodes.values()]
    return Finding("cores", f"{_range(threads)} of ranks on {_range(counts, 'core')} of each node")


def _crowd(node: str, ranks: Mapping[int, RankCores]) -> str:
    """The smallest group of ranks on a node with more ranks than cores, or more threads than their hyperthreads."""
    groups = [set(answer.cores) for answer in ranks.values()] + [set().union(*(a.cores for a in ranks.values()))]
    for cores in sorted(groups, key=len):
        within = {rank: answer for rank, answer in ranks.items() if answer.cores.keys() <= cores}
        threads = sum(answer.threads for answer in within.values())
        places = sorted({place for answer in within.values() for own in answer.cores.values() for place in own})
        if len(within) > len(cores) or threads > len(places):
            who = f"rank{'s' if len(within) > 1 else ''} {spans(sorted(within))}"
            what = f" with {threads} threads" if threads > len(within) else ""
            verb = "has" if len(within) == 1 else "share"
            return f"{node}: {who}{what} {verb} {_range([len(cores)], 'core')} (CPU {spans(places)})"
    return ""


def spans(numbers: Sequence[int]) -> str:
    """ "0-3, 8" of ascending numbers."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def _range(counts: Sequence[int], what: str = "thread") -> str:
    low, high = min(counts), max(counts)
    return f"{low if low == high else f'{low} to {high}'} {what}{'' if high == 1 else 's'}"
