"""How long one optimizer step takes: an estimate from data sheets, with its assumptions in the open.

In: a RunConfig, a Topology and a Cluster. Out: seconds by part. Always: every floating-point operation at the same
share of the device's peak (``efficiency``), every exchange at the speed of its slowest link, nothing overlapped.

    micro-batch of a stage   3 x its forward operations, 4 x what is recomputed, / (tensor size x peak x efficiency)
                             + tensor-parallel exchanges + activations from and to its neighbours
    pipeline                 the sum over the stages for the first micro-batch, the slowest stage for each other
    once per step            gradients and weights between replicas, tied and replicated gradients, the update

Attention is charged as its kernel runs it: the causal half of T x T, twice the products for the two stacked streams of
diff and shared_diff. ``model_flops_utilization`` counts the model's operations only (model/counts.py).
"""

from dataclasses import dataclass

from model.counts import executed_flops, head_flops, training_flops_per_token
from pretrain.config import RunConfig
from pretrain.devices import DEFAULT_DEVICE, EFFICIENCY, GPUS_PER_NODE, Device
from pretrain.engines.deepspeed_config import accumulation_steps
from pretrain.plan.communication import step_communication
from pretrain.plan.exchange import Exchange
from pretrain.plan.layers import stage_layers
from pretrain.plan.memory import rank_state
from pretrain.plan.update import update_cost
from pretrain.topology import Topology


@dataclass(frozen=True)
class Cluster:
    """Where a run is planned for."""

    device: Device
    device_name: str = DEFAULT_DEVICE
    gpus_per_node: int = GPUS_PER_NODE
    efficiency: float = EFFICIENCY
    """share of the peak that matrix products reach inside their kernels"""

    def bandwidth(self, ranks: tuple[int, ...]) -> float:
        """Bytes/s of the slowest link between ``ranks``, which fill the nodes one after the other."""
        one_node = len({rank // self.gpus_per_node for rank in ranks}) == 1
        return self.device.link if one_node else self.device.network

    def seconds(self, exchange: Exchange) -> float:
        """Of all the calls of one exchange in one step."""
        return exchange.wire_bytes / self.bandwidth(exchange.ranks)


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step, by part."""

    compute: float
    """products of the slowest stage, for all its micro-batches"""
    tensor: float
    """tensor-parallel exchanges of that stage"""
    boundaries: float
    """activations and their gradients between that stage and its neighbours"""
    bubble: float
    """while that stage waits for the others"""
    data: float
    """gradients and weights between replicas, once per step"""
    update: float
    """reading and writing the optimizer's state, and the products of an optimizer that has some"""
    tokens: int
    flops_per_token: int
    peak_flops: float
    """peak of all devices together, FLOP/s"""

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.compute + self.tensor + self.boundaries + self.bubble + self.data + self.update

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
    tensor: float
    boundaries: float
    """each for one micro-batch"""
    once: float
    """exchanges that happen once per step"""
    update: float
    """products of the optimizer"""

    @property
    def micro_batch(self) -> float:
        return self.compute + self.tensor + self.boundaries


def step_time(config: RunConfig, topology: Topology, cluster: Cluster) -> StepTime:
    """The estimate for the whole run's slowest rank."""
    ranks = topology.firsts("pipeline")
    stages = [_stage_time(config, rank, cluster) for rank in ranks]
    steps = accumulation_steps(config, topology)
    slowest = max(stages, key=lambda stage: stage.micro_batch)
    state = max((rank_state(config, rank) for rank in ranks), key=lambda state: state.optimizer)
    moved = 2 * (state.master + state.optimizer) + state.weights + state.gradients
    return StepTime(
        compute=steps * slowest.compute,
        tensor=steps * slowest.tensor,
        boundaries=steps * slowest.boundaries,
        bubble=sum(stage.micro_batch for stage in stages) - slowest.micro_batch,
        data=max(stage.once for stage in stages),
        update=moved / cluster.device.memory_bandwidth + max(stage.update for stage in stages),
        tokens=config.batch.global_size * config.data.sequence_length,
        flops_per_token=training_flops_per_token(config.model, config.data.sequence_length),
        peak_flops=topology.world_size * peak_flops(config, cluster.device),
    )


def _stage_time(config: RunConfig, topology: Topology, cluster: Cluster) -> _StageTime:
    names = [layer.name for layer in stage_layers(config, topology)]
    blocks = sum(name.startswith("blocks.") for name in names)
    block, product = executed_flops(config.model, config.data.sequence_length)
    recomputed = {"none": 0.0, "selective": product, "full": block}[config.train.activation_checkpointing]
    flops = blocks * (3 * block + recomputed) + 3 * head_flops(config.model) * ("head" in names)
    tokens = config.batch.micro_size * config.data.sequence_length
    speed = topology.tensor_size * peak_flops(config, cluster.device) * cluster.efficiency
    steps = accumulation_steps(config, topology)
    tensor = boundaries = once = 0.0
    for exchange in step_communication(config, topology):
        seconds = cluster.seconds(exchange)
        if not exchange.per_micro_batch:
            once += seconds
        elif exchange.group == "tensor":
            tensor += seconds / steps
        else:
            boundaries += seconds / steps
    update = update_cost(config, topology).flops * topology.tensor_size / speed  # every rank computes by itself
    return _StageTime(tokens * flops / speed, tensor, boundaries, once, update)


def peak_flops(config: RunConfig, device: Device) -> float:
    """Of one device in the config's arithmetic."""
    return device.bf16_flops if config.train.precision == "bf16" else device.fp32_flops
