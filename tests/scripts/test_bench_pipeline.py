"""Both schedules, with passes so short that figures mean nothing: the table is there, its formula is the paper's."""

import contextlib
import io

from scripts.bench_pipeline import main
from tests.world import run_world


def table() -> list[list[str]]:
    """What this rank prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["--micro-batches", "3", "--seconds", "0.04", "--rounds", "1"]) == 0
    return [line.split() for line in printed.getvalue().splitlines()]


def test_a_row_for_each_schedule() -> None:
    (heading, waiting, filled), others = run_world(2, table)
    assert others == []
    assert heading[0] == "micro-batches"
    assert (waiting[:2], waiting[4]) == (["3", "1f1b"], "0.12")
    assert (filled[:2], filled[4]) == (["3", "zero_bubble"], "0.04")
    assert all(float(row[2]) >= 9 * 0.04 for row in (waiting, filled))
