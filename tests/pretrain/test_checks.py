"""What cannot work is refused by name, with the nearest valid values, before any process group starts."""

from dataclasses import replace

import pytest
import torch.distributed as dist

from common.errors import InputError
from data.config import DataConfig, RampConfig, StageConfig
from model.config import ModelConfig
from pretrain.checks import check_run
from pretrain.config import BatchConfig, ParallelConfig, RunConfig, ScheduleConfig, TrainConfig
from pretrain.topology import plan_topology

CONFIG = RunConfig(
    model=ModelConfig(num_layers=6, hidden_size=64, ffn_hidden_size=96, num_heads=4, head_dim=16, vocab_size=128),
    data=DataConfig(sequence_length=64),
    batch=BatchConfig(global_size=16, micro_size=2),
    schedule=ScheduleConfig(warmup_steps=10),
)


def check(world_size: int, parallel: dict[str, object], **sections: object) -> None:
    config = replace(CONFIG, parallel=ParallelConfig(**parallel), **sections)  # type: ignore[arg-type]
    check_run(config, plan_topology(config.parallel, world_size))


def refusal(world_size: int, parallel: dict[str, object], **sections: object) -> str:
    with pytest.raises(InputError) as error:
        check(world_size, parallel, **sections)
    assert not dist.is_initialized()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("world_size", "parallel", "message"),
    [
        (
            12,
            {"partition_ranks": 5},
            "parallel.partition_ranks: must divide the 12 ranks with the same weights (along data and context), "
            "is 5; nearest: 4 or 6",
        ),
        (
            3,
            {"partition_ranks": 7},
            "parallel.partition_ranks: must divide the 3 ranks with the same weights (along data and context), "
            "is 7; nearest: 3",
        ),
        (
            2,
            {"partition_ranks": 2, "zero_stage": 3},
            "parallel.partition_ranks: works with parallel.zero_stage 1 and 2",
        ),
        (
            2,
            {"bucket_megabytes": 9, "zero_stage": 0},
            "parallel.bucket_megabytes: works with parallel.zero_stage 1 and 2",
        ),
    ],
)
def test_an_exchange_that_cannot_be(world_size: int, parallel: dict[str, object], message: str) -> None:
    sizes = replace(CONFIG.batch, global_size=world_size, micro_size=1)
    assert refusal(world_size, parallel, batch=sizes).startswith(message)


def test_gradients_cannot_be_deferred_where_deepspeed_collects_them() -> None:
    on_host = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}, "zero_force_ds_cpu_optimizer": False}
    assert refusal(2, {"pipeline": 2, "pipeline_schedule": "zero_bubble"}, deepspeed=on_host).startswith(
        "parallel.pipeline_schedule: zero_bubble needs the optimizer's state on the device; set 1f1b"
    )
    check(2, {"pipeline": 2}, deepspeed=on_host)
    check(2, {"pipeline_schedule": "zero_bubble"}, deepspeed=on_host)
    check(2, {"pipeline": 2, "pipeline_schedule": "zero_bubble", "zero_stage": 0})


@pytest.mark.parametrize("name", ["..", ".", "../other", "a/b", "/etc", "a/../../b"])
def test_a_name_that_leads_to_another_folder_is_refused_unless_the_folder_is_said(name: str) -> None:
    said = refusal(1, {}, name=name)
    assert said == f"name: {name!r} is a path; give the run a plain name, and its folder with run_dir"
    check(1, {}, name=name, run_dir="runs/a")


def test_a_name_that_commands_take_for_a_flag_is_refused() -> None:
    for place in (None, "runs/a"):
        assert refusal(1, {}, name="-rf", run_dir=place).startswith("name: '-rf' begins like a flag")


@pytest.mark.parametrize(
    ("world_size", "parallel"),
    [
        (1, {}),
        (1, {"zero_stage": 0}),
        (8, {"tensor": 4, "sequence": True, "zero_stage": 3}),
        (6, {"pipeline": 6, "zero_stage": 0}),
        (8, {"tensor": 2, "pipeline": 2, "sequence": True}),
    ],
)
def test_what_works_is_accepted(world_size: int, parallel: dict[str, object]) -> None:
    check(world_size, parallel)


