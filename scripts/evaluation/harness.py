"""lm-evaluation-harness through its own API (Shared DIFF paper, Table 2).

In: the harness's task names, local task files. Out: its metrics, with intervals from its standard errors.
Always: the model is the one already loaded, so the numbers equal those of the harness's own command.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common.drawn import literally
from common.errors import InputError, nearest
from scripts.evaluation.loaded import LoadedSubject
from scripts.evaluation.result import TaskResult
from scripts.evaluation.settings import EvaluateConfig
from scripts.evaluation.statistics import Estimate, Z

PAPER_ZERO_SHOT = ("arc_challenge", "arc_easy", "boolq", "hellaswag", "openbookqa", "piqa", "winogrande")
PREFERRED = ("acc_norm", "acc", "exact_match")


def run(subject: LoadedSubject, settings: EvaluateConfig, provenance: dict[str, Any] | None) -> TaskResult:
    """The seven tasks of Table 2, zero-shot, and their mean."""
    return harness_tasks(PAPER_ZERO_SHOT, settings)(subject, settings, provenance)


def harness_tasks(names: Sequence[str], settings: EvaluateConfig) -> Any:
    """The function that runs the harness's own tasks ``names``.

    Raises:
        InputError: the harness does not know one of them.
    """
    manager = _task_manager(names, settings)
    for name in names:
        if name not in manager.all_tasks:
            raise InputError(f"--tasks: the harness has no task '{name}'{nearest(name, manager.all_tasks)}")
    return partial(_run, list(names), manager)


def _run(
    names: list[str], manager: Any, subject: LoadedSubject, settings: EvaluateConfig, provenance: dict[str, Any] | None
) -> TaskResult:
    import transformers
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    chosen = settings.harness
    transformers.logging.set_verbosity_error()
    model = HFLM(
        pretrained=subject.model,
        tokenizer=subject.tokenizer,
        max_length=subject.max_length,
        batch_size=chosen.batch_size,
        device=str(subject.device),
    )
    try:
        found = simple_evaluate(
            model=model,
            tasks=names,
            num_fewshot=chosen.few_shot,
            limit=chosen.limit,
            task_manager=manager,
            log_samples=False,
            random_seed=settings.seed,
            numpy_random_seed=settings.seed,
            torch_random_seed=settings.seed,
            fewshot_random_seed=settings.seed,
        )
    except (OSError, ConnectionError, KeyError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"--tasks {','.join(names)}: the harness cannot run: {reason}") from error
    assert found is not None
    counts = {name: int(entry["effective"]) for name, entry in found["n-samples"].items()}
    metrics = {
        f"{name}/{metric}": estimate
        for name, values in found["results"].items()
        for metric, estimate in _estimates(values, counts.get(name, 0)).items()
    }
    headline = {name: _headline(found["results"][name], counts.get(name, 0)) for name in names}
    if len(names) > 1:
        metrics["mean"] = _mean(list(headline.values()))
    return TaskResult(
        metrics,
        {
            "tasks": names,
            "few_shot": "as the tasks say" if chosen.few_shot is None else chosen.few_shot,
            "limit": chosen.limit,
            "versions": dict(found["versions"]),
        },
        draw=lambda figure: _draw(figure, headline),
    )


def _task_manager(names: Sequence[str], settings: EvaluateConfig) -> Any:
    """Knows the task files of one's own; the harness's thousands are read only where those are not enough."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise InputError("--tasks: lm-evaluation-harness is not installed; pip install 'lm-eval'") from None
    own = settings.harness.include
    if own is not None:
        if not Path(own).is_dir():
            raise InputError(f"--harness.include {own}: no such folder")
        manager = TaskManager(include_path=own, include_defaults=False)
        if set(names) <= set(manager.all_tasks):
            return manager
    return TaskManager(include_path=own)


def _estimates(values: Mapping[str, Any], count: int) -> dict[str, Estimate]:
    """The metrics of one task: "acc,none" -> acc."""
    estimates = {}
    for key, value in values.items():
        metric, _, variant = key.partition(",")
        if not variant or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = values.get(f"{metric}_stderr,{variant}")
        half = Z * error if isinstance(error, int | float) else math.nan
        name = metric if variant == "none" else f"{metric} ({variant})"
        estimates[name] = Estimate(float(value), value - half, value + half, count, "harness standard error")
    return estimates


def _headline(values: Mapping[str, Any], count: int) -> Estimate:
    """The number that stands for a task in a table."""
    estimates = _estimates(values, count)
    preferred = [estimates[metric] for metric in PREFERRED if metric in estimates]
    return (preferred or list(estimates.values()))[0]


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over tasks, whose errors are independent."""
    value = sum(estimate.value for estimate in estimates) / len(estimates)
    half = math.sqrt(sum((estimate.high - estimate.value) ** 2 for estimate in estimates)) / len(estimates)
    return Estimate(value, value - half, value + half, sum(estimate.count for estimate in estimates), "mean over tasks")


def _draw(figure: Any, headline: Mapping[str, Estimate]) -> None:
    axes = figure.subplots()
    values = [estimate.value for estimate in headline.values()]
    halves = [0.0 if math.isnan(estimate.high) else estimate.high - estimate.value for estimate in headline.values()]
    axes.bar([literally(name) for name in headline], values, yerr=halves, capsize=4)
    axes.set(ylabel="accuracy", title="lm-evaluation-harness")
    axes.tick_params(axis="x", rotation=30)
    axes.grid(alpha=0.3, axis="y")
