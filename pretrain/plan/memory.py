"""How much memory one rank needs, part by part.

In: a RunConfig and a Topology. Out: bytes on ``topology.rank``. Always: pure arithmetic. Tests compare the state with
what an engine really holds after a step, and the activations with what real blocks keep (model/activations.py).

With N parameters on this rank, d ranks with the same ones, N' and N" the padded sizes of pretrain/plan/zero.py, bytes:

              weights             gradients                        master    optimizer
    fp32  0   4 N                 4 N                              -         b N
          1   4 N'                4 N'                             4 N'/n    b N'/n
          2   4 N'                4 N'/n, bucket                   4 N'/n    b N'/n
          3   4 (N"/d + live)     4 N"/d, bucket                   4 N"/d    b N"/d
    bf16  1   2 N'                4 N'                             4 N'/n    b N'/n
          2   2 N'                4 N'/n, bucket                   4 N'/n    b N'/n
          3   2 (N"/d + live)     4 N"/d, bucket                   4 N"/d    b N"/d

b: what the optimizer declares for each of its groups, 8 for AdamW's two moments (pretrain/optimizers/).
With tensor parallelism and M > 1, ZeRO 0 and 3 also hold 4 bytes per element of partial gradients.
`live`: the most that ZeRO-3 has gathered at once. n: the ranks that share state, d or `parallel.partition_ranks`.
bucket: of ZeRO 2, the largest bucket as it leaves and as it arrives, in the backward pass, when the logits are gone;
of ZeRO 3, DeepSpeed's contiguous reduction buffer of `reduce_bucket_size` gradients, each gradient as wide as it
travels (pretrain/engines/deepspeed_config.py). More buckets on their way take the place of activations, which the
backward pass has freed; so do those of ZeRO 1.
A pipeline stage s of p holds the activations of min(p - s, M) micro-batches, each with what it has received from the
stage before and its output for the next one, and a message from each of its neighbours; pretrain/plan/deferred.py has
what it holds where gradients of weights are deferred.
Counted is the end of the forward pass, or of it all in the middle of the backward pass where that is more; not counted
are the CUDA context, NCCL's buffers and fragmentation.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from model.activations import block_activations, ends_activations, layout_bytes, loss_bytes
from model.kernels.kept import Kernels
from pretrain.config import ParallelConfig, RunConfig
from pretrain.engines.deepspeed_config import accumulation_steps, deepspeed_config, exchanges_itself
from pretrain.engines.zero.gradients import TRAVELS
from pretrain.optimizers.registry import optimizer_kind
from pretrain.plan.communication import activation_bytes, boundary_bytes, layer_split
from pretrain.plan.deferred import in_hand
from pretrain.plan.kernels import planned_kernels
from pretrain.plan.layers import elements_per_rank, stage_layers, stage_parameters
from pretrain.plan.update import update_cost
from pretrain.plan.zero import flat_members, gradient_bytes, padded_size, zero3_limits, zero3_traffic
from pretrain.topology import Topology, plan_topology


@dataclass(frozen=True)
class State:
    """Bytes that live from step to step, or grow with the model in every step."""

    weights: int
    gradients: int
    master: int
    """fp32 copy of the weights that the optimizer updates"""
    optimizer: int
    """its moments, in fp32"""
    bucket: int
    """DeepSpeed's buffer of gradients that are collected before they leave"""


@dataclass(frozen=True)
class RankMemory:
    """What one rank needs at most, in bytes."""

    rank: int
    stage: int
    state: State
    in_flight: int
    """micro-batches whose activations are there at the same time"""
    deferred: int
    """micro-batches of which only the products of the weights' gradients are left"""
    activations: int
    transient: int
    """the larger of: logits and loss; what one block's backward pass computes again, and under ZeRO 2 the gradients
    that are collected before they leave"""
    update: int
    """what the optimizer's update needs for a moment, when activations are gone"""

    @property
    def total(self) -> int:
        """All parts, of which activations and the update's workspace are there one after the other."""
        state = self.state
        return (
            state.weights
            + state.gradients
            + state.master
            + state.optimizer
            + state.bucket
            + max(self.activations + self.transient, self.update)
        )


def rank_memory(config: RunConfig, topology: Topology, kernels: Kernels | None = None) -> RankMemory:
    """The memory of ``topology.rank``; ``kernels`` are those of a GPU unless said otherwise."""
    kernels = kernels or planned_kernels(config)
    split = layer_split(config, topology)
    names = [layer.name for layer in stage_layers(config, topology)]
    block = block_activations(config.model, split, kernels)
    last = "head" in names
    one = sum(name.startswith("blocks.") for name in names) * block.kept
    one += layout_bytes(config.model, split, config.data.document_attention, kernels)
    messages = boundary_bytes(config, topology) * ((topology.stage > 0) + (not last))
    one += messages
    one += ends_activations(config.model, split) if last else 0
    loss = loss_bytes(config.model, split) if last else 0
    held = in_hand(config, topology, one, forward=loss, backward=block.recomputed + _leaving(config, topology))
    return RankMemory(
        rank=topology.rank,
        stage=topology.stage,
        state=rank_state(config, topology),
        in_flight=held.in_flight,
        deferred=held.deferred,
        activations=held.activations + messages,
        transient=held.transient,
        update=update_cost(config, topology).workspace,
    )


