"""lm-evaluation-harness: its own command and ours give the same numbers on a local task."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import InputError
from scripts.evaluate import evaluate
from scripts.evaluation.harness import PAPER_ZERO_SHOT, _mean, _task_manager, harness_tasks
from scripts.evaluation.settings import EvaluateConfig, HarnessSettings
from scripts.evaluation.statistics import Estimate

pytest.importorskip("lm_eval")
TASK = """task: toy_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task file and its data, all local."""
    folder = tmp_path_factory.mktemp("tasks")
    words = ["alpha", "beta", "gamma", "delta", "return", "import"]
    with (folder / "toy.jsonl").open("w") as file:
        for number in range(30):
            question = " ".join(words[number % 6 :] + words[: number % 6])
            choices = [f" {words[(number + shift) % 6]} def" for shift in (0, 2, 5)]
            file.write(json.dumps({"question": question, "choices": choices, "answer": number % 3}) + "\n")
    (folder / "toy.yaml").write_text(TASK.format(data=folder / "toy.jsonl"))
    return folder


def test_the_harness_own_command_agrees_with_ours(
    tasks: Path, export_of: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = export_of("shared_diff-layer-layer")
    output = tmp_path / "ours.json"
    settings = EvaluateConfig(
        str(model), "harness:toy_choice", output=str(output), harness=HarnessSettings(include=str(tasks))
    )
    ours = evaluate(settings)["harness:toy_choice"].metrics
    assert ours["toy_choice/acc"].count == 30
    assert (tmp_path / "ours_harness_toy_choice.png").exists()
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu"]
    command += ["--model_args", f"pretrained={model},trust_remote_code=True"]
    command += ["--tasks", "toy_choice", "--include_path", str(tasks)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert "|Tasks|Version|Filter|n-shot|Metric|" in printed.replace(" ", ""), (
        "an old pytablewriter names columns A, B, C"
    )
    for metric in ("acc", "acc_norm"):
        row = re.search(rf"\|{metric}\s*\|.\s*\|([0-9.]+)\s*\|.\s*\|([0-9.]+)\|", printed.replace(" ", ""))
        assert row is not None, printed
        estimate = ours[f"toy_choice/{metric}"]
        assert estimate.value == pytest.approx(float(row[1]), abs=1e-4)
        assert (estimate.high - estimate.low) / 2 / 1.96 == pytest.approx(float(row[2]), abs=1e-3)


def test_the_papers_seven_tasks_are_known_to_the_harness_and_a_misspelt_one_is_not() -> None:
    assert len(PAPER_ZERO_SHOT) == 7
    known = _task_manager(PAPER_ZERO_SHOT, EvaluateConfig("", ""))
    assert set(PAPER_ZERO_SHOT) <= set(known.all_tasks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scripts.evaluation.harness._task_manager", lambda names, settings: known)
        with pytest.raises(InputError, match="no task 'arc_esy'; did you mean 'arc_easy'"):
            harness_tasks(["arc_esy"], EvaluateConfig("", ""))


def test_the_mean_over_tasks_has_the_error_of_independent_tasks() -> None:
    estimates = [Estimate(value, value - 0.03, value + 0.03, 100, "") for value in (0.2, 0.4, 0.9)]
    combined = _mean(estimates)
    assert combined.value == pytest.approx(0.5)
    assert combined.high - combined.value == pytest.approx(0.03 / 3**0.5)
