"""The files of one JSON object per step, read back: metrics.jsonl and skipped_steps.jsonl.

In: a file that a run wrote, and a kill or a full disk may have torn. Out: its objects, of which each has a step.
Always: only the last line may be torn, and is left out; any other line that is not what the run writes is refused by
its number, because the next start would drop it for good.
"""

import json
import math
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.typed import LARGEST_INTEGER

NUMBERS = (
    "tokens",
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "step_seconds",
    "model_flops_utilization",
    "validation_loss",
    "validation_bits_per_byte",
    "validation_perplexity",
    "validation_ar_hit_loss",
    "validation_ar_hit_share",
    "validation_others_loss",
)
"""keys that hold a number, or what stands for one that is not finite"""
NOT_FINITE = (None, "inf", "-inf", "nan")
"""null in metrics.jsonl; the words in skipped_steps.jsonl, where they are the reason"""


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
    numbers = [values[key] for key in NUMBERS if key in values and values[key] not in NOT_FINITE]
    return values if all(map(_is_number, [values["step"], *numbers])) and values["step"] >= 0 else None


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return type(value) is int and abs(value) <= LARGEST_INTEGER
