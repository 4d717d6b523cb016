"""The tasks by name; a task's code is imported when it is asked for.

In: a task's name. Out: what to run. Always: an unknown name is an error that names the nearest known one.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from common.errors import InputError, nearest
from scripts.evaluation.result import TaskResult
from scripts.evaluation.settings import EvaluateConfig

if TYPE_CHECKING:
    from scripts.evaluation.subject import Subject  # imports torch, which --help does without

Run = Callable[["Subject", EvaluateConfig, dict[str, Any] | None], TaskResult]

HARNESS_PREFIX = "harness:"
TASKS = {
    "held_out": ("held_out.run", "loss, bits per byte and perplexity on held-out text"),
    "sample": ("sample.run", "a generated text"),
    "ar_hit": ("ar_hit.run", "held-out loss of what can be recalled from the context, and of the rest"),
    "positions": ("positions.run", "loss by position in long samples"),
    "outliers": ("outliers.run", "largest attention logits and hidden states against the median"),
    "quantised": ("quantised.run", "held-out loss with attention logits of 16 to 4 bits"),
    "paper_zero_shot": ("harness.run", "the seven harness tasks of the Shared DIFF paper's Table 2, zero-shot"),
    "needles": ("needles.run", "multi-needle retrieval at 4K tokens"),
    "needles_long": ("needles.run_long", "one of eight needles at 8K to 64K tokens"),
    "in_context": ("in_context.run", "accuracy over the number of demonstrations, labels decoded under constraint"),
    "in_context_orders": ("in_context.run_orders", "accuracy over the order of the same demonstrations"),
    "attention": ("attention.run", "attention to the answer and to noise"),
}
"""Task -> the module and function of this package that run it, and what it measures."""


def described() -> str:
    """What each task measures, in one paragraph."""
    return "Tasks: " + "; ".join(f"{name}: {measures}" for name, (_, measures) in TASKS.items()) + "."


def find_task(name: str, settings: EvaluateConfig) -> Run:
    """The function that runs task ``name``: one of ``TASKS``, or a task of lm-evaluation-harness as ``harness:NAME``.

    Raises:
        InputError: no such task.
    """
    if name.startswith(HARNESS_PREFIX):
        from scripts.evaluation.harness import harness_tasks

        harness_run: Run = harness_tasks([name.removeprefix(HARNESS_PREFIX)], settings)
        return harness_run
    if name not in TASKS:
        raise InputError(
            f"--tasks: unknown task '{name}'{nearest(name, TASKS)} known: {', '.join(TASKS)}, and "
            f"{HARNESS_PREFIX}NAME for the tasks of lm-evaluation-harness"
        )
    module, function = TASKS[name][0].split(".")
    run: Run = getattr(import_module(f"scripts.evaluation.{module}"), function)
    return run
