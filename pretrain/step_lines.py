"""The lines of the files of one JSON object per step: metrics.jsonl and skipped_steps.jsonl.

In: the values of a step; or a file that a run wrote, and a kill or a full disk may have torn. Out: a line; or the
objects of the file, of which each has a step. JSON has no NaN: a number that is not finite is null.
Always: only the last line may be torn, and is left out; any other line that is not what the run writes is refused by
its number, because the next start would drop it for good.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import finite
from common.typed import LARGEST_INTEGER

NUMBERS = (
    "tokens",
    "loss",
    "mean_loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "step_seconds",
    "data_seconds",
    "model_flops_utilization",
    "peak_memory_bytes",
    "reserved_memory_bytes",
    "validation_loss",
    "validation_bits_per_byte",
    "validation_perplexity",
    "validation_ar_hit_loss",
    "validation_ar_hit_share",
    "validation_others_loss",
)
"""keys that hold a number, or null"""
TELEMETRY = "telemetry"
"""key that holds numbers from inside the model: by name a number, or a list with one for each block"""
OLD_WORDS = ("inf", "-inf", "nan")
"""what earlier versions wrote into skipped_steps.jsonl in the place of null"""


def step_line(values: Mapping[str, Any]) -> str:
    """The line of a step."""
    return json.dumps(finite(values)) + "\n"


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The lines of the file, none where there is no file.

    Raises:
        InputError: it cannot be read, or a line before the last is not one that a run writes.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    lines = content.split(b"\n")
    found = []
    for number, line in enumerate(lines, start=1):
        values = _parsed(line)
        if values is not None:
            found.append(values)
        elif number < len(lines):  # the last piece is empty, or was torn
            raise InputError(
                f"{path}: line {number} is damaged: expected a JSON object with the step and its numbers; mend the "
                "line, or take it out"
            )
    return found


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or type(values.get("step")) is not int:
        return None
    values |= {key: None for key in NUMBERS if values.get(key) in OLD_WORDS}
    numbers = [values[key] for key in NUMBERS if values.get(key) is not None]
    if not _is_telemetry(values.get(TELEMETRY, {})):
        return None
    return values if all(map(_is_number, [values["step"], *numbers])) and values["step"] >= 0 else None


def _is_telemetry(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    lists = [inner if isinstance(inner, list) else [inner] for inner in value.values()]
    return all(number is None or _is_number(number) for numbers in lists for number in numbers)


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return type(value) is int and abs(value) <= LARGEST_INTEGER
