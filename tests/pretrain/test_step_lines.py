"""metrics.jsonl and skipped_steps.jsonl: a torn end is left out, and other damage is not passed over in silence."""

import math
from pathlib import Path

import pytest

from common.errors import InputError
from pretrain.sinks.metrics_file import MetricsFile
from pretrain.step_lines import read_steps, step_line

WHOLE = '{"step": 3, "loss": 5.25}\n{"step": 6, "loss": null, "note": "skipped"}\n'


@pytest.mark.parametrize("torn", ["", '{"step": 9, "lo', "\x00\x00\x00", '{"step": 9', "\u00e4"])
def test_what_a_kill_tore_is_left_out(torn: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_steps(path) == []
    path.write_text(WHOLE + torn)
    assert [line["step"] for line in read_steps(path)] == [3, 6]


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "7",
        "[1]",
        "{",
        "{}",
        '{"step": null}',
        '{"step": true}',
        '{"step": -1}',
        '{"step": 1.5}',
        '{"step": 4, "loss": "5.1"}',
        '{"step": 4, "tokens": [1]}',
        '{"step": 4, "telemetry": [1]}',
        '{"step": 4, "telemetry": {"x": "5.1"}}',
        '{"step": 4, "telemetry": {"x": [1.5, [2]]}}',
        '{"step": 4, "telemetry": {"x": NaN}}',
        '{"step": 4, "loss": NaN}',
        '{"step": 4, "validation_loss": 1e999}',
        '{"step": 4, "tokens": ' + "9" * 40 + "}",
        '{"step": ' + "9" * 5000 + "}",
        "[" * 100_000,
        "\x00",
    ],
)
def test_other_damage_is_refused_by_its_line_and_nothing_is_dropped(bad: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    content = f"{WHOLE}{bad}\n{WHOLE}"
    path.write_text(content)
    with pytest.raises(InputError, match=r"metrics\.jsonl: line 3 is damaged"):
        MetricsFile(path, resumed_at=3)
    assert path.read_text() == content


def test_numbers_that_are_not_finite_are_null_and_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "skipped_steps.jsonl"
    path.write_text('{"step": 4, "loss": "nan", "grad_norm": "inf"}\n{"step": 5, "loss": 2.5, "grad_norm": "-inf"}\n')
    assert [(line["step"], line["loss"], line["grad_norm"]) for line in read_steps(path)] == [
        (4, None, None),
        (5, 2.5, None),
    ]
    path.write_text(step_line({"step": 6, "loss": math.nan, "grad_norm": -math.inf, "tokens": 7}))
    assert read_steps(path) == [{"step": 6, "loss": None, "grad_norm": None, "tokens": 7}]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_steps(tmp_path)


def test_numbers_from_inside_the_model_come_back_as_written_and_null_where_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    inside = {"attention.lambda": [0.25, math.nan], "head.largest_logit": -math.inf, "gradient_norm/ffn.up": 0.5}
    path.write_text(step_line({"step": 4, "loss": math.inf, "telemetry": inside}))
    (line,) = read_steps(path)
    assert line["loss"] is None
    assert line["telemetry"] == {
        "attention.lambda": [0.25, None],
        "head.largest_logit": None,
        "gradient_norm/ffn.up": 0.5,
    }
