"""What one rank exchanges in one optimizer step, as a formula.

In: a RunConfig and a Topology. Out: the exchanges of ``topology.rank`` with their bytes. Always: pure arithmetic on the
configuration that DeepSpeed gets (pretrain/engines/deepspeed_config.py); tests/parallel/test_ledger.py counts the same
bytes in real steps of the real engine.

With M micro-batches of B sequences on each of d data-parallel ranks, e bytes per activation, N parameters on this rank,
T/c tokens of each sequence where c ranks share it, and c d copies of the same weights:

    group      operation                 bytes                                           when
    tensor     see model/communication   those x M                                       t > 1
    context    see model/context/costs   those x M                                       c > 1
    tensor     all_reduce                4 x elements of partial gradients, ZeRO 1, 2:
                                         of this rank's partition of them                t > 1, once per step
    stages     send / receive            M B T/c D e (1/t with sequence parallelism)     p > 1, each way at each cut
    tied       all_reduce                4 V D / t, ZeRO 1: of a part, 4 V D / (t n)     p > 1, tied embeddings
    copies     gradients and weights     see pretrain/plan/zero.py                       c d > 1
    copies     all_to_all                see pretrain/plan/update.py                     c d > 1, if an optimizer asks
    tensor     all_gather                the same                                        t > 1
    scalars    norm, loss                a few bytes                                     always

DeepSpeed's pipeline tells the global loss once per step; under ZeRO 0 the engine asks for it before the update, too.
"""

from collections import Counter
from dataclasses import replace

from model.communication import layer_communication
from model.split import Collective, Split
from pretrain.config import RunConfig
from pretrain.engines.deepspeed_config import accumulation_steps, exchanges_itself
from pretrain.optimizers.registry import optimizer_kind
from pretrain.plan.buckets import summed_exchanges
from pretrain.plan.exchange import Exchange, Group, Operation, group_ranks, summed_by_purpose
from pretrain.plan.kernels import planned_kernels
from pretrain.plan.layers import elements_per_rank, stage_layers, stage_parameters
from pretrain.plan.update import update_cost
from pretrain.plan.zero import data_exchanges, overflow_checks
from pretrain.topology import Topology


def step_communication(config: RunConfig, topology: Topology, backend: str = "nccl") -> list[Exchange]:
    """The exchanges of one step over ``backend``, torch's name, without those that need no partner."""
    found = [
        *_layers(config, topology),
        *_stage_boundaries(config, topology),
        *_replicas(config, topology, backend),
        *_norm(config, topology),
        *_loss(config, topology),
        *_update(config, topology),
    ]
    return [exchange for exchange in found if len(exchange.ranks) > 1 and exchange.whole_bytes]


def activation_bytes(config: RunConfig) -> int:
    """Size of one element of the activations."""
    return 2 if config.train.precision == "bf16" else 4


def layer_split(config: RunConfig, topology: Topology) -> Split:
    """What model/communication.py needs to know."""
    split = Split(
        tensor_size=topology.tensor_size,
        sequence_parallel=topology.sequence_parallel,
        micro_size=config.batch.micro_size,
        sequence_length=config.data.sequence_length,
        element_bytes=activation_bytes(config),
        activation_checkpointing=config.train.activation_checkpointing,
        row_pieces=config.parallel.row_pieces,
        context_size=topology.context_size,
        context_exchange=config.parallel.context_exchange,
        context_pieces=config.parallel.context_pieces,
    )
    form = planned_kernels(config).attention
    return replace(split, attends_again=form.is_recomputed(split.activation_checkpointing, split.gathers))


def layer_exchange(topology: Topology, collective: Collective, times: int = 1) -> Exchange:
    """What a layer exchanges, ``times`` times."""
    ranks = topology.ranks(collective.ranks)
    size = times * collective.whole_bytes
    return Exchange(
        collective.ranks,
        ranks,
        collective.operation,
        collective.purpose,
        size,
        per_micro_batch=True,
        own_bytes=size / len(ranks) if collective.operation == "all_to_all" else 0.0,
        calls=times * collective.pieces,
    )


def boundary_bytes(config: RunConfig, topology: Topology) -> int:
    """The activations of one micro-batch between two stages."""
    whole = layer_split(config, topology).bytes_of(config.model.hidden_size)
    return whole // topology.tensor_size if topology.sequence_parallel else whole


def _exchange(
    topology: Topology,
    group: Group,
    operation: Operation,
    purpose: str,
    whole_bytes: int,
    per_micro_batch: bool = False,
    calls: int = 1,
) -> Exchange:
    ranks = group_ranks(topology, group)
    return Exchange(group, ranks, operation, purpose, whole_bytes, per_micro_batch, calls=max(calls, 1))


