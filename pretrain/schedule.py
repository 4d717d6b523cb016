"""The learning rate as a pure function of the step.

In: the `schedule` section, the number of steps and a step. Out: a learning rate.
Always: no state, so a resumed run needs nothing but its step.
"""

import math

from common.errors import InputError
from pretrain.config import ScheduleConfig


def check_schedule(config: ScheduleConfig, steps: int) -> None:
    """Refuses a schedule whose parts do not fit into ``steps``."""
    if config.warmup_steps > steps:
        raise InputError(f"schedule.warmup_steps: must lie in 0..train.steps ({steps}), is {config.warmup_steps}")
    if config.kind == "wsd" and not 0 <= config.decay_steps <= steps - config.warmup_steps:
        raise InputError(
            f"schedule.decay_steps: must lie in 0..{steps - config.warmup_steps} "
            f"(train.steps less schedule.warmup_steps), is {config.decay_steps}"
        )


def learning_rate(config: ScheduleConfig, peak: float, steps: int, step: int) -> float:
    """The learning rate of optimizer step ``step``, counted from 0, of a run of ``steps``.

    Warm-up is linear and reaches ``peak`` on its last step. `linear` and `cosine` then fall to
    ``final_ratio * peak`` at the last step; `wsd` stays at the peak and falls linearly over its last ``decay_steps``.
    """
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    start = steps - config.decay_steps if config.kind == "wsd" else config.warmup_steps
    progress = (step + 1 - start) / max(1, steps - start)
    progress = min(max(progress, 0.0), 1.0)
    remaining = 0.5 * (1 + math.cos(math.pi * progress)) if config.kind == "cosine" else 1 - progress
    return peak * (config.final_ratio + (1 - config.final_ratio) * remaining)
