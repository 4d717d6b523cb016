"""Which splits of a run over a number of devices fit, and which of them are fastest.

In: a RunConfig, a world size and a Cluster. Out: the candidates that fit, fastest first. Always: the memory and the
time are those of pretrain/plan/memory.py and time.py, with their assumptions; what check_run refuses is no candidate.

Tried are tensor-parallel sizes up to a node (with sequence parallelism), pipelines, ZeRO stages, micro-batches and
activation checkpointing. The model, the global batch and everything else stay the config's.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from common.errors import InputError
from pretrain.checks import check_run
from pretrain.config import RunConfig
from pretrain.plan.cluster import Cluster
from pretrain.plan.memory import RankMemory, most_loaded
from pretrain.plan.plan import MODES, USABLE, with_checkpointing
from pretrain.plan.time import StepTime, step_time
from pretrain.topology import Topology, plan_topology

PIPELINES = (1, 2, 4, 8, 16)
ZERO_STAGES: tuple[Literal[0, 1, 2, 3], ...] = (0, 1, 2, 3)
MICRO_SIZES = (1, 2, 4, 8)
GIB = 2**30


@dataclass(frozen=True)
class Candidate:
    """One split that fits."""

    config: RunConfig
    topology: Topology
    memory: RankMemory
    """of the most loaded rank"""
    time: StepTime

    def flags(self) -> str:
        """The settings that make it, for a command line."""
        return " ".join(f"--{key} {value}" for key, value in _settings(self.config).items())

    @property
    def run_seconds(self) -> float:
        """Of all steps of the config."""
        return self.config.train.steps * self.time.total

    def as_json(self) -> dict[str, Any]:
        """Its figures, for machines: bytes and seconds."""
        return {
            "settings": _settings(self.config),
            "memory": self.memory.total,
            "step": asdict(self.time)
            | {"seconds": self.time.total, "model_flops_utilization": self.time.model_flops_utilization},
            "run_seconds": self.run_seconds,
        }


def search(config: RunConfig, world_size: int, cluster: Cluster) -> list[Candidate]:
    """All splits of ``config`` over ``world_size`` devices that fit, fastest first.

    Raises:
        InputError: no split is possible, or none fits; the text names the one that needs least memory.
    """
    found: list[Candidate] = []
    smallest: tuple[int, RunConfig] | None = None
    usable = USABLE * cluster.device.memory
    for variant, topology in _possible(config, world_size, cluster.gpus_per_node):
        memory = most_loaded(variant, topology)
        if memory.total <= usable:
            found.append(Candidate(variant, topology, memory, step_time(variant, topology, cluster)))
        elif smallest is None or memory.total < smallest[0]:
            smallest = memory.total, variant
    if not found:
        raise InputError(_nothing_fits(config, world_size, cluster, smallest))
    return sorted(found, key=lambda candidate: candidate.time.total)


def _nothing_fits(config: RunConfig, world_size: int, cluster: Cluster, smallest: tuple[int, RunConfig] | None) -> str:
    """Why, in one line."""
    if smallest is None:
        check_run(config, plan_topology(config.parallel, world_size))  # the config's own split says best what is wrong
        return f"--world-size {world_size}: {config.name} cannot be split over so many devices"
    size, variant = smallest
    settings = " ".join(f"--{key} {value}" for key, value in _settings(variant).items())
    return (
        f"--world-size {world_size}: nothing fits into the usable {USABLE * cluster.device.memory / GIB:.1f} GiB of "
        f"{cluster.device_name}; the smallest needs {size / GIB:.1f} GiB ({settings}): take more or larger devices"
    )


def _possible(config: RunConfig, world_size: int, gpus_per_node: int) -> Iterator[tuple[RunConfig, Topology]]:
    """The variants that check_run accepts."""
    for tensor in (size for size in range(1, gpus_per_node + 1) if gpus_per_node % size == 0):
        for pipeline in PIPELINES:
            for zero_stage in ZERO_STAGES:
                for micro_size in MICRO_SIZES:
                    parallel = replace(
                        config.parallel, tensor=tensor, pipeline=pipeline, sequence=tensor > 1, zero_stage=zero_stage
                    )
                    batch = replace(config.batch, micro_size=micro_size)
                    try:
                        variant = replace(config, parallel=parallel, batch=batch)
                        topology = plan_topology(parallel, world_size)
                        check_run(variant, topology)
                    except InputError:
                        continue
                    for mode in MODES:
                        yield with_checkpointing(variant, mode), topology


def _settings(config: RunConfig) -> dict[str, str]:
    """What the search has chosen, by key."""
    parallel = config.parallel
    return {
        "parallel.tensor": str(parallel.tensor),
        "parallel.sequence": str(parallel.sequence).lower(),
        "parallel.pipeline": str(parallel.pipeline),
        "parallel.zero_stage": str(parallel.zero_stage),
        "batch.micro_size": str(config.batch.micro_size),
        "train.activation_checkpointing": config.train.activation_checkpointing,
    }
