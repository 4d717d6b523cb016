"""A run folder under evaluation on two processes that share each sample: the answers of its exported model in one."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError
from data.config import DataConfig, SourceConfig
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.config import ParallelConfig, RunConfig
from pretrain.topology import topology_from_environment
from scripts.evaluate import evaluate
from scripts.evaluation.constrained import build_trie, classify
from scripts.evaluation.loaded import load_subject
from scripts.evaluation.settings import (
    EvaluateConfig,
    HeldOutSettings,
    NeedleSettings,
    RunSettings,
    SampleSettings,
)
from scripts.evaluation.subject import Subject
from scripts.export import ExportConfig, export, find_checkpoint
from scripts.hub.checkpoint_file import write_checkpoint
from scripts.hub.layout import parameter_shapes
from tests.scripts.conftest import KINDS, noisy_value
from tests.world import run_world

LENGTH = 350
LONGER = 397
LABELS = ["number", "human", "human being", "location"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A run, beside it its export."""
    folder, model = tmp_path_factory.mktemp("trained") / "run", KINDS["shared_diff-grouped"]
    data = DataConfig([SourceConfig(str(corpus / "train"))], str(corpus / "validation"), sequence_length=LENGTH)
    shapes = parameter_shapes(model)
    config = RunConfig(name="run", model=model, data=data)
    write_checkpoint(folder / "checkpoints", config, shapes, lambda n: noisy_value(n, shapes[n], model), {})
    export(ExportConfig(run=str(folder), output=str(folder.with_name("export"))))
    return folder


def settings_of(model: Path) -> EvaluateConfig:
    return EvaluateConfig(
        str(model),
        "held_out,sample,positions,ar_hit,needles_long",
        output=str(model.with_name(f"{model.name}.json")),
        held_out=HeldOutSettings(samples=2),
        sample=SampleSettings(prompt="the thing", tokens=7, temperature=0),
        needles_long=NeedleSettings(lengths=[330], pairs=[[2, 2]], depths=[0.5], samples=1),
    )


def answers(subject: Subject) -> tuple[list[list[int]], list[str]]:
    """Of prompts whose lengths do not split evenly, and of queries behind a context."""
    assert subject.max_length == LENGTH
    draw = random.Random(5)
    prompts = [[draw.randrange(290) for _ in range(length)] for length in (3, 31, 17, 1)]
    said = subject.continue_greedily(prompts, 6)
    guesses = [said[0], [*said[1][:2], 7, 7, 7, 7], [5, *said[2][1:]], []]  # right, right at first, wrong, none
    assert subject.continue_greedily(prompts, 6, guesses) == said
    queries = [f"Question: {text} ?\nType:" for text in ("a", "where is the thing at 77", "b")]
    return said, classify(subject, "Question: c ?\nType: number\n==\n", queries, build_trie(subject, LABELS))


def answers_of_a_run(folder: Path) -> tuple[list[list[int]], list[str]]:
    from scripts.evaluation.trained import opened_run  # its own process: it starts process groups

    with opened_run(settings_of(folder)) as (subject, _, _):
        return answers(subject)


def far_answers(subject: Subject) -> tuple[int, list[list[int]], str]:
    """Beyond the longest sample of training: what it allows, what it says there, and of a token more."""
    prompt = [7 * number % 290 for number in range(LONGER - 3)]
    said = subject.continue_greedily([prompt], 3)
    with pytest.raises(InputError) as refused:
        subject.continue_greedily([prompt], 4)
    return subject.max_length, said, str(refused.value)


def far_answers_of_a_run(folder: Path) -> tuple[int, list[list[int]], str]:
    from scripts.evaluation.trained import opened_run

    with opened_run(replace(settings_of(folder), max_length=LONGER)) as (subject, _, _):
        return far_answers(subject)


def metrics_of_a_run(folder: Path) -> dict[str, dict[str, float]]:
    results = evaluate(settings_of(folder))
    return {name: {key: estimate.value for key, estimate in result.metrics.items()} for name, result in results.items()}


def test_a_run_folder_says_what_its_export_says(run: Path) -> None:
    expected = answers(load_subject(str(run.with_name("export")), "cpu", "auto", 8192))
    assert run_world(1, answers_of_a_run, run) == [expected]


def test_a_run_folder_goes_beyond_its_samples_where_it_is_told_to(run: Path) -> None:
    export = str(run.with_name("export"))
    expected = far_answers(load_subject(export, "cpu", "auto", 8192, max_length=LONGER))
    ((length, said, refused),) = run_world(1, far_answers_of_a_run, run)
    assert (length, said) == expected[:2]
    assert f"needs {LONGER + 1} tokens, more than the {LONGER} that {run} allows" in refused


def test_a_run_folder_on_split_ranks_measures_what_its_export_does(run: Path) -> None:
    exported = run.with_name("export")
    measured = evaluate(settings_of(exported))
    for found in run_world(2, metrics_of_a_run, run):
        for name, result in measured.items():
            for key, estimate in result.metrics.items():
                assert found[name][key] == pytest.approx(estimate.value, abs=1e-5, nan_ok=True), (name, key)
    written = [json.loads(folder.with_name(f"{folder.name}.json").read_text()) for folder in (run, exported)]
    assert written[0]["model"]["topology"] == "tensor 1 x context 2 x pipeline 1 x data 1"
    assert written[0]["model"]["checkpoint"] == written[1]["model"]["checkpoint"]
    assert written[0]["tasks"]["held_out"]["settings"]["trainer_tokens"] is True
    texts = [results["tasks"]["sample"]["text"] for results in written]
    assert texts[0] == texts[1] and texts[0].startswith("the thing") and len(texts[0]) > len("the thing")


def test_the_checkpoint_that_rank_0_has_found_counts(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save may land between the looks of two ranks, each of which reads its part of the weights."""
    from scripts.evaluation import trained

    newest = CheckpointReader(find_checkpoint(run, None))
    topology = topology_from_environment(ParallelConfig())
    assert trained.reader_of_main(topology, newest) is newest
    before = shutil.copytree(newest.folder, tmp_path / newest.folder.name)
    monkeypatch.setattr(trained, "told_by_main", lambda topology, look: before)
    assert trained.reader_of_main(topology, newest).folder == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tasks": "positions,outliers"},
            r"^--tasks outliers: needs an exported model .*; a run folder itself answers held_",
        ),
        ({"run": RunSettings(step=7)}, r"^--run.step 7: .* has no such checkpoint"),
        ({"run": RunSettings(tokenizer="nowhere")}, r"nowhere"),
        ({"run": RunSettings(tensor=5)}, r"cannot be split over parallel.tensor 5"),
    ],
)
def test_what_a_run_folder_cannot_do_is_refused_in_one_line(changes: dict[str, Any], message: str, run: Path) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(replace(settings_of(run), **changes))
