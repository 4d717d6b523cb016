"""The report: one page that holds everything it shows."""

import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.cli import run_command, to_yaml
from common.errors import InputError
from pretrain.checkpoint.reader import CheckpointReader
from scripts.evaluation.result import TaskResult, save_results
from scripts.evaluation.statistics import proportion
from scripts.export import find_checkpoint
from scripts.report import main
from scripts.reporting import runs as runs_module
from scripts.reporting.runs import _read_evaluations, read_run


@pytest.fixture
def runs(run_of: Callable[[str], Path], tmp_path: Path) -> list[Path]:
    """Two runs with metrics, of which the first has evaluations."""
    folders = []
    for number, kind in enumerate(("diff", "shared_diff-layer-layer")):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "checkpoints").symlink_to(run_of(kind) / "checkpoints")
        config = CheckpointReader(find_checkpoint(folder, None)).config
        config = dataclasses.replace(config, name=f"<{kind}> $x_{{$", run_dir=str(folder))
        (folder / "config.yaml").write_text(to_yaml(config))
        lines = [
            {"step": 1, "tokens": 100, "loss": 5.0},
            {"step": 2, "tokens": 200, "loss": 4.25 - number, "tokens_per_second": 1234.5}
            | ({"telemetry": {"attention.lambda": [0.25, 0.5], "head.largest_logit": 9.5}} if number else {}),
            {"step": 2, "validation_loss": 4.5, "validation_bits_per_byte": 1.5, "validation_perplexity": 90.0}
            | {"validation_ar_hit_loss": 0.875, "validation_others_loss": 4.75},
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        folders.append(folder)
    draw = lambda figure: figure.subplots().plot([1, 2])  # noqa: E731
    result = TaskResult({"accuracy": proportion(9, 10)}, {}, draw=draw)
    save_results(folders[0] / "evaluations" / "step_2.json", {"name": "x"}, {"needles": result}, seed=1)
    for step, said in ((2, "def newest"), (1, "def older")):
        written = {"sample": TaskResult({}, {}, text=said)}
        save_results(folders[0] / "evaluations" / f"sample_{step}.json", {"step": step}, written, seed=1)
    (folders[0] / "skipped_steps.jsonl").write_text('{"step": 7, "reason": "loss is nan"}\n')
    an_hour_ago = (folders[0] / "metrics.jsonl").stat().st_mtime - 3600
    os.utime(folders[0] / "metrics.jsonl", (an_hour_ago, an_hour_ago))
    return folders


def test_the_page_shows_both_runs_and_needs_no_other_file(runs: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert run_command(main, [*map(str, runs), "--output", str(page)]) == 0
    text = page.read_text()
    for fact in (
        "4.2500",
        "3.2500",
        "0.8750",
        "needles: accuracy",
        "0.9000 [0.5958, 0.9821] (n=10)",
        "model.attention",
    ):
        assert fact in text, fact
    assert text.count("data:image/png;base64,") == 3  # the needles' picture, lambdas, inside of one run
    assert "Inside the model" in text
    assert "<td>state</td><td>quiet</td><td>running</td>" in text
    assert "<td>7</td><td>loss is nan</td>" in text
    assert "def newest" in text and text.index("def newest") < text.index("def older")
    assert "&lt;diff&gt;" in text and "<diff>" not in text
    assert "http" not in text.replace("http-equiv", "")


def test_results_of_a_later_step_win_whatever_the_clocks_say(tmp_path: Path) -> None:
    folder = tmp_path / "evaluations"
    for name, model, hits in (
        ("step_100", {}, 1),
        ("step_20", {}, 2),
        ("b", {"step": 7}, 3),
        ("a", {"step": 10}, 4),
    ):
        result = TaskResult({"accuracy": proportion(hits, 10)}, {})
        save_results(folder / f"{name}.json", model, {"known" if model else "named": result}, seed=1)
    tasks, _ = _read_evaluations(folder)
    found = {name: task["metrics"]["accuracy"]["value"] for name, task in tasks.items()}
    assert found == {"named": 0.1, "known": 0.4}


def test_only_settings_that_differ_are_in_that_table(runs: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    run_command(main, [*map(str, runs), "--output", str(page)])
    section = page.read_text().split("Settings that differ")[1].split("<h2>")[0]
    assert "model.tie_embeddings" in section and "model.attention" in section
    assert "model.num_layers" not in section and "run_dir" not in section


def test_lambda_per_layer_is_that_of_the_paper(runs: list[Path]) -> None:
    reader = CheckpointReader(find_checkpoint(runs[0], None))
    q1, k1, q2, k2 = (
        reader.read(f"blocks.1.attention.{name}").double()
        for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
    )
    expected = math.exp(q1 @ k1) - math.exp(q2 @ k2) + 0.8 - 0.6 * math.exp(-0.3)
    assert read_run(runs[0]).lambdas[0][1] == pytest.approx(expected, rel=1e-5)


def test_a_folder_without_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, [str(tmp_path), "--output", str(tmp_path / "r.html")]) == 2
    assert "no run there" in capsys.readouterr().err


def test_an_evaluation_that_goes_while_it_is_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        save_results(tmp_path / f"{name}.json", {}, {name: TaskResult({}, {})}, seed=1)
    read = runs_module.read_results

    def goes_before(path: Path) -> dict[str, dict[str, Any]]:
        if path.name == "a.json":
            path.unlink()
        return read(path)

    monkeypatch.setattr(runs_module, "read_results", goes_before)
    assert list(_read_evaluations(tmp_path)[0]) == ["b"]
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(InputError, match=r"b\.json: not the results"):
        _read_evaluations(tmp_path)
