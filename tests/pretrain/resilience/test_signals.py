"""A stop signal on any rank, at any moment, ends all ranks after the same step, with a checkpoint to go on from."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pretrain.checkpoint.writer import CheckpointWriter
from pretrain.config import RunConfig
from pretrain.engines.engine import Engine
from pretrain.resilience.attempts import read_attempts
from pretrain.resilience.signals import STOP_SIGNALS, StopSignal
from pretrain.run import pretrain
from tests.pretrain.test_run import config_for, losses, train
from tests.world import run_world


@pytest.fixture
def own_handlers() -> Iterator[None]:
    """Puts back what a StopSignal of this process has installed."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_noted(number: signal.Signals, own_handlers: None) -> None:
    stop = StopSignal().install()
    assert stop.received == 0
    os.kill(os.getpid(), number)
    assert stop.received == number


def test_a_signal_that_came_before_the_handlers_is_not_lost(own_handlers: None) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # as the launcher does before it starts the ranks
    signal.raise_signal(signal.SIGUSR1)  # to this thread: a library's thread that does not block it would end pytest
    assert StopSignal().install().received == signal.SIGUSR1


def test_a_second_interrupt_does_not_wait(own_handlers: None) -> None:
    StopSignal().install()
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def never_stopped(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("never_stopped")
    run_world(2, train, config_for(corpus, run_dir))
    return run_dir


@pytest.mark.parametrize("moment", ["in mid-step", "during a save", "before the first step"])
def test_one_rank_is_told_and_all_stop_at_the_same_step(
    moment: str, corpus: Path, tmp_path: Path, never_stopped: Path
) -> None:
    config = config_for(corpus, tmp_path / "run")
    assert run_world(2, _train_until_told, config, moment) == ["stopped", "stopped"]
    [attempt] = read_attempts(tmp_path / "run")
    expected = {"in mid-step": 8, "during a save": 7, "before the first step": 1}[moment]
    assert attempt.step == expected
    assert (tmp_path / "run/checkpoints/latest").read_text() == f"step_{expected:08d}\n"
    assert attempt.end["reason"] == "SIGTERM: preempted or ended from outside"
    assert run_world(2, train, config) == ["finished", "finished"]
    assert losses(tmp_path / "run") == losses(never_stopped)


def _train_until_told(config: RunConfig, moment: str) -> str:
    """Sends SIGTERM to rank 1 in step 8, while the checkpoint of step 6 is written, or before anything."""
    stop = StopSignal().install()
    if os.environ["RANK"] == "1":
        if moment == "before the first step":
            os.kill(os.getpid(), signal.SIGTERM)
        elif moment == "in mid-step":
            _interrupt(Engine, "_run_step", call=8)
        else:
            _interrupt(CheckpointWriter, "_write", call=2)  # step 6, in the writer's thread
    return str(pretrain(config, stop).value)


def _interrupt(owner: type, name: str, call: int) -> None:
    """Sends SIGTERM to this process just before the ``call``-th call of a method goes on."""
    original: Any = None
    calls = 0

    def interrupted(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    for kind in (owner, *owner.__subclasses__()):
        if name in vars(kind):
            original = vars(kind)[name]
            setattr(kind, name, interrupted)
            if kind.__name__ == "SequentialEngine":
                break
