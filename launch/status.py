"""`python -m launch status RUN`: where a run stands, from its folder alone.

In: the run folder, at any moment. Out: step, tokens, loss, rate, norm, speed, memory, time left, starts and how they
ended, skipped steps, the last checkpoint, the newest sample of text.
Always: only reads; whatever is half-written or missing is left out.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

from common.files import finite
from common.flags import FlagParser
from common.typed import shortened
from pretrain.devices import GIB
from pretrain.resilience.attempts import SKIPPED_FILE
from pretrain.resilience.rollback import ROLLBACKS_FILE
from pretrain.standing import Status, read_status

SHOWN_ATTEMPTS = 10
LONGEST_SECONDS = 86400.0 * 365 * 1000


def main(arguments: list[str]) -> int:
    """Prints the status, or with ``--json`` all of it for a program."""
    parser = FlagParser(prog="python -m launch status", description="Where a run stands.")
    parser.add_argument("run", type=Path, help="the run's folder, such as runs/debug_cpu")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    settings = parser.parse_args(arguments)
    status = read_status(settings.run)
    print(json.dumps(finite(asdict(status)), indent=1) if settings.json else describe(status))
    return 0


def describe(status: Status) -> str:
    """The status as lines for a person."""
    of = f" of {status.steps}" if status.steps is not None else ""
    lines = [f"{status.run}: {status.state}", f"  step         {status.step}{of}"]
    if status.tokens is not None:
        lines.append(f"  tokens       {status.tokens:,}")
    lines += _numbers(status)
    if status.seconds_left:
        lines.append(f"  time left    {_duration(status.seconds_left)}")
    if status.seconds_since_sign_of_life is not None:
        lines.append(f"  last sign    {_duration(status.seconds_since_sign_of_life)} ago")
    lines.append(f"  checkpoint   {'none yet' if status.checkpoint is None else f'step {status.checkpoint}'}")
    if status.skipped_steps:
        lines.append(f"  skipped      {status.skipped_steps} steps, see {SKIPPED_FILE}")
    if status.rollbacks:
        lines.append(f"  rollbacks    {status.rollbacks}, see {ROLLBACKS_FILE}")
    lines.append(f"  starts       {len(status.attempts)}")
    lines += [
        f"    {attempt['number']:>4}  {attempt['began']}  from step {attempt['from_step']} to {attempt['to_step']}"
        f"  {attempt['outcome']}" + (f": {attempt['reason']}" if attempt["reason"] else "")
        for attempt in status.attempts[-SHOWN_ATTEMPTS:]
    ]
    if status.text is not None:
        lines.append(f"  newest text  {shortened(json.dumps(status.text, ensure_ascii=False))}")
    return "\n".join(lines)


def _numbers(status: Status) -> Iterator[str]:
    """What the newest line of metrics says, as far as it does."""
    if status.loss is not None:
        held_out = f" (held-out {status.validation_loss:.4f})" if status.validation_loss is not None else ""
        yield f"  loss         {status.loss:.4f}{held_out}"
    if status.mean_loss is not None:
        yield f"  mean loss    {status.mean_loss:.4f} since the line before"
    if status.learning_rate is not None:
        yield f"  rate         {status.learning_rate:.3g}"
    if status.grad_norm is not None:
        yield f"  grad norm    {status.grad_norm:.3f}"
    if status.tokens_per_second is not None:
        utilization = status.model_flops_utilization
        yield f"  speed        {status.tokens_per_second:,.0f} tokens/s" + (
            f", MFU {utilization:.1%}" if utilization else ""
        )
    if status.peak_memory_bytes is not None and status.reserved_memory_bytes is not None:
        used, reserved = (size / GIB for size in (status.peak_memory_bytes, status.reserved_memory_bytes))
        yield f"  memory       {used:.1f} GiB, {reserved:.1f} reserved, of rank 0"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(min(seconds, LONGEST_SECONDS))))
