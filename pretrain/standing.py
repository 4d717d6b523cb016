"""Where a run stands, from its folder alone; what `launch status` and the report tell.

In: the run folder, at any moment. Out: a Status. Always: only reads; whatever is half-written or missing is left out.
"""

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.strict_yaml import read_yaml
from common.typed import LARGEST_INTEGER
from pretrain.checkpoint.layout import MANIFEST, checkpoints_of, list_steps
from pretrain.places import CONFIG_FILE, LOSS_FILE
from pretrain.resilience.attempts import SKIPPED_FILE, AttemptRecord, read_attempts
from pretrain.resilience.rollback import read_rollbacks
from pretrain.step_lines import read_steps
from pretrain.texts import read_texts

OF_NEWEST_LINE = (
    *("tokens", "loss", "mean_loss", "learning_rate", "grad_norm", "tokens_per_second", "step_seconds"),
    *("model_flops_utilization", "peak_memory_bytes", "reserved_memory_bytes"),
)
"""what a Status takes over from the newest line of a training step"""


@dataclass(frozen=True)
class Status:
    """Where a run stands, as its folder tells."""

    run: str
    state: str
    """running, quiet (no end on record, but no sign of life either), or how the newest attempt ended"""
    step: int
    steps: int | None
    tokens: int | None
    loss: float | None
    mean_loss: float | None
    """over the steps since the line before"""
    validation_loss: float | None
    learning_rate: float | None
    grad_norm: float | None
    tokens_per_second: float | None
    step_seconds: float | None
    model_flops_utilization: float | None
    peak_memory_bytes: int | None
    """of rank 0's GPU: what tensors took"""
    reserved_memory_bytes: int | None
    """and what was kept for them"""
    seconds_left: float | None
    seconds_since_sign_of_life: float | None
    checkpoint: int | None
    skipped_steps: int
    rollbacks: int
    text: str | None
    """the newest sample of text that an evaluation of the run wrote"""
    attempts: list[dict[str, Any]] = field(default_factory=list)


def read_status(run_folder: Path, now: float | None = None) -> Status:
    """Everything that the run's files say at this moment.

    Raises:
        InputError: there is no run.
    """
    if not run_folder.is_dir():
        raise InputError(f"{run_folder}: no such run folder")
    attempts = read_attempts(run_folder)
    lines = read_steps(run_folder / LOSS_FILE)
    training = [line for line in lines if "loss" in line]
    validation = [line for line in lines if line.get("validation_loss") is not None]
    if not attempts and not training:
        raise InputError(f"{run_folder}: holds no run (neither attempts/ nor {LOSS_FILE})")
    newest = training[-1] if training else {}
    checkpoints = [path for path in list_steps(checkpoints_of(run_folder)) if (path / MANIFEST).exists()]
    steps = _planned_steps(run_folder)
    step = max([int(newest.get("step", 0)), *(attempt.last_step for attempt in attempts[-1:])])
    silence = _silence(run_folder, attempts, time.time() if now is None else now)
    seconds = newest.get("step_seconds")
    return Status(
        run=str(run_folder),
        state=_state(attempts, silence, seconds),
        step=step,
        steps=steps,
        validation_loss=validation[-1]["validation_loss"] if validation else None,
        **{key: newest.get(key) for key in OF_NEWEST_LINE},
        seconds_left=None if steps is None or seconds is None else max(0, steps - step) * seconds,
        seconds_since_sign_of_life=silence,
        checkpoint=int(checkpoints[-1].name.removeprefix("step_")) if checkpoints else None,
        skipped_steps=len(read_steps(run_folder / SKIPPED_FILE)),
        rollbacks=len(read_rollbacks(run_folder)),
        text=next(reversed(read_texts(run_folder).values()), None),
        attempts=[_summary(attempt) for attempt in attempts],
    )


def _summary(attempt: AttemptRecord) -> dict[str, Any]:
    began = (attempt.launch or attempt.start).get("time")
    return {
        "number": attempt.number,
        "began": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began)) if began else "?",
        "job": attempt.launch.get("job"),
        "nodes": attempt.launch.get("nodes", []),
        "from_step": attempt.start.get("step"),
        "to_step": attempt.last_step,
        "outcome": attempt.outcome or "no end on record",
        "reason": attempt.end.get("reason", ""),
    }


def _state(attempts: list[AttemptRecord], silence: float | None, step_seconds: float | None) -> str:
    if attempts and attempts[-1].outcome is not None:
        return f"{attempts[-1].outcome} ({attempts[-1].end['reason']})"
    patience = 60.0 + 20 * (step_seconds or 0.0)
    return "running" if silence is not None and silence < patience else "quiet"


def _silence(run_folder: Path, attempts: list[AttemptRecord], now: float) -> float | None:
    """Seconds since some file of the run was last written."""
    signs = [run_folder / LOSS_FILE]
    if attempts:
        signs += [attempts[-1].folder / name for name in ("launch.json", "start.json", "progress", "end.json")]
    times = []
    for path in signs:
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return max(0.0, now - max(times)) if times else None


def _planned_steps(run_folder: Path) -> int | None:
    try:
        steps = read_yaml(run_folder / CONFIG_FILE, f"the run's {CONFIG_FILE}")["train"]["steps"]
    except (KeyError, TypeError, ValueError):
        return None
    return steps if type(steps) is int and 0 < steps <= LARGEST_INTEGER else None
