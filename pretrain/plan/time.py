"""How long one optimizer step takes: an estimate from data sheets, with its assumptions in the open.

In: a RunConfig, a Topology and a Cluster. Out: seconds by part. Always: every floating-point operation at the same
share of the device's peak (``efficiency``), every exchange as pretrain/plan/cluster.py has it. The total counts of each
exchange what passes wait for it; what goes on beside them is told apart.

    micro-batch of a stage   its layers (pretrain/plan/layer_times.py) + activations from and to its neighbours
    pipeline                 the sum over the stages for the first micro-batch, the slowest stage for each other; less
                             where gradients of weights are deferred (pretrain/plan/deferred.py)
    between replicas         gradients and weights, tied and replicated gradients: what is left of them
                             (pretrain/plan/replicas.py), and what happens once per step in the open
    update                   the optimizer's state once through the memory

``model_flops_utilization`` counts the model's operations only (model/counts.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model.counts import training_flops_per_token
from pretrain.config import RunConfig
from pretrain.engines.deepspeed_config import accumulation_steps
from pretrain.plan.cluster import Cluster
from pretrain.plan.communication import step_communication
from pretrain.plan.deferred import deferred_flops
from pretrain.plan.layer_times import LayerTime, Waits, layer_times, peak_flops
from pretrain.plan.memory import rank_state
from pretrain.plan.replicas import replica_time
from pretrain.plan.update import update_cost
from pretrain.topology import Topology


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step, by part."""

    compute: float
    """products of the slowest stage, for all its micro-batches"""
    tensor: float
    """that it waits for tensor-parallel exchanges"""
    context: float
    """that it waits for keys and values of other parts of its samples"""
    boundaries: float
    """activations and their gradients between that stage and its neighbours"""
    bubble: float
    """while that stage waits for the others"""
    data: float
    """that passes and update wait for gradients and weights between replicas, and other exchanges once per step"""
    update: float
    """reading and writing the optimizer's state, and the products of an optimizer that has some"""
    hidden: float
    """of gradients and weights between replicas, beside which passes go on; not in the total"""
    context_hidden: float
    """of keys and values, beside which attention products go on; not in the total"""
    tokens: int
    flops_per_token: int
    peak_flops: float
    """peak of all devices together, FLOP/s"""

    @property
    def total(self) -> float:
        """Seconds of the step."""
        passes = self.compute + self.tensor + self.context + self.boundaries + self.bubble
        return passes + self.data + self.update

    @property
    def tokens_per_second(self) -> float:
        """Over all devices."""
        return self.tokens / self.total

    @property
    def model_flops_utilization(self) -> float:
        """The model's operations per second as a share of the peak."""
        return self.flops_per_token * self.tokens_per_second / self.peak_flops


@dataclass(frozen=True)
class _StageTime:
    """Seconds of one stage."""

    compute: float
    waits: Waits
    boundaries: float
    """each for one micro-batch"""
    once: float
    """exchanges that happen once per step"""
    update: float
    """products of the optimizer"""
    deferred: float
    """products of a micro-batch that fill the time for which the stage would wait"""

    @property
    def micro_batch(self) -> float:
        return self.compute + self.waits.tensor + self.waits.context + self.boundaries

    @property
    def waited_for(self) -> float:
        """What each other stage waits for this one in a step: nobody for these products, which fill as much besides."""
        return self.micro_batch - 2 * self.deferred


def step_time(config: RunConfig, topology: Topology, cluster: Cluster) -> StepTime:
    """The estimate for the whole run's slowest rank."""
    ranks = topology.firsts("pipeline")
    times = [layer_times(config, rank, cluster) for rank in ranks]
    stages = [_stage_time(config, rank, layers, cluster) for rank, layers in zip(ranks, times, strict=True)]
    steps = accumulation_steps(config, topology)
    slowest = max(stages, key=lambda stage: stage.micro_batch)
    state = max((rank_state(config, rank) for rank in ranks), key=lambda state: state.optimizer)
    moved = 2 * (state.master + state.optimizer) + state.weights + state.gradients
    update = moved / cluster.device.memory_bandwidth + max(stage.update for stage in stages)
    replicas = replica_time(config, ranks, times, cluster, update)
    return StepTime(
        compute=steps * slowest.compute,
        tensor=steps * slowest.waits.tensor,
        context=steps * slowest.waits.context,
        boundaries=steps * slowest.boundaries,
        bubble=sum(stage.waited_for for stage in stages) - slowest.waited_for,
        data=max(stage.once for stage in stages) + replicas.exposed,
        update=update,
        hidden=replicas.hidden,
        context_hidden=steps * slowest.waits.beside,
        tokens=config.batch.global_size * config.data.sequence_length,
        flops_per_token=training_flops_per_token(config.model, config.data.sequence_length),
        peak_flops=topology.world_size * peak_flops(config, cluster.device),
    )


def _stage_time(config: RunConfig, topology: Topology, layers: Sequence[LayerTime], cluster: Cluster) -> _StageTime:
    steps = accumulation_steps(config, topology)
    boundaries = once = 0.0
    for exchange in step_communication(config, topology, cluster.backend):
        if exchange.overlaps or (exchange.per_micro_batch and exchange.group in ("tensor", "context")):
            continue  # counted beside the passes, or in the layers' own time
        seconds = cluster.seconds(exchange)
        if exchange.per_micro_batch:
            boundaries += seconds / steps
        else:
            once += seconds
    # Every rank computes its update by itself.
    speed = peak_flops(config, cluster.device) * cluster.efficiency
    update = update_cost(config, topology).flops / speed
    return _StageTime(
        compute=sum(layer.compute for layer in layers),
        waits=sum((layer.waits for layer in layers), Waits()),
        boundaries=boundaries,
        once=once,
        update=update,
        deferred=deferred_flops(config, topology) / speed,
    )
