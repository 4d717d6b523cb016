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

MODULES = {
    "held_out": "loss, bits per byte and perplexity on held-out text",
    "sample": "a generated text",
}
"""Task -> what it measures; the module of the same name in this package runs it."""


def find_task(name: str) -> Run:
    """The function that runs task ``name``."""
    if name not in MODULES:
        raise InputError(f"--tasks: unknown task '{name}'{nearest(name, MODULES)} known: {', '.join(MODULES)}")
    run: Run = import_module(f"scripts.evaluation.{name}").run
    return run
