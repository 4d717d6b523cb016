"""The spike rule: bad steps never reach the weights and are recorded, good ones always do."""

import itertools
import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.config import StageConfig
from data.stream import TokenStream
from pretrain.checkpoint.layout import checkpoints_of, list_steps, step_folder
from pretrain.config import CheckpointConfig, EvaluationConfig, ResilienceConfig, RunConfig, TrainConfig
from pretrain.engines.engine import Engine, StepResult
from pretrain.resilience.attempts import SKIPPED_FILE, Outcome
from pretrain.resilience.rollback import read_rollbacks, roll_back
from pretrain.resilience.spikes import WARM_UP, SpikeGuard
from pretrain.run import pretrain
from pretrain.step_lines import read_steps
from tests.parallel.training import start_engine, variant
from tests.pretrain.test_run import config_for
from tests.world import run_world


def guard_after(losses: list[float], norm: float = 1.0) -> SpikeGuard:
    guard = SpikeGuard()
    for step, loss in enumerate(losses):
        guard.took(step, loss, norm, applied=True)
    return guard


def noisy(center: float, count: int = 100) -> list[float]:
    dice = random.Random(0)
    return [dice.gauss(center, 0.05) for _ in range(count)]


@pytest.mark.parametrize(
    ("loss", "norm", "reason"),
    [
        (math.nan, 1.0, "loss is nan"),
        (math.inf, 1.0, "loss is inf"),
        (3.0, math.nan, "gradient norm is nan"),
        (3.0, math.inf, "gradient norm is inf"),
        (9.0, 1.0, "loss 9 lies"),
        (3.4, 50.0, "gradient norm 50 lies 20 deviations above the median 1, loss 3.4 "),
        (3.0, 5000.0, "gradient norm 5000 is 1000 times the median 1 or more"),
        (3.0, 50.0, None),
        (3.4, 1.0, None),
        (3.2, 1.5, None),
        (1.0, 0.0, None),
    ],
)
def test_what_is_out_of_proportion_is_skipped(loss: float, norm: float, reason: str | None) -> None:
    found = guard_after(noisy(3.0)).reason_to_skip(loss, norm)
    assert found is None if reason is None else reason in (found or "")


def test_the_first_steps_are_only_asked_to_be_finite() -> None:
    guard = guard_after(noisy(3.0, WARM_UP - 1))
    assert guard.keeps(1000.0, 1000.0)
    assert not guard.keeps(math.nan, 1.0)


def test_ten_robust_deviations_are_the_limit() -> None:
    guard = SpikeGuard(deviations=10.0)
    for step in range(100):  # neighbours differ by 0.2
        guard.took(step, [2.9, 3.1][step % 2], 1.0, applied=True)
    limit = 3.0 + 10 * 1.4826 * 0.2 / math.sqrt(2)
    assert guard.keeps(limit - 0.01, 1.0)
    assert not guard.keeps(limit + 0.01, 1.0)


def test_a_loss_that_falls_steadily_does_not_hide_a_spike() -> None:
    guard = guard_after([8.0 - 0.05 * step + noise - 3.0 for step, noise in enumerate(noisy(3.0))])
    assert guard.keeps(3.6, 1.0)
    assert not guard.keeps(5.0, 1.0), "the window reaches from 8 to 3"


def test_a_gradient_norm_that_leaps_while_the_loss_stays_is_left_alone() -> None:
    guard = guard_after(noisy(3.0), norm=0.5)
    for step, norm in enumerate([5.6, 0.5, 7.2, 0.4, 17.6, 0.5, 40.0, 6.9], start=100):
        assert guard.keeps(3.0, norm)
        guard.took(step, 3.0, norm, applied=True)
    assert not guard.keeps(9.0, 6.0), "a loss that lies out is skipped however often"


def test_where_nothing_clips_a_norm_alone_is_skipped_once() -> None:
    guard = SpikeGuard(clips_gradients=False)
    for step, loss in enumerate(noisy(3.0)):
        guard.took(step, loss, 0.5, applied=True)
    assert guard.keeps(3.0, 3.0)
    assert guard.reason_to_skip(3.0, 50.0) == (
        "gradient norm 50 lies 23 deviations above the median 0.5, and nothing clips it"
    )
    guard.took(100, 3.0, 50.0, applied=False)
    assert guard.keeps(3.0, 50.0), "what comes again comes from the weights"


def test_what_is_known_by_heart_may_leap_to_many_times_its_tiny_loss() -> None:
    dice = random.Random(0)
    guard = guard_after([dice.uniform(0.003, 0.006) for _ in range(100)])
    for step, loss in enumerate([0.04, 0.29, 0.09, 0.004, 0.36, 0.0], start=100):
        assert guard.keeps(loss, 5.0)
        guard.took(step, loss, 5.0, applied=True)
    assert not guard.keeps(0.6, 1.0)


