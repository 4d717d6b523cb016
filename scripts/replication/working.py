"""Works through the grid, several cells at a time.

In: a Grid, what measures a cell. Out: rows, each kept as soon as it is there, and a line about each. Always: cells
begin in the grid's order; one that failed ends the study, after those that have begun. Only this thread writes results.
"""

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from scripts.replication.cells import Cell
from scripts.replication.estimates import Estimator
from scripts.replication.grid import Grid
from scripts.replication.measuring import Lock
from scripts.replication.plans import Plan
from scripts.replication.rows import Results, Row

Measure = Callable[[Plan, Lock], Row]


def work(
    grid: Grid,
    results: Results,
    estimator: Estimator,
    measure: Measure,
    jobs: int,
    finished: Callable[[Plan, set[str]], None] = lambda plan, needed: None,
) -> None:
    """Measures every cell that does not stand.

    Args:
        finished: told of a cell that stands now, and of the keys of the runs that others still need.
    """
    locks: dict[str, threading.Lock] = {}
    running: dict[Future[Row], Plan] = {}
    begun: set[Cell] = set()
    failures: list[BaseException] = []
    with ThreadPoolExecutor(jobs) as pool:
        while True:
            entries = grid.entries()
            ready = [e.plan for e in entries if e.row is None and not e.waits and e.plan.cell not in begun]
            for plan in ready[: 0 if failures else jobs - len(running)]:
                begun.add(plan.cell)
                for stage in plan.stages:
                    locks.setdefault(stage.key, threading.Lock())
                running[pool.submit(measure, plan, locks.__getitem__)] = plan
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                plan = running.pop(future)
                if (error := future.exception()) is not None:
                    failures.append(error)
                    continue
                row = future.result()
                results.add(row)
                estimator.learn([row])
                left = [entry.plan for entry in grid.entries() if entry.row is None]
                finished(plan, {stage.key for other in left for stage in other.stages})
                print(_told(row, len(entries), len(left), estimator.seconds(left) / jobs), flush=True)
    if failures:
        raise failures[0]


def _told(row: Row, cells: int, left: int, seconds: float) -> str:
    value = "-" if row["value"] is None else f"{row['value']:.4g}"
    rest = f"about {in_words(seconds)} left" if left else "all cells stand"
    return f"[{cells - left}/{cells}] {row['label']}: {row['measures']} {value}, {row['seconds']:.0f} s; {rest}"


def in_words(seconds: float) -> str:
    """``seconds`` as in "2 h 05 min"."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
