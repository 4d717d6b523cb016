"""What the loop makes of failed saves and of losses that are none; its parts are made up."""

import math
from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock

import pytest

from pretrain.config import CheckpointConfig, RunConfig, TrainConfig
from pretrain.resilience.attempts import Outcome
from pretrain.resilience.supervisor import Ending
from pretrain.trainer import CheckpointError, Trainer

STEPS = 5
EVERY = 2
"""steps between saves, so that steps 2, 4 and 5 are saved"""


class Writer:
    """Tells at once of a save that failed where it is synchronous, and else at the next save or wait."""

    def __init__(self, asynchronous: bool, failing: set[int]) -> None:
        self.saved: list[int] = []
        self._asynchronous, self._failing, self._failure = asynchronous, failing, ""

    def save(self, fragments: Any, facts: Any) -> str | None:
        before = self.wait()
        self.saved.append(facts.step)
        self._failure = f"step {facts.step} failed" if facts.step in self._failing else ""
        return before if self._asynchronous else self.wait()

    def wait(self) -> str | None:
        failure, self._failure = self._failure, ""
        return failure or None


def trainer_of(writer: Writer | None = None, ends: dict[int, Ending] | None = None, **checkpoint: Any) -> Trainer:
    """A trainer that takes ``STEPS`` steps; ``ends``: after which of them the supervisor ends it."""
    parts = MagicMock()
    parts.config = replace(
        RunConfig(), train=TrainConfig(steps=STEPS), checkpoint=CheckpointConfig(every=EVERY, **checkpoint)
    )
    parts.supervisor.batches.side_effect = lambda batches: iter([[]] * STEPS)
    parts.supervisor.after_step.side_effect = lambda step, result: (ends or {}).get(step + 1)
    parts.telemetry.due.return_value = False
    parts.meter.record.return_value = {}
    of_mock = ("config", "topology", "engine", "stream", "feed", "meter", "telemetry", "supervisor")
    return Trainer(
        config_values={},
        held_out=None,
        sinks=[],
        writer=writer or MagicMock(),  # type: ignore[arg-type]
        **{name: getattr(parts, name) for name in of_mock},
    )


@pytest.mark.parametrize("asynchronous", [True, False])
def test_the_last_save_must_succeed_and_an_older_one_need_not(
    asynchronous: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    older = Writer(asynchronous, failing={2, 4})
    assert trainer_of(older, asynchronous=asynchronous).fit(0) is None
    assert older.saved == [2, 4, 5]
    told = capsys.readouterr().out
    assert all(f"WARNING: step {step} failed; training goes on" in told for step in (2, 4))
    with pytest.raises(CheckpointError, match="step 5 failed"):
        trainer_of(Writer(asynchronous, failing={5}), asynchronous=asynchronous).fit(0)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_run_that_is_stopped_must_save_before_it_goes(asynchronous: bool) -> None:
    stopped = {3: Ending(Outcome.STOPPED, "SIGTERM")}
    assert trainer_of(Writer(asynchronous, failing={2}), stopped, asynchronous=asynchronous).fit(0) == stopped[3]
    with pytest.raises(CheckpointError, match="step 3 failed"):
        trainer_of(Writer(asynchronous, failing={3}), stopped, asynchronous=asynchronous).fit(0)


@pytest.mark.parametrize("outcome", [Outcome.ROLLED_BACK, Outcome.GAVE_UP])
@pytest.mark.parametrize("on_failure", ["continue", "stop"])
def test_an_ending_that_saves_nothing_is_not_lost_to_an_older_save_that_failed(
    outcome: Outcome, on_failure: str, capsys: pytest.CaptureFixture[str]
) -> None:
    writer, ends = Writer(asynchronous=True, failing={4}), {5: Ending(outcome, "bad steps")}
    assert trainer_of(writer, ends, on_failure=on_failure).fit(0) == ends[5]
    assert writer.saved == [2, 4]
    assert "WARNING: step 4 failed" in capsys.readouterr().out


def test_a_run_that_is_told_to_stop_does_so_at_the_first_save_that_failed() -> None:
    with pytest.raises(CheckpointError, match="step 2 failed"):
        trainer_of(Writer(asynchronous=True, failing={2}), on_failure="stop").fit(0)


def test_the_best_loss_is_the_lowest_that_is_a_number() -> None:
    trainer = trainer_of()
    trainer.held_out = MagicMock()
    found = iter([math.nan, math.inf, 3.5, math.nan, 2.5, 2.75])
    trainer.held_out.evaluate = lambda engine, done: {"validation_loss": next(found)}  # type: ignore[method-assign]
    best = []
    for done in range(6):
        trainer._evaluate(done)
        best.append(trainer.state.best_validation_loss)
    assert best == [None, None, 3.5, 3.5, 2.5, 2.5]