def test_a_norm_of_a_faulty_machine_is_skipped_once_and_then_learned_from() -> None:
    guard = guard_after(noisy(3.0), norm=0.5)
    decisions = []
    for step, norm in enumerate([1e6, 1e6, 1e6, 0.5, 1e6], start=100):
        decisions.append(guard.keeps(3.0, norm))
        guard.took(step, 3.0, norm, decisions[-1])
    assert decisions == [False, True, True, True, False]


def test_a_new_stage_is_not_compared_with_the_one_before() -> None:
    guard = guard_after(noisy(3.0))
    guard.begin_anew()
    for step, loss in enumerate(noisy(6.0, WARM_UP), start=100):
        assert guard.keeps(loss, 20.0)
        guard.took(step, loss, 20.0, applied=True)
    assert not guard.keeps(9.0, 20.0)


def test_a_skipped_value_does_not_move_the_rule() -> None:
    guard = guard_after(noisy(3.0))
    before = guard.reason_to_skip(9.0, 1.0)
    for step in range(100, 105):
        guard.took(step, 9.0, 1.0, applied=False)
    assert guard.reason_to_skip(9.0, 1.0) == before


def test_a_resumed_guard_decides_alike() -> None:
    guard = guard_after(noisy(3.0))
    guard.took(100, math.nan, 1.0, applied=False)
    resumed = SpikeGuard()
    resumed.restore(json.loads(json.dumps(guard.state())))
    assert resumed.state() == guard.state()
    for loss in (3.0, 3.4, 3.6, 9.0):
        assert resumed.reason_to_skip(loss, 1.0) == guard.reason_to_skip(loss, 1.0)


def test_the_state_of_another_version_is_taken_as_far_as_it_goes() -> None:
    state = guard_after(noisy(3.0)).state()
    for missing in state:
        resumed = SpikeGuard()
        resumed.restore({key: value for key, value in state.items() if key != missing} | {"unknown": 1})
        assert resumed.keeps(3.0, 1.0)
        assert not resumed.keeps(math.nan, 1.0)


def test_too_many_skips_within_the_window_ask_for_a_rollback() -> None:
    guard = SpikeGuard(window=32, max_skips=2)
    for step, applied in enumerate([True, False, True, False]):
        guard.took(step, 3.0, 1.0, applied)
    assert guard.steps_to_roll_back() == []
    guard.took(4, math.nan, 1.0, applied=False)
    assert guard.steps_to_roll_back() == [1, 3, 4]
    for step in range(5, 34):
        guard.took(step, 3.0, 1.0, applied=True)
    assert guard.steps_to_roll_back() == []


def test_a_normal_run_of_500_steps_is_left_alone() -> None:
    [reasons] = run_world(1, _train_guarded)
    assert reasons == []


def _train_guarded() -> list[str]:
    engine, feed = start_engine(variant(train={"steps": 500, "prefetch": 0}))
    guard = SpikeGuard()
    engine._judge = guard.keeps
    reasons = []
    for step in range(500):
        rate = 3e-3 * min(1.0, (step + 1) / 20)
        result = engine.train_step(feed.step(step), rate)
        reason = guard.reason_to_skip(result.loss, result.grad_norm)
        reasons += [] if reason is None else [f"step {step}: {reason}"]
        guard.took(step, result.loss, result.grad_norm, result.applied)
    return reasons


def guarded_config(corpus: Path, run_dir: Path, **resilience: Any) -> RunConfig:
    return replace(
        config_for(corpus, run_dir),
        train=TrainConfig(steps=60),
        checkpoint=CheckpointConfig(every=10, keep=0),
        evaluation=EvaluationConfig(every=0, batches=1),
        resilience=ResilienceConfig(**resilience),
    )


def test_nan_and_a_poisoned_batch_leave_the_weights_alone_and_training_goes_on(corpus: Path, tmp_path: Path) -> None:
    config = guarded_config(corpus, tmp_path / "run")
    for outcome, touched in run_world(2, _train_poisoned, config):
        assert outcome == "finished"
        assert touched == {39: False, 44: False, 45: True}
    skipped = read_steps(tmp_path / "run" / SKIPPED_FILE)
    assert [line["step"] for line in skipped] == [40, 45]
    assert "above the median" in skipped[0]["reason"]
    assert skipped[1]["reason"] == "gradient norm is inf", "DeepSpeed's word for a gradient that is not finite"
    assert [line["samples"] for line in skipped] == [[[312, 319]], [[352, 359]]]
    losses = {line["step"]: line["loss"] for line in read_steps(tmp_path / "run/metrics.jsonl") if "loss" in line}
    assert losses[60] < losses[39] < losses[40]


