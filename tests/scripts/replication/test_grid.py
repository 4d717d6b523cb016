"""Cells, sweeps and digests: what is to do, what waits, and what is never done again."""

import dataclasses
from pathlib import Path

import pytest

from common.errors import InputError
from scripts.replication.grid import Grid
from scripts.replication.plans import Plan
from scripts.replication.rows import Results
from tests.scripts.replication.grids import made_up, study, with_part

BEST = {"plain": 0.001, "older": 0.004, "ours": 0.002}


def loss(plan: Plan) -> float:
    """Lowest at the rate that is best for the column."""
    assert plan.cell.rate is not None
    return 5.0 + 100 * abs(plan.cell.rate - BEST[plan.cell.column])


def test_every_column_tries_the_same_rates_and_all_else_waits_for_them(tmp_path: Path) -> None:
    config = study(tmp_path)
    results = Results(Path(config.results))
    entries = Grid(config, results).entries()
    tries = [entry.plan.cell for entry in entries if not entry.waits]
    assert {(cell.column, cell.rate) for cell in tries} == {
        (column, rate) for column in BEST for rate in (0.001, 0.002, 0.004)
    }
    assert all(cell.is_try and cell.size == "s1" and cell.tokens == 240 and cell.seed == 77 for cell in tries)
    assert len(entries) == 9 + 3 * 3 * 3 * 3 + 2 * (3 + 2)  # tries; scaling; a variant that two columns know
    for entry in entries:
        if entry.plan.cell.is_try:
            results.add(made_up(entry.plan, loss))
    cells = [entry for entry in Grid(config, results).entries() if entry.row is None]
    assert not any(entry.waits for entry in cells)
    assert {(entry.plan.cell.column, entry.plan.cell.rate) for entry in cells} == set(BEST.items())
    assert {entry.plan.cell.part for entry in cells} == {"scaling", "ablations"}  # which has no tries of its own


def test_one_missing_try_keeps_its_column_waiting_and_a_diverged_one_does_not(tmp_path: Path) -> None:
    config = study(tmp_path)
    results = Results(Path(config.results))
    grid = Grid(config, results)
    tries = [entry.plan for entry in grid.entries() if entry.plan.cell.is_try]
    for plan in tries:
        if (plan.cell.column, plan.cell.rate) != ("older", 0.001):
            results.add(made_up(plan, lambda plan: None if plan.cell.rate == 0.004 else loss(plan)))
    scaling = config.part("scaling")
    assert [grid.rate(scaling, column) for column in BEST] == [0.001, None, 0.002]
    waiting = {entry.plan.cell.column for entry in grid.entries() if entry.waits}
    assert waiting == {"older"}


def test_parts_that_are_asked_for_bring_the_sweep_that_they_need(tmp_path: Path) -> None:
    config = study(tmp_path)
    entries = Grid(config, Results(Path(config.results)), ["ablations"]).entries()
    assert {(entry.plan.cell.part, entry.plan.cell.is_try) for entry in entries} == {
        ("scaling", True),
        ("ablations", False),
    }


def digests(config: object) -> dict[str, str]:
    entries = Grid(config, Results(Path("nowhere"))).entries()  # type: ignore[arg-type]
    return {entry.plan.cell.label: entry.plan.digest for entry in entries}


def test_a_digest_is_of_what_is_learned_and_measured_and_of_nothing_else(tmp_path: Path) -> None:
    config = study(tmp_path)
    known = digests(config)
    assert len(set(known.values())) == len(known)
    elsewhere = study(tmp_path / "other", name="renamed")
    assert digests(elsewhere) == known
    logged = {**config.training, "metrics": {"every": 1}, "checkpoint": {"every": 5}}
    assert digests(dataclasses.replace(config, training=logged)) == known
    assert digests(with_part(config, "scaling", seeds=[1, 2, 3, 4], overhead_seconds=3.0)).items() >= known.items()
    for training in ({**config.training, "optimizer": {"beta2": 0.9}}, {**config.training, "train": {"steps": 3}}):
        changed = digests(dataclasses.replace(config, training=training))
        same = {label for label in known if known[label] == changed[label]}
        assert same == (set() if "optimizer" in training else set(known))  # steps are the study's to say
    asked = digests(with_part(config, "scaling", tasks=["held_out"]))
    assert {label.split("/")[0] for label in known if known[label] != asked[label]} == {"scaling"}


def test_cells_that_learn_alike_share_their_run(tmp_path: Path) -> None:
    config = study(tmp_path)
    more = with_part(config, "ablations", sizes=["s2"], seeds=[1, 7], tokens=[480], tasks=["held_out"])
    entries = Grid(more, Results(Path(config.results))).entries()
    runs = {entry.plan.cell.label: entry.plan.stages[-1].key for entry in entries}
    assert runs["scaling/older/s2/480/-/1"] == runs["ablations/older/s2/480/-/1"]
    assert runs["scaling/older/s2/480/-/1"] != runs["ablations/older/s2/480/no_head_norm/1"]
    plans = {entry.plan.cell.label: entry.plan.digest for entry in entries}
    assert plans["scaling/older/s2/480/-/1"] != plans["ablations/older/s2/480/-/1"]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"columns": ["plane"]}, "parts: scaling: columns: unknown 'plane'; did you mean 'plain'"),
        ({"sizes": []}, "sizes and seeds must not be empty"),
        ({"rates_from": "scaling"}, "name either a sweep of its own or"),
        ({"seeds": [77]}, "sweep.seed: 77 is one of the seeds"),
        ({"tokens": []}, "tokens: are for stages that say none"),
    ],
)
def test_a_study_that_cannot_be_is_refused_by_name(part: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        with_part(study(tmp_path), "scaling", **part)


def test_a_model_that_cannot_be_is_refused_with_its_cell(tmp_path: Path) -> None:
    config = study(tmp_path)
    wrong = dataclasses.replace(config, training={**config.training, "optimizer": {"beta3": 0.9}})
    with pytest.raises(InputError, match=r"scaling/plain/s1/240/-/77/try-0.001: .*unknown key 'optimizer.beta3'"):
        Grid(wrong, Results(Path(config.results))).entries()
