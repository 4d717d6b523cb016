"""Worker processes: results in order, errors as they are, nobody waited for in vain."""

import os
import signal
from collections.abc import Callable

import pytest

from common.errors import InputError
from data.workers import Workers

Report = Callable[[int, int], None]


def square(number: int, report: Report) -> int:
    report(1, number)
    return number * number


def refuse(number: int, report: Report) -> int:
    if number == 3:
        raise InputError("3 is not wanted")
    return number


def stumble(number: int, report: Report) -> float:
    return 1 / number


def die(number: int, report: Report) -> None:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)


def interrupted(number: int, report: Report) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return number


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_the_order_of_the_tasks(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    with Workers(count) as workers:
        for _ in range(2):  # the same processes serve several rounds
            assert workers.run("squaring", 9, square, [(n,) for n in range(9)]) == [n * n for n in range(9)]
    assert capsys.readouterr().err.count("squaring: 36 tokens") == 2


def test_errors_come_back_as_they_are() -> None:
    with Workers(2) as workers, pytest.raises(InputError, match=r"^3 is not wanted$"):
        workers.run("refusing", 0, refuse, [(n,) for n in range(6)])
    with Workers(2) as workers, pytest.raises(RuntimeError, match=r"(?s)in a worker process.*ZeroDivisionError"):
        workers.run("stumbling", 0, stumble, [(n,) for n in range(2)])


def test_a_killed_worker_is_reported() -> None:
    with Workers(2) as workers, pytest.raises(InputError, match="a worker process was killed"):
        workers.run("dying", 0, die, [(n,) for n in range(4)])
    with Workers(2) as workers, pytest.raises(InputError, match=r"^file 2: a worker process was killed over it"):
        workers.run("dying", 0, die, [(n,) for n in range(4)], [f"file {n}" for n in range(4)])


def test_ctrl_c_is_for_the_process_that_the_user_started() -> None:
    """The terminal sends it to all; a worker that dies of it would print a traceback of its own."""
    with Workers(2) as workers:
        assert workers.run("going on", 0, interrupted, [(n,) for n in range(4)]) == [0, 1, 2, 3]
