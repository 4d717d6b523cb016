"""The study of the spike rule: its judgement of known traces, and small runs that can be repeated."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.cli import run_command
from scripts.spike_study import main
from scripts.spikes import trial
from scripts.spikes.batches import POISONS, UNSEEN, VOCABULARY, Batches
from scripts.spikes.judging import figures
from scripts.spikes.trial import LEAP, Settings


def known(**changed: Any) -> dict[str, Any]:
    """A run of 100 steps around loss 3 and norm 0.5, in which nothing happens."""
    dice = random.Random(0)
    branch = {"soon": 3.0, "later": 2.9, "kept": True}
    return {
        "losses": [dice.gauss(3.0, 0.05) for _ in range(100)],
        "norms": [0.5] * 100,
        "probes": [[80, poison, 3.0, 0.5] for poison in POISONS],
        "branches": {"skipped": {"soon": 2.5, "later": 2.8}, "noise": branch, LEAP: branch | {"answer": "nothing"}},
        "copied": 0.1,
    } | changed


def leap(norms: dict[int, float]) -> list[float]:
    return [norms.get(step, 0.5) for step in range(100)]


def test_a_norm_that_leaps_alone_is_skipped_by_the_rule_before_only() -> None:
    found = figures([known(), known(norms=leap({60: 9.0, 61: 9.0, 70: 9.0}), copied=0.9)])
    assert (found["runs"], found["learned_to_copy"], found["healthy_steps"]) == (2, 1, 200)
    skips = {name: (rule["healthy_steps_skipped"], rule["runs_with_skips"]) for name, rule in found["rules"].items()}
    assert skips == {"norm alone": (2, 1), "today's": (0, 0)}, "the first of two in a row, and the third"


def test_bad_batches_are_judged_where_they_would_have_stood() -> None:
    probes = [[20, "noise", 9.0, 0.5], [80, "noise", 9.0, 0.5], [80, "one token", 3.0, 9.0], [80, "nothing", 3.0, 0.5]]
    caught = {name: rule["caught"] for name, rule in figures([known(probes=probes)])["rules"].items()}
    assert caught["today's"]["noise"] == [1, 2], "in step 20 the rule cannot judge yet"
    assert caught["norm alone"]["noise"] == [1, 2]
    assert (caught["today's"]["one token"], caught["norm alone"]["one token"]) == ([0, 1], [1, 1])


def test_harm_is_what_the_loss_is_above_that_after_a_skip() -> None:
    worse = known()
    worse["branches"]["noise"] = {"soon": 4.5, "later": 2.8, "kept": True}
    found = figures([known(), worse])
    noise = found["harm"]["noise, kept"]
    assert (noise["count"], noise["soon_largest"]) == (2, 2.0)
    assert (noise["soon"], noise["later"], noise["later_largest"]) == pytest.approx((1.25, 0.05, 0.1))
    assert found["answers_to_a_leap"] == {"nothing": 2}


@pytest.mark.parametrize("repeating", [0.75, 1.0])
def test_healthy_batches_repeat_and_bad_ones_do_not(repeating: float) -> None:
    batches = Batches(8, repeating, seed=3)
    tokens, labels = batches.healthy(5)
    assert tokens.shape == labels.shape
    assert np.array_equal(tokens[:, 1:], labels[:, :-1])
    assert max(tokens.max(), labels.max()) < VOCABULARY - UNSEEN
    periodic = [any(np.array_equal(row[n:], row[:-n]) for n in range(4, 17)) for row in tokens]
    assert sum(periodic) == 8 * repeating
    for poison in POISONS:
        bad = batches.poisoned(5, poison)
        assert np.array_equal(bad, batches.poisoned(5, poison)), "drawn from the step alone"
        assert np.array_equal(bad, (tokens, labels)) == poison.startswith("gradient")


def test_settings_follow_from_the_number_and_all_kinds_take_turns() -> None:
    assert Settings.of(7) == Settings.of(7)
    assert len({Settings.of(number).attention for number in range(4)}) == 4
    drawn = [Settings.of(number) for number in range(40)]
    assert all(len({getattr(one, name) for one in drawn}) > 1 for name in ("rate", "warmup", "batch", "repeating"))


def test_a_small_study_writes_its_figures_and_makes_no_trace_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "AFTERWARDS", 10)
    flags = ["--runs", "1", "--first", "3", "--steps", "60"]
    assert run_command(main, [*flags, "--output", str(tmp_path / "a")]) == 0
    assert "1 healthy runs" in capsys.readouterr().out
    found = json.loads((tmp_path / "a/figures.json").read_text())
    assert (found["runs"], found["healthy_steps"]) == (1, 60)
    assert found["rules"]["today's"]["caught"]["gradient x1e6"] == [1, 1]
    first = (tmp_path / "a/trace_3.json").read_bytes()
    assert run_command(main, [*flags, "--output", str(tmp_path / "a")]) == 0
    (tmp_path / "a/trace_3.json").rename(tmp_path / "kept.json")
    assert run_command(main, [*flags, "--output", str(tmp_path / "a")]) == 0
    assert (tmp_path / "a/trace_3.json").read_bytes() == first, "equal numbers give equal traces"


def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, ["--runs", "0"]) == 2
    assert capsys.readouterr().err == "error: --runs: must be at least 1, is 0\n"
    (tmp_path / "trace_0.json").write_text(json.dumps(known()))
    assert run_command(main, ["--runs", "1", "--steps", "60", "--output", str(tmp_path)]) == 2
    assert "has 100 steps, not 60; choose another --output" in capsys.readouterr().err
    (tmp_path / "trace_0.json").write_text("{")
    assert run_command(main, ["--runs", "1", "--steps", "60", "--output", str(tmp_path)]) == 2
    assert "trace_0.json: no trace of this study; delete it" in capsys.readouterr().err
