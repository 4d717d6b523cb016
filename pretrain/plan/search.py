"""Which splits of a run over a number of devices fit, and which of them are fastest.

In: a RunConfig, a world size and a Cluster, and how far to look. Out: the candidates that fit, fastest first. Always:
the memory and the time are those of pretrain/plan/memory.py and time.py, with their assumptions; what check_run refuses
is no candidate.

Tried are tensor-parallel sizes up to a node (with sequence parallelism), pipelines, ZeRO stages, micro-batches and
activation checkpointing, for long samples also ranks that share one, with either way to reach across; of those that
could be the fastest if nothing waited for other replicas, gradients that travel in bf16, and state that is shared
within a node only. The model, the global batch and everything else stay the config's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal

from common.errors import InputError
from model.split import ContextExchange
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
CONTEXTS = (1, 2, 4, 8, 16, 32)
LONG = 16_384
"""tokens of a sample from which on ranks may share it"""
TRAVELS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
EXCHANGES: tuple[ContextExchange, ...] = ("gather", "heads")
GIB = 2**30


@dataclass(frozen=True)
class Reach:
    """What is tried of a config's settings; activation checkpointing is tried in every mode."""

    splits: tuple[tuple[int, int], ...]
    """tensor- and pipeline-parallel sizes"""
    contexts: tuple[tuple[int, ContextExchange], ...]
    """ranks that share a sample, and how attention reaches across"""
    micro_sizes: tuple[int, ...]
    zero_stages: tuple[Literal[0, 1, 2, 3], ...] = ZERO_STAGES


def everywhere(config: RunConfig, gpus_per_node: int) -> Reach:
    """Every split; samples are shared in every way where they are long, else as the config says."""
    tensors = [size for size in range(1, gpus_per_node + 1) if gpus_per_node % size == 0]
    contexts = [(size, exchange) for size in CONTEXTS for exchange in EXCHANGES[: min(size, 2)]]
    own = config.parallel.context, config.parallel.context_exchange
    short = config.data.sequence_length < LONG
    return Reach(tuple(product(tensors, PIPELINES)), (own,) if short else tuple(contexts), MICRO_SIZES)


def nearby(config: RunConfig, gpus_per_node: int) -> Reach:
    """The config's split and those with half or twice its tensor-parallel or pipeline size, under every ZeRO stage."""
    parallel = config.parallel
    tensor, pipeline, micro = parallel.tensor, parallel.pipeline, config.batch.micro_size
    splits = [(tensor, pipeline)]
    splits += [(size, pipeline) for size in _half_and_twice(tensor) if size <= gpus_per_node]
    splits += [(tensor, size) for size in _half_and_twice(pipeline)]
    exchanges = EXCHANGES if parallel.context > 1 else (parallel.context_exchange,)
    contexts = tuple((parallel.context, exchange) for exchange in exchanges)
    return Reach(tuple(splits), contexts, tuple(sorted({micro, *_half_and_twice(micro), 4 * micro})))


def _half_and_twice(size: int) -> tuple[int, ...]:
    return (size // 2, 2 * size) if size % 2 == 0 else (2 * size,)


@dataclass(frozen=True)
class Candidate:
    """One split that fits."""

    config: RunConfig
    topology: Topology
    memory: RankMemory
    """of the most loaded rank"""
    time: StepTime

    def with_exchange(self, exchange: ContextExchange) -> RunConfig:
        """Its config, with another way in which attention reaches across the parts of a sample."""
        return replace(self.config, parallel=replace(self.config.parallel, context_exchange=exchange))

    def flags(self) -> str:
        """The settings that make it, for a command line."""
        return as_flags(_settings(self.config))

    def changes(self, config: RunConfig) -> dict[str, str]:
        """The settings, by key, in which it differs from ``config``."""
        ours, theirs = _settings(self.config), _settings(config)
        gone = {key: "null" for key in theirs if key not in ours}
        return {key: value for key, value in ours.items() if theirs.get(key) != value} | gone

    @property
    def run_seconds(self) -> float:
        """Of all steps of the config."""
        return self.config.train.steps * self.time.total

    @property
    def device_hours(self) -> float:
        """Of all devices, for the whole run."""
        return self.topology.world_size * self.run_seconds / 3600

    def as_json(self) -> dict[str, Any]:
        """Its figures, for machines: bytes and seconds."""
        return {
            "settings": _settings(self.config),
            "memory": self.memory.total,
            "step": asdict(self.time)
            | {"seconds": self.time.total, "model_flops_utilization": self.time.model_flops_utilization},
            "run_seconds": self.run_seconds,
            "device_hours": self.device_hours,
        }


def as_flags(settings: Mapping[str, str]) -> str:
    """Settings by key, for a command line."""
    return " ".join(f"--{key} {value}" for key, value in settings.items())


def search(config: RunConfig, world_size: int, cluster: Cluster, reach: Reach | None = None) -> list[Candidate]:
    """All splits of ``config`` over ``world_size`` devices that fit, fastest first.

    Args:
        reach: what is tried; everything unless said otherwise.

    Raises:
        InputError: no split is possible, or none fits; the text names the one that needs least memory.
    """
    found: list[Candidate] = []
    smallest: tuple[int, RunConfig] | None = None
    for variant, topology in _possible(config, world_size, reach or everywhere(config, cluster.gpus_per_node)):
        candidate = _candidate(variant, topology, cluster)
        if isinstance(candidate, Candidate):
            found.append(candidate)
        elif smallest is None or candidate < smallest[0]:
            smallest = candidate, variant
    if not found:
        raise InputError(_nothing_fits(config, world_size, cluster, smallest))
    found.sort(key=_seconds)
    promising = [one for one in found if one.time.total - one.time.data < found[0].time.total]
    for one in promising:
        tried = (_candidate(variant, one.topology, cluster) for variant in _exchanges(one, cluster.gpus_per_node))
        found += [candidate for candidate in tried if isinstance(candidate, Candidate)]
    return sorted(found, key=_seconds)


def _seconds(candidate: Candidate) -> float:
    return candidate.time.total


def _candidate(config: RunConfig, topology: Topology, cluster: Cluster) -> Candidate | int:
    """With its figures, or the bytes that it would need where that is too much."""
    memory = most_loaded(config, topology)
    if memory.total > USABLE * cluster.device.memory:
        return memory.total
    return Candidate(config, topology, memory, step_time(config, topology, cluster))


def _exchanges(candidate: Candidate, gpus_per_node: int) -> Iterator[RunConfig]:
    """Other ways in which the candidate's replicas can exchange gradients and weights."""
    config, copies = candidate.config, candidate.topology.copies
    if config.parallel.zero_stage not in (1, 2) or copies == 1:
        return
    inside = max(1, gpus_per_node // candidate.topology.tensor_size)
    smaller = [inside] if 1 < inside < copies and copies % inside == 0 else []
    groups = {config.parallel.partition_ranks, None, *smaller}
    for among, travels in product(sorted(groups, key=str), TRAVELS):
        parallel = replace(config.parallel, partition_ranks=among, gradient_exchange=travels)
        if parallel != config.parallel:
            yield replace(config, parallel=parallel)


def _nothing_fits(config: RunConfig, world_size: int, cluster: Cluster, smallest: tuple[int, RunConfig] | None) -> str:
    """Why, in one line."""
    if smallest is None:
        check_run(config, plan_topology(config.parallel, world_size))  # the config's own split says best what is wrong
        return f"--world-size {world_size}: {config.name} cannot be split over so many devices"
    size, variant = smallest
    settings = as_flags(_settings(variant))
    return (
        f"--world-size {world_size}: nothing fits into the usable {USABLE * cluster.device.memory / GIB:.1f} GiB of "
        f"{cluster.device_name}; the smallest needs {size / GIB:.1f} GiB ({settings}): take more or larger devices"
    )


def _possible(config: RunConfig, world_size: int, reach: Reach) -> Iterator[tuple[RunConfig, Topology]]:
    """The variants that check_run accepts."""
    axes = product(reach.splits, reach.zero_stages, reach.contexts, reach.micro_sizes)
    for (tensor, pipeline), zero_stage, (context, exchange), micro_size in axes:
        parallel = replace(
            config.parallel,
            tensor=tensor,
            context=context,
            context_exchange=exchange,
            pipeline=pipeline,
            sequence=tensor > 1,
            zero_stage=zero_stage,
        )
        try:
            variant = replace(config, parallel=parallel, batch=replace(config.batch, micro_size=micro_size))
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
        **(
            {"parallel.context": str(parallel.context), "parallel.context_exchange": parallel.context_exchange}
            if parallel.context > 1
            else {}
        ),
        "parallel.pipeline": str(parallel.pipeline),
        "parallel.zero_stage": str(parallel.zero_stage),
        **({"parallel.partition_ranks": str(parallel.partition_ranks)} if parallel.partition_ranks else {}),
        "parallel.gradient_exchange": parallel.gradient_exchange,
        "batch.micro_size": str(config.batch.micro_size),
        "train.activation_checkpointing": config.train.activation_checkpointing,
    }