def rank_state(config: RunConfig, topology: Topology) -> State:
    """Weights, gradients and optimizer state of ``topology.rank``."""
    state = _zero_state(config, topology)
    return replace(state, gradients=state.gradients + _kept_partial_gradients(config, topology))


def _kept_partial_gradients(config: RunConfig, topology: Topology) -> int:
    """Sums over micro-batches of gradients that are summed over the tensor-parallel group once per step."""
    if accumulation_steps(config, topology) == 1 or topology.tensor_size == 1 or exchanges_itself(config):
        return 0
    partial = [info for info in stage_parameters(config, topology) if info.partial_gradient]
    return 4 * sum(elements_per_rank(info, topology.tensor_size) for info in partial)


def _zero_state(config: RunConfig, topology: Topology) -> State:
    """What DeepSpeed and the optimizer hold."""
    stage, ranks, weight = config.parallel.zero_stage, topology.copies, activation_bytes(config)
    parameters = stage_parameters(config, topology)
    sizes = [elements_per_rank(info, topology.tensor_size) for info in parameters]
    kind = optimizer_kind(config.optimizer)

    def moments(elements: Iterable[int]) -> int:
        """Of all parameters, of each of which this rank keeps so many elements."""
        return sum(
            kind.group_of(info).bytes_per_element * count for info, count in zip(parameters, elements, strict=True)
        )

    if stage == 0:
        return State(weights=4 * sum(sizes), gradients=4 * sum(sizes), master=0, optimizer=moments(sizes), bucket=0)
    reduction = deepspeed_config(config, topology)["zero_optimization"]
    bucket = int(reduction["reduce_bucket_size"]) * gradient_bytes(config, topology)
    if stage == 3:
        padded = [padded_size(size, ranks) for size in sizes]
        kept = zero3_limits(config, topology).persistence
        persistent = sum(size for size in sizes if size <= kept)
        live = zero3_traffic(config, topology).largest_live + persistent
        part, held = sum(padded) // ranks, moments(size // ranks for size in padded)
        return State(weight * (part + live), gradients=4 * part, master=4 * part, optimizer=held, bucket=bucket)
    flat_of = flat_members(config, topology)
    flat = sum(size for _, size in flat_of)
    ours = exchanges_itself(config)
    ranks = len(topology.sharing(config.parallel.partition_ranks)) if ours else ranks
    part = flat // ranks
    held = sum(kind.group_of(parameters[members[0]]).bytes_per_element * size // ranks for members, size in flat_of)
    if ours:
        sums = 4 * flat if stage == 1 else 4 * part
        return State(weight * flat, sums, master=4 * part, optimizer=held, bucket=0)
    if stage == 1 and config.train.precision == "bf16":
        return State(2 * flat, gradients=2 * sum(sizes) + 4 * flat, master=4 * part, optimizer=held, bucket=0)
    gradients = 4 * part if stage == 2 else 4 * sum(sizes)
    return State(weight * flat, gradients=gradients, master=4 * part, optimizer=held, bucket=bucket)


def _leaving(config: RunConfig, topology: Topology) -> int:
    """The largest bucket of ZeRO 2: one is filled, or leaves while another arrives."""
    if config.parallel.zero_stage != 2 or not exchanges_itself(config):
        return 0
    ranks = len(topology.sharing(config.parallel.partition_ranks))
    width = TRAVELS[config.parallel.gradient_exchange].itemsize
    return (1 + (ranks > 1)) * width * max(size for _, size in flat_members(config, topology))


def checkpoint_bytes(config: RunConfig) -> int:
    """One checkpoint: the weights and moments of all parameters, in fp32."""
    kind, one_process = optimizer_kind(config.optimizer), plan_topology(ParallelConfig(), 1)
    return sum(
        (4 + kind.group_of(info).bytes_per_element) * elements_per_rank(info, tensor_size=1)
        for info in stage_parameters(config, one_process)
    )


def most_loaded(config: RunConfig, topology: Topology, kernels: Kernels | None = None) -> RankMemory:
    """The memory of the stage that needs most, on its first rank; the others' need differs by the workspace alone."""
    memories = (rank_memory(config, rank, kernels) for rank in topology.firsts("pipeline"))
    return max(memories, key=lambda memory: memory.total)
