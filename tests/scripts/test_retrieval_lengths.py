"""Models that are extended to longer samples: what is run, what is not run again, the table before and after."""

import json
from pathlib import Path

import pytest

from scripts.retrieval import extension
from scripts.retrieval.extension import ExtensionSettings, Measured, extend_one
from scripts.retrieval.lengths import compare_lengths

LENGTHS, DEPTHS, SAMPLES = [512, 4096], [0.0, 0.5, 1.0], 7


def results_file(path: Path, right: dict[int, int]) -> Path:
    """Of every cell's 7 prompts, ``right`` of a length are answered."""
    cells = [
        {"length": length, "depth": depth, "samples": SAMPLES, "right": count, "accuracy": count / SAMPLES}
        for length, count in right.items()
        for depth in DEPTHS
    ]
    task = {
        "metrics": {},
        "settings": {"lengths": LENGTHS, "depths": DEPTHS, "samples_per_cell": SAMPLES},
        "details": {"cells": cells, "chance_of_any_needles_number": {"needles_1": 1e-7}},
    }
    path.write_text(json.dumps({"tasks": {"needles": task}}))
    return path


def measured(folder: Path, name: str, before: int, after: int) -> Measured:
    return Measured(
        results_file(folder / f"{name}_before.json", {512: 7, 4096: before}),
        results_file(folder / f"{name}_after.json", {512: 7, 4096: after}),
    )


def test_the_table_has_every_length_before_and_after_and_chance(tmp_path: Path) -> None:
    seeds = [measured(tmp_path, f"diff_{seed}", 0, 7 - seed) for seed in (0, 1, 2)]
    lines = compare_lengths({"diff": seeds, "standard": seeds[:1]}, tmp_path / "lengths")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert rows[0] == ["attention", "seeds", "extended", "512 tokens", "4,096 tokens"]
    assert rows[2] == ["diff", "3", "before", "1.000 [0.911, 1.000]", "0.000 [0.000, 0.089]"]  # Wilson's over sqrt(3)
    assert rows[3][:4] == ["diff", "3", "after", "1.000 [0.911, 1.000]"]
    assert rows[3][4].startswith("0.857 [0.502, 1.000]")  # 7, 6, 5 of 7; t of 2 degrees: 4.303 / 7 / sqrt(3)
    assert rows[4] == ["standard", "1", "before", "1.000 [0.845, 1.000]", "0.000 [0.000, 0.155]"]  # Wilson, of 21
    assert rows[-1] == ["guessing digits", "", "", "0.000", "0.000"]
    assert {path.suffix for path in tmp_path.glob("lengths.*")} == {".md", ".json", ".png"}


def test_the_whole_chain_is_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(arguments: list[str]) -> None:
        commands.append(arguments)
        if "--output" in arguments and "scripts/evaluate.py" in arguments:
            Path(arguments[arguments.index("--output") + 1]).write_text("{}")

    monkeypatch.setattr(extension, "run_command_line", run)
    settings = ExtensionSettings("configs/long.yaml", samples=3, settings=["--train.steps=9"])
    own = ["--model.attention=diff", "--seed=5"]
    for _ in range(2):
        found = extend_one(settings, Path("long.yaml"), tmp_path, 3, own, 5, [512, 4096])
        assert found.before.exists() and found.after.exists()
    training, export, after, before = commands
    assert f"--checkpoint.branch_from={tmp_path / 'run'}" in training
    assert training[3:5] == ["--nproc", "3"]
    assert training[5:9] == ["--config", "long.yaml", *own]  # a file after them would take back what they say
    assert training[-1] == "--train.steps=9"
    assert export[0] == "scripts/export.py"
    questions = ["--seed=5", "--max-length=4096", "--needles.lengths=[512, 4096]", "--needles.pairs=[[1,1]]"]
    for command, model in ((after, "long_export"), (before, "export")):
        assert command[command.index("--model") + 1] == str(tmp_path / model)
        assert [word for word in command if word.startswith("--") and "=" in word][:4] == questions


def test_a_study_that_was_cut_off_goes_on_with_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(extension, "run_command_line", commands.append)
    (tmp_path / "lengths_after.json").write_text("{}")
    extend_one(ExtensionSettings("configs/long.yaml"), Path("long.yaml"), tmp_path, 2, [], 5, [512, 4096])
    assert [command[0] for command in commands] == ["scripts/evaluate.py"]
