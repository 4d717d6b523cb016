"""loss.png holds what was trained and held out, of earlier starts as well."""

from pathlib import Path
from typing import Any

import pytest

from pretrain.sinks import loss_plot
from pretrain.sinks.loss_plot import LossPlot, draw_losses
from tests.pretrain.sinks.lines import TRAINING, VALIDATION


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    draw_losses([TRAINING, {**TRAINING, "step": 20, "tokens": 2000}, VALIDATION], tmp_path / "loss.png", "heading")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_it_draws_what_it_was_given_and_earlier_lines_without_reading_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[dict[str, Any]]] = []
    monkeypatch.setattr(loss_plot, "draw_losses", lambda lines, picture, heading: drawn.append(list(lines)))
    plot = LossPlot([{**TRAINING, "telemetry": {"x": [1.0]}}], tmp_path / "loss.png", "heading")
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


def test_no_name_and_no_failure_of_a_drawing_stops_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between two dollars matplotlib would read a formula, and this is none."""
    plot = LossPlot([TRAINING], tmp_path / "loss.png", "lr $x_{$ (standard)")
    plot.write(VALIDATION)
    assert capsys.readouterr().out == "" and (tmp_path / "loss.png").exists()

    def fails(*_: object) -> None:
        raise ValueError("a\nb")

    monkeypatch.setattr(loss_plot, "draw_losses", fails)
    plot.write(VALIDATION)
    assert capsys.readouterr().out == f"WARNING: {tmp_path / 'loss.png'}: not drawn: a b\n"
