"""A run on paper: how large its model is, and what one step costs in memory, communication and time.

In: a RunConfig, a world size and a Cluster. Out: a Plan, which pretrain/plan/report.py prints. Always: no process
group, nothing allocated; the formulas stand in model/counts.py, model/communication.py and beside this file.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from common.errors import InputError
from model.config import ModelConfig
from model.counts import attention_parameters, parameter_counts, training_flops_per_token
from model.kinds.base import Kind
from model.kinds.registry import KINDS, kind_of
from model.recompute import ActivationCheckpointing
from pretrain.checks import check_run
from pretrain.config import RunConfig
from pretrain.engines.deepspeed_config import accumulation_steps
from pretrain.plan.cluster import Cluster
from pretrain.plan.communication import step_communication
from pretrain.plan.exchange import Exchange
from pretrain.plan.memory import RankMemory, most_loaded, rank_memory
from pretrain.plan.time import StepTime, step_time
from pretrain.topology import Topology, plan_topology

MODES: tuple[ActivationCheckpointing, ...] = ("none", "selective", "full")
USABLE = 0.92
"""share of the device's memory that tensors may fill; the rest is CUDA's, NCCL's and lost to fragmentation"""


@dataclass(frozen=True)
class Size:
    """The size of the model with one kind of attention."""

    name: str
    heading: str
    """in a table"""
    parameters: dict[str, int]
    """by part, of the whole model"""
    query_and_key: int
    """parameters of one block's query and key projections"""
    flops_per_token: int
    """forward and backward"""
    chosen: bool
    """this is what the config asks for"""

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parameters.values())


@dataclass(frozen=True)
class Plan:
    """What a run will need."""

    config: RunConfig
    topology: Topology
    cluster: Cluster
    sizes: list[Size]
    """every kind of attention and every reading of it, with the config's other settings"""
    memory: RankMemory
    """memory of the most loaded rank"""
    memory_by_mode: dict[str, RankMemory]
    """memory of the same rank under each mode of activation checkpointing"""
    communication: dict[str, list[Exchange]]
    """exchanges of the same rank, for every kind of attention that the topology can split"""
    times: dict[str, StepTime]
    """seconds of a step, for every kind of attention"""

    @property
    def chosen(self) -> Size:
        """The size of the config's own model."""
        return next(size for size in self.sizes if size.chosen)

    @property
    def seconds(self) -> float:
        """Of a step of the config's own model."""
        return self.times[self.config.model.attention].total

    @property
    def run_seconds(self) -> float:
        """Of all steps."""
        return self.config.train.steps * self.seconds

    @property
    def device_hours(self) -> float:
        """Of all devices, for the whole run."""
        return self.topology.world_size * self.run_seconds / 3600

    @property
    def fits(self) -> bool:
        """Whether the most loaded rank's tensors fit into the device."""
        return self.memory.total <= USABLE * self.cluster.device.memory

    def notes(self) -> list[str]:
        """What is worth changing, in one line each."""
        found = []
        steps, stages = accumulation_steps(self.config, self.topology), self.topology.pipeline_size
        if not self.fits:
            found.append(
                f"does not fit into {USABLE:.0%} of {self.cluster.device_name}'s memory: raise parallel.tensor, "
                "parallel.pipeline or parallel.zero_stage, lower batch.micro_size, or recompute more "
                "(train.activation_checkpointing)"
            )
        if steps < stages:
            found.append(f"{steps} micro-batches cannot fill {stages} stages: raise batch.global_size")
        longest = self.config.data.longest_sample
        if longest > self.config.data.sequence_length:
            found.append(f"data.stages go up to {longest} tokens: plan those with --data.sequence_length {longest}")
        if self.topology.tensor_size > self.cluster.gpus_per_node:
            found.append(
                f"tensor-parallel groups of {self.topology.tensor_size} span nodes of {self.cluster.gpus_per_node}"
            )
        return found

    def as_json(self) -> dict[str, Any]:
        """All figures, for machines: bytes, seconds and counts."""
        return {
            "name": self.config.name,
            "topology": self.topology.describe(),
            "world_size": self.topology.world_size,
            "device": self.cluster.device_name,
            "sizes": {
                size.name: {
                    "parameters": size.total,
                    "by_part": size.parameters,
                    "flops_per_token": size.flops_per_token,
                }
                for size in self.sizes
            },
            "attention": self.chosen.name,
            "run_seconds": self.run_seconds,
            "device_hours": self.device_hours,
            "memory": {**asdict(self.memory), "total": self.memory.total, "fits": self.fits},
            "memory_by_mode": {mode: held.total for mode, held in self.memory_by_mode.items()},
            "communication": {
                kind: [asdict(exchange) | {"wire_bytes": exchange.wire_bytes} for exchange in exchanges]
                for kind, exchanges in self.communication.items()
            },
            "step": {
                kind: asdict(time)
                | {
                    "seconds": time.total,
                    "tokens_per_second": time.tokens_per_second,
                    "model_flops_utilization": time.model_flops_utilization,
                }
                for kind, time in self.times.items()
            },
            "assumptions": {
                "efficiency": self.cluster.efficiency,
                "attention_efficiency": self.cluster.attention_efficiency,
                "traffic": self.cluster.traffic,
                "gpus_per_node": self.cluster.gpus_per_node,
            },
            "notes": self.notes(),
        }


