"""docs/how_to.md: every command works as it stands, one after the other; what cannot be run here says so itself."""

import json
from pathlib import Path
from typing import Any

import pytest

from pretrain.step_lines import read_steps
from scripts import calibrate
from tests.conftest import ROOT
from tests.docs.page import blocks_of, entry_point, run_words

PAGE = (ROOT / "docs/how_to.md").read_text()
BLOCKS = list(blocks_of(PAGE))
ROOMS = ("configs", "data", "docs", "launch", "model", "pretrain", "scripts")
NEEDS_MORE = ("--tokenizer cl100k_base", "wandb sync", "--tasks paper_zero_shot", "vllm serve", "--push")
"""what needs a network or a program that is not installed, unless it is a dry run"""


def commands(language: str) -> list[list[str]]:
    """The words of each command in blocks of ``language``."""
    return [words for block in BLOCKS if block.language == language for words in block.lines]


def needs_more(words: list[str]) -> bool:
    return any(reason in " ".join(words) for reason in NEEDS_MORE) and "--dry-run" not in words


def test_a_block_is_a_file_is_run_or_needs_what_is_not_here() -> None:
    assert {block.language for block in BLOCKS} == {"bash", "console", "python", "yaml"}
    assert all((block.file is not None) == (block.language in ("python", "yaml")) for block in BLOCKS)
    assert [words for words in commands("bash") if needs_more(words)] == []
    assert [words for words in commands("console") if not needs_more(words)] == []
    assert len(commands("console")) == len(NEEDS_MORE)
    shown = [line for block in BLOCKS if block.language == "console" for line in block.text.splitlines()]
    assert [line for line in shown if not line.startswith("$ ")] == []


@pytest.mark.parametrize("words", commands("console"), ids=" ".join)
def test_options_of_what_is_not_run_are_known(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """As far as the program is ours."""
    words = words[words.index("python") :] if "python" in words else words
    place = words[1:3] if words[1] == "-m" else words[1:2]
    main = entry_point(place) if words[0] == "python" else None
    if main is None:
        return
    with pytest.raises(SystemExit):
        main([*(["prepare"] if place[0] == "-m" else []), "--help"])
    known = capsys.readouterr().out
    assert [word for word in words if word.startswith("--") and f"{word} " not in known] == []


def test_every_command_works_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ROOMS:
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_MODE", "disabled")  # but where the page says something else
    sizes = calibrate.Sizes(tokens=64, width=64, ffn_width=96, length=32, head_dim=32, sent=4096, rounds=1)
    monkeypatch.setattr(calibrate, "ON_CPU", sizes)
    for block in BLOCKS:
        if block.file:
            Path(block.file).parent.mkdir(exist_ok=True)
            Path(block.file).write_text(block.text)
        for words in block.lines if block.language == "bash" else []:
            status = run_words(words)
            printed = capfd.readouterr()
            assert status == 0, f"{block.section}: {' '.join(words)}\n{printed.out}\n{printed.err}"
    check_what_they_left()


def check_what_they_left() -> None:
    """In the current folder."""
    lines = {name: read_steps(Path("runs", name, "metrics.jsonl")) for name in ("mine", "branch", "tuned")}
    assert [values[-1]["step"] for values in lines.values()] == [20, 6, 3]
    assert any("validation_loss" in line for line in lines["mine"])
    assert len(list(Path("runs/mine/wandb").glob("offline-run-*"))) == 1
    assert not list(Path("runs").glob("[!m]*/wandb/offline-run-*"))
    corpora = {path.parts[1] for path in Path("corpora").rglob("manifest.json")}
    assert corpora == {"mine", "lines", "table", "adopted", "docs", "imported"}
    adopted: dict[str, Any] = json.loads(Path("corpora/adopted/manifest.json").read_text())
    assert adopted["documents"] == len(list(Path("launch").glob("*.py")))
    assert Path("exports/mine_lora/adapter_config.json").exists()
    assert json.loads(Path("exports/public/export.json").read_text())["license"] == "apache-2.0"
    assert json.loads(Path("runs/calibration.json").read_text())["device"] == "CPU"
    assert "sums/acc" in Path("sums.json").read_text()
    assert Path("report.html").exists()
