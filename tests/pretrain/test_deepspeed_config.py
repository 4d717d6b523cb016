"""What DeepSpeed is told: gradients are summed in fp32, and no buffer is larger than the model."""

from dataclasses import replace

from model.config import ModelConfig
from model.counts import parameter_counts
from pretrain.config import RunConfig, TrainConfig
from pretrain.deepspeed_config import LARGEST_BUCKET, deepspeed_config
from pretrain.topology import plan_topology

BF16 = RunConfig(train=TrainConfig(precision="bf16"))


def test_bf16_gradients_are_accumulated_and_reduced_in_fp32_unless_the_user_says_otherwise() -> None:
    topology = plan_topology(BF16.parallel, 2)
    settings = deepspeed_config(BF16, topology)
    assert settings["data_types"]["grad_accum_dtype"] == "fp32"
    assert settings["communication_data_type"] == "fp32"
    chosen = replace(BF16, deepspeed={"communication_data_type": "bf16"})
    assert deepspeed_config(chosen, topology)["communication_data_type"] == "bf16"


def test_the_reduction_bucket_is_no_larger_than_the_model() -> None:
    small = RunConfig(model=ModelConfig(num_layers=1, vocab_size=100))
    large = RunConfig(model=ModelConfig(num_layers=4000))
    for config, size in ((small, sum(parameter_counts(small.model).values())), (large, LARGEST_BUCKET)):
        settings = deepspeed_config(config, plan_topology(config.parallel, 1))
        assert settings["zero_optimization"]["reduce_bucket_size"] == size
