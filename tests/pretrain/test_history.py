"""What a run that goes on keeps of its past, and what it says about what changed."""

from dataclasses import replace
from typing import Any

import pytest

from common.errors import InputError
from data.config import DataConfig, RampConfig
from model.config import ModelConfig
from model.rope_scaling import RopeScaling
from pretrain.config import BatchConfig, OptimizerConfig, RunConfig, ScheduleConfig, TrainConfig
from pretrain.history import check_same_model, check_same_optimizer, describe_changes, with_past


def batches(global_size: int, *ramp: tuple[int, int]) -> RunConfig:
    return RunConfig(batch=BatchConfig(global_size, 1, [RampConfig(*entry) for entry in ramp]))


def sizes(config: RunConfig, steps: int) -> list[int]:
    return [config.batch.schedule.global_size(step) for step in range(steps)]


@pytest.mark.parametrize(
    ("old", "new", "step"),
    [
        (batches(8), batches(8), 13),
        (batches(8), batches(12), 13),
        (batches(8, (5, 2), (4, 6)), batches(12), 7),
        (batches(8), batches(12, (5, 2), (20, 6)), 7),
        (batches(8, (5, 2)), batches(8), 3),
        (batches(8, (5, 2)), batches(2), 3),
    ],
)
def test_steps_taken_keep_their_size_and_those_to_come_have_the_new_one(
    old: RunConfig, new: RunConfig, step: int
) -> None:
    both = with_past(old, new, step)
    assert sizes(both, 40) == sizes(old, 40)[:step] + sizes(new, 40)[step:]
    assert with_past(both, new, step) == both  # a second start at the same step
    assert sizes(with_past(both, old, 23), 40) == sizes(both, 40)[:23] + sizes(old, 40)[23:]


def test_a_run_whose_batch_never_changed_keeps_its_config() -> None:
    for config in (batches(8), batches(8, (5, 2), (4, 6))):
        assert with_past(config, config, 7) == config
        assert describe_changes(config, config, 7) == []


def test_what_changed_is_told_in_one_line_with_the_step() -> None:
    old, new = batches(8, (5, 2)), batches(12)
    new = replace(new, train=TrainConfig(precision="bf16"), seed=old.seed)
    assert describe_changes(old, new, 7)[0] == (
        "changed since step 7: batch.global_size 8 -> 12; train.precision fp32 -> bf16"
    )


def extended(steps: int, **schedule: Any) -> RunConfig:
    return RunConfig(
        optimizer=OptimizerConfig(learning_rate=1e-2),
        schedule=ScheduleConfig(warmup_steps=3, **schedule),
        train=TrainConfig(steps=steps),
    )


def test_extending_a_finished_cosine_says_what_happens_to_the_rate() -> None:
    said = describe_changes(extended(53, kind="cosine"), extended(97, kind="cosine"), 53)
    assert said[0] == "changed since step 53: train.steps 53 -> 97"
    assert said[1].startswith(
        "learning rate: step 53 had 0.001 and its cosine schedule had ended; step 54 now has 0.00"
    )


def test_a_schedule_changed_in_the_middle_says_what_was_planned() -> None:
    said = describe_changes(extended(53, kind="linear"), extended(53, kind="wsd", decay_steps=7), 20)
    assert "step 21 would have had 0.00676; step 21 now has 0.01, the wsd schedule of a run of 53 steps" in said[-1]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": ModelConfig(norm_eps=1e-6)}, r"model\.norm_eps: is 1e-06, but X was trained with 1e-05"),
        ({"model": ModelConfig(rope_theta=500.0)}, r"model\.rope_theta: is 500\.0"),
        (
            {"model": ModelConfig(rope_scaling=RopeScaling("linear", 4.0))},
            r"model\.rope_scaling\.kind: is linear, but X was trained with none",
        ),
        ({"data": DataConfig(document_attention=True)}, r"data\.document_attention: is True.*branch_from"),
    ],
)
def test_what_makes_another_model_or_another_text_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_same_model(RunConfig(), replace(RunConfig(), **changed), "X")


def test_another_optimizer_has_other_moments_and_is_refused_but_its_settings_may_change() -> None:
    adamw, muon = (RunConfig(optimizer=OptimizerConfig(kind=kind)) for kind in ("adamw", "muon"))
    with pytest.raises(InputError, match=r"optimizer\.kind: is muon, but X was trained with adamw; .*branch_from"):
        check_same_optimizer(adamw, muon, "X")
    check_same_optimizer(muon, replace(muon, optimizer=replace(muon.optimizer, momentum=0.9)), "X")
