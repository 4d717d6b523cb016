"""The tasks by name; a task's code is imported when it is asked for.

In: comma-separated names. Out: what to run. Always: an unknown name is an error that names the nearest known one.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from common.errors import InputError, nearest
from scripts.evaluation.result import TaskResult
from scripts.evaluation.settings import EvaluateConfig
from scripts.evaluation.subject import Subject

Run = Callable[[Subject, EvaluateConfig, dict[str, Any] | None], TaskResult]

TASKS = {
    "held_out": ("held_out.run", "loss, bits per byte and perplexity on held-out text"),
    "sample": ("sample.run", "a generated text"),
    "needles": ("needles.run", "multi-needle retrieval at 4K tokens"),
    "needles_long": ("needles.run_long", "one of eight needles at 8K to 64K tokens"),
}
"""Task -> the module and function of this package that run it, and what it measures."""


def find_task(name: str) -> Run:
    """The function that runs task ``name``."""
    if name not in TASKS:
        raise InputError(f"--tasks: unknown task '{name}'{nearest(name, TASKS)} known: {', '.join(TASKS)}")
    module, function = TASKS[name][0].split(".")
    run: Run = getattr(import_module(f"scripts.evaluation.{module}"), function)
    return run
