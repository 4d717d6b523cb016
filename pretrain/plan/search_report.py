"""The candidates of a search as a table.

In: candidates, fastest first. Out: lines. Always: shares are of the step's seconds; all but what is hidden add up
to all of it.
"""

from collections.abc import Sequence

from pretrain.plan.cluster import Cluster
from pretrain.plan.report import GIB, duration, step_rows, table
from pretrain.plan.search import EXCHANGES, Candidate

SHOWN = 10
"""candidates in the table; the JSON has all"""


def search_report(found: Sequence[Candidate], cluster: Cluster) -> list[str]:
    """The fastest candidates, what their steps' time goes into, and the flags of the first."""
    shared = any(candidate.topology.context_size > 1 for candidate in found[:SHOWN])
    words = {name: said for name, said in step_rows(shared).items() if name != "total"}
    rows = [
        [
            "",
            "tensor",
            *(["context", "by"] if shared else []),
            "stages",
            "ZeRO",
            "among",
            "travels",
            "micro",
            "recompute",
            "GiB",
            "step s",
            "MFU",
            "run",
            "device-hours",
            *words,
        ]
    ]
    for number, candidate in enumerate(found[:SHOWN], start=1):
        parallel, time = candidate.config.parallel, candidate.time
        rows.append(
            [
                str(number),
                str(parallel.tensor),
                *([str(parallel.context), parallel.context_exchange if parallel.context > 1 else ""] if shared else []),
                str(parallel.pipeline),
                str(parallel.zero_stage),
                str(parallel.partition_ranks or candidate.topology.copies) if parallel.zero_stage else "",
                parallel.gradient_exchange,
                str(candidate.config.batch.micro_size),
                candidate.config.train.activation_checkpointing,
                f"{candidate.memory.total / GIB:.1f}",
                f"{time.total:.3f}",
                f"{time.model_flops_utilization:.1%}",
                duration(candidate.run_seconds),
                f"{candidate.device_hours:,.0f}",
                *(f"{getattr(time, name) / time.total:.0%}" for name in words),
            ]
        )
    first, width = found[0], max(map(len, words))
    return [
        f"{first.config.name} on {first.topology.world_size} x {cluster.device_name}: {len(found)} splits fit",
        *table(rows),
        "  (among: replicas that share one state; travels: type of gradients between them;",
        "   on the right: shares of the step",
        *(f"   {name:<{width}}  {said}" for name, said in words.items()),
        f"   products at {cluster.efficiency:.0%} of the peak, attention at {cluster.attention_efficiency:.0%})",
        *_exchanges(found),
        f"the first: {first.flags()}",
    ]


def _exchanges(found: Sequence[Candidate]) -> list[str]:
    """Of the first that shares samples, what either way to reach across costs."""
    first = next((candidate for candidate in found if candidate.topology.context_size > 1), None)
    if first is None:
        return []
    said = []
    for exchange in EXCHANGES:
        config = first.with_exchange(exchange)
        same = next((candidate for candidate in found if candidate.config == config), None)
        said.append(f"{exchange} {f'{same.time.total:.3f} s' if same else 'is not possible or does not fit'}")
    number = found.index(first) + 1
    return [f"keys and values of {number}, the first with shared samples: {', '.join(said)} a step"]
