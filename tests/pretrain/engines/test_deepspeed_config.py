"""What DeepSpeed is told: gradients are summed in fp32, and no buffer is larger than the model."""

import math
from dataclasses import replace
from typing import Any

import pytest

from common.errors import InputError
from model.config import ModelConfig
from model.counts import parameter_counts
from pretrain.config import ParallelConfig, RunConfig, TrainConfig
from pretrain.engines.deepspeed_config import LARGEST_BUCKET, deepspeed_config
from pretrain.topology import plan_topology

BF16 = RunConfig(train=TrainConfig(precision="bf16"))


def test_bf16_gradients_are_accumulated_and_reduced_in_fp32_unless_the_user_says_otherwise() -> None:
    topology = plan_topology(BF16.parallel, 2)
    settings = deepspeed_config(BF16, topology)
    assert settings["data_types"]["grad_accum_dtype"] == "fp32"
    assert settings["communication_data_type"] == "fp32"
    chosen = replace(BF16, parallel=ParallelConfig(gradient_exchange="bf16"))
    assert deepspeed_config(chosen, topology)["communication_data_type"] == "bf16"


def test_the_reduction_bucket_is_no_larger_than_the_model() -> None:
    small = RunConfig(model=ModelConfig(num_layers=1, vocab_size=100))
    large = RunConfig(model=ModelConfig(num_layers=4000))
    for config, size in ((small, sum(parameter_counts(small.model).values())), (large, LARGEST_BUCKET)):
        settings = deepspeed_config(config, plan_topology(config.parallel, 1))
        assert settings["zero_optimization"]["reduce_bucket_size"] == size


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"comunication_data_type": "bf16"}, "unknown key 'deepspeed.comunication_data_type'; did you mean"),
        ({"bfloat16": {"enabled": True}}, "deepspeed.bfloat16: set train.precision instead"),
        ({"gradient_allreduce_op": "max"}, "'deepspeed.gradient_allreduce_op' must be mean or sum"),
        ({"dump_state": 1}, "'deepspeed.dump_state' must be true or false, is 1"),
        ({"zero_optimization": 3}, "'deepspeed.zero_optimization' must be a mapping"),
        ({"zero_optimization": None}, "'deepspeed.zero_optimization' is empty (null); say a mapping"),
        ({"data_types": None}, "'deepspeed.data_types' is empty (null); say a mapping"),
        ({"comms_logger": None}, "'deepspeed.comms_logger' is empty (null); say a mapping"),
        ({"gradient_predivide_factor": 0}, "deepspeed.gradient_predivide_factor: must be above 0, is 0"),
        ({"gradient_predivide_factor": math.nan}, "'deepspeed.gradient_predivide_factor' must be a finite number"),
        ({"aio": {"block_sise": 1}}, "unknown key 'deepspeed.aio.block_sise'; did you mean 'deepspeed.aio.block_size'"),
        (
            {"zero_optimization": {"reduce_bucket_sise": 1000}},
            "deepspeed.zero_optimization.reduce_bucket_sise: unknown key; did you mean 'reduce_bucket_size'?",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"devise": "cpu"}}},
            "deepspeed.zero_optimization.offload_optimizer.devise: unknown key; did you mean 'device'?",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "disk"}}},
            "deepspeed.zero_optimization.offload_optimizer.device: Input should be 'none', 'cpu' or 'nvme', is",
        ),
        (
            {"zero_optimization": {"reduce_bucket_size": -1}},
            "reduce_bucket_size: Input should be greater than 0, is -1",
        ),
        ({"zero_optimization": {"reduce_bucket_size": True}}, "reduce_bucket_size: must be a number, is true"),
        ({"zero_optimization": {"reduce_bucket_size": "5"}}, "reduce_bucket_size: must be a number, is the text '5'"),
        ({"zero_optimization": {"reduce_bucket_size": None}}, "reduce_bucket_size: Input should be a valid integer"),
        ({"zero_optimization": {"reduce_bucket_size": "auto"}}, "reduce_bucket_size: Input should be a valid integer"),
        ({"zero_optimization": {"overlap_comm": "yes"}}, "overlap_comm: must be true or false, is the text 'yes'"),
        ({"comms_logger": {"verbos": True}}, "deepspeed.comms_logger.verbos: unknown key; did you mean 'verbose'?"),
    ],
)
def test_what_deepspeed_does_not_know_is_refused_with_the_nearest_name(settings: dict[str, Any], message: str) -> None:
    config = RunConfig(deepspeed=settings)
    with pytest.raises(InputError) as error:
        deepspeed_config(config, plan_topology(config.parallel, 1))
    assert message in str(error.value)


def test_what_deepspeed_knows_passes() -> None:
    settings = {
        "zero_optimization": {
            "reduce_bucket_size": 5e7,
            "stage3_prefetch_bucket_size": 1000,
            "overlap_comm": True,
            "offload_optimizer": {"device": "cpu", "pin_memory": True},
        },
        "activation_checkpointing": {"cpu_checkpointing": True},
        "wall_clock_breakdown": True,
        "tensorboard": {"enabled": True, "output_path": "tb"},
        "log_level": "warning",
    }
    config = RunConfig(deepspeed=settings)
    told = deepspeed_config(config, plan_topology(config.parallel, 1))
    assert settings.items() <= {**told, "zero_optimization": settings["zero_optimization"]}.items()
