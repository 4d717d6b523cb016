"""What ZeRO 1 and 2 exchange for each bucket, in the order in which pretrain/engines/zero does it.

In: a RunConfig and a Topology. Out: exchanges by bucket, and their sums. Always: the buckets are the engine's own
(pretrain/engines/zero/buckets.py); each exchange is counted once, here.

With e bytes per weight, c per gradient on its way, P elements of a padded bucket, n ranks that share it:

    gradients    reduce_scatter or all_to_all   c P     within the ranks that share partitions; ZeRO 2: M times
    further      all_reduce                     4 P/n   among those that keep the same part, where n < d; among
                                                        tensor-parallel ranks, of partial gradients; tied: both ends
    weights      all_gather                     e P     after the update
"""

from dataclasses import dataclass, replace

from pretrain.config import RunConfig
from pretrain.engines.deepspeed_config import accumulation_steps
from pretrain.engines.zero.gradients import TRAVELS, adds_on_the_way
from pretrain.plan.exchange import Exchange, Group, group_ranks, summed_by_purpose
from pretrain.plan.layers import stage_readers
from pretrain.plan.zero import planned_buckets
from pretrain.topology import Topology


@dataclass(frozen=True)
class BucketExchanges:
    """Of one bucket."""

    layers: tuple[int, ...]
    """places in the stage's list of layers of those that read its weights"""
    gradients: Exchange
    """of one micro-batch under ZeRO 2, of all of them under ZeRO 1"""
    further: tuple[Exchange, ...]
    """of this rank's part of the sums, one after the other"""
    weights: Exchange


def bucket_exchanges(config: RunConfig, topology: Topology, backend: str) -> list[BucketExchanges]:
    """In the order of the forward pass."""
    among = config.parallel.partition_ranks
    sharing = topology.sharing(among)
    readers = stage_readers(config, topology)
    travels = TRAVELS[config.parallel.gradient_exchange]
    adds = adds_on_the_way(travels, backend)
    weight = 2 if config.train.precision == "bf16" else 4
    tied = config.model.tie_embeddings and topology.rank in group_ranks(topology, "tied")
    found = []
    for bucket, size in planned_buckets(config, topology):
        members = [readers[index] for index in bucket.members]
        part = 4 * size // len(sharing)

        def further(group: Group, ranks: tuple[int, ...], purpose: str, size: int = part) -> Exchange:
            return Exchange(group, ranks, "all_reduce", purpose, size, overlaps=True)

        sums = [further("alike", topology.alike(among), "gradients of the same part")]
        if bucket.partial:
            sums.append(further("tensor", topology.ranks("tensor"), "gradients of replicated parameters"))
        if tied and members[0].info.name == "embedding.weight":
            sums.append(further("tied", group_ranks(topology, "tied"), "gradient of the tied embedding"))
        sent = travels.itemsize * size
        found.append(
            BucketExchanges(
                layers=tuple(sorted({layer for member in members for layer in member.layers})),
                gradients=Exchange(
                    "sharing",
                    sharing,
                    "reduce_scatter" if adds else "all_to_all",
                    "gradients",
                    sent,
                    own_bytes=0 if adds else sent / len(sharing),
                    overlaps=True,
                ),
                further=tuple(one for one in sums if len(one.ranks) > 1),
                weights=Exchange(
                    "sharing", sharing, "all_gather", "weights after the update", weight * size, overlaps=True
                ),
            )
        )
    return found


def summed_exchanges(config: RunConfig, topology: Topology, backend: str) -> list[Exchange]:
    """What all buckets exchange in a step."""
    passes = accumulation_steps(config, topology) if config.parallel.zero_stage == 2 else 1
    buckets = bucket_exchanges(config, topology, backend)
    gradients = summed_by_purpose(bucket.gradients for bucket in buckets)
    repeated = (
        replace(one, whole_bytes=passes * one.whole_bytes, own_bytes=passes * one.own_bytes, calls=passes * one.calls)
        for one in gradients
    )
    return [
        *repeated,
        *summed_by_purpose(one for bucket in buckets for one in bucket.further),
        *summed_by_purpose(bucket.weights for bucket in buckets),
    ]
