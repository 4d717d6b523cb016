"""What the optimizer's update costs one rank beyond its state, on paper.

In: a RunConfig and a Topology. Out: what the rank updates, cut as DeepSpeed cuts it, and what the optimizer declares
that this costs. Always: pure arithmetic on shapes, for ZeRO 0 to 2; ZeRO-3 cuts each parameter by itself, and only
optimizers whose update costs nothing more work with it.
"""

from collections.abc import Iterator

from pretrain.config import RunConfig
from pretrain.optimizers.base import FREE, HeldPart, UpdateCost
from pretrain.optimizers.registry import optimizer_kind
from pretrain.plan.layers import elements_per_rank, stage_parameters
from pretrain.plan.zero import flat_members
from pretrain.topology import Topology


def update_cost(config: RunConfig, topology: Topology) -> UpdateCost:
    """What the update of ``topology.rank`` exchanges, keeps for a moment and computes."""
    if config.parallel.zero_stage == 3:
        return FREE
    element_bytes = 2 if config.train.precision == "bf16" else 4
    return optimizer_kind(config.optimizer).update_cost(held_parts(config, topology), element_bytes)


def held_parts(config: RunConfig, topology: Topology) -> Iterator[HeldPart]:
    """The parts of the stage's parameters that ``topology.rank`` updates; looked for when asked for."""
    parameters = stage_parameters(config, topology)
    shards = [elements_per_rank(info, topology.tensor_size) for info in parameters]
    cut = config.parallel.zero_stage > 0
    sharing = topology.sharing(config.parallel.partition_ranks) if cut else (topology.rank,)
    ranks, rank = len(sharing), sharing.index(topology.rank)
    for members, flat in flat_members(config, topology):
        size, first = flat // ranks, 0
        for info, shard in ((parameters[index], shards[index]) for index in members):
            last = first + shard
            here = min(last, (rank + 1) * size) - max(first, rank * size) if ranks > 1 else shard
            if here > 0:
                holders = (last - 1) // size - first // size + 1 if ranks > 1 else 1
                split = topology.tensor_size if info.shard_dim is not None else 1
                yield HeldPart(info, shard, split, here, holders)
            first = last
