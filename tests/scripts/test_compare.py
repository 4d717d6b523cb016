"""Two runs are equal, or differ from a step on; the exit status says which."""

import json
from pathlib import Path

import pytest

from common.cli import run_command
from scripts.compare import main


def run_with(folder: Path, losses: list[float | None], first_step: int = 1) -> str:
    folder.mkdir()
    lines = [{"step": step, "tokens": 64 * step, "loss": loss} for step, loss in enumerate(losses, first_step)]
    lines.append({"step": first_step + len(losses) - 1, "validation_loss": 4.5})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


@pytest.mark.parametrize(
    ("second", "options", "status", "told"),
    [
        ([5.0, 4.0, 3.0], [], 0, "loss: 3 common steps, 1 to 3\n  equal bit for bit"),
        ([5.0, 4.0 + 1e-9, 3.0], [], 1, "differ from step 2 on: 4.0 and 4.000000001"),
        ([5.0, 4.0 + 1e-9, 3.5], ["--tolerance", "1e-6"], 1, "differ from step 3 on: 3.0 and 3.5"),
        ([5.0, 4.0 + 1e-9, 3.0], ["--tolerance", "1e-6"], 0, "equal within 1e-06"),
        ([5.0, None, 3.0], ["--tolerance", "1"], 1, "differ from step 2 on: 4.0 and nan"),
        ([5.0, 4.0], [], 0, "loss: 2 common steps, 1 to 2; 1 more in a"),
    ],
)
def test_two_runs(
    second: list[float | None],
    options: list[str],
    status: int,
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = [run_with(tmp_path / "a", [5.0, 4.0, 3.0]), run_with(tmp_path / "b", second)]
    picture = tmp_path / "p.png"
    assert run_command(main, [*runs, "--output", str(picture), *options]) == status
    assert told in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_compared_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_with(tmp_path / "a", [5.0])
    later = run_with(tmp_path / "b", [5.0], first_step=7)
    assert run_command(main, [run, str(tmp_path / "nothing")]) == 2
    assert "nothing: no run there (metrics.jsonl is missing)" in capsys.readouterr().err
    assert run_command(main, [run, later]) == 2
    assert "have logged no step in common" in capsys.readouterr().err


def test_a_name_that_looks_like_a_formula_is_drawn(tmp_path: Path) -> None:
    runs = [run_with(tmp_path / name, [5.0]) for name in ("$x_{$", "b")]
    assert run_command(main, [*runs, "--output", str(tmp_path / "p.png")]) == 0
