"""Metrics reach every sink, once per step, and no sink can stop a run."""

import sys
from pathlib import Path
from typing import Any

import pytest

from pretrain.config import ParallelConfig, RunConfig
from pretrain.run_id import keep_run_id
from pretrain.runfolder import open_sinks
from pretrain.sinks import Console, LossPlot, WeightsAndBiases, draw_losses
from pretrain.topology import plan_topology

TRAINING = {
    "step": 10,
    "tokens": 1000,
    "loss": 2.5,
    "learning_rate": 1e-3,
    "grad_norm": 1.0,
    "applied": True,
    "tokens_per_second": 100.0,
    "step_seconds": 2.0,
    "model_flops_utilization": None,
}
VALIDATION = {"step": 10, "validation_loss": 2.4, "validation_bits_per_byte": 1.0, "validation_perplexity": 11.0}


def test_the_console_says_loss_speed_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(total_steps=100)
    console.write(TRAINING)
    console.write({**TRAINING, "applied": False})
    console.write(VALIDATION)
    trained, skipped, validated = capsys.readouterr().out.splitlines()
    assert "step  10/100  loss 2.5000" in trained
    assert "100 tokens/s  left 0:03:00" in trained
    assert skipped.endswith("SKIPPED")
    assert "validation loss 2.4000  1.0000 bits/byte" in validated


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    draw_losses([TRAINING, {**TRAINING, "step": 20, "tokens": 2000}, VALIDATION], tmp_path / "loss.png", "title")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_plot_draws_what_it_was_given_and_earlier_lines_without_reading_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[dict[str, Any]]] = []
    monkeypatch.setattr("pretrain.sinks.draw_losses", lambda lines, picture, title: drawn.append(list(lines)))
    plot = LossPlot([{**TRAINING, "telemetry": {"x": [1.0]}}], tmp_path / "loss.png", "title")
    plot.write({**TRAINING, "step": 20, "loss": float("nan"), "telemetry": {"x": [2.0]}})
    assert drawn == []
    plot.write({**VALIDATION, "step": 20})
    kept = {"step": 10, "tokens": 1000, "loss": 2.5}
    assert drawn == [[kept, {**kept, "step": 20, "loss": None}, {"step": 20, "validation_loss": 2.4}]]
    plot.close()
    assert len(drawn) == 1, "nothing is new"
    plot.write({**TRAINING, "step": 30})
    plot.close()
    assert [len(lines) for lines in drawn] == [3, 4]


def test_weights_and_biases_never_stops_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def log(self, *arguments: Any, **keywords: Any) -> None:
            raise ConnectionError("no network")

    sink = WeightsAndBiases(Broken())
    sink.write(TRAINING)
    sink.write(TRAINING)
    sink.close()
    assert capsys.readouterr().out.count("Weights & Biases is off from here: no network") == 1


def test_weights_and_biases_gets_a_name_for_every_number() -> None:
    logged: list[tuple[dict[str, Any], int]] = []

    class Run:
        def log(self, values: dict[str, Any], step: int) -> None:
            logged.append((values, step))

    inside = {"attention.lambda": [0.25, 0.5], "gradient_norm/ffn.up": 1.5}
    WeightsAndBiases(Run()).write({"step": 10, "loss": 2.5, "telemetry": inside})
    names = {"telemetry/attention.lambda/00": 0.25, "telemetry/attention.lambda/01": 0.5}
    assert logged == [({"loss": 2.5, **names, "telemetry/gradient_norm/ffn.up": 1.5}, 10)]


class Recorder:
    """In place of the wandb package: what runs were begun with."""

    Settings = dict

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []

    def login(self, prompt: bool) -> bool:
        return True

    def init(self, **arguments: Any) -> object:
        self.begun.append(arguments | {"arguments": sys.argv})
        return object()


def test_two_runs_of_one_name_have_two_pages_and_a_resumed_one_goes_on_in_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    topology = plan_topology(ParallelConfig(), 1)
    for folder in ("a", "b", "a"):
        config = RunConfig(name="same", run_dir=str(tmp_path / folder))
        open_sinks(config, {}, topology, 0, keep_run_id(config.run_folder))
    first, second, resumed = (begun["id"] for begun in wandb.begun)
    assert first == resumed != second
    assert {begun["name"] for begun in wandb.begun} == {"same"}
    assert {begun["resume"] for begun in wandb.begun} == {"allow"}


def test_weights_and_biases_sees_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    arguments = ["pretrain", "--data.validation=https://me:secret@host/x", "--seed", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    values = {"data": {"train": [{"path": "https://host/x?sig=secret"}]}}
    open_sinks(RunConfig(run_dir=str(tmp_path)), values, plan_topology(ParallelConfig(), 1), 0, "id")
    (begun,) = wandb.begun
    assert begun["config"] == {"data": {"train": [{"path": "https://host/x"}]}}
    assert begun["arguments"] == ["pretrain", "--data.validation=https://host/x", "--seed", "1"]
    assert sys.argv is arguments
