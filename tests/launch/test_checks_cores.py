"""Preflight's look at the ranks' own affinity masks."""

import os
from pathlib import Path

import pytest

from launch.checks.cores import RankCores, judge_cores, own_cores, spans
from launch.checks.finding import Level
from pretrain.config import RunConfig
from tests.launch.test_checks import said_by_preflight
from tests.pretrain.test_run import config_for
from tests.world import run_world


def on(*cores: int, threads: int = 1) -> RankCores:
    return RankCores({str(core): frozenset({core}) for core in cores}, threads)


def hyperthreads(*cores: int, threads: int) -> RankCores:
    """Core 3 has the hyperthreads 3 and 103."""
    return RankCores({str(core): frozenset({core, core + 100}) for core in cores}, threads)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([on(0), on(0)], "a: ranks 0-1 share 1 core (CPU 0)"),
        ([on(0, 1, threads=2), on(0, 1, threads=2)], "a: ranks 0-1 with 4 threads share 2 cores (CPU 0-1)"),
        ([on(4, threads=8)], "a: rank 0 with 8 threads has 1 core (CPU 4)"),
        ([on(0, 1, 2, 3), on(7), on(7), on(0, 1, 2, 3)], "a: ranks 1-2 share 1 core (CPU 7)"),
        ([on(0, 1), on(1, 2), on(0, 2), on(0, 1, 2)], "a: ranks 0-3 share 3 cores (CPU 0-2)"),
        ([hyperthreads(3, threads=1), hyperthreads(3, threads=1)], "a: ranks 0-1 share 1 core (CPU 3, 103)"),
        ([hyperthreads(3, threads=3)], "a: rank 0 with 3 threads has 1 core (CPU 3, 103)"),
    ],
)
def test_ranks_that_crowd_their_cores_are_named(answers: list[RankCores], said: str) -> None:
    finding = judge_cores(["a"] * len(answers), answers)
    assert finding.level is Level.WARNING
    assert finding.text.startswith(f"{said}; more cores (site.cpus_per_task)")


def test_every_crowded_node_is_named_and_no_other() -> None:
    finding = judge_cores(["a", "b", "a", "b", "c", "c"], [on(0), on(0), on(1), on(0), on(5), on(5)])
    assert "b: ranks 1, 3 share 1 core (CPU 0); c: ranks 4-5 share 1 core (CPU 5);" in finding.text
    assert "a: " not in finding.text


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([on(0, 1), on(0, 1)], "2 threads of ranks on 2 cores of each node"),
        ([on(*range(8), threads=3), on(*range(8), threads=4)], "7 threads of ranks on 8 cores of each node"),
        ([hyperthreads(1, 2, threads=2), hyperthreads(1, 2, threads=2)], "4 threads of ranks on 2 cores of each node"),
    ],
)
def test_enough_cores_are_enough_whoever_shares_them(answers: list[RankCores], said: str) -> None:
    finding = judge_cores(["a"] * len(answers), answers)
    assert (finding.level, finding.text) == (Level.OK, said)


def test_hyperthreads_of_a_core_are_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, siblings in {0: "0,4", 1: "1,5", 4: "0,4"}.items():
        (tmp_path / str(number)).write_text(siblings + "\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 4, 9})
    assert own_cores(str(tmp_path / "{}")) == {"0,4": {0, 4}, "1,5": {1}, "9": {9}}


def test_numbers_are_shown_as_spans() -> None:
    assert spans([0, 1, 2, 3, 8, 10, 11]) == "0-3, 8, 10-11"


def test_ranks_that_were_bound_to_one_core_say_so(corpus: Path, tmp_path: Path) -> None:
    said, other = run_world(2, _said_on_one_core, config_for(corpus, tmp_path / "run"))
    [line] = [line for line in said.splitlines() if "cores:" in line]
    assert line.startswith("preflight WARNING cores: ")
    assert "ranks 0-1 share 1 core" in line
    assert other == ""


def _said_on_one_core(config: RunConfig) -> str:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return said_by_preflight(config)