def _layers(config: RunConfig, topology: Topology) -> list[Exchange]:
    """Inside the layers of this stage."""
    by_layer = layer_communication(config.model, layer_split(config, topology))
    names = [layer.name for layer in stage_layers(config, topology)]
    kinds = Counter("block" if name.startswith("blocks.") else name for name in names)
    kinds["loss"] = kinds["head"]
    return summed_by_purpose(
        layer_exchange(topology, collective, kinds[kind] * accumulation_steps(config, topology))
        for kind, communication in by_layer.items()
        if kinds[kind]
        for collective in (*communication.forward, *communication.backward)
    )


def _replicas(config: RunConfig, topology: Topology, backend: str) -> list[Exchange]:
    """Gradients and weights between ranks that hold the same parameters or parts of them."""
    if exchanges_itself(config):
        return summed_exchanges(config, topology, backend)
    return [
        *_partial_gradients(config, topology),
        *_tied_gradient(config, topology),
        *data_exchanges(config, topology),
    ]


def _partial_gradients(config: RunConfig, topology: Topology) -> list[Exchange]:
    """Replicated parameters that each rank feeds only in part, in fp32: once per step (PartialGradientSum)."""
    parts = [
        elements_per_rank(info, topology.tensor_size)
        for info in stage_parameters(config, topology)
        if info.partial_gradient
    ]
    purpose = "gradients of replicated parameters"
    return [_exchange(topology, "tensor", "all_reduce", purpose, 4 * sum(parts), calls=len(parts))]


def _stage_boundaries(config: RunConfig, topology: Topology) -> list[Exchange]:
    """Activations to the next stage, their gradients back; every stage reads the documents itself."""
    steps = accumulation_steps(config, topology)
    whole = steps * boundary_bytes(config, topology)
    found = []
    if topology.stage > 0:
        found.append(_exchange(topology, "previous stage", "receive", "activations", whole, True, steps))
        found.append(_exchange(topology, "previous stage", "send", "gradients of activations", whole, True, steps))
    if topology.stage < topology.pipeline_size - 1:
        found.append(_exchange(topology, "next stage", "send", "activations", whole, True, steps))
        found.append(_exchange(topology, "next stage", "receive", "gradients of activations", whole, True, steps))
    return found


def _tied_gradient(config: RunConfig, topology: Topology) -> list[Exchange]:
    """First and last stage add up their gradients of the tied embedding, in fp32."""
    if not config.model.tie_embeddings or topology.rank not in group_ranks(topology, "tied"):
        return []
    elements = config.model.vocab_size * config.model.hidden_size // topology.tensor_size
    return [_exchange(topology, "tied", "all_reduce", "gradient of the tied embedding", 4 * elements)]


def _norm(config: RunConfig, topology: Topology) -> list[Exchange]:
    """The squared gradient norm over the ranks of one replica of the model, and DeepSpeed's check for overflow."""
    stage, bf16 = config.parallel.zero_stage, config.train.precision == "bf16"
    if exchanges_itself(config):
        return [_exchange(topology, "world", "all_reduce", "loss and gradient norm", 2 * 8)]
    groups = len(optimizer_kind(config.optimizer).groups)  # DeepSpeed sums each by itself
    if stage == 0:
        size = 8
    elif stage == 1 and bf16:
        size = 4
    else:
        size = groups * (8 if stage == 3 else 4) + overflow_checks(config)
    return [_exchange(topology, "model", "all_reduce", "gradient norm", size)]


def _update(config: RunConfig, topology: Topology) -> list[Exchange]:
    """What the optimizer needs of other ranks."""
    cost = update_cost(config, topology)
    return [
        _exchange(topology, "copies", "all_to_all", "matrices across ZeRO's borders", cost.exchanged),
        _exchange(topology, "tensor", "all_gather", "whole matrices for the update", cost.gathered),
    ]


def _loss(config: RunConfig, topology: Topology) -> list[Exchange]:
    """The loss: averaged over copies of the weights; with a pipeline the last stage knows it and tells the others."""
    ours = exchanges_itself(config)  # it travels with the norm
    if topology.pipeline_size == 1:
        return [] if ours else [_exchange(topology, "copies", "all_reduce", "loss", 8)]  # a mean in fp64
    times = 1 if ours else 2  # DeepSpeed's pipeline tells it at the end of the step, in any case
    told = [_exchange(topology, "pipeline", "broadcast", "loss", times * 2 * 4)]  # of the replica and of all replicas
    if topology.stage == topology.pipeline_size - 1:
        told.append(_exchange(topology, "copies", "all_reduce", "loss", times * 4))
    return told
