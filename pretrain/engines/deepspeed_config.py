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
    "pipeline": "the parallel section",
}


LARGEST_BUCKET = 500_000_000
"""gradients that DeepSpeed reduces at once, its own default"""


def accumulation_steps(config: RunConfig, topology: Topology) -> int:
    """Micro-batches per optimizer step on one data-parallel rank."""
    return config.batch.global_size // (config.batch.micro_size * topology.data_size)


def deepspeed_config(config: RunConfig, topology: Topology) -> dict[str, Any]:
    """The configuration for ``deepspeed.initialize``."""
    for key in _paths(config.deepspeed):
        if key in OWNED:
            raise InputError(f"deepspeed.{key}: set {OWNED[key]} instead; this key is derived from it")
    check_deepspeed_settings(config.deepspeed)
    settings: dict[str, Any] = {
        "train_batch_size": config.batch.global_size,
        "train_micro_batch_size_per_gpu": config.batch.micro_size,
        "gradient_accumulation_steps": accumulation_steps(config, topology),
        "steps_per_print": 10**12,  # the trainer reports
        "gradient_clipping": 0.0 if clips_itself(config) else config.optimizer.gradient_clipping,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": config.parallel.zero_stage,
            # The buffer is allocated in full, however small the model.
            "reduce_bucket_size": min(LARGEST_BUCKET, sum(parameter_counts(config.model).values())),
        },
        # With sequence parallelism the stages exchange already split activations; splitting them again sends noise.
        "pipeline": {"pipe_partitioned": False, "grad_partitioned": False},
    }
    if config.train.precision == "bf16":
        settings["bf16"] = {"enabled": True}
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
        settings["communication_data_type"] = "fp32"  # the sum over data-parallel ranks is accumulation, too
    return _merge(settings, config.deepspeed)


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
