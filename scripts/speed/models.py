"""A training step of whole models on one device: tokens per second, MFU, memory beside the plan, where the time goes.

In: Sizes; the process groups are there. Out: one row for each config. Always: the engine and its optimizer are those of
a run; every sequence is one document; memory is what the step added to what was there before.
"""

import gc
from dataclasses import dataclass, replace

import torch

from common.cli import parse_config
from model.block import kernels_of
from model.counts import training_flops_per_token
from pretrain.config import RunConfig
from pretrain.devices import device_peak_flops
from pretrain.plan.memory import rank_memory
from pretrain.topology import Topology, plan_topology
from scripts.speed.profiling import profiled
from scripts.speed.sizes import Sizes
from scripts.speed.stepping import random_run
from scripts.speed.timing import median_seconds


@dataclass(frozen=True)
class ModelRow:
    """One config."""

    name: str
    micro_size: int
    micro_batches: int
    sequence_length: int
    step_seconds: float
    tokens_per_second: float
    model_flops_utilization: float | None
    peak_bytes: int
    planned_bytes: int
    shares: dict[str, float]
    """of the step's time, by group of operations"""
    uses: str
    """kernels and all else, in words"""


def measure_models(sizes: Sizes) -> list[ModelRow]:
    """Of all configs, one after the other."""
    return [_measure(path, settings, sizes) for path, settings in sizes.models]


def run_config(path: str, settings: tuple[str, ...]) -> RunConfig:
    """A config with settings of its own, every sequence one document."""
    config = parse_config(RunConfig, ["--config", path, *settings], "make bench-gpu")
    return replace(config, data=replace(config.data, document_attention=False))


def _measure(path: str, settings: tuple[str, ...], sizes: Sizes) -> ModelRow:
    config, topology = run_config(path, settings), one_process()
    device, before = torch.device(sizes.device), _start_of_memory(sizes.device)
    run = random_run(config, topology)
    seconds = median_seconds({"step": run.step}, sizes.rounds, device)["step"]
    peak = torch.cuda.max_memory_allocated() - before if device.type == "cuda" else 0
    planned = rank_memory(config, topology, kernels_of(run.engine.module)).total
    found, uses, steps = profiled(run, sizes.steps), run.engine.describe(), run.engine.accumulation_steps
    del run
    tokens = config.batch.global_size * config.data.sequence_length
    flops = training_flops_per_token(config.model, config.data.sequence_length) * tokens / seconds
    speed = device_peak_flops()
    return ModelRow(
        name=config.name,
        micro_size=config.batch.micro_size,
        micro_batches=steps,
        sequence_length=config.data.sequence_length,
        step_seconds=seconds,
        tokens_per_second=tokens / seconds,
        model_flops_utilization=flops / speed if speed else None,
        peak_bytes=peak,
        planned_bytes=planned,
        shares=found.shares(),
        uses=uses,
    )


def one_process() -> Topology:
    """The whole world."""
    return plan_topology(RunConfig().parallel, 1)


def _start_of_memory(device: str) -> int:
    """Bytes that are held already, when what earlier models left behind is gone."""
    gc.collect()
    if device != "cuda":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()
