"""Dashboards of others get a name for every number, and cannot stop a run."""

from typing import Any

import pytest

from pretrain.sinks.base import Dashboard, dashboard_numbers
from tests.pretrain.sinks.lines import TRAINING, VALIDATION


class Board(Dashboard[list[Any]]):
    """Keeps what it gets, but nothing of step 13."""

    name = title = "the board"

    def _send(self, target: list[Any], numbers: dict[str, float], step: int) -> None:
        if step == 13:
            raise ConnectionError("no network to https://me:secret@host")
        target.append((step, numbers))

    def _finish(self, target: list[Any]) -> None:
        target.append("finished")


def test_names_say_what_a_number_belongs_to() -> None:
    inside = {"attention.lambda": [0.25, None, 0.5], "gradient_norm/ffn.up": 1.5}
    found = dict(dashboard_numbers({**TRAINING, "telemetry": inside}))
    assert found["train/loss"] == 2.5 and found["train/mean_loss"] == 2.75 and found["train/tokens"] == 1000
    assert found["train/applied"] == 1
    assert {name: found[name] for name in found if not name.startswith("train/")} == {
        "telemetry/attention.lambda/00": 0.25,
        "telemetry/attention.lambda/02": 0.5,
        "telemetry/gradient_norm/ffn.up": 1.5,
    }
    assert "train/model_flops_utilization" not in found and "train/step" not in found and "train/time" not in found
    assert list(dict(dashboard_numbers(VALIDATION))) == [
        "validation/loss",
        "validation/bits_per_byte",
        "validation/perplexity",
    ]


def test_what_fails_there_turns_it_off_and_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    kept: list[Any] = []
    board = Board(kept)
    for step in (12, 13, 14):
        board.write({**VALIDATION, "step": step})
    board.close()
    assert [step for step, _ in kept] == [12]
    assert capsys.readouterr().out == "the board is off from here: no network to https://host\n"
