"""DeepSpeed's configuration, derived from ours and never written by hand.

In: a RunConfig and a Topology. Out: the dict that deepspeed.initialize takes.
Always: the `deepspeed` section is laid on top, but may not contradict what another section decides.
"""

from collections.abc import Iterator
from typing import Any

from common.errors import InputError
from model.counts import parameter_counts
from pretrain.config import RunConfig
from pretrain.engines.deepspeed_names import check_deepspeed_settings
from pretrain.topology import Topology

# Settings that another section owns; accepting them twice would let the two disagree.
OWNED = {
    "train_batch_size": "batch.global_size",
    "train_micro_batch_size_per_gpu": "batch.micro_size",
    "gradient_accumulation_steps": "batch.global_size and batch.micro_size",
    "managed_gradient_accumulation": "batch.global_size and batch.micro_size",
    "gradient_clipping": "optimizer.gradient_clipping",
    "optimizer": "the optimizer section",
    "zero_allow_untested_optimizer": "the optimizer section",
    "scheduler": "the schedule section",
    "bf16": "train.precision",
    "bfloat16": "train.precision",
    "torch_autocast": "train.precision",
    "fp16": "train.precision",
    "zero_optimization.stage": "parallel.zero_stage",
    "communication_data_type": "parallel.gradient_exchange",
    "pipeline": "the parallel section",
}


# What DeepSpeed would exchange in this way is exchanged by pretrain/engines/zero: a setting passed over is a trap.
IDLE = {
    "zero_optimization.overlap_comm": "set parallel.overlap",
    "zero_optimization.reduce_bucket_size": "set parallel.bucket_megabytes",
    "zero_optimization.allgather_bucket_size": "set parallel.bucket_megabytes",
    "zero_optimization.reduce_scatter": "each rank always receives its part only",
    "zero_optimization.use_multi_rank_bucket_allreduce": "each rank always receives its part only",
    "zero_optimization.contiguous_gradients": "they always are",
    "zero_optimization.round_robin_gradients": "every rank has a part of every bucket",
    "prescale_gradients": "sums are fp32, and divided afterwards",
    "gradient_predivide_factor": "sums are fp32, and divided afterwards",
    "gradient_allreduce_op": "the gradient is the mean",
}
"""settings without effect under ZeRO 1 and 2, and what to do or to know"""
LARGEST_BUCKET = 500_000_000
"""gradients that DeepSpeed reduces at once, its own default"""
LARGEST_PREFETCH = 50_000_000
"""elements of weights that DeepSpeed gathers ahead under ZeRO 3, its own default"""
PREFETCHED_PARTS = 32
"""of a smaller model: what is gathered in one piece has nothing to hide behind"""


def accumulation_steps(config: RunConfig, topology: Topology) -> int:
    """Micro-batches per optimizer step on one data-parallel rank."""
    return config.batch.global_size // (config.batch.micro_size * topology.data_size)


def deepspeed_config(config: RunConfig, topology: Topology) -> dict[str, Any]:
    """The configuration for ``deepspeed.initialize``."""
    for key in _paths(config.deepspeed):
        if key in OWNED:
            raise InputError(f"deepspeed.{key}: set {OWNED[key]} instead; this key is derived from it")
    check_deepspeed_settings(config.deepspeed)
    for key in _paths(config.deepspeed):
        if key in IDLE and exchanges_itself(config):
            raise InputError(
                f"deepspeed.{key}: has no effect with parallel.zero_stage {config.parallel.zero_stage}: {IDLE[key]}"
            )
    elements = sum(parameter_counts(config.model).values())
    settings: dict[str, Any] = {
        "train_batch_size": config.batch.micro_size * accumulation_steps(config, topology) * topology.copies,
        "train_micro_batch_size_per_gpu": config.batch.micro_size,
        "gradient_accumulation_steps": accumulation_steps(config, topology),
        "steps_per_print": 10**12,  # the trainer reports
        "gradient_clipping": 0.0 if clips_itself(config) else config.optimizer.gradient_clipping,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": config.parallel.zero_stage,
            # The buffer is allocated in full, however small the model.
            "reduce_bucket_size": min(LARGEST_BUCKET, elements),
            "stage3_prefetch_bucket_size": min(LARGEST_PREFETCH, elements // PREFETCHED_PARTS),
        },
        "communication_data_type": config.parallel.gradient_exchange,
        # With sequence parallelism the stages exchange already split activations; splitting them again sends noise.
        "pipeline": {"pipe_partitioned": False, "grad_partitioned": False},
    }
    if config.train.precision == "bf16":
        settings["bf16"] = {"enabled": True}
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return _merge(settings, config.deepspeed)


def exchanges_itself(config: RunConfig) -> bool:
    """Whether gradients and weights are exchanged by pretrain/engines/zero; else DeepSpeed does it."""
    zero = config.deepspeed.get("zero_optimization")
    offload = zero.get("offload_optimizer") if isinstance(zero, dict) else None
    on_device = not isinstance(offload, dict) or offload.get("device", "none") == "none"
    return config.parallel.zero_stage in (1, 2) and on_device


def clips_itself(config: RunConfig) -> bool:
    """ZeRO-0 in fp32 has no DeepSpeed optimizer around ours: norm and clipping are pretrain/engines/gradients.py's."""
    return config.parallel.zero_stage == 0


def _paths(settings: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """All keys, also those of nested sections, as in ``zero_optimization.stage``."""
    for key, value in settings.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")


def _merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged
