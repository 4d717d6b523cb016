"""What longer samples need, and what it gains that ranks share them.

In: a RunConfig, a number of devices and a Cluster. Out: for each length of samples and number of ranks that share one,
memory and time. Always: everything else is the config's: its tokens per step, but one sample for each replica at least,
and micro-batches of one sample; each place takes the cheaper exchange across the parts of a sample.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from common.errors import InputError
from model.split import ContextExchange
from pretrain.checks import check_run
from pretrain.config import RunConfig
from pretrain.plan.cluster import Cluster
from pretrain.plan.memory import RankMemory, most_loaded
from pretrain.plan.plan import USABLE
from pretrain.plan.report import GIB, table
from pretrain.plan.search import CONTEXTS, EXCHANGES
from pretrain.plan.time import StepTime, step_time
from pretrain.topology import plan_topology

LENGTHS = tuple(2**power for power in range(12, 21, 2))
"""4K to 1M"""


@dataclass(frozen=True)
class Place:
    """One length, and so many ranks that share a sample."""

    length: int
    context: int
    exchange: ContextExchange
    memory: RankMemory
    """of the most loaded rank"""
    fits: bool
    time: StepTime

    def as_json(self) -> dict[str, Any]:
        """Its figures, for machines: bytes and seconds."""
        return {
            "sequence_length": self.length,
            "context": self.context,
            "context_exchange": self.exchange,
            "memory": self.memory.total,
            "fits": self.fits,
            "step": asdict(self.time)
            | {"seconds": self.time.total, "model_flops_utilization": self.time.model_flops_utilization},
        }


def plan_lengths(config: RunConfig, world_size: int, cluster: Cluster) -> list[Place]:
    """Every place that the model can be split for; lengths ascending, then ranks.

    Raises:
        InputError: there is none.
    """
    found = [
        min(places, key=lambda place: place.time.total)
        for length in LENGTHS
        for context in CONTEXTS
        if (places := _places(config, world_size, cluster, length, context))
    ]
    if not found:
        raise InputError(
            f"--world-size {world_size}: no sample of {LENGTHS[0]} to {LENGTHS[-1]} tokens can be split there; "
            f"a multiple of parallel.tensor x parallel.pipeline x {CONTEXTS[-1]} devices can"
        )
    return found


def lengths_report(config: RunConfig, world_size: int, cluster: Cluster, places: Sequence[Place]) -> list[str]:
    """Two tables, memory and use of the devices."""
    by_place = {(place.length, place.context): place for place in places}
    head = ["", *(f"context {context}" for context in CONTEXTS)]

    def rows(title: str, cell: Any) -> list[str]:
        body = [
            [_tokens(length), *(cell(by_place.get((length, context))) for context in CONTEXTS)] for length in LENGTHS
        ]
        return table([[title, *head[1:]], *body])

    return [
        f"{config.name} on {world_size} x {cluster.device_name}, micro-batches of one sample, checkpointing "
        f"{config.train.activation_checkpointing}",
        *rows("GiB", _memory),
        "",
        *rows("MFU", _utilization),
        "",
        f"(*: more than {USABLE:.0%} of {cluster.device.memory / GIB:.0f} GiB; g: keys and values are gathered,",
        " h: heads are exchanged, whichever takes less time; -: cannot be split so)",
    ]


def _memory(place: Place | None) -> str:
    return "-" if place is None else f"{place.memory.total / GIB:.1f}" + " *"[not place.fits]


def _utilization(place: Place | None) -> str:
    if place is None:
        return "-"
    return f"{place.time.model_flops_utilization:.1%} {place.exchange[0] if place.context > 1 else ' '}"


def _tokens(length: int) -> str:
    """As in "64K"."""
    return f"{length // 2**10}K" if length < 2**20 else f"{length // 2**20}M"


def _places(config: RunConfig, world_size: int, cluster: Cluster, length: int, context: int) -> list[Place]:
    """With either exchange, where that is possible."""
    found = []
    for exchange in EXCHANGES[: min(context, 2)]:
        parallel = replace(config.parallel, context=context, context_exchange=exchange)
        try:
            topology = plan_topology(parallel, world_size)
            samples = config.batch.global_size * config.data.sequence_length // length
            replicas = topology.data_size
            size = max(1, samples // replicas) * replicas
            variant = replace(
                config,
                parallel=parallel,
                data=replace(config.data, sequence_length=length, stages=[]),
                batch=replace(config.batch, global_size=size, micro_size=1, ramp=[]),
            )
            check_run(variant, topology)
        except InputError:
            continue
        memory = most_loaded(variant, topology)
        fits = memory.total <= USABLE * cluster.device.memory
        found.append(Place(length, context, exchange, memory, fits, step_time(variant, topology, cluster)))
    return found
