"""What an attempt leaves behind can be read at any moment, and by whoever starts next."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import InputError
from pretrain.resilience.attempts import (
    ATTEMPT_VARIABLE,
    Attempt,
    Outcome,
    current_attempt,
    next_attempt,
    read_attempts,
    recorded_failures,
)


def test_an_attempt_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    attempt = next_attempt(tmp_path)
    attempt.launch(job="12", nodes=["node1"])
    attempt.start(10, hosts=["node1"])
    for step in range(11, 14):
        attempt.progress(step)
    [running] = read_attempts(tmp_path)
    assert (running.number, running.outcome, running.last_step) == (1, None, 13)
    attempt.end(Outcome.STOPPED, "SIGTERM:\npreempted")
    [ended] = read_attempts(tmp_path)
    assert ended.outcome is Outcome.STOPPED
    assert ended.end["reason"] == "SIGTERM: preempted"
    assert next_attempt(tmp_path).number == 2


def test_half_a_file_is_no_file(tmp_path: Path) -> None:
    attempt = next_attempt(tmp_path)
    attempt.launch(job="12", nodes=[])
    (attempt.folder / "end.json").write_text('{"outcome": "fin')
    (attempt.folder / "progress").write_text("")
    [record] = read_attempts(tmp_path)
    assert (record.outcome, record.last_step) == (None, 0)


def test_the_launcher_names_the_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ATTEMPT_VARIABLE, raising=False)
    assert current_attempt(tmp_path).number == 0
    monkeypatch.setenv(ATTEMPT_VARIABLE, "7")
    assert current_attempt(tmp_path).number == 7
    for wrong in ("", "-1", "../..", "٣", "1\n"):
        monkeypatch.setenv(ATTEMPT_VARIABLE, wrong)
        with pytest.raises(InputError, match=f"^{ATTEMPT_VARIABLE}: is "):
            current_attempt(tmp_path)


def test_a_start_without_a_launcher_forgets_the_one_before(tmp_path: Path) -> None:
    for outcome in (Outcome.STOPPED, None):
        attempt = Attempt(tmp_path, 0)
        attempt.start(0)
        if outcome is not None:
            attempt.progress(5)
            attempt.end(outcome, "because")
    [record] = read_attempts(tmp_path)
    assert (record.outcome, record.step) == (None, None)


def test_what_ends_a_rank_is_on_record(tmp_path: Path) -> None:
    attempt = next_attempt(tmp_path)
    attempt.launch(job="12", nodes=[])
    with pytest.raises(RuntimeError), recorded_failures(attempt, rank=3):
        raise RuntimeError("no\nluck")
    [record] = read_attempts(tmp_path)
    assert [error["error"] for error in record.files("rank_*.error.json")] == ["RuntimeError: no luck"]
    with pytest.raises(InputError), recorded_failures(attempt, rank=0):
        raise InputError("data.train: no such folder")
    [record] = read_attempts(tmp_path)
    assert record.outcome is Outcome.BAD_INPUT


def test_bad_input_without_a_launcher_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError), recorded_failures(Attempt(tmp_path, 0), rank=0):
        raise InputError("data.train: no such folder")
    assert not list(tmp_path.iterdir())


def test_starts_stand_in_the_order_in_which_they_were_made_whatever_the_clocks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([500.0, 400.0, 1e9, 0.0, 300.0, 200.0, 100.0])
    monkeypatch.setattr("time.time", lambda: next(clock))
    next_attempt(tmp_path).launch(job="a")
    Attempt(tmp_path, 0).start(7)
    next_attempt(tmp_path).launch(job="b")
    assert [record.number for record in read_attempts(tmp_path)] == [1, 0, 2]
    Attempt(tmp_path, 0).start(9)
    assert [record.number for record in read_attempts(tmp_path)] == [1, 2, 0]
    for file in tmp_path.rglob("*.json"):
        os.utime(file, (0, 0))
    next_attempt(tmp_path).launch(job="c")
    assert [record.number for record in read_attempts(tmp_path)] == [1, 2, 0, 3]


def test_a_start_that_was_refused_before_it_began_is_none(tmp_path: Path) -> None:
    begun = next_attempt(tmp_path)
    begun.launch(job="a")
    begun.start(0)
    refused = next_attempt(tmp_path)
    refused.launch(job="b")
    assert refused.withdraw()
    assert not begun.withdraw()
    assert [record.number for record in read_attempts(tmp_path)] == [1]


def test_records_of_earlier_versions_stand_by_their_numbers(tmp_path: Path) -> None:
    for number, seconds in ((1, 30.0), (2, 20.0), (10, 10.0)):
        folder = tmp_path / "attempts" / f"{number:04d}"
        folder.mkdir(parents=True)
        (folder / "launch.json").write_text(f'{{"time": {seconds}, "job": "1"}}')
    next_attempt(tmp_path).launch(job="2")
    assert [record.number for record in read_attempts(tmp_path)] == [1, 2, 10, 11]


def test_launchers_at_the_same_moment_get_numbers_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        numbers = [attempt.number for attempt in pool.map(next_attempt, [tmp_path] * 40)]
    assert sorted(numbers) == list(range(1, 41))


def test_what_is_no_number_is_no_attempt(tmp_path: Path) -> None:
    for name in ("²", "٣", "x", "1.old"):
        (tmp_path / "attempts" / name).mkdir(parents=True)
    assert read_attempts(tmp_path) == []
    assert next_attempt(tmp_path).number == 1
