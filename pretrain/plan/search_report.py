"""The candidates of a search as a table.

In: candidates, fastest first. Out: lines. Always: shares are of the step's seconds; all but what is hidden add up
to all of it.
"""

from collections.abc import Sequence

from pretrain.plan.cluster import Cluster
from pretrain.plan.report import GIB, STEP_ROWS, duration, table
from pretrain.plan.search import Candidate

SHOWN = 10
"""candidates in the table; the JSON has all"""


def search_report(found: Sequence[Candidate], cluster: Cluster) -> list[str]:
    """The fastest candidates, what their steps' time goes into, and the flags of the first."""
    parts = [name for name in STEP_ROWS if name != "total"]  # the hidden one is a share, too, but not of the sum
    rows = [
        [
            "",
            "tensor",
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
            *parts,
        ]
    ]
    for number, candidate in enumerate(found[:SHOWN], start=1):
        parallel, time = candidate.config.parallel, candidate.time
        rows.append(
            [
                str(number),
                str(parallel.tensor),
                str(parallel.pipeline),
                str(parallel.zero_stage),
                str(parallel.partition_ranks or candidate.topology.data_size) if parallel.zero_stage else "",
                parallel.gradient_exchange,
                str(candidate.config.batch.micro_size),
                candidate.config.train.activation_checkpointing,
                f"{candidate.memory.total / GIB:.1f}",
                f"{time.total:.3f}",
                f"{time.model_flops_utilization:.1%}",
                duration(candidate.run_seconds),
                *(f"{getattr(time, name) / time.total:.0%}" for name in parts),
            ]
        )
    first = found[0]
    return [
        f"{first.config.name} on {first.topology.world_size} x {cluster.device_name}: {len(found)} splits fit",
        *table(rows),
        "  (among: replicas that share one state; travels: type of gradients between them;",
        "   on the right: shares of the step",
        *(f"   {name:<10}  {STEP_ROWS[name]}" for name in parts),
        f"   products at {cluster.efficiency:.0%} of the peak, attention at {cluster.attention_efficiency:.0%})",
        f"the first: {first.flags()}",
    ]