def make_plan(config: RunConfig, world_size: int, cluster: Cluster) -> Plan:
    """Plans ``config`` on ``world_size`` devices.

    Raises:
        InputError: a combination that cannot work.
    """
    topology = plan_topology(config.parallel, world_size)
    check_run(config, topology)
    memory = most_loaded(config, topology)
    rank = replace(topology, rank=memory.rank)
    variants = {kind.name: replace(config, model=with_kind(config.model, kind)) for kind in KINDS}
    kinds = {name: variant for name, variant in variants.items() if _splits(variant, topology)}
    return Plan(
        config=config,
        topology=topology,
        cluster=cluster,
        sizes=sizes(config.model, config.data.sequence_length),
        memory=memory,
        memory_by_mode={mode: rank_memory(with_checkpointing(config, mode), rank) for mode in MODES},
        communication={kind: step_communication(variant, rank) for kind, variant in kinds.items()},
        times={kind: step_time(variant, topology, cluster) for kind, variant in kinds.items()},
    )


def _splits(config: RunConfig, topology: Topology) -> bool:
    """Whether the topology can split this model."""
    try:
        check_run(config, topology)
    except InputError:
        return False
    return True


def with_kind(model: ModelConfig, kind: Kind) -> ModelConfig:
    """``model`` with another kind of attention and all else equal.

    Key/value heads are grouped as before, as far as the other kind's heads divide that way.
    """
    if kind.name == model.attention:
        return model
    plain = replace(model, attention=kind.name, num_kv_heads=None)
    if model.num_kv_heads is None:
        return plain
    whole = kind_of(model).key_value_heads(replace(model, num_kv_heads=None))
    groups, rest = divmod(kind.key_value_heads(plain) * model.num_kv_heads, whole)
    return plain if rest or not groups else replace(plain, num_kv_heads=groups)


def with_checkpointing(config: RunConfig, mode: ActivationCheckpointing) -> RunConfig:
    """``config`` with another way of activation checkpointing."""
    return replace(config, train=replace(config.train, activation_checkpointing=mode))


def sizes(model: ModelConfig, sequence_length: int) -> list[Size]:
    """The model's size with each kind of attention and each of its readings; kinds with several come last."""
    variants = [
        (kind, reading, replace(with_kind(model, kind), **reading.settings))
        for kind in sorted(KINDS, key=lambda kind: len(kind.readings))
        for reading in kind.readings
    ]
    return [
        Size(
            name=f"{kind.name}, {reading.label}" if reading.label else kind.name,
            heading=reading.heading,
            parameters=parameter_counts(variant),
            query_and_key=sum(
                count for part, count in attention_parameters(variant).items() if part.startswith("query and key")
            ),
            flops_per_token=training_flops_per_token(variant, sequence_length),
            chosen=variant == model,
        )
        for kind, reading, variant in variants
    ]