def test_processes_that_do_not_divide_into_groups() -> None:
    assert refusal(6, {"tensor": 2, "pipeline": 2}) == (
        "parallel: tensor 2 x pipeline 2 needs a multiple of 4 processes, there are 6; start 4 or 8"
    )
    assert refusal(3, {"tensor": 4}).endswith("needs a multiple of 4 processes, there are 3; start 4")


def test_heads_that_do_not_divide() -> None:
    model = replace(CONFIG.model, num_heads=14)
    assert refusal(4, {"tensor": 4}, model=model) == (
        "model.num_heads: 14 cannot be split over parallel.tensor 4; nearest: model.num_heads 12 or 16, "
        "or parallel.tensor 2"
    )


def test_a_sequence_that_does_not_divide_under_sequence_parallelism() -> None:
    assert refusal(4, {"tensor": 4, "sequence": True}, data=DataConfig(sequence_length=66)).startswith(
        "data.sequence_length: 66 cannot be split over parallel.tensor 4; nearest: data.sequence_length 64 or 68"
    )
    check(4, {"tensor": 4}, data=DataConfig(sequence_length=66))


def test_a_later_sequence_that_does_not_divide_under_sequence_parallelism() -> None:
    stages = [StageConfig(from_tokens=1000, sequence_length=128), StageConfig(from_tokens=2000, sequence_length=130)]
    data = DataConfig(sequence_length=64, stages=stages)
    assert refusal(4, {"tensor": 4, "sequence": True}, data=data) == (
        "data.stages[1].sequence_length: 130 cannot be split over parallel.tensor 4 (parallel.sequence); "
        "nearest: 128 or 132"
    )
    check(4, {"tensor": 4}, data=data)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_zero_stage_that_no_pipeline_has(stage: int) -> None:
    assert refusal(2, {"pipeline": 2, "zero_stage": stage}) == (
        f"parallel.zero_stage: a pipeline works with 0 or 1, not {stage}; or set parallel.pipeline to 1"
    )


def test_bf16_without_a_place_for_fp32_sums() -> None:
    message = refusal(2, {"zero_stage": 0}, train=TrainConfig(precision="bf16"))
    assert message.startswith("parallel.zero_stage: 0 cannot accumulate bf16 gradients in fp32; 1 can")


def test_a_stage_without_a_block() -> None:
    assert refusal(8, {"pipeline": 8}) == (
        "parallel.pipeline: every stage needs a block; 6 blocks (model.num_layers) fill at most 6 stages, not 8"
    )


def test_a_batch_that_does_not_divide() -> None:
    assert refusal(3, {}) == (
        "batch.global_size: must be a multiple of batch.micro_size x data-parallel size = 2 x 3 = 6, is 16; "
        "nearest: 12 or 18"
    )
    assert refusal(16, {}).endswith("= 2 x 16 = 32, is 16; nearest: 32")


def test_a_ramp_that_does_not_divide() -> None:
    batch = BatchConfig(global_size=16, micro_size=2, ramp=[RampConfig(steps=5, global_size=6)])
    assert refusal(4, {}, batch=batch).startswith("batch.ramp: must be a multiple of batch.micro_size x data-parallel")


def test_a_schedule_longer_than_the_run() -> None:
    assert refusal(1, {}, schedule=ScheduleConfig(warmup_steps=1000)).startswith("schedule.warmup_steps: must lie in")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_batch_size": 4}, "deepspeed.train_batch_size: set batch.global_size instead"),
        ({"zero_optimization": {"stage": 3}}, "deepspeed.zero_optimization.stage: set parallel.zero_stage instead"),
        (
            {"communication_data_type": "bf16"},
            "deepspeed.communication_data_type: set parallel.gradient_exchange instead",
        ),
        (
            {"zero_optimization": {"overlap_comm": True}},
            "deepspeed.zero_optimization.overlap_comm: has no effect with parallel.zero_stage 1: set parallel.overlap",
        ),
        ({"pipeline": {"pipe_partitioned": True}}, "deepspeed.pipeline: set the parallel section instead"),
    ],
)
def test_a_deepspeed_setting_that_another_section_decides(settings: dict[str, object], message: str) -> None:
    assert refusal(1, {}, deepspeed=settings).startswith(message)


def test_other_deepspeed_settings_pass() -> None:
    check(1, {"zero_stage": 3}, deepspeed={"zero_optimization": {"reduce_bucket_size": 1000}, "log_level": "info"})
