"""Evaluates any causal model that transformers loads: the papers' own tasks and lm-evaluation-harness.

In: a model folder and task names. Out: a line per metric; with --output a JSON file and pictures.
Always: every number has a confidence interval and counts; a model is loaded once for all tasks.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import parse_config, run_command
from common.private import check_trusted
from data.progress import Progress
from scripts.evaluation.result import TaskResult, check_same_model, save_results
from scripts.evaluation.settings import EvaluateConfig
from scripts.evaluation.tasks import described, find_task

if TYPE_CHECKING:
    from scripts.evaluation.subject import Subject  # imports torch, which --help does without


def evaluate(settings: EvaluateConfig) -> dict[str, TaskResult]:
    """Runs the tasks in the order given.

    Raises:
        InputError: unknown task, unusable model, or input that a task cannot use.
    """
    if settings.output:
        check_trusted(Path(settings.output).absolute().parent, "--output")
    names = [name.strip() for name in settings.tasks.split(",") if name.strip()]
    runs = {name: find_task(name, settings) for name in names}
    with _opened(settings) as (subject, settings, provenance):
        known = provenance or {}
        model = subject.describe() | {key: known[key] for key in ("checkpoint", "step") if key in known}
        if settings.output:
            check_same_model(Path(settings.output), model)
        results = {}
        for name, run in runs.items():
            started = time.perf_counter()
            subject.progress = Progress(name, 0, quiet=not subject.is_main)
            results[name] = run(subject, settings, provenance)
            if not subject.is_main:
                continue
            subject.progress.clear()
            _print(name, results[name], time.perf_counter() - started)
            if settings.output:
                for picture in save_results(Path(settings.output), model, {name: results[name]}, settings.seed):
                    print(f"  picture: {picture}")
        if settings.output and subject.is_main:
            print(f"results: {settings.output}")
    return results


@contextmanager
def _opened(settings: EvaluateConfig) -> "Iterator[tuple[Subject, EvaluateConfig, dict[str, Any] | None]]":
    """The model, the settings with its own data where none was named, and what it says of its training."""
    from pretrain.checkpoint.layout import checkpoints_of

    if checkpoints_of(Path(settings.model)).is_dir():
        from pretrain.engines.accelerator import choose_accelerator

        choose_accelerator()
        from scripts.evaluation.trained import opened_run

        with opened_run(settings) as opened:
            yield opened
        return
    from scripts.evaluation.loaded import load_subject
    from scripts.hub.provenance import read_provenance

    subject = load_subject(
        settings.model,
        settings.device,
        settings.dtype,
        settings.batch_tokens,
        settings.trust_remote_code,
        settings.chunk_tokens,
        settings.max_length,
    )
    yield subject, settings, read_provenance(Path(settings.model))


def _print(name: str, result: TaskResult, seconds: float) -> None:
    print(f"{name} ({seconds:.1f} s)")
    for metric, estimate in result.metrics.items():
        print(f"  {metric}: {estimate}")
    if result.text is not None:
        print("  " + result.text.replace("\n", "\n  "))


def main(arguments: list[str]) -> None:
    """Entry point."""
    evaluate(parse_config(EvaluateConfig, arguments, "python scripts/evaluate.py", f"{__doc__}\n{described()}"))


if __name__ == "__main__":
    # A script's folder comes first on the path, where `import evaluate` of lm-eval's would find this file.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    sys.exit(run_command(main, sys.argv[1:], quiet=os.environ.get("RANK", "0") != "0"))
