"""`python -m launch status RUN`: where a run stands, from its folder alone.

In: the run folder, at any moment. Out: step, tokens, loss, speed, time left, starts and how they ended, the last
checkpoint.
Always: only reads; whatever is half-written or missing is left out.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import finite
from common.flags import FlagParser
from common.strict_yaml import read_yaml
from common.typed import LARGEST_INTEGER
from pretrain.checkpoint.layout import MANIFEST, checkpoints_of, list_steps
from pretrain.places import CONFIG_FILE
from pretrain.resilience.attempts import SKIPPED_FILE, AttemptRecord, read_attempts
from pretrain.sinks import LOSS_FILE
from pretrain.step_lines import read_steps

SHOWN_ATTEMPTS = 10
LONGEST_SECONDS = 86400.0 * 365 * 1000


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
    validation_loss: float | None
    tokens_per_second: float | None
    seconds_left: float | None
    seconds_since_sign_of_life: float | None
    checkpoint: int | None
    skipped_steps: int
    attempts: list[dict[str, Any]] = field(default_factory=list)


def main(arguments: list[str]) -> int:
    """Prints the status, or with ``--json`` all of it for a program."""
    parser = FlagParser(prog="python -m launch status", description="Where a run stands.")
    parser.add_argument("run", type=Path, help="the run's folder, such as runs/debug_cpu")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    settings = parser.parse_args(arguments)
    status = read_status(settings.run)
    print(json.dumps(finite(asdict(status)), indent=1) if settings.json else describe(status))
    return 0


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
        tokens=newest.get("tokens"),
        loss=newest.get("loss"),
        validation_loss=validation[-1]["validation_loss"] if validation else None,
        tokens_per_second=newest.get("tokens_per_second"),
        seconds_left=None if steps is None or seconds is None else max(0, steps - step) * seconds,
        seconds_since_sign_of_life=silence,
        checkpoint=int(checkpoints[-1].name.removeprefix("step_")) if checkpoints else None,
        skipped_steps=len(read_steps(run_folder / SKIPPED_FILE)),
        attempts=[_summary(attempt) for attempt in attempts],
    )


def describe(status: Status) -> str:
    """The status as lines for a person."""
    of = f" of {status.steps}" if status.steps is not None else ""
    lines = [f"{status.run}: {status.state}", f"  step         {status.step}{of}"]
    if status.tokens is not None:
        lines.append(f"  tokens       {status.tokens:,}")
    if status.loss is not None:
        held_out = f" (held-out {status.validation_loss:.4f})" if status.validation_loss is not None else ""
        lines.append(f"  loss         {status.loss:.4f}{held_out}")
    if status.tokens_per_second is not None:
        lines.append(f"  speed        {status.tokens_per_second:,.0f} tokens/s")
    if status.seconds_left:
        lines.append(f"  time left    {_duration(status.seconds_left)}")
    if status.seconds_since_sign_of_life is not None:
        lines.append(f"  last sign    {_duration(status.seconds_since_sign_of_life)} ago")
    lines.append(f"  checkpoint   {'none yet' if status.checkpoint is None else f'step {status.checkpoint}'}")
    if status.skipped_steps:
        lines.append(f"  skipped      {status.skipped_steps} steps, see {SKIPPED_FILE}")
    lines.append(f"  starts       {len(status.attempts)}")
    lines += [
        f"    {attempt['number']:>4}  {attempt['began']}  from step {attempt['from_step']} to {attempt['to_step']}"
        f"  {attempt['outcome']}" + (f": {attempt['reason']}" if attempt["reason"] else "")
        for attempt in status.attempts[-SHOWN_ATTEMPTS:]
    ]
    return "\n".join(lines)


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
    times = [path.stat().st_mtime for path in signs if path.exists()]
    return max(0.0, now - max(times)) if times else None


def _planned_steps(run_folder: Path) -> int | None:
    try:
        steps = read_yaml(run_folder / CONFIG_FILE, f"the run's {CONFIG_FILE}")["train"]["steps"]
    except (KeyError, TypeError, ValueError):
        return None
    return steps if type(steps) is int and 0 < steps <= LARGEST_INTEGER else None


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(min(seconds, LONGEST_SECONDS))))
