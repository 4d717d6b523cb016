"""What follows from how attempts ended: go on, requeue, or stop with the reason."""

from pathlib import Path
from typing import Any

import pytest

from launch.verdict import START_TRIES, Action, Decision, close_attempt, decide, put_on_top, was_refused
from pretrain import run_lock
from pretrain.resilience.attempts import Attempt, Outcome, next_attempt, read_attempts
from pretrain.run_lock import RunLock

JOB = "12"


def attempt(run: Path, job: str = JOB, began_at: int | None = 0, reached: int | None = None) -> Attempt:
    new = next_attempt(run)
    new.launch(job=job, nodes=["node1", "node2"])
    if began_at is not None:
        new.start(began_at, hosts=["node1", "node2"])
    if reached is not None:
        new.progress(reached)
    return new


def ended(run: Path, outcome: Outcome, reached: int, reason: str = "because", job: str = JOB) -> None:
    attempt(run, job, reached=reached).end(outcome, reason)


def decision(run: Path, tries: int = 3, asked: str = "") -> Decision:
    return decide(run, JOB, tries, asked)


@pytest.mark.parametrize(
    ("outcome", "action"),
    [
        (Outcome.FINISHED, Action.FINISHED),
        (Outcome.STOPPED, Action.REQUEUE),
        (Outcome.HUNG, Action.REQUEUE),
        (Outcome.CRASHED, Action.AGAIN),
        (Outcome.LOST, Action.AGAIN),
        (Outcome.ROLLED_BACK, Action.AGAIN),
        (Outcome.BAD_INPUT, Action.STOP),
        (Outcome.GAVE_UP, Action.STOP),
    ],
)
def test_every_end_has_its_answer(outcome: Outcome, action: Action, tmp_path: Path) -> None:
    ended(tmp_path, outcome, 57)
    assert decision(tmp_path).action is action


def test_after_the_warning_of_the_time_limit_nothing_starts_in_this_allocation(tmp_path: Path) -> None:
    ended(tmp_path, Outcome.CRASHED, 57)
    assert decision(tmp_path, asked="SIGUSR1").action is Action.REQUEUE


def test_a_crash_at_the_same_step_stops_after_the_set_number_of_tries(tmp_path: Path) -> None:
    for _ in range(2):
        ended(tmp_path, Outcome.CRASHED, 57)
        assert decision(tmp_path).action is Action.AGAIN
    ended(tmp_path, Outcome.CRASHED, 57, reason="rank 1 on node1: ValueError: no")
    assert decision(tmp_path) == Decision(
        Action.STOP,
        "3 attempts in a row ended after step 57; attempt 3 crashed after step 57: rank 1 on node1: ValueError: no",
    )


@pytest.mark.parametrize(
    "between",
    [
        lambda run: ended(run, Outcome.CRASHED, 58),
        lambda run: ended(run, Outcome.CRASHED, 57, job="another"),
    ],
    ids=["progress", "another job"],
)
def test_progress_and_other_jobs_do_not_count(between: Any, tmp_path: Path) -> None:
    between(tmp_path)
    ended(tmp_path, Outcome.CRASHED, 57)
    assert decision(tmp_path, tries=2).action is Action.AGAIN


def test_a_preemption_never_stops_a_run_but_a_time_limit_without_progress_does(tmp_path: Path) -> None:
    for _ in range(5):
        ended(tmp_path, Outcome.STOPPED, 57, reason="SIGTERM: preempted")
        assert decision(tmp_path, tries=1).action is Action.REQUEUE
    for expected in (Action.REQUEUE, Action.REQUEUE, Action.STOP):
        ended(tmp_path, Outcome.STOPPED, 57, reason="SIGUSR1: the time limit is near")
        assert decision(tmp_path, tries=2).action is expected


def test_a_start_that_fails_has_more_tries_because_a_dead_node_looks_like_that(tmp_path: Path) -> None:
    for expected in [Action.AGAIN] * (START_TRIES - 1) + [Action.STOP]:
        attempt(tmp_path, began_at=None).end(Outcome.LOST, "no word")
        assert decision(tmp_path).action is expected


def closed(run: Path, status: int, **known: str) -> tuple[Outcome | None, str]:
    close_attempt(run, JOB, status, **known)
    record = read_attempts(run)[-1]
    return record.outcome, record.end["reason"]


def test_what_the_training_has_said_of_its_end_stays(tmp_path: Path) -> None:
    ended(tmp_path, Outcome.STOPPED, 3, reason="SIGTERM: preempted")
    assert closed(tmp_path, status=137) == (Outcome.STOPPED, "SIGTERM: preempted")


def test_a_killed_rank_is_the_reason_not_the_ranks_that_noticed(tmp_path: Path) -> None:
    new = attempt(tmp_path, reached=5)
    new.rank_failed(0, RuntimeError("connection closed by peer"))
    new.node_failed("node1", [{"rank": 0, "status": 1, "how": "ended with exit status 1"}])
    new.node_failed("node2", [{"rank": 2, "status": 137, "how": "was killed by SIGKILL"}])
    assert closed(tmp_path, status=137) == (Outcome.CRASHED, "rank 2 on node2 was killed by SIGKILL")


def test_the_first_error_is_the_reason(tmp_path: Path) -> None:
    new = attempt(tmp_path, reached=5)
    new.rank_failed(1, ValueError("no luck"))
    new.rank_failed(0, RuntimeError("connection closed by peer"))
    outcome, reason = closed(tmp_path, status=1)
    assert outcome is Outcome.CRASHED
    assert reason.startswith("rank 1 on ")
    assert reason.endswith(": ValueError: no luck")


def test_a_dead_node_is_the_reason_not_the_ranks_on_the_others(tmp_path: Path) -> None:
    attempt(tmp_path, reached=5).rank_failed(0, RuntimeError("connection closed by peer"))
    assert closed(tmp_path, status=1, lost="node node2 is down") == (Outcome.LOST, "node node2 is down")


@pytest.mark.parametrize(
    ("status", "asked", "outcome"),
    [
        (0, "", Outcome.FINISHED),
        (2, "", Outcome.BAD_INPUT),
        (137, "SIGUSR1", Outcome.STOPPED),
        (137, "", Outcome.LOST),
    ],
)
def test_an_attempt_without_a_word_is_judged_by_its_status(
    status: int, asked: str, outcome: Outcome, tmp_path: Path
) -> None:
    attempt(tmp_path)
    assert closed(tmp_path, status, asked=asked)[0] is outcome


def test_the_reason_goes_on_top_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("step 1\n")
    put_on_top(log, "it crashed")
    assert log.read_text() == "STOPPED: it crashed\n\nstep 1\n"


def test_a_job_whose_ranks_find_the_run_taken_leaves_no_word_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "GRACE_SECONDS", 0.1)
    attempt(tmp_path, "11", reached=5)
    attempt(tmp_path, JOB, began_at=None)
    assert not was_refused(tmp_path, JOB, 2)  # nobody holds it: bad input of its own
    with RunLock(tmp_path, is_main=True) as lock:
        lock.take()
        assert not was_refused(tmp_path, JOB, 1)
        assert not was_refused(tmp_path, "11", 2)  # has begun
        assert was_refused(tmp_path, JOB, 2)
    assert [record.launch["job"] for record in read_attempts(tmp_path)] == ["11"]
