"""What to change in a plan, and what its time rests on: the end of `scripts/plan.py`'s page.

In: a Plan. Out: the best neighbour of its split, found by the planner's own search, and the lines that say it.
Always: of changes that are equally good the smallest; what saves next to nothing is none.
"""

from dataclasses import dataclass
from typing import Any

from common.errors import InputError
from pretrain.devices import DEFAULT_DEVICE
from pretrain.plan.cluster import Cluster
from pretrain.plan.plan import Plan
from pretrain.plan.report import GIB, duration
from pretrain.plan.search import Candidate, as_flags, nearby, search

WORTH = 0.01
"""share of the time that a change must save, and within which another one counts as equally good"""


@dataclass(frozen=True)
class Advice:
    """The best of a plan's neighbours."""

    candidate: Candidate
    changes: dict[str, str]
    """its settings that the plan's config has not, by key"""

    def as_json(self) -> dict[str, Any]:
        """For machines: the settings to change, and what they lead to, in bytes and seconds."""
        return self.candidate.as_json() | {"settings": self.changes}


def advise(plan: Plan) -> Advice | None:
    """What to change; None where no neighbour of the plan's split that fits is worth it."""
    config, cluster = plan.config, plan.cluster
    try:
        found = search(config, plan.topology.world_size, cluster, nearby(config, cluster.gpus_per_node))
    except InputError:  # none of them fits
        return None
    best = found[0].time.total
    if plan.fits and best > (1 - WORTH) * plan.seconds:
        return None
    as_good = [candidate for candidate in found if candidate.time.total <= (1 + WORTH) * best]
    candidate = min(as_good, key=lambda one: (len(one.changes(config)), one.time.total))
    return Advice(candidate, candidate.changes(config))


def advice_lines(plan: Plan, advice: Advice | None) -> list[str]:
    """The last lines of a plan's page."""
    return [*_to_change(plan, advice), "", *rests_on(plan.cluster)]


def _to_change(plan: Plan, advice: Advice | None) -> list[str]:
    if advice is None and not plan.fits:
        return ["what to change: nothing near this split fits; --search --world-size N looks at every one"]
    if advice is None:
        return [f"what to change: nothing; no neighbour of this split saves {WORTH:.0%} of the time"]
    found = advice.candidate
    time, hours = duration(found.run_seconds), f"{found.device_hours:,.0f} device-hours"
    if plan.fits:
        time += f" instead of {duration(plan.run_seconds)}"
        hours += f" instead of {plan.device_hours:,.0f}"
    return [
        f"what to change: {as_flags(advice.changes)}",
        f"  then {time}, {hours}, {found.memory.total / GIB:.1f} GiB",
    ]


def rests_on(cluster: Cluster) -> list[str]:
    """Which figures behind a plan are counted, which measured, and which assumed."""
    return [
        "what this rests on",
        "  counted    bytes that are exchanged and kept: tests compare the formulas with real steps",
        *_rates(cluster),
        "  assumed    latencies of exchanges: NCCL's own table (pretrain/plan/cluster.py)",
        "  left out   waits of the host, of the disk and of data; restarts, evaluations and saves",
    ]


def _rates(cluster: Cluster) -> list[str]:
    if cluster.measured is not None:
        return [
            f"  measured   products, attention, memory and links of {cluster.device_name} ({cluster.measured});",
            f"             links that were not there: its data sheet's, or {DEFAULT_DEVICE}'s",
            f"  assumed    {cluster.traffic:g} bytes moved for each byte kept: fitted to what others measured on H100s",
        ]
    return [
        f"  assumed    peaks, memory and links of {cluster.device_name}: its maker's data sheet (pretrain/devices.py)",
        f"  assumed    what programs make of them: {cluster.efficiency:.0%} in products, "
        f"{cluster.attention_efficiency:.0%} in attention, {cluster.traffic:g} bytes moved for each byte kept;",
        "             fitted to what others measured on H100s; docs/parallelism.md says how far plans are off",
    ]
