"""How long a step's passes wait for the exchanges between replicas, and how much of those they hide.

In: a RunConfig, a Topology, a Cluster, and what each stage's layers take. Out: seconds in the open and hidden. Always:
ZeRO 1 and 2 by the engine's rule (pretrain/plan/overlap.py), ZeRO 3 by DeepSpeed's (zero3_overlap.py); what is not said
to overlap is in the open.

    weights     the first forward pass of a step goes through the stages one after the other; each waits for its own
    gradients   the last backward pass goes back through them; the update waits for the last gradients of all stages
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.config import RunConfig
from pretrain.engines.deepspeed_config import accumulation_steps, exchanges_itself
from pretrain.plan.buckets import BucketExchanges, bucket_exchanges
from pretrain.plan.cluster import Cluster
from pretrain.plan.communication import step_communication
from pretrain.plan.exchange import Exchange
from pretrain.plan.layer_times import LayerTime
from pretrain.plan.overlap import Hop, PlannedBucket, backlog_of, backward_end, forward_end
from pretrain.plan.zero import zero3_calls
from pretrain.plan.zero3_overlap import zero3_exposed
from pretrain.topology import Topology


@dataclass(frozen=True)
class ReplicaTime:
    """Seconds of a step."""

    exposed: float
    """that passes and update wait"""
    hidden: float
    """of exchanges beside which passes go on, on the stage that hides least"""


@dataclass(frozen=True)
class _Stage:
    """What one stage computes and exchanges."""

    forward: list[float]
    backward: list[float]
    buckets: list[PlannedBucket]


def replica_time(
    config: RunConfig,
    stages: Sequence[Topology],
    times: Sequence[Sequence[LayerTime]],
    cluster: Cluster,
    update: float,
) -> ReplicaTime:
    """Of the exchanges that overlap.

    Args:
        stages: one rank of each pipeline stage. times: of their layers.
        update: seconds of the weights' update, beside which the first of them return.
    """
    if config.parallel.zero_stage == 3:
        return _zero3(config, stages[0], times[0], cluster)
    if not exchanges_itself(config):
        return ReplicaTime(0.0, 0.0)
    played = [
        _Stage(
            [time.forward for time in layers],
            [time.backward for time in layers],
            [_planned(bucket, cluster) for bucket in bucket_exchanges(config, stage, cluster.backend)],
        )
        for stage, layers in zip(stages, times, strict=True)
    ]
    passes = accumulation_steps(config, stages[0]) if config.parallel.zero_stage == 2 else 1
    exposed = _weights_wait(played, config.parallel.overlap, update)
    exposed += _gradients_wait(played, config.parallel.overlap, passes, streams=cluster.backend == "nccl")
    return ReplicaTime(exposed, max(0.0, min(_busy(stage, passes) for stage in played) - exposed))


def _weights_wait(stages: Sequence[_Stage], overlap: bool, update: float) -> float:
    end = 0.0
    for stage in stages:
        end = forward_end(stage.forward, stage.buckets, overlap, end, update)
    return end - sum(sum(stage.forward) for stage in stages)


def _gradients_wait(stages: Sequence[_Stage], overlap: bool, passes: int, streams: bool) -> float:
    """Of ``passes`` backward passes that send, the last one goes through all stages."""
    computed = arrived = earlier = 0.0
    for stage in reversed(stages):
        backlog: dict[str, float] = {}
        if overlap:
            backlog = backlog_of(stage.forward, stage.backward, stage.buckets, passes - 1)
        elif passes > 1:
            sent = [(hop.seconds + hop.late) for bucket in stage.buckets for hop in bucket.gradients]
            earlier = max(earlier, (passes - 1) * sum(sent))
        end = backward_end(stage.backward, stage.buckets, overlap, computed, backlog, streams)
        computed, arrived = end.computed, max(arrived, end.arrived)
    return earlier + max(computed, arrived) - sum(sum(stage.backward) for stage in stages)


def _busy(stage: _Stage, passes: int) -> float:
    """Seconds for which links carry something of this stage."""
    return sum(
        passes * sum(hop.seconds for hop in bucket.gradients)
        + sum(hop.seconds for hop in (*bucket.further, *bucket.weights))
        for bucket in stage.buckets
    )


def _planned(bucket: BucketExchanges, cluster: Cluster) -> PlannedBucket:
    def hops(*exchanges: Exchange) -> tuple[Hop, ...]:
        return tuple(
            Hop(cluster.link(one.ranks), cluster.seconds(one), cluster.late(one))
            for one in exchanges
            if len(one.ranks) > 1
        )

    path = tuple(one.purpose for one in bucket.further)
    return PlannedBucket(bucket.layers, hops(bucket.weights), hops(bucket.gradients), hops(*bucket.further), path)


def _zero3(config: RunConfig, topology: Topology, layers: Sequence[LayerTime], cluster: Cluster) -> ReplicaTime:
    steps = accumulation_steps(config, topology)
    gather = reduce = 0.0
    for exchange in step_communication(config, topology, cluster.backend):
        if exchange.overlaps and exchange.operation == "all_gather":
            gather += cluster.seconds(exchange) / steps
        elif exchange.overlaps:
            reduce += cluster.seconds(exchange) / steps
    exposed = zero3_exposed(
        zero3_calls(config, topology),
        gather,
        reduce,
        sum(time.forward for time in layers),
        sum(time.backward for time in layers),
        streams=cluster.backend == "nccl",
    )
    return ReplicaTime(steps * exposed, steps * max(0.0, gather + reduce - exposed))