def _train_poisoned(config: RunConfig) -> tuple[str, dict[int, bool]]:
    """Noise instead of text in step 39, counted from 0, and NaN in a gradient in step 44."""
    touched: dict[int, bool] = {}
    _poison_samples(range(39 * 8, 40 * 8))
    original = Engine.train_step

    def train_step(self: Engine, micro_batches: Any, rate: float) -> StepResult:
        step = len(touched_steps)
        touched_steps.append(step)
        hook = None
        if step == 44:
            hook = self.parameters[0].register_hook(lambda gradient: gradient * math.nan)
        self.settle()  # the weights of the step before may still be on their way
        before = [parameter.detach().clone() for parameter in self.parameters]
        result = original(self, micro_batches, rate)
        self.settle()
        if hook is not None:
            hook.remove()
        if step in {39, 44, 45}:
            touched[step] = not all(torch.equal(a, b) for a, b in zip(before, self.parameters, strict=True))
        return result

    touched_steps: list[int] = []
    Engine.train_step = train_step  # type: ignore[method-assign]
    return str(pretrain(config)), touched


def _poison_samples(numbers: range, first_seen: list[int] | None = None) -> None:
    """Makes global samples ``numbers`` unlike anything before."""
    original = TokenStream.fetch

    def fetch(self: TokenStream, samples: Any) -> Any:
        tokens = original(self, samples)
        for row, number in enumerate(self.skip.number_of(np.asarray(samples, np.int64))):
            if int(number) in numbers:
                tokens[row] = np.random.default_rng(int(number)).integers(250, 300, tokens.shape[1])
        return tokens

    TokenStream.fetch = fetch  # type: ignore[method-assign]


def test_a_checkpoint_that_a_person_removes_during_a_rollback_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (3, 5, 7):
        step_folder(checkpoints_of(tmp_path), step).mkdir(parents=True)
    rename = Path.rename

    def rename_too_late(path: Path, target: Any) -> Any:
        if path.name == "step_00000005":
            path.rmdir()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_too_late)
    assert roll_back(tmp_path, [4, 6], [[32, 39]]) == 3
    assert [path.name for path in list_steps(checkpoints_of(tmp_path))] == ["step_00000003"]
    assert [rollback.back_to_step for rollback in read_rollbacks(tmp_path)] == [3]


def test_a_series_of_bad_batches_is_rolled_back_over_and_left_out(corpus: Path, tmp_path: Path) -> None:
    config = guarded_config(corpus, tmp_path / "run", max_skips=2)
    bad = range(42 * 8, 45 * 8)
    assert set(run_world(2, _train_on_bad_samples, config, bad)) == {Outcome.ROLLED_BACK}
    [rollback] = read_rollbacks(tmp_path / "run")
    assert rollback.back_to_step == 40
    assert rollback.samples == [[bad.start, bad.stop - 1]]
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").glob("step_*"))[-1] == "step_00000040"
    assert set(run_world(2, _train_on_bad_samples, config, bad)) == {Outcome.FINISHED}
    lines = [line for line in read_steps(tmp_path / "run/metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 61))
    assert all(line["applied"] for line in lines)
    assert read_steps(tmp_path / "run" / SKIPPED_FILE) == []


def test_a_run_that_clips_nothing_skips_a_gradient_that_is_too_large(corpus: Path, tmp_path: Path) -> None:
    config = guarded_config(corpus, tmp_path / "run")
    config = replace(config, optimizer=replace(config.optimizer, gradient_clipping=0.0))
    config = replace(config, train=TrainConfig(steps=46))
    assert run_world(1, _train_with_a_large_gradient, config) == [Outcome.FINISHED]
    [skipped] = read_steps(tmp_path / "run" / SKIPPED_FILE)
    assert skipped["step"] == 45
    assert "and nothing clips it" in skipped["reason"]


def _train_with_a_large_gradient(config: RunConfig) -> Outcome:
    """100 times as large in step 44, counted from 0."""
    original = Engine.train_step
    steps = itertools.count()

    def train_step(self: Engine, micro_batches: Any, rate: float) -> StepResult:
        hooks = []
        if next(steps) == 44:
            hooks = [parameter.register_hook(lambda gradient: 100 * gradient) for parameter in self.parameters]
        result = original(self, micro_batches, rate)
        for hook in hooks:
            hook.remove()
        return result

    Engine.train_step = train_step  # type: ignore[method-assign]
    return pretrain(config)


def test_a_stage_of_other_data_is_trained_on(corpus: Path, tmp_path: Path) -> None:
    config = guarded_config(corpus, tmp_path / "run", max_skips=2)
    stage = StageConfig(from_tokens=42 * 8 * config.data.sequence_length)
    config = replace(config, data=replace(config.data, stages=[stage]))
    assert run_world(1, _train_on_bad_samples, config, range(42 * 8, 10**6)) == [Outcome.FINISHED]
    assert not (tmp_path / "run" / SKIPPED_FILE).exists()


def test_bad_batches_without_end_make_the_run_give_up(corpus: Path, tmp_path: Path) -> None:
    config = guarded_config(corpus, tmp_path / "run", max_skips=2, max_rollbacks=1)
    everything = range(42 * 8, 10**6)
    outcomes = [run_world(1, _train_on_bad_samples, config, everything)[0] for _ in range(2)]
    assert outcomes == [Outcome.ROLLED_BACK, Outcome.GAVE_UP]


def _train_on_bad_samples(config: RunConfig, numbers: range) -> Outcome:
    _poison_samples(numbers)
    return pretrain(config)
