"""The comparison of optimizers: what it makes of known results, and one small run."""

import json
from pathlib import Path

import pytest

from common.errors import InputError
from pretrain.optimizers.registry import OPTIMIZERS
from scripts import compare_optimizers
from scripts.compare_optimizers import FIRST_SEED, Result, Trial, main, read_rates, run_trial

KINDS = [kind.name for kind in OPTIMIZERS]


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """Runs whose loss is lowest at 0.002 for the first optimizer and at 0.004 for the others."""
    trained: list[Trial] = []

    def run(trial: Trial, *_: object) -> Result:
        trained.append(trial)
        best = 0.002 if trial.kind == KINDS[0] else 0.004
        loss = 5.0 + 100 * abs(trial.rate - best) + 0.01 * (trial.seed - FIRST_SEED)
        return Result(trial, 7, loss, 0.25 if trial.kind == KINDS[0] else 0.5)

    monkeypatch.setattr(compare_optimizers, "run_trial", run)
    return trained


def test_every_rate_for_every_optimizer_and_more_seeds_at_the_best_of_each(
    made_up: list[Trial], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.joinpath("out").mkdir()
    assert main(["--output", str(tmp_path / "out"), "--rates", "1e-3,2e-3,4e-3", "--seeds", "3"]) == 0
    swept = [(trial.kind, trial.rate) for trial in made_up if trial.seed == FIRST_SEED]
    assert swept == [(kind, rate) for rate in (1e-3, 2e-3, 4e-3) for kind in KINDS]
    more = {(trial.kind, trial.rate, trial.seed - FIRST_SEED) for trial in made_up if trial.seed > FIRST_SEED}
    assert more == {(kind, 2e-3 if kind == KINDS[0] else 4e-3, seed) for kind in KINDS for seed in (1, 2)}
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    table = {row[0]: row[1:3] for row in rows}
    assert rows[0] == ["peak learning rate", *KINDS]
    assert table["0.001"] == ["5.100", "5.300"]
    assert table["0.002"] == ["**5.000**", "5.200"]
    assert table["best rate, 3 seeds: mean"] == ["5.010", "5.010"]
    assert table["lowest to highest"] == ["5.000 to 5.020"] * 2
    assert table["mean of the seeds that chose nothing"] == ["5.015", "5.015"]
    assert table["seconds of a step (median)"] == ["0.25", "0.50"]
    figures = json.loads((tmp_path / "out/figures.json").read_text())
    assert len(figures) == len(made_up) and figures[0]["kind"] == KINDS[0]


@pytest.mark.parametrize("rates", ["", "fast", "1e-3,,2e-3", "0", "-1", "1e-3,0.001", "nan", "inf", "11"])
def test_rates_that_are_none_are_refused(rates: str) -> None:
    with pytest.raises(InputError, match="--rates: "):
        read_rates(rates)


def test_a_run_is_trained_once_and_read_afterwards(corpus: Path, tmp_path: Path) -> None:
    small = {
        "model.hidden_size": 24, "model.ffn_hidden_size": 40, "model.head_dim": 8, "model.rank": 3,
        "model.vocab_size": 320, "data.train": json.dumps([{"path": str(corpus / "train"), "weight": 1.0}]),
        "data.validation": str(corpus / "validation"), "data.sequence_length": 32, "batch.global_size": 4,
        "batch.micro_size": 4, "train.steps": 3, "schedule.warmup_steps": 1, "checkpoint.every": 0,
        "evaluation.batches": 2,
    }  # fmt: skip
    overrides = [word for key, value in small.items() for word in (f"--{key}", str(value))]
    trial = Trial(KINDS[1], 0.01, 5)
    first = run_trial(trial, Path("configs/debug_cpu.yaml"), tmp_path, overrides)
    lines = (tmp_path / trial.name / "metrics.jsonl").read_text()
    assert first.steps == 3 and 4 < first.validation_loss < 7
    assert run_trial(trial, Path("configs/debug_cpu.yaml"), tmp_path, overrides) == first
    assert (tmp_path / trial.name / "metrics.jsonl").read_text() == lines
    with pytest.raises(InputError, match=rf"{trial.name}: .*model\.rank"):
        run_trial(trial, Path("configs/debug_cpu.yaml"), tmp_path, [*overrides, "--model.rank", "0"])
