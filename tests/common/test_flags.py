"""Wrong flags of every command are one line and exit status 2."""

import importlib

import pytest

from common.cli import run_command

COMMANDS = {
    "launch.local": ["--nproc", "many"],
    "launch.preflight": ["--world-size", "1.5"],
    "launch.status": [],
    "launch.torchrun": ["--nproc-per-node"],
    "launch.slurm.submit": ["--nodes", "x"],
    "launch.slurm.begin": ["--nothing"],
    "launch.slurm.conclude": ["--nothing"],
    "scripts.plan": ["--world-size", "x"],
    "scripts.compare": ["only_one"],
    "scripts.checkpoint": ["nothing"],
    "scripts.report": ["--outpu", "x"],
    "scripts.summary": ["--run"],
}


@pytest.mark.parametrize("module", COMMANDS)
def test_a_wrong_flag_is_one_line(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(importlib.import_module(module).main, COMMANDS[module]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert "--help tells all flags" in printed.err
