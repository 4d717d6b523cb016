"""A study that renders batch scripts: what can start gets one, and what has ended is measured."""

from pathlib import Path

import pytest

from scripts.replication import slurm
from scripts.replication.folders import Folders
from scripts.replication.grid import Grid
from scripts.replication.rows import Results
from scripts.replication.sections import SlurmSettings
from scripts.replication.slurm import launch_command, render_all
from tests.scripts.replication.grids import finish_run, study


def test_tries_are_rendered_first_and_measured_once_they_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []

    def rendered(command: list[str], label: str) -> str:
        commands.append(command)
        return f"#!/bin/sh\n# {label}\n"

    monkeypatch.setattr(slurm, "_rendered", rendered)
    config = study(tmp_path, slurm={"arguments": ["--tries", "5"]})
    results, folders = Results(Path(config.results)), Folders(Path(config.work))
    grid = Grid(config, results)
    render_all(config, grid, results, folders)
    assert "9 scripts to submit" in capsys.readouterr().out and len(commands) == 9
    assert len(list((folders.work / "slurm").glob("*.sbatch"))) == 9
    assert all(Path(command[-1]).exists() for command in commands)
    for entry in grid.entries():
        if entry.plan.cell.is_try:
            finish_run(folders.run(entry.plan.stages[0]), entry.plan.stages[0].steps, 5.0)
    render_all(config, grid, results, folders)
    assert len(results.rows("scaling")) == 9
    assert all(row["value"] == 5.0 for row in results.rows("scaling"))
    render_all(config, grid, results, folders)
    assert "91 scripts to submit" in capsys.readouterr().out.splitlines()[-1]


def test_the_command_is_the_launchers(tmp_path: Path) -> None:
    command = launch_command(tmp_path / "run.yaml", SlurmSettings(["--tries", "5"]), nodes=3)
    assert command == [
        *("-m", "launch", "slurm", "--dry-run", "--nodes", "3", "--tries", "5", "--config"),
        str(tmp_path / "run.yaml"),
    ]
