"""The table of what telemetry costs, from times that are known; one run of two engines in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.cli import run_command, to_yaml
from data.config import DataConfig
from model.config import ModelConfig
from pretrain.config import BatchConfig, RunConfig
from scripts.bench_telemetry import Contender, main, table

ROOT = Path(__file__).parents[2]


def test_rounds_and_surplus_are_those_of_the_steps_after_the_first_round() -> None:
    nothing = lambda number: None  # noqa: E731
    off = Contender(nothing, wall=[9.0] * 4 + [0.5] * 8, cpu=[9.0] * 4 + [0.25] * 8)
    on = Contender(nothing, wall=[7.0] * 4 + [0.5, 0.5, 0.5, 0.7] * 2, cpu=[7.0] * 4 + [0.25, 0.25, 0.25, 0.26] * 2)
    _, wall, cpu = table(off, on, every=4)
    assert wall.split() == ["wall", "500.0", "550.0", "1.100", "1.100-1.100", "200.0"]
    assert cpu.split() == ["cpu", "250.0", "252.5", "1.010", "1.010-1.010", "10.0"]


def test_two_engines_take_turns(tmp_path: Path) -> None:
    sizes = ModelConfig(
        num_layers=1, hidden_size=16, ffn_hidden_size=24, num_heads=1, head_dim=8, rank=2, vocab_size=64
    )
    config = RunConfig(model=sizes, data=DataConfig(sequence_length=8), batch=BatchConfig(global_size=2, micro_size=1))
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    command = [sys.executable, "scripts/bench_telemetry.py"]
    done = subprocess.run(
        [*command, "--config", tmp_path / "config.yaml", "--rounds", "2", "--every", "2"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    heading, wall, cpu = done.stdout.splitlines()[-3:]
    assert heading.split()[:3] == ["per", "step", "off"]
    assert float(wall.split()[3]) > 0 and float(cpu.split()[3]) > 0


def test_a_wrong_flag_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, ["--every", "0"]) == 2
    assert capsys.readouterr().err == "error: --every: must be at least 1, is 0\n"
